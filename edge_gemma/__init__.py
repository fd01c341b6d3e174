"""edge_gemma: Gemma 4 on the device, from GGUF files.

    import edge_gemma as eg
    model = eg.Model.load("gemma-4-E2B-it-Q4_0.gguf")
    for event in model.chat().send("Hello"):
        if event.kind == "text":
            print(event.text, end="", flush=True)
"""

from . import kernels
from ._native import ffi as _ffi
from ._native import lib as _lib
from ._version import __version__
from .chat import Chat
from .errors import Cancelled, EdgeGemmaError
from .gguf import GGUFFile
from .model import Model, ModelConfig
from .reply import ReplyParser, parse_reply
from .session import Session
from .template import render_chat
from .tokenizer import Tokenizer
from .tools import tool_schema

#: The instruction set whose kernels were chosen for this machine; see `edge_gemma.kernels.targets`.
isa: str = _ffi.string(_lib.eg_isa()).decode()

__all__ = [
    "Cancelled",
    "Chat",
    "EdgeGemmaError",
    "GGUFFile",
    "Model",
    "ModelConfig",
    "ReplyParser",
    "Session",
    "Tokenizer",
    "__version__",
    "isa",
    "kernels",
    "parse_reply",
    "render_chat",
    "tool_schema",
]
