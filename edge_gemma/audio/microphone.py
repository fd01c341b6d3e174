"""Microphones, through PortAudio (the package sounddevice).

Owns the list of devices and `Microphone`, a `Source`. PortAudio calls back with 10 to 30 ms of samples at a time. The
callback writes them into a ring buffer, from which `Microphone.read` takes them. When the ring is full, because the reader
is too slow, the newest samples are dropped and counted.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError
from .portaudio import MICROPHONE, Device
from .source import SAMPLE_RATE, Converter, Source

__all__ = ["Device", "Microphone", "devices"]

_NOTHING = np.zeros(0, np.float32)
_LONGEST_GAP = 600.0  # seconds: a longer gap is the sleep of the machine, and no lost sound


def devices() -> list[Device]:
    """The devices that can record. PortAudio lists them once a process, when it is first used.

    Raises EdgeGemmaOSError "unsupported" when PortAudio is missing, "file" when it fails.
    """
    return MICROPHONE.devices()


class Microphone(Source):
    """A device that records from the moment it is opened until `close()`.

    Attributes:
        device: the `Device` in use.
        overruns: how often samples were lost, because the reader or the machine was too slow.
        lost: seconds of sound that were lost because the ring buffer was full, or because PortAudio was too slow.
        warning: a sentence where nothing but silence has come so far.
    """

    live = True

    def __init__(self, device: str | int | None = None, *, buffer: float = 30.0, patience: float = 2.0) -> None:
        """Opens a device and starts to record.

        Args:
            device: the device's number, or a part of its name in upper or lower case; None for the system's default.
            buffer: length of the ring buffer in seconds.
            patience: a device that has delivered no samples for so many seconds counts as disconnected.

        Raises:
            EdgeGemmaValueError: "argument" when no device fits (the message lists the devices).
            EdgeGemmaOSError: "unsupported" when PortAudio is missing, "file" when there is no microphone or it cannot be
                opened.
        """
        super().__init__()
        self.device = MICROPHONE.choose(device)
        self.name = self.device.name
        self.overruns = 0
        self._lost = 0
        self._patience = patience
        self._state = threading.Condition()  # guards every attribute that the callback writes
        self._gone = self._closed = False
        self._due = 0.0  # when the next frame is to be recorded by the device's clock; 0 when unknown
        self._silent = True  # whether all samples that were read are 0
        self._heard = 0.0  # when the callback was last called
        self._stream, self._rate, channels = MICROPHONE.open(
            self.device, SAMPLE_RATE, callback=self._store, finished_callback=self._finished
        )
        self._converter = Converter(self._rate, self.name, "file")
        self._ring = np.zeros((max(1, round(buffer * self._rate)), channels), np.int16)
        self._written = self._taken = 0  # frames since the beginning: put into the ring, and read from it
        self._heard = time.monotonic()
        MICROPHONE.start(self.device, self._stream)

    @property
    def lost(self) -> float:
        """Seconds of sound that were dropped because the ring buffer was full, or lost before they came here."""
        return self._lost / self._rate

    @property
    def warning(self) -> str | None:  # type: ignore[override]
        """A sentence where a second or more has come and all of it is silence: systems give that without permission."""
        if not self._silent or self._taken < self._rate:
            return None
        return (
            f"the microphone {self.name} has given nothing but silence: check that it is switched on, and that this program "
            "may record."
        )

    # ---- PortAudio's thread ----

    def _store(self, data: Any, count: int, times: Any, status: Any) -> None:
        """The callback: writes `count` frames into the ring, as far as there is room."""
        frames = np.frombuffer(data, np.int16).reshape(count, -1)
        size = len(self._ring)
        with self._state:
            self._heard = time.monotonic()
            room = min(count, size - (self._written - self._taken))
            at = self._written % size
            first = min(room, size - at)
            self._ring[at : at + first] = frames[:first]
            self._ring[: room - first] = frames[first:room]
            self._written += room
            self._lost += count - room
            recorded = float(getattr(times, "inputBufferAdcTime", 0.0))  # of the first frame; 0 where nobody knows
            if status.input_overflow and 0 < self._due < recorded < self._due + _LONGEST_GAP:
                self._lost += round((recorded - self._due) * self._rate)
            self._due = recorded + count / self._rate if recorded > 0 else 0.0
            self.overruns += bool(room < count or status.input_overflow)
            self._state.notify_all()

    def _finished(self) -> None:
        """Called when the stream has ended, also when the device was disconnected."""
        with self._state:
            self._gone = True
            self._state.notify_all()

    # ---- the reader's thread ----

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._state:
                if not self._wait(deadline):
                    return _NOTHING
                if self._closed:
                    return None
                span = np.arange(self._taken, self._written) % len(self._ring)
                frames = self._ring[span]
                self._taken = self._written
            self._silent = self._silent and not frames.any()
            block = self._converter.push(frames)
            if block.size:
                return block

    def _wait(self, deadline: float | None) -> bool:
        """Waits for samples. True if there are any or the microphone was closed, False after the deadline.

        Raises EdgeGemmaOSError when the device has stopped.
        """
        asked_twice = False
        while self._written == self._taken and not self._closed:
            now = time.monotonic()
            silent = now - self._heard > self._patience
            if self._gone or (silent and asked_twice):
                raise EdgeGemmaOSError(
                    f"the microphone {self.name} has stopped: check that it is connected and that no other program uses it.",
                    "file",
                )
            if silent:  # this process may have been suspended; then the callback is called again at once
                asked_twice = True
                self._state.wait(min(self._patience, 0.5))
            elif deadline is not None and now >= deadline:
                return False
            else:
                limit = self._heard + self._patience
                self._state.wait(max(0.0, (limit if deadline is None else min(limit, deadline)) - now) + 1e-3)
        return True

    def close(self) -> None:
        """Stops recording."""
        super().close()
        with self._state:
            closed, self._closed = self._closed, True
            self._state.notify_all()
        if not closed:  # outside the lock: PortAudio waits for the callback, which may be waiting for the lock
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)
