# The C extension that _build.py makes: cffi's handles on csrc/include/edge_gemma.h.
from typing import Any

ffi: Any
lib: Any
