"""Pictures: from pixels of any size to patches of the size that an encoder reads.

Owns the target size, the resampling, and the order of patches and of the values within a patch. It does not own picture files,
transparency or orientation (a picture is an array of RGB bytes), nor what follows a patch (vision.py). Source: Gemma 4
specification, preprocessing.

    target size    f = sqrt(pixels of the budget / (h w));  f h and f w, rounded down to multiples of 48
    resampling     bicubic with antialiasing, rows and columns one after the other, in Pillow's fixed-point arithmetic
    patches        16 x 16 pixels (gemma4v) or 48 x 48 (gemma4uv), row by row; within a patch red, then green, then blue

The picture is stretched to the target size: its aspect ratio is kept only up to rounding, and nothing is padded.

Letters in shapes: h and w height and width in pixels, n patches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pixels = NDArray[np.uint8]

BUDGETS = (70, 140, 280, 560, 1120)
"""The largest numbers of soft tokens of a picture that the models were trained with."""
CELL = 48
"""Side in pixels of the square that becomes one soft token."""
PRECISION = 22
"""Fractional bits of a resampling weight: 32 less 8 for a pixel and 2 for sign and overflow."""


def target_size(height: int, width: int, budget: int = 280) -> tuple[int, int]:
    """Height and width that a picture is resized to: multiples of 48 with at most `budget` cells of 48 x 48.

    A side that would be 0 becomes 48, and the other one then follows the aspect ratio as far as the budget allows.
    Raises ValueError for a picture without pixels and for another budget than those of `BUDGETS`.
    """
    if budget not in BUDGETS:
        raise ValueError(f"budget is {budget}; it must be one of {', '.join(map(str, BUDGETS))}.")
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has nothing to see.")
    factor = math.sqrt(budget * CELL**2 / (height * width))
    rows, columns = int(factor * height / CELL), int(factor * width / CELL)
    if not rows and not columns:
        rows = columns = 1
    elif not rows:
        rows, columns = 1, min(width // height, budget)
    elif not columns:
        rows, columns = min(height // width, budget), 1
    return CELL * rows, CELL * columns


def token_count(height: int, width: int, budget: int = 280) -> int:
    """Number of soft tokens of a picture: one for every cell of its target size."""
    h, w = target_size(height, width, budget)
    return h // CELL * (w // CELL)


# ---- resampling ----------------------------------------------------------------------------------------------------


def bicubic(x: float) -> float:
    """Keys' cubic kernel with a = -1/2, which is 0 beyond 2."""
    a, x = -0.5, abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def weights(old: int, new: int, at: int) -> tuple[int, NDArray[np.int64]]:
    """The pixels of a line of `old` that pixel `at` of a line of `new` is made of: the first one, and their weights [taps].

    Weights are whole numbers, multiples of 2^-22. When the line gets shorter, the kernel is stretched by the same factor
    (antialiasing). Taps beyond an end of the line are left out and the others sum to 1.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (at + 0.5) * scale
    first = max(int(centre - 2 * stretch + 0.5), 0)
    last = min(int(centre + 2 * stretch + 0.5), old)
    taps = [bicubic((i - centre + 0.5) * (1 / stretch)) for i in range(first, last)]
    total = sum_in_order(taps)
    return first, np.array([int(w / total * 2**PRECISION + math.copysign(0.5, w)) for w in taps], np.int64)


def sum_in_order(values: list[float]) -> float:
    """The sum, rounded after every addition. (`sum` compensates these roundings since Python 3.12.)"""
    total = 0.0
    for value in values:
        total += value
    return total


def resize_rows(pixels: Pixels, new: int) -> Pixels:
    """Every row [w, 3] of pixels [h, w, 3] to `new` pixels, rounded to 8 bits: [h, new, 3]. A row of that length is kept."""
    if pixels.shape[1] == new:
        return pixels
    result = np.empty((len(pixels), new, 3), np.uint8)
    for at in range(new):
        first, taps = weights(pixels.shape[1], new, at)
        total = np.einsum("htc,t->hc", pixels[:, first : first + len(taps)].astype(np.int64), taps)
        result[:, at] = np.clip((total + (1 << (PRECISION - 1))) >> PRECISION, 0, 255)
    return result


def resize_columns(pixels: Pixels, new: int) -> Pixels:
    """As `resize_rows`, for columns: [h, w, 3] to [new, w, 3]."""
    return resize_rows(pixels.transpose(1, 0, 2), new).transpose(1, 0, 2)


def resize(pixels: ArrayLike, height: int, width: int) -> Pixels:
    """Pixels [h, w, 3] to [height, width, 3], with the same bytes as `Image.resize(..., BICUBIC)` of Pillow 13.

    Rows come first, but columns do where that leaves less to compute: if the height shrinks, and by more than twice as many
    pixels as the width. The order matters, since either pass rounds. (Before version 13 Pillow had another rule for it.)
    """
    pixels = _checked(pixels)
    h, w = pixels.shape[:2]
    if height < h and h - height > 2 * (w - width):
        return resize_rows(resize_columns(pixels, height), width)
    return resize_columns(resize_rows(pixels, width), height)


# ---- patches -------------------------------------------------------------------------------------------------------


def patches(pixels: ArrayLike, side: int) -> NDArray[Any]:
    """Pixels [h, w, 3], both multiples of `side`, to patches [n, 3 side^2] with values in 0 .. 1, row by row.

    Within a patch colour is the slowest axis, then y, then x.
    """
    pixels = _checked(pixels)
    h, w = pixels.shape[0] // side, pixels.shape[1] // side
    cut = pixels.reshape(h, side, w, side, 3).transpose(0, 2, 4, 1, 3)  # [row, column, colour, y, x]
    return cut.reshape(h * w, -1) / 255


def positions(pixels: ArrayLike, side: int) -> NDArray[np.int64]:
    """Column and row [n, 2] of every patch."""
    pixels = _checked(pixels)
    n = np.arange(pixels.shape[0] // side * (pixels.shape[1] // side))
    return np.stack([n % (pixels.shape[1] // side), n // (pixels.shape[1] // side)], axis=1)


def _checked(pixels: ArrayLike) -> Pixels:
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels have the shape {pixels.shape} and the type {pixels.dtype}; they must be uint8 [h, w, 3]."
        )
    return pixels
