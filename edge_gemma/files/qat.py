"""Matrices that a checkpoint has packed into 2, 4 or 8 bits ("quant_method": "gemma"), as tensors of QC2, QC4 and QC8.

QAT is quantization-aware training, from which these matrices come. This module owns the names of a packed matrix's tensors
and the order of its bits; convert.py writes the tensors. In the checkpoint, with the lowest bits of a byte first:

    X.weight  U8 [rows, columns / 4 or / 2] or I8 [rows, columns]    X.weight_scale  F32 [rows, 1]
    X.input_activation_scale, X.output_activation_scale  F32 []: quantization steps of input and output, 0: not quantized
    an embedding table: X.embedding_quantized, X.embedding_scale [rows, scales]

In GGUF: X.weight of QC2, QC4 or QC8, and F32 tensors X.scale, X.input_scale, X.output_scale. The order of rows is the same.
Within a row, each group of 64 bytes holds runs of 64 consecutive values: run 0 in the lowest bits of the bytes, run 1 in the
next bits. So a vector of bytes, shifted and masked, gives weights that belong to consecutive activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .safetensors import StoredTensor

__all__ = ["RUN", "Parts", "find_parts", "repack"]

RUN = 64  # consecutive values at the same bits of consecutive bytes
_PACKED = ("U8", "I8")  # dtypes of packed matrices


class Parts(NamedTuple):
    """Names in the checkpoint of the tensors of a packed matrix. Those of `input` and `output` need not exist."""

    codes: str
    scale: str
    input: str  #: quantization step of the input
    output: str  #: quantization step of the output


def find_parts(checkpoint: Mapping[str, StoredTensor], name: str) -> Parts | None:
    """The tensors of a packed matrix, by its name "X.weight"; None if the matrix is not packed."""
    stem = name.removesuffix("weight")
    parts = Parts(name, f"{stem}weight_scale", f"{stem}input_activation_scale", f"{stem}output_activation_scale")
    if name not in checkpoint and f"{stem}embedding_quantized" in checkpoint:
        return parts._replace(codes=f"{stem}embedding_quantized", scale=f"{stem}embedding_scale")
    return parts if name in checkpoint and checkpoint[name].dtype in _PACKED else None


def repack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Reorders rows of codes, uint8 [rows, columns * bits / 8], from the checkpoint's order to that of QC2, QC4 or QC8."""
    if bits == 8:
        return codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = codes[..., None] >> shifts & np.uint8((1 << bits) - 1)
    runs = values.reshape(len(codes), -1, len(shifts), RUN)
    return np.bitwise_or.reduce(runs << shifts[:, None], axis=2).reshape(len(codes), -1)
