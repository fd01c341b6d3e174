"""edge_gemma: Gemma 4 on the device, from GGUF files.

import edge_gemma as eg
model = eg.Model.load("gemma-4-E2B-it-Q4_0.gguf")
for event in model.chat().send("Hello"):
    if event.kind == "text":
        print(event.text, end="", flush=True)
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import hub, kernels
    from .audio.source import Source, open_audio
    from .chat.calls import ToolCall
    from .chat.conversation import Chat
    from .chat.reply import ChatEvent, Reply, ReplyParser, parse_reply
    from .chat.structured import Grammar
    from .chat.template import render_chat
    from .chat.tools import Tool, tool_schema
    from .engine.audio import AudioEncoder, AudioFeed, audio_tokens
    from .engine.batch import next_tokens
    from .engine.config import ModelConfig
    from .engine.descriptor import FileDescriptor
    from .engine.generation import Generation, Token
    from .engine.gguf import GGUFFile
    from .engine.model import Model
    from .engine.sampling import Sampling
    from .engine.session import Session
    from .engine.tokenizer import Tokenizer
    from .errors import Cancelled, EdgeGemmaError
    from .speech.languages import LANGUAGES, language_name
    from .speech.listener import Listener, ListenerEvent, listen
    from .speech.transcribe_many import Transcribed, transcribe_many
    from .speech.transcriber import Transcriber, transcribe, transcribe_segments
    from .speech.transcript import Segment, Transcript, TranscriptWriter, Word
    from .speech.translator import Translator, translate
    from .vision.boxes import Box
    from .vision.describe import Describer, describe, locate

    #: The instruction set whose kernels were chosen for this machine; see `edge_gemma.kernels.targets`.
    isa: str

# Everything is imported at first use: the command line shows its help and takes Ctrl-C before NumPy and the engine are
# loaded, conversations need a template engine, and not everybody uses sound. Type checkers see the imports above.
_LAZY = {
    "LANGUAGES": "speech.languages",
    "AudioEncoder": "engine.audio",
    "AudioFeed": "engine.audio",
    "Box": "vision.boxes",
    "Cancelled": "errors",
    "Chat": "chat.conversation",
    "ChatEvent": "chat.reply",
    "Describer": "vision.describe",
    "EdgeGemmaError": "errors",
    "FileDescriptor": "engine.descriptor",
    "GGUFFile": "engine.gguf",
    "Generation": "engine.generation",
    "Grammar": "chat.structured",
    "Listener": "speech.listener",
    "ListenerEvent": "speech.listener",
    "Model": "engine.model",
    "ModelConfig": "engine.config",
    "Reply": "chat.reply",
    "ReplyParser": "chat.reply",
    "Sampling": "engine.sampling",
    "Segment": "speech.transcript",
    "Session": "engine.session",
    "Source": "audio.source",
    "Token": "engine.generation",
    "Tokenizer": "engine.tokenizer",
    "Tool": "chat.tools",
    "ToolCall": "chat.calls",
    "Transcribed": "speech.transcribe_many",
    "Transcriber": "speech.transcriber",
    "Transcript": "speech.transcript",
    "TranscriptWriter": "speech.transcript",
    "Translator": "speech.translator",
    "Word": "speech.transcript",
    "audio_tokens": "engine.audio",
    "describe": "vision.describe",
    "isa": "engine.native",
    "language_name": "speech.languages",
    "listen": "speech.listener",
    "locate": "vision.describe",
    "next_tokens": "engine.batch",
    "open_audio": "audio.source",
    "parse_reply": "chat.reply",
    "render_chat": "chat.template",
    "tool_schema": "chat.tools",
    "transcribe": "speech.transcriber",
    "transcribe_many": "speech.transcribe_many",
    "transcribe_segments": "speech.transcriber",
    "translate": "speech.translator",
}
_MODULES = ("hub", "kernels")


def __getattr__(name: str) -> Any:
    """Imports the names of `_LAZY` and `_MODULES` when they are first used."""
    if name not in _LAZY and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        value = globals()[name] = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        from .installation import missing_package

        raise missing_package(error) from error.__cause__
    return value


def __dir__() -> list[str]:
    """Everything public, whether it was imported by now or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "LANGUAGES",
    "AudioEncoder",
    "AudioFeed",
    "Box",
    "Cancelled",
    "Chat",
    "ChatEvent",
    "Describer",
    "EdgeGemmaError",
    "FileDescriptor",
    "GGUFFile",
    "Generation",
    "Grammar",
    "Listener",
    "ListenerEvent",
    "Model",
    "ModelConfig",
    "Reply",
    "ReplyParser",
    "Sampling",
    "Segment",
    "Session",
    "Source",
    "Token",
    "Tokenizer",
    "Tool",
    "ToolCall",
    "Transcribed",
    "Transcriber",
    "Transcript",
    "TranscriptWriter",
    "Translator",
    "Word",
    "__version__",
    "audio_tokens",
    "describe",
    "hub",
    "isa",
    "kernels",
    "language_name",
    "listen",
    "locate",
    "next_tokens",
    "open_audio",
    "parse_reply",
    "render_chat",
    "tool_schema",
    "transcribe",
    "transcribe_many",
    "transcribe_segments",
    "translate",
]
