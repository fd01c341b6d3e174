"""Piper, a neural voice, faster than real time on a Raspberry Pi. The package piper-tts (GPL) is the user's to install.

A voice is a file NAME.onnx with NAME.onnx.json beside it. Several voices speak several languages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ...installation import pip_line
from ..interface import EdgeGemmaVoiceError
from ..text_language import LanguageGuess
from .sound import Pcm

__all__ = ["PiperVoices"]

_PIECE = 0.1  # seconds


class PiperVoices:
    """Speaks with voices of Piper, each for its language. A `Voice`.

    The first voice is for all languages that have none. A sentence is made in one go, so closing the iterator while Piper works
    takes effect when the sentence is complete.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Opens the first voice; others are opened with the first text in their language.

        Args:
            paths: files NAME.onnx.

        Raises:
            EdgeGemmaVoiceError: the package is missing, or a file is missing or unusable.
        """
        if not paths:
            raise EdgeGemmaVoiceError(
                "Piper needs a voice: the path of a file NAME.onnx, with NAME.onnx.json beside it."
            )
        try:
            from piper import PiperVoice
        except ImportError as error:
            raise EdgeGemmaVoiceError(f"The voice needs the package piper-tts: `{pip_line('piper-tts')}`.") from error
        self._load: Any = PiperVoice.load
        self._paths: dict[str, str] = {}
        rates = [self._describe(os.path.expanduser(path)) for path in paths]
        if len(set(rates)) > 1:
            raise EdgeGemmaVoiceError(
                "The voices of Piper have different rates of samples: "
                f"{', '.join(map(str, rates))}. Take voices of one quality, such as medium."
            )
        self.sample_rate = rates[0]
        self._first = next(iter(self._paths))
        self._open: dict[str, Any] = {}
        self._guess = LanguageGuess(self._paths)
        self._voice(self._first)

    def _describe(self, path: str) -> int:
        """Notes the language of a voice. Returns its rate."""
        described = f"{path}.json"
        try:
            with open(described, encoding="utf-8") as file:
                config = json.load(file)
            rate = int(config["audio"]["sample_rate"])
            code = (config.get("language") or {}).get("code") or config["espeak"]["voice"]
        except OSError as error:
            raise EdgeGemmaVoiceError(f"{described} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EdgeGemmaVoiceError(f"{described} does not describe a voice of Piper: {error!r}.") from error
        self._paths.setdefault(str(code).replace("_", "-").partition("-")[0].lower(), path)
        return rate

    def _voice(self, language: str) -> Any:
        if language not in self._open:
            path = self._paths[language]
            try:
                self._open[language] = self._load(path)
            except Exception as error:  # whatever onnxruntime makes of a damaged file
                raise EdgeGemmaVoiceError(f"{path} cannot be opened as a voice of Piper: {error}.") from error
        return self._open[language]

    def speak(self, text: str, language: str | None = None) -> Generator[Pcm, None, None]:
        """As `Voice.speak`."""
        code = (language or self._guess(text) or self._first).replace("_", "-").partition("-")[0].lower()
        voice = self._voice(code if code in self._paths else self._first)
        step = round(self.sample_rate * _PIECE)
        try:
            for chunk in voice.synthesize(text):
                samples = np.asarray(chunk.audio_int16_array, np.int16)
                for at in range(0, len(samples), step):
                    yield samples[at : at + step]
        except Exception as error:  # of phonemes that the voice does not have, for one
            raise EdgeGemmaVoiceError(f"Piper cannot speak this text: {error}.") from error

    def close(self) -> None:
        """Frees the voices."""
        self._open.clear()
