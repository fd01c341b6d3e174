"""`PrefixCache`: timelines that are kept in memory, so that a request which begins as an earlier one reads only what is new.

There are three kinds of entries:
- the end of an answer, where the conversation goes on;
- a checkpoint at the end of the instructions and tools, which many conversations share;
- a checkpoint at the end of a prompt whose answer is long: it is the place to come back to when the next request leaves out the
  thoughts, asks something else about the same text, or is the same again.

Checkpoints are needed because a layer with a sliding window forgets: going back by more than 128 tokens would mean to read
everything again. A checkpoint is a fork, whose size is that of its tokens. An entry that a request continues is taken out of
the cache, unless others may want it: then the request gets a fork. What was not used for the longest time goes first, when all
entries together are larger than the budget. Of the scheduler's thread.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from ..chat.prompt import Unit
from ..chat.timeline import Timeline
from ..engine.interface import SessionLike
from ..engine.model import Model

__all__ = ["Entry", "PrefixCache", "before_last", "free_position"]

_BLOCK = 128  # slots of a ring beyond its window
_WORTH = 16  # tokens that must be saved before an entry is used
_STEP = 64  # tokens in which sizes are counted
_TAIL = 64  # tokens behind the common part that nobody else will want


def free_position(session: SessionLike, high: int, position: int) -> bool:
    """Whether a session that has had up to `high` tokens can go back to `position` without reading anything again."""
    window = session.model.config.sliding_window  # type: ignore[attr-defined]
    return not window or high <= window + _BLOCK or high - position <= _BLOCK


@dataclasses.dataclass
class Entry:
    """A timeline that nobody uses at the moment.

    Attributes:
        timeline: the timeline.
        tokens: its tokens; soft ones are -1.
        high: the most tokens that it has had.
        kind: "tip", "instructions" or "prompt".
        hint: the conversation that it belongs to.
        used: when it was used last, on a counter.
        size: its bytes.
        saved: whether it is on disk.
    """

    timeline: Timeline
    tokens: list[int]
    high: int
    kind: str
    hint: str
    used: int = 0
    size: int = 0
    saved: bool = False


class PrefixCache:
    """The entries of one model."""

    def __init__(self, model: Model, budget: int, kv: str) -> None:
        """`budget`: bytes of all entries; `kv`: the type of their caches."""
        self.entries: list[Entry] = []
        self.size = 0
        self._model, self._budget, self._kv = model, budget, kv
        self._clock = itertools.count(1)
        self._sizes: dict[int, int] = {}

    def find(self, target: Sequence[Unit], hint: str = "") -> tuple[Entry, int, int] | None:
        """The entry that holds the longest beginning of a prompt: the entry, units and tokens. Of equals, that of the same
        hint."""
        best: tuple[Entry, int, int] | None = None
        best_rank = (_WORTH - 1, False, 0)
        for entry in self.entries:
            units, tokens = entry.timeline.common(target, entry.tokens)
            units, tokens = before_last(target, units, tokens)
            if not free_position(entry.timeline.session, entry.high, tokens):
                continue
            rank = (tokens, entry.hint == hint, entry.used)
            if rank > best_rank:
                best, best_rank = (entry, units, tokens), rank
        return best

    def use(self, entry: Entry, tokens: int, hint: str) -> Timeline:
        """A timeline that holds the first `tokens` of an entry: the entry's own, if nobody else will want the entry, else a
        fork."""
        entry.used = next(self._clock)
        belongs = entry.hint == hint or len(entry.tokens) == tokens
        if entry.kind == "tip" and belongs and len(entry.tokens) - tokens <= _TAIL:
            self._remove(entry)
            timeline = entry.timeline
        else:
            timeline = entry.timeline.fork()
        timeline.rewind(tokens)
        return timeline

    def keep(self, timeline: Timeline, high: int, kind: str, hint: str, saved: bool = False) -> Entry | None:
        """Takes a timeline over, or closes it. Returns its entry. One of the same tokens is replaced."""
        tokens = timeline.session.tokens
        size = self._size(max(high, 1))
        if len(tokens) < _WORTH or size > self._budget:
            timeline.session.close()
            return None
        for other in [
            entry for entry in self.entries if entry.tokens == tokens and entry.timeline.spans == timeline.spans
        ]:
            saved = saved or other.saved
            self._drop(other)
        entry = Entry(timeline, tokens, high, kind, hint, next(self._clock), size, saved)
        self.make_room(size)
        self.entries.append(entry)
        self.size += size
        return entry

    def is_free(self, timeline: Timeline, high: int, position: int) -> bool:
        """As `free_position` for a timeline that is in use."""
        return free_position(timeline.session, high, position)

    def has_room(self, tokens: int) -> bool:
        """Whether an entry of so many tokens can be kept at all."""
        return self._size(max(tokens, 1)) <= self._budget

    def make_room(self, size: int) -> None:
        """Drops entries until `size` bytes more are within the budget."""
        while self.entries and self.size + size > self._budget:
            self._drop(min(self.entries, key=lambda entry: entry.used))

    def replace_prompt(self, tokens: Sequence[int], hint: str) -> None:
        """Drops the checkpoint of an earlier prompt of the same conversation, which a longer one has taken the place of."""
        for entry in list(self.entries):
            shorter = len(entry.tokens) < len(tokens) and entry.tokens == list(tokens[: len(entry.tokens)])
            if entry.kind == "prompt" and entry.hint == hint and shorter:
                self._drop(entry)

    def unsaved(self, kinds: Iterable[str]) -> list[Entry]:
        """Entries of these kinds that are not on disk, the one that was used last first."""
        found = [entry for entry in self.entries if entry.kind in kinds and not entry.saved]
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> None:
        """Drops everything."""
        for entry in list(self.entries):
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._remove(entry)
        entry.timeline.session.close()

    def _remove(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self.size -= entry.size

    def _size(self, tokens: int) -> int:
        """Bytes of a timeline that has had so many tokens: what is not touched of a cache takes no memory."""
        steps = -(-tokens // _STEP) * _STEP
        if steps not in self._sizes:
            length = min(steps, self._model.config.context_length)
            estimate = self._model.estimate(length, self._kv)
            self._sizes[steps] = estimate["kv"] + estimate["scratch"]
        return self._sizes[steps]


def before_last(target: Sequence[Unit], units: int, tokens: int) -> tuple[int, int]:
    """A common part that leaves the last token of the prompt to be read, since its logits are wanted."""
    return (units - 1, tokens - 1) if units == len(target) else (units, tokens)
