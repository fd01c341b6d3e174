"""The attention of encoders, against its contract (csrc/kernels/kernels.h) in NumPy, to the bit, and against float64."""

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


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What attention is, in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = np.einsum("htd,hjd->htj", q, k)
    p = np.exp(scores - scores.max(2, keepdims=True))
    return np.einsum("htj,hjd->htd", p / p.sum(2, keepdims=True), v)


# ---- tests -----------------------------------------------------------------------------------------------------------


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
