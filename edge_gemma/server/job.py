"""`Job`: one answer on its way through the scheduler. `Mailbox`: its events on their way to a route.

The scheduler's thread calls everything of a job but `cancel`, which may come from anywhere. A mailbox has a bound: the
scheduler draws nothing for a job whose mailbox is full, so a client that reads slowly costs no memory, and others go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from ..chat.prompt import Media
from ..chat.reply import MODEL_STOPS, ChatEvent, Reply
from ..chat.reply_stream import ReplyStream
from ..chat.timeline import Timeline
from ..engine.generation import Token
from .failures import RequestError
from .requests import Prepared

__all__ = ["Began", "Ended", "Event", "Failed", "Job", "Mailbox", "Said", "Usage"]


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of an answer: of the prompt, those of them that were in the cache, and those that were generated."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    thinking: int = 0


@dataclasses.dataclass(frozen=True)
class Began:
    """The first event: the prompt is about to be read."""

    usage: Usage


@dataclasses.dataclass(frozen=True)
class Said:
    """A piece of the answer. `tokens`: those of the answer's text since the last piece, if log-probabilities were asked for."""

    event: ChatEvent
    tokens: tuple[Token, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ended:
    """The last event. `stop` as in `Generation.stop`, `stop_text` which text that was; `tokens` as in `Said`; times in
    seconds."""

    stop: str
    stop_text: str
    reply: Reply
    usage: Usage
    tokens: tuple[Token, ...]
    waited: float
    prompt_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Failed:
    """The last event of an answer that failed."""

    error: RequestError


Event = Began | Said | Ended | Failed


class Mailbox:
    """Events from the scheduler's thread to the event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = 64) -> None:
        """`most`: events after which it counts as full."""
        self._loop, self._most = loop, most
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._lock, self._count = threading.Lock(), 0
        self.emptied: Callable[[], None] = lambda: None  # called when it is not full any more

    @property
    def full(self) -> bool:
        """Whether the reader has to catch up."""
        return self._count >= self._most

    def put(self, event: Event) -> bool:
        """Adds an event; the last one of an answer is added even if it is full. False when nobody can read it any more."""
        with self._lock:
            self._count += 1
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop is closed
            return False
        return True

    async def get(self) -> Event:
        """The next event."""
        event = await self._queue.get()
        with self._lock:
            was_full = self._count >= self._most
            self._count -= 1
        if was_full:
            self.emptied()
        return event


class Job:
    """One answer.

    Attributes:
        prepared, mailbox: what was asked, and where the answer goes.
        state: queued; feeding (its prompt is read); encoding (a picture is encoded in another thread); drawing; ended.
        timeline: what it works on while it is active.
        at: units of the prompt that the timeline holds.
        prefix: tokens that are appended in the pass that draws the next token.
        original: the job whose prompt this one shares, for further answers to one request.
    """

    def __init__(self, prepared: Prepared, mailbox: Mailbox, *, number: int = 0, original: Job | None = None) -> None:
        """`number`: which of the request's answers this is."""
        self.prepared, self.mailbox, self.number, self.original = prepared, mailbox, number, original
        self.state: Literal["queued", "feeding", "encoding", "drawing", "ended"] = "queued"
        self.timeline: Timeline | None = None
        self.at, self.cached, self.high = 0, 0, 0  # `high`: the most tokens that the timeline has had
        self.prefix: list[int] = []
        self.stream: ReplyStream | None = None
        self.checkpoint_due = False
        self.arrived = time.monotonic()
        self.begun = self.first = 0.0
        self.last_progress = self.arrived
        self.cancelled = False
        self.media: Any = (
            None  # of a recording: where it began, and how many samples are done; of a picture: soft tokens
        )
        self.encoding: concurrent.futures.Future[None] | None = None
        self._lock = threading.Lock()
        self._thinking = 0
        self._unmade = ""  # of the answer: which calls were not made, and why
        self._tokens: list[Token] = []  # those whose text has not been told
        self._told: list[Token] = []

    @property
    def streamed(self) -> bool:
        """Whether somebody waits for every word."""
        return self.prepared.request.streamed

    @property
    def unit(self) -> Any:
        """The next unit of the prompt."""
        return self.prepared.units[self.at]

    def bind(self, timeline: Timeline | None) -> None:
        """Takes or gives back the timeline, whose session `cancel` may call from now on, or no longer."""
        with self._lock:
            self.timeline = timeline

    def cancel(self) -> None:
        """Ends the answer within one layer, from any thread."""
        with self._lock:
            self.cancelled = True
            if self.timeline is not None:
                self.timeline.session.cancel()

    def next_ids(self, most: int) -> list[int]:
        """The next token ids of the prompt, at most so many, up to the next mark or picture or recording."""
        units, end = self.prepared.units, min(len(self.prepared.units), self.at + most)
        for mark in self.prepared.marks:
            if self.at < mark < end:
                end = mark
        ids: list[int] = []
        for unit in units[self.at : end]:
            if isinstance(unit, Media):
                break
            ids.append(unit)
        return ids

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        generated = self.stream.generated if self.stream else 0
        return Usage(self.prepared.tokens, self.cached, generated, self._thinking)

    def take(self, token: Token) -> None:
        """Takes the token that was drawn for it, and tells what it adds."""
        assert self.stream is not None
        now = time.monotonic()
        self.first = self.first or now
        self.last_progress = now
        before = self.stream.generated
        events = self.stream.take(token)
        if self.prepared.request.logprobs is not None and not token.stop:
            self._tokens.append(token)
        thinking = any(event.kind == "thinking" for event in events)
        self._thinking += (self.stream.generated - before) * thinking
        self.tell(events)

    def tell(self, events: list[ChatEvent]) -> None:
        """Puts what was said into the mailbox."""
        for event in map(self._with_reason, events):
            tokens: tuple[Token, ...] = ()
            if event.kind == "text":
                tokens, self._tokens = tuple(self._tokens), []
                self._told += tokens
            elif event.kind in ("thinking", "tool_call", "broken_call"):
                self._tokens = []
            if not self.mailbox.put(Said(event, tokens)):
                self.cancelled = True

    def _with_reason(self, event: ChatEvent) -> ChatEvent:
        """A call that is not made becomes text that tells why, unless the answer's stop does: clients know no other place."""
        assert self.stream is not None
        if event.kind != "broken_call" or event.call is None or self.stream.stop not in ("", *MODEL_STOPS):
            return event
        before = "\n\n" if self._unmade or self.stream.reply.content else ""
        text = f"{before}The call of {event.call.name or 'a tool'} was not made, because {event.call.problem}."
        self._unmade += text
        return ChatEvent("text", text=text)

    def end(self, stop: str) -> None:
        """Tells the end."""
        assert self.stream is not None
        self.tell(self.stream.end(stop))
        now = time.monotonic()
        self.state = "ended"
        reply = self.stream.reply
        self.mailbox.put(
            Ended(
                self.stream.stop,
                self.stream.stop_text,
                dataclasses.replace(reply, content=reply.content + self._unmade),
                self.usage,
                tuple(self._told),
                self.begun - self.arrived,
                (self.first or now) - self.begun,
                now - self.begun,
            )
        )

    def fail(self, error: RequestError) -> None:
        """Tells that there will be no answer, or no more of it."""
        self.state = "ended"
        self.mailbox.put(Failed(error))
