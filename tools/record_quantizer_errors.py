"""Records in tests/data/quantizer-errors.json the errors of llama.cpp's quantizers on the weights of tests/support/weights.py.

Usage: python tools/record_quantizer_errors.py      (needs llama-cpp-python and gguf)

Contents: type -> kind of weights -> [rms error, rms error weighted by magnitude], without an importance matrix.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.weights import CHOOSING, errors, weights  # noqa: E402

OUT = ROOT / "tests" / "data" / "quantizer-errors.json"


def main() -> None:
    """Writes the file."""
    ggml = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    recorded: dict[str, dict[str, list[float]]] = {}
    for name in CHOOSING:
        kind = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        for label, x in weights().items():
            out = np.empty(x.size // block * size, np.uint8)
            pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, out)]
            sizes = [ctypes.c_int64(n) for n in (0, 1, x.size)]
            ggml.ggml_quantize_chunk(int(kind), *pointers, *sizes, None)
            pair = errors(x, gguf.dequantize(out, kind))
            recorded.setdefault(name, {})[label] = [float(f"{value:.6g}") for value in pair]
    OUT.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
