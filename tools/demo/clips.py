"""The recordings for training and tests: sentences of the domain in many voices, stored on disk.

    python clips.py FOLDER --train 68000 --test 900

writes for each split SPLIT.i16, the samples of all clips, and SPLIT.jsonl, one line for each clip. There are three splits:
`train`; `known`, sentences that training does not contain, in its voices; `unknown`, such sentences spoken by a synthesizer
that training does not contain.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import domain
import voices
from words import LANGUAGES

SHARES = {"en": 0.38, "es": 0.31, "de": 0.31}
_CHUNK = 100


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes:
        sentence: the sentence, which is not stored but drawn again from its seed.
        voice: the speech synthesizer and its voice.
        begin, end: the position of its samples in the file.
    """

    sentence: domain.Sentence
    voice: str
    begin: int
    end: int


def sentence(seed: str, language: str, held_out: bool) -> domain.Sentence:
    """The first sentence that is drawn with a seed and is held out for tests, or not, as wanted."""
    rng = random.Random(seed)
    while True:
        drawn = domain.draw(rng).sentence(language, rng)
        if drawn.held_out == held_out:
            return drawn


def _record(job: tuple[str, int, int, str | None]) -> list[tuple[dict[str, Any], NDArray[np.int16]]]:
    split, first, count, engine = job
    lines, texts, chosen = [], [], []
    for number in range(first, first + count):
        seed = f"{split} {number}"
        rng = random.Random("voice " + seed)
        language = rng.choices(LANGUAGES, [SHARES[name] for name in LANGUAGES])[0]
        voice = voices.draw(language, rng, engine)
        texts.append(sentence(seed, language, split != "train").spoken)
        chosen.append(voice)
        lines.append({"seed": seed, "language": language, "voice": f"{voice.engine} {voice.name}"})
    return list(zip(lines, voices.speak(texts, chosen), strict=True))


def record(folder: Path, split: str, count: int, engine: str | None = None) -> None:
    """Records `count` clips of a split, unless they exist."""
    index = folder / f"{split}.jsonl"
    if index.exists() and sum(1 for _ in index.open()) == count:
        return
    jobs = [(split, first, min(_CHUNK, count - first), engine) for first in range(0, count, _CHUNK)]
    position, lines = 0, []
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool, open(folder / f"{split}.i16", "wb") as file:
        for number, chunk in enumerate(pool.map(_record, jobs)):
            for line, sound in chunk:
                file.write(sound.tobytes())
                lines.append(json.dumps({**line, "begin": position, "end": position + len(sound)}))
                position += len(sound)
            print(
                f"\r{split}: {min(count, (number + 1) * _CHUNK)} of {count} clips, {position / voices.RATE / 3600:.1f} h",
                end="",
                flush=True,
            )
    print()
    index.write_text("\n".join(lines) + "\n")


def load(folder: Path, split: str) -> tuple[list[Clip], NDArray[np.int16]]:
    """The clips of a split, and the samples of all clips."""
    clips = []
    for line in (folder / f"{split}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        what = sentence(entry["seed"], entry["language"], split != "train")
        clips.append(Clip(what, entry["voice"], entry["begin"], entry["end"]))
    return clips, np.memmap(folder / f"{split}.i16", np.int16, "r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=68000)
    parser.add_argument("--test", type=int, default=900)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record(options.folder, "known", options.test)
    record(options.folder, "unknown", options.test, voices.HELD_OUT)
    record(options.folder, "train", options.train)


if __name__ == "__main__":
    main()
