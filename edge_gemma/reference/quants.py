"""Weight and activation formats: dequantization of raw blocks, and quantization of activations.

Owns the byte layout of every weight type, and the activation quantizer of the integer kernels. It does not own files
(gguf.py) or the quantization of weights.

Every block type is an affine code over small integers, in groups of 16 or 32 consecutive values:

    value[i] = scale[i / group] * q[i] - min[i / group]          (float32; min only where a type has one)

so a type is one row of `TYPES` and one function that returns (q, scale, min). Source: Gemma 4 specification, block
formats. Layouts are little endian; f16 is IEEE half. QC2, QC4 and QC8 have scales of 1: a whole row has one scale, in a tensor
of its own (`gguf.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]
F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
Codes = tuple[Array, F32, F32 | None]
"""q [blocks, elements], scale [blocks, elements / group], min (same shape as scale) or None."""

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
FP4_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


@cache
def grids() -> dict[str, U8]:
    """Codebooks of the IQ2 and IQ3 types: magnitudes, [entries, 8] for IQ2 and [entries, 4] for IQ3."""
    with np.load(Path(__file__).with_name("grids.npz")) as data:
        return {name: data[name] for name in data.files}


def _view(b: U8, dtype: DTypeLike) -> Array:
    """The bytes b [blocks, n] reinterpreted as numbers [blocks, n / size]."""
    return np.ascontiguousarray(b).view(dtype)


def _half(b: U8) -> F32:
    return _view(b, "<f2").astype(np.float32)


def _fields(b: U8, width: int, run: int) -> U8:
    """Bit fields of b [blocks, n], `width` bits each: for every `run` bytes the lowest field of each byte, then the next.

    Result [blocks, n * 8 / width]. Every packing of the block formats has this form, with its own width and run.
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return (b.reshape(len(b), -1, 1, run) >> shifts & np.uint8((1 << width) - 1)).reshape(len(b), -1)


def _signed_entries(name: str, index: Array, sign_bits: U8) -> I8:
    """Entries [blocks, m, k] of a codebook as [blocks, m * k]; sign_bits [blocks, m * k], 1 = negative."""
    entries = grids()[name][index].astype(np.int8).reshape(len(index), -1)
    return np.where(sign_bits.reshape(entries.shape) == 1, -entries, entries)


def _even_signs(index: Array) -> U8:
    """Sign bits [..., 8] of a 7-bit index: its seven bits, and an eighth that makes the number of set bits even."""
    bits = (index[..., None] >> np.arange(7, dtype=index.dtype) & 1).astype(np.uint8)
    return np.concatenate([bits, bits.sum(-1, keepdims=True, dtype=np.uint8) & 1], axis=-1)


def _q4_0(b: U8) -> Codes:
    return _fields(b[:, 2:], 4, 16).astype(np.int8) - 8, _half(b[:, :2]), None


def _q4_1(b: U8) -> Codes:
    return _fields(b[:, 4:], 4, 16), _half(b[:, :2]), -_half(b[:, 2:4])


def _q5_0(b: U8) -> Codes:
    q = _fields(b[:, 6:], 4, 16) | _fields(b[:, 2:6], 1, 1) << 4
    return q.astype(np.int8) - 16, _half(b[:, :2]), None


def _q5_1(b: U8) -> Codes:
    return _fields(b[:, 8:], 4, 16) | _fields(b[:, 4:8], 1, 1) << 4, _half(b[:, :2]), -_half(b[:, 2:4])


def _q8_0(b: U8) -> Codes:
    return _view(b[:, 2:], np.int8), _half(b[:, :2]), None


def _q2_k(b: U8) -> Codes:
    scale, minimum = _half(b[:, 80:82]) * (b[:, :16] & 15), _half(b[:, 82:84]) * (b[:, :16] >> 4)
    return _fields(b[:, 16:80], 2, 32), scale, minimum


def _q3_k(b: U8) -> Codes:
    q = _fields(b[:, 32:96], 2, 32).astype(np.int8) - 4 * (1 - _fields(b[:, :32], 1, 32).astype(np.int8))
    s = _fields(b[:, 96:104], 4, 8) | _fields(b[:, 104:108], 2, 4) << 4
    return q, _half(b[:, 108:]) * (s.astype(np.int8) - 32), None


def _k_scales(b: U8) -> tuple[F32, F32]:
    """Scales and mins [blocks, 8] of Q4_K and Q5_K: d, dmin, then twelve bytes of 6-bit multipliers."""
    low, mid, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    a = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    m = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=1)
    return _half(b[:, :2]) * a, _half(b[:, 2:4]) * m


def _q4_k(b: U8) -> Codes:
    return _fields(b[:, 16:], 4, 32), *_k_scales(b)


def _q5_k(b: U8) -> Codes:
    return _fields(b[:, 48:], 4, 32) | _fields(b[:, 16:48], 1, 32) << 4, *_k_scales(b)


def _q6_k(b: U8) -> Codes:
    q = _fields(b[:, :128], 4, 64) | _fields(b[:, 128:192], 2, 32) << 4
    return q.astype(np.int8) - 32, _half(b[:, 208:]) * _view(b[:, 192:208], np.int8), None


def _iq4_nl(b: U8) -> Codes:
    return IQ4_VALUES[_fields(b[:, 2:], 4, 16)], _half(b[:, :2]), None


def _iq4_xs(b: U8) -> Codes:
    s = _fields(b[:, 4:8], 4, 1) | _fields(b[:, 2:4], 2, 1) << 4
    return IQ4_VALUES[_fields(b[:, 8:], 4, 16)], _half(b[:, :2]) * (s.astype(np.int8) - 32), None


def _mxfp4(b: U8) -> Codes:
    e = b[:, :1].astype(np.uint32)
    bits = np.where(e < 2, np.uint32(1 << 21) << np.minimum(e, 1), np.maximum(e, 1) - 1 << 23)  # 2^(e - 128)
    return FP4_DOUBLED[_fields(b[:, 1:], 4, 16)], bits.astype(np.uint32).view(np.float32), None


def _half_steps(d: F32, s: Array, unit: float) -> F32:
    return d * (np.float32(0.5) + s.astype(np.float32)) * np.float32(unit)


def _iq2_xxs(b: U8) -> Codes:
    pair = _view(b[:, 2:], "<u4").reshape(len(b), 8, 2)  # per 32 values: four entry numbers; four sign indices, scale
    signs = _even_signs(pair[..., 1:] >> np.arange(0, 28, 7, dtype=np.uint32) & 127)
    entries = _view(pair[..., 0], np.uint8)
    return _signed_entries("IQ2_XXS", entries, signs), _half_steps(_half(b[:, :2]), pair[..., 1] >> 28, 0.25), None


def _iq2_xs(b: U8) -> Codes:
    code = _view(b[:, 2:66], "<u2")  # per 8 values: 9 bits entry number, 7 bits sign index
    q = _signed_entries("IQ2_XS", code & 511, _even_signs(code >> 9))
    return q, _half_steps(_half(b[:, :2]), _fields(b[:, 66:], 4, 1), 0.25), None


def _iq2_s(b: U8) -> Codes:
    index = b[:, 2:34] | _fields(b[:, 66:74], 2, 1).astype(np.uint16) << 8
    q = _signed_entries("IQ2_S", index, _fields(b[:, 34:66], 1, 1))
    return q, _half_steps(_half(b[:, :2]), _fields(b[:, 74:], 4, 1), 0.25), None


def _iq3_xxs(b: U8) -> Codes:
    word = _view(b[:, 66:], "<u4")  # per 32 values: four 7-bit sign indices, 4 bits scale
    signs = _even_signs(word[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127)
    return _signed_entries("IQ3_XXS", b[:, 2:66], signs), _half_steps(_half(b[:, :2]), word >> 28, 0.5), None


def _iq3_s(b: U8) -> Codes:
    index = b[:, 2:66] | _fields(b[:, 66:74], 1, 1).astype(np.uint16) << 8
    q = _signed_entries("IQ3_S", index, _fields(b[:, 74:106], 1, 1))
    return q, _half(b[:, :2]) * (1 + 2 * _fields(b[:, 106:], 4, 1)), None


def _tq1_0(b: U8) -> Codes:
    def digits(packed: U8, run: int, count: int) -> U8:  # a byte / 256 is a fraction with up to five ternary digits
        powers = np.array([1, 3, 9, 27, 81], np.uint8)[:count, None]
        return (packed.reshape(len(packed), -1, 1, run) * powers).reshape(len(packed), -1)

    shifted = np.concatenate([digits(b[:, :32], 32, 5), digits(b[:, 32:48], 16, 5), digits(b[:, 48:52], 4, 4)], axis=1)
    return (shifted.astype(np.uint16) * 3 >> 8).astype(np.int8) - 1, _half(b[:, 52:]), None


def _tq2_0(b: U8) -> Codes:
    return _fields(b[:, :64], 2, 32).astype(np.int8) - 1, _half(b[:, 64:]), None


def _qc2(b: U8) -> Codes:
    return _fields(b, 2, 64).astype(np.int8) - 2, np.ones((len(b), 1), np.float32), None


def _qc4(b: U8) -> Codes:
    return _fields(b, 4, 64).astype(np.int8) - 8, np.ones((len(b), 1), np.float32), None


def _qc8(b: U8) -> Codes:
    return _view(b, np.int8), np.ones((len(b), 1), np.float32), None


@dataclass(frozen=True)
class BlockType:
    """A weight type: GGUF name and id, values per block, bytes per block, and unpacking function (None: plain floats)."""

    name: str
    id: int
    elements: int
    bytes: int
    unpack: Callable[[U8], Codes] | None


TYPES = (
    BlockType("F32", 0, 1, 4, None),
    BlockType("F16", 1, 1, 2, None),
    BlockType("BF16", 30, 1, 2, None),
    BlockType("Q4_0", 2, 32, 18, _q4_0),
    BlockType("Q4_1", 3, 32, 20, _q4_1),
    BlockType("Q5_0", 6, 32, 22, _q5_0),
    BlockType("Q5_1", 7, 32, 24, _q5_1),
    BlockType("Q8_0", 8, 32, 34, _q8_0),
    BlockType("Q2_K", 10, 256, 84, _q2_k),
    BlockType("Q3_K", 11, 256, 110, _q3_k),
    BlockType("Q4_K", 12, 256, 144, _q4_k),
    BlockType("Q5_K", 13, 256, 176, _q5_k),
    BlockType("Q6_K", 14, 256, 210, _q6_k),
    BlockType("IQ4_NL", 20, 32, 18, _iq4_nl),
    BlockType("IQ4_XS", 23, 256, 136, _iq4_xs),
    BlockType("IQ2_XXS", 16, 256, 66, _iq2_xxs),
    BlockType("IQ2_XS", 17, 256, 74, _iq2_xs),
    BlockType("IQ2_S", 22, 256, 82, _iq2_s),
    BlockType("IQ3_XXS", 18, 256, 98, _iq3_xxs),
    BlockType("IQ3_S", 21, 256, 110, _iq3_s),
    BlockType("TQ1_0", 34, 256, 54, _tq1_0),
    BlockType("TQ2_0", 35, 256, 66, _tq2_0),
    BlockType("MXFP4", 39, 32, 17, _mxfp4),
    BlockType("QC2", 0x45470002, 256, 64, _qc2),
    BlockType("QC4", 0x45470004, 128, 64, _qc4),
    BlockType("QC8", 0x45470008, 32, 32, _qc8),
)
PER_CHANNEL = ("QC2", "QC4", "QC8")
_LOOKUP: dict[str | int, BlockType] = {t.name: t for t in TYPES} | {t.id: t for t in TYPES}


def block_type(key: str | int) -> BlockType:
    """The weight type of a GGUF name ("Q4_K") or id (12). Raises ValueError if it is not one of `TYPES`."""
    if key not in _LOOKUP:
        raise ValueError(f"the weight type {key!r} is unknown or not supported.")
    return _LOOKUP[key]


def _bytes(raw: ArrayLike | bytes, kind: BlockType) -> U8:
    flat = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else np.ascontiguousarray(raw).view(np.uint8).ravel()
    if flat.size % kind.bytes:
        raise ValueError(f"{kind.name}: {flat.size} bytes are not a whole number of {kind.bytes}-byte blocks.")
    return flat.reshape(-1, kind.bytes)


def unpack(raw: ArrayLike | bytes, type: str | int) -> tuple[I8, F32, F32 | None]:
    """Integer codes of a run of blocks: q int8 [n], scale float32 [n / group], min float32 [n / group] or None.

    value = scale * q - min, group = n / scale.size = 16 or 32. ValueError for a plain float type or a partial block.
    """
    kind = block_type(type)
    if kind.unpack is None:
        raise ValueError(f"{kind.name} has no integer codes.")
    q, scale, minimum = kind.unpack(_bytes(raw, kind))
    if scale.shape[1] * 32 < kind.elements:  # a block with a single scale: repeat it for every group of 32
        scale = np.repeat(scale, kind.elements // 32, axis=1)
    return q.astype(np.int8).ravel(), scale.ravel(), None if minimum is None else minimum.ravel()


def dequantize(raw: ArrayLike | bytes, type: str | int) -> F32:
    """Values float32 [n] of a run of raw blocks (bytes or uint8 array). ValueError as `unpack`."""
    kind = block_type(type)
    if kind.name == "BF16":  # the upper half of a float32
        return (_view(_bytes(raw, kind), "<u2").astype(np.uint32) << 16).view(np.float32).ravel()
    if kind.unpack is None:
        return _view(_bytes(raw, kind), "<f4" if kind.name == "F32" else "<f2").astype(np.float32).ravel()
    q, scale, minimum = unpack(raw, type)
    value = scale[:, None] * q.reshape(len(scale), -1).astype(np.float32)
    return (value if minimum is None else value - minimum[:, None]).ravel()


def quantize_q8(x: ArrayLike, two_term: bool = False) -> tuple[I8, F32]:
    """Activations as 8-bit codes: x [n], n a multiple of 32 -> (q int8 [n], d float32 [n / 32]), x ~ d * q.

    Per 32 values: amax = max |x|, d = amax / 127, q = rint(x * (127 / amax)), ties to even; all in float32. Where
    127 / amax is not finite (amax below 3.8e-37, zero included) q and d are 0. x must be finite.
    With `two_term`, q is int8 [2, n] and x ~ d * (256 * q[0] + q[1]), d = (amax / 127) / 256; q[1] is the rounding error of
    q[0] in steps of 1/256, within -127 .. 127. ValueError for another length.
    """
    blocks = np.asarray(x, np.float32)
    if blocks.size % 32:
        raise ValueError(f"{blocks.size} values are not a multiple of 32.")
    blocks = blocks.reshape(-1, 32)
    amax = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(127) / amax
    tiny = ~np.isfinite(inverse)
    inverse[tiny] = amax[tiny] = 0
    steps, d = blocks * inverse[:, None], amax / np.float32(127)
    q = np.rint(steps)
    if not two_term:
        return q.astype(np.int8).ravel(), d
    error = np.clip(np.rint((steps - q) * np.float32(256)), -127, 127)
    return np.stack([q, error]).astype(np.int8).reshape(2, -1), d / np.float32(256)


def snap(x: Array, step: float) -> Array:
    """x as 8-bit numbers of a fixed step, times that step: ties to even, clamped to -128 .. 127 steps. A step of 0: x."""
    return np.clip(np.rint(x / step), -128, 127) * step if step else x
