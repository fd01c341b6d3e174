"""Vision encoder: a picture to soft tokens, one for every square of 48 x 48 pixels.

Owns the encoder of E2B and E4B (its matrices clip), that of 26B-A4B and 31B (its output is standardized), and the projection
of pixels that the 12B model has in place of an encoder. It does not own pixels (images.py), files (gguf.py) or the decoder
that reads the soft tokens (text.py). Source: Gemma 4 specification, vision and unified variant.

    gemma4v:    x = W_patch (2 p - 1) + X[column] + Y[row]                     for patches p of 16 x 16 pixels
                for every layer:   x = x + rms( W_o attention( rms(x) ) )      every patch sees every other one
                                   x = x + rms( W_down( gelu(W_gate rms(x)) * (W_up rms(x)) ) )
                y = sqrt(w) mean of x over 3 x 3 patches;   y = (y - bias) scale         the latter only in large encoders
    gemma4uv:   y = norm_3( norm_2( W_patch norm_1(p) + b ) + X[column] + Y[row] )       for patches p of 48 x 48 pixels
    both:       soft tokens = W_mm rms(y)

Letters in shapes: h and w height and width in pixels, n patches, t soft tokens, D width of the encoder, H heads, d width of
the decoder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .audio import layer_norm
from .encoder import Encoder, rms
from .gguf import Gguf
from .images import CELL, patches, positions, resize, target_size
from .text import attention, gelu, rope

Array = NDArray[Any]

ROPE_THETA = 100.0
PATCH_EPS = 1e-5
"""Epsilon of the norms around the patches of gemma4uv. The value in the metadata is that of the norm behind them."""


class VisionEncoder(Encoder):
    """The vision part of one mmproj file: an encoder (gemma4v), or a projection of pixels (gemma4uv).

    source: a path, or an open `Gguf`. dtype: float64 (default) or float32, the type of all computation.
    Raises OSError or GgufError (a ValueError) when the file is opened, or when a tensor is missing.
    """

    def __init__(self, source: str | Path | Gguf, dtype: DTypeLike = np.float64) -> None:
        super().__init__(source, "vision", ("gemma4v", "gemma4uv"), dtype)
        self.layers: int = self.number("block_count")
        self.heads: int = self.number("attention.head_count")
        self.width: int = self.number("embedding_length")
        self.pool: int = self.file.metadata.get("clip.vision.projector.scale_factor", 3)
        self.patch: int = self.number("patch_size") if self.kind == "gemma4v" else CELL

    def encode(self, pixels: ArrayLike, budget: int = 280) -> Array:
        """Soft tokens [t, d] of a picture, uint8 [h, w, 3], with at most `budget` of them (70, 140, 280, 560 or 1120)."""
        pixels = np.asarray(pixels)
        height, width = target_size(pixels.shape[0], pixels.shape[1], budget)
        return self.soft_tokens(resize(pixels, height, width))

    def soft_tokens(self, pixels: ArrayLike) -> Array:
        """Soft tokens [h / 48 * w / 48, d] of a picture whose sides are multiples of 48. It is not resized.

        Raises ValueError for other sides, and for a picture that is larger than the table of positions.
        """
        pixels = np.asarray(pixels)
        if any(side % CELL or not side for side in pixels.shape[:2]):
            raise ValueError(f"pixels have the shape {pixels.shape}; height and width must be multiples of {CELL}.")
        p, at = patches(pixels, self.patch).astype(self.dtype), positions(pixels, self.patch)
        if (entries := self.file["v.position_embd.weight"].shape[1]) <= at.max():
            raise ValueError(
                f"the picture has {at.max() + 1} patches in a line; the encoder knows {entries} positions."
            )
        y = self._tower(p, at) if self.kind == "gemma4v" else self._project(p, at)
        return self.linear("mm.input_projection", rms(y))

    def _embed(self, p: Array) -> Array:
        """W_patch p: patches [n, 3 s^2] -> [n, D]. Some files have the matrix as [D, 3, s, s]."""
        w = self.weight("v.patch_embd.weight")
        return p @ w.reshape(len(w), -1).T

    def _positions(self, at: NDArray[np.int64]) -> Array:
        """What is added to patches [n, D] at columns and rows `at` [n, 2]."""
        columns, rows = self.weight("v.position_embd.weight")
        return columns[at[:, 0]] + rows[at[:, 1]]

    # ---- gemma4v -----------------------------------------------------------------------------------------------------

    def _tower(self, p: Array, at: NDArray[np.int64]) -> Array:
        """Patches [n, 768] -> [t, D]. Source: Gemma 4 specification, patch embedding and pooler."""
        x = self._embed(2 * p - 1) + self._positions(at)
        for n in range(self.layers):
            x = self._layer(n, x, at)
        columns, rows = (at.max(axis=0) + 1) // self.pool
        cells = x.reshape(rows, self.pool, columns, self.pool, self.width)
        y = math.sqrt(self.width) * cells.mean(axis=(1, 3)).reshape(rows * columns, self.width)
        if "v.std_bias" in self.file:
            y = (y - self.weight("v.std_bias")) * self.weight("v.std_scale")
        return y

    def _layer(self, n: int, x: Array, at: NDArray[np.int64]) -> Array:
        """Encoder layer n: x [n, D] -> [n, D]. Source: Gemma 4 specification, encoder layer."""
        b = f"v.blk.{n}."
        h = self.norm(b + "ln1", x)
        q, k, v = (self.linear(b + name, h).reshape(len(x), self.heads, -1) for name in ("attn_q", "attn_k", "attn_v"))
        q, k = rope_2d(self.norm(b + "attn_q_norm", q), at), rope_2d(self.norm(b + "attn_k_norm", k), at)
        o = attention(q, k, rms(v), np.ones((len(x), len(x)), bool))
        x = x + self.norm(b + "attn_post_norm", self.linear(b + "attn_out", o))
        h = self.norm(b + "ln2", x)
        f = self.linear(b + "ffn_down", gelu(self.linear(b + "ffn_gate", h)) * self.linear(b + "ffn_up", h))
        return x + self.norm(b + "ffn_post_norm", f)

    # ---- gemma4uv ----------------------------------------------------------------------------------------------------

    def _project(self, p: Array, at: NDArray[np.int64]) -> Array:
        """Patches [t, 6912] -> [t, D]. Source: Gemma 4 specification, unified variant."""

        def norm(which: int, x: Array) -> Array:
            name = f"v.patch_norm.{which}"
            return layer_norm(x, self.weight(name + ".weight"), PATCH_EPS) + self.weight(name + ".bias")

        x = norm(2, self._embed(norm(1, p)) + self.weight("v.patch_embd.bias"))
        return norm(3, x + self._positions(at))


def rope_2d(x: Array, at: NDArray[np.int64]) -> Array:
    """Rotary positions in two dimensions: the first half of every head of x [n, H, D / H] turns by column, the second by row.

    Within a half of m values, the pair (i, i + m / 2) turns by position * 100^(-2 i / m).
    """
    columns, rows = np.split(x, 2, axis=-1)
    m = columns.shape[-1]
    f = ROPE_THETA ** (-2 * np.arange(m // 2) / m)
    return np.concatenate([rope(columns, at[:, 0], f), rope(rows, at[:, 1], f)], axis=-1)
