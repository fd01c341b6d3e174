# The C extension that _build.py makes: cffi's handles on csrc/edge_gemma.h and edge_gemma_chat.h.
from typing import Any

ffi: Any
lib: Any
