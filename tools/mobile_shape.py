"""Makes a model file with random weights in the packed types of Google's mobile checkpoints, to measure speed and memory.

    python tools/mobile_shape.py MODEL.gguf OUT.gguf

Matrices become random codes of QC2, QC4 and QC8 with a scale for each row and steps for their activations: the wider FFN of the
layers that share K/V and the tied head in 2 bits, attention, the other FFN and the per-layer embeddings in 4, the small
matrices of the per-layer inputs in 8. Metadata and norms are copied. So the texts are noise, and nothing else differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_gemma.files.gguf_source import GGUFSource, SourceTensor
from edge_gemma.files.gguf_writer import GGUFWriter, OutputTensor

PIECE = 1 << 24  # bytes that are written at a time
SPREAD = {"QC2": 1.1, "QC4": 4.6, "QC8": 74.0}  # standard deviation of evenly distributed codes
STEP = np.float32(0.05)
EIGHT_BITS = (".inp_gate.weight", ".proj.weight", "per_layer_model_proj.weight")


def packed_type(tensor: SourceTensor, narrow: int) -> str:
    """The type that a matrix gets. `narrow` is the width of the FFN in layers that do not share K/V."""
    if tensor.name.endswith(EIGHT_BITS):
        return "QC8"
    wide = ".ffn_" in tensor.name and max(tensor.shape) > narrow
    return "QC2" if wide or tensor.name in ("token_embd.weight", "output.weight") else "QC4"


def codes(size: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Random bytes. The same piece is repeated, since the values do not matter."""
    piece = rng.integers(0, 256, min(size, PIECE), np.uint8)
    for start in range(0, size, PIECE):
        yield piece[: size - start]


def write(model: str, out: str) -> int:
    """Writes the file. Returns its size in bytes."""
    source, rng = GGUFSource(model), np.random.default_rng(0)
    narrow = min((max(tensor.shape) for tensor in source.tensors if ".ffn_gate." in tensor.name), default=0)
    jobs: list[tuple[OutputTensor, SourceTensor | float | None]] = []
    for tensor in source.tensors:
        if tensor.type == "F32":
            jobs.append((OutputTensor(tensor.name, "F32", tensor.shape), tensor))
            continue
        kind, stem = packed_type(tensor, narrow), tensor.name.removesuffix("weight")
        jobs.append((OutputTensor(tensor.name, kind, tensor.shape), None))
        jobs.append((OutputTensor(stem + "scale", "F32", tensor.shape[1:]), 0.02 / SPREAD[kind]))
        if "token_embd" not in tensor.name:
            jobs += [(OutputTensor(f"{stem}{side}_scale", "F32", (1,)), float(STEP)) for side in ("input", "output")]
    with GGUFWriter(out, source.metadata, [output for output, _ in jobs]) as writer:
        for output, what in jobs:
            if what is None:
                writer.tensor(output.name, codes(output.bytes, rng))
            elif isinstance(what, SourceTensor):
                writer.tensor(output.name, [what.read(0, what.bytes)])
            else:
                writer.tensor(output.name, [np.full(output.bytes // 4, what, np.float32)])
    return writer.size


if __name__ == "__main__":
    print(f"{sys.argv[2]}: {write(sys.argv[1], sys.argv[2]) / 1e9:.2f} GB")
