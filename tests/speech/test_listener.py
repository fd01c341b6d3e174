"""Listening to a source. With a model of random weights, words that are heard while they are spoken, guessed at and answered
early are the same as those of a recording that is heard afterwards, to the bit. A scripted model shows the events on the way.
Sources and clocks are scripted, so nothing depends on time."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import Paced, Source, load_audio, open_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from edge_gemma.speech.listener import Listener, ListenerEvent, agreement, listen
from edge_gemma.speech.transcriber import Transcriber
from support.listening import MODEL, LoudnessDetector, ScriptedSource, base_and_closing, sound
from support.scripted import RATE, ScriptedModel


def finals(events: Iterator[ListenerEvent]) -> list[Any]:
    return [event.segment for event in events if event.kind == "final"]


def still_open(model: Any) -> int:
    return sum(not session.closed for session in model._children)


# ---- the loop ---------------------------------------------------------------------------------------------------

TALK = sound((0.5, 1.5), (1.9, 2.8), (4.2, 5.5), (6.6, 7.0), seconds=8.0)


@pytest.fixture(scope="module")
def heard_afterwards(model: eg.Model) -> list[Any]:
    with Transcriber(model, "en", detector=LoudnessDetector()) as transcriber:
        found = list(transcriber.segments(TALK))
    assert len(found) == 3 and all(segment.text for segment in found)
    return found


@pytest.mark.parametrize("partials", [None, 0.2])
@pytest.mark.parametrize(("block", "moments"), [(320, 0), (512, 3), (3000, 40), (8000, 0)])
def test_the_words_are_those_of_the_recording(
    model: eg.Model, heard_afterwards: list[Any], partials: float | None, block: int, moments: int
) -> None:
    source = ScriptedSource(TALK, block, moments)
    with Listener(model, "en", detector=LoudnessDetector(), partials=partials, clock=source.clock) as listener:
        events = list(listener.listen(source))
        assert still_open(model) == 1  # the request
    assert finals(iter(events)) == heard_afterwards
    assert any(event.kind == "partial" for event in events) == (partials is not None)


def test_recordings_are_heard_as_fast_as_it_goes(model: eg.Model, heard_afterwards: list[Any]) -> None:
    with Listener(model, "en", detector=LoudnessDetector(), partials=0.2) as listener:
        events = list(listener.listen(TALK))
        assert finals(iter(events)) == heard_afterwards
        assert {event.kind for event in events} == {"start", "final"}
        assert finals(listener.listen((TALK[8 * 512 :], RATE)))  # and again
        with open_audio(TALK) as source:
            source.seek(3.5)
            assert [segment.start for segment in finals(listener.listen(source))] == pytest.approx([3.9, 6.3], abs=0.05)


def test_translations(model: eg.Model) -> None:
    with Transcriber(model, "en", "de", detector=LoudnessDetector(), max_tokens=40) as transcriber:
        expected = list(transcriber.segments(TALK))
    assert finals(listen(model, TALK, "en", to="de", detector=LoudnessDetector(), max_tokens=40)) == expected
    assert all(segment.language == "English" for segment in expected)


def test_utterances_that_are_too_long_are_cut(model: eg.Model) -> None:
    """Nothing is lost or doubled; each part has the words of its own sound: its last soft token knows 30 ms more."""
    samples = sound((0.5, 6.5), seconds=8.0)
    with Listener(model, "en", detector=LoudnessDetector(), max_seconds=2.5, max_tokens=6) as listener:
        found = finals(listener.listen(ScriptedSource(samples, moments=1)))
    assert len(found) >= 3
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert found[0].start < 0.5 and found[-1].end >= 6.5
    base, after = base_and_closing(model)
    for segment in found[:-1]:
        start, end = round(segment.start * RATE), round(segment.end * RATE)
        with base.fork() as session:
            session.feed_audio(samples[start : end + 640])
            marker = session.tokens[-1]
            session.rewind(2)
            session.feed_tokens([marker, *after])
            assert "".join(session.generate(max_tokens=6, temperature=0, special=True)).split() == segment.text.split()


# ---- when the answer is there -----------------------------------------------------------------------------------


def test_the_answer_is_there_when_the_silence_is_over(tokenizer: Any) -> None:
    """On a clock that only sound moves. 22 blocks of 32 ms are the silence, 8 of them the pause; from there on each read is
    good for a token."""
    latencies = {}
    for moments in (0, 3):
        _, events = play(
            tokenizer, lambda seconds: "Take the older one today, and mind the rain.", TALK, moments=moments
        )
        latencies[moments] = [event.latency for event in events if event.kind == "final"]
        assert len(latencies[moments]) == 3
        assert all(latency.decision == pytest.approx(22 * 512 / RATE, abs=0.035) for latency in latencies[moments])
    assert [latency.ready for latency in latencies[3]] == [latency.tokens for latency in latencies[3]]
    assert all(latency.first_token == latency.last_token == 0 for latency in latencies[3])
    # A step with each block, and the pause's own takes one.
    assert all(0 < latency.ready < 22 for latency in latencies[0])
    assert all(latency.first_token == 0 for latency in latencies[0])
    assert all(latency.speech_to_last_token == latency.decision + latency.last_token for latency in latencies[0])


def test_a_source_that_never_waits_gets_no_early_answer(model: eg.Model) -> None:
    source = ScriptedSource(TALK, block=8000)
    with Listener(model, "en", detector=LoudnessDetector(), max_tokens=8, clock=source.clock) as listener:
        found = [event.latency for event in listener.listen(source) if event.kind == "final"]
    assert [latency.ready for latency in found] == [0, 0, 0]


def test_sound_that_is_late_counts(model: eg.Model) -> None:
    """The end of speech is where it was said, not where it was read: here all the rest is read a second later."""
    samples = sound((0.5, 1.5), seconds=3.0)

    class Late(ScriptedSource):
        def clock(self) -> float:
            return super().clock() + (1.0 if self.given > 1.2 * RATE else 0.0)

    source = Late(samples)
    with Listener(model, "en", detector=LoudnessDetector(), max_tokens=8, clock=source.clock) as listener:
        latency = next(event.latency for event in listener.listen(source) if event.kind == "final")
    assert latency.decision == pytest.approx(1 + 22 * 512 / RATE, abs=0.035)


# ---- guesses, with a model that knows its lines -----------------------------------------------------------------


WORDS = "Two roads lead to the harbour, and the older one is steep but short, so take it when it is dry".split()


def slowly(seconds: float) -> str:
    """Four words a second from 0.3 s on, the last of which was not understood yet."""
    count = max(0, int((seconds - 0.3) * 4))
    whole = [*WORDS[:count], "uh"] if count < len(WORDS) else WORDS
    return " ".join(whole) + "."


def speaking(tokenizer: Any, script: Callable[[float], str]) -> ScriptedModel:
    """A model that answers `script(seconds)` to a recording of so many seconds."""
    return ScriptedModel(lambda session: script(session.seconds), tokenizer=tokenizer)


def play(
    tokenizer: Any, script: Callable[[float], str], samples: np.ndarray, *, moments: int = 20, **options: Any
) -> tuple[ScriptedModel, list[ListenerEvent]]:
    """The events of sound that is heard by a model, and the model."""
    model, source = speaking(tokenizer, script), ScriptedSource(samples, moments=moments)
    with Listener(model, "en", detector=LoudnessDetector(), clock=source.clock, **options) as listener:
        events = list(listener.listen(source))
    assert all(session.closed for session in model.sessions)
    return model, events


def test_guesses_show_what_is_agreed(tokenizer: Any) -> None:
    _, events = play(tokenizer, slowly, sound((0.5, 5.5), seconds=7), partials=0.3)
    partials = [event for event in events if event.kind == "partial"]
    assert len(partials) >= 12
    text = " ".join(WORDS)
    agreed = ""
    for event in partials:
        assert event.text.startswith(event.agreed) and text.startswith(event.agreed)
        assert event.agreed.startswith(agreed)  # it only grows
        assert (
            not event.agreed or not text[len(event.agreed) :][:1].isalnum() or event.agreed.endswith(" ")
        )  # whole words
        agreed = event.agreed
    assert len(agreed.split()) > len(WORDS) - 8  # 1.2 seconds have five words
    times = [event.time for event in partials[:10]]
    assert all(b - a == pytest.approx(0.3, abs=0.07) for a, b in itertools.pairwise(times))
    (final,) = [event for event in events if event.kind == "final"]
    assert final.text == f"{text}." and final.latency and final.latency.ready == final.latency.tokens


def test_pauses_are_told(tokenizer: Any) -> None:
    """What a pause has led to is told before the silence is over, and taken back when the speaker goes on."""

    def script(seconds: float) -> str:
        return "One." if seconds < 2 else "One, two."

    samples = sound((0.5, 1.5), (1.9, 2.8), seconds=5)
    _, events = play(tokenizer, script, samples, pauses=True)
    told = [(event.kind, event.text) for event in events]
    assert told == [("start", ""), ("early", "One."), ("resume", ""), ("early", "One, two."), ("final", "One, two.")]
    times = [event.time for event in events]
    assert times[1] == pytest.approx(1.5 + 0.25, abs=0.07) and times[2] == pytest.approx(1.9, abs=0.07)
    _, others = play(tokenizer, script, samples)
    assert [event.kind for event in others] == ["start", "final"]


@pytest.mark.parametrize("interval", [0.2, 0.4, 0.7])
def test_words_are_agreed_after_three_guesses_and_a_second(tokenizer: Any, interval: float) -> None:
    """Each word was in every guess of the last 1.2 s of sound, and in three guesses, before it counts as agreed."""
    _, events = play(tokenizer, slowly, sound((0.5, 5.5), seconds=7), partials=interval)
    partials = [event for event in events if event.kind == "partial" and event.time < 5.5]
    assert any(event.agreed for event in partials)
    for number, event in enumerate(partials):
        if not event.agreed:
            continue
        oldest = max(at for at, other in enumerate(partials) if other.time <= event.time - 1.15)
        supporters = partials[min(oldest, number - 2) : number + 1]
        assert len(supporters) >= 3 and all(f"{other.text} ".startswith(event.agreed) for other in supporters)


def test_nothing_is_agreed_while_guesses_change(tokenizer: Any) -> None:
    """The first guesses of a small model are whole sentences that nobody has said."""
    inventions = [
        "Stop.",
        "Stop.",
        "Good night.",
        "Could you stop?",
        "Could you stop?",
        "Good night.",
        "Stop it.",
        "No.",
    ]

    def script(seconds: float) -> str:
        return inventions[int(seconds / 0.3) % len(inventions)] if seconds < 3.5 else slowly(seconds)

    _, events = play(tokenizer, script, sound((0.5, 5.5), seconds=7), partials=0.3)
    partials = [event for event in events if event.kind == "partial"]
    assert {"Stop.", "Could you stop?"} <= {event.text for event in partials}
    assert all(" ".join(WORDS).startswith(event.agreed) for event in partials)


@pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
def test_the_embedded_model_agrees_on_what_is_said() -> None:
    """It guesses whole commands from their first word. What its guesses agree on is, of these recordings, always right."""
    agreed, invented = 0, 0
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as toy:
        for utterance in bundled():
            quiet = np.random.default_rng(0).standard_normal(RATE * 3 // 2).astype(np.float32) * 5e-4
            samples = np.concatenate([quiet[: RATE // 2], load_audio(utterance.path), quiet])
            source = ScriptedSource(samples, moments=60)
            with Listener(toy, detector="energy", partials=0.4, clock=source.clock) as listener:
                events = list(listener.listen(source))
            (final,) = (event.text for event in events if event.kind == "final")
            partials = [event for event in events if event.kind == "partial"]
            invented += sum(not final.startswith(event.text.rstrip(".?")) for event in partials)
            agreed += sum(bool(event.agreed) for event in partials)
            assert all(final.startswith(event.agreed) for event in partials)
    assert agreed >= 8 and invented >= 8


def test_guesses_are_cheap(tokenizer: Any) -> None:
    """What the last guess found is checked, what is agreed is not even that."""
    samples = sound((0.5, 5.5), seconds=7)
    scripted, events = play(tokenizer, slowly, samples, partials=0.3)
    alone, _ = play(tokenizer, slowly, samples)
    guesses = sum(event.kind == "partial" for event in events)
    answer = len(tokenizer.encode(slowly(99)))
    assert alone.drawn <= answer + 3  # the answer, the warming up, and the end
    assert scripted.drawn < alone.drawn + 14 * guesses < answer * guesses / 3
    assert scripted.checked < 2 * answer + 16 * guesses


def test_the_answer_begins_with_what_was_guessed(tokenizer: Any) -> None:
    """A moment after a pause is enough for 8 tokens then."""
    samples = sound((0.5, 5.5), seconds=7)
    ready = {}
    for partials in (None, 0.5):
        source = ScriptedSource(samples, moments=1)
        with Listener(
            speaking(tokenizer, slowly), "en", detector=LoudnessDetector(), partials=partials, clock=source.clock
        ) as listener:
            (latency,) = [event.latency for event in listener.listen(source) if event.kind == "final"]
        ready[partials] = latency.ready
    assert ready[None] < latency.tokens == ready[0.5]


def test_a_guess_that_was_wrong_does_not_stay(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return slowly(seconds).replace("Two roads", "To rose" if seconds < 3 else "Two roads")

    _, events = play(tokenizer, script, sound((0.5, 5.5), seconds=7), partials=0.3)
    partials = [event for event in events if event.kind == "partial"]
    assert any(event.agreed.startswith("To rose") for event in partials)
    assert partials[-1].text == " ".join(WORDS) + "." == events[-1].text


def test_what_is_agreed_stays_when_a_guess_says_less(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return "Two roads uh" if seconds < 1.4 else "Two roads" if seconds < 2.2 else slowly(seconds)

    _, events = play(tokenizer, script, sound((0.5, 5.5), seconds=7), partials=0.3)
    agreed = [event.agreed for event in events if event.kind == "partial"]
    assert agreed == sorted(agreed, key=len) and "Two roads" in [event.text for event in events]


def test_a_guess_in_the_making_serves_the_answer(tokenizer: Any) -> None:
    """With one step to a block it takes longer than the speech does; 14 blocks are between pause and end."""
    ready = {}
    for partials in (None, 0.3):
        samples = sound((0.5, 1.8), seconds=3)
        _, events = play(
            tokenizer, lambda seconds: " ".join(WORDS), samples, partials=partials, moments=0, max_tokens=500
        )
        assert not [event for event in events if event.kind == "partial" and event.time < 1.8]
        ready[partials] = events[-1].latency.ready
    assert ready[None] < 14 < 25 < ready[0.3]


def test_a_pause_is_a_guess_as_well(tokenizer: Any) -> None:
    samples = sound((0.5, 2.5), (2.95, 5.5), seconds=7)
    _, events = play(tokenizer, slowly, samples, partials=3.0)
    first = next(event for event in events if event.kind == "partial" and event.time > 2.95)
    assert first.text.startswith(" ".join(WORDS[:9]))  # what was understood at the pause
    _, events = play(tokenizer, slowly, samples, partials=0.4)
    pause = [event for event in events if event.kind == "partial" and 2.7 < event.time < 2.95]
    assert pause and [event.kind for event in events].count("final") == 1
    assert [len(event.text) for event in pause] == sorted(len(event.text) for event in pause)


def test_translations_are_not_guessed_at(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return f"{slowly(seconds)}\nGerman: {'so und so ' * 5}"

    source = ScriptedSource(sound((0.5, 5.5), seconds=7), moments=200)
    with Listener(
        speaking(tokenizer, script), "en", "de", detector=LoudnessDetector(), partials=0.3, clock=source.clock
    ) as listener:
        events = list(listener.listen(source))
    assert events[-1].text == " ".join(WORDS) + "." and events[-1].segment.translation == ("so und so " * 5).strip()
    assert not any("German" in event.text or "\n" in event.text for event in events)


def test_a_slow_machine_guesses_less(tokenizer: Any) -> None:
    """Half of the time at most: a guess that takes a second is not made more than every two."""
    samples = sound((0.5, 12.5), seconds=14)
    scripted, source = speaking(tokenizer, slowly), ScriptedSource(samples, moments=20)
    with Listener(
        scripted, "en", detector=LoudnessDetector(), partials=0.3, clock=lambda: source.clock() + scripted.drawn * 0.2
    ) as listener:
        times = [event.time for event in listener.listen(source) if event.kind == "partial" and event.time < 5]
    quick = [event.time for event in play(tokenizer, slowly, samples, partials=0.3)[1] if event.kind == "partial"]
    assert 2 <= len(times) < sum(time < 5 for time in quick) / 2


def test_falling_behind_stops_guesses(tokenizer: Any) -> None:
    """Reads of half a second leave no time. While they last a guess that was begun is dropped."""
    samples = sound((0.5, 9.5), seconds=11)

    class Busy(ScriptedSource):
        def _pieces(self, samples: np.ndarray, block: int, moments: int) -> Iterator[np.ndarray]:
            yield from super()._pieces(samples[:RATE], 512, 0)
            begun.append(scripted.drawn)
            yield samples[RATE : 9 * RATE]
            yield from super()._pieces(samples[9 * RATE :], 512, 20)

    begun: list[int] = []
    scripted, source = (
        speaking(tokenizer, lambda seconds: f"{' '.join(WORDS)} Q{'abcdefghijkl'[int(seconds)]}"),
        Busy(samples),
    )
    with Listener(
        scripted, "en", detector=LoudnessDetector(), partials=0.3, max_tokens=500, clock=source.clock
    ) as listener:
        events = list(listener.listen(source))
    assert begun[0] > 5
    partials = [event for event in events if event.kind == "partial"]
    assert partials and all(event.time > 9 and not event.text.endswith("Qa") for event in partials)
    assert events[-1].text.startswith(" ".join(WORDS))
    assert all(session.closed for session in scripted.sessions)


@pytest.mark.parametrize(
    ("before", "now", "common"),
    [
        ("Two roads", "Two roads lead", "Two roads"),
        ("Two roads", "Two roadside", "Two"),
        ("Two roads.", "Two roads lead", "Two roads"),
        ("Two roads", "Two roads", "Two"),  # the last word may go on
        ("Two roads le", "Two roads lead to", "Two roads"),
        ("don", "don't go", ""),
        ("Two", "One", ""),
        ("", "Two roads", ""),
        ("今日は", "今日は良い", "今日は"),
        ("1, 2, 3", "1, 2, 34", "1, 2,"),
    ],
)
def test_agreement_is_on_whole_words(before: str, now: str, common: str) -> None:
    assert agreement([before, now]) == agreement([before, now, before, now]) == common


# ---- answers that repeat themselves -----------------------------------------------------------------------------


def test_answers_that_repeat_themselves_are_drawn_again(model: eg.Model) -> None:
    """Answers of random weights often do. The text is that of the recording's transcript, which is drawn again as well."""
    samples = sound((0.5, 4.5), seconds=6, seed=4)
    with Transcriber(model, "en", detector=LoudnessDetector()) as transcriber:
        expected = list(transcriber.segments(samples))
        request, (start, end) = transcriber.request, (round(t * RATE) for t in (expected[0].start, expected[0].end))
        first = request.answer(request.session.fork(), (end - start) / RATE, sound=samples[start:end])
        with contextlib.closing(first):
            first.finish()
        assert first.stop == "loop", "the sound of this test must lead the model into a loop"
        assert request.read(first.text)[0] != expected[0].text
    source = ScriptedSource(samples, moments=4)
    events = [e for e in listen(model, source, "en", detector=LoudnessDetector()) if e.kind == "final"]
    assert finals(iter(events)) == expected
    assert events[0].latency and events[0].latency.ready == 0  # the first attempt was thrown away


def test_a_recording_waits_for_answers_and_sound_does_not(tokenizer: Any) -> None:
    behind = {}
    for live in (False, True):
        source = ScriptedSource(TALK, block=1600)
        source.live = live
        with Listener(
            speaking(tokenizer, lambda seconds: " ".join(WORDS)), "en", detector=LoudnessDetector()
        ) as listener:
            ends = [(source.given / RATE, event.time) for event in listener.listen(source) if event.kind == "final"]
        behind[live] = max(given - end for given, end in ends[:-1])
    assert behind[False] < 0.7 < 2 < behind[True]


# ---- ends, and what goes wrong ----------------------------------------------------------------------------------


def test_once_ends_after_the_first_words(tokenizer: Any) -> None:
    samples = sound((0.5, 1.5), (3.0, 4.0), (5.5, 6.5), seconds=8)
    scripted = speaking(tokenizer, lambda seconds: "" if not said else "Hello.")
    said: list[int] = []
    source = ScriptedSource(samples, moments=9)
    with Listener(scripted, "en", detector=LoudnessDetector(), clock=source.clock) as listener:
        kinds = []
        for event in listener.listen(source, once=True):
            kinds.append((event.kind, event.text))
            if event.kind == "final":
                said.append(1)
    assert kinds == [("start", ""), ("final", ""), ("start", ""), ("final", "Hello.")]
    assert all(session.closed for session in scripted.sessions)
    assert source.read(0.1) is not None  # it was given open, and stays so


def test_cancelling_ends_it_and_harms_nothing(model: eg.Model, heard_afterwards: list[Any]) -> None:
    with Listener(model, "en", detector=LoudnessDetector(), partials=0.2) as listener:
        for moment in ("before", "speaking", "pause", "final"):
            source = ScriptedSource(TALK, moments=2)
            events = listener.listen(source)
            if moment == "before":
                assert next(events).kind == "start"
            elif moment == "speaking":
                assert next(event for event in events if event.kind == "partial")
            elif moment == "pause":
                assert next(event for event in events if event.kind == "partial" and event.time > 2.9)
            else:
                assert next(event for event in events if event.kind == "final")
            given = source.given
            listener.cancel()
            with pytest.raises(Cancelled):
                list(events)
            assert source.given == given and still_open(model) == 1
        assert finals(listener.listen(ScriptedSource(TALK, moments=2))) == heard_afterwards


def test_cancelling_from_another_thread(model: eg.Model) -> None:
    class Silent(Source):
        live = True
        asked = threading.Event()

        def next_block(self, timeout: float | None) -> np.ndarray:
            self.asked.set()
            assert timeout is not None
            return np.zeros(0, np.float32)

    with Listener(model, "en", detector=LoudnessDetector()) as listener:

        def cancel() -> None:
            Silent.asked.wait(30)
            listener.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(Cancelled):
            list(listener.listen(Silent()))
        thread.join()
        assert still_open(model) == 1


def test_leaving_the_loop_closes_everything(model: eg.Model) -> None:
    source = ScriptedSource(TALK, moments=2)
    for event in listen(model, source, "en", detector=LoudnessDetector(), partials=0.2):
        if event.kind == "final":
            break
    del event
    assert still_open(model) == 0


def test_lost_sound_is_reported(tokenizer: Any) -> None:
    class Poor(ScriptedSource):
        overruns, lost = 0, 0.0

        def next_block(self, timeout: float | None) -> np.ndarray | None:
            if self.given > RATE and not self.overruns:
                self.overruns, self.lost = 2, 0.4
            if self.given > 2 * RATE and self.overruns == 2:
                self.overruns, self.lost = 3, 0.5
            return super().next_block(timeout)

        def clock(self) -> float:
            return super().clock() + self.lost

    source = Poor(sound((0.5, 2.5), seconds=4), moments=5)
    with Listener(
        speaking(tokenizer, lambda seconds: "Hello."), "en", detector=LoudnessDetector(), clock=source.clock
    ) as listener:
        events = list(listener.listen(source))
    lost = [(event.lost, event.time) for event in events if event.kind == "overrun"]
    assert [seconds for seconds, _ in lost] == pytest.approx([0.4, 0.1])
    assert [time for _, time in lost] == pytest.approx([1.0, 2.0], abs=0.1)
    assert events[-1].text == "Hello." and events[-1].latency.decision == pytest.approx(0.7, abs=0.04)


def test_a_source_that_fails(model: eg.Model) -> None:
    class Broken(ScriptedSource):
        def next_block(self, timeout: float | None) -> np.ndarray | None:
            if self.given > RATE:
                raise EdgeGemmaError("the microphone has stopped.", "file")
            return super().next_block(timeout)

    with Listener(model, "en", detector=LoudnessDetector()) as listener:
        with pytest.raises(EdgeGemmaError, match="has stopped"):
            list(listener.listen(Broken(TALK)))
        assert still_open(model) == 1


def test_wrong_options(model: eg.Model) -> None:
    for options in ({"partials": 0.0}, {"partials": -1.0}, {"silence": 0.1}, {"max_seconds": 50.0}, {"stop": ""}):
        for make in (Listener, listen):
            with pytest.raises(EdgeGemmaError) as error:
                make(model, language="en", **options)
            assert error.value.code == "argument"
    for make in (Listener, listen):
        with pytest.raises(TypeError, match="temprature"):
            make(model, temprature=0)
    with eg.Model.load(MODEL) as deaf, pytest.raises(EdgeGemmaError, match="mmproj"):
        Listener(deaf)
    with pytest.raises(EdgeGemmaError, match="no-such-file"):
        list(listen(model, "no-such-file.wav"))
    assert still_open(model) == 0


def test_at_the_speed_of_speech(model: eg.Model, heard_afterwards: list[Any]) -> None:
    """A paced recording, on a clock that its own waiting moves."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    source = Paced(open_audio(TALK), clock=lambda: now[0], sleep=wait)
    with Listener(model, "en", detector=LoudnessDetector(), clock=lambda: now[0]) as listener:
        events = [event for event in listener.listen(source) if event.kind == "final"]
    assert finals(iter(events)) == heard_afterwards
    # 22 blocks of silence, found when the device's portion of 20 ms, or the wait of 100 ms, that follows has come.
    assert all(0.7 < event.latency.decision < 0.85 for event in events[:-1])


def test_live_speech_goes_before_other_work() -> None:
    """Every session that a listener opens has its priority."""
    for options, priority in (({}, 1), ({"priority": 0}, 0)):
        model = ScriptedModel("Hello.")
        with Listener(model, detector=LoudnessDetector(), **options) as listener:
            assert list(listener.listen(open_audio(sound((0.3, 1.4), seconds=3.2))))
        assert len(model.sessions) > 1 and {session.priority for session in model.sessions} == {priority}
