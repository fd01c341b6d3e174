"""`open_voice`: the voice that options name."""

from __future__ import annotations

import os

from ...shell import quoted
from ..interface import EdgeGemmaVoiceError, Voice
from .command import CommandVoice
from .espeak import EspeakVoice
from .piper_voices import PiperVoices
from .speech_server import SpeechServer

__all__ = ["KEY_VARIABLE", "open_voice"]

KEY_VARIABLE = "EDGE_GEMMA_VOICE_KEY"
"""The environment variable with the key of a speech server."""


def open_voice(
    voice: str | None = None,
    *,
    command: str | None = None,
    rate: int | None = None,
    words_per_minute: int | None = None,
    model: str | None = None,
) -> Voice:
    """Opens a voice.

    Args:
        voice: None for espeak-ng in the language of the text; "espeak-ng:NAME" or the NAME of one of its voices; one or more
            files of Piper, NAME.onnx, separated by commas; or the address of a speech server, http://HOST:PORT, with "#NAME"
            for one of its voices.
        command: a program that speaks instead; see `CommandVoice`.
        rate: samples a second of the raw sound of that program.
        words_per_minute: of espeak-ng.
        model: what a speech server calls its model.

    Raises:
        EdgeGemmaVoiceError: for a voice that cannot be opened, and for options that do not fit together.
    """
    if command is not None:
        if voice is not None:
            raise EdgeGemmaVoiceError("There are two voices: a command, and a voice by its name.")
        return CommandVoice(command) if rate is None else CommandVoice(command, rate)
    name = voice or ""
    if name.startswith(("http://", "https://")):
        url, _, speaker = name.partition("#")
        return SpeechServer(url, speaker or None, model, os.environ.get(KEY_VARIABLE))
    if name.endswith(".onnx"):
        return PiperVoices([path.strip() for path in name.removeprefix("piper:").split(",")])
    if os.sep in name:
        raise EdgeGemmaVoiceError(
            f"{name} is not a voice: give a file of Piper, NAME.onnx, or a command: {quoted(name)}."
        )
    return EspeakVoice(name.removeprefix("espeak-ng").removeprefix(":") or None, words_per_minute)
