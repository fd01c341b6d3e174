"""Builds the C engine as the extension module `edge_gemma._engine` (cffi, API mode).

The declarations come from the engine's own headers: they are plain enough that cffi reads them once preprocessor lines
and attributes are gone, so nothing is declared twice. Used by setup.py; not imported at run time.
"""

import re
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
# In order of dependence. Beyond the public headers: what `edge_gemma.kernels` and the tests call directly.
HEADERS = [
    "edge_gemma.h",
    "edge_gemma_chat.h",
    "base/arena.h",
    "base/memory.h",
    "base/pool.h",
    "format/types.h",
    "format/quantize.h",
    "kernels/kernels.h",
    "audio/mel.h",
    "audio/endpointer.h",
    "text/tokenizer.h",
    "text/calls.h",
    "vision/resize.h",
    "vision/target.h",
]
# Functions of Python that the engine calls.
CALLBACKS = """
extern "Python" void edge_gemma_progress(void *context, uint32_t done, uint32_t total);
extern "Python" const uint32_t *edge_gemma_check_token(void *context, int32_t id);
"""
# One set of flags for every file: instruction sets are chosen with target pragmas, and results must not depend on the
# compiler's liberty to fuse or reorder.
FLAGS = ["-O3", "-g0", "-std=c11", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]


def declarations() -> str:
    """The engine's headers as text for `ffi.cdef`."""
    text = "\n".join((CSRC / header).read_text() for header in HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    text = re.sub(r"^static inline .*?^}", "", text, flags=re.S | re.M)
    text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.M)
    text = re.sub(r"\bEG_(?:API|ENUM|FLAGS|NULLABLE|NONNULL_BEGIN|NONNULL_END|NAMED\(\w+\))", "", text) + CALLBACKS
    return re.sub(r"^.*\beg_gguf\b.*;$", "", text, flags=re.M)


def builder() -> cffi.FFI:
    """The configured cffi builder."""
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        "edge_gemma._engine",
        "\n".join(f'#include "{header}"' for header in HEADERS),
        sources=[f"csrc/{line}" for line in (CSRC / "sources.txt").read_text().split()],
        include_dirs=["csrc"],
        extra_compile_args=FLAGS,
        depends=[str(path.relative_to(ROOT)) for path in sorted(CSRC.rglob("*.[hi]*"))],
        libraries=["m"],
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )
    return ffi


ffibuilder = builder() if __name__ != "edge_gemma._build" else None
