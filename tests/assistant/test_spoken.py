"""A spoken assistant: with tools of its own, and without a demonstration around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_gemma.assistant.exchange import AssistantEvent, Exchange
from edge_gemma.assistant.spoken import UNSURE, SpokenAssistant
from edge_gemma.assistant.steadiness import is_steady
from edge_gemma.assistant.target_language import TargetLanguage
from edge_gemma.audio.source import SAMPLE_RATE as RATE
from edge_gemma.audio.source import open_audio
from edge_gemma.chat.calls import format_call
from edge_gemma.chat.tools import Tool, tool_schema
from edge_gemma.engine.sampling import Sampling
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.speech.listener import Listener
from support.listening import LoudnessDetector, ScriptedSource, sound
from support.scripted import ScriptedModel, ScriptedSession


def modulated(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same sound with a loudness that varies, as that of speech does."""
    return samples * np.where(np.arange(len(samples)) // 1600 % 2, np.float32(0.3), np.float32(1))


STEADY = sound((0.3, 1.5), seconds=3)
SPOKEN = modulated(STEADY)
TWICE = modulated(sound((0.3, 1.5), (3.0, 4.2), seconds=6))
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
            return "one\nGerman: eins" if "translat" in session.text else "one"
        return answers[session.text.count("<tool_response|>")]

    return ScriptedModel(script, context_length=4096)


def hear(model: ScriptedModel, samples: NDArray[np.float32], **options: Any) -> tuple[list[AssistantEvent], Counter]:
    counter = Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count], **options) as assistant,
        Listener(model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15) as listener,
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
    assert kinds == ["start", "transcript", "call", "result", "done"]
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
        Listener(model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15) as listener,
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


def reading(transcript: str, answer: str) -> ScriptedModel:
    """A model that answers the transcript, and nothing else, with a call."""

    def script(session: ScriptedSession) -> str:
        if "declaration:count" not in session.text:
            return f"{transcript}\nGerman: eins" if "translat" in session.text else transcript
        assert "<|audio>" not in session.text  # the sound is not heard anew
        if "<tool_response|>" in session.text:
            return "Done."
        return answer if f"user\n{transcript}<turn|>" in session.text else "What?"

    return ScriptedModel(script, context_length=4096)


@pytest.mark.parametrize("answer", [CALL, "I cannot."])
@pytest.mark.parametrize("live", [False, True])
def test_what_is_done_is_what_the_shown_words_say(answer: str, live: bool) -> None:
    model, counter = reading("Count on by two.", answer), Counter()
    source = ScriptedSource(SPOKEN, moments=12) if live else open_audio(SPOKEN)
    clock = {"clock": source.clock} if isinstance(source, ScriptedSource) else {}
    with (
        SpokenAssistant(model, "Count.", [counter.count], **clock) as assistant,
        Listener(
            model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15, **clock
        ) as listener,
    ):
        events = list(assistant.listen(listener, source))
    (exchange,) = exchanges(events)
    by = [2] if answer == CALL else []
    assert [call.arguments["by"] for call in exchange.calls] == by and counter.value == sum(by)
    assert exchange.reply == ("Done." if by else "I cannot.") and exchange.problem == ""
    kinds = [event.kind for event in events if event.kind not in ("sound", "reply", "partial")]
    assert kinds == ["start", "transcript", *["call", "result"] * len(by), "done"]
    assert all(session.closed for session in model.sessions)


def hesitating(at: float) -> ScriptedModel:
    """A model that hears other words after `at` seconds of sound, and counts on by as many as it has heard."""

    def script(session: ScriptedSession) -> str:
        if "declaration:count" not in session.text:
            return "One." if session.seconds < at else "One, two."
        if "<tool_response|>" in session.text:
            return "Done."
        return format_call("count", {"by": 2 if "two" in session.text else 1}) + "<|tool_response>"

    return ScriptedModel(script, context_length=4096)


def test_an_answer_that_a_pause_began_is_dropped_when_the_speaker_goes_on() -> None:
    samples = modulated(sound((0.5, 1.5), (2.0, 2.8), seconds=5))
    source, model, counter = ScriptedSource(samples, moments=12), hesitating(1.6), Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count], clock=source.clock) as assistant,
        Listener(
            model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15, clock=source.clock
        ) as listener,
    ):
        (exchange,) = exchanges(list(assistant.listen(listener, source)))
    assert exchange.text == "One, two." and exchange.results == [2] and counter.value == 2
    texts = [session.text for session in model.sessions if "declaration:count" in session.text]
    assert any("user\nOne.<turn|>" in text for text in texts)  # it was begun
    assert all(session.closed for session in model.sessions)


@pytest.mark.parametrize("samples, transcript", [(STEADY, "Count."), (SPOKEN, "")])
def test_nothing_is_done_without_words_or_without_speech(samples: NDArray[np.float32], transcript: str) -> None:
    """Steady sound is no speech, whatever the model makes of it."""
    events, counter = hear(reading(transcript, CALL), samples, translation=TargetLanguage("de"))
    (exchange,) = exchanges(events)
    assert exchange.text == "" and exchange.calls == [] and counter.value == 0 and exchange.translation is None
    assert [event.text for event in events if event.kind == "transcript"] == [""]
    assert exchange.problem == exchange.reply == "" and exchange.timing


@pytest.mark.parametrize("least, least_probability, done", [(-12.0, 0.0, True), (-9.0, 0.0, False), (None, 0.5, False)])
def test_nothing_is_done_where_the_model_is_unsure(least: float | None, least_probability: float, done: bool) -> None:
    """In the logits of a scripted model the next token is only e times as probable as each other one."""
    model, counter = reading("Count.", CALL), Counter()
    with (
        SpokenAssistant(
            model,
            "Count.",
            [counter.count],
            translation=TargetLanguage("de"),
            least_logprob=least,
            least_probability=least_probability,
        ) as assistant,
        Listener(
            model, step_task=assistant, pauses=True, confidence=True, detector=LoudnessDetector(), max_seconds=15
        ) as listener,
    ):
        (exchange,) = exchanges(list(assistant.listen(listener, open_audio(SPOKEN))))
    assert (counter.value == 2) == done == bool(exchange.calls)
    assert exchange.problem == ("" if done else UNSURE) and exchange.text == "Count."
    assert (exchange.translation is None) == (not done) and bool(exchange.reply) == done


def test_confidence() -> None:
    model = ScriptedModel("Hello.")
    with Listener(model, detector=LoudnessDetector(), confidence=True) as listener:
        (final,) = [event for event in listener.listen(open_audio(SPOKEN)) if event.kind == "final"]
    expected = 1 - np.log(model.config.vocab_size - 1 + np.e)  # of each token, for logits of 1 and 0
    assert final.avg_logprob == pytest.approx(expected, abs=1e-3)
    with Listener(model, detector=LoudnessDetector()) as listener:
        assert [event.avg_logprob for event in listener.listen(open_audio(SPOKEN)) if event.kind == "final"] == [None]


def test_steady_sound() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(RATE * 2).astype(np.float32)
    tone = np.sin(np.arange(RATE * 2) * 0.2).astype(np.float32)
    silence = np.zeros(RATE // 2, np.float32)
    for samples in (noise, tone, 0.001 * noise, np.concatenate([silence, noise, silence]), tone + 0.01 * noise):
        assert is_steady(samples) and not is_steady(modulated(samples))
        assert not is_steady(
            modulated(samples) + 0.1 * rng.standard_normal(len(samples)).astype(np.float32) * samples.std()
        )
    assert not is_steady(noise[:100])


def test_a_transcript_is_translated() -> None:
    events, _ = hear(model_of("Hm."), SPOKEN, translation=TargetLanguage("de"))
    (exchange,) = exchanges(events)
    assert (exchange.target, exchange.translation) == ("German", "eins")
    events, _ = hear(model_of("Hm."), SPOKEN, language="German", translation=TargetLanguage("de"))
    assert exchanges(events)[0].target is None


def test_a_live_source_gives_times() -> None:
    source, model = ScriptedSource(SPOKEN, moments=12), model_of(CALL, "Two.")
    counter = Counter()
    with (
        SpokenAssistant(model, "Count.", [counter.count], clock=source.clock) as assistant,
        Listener(
            model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15, clock=source.clock
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
        Listener(model, step_task=assistant, pauses=True, detector=LoudnessDetector(), max_seconds=15) as listener,
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
