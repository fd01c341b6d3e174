"""`SoundDevices`: a microphone and a loudspeaker that may vanish and come back.

Owns both devices and opens them again, by the same names, when one of them has stopped. A device that has come back is only
found when the devices are listed anew, and for that both have to be closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.source import Source
from ..errors import EdgeGemmaError

__all__ = ["Player", "SoundDevices", "Speaker"]

_RETRY = 2.0  # seconds between attempts to open devices that are gone
_NOTHING = np.zeros(0, np.float32)


class Player(Protocol):
    """What plays sound."""

    @property
    def rate(self) -> int:
        """Samples a second."""
        ...

    @property
    def pending(self) -> float:
        """Seconds until everything that was written has been heard."""
        ...

    @property
    def latency(self) -> float:
        """Seconds from `write` to the ear, when nothing waits."""
        ...

    def write(self, samples: NDArray[np.int16]) -> None:
        """Appends (n,) samples; returns at once."""
        ...

    def stop(self) -> None:
        """Drops what has not been heard."""
        ...


class Speaker(Player, Protocol):
    """A device that plays; `audio.loudspeaker.Loudspeaker` for one."""

    @property
    def gone(self) -> bool:
        """Whether it has stopped by itself."""
        ...

    def close(self) -> None:
        """Gives the device back."""
        ...


class SoundDevices:
    """The sound devices of an assistant. `read` belongs to one thread; it alone opens and closes devices."""

    def __init__(
        self,
        open_microphone: Callable[[], Source],
        open_speaker: Callable[[], Speaker] | None,
        *,
        rate: int = 22050,
        refresh: Callable[[], None] = lambda: None,
        on_change: Callable[[str], None] = lambda problem: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens nothing yet: the first `read` does.

        Args:
            open_microphone, open_speaker: open the devices; None for an assistant without a loudspeaker.
            rate: samples a second of the loudspeaker.
            refresh: makes the system list its devices anew, while both are closed.
            on_change: told why a device cannot be used, and "" when both can be used again.
            clock, sleep: seconds.
        """
        self.rate = rate
        self._open_microphone, self._open_speaker = open_microphone, open_speaker
        self._refresh, self._on_change, self._clock, self._sleep = refresh, on_change, clock, sleep
        self._microphone: Source | None = None
        self._speaker: Speaker | None = None
        self._lock = threading.Lock()  # guards _speaker, which other threads use
        self._problem: str | None = None  # that was told last; None before the first attempt
        self._next = 0.0  # attempt to open, on the clock
        self._closed = False

    # ---- the thread that reads ----

    def read(self, seconds: float, timeout: float) -> NDArray[np.float32] | None:
        """The next samples, (n,) at 16 kHz; (0,) when none came in time; None when the microphone's sound has ended, as that of
        a recording does."""
        if self._closed:
            return None
        if self._speaker and self._speaker.gone:
            self._lose("The loudspeaker has stopped: check that it is connected.")
        if not self._microphone and not self._reopen():
            self._sleep(min(timeout, 0.1))
            return _NOTHING
        assert self._microphone
        try:
            return self._microphone.read(seconds, timeout)
        except EdgeGemmaError as error:
            self._lose(str(error))
            return _NOTHING

    def _lose(self, problem: str) -> None:
        self._shut()
        self._next = self._clock() + _RETRY
        self._tell(problem)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._on_change(problem)

    def _shut(self) -> None:
        with self._lock:
            speaker, self._speaker = self._speaker, None
        for device in (self._microphone, speaker):
            if device:
                device.close()
        self._microphone = None

    def _reopen(self) -> bool:
        """Opens both devices if it is time. Returns whether they can be used."""
        if self._clock() < self._next:
            return False
        try:
            if self._problem is not None:
                self._refresh()
            self._microphone = self._open_microphone()
            speaker = self._open_speaker() if self._open_speaker else None
        except EdgeGemmaError as error:
            self._lose(str(error))
            return False
        with self._lock:
            self._speaker = speaker
        self._tell("")
        return True

    # ---- any thread ----

    @property
    def ready(self) -> bool:
        """Whether both devices can be used."""
        return self._problem == ""

    @property
    def pending(self) -> float:
        """Seconds until everything that was written has been heard."""
        with self._lock:
            return self._speaker.pending if self._speaker else 0.0

    @property
    def latency(self) -> float:
        """Seconds from `write` to the ear, when nothing waits."""
        with self._lock:
            return self._speaker.latency if self._speaker else 0.0

    def write(self, samples: NDArray[np.int16]) -> None:
        """Plays (n,) samples after what was written before; where there is no loudspeaker, nothing happens."""
        with self._lock:
            if self._speaker:
                self._speaker.write(samples)

    def stop(self) -> None:
        """Silences the loudspeaker."""
        with self._lock:
            if self._speaker:
                self._speaker.stop()

    def close(self) -> None:
        """Gives the devices back. Call it when nobody reads any more."""
        self._closed = True
        self._shut()
