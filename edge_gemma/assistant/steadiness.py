"""Whether sound is too steady to be speech. Models make words of noise and of tones, and those words must do nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_steady"]

_FRAME = 320  # samples, 20 ms
_LOUD = 20.0  # decibels below the loudest frame within which a frame belongs to the sound itself
# Decibels between the 10th and the 90th percentile of the loudness of frames. Noise and tones have 0 to 1.3. Speech has 9 and
# more, and 1.8 and more (5 as a median) with white noise that is 10 dB quieter.
_SPREAD = 1.6


def is_steady(samples: NDArray[np.float32]) -> bool:
    """Whether the loudness of (n,) samples at 16 kHz hardly varies while there is sound."""
    sharpened = np.diff(samples)  # evens out the low frequencies, in which noise varies
    frames = sharpened[: len(sharpened) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return False
    decibels = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    loud = decibels[decibels > decibels.max() - _LOUD]
    low, high = np.percentile(loud, [10, 90])  # frames at an edge of the sound are left out
    return bool(high - low < _SPREAD)
