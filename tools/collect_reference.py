"""Collects tests/data from a folder of fixtures: the Q4_0 file of each shape and its reference logits.

usage: python tools/collect_reference.py FIXTURES
"""

import shutil
import sys
from pathlib import Path

import numpy as np

source, target = Path(sys.argv[1]), Path(__file__).resolve().parent.parent / "tests" / "data"
numbers = {}
for variant in ("e2b", "e4b", "moe", "dense"):
    shutil.copyfile(source / variant / "model-Q4_0.gguf", target / f"{variant}-Q4_0.gguf")
    numbers[f"{variant}_ids"] = np.load(source / variant / "reference.npz")["text_ids"]
    numbers[f"{variant}_logits"] = np.load(source / variant / "reference-quantized.npz")["Q4_0"]
np.savez_compressed(target / "reference.npz", **numbers)
