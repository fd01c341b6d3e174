"""Sound for tests: tones, wav files with chosen headers, slow streams."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable

import numpy as np
import pytest

from edge_gemma.audio.source import SAMPLE_RATE
from edge_gemma.errors import EdgeGemmaError


def tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pcm(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.round(tone(seconds, rate) * 32767).astype("<i2")


def wav_bytes(data: bytes, rate: int = SAMPLE_RATE, channels: int = 1, bits: int = 16, **changes: object) -> bytes:
    """A wav file. `changes`: tag, extensible, before (chunks), after (chunks), size and riff (what the header claims)."""
    align = channels * bits // 8
    tag = changes.get("tag", 1)
    form = struct.pack(
        "<HHIIHH", 0xFFFE if changes.get("extensible") else tag, channels, rate, rate * align, align, bits
    )
    if changes.get("extensible"):
        form += struct.pack("<HHIH", 22, bits, 0, tag) + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVE" + changes.get("before", b"") + b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", changes.get("size", len(data))) + data + changes.get("after", b"")
    return b"RIFF" + struct.pack("<I", changes.get("riff", len(body))) + body


def code_of(action: Callable[[], object]) -> tuple[str, str]:
    """Code and message of the error that `action` raises."""
    with pytest.raises(EdgeGemmaError) as caught:
        action()
    return caught.value.code, str(caught.value)


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, portion: int) -> None:
        self.data, self.portion = io.BytesIO(data), portion

    def read(self, n: int = -1) -> bytes:
        return self.data.read(min(n, self.portion) if n >= 0 else self.portion)


def without_soundfile(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
