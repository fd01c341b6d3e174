"""`LiveSound`: sound that comes in messages of a client, as a `Source` that a listener reads in its thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE, Converter, Source
from ..errors import EdgeGemmaError
from .failures import RequestError, request_error

__all__ = ["LiveSound", "samples_of"]

_MOST = 5.0  # seconds that wait to be read, before the client has to wait
_RATES = (4000, 192000)
_CHANNELS = 8
_NOTHING = np.zeros(0, np.float32)


def samples_of(data: bytes, width: int = 2, channels: int = 1) -> NDArray[np.generic]:
    """(n, channels) samples of little-endian PCM with `width` bytes. Raises RequestError."""
    if width not in (1, 2, 4) or not 0 < channels <= _CHANNELS:
        raise RequestError(400, "The sound must have samples of 8, 16 or 32 bits, and up to 8 channels.")
    if len(data) % (width * channels):
        raise RequestError(400, "The sound must have whole samples.")
    kind: dict[int, str] = {1: "u1", 2: "<i2", 4: "<i4"}
    return np.frombuffer(data, kind[width]).reshape(-1, channels)


class LiveSound(Source):
    """Filled by `push` in the event loop's thread, read in another one."""

    live = True

    def __init__(self, rate: float = SAMPLE_RATE) -> None:
        """`rate`: samples a second of what is pushed. Raises RequestError."""
        super().__init__()
        if not _RATES[0] <= rate <= _RATES[1]:
            raise RequestError(400, f"The sound must have {_RATES[0]} to {_RATES[1]} samples a second.")
        self.name = "the sound"
        try:
            self._converter = Converter(rate, self.name)
        except EdgeGemmaError as error:
            raise request_error(error) from error
        self._waiting: deque[NDArray[np.float32]] = deque()
        self._news = threading.Condition()
        self._size, self._finished = 0, False
        self._loop, self._room = asyncio.get_running_loop(), asyncio.Event()
        self._room.set()
        self._began: float | None = None
        self.pushed = 0.0  #: seconds

    @property
    def paced(self) -> bool:
        """Whether the sound comes about as fast as it is spoken, and not as a recording that is sent at once."""
        return self._began is not None and time.monotonic() - self._began > 0.5 * self.pushed

    async def push(self, frames: NDArray[np.generic]) -> None:
        """Adds samples; waits while much is still unread. Raises RequestError."""
        if self._finished:
            return
        self._began = self._began or time.monotonic()
        try:
            samples = self._converter.push(frames)
        except EdgeGemmaError as error:
            raise request_error(error) from error
        self._add(samples)
        await self._room.wait()

    def _add(self, samples: NDArray[np.float32]) -> None:
        self.pushed += samples.size / SAMPLE_RATE
        with self._news:
            if samples.size:
                self._waiting.append(samples)
                self._size += samples.size
            if self._size > _MOST * SAMPLE_RATE:
                self._room.clear()
            self._news.notify()

    def finish(self) -> None:
        """No more sound will come."""
        if not self._finished:
            self._add(self._converter.finish())
            with self._news:
                self._finished = True
                self._news.notify()

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        with self._news:
            if not self._waiting and not self._finished:
                self._news.wait(timeout)
            if self._waiting:
                block = self._waiting.popleft()
                self._size -= block.size
                if self._size <= _MOST / 2 * SAMPLE_RATE:
                    self._make_room()
                return block
            return None if self._finished else _NOTHING

    def close(self) -> None:
        """Nothing is read any more."""
        super().close()
        with self._news:
            self._finished = True
            self._waiting.clear()
            self._make_room()

    def _make_room(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.set)
        except RuntimeError:  # the loop is closed
            pass
