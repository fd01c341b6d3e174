"""`SpokenAssistant`: answers spoken utterances with tools, begun before it is certain that the speaker has finished.

Owns the session that has read instructions and tools, the exchanges that are not over, and the order of their work. The
listener (speech/listener.py) owns the loop, the source and the transcripts: the assistant is a step task of it, which hears
the same sound in a session of its own. A step takes about as long as a token, so the sound is never kept waiting.

Every utterance is answered by itself, from a fork of the session that has read the instructions. Listener and assistant both
encode the sound, because each has to go back to the last pause in its own session.

The answer to the sound is begun in a pause, before the words are known, and the model may hear something else in it than the
transcript says. With `reads_transcript`, the words follow the sound in the user's turn, and what the model then answers is
carried out. The answer to the sound alone is its draft: where the two agree, only the words are left to read at the end.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import EndpointEvent
from ..audio.source import SAMPLE_RATE, Source
from ..chat.calls import ToolCall
from ..chat.prompt import Prompt, around_media
from ..chat.reply import MODEL_STOPS, Reply, ReplyParser
from ..chat.tool_loop import ToolLoop
from ..chat.tools import Tool, Toolbox
from ..engine.interface import ModelLike
from ..engine.memory import resident
from ..engine.sampling import GREEDY, Sampling
from ..errors import EdgeGemmaError, EdgeGemmaValueError
from ..speech.answer import Answer
from ..speech.languages import language_names
from ..speech.listener import Listener, ListenerEvent
from ..speech.prompts import loop_start, one_line
from ..speech.request import SpeechRequest
from ..speech.transcriber import Transcriber
from ..speech.turn import Turn, TurnTiming
from .exchange import AssistantEvent, Exchange, Timing
from .steadiness import is_steady
from .target_language import TargetLanguage

__all__ = ["UNSURE", "SpokenAssistant"]

UNSURE = "not sure what was meant, so nothing was done"
"""The problem of an exchange in which an answer was too improbable; see `SpokenAssistant`."""

_LEVEL_SAMPLES = SAMPLE_RATE // 10  # that a "sound" event is about

_Steps = Generator[AssistantEvent | None, None, None]
"""Work in steps: each yields an event, or None when there is nothing to tell."""


class _OpenExchange:
    """An exchange that is not over."""

    def __init__(self, exchange: Exchange, turn: Turn, clock: Callable[[], float]) -> None:
        self.exchange, self.turn, self.timing = exchange, turn, TurnTiming(clock)
        self.answer: Answer | None = None  # the answer that is being given, once the turn is over
        self.samples: list[NDArray[np.float32]] = []
        self.acted: float | None = None  # on the clock: see `Timing`
        self.tokens = 0

    def close(self) -> None:
        self.turn.close()
        if self.answer:
            self.answer.close()


class SpokenAssistant:
    """Hears every utterance that a `Listener` hears, calls tools, replies, and translates. A `StepTask`.

        assistant = SpokenAssistant(model, "You are the voice of a home.", tools)
        listener = Listener(model, step_task=assistant)
        for event in assistant.listen(listener, source): ...

    Close it with `close()` or a `with` block. It belongs to the thread of its listener.
    """

    def __init__(
        self,
        model: ModelLike,
        instructions: str,
        tools: Sequence[Callable[..., Any] | Tool],
        *,
        language: str | None = None,
        translation: TargetLanguage | None = None,
        reads_transcript: bool = False,
        least_logprob: float | None = None,
        least_probability: float = 0.0,
        max_seconds: float = 15.0,
        max_tokens: int = 96,
        max_rounds: int = 2,
        result_tokens: int = 256,
        sampling: Sampling = GREEDY,
        clock: Callable[[], float] = time.monotonic,
        new_exchange: Callable[[float], Exchange] = Exchange,
    ) -> None:
        """Opens a session and reads the instructions and the tools.

        Args:
            model: an open model with an audio encoder.
            instructions: what the assistant is told.
            tools: what the model may call.
            language: what is spoken, a name or a code; None leaves it to the model.
            translation: the language to translate into; None for no translation.
            reads_transcript: whether the transcript is read before anything is carried out, so that it agrees with the
                words that are shown. Then nothing is answered where there are no words, or where the sound is too steady
                to be speech.
            least_logprob: with `reads_transcript`, an utterance whose transcript has a lower `ListenerEvent.avg_logprob` is
                not answered, and `problem` says so. The listener must measure confidence. None answers every utterance.
            least_probability: with `reads_transcript`, tool calls that are less probable are not made, and `problem` says so.
            max_seconds: the longest utterance; the listener must not hear longer ones.
            max_tokens: the most tokens of an answer: a reply, or the calls that come before it.
            max_rounds: how often in one exchange the model may call tools.
            result_tokens: the tokens that all results of an exchange may take.
            sampling: how answers are drawn.
            clock: seconds; that of the listener.
            new_exchange: makes the exchange of an utterance from its start, in seconds.

        Raises:
            EdgeGemmaValueError: "context" when the model has no room for all of this, "tool" for an unusable tool, "argument"
                or "unsupported" for an unknown language.
        """
        language_names(model, language, translation.to if translation else None)
        self._model, self._clock, self._new_exchange = model, clock, new_exchange
        self._language, self._translation = language, translation
        self._reads_transcript = reads_transcript
        self._least_logprob, self._least_probability = least_logprob, least_probability
        self._max_seconds, self._max_tokens, self._max_rounds = max_seconds, max_tokens, max_rounds
        self._tools = _runnable(tools)
        tokenizer = model.tokenizer
        self._prompt = Prompt(tokenizer, tokenizer.chat_template, self._tools.schemas, {"enable_thinking": False})
        self._instructions = instructions
        before, closing = self._around_sound()
        sound_tokens = model.audio_tokens(round(max_seconds * SAMPLE_RATE)) + 2
        answers = (max_rounds + 1) * max_tokens + result_tokens
        needed = len(before) + sound_tokens + len(closing) + answers
        if needed > model.config.context_length:
            raise EdgeGemmaValueError(
                f"The assistant needs a context of {needed} tokens, {len(before)} of them for the instructions and the tools; "
                f"this model has {model.config.context_length}.",
                "context",
            )
        session = model.session(context=needed)
        self._request = SpeechRequest(session, closing, lambda _: max_tokens, sampling)
        self._translators: dict[str, Transcriber] = {}  # by the English name of the language to translate into
        self._open: deque[_OpenExchange] = deque()  # oldest first; while somebody speaks, the last is being spoken
        self._steps: deque[_Steps] = deque()  # the work that is left to do, in order
        self._events: list[AssistantEvent] = []  # that were not yielded yet
        self._level_blocks: list[NDArray[np.float32]] = []  # sound that no "sound" event was about yet
        self._speaking = False
        self._live = True  # whether the source is read at the speed of speech
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(session.close)
            session.feed_tokens(before)
            on_failure.pop_all()

    def _around_sound(self, *words: str) -> tuple[list[int], list[int]]:
        """The tokens before an utterance, and those between it and the answer. `words`: its transcript."""
        content = [
            {"type": "audio", "audio": np.zeros(1, np.float32)},
            *({"type": "text", "text": text} for text in words),
        ]
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self._instructions},
            {"role": "user", "content": content},
        ]
        return around_media(self._prompt.conversation(messages))

    def close(self) -> None:
        """Frees the sessions. Further calls do nothing."""
        self._drop_exchanges()
        for translator in self._translators.values():
            translator.close()
        self._request.session.close()

    def __enter__(self) -> SpokenAssistant:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    @property
    def busy(self) -> bool:
        """Whether somebody speaks or an exchange is not over."""
        return bool(self._open)

    def listen(self, listener: Listener, source: Source) -> Iterator[AssistantEvent]:
        """Yields what happens while the listener hears a source, until the source ends. The source stays open.

        Exchanges that are not over when the iteration is left early are dropped.

        Args:
            listener: this assistant is its step task.
            source: the sound.

        Raises:
            Cancelled: after `listener.cancel()`.
            EdgeGemmaError: for unusable sound.
        """
        self._live = source.live
        shown = ("", "")
        with contextlib.ExitStack() as stack:
            stack.callback(self._drop_exchanges)
            for event in stack.enter_context(contextlib.closing(listener.listen(source))):
                if isinstance(event, AssistantEvent):  # from `step`
                    yield event
                elif event.kind == "overrun":
                    yield AssistantEvent("overrun", event.time, lost=event.lost)
                elif event.kind == "start":
                    yield AssistantEvent("start", event.time, self._open[-1].exchange)
                elif event.kind == "final":
                    yield self._take_transcript(event)
                elif (now := (one_line(event.text), one_line(event.agreed))) != shown:
                    shown = now
                    exchange = self._without_transcript().exchange
                    yield AssistantEvent("partial", event.time, exchange, text=now[0], agreed=now[1])

    def _drop_exchanges(self) -> None:
        for steps in self._steps:
            steps.close()
        for work in self._open:
            work.close()
        self._steps.clear()
        self._open.clear()
        self._events, self._level_blocks, self._speaking = [], [], False

    # ---- what the listener calls ----

    @property
    def pending(self) -> bool:
        """Whether there is a step to do now."""
        return bool(self._events or self._steps or self._early_answer())

    def _early_answer(self) -> Answer | None:
        """The answer that a pause has begun, unless it is complete."""
        early = self._open[-1].turn.early if self._speaking else None
        return early if early and not early.stop else None

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """Takes what the endpointer has found. `at`: when `heard.time` was, on the clock."""
        if heard.kind == "start":
            turn = Turn(self._request)
            self._open.append(_OpenExchange(self._new_exchange(heard.time), turn, self._clock))
            self._speaking = True
        work = self._open[-1]
        if heard.samples.size:
            work.samples.append(heard.samples)
            work.turn.push(heard.samples)
            self._measure_level(heard, work.exchange)
        if heard.kind == "pause":
            work.turn.pause()
            work.timing.pause(at)
        elif heard.kind == "resume":
            work.turn.resume()
            work.timing.resume()
        elif heard.kind == "end":
            work.answer = work.timing.end(work.turn, heard.keep, at)
            work.exchange.end = work.exchange.start + work.turn.kept / SAMPLE_RATE
            self._speaking = False
            self._steps.append(self._draft(work) if self._reads_transcript else self._answer(work))

    def _measure_level(self, heard: EndpointEvent, exchange: Exchange) -> None:
        self._level_blocks.append(heard.samples)
        if sum(map(len, self._level_blocks)) >= _LEVEL_SAMPLES:
            samples, self._level_blocks = np.concatenate(self._level_blocks), []
            decibels = 10 * np.log10(float(np.mean(np.square(samples))) + 1e-12)
            level = min(1.0, max(0.0, (decibels + 55) / 40))
            self._events.append(AssistantEvent("sound", heard.time, exchange, level=level))

    def step(self) -> Iterator[AssistantEvent]:
        """Works for about as long as one token takes: at an answer that a pause began, else at the oldest work."""
        events, self._events = self._events, []
        yield from events
        early = self._early_answer()
        if early:
            self._open[-1].timing.step(early)
        elif self._steps:
            try:
                event = next(self._steps[0])
            except StopIteration:
                self._steps.popleft()
            else:
                if event:
                    yield event

    # ---- answering, in steps ----

    def _draft(self, work: _OpenExchange) -> _Steps:
        """The answer to the sound alone, of which nothing is told."""
        assert work.answer
        while not work.answer.stop:
            work.timing.step(work.answer)
            yield None

    def _read_transcript(self, work: _OpenExchange) -> _Steps:
        """The answer to the sound and the words takes the place of the answer to the sound alone."""
        draft, words = work.answer, work.exchange.text
        assert draft and words
        _, closing = self._around_sound(words)
        session, sound = draft.session.fork(), None
        own = len(draft.ids) + (draft.stop in MODEL_STOPS)
        try:
            session.rewind(len(self._request.closing) + own)
        except EdgeGemmaError as error:
            if error.code != "state":  # it cannot go back that far, so the sound is heard again
                raise
            session.close()
            session, sound = self._request.session.fork(), self._sound(work)
        draft.close()
        work.answer = Answer(
            session,
            closing,
            self._max_tokens,
            sampling=self._request.sampling,
            sound=sound,
            draft=draft.ids,
            measured=self._least_probability > 0,
        )
        yield None

    def _answer(self, work: _OpenExchange) -> _Steps:
        """The tool calls and the reply."""
        exchange = work.exchange
        loop = ToolLoop(self._tools, self._prompt, self._max_rounds, warn=False)
        try:
            if self._reads_transcript:
                yield from self._read_transcript(work)
            reply = yield from self._generate(work)
            calls = self._calls(work, loop, reply)
            if calls and self._improbable(work):
                exchange.problem, exchange.reply, calls = UNSURE, "", []
            while calls and not loop.refusal(calls):
                yield from self._run_tools(work, loop, calls)
                reply = yield from self._generate(work)
                calls = self._calls(work, loop, reply)
        except EdgeGemmaError as error:
            if error.code != "context":
                raise
            exchange.problem = str(error)
        if work.acted is None:
            work.acted = self._clock()
        exchange.reply = one_line(exchange.reply)
        yield AssistantEvent("reply", exchange.end, exchange, text=exchange.reply, final=True)

    def _improbable(self, work: _OpenExchange) -> bool:
        assert work.answer
        least = self._least_probability
        return least > 0 and sum(work.answer.logprobs) < math.log(least)

    def _generate(self, work: _OpenExchange) -> Generator[AssistantEvent | None, None, Reply]:
        """One answer of the model, to its end."""
        answer, exchange = work.answer, work.exchange
        assert answer
        while not answer.stop:
            work.timing.step(answer)
            text = one_line(answer.text)
            grown = text != exchange.reply
            exchange.reply = text
            yield AssistantEvent("reply", exchange.end, exchange, text=text) if text and grown else None
        exchange.reply = answer.text[: loop_start(answer.text)]
        work.tokens += len(answer.ids)
        parser = ReplyParser(in_thought=answer.in_thought, markers=self._model.tokenizer.control_tokens)
        parser.feed(self._model.tokenizer.decode(answer.ids, special=True))
        parser.finish(complete=answer.stop in MODEL_STOPS)
        return parser.reply

    @staticmethod
    def _calls(work: _OpenExchange, loop: ToolLoop, reply: Reply) -> list[ToolCall]:
        return loop.calls(reply, work.answer.stop if work.answer else "")

    def _run_tools(self, work: _OpenExchange, loop: ToolLoop, calls: Sequence[ToolCall]) -> _Steps:
        """Runs the calls, and begins the answer that follows their results."""
        exchange, answer = work.exchange, work.answer
        assert answer
        for event in loop.run(calls):
            if event.kind == "tool_call":
                yield AssistantEvent("call", exchange.end, exchange, call=event.call)
                continue
            assert event.call
            if work.acted is None:
                work.acted = self._clock()
            exchange.calls.append(event.call)
            exchange.results.append(event.result)
            yield AssistantEvent("result", exchange.end, exchange, call=event.call, result=event.result)
        session = answer.session
        if answer.stop in MODEL_STOPS:
            session.rewind(1)  # the token that ended the answer
        work.answer = Answer(session, loop.continuation(answer.ids), self._max_tokens, sampling=self._request.sampling)
        exchange.reply = ""

    # ---- transcripts and translations ----

    def _without_transcript(self) -> _OpenExchange:
        """The oldest exchange without a transcript: the next one is its."""
        return next(work for work in self._open if work.exchange.text is None)

    def _take_transcript(self, final: ListenerEvent) -> AssistantEvent:
        work = self._without_transcript()
        exchange = work.exchange
        exchange.text = final.text
        if self._reads_transcript:
            if exchange.text and is_steady(self._sound(work)):
                exchange.text = ""
            if exchange.text and self._is_unsure(final):
                exchange.problem = UNSURE
            answered = bool(exchange.text) and not exchange.problem
            self._steps.append(self._answer(work) if answered else self._leave_alone(work))
        self._steps.append(self._translate(work))
        return AssistantEvent("transcript", exchange.end, exchange, text=exchange.text)

    def _is_unsure(self, final: ListenerEvent) -> bool:
        least, logprob = self._least_logprob, final.avg_logprob
        return least is not None and logprob is not None and logprob < least

    def _leave_alone(self, work: _OpenExchange) -> _Steps:
        """No answer."""
        work.acted = self._clock()
        yield AssistantEvent("reply", work.exchange.end, work.exchange, final=True)

    @staticmethod
    def _sound(work: _OpenExchange) -> NDArray[np.float32]:
        """(n,): the samples that the exchange is about."""
        return np.concatenate(work.samples)[: work.turn.kept]

    def _translate(self, work: _OpenExchange) -> _Steps:
        """The translation, and the end of the exchange."""
        exchange, text = work.exchange, work.exchange.text
        if text and self._translation and exchange.problem != UNSURE:
            target = self._translation.pick(text, exchange.language or self._language)
            if target:
                request = self._translator(target).request
                yield None
                # The translator hears the sound as well, but the words are those that are shown.
                sound = self._sound(work)
                words = self._model.tokenizer.encode(f"{text}\n{target}:", special=False)
                session = request.session.fork()
                seconds = len(sound) / SAMPLE_RATE
                answer = request.answer(session, seconds, sound=sound, draft=words, trusted=len(words))
                with contextlib.closing(answer):
                    while not answer.stop:
                        answer.step()
                        yield None
                exchange.target, exchange.translation = target, request.read(answer.text)[1]
                if exchange.translation:
                    yield AssistantEvent("translation", exchange.end, exchange, text=exchange.translation)
        exchange.timing = self._timing(work)
        self._open.remove(work)
        work.close()
        yield AssistantEvent("done", exchange.end, exchange)

    def _translator(self, to: str) -> Transcriber:
        """A transcriber that translates into this language, opened when it is first needed."""
        if to not in self._translators:
            self._translators[to] = Transcriber(
                self._model, self._language, to, max_seconds=self._max_seconds, detector="none"
            )
        return self._translators[to]

    def _timing(self, work: _OpenExchange) -> Timing:
        timing, acted = work.timing, work.acted
        assert work.answer and acted is not None and timing.spoken is not None
        stats = work.answer.session.stats
        first = acted if timing.first is None else timing.first
        return Timing(
            first_token=first - timing.spoken if self._live else None,
            decision=timing.decided - timing.spoken if self._live else None,
            acted=acted - timing.spoken if self._live else None,
            ready=timing.ready,
            tokens=work.tokens,
            tokens_per_second=stats["decode_tokens"] / stats["decode_seconds"] if stats["decode_seconds"] else None,
            resident=resident(),
        )


def _runnable(tools: Sequence[Callable[..., Any] | Mapping[str, Any] | Tool]) -> Toolbox:
    """The tools. Raises EdgeGemmaValueError "tool" for one without a function."""
    box = Toolbox(tools)
    for tool in box:
        if tool.function is None:
            raise EdgeGemmaValueError(f"The tool {tool.name} has no function, so the assistant cannot run it.", "tool")
    return box
