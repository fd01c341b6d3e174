"""What the encoders of sound and pictures share: the file, its weights, and matrices that clamp what they read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .gguf import Gguf, GgufError
from .quants import snap

Array = NDArray[Any]
EPS = 1e-6  # epsilon of all norms; the value in the metadata of some files is wrong


def rms(x: Array, weight: Array | None = None, eps: float = EPS) -> Array:
    """x / sqrt(mean(x^2) + eps) over the last axis, times weight."""
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


class Encoder:
    """One part of an mmproj file: "audio" or "vision", of one of the given kinds (projector types).

    source: a path, or an open `Gguf`. dtype: float64 or float32, the type of all computation.
    Raises OSError or GgufError (a ValueError) when the file is opened, or when a tensor is missing.
    """

    def __init__(self, source: str | Path | Gguf, part: str, kinds: tuple[str, ...], dtype: DTypeLike) -> None:
        self.file = source if isinstance(source, Gguf) else Gguf(source)
        get = self.file.metadata.get
        self.part, self.kind = part, get(f"clip.{part}.projector_type")
        if not get(f"clip.has_{part}_encoder") or self.kind not in kinds:
            raise GgufError(f"the file has no {part} encoder of type {' or '.join(kinds)}.")
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._kept: dict[str, Array] = {}

    def number(self, key: str) -> Any:
        """The value of a key of this part. Raises GgufError if it is missing."""
        value = self.file.metadata.get(f"clip.{self.part}.{key}")
        if value is None:
            raise GgufError(f"the file has no metadata clip.{self.part}.{key}.")
        return value

    def weight(self, name: str) -> Array:
        """The values of a tensor, as `dtype`; they are kept."""
        if name not in self._kept:
            self._kept[name] = self.file.values(name).astype(self.dtype)
        return self._kept[name]

    def linear(self, name: str, x: Array) -> Array:
        """clamp( W clamp(x) ) with the clipping bounds of this matrix, if it has any, and its quantization steps.

        Source: Gemma 4 specification, clipped linear.
        """

        def clamp(x: Array, side: str) -> Array:
            low, high = (f"{name}.{side}_{end}" for end in ("min", "max"))
            x = np.maximum(x, self.weight(low)) if low in self.file else x
            return np.minimum(x, self.weight(high)) if high in self.file else x

        in_step, out_step = self.file.steps(name + ".weight")
        return clamp(snap(snap(clamp(x, "input"), in_step) @ self.weight(name + ".weight").T, out_step), "output")

    def norm(self, name: str, x: Array) -> Array:
        """rms(x) times the weight of a norm."""
        return rms(x, self.weight(name + ".weight"))
