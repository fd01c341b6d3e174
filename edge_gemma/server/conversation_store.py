"""`ConversationStore`: what was said in earlier responses, for requests that go on from one by its id.

In memory, within a number of bytes; what was not used for the longest time is forgotten first. Of the event loop's thread.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["ConversationStore", "Kept"]

_EACH = 200  # bytes of an object beside its content


@dataclasses.dataclass(frozen=True)
class Kept:
    """A response: the messages up to and with it, instructions left out; the object that clients got; the conversation's
    hint."""

    messages: Sequence[dict[str, Any]]
    response: Mapping[str, Any]
    hint: str


class ConversationStore:
    """Responses by their ids."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of all."""
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()

    def add(self, name: str, kept: Kept) -> None:
        """Keeps a response, if it is not larger than all that is kept."""
        size = _size(kept.messages) + _size(kept.response)
        self.remove(name)
        if size > self._limit:
            return
        self._kept[name] = kept, size
        self._size += size
        while self._size > self._limit:
            self._size -= self._kept.popitem(last=False)[1][1]

    def get(self, name: str) -> Kept | None:
        """A response; None for one that is not known, or no longer."""
        if name not in self._kept:
            return None
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def remove(self, name: str) -> bool:
        """Forgets a response. Whether it was known."""
        found = self._kept.pop(name, None)
        self._size -= found[1] if found else 0
        return found is not None


def _size(value: Any) -> int:
    """About how many bytes a value takes."""
    if isinstance(value, str):
        return _EACH + 4 * len(value)
    if isinstance(value, np.ndarray):
        return _EACH + value.nbytes
    if isinstance(value, Mapping):
        return _EACH + sum(_size(key) + _size(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return _EACH + sum(map(_size, value))
    return _EACH
