"""edge_gemma: Gemma 4 on the device, from GGUF files.

import edge_gemma as eg
model = eg.Model.load("gemma-4-E2B-it-Q4_0.gguf")
for event in model.chat().send("Hello"):
    if event.kind == "text":
        print(event.text, end="", flush=True)
"""

import importlib
from typing import Any

from ._version import __version__
from .chat.conversation import Chat
from .chat.reply import ReplyParser, parse_reply
from .chat.template import render_chat
from .chat.tools import tool_schema
from .engine import kernels
from .engine.audio import AudioEncoder, AudioFeed, audio_tokens
from .engine.gguf import GGUFFile
from .engine.model import Model, ModelConfig
from .engine.native import ffi as _ffi
from .engine.native import lib as _lib
from .engine.session import Session
from .engine.tokenizer import Tokenizer
from .errors import Cancelled, EdgeGemmaError

#: The instruction set whose kernels were chosen for this machine; see `edge_gemma.kernels.targets`.
isa: str = _ffi.string(_lib.eg_isa()).decode()

# What is needed for sound alone is imported when it is first used.
_LATER = {
    "listen": "speech.listener",
    "Listener": "speech.listener",
    "ListenerEvent": "speech.listener",
    "open_audio": "audio.source",
    "transcribe": "speech.transcriber",
    "transcribe_segments": "speech.transcriber",
    "translate": "speech.translator",
    "Transcriber": "speech.transcriber",
    "Translator": "speech.translator",
    "Segment": "speech.transcript",
    "Transcript": "speech.transcript",
    "TranscriptWriter": "speech.transcript",
}


def __getattr__(name: str) -> Any:
    """Names of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    return value


__all__ = [
    "AudioEncoder",
    "AudioFeed",
    "Cancelled",
    "Chat",
    "EdgeGemmaError",
    "GGUFFile",
    "Listener",
    "ListenerEvent",
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
    "open_audio",
    "parse_reply",
    "render_chat",
    "tool_schema",
    "transcribe",
    "transcribe_segments",
    "translate",
]
