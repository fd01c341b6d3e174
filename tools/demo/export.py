"""Makes the package's demo files from a trained checkpoint: the model, its encoders, and the utterances and pictures of
`edge-gemma demo`.

    python export.py HF [--out FOLDER]

Both GGUF files are made with the package's functions `convert` and `quantize`. The utterances are sentences that training
does not contain, as far as there are natural ones, in voices that it contains.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import wave
from pathlib import Path

import numpy as np
from PIL import Image

import domain
import scenes
import voices
from domain import Command, Sentence
from edge_gemma.files.convert import convert
from edge_gemma.files.quantize import quantize
from tasks import result_for

DATA = Path(__file__).parents[2] / "edge_gemma" / "demo" / "data"
LIMIT = 9_900_000  # bytes of both files together
TEXT_TYPE, ENCODER_TYPE = "Q5_K_M", "Q8_0"

UTTERANCES: list[tuple[str, Command, voices.Voice]] = [
    ("en", domain.switching("kitchen", "light", True, word=1), voices.Voice("flite", "slt", 1.0, 1.0)),
    ("en", domain.timing(12, "minutes"), voices.Voice("festival", "cmu_us_slt_arctic_hts", 1.0, 1.0)),
    ("es", domain.coloring("bedroom", "blue"), voices.Voice("espeak", "es+f2", 0.95, 1.0)),
    ("de", domain.heating(21), voices.Voice("espeak", "de+m3", 0.9, 1.0)),
    ("en", domain.playing("jazz", "living room"), voices.Voice("flite", "rms", 1.0, 1.0)),
    ("es", domain.adding("bread"), voices.Voice("espeak", "es-419+m1", 0.95, 1.0)),
    ("de", domain.switching("living room", "blinds", True, moving=True), voices.Voice("espeak", "de+f3", 0.9, 1.0)),
    ("en", domain.forecasting("Rome", "tomorrow"), voices.Voice("flite", "awb", 1.0, 1.0)),
    ("de", domain.switching("garden", "light", False, word=1), voices.Voice("espeak", "de+m7", 0.9, 1.0)),
]


# Ways to say a command whose translations are more natural than those of its first way.
PREFERRED = ("What is the weather like",)


def _sentence(language: str, command: Command) -> Sentence:
    """A preferred way to say a command, else one that training does not contain, else the first."""
    ways = command.sentences(language)
    for way in ways:
        if way.text.startswith(PREFERRED):
            return way
    return next((way for way in ways if way.held_out), ways[0])


def utterances(folder: Path) -> None:
    """Writes the recordings and utterances.json."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [_sentence(language, command) for language, command, _ in UTTERANCES]
    sounds = voices.speak([sentence.spoken for sentence in sentences], [voice for _, _, voice in UTTERANCES])
    entries = []
    for number, (sentence, sound) in enumerate(zip(sentences, sounds, strict=True)):
        loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > 300)
        sound = sound[max(0, loud[0] - 800) : loud[-1] + 1600]
        name = f"{number + 1}-{sentence.language}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, voices.RATE, 0, "NONE", ""))
            file.writeframes(sound.tobytes())
        call = None if sentence.call is None else {"name": sentence.call[0], "arguments": sentence.call[1]}
        reply = sentence.reply(result_for(sentence, random.Random(0)))
        entries.append(
            {
                "file": name,
                "language": sentence.language,
                "text": sentence.text,
                "translations": sentence.translations,
                "call": call,
                "reply": reply,
            }
        )
    (folder / "utterances.json").write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# A seed for each picture of the demo: two things that are held out together, several alike ones, and a word. They are chosen
# among those about which the model is right; docs/demo-model.md says how often it is.
PICTURES = (668, 24, 52)
PICTURE_SIZE = (640, 480)


def pictures(folder: Path) -> None:
    """Draws the pictures and writes pictures.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, seed in enumerate(PICTURES):
        rng = random.Random(f"demo {seed}")
        scene = scenes.draw(rng, *PICTURE_SIZE)
        asked = rng.choice(scenes.questions(scene))
        label, things = list(scenes.labels(scene).items())[-1]
        name = f"{number + 1}.png"
        Image.fromarray(scene.pixels).save(folder / name, optimize=True)
        boxes = [[round(value, 1) for value in thing.box] for thing in things]
        words = {"description": scenes.description(scene), "question": asked.text, "answer": asked.answer}
        entries.append({"file": name, **words, "label": label, "boxes": boxes})
    (folder / "pictures.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def models(checkpoint: Path, out: Path) -> int:
    """Writes demo.gguf and demo-mmproj.gguf. Returns their size in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        named = shutil.copytree(checkpoint, Path(folder, "demo"))  # the model gets the name of the folder
        converted = convert(named, Path(folder, "demo.gguf"), mmproj=Path(folder, "demo-mmproj.gguf"))
        assert converted.mmproj
        quantize(converted.model, out / "demo.gguf", TEXT_TYPE, force=True)
        quantize(converted.mmproj, out / "demo-mmproj.gguf", ENCODER_TYPE, force=True)
    size = sum((out / name).stat().st_size for name in ("demo.gguf", "demo-mmproj.gguf"))
    if size > LIMIT:
        raise SystemExit(f"the files have {size} bytes, more than {LIMIT}: choose smaller types.")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    print(f"{models(options.checkpoint, options.out) / 1e6:.2f} MB")
    utterances(options.out / "utterances")
    pictures(options.out / "pictures")


if __name__ == "__main__":
    main()
