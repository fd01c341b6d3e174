"""A spoken assistant: with tools of its own, and without a demonstration around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_gemma.assistant.exchange import AssistantEvent, Exchange
from edge_gemma.assistant.spoken import SpokenAssistant
from edge_gemma.assistant.target_language import TargetLanguage
from edge_gemma.audio.source import open_audio
from edge_gemma.chat.calls import format_call
from edge_gemma.chat.tools import Tool, tool_schema
from edge_gemma.engine.sampling import Sampling
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.speech.listener import Listener
from support.listening import LoudnessDetector, ScriptedSource, sound
from support.scripted import ScriptedModel, ScriptedSession

SPOKEN = sound((0.3, 1.5), seconds=3)
TWICE = sound((0.3, 1.5), (3.0, 4.2), seconds=6)
CALL = format_call("count", {"by": 2}) + "<|tool_response>"


class Counter:
    """A tool with a state."""

    def __init__(self) -> None:
        self.value = 0

    def count(self, by: int) -> int:
        """Counts on."""
        self.value += by
        return self.value


def model_of(*answers: str) -> ScriptedModel:
    """Answers of the assistant after none, one, two ... results of tools, and a transcript."""

    def script(session: ScriptedSession) -> str:
        if "declaration:count" not in session.text:
            return "eins\nGerman: one" if "translat" in session.text else "one"
        return answers[session.text.count("<tool_response|>")]

    return ScriptedModel(script, context_length=4096)


def hear(model: ScriptedModel, samples: NDArray[np.float32], **options: Any) -> tuple[list[AssistantEvent], Counter]:
    counter = Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count], **options) as assistant,
        Listener(model, step_task=assistant, detector=LoudnessDetector(), max_seconds=15) as listener,
    ):
        events = list(assistant.listen(listener, open_audio(samples)))
        assert not assistant.busy
    assert all(session.closed for session in model.sessions)
    return events, counter


def exchanges(events: list[AssistantEvent]) -> list[Exchange]:
    return [event.exchange for event in events if event.kind == "done" and event.exchange]


def test_a_tool_is_called_and_its_result_is_answered() -> None:
    events, counter = hear(model_of(CALL, "It is two."), SPOKEN)
    kinds = [event.kind for event in events if event.kind not in ("sound", "reply")]
    assert kinds == ["start", "call", "result", "transcript", "done"]
    (exchange,) = exchanges(events)
    assert counter.value == 2 and exchange.results == [2] and exchange.reply == "It is two." and exchange.text == "one"
    assert exchange.translation is None and exchange.target is None
    assert exchange.start <= 0.3 < 1.5 <= exchange.end < 2.0
    assert exchange.timing and exchange.timing.first_token is None and exchange.timing.tokens > 10


def test_the_call_is_told_before_the_tool_runs() -> None:
    counter, seen = Counter(), []
    model = model_of(CALL, "Two.")
    with (
        SpokenAssistant(model, "Count.", [counter.count]) as assistant,
        Listener(model, step_task=assistant, detector=LoudnessDetector(), max_seconds=15) as listener,
    ):
        for event in assistant.listen(listener, open_audio(SPOKEN)):
            if event.kind in ("call", "result"):
                seen.append((event.kind, counter.value))
    assert seen == [("call", 0), ("result", 2)]


@pytest.mark.parametrize("max_rounds", [0, 1, 3])
def test_rounds_of_calls_are_limited(max_rounds: int) -> None:
    events, counter = hear(model_of(*[CALL] * 9), SPOKEN, max_rounds=max_rounds)
    (exchange,) = exchanges(events)
    assert counter.value == 2 * max_rounds and len(exchange.calls) == max_rounds and exchange.reply == ""


def test_every_utterance_is_answered_by_itself() -> None:
    model = model_of(CALL, "Done.")
    events, counter = hear(model, TWICE)
    first, second = exchanges(events)
    assert counter.value == 4 and (first.results, second.results) == ([2], [4])
    texts = [session.text for session in model.sessions if "Done." in session.text]
    assert texts and all(text.count("<|turn>user") == 1 for text in texts)


def test_sampling_reaches_every_answer() -> None:
    sampling = Sampling(temperature=0.5, seed=3)
    model = model_of(CALL, "Done.")
    hear(model, SPOKEN, sampling=sampling)
    tokenizer = model.tokenizer
    texts = [(tokenizer.decode([n for n in r.tokens if n >= 0], special=True), r.sampling) for r in model.requests]
    drawn = [sampling for text, sampling in texts if "declaration:count" in text]
    assert len(drawn) == 2 and all(option is sampling for option in drawn)


def test_a_transcript_is_translated() -> None:
    events, _ = hear(model_of("Hm."), SPOKEN, translation=TargetLanguage("de"))
    (exchange,) = exchanges(events)
    assert (exchange.target, exchange.translation) == ("German", "one")
    events, _ = hear(model_of("Hm."), SPOKEN, language="German", translation=TargetLanguage("de"))
    assert exchanges(events)[0].target is None


def test_a_live_source_gives_times() -> None:
    source, model = ScriptedSource(SPOKEN, moments=12), model_of(CALL, "Two.")
    counter = Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count], clock=source.clock) as assistant,
        Listener(
            model, step_task=assistant, detector=LoudnessDetector(), max_seconds=15, clock=source.clock
        ) as listener,
    ):
        (exchange,) = exchanges(list(assistant.listen(listener, source)))
    timing = exchange.timing
    assert timing and timing.first_token is not None and timing.decision is not None and timing.acted is not None
    assert 0.2 < timing.first_token < timing.decision <= timing.acted < 1.0 and timing.ready > 10


def test_exchanges_are_dropped_when_listening_ends_early() -> None:
    model, counter = model_of(CALL, "Two."), Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count]) as assistant,
        Listener(model, step_task=assistant, detector=LoudnessDetector(), max_seconds=15) as listener,
    ):
        events = assistant.listen(listener, open_audio(SPOKEN))
        assert next(events).kind == "start" and assistant.busy
        listener.cancel()
        with pytest.raises(Cancelled):
            list(events)
        assert not assistant.busy and counter.value == 0
        assert exchanges(list(assistant.listen(listener, open_audio(SPOKEN))))[0].reply == "Two."  # and it can go on
    assert all(session.closed for session in model.sessions)


def test_what_is_refused() -> None:
    counter = Counter()
    with pytest.raises(EdgeGemmaError, match="has no function") as caught:
        SpokenAssistant(model_of(), "Count.", [Tool(tool_schema(counter.count))])
    assert caught.value.code == "tool"
    model = model_of()
    with pytest.raises(EdgeGemmaError, match="this model has 4096") as caught:
        SpokenAssistant(model, "Count.", [counter.count], max_tokens=5000)
    assert caught.value.code == "context" and model.sessions == []
    model.on_call = lambda session, name, value: session.cancel()
    with pytest.raises(Cancelled):
        SpokenAssistant(model, "Count.", [counter.count])
    assert [session.closed for session in model.sessions] == [True]


WORDS = {"en": "the on is", "de": "der das ist"}


@pytest.mark.parametrize(
    "target, text, spoken, expected",
    [
        (TargetLanguage(), "irgendwas", None, "English"),
        (TargetLanguage(None, WORDS), "Das Licht ist an.", None, "English"),
        (TargetLanguage(None, WORDS), "The light is on.", None, None),
        (TargetLanguage(None, WORDS, {"en": "fr"}), "The light is on.", None, "French"),
        (TargetLanguage(None, WORDS, {"en": "fr"}), "The light is on.", "de", "English"),
        (TargetLanguage(None, WORDS, {"de": "fr"}), "The light is on.", "German", "French"),
        (TargetLanguage("es", WORDS), "Das Licht ist an.", None, "Spanish"),
        (TargetLanguage("German", WORDS), "Das Licht ist an.", None, None),
        (TargetLanguage("German", WORDS), "Luz", None, "German"),
    ],
)
def test_the_target_language(target: TargetLanguage, text: str, spoken: str | None, expected: str | None) -> None:
    assert target.pick(text, spoken) == expected
