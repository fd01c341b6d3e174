"""The kernels of every compiled instruction set, against the arithmetic that their contract spells out, in NumPy.

All sets must give the same bits; where the contract fixes the order of the sums, NumPy's float32 gives them too. Around
every output lie canaries, matrices lie at odd addresses, and sizes are those that vector code gets wrong.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_gemma import kernels
from edge_gemma.engine.native import ffi, lib
from edge_gemma.reference import quants
from support.c_build import CSRC

F = np.float32
TARGETS = list(kernels.targets)
QUANTIZED = [t.name for t in quants.TYPES if t.unpack is not None]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> kernels.Target:
    """One instruction set."""
    found = kernels.targets[request.param]
    if found is None:
        pytest.skip(f"this processor lacks {request.param}")
    return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, but for the sign and payload of NaN."""
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def raw_blocks(rng: np.random.Generator, name: str, count: int, byte: int | None = None) -> np.ndarray:
    """Random blocks of a type, or blocks of one `byte`, but with scales that are finite and of ordinary size."""
    kind = quants.block_type(name)
    raw = rng.integers(0, 256, (count, kind.bytes), np.uint8)
    if byte is not None:
        raw[:] = byte
    if name == "MXFP4":
        raw[:, 0] = rng.integers(118, 132, count)
        return raw
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)}.get(
        name, (0, 2) if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,)
    ):
        raw[:, at : at + 2] = rng.normal(0, 0.05, count).astype(np.float16).view(np.uint8).reshape(count, 2)
    return raw


# ---- the contract in NumPy -------------------------------------------------------------------------------------------


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c for float32, rounded once: float64 holds the product exactly, and rounding its sum first changes the result
    for one in a hundred million."""
    return (a.astype(np.float64) * b + c).astype(F)


def lanes_dot(a: np.ndarray, b: np.ndarray, fused: bool) -> np.ndarray:
    """Sums of a * b over the last axis in the contract's order: 16 lanes in sequence, then halves onto halves."""
    a, b = np.broadcast_arrays(a, b)
    pad = [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % 16)]
    a, b = (np.pad(v, pad).reshape(*v.shape[:-1], -1, 16) for v in (a, b))
    acc = np.zeros((*a.shape[:-2], 16), F)
    for i in range(a.shape[-2]):
        acc = fma(a[..., i, :], b[..., i, :], acc) if fused else acc + a[..., i, :] * b[..., i, :]
    for half in (8, 4, 2, 1):
        acc = acc[..., :half] + acc[..., half : 2 * half]
    return acc[..., 0]


def matmul_q8(x: np.ndarray, raw: np.ndarray, name: str, rows: int, two_term: bool = False) -> np.ndarray:
    """The contract of eg_kernels.matmul_q8."""
    n, cols = x.shape
    codes = [quants.quantize_q8(row, two_term) for row in x]
    q = np.stack([c[0] for c in codes]).astype(np.int64)
    q = 256 * q[:, 0] + q[:, 1] if two_term else q
    d = np.stack([c[1] for c in codes])
    unpacked = [quants.unpack(row, name) for row in raw.reshape(rows, -1)]
    group = cols // unpacked[0][1].size
    y = np.zeros((n, rows), F)
    for g in range(cols // group):
        span = slice(g * group, (g + 1) * group)
        factor = d[:, g * group // 32, None]
        dots = np.stack([q[:, span] @ u[0][span].astype(np.int64) for u in unpacked], 1).astype(F)
        y = y + dots * (np.array([u[1][g] for u in unpacked]) * factor)
        if unpacked[0][2] is not None:
            sums = q[:, span].sum(1)[:, None].astype(F)
            y = y - sums * (np.array([u[2][g] for u in unpacked]) * factor)
    return y


# ---- quantizing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_term", [False, True])
@pytest.mark.parametrize("cols", [32, 64, 160, 4128])
def test_quantize_q8(target: kernels.Target, cols: int, two_term: bool) -> None:
    """Equal to the reference's, with sums of q; ties go to even; nothing is written beyond."""
    rng = np.random.default_rng(cols)
    x = rng.normal(0, 3, (6, cols)).astype(F)
    x[1] = 0
    x[2] = np.arange(cols) % 32 - 16
    x[2, ::32] = 127  # d = 1: halves stay halves
    x[2, 1::32] = [(i % 7) + 0.5 for i in range(cols // 32)]
    x[3] *= 1e30
    x[4] *= 1e-30
    x[5] = 1e-38
    q, d, sums = target.quantize_q8(x, two_term)
    for row in range(6):
        want_q, want_d = quants.quantize_q8(x[row], two_term)
        assert same(q[row], want_q)
        assert same(d[row], want_d)
    assert np.array_equal(sums, q.reshape(*sums.shape, 16).sum(-1))


def test_quantize_q8_not_finite(target: kernels.Target) -> None:
    """One bad value spoils its group of 32 and no other."""
    for bad in (np.inf, -np.inf, np.nan):
        x = np.ones((1, 96), F)
        x[0, 40] = bad
        q, d, sums = target.quantize_q8(x)
        assert np.isnan(d[0, 1])
        assert not q[0, 32:64].any()
        assert not sums[0, 2:4].any()
        assert same(d[0, [0, 2]], np.full(2, F(1) / F(127)))
        q, d, sums = target.quantize_q8(x, two_term=True)
        assert np.isnan(d[0, 1])
        assert not q[0, :, 32:64].any()
        assert not sums[0, :, 2:4].any()
        assert same(d[0, [0, 2]], np.full(2, F(1) / F(127) / F(256)))


def test_fine_activations(target: kernels.Target) -> None:
    """Two parts are within a step of the second: half of one, but for the last, which 8 bits do not hold."""
    x = np.random.default_rng(2).normal(0, 3, (3, 256)).astype(F)
    q, d, _ = target.quantize_q8(x, two_term=True)
    got = np.repeat(d, 32, 1) * (256 * q[:, 0].astype(np.int32) + q[:, 1])
    assert (np.abs(got - x) <= np.repeat(d, 32, 1) * 1.01).all()


# ---- matrices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_term", [False, True])
@pytest.mark.parametrize("name", QUANTIZED)
def test_matmul_q8(target: kernels.Target, name: str, two_term: bool) -> None:
    """Every quantized type equals the contract bit for bit."""
    rng = np.random.default_rng(quants.block_type(name).id)
    block = quants.block_type(name).elements
    many, most = (9, 17) if block == 256 else (70, 17 * 256 // block)
    for n, rows, blocks in ((1, 16, 3), (1, 37, most), (2, 1, 1), (3, 17, 5), (9, 33, 2), (5, 40, many)):
        raw = raw_blocks(rng, name, rows * blocks)
        x = rng.normal(0, 1, (n, blocks * block)).astype(F)
        want = matmul_q8(x, raw, name, rows, two_term)
        assert same(target.matmul(x, raw, name, rows, two_term=two_term), want), (n, rows, blocks)


@pytest.mark.parametrize("name", QUANTIZED)
def test_matmul_q8_any_bytes(target: kernels.Target, name: str) -> None:
    """Blocks of any bytes (scales of infinity and NaN, weights of -128): all sets agree with the scalar one."""
    rng, kind = np.random.default_rng(7), quants.block_type(name)
    cols, rows = 1024 + 256, 37
    raw = rng.integers(0, 256, rows * cols // kind.elements * kind.bytes, np.uint8)
    x = rng.normal(0, 1, (6, cols)).astype(F)
    x[3, 5] = np.inf
    scalar = kernels.targets["scalar"]
    assert scalar is not None
    for two_term in (False, True):
        want = scalar.matmul(x, raw, name, rows, two_term=two_term)
        assert same(target.matmul(x, raw, name, rows, two_term=two_term), want)
        for t in (0, 3):
            assert same(target.matmul(x[t : t + 1], raw, name, rows, two_term=two_term), want[t : t + 1])


def test_extreme_weights(target: kernels.Target) -> None:
    """-128 times -127 in every place: the largest sums that bytes can make."""
    raw = np.zeros((32, 3, 34), np.uint8)
    raw[..., :2] = np.array([1], np.float16).view(np.uint8)
    raw[..., 2:] = 0x80
    for value in (-1.0, 1.0):
        for two_term in (False, True):
            y = target.matmul(np.full((5, 96), value, F), raw, "Q8_0", 32, two_term=two_term)
            assert same(y, np.full((5, 32), -value * 96 * 128, F))


@pytest.mark.parametrize("name", QUANTIZED)
def test_extreme_activations(target: kernels.Target, name: str) -> None:
    """127 and -127 in every place, and all bits of the weights set or none of them: sums as large as the type allows."""
    kind, scalar = quants.block_type(name), kernels.targets["scalar"]
    assert scalar is not None
    for byte in (0, 255):
        raw = raw_blocks(np.random.default_rng(1), name, 16 * 1024 // kind.elements, byte)
        for n, value in ((1, 1.0), (1, -1.0), (5, 1.0)):
            x = np.full((n, 1024), value, F)
            assert same(target.matmul(x, raw, name, 16), scalar.matmul(x, raw, name, 16))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_matmul_float(target: kernels.Target, name: str) -> None:
    """Weights that are floats equal the contract bit for bit, for any number of columns."""
    rng = np.random.default_rng(3)
    shapes = [(1, 1, 1), (1, 16, 48), (4, 9, 33), (7, 19, 16), (5, 3, 1031), (2, 8, 15)]
    shapes += [(n, 13, 40) for n in (*range(1, 18), 31, 32, 33)]
    for n, rows, cols in shapes:
        w, x = rng.normal(0, 1, (rows, cols)).astype(F), rng.normal(0, 1, (n, cols)).astype(F)
        if name == "F32":
            raw = w.view(np.uint8)
        elif name == "F16":
            raw = w.astype(np.float16).view(np.uint8)
        else:
            raw = (w.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        exact = quants.dequantize(raw.reshape(-1), name).reshape(rows, cols)
        want = lanes_dot(exact[None], x[:, None], True)
        assert same(target.matmul(x, raw, name, rows), want), (n, rows, cols)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("two_term", [False, True])
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "Q5_1", "Q2_K", "BF16", "F32"])
def test_row_ranges_canaries_and_odd_addresses(target: kernels.Target, name: str, two_term: bool, n: int) -> None:
    """Any range of rows, each element once and nothing else; the matrix ends where its buffer ends."""
    rng, kind = np.random.default_rng(5), quants.block_type(name)
    rows, cols, ldy = 50, 512, 61
    raw = (
        raw_blocks(rng, name, rows * cols // kind.elements)
        if kind.unpack
        else rng.integers(0, 60, rows * cols * kind.bytes)
    )
    raw = np.ascontiguousarray(raw, np.uint8).reshape(-1)
    x = rng.normal(0, 1, (n, cols)).astype(F)
    whole = target.matmul(x, raw, name, rows, two_term=two_term)
    shift = 1 if kind.unpack else kind.bytes  # floats keep the alignment of their type
    buffer = np.empty(raw.size + shift, np.uint8)
    buffer[shift:] = raw
    address = ffi.cast("uint8_t *", buffer.ctypes.data + shift)
    matrix = ffi.new("eg_matrix *", (address, kernels.type_info(name), rows, cols, raw.size // rows))
    q, d, sums = target.quantize_q8(x, two_term)
    cast = lambda a, t: ffi.cast(t, a.ctypes.data)  # noqa: E731
    q8 = ffi.new("eg_q8 *", (cast(q, "int8_t *"), cast(d, "float *"), cast(sums, "int16_t *"), two_term))
    scratch = np.empty(lib.eg_matmul_scratch_bytes(cols) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)
    if kind.unpack:
        target.table.prepare_q8(q8, n, matrix, where)
    for row0, row1 in ((0, 50), (0, 1), (49, 50), (16, 32), (5, 38), (7, 22), (20, 20), (0, 17)):
        y = np.full((n + 2, ldy), -7.25, F)
        out = ffi.cast("float *", y[1:].ctypes.data)
        if kind.unpack:
            target.table.matmul_q8(out, ldy, q8, n, matrix, row0, row1, where)
        else:
            target.table.matmul_float(out, ldy, cast(x, "float *"), cols, n, matrix, row0, row1, where)
        want = np.full((n + 2, ldy), -7.25, F)
        want[1:-1, row0:row1] = whole[:, row0:row1]
        assert same(y, want), (row0, row1)


# ---- elementwise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 16, 31, 256, 1536, 2049])
def test_rms_norm(target: kernels.Target, n: int) -> None:
    """Bit for bit, with and without weight."""
    rng = np.random.default_rng(n)
    x, w = rng.normal(0, 4, n).astype(F), rng.normal(0, 1, n).astype(F)
    factor = F(1) / np.sqrt(lanes_dot(x, x, False) / F(n) + F(1e-6))
    assert same(target.rms_norm(x), x * factor)
    assert same(target.rms_norm(x, w), x * factor * w)
    assert same(target.rms_norm(np.zeros(n)), np.zeros(n, F))


def test_gelu_sigmoid_and_softcap(target: kernels.Target) -> None:
    """Within a few units in the last place of float64's; the same bits as the scalar set; limits; no write beyond."""
    scalar = kernels.targets["scalar"]
    assert scalar is not None
    x = np.concatenate(
        [
            np.linspace(-12, 12, 20011),
            np.logspace(-30, 2, 999),
            -np.logspace(-30, 2, 999),
            [0.0, 1e30, -1e30, 3e38, -3e38],
        ]
    ).astype(F)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        want = wide * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    got = target.gelu_mul(x, np.ones_like(x))
    assert np.all(np.abs(got - want) <= 2e-6 * np.abs(wide))
    assert same(got, scalar.gelu_mul(x, np.ones_like(x)))
    up = np.random.default_rng(0).normal(0, 1, x.size).astype(F)
    assert same(target.gelu_mul(x, up), got * up)
    sigmoid = 1 / (1 + np.exp(-np.clip(wide, -700, 700)))
    got = target.sigmoid_mul(x, x)
    assert np.all(np.abs(got - wide * sigmoid) <= 1e-6 * np.abs(wide * sigmoid) + 1e-36)
    assert same(got, scalar.sigmoid_mul(x, x))
    assert np.all(np.abs(target.sigmoid_mul(x, up) - up * sigmoid) <= 1e-6 * np.abs(up * sigmoid) + 1e-36)
    for cap in (30.0, 1.0):
        got = target.softcap(x, cap)
        assert np.all(np.abs(got - cap * np.tanh(wide / cap)) <= 1e-6 * np.minimum(np.abs(wide), cap) + 1e-37)
        assert same(got, scalar.softcap(x, cap))
    bad = np.array([np.nan, np.inf, -np.inf], F)
    assert same(target.softcap(bad, 30.0), np.array([np.nan, 30, -30], F))
    buffer = np.full(40, -7.25, F)
    for n in (1, 3, 15, 17):
        target.table.softcap(ffi.cast("float *", buffer[8:].ctypes.data), n, 30.0)
        assert (buffer[:8] == -7.25).all()
        assert (buffer[8 + n :] == -7.25).all()
        buffer[:] = -7.25


# ---- K/V and attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 16, 24, 32, 40, 256, 512])
def test_kv_store(target: kernels.Target, dim: int) -> None:
    """Rows as they lie in the cache: floats, halves rounded to even, and bytes with a scale for 32."""
    x = np.random.default_rng(dim).normal(0, 2, dim).astype(F)
    x[0] = 65519.0  # the largest that does not round to infinity
    source = ffi.cast("float *", x.ctypes.data)
    for form, name in ((lib.EG_KV_F32, "f32"), (lib.EG_KV_F16, "f16"), (lib.EG_KV_Q8, "q8")):
        size = lib.eg_kv_row_bytes(form, dim)
        row = np.full(size + 64, 0xA5, np.uint8)
        target.table.kv_store(form, ffi.cast("void *", row.ctypes.data), source, dim)
        assert (row[size:] == 0xA5).all()
        if name == "f32":
            assert same(row[:size].view(F), x)
        elif name == "f16":
            assert same(row[:size].view(np.float16), x.astype(np.float16))
        else:
            q, d = quants.quantize_q8(np.pad(x, (0, -dim % 32)))
            assert np.array_equal(row[:dim].view(np.int8), q[:dim])
            assert same(row[-(-dim // 4) * 4 : size].view(F), d)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> np.ndarray:
    """Causal attention in float64."""
    n, heads, _ = q.shape
    m, kv_heads, _ = k.shape
    k, v = (np.repeat(a.astype(np.float64), heads // kv_heads, 1) for a in (k, v))
    scores = np.einsum("thd,jhd->htj", q.astype(np.float64), k)
    distance = np.arange(m - n, m)[:, None] - np.arange(m)[None]
    hidden = (distance < 0) | ((distance >= window) if window else False)
    scores[:, hidden] = -np.inf
    p = np.exp(scores - scores.max(2, keepdims=True))
    return np.einsum("htj,jhd->thd", p / p.sum(2, keepdims=True), v)


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
@pytest.mark.parametrize("window", [0, 1, 9, 33, 512])
def test_attention(target: kernels.Target, window: int, kv: str) -> None:
    """Within a tolerance of float64, and to the bit that of the scalar set, both on K and V as the cache rounds them."""
    scalar = kernels.targets["scalar"]
    assert scalar is not None
    rng = np.random.default_rng(window)
    for n, m, heads, kv_heads, dim in ((1, 1, 1, 1, 16), (1, 700, 8, 1, 64), (40, 70, 6, 2, 48), (100, 100, 3, 3, 24)):
        q = rng.normal(0, 1, (n, heads, dim)).astype(F)
        k, v = (rng.normal(0, 1, (m, kv_heads, dim)).astype(F) for _ in range(2))
        got = target.sliding_window_attention(q, k, v, window, kv)
        if kv == "f16":
            k, v = (a.astype(np.float16).astype(F) for a in (k, v))
        elif kv == "q8":
            k, v = (np.stack([round_q8(row) for row in a.reshape(-1, dim)]).reshape(a.shape) for a in (k, v))
        # A score of size sqrt(dim) carries an error of dim roundings at most; exp makes it relative.
        tolerance = 2**-24 * dim * 8 * np.abs(v).max()
        assert np.abs(got - attend(q, k, v, window)).max() < tolerance
        if target is not scalar and n < 100:
            assert same(got, scalar.sliding_window_attention(q, k, v, window))


def round_q8(row: np.ndarray) -> np.ndarray:
    """A row as the q8 cache gives it back."""
    q, d = quants.quantize_q8(np.pad(row, (0, -row.size % 32)))
    return (q.astype(F) * np.repeat(d, 32))[: row.size]


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_attention_is_the_same_alone_and_in_company(target: kernels.Target, kv: str) -> None:
    """A query's result does not depend on the queries that share its call."""
    rng = np.random.default_rng(0)
    q = rng.normal(0, 1, (50, 4, 32)).astype(F)
    k, v = (rng.normal(0, 1, (80, 2, 32)).astype(F) for _ in range(2))
    for window in (0, 11):
        whole = target.sliding_window_attention(q, k, v, window, kv)
        for t in (0, 1, 17, 49):
            alone = target.sliding_window_attention(q[t : t + 1], k[: 31 + t], v[: 31 + t], window, kv)
            assert same(alone[0], whole[t])


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_ring(target: kernels.Target, n: int, kv: str) -> None:
    """Keys in a ring that has wrapped: the same as in a row."""
    rng = np.random.default_rng(1)
    dim, window, capacity, m = 96, 20, 27, 90
    k, v = (rng.normal(0, 1, (m, 1, dim)).astype(F) for _ in range(2))
    q = rng.normal(0, 1, (n, 2, dim)).astype(F)
    want = target.sliding_window_attention(q, k, v, window, kv)
    form = {"f32": lib.EG_KV_F32, "f16": lib.EG_KV_F16, "q8": lib.EG_KV_Q8}[kv]
    size = lib.eg_kv_row_bytes(form, dim)
    rings = [np.full((capacity, size), 255, np.uint8) for _ in range(2)]  # bytes of NaN, where no key comes
    for source, ring in zip((k, v), rings, strict=True):
        for p in range(m - n - window + 1, m):
            at = ffi.cast("void *", ring[p % capacity].ctypes.data)
            target.table.kv_store(form, at, ffi.cast("float *", source[p, 0].ctypes.data), dim)
    pointers = [ffi.cast("uint8_t *", ring.ctypes.data) for ring in rings]
    view = ffi.new("eg_kv_view *", (*pointers, size, capacity, form))
    scratch = np.empty(lib.eg_attention_scratch_bytes(dim, 2, n) + 64, np.uint8)
    out = np.full((n + 1, 2, dim), -7.25, F)
    target.table.attention(
        ffi.cast("float *", out.ctypes.data),
        2 * dim,
        ffi.cast("float *", q.ctypes.data),
        2 * dim,
        n,
        m - n,
        -1,
        2,
        dim,
        view,
        window,
        ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64),
    )
    assert same(out[:n], want)
    assert (out[n] == -7.25).all()


@pytest.mark.parametrize("window", [0, 100, 150])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_attention_in_spans(target: kernels.Target, window: int, n: int) -> None:
    """Spans of keys one by one, then merged: to the bit what the whole gives."""
    rng = np.random.default_rng(n + window)
    heads, dim, m = 3, 40, 402
    k, v = (rng.normal(0, 1, (m, 1, dim)).astype(F) for _ in range(2))
    q = rng.normal(0, 1.5, (n, heads, dim)).astype(F)
    want = target.sliding_window_attention(q, k, v, window)
    assert np.abs(want - attend(q, k, v, window)).max() < 1e-4
    view = ffi.new("eg_kv_view *", (*(ffi.cast("uint8_t *", a.ctypes.data) for a in (k, v)), 4 * dim, m, lib.EG_KV_F32))
    first = max(0, m - n - window + 1) // lib.EG_SPAN if window else 0
    spans, rows = (m - 1) // lib.EG_SPAN - first + 1, n * heads
    part = lib.eg_attention_partial_floats(dim, rows)
    parts, out = np.full(spans * part + 8, -7.25, F), np.full((n, heads, dim + 1), -7.25, F)
    at, queries = parts.ctypes.data, ffi.cast("float *", q.ctypes.data)
    scratch = np.empty(lib.eg_attention_scratch_bytes(dim, heads, n) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)
    for i in reversed(range(spans)):
        here = ffi.cast("float *", at + 4 * i * part)
        target.table.attention_span(
            here, queries, heads * dim, n, m - n, -1, heads, dim, view, window, first + i, where
        )
    for row in range(rows):
        result = ffi.cast("float *", out.reshape(rows, -1)[row].ctypes.data)
        target.table.attention_merge(result, ffi.cast("float *", at), spans, rows, row, dim)
    assert same(np.ascontiguousarray(out[..., :dim]), want)
    assert (parts[-8:] == -7.25).all()
    assert (out[..., dim] == -7.25).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "MXFP4"])
def test_any_number_of_tokens(target: kernels.Target, name: str) -> None:
    """A token's result does not depend on how many share the call: blocks of every size agree."""
    rng, kind = np.random.default_rng(11), quants.block_type(name)
    cols, rows, n = 1024 + 256, 56, 33
    raw = raw_blocks(rng, name, rows * cols // kind.elements)
    x = rng.normal(0, 1, (n, cols)).astype(F)
    for two_term in (False, True):
        whole = matmul_q8(x, raw, name, rows, two_term)
        for tokens in (*range(1, 18), 31, 32, 33):
            assert same(target.matmul(x[:tokens], raw, name, rows, two_term=two_term), whole[:tokens]), (
                tokens,
                two_term,
            )


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K"])
def test_hundreds_of_tokens(target: kernels.Target, name: str) -> None:
    """More tokens and columns than are prepared at once, and rows that do not fill a tile."""
    rng, kind = np.random.default_rng(12), quants.block_type(name)
    cols, rows, n = 2 * 2048 + 512, 55, 263
    raw = raw_blocks(rng, name, rows * cols // kind.elements)
    x = rng.normal(0, 1, (n, cols)).astype(F)
    for two_term in (False, True):
        got = target.matmul(x, raw, name, rows, two_term=two_term)
        some = [0, 1, 127, 128, 254, 255, 256, 257, 261, 262]
        assert same(got[some], matmul_q8(x[some], raw, name, rows, two_term))


# ---- dispatch --------------------------------------------------------------------------------------------------------


def test_chosen_by_environment() -> None:
    """EDGE_GEMMA_ISA names a set; a name that does not fit this machine leaves the best."""
    assert [name for name in kernels.targets if "neon" not in name] in (
        ["scalar"],
        ["scalar", "avx2", "avxvnni", "avx512vnni"],
    )
    best = [name for name, t in kernels.targets.items() if t is not None][-1]
    for wanted in [*kernels.targets, "nonsense"]:
        supported = kernels.targets.get(wanted) is not None
        code = "import edge_gemma; print(edge_gemma.isa)"
        env = {**os.environ, "EDGE_GEMMA_ISA": wanted}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        assert out.strip() == (wanted if supported else best)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets of x86")
@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("objdump")), reason="no gcc, or no objdump")
def test_avxvnni_needs_no_avx512(tmp_path: Path) -> None:
    """The encoding for processors without AVX-512 has the instruction and none of AVX-512's registers; its twin, which tests
    run in its place where AVX-VNNI is missing, is made of the same operations."""
    counts = {}
    for name in ("avxvnni", "avxvnni_evex"):
        source, target = CSRC / "kernels" / f"{name}.c", tmp_path / f"{name}.o"
        subprocess.run(["gcc", "-O1", "-std=c11", "-ffp-contract=off", "-c", source, "-o", target], check=True)
        text = subprocess.run(["objdump", "-d", target], capture_output=True, text=True, check=True).stdout
        counts[name] = len(re.findall(r"vpdpbusd ", text))
        if name == "avxvnni":
            assert not re.search(r"%zmm|%[xy]mm(1[6-9]|[23]\d)|%k[0-7]", text)
            assert len(re.findall(r"{vex} vpdpbusd ", text)) == counts[name]
    assert counts["avxvnni"] == counts["avxvnni_evex"] > 100
