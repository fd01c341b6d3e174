"""The recordings for training and tests: sentences of the domain in many voices, stored on disk.

    python clips.py FOLDER --train 40000 --test 900

writes for each split SPLIT.i16, the samples of all clips, and SPLIT.jsonl, one line for each clip. The splits are `train`, and
three of sentences that training does not contain: `known` in its voices, `variants` in voices of espeak-ng that it does not
contain, and `unknown` spoken by a synthesizer that it does not contain.
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


def record(folder: Path, split: str, count: int, processes: int, engine: str | None = None) -> None:
    """Records `count` clips of a split. It goes on with the clips that an interrupted run has recorded."""
    index, sounds = folder / f"{split}.jsonl", folder / f"{split}.i16"
    lines = index.read_text().splitlines(keepends=True) if index.exists() else []
    done = sum(line.endswith("\n") for line in lines) // _CHUNK * _CHUNK if len(lines) < count else count
    if done >= count:
        return
    position = json.loads(lines[done - 1])["end"] if done else 0
    index.write_text("".join(lines[:done]))
    sounds.touch()
    os.truncate(sounds, 2 * position)
    jobs = [(split, first, min(_CHUNK, count - first), engine) for first in range(done, count, _CHUNK)]
    with concurrent.futures.ProcessPoolExecutor(processes) as pool, sounds.open("ab") as file, index.open("a") as text:
        for number, chunk in enumerate(pool.map(_record, jobs)):
            written = []
            for line, sound in chunk:
                file.write(sound.tobytes())
                written.append(json.dumps({**line, "begin": position, "end": position + len(sound)}) + "\n")
                position += len(sound)
            file.flush()
            text.write("".join(written))
            text.flush()
            print(
                f"\r{split}: {min(count, done + (number + 1) * _CHUNK)} of {count} clips, "
                f"{position / voices.RATE / 3600:.1f} h",
                end="",
                flush=True,
            )
    print()


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
    parser.add_argument("--train", type=int, default=40000)
    parser.add_argument("--test", type=int, default=900)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record(options.folder, "known", options.test, options.processes)
    record(options.folder, "variants", options.test, options.processes, voices.OTHERS)
    record(options.folder, "unknown", options.test, options.processes, voices.HELD_OUT)
    record(options.folder, "train", options.train, options.processes)


if __name__ == "__main__":
    main()
