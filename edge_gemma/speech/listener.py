"""Listening: words and translations of what is being said, without waiting for them.

Owns the loop that shares one thread between hearing and answering. Sound comes first: it goes to the endpointer and into the
open turn (turn.py) as it arrives. A read that brings less than was asked for has emptied the source, and then there is time
for one step of other work, no longer than a token takes: the answer to a finished utterance, else the answer that a pause has
begun, else a guess at what is being said. So when the silence has lasted long enough to be the end, the answer is there.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import EndpointEvent
from ..audio.source import SAMPLE_RATE, Source, open_audio
from ..errors import EdgeGemmaValueError
from .prompts import loop_start
from .transcriber import SECOND_ATTEMPT, Transcriber, opened_model
from .transcript import Segment
from .turn import Answer, Turn

__all__ = ["Latency", "Listener", "ListenerEvent", "StepTask", "listen"]

_BLOCK = 0.5  # seconds that are read at most: a read of so much says that hearing has fallen behind
_WAIT = 0.1  # seconds to wait for sound before looking whether the work was cancelled
_LONGEST_INTERVAL = 8.0  # seconds between guesses on a machine that is too slow for more
_DRIFT = 1e-4  # what the clocks of sound devices and computers may differ by


@dataclass(frozen=True)
class Latency:
    """How long the answer to an utterance took, in seconds.

    Attributes:
        decision: from the end of speech to the decision that it was the end: mostly the silence that this takes.
        first_token: from that decision to the first token of the answer; 0 when it was there before.
        last_token: from the decision to the last.
        tokens: how many the answer has.
        ready: how many of them were there at the decision.
    """

    decision: float
    first_token: float
    last_token: float
    tokens: int
    ready: int

    @property
    def speech_to_first_token(self) -> float:
        """From the end of speech."""
        return self.decision + self.first_token

    @property
    def speech_to_last_token(self) -> float:
        """From the end of speech."""
        return self.decision + self.last_token


@dataclass(frozen=True)
class ListenerEvent:
    """What a listener has to tell.

    Attributes:
        kind: "start", somebody speaks; "partial", what the utterance seems to be so far; "final", its `segment`, with an
            empty text when there were no words; "overrun", sound was lost.
        time: seconds since the source began, of the sound that brought the event about.
        text: what is being said, or was said.
        stable: of a partial, the beginning of `text` that the last two guesses agree on, in whole words.
        segment: of a final.
        latency: of a final.
        lost: of an overrun, seconds since the one before, as far as they are known.
    """

    kind: Literal["start", "partial", "final", "overrun"]
    time: float
    text: str = ""
    stable: str = ""
    segment: Segment | None = None
    latency: Latency | None = None
    lost: float = 0.0


class StepTask(Protocol):
    """Hears what a `Listener` hears, and is given time for work of its own, before the listener's."""

    @property
    def pending(self) -> bool:
        """Whether there is a step to do now."""
        ...

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """What the endpointer found, and when its `time` was, on the listener's clock."""
        ...

    def step(self) -> Iterator[Any]:
        """Works for about as long as a token takes; what it yields, the listener yields too."""
        ...


class Listener(Transcriber):
    """Writes down what is said while it is said; with `to`, also in another language.

    Close it with `close()` or a `with` block. One thread at a time may use it; only `cancel()` may come from others.
    """

    _sessions = 4  # the request, what is heard, the answer to it, a guess

    def __init__(
        self,
        model: Any,
        language: str | None = None,
        to: str | None = None,
        *,
        partials: float | bool | None = None,
        companion: StepTask | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Reads the request.

        Args:
            model, language, to, options: as in `Transcriber`. `silence` ends an utterance; its answer is begun after `pause`.
            partials: guess at the words after every so many seconds of speech, more seldom if the machine is slow; True for
                0.5. They change nothing about the results.
            companion: hears the same utterances, and shares the time in between.
            clock: seconds, for the latencies and for telling how long a guess takes.

        Raises:
            EdgeGemmaValueError: as `Transcriber`, and "argument" for seconds that make no sense.
        """
        if partials is not None and not isinstance(partials, bool) and not partials > 0:
            raise EdgeGemmaValueError(f"partials is {partials}; it is seconds of speech, such as 0.5.", "argument")
        super().__init__(model, language, to, **options)
        self._partials = 0.5 if partials is True else float(partials or 0.0)
        self._companion, self._clock = companion, clock

    def listen(self, source: Any = None, *, once: bool = False) -> Iterator[ListenerEvent]:
        """What there is to tell about a source, as it happens, until it ends.

        Args:
            source: what `open_audio` takes; None for the default microphone. One that was given open stays open. A recording
                is heard as fast as it can be, without partials; `sound.Paced` makes it come at the speed of speech.
            once: end after the first utterance with words.

        Raises:
            Cancelled: after `cancel()`; an utterance that is not final by then is dropped.
            EdgeGemmaError: for unusable sound, or a microphone that fails.
        """
        self._cancelled = False
        opened = _microphone() if source is None else open_audio(source)
        try:
            with contextlib.closing(_Loop(self, opened)) as loop:
                for event in loop.events():
                    yield event
                    if once and event.kind == "final" and event.text:
                        return
        finally:
            if opened is not source:
                opened.close()


def listen(
    model: Any = None,
    source: Any = None,
    language: str | None = None,
    *,
    to: str | None = None,
    once: bool = False,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    **options: Any,
) -> Iterator[ListenerEvent]:
    """Listens, and yields what is said.

        for event in listen(model, language="English"):
            if event.kind == "final":
                print(event.text)

    Args:
        model: a `Model`, or the path of one; None for the file that EDGE_GEMMA_MODEL names, else the embedded toy.
        source: as in `Listener.listen`; None for the default microphone.
        language: what is spoken, a name or a code; None leaves it to the model.
        to: a language to translate into as well.
        once: end after the first utterance with words.
        mmproj, threads: as in `transcribe`.
        options: of `Listener`: partials, silence, pause; and of `Transcriber`.

    Raises:
        EdgeGemmaError: as `Listener` does. To be able to cancel, use a `Listener`.
    """
    with opened_model(model, mmproj, threads) as opened, Listener(opened, language, to, **options) as listener:
        yield from listener.listen(source, once=once)


def _microphone() -> Source:
    from ..audio.microphone import Microphone

    return Microphone()


class _Utterance:
    """One utterance from its first sound to its last token."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.answer: Answer | None = None  # once it is over
        self.second = False  # whether this is the second attempt
        self.start = 0.0  # of its first sample, seconds in the source
        # Of guesses: the last one's tokens and words, which of these are stable, samples then heard; what was shown of them.
        self.ids: list[int] = []
        self.words = self.stable = ""
        self.shown = "", ""
        self.guessed = 0
        # On the clock: the end of speech, the decision that it was the end, the first token.
        self.spoken = self.decided = 0.0
        self.first: float | None = None
        self.ready = 0

    def close(self) -> None:
        self.turn.close()
        if self.answer:
            self.answer.close()


class _Loop:
    """Listens to one source, to its end."""

    def __init__(self, listener: Listener, source: Source) -> None:
        self.source, self.listener, self.clock = source, listener, listener._clock
        self.companion = listener._companion
        self.endpointer = listener._endpointer
        self.endpointer.reset(source.position)
        self.speaking = False
        self.current = self._open()  # before the first word, so that nothing is left to do when it comes
        self.spare: _Utterance | None = None  # the next, opened when there is time
        self.over: deque[_Utterance] = deque()  # utterances that are, but for their answers
        self.guess: Answer | None = None
        self.began = 0.0  # the guess, on the clock
        self.interval = listener._partials if source.live else 0.0  # seconds of speech between guesses
        self.origin = math.inf  # of the source's time, on the clock
        self.overruns, self.lost = 0, 0.0

    def close(self) -> None:
        """Closes all sessions."""
        self._drop_guess()
        for utterance in (self.current, self.spare, *self.over):
            if utterance:
                utterance.close()

    def events(self) -> Iterator[ListenerEvent]:
        """Reads and works until the source has ended and all is answered."""
        ended = False
        if self.source.live:
            self._warm_up()
        while not ended or self.over or self._accompanied():
            self.listener._check()
            behind = False
            # Reading goes on while an answer is made, but a recording can wait for that, and a second answer is too much.
            if not ended and len(self.over) <= self.source.live and (self.source.live or not self._accompanied()):
                block = self.source.read(_BLOCK, 0 if self._busy() else _WAIT)
                ended = block is None
                yield from self._lost_sound()
                behind = block is not None and len(block) >= _BLOCK * SAMPLE_RATE
                for heard in self.endpointer.finish() if block is None else self._push(block):
                    yield from self._hear(heard)
            if self.companion and self._accompanied():
                yield from self.companion.step()
            elif self.over:
                yield from self._answer(self.over[0])
            elif behind:
                self._hurry()
            elif not self.spare:
                self.spare = self._open()
            elif self.speaking:
                yield from self._work_ahead(self.current)

    def _open(self) -> _Utterance:
        listener = self.listener
        return _Utterance(Turn(listener._base, listener._after, listener._limit, **listener._sampling))

    def _warm_up(self) -> None:
        """Touches all weights, so that the first utterance is answered as quickly as the others."""
        silence = np.zeros(SAMPLE_RATE // 2, np.float32)
        with contextlib.closing(Answer(self.listener._base.fork(), self.listener._after, 1, sound=silence)) as answer:
            answer.finish()

    def _busy(self) -> bool:
        """Whether there is something to do while no sound comes."""
        early = self.current.turn.early
        return bool(
            self.over or self.guess or self._guess_is_due() or (early and not early.stop) or self._accompanied()
        )

    def _accompanied(self) -> bool:
        """Whether the companion has something to do."""
        return bool(self.companion and self.companion.pending)

    # ---- hearing -----------------------------------------------------------------------------------------------------

    def _push(self, block: NDArray[np.float32]) -> list[EndpointEvent]:
        if len(block):
            # The earliest time at which these samples can have been said: some read was not late.
            drift = _DRIFT * len(block) / SAMPLE_RATE
            self.origin = min(self.origin + drift, self.clock() - self.source.position)
        return self.endpointer.push(block)

    def _lost_sound(self) -> Iterator[ListenerEvent]:
        overruns, lost = getattr(self.source, "overruns", 0), getattr(self.source, "lost", 0.0)
        if overruns > self.overruns:
            yield ListenerEvent("overrun", self.source.position, lost=lost - self.lost)
            self.overruns, self.lost, self.origin = overruns, lost, math.inf

    def _hear(self, heard: EndpointEvent) -> Iterator[ListenerEvent]:
        utterance, turn = self.current, self.current.turn
        if self.companion:
            self.companion.hear(heard, heard.time + self.origin)
        if heard.kind == "start":
            self.speaking, utterance.start = True, heard.time
            turn.push(heard.samples)
            yield ListenerEvent("start", heard.time)
        elif heard.kind == "audio":
            turn.push(heard.samples)
        elif heard.kind == "pause":
            self._drop_guess()
            turn.pause()
            utterance.spoken = heard.time
        elif heard.kind == "resume":
            if turn.early and turn.early.stop:
                self._take_guess(utterance, turn.early)
            turn.resume()
        else:
            self._drop_guess()
            if not turn.early:
                utterance.spoken = heard.time
            utterance.decided = self.clock()
            utterance.answer = turn.finish(heard.keep)
            utterance.ready = len(utterance.answer.ids)
            utterance.first = utterance.decided if utterance.ready else None
            utterance.spoken = min(utterance.spoken + self.origin, utterance.decided)
            self.over.append(utterance)
            self.speaking, self.current, self.spare = False, self.spare or self._open(), None

    # ---- answering ---------------------------------------------------------------------------------------------------

    def _answer(self, utterance: _Utterance) -> Iterator[ListenerEvent]:
        """One step of the answer to an utterance that is over."""
        answer = utterance.answer
        assert answer
        if not answer.stop:
            answer.step()
        if utterance.first is None and (answer.ids or answer.stop):
            utterance.first = self.clock()
        if not answer.stop:
            yield from self._show(utterance, answer.text, answer.text)
            return
        cut = loop_start(answer.text)
        if cut is not None and not utterance.second and self.listener._sampling["temperature"] == 0:
            utterance.answer = utterance.turn.again(**{**self.listener._sampling, **SECOND_ATTEMPT})
            utterance.second, utterance.first, utterance.ready = True, None, 0
            answer.close()
            return
        self.over.popleft().close()
        text, translation = self.listener._parted(answer.text[:cut])
        end = (round(utterance.start * SAMPLE_RATE) + utterance.turn.kept) / SAMPLE_RATE
        latency = Latency(
            decision=utterance.decided - utterance.spoken,
            first_token=utterance.first - utterance.decided,
            last_token=self.clock() - utterance.decided,
            tokens=len(answer.ids),
            ready=utterance.ready,
        )
        segment = Segment(utterance.start, end, text, translation, self.listener.language)
        yield ListenerEvent("final", end, text, text, segment, latency)

    def _work_ahead(self, utterance: _Utterance) -> Iterator[ListenerEvent]:
        """One step of what will be useful if things go on as they seem to, while somebody speaks."""
        early = utterance.turn.early
        if early:
            if not early.stop:
                early.step()
                yield from self._show(utterance, early.text, utterance.stable, whole=bool(early.stop))
            return
        if self._guess_is_due():
            utterance.guessed, self.began = utterance.turn.heard, self.clock()
            self.guess = utterance.turn.guess(draft=utterance.ids, trusted=self._trusted(utterance), line=True)
        if self.guess:
            self.guess.step()
            if self.guess.stop:
                self._take_guess(utterance, self.guess)
                self._drop_guess()
                self._pace(2 * (self.clock() - self.began))  # guesses may take half of the time
                yield from self._show(utterance, utterance.words, utterance.stable, whole=True)

    # ---- guessing ----------------------------------------------------------------------------------------------------

    def _guess_is_due(self) -> bool:
        turn = self.current.turn
        if not self.interval or not self.speaking or self.guess or turn.early:
            return False
        return turn.heard - self.current.guessed >= self.interval * SAMPLE_RATE

    def _take_guess(self, utterance: _Utterance, guess: Answer) -> None:
        words = _line(guess.text)
        agreed = agreement(utterance.words, words)
        if words.startswith(utterance.stable):
            agreed = max(agreed, utterance.stable, key=len)
        utterance.ids, utterance.words, utterance.stable = guess.ids, words, agreed

    def _trusted(self, utterance: _Utterance) -> int:
        """How many tokens of the last guess are its stable words: these are not checked again."""
        decode, ids = self.listener._base.model.tokenizer.decode, utterance.ids
        inside = (
            n for n in range(len(ids), 0, -1) if utterance.stable.startswith(_line(decode(ids[:n], special=True)))
        )
        return next(inside, 0)

    def _drop_guess(self) -> None:
        if self.guess:
            self.current.turn.suggest(self.guess.ids)
            self.guess.close()
            self.guess = None

    def _hurry(self) -> None:
        """Hearing has fallen behind: guesses must not take that much time."""
        if self.guess:
            self._drop_guess()
            self._pace(2 * self.interval)

    def _pace(self, interval: float) -> None:
        self.interval = max(self.listener._partials, min(interval, _LONGEST_INTERVAL))

    def _show(self, utterance: _Utterance, text: str, stable: str, whole: bool = False) -> Iterator[ListenerEvent]:
        """A partial, when it tells more than the one before, or is a whole guess."""
        text, stable = _line(text), _line(stable)
        now = text, stable if text.startswith(stable) else ""
        if self.interval and now != utterance.shown and (whole or len(text) > len(utterance.shown[0])):
            utterance.shown = now
            yield ListenerEvent("partial", utterance.start + utterance.turn.heard / SAMPLE_RATE, *now)


def _line(text: str) -> str:
    """The first line that says something."""
    return text.lstrip().split("\n")[0]


def agreement(before: str, now: str) -> str:
    """The words with which both texts begin. The last word of `now` is none yet: it may still grow."""
    shorter = min(len(before), len(now))
    n = next((at for at in range(shorter) if before[at] != now[at]), shorter)
    while n and not (n < len(now) and _parts_words(now, n) and (n == len(before) or _parts_words(before, n))):
        n -= 1
    return now[:n].rstrip()


def _parts_words(text: str, at: int) -> bool:
    """Whether a word ends or begins there. Scripts beyond the Indian and European ones do without spaces."""
    a, b = text[at - 1], text[at]
    return not (_in_word(a) and _in_word(b)) or b >= "\u2e80"


def _in_word(char: str) -> bool:
    return char.isalnum() or char in "'\u2019-"
