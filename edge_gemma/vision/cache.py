"""The soft tokens of pictures that were encoded in this process: the same picture is encoded once.

A picture is known by its size and its pixels, so it does not matter where it came from. Entries belong to a model and go with
it. All models together keep at most `LIMIT` bytes; what was not used for the longest time goes first.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMIT", "SoftTokenCache", "picture_key", "shared_cache"]

LIMIT = 64 << 20
"""Bytes of soft tokens that a process keeps: about 37 pictures of 280 tokens for E2B."""

_Key = tuple[int, bytes, int]


def picture_key(pixels: NDArray[np.uint8]) -> bytes:
    """16 bytes that tell a picture, (h, w, 3) uint8, from all others."""
    size = repr(pixels.shape[:2]).encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, person=size[:16]).digest()


class SoftTokenCache:
    """Soft tokens by model, picture and budget. All methods may be called from any thread.

    Attributes:
        limit: bytes.
        size: bytes that are kept now.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size = limit, 0
        self._lock = threading.RLock()  # a model may be collected, and its entries dropped, while a method runs
        self._rows: OrderedDict[_Key, NDArray[np.float32]] = OrderedDict()
        self._running: dict[_Key, threading.Event] = {}  # pictures that a thread is encoding
        self._models: dict[int, weakref.finalize[Any, Any]] = {}

    def get(
        self,
        model: Any,
        key: bytes,
        budget: int,
        encode: Callable[[], NDArray[np.float32]],
        waiting: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """The soft tokens (n, hidden) of a picture, read-only.

        Args:
            model: the owner, of which a weak reference is kept.
            key: of the picture; see `picture_key`.
            budget: the most tokens, as they were asked for.
            encode: makes the tokens when the cache does not have them. While one thread encodes a picture, others that ask
                for it wait. What `encode` raises is raised to its caller, and a waiting thread encodes then.
            waiting: called again and again while the thread waits; what it raises ends the wait.
        """
        place = (id(model), key, budget)
        while True:
            with self._lock:
                if (rows := self._rows.get(place)) is not None:
                    self._rows.move_to_end(place)
                    return rows
                if (other := self._running.get(place)) is None:
                    mine = self._running[place] = threading.Event()
                    break
            while not other.wait(0.1):  # Ctrl-C is seen in between
                if waiting is not None:
                    waiting()
        try:
            rows = encode()
            if rows.flags.writeable:
                rows = rows.copy()
                rows.flags.writeable = False
            self._keep(model, place, rows)
            return rows
        finally:
            with self._lock:
                del self._running[place]
            mine.set()

    def has(self, model: Any, key: bytes, budget: int) -> bool:
        """Whether the tokens are there."""
        with self._lock:
            return (id(model), key, budget) in self._rows

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._rows.clear()
            self.size = 0

    def _keep(self, model: Any, place: _Key, rows: NDArray[np.float32]) -> None:
        if rows.nbytes > self.limit:
            return
        with self._lock:
            if place[0] not in self._models:
                self._models[place[0]] = weakref.finalize(model, self._forget, place[0])
                self._models[place[0]].atexit = False
            self._rows[place] = rows
            self.size += rows.nbytes
            while self.size > self.limit:
                _, oldest = self._rows.popitem(last=False)
                self.size -= oldest.nbytes

    def _forget(self, number: int) -> None:
        """Drops the entries of a model that is no more: its id may be given to another one."""
        with self._lock:
            self._models.pop(number, None)
            for place in [place for place in self._rows if place[0] == number]:
                self.size -= self._rows.pop(place).nbytes


shared_cache = SoftTokenCache()
"""The cache of this process."""
