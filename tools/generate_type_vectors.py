"""Writes tests/data/types.npz: random blocks of every weight type and their values according to the `gguf` package.

Usage: python tools/generate_type_vectors.py

Arrays: NAME.blocks uint8 [n, bytes], NAME.values float32 [n, values per block]. The first block has zero bytes only. The
others are random; those with infinite values or NaN are left out.
"""

from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "types.npz"
NAMES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
NAMES += ["IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "MXFP4"]
BLOCKS = {1: 33, 32: 11, 256: 4}  # by block size


def main() -> None:
    rng = np.random.default_rng(4)
    arrays = {}
    for name in NAMES:
        kind = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (100, size), dtype=np.uint8)
        blocks[0] = 0
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks, kind)
        keep = np.flatnonzero(np.isfinite(values).all(axis=1))[: BLOCKS[block]]
        arrays[f"{name}.blocks"], arrays[f"{name}.values"] = blocks[keep], values[keep]
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main()
