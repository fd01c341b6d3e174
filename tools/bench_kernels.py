"""Measures the products of every instruction set and type on one thread.

usage: python tools/bench_kernels.py [TYPE...]

For each set and type: GB/s of weights for one token, with a matrix far larger than the caches, beside what a plain sum over
the same bytes reads, and 10^9 multiplications a second for 256 tokens with a matrix that stays in the caches. Best of six.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from edge_gemma import kernels
from edge_gemma._native import ffi, lib, pointer

COLS = 1536
FAR = 200_000_000  # bytes of a matrix that no cache holds
TYPES = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
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
TYPES += ["C2", "C4", "C8"]  # a scale for a row, activations on a fixed step


def best(work: Callable[[], object], loops: int = 1) -> float:
    """Seconds of the fastest of six times."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(loops):
            work()
        times.append((time.perf_counter() - start) / loops)
    return min(times)


def product(target: kernels.Target, name: str, weights: np.ndarray, tokens: int) -> Callable[[], object]:
    """The product of rows in blocks of a type, in `weights`, with some tokens."""
    info, rng = kernels.type_info(name), np.random.default_rng(0)
    stride = COLS // info.block * info.bytes
    rows = weights.size // stride
    x = rng.standard_normal((tokens, COLS)).astype(np.float32)
    q, d, sums = target.quantize_q8(x)
    matrix = ffi.new("eg_matrix *", (pointer(weights, "uint8_t *"), info, rows, COLS, stride))
    scratch = np.empty(lib.eg_matmul_scratch_bytes(COLS) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)
    y = np.empty((tokens, rows), np.float32)
    if lib.eg_type_by_channel(info):
        scale, totals = np.ones(rows, np.float32), q.sum(1, dtype=np.int32)
        matrix.scale, matrix.scales, run = pointer(scale, "float *"), 1, target._table.matmul_i8
        kept: tuple[np.ndarray, ...] = (q, d[:, 0].copy(), totals, scale)
        values = ffi.new(
            "eg_i8 *", [pointer(a, t) for a, t in zip(kept, ("int8_t *", "float *", "int32_t *"), strict=False)]
        )
    else:
        kept, run = (q, d, sums), target._table.matmul_q8
        values = ffi.new(
            "eg_q8 *", [pointer(a, t) for a, t in zip(kept, ("int8_t *", "float *", "int16_t *"), strict=True)]
        )

    def work(keep: object = (kept, scratch)) -> None:
        run(pointer(y, "float *"), rows, values, tokens, matrix, 0, rows, where)

    return work


def main() -> None:
    """Prints a line for each set and type."""
    rng = np.random.default_rng(0)
    for target in filter(None, kernels.targets.values()):
        if target.name == "scalar":
            continue
        for name in sys.argv[1:] or TYPES:
            info = kernels.type_info(name)
            stride = COLS // info.block * info.bytes
            far, near = (rng.integers(0, 256, size // stride * stride, np.uint8) for size in (FAR, 128 * stride))
            words = far[: far.size // 8 * 8].view(np.uint64)
            read = far.size / best(lambda words=words: words.max()) / 1e9
            one = far.size / best(product(target, name, far, 1)) / 1e9
            many = 128 * COLS * 256 / best(product(target, name, near, 256), 20) / 1e9
            print(f"{target.name:14} {name:8} {one:6.1f} GB/s, plain {read:6.1f}  {many:6.0f} G/s", flush=True)


if __name__ == "__main__":
    main()
