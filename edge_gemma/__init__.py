"""edge_gemma: Gemma 4 on the device, from GGUF files.

    import edge_gemma as eg
    model = eg.Model.load("gemma-4-E2B-it-Q4_0.gguf")
    for event in model.chat().send("Hello"):
        if event.kind == "text":
            print(event.text, end="", flush=True)
"""

import importlib
from typing import Any

from . import kernels
from ._native import ffi as _ffi
from ._native import lib as _lib
from ._version import __version__
from .audio import AudioFeed, AudioStream, audio_tokens
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

# What is needed for sound alone is imported when it is first used.
_LATER = {
    "listen": "live",
    "Listener": "live",
    "LiveEvent": "live",
    "open_source": "sound",
    "transcribe": "speech",
    "transcribe_segments": "speech",
    "translate": "speech",
    "Transcriber": "speech",
    "Translator": "speech",
    "Segment": "transcript",
    "Transcript": "transcript",
    "TranscriptWriter": "transcript",
}


def __getattr__(name: str) -> Any:
    """Names of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    return value


__all__ = [
    "AudioFeed",
    "AudioStream",
    "Cancelled",
    "Chat",
    "EdgeGemmaError",
    "GGUFFile",
    "Listener",
    "LiveEvent",
    "Model",
    "ModelConfig",
    "ReplyParser",
    "Segment",
    "Session",
    "Tokenizer",
    "Transcriber",
    "Transcript",
    "TranscriptWriter",
    "Translator",
    "__version__",
    "audio_tokens",
    "isa",
    "kernels",
    "listen",
    "open_source",
    "parse_reply",
    "render_chat",
    "tool_schema",
    "transcribe",
    "transcribe_segments",
    "translate",
]
