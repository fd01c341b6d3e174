"""`Ears`: what hears for the routes. Recordings and live sound, each in a thread of its own, within limits.

    async with ears.transcriber(language="German") as transcriber:
        async for segment in ears.drawn(transcriber.segments(source), transcriber): ...

Transcribers and listeners stay open for a while after their use: reading the request again takes a moment, and most programs
ask for the same each time. The engine shares its threads between these and the scheduler; a listener goes first.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..audio.endpointing import Endpointer, EndpointEvent
from ..audio.source import Source
from ..engine.memory import sessions_need
from ..engine.model import Model
from ..errors import Cancelled
from ..hub.resolve import no_encoder
from ..speech.listener import Listener, ListenerEvent, StepTask
from ..speech.request import Cancellable, open_endpointer
from ..speech.transcriber import Transcriber
from .failures import RequestError, request_error
from .growing import SPEAKERS, Growing
from .settings import Settings

__all__ = ["Ears", "LiveListener", "Watcher", "is_sentence", "memory_of_ears"]

_T = TypeVar("_T")
_Hearing = TypeVar("_Hearing", Transcriber, "LiveListener", "Watcher")
_SOON = 5.0  # seconds that a speaker waits for those who have just left
_IDLE = 2  # of each kind that stay open
_BUSY = "The assistant is listening to others. Try again in a few seconds."
_LONGEST = 28.0  # seconds of an utterance
_TOKENS = 1280  # of a session that hears: the longest utterance, its request and its answer
_RECORDING, _LISTENER, _WAITING = 4, 4, 1  # sessions of a transcriber and a listener at work, and of one that waits
_END: Any = object()
_ENDS = ".!?\u3002\uff01\uff1f\u061f\u0964"  # of sentences: Latin, Chinese and Japanese, Arabic, Devanagari
_CLOSING = "\"'\u201d\u2019\u00bb\u300d)] "


def memory_of_ears(model: Model, settings: Settings, kv: str) -> int:
    """The bytes that everything takes at most that hears at the same time, without the encoder itself."""
    if not model.has_audio:
        return 0
    kept = 2 * _IDLE * _WAITING + SPEAKERS * _RECORDING
    sessions = settings.recordings * _RECORDING + settings.listeners * _LISTENER + kept
    return sessions_need(model, _TOKENS, kv, sessions, audio=True)


def is_sentence(text: str) -> bool:
    """Whether words that were written down are a whole sentence, by the mark at their end."""
    words = text.rstrip(_CLOSING)
    return words.endswith(tuple(_ENDS)) and not words.endswith("...")


class LiveListener(Listener):
    """A listener that is used by one speaker after the other, each with other work beside it or none.

    Attributes:
        beside: the step task of the speaker.
    """

    beside: StepTask | None

    def __init__(
        self,
        model: Model,
        *,
        silence: float = 0.7,
        pause: float = 0.25,
        threshold: float = 0.5,
        pre_roll: float = 0.3,
        sentence: float | None = None,
        **options: Any,
    ) -> None:
        """As `Listener`, and `threshold` and `pre_roll` as in `Endpointer`.

        Args:
            model, silence, pause, threshold, pre_roll, options: see there.
            sentence: seconds of silence that end an utterance whose words are a whole sentence; None for `silence`.
        """
        ends = {"threshold": threshold, "pre_roll": pre_roll}
        self._ends = open_endpointer(model, "auto", silence, pause, _LONGEST, **ends)
        self._sentence = sentence
        super().__init__(model, step_task=self, endpointer=self._ends, **options)
        self.beside = None

    def listen(self, source: Any = None, *, once: bool = False) -> Generator[ListenerEvent, None, None]:
        """As `Listener`."""
        with contextlib.closing(super().listen(source, once=once)) as events:
            for event in events:
                if event.kind == "early" and self._sentence is not None and is_sentence(event.text):
                    self._ends.end_after(self._sentence)
                yield event

    @property
    def pending(self) -> bool:
        """As `StepTask`."""
        return self.beside is not None and self.beside.pending

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """As `StepTask`."""
        if self.beside is not None:
            self.beside.hear(heard, at)

    def step(self) -> Iterator[Any]:
        """As `StepTask`."""
        if self.beside is not None:
            yield from self.beside.step()


class Watcher(Cancellable):
    """Tells where in a sound somebody speaks, and nothing else.

    Attributes:
        beside: takes what is found, in the watcher's thread.
    """

    beside: StepTask | None

    def __init__(self, model: Model, *, silence: float, pause: float, detector: str = "auto", **options: float) -> None:
        """Options as in `Endpointer`."""
        super().__init__()
        self._endpointer = open_endpointer(model, detector, silence, pause, _LONGEST, **options)
        self.beside = None

    def close(self) -> None:
        """There is nothing to free."""

    def watch(self, source: Source) -> Iterator[None]:
        """Reads a source to its end. Raises `Cancelled`."""
        self._endpointer.reset()
        while (block := source.read(0.5, 0.1)) is not None:
            self.check_cancelled()
            self._tell(self._endpointer.push(block))
        self._tell(self._endpointer.finish())
        yield from ()

    def _tell(self, events: Sequence[EndpointEvent]) -> None:
        for event in events:
            if self.beside is not None:
                self.beside.hear(event, event.time)


class _Pool(Generic[_Hearing]):
    """Transcribers or listeners: a few at a time, and some that wait to be used again."""

    def __init__(self, make: Callable[..., _Hearing], most: int, waiting: int, patience: float, name: str) -> None:
        """`most` are used at a time; so many more requests may wait, and for so many seconds."""
        self.threads = concurrent.futures.ThreadPoolExecutor(most, name)
        self._make: Callable[..., _Hearing] = make
        self._most, self._patience = most + waiting, patience
        self._free = asyncio.Semaphore(most)
        self._count = 0
        self._idle: list[tuple[Any, _Hearing]] = []
        self._used: set[_Hearing] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.asynccontextmanager
    async def borrowed(self, options: dict[str, Any]) -> AsyncIterator[_Hearing]:
        """One with these options. Raises RequestError."""
        if self._count >= self._most:
            raise RequestError(429, _BUSY)
        self._count += 1
        try:
            try:
                await asyncio.wait_for(self._free.acquire(), self._patience)
            except (TimeoutError, asyncio.TimeoutError):
                raise RequestError(429, _BUSY) from None
            try:
                key = sorted(options.items())
                found = await self.run(self._take, key, options)
                try:
                    yield found
                finally:
                    await self.run(self._give_back, key, found)
            finally:
                self._free.release()
        finally:
            self._count -= 1

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Calls a function in a thread; here, once the threads have ended."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, function, *args)
        except RuntimeError:
            if not self._closed:
                raise
            return function(*args)

    def _take(self, key: Any, options: dict[str, Any]) -> _Hearing:
        with self._lock:
            if self._closed:
                raise RequestError(503, "The server is being stopped.")
            found = next((pair for pair in self._idle if pair[0] == key), None)
            if found is not None:
                self._idle.remove(found)
                self._used.add(found[1])
                return found[1]
        try:
            made = self._make(**options)
        except Exception as error:
            raise request_error(error) from error
        with self._lock:
            self._used.add(made)
        return made

    def _give_back(self, key: Any, found: _Hearing) -> None:
        with self._lock:
            self._used.discard(found)
            self._idle.append((key, found))
            kept = 0 if self._closed else _IDLE
            surplus, self._idle = self._idle[: len(self._idle) - kept], self._idle[len(self._idle) - kept :]
        for _, old in surplus:
            old.close()

    def close(self) -> None:
        """Ends what is under way, and waits for that."""
        with self._lock:
            self._closed = True
            used = list(self._used)
        for hearing in used:
            hearing.cancel()
        self.threads.shutdown()
        for _, old in self._idle:
            old.close()
        self._idle.clear()


class Ears:
    """Transcribers and listeners of one model. Of the event loop's thread, but `close`.

    Attributes:
        growing: recordings that are sent again and again.
    """

    def __init__(self, model: Model, settings: Settings, kv: str) -> None:
        """`kv`: the type of the caches."""
        self._model, self._kv = model, kv
        self._recordings = _Pool(
            self._transcriber, settings.recordings, settings.queue, settings.queue_seconds, "edge-gemma-recordings"
        )
        self.growing = Growing(self._speaker, self._recordings.run)
        speakers = settings.listeners
        self._live = _Pool(self._listener, speakers, speakers, _SOON, "edge-gemma-listeners")
        self._watched = _Pool(self._watcher, speakers, speakers, _SOON, "edge-gemma-watchers")

    def _transcriber(self, **options: Any) -> Transcriber:
        return Transcriber(self._model, kv=self._kv, batch=1, **options)

    def _speaker(self, **options: Any) -> tuple[Transcriber, Endpointer]:
        return self._transcriber(**options), open_endpointer(self._model, "auto", 0.7, 0.25, _LONGEST)

    def _listener(self, **options: Any) -> LiveListener:
        return LiveListener(self._model, kv=self._kv, **options)

    def _watcher(self, **options: Any) -> Watcher:
        return Watcher(self._model, **options)

    def transcriber(self, **options: Any) -> contextlib.AbstractAsyncContextManager[Transcriber]:
        """One with these options, as in `Transcriber`. Raises RequestError 400 for unusable ones, 429 when too many wait."""
        self.check()
        return self._recordings.borrowed(options)

    def listener(self, **options: Any) -> contextlib.AbstractAsyncContextManager[LiveListener]:
        """One with these options, as in `Listener`. Raises as `transcriber`."""
        self.check()
        return self._live.borrowed(options)

    def watcher(self, **options: Any) -> contextlib.AbstractAsyncContextManager[Watcher]:
        """One with these options, as in `Watcher`. Raises as `transcriber`."""
        self.check()
        return self._watched.borrowed(options)

    def check(self) -> None:
        """Raises RequestError 400 for a model that does not hear."""
        if not self._model.has_audio:
            raise request_error(no_encoder(self._model, "audio"))

    async def drawn(self, found: Iterator[_T], worker: Cancellable) -> AsyncGenerator[_T, None]:
        """What an iterator of a borrowed worker yields. Leaving early ends the work. Raises RequestError."""
        pool: _Pool[Any] = self._recordings
        if not isinstance(worker, Transcriber):
            pool = self._live if isinstance(worker, Listener) else self._watched
        step: asyncio.Future[Any] | None = None
        try:
            while True:
                step = asyncio.ensure_future(pool.run(next, found, _END))
                item: Any = await asyncio.shield(step)
                if item is _END:
                    return
                yield item
        except Cancelled as error:
            raise RequestError(503, "The server is being stopped.") from error
        except Exception as error:
            raise request_error(error) from error
        finally:
            if step is not None and not step.done():
                worker.cancel()
                await asyncio.wait([step])
                step.exception()
            await pool.run(_close, found, worker)

    def close(self) -> None:
        """Ends everything that hears, and waits for that. From any other thread."""
        self._recordings.close()
        self.growing.close()
        self._live.close()
        self._watched.close()


def _close(found: Any, worker: Cancellable) -> None:
    """Closes a generator; a request to cancel that came too late is used up."""
    found.close()
    with contextlib.suppress(Exception):
        worker.check_cancelled()
