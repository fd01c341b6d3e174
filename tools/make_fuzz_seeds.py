#!/usr/bin/env python3
"""Writes the seeds of the fuzzers to tests/fuzz/seeds/: small files that reach every branch of the readers.

Inputs that have crashed an earlier version are kept beside them as `found-*`; this program does not change these.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import gguf_writer as gg  # noqa: E402
from support.gguf_writer import Writer  # noqa: E402
from support.tiny_audio import AudioShape, audio_writer  # noqa: E402
from support.tiny_vision import VisionShape, vision_writer  # noqa: E402


def every_type() -> Writer:
    """A scalar and an array of every type."""
    writer = Writer()
    for kind in gg.CODES:
        value = True if kind == gg.BOOL else 1.5 if kind in (gg.F32, gg.F64) else 7
        writer.entry(f"s{kind}", value, kind).entry(f"a{kind}", [value, value], kind)
    return writer.entry("text", "hello").entry("texts", ["a", "", "日本"]).entry("empty", [])


def gguf_seeds() -> dict[str, bytes]:
    """Whole files, and the concatenated parts of a split file."""
    q4, f32 = bytes(36), bytes(range(64))
    pair = lambda **options: Writer(**options).entry("k", 1).tensor("a", [32, 2], gg.Q4_0, q4).tensor("b", [16], 0, f32)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        parts = [Writer().entry("k", 1).tensor(f"t{i}", [16], 0, f32) for i in range(3)]
        split = b"".join(path.read_bytes() for path in gg.write_split(Path(folder), "part", parts))
    return {
        "empty": Writer().build(),
        "types": every_type().build(),
        "pair": pair().build(),
        "version2": pair(version=2).build(),
        "version1": Writer(version=1).build(),
        "alignment": pair(alignment=64).build(),
        "alignment1": pair(alignment=1).build(),
        "dims": Writer().tensor("t", [4, 2, 2, 1], 0, f32).tensor("scalar", [], 0, f32[:4]).build(),
        "zero": Writer().tensor("t", [0, 5], 0, b"").tensor("unknown", [7], 1000, f32).build(),
        "nested": Writer().entry("n", [[1, 2], [3]]).entry("deep", [[["x"]]]).build(),
        "many": Writer().entry("s", [f"token{i}" for i in range(40)]).build(),
        "overlap": Writer().tensor("a", [16], 0, f32).tensor("b", [16], 0, f32, 32).build(),
        "twice": Writer().entry("k", 1).entry("k", 2).build(),
        "split": split,
        "lfs": b"version https://git-lfs.github.com/spec/v1\n",
    }


def tokenizer_seeds() -> dict[str, bytes]:
    """The first byte is the mode: 0 text (the second byte has the flags), 1 ids, 2 a vocabulary."""
    texts = {
        "text": "hello world",
        "special": "<bos><|turn>user\nhello<turn|>\n",
        "spaces": "   hello  \n\n\n  wor ▁ld",
        "unicode": "日本 é 🎉 e\u0301 \u202e",
    }
    seeds = {name: bytes([0, flags]) + text.encode() for flags, (name, text) in enumerate(texts.items())}
    seeds["invalid"] = bytes([0, 1]) + b"\xff\xfe\xe6\x97 hello \xf0\x9f\x8e\x80\xed\xa0\x80"
    seeds["ids"] = bytes([1, 0]) + b"".join(i.to_bytes(2, "little") for i in [2, 5, 264, 265, 266, 9, 210, 163, 279])
    seeds["ids-out"] = bytes([1, 1]) + b"\xff\xff\x00\x80\xff\x7f"
    seeds["vocabulary"] = bytes([2]) + gg.tiny_vocabulary().build()
    few = Writer().entry("tokenizer.ggml.model", "gemma4").entry("tokenizer.ggml.tokens", ["<bos>", "a", "b", "ab"])
    few.entry("tokenizer.ggml.merges", ["a b"]).entry("tokenizer.ggml.token_type", [3, 1, 1, 1], gg.I32)
    seeds["few"] = bytes([2]) + few.build()
    return seeds


def encoder_seeds() -> dict[str, bytes]:
    """The smallest possible encoders, most of them with the width that the fuzzer expects."""
    small = AudioShape(hidden=8, layers=1, width=4, heads=2, ffn=4, output=4, features=4, channels=(2, 1))
    eyes = VisionShape(hidden=8, layers=1, width=8, heads=1, ffn=4, patch=2, positions=3)
    seeds = {
        "audio": audio_writer(small),
        "unbounded": audio_writer(replace(small, clip=0, layers=2)),
        "other-width": audio_writer(replace(small, hidden=4, clip=0)),
        "half": audio_writer(replace(small, type="F16", clip=0)),
        "projected-sound": Writer()
        .entry("clip.has_audio_encoder", True)
        .entry("clip.audio.projector_type", "gemma4ua")
        .tensor("mm.a.input_projection.weight", [640, 8], 0, bytes(4 * 640 * 8)),
        "vision": vision_writer(eyes),
        "standardized": vision_writer(replace(eyes, clip=0, standardized=True)),
        "projected-pixels": vision_writer(replace(eyes, unified=True, width=8, patch=1)),
        "nothing": Writer().entry("clip.has_vision_encoder", True),
        "text": Writer().entry("general.architecture", "gemma4"),
    }
    return {name: writer.build() for name, writer in seeds.items()}


def picture_seeds() -> dict[str, bytes]:
    """Width and height less one (3 bytes each), budget, gap between rows, flags (1 small, 2 any target), then pixels."""

    def seed(width: int, height: int, budget: int = 2, gap: int = 0, flags: int = 1) -> bytes:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return sides + bytes([budget, gap, flags]) + bytes(range(0, 256, 7))

    return {
        "one": seed(1, 1),
        "photo": seed(64, 48, 4, 5),
        "tall": seed(3, 500),
        "wide": seed(500, 3),
        "sliver": seed(60000, 1, flags=0),
        "largest": seed(1 << 20, 1 << 20, flags=0),
        "small-target": seed(300, 200, 0, 9, 3),
    }


def main() -> None:
    """Writes all sets."""
    targets = {"gguf": gguf_seeds, "tokenizer": tokenizer_seeds, "encoders": encoder_seeds, "picture": picture_seeds}
    for target, make in targets.items():
        seeds = make()
        folder = ROOT / "tests" / "fuzz" / "seeds" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)
        print(f"{target}: {len(seeds)} seeds, {sum(map(len, seeds.values()))} bytes")


if __name__ == "__main__":
    main()
