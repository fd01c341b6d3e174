"""The kernels of encoders (bidirectional attention, products with float weights as integers), against their contract
(csrc/kernels/kernels.h) in NumPy, to the bit, and against float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge_gemma import kernels
from edge_gemma.engine.native import ffi, lib, pointer
from edge_gemma.errors import EdgeGemmaValueError

F = np.float32
BLOCK, LARGEST = 64, F(2.0**59)
SIZES = [(1, 4), (63, 16), (64, 64), (65, 72), (200, 128), (200, 64), (130, 36), (129, 72)]


@pytest.fixture(params=list(kernels.targets))
def target(request: pytest.FixtureRequest) -> kernels.Target:
    """One instruction set."""
    found = kernels.targets[request.param]
    if found is None:
        pytest.skip(f"this processor lacks {request.param}")
    return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, but for the sign and payload of NaN."""
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def scene(rng: np.random.Generator, n: int, m: int, dim: int, size: float = 1.0) -> list[np.ndarray]:
    """q, k, v (2, ., dim), with scores of size `size` * sqrt(dim)."""
    q, k, v = (rng.standard_normal((2, rows, dim)).astype(F) for rows in (n, m, m))
    return [q * F(size), k, v]


# ---- the contract in NumPy -------------------------------------------------------------------------------------------


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c, rounded once: float64 holds the product exactly, and a sum that is rounded to odd may be rounded again."""
    product, addend = np.broadcast_arrays(a.astype(np.float64) * b, c.astype(np.float64))
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, toward), total).astype(F)


def power(x: np.ndarray, scale: float) -> np.ndarray:
    """scale * 2^x, as the kernel's polynomial has it."""
    k = np.rint(x)
    r, y = (x - k).astype(F), np.full_like(x, F(scale) * F(float.fromhex("0x1.5bba14p-10")))
    for c in ("0x1.3cea88p-7", "0x1.c6b752p-5", "0x1.ebf9bcp-3", "0x1.62e42ap-1", "0x1p0"):
        y = fma(y, r, F(scale) * F(float.fromhex(c)) + np.zeros_like(y))
    return np.ldexp(y, k.astype(np.int32))


def integers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, dim) as integers, and their scales (n,)."""
    amax, squares = np.abs(x).max(1), np.zeros(len(x), F)
    inverse = F(1) / amax
    for column in (x * inverse[:, None]).T:
        squares = fma(column, column, squares)
    s = np.fmin(F(46330) / np.sqrt(squares), F(8191))
    nothing = ~(F(8191) * inverse <= np.finfo(F).max)
    factor, d = np.where(nothing, F(0), s * inverse), np.where(nothing, F(0), amax / s)
    return np.rint(x * factor[:, None]).astype(np.int64), d


def contract(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One head by the formulas of kernels.h, for finite numbers."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        (qi, dq), (ki, dk) = integers(q), integers(k)
    isum = qi @ ki.T
    assert np.abs(isum).max() < 2**31
    factor = dq * F(float.fromhex("0x1.715476p0"))
    m, total, acc = np.full(len(q), -np.inf, F), np.zeros(len(q), F), np.zeros(q.shape, F)
    for j in range(0, len(k), BLOCK):
        block = slice(j, j + BLOCK)
        t = isum[:, block].astype(F) * dk[block]
        best = t.max(1)
        x = np.maximum((t - best[:, None]) * factor[:, None], F(-30))
        p = np.rint(power(x, 4095.0)).astype(np.int64)
        b = best * factor
        new = np.maximum(m, b)
        c, f = (power(np.maximum(e, F(-100)), 1.0) for e in (m - new, b - new))
        m, total = new, fma(p.sum(1).astype(F), f, total * c)
        amax = np.abs(v[block]).max()
        with np.errstate(divide="ignore", over="ignore"):
            scale = F(8191) / amax
        scale, dv = (scale, amax / F(8191)) if scale <= np.finfo(F).max else (F(0), F(0))
        sums = p @ np.rint(v[block] * scale).astype(np.int64)
        assert np.abs(sums).max() < 2**31
        acc = fma(sums.astype(F), (f * dv)[:, None], acc * c[:, None])
    return acc * (F(1) / total)[:, None]


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The contract of matmul_i16, for finite numbers."""
    acc = np.zeros((len(x), len(w)), F)
    for k in range(0, x.shape[1], 128):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            (xi, dx), (wi, dw) = integers(x[:, k : k + 128]), integers(w[:, k : k + 128])
        isum = xi @ wi.T
        assert not isum.size or np.abs(isum).max() < 2**31
        acc = fma(isum.astype(F), dx[:, None] * dw, acc)
    return acc


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What attention is, in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = np.einsum("htd,hjd->htj", q, k)
    p = np.exp(scores - scores.max(2, keepdims=True))
    return np.einsum("htj,hjd->htd", p / p.sum(2, keepdims=True), v)


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_is_the_contract_to_the_bit(target: kernels.Target, n: int, dim: int) -> None:
    """Scores of every size: near 0, of the size of a model, and so large that a single key is left."""
    rng = np.random.default_rng(n + dim)
    for size in (0.05, 1.0, 40.0):
        q, k, v = scene(rng, n, n, dim, size)
        k[:, n // 2 :] *= F(3)
        got = target.bidirectional_attention(q, k, v)
        assert same(got, np.stack([contract(*head) for head in zip(q, k, v, strict=True)])), size


def test_extremes_are_the_contract_to_the_bit(target: kernels.Target) -> None:
    """Vectors whose length is the limit, vectors with one large value, zeros, and numbers at the ends of the range."""
    rng = np.random.default_rng(0)
    q, k, v = (a[0] for a in scene(rng, 40, 200, 128))
    q[0], k[3], v[64:128] = 0, 0, 0
    q[1], k[4] = 1.5, 1.5
    q[2], k[5] = -1.5, 1.5
    q[3], k[6] = np.where(np.arange(128) == 77, 9.0, 1e-3), np.where(np.arange(128) == 77, -9.0, 0)
    q[4], q[5], q[6], q[7] = LARGEST, 1e-38, 1e-30, -LARGEST
    k[7], k[8], k[9] = 1e-38, 1e-30, LARGEST * F(1e-10)
    v[130], v[199] = LARGEST, 1e-38
    for head in ((q, k, v), (q, k * 0, v), (q, k, v * 0), (q[:, :4].copy(), k[:, :4].copy(), v[:, :4].copy())):
        assert same(target.bidirectional_attention(*(a[None] for a in head))[0], contract(*head))


@pytest.mark.parametrize(("n", "m", "dim"), [(33, 2400, 64), (17, 2400, 72), (40, 1, 16), (40, 63, 128), (3, 640, 4)])
def test_is_attention(target: kernels.Target, n: int, m: int, dim: int) -> None:
    """Close to float64, where scores have the size of a model's (8 at 64 values) and where they are small."""
    rng = np.random.default_rng(m)
    for size in (8 / np.sqrt(dim), 0.1):
        q, k, v = scene(rng, n, m, dim, size)
        want = exact(q, k, v)
        error = np.sqrt(np.mean((target.bidirectional_attention(q, k, v) - want) ** 2) / np.mean(want**2))
        assert error < 5e-4


def test_splits_and_strides(target: kernels.Target) -> None:
    """Queries in pieces, blocks packed one by one from rows that lie apart, and o in place of q: the same bits; nothing is
    written beyond."""
    rng, dim, n, m, far = np.random.default_rng(5), 20, 103, 150, 23
    (q, k, v), table = (a[0] for a in scene(rng, n, m, dim)), target.table
    want = target.bidirectional_attention(q[None], k[None], v[None])[0]
    wide = [np.full((len(a) + 1, far), np.nan, F) for a in (q, k, v)]
    for to, a in zip(wide, (q, k, v), strict=True):
        to[:-1, :dim] = a
    size, work = lib.eg_bidirectional_bytes(dim, m), lib.eg_bidirectional_scratch_bytes(dim)
    memory = [np.full(bytes + 128, 0xA5, np.uint8) for bytes in (size, work)]
    packed, scratch = (ffi.cast("void *", a.ctypes.data + -a.ctypes.data % 64) for a in memory)
    for block in (2, 0, 1):
        first = block * lib.EG_SEEN_KEYS
        rows = pointer(wide[1][first:], "float *"), far, pointer(wide[2][first:], "float *"), far
        table.bidirectional_pack(packed, *rows, m, block, block + 1, dim)
    for cuts in ((0, n), (0, 1, 16, 17, 64, n), (0, 40, 41, 80, n)):
        out = wide[0].copy()
        for t, end in pairwise(cuts):
            at = pointer(out[t:], "float *")
            table.bidirectional(at, far, at, far, end - t, packed, m, dim, scratch)
        assert same(np.ascontiguousarray(out[:-1, :dim]), want)
        assert np.isnan(out[:, dim:]).all()
        assert np.isnan(out[-1]).all()
    for a, used in zip(memory, (size, work), strict=True):
        assert (a[-(-a.ctypes.data % 64) % 64 + used :][-64:] == 0xA5).all()
        assert (a[: -a.ctypes.data % 64] == 0xA5).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**60, -3e38])
def test_not_finite(target: kernels.Target, bad: float) -> None:
    """A query spoils its own result; a key or a value those of its head."""
    rng = np.random.default_rng(6)
    q, k, v = scene(rng, 50, 140, 24)
    want = target.bidirectional_attention(q, k, v)
    spoiled = q.copy()
    spoiled[1, 20, 23] = bad
    got = target.bidirectional_attention(spoiled, k, v)
    assert np.isnan(got[1, 20]).all()
    got[1, 20] = want[1, 20]
    assert same(got, want)
    for index in (1, 2):
        for row in (0, 70, 139):
            arrays = [q, k.copy(), v.copy()]
            arrays[index][0, row, 5] = bad
            got = target.bidirectional_attention(*arrays)
            assert np.isnan(got[0]).all()
            assert same(got[1], want[1])


def test_shapes(target: kernels.Target) -> None:
    """What does not fit is refused; no queries are no work."""
    ones = np.ones((1, 3, 8), F)
    assert target.bidirectional_attention(ones[:, :0], ones, ones).shape == (1, 0, 8)
    for q, k in ((np.ones((1, 3, 6), F), np.ones((1, 3, 6), F)), (np.ones((1, 3, 132), F),) * 2, (ones, ones[:, :0])):
        with pytest.raises(EdgeGemmaValueError):
            target.bidirectional_attention(q, k, k)
    with pytest.raises(EdgeGemmaValueError):
        target.bidirectional_attention(ones, np.ones((2, 3, 8), F), np.ones((2, 3, 8), F))


# ---- products --------------------------------------------------------------------------------------------------------


def weights_of(rng: np.random.Generator, kind: str, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Random weights of a type, as float32 and raw."""
    w = rng.normal(0, 0.05, (rows, cols)).astype(F)
    if kind == "F32":
        return w, w
    if kind == "F16":
        half = w.astype(np.float16)
        return half.astype(F), half
    bits = w.view(np.uint32) >> 16
    return (bits << 16).view(F), bits.astype(np.uint16)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("n", "rows", "cols"), [(1, 1, 4), (7, 33, 128), (16, 16, 132), (33, 50, 316), (530, 65, 256), (0, 4, 8), (4, 0, 8)]
)
def test_products_are_the_contract_to_the_bit(target: kernels.Target, kind: str, n: int, rows: int, cols: int) -> None:
    """Partial blocks of tokens, rows and columns; more tokens than go together; zeros and outliers. Close to float64."""
    rng = np.random.default_rng(n + cols)
    x, (w, raw) = rng.standard_normal((n, cols)).astype(F), weights_of(rng, kind, rows, cols)
    x[1:2], x[2:3], x[3:4, ::50] = 0, 1.5, 40
    x[4:5], x[5:6], x[6:7, :1] = 1e-38, -1e-30, LARGEST
    got = target.matmul_i16(x, raw, kind, rows)
    assert same(got, product(x, w))
    some = np.arange(n) % 500 > 6
    want = x[some].astype(np.float64) @ w.T.astype(np.float64)
    assert np.sqrt(np.sum((got[some] - want) ** 2)) <= 4e-4 * np.sqrt(np.sum(want**2))


def test_rows_and_tokens_in_pieces(target: kernels.Target) -> None:
    """Any range of rows, tokens packed in any order, strides: the same bits; nothing is written beyond."""
    rng, n, rows, cols, ldx, ldy = np.random.default_rng(8), 41, 70, 200, 203, 77
    x, (_, raw) = rng.standard_normal((n, ldx)).astype(F), weights_of(rng, "BF16", rows, cols)
    want, table = target.matmul_i16(x[:, :cols], raw, "BF16", rows), target.table
    odd = np.zeros(raw.size * 2 + 1, np.uint8)
    odd[1:] = raw.view(np.uint8).reshape(-1)  # weights at an odd address, as in a file
    matrix = ffi.new("eg_matrix *", (pointer(odd[1:], "uint8_t *"), kernels.type_info("BF16"), rows, cols, 2 * cols))
    size, work = lib.eg_i16_bytes(n, cols), lib.eg_matmul_i16_scratch_bytes()
    memory = [np.full(bytes + 128, 0xA5, np.uint8) for bytes in (size, work)]
    packed, scratch = (ffi.cast("void *", a.ctypes.data + -a.ctypes.data % 64) for a in memory)
    for t0, t1 in ((32, n), (0, 16), (16, 32)):
        table.pack_i16(packed, pointer(x, "float *"), ldx, n, cols, t0, t1)
    for row0, row1 in ((0, rows), (0, 1), (69, 70), (16, 48), (5, 38), (20, 20), (3, 19)):
        y = np.full((n + 2, ldy), -7.25, F)
        table.matmul_i16(pointer(y[1:], "float *"), ldy, packed, n, matrix, row0, row1, scratch)
        expected = np.full((n + 2, ldy), -7.25, F)
        expected[1:-1, row0:row1] = want[:, row0:row1]
        assert same(y, expected), (row0, row1)
    for a, used in zip(memory, (size, work), strict=True):
        assert (a[-a.ctypes.data % 64 + used :][:32] == 0xA5).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**60])
def test_products_not_finite(target: kernels.Target, bad: float) -> None:
    """A token spoils its own results, a row of weights its own."""
    rng = np.random.default_rng(9)
    x, (w, _) = rng.standard_normal((20, 160)).astype(F), weights_of(rng, "F32", 20, 160)
    want = target.matmul_i16(x, w, "F32", 20)
    x[17, 150], w[3, 5] = bad, bad
    want[17], want[:, 3] = np.nan, np.nan
    assert same(target.matmul_i16(x, w, "F32", 20), want)


def test_products_refuse_what_does_not_fit(target: kernels.Target) -> None:
    """Quantized types, sizes that do not agree, and columns that are not a multiple of 4."""
    x = np.ones((2, 32), F)
    for kind, size, cols in (("Q8_0", 34, 32), ("F32", 127, 32), ("F32", 30 * 4, 30)):
        with pytest.raises(EdgeGemmaValueError):
            target.matmul_i16(x[:, :cols], np.zeros(size, np.uint8), kind, 1)
