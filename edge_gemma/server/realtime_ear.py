"""What a realtime session hears: sound that is appended becomes turns, by the end of speech or by the client's commit.

With transcription a listener writes the words down; without one a watcher tells where somebody speaks. In both cases a turn of
the conversation may hear the same sound while it is spoken (heard.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import EndpointEvent
from ..chat.timeline import Timeline
from .core import Core
from .failures import RequestError
from .heard import HeardTurn
from .live_sound import LiveSound

__all__ = ["Detection", "Ear", "Heard"]

_NOTHING = np.zeros(0, np.float32)
_LONGEST = 300.0  # seconds of a turn that the client ends
_SHORTEST = 0.1  # seconds of one
_PATIENCE = 0.3  # seconds to wait for the turn at the end of the speech
_PAUSE = 0.25  # seconds of silence after which an answer is prepared
_MANUAL_SILENCE = 0.7  # seconds between the utterances of such a turn


@dataclass(frozen=True)
class Heard:
    """Something that was heard. "started" and "stopped" tell of speech, "partial" and "final" of its words, "failed" ends it.
    Between them, "paused" tells of a silence that may be the end, "early" of the words that there will be then, and "resumed"
    that it was not the end.

    Attributes:
        kind, time: of what, and when, in seconds.
        text, agreed: as in `ListenerEvent`.
        samples: of a stopped or paused turn.
        turn: the turn that has heard it; None for none.
        timeline: of paused: one that has heard the samples, and belongs to the receiver; None for none.
        error: of failed.
    """

    kind: Literal["started", "paused", "early", "resumed", "stopped", "partial", "final", "failed"]
    time: float = 0.0
    text: str = ""
    agreed: str = ""
    samples: NDArray[np.float32] = field(default_factory=lambda: _NOTHING)
    turn: HeardTurn | None = None
    timeline: Timeline | None = None
    error: RequestError | None = None


@dataclass(frozen=True)
class Detection:
    """What ends a turn. Times are seconds.

    Attributes:
        silence: that ends it.
        sentence: silence that ends it where its words are a whole sentence, or are not written down; None for `silence`.
        threshold: the probability from which on sound is speech.
        padding: sound before the speech that belongs to it.
    """

    silence: float
    sentence: float | None = None
    threshold: float = 0.5
    padding: float = 0.3


class _Observer:
    """Beside a listener or a watcher, in its thread: tells where somebody speaks, and lets a turn hear it.

    Attributes:
        turn: what hears the utterance.
        utterances: how many have begun.
        blocks: the sound of the last one, or of all of them.
    """

    pending = False

    def __init__(self, tell: Callable[[Heard], None] | None, feeds: bool) -> None:
        """`tell` may be called from any thread; None where all sound is one turn, whose end the client tells. `feeds`: whether
        `give` is called once somebody speaks."""
        self._tell, self._feeds = tell, feeds
        self._given, self._over = threading.Event(), False
        self._events: list[EndpointEvent] = []
        self._replayed = 0
        self.turn: HeardTurn | None = None
        self.utterances = 0
        self.blocks: list[NDArray[np.float32]] = []

    def step(self) -> Iterator[Any]:
        yield from ()

    def give(self, turn: HeardTurn | None) -> None:
        """This turn hears what is being said; None for none. From any thread."""
        if self._over and turn is not None:
            turn.close()
            turn = None
        self.turn = turn
        self._given.set()

    def hear(self, heard: EndpointEvent, at: float = 0.0) -> None:
        if heard.kind == "start":
            self.utterances += 1
            if self._tell is not None:
                self._events, self._replayed, self.blocks, self.turn = [], 0, [], None
                self._over = False
                self._given.clear()
                self._tell(Heard("started", heard.time))
        self.blocks.append(heard.samples)
        self._events.append(heard)
        if heard.kind == "end" and self._feeds:  # where the sound comes at once, the turn may come behind it
            self._given.wait(_PATIENCE)
        turn = self.turn
        if turn is not None:
            late, self._replayed = self._events[self._replayed :], len(self._events)
            for event in late:
                turn.hear(event)
        if (
            heard.kind == "pause"
            and self._tell is not None
            and turn is not None
            and (found := turn.so_far()) is not None
        ):
            self._tell(Heard("paused", heard.time, samples=found[1], timeline=found[0]))
        elif heard.kind == "resume" and self._tell is not None:
            self._tell(Heard("resumed", heard.time))
        if heard.kind == "end" and self._tell is not None:
            self._events, self._over = [], True
            self._tell(Heard("stopped", heard.time, samples=self.samples(heard.keep), turn=turn))

    def end(self, keeps: bool = False) -> HeardTurn | None:
        """Nothing more is heard: returns the turn, which belongs to the caller, or closes it. Not while the thread works."""
        self._over = True
        turn, self.turn = self.turn, None
        if turn is not None and not keeps:
            turn.close()
            return None
        return turn

    def samples(self, keep: int | None = None) -> NDArray[np.float32]:
        """The sound, read-only."""
        found = np.concatenate([_NOTHING, *self.blocks])[:keep]
        found.flags.writeable = False
        return found


class Ear:
    """One microphone. Of the event loop's thread.

    Attributes:
        feeds: whether a turn of the conversation is to hear the sound too.
    """

    def __init__(
        self,
        core: Core,
        *,
        rate: int,
        detection: Detection | None,
        transcription: dict[str, Any] | None,
        feeds: bool,
        tell: Callable[[Heard], Awaitable[None]],
    ) -> None:
        """Hears nothing yet.

        Args:
            core: the core.
            rate: samples a second.
            detection: what ends a turn; None where `commit` does.
            transcription: options of the listener; None where no words are wanted.
            feeds: whether `giving` is used once somebody speaks.
            tell: takes what was heard, one after the other.
        """
        self._core, self._rate, self._detection = core, rate, detection
        self._transcription, self.feeds, self._tell = transcription, feeds, tell
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Heard] = asyncio.Queue()
        self._telling = asyncio.create_task(self._tell_all())
        self._before = 0.0  # seconds of earlier sound
        self._late: set[asyncio.Task[None]] = set()  # that write down what was committed
        self._new_turn()

    def _new_turn(self) -> None:
        self._sound: LiveSound | None = None
        self._hearing: asyncio.Task[str] | None = None
        self._observer = _Observer(None if self.manual else self._post, self.feeds)

    def _post(self, heard: Heard) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, heard)

    async def _tell_all(self) -> None:
        while True:
            await self._tell(await self._queue.get())

    @property
    def manual(self) -> bool:
        """Whether the client ends turns."""
        return self._detection is None

    @property
    def begun(self) -> bool:
        """Whether there is sound that was not committed."""
        return self._sound is not None and self._sound.pushed >= _SHORTEST

    @property
    def heard(self) -> float:
        """Seconds of sound so far."""
        return self._before + (0.0 if self._sound is None else self._sound.pushed)

    @property
    def giving(self) -> Callable[[HeardTurn | None], None]:
        """Gives what is being said at this moment a turn that hears it; None for none."""
        return self._observer.give

    async def append(self, frames: NDArray[np.generic]) -> bool:
        """Hears more. Returns whether this is the first sound of a turn that the client ends. Raises RequestError."""
        first = self._sound is None
        if self._sound is None:
            self._sound = LiveSound(self._rate)
            self._hearing = asyncio.create_task(self._hear(self._sound, self._observer))
        if self.manual and self._sound.pushed > _LONGEST:
            raise RequestError(400, f"A turn has {_LONGEST:.0f} seconds at most.", code="input_audio_buffer_full")
        await self._sound.push(frames)
        return first and self.manual

    async def commit(self) -> Heard | None:
        """Ends the turn, at once. Returns it where the client ends turns; otherwise its end is told as that of speech."""
        sound, hearing, observer = self._sound, self._hearing, self._observer
        if sound is None or hearing is None:
            return None
        sound.finish()
        self._before += sound.pushed
        self._new_turn()
        if not self.manual:
            await asyncio.wait([hearing])
            return None
        if self._transcription is None:
            await asyncio.wait([hearing])
            turn = observer.end(keeps=observer.utterances == 1)
            return Heard("stopped", self._before, samples=observer.samples(), turn=turn)
        task = asyncio.create_task(self._tell_words(hearing))
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return Heard("stopped", self._before)

    async def _tell_words(self, hearing: asyncio.Task[str]) -> None:
        self._queue.put_nowait(Heard("final", self._before, await hearing))

    async def clear(self) -> None:
        """Forgets what was not committed."""
        sound, hearing, observer = self._sound, self._hearing, self._observer
        self._before += 0.0 if sound is None else sound.pushed
        self._new_turn()
        if sound is not None and hearing is not None:
            sound.close()
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
        observer.end()

    async def close(self) -> None:
        """Ends everything."""
        await self.clear()
        for task in [*self._late, self._telling]:
            task.cancel()
        await asyncio.gather(*self._late, self._telling, return_exceptions=True)

    @property
    def _ends(self) -> dict[str, Any]:
        """What ends utterances, as `Endpointer` takes it."""
        if self._detection is None:
            return {"silence": _MANUAL_SILENCE, "pause": _PAUSE}
        found = self._detection
        spoken = found.silence if self._transcription is not None or found.sentence is None else found.sentence
        return {
            "silence": spoken,
            "pause": min(_PAUSE, spoken, found.sentence or spoken),
            "threshold": found.threshold,
            "pre_roll": found.padding,
        }

    async def _hear(self, sound: LiveSound, observer: _Observer) -> str:
        """Hears a sound to its end. Returns the words of a turn that the client ends."""
        texts: list[str] = []
        before = self._before
        try:
            if self._transcription is None:
                await self._watch(sound, observer)
                return ""
            options: dict[str, Any] = {"partials": True, "pauses": True, **self._ends, **self._transcription}
            if self._detection is not None and self._detection.sentence is not None:
                options["sentence"] = self._detection.sentence
            async with self._core.ears.listener(**options) as listener:
                listener.beside = None if self.manual else observer
                try:
                    drawn = self._core.ears.drawn(listener.listen(sound), listener)
                    async with contextlib.aclosing(drawn) as events:
                        async for event in events:
                            if event.kind == "partial":
                                agreed = " ".join([*texts, event.agreed]).strip()
                                text = " ".join([*texts, event.text]).strip()
                                self._queue.put_nowait(Heard("partial", before + event.time, text, agreed))
                            elif event.kind == "early" and not self.manual:
                                self._queue.put_nowait(Heard("early", before + event.time, event.text))
                            elif event.kind == "final" and self.manual:
                                texts += [event.text] if event.text else []
                            elif event.kind == "final":
                                self._queue.put_nowait(Heard("final", before + event.time, event.text))
                finally:
                    listener.beside = None
        except RequestError as error:
            self._queue.put_nowait(Heard("failed", error=error))
        finally:
            sound.close()
        return " ".join(texts)

    async def _watch(self, sound: LiveSound, observer: _Observer) -> None:
        async with self._core.ears.watcher(detector="none" if self.manual else "auto", **self._ends) as watcher:
            watcher.beside = observer
            try:
                async with contextlib.aclosing(self._core.ears.drawn(watcher.watch(sound), watcher)) as nothing:
                    async for _ in nothing:
                        pass
            finally:
                watcher.beside = None
