"""Matrices that a checkpoint has packed into 2, 4 or 8 bits ("quant_method": "gemma"), as tensors of QC2, QC4 and QC8.

Owns the names of such a matrix's parts and where its bits go; `convert.py` writes them. In the checkpoint, with the lowest
bits of a byte first:

    X.weight  U8 [rows, columns / 4 or / 2] or I8 [rows, columns]    X.weight_scale  F32 [rows, 1]
    X.input_activation_scale, X.output_activation_scale  F32 []: steps of input and output, 0 for none
    an embedding table: X.embedding_quantized, X.embedding_scale [rows, scales]

In GGUF: X.weight of QC2, QC4 or QC8, and F32 tensors X.scale, X.input_scale, X.output_scale. Rows keep their place; within a
row, 64 bytes hold runs of 64 neighbours at the same bits, which is the order in which vectors of activations meet them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .safetensors import StoredTensor

__all__ = ["RUN", "Parts", "find_parts", "repack"]

RUN = 64  # values whose bits lie in one run of bytes
_PACKED = ("U8", "I8")


class Parts(NamedTuple):
    """Names in the checkpoint of a packed matrix: codes and scales, and steps where it has them."""

    codes: str
    scale: str
    input: str
    output: str


def find_parts(checkpoint: Mapping[str, StoredTensor], name: str) -> Parts | None:
    """The parts of the matrix that would be called "X.weight" if it were not packed; None where it is not packed."""
    stem = name.removesuffix("weight")
    parts = Parts(name, f"{stem}weight_scale", f"{stem}input_activation_scale", f"{stem}output_activation_scale")
    if name not in checkpoint and f"{stem}embedding_quantized" in checkpoint:
        return parts._replace(codes=f"{stem}embedding_quantized", scale=f"{stem}embedding_scale")
    return parts if name in checkpoint and checkpoint[name].dtype in _PACKED else None


def repack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Rows of codes as the checkpoint has them, uint8 [rows, columns * bits / 8], in the order of QC2, QC4 or QC8."""
    if bits == 8:
        return codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = codes[..., None] >> shifts & np.uint8((1 << bits) - 1)
    runs = values.reshape(len(codes), -1, len(shifts), RUN)
    return np.bitwise_or.reduce(runs << shifts[:, None], axis=2).reshape(len(codes), -1)
