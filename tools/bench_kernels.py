"""Measures matmul_q8 of every instruction set and type on one thread.

usage: python tools/bench_kernels.py [TYPE...]

For each set and type: GB/s of weights for one token, with a matrix far larger than the caches, and 10^9 multiplications a
second for 256 tokens with one that stays in them. Best of six.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from edge_gemma import kernels
from edge_gemma._native import ffi, lib, pointer

COLS = 1536
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_S", "IQ3_S"]


def seconds(target: kernels.Target, name: str, rows: int, tokens: int, loops: int) -> tuple[float, int]:
    """Best time of one product, and the bytes of its weights."""
    info, rng = kernels.type_info(name), np.random.default_rng(0)
    stride = COLS // info.block * info.bytes
    weights = rng.integers(0, 256, rows * stride, np.uint8)
    parts = target.quantize_q8(rng.standard_normal((tokens, COLS)))
    q8 = ffi.new("eg_q8 *", [pointer(a, t) for a, t in zip(parts, ("int8_t *", "float *", "int16_t *"), strict=True)])
    matrix = ffi.new("eg_matrix *", (pointer(weights, "uint8_t *"), info, rows, COLS, stride))
    scratch = np.empty(lib.eg_matmul_scratch_bytes(COLS) + 64, np.uint8)
    where = ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64)
    y = np.empty((tokens, rows), np.float32)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(loops):
            target._table.matmul_q8(pointer(y, "float *"), rows, q8, tokens, matrix, 0, rows, where)
        best = min(best, (time.perf_counter() - start) / loops)
    return best, weights.size


def main() -> None:
    """Prints a line for each set and type."""
    for target in filter(None, kernels.targets.values()):
        if target.name == "scalar":
            continue
        for name in sys.argv[1:] or TYPES:
            one, size = seconds(target, name, 65536, 1, 1)
            many, _ = seconds(target, name, 128, 256, 20)
            print(f"{target.name:14} {name:8} {size / one / 1e9:6.1f} GB/s {128 * COLS * 256 / many / 1e9:6.0f} G/s")


if __name__ == "__main__":
    main()
