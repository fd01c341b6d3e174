"""Echo cancellation: removes from the microphone what the loudspeaker plays.

Owns the queue of what was played, which has to come in step with what is recorded, and the adapters of two packages of
WebRTC's echo canceller. `tools/echo.py` measures them.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line

__all__ = ["KINDS", "Canceller", "EchoFilter", "LiveKitCanceller", "WebRTCCanceller", "canceller"]

KINDS = ("livekit", "webrtc")
"""The cancellers. The first is the default: it removes more, and hears more of who speaks at the same time."""

_FRAME = SAMPLE_RATE // 100  # samples that both packages work on
_MOST = SAMPLE_RATE // 5  # samples of the loudspeaker that may wait: more than that comes from clocks that differ
_NOTHING = np.zeros(0, np.int16)


class Canceller(Protocol):
    """Works on 10 ms at a time."""

    def process(self, near: NDArray[np.int16], far: NDArray[np.int16]) -> NDArray[np.int16]:
        """Takes (160,) samples of the microphone and of the loudspeaker. Returns the microphone's without the echo."""
        ...


class WebRTCCanceller:
    """The package pywebrtc-audio."""

    def __init__(self) -> None:
        """Raises ImportError."""
        from pywebrtc_audio import EchoCanceller

        self._canceller = EchoCanceller(sample_rate=SAMPLE_RATE)

    def process(self, near: NDArray[np.int16], far: NDArray[np.int16]) -> NDArray[np.int16]:
        """As `Canceller.process`."""
        cleaned: NDArray[np.int16] = self._canceller.process(near, far)
        return cleaned


class LiveKitCanceller:
    """The audio processing module of the package livekit."""

    def __init__(self) -> None:
        """Raises ImportError, or OSError when its library cannot be loaded."""
        rtc: Any = importlib.import_module("livekit.rtc")
        self._frame: Any = rtc.AudioFrame
        self._module: Any = rtc.AudioProcessingModule(echo_cancellation=True)

    def process(self, near: NDArray[np.int16], far: NDArray[np.int16]) -> NDArray[np.int16]:
        """As `Canceller.process`."""
        self._module.process_reverse_stream(self._frame(bytearray(far.tobytes()), SAMPLE_RATE, 1, _FRAME))
        frame = self._frame(bytearray(near.tobytes()), SAMPLE_RATE, 1, _FRAME)
        self._module.set_stream_delay_ms(0)
        self._module.process_stream(frame)
        return np.frombuffer(frame.data, np.int16).copy()


def canceller(kind: str = KINDS[0]) -> Canceller:
    """A canceller: "livekit", or "webrtc" (pywebrtc-audio), a small package.

    Raises EdgeGemmaOSError "unsupported" without its package, EdgeGemmaValueError "argument" for another kind.
    """
    if kind not in KINDS:
        raise EdgeGemmaValueError(f"there is no echo canceller {kind!r}: choose {' or '.join(KINDS)}.", "argument")
    try:
        return WebRTCCanceller() if kind == "webrtc" else LiveKitCanceller()
    except (ImportError, OSError) as error:
        package = "edge-gemma[assistant]" if kind == "livekit" else "pywebrtc-audio"
        raise EdgeGemmaOSError(
            f"the echo canceller {kind} needs a package: `{pip_line(package)}`.", "unsupported"
        ) from error


class EchoFilter:
    """Brings the samples of loudspeaker and microphone together, in frames of 10 ms.

    The loudspeaker's samples are known before the microphone hears them, and the canceller finds out by how much. Where
    nothing was played, silence takes its place.
    """

    def __init__(self, canceller: Canceller) -> None:
        """`canceller`: belongs to the thread that calls `push`."""
        self._canceller = canceller
        self._lock = threading.Lock()
        self._far = _NOTHING  # played, and not yet met by what was recorded; guarded by the lock
        self._near = _NOTHING  # recorded, and not yet a whole frame

    def played(self, samples: NDArray[np.int16]) -> None:
        """Takes (n,) samples at 16 kHz that go to the loudspeaker. Any thread may call it."""
        with self._lock:
            self._far = np.concatenate([self._far, samples])[-_MOST:]

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes (n,) samples of the microphone at 16 kHz. Returns those of all frames that are complete, without echo."""
        self._near = np.concatenate([self._near, (np.clip(samples, -1, 1) * 32767).astype(np.int16)])
        count = len(self._near) // _FRAME * _FRAME
        near, self._near = self._near[:count], self._near[count:]
        with self._lock:
            far, self._far = self._far[:count], self._far[count:]
        far = np.concatenate([far, np.zeros(count - len(far), np.int16)])
        frames = [
            self._canceller.process(near[at : at + _FRAME], far[at : at + _FRAME]) for at in range(0, count, _FRAME)
        ]
        return np.concatenate([_NOTHING, *frames]).astype(np.float32) / np.float32(32768)
