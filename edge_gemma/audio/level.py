"""How loud sound is: a sentence about recordings that are likely to be heard badly, and more volume for quiet utterances."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SILENT = 1e-4  # peak of a recording without sound: -80 dB of full scale
_QUIET = 10 ** (-30 / 20)  # peak below which a recording is very quiet
_FULL = 0.985  # a sample of at least this size is at full scale
_CLIPPED = 0.01  # share of samples at full scale from which on a recording counts as clipped
_SHORTEST = 0.5  # seconds: nothing is said of a shorter recording

_FAINT = 0.1  # peak below which an utterance is made louder: -20 dB of full scale
_LOUD = 0.5  # peak that it then has at most
_PART = 512  # samples over which the level is measured
_CONTRAST = 10.0  # how much stronger the loud parts of speech are than the quiet ones, in power: 10 dB
_MOST = 64.0  # the largest factor: 36 dB


def raised(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) samples of an utterance; a quiet one is multiplied by a power of two, others are returned as they are.

    The model's features end at a fixed level, below which it hears nothing or guesses, while a detector of speech still hears
    words. In the toy model, utterances with a peak of -20 dB lose words, and those of -40 dB have none left. Steady noise stays
    as it is: louder, it would only become words. It has about the same level all the time, and speech has pauses.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if not _SILENT < peak < _FAINT:
        return samples
    blocks = samples[: samples.size // _PART * _PART].reshape(-1, _PART)
    powers = np.sort(np.mean(np.square(blocks), axis=1))
    if len(powers) and powers[len(powers) * 9 // 10] < _CONTRAST * powers[len(powers) // 10]:
        return samples
    return samples * np.float32(min(_MOST, 2.0 ** math.floor(math.log2(_LOUD / peak))))


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
