"""Loudspeakers, through PortAudio (the package sounddevice).

Owns the list of devices that can play, and `Loudspeaker`. PortAudio calls back for 10 to 30 ms of samples at a time. The
callback takes them from a queue and plays silence when the queue is empty, so `stop` silences the device with the next
callback.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .portaudio import LOUDSPEAKER, Device

__all__ = ["Loudspeaker", "loudspeakers"]

_LATENCY = 0.06  # seconds that are asked for: less underruns on a busy machine, more delays interruptions
_PATIENCE = 3.0  # seconds without a callback after which a device counts as disconnected


def loudspeakers() -> list[Device]:
    """The devices that can play. PortAudio lists them once a process, when it is first used.

    Raises EdgeGemmaOSError "unsupported" when PortAudio is missing, "file" when it fails.
    """
    return LOUDSPEAKER.devices()


class Loudspeaker:
    """A device that plays what is written to it, from the moment it is opened until `close()`. Any thread may use it.

    Attributes:
        device: the `Device` in use.
        name: its name.
        rate: samples a second that `write` takes.
        latency: seconds from the queue to the ear, as PortAudio tells it.
        tap: called from PortAudio's thread with the (n,) int16 samples that are played, silence included; None for no call.
    """

    def __init__(
        self,
        device: str | int | None = None,
        rate: int = 22050,
        *,
        tap: Callable[[NDArray[np.int16]], None] | None = None,
    ) -> None:
        """Opens a device.

        Args:
            device: the device's number, or a part of its name in upper or lower case; None for the system's default.
            rate: samples a second that will be written. A device that cannot play them gets them at its own rate.
            tap: see above.

        Raises:
            EdgeGemmaValueError: "argument" when no device fits (the message lists the devices).
            EdgeGemmaOSError: "unsupported" when PortAudio is missing, "file" when there is no loudspeaker or it cannot be
                opened.
        """
        self.device = LOUDSPEAKER.choose(device)
        self.name, self.rate, self.tap = self.device.name, rate, tap
        self._lock = threading.Lock()  # guards the queue
        self._queue: deque[NDArray[np.int16]] = deque()
        self._waiting = 0  # samples in the queue
        self._gone = False
        self._busy_until = 0.0  # when the samples that left the queue have been heard
        self._called = time.monotonic()
        self._stream, self._device_rate, _ = LOUDSPEAKER.open(
            self.device, rate, latency=_LATENCY, callback=self._fill, finished_callback=self._finished
        )
        self.latency = float(np.max(self._stream.latency))
        LOUDSPEAKER.start(self.device, self._stream)

    # ---- PortAudio's thread ----

    def _fill(self, data: Any, count: int, times: Any, status: Any) -> None:
        """The callback: writes `count` frames to the device."""
        frames = np.zeros(count, np.int16)
        at = 0
        with self._lock:
            self._called = time.monotonic()
            while at < count and self._queue:
                block = self._queue[0]
                part = block[: count - at]
                frames[at : at + len(part)] = part
                at += len(part)
                if len(part) == len(block):
                    self._queue.popleft()
                else:
                    self._queue[0] = block[len(part) :]
            self._waiting -= at
            if at:
                self._busy_until = self._called + self.latency + count / self._device_rate
        np.frombuffer(data, np.int16).reshape(count, -1)[:] = frames[:, None]
        if self.tap:
            self.tap(frames)

    def _finished(self) -> None:
        """Called when the stream has ended, also when the device was disconnected."""
        self._gone = True

    # ---- any thread ----

    @property
    def played_rate(self) -> float:
        """Samples a second that `tap` gets."""
        return self._device_rate

    @property
    def gone(self) -> bool:
        """Whether the device has stopped by itself."""
        return self._gone or time.monotonic() - self._called > _PATIENCE

    def write(self, samples: NDArray[np.int16]) -> None:
        """Appends (n,) samples to what is played."""
        block = np.asarray(samples, np.int16)
        if self._device_rate != self.rate and len(block):
            count = max(1, round(len(block) * self._device_rate / self.rate))
            places = np.arange(count) * (self.rate / self._device_rate)
            block = np.interp(places, np.arange(len(block)), block).astype(np.int16)
        with self._lock:
            self._queue.append(block)
            self._waiting += len(block)

    def stop(self) -> None:
        """Drops everything that has not been played."""
        with self._lock:
            self._queue.clear()
            self._waiting = 0
            self._busy_until = min(self._busy_until, time.monotonic() + self.latency)

    @property
    def pending(self) -> float:
        """Seconds until everything that was written has been heard."""
        with self._lock:
            left = self._busy_until - time.monotonic()
            return self._waiting / self._device_rate + (self.latency if self._waiting else max(0.0, left))

    def close(self) -> None:
        """Stops at once and gives the device back. Further calls do nothing."""
        self.stop()
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)
