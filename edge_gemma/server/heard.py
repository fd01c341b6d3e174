"""Speech that goes into a conversation while it is spoken: `HeardTurn`. And `HeardWords`, which joins it with what clients ask.

A client such as Home Assistant sends sound to one port, gets words, and brings the words to another port as the user's message.
It names nothing that links the two. So this is learnt from what it does: when the words that were just written down come back
as the first message of a chat, the instructions and tools of that chat are remembered. The next utterance is fed, while it is
spoken, to a timeline that has read them, besides being written down. When its words come back behind the same instructions,
the user's turn is the sound, with the words behind it as in the spoken assistant, and the timeline that has heard it goes on.
Everything else stays a message of text.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import EndpointEvent
from ..chat.prompt import Media, Unit
from ..chat.timeline import Timeline
from .ears import LiveListener
from .failures import RequestError
from .requests import ChatRequest, Preparer
from .scheduler import Scheduler

__all__ = ["HeardTurn", "HeardWords", "before_sound"]

_UTTERANCES, _SECONDS = 8, 600.0  # that are remembered, and for how long
_AT_ONCE = 10.0  # seconds after which words that come back were typed
_MOST_TOKENS = 512  # of a prompt that are read while somebody begins to speak
_PLACE = np.zeros(1, np.float32)


def before_sound(units: Sequence[Unit]) -> list[Unit]:
    """The units of a prompt before its last recording."""
    last = max(at for at, unit in enumerate(units) if isinstance(unit, Media) and unit.kind == "audio")
    return list(units[:last])


class HeardTurn:
    """One utterance, which a timeline hears while it is spoken. A step task of a listener, in whose thread it works.

    At a pause a fork is made that has heard all but the silence that follows: that one goes on if the utterance ends there.

    Attributes:
        samples: what was heard; empty until the end.
        failure: why it cannot go on; None while it can.
    """

    pending = False

    def __init__(self, timeline: Timeline, missing: Sequence[int]) -> None:
        """`missing`: tokens that the timeline reads before it hears."""
        self.samples: NDArray[np.float32] = np.zeros(0, np.float32)
        self.failure: Exception | None = None
        self._timeline: Timeline | None = timeline
        self._missing, self._start = list(missing), 0
        self._blocks: list[NDArray[np.float32]] = []
        self._fed, self._kept = 0, 0
        self._early: Timeline | None = None
        self._over = False

    def step(self) -> Iterator[Any]:
        """Nothing: there are no steps."""
        yield from ()

    def hear(self, heard: EndpointEvent, at: float = 0.0) -> None:
        """Takes what an endpointer has found. Only the first utterance is heard."""
        if self._over or self.failure is not None or self._timeline is None:
            return
        try:
            self._take(heard)
        except Exception as error:  # the words are written down all the same
            self.failure = error

    def _take(self, heard: EndpointEvent) -> None:
        assert self._timeline is not None
        session = self._timeline.session
        if heard.kind == "start":
            session.priority = 1
            session.feed_tokens(self._missing)
            self._start = session.position
            session.stream_audio()
        if heard.samples.size:
            self._blocks.append(heard.samples)
            if self._early is None:
                self._feed()
        if heard.kind == "pause":
            self._kept = sum(map(len, self._blocks))
            self._early = self._finished(self._timeline.fork())
        elif heard.kind == "resume" and self._early is not None:
            self._early.session.close()
            self._early = None
            self._feed()
        elif heard.kind == "end":
            self._end(heard.keep)

    def _feed(self) -> None:
        assert self._timeline is not None and self._timeline.session.audio is not None
        new, self._fed = self._blocks[self._fed :], len(self._blocks)
        if new:
            self._timeline.session.audio.push(np.concatenate(new))

    @staticmethod
    def _finished(timeline: Timeline) -> Timeline:
        assert timeline.session.audio is not None
        timeline.session.audio.finish()
        return timeline

    def _end(self, keep: int) -> None:
        assert self._timeline is not None
        self._over = True
        samples = np.concatenate(self._blocks)
        if self._early is not None and self._kept <= keep:
            self._timeline.session.close()
            self._timeline, self._early = self._early, None
            samples = samples[: self._kept]
        else:
            self._finished(self._timeline)
        samples.flags.writeable = False
        self._timeline.note(self._start, Media.of("audio", samples))
        self._timeline.session.priority = 0
        self.samples = samples

    def so_far(self) -> tuple[Timeline, NDArray[np.float32]] | None:
        """In a pause, a timeline of the caller's own and the sound that it has heard: all but the silence. None if there is
        none."""
        if self._early is None or self.failure is not None:
            return None
        samples = np.concatenate(self._blocks)[: self._kept]
        samples.flags.writeable = False
        timeline = self._early.fork()
        timeline.note(self._start, Media.of("audio", samples))
        return timeline, samples

    @property
    def holds(self) -> bool:
        """Whether it has a timeline."""
        return self._timeline is not None or self._early is not None

    def take(self) -> Timeline | None:
        """The timeline that has heard everything, which belongs to the caller from now on; None if there is none."""
        if not self.samples.size or self.failure is not None:
            return None
        timeline, self._timeline = self._timeline, None
        return timeline

    def close(self) -> None:
        """Frees the sessions that were not taken. Not while the listener's thread works."""
        for timeline in (self._timeline, self._early):
            if timeline is not None:
                timeline.session.close()
        self._timeline = self._early = None


@dataclasses.dataclass
class _Utterance:
    """What was said. `request`: the chat that the sound was fed to; None if it was only written down."""

    words: str
    when: float
    request: ChatRequest | None
    samples: NDArray[np.float32]


class HeardWords:
    """What was said lately, and which chats are told of it. Of the event loop's thread, but `joined`."""

    def __init__(
        self,
        scheduler: Scheduler,
        preparer: Preparer,
        hears: bool,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hears`: whether the model hears; `most`: how many turns there are at the same time."""
        self._most, self._turns = most, WeakSet[HeardTurn]()
        self._scheduler, self._preparer, self._hears, self._clock = scheduler, preparer, hears, clock
        self._said: deque[_Utterance] = deque(maxlen=_UTTERANCES)
        self._instructions: ChatRequest | None = None

    async def turn(self) -> HeardTurn | None:
        """A turn of the chat in which the next utterance is expected; None if none is."""
        if self._instructions is None:
            return None
        with contextlib.suppress(RequestError):
            return await self.turn_of(self._instructions)
        return None

    @contextlib.asynccontextmanager
    async def beside(self, listener: LiveListener) -> AsyncIterator[HeardTurn | None]:
        """As `turn`, which hears beside a listener."""
        turn = listener.beside = await self.turn()
        try:
            yield turn
        finally:
            listener.beside = None
            if turn is not None:
                turn.close()

    @property
    def _full(self) -> bool:
        return sum(turn.holds for turn in self._turns) >= self._most

    async def turn_of(self, request: ChatRequest) -> HeardTurn | None:
        """A turn of a chat whose last message is a recording to come; None where too much is left to read, or there are too
        many turns."""
        if self._full:
            return None
        before = before_sound((await asyncio.to_thread(self._preparer.prepare, request)).units)
        timeline, at = await asyncio.wrap_future(self._scheduler.borrow(before, request.hint))
        missing = [unit for unit in before[at:] if isinstance(unit, int)]
        if self._full or len(missing) < len(before) - at or len(missing) > _MOST_TOKENS:
            timeline.session.close()
            return None
        turn = HeardTurn(timeline, missing)
        self._turns.add(turn)
        return turn

    async def remember(self, words: str, turn: HeardTurn | None) -> None:
        """These words are told a client, and this turn has heard them."""
        words = " ".join(words.split())
        utterance = _Utterance(words, self._clock(), None, np.zeros(0, np.float32))
        timeline = None if turn is None else turn.take()
        if timeline is not None and turn is not None and self._instructions is not None:
            utterance.request, utterance.samples = self._instructions, turn.samples
            await asyncio.wrap_future(self._scheduler.keep(timeline))
        if words:
            self._said.append(utterance)

    def joined(self, request: ChatRequest) -> ChatRequest:
        """The request with the sound in its first message, if a timeline has heard it there; else as it is."""
        if not self._hears or request.text is not None:
            return request
        head = [message for message in request.messages if message["role"] in ("system", "developer")]
        rest = request.messages[len(head) :]
        if request.messages[: len(head)] != head or not rest or rest[0]["role"] != "user":
            return request
        words = rest[0].get("content")
        if isinstance(words, list) and len(words) == 1:
            words = words[0].get("text")
        if not isinstance(words, str):
            return request
        spoken, now = " ".join(words.split()), self._clock()
        said = next(
            (said for said in reversed(self._said) if said.words == spoken and now - said.when < _SECONDS), None
        )
        if said is None:
            return request
        if len(rest) == 1 and now - said.when < _AT_ONCE:
            self._expect(request, head)
        if said.request is None or not _same(said.request, request, head):
            return request
        content = [{"type": "audio", "audio": said.samples}, {"type": "text", "text": words}]
        return dataclasses.replace(request, messages=[*head, {**rest[0], "content": content}, *rest[1:]])

    def _expect(self, request: ChatRequest, head: Sequence[dict[str, Any]]) -> None:
        """The next utterance is expected in a chat with these instructions and tools."""
        place = {"role": "user", "content": [{"type": "audio", "audio": _PLACE}]}
        self._instructions = dataclasses.replace(request, messages=[*head, place], stop=(), schema=None, hint="", n=1)


def _same(expected: ChatRequest, request: ChatRequest, head: Sequence[dict[str, Any]]) -> bool:
    """Whether two chats begin with the same instructions and tools."""
    return (
        expected.messages[:-1] == list(head)
        and expected.tools == request.tools
        and expected.thinking == request.thinking
    )
