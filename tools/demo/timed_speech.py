"""Speech with the times of its words: espeak-ng as a library, which tells when it says each phoneme.

It drives its own voices and those of mbrola. The words are those between spaces; several that it says in one breath
("on the") have one time together, so some words have no start or no end.
"""

from __future__ import annotations

import ctypes
import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16000
VOICES = {
    "espeak": {"en": ("en-us", "en-gb-scotland"), "es": ("es", "es-419"), "de": ("de",)},
    "mbrola": {"en": ("mb-us1", "mb-us2"), "de": ("mb-de1", "mb-de2", "mb-de6")},
}
"""By synthesizer and language. The Spanish voices of mbrola and us3 lack phonemes that espeak-ng writes."""
_VARIANTS = "m1 m2 m3 m4 f1 f2 f3 f4 max michael steph linda".split()
_WORD, _PHONEME = 1, 7  # kinds of events
_SPEED, _PITCH = 1, 3  # parameters


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class TimedWord:
    """A word, and its start and end in seconds; None where they are not known."""

    word: str
    start: float | None
    end: float | None


class Espeak:
    """The synthesizer. There is one in a process."""

    def __init__(self) -> None:
        """Raises OSError without libespeak-ng."""
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = self._library.espeak_Initialize(
            2, 0, None, 3
        )  # synchronous; events of phonemes, in IPA: "" is a pause
        self._sound: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, float, str]] = []  # type, position in the text from 1 on, seconds, phoneme
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, wave: Any, count: int, events: Any) -> int:
        if wave and count:
            self._sound.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while events[at].type:
            event = events[at]
            phoneme = event.id.string.decode("utf-8", "replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.text_position, event.audio_position / 1000, phoneme))
            at += 1
        return 0

    def speak(self, text: str, voice: str, speed: float, pitch: float) -> tuple[NDArray[np.float32], list[TimedWord]]:
        """(n,) samples at 16 kHz, and the words. `speed` and `pitch` are factors."""
        self._sound, self._events = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice}.")
        self._library.espeak_SetParameter(_SPEED, round(165 * speed), 0)
        self._library.espeak_SetParameter(_PITCH, round(50 + 130 * (pitch - 1)), 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        rate = RATE if voice.startswith("mb-") else int(self._rate)  # the library tells that of its own voices alone
        return _resampled(np.concatenate(self._sound) / 32768, rate), self._words(text)

    def _words(self, text: str) -> list[TimedWord]:
        places = [(found.start() + 1, found.end(), found[0]) for found in re.finditer(r"\S+", text)]
        phonemes = [(time, name) for kind, _, time, name in self._events if kind == _PHONEME and name[:1] != "("]
        # The voices of mbrola have an event for the first word alone, but their phonemes tell the place in the text.
        marks = [event for event in self._events if event[0] == _WORD]
        if len(marks) < len(places) / 2:
            marks = [event for event in self._events if event[0] == _PHONEME and event[3][:1] not in ("", "(")]
        starts: dict[int, float] = {}
        for _, position, time, _ in marks:
            for number, (first, last, _) in enumerate(places):
                if first <= position <= last:
                    starts.setdefault(number, time)
        words, over = [], max(event[2] for event in self._events)
        for number, (_, _, word) in enumerate(places):
            start = starts.get(number)
            follows = starts.get(number + 1) if number + 1 < len(places) else over
            end = None
            if start is not None and follows is not None:
                said = [time for time, name in phonemes if name and time < follows - 1e-6]
                pauses = [time for time, name in phonemes if not name and said and said[-1] < time <= follows]
                end = pauses[0] if pauses else follows
            words.append(TimedWord(word, start, end))
        return words


def draw(engine: str, language: str, rng: random.Random) -> tuple[str, float, float]:
    """A random voice, its speed and its pitch."""
    voice = rng.choice(VOICES[engine][language])
    if engine == "espeak":
        voice += f"+{rng.choice(_VARIANTS)}"
    return voice, rng.uniform(0.8, 1.25), rng.uniform(0.7, 1.3)


def _resampled(sound: NDArray[np.float64], rate: int) -> NDArray[np.float32]:
    """The sound at 16 kHz, through a low-pass filter of 65 taps."""
    if rate == RATE:
        return sound.astype(np.float32)
    cut = 0.475 * RATE / rate
    taps = np.arange(-32, 33)
    low = np.convolve(sound, 2 * cut * np.sinc(2 * cut * taps) * np.hamming(65), "same")
    at = np.arange(int(len(sound) * RATE / rate)) * rate / RATE
    return np.interp(at, np.arange(len(low)), low).astype(np.float32)
