"""Earcons: short sounds that tell what the assistant does. Made here, so that no files are needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["earcon"]

# Frequencies in Hz, one after the other. Each tone is shorter than what a voice detector takes for speech.
_TONES = {
    "wake": (660.0, 990.0),
    "heard": (880.0,),
    "sleep": (660.0, 440.0),
    "problem": (330.0, 262.0),
}
_SECONDS, _EDGE, _LEVEL = 0.045, 0.008, 0.12


def earcon(name: str, rate: int) -> NDArray[np.int16]:
    """(n,) samples of "wake" (it listens), "heard" (it thinks), "sleep" (it no longer listens) or "problem"."""
    time = np.arange(round(_SECONDS * rate)) / rate
    edge = np.minimum(1.0, np.minimum(time, _SECONDS - time) / _EDGE)
    tones = [np.sin(2 * np.pi * frequency * time) * edge for frequency in _TONES[name]]
    return (np.concatenate(tones) * _LEVEL * 32767).astype(np.int16)
