"""The demonstration: what is said to a little home, while it is said, and what becomes of it.

A `Listener` writes down the words. An `_Assistant` keeps it company: it hears the same sound in a session that has read the
home's tools, begins to answer in a pause, runs the calls, and translates when the words are known. Each works step by step
in the one loop of listener.py, the assistant first, so the sound is never kept waiting. Nothing is shown here: `Demo.run`
yields events (screen.py shows them).

Every utterance is answered by itself, from a copy of the session that has read the instructions: the embedded model was
trained on single turns. Listener and assistant both encode the sound, for what a session hears before a pause it has to be
able to end and to go on with, in copies.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import EndpointEvent
from ..audio.source import SAMPLE_RATE, Paced, Source
from ..chat.calls import ToolCall, plain_data
from ..chat.prompt import Media, Prompt
from ..chat.reply import Reply, ReplyParser
from ..chat.tools import Toolbox
from ..engine.audio import audio_tokens
from ..errors import EdgeGemmaError, EdgeGemmaValueError
from ..speech.languages import language_name
from ..speech.listener import Listener, ListenerEvent
from ..speech.prompts import loop_start, one_line
from ..speech.transcriber import Transcriber
from ..speech.turn import Answer, Turn
from .home import DONE, INSTRUCTIONS, Home, changes
from .utterances import Playlist, Utterance

__all__ = ["Demo", "DemoEvent", "Exchange", "Timing", "resident_memory", "summary"]

LONGEST = 15.0
"""Seconds of the longest utterance: commands are short, and this keeps the sessions small."""

_ANSWER, _ROUNDS, _RESULTS = (
    96,
    3,
    256,
)  # tokens of an answer, how many of them for one utterance, tokens of tools' results
_LEVELS = SAMPLE_RATE // 10  # samples that a "sound" event tells about
_STOPS = {"eos": "<eos>", "turn": "<turn|>", "tool_response": "<|tool_response>"}  # how a model ends an answer itself

Steps = Generator["DemoEvent | None", None, None]


@dataclass(frozen=True)
class Timing:
    """What an answer took. Times are seconds after the end of speech, None when it was not heard at the speed of speech.

    Attributes:
        first_token: the first token was known. In a pause that was the end it is known before it is certain that it was.
        decision: it was decided that this was the end: the silence that makes it certain.
        acted: the call had been made, or, without one, the reply was there.
        ready: tokens of the first answer that were known at the decision.
        tokens: of all answers to the utterance.
        tokens_per_second: the speed of decoding them; None when nothing was measured.
        resident: bytes of this process in memory; None where the system does not tell.
    """

    first_token: float | None
    decision: float | None
    acted: float | None
    ready: int
    tokens: int
    tokens_per_second: float | None
    resident: int | None


@dataclass(eq=False)
class Exchange:
    """One utterance and all that came of it.

    Attributes:
        start, end: seconds in the sound.
        utterance: the bundled one that it is, if it is one.
        text: what was understood, "" for no words; None until it is known.
        translation, target: it in another language, an English name; None when there was nothing to translate.
        calls, results: what the model asked for and what the tools returned, in their order.
        reply: what it answered.
        problem: why the answer broke off; "" if it did not.
        timing: what it took; None until it is over.
    """

    start: float
    end: float = 0.0
    utterance: Utterance | None = None
    text: str | None = None
    translation: str | None = None
    target: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    reply: str = ""
    problem: str = ""
    timing: Timing | None = None

    def verdict(self) -> dict[str, bool]:
        """What is as it should be, of "text", "translation", "call", "reply"; empty without a bundled utterance.

        Words are compared without regard to capitals and punctuation. Replies that tell the time or the weather are not
        compared, nor is what was not asked for.
        """
        right = self.utterance
        if right is None:
            return {}
        expected = [] if right.call is None else [(right.call["name"], right.call["arguments"])]
        found = {"text": _words(self.text or "") == _words(right.text)}
        wanted = {language_name(code): text for code, text in right.translations.items()}.get(self.target or "")
        if wanted is not None:
            found["translation"] = _words(self.translation or "") == _words(wanted)
        found["call"] = [(call.name, call.arguments) for call in self.calls] == expected
        if all(result == DONE for result in self.results):
            found["reply"] = _words(self.reply) == _words(right.reply)
        return found


@dataclass(frozen=True)
class DemoEvent:
    """Something to show.

    Attributes:
        kind: "start", somebody speaks; "sound", how loud; "partial", what is being said; "transcript", what was; "call", the
            model calls a tool; "result", what that returned and changed; "reply", the answer as far as it is; "translation";
            "done", the exchange is over; "overrun", sound was lost.
        time: seconds since the sound began, of what it is about.
        exchange: what it belongs to; None for an overrun.
        number: of a start, which bundled utterance it is, counted from 0; None if it is none.
        level: of sound, about 0.1 s of it, 0 (silence) to 1 (loud).
        text: of partial, transcript, reply, translation: the words.
        stable: of a partial, the beginning of `text` that will hardly change.
        final: of a reply, whether this is all of it.
        call: of call and result.
        result: of a result, plain data.
        changes: of a result, what is different at home, as in `home.changes`.
        lost: of an overrun, seconds.
    """

    kind: Literal[
        "start", "sound", "partial", "transcript", "call", "result", "reply", "translation", "done", "overrun"
    ]
    time: float
    exchange: Exchange | None = None
    number: int | None = None
    level: float = 0.0
    text: str = ""
    stable: str = ""
    final: bool = False
    call: ToolCall | None = None
    result: Any = None
    changes: dict[str, Any] = field(default_factory=dict)
    lost: float = 0.0


class Demo:
    """Listens, acts and translates. Close it with `close()` or a `with` block. One thread at a time, but for `cancel`."""

    def __init__(
        self,
        model: Any,
        language: str | None = None,
        to: str | None = None,
        *,
        home: Home | None = None,
        partials: float = 0.4,
        silence: float = 0.5,
        pause: float = 0.2,
        detector: str = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the requests.

        Args:
            model: an open model with an audio encoder.
            language: what is spoken, a name or a code; None leaves it to the model.
            to: the language to translate into; None takes another than the one that seems to be spoken.
            home: what is commanded; None for a new one.
            partials, silence, pause, detector, clock: as in `Listener`.

        Raises:
            EdgeGemmaValueError: as `Listener`; "context" when the model has no room for the tools.
        """
        self.home, self.silence, self.pause = home or Home(), silence, pause
        self._assistant = _Assistant(model, self.home, language, to, clock)
        try:
            self._listener = Listener(
                model,
                language,
                partials=partials,
                companion=self._assistant,
                clock=clock,
                silence=silence,
                pause=pause,
                detector=detector,
                max_seconds=LONGEST,
            )
        except BaseException:
            self._assistant.close()
            raise

    def close(self) -> None:
        """Frees the sessions. Further calls do nothing."""
        self._assistant.close()
        self._listener.close()

    def __enter__(self) -> Demo:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def cancel(self) -> None:
        """Stops, from any thread: the iterator that runs raises `Cancelled`."""
        self._listener.cancel()

    def perform(
        self,
        utterances: Sequence[Utterance],
        *,
        live: bool = True,
        rest: float = 1.5,
        begin: Callable[[NDArray[np.float32]], object] | None = None,
    ) -> Iterator[DemoEvent]:
        """What there is to show about utterances, one after the other, each after the answer to the one before.

        Args:
            utterances: see `utterances.bundled`.
            live: at the speed of speech; False for as fast as it can be, without partials.
            rest: seconds to look at what has happened, if live.
            begin: as in `Playlist`.

        Raises as `run`.
        """
        playlist = Playlist(utterances, rest=rest if live else 0.0, hold=lambda: self._assistant.engaged, begin=begin)
        return self._run(Paced(playlist) if live else playlist, playlist, utterances)

    def run(self, source: Source) -> Iterator[DemoEvent]:
        """What there is to show about a source, as it happens, until it ends. It stays open.

        Raises Cancelled after `cancel()`, EdgeGemmaError for unusable sound.
        """
        return self._run(source, None, ())

    def _run(self, source: Source, playlist: Playlist | None, utterances: Sequence[Utterance]) -> Iterator[DemoEvent]:
        assistant, shown = self._assistant, ("", "")
        with contextlib.ExitStack() as stack:
            stack.callback(assistant.drop)
            assistant.live = source.live
            events = stack.enter_context(contextlib.closing(self._listener.listen(source)))
            for event in events:
                if isinstance(event, DemoEvent):
                    yield event
                elif event.kind == "overrun":
                    yield DemoEvent("overrun", event.time, lost=event.lost)
                elif event.kind == "start":
                    exchange = assistant.exchanges[-1]
                    number = playlist.at(event.time) if playlist else None
                    exchange.utterance = None if number is None else utterances[number]
                    yield DemoEvent("start", event.time, exchange, number=number)
                elif event.kind == "partial":
                    now = one_line(event.text), one_line(event.stable)
                    if now != shown:
                        shown = now
                        yield DemoEvent("partial", event.time, assistant.unwritten, text=now[0], stable=now[1])
                else:
                    yield assistant.written(event)


class _Work:
    """An exchange in the making."""

    def __init__(self, exchange: Exchange, turn: Turn) -> None:
        self.exchange, self.turn = exchange, turn
        self.answer: Answer | None = None  # the one at hand, once the turn is over
        self.samples: list[NDArray[np.float32]] = []
        # On the clock: the end of speech, the first token, the decision, the act.
        self.spoken = self.decided = self.acted = 0.0
        self.first: float | None = None
        self.ready = self.tokens = 0

    def close(self) -> None:
        self.turn.close()
        if self.answer:
            self.answer.close()


class _Assistant:
    """Hears every utterance in a session that knows the home's tools: a companion of the listener."""

    def __init__(
        self, model: Any, home: Home, language: str | None, to: str | None, clock: Callable[[], float]
    ) -> None:
        self._model, self._home, self._clock = model, home, clock
        self._language, self._to = language, to
        self._tools = Toolbox(home.tools)
        self._prompt = Prompt(
            model.tokenizer,
            getattr(model.tokenizer, "chat_template", None),
            self._tools.schemas,
            {"enable_thinking": False},
        )
        before, self._closing = self._request()
        needed = (
            len(before)
            + audio_tokens(round(LONGEST * SAMPLE_RATE))
            + 2
            + len(self._closing)
            + _ROUNDS * _ANSWER
            + _RESULTS
        )
        if needed > model.config.context_length:
            raise EdgeGemmaValueError(
                f"the demonstration takes a context of {needed} tokens, {len(before)} of them for the tools; this model has "
                f"{model.config.context_length}.",
                "context",
            )
        self._base = model.session(context=needed)
        self._base.feed_tokens(before)
        self._translators: dict[str, Transcriber] = {}
        self._works: deque[_Work] = (
            deque()
        )  # the exchanges that are not over, oldest first; perhaps one is still spoken
        self._steps: deque[Steps] = deque()  # what is left to do
        self._told: list[DemoEvent] = []
        self._loud: list[NDArray[np.float32]] = []
        self._speaking = False
        self.live = True  # whether times tell something

    def _request(self) -> tuple[list[int], list[int]]:
        """The tokens before and after the sound."""
        sound = {"type": "audio", "audio": np.zeros(1, np.float32)}
        units = self._prompt.conversation(
            [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": [sound]}]
        )
        at = next(number for number, unit in enumerate(units) if isinstance(unit, Media))
        before, after = ([unit for unit in part if isinstance(unit, int)] for part in (units[:at], units[at + 1 :]))
        return before, after

    def close(self) -> None:
        """Frees the sessions."""
        self.drop()
        for translator in self._translators.values():
            translator.close()
        self._base.close()

    def drop(self) -> None:
        """Forgets what is not over."""
        for steps in self._steps:
            steps.close()
        for work in self._works:
            work.close()
        self._steps.clear()
        self._works.clear()
        self._told, self._loud, self._speaking = [], [], False

    @property
    def exchanges(self) -> list[Exchange]:
        """Those that are not over, oldest first."""
        return [work.exchange for work in self._works]

    @property
    def unwritten(self) -> Exchange:
        """The one whose words come next."""
        return self._unwritten().exchange

    def _unwritten(self) -> _Work:
        return next(work for work in self._works if work.exchange.text is None)

    @property
    def engaged(self) -> bool:
        """Whether somebody speaks or something is left to answer."""
        return bool(self._works)

    # ---- hearing: what listener.py calls -------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether there is a step to do."""
        return bool(self._told or self._steps or self._early())

    def _early(self) -> Answer | None:
        """The answer that a pause has begun, if it is not complete."""
        early = self._works[-1].turn.early if self._speaking else None
        return early if early and not early.stop else None

    def hear(self, heard: EndpointEvent, at: float) -> None:
        """Takes what the endpointer has found."""
        if heard.kind == "start":
            turn = Turn(self._base, self._closing, lambda _: _ANSWER)
            self._works.append(_Work(Exchange(heard.time), turn))
            self._speaking = True
        work = self._works[-1]
        if heard.samples.size:
            work.samples.append(heard.samples)
            work.turn.push(heard.samples)
            self._hear_level(heard, work.exchange)
        if heard.kind == "pause":
            work.turn.pause()
            work.spoken = at
        elif heard.kind == "resume":
            work.turn.resume()
            work.first = None
        elif heard.kind == "end":
            self._end(work, heard, at)

    def _hear_level(self, heard: EndpointEvent, exchange: Exchange) -> None:
        self._loud.append(heard.samples)
        if sum(map(len, self._loud)) >= _LEVELS:
            samples, self._loud = np.concatenate(self._loud), []
            decibels = 10 * np.log10(float(np.mean(np.square(samples))) + 1e-12)
            level = min(1.0, max(0.0, (decibels + 55) / 40))
            self._told.append(DemoEvent("sound", heard.time, exchange, level=level))

    def _end(self, work: _Work, heard: EndpointEvent, at: float) -> None:
        early = work.turn.early
        if not early:
            work.spoken = at
        work.answer = work.turn.finish(heard.keep)
        if work.answer is not early:
            work.first = None
        work.decided = self._clock()
        work.spoken = min(work.spoken, work.decided)
        work.ready = len(work.answer.ids)
        work.exchange.end = work.exchange.start + work.turn.kept / SAMPLE_RATE
        self._speaking = False
        self._steps.append(self._answer(work))

    def step(self) -> Iterator[DemoEvent]:
        """One step of what is most urgent: an answer begun in a pause, then all else in its order."""
        told, self._told = self._told, []
        yield from told
        early = self._early()
        if early:
            self._draw(self._works[-1], early)
        elif self._steps:
            try:
                event = next(self._steps[0])
            except StopIteration:
                self._steps.popleft()
            else:
                if event:
                    yield event

    def _draw(self, work: _Work, answer: Answer) -> None:
        answer.step()
        if work.first is None and (answer.ids or answer.stop):
            work.first = self._clock()

    # ---- answering: each a step at a time, with what there is to tell after it, if anything ------------------------------

    def _answer(self, work: _Work) -> Steps:
        """The calls, and the reply."""
        exchange = work.exchange
        try:
            yield from self._speak(work)
            for _ in range(_ROUNDS - 1):
                reply = self._said(work)
                if not reply.tool_calls:
                    break
                yield from self._act(work, reply)
                yield from self._speak(work)
        except EdgeGemmaError as error:
            if error.code != "context":
                raise
            exchange.problem = str(error)
        work.acted = work.acted or self._clock()
        work.first = work.acted if work.first is None else work.first
        exchange.reply = one_line(exchange.reply)
        yield DemoEvent("reply", exchange.end, exchange, text=exchange.reply, final=True)

    def _speak(self, work: _Work) -> Steps:
        """One answer of the model, to its end."""
        answer, exchange = work.answer, work.exchange
        assert answer
        while not answer.stop:
            self._draw(work, answer)
            text = one_line(answer.text)
            grown = text != exchange.reply
            exchange.reply = text
            yield DemoEvent("reply", exchange.end, exchange, text=text) if text and grown else None
        exchange.reply = answer.text[: loop_start(answer.text)]
        work.tokens += len(answer.ids)

    def _said(self, work: _Work) -> Reply:
        assert work.answer
        parser = ReplyParser()
        parser.feed(self._model.tokenizer.decode(work.answer.ids, special=True))
        parser.finish(complete=work.answer.stop in _STOPS)
        return parser.reply

    def _act(self, work: _Work, reply: Reply) -> Steps:
        """Runs the calls, and has an answer to their results begun."""
        exchange, answer = work.exchange, work.answer
        assert answer
        results = []
        for call in reply.tool_calls:
            yield DemoEvent("call", exchange.end, exchange, call=call)
            before = self._home.state()
            result = plain_data(self._tools.call(call.name, call.arguments))
            work.acted = work.acted or self._clock()
            exchange.calls.append(call)
            exchange.results.append(result)
            results.append((call.name, result))
            different = changes(before, self._home.state())
            yield DemoEvent("result", exchange.end, exchange, call=call, result=result, changes=different)
        session = answer.session
        if answer.stop in _STOPS:
            session.rewind(1)  # the token that says so
        responses = [unit for unit in self._prompt.responses(results) if isinstance(unit, int)]
        opening, closing = self._prompt.token("<|tool_call>"), self._prompt.token("<tool_call|>")
        markers = [token for token in answer.ids if token in (opening, closing)]
        if closing is not None and markers[-1:] == [opening]:
            responses.insert(0, closing)  # the model left its last call open
        work.answer = Answer(session, responses, _ANSWER)
        exchange.reply = ""

    # ---- words -----------------------------------------------------------------------------------------------------------

    def written(self, final: ListenerEvent) -> DemoEvent:
        """Takes the words of the oldest exchange that has none yet; they will be translated."""
        work = self._unwritten()
        exchange = work.exchange
        exchange.text = final.text
        self._steps.append(self._translate(work))
        return DemoEvent("transcript", exchange.end, exchange, text=final.text)

    def _translate(self, work: _Work) -> Steps:
        """The translation, and the end of the exchange."""
        exchange, text = work.exchange, work.exchange.text
        told = exchange.utterance.language if exchange.utterance else self._language
        spoken = told or _likely_language(text or "")
        target = self._to or _other_language(spoken)
        if text and not (spoken and language_name(target) == language_name(spoken)):
            translator = self._translator(language_name(target))
            yield None
            sound = np.concatenate(work.samples)[: work.turn.kept]
            draft = self._model.tokenizer.encode(text, special=False)
            limit = translator._limit(len(sound) / SAMPLE_RATE)
            answer = Answer(translator._base.fork(), translator._after, limit, sound=sound, draft=draft)
            try:
                while not answer.stop:
                    answer.step()
                    yield None
            finally:
                answer.close()
            exchange.target = translator.to
            exchange.translation = translator._parted(answer.text[: loop_start(answer.text)])[1]
            if exchange.translation:
                yield DemoEvent("translation", exchange.end, exchange, text=exchange.translation)
        exchange.timing = self._timing(work)
        self._works.remove(work)
        work.close()
        yield DemoEvent("done", exchange.end, exchange)

    def _translator(self, to: str) -> Transcriber:
        """What has read the request for translations into that language."""
        if to not in self._translators:
            self._translators[to] = Transcriber(self._model, self._language, to, max_seconds=LONGEST)
        return self._translators[to]

    def _timing(self, work: _Work) -> Timing:
        assert work.answer and work.first is not None
        stats = work.answer.session.stats
        times = [at - work.spoken if self.live else None for at in (work.first, work.decided, work.acted)]
        return Timing(
            *times,
            ready=work.ready,
            tokens=work.tokens,
            tokens_per_second=stats["decode_tokens"] / stats["decode_seconds"] if stats["decode_seconds"] else None,
            resident=resident_memory(),
        )


# The commonest words of commands in the languages that the embedded model knows, and what each is translated into.
_USUAL = {
    "en": "the in to on my is what turn set please for it you good thank",
    "es": "el la los las en de del un una por favor qué para pon hay mi buenos buenas gracias",
    "de": "der die das den ein eine auf im bitte stelle mach schalte wie ist mir guten gute danke",
}
_OTHER = {"en": "de", "de": "es", "es": "en"}


def _likely_language(text: str) -> str | None:
    """The code of the language of a command, by its commonest words; None when there are none of these."""
    found = {code: sum(word in usual.split() for word in _words(text)) for code, usual in _USUAL.items()}
    best = max(found, key=lambda code: found[code])
    return best if found[best] else None


def _other_language(language: str | None) -> str:
    codes = {language_name(code): other for code, other in _OTHER.items()}
    return codes.get(language_name(language), "en") if language else "en"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def resident_memory() -> int | None:
    """Bytes of this process that are in memory now, of mapped files too; None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None


def summary(exchanges: Sequence[Exchange], utterances: int | None = None) -> dict[str, Any]:
    """Statistics of the timing of exchanges that are over.

    Args:
        exchanges: in any number.
        utterances: how many there should have been; None when that is unknown.

    Returns:
        "exchanges" and "utterances"; "right": for each of `Exchange.verdict` [as it should be, of so many]; medians of
        "first_token_s", "decision_s", "acted_s" and "tokens_per_second"; "resident", the most bytes. None without a value.
    """
    timings = [exchange.timing for exchange in exchanges if exchange.timing]

    def median(name: str) -> float | None:
        values = [value for item in timings if (value := getattr(item, name)) is not None]
        return round(statistics.median(values), 4) if values else None

    right: dict[str, list[int]] = {}
    for exchange in exchanges:
        for name, fine in exchange.verdict().items():
            counts = right.setdefault(name, [0, 0])
            counts[0] += fine
            counts[1] += 1
    return {
        "exchanges": len(exchanges),
        "utterances": utterances,
        "right": right,
        "first_token_s": median("first_token"),
        "decision_s": median("decision"),
        "acted_s": median("acted"),
        "tokens_per_second": median("tokens_per_second"),
        "resident": max((item.resident for item in timings if item.resident), default=None),
    }
