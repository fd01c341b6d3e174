"""Listening to a source. A model of random weights shows that what is heard while it is spoken, guessed at and begun early ends
in the same words as a recording heard afterwards, to the bit; a scripted one, which knows what it ought to say, shows what
is told on the way. Sources and clocks are scripted, so nothing depends on time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import Paced, Source, open_audio
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.speech.listener import Listener, ListenerEvent, agreement, listen
from edge_gemma.speech.transcriber import Transcriber
from support.listening import MMPROJ, MODEL, RATE, Loud, Players, Scripted, base_and_closing, sound


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(MODEL, mmproj=MMPROJ, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer() -> eg.Tokenizer:
    return eg.Tokenizer.load(MODEL)


def finals(events: Iterator[ListenerEvent]) -> list[Any]:
    return [event.segment for event in events if event.kind == "final"]


def still_open(model: Any) -> int:
    return sum(not session.closed for session in model._children)


# ---- the loop ---------------------------------------------------------------------------------------------------

TALK = sound((0.5, 1.5), (1.9, 2.8), (4.2, 5.5), (6.6, 7.0), seconds=8.0)


@pytest.fixture(scope="module")
def heard_afterwards(model: eg.Model) -> list[Any]:
    with Transcriber(model, "en", detector=Loud()) as transcriber:  # type: ignore[arg-type]
        found = list(transcriber.segments(TALK))
    assert len(found) == 3 and all(segment.text for segment in found)
    return found


@pytest.mark.parametrize("partials", [None, 0.2])
@pytest.mark.parametrize(("block", "moments"), [(320, 0), (512, 3), (3000, 40), (8000, 0)])
def test_the_words_are_those_of_the_recording(
    model: eg.Model, heard_afterwards: list[Any], partials: float | None, block: int, moments: int
) -> None:
    source = Scripted(TALK, block, moments)
    with Listener(model, "en", detector=Loud(), partials=partials, clock=source.clock) as listener:
        events = list(listener.listen(source))
        assert still_open(model) == 1  # the request
    assert finals(iter(events)) == heard_afterwards
    assert any(event.kind == "partial" for event in events) == (partials is not None)


def test_recordings_are_heard_as_fast_as_it_goes(model: eg.Model, heard_afterwards: list[Any]) -> None:
    with Listener(model, "en", detector=Loud(), partials=0.2) as listener:
        events = list(listener.listen(TALK))
        assert finals(iter(events)) == heard_afterwards
        assert {event.kind for event in events} == {"start", "final"}
        assert finals(listener.listen((TALK[8 * 512 :], RATE)))  # and again
        with open_audio(TALK) as source:
            source.seek(3.5)
            assert [segment.start for segment in finals(listener.listen(source))] == pytest.approx([3.9, 6.3], abs=0.05)


def test_translations(model: eg.Model) -> None:
    with Transcriber(model, "en", "de", detector=Loud(), max_tokens=40) as transcriber:  # type: ignore[arg-type]
        expected = list(transcriber.segments(TALK))
    assert finals(listen(model, TALK, "en", to="de", detector=Loud(), max_tokens=40)) == expected
    assert all(segment.language == "English" for segment in expected)


def test_utterances_that_are_too_long_are_cut(model: eg.Model) -> None:
    """Nothing is lost or doubled; each part has the words of its own sound: its last soft token knows 30 ms more."""
    samples = sound((0.5, 6.5), seconds=8.0)
    with Listener(model, "en", detector=Loud(), max_seconds=2.5, max_tokens=6) as listener:
        found = finals(listener.listen(Scripted(samples, moments=1)))
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
    source = Scripted(TALK, block=8000)
    with Listener(model, "en", detector=Loud(), max_tokens=8, clock=source.clock) as listener:
        found = [event.latency for event in listener.listen(source) if event.kind == "final"]
    assert [latency.ready for latency in found] == [0, 0, 0]


def test_sound_that_is_late_counts(model: eg.Model) -> None:
    """The end of speech is where it was said, not where it was read: here all the rest is read a second later."""
    samples = sound((0.5, 1.5), seconds=3.0)

    class Late(Scripted):
        def clock(self) -> float:
            return super().clock() + (1.0 if self.given > 1.2 * RATE else 0.0)

    source = Late(samples)
    with Listener(model, "en", detector=Loud(), max_tokens=8, clock=source.clock) as listener:
        latency = next(event.latency for event in listener.listen(source) if event.kind == "final")
    assert latency.decision == pytest.approx(1 + 22 * 512 / RATE, abs=0.035)


# ---- guesses, with a model that knows its lines -----------------------------------------------------------------


WORDS = "Two roads lead to the harbour, and the older one is steep but short, so take it when it is dry".split()


def slowly(seconds: float) -> str:
    """Four words a second from 0.3 s on, the last of which was not understood yet."""
    count = max(0, int((seconds - 0.3) * 4))
    whole = [*WORDS[:count], "uh"] if count < len(WORDS) else WORDS
    return " ".join(whole) + "."


def play(tokenizer: Any, script: Any, samples: np.ndarray, **options: Any) -> tuple[Players, list[ListenerEvent]]:
    players, source = Players(tokenizer, script), Scripted(samples, moments=options.pop("moments", 20))
    clock = options.pop("clock", source.clock)
    with Listener(players, "en", detector=Loud(), clock=clock, **options) as listener:
        events = list(listener.listen(source))
    assert all(session.closed for session in players.sessions)
    return players, events


def test_guesses_show_what_is_stable(tokenizer: Any) -> None:
    _, events = play(tokenizer, slowly, sound((0.5, 5.5), seconds=7), partials=0.3)
    partials = [event for event in events if event.kind == "partial"]
    assert len(partials) >= 12
    text = " ".join(WORDS)
    stable = ""
    for event in partials:
        assert event.text.startswith(event.stable) and text.startswith(event.stable)
        assert event.stable.startswith(stable)  # it only grows
        assert (
            not event.stable or not text[len(event.stable) :][:1].isalnum() or event.stable.endswith(" ")
        )  # whole words
        stable = event.stable
    assert len(stable.split()) > len(WORDS) - 4
    times = [event.time for event in partials[:10]]
    assert all(b - a == pytest.approx(0.3, abs=0.07) for a, b in itertools.pairwise(times))
    (final,) = [event for event in events if event.kind == "final"]
    assert final.text == f"{text}." and final.latency and final.latency.ready == final.latency.tokens


def test_guesses_are_cheap(tokenizer: Any) -> None:
    """What the last guess found is checked, what is stable is not even that."""
    samples = sound((0.5, 5.5), seconds=7)
    players, events = play(tokenizer, slowly, samples, partials=0.3)
    alone, _ = play(tokenizer, slowly, samples)
    guesses = sum(event.kind == "partial" for event in events)
    answer = len(players.lines(99))
    assert alone.drawn <= answer + 3  # the answer, the warming up, and the end
    assert players.drawn < alone.drawn + 14 * guesses < answer * guesses / 3
    assert players.checked < 2 * answer + 16 * guesses


def test_the_answer_begins_with_what_was_guessed(tokenizer: Any) -> None:
    """A moment after a pause is enough for 8 tokens then."""
    samples = sound((0.5, 5.5), seconds=7)
    ready = {}
    for partials in (None, 0.5):
        source = Scripted(samples, moments=1)
        with Listener(
            Players(tokenizer, slowly), "en", detector=Loud(), partials=partials, clock=source.clock
        ) as listener:
            (latency,) = [event.latency for event in listener.listen(source) if event.kind == "final"]
        ready[partials] = latency.ready
    assert ready[None] < latency.tokens == ready[0.5]


def test_a_guess_that_was_wrong_does_not_stay(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return slowly(seconds).replace("Two roads", "To rose" if seconds < 2 else "Two roads")

    _, events = play(tokenizer, script, sound((0.5, 5.5), seconds=7), partials=0.3)
    partials = [event for event in events if event.kind == "partial"]
    assert any(event.stable.startswith("To rose") for event in partials)
    assert partials[-1].text == " ".join(WORDS) + "." == events[-1].text


def test_what_is_stable_stays_when_a_guess_says_less(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return "Two roads uh" if seconds < 1.4 else "Two roads" if seconds < 2.2 else slowly(seconds)

    _, events = play(tokenizer, script, sound((0.5, 5.5), seconds=7), partials=0.3)
    stable = [event.stable for event in events if event.kind == "partial"]
    assert stable == sorted(stable, key=len) and "Two roads" in [event.text for event in events]


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
    assert len(first.stable.split()) == 9  # what was understood at the pause
    _, events = play(tokenizer, slowly, samples, partials=0.4)
    pause = [event for event in events if event.kind == "partial" and 2.7 < event.time < 2.95]
    assert pause and [event.kind for event in events].count("final") == 1
    assert [len(event.text) for event in pause] == sorted(len(event.text) for event in pause)


def test_translations_are_not_guessed_at(tokenizer: Any) -> None:
    def script(seconds: float) -> str:
        return f"{slowly(seconds)}\nGerman: {'so und so ' * 5}"

    class Bilingual(Players):
        def __init__(self) -> None:
            super().__init__(tokenizer, script)

    source = Scripted(sound((0.5, 5.5), seconds=7), moments=200)
    with Listener(Bilingual(), "en", "de", detector=Loud(), partials=0.3, clock=source.clock) as listener:
        events = list(listener.listen(source))
    assert events[-1].text == " ".join(WORDS) + "." and events[-1].segment.translation == ("so und so " * 5).strip()
    assert not any("German" in event.text or "\n" in event.text for event in events)


def test_a_slow_machine_guesses_less(tokenizer: Any) -> None:
    """Half of the time at most: a guess that takes a second is not made more than every two."""
    samples = sound((0.5, 12.5), seconds=14)
    players, source = Players(tokenizer, slowly), Scripted(samples, moments=20)
    with Listener(
        players, "en", detector=Loud(), partials=0.3, clock=lambda: source.clock() + players.drawn * 0.2
    ) as listener:
        times = [event.time for event in listener.listen(source) if event.kind == "partial" and event.time < 5]
    quick = [event.time for event in play(tokenizer, slowly, samples, partials=0.3)[1] if event.kind == "partial"]
    assert 2 <= len(times) < sum(time < 5 for time in quick) / 2


def test_falling_behind_stops_guesses(tokenizer: Any) -> None:
    """Reads of half a second leave no time. While they last a guess that was begun is dropped."""
    samples = sound((0.5, 9.5), seconds=11)

    class Busy(Scripted):
        def _pieces(self, samples: np.ndarray, block: int, moments: int) -> Iterator[np.ndarray]:
            yield from super()._pieces(samples[:RATE], 512, 0)
            begun.append(players.drawn)
            yield samples[RATE : 9 * RATE]
            yield from super()._pieces(samples[9 * RATE :], 512, 20)

    begun: list[int] = []
    players, source = (
        Players(tokenizer, lambda seconds: f"{' '.join(WORDS)} Q{'abcdefghijkl'[int(seconds)]}"),
        Busy(samples),
    )
    with Listener(players, "en", detector=Loud(), partials=0.3, max_tokens=500, clock=source.clock) as listener:
        events = list(listener.listen(source))
    assert begun[0] > 5
    partials = [event for event in events if event.kind == "partial"]
    assert partials and all(event.time > 9 and not event.text.endswith("Qa") for event in partials)
    assert events[-1].text.startswith(" ".join(WORDS))
    assert all(session.closed for session in players.sessions)


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
    assert agreement(before, now) == common


# ---- loops ------------------------------------------------------------------------------------------------------


def test_answers_in_circles_get_a_second_attempt(model: eg.Model) -> None:
    """Random weights like circles; the recording's transcript is the one to equal, and some of its answers are cut."""
    samples = sound((0.5, 4.5), seconds=6, seed=4)
    attempts = []

    class Watched(Transcriber):
        def _answer(self, samples: np.ndarray, sampling: dict[str, Any]) -> str:
            attempts.append(sampling["temperature"])
            return super()._answer(samples, sampling)

    with Watched(model, "en", detector=Loud()) as transcriber:  # type: ignore[arg-type]
        expected = list(transcriber.segments(samples))
    assert 0.5 in attempts, "this sound must lead the model into a circle"
    events = [
        event for event in listen(model, Scripted(samples, moments=4), "en", detector=Loud()) if event.kind == "final"
    ]
    assert finals(iter(events)) == expected
    assert events[0].latency.ready == 0  # what was there was thrown away


def test_a_recording_waits_for_answers_and_sound_does_not(tokenizer: Any) -> None:
    behind = {}
    for live in (False, True):
        source = Scripted(TALK, block=1600)
        source.live = live
        with Listener(Players(tokenizer, lambda seconds: " ".join(WORDS)), "en", detector=Loud()) as listener:
            ends = [(source.given / RATE, event.time) for event in listener.listen(source) if event.kind == "final"]
        behind[live] = max(given - end for given, end in ends[:-1])
    assert behind[False] < 0.7 < 2 < behind[True]


# ---- ends, and what goes wrong ----------------------------------------------------------------------------------


def test_once_ends_after_the_first_words(tokenizer: Any) -> None:
    samples = sound((0.5, 1.5), (3.0, 4.0), (5.5, 6.5), seconds=8)
    players = Players(tokenizer, lambda seconds: "" if not said else "Hello.")
    said: list[int] = []
    source = Scripted(samples, moments=9)
    with Listener(players, "en", detector=Loud(), clock=source.clock) as listener:
        kinds = []
        for event in listener.listen(source, once=True):
            kinds.append((event.kind, event.text))
            if event.kind == "final":
                said.append(1)
    assert kinds == [("start", ""), ("final", ""), ("start", ""), ("final", "Hello.")]
    assert all(session.closed for session in players.sessions)
    assert source.read(0.1) is not None  # it was given open, and stays so


def test_cancelling_ends_it_and_harms_nothing(model: eg.Model, heard_afterwards: list[Any]) -> None:
    with Listener(model, "en", detector=Loud(), partials=0.2) as listener:
        for moment in ("before", "speaking", "pause", "final"):
            source = Scripted(TALK, moments=2)
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
        assert finals(listener.listen(Scripted(TALK, moments=2))) == heard_afterwards


def test_cancelling_from_another_thread(model: eg.Model) -> None:
    class Silent(Source):
        live = True
        asked = threading.Event()

        def next_block(self, timeout: float | None) -> np.ndarray:
            self.asked.set()
            assert timeout is not None
            return np.zeros(0, np.float32)

    with Listener(model, "en", detector=Loud()) as listener:

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
    source = Scripted(TALK, moments=2)
    for event in listen(model, source, "en", detector=Loud(), partials=0.2):
        if event.kind == "final":
            break
    del event
    assert still_open(model) == 0


def test_lost_sound_is_reported(tokenizer: Any) -> None:
    class Poor(Scripted):
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
    with Listener(Players(tokenizer, lambda seconds: "Hello."), "en", detector=Loud(), clock=source.clock) as listener:
        events = list(listener.listen(source))
    lost = [(event.lost, event.time) for event in events if event.kind == "overrun"]
    assert [seconds for seconds, _ in lost] == pytest.approx([0.4, 0.1])
    assert [time for _, time in lost] == pytest.approx([1.0, 2.0], abs=0.1)
    assert events[-1].text == "Hello." and events[-1].latency.decision == pytest.approx(0.7, abs=0.04)


def test_a_source_that_fails(model: eg.Model) -> None:
    class Broken(Scripted):
        def next_block(self, timeout: float | None) -> np.ndarray | None:
            if self.given > RATE:
                raise EdgeGemmaError("the microphone has stopped.", "file")
            return super().next_block(timeout)

    with Listener(model, "en", detector=Loud()) as listener:
        with pytest.raises(EdgeGemmaError, match="has stopped"):
            list(listener.listen(Broken(TALK)))
        assert still_open(model) == 1


def test_wrong_options(model: eg.Model) -> None:
    for options in ({"partials": 0.0}, {"partials": -1.0}, {"silence": 0.1}, {"max_seconds": 50.0}):
        with pytest.raises(EdgeGemmaError) as error:
            Listener(model, "en", **options)
        assert error.value.code == "argument"
    with eg.Model.load(MODEL) as deaf, pytest.raises(EdgeGemmaError, match="mmproj"):
        Listener(deaf)
    with pytest.raises(EdgeGemmaError, match="no-such-file"):
        list(listen(model, "no-such-file.wav"))


def test_at_the_speed_of_speech(model: eg.Model, heard_afterwards: list[Any]) -> None:
    """A paced recording, on a clock that its own waiting moves."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    source = Paced(open_audio(TALK), clock=lambda: now[0], sleep=wait)
    with Listener(model, "en", detector=Loud(), clock=lambda: now[0]) as listener:
        events = [event for event in listener.listen(source) if event.kind == "final"]
    assert finals(iter(events)) == heard_afterwards
    # 22 blocks of silence, found when the device's portion of 20 ms, or the wait of 100 ms, that follows has come.
    assert all(0.7 < event.latency.decision < 0.85 for event in events[:-1])
