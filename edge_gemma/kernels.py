"""The engine's compute kernels on NumPy arrays, for every instruction set that was compiled.

All sets give the same bits, so these functions are as good for checking an idea as for finding a fault.

    targets["avx2"].matmul(x, raw, "Q4_0", rows)    one set; None where the processor lacks it
    matmul(x, raw, "Q4_0", rows)                    the set that the engine has chosen
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .engine.native import KV_TYPES, check, ffi, float_array, lib, new_struct, pointer
from .errors import EdgeGemmaValueError

__all__ = [
    "Target",
    "bidirectional_attention",
    "dequantize",
    "log_mel",
    "matmul",
    "per_channel",
    "quantize",
    "resize",
    "sliding_window_attention",
    "targets",
    "types",
    "writable_type",
]

Float = NDArray[np.float32]


def type_info(name: str | int) -> Any:
    """Internal: the engine's row of a GGML type, by name ("Q4_0") or number. Raises ValueError."""
    index = 0
    while (row := lib.eg_type_at(index)) != ffi.NULL:
        if name in (row.id, ffi.string(row.name).decode()) or str(name).upper() == ffi.string(row.name).decode():
            return row
        index += 1
    raise EdgeGemmaValueError(f"{name!r} is not a known tensor type.", "argument")


def _types() -> Iterator[str]:
    index = 0
    while (row := lib.eg_type_at(index)) != ffi.NULL:
        yield ffi.string(row.name).decode()
        index += 1


types: tuple[str, ...] = tuple(_types())
"""The names of the tensor types that can be read, such as "Q4_0"."""


def dequantize(raw: ArrayLike, type: str | int) -> Float:
    """The values of raw blocks (bytes) as float32, flat. Raises ValueError for a partial block."""
    row, data = type_info(type), _bytes(raw)
    if data.size % row.bytes:
        raise EdgeGemmaValueError(f"raw has {data.size} bytes; blocks of this type have {row.bytes}.", "argument")
    out = np.empty(data.size // row.bytes * row.block, np.float32)
    lib.eg_type_to_float(row, pointer(data, "void *"), out.size, pointer(out, "float *"))
    return out


def per_channel(name: str | int) -> bool:
    """Whether rows of a type have their scale in another tensor: QC2, QC4, QC8. Raises ValueError for an unknown type."""
    return bool(lib.eg_type_per_channel(type_info(name)))


def writable_type(name: str | int) -> str:
    """The name of a type as the engine spells it. Raises ValueError for one that is unknown or cannot be written."""
    row = type_info(name)
    spelled: str = ffi.string(row.name).decode()
    if not lib.eg_type_writable(row):
        raise EdgeGemmaValueError(f"{spelled} can be read, but not written.", "unsupported")
    return spelled


def quantize(values: ArrayLike, type: str | int) -> NDArray[np.uint8]:
    """float32 values as raw blocks (bytes) of a type; their number is a multiple of its block. Raises ValueError for types
    that cannot be written and for values that the type cannot express: infinities, NaN, all beyond 65504 but in F32, BF16."""
    name = writable_type(type)
    row, x = type_info(name), np.ascontiguousarray(values, np.float32).reshape(-1)
    if x.size % row.block:
        raise EdgeGemmaValueError(f"there are {x.size} values; blocks of {name} have {row.block}.", "argument")
    out = np.empty(x.size // row.block * row.bytes, np.uint8)
    done = lib.eg_type_from_float(row, pointer(x, "float *"), x.size, pointer(out, "void *"))
    if done != x.size:
        raise EdgeGemmaValueError(f"value {done} is {x[done]:g}, which {name} cannot express.", "argument")
    return out


def _bytes(raw: ArrayLike) -> NDArray[np.uint8]:
    if isinstance(raw, bytes | bytearray | memoryview):
        return np.frombuffer(raw, np.uint8)
    return np.ascontiguousarray(raw).view(np.uint8).reshape(-1)


class Target:
    """One instruction set's kernels."""

    def __init__(self, table: Any) -> None:
        """`table`: the C functions, a `const eg_kernels *`."""
        self.table = table
        self.name: str = ffi.string(table.name).decode()

    def __repr__(self) -> str:
        """Names the set."""
        return f"<Target {self.name}>"

    def quantize_q8(self, x: ArrayLike, two_term: bool = False) -> tuple[NDArray[np.int8], Float, NDArray[np.int16]]:
        """x (n, cols) float32 -> q (n, cols) int8, d (n, cols / 32) float32, sum (n, cols / 16) int16. With
        `two_term` q and sum have two terms: (n, 2, cols) and (n, 2, cols / 16)."""
        values = float_array(x, (None, None), "x")
        n, cols = values.shape
        if cols % 32:
            raise EdgeGemmaValueError(f"x has {cols} columns; they must be a multiple of 32.", "argument")
        terms = (2,) if two_term else ()
        q, d = np.empty((n, *terms, cols), np.int8), np.empty((n, cols // 32), np.float32)
        sums = np.empty((n, *terms, cols // 16), np.int16)
        for row in range(n):
            self.table.quantize_q8(
                pointer(values[row], "float *"),
                cols,
                two_term,
                pointer(q[row], "int8_t *"),
                pointer(d[row], "float *"),
                pointer(sums[row], "int16_t *"),
            )
        return q, d, sums

    def matmul(
        self, x: ArrayLike, raw_blocks: ArrayLike, type: str | int, rows: int, *, two_term: bool = False
    ) -> Float:
        """x (n, cols) float32 times the matrix W (rows, cols) given as raw blocks of `type`: (n, rows) float32.

        Quantized types multiply x quantized per 32 values to 8 bits, as the engine's decoder does; with `two_term` to 16 bits,
        as its encoders do. Raises ValueError for sizes that do not fit each other.
        """
        values, info, data = float_array(x, (None, None), "x"), type_info(type), _bytes(raw_blocks)
        n, cols = values.shape
        if rows < 0 or cols % info.block or data.size != rows * (cols // info.block) * info.bytes:
            raise EdgeGemmaValueError(
                f"raw_blocks has {data.size} bytes, which is not {rows} rows of {cols}.", "argument"
            )
        out = np.empty((n, rows), np.float32)
        matrix = ffi.new("eg_matrix *", (pointer(data, "uint8_t *"), info, rows, cols, cols // info.block * info.bytes))
        scratch, where = _scratch(lib.eg_matmul_scratch_bytes(cols))
        y = pointer(out, "float *")
        if info.group:
            q, d, sums = self.quantize_q8(values, two_term)
            q8 = ffi.new(
                "eg_q8 *", (pointer(q, "int8_t *"), pointer(d, "float *"), pointer(sums, "int16_t *"), two_term)
            )
            self.table.prepare_q8(q8, n, matrix, where)
            self.table.matmul_q8(y, rows, q8, n, matrix, 0, rows, where)
        else:
            self.table.matmul_float(y, rows, pointer(values, "float *"), cols, n, matrix, 0, rows, where)
        del scratch
        return out

    def matmul_i16(self, x: ArrayLike, raw_weights: ArrayLike, type: str | int, rows: int) -> Float:
        """x (n, cols) float32 times W (rows, cols), given as raw values of F32, F16 or BF16: (n, rows) float32.

        As the engine's encoders do: both are rounded to integers of 14 bits with a scale for every 128 columns, an error of
        about 0.02%. cols is a multiple of 4. Raises ValueError for sizes that do not fit each other and other types.
        """
        values, info, data = float_array(x, (None, None), "x"), type_info(type), _bytes(raw_weights)
        n, cols = values.shape
        if info.block != 1 or cols % 4 or rows < 0 or data.size != rows * cols * info.bytes:
            raise EdgeGemmaValueError(
                f"raw_weights has {data.size} bytes, which is not {rows} rows of {cols} floats, a multiple of 4.",
                "argument",
            )
        out = np.empty((n, rows), np.float32)
        matrix = ffi.new("eg_matrix *", (pointer(data, "uint8_t *"), info, rows, cols, cols * info.bytes))
        memory, packed = _scratch(lib.eg_i16_bytes(n, cols))
        scratch, where = _scratch(lib.eg_matmul_i16_scratch_bytes())
        self.table.pack_i16(packed, pointer(values, "float *"), cols, n, cols, 0, n)
        self.table.matmul_i16(pointer(out, "float *"), rows, packed, n, matrix, 0, rows, where)
        del memory, scratch
        return out

    def matmul_steps(
        self, x: ArrayLike, raw_blocks: ArrayLike, type: str | int, scale: ArrayLike, steps: tuple[float, float]
    ) -> Float:
        """x (n, cols) float32 on a fixed step times W (rows, cols), raw blocks of QC2, QC4 or QC8, with one scale for a row:
        (n, rows) float32. `steps`: of x, above 0, and of the result, 0 for a result as it comes. Raises ValueError for sizes
        that do not fit each other."""
        values, info, data = float_array(x, (None, None), "x"), type_info(type), _bytes(raw_blocks)
        scales = float_array(scale, (None,), "scale")
        (n, cols), rows, (step, out_step) = values.shape, scales.size, steps
        if not lib.eg_type_per_channel(info) or not step > 0 or out_step < 0 or cols > lib.EG_CHANNEL_COLS:
            raise EdgeGemmaValueError(
                "matmul_steps is for QC2, QC4 and QC8, rows within limits, and steps above 0.", "argument"
            )
        if cols % info.block or data.size != rows * (cols // info.block) * info.bytes:
            raise EdgeGemmaValueError(
                f"raw_blocks has {data.size} bytes, which is not {rows} rows of {cols}.", "argument"
            )
        q, d, sums = np.empty((n, cols), np.int8), np.empty(n, np.float32), np.empty(n, np.int32)
        for t in range(n):
            where = pointer(q[t], "int8_t *"), pointer(sums[t:], "int32_t *")
            d[t] = self.table.quantize_i8(pointer(values[t], "float *"), cols, step, *where)
        i8 = ffi.new("eg_i8 *", (pointer(q, "int8_t *"), pointer(d, "float *"), pointer(sums, "int32_t *")))
        matrix = ffi.new(
            "eg_matrix *",
            (
                *(pointer(data, "uint8_t *"), info, rows, cols, cols // info.block * info.bytes),
                *(pointer(scales, "float *"), 1, step, out_step),
            ),
        )
        out = np.empty((n, rows), np.float32)
        scratch, work = _scratch(lib.eg_matmul_scratch_bytes(cols))
        self.table.matmul_i8(pointer(out, "float *"), rows, i8, n, matrix, 0, rows, work)
        if out_step:
            self.table.fake_quant_i8(pointer(out, "float *"), out.size, out_step)
        del scratch
        return out

    def rms_norm(self, x: ArrayLike, weight: ArrayLike | None = None, eps: float = 1e-6) -> Float:
        """x / sqrt(mean(x^2) + eps) * weight, over a vector."""
        values = float_array(x, (None,), "x")
        w = None if weight is None else float_array(weight, (values.size,), "weight")
        out = np.empty_like(values)
        weights = ffi.NULL if w is None else pointer(w, "float *")
        self.table.rms_norm(pointer(out, "float *"), pointer(values, "float *"), weights, values.size, eps)
        return out

    def gelu_mul(self, gate: ArrayLike, up: ArrayLike) -> Float:
        """gelu_tanh(gate) * up, elementwise over vectors."""
        g = float_array(gate, (None,), "gate")
        u, out = float_array(up, (g.size,), "up"), np.empty_like(g)
        self.table.gelu_mul(pointer(out, "float *"), pointer(g, "float *"), pointer(u, "float *"), g.size)
        return out

    def sigmoid_mul(self, gate: ArrayLike, up: ArrayLike) -> Float:
        """up / (1 + e^-gate), elementwise over vectors; silu where both are the same."""
        g = float_array(gate, (None,), "gate")
        u, out = float_array(up, (g.size,), "up"), np.empty_like(g)
        self.table.sigmoid_mul(pointer(out, "float *"), pointer(g, "float *"), pointer(u, "float *"), g.size)
        return out

    def softcap(self, x: ArrayLike, cap: float) -> Float:
        """cap * tanh(x / cap), over a vector."""
        out = float_array(x, (None,), "x").copy()
        self.table.softcap(pointer(out, "float *"), out.size, cap)
        return out

    def sliding_window_attention(
        self, q: ArrayLike, k: ArrayLike, v: ArrayLike, window: int, kv: str = "f32", *, both_ways: bool = False
    ) -> Float:
        """Attention without scaling: q (n, heads, D), k and v (m, kv_heads, D), m >= n -> (n, heads, D) float32.

        Queries are the last n of m positions. `window`: how many keys a query sees up to itself, itself included; 0 for all.
        `kv`: how keys and values are stored before they are read, f32, f16 or q8. `both_ways`: queries see the keys behind
        them too; else attention is causal. Raises ValueError.
        """
        queries = float_array(q, (None, None, None), "q")
        n, heads, dim = queries.shape
        keys = float_array(k, (None, None, dim), "k")
        values = float_array(v, keys.shape, "v")
        m, kv_heads, _ = keys.shape
        if n > m or not kv_heads or heads % kv_heads or window < 0:
            raise EdgeGemmaValueError("q, k and window do not fit each other.", "argument")
        form = KV_TYPES[kv]
        row, share = lib.eg_kv_row_bytes(form, dim), heads // kv_heads
        out = np.empty_like(queries)
        scratch, where = _scratch(lib.eg_attention_scratch_bytes(dim, share, n))
        stored = [np.empty((kv_heads, m, row), np.uint8) for _ in range(2)]
        for source, target in zip((keys, values), stored, strict=True):
            for h in range(kv_heads):
                for p in range(m):
                    self.table.kv_store(form, pointer(target[h, p], "void *"), pointer(source[p, h], "float *"), dim)
        for h in range(kv_heads):
            view = ffi.new("eg_kv_view *", [*(pointer(a[h], "uint8_t *") for a in stored), row, max(m, 1), form])
            first = h * share
            self.table.attention(
                pointer(out[:, first:], "float *"),
                heads * dim,
                pointer(queries[:, first:], "float *"),
                heads * dim,
                n,
                m - n,
                m - 1 if both_ways else -1,
                share,
                dim,
                view,
                window,
                where,
            )
        del scratch
        return out

    def bidirectional_attention(self, q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Float:
        """An encoder's attention, without scaling: q (heads, n, D), k and v (heads, m, D) -> (heads, n, D), all float32.

        Every query sees every key: out[h, t] = sum over j of p[j] v[h, j], with p the softmax over j of q[h, t] . k[h, j].
        Queries, keys and values are rounded to 14 bits and the weights p to 12, an error of 0.05% of the result at most.
        D is a multiple of 4, at most 128, and m at least 1. A query that is not finite, or beyond 2^59, has a result of NaN;
        such a key or value spoils all results of its head. Raises ValueError for shapes that do not fit.
        """
        queries = float_array(q, (None, None, None), "q")
        heads, n, dim = queries.shape
        keys = float_array(k, (heads, None, dim), "k")
        values = float_array(v, keys.shape, "v")
        m = keys.shape[1]
        if not m or not dim or dim % 4 or dim > lib.EG_SEEN_HEAD:
            raise EdgeGemmaValueError(
                f"k has {m} keys of {dim} values; there must be a key, and 4, 8, ... {lib.EG_SEEN_HEAD} values.",
                "argument",
            )
        out, blocks = np.empty_like(queries), -(-m // lib.EG_SEEN_KEYS)
        memory, packed = _scratch(lib.eg_bidirectional_bytes(dim, m))
        scratch, where = _scratch(lib.eg_bidirectional_scratch_bytes(dim))
        for h in range(heads):
            sources = pointer(keys[h], "float *"), dim, pointer(values[h], "float *"), dim
            self.table.bidirectional_pack(packed, *sources, m, 0, blocks, dim)
            rows = pointer(out[h], "float *"), dim, pointer(queries[h], "float *"), dim
            self.table.bidirectional(*rows, n, packed, m, dim, where)
        del memory, scratch
        return out


def _scratch(size: int) -> tuple[NDArray[np.uint8], Any]:
    """Work space of `size` bytes, and a pointer into it that is aligned to 64."""
    array = np.empty(size + 64, np.uint8)
    return array, ffi.cast("uint8_t *", array.ctypes.data + -array.ctypes.data % 64)


def _all_targets() -> dict[str, Target | None]:
    found: dict[str, Target | None] = {}
    supported, index = ffi.new("bool *"), 0
    while (table := lib.eg_kernels_at(index, supported)) != ffi.NULL:
        found[ffi.string(table.name).decode()] = Target(table) if supported[0] else None
        index += 1
    return found


#: Every compiled instruction set by name; None where this processor lacks it.
targets: dict[str, Target | None] = _all_targets()
_chosen = Target(lib.eg_kernels_get())


def matmul(x: ArrayLike, raw_blocks: ArrayLike, type: str | int, rows: int) -> Float:
    """`Target.matmul` of the set that the engine has chosen."""
    return _chosen.matmul(x, raw_blocks, type, rows)


def log_mel(samples: ArrayLike, features: int = 128) -> Float:
    """Log-mel frames (n, features) float32 of 16 kHz mono samples (m,) in [-1, 1], as the audio encoder sees them; a frame
    for every 10 ms but the last. Raises ValueError."""
    sound, mel, arena = float_array(samples, (None,), "samples"), ffi.new("eg_mel *"), ffi.new("eg_arena *")
    if not 1 <= features <= 1024:
        raise EdgeGemmaValueError(f"features is {features}; it must be within 1 and 1024.", "argument")
    lib.eg_mel_layout(mel, features, False, arena)
    memory, arena.base = _scratch(arena.used)
    arena.used = 0
    lib.eg_mel_layout(mel, features, False, arena)
    lib.eg_mel_init(mel)
    out = np.empty((lib.eg_mel_frames(mel, sound.size), features), np.float32)
    where, left = ffi.new("const float **", pointer(sound, "float *")), ffi.new("int64_t *", sound.size)
    lib.eg_mel_push(mel, where, left, pointer(out, "float *"), len(out))
    del memory
    return out


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A picture in another size: (h, w, 3) uint8 -> (height, width, 3) uint8, bit-equal to Pillow 13's bicubic filter.

    Each side of both has 1 to 1,048,576 pixels. Raises ValueError for others, or another kind of array.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise EdgeGemmaValueError("pixels must be an array (h, w, 3) of uint8.", "argument")
    rows = np.ascontiguousarray(pixels)
    if not all(1 <= side <= lib.EG_IMAGE_SIDE for side in (*rows.shape[:2], width, height)):
        raise EdgeGemmaValueError(f"a side of a picture has 1 to {lib.EG_IMAGE_SIDE} pixels.", "argument")
    out, err = np.empty((height, width, 3), np.uint8), new_struct("eg_error")
    source = ffi.new("eg_picture *")
    source.rgb, source.stride = pointer(rows, "uint8_t *"), rows.strides[0]
    source.height, source.width = rows.shape[:2]
    pool = ffi.gc(lib.eg_pool_create(1), lib.eg_pool_destroy)
    check(lib.eg_image_resize(pool, source, width, height, pointer(out, "uint8_t *"), err), err)
    return out


def sliding_window_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, window: int) -> Float:
    """`Target.sliding_window_attention` of the set that the engine has chosen."""
    return _chosen.sliding_window_attention(q, k, v, window)


def bidirectional_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Float:
    """`Target.bidirectional_attention` of the set that the engine has chosen."""
    return _chosen.bidirectional_attention(q, k, v)
