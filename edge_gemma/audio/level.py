"""How loud a recording was: measured while it is read, and a sentence about what is likely to be heard badly."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SILENT = 1e-4  # peak of a recording without sound: -80 dB of full scale
_QUIET = 10 ** (-30 / 20)  # peak below which a recording is very quiet
_FULL = 0.985  # a sample of at least this size is at full scale
_CLIPPED = 0.01  # share of samples at full scale from which on a recording counts as clipped
_SHORTEST = 0.5  # seconds: nothing is said of a shorter recording


class Level:
    """Peak and share of samples at full scale."""

    def __init__(self) -> None:
        """Nothing has been heard."""
        self.peak = 0.0  #: the largest sample, without its sign
        self._full = self._count = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Measures (n,) samples, of full scale 1."""
        if not samples.size:
            return
        size = np.abs(samples)
        peak = float(size.max())
        self.peak = max(self.peak, peak)
        self._count += samples.size
        if peak >= _FULL:
            self._full += int(np.count_nonzero(size >= _FULL))

    def warning(self, name: str, rate: float) -> str | None:
        """A sentence about a level with which speech is likely to be missed; None for a good one.

        `name`: what it calls the sound; `rate`: samples a second.
        """
        if self._count < _SHORTEST * rate:
            return None
        if self.peak < _SILENT:
            return f"{name} is silent: it has no sound above -80 dB."
        if self.peak < _QUIET:
            peak = 20 * math.log10(self.peak)
            return f"{name} is very quiet (peak {peak:.0f} dB): words may be missed. Record closer, or louder."
        if self._full > _CLIPPED * self._count:
            share = 100 * self._full / self._count
            return f"{name} is clipped ({share:.0f}% of it at full scale): words may be wrong. Record with less gain."
        return None
