"""Measures the kernels of every instruction set on one thread, and compares them with the limits of the machine.

usage: python tools/bench_kernels.py [TYPE...]        needs a C compiler

For each set it prints its limits: multiplications of bytes, of 16 bits in pairs and of floats a second (independent
instructions on registers, roof.c), and bytes read from memory a second (a sum over an array). For each type it prints bytes
of weights a second for one token, with a matrix far larger than the caches, and multiplications a second for 256 tokens,
with a matrix that fits into them. Then the same for attention in f16 and q8, over 32,768 keys of 512 values, for one query
of eight heads and for sixteen queries; and multiplications a second of an encoder's attention, for 128 queries of one head,
over the 2,520 patches of 280 soft tokens and the 10,080 of 1,120, and of its products of BF16 weights with 128 and 512
tokens. Every figure is the best of six, with its percentage of the limit.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_gemma import kernels
from edge_gemma.engine.native import ffi, lib, pointer

COLS = 1536
FAR = 200_000_000  # bytes of a matrix that is larger than every cache
KEYS, HEADS, HEAD = 32768, 8, 512  # keys, and the heads of a global layer of E2B with their size
TYPES = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_0 two-term",  # activations in two terms of 8 bits, as in encoders: two products for a weight
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "IQ2_S",
    "IQ3_S",
]
TYPES += ["QC2", "QC4", "QC8"]  # one scale a row, activations with a fixed step


def best(work: Callable[[], object], loops: int = 1) -> float:
    """Seconds of one call, the fastest of six measurements."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(loops):
            work()
        times.append((time.perf_counter() - start) / loops)
    return min(times)


def product(
    target: kernels.Target, name: str, weights: np.ndarray, tokens: int, two_term: bool = False
) -> Callable[[], object]:
    """A function that multiplies a matrix, whose blocks are `weights`, with the activations of some tokens."""
    info, rng = kernels.type_info(name), np.random.default_rng(0)
    stride = COLS // info.block * info.bytes
    rows = weights.size // stride
    x = rng.standard_normal((tokens, COLS)).astype(np.float32)
    q, d, sums = target.quantize_q8(x, two_term)
    matrix = ffi.new("eg_matrix *", (pointer(weights, "uint8_t *"), info, rows, COLS, stride))
    scratch = np.empty(lib.eg_matmul_scratch_bytes(COLS) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)
    y = np.empty((tokens, rows), np.float32)
    if lib.eg_type_per_channel(info):
        scale, totals = np.ones(rows, np.float32), q.sum(1, dtype=np.int32)
        matrix.scale, matrix.scales, run = pointer(scale, "float *"), 1, target.table.matmul_i8
        kept: tuple[np.ndarray, ...] = (q, d[:, 0].copy(), totals, scale)
        values = ffi.new(
            "eg_i8 *", [pointer(a, t) for a, t in zip(kept, ("int8_t *", "float *", "int32_t *"), strict=False)]
        )
    else:
        kept, run = (q, d, sums), target.table.matmul_q8
        values = ffi.new(
            "eg_q8 *",
            [*(pointer(a, t) for a, t in zip(kept, ("int8_t *", "float *", "int16_t *"), strict=True)), two_term],
        )
        target.table.prepare_q8(values, tokens, matrix, where)

    def work(keep: object = (kept, scratch)) -> None:
        run(pointer(y, "float *"), rows, values, tokens, matrix, 0, rows, where)

    return work


def attention(target: kernels.Target, kv: str, tokens: int) -> tuple[Callable[[], object], int, int]:
    """A function that computes attention of some queries over a cache, the bytes of the cache, and the multiplications."""
    form, rng = {"f16": lib.EG_KV_F16, "q8": lib.EG_KV_Q8}[kv], np.random.default_rng(0)
    row = lib.eg_kv_row_bytes(form, HEAD)
    key, one = rng.standard_normal(HEAD).astype(np.float32) / 8, np.empty(row, np.uint8)
    target.table.kv_store(form, pointer(one, "void *"), pointer(key, "float *"), HEAD)
    cache = np.tile(one, (2, KEYS, 1))
    view = ffi.new("eg_kv_view *", (pointer(cache[0], "uint8_t *"), pointer(cache[1], "uint8_t *"), row, KEYS, form))
    q = rng.standard_normal((tokens, HEADS, HEAD)).astype(np.float32)
    out, scratch = np.empty_like(q), np.empty(lib.eg_attention_scratch_bytes(HEAD, HEADS, tokens) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)

    def work(keep: object = (cache, scratch)) -> None:
        target.table.attention(
            pointer(out, "float *"),
            HEADS * HEAD,
            pointer(q, "float *"),
            HEADS * HEAD,
            tokens,
            KEYS - tokens,
            -1,
            HEADS,
            HEAD,
            view,
            0,
            where,
        )

    return work, cache.size, 2 * tokens * HEADS * HEAD * KEYS


def bidirectional(target: kernels.Target, keys: int, dim: int) -> tuple[Callable[[], object], int]:
    """A function that computes attention of 128 queries of an encoder's head, and the multiplications."""
    rng, tokens = np.random.default_rng(0), 128
    q, k, v = (rng.standard_normal((n, dim)).astype(np.float32) for n in (tokens, keys, keys))
    sizes = lib.eg_bidirectional_bytes(dim, keys), lib.eg_bidirectional_scratch_bytes(dim)
    memory, out = [np.empty(size + 64, np.uint8) for size in sizes], np.empty_like(q)
    packed, scratch = (ffi.cast("void *", a.ctypes.data + -a.ctypes.data % 64) for a in memory)
    rows = pointer(k, "float *"), dim, pointer(v, "float *"), dim
    target.table.bidirectional_pack(packed, *rows, keys, 0, -(-keys // lib.EG_SEEN_KEYS), dim)

    def work(keep: object = memory) -> None:
        to, queries = pointer(out, "float *"), pointer(q, "float *")
        target.table.bidirectional(to, dim, queries, dim, tokens, packed, keys, dim, scratch)

    return work, 2 * tokens * keys * dim


def product_i16(target: kernels.Target, tokens: int) -> tuple[Callable[[], object], int]:
    """A function that multiplies BF16 weights with the activations of some tokens as an encoder does, and the products."""
    rng, rows, cols = np.random.default_rng(0), 256, 2 * COLS
    x = rng.standard_normal((tokens, cols)).astype(np.float32)
    weights = (rng.standard_normal((rows, cols)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    matrix = ffi.new(
        "eg_matrix *", (pointer(weights, "uint8_t *"), kernels.type_info("BF16"), rows, cols, cols * weights.itemsize)
    )
    memory = [
        np.empty(size + 64, np.uint8) for size in (lib.eg_i16_bytes(tokens, cols), lib.eg_matmul_i16_scratch_bytes())
    ]
    packed, scratch = (ffi.cast("void *", a.ctypes.data + -a.ctypes.data % 64) for a in memory)
    target.table.pack_i16(packed, pointer(x, "float *"), cols, tokens, cols, 0, tokens)
    y = np.empty((tokens, rows), np.float32)

    def work(keep: object = (memory, weights)) -> None:
        target.table.matmul_i16(pointer(y, "float *"), rows, packed, tokens, matrix, 0, rows, scratch)

    return work, tokens * rows * cols


def limits(folder: str) -> Callable[[str], float]:
    """A function from a set and a kind, such as "avx2_int8", to its limit in 10^9 multiplications a second."""
    library = Path(folder) / "roof.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", Path(__file__).with_name("roof.c"), "-o", library], check=True)
    roof, loops = ctypes.CDLL(str(library)), ctypes.c_int64(2_000_000)

    def limit(name: str) -> float:
        function = getattr(roof, name)
        function.restype = ctypes.c_int64
        return float(function(loops) / best(lambda: function(loops)) / 1e9)

    return limit


#: Sets whose float instructions are those of another set.
FLOATS = {"avxvnni": "avx2", "neon_i8mm": "neon_dotprod"}


def main() -> None:
    """Prints the limits of each set, and a line for each of its kernels."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        limit = limits(folder)
        for target in filter(None, kernels.targets.values()):
            if target.name == "scalar":
                continue
            bytes_a_second = FAR / best(rng.integers(0, 256, FAR, np.uint8).view(np.uint64).max) / 1e9
            integers, floats = limit(f"{target.name}_int8"), limit(f"{FLOATS.get(target.name, target.name)}_float")
            pairs = limit(f"{target.name}_int16")
            print(
                f"{target.name}: memory {bytes_a_second:.1f} GB/s, int8 {integers:.0f} G/s, int16 {pairs:.0f} G/s, "
                f"float {floats:.0f} G/s"
            )

            def line(name: str, one: float, many: float, most: float, read: float = bytes_a_second) -> None:
                shares = f"{100 * one / read:4.0f}%", f"{100 * many / most:4.0f}%"
                print(f"  {name:14} {one:6.1f} GB/s {shares[0]}  {many:6.0f} G/s {shares[1]}", flush=True)

            for name in sys.argv[1:] or TYPES:
                kind, two_term = name.removesuffix(" two-term"), name.endswith(" two-term")
                info = kernels.type_info(kind)
                stride = COLS // info.block * info.bytes
                far, near = (rng.integers(0, 256, size // stride * stride, np.uint8) for size in (FAR, 128 * stride))
                one = far.size / best(product(target, kind, far, 1, two_term)) / 1e9
                many = (1 + two_term) * 128 * COLS * 256 / best(product(target, kind, near, 256, two_term), 20) / 1e9
                line(name, one, many, integers)
            for kv in ("f16", "q8"):
                work, size, _ = attention(target, kv, 1)
                many_work, _, products = attention(target, kv, 16)
                line(f"attention {kv}", size / best(work) / 1e9, products / best(many_work) / 1e9, floats)
            encoder = {
                f"encoder {n} x {d}": bidirectional(target, n, d) for n, d in ((2520, 64), (10080, 64), (2520, 72))
            }
            for tokens in (128, 512):
                encoder[f"encoder BF16 {tokens}"] = product_i16(target, tokens)
            for name, (run, products) in encoder.items():
                speed = products / best(run) / 1e9
                print(f"  {name:29} {speed:6.0f} G/s {100 * speed / pairs:4.0f}%", flush=True)


if __name__ == "__main__":
    main()
