"""`SpokenAssistant`: answers spoken utterances with tools, begun before it is certain that the speaker has finished.

Owns the session that has read instructions and tools, the exchanges that are not over, and the order of their work. The
listener (speech/listener.py) owns the loop, the source and the transcripts: the assistant is a step task of it, whose steps
take about as long as a token, so the sound is never kept waiting.

The model is given the words of the transcript, and nothing else of the utterance. So what is done is what the words say that
are shown, and an utterance is encoded once. When a pause has led to a transcript, the answer to it is begun; it is kept if that
was the end of the utterance, and dropped if the speaker goes on.

Every utterance is answered by itself, from a fork of the session that has read the instructions.
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
from ..chat.prompt import Prompt
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
from ..speech.request import answer_limit
from ..speech.transcriber import Transcriber
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

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self.exchange, self._clock = exchange, clock
        self.answer: Answer | None = None  # to `words`: begun in a pause, or the one that is being given
        self.words = ""
        self.samples: list[NDArray[np.float32]] = []
        # On the clock: the end of speech, the decision that it was the end, the first token, and what `Timing` calls acted.
        self.spoken: float | None = None
        self.decided: float | None = None
        self.first: float | None = None
        self.acted: float | None = None
        self.ready = 0  # tokens of the first answer at the decision
        self.tokens = 0

    def step(self) -> None:
        """A step of the answer."""
        assert self.answer
        self.answer.step()
        if self.first is None and (self.answer.ids or self.answer.stop):
            self.first = self._clock()

    def drop_answer(self) -> None:
        """The answer was to other words than those of the utterance."""
        if self.answer:
            self.answer.close()
        self.answer, self.words, self.first = None, "", None

    def close(self) -> None:
        """Closes the sessions."""
        if self.answer:
            self.answer.close()


class SpokenAssistant:
    """Answers every utterance that a `Listener` hears: calls tools, replies, and translates. A `StepTask`.

        assistant = SpokenAssistant(model, "You are the voice of a home.", tools)
        listener = Listener(model, step_task=assistant, pauses=True)
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
            least_logprob: an utterance whose transcript has a lower `ListenerEvent.avg_logprob` is not answered, and `problem`
                says so. The listener must measure confidence. None answers every utterance.
            least_probability: tool calls that are less probable are not made, and `problem` says so.
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
        self._least_logprob, self._least_probability = least_logprob, least_probability
        self._max_seconds, self._max_tokens, self._max_rounds = max_seconds, max_tokens, max_rounds
        self._tools = _runnable(tools)
        tokenizer = model.tokenizer
        self._prompt = Prompt(tokenizer, tokenizer.chat_template, self._tools.schemas, {"enable_thinking": False})
        self._instructions = instructions
        self._before = self._prefix()
        longest = answer_limit(max_seconds) + len(self._turn("")) - len(self._before)
        needed = len(self._before) + longest + (max_rounds + 1) * max_tokens + result_tokens
        if needed > model.config.context_length:
            raise EdgeGemmaValueError(
                f"The assistant needs a context of {needed} tokens, {len(self._before)} of them for the instructions and the "
                f"tools; this model has {model.config.context_length}.",
                "context",
            )
        session = model.session(context=needed)
        self._session, self._sampling = session, sampling
        self._translators: dict[str, Transcriber] = {}  # by the English name of the language to translate into
        self._open: deque[_OpenExchange] = deque()  # oldest first; while somebody speaks, the last is being spoken
        self._steps: deque[_Steps] = deque()  # the work that is left to do, in order
        self._events: list[AssistantEvent] = []  # that were not yielded yet
        self._level_blocks: list[NDArray[np.float32]] = []  # sound that no "sound" event was about yet
        self._speaking = False
        self._live = True  # whether the source is read at the speed of speech
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(session.close)
            session.feed_tokens(self._before)
            on_failure.pop_all()

    def _turn(self, words: str) -> list[int]:
        """The tokens of a conversation in which somebody has said these words."""
        messages = [{"role": "system", "content": self._instructions}, {"role": "user", "content": words}]
        return [unit for unit in self._prompt.conversation(messages) if isinstance(unit, int)]

    def _prefix(self) -> list[int]:
        """The tokens of a conversation before the words."""
        one, other = self._turn("a"), self._turn("1")
        same = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        return one[:same]

    def _begin(self, words: str) -> Answer:
        """An answer to words, of which nothing is done yet."""
        turn, session = self._turn(words), self._session.fork()
        same = next(
            (at for at, (a, b) in enumerate(zip(turn, self._before, strict=False)) if a != b), len(self._before)
        )
        session.rewind(len(self._before) - same)  # 0, unless the first word and what is before it share a token
        measured = self._least_probability > 0
        return Answer(session, turn[same:], self._max_tokens, sampling=self._sampling, measured=measured)

    def close(self) -> None:
        """Frees the sessions. Further calls do nothing."""
        self._drop_exchanges()
        for translator in self._translators.values():
            translator.close()
        self._session.close()

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
            listener: this assistant is its step task, and it tells pauses.
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
                elif event.kind == "early":
                    self._begin_early(event)
                elif event.kind == "resume":
                    self._open[-1].drop_answer()
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
        early = self._open[-1].answer if self._speaking else None
        return early if early and not early.stop else None

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """Takes what the endpointer has found. `at`: when `heard.time` was, on the clock."""
        if heard.kind == "start":
            self._open.append(_OpenExchange(self._new_exchange(heard.time), self._clock))
            self._speaking = True
        work = self._open[-1]
        if heard.samples.size:
            work.samples.append(heard.samples)
            self._measure_level(heard, work.exchange)
        if heard.kind == "pause":
            work.spoken = at
        elif heard.kind == "resume":
            work.spoken = None
        elif heard.kind == "end":
            work.decided = self._clock()
            work.spoken = min(at if work.spoken is None else work.spoken, work.decided)
            work.exchange.end = heard.time
            self._speaking = False

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
        if self._early_answer():
            self._open[-1].step()
        elif self._steps:
            try:
                event = next(self._steps[0])
            except StopIteration:
                self._steps.popleft()
            else:
                if event:
                    yield event

    # ---- answering, in steps ----

    def _begin_early(self, event: ListenerEvent) -> None:
        """Begins the answer to what a pause has led to: nothing of it is told or done before the utterance is over."""
        work = self._open[-1]
        work.drop_answer()
        if self._speaking and event.text and not is_steady(np.concatenate(work.samples)):
            work.answer, work.words = self._begin(event.text), event.text

    def _answer(self, work: _OpenExchange) -> _Steps:
        """The tool calls and the reply."""
        exchange = work.exchange
        loop = ToolLoop(self._tools, self._prompt, self._max_rounds, warn=False)
        try:
            if work.words != exchange.text:
                work.drop_answer()
            if not work.answer:
                assert exchange.text
                work.answer, work.words = self._begin(exchange.text), exchange.text
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
            work.step()
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
        work.answer = Answer(session, loop.continuation(answer.ids), self._max_tokens, sampling=self._sampling)
        exchange.reply = ""

    # ---- transcripts and translations ----

    def _without_transcript(self) -> _OpenExchange:
        """The oldest exchange without a transcript: the next one is its."""
        return next(work for work in self._open if work.exchange.text is None)

    def _take_transcript(self, final: ListenerEvent) -> AssistantEvent:
        work = self._without_transcript()
        exchange = work.exchange
        exchange.text, exchange.end = final.text, final.time
        if exchange.text and is_steady(self._sound(work)):
            exchange.text = ""
        if exchange.text and self._is_unsure(final):
            exchange.problem = UNSURE
        if work.answer and work.words == exchange.text:
            work.ready = len(work.answer.ids)  # none was drawn since the decision
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
        kept = round((work.exchange.end - work.exchange.start) * SAMPLE_RATE)
        return np.concatenate(work.samples)[:kept]

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
        acted, spoken, decided = work.acted, work.spoken, work.decided
        assert acted is not None and spoken is not None and decided is not None
        first = acted if work.first is None else work.first
        stats = work.answer.session.stats if work.answer else {"decode_tokens": 0, "decode_seconds": 0.0}
        return Timing(
            first_token=first - spoken if self._live else None,
            decision=decided - spoken if self._live else None,
            acted=acted - spoken if self._live else None,
            ready=work.ready,
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
