"""The weights of a training that is not finished, small enough for the repository: matrices have a byte for each number.

    python unfinished.py HF.state

writes unfinished.npz, which train.py begins with where it finds no state. The optimizers' momenta are not in it: they come back
within some steps. The weights belong to the vocabulary in unfinished-tokenizer.json, a copy of HF's tokenizer.json. Delete both
files when the training is finished.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = Path(__file__).with_name("unfinished.npz")
PARTS = ("model", "head", "sight")
_SMALL = 4096  # numbers of a tensor up to which they stay as they are


def write(state: dict[str, Any], file: Path = FILE) -> None:
    """Writes the weights of a state, with its place in the course."""
    kept: dict[str, Any] = {"stage": state["stage"], "step": state["step"]}
    for part in PARTS:
        for name, tensor in state[part].items():
            values = tensor.float().numpy()
            if values.ndim < 2 or values.size <= _SMALL:
                kept[f"{part} {name}"] = values
                continue
            scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127 + 1e-12
            kept[f"{part} {name}"] = np.round(values / scale).astype(np.int8)
            kept[f"{part} {name} scale"] = scale.astype(np.float32)
    np.savez_compressed(file, **kept)


def read(file: Path = FILE) -> dict[str, Any]:
    """The weights, and the stage and step at which they were written."""
    found = np.load(file)
    state: dict[str, Any] = {"stage": int(found["stage"]), "step": int(found["step"])} | {part: {} for part in PARTS}
    for key in found.files:
        part, _, name = key.partition(" ")
        if part not in PARTS or name.endswith(" scale"):
            continue
        values = found[key].astype(np.float32)
        if f"{key} scale" in found.files:
            values *= found[f"{key} scale"]
        state[part][name] = torch.from_numpy(values)
    return state


if __name__ == "__main__":
    write(torch.load(sys.argv[1], weights_only=False))
