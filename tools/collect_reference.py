"""Copies test data from a folder of fixtures to tests/data: the Q4_0 file and reference logits of each model shape, and the
audio encoder of the E2B shape with its outputs for two recordings.

usage: python tools/collect_reference.py FIXTURES
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from edge_gemma.reference import quants
from edge_gemma.reference.gguf import Gguf

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from support.gguf_writer import Writer  # noqa: E402


def audio_file(mmproj: Path) -> bytes:
    """An mmproj file with only the audio encoder: its keys and tensors are copied byte for byte."""
    file, writer = Gguf(mmproj), Writer()
    for key, value in file.metadata.items():
        if key.startswith(("general.", "clip.audio.", "clip.has_audio_encoder")):
            writer.entry(key, value)
    for name, tensor in file.tensors.items():
        if name.startswith(("a.", "mm.a.")):
            kind = quants.block_type(tensor.type).id
            writer.tensor(name, list(reversed(tensor.shape)), kind, tensor.raw.tobytes())
    return writer.build()


source, target = Path(sys.argv[1]), TESTS / "data"
numbers = {}
for variant in ("e2b", "e4b", "moe", "dense"):
    shutil.copyfile(source / variant / "model-Q4_0.gguf", target / f"{variant}-Q4_0.gguf")
    numbers[f"{variant}_ids"] = np.load(source / variant / "reference.npz")["text_ids"]
    numbers[f"{variant}_logits"] = np.load(source / variant / "reference-quantized.npz")["Q4_0"]
np.savez_compressed(target / "reference.npz", **numbers)

(target / "audio-e2b.gguf").write_bytes(audio_file(source / "e2b" / "mmproj-BF16.gguf"))
reference = np.load(source / "e2b" / "reference.npz")
audio = {f"audio_b_{part}": reference[f"audio_b_{part}"] for part in ("samples", "mel", "tower", "soft")}
audio |= {f"audio_c_{part}": reference[f"audio_c_{part}"] for part in ("samples", "soft")}
np.savez_compressed(target / "audio-reference.npz", **audio)
