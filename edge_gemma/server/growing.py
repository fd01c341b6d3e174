"""Recordings that are sent again from their start, each time with a little more, while somebody speaks.

Some programs show words that way: they upload all that was said so far several times a second. A recording that begins exactly
as the one before is then heard on from there: only what is new is encoded, and the words of the last time are a draft of the
next. The first recording of a kind costs nothing more than any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import Endpointer, EndpointEvent
from ..audio.source import SAMPLE_RATE
from ..speech.answer import Answer
from ..speech.request import SpeechRequest
from ..speech.transcriber import Transcriber
from ..speech.turn import Turn

__all__ = ["LONGEST", "SPEAKERS", "Growing"]

LONGEST = 30.0
"""Seconds of the longest recording that is treated so."""
SPEAKERS = 2
"""Whose recordings are known at the same time."""

_SHORTEST = 0.3  # seconds that two recordings must have in common
_FORGET = 30.0  # seconds after which nobody speaks any more

Samples = NDArray[np.float32]


class _Speaker:
    """What one program sends. In a thread of its recordings."""

    def __init__(self, make: Callable[[], tuple[Transcriber, Endpointer]]) -> None:
        self._transcriber, self._endpointer = make()
        self._request: SpeechRequest = self._transcriber.request
        self._turn: Turn | None = None
        self._texts: list[str] = []
        self._draft: list[int] = []
        self._done = 0

    def hear(self, samples: Samples) -> str:
        """The words of a recording that begins with the one before. Raises EdgeGemmaError."""
        for event in self._endpointer.push(samples[self._done :]):
            self._take(event)
        self._done = len(samples)
        texts = [*self._texts, *([self._so_far(self._turn)] if self._turn else [])]
        return " ".join(filter(None, texts))

    def _take(self, event: EndpointEvent) -> None:
        if event.kind == "start":
            self._turn, self._draft = Turn(self._request), []
        turn = self._turn
        assert turn is not None
        if event.samples.size:
            turn.push(event.samples)
        if event.kind == "pause":
            turn.suggest(self._draft)
            turn.pause()
        elif event.kind == "resume":
            turn.resume()
        elif event.kind == "end":
            turn.suggest(self._draft)
            self._texts.append(self._read(turn.finish(event.keep)))
            turn.close()
            self._turn = None

    def _read(self, answer: Answer) -> str:
        with contextlib.closing(answer):
            answer.finish()
            return self._request.read(answer.text)[0]

    def _so_far(self, turn: Turn) -> str:
        """The words of an utterance that goes on: those of the answer that a pause has begun, or of a guess."""
        if turn.early is not None:
            turn.early.finish()
            self._draft = turn.early.ids
            return self._request.read(turn.early.text)[0]
        guess = turn.guess(draft=self._draft)
        text = self._read(guess)
        self._draft = guess.ids
        return text

    def close(self) -> None:
        if self._turn is not None:
            self._turn.close()
        self._transcriber.close()


class _Last:
    """The last recording with certain options, and who speaks in it once it has grown."""

    def __init__(self, samples: Samples, when: float) -> None:
        self.samples, self.when = samples, when
        self.speaker: _Speaker | None = None
        self.busy = asyncio.Lock()


class Growing:
    """The recordings of late. Of the event loop's thread."""

    def __init__(
        self,
        make: Callable[..., tuple[Transcriber, Endpointer]],
        run: Callable[..., Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` opens what hears, from the options; `run` calls a function in a thread of the recordings."""
        self._make, self._run, self._clock = make, run, clock
        self._known: dict[Any, _Last] = {}

    async def words(self, samples: Samples, options: dict[str, Any]) -> str | None:
        """The words of a recording if it has grown out of the last one with these options; else None, and it is the last one
        from now on. Raises what `Transcriber` raises."""
        await self._forget()
        key = tuple(sorted(options.items()))
        last, now = self._known.get(key), self._clock()
        if last is None or last.busy.locked() or not _continues(last.samples, samples):
            if last is None or not last.busy.locked():
                await self._drop(key)
                if len(self._known) < SPEAKERS:
                    self._known[key] = _Last(samples, now)
            return None
        async with last.busy:
            last.samples, last.when = samples, now
            try:
                speaker: _Speaker = last.speaker or await self._run(_Speaker, lambda: self._make(**options))
                last.speaker = speaker
                return str(await self._run(speaker.hear, samples))
            except BaseException:
                self._known.pop(key, None)
                if last.speaker is not None:
                    await self._run(last.speaker.close)
                raise

    async def _forget(self) -> None:
        now = self._clock()
        for key in [key for key, last in self._known.items() if now - last.when > _FORGET and not last.busy.locked()]:
            await self._drop(key)

    async def _drop(self, key: Any) -> None:
        last = self._known.pop(key, None)
        if last is not None and last.speaker is not None:
            await self._run(last.speaker.close)

    def close(self) -> None:
        """Frees everything. When no thread works any more."""
        for last in self._known.values():
            if last.speaker is not None:
                last.speaker.close()
        self._known.clear()


def _continues(old: Samples, new: Samples) -> bool:
    """Whether a recording begins as another. The last samples of the old one may belong to its conversion."""
    common = len(old) - SAMPLE_RATE // 50
    return _SHORTEST * SAMPLE_RATE < common < len(old) < len(new) <= LONGEST * SAMPLE_RATE and np.array_equal(
        old[:common], new[:common]
    )
