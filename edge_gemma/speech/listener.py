"""Live listening: words and translations of what is being said, while it is said.

Owns the loop that shares one thread between hearing and answering. Sound comes first: it goes to the endpointer and into the
open turn (turn.py) as it arrives. A read that returns less than it asked for has emptied the source. Then there is time for one
step of other work, about as long as one token takes: the answer to a finished utterance, else the answer that a pause has
begun, else a guess at what is being said. So the answer is mostly complete when the silence has lasted long enough to be the
end.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import Endpointer, EndpointEvent
from ..audio.source import SAMPLE_RATE, Source, open_audio
from ..audio.vad import Detector
from ..engine.interface import ModelLike
from ..engine.memory import MemoryLimit
from ..engine.opening import ModelOrPath, opened_model
from ..engine.sampling import Sampling
from ..errors import EdgeGemmaValueError
from .answer import Answer
from .languages import language_names
from .prompts import Order
from .request import Cancellable, SpeechRequest, open_endpointer, open_request, second_attempt
from .transcriber import yield_and_close
from .transcript import Segment
from .turn import Latency, Turn, TurnTiming

__all__ = ["Listener", "ListenerEvent", "StepTask", "listen"]

_SESSIONS = 4  # that are open at the same time: the request, what is heard, the answer to it, a guess
_BLOCK = 0.5  # seconds that are read at most; a read that returns so much means that hearing has fallen behind
_WAIT = 0.1  # seconds to wait for sound before looking whether the work was cancelled
_LONGEST_INTERVAL = 8.0  # seconds of speech between guesses on the slowest machine
_AGREEMENT, _AGREEING = 1.2, 3  # seconds of speech, and least number of guesses, that words must have stayed in
_DRIFT = 1e-4  # relative difference between the clocks of a sound device and the computer, at most


@dataclass(frozen=True)
class ListenerEvent:
    """Something that a listener has noticed.

    Attributes:
        kind: "start": somebody begins to speak. "partial": what the utterance seems to be so far. "final": the utterance is
            over and `segment` is its transcript, with an empty text if there were no words. "overrun": sound was lost.
            A listener that tells pauses also has "early": a pause may be the end of the utterance, and `text` will then be
            its transcript; and "resume": it was not the end.
        time: seconds since the source began: of the sound that led to the event.
        text: of a partial, early or final: the words. Those of a partial are a guess. Before the speaker has said much, it
            may be any sentence, so programs that show or use it should wait until something is agreed.
        agreed: of a partial: the beginning of `text`, in whole words, that has been in all guesses of the last 1.2 seconds of
            speech, and in three of them at least. It hardly changes, but it may still change: only a final is certain.
        segment: of a final.
        latency: of a final.
        avg_logprob: of a final, if the listener measures confidence: the mean natural logarithm of the probabilities of its
            tokens, 0 at most. The lower it is, the less sure the model is.
        lost: of an overrun: seconds of sound that were lost since the one before, as far as that is known.
    """

    kind: Literal["start", "partial", "early", "resume", "final", "overrun"]
    time: float
    text: str = ""
    agreed: str = ""
    segment: Segment | None = None
    latency: Latency | None = None
    avg_logprob: float | None = None
    lost: float = 0.0


class StepTask(Protocol):
    """Other work in a listener's loop: it hears what the `Listener` hears, and its steps come before the listener's own."""

    @property
    def pending(self) -> bool:
        """Whether there is a step to do now."""
        ...

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """Takes what the endpointer has found. `at`: when `heard.time` was, on the listener's clock."""
        ...

    def step(self) -> Iterator[Any]:
        """Works for about as long as one token takes. The listener yields all that this yields."""
        ...


class Listener(Cancellable):
    """Writes down what is said while it is said; with `to`, also in another language.

    Close it with `close()` or a `with` block. One thread at a time may use it; only `cancel()` may come from others.

    Attributes:
        language, to: English names, or None.
        request: what the model is asked; its session belongs to the listener.
    """

    def __init__(
        self,
        model: ModelLike,
        language: str | None = None,
        to: str | None = None,
        *,
        partials: float | bool | None = None,
        step_task: StepTask | None = None,
        clock: Callable[[], float] = time.monotonic,
        confidence: bool = False,
        pauses: bool = False,
        priority: int = 1,
        endpointer: Endpointer | None = None,
        initial_prompt: str | None = None,
        hotwords: str | Sequence[str] | None = None,
        order: Order = "instruction-first",
        max_seconds: float = 28.0,
        detector: str | Detector = "auto",
        silence: float = 0.7,
        pause: float = 0.25,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> None:
        """Opens a session and reads the request.

        Args:
            model, language, to: as in `Transcriber`.
            partials: seconds of speech between guesses at the words, more on a slow machine; True for 0.4, None for no
                guesses. Guesses never change the result.
            step_task: other work that hears the same utterances and shares the time between reads.
            clock: seconds, for the latencies and for how long guesses take.
            confidence: whether final events tell `avg_logprob`.
            pauses: whether it tells what a pause has led to, with events "early" and "resume".
            priority: that of its sessions. Above 0, which others have, it goes before other work of the same model.
            endpointer: finds the utterances, instead of one with `detector`, `silence`, `pause` and `max_seconds`.
            silence: seconds of silence that end an utterance.
            pause: seconds of silence after which its answer is begun.
            initial_prompt, hotwords, order, max_seconds, detector, context, kv, memory_limit, max_tokens, sampling, stop: as
                in `Transcriber`.

        Raises:
            EdgeGemmaError: as `Transcriber`.
        """
        super().__init__()
        if partials is not None and not isinstance(partials, bool) and not partials > 0:
            raise EdgeGemmaValueError(f"partials is {partials}; it is seconds of speech, such as 0.5.", "argument")
        self.language, self.to = language_names(model, language, to)
        self._interval = 0.4 if partials is True else float(partials or 0.0)
        self._step_task, self._clock = step_task, clock
        self._confidence, self._pauses = confidence, pauses
        self._endpointer = endpointer or open_endpointer(model, detector, silence, pause, max_seconds)
        self.request: SpeechRequest = open_request(
            model,
            self.language,
            self.to,
            initial_prompt=initial_prompt,
            hotwords=hotwords,
            order=order,
            max_seconds=max_seconds,
            context=context,
            kv=kv,
            memory_limit=memory_limit,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            sessions=_SESSIONS,
        )
        self.request.session.priority = priority

    def close(self) -> None:
        """Frees the session. Further calls do nothing."""
        self.request.session.close()

    def __enter__(self) -> Listener:
        """The listener itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def listen(self, source: Any = None, *, once: bool = False) -> Generator[ListenerEvent, None, None]:
        """Yields the events of a source as they happen, until the source ends.

        Args:
            source: what `open_audio` takes; None for the default microphone. A source that was given open stays open. A
                recording is heard as fast as possible, without partials; `audio.source.Paced` plays it at the speed of
                speech.
            once: end after the first utterance with words.

        Raises:
            Cancelled: after `cancel()`; an utterance that is not final by then is dropped.
            EdgeGemmaError: for unusable sound, or a microphone that fails.
        """
        opened = _microphone() if source is None else open_audio(source)
        try:
            loop = _Loop(
                opened,
                self.request,
                self.language,
                self._endpointer,
                interval=self._interval if opened.live else 0.0,
                confidence=self._confidence,
                step_task=self._step_task,
                pauses=self._pauses,
                clock=self._clock,
                check=self.check_cancelled,
            )
            with contextlib.closing(loop):
                for event in loop.events():
                    yield event
                    if once and event.kind == "final" and event.text:
                        return
        finally:
            if opened is not source:
                opened.close()


def listen(
    model: ModelOrPath | None = None,
    source: Any = None,
    language: str | None = None,
    *,
    to: str | None = None,
    once: bool = False,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    partials: float | bool | None = None,
    step_task: StepTask | None = None,
    clock: Callable[[], float] = time.monotonic,
    initial_prompt: str | None = None,
    hotwords: str | Sequence[str] | None = None,
    order: Order = "instruction-first",
    max_seconds: float = 28.0,
    detector: str | Detector = "auto",
    silence: float = 0.7,
    pause: float = 0.25,
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] | None = None,
) -> Iterator[ListenerEvent]:
    """Listens, and yields what is said.

        for event in listen(model, language="English"):
            if event.kind == "final":
                print(event.text)

    Arguments are checked, and the model is opened, at once; the source is opened with the first event.

    Args:
        model: a `Model`, or the path of one; None for the file that EDGE_GEMMA_MODEL names, else the embedded toy.
        source: as in `Listener.listen`; None for the default microphone.
        language: what is spoken, a name or a code; None leaves it to the model.
        to: a language to translate into as well.
        once: end after the first utterance with words.
        mmproj, threads: as in `transcribe`.
        partials, step_task, clock, initial_prompt, hotwords, order, max_seconds, detector, silence, pause, context, kv,
            memory_limit, max_tokens, sampling, stop: as in `Listener`.

    Raises:
        EdgeGemmaError: as `Listener` does. To be able to cancel, use a `Listener`.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            Listener(
                stack.enter_context(opened_model(model, mmproj, threads)),
                language,
                to,
                partials=partials,
                step_task=step_task,
                clock=clock,
                initial_prompt=initial_prompt,
                hotwords=hotwords,
                order=order,
                max_seconds=max_seconds,
                detector=detector,
                silence=silence,
                pause=pause,
                context=context,
                kv=kv,
                memory_limit=memory_limit,
                max_tokens=max_tokens,
                sampling=sampling,
                stop=stop,
            )
        )
        resources = stack.pop_all()
    return yield_and_close(listener.listen(source, once=once), resources)


def _microphone() -> Source:
    from ..audio.microphone import Microphone

    return Microphone()


class _Utterance:
    """One utterance, from its first sound to the last token of its answer."""

    def __init__(self, turn: Turn, clock: Callable[[], float]) -> None:
        self.turn, self.timing = turn, TurnTiming(clock)
        self.answer: Answer | None = None  # once the utterance is over
        self.start = 0.0  # seconds in the source, of the first sample
        # The last guess: its tokens, its words, which of the words are agreed, and how many samples it has heard.
        self.ids: list[int] = []
        self.words = self.agreed = ""
        self.guessed = 0
        self.guesses: deque[tuple[int, str]] = deque()  # samples and words of the guesses that have to agree
        self.shown = "", ""  # text and agreed text of the last partial

    def close(self) -> None:
        self.turn.close()
        if self.answer:
            self.answer.close()


class _Loop:
    """Listens to one source, until it ends."""

    def __init__(
        self,
        source: Source,
        request: SpeechRequest,
        language: str | None,
        endpointer: Endpointer,
        *,
        interval: float,
        confidence: bool,
        step_task: StepTask | None,
        pauses: bool,
        clock: Callable[[], float],
        check: Callable[[], None],
    ) -> None:
        """`interval`: seconds of speech between guesses, 0 for no guesses. `confidence`: finals tell `avg_logprob`.
        `check`: raises when the work is cancelled."""
        self._confidence, self._pauses = confidence, pauses
        self._source, self._request, self._language, self._endpointer = source, request, language, endpointer
        self._shortest_interval = self._interval = interval
        self._step_task, self._clock, self._check = step_task, clock, check
        endpointer.reset(source.position)
        self._speaking = False
        self._current = self._open()  # before the first word, so that hearing it takes no preparation
        self._spare: _Utterance | None = None  # the next utterance, opened when there is time
        self._finished: deque[_Utterance] = deque()  # they are over, but their answers are not complete
        self._guess: Answer | None = None
        self._guess_began = 0.0  # on the clock
        self._origin = math.inf  # the time 0 of the source, on the clock
        self._overruns, self._lost = 0, 0.0  # that were reported

    def close(self) -> None:
        """Closes all sessions but the request's."""
        self._drop_guess()
        for utterance in (self._current, self._spare, *self._finished):
            if utterance:
                utterance.close()

    def events(self) -> Iterator[ListenerEvent]:
        """Reads and works until the source has ended and everything is answered."""
        ended, live = False, self._source.live
        if live:
            self._warm_up()
        while not ended or self._finished or self._has_step_task_work():
            self._check()
            behind = False
            # A live source is read on while one utterance is being answered, but not with two of them waiting. A recording
            # can wait for every answer.
            if not ended and len(self._finished) <= live and (live or not self._has_step_task_work()):
                block = self._source.read(_BLOCK, 0 if self._busy() else _WAIT)
                ended = block is None
                yield from self._report_lost_sound()
                behind = block is not None and len(block) >= _BLOCK * SAMPLE_RATE
                for heard in self._endpointer.finish() if block is None else self._push(block):
                    yield from self._hear(heard)
            if self._step_task and self._has_step_task_work():
                yield from self._step_task.step()
            elif self._finished:
                yield from self._answer(self._finished[0])
            elif behind:
                self._drop_late_guess()
            elif not self._spare:
                self._spare = self._open()
            elif self._speaking:
                yield from self._work_ahead(self._current)

    def _open(self) -> _Utterance:
        return _Utterance(Turn(self._request), self._clock)

    def _warm_up(self) -> None:
        """Touches all weights, so that the first utterance is answered as fast as the others."""
        silence = np.zeros(SAMPLE_RATE // 2, np.float32)
        warm_up = Answer(self._request.session.fork(), self._request.closing, 1, sound=silence)
        with contextlib.closing(warm_up):
            warm_up.finish()

    def _busy(self) -> bool:
        """Whether there is work to do while no sound comes."""
        early = self._current.turn.early
        return bool(
            self._finished
            or self._guess
            or self._guess_is_due()
            or (early and not early.stop)
            or self._has_step_task_work()
        )

    def _has_step_task_work(self) -> bool:
        return bool(self._step_task and self._step_task.pending)

    # ---- hearing -----------------------------------------------------------------------------------------------------

    def _push(self, block: NDArray[np.float32]) -> list[EndpointEvent]:
        if len(block):
            # These samples cannot have been read before they were said. The earliest origin that this leaves is right,
            # because some reads are not late.
            drift = _DRIFT * len(block) / SAMPLE_RATE
            self._origin = min(self._origin + drift, self._clock() - self._source.position)
        return self._endpointer.push(block)

    def _report_lost_sound(self) -> Iterator[ListenerEvent]:
        overruns, lost = self._source.overruns, self._source.lost
        if overruns > self._overruns:
            yield ListenerEvent("overrun", self._source.position, lost=lost - self._lost)
            self._overruns, self._lost, self._origin = overruns, lost, math.inf

    def _hear(self, heard: EndpointEvent) -> Iterator[ListenerEvent]:
        utterance, at = self._current, heard.time + self._origin
        turn, timing = utterance.turn, utterance.timing
        if self._step_task:
            self._step_task.hear(heard, at)
        if heard.kind == "start":
            self._speaking, utterance.start = True, heard.time
            turn.push(heard.samples)
            yield ListenerEvent("start", heard.time)
        elif heard.kind == "audio":
            turn.push(heard.samples)
        elif heard.kind == "pause":
            self._drop_guess()
            turn.pause()
            timing.pause(at)
        elif heard.kind == "resume":
            if turn.early and turn.early.stop:
                self._take_guess(utterance, turn.early)
            turn.resume()
            timing.resume()
            if self._pauses:
                yield ListenerEvent("resume", heard.time)
        else:
            self._drop_guess()
            utterance.answer = timing.end(turn, heard.keep, at)
            self._finished.append(utterance)
            self._speaking, self._current, self._spare = False, self._spare or self._open(), None

    # ---- answering ---------------------------------------------------------------------------------------------------

    def _answer(self, utterance: _Utterance) -> Iterator[ListenerEvent]:
        """One step of the answer to a finished utterance."""
        answer, timing = utterance.answer, utterance.timing
        assert answer
        timing.step(answer)
        if not answer.stop:
            yield from self._show(utterance, answer.text, answer.text)
            return
        if again := second_attempt(answer.text, answer.sampling):
            utterance.answer = utterance.turn.again(again)
            timing.restart()
            answer.close()
            return
        self._finished.popleft().close()
        end = (round(utterance.start * SAMPLE_RATE) + utterance.turn.kept) / SAMPLE_RATE
        segment = self._request.segment(answer, utterance.start, end, self._language)
        latency, text = timing.latency(len(answer.ids)), segment.text
        sure = answer.avg_logprob if self._confidence else None
        yield ListenerEvent("final", end, text, text, segment, latency, sure)

    def _work_ahead(self, utterance: _Utterance) -> Iterator[ListenerEvent]:
        """While somebody speaks: one step of the answer that a pause has begun, or of a guess."""
        early = utterance.turn.early
        if early:
            if not early.stop:
                utterance.timing.step(early)
                yield from self._show(utterance, early.text, utterance.agreed, whole=bool(early.stop))
                if early.stop and self._pauses:
                    heard = utterance.start + utterance.turn.heard / SAMPLE_RATE
                    yield ListenerEvent("early", heard, self._request.read(early.text)[0])
            return
        if self._guess_is_due():
            utterance.guessed, self._guess_began = utterance.turn.heard, self._clock()
            self._guess = utterance.turn.guess(draft=utterance.ids, trusted=self._trusted(utterance), line=True)
        if self._guess:
            self._guess.step()
            if self._guess.stop:
                self._take_guess(utterance, self._guess)
                self._drop_guess()
                self._set_guess_interval(2 * (self._clock() - self._guess_began))  # guesses may take half of the time
                yield from self._show(utterance, utterance.words, utterance.agreed, whole=True)

    # ---- guessing ----------------------------------------------------------------------------------------------------

    def _guess_is_due(self) -> bool:
        turn = self._current.turn
        if not self._interval or not self._speaking or self._guess or turn.early:
            return False
        return turn.heard - self._current.guessed >= self._interval * SAMPLE_RATE

    def _take_guess(self, utterance: _Utterance, guess: Answer) -> None:
        """Notes the words of a complete guess, and which of them have been in enough guesses for long enough."""
        words, guesses = _first_line(guess.text), utterance.guesses
        agreed = utterance.agreed if words.startswith(utterance.agreed) else ""
        guesses.append((utterance.turn.heard, words))
        oldest = utterance.turn.heard - round(_AGREEMENT * SAMPLE_RATE)
        while len(guesses) > _AGREEING and guesses[1][0] <= oldest:
            guesses.popleft()
        if len(guesses) >= _AGREEING and guesses[0][0] <= oldest:
            agreed = max(agreed, agreement([other for _, other in guesses]), key=len)
        utterance.ids, utterance.words, utterance.agreed = guess.ids, words, agreed

    def _trusted(self, utterance: _Utterance) -> int:
        """How many tokens of the last guess are its agreed words. The next guess does not verify them again."""
        decode, ids = self._request.session.model.tokenizer.decode, utterance.ids
        inside = (
            n for n in range(len(ids), 0, -1) if utterance.agreed.startswith(_first_line(decode(ids[:n], special=True)))
        )
        return next(inside, 0)

    def _drop_guess(self) -> None:
        if self._guess:
            self._current.turn.suggest(self._guess.ids)
            self._guess.close()
            self._guess = None

    def _drop_late_guess(self) -> None:
        """Hearing has fallen behind: drops the guess that may have caused it, and makes guesses less frequent."""
        if self._guess:
            self._drop_guess()
            self._set_guess_interval(2 * self._interval)

    def _set_guess_interval(self, interval: float) -> None:
        self._interval = max(self._shortest_interval, min(interval, _LONGEST_INTERVAL))

    def _show(self, utterance: _Utterance, text: str, agreed: str, whole: bool = False) -> Iterator[ListenerEvent]:
        """A partial, if it differs from the last one and is longer or a complete guess (`whole`)."""
        text, agreed = _first_line(text), _first_line(agreed)
        now = text, agreed if text.startswith(agreed) else ""
        if self._interval and now != utterance.shown and (whole or len(text) > len(utterance.shown[0])):
            utterance.shown = now
            yield ListenerEvent("partial", utterance.start + utterance.turn.heard / SAMPLE_RATE, *now)


def _first_line(text: str) -> str:
    """The first line with words."""
    return text.lstrip().split("\n")[0]


def agreement(guesses: Sequence[str]) -> str:
    """The words that all guesses begin with, without the last word of the last guess, which may still grow."""
    now = guesses[-1]
    same = (len(set(letters)) == 1 for letters in zip(*guesses, strict=False))
    n = sum(itertools.takewhile(bool, same))
    while n and not (n < len(now) and all(_at_word_edge(guess, n) for guess in guesses)):
        n -= 1
    return now[:n].rstrip()


def _at_word_edge(text: str, at: int) -> bool:
    """Whether a word ends or begins at that index. East Asian scripts (from U+2E80 on) write no spaces between words."""
    if at == len(text):
        return True
    a, b = text[at - 1], text[at]
    return not (_in_word(a) and _in_word(b)) or b >= "\u2e80"


def _in_word(char: str) -> bool:
    return char.isalnum() or char in "'\u2019-"
