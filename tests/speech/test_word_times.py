"""When words were said: the alignment, whose rule is checked on sound and steps that are known, the questions to the model,
and subtitles that show each word when it is said."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.errors import Cancelled
from edge_gemma.speech.alignment import FRAME, Step, align, quietness
from edge_gemma.speech.scoring import score
from edge_gemma.speech.transcript import Segment, Transcript, Word
from edge_gemma.speech.word_times import STEP
from support.listening import LoudnessDetector, sound
from support.scripted import RATE, ScriptedModel, ScriptedSession

Times = Sequence[tuple[float, float]]


def step(start: float, end: float, seconds: float, low: float = -6.0, spacing: float = STEP) -> Step:
    """What is seen of a word that is certain when most of it was heard."""
    times = np.arange(spacing, seconds, spacing)
    return Step(times, np.where(times >= start + 0.8 * (end - start) + 0.1, -0.1, low), -0.1)


def random_words(rng: np.random.Generator, count: int) -> tuple[list[str], Times, float]:
    """Words of random lengths, spoken at random speeds, some after a pause; their times; the seconds of all."""
    words, times, at = [], [], 0.3
    for _ in range(count):
        letters = int(rng.integers(2, 11))
        at += float(rng.uniform(0.25, 0.6)) if rng.random() < 0.2 else 0.0
        seconds = 0.07 * (letters + 1) * float(rng.uniform(0.6, 1.6))
        words.append("a" * letters)
        times.append((at, at + seconds))
        at += seconds
    return words, times, at + 0.4


def quiet_between(times: Times, seconds: float) -> np.ndarray:
    at = np.arange(0, seconds - FRAME / 2, FRAME) + FRAME / 2
    return 1.0 - np.any([(start <= at) & (at < end) for start, end in times], axis=0)


def errors(found: Times, times: Times) -> np.ndarray:
    return np.abs(np.array(found) - np.array(times)).ravel()


# ---- alignment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_words_are_found_where_they_became_certain(seed: int) -> None:
    words, times, seconds = random_words(np.random.default_rng(seed), 40)
    quiet, spacing = quiet_between(times, seconds), 0.16
    found = align(words, [step(*time, seconds, spacing=spacing) for time in times], quiet, spacing)
    by_length = align(words, [None] * len(words), quiet, spacing)
    assert all(0 <= a < b <= seconds for a, b in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))
    assert np.median(errors(found, times)) < 0.05 and errors(found, times).max() < 0.3
    assert errors(found, times).mean() < 0.7 * errors(by_length, times).mean()


def test_a_word_that_was_known_before_is_placed_by_its_neighbours() -> None:
    times = [(0.2, 0.6), (0.6, 0.9), (0.9, 1.5)]
    steps = [step(*times[0], 2.0), step(*times[1], 2.0, low=-0.1), step(*times[2], 2.0)]
    found = align(["aaaa", "aaa", "aaaaaa"], steps, quiet_between([(0.2, 1.5)], 2.0), STEP)
    assert errors(found, times).max() < 0.15


def test_pauses_belong_to_no_word() -> None:
    times = [(0.48, 0.8), (1.6, 2.0)]
    for steps in ([None, None], [step(*time, 3.0) for time in times]):
        assert errors(align(["aaa", "aaaa"], steps, quiet_between(times, 3.0), STEP), times).max() < 0.05
    # Both words lie before the pause, whatever their lengths say.
    times = [(0.4, 0.8), (0.8, 1.2)]
    heard = [*times, (2.0, 2.4)]
    found = align(["aaaa", "aaaaaaaa", "aaaa"], [step(*time, 3.0) for time in heard], quiet_between(heard, 3.0), STEP)
    assert found[1][1] == pytest.approx(1.2, abs=0.05) and found[2][0] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("music", [(0.0, 4.0), (4.5, 8.5), (9.0, 13.0)])
def test_sound_that_is_no_word_does_not_stretch_words(music: tuple[float, float]) -> None:
    times = [(4.1, 4.4), (8.6, 9.0)]
    quiet = quiet_between([*times, music], 13.0)
    found = align(["aaa", "aaaa"], [step(*time, 13.0) for time in times], quiet, STEP)
    assert errors(found, times).max() < 0.3


def test_more_words_than_there_is_sound_for() -> None:
    for frames in (0, 1, 3, 5):
        found = align(["a"] * 5, [None] * 5, np.zeros(frames), STEP)
        assert len(found) == 5 and all(0 <= a <= b <= frames * FRAME + 1e-9 for a, b in found)
    assert align(["aaa"], [None], np.ones(20), STEP)[0][1] <= 20 * FRAME  # nothing but silence


def test_silence_is_told_from_sound_in_noise_too() -> None:
    rng = np.random.default_rng(0)
    for noise in (1e-6, 1e-3, 0.01):
        samples = noise * rng.standard_normal(2 * RATE)
        samples[RATE // 2 : RATE] += 0.1 * rng.standard_normal(RATE // 2)
        quiet = quietness(samples.astype(np.float32))
        at = (np.arange(len(quiet)) + 0.5) * FRAME
        assert quiet[(at > 0.55) & (at < 0.95)].max() < 0.1 and quiet[(at < 0.45) | (at > 1.1)].min() > 0.5
    assert quietness(np.zeros(100, np.float32)).size == 0
    assert quietness(sound((0.0, 1.0), seconds=1.0)).max() < 0.1  # what never changes is no silence


# ---- questions to the model --------------------------------------------------------------------------------------

SAID = [("Turn", 0.5, 0.9), ("on", 0.9, 1.1), ("the", 1.1, 1.3), ("light", 2.0, 2.5), ("now", 2.5, 2.9)]
LOUD = sound((0.5, 1.3), (2.0, 2.9), seconds=3.5)


def hears(session: ScriptedSession) -> list[str]:
    """The words that were said before the end of what the session has heard."""
    words = [word for word, start, end in SAID if len(session.heard) / RATE >= start + 0.8 * (end - start) + 0.1]
    return [f" {word}" if number else word for number, word in enumerate(words)]


def test_the_model_is_asked_what_it_knows_of_the_words() -> None:
    model = ScriptedModel(hears)
    model.certainty = 15.0
    with eg.Transcriber(model, "en", detector="none", word_times=True) as transcriber:
        (segment,) = transcriber.segments((LOUD, RATE))
    assert segment.text == "Turn on the light now" and [word.word for word in segment.words] == segment.text.split()
    found = [(word.start or 0.0, word.end or 0.0) for word in segment.words]
    assert errors(found, [(start, end) for _, start, end in SAID]).max() < 0.15
    assert all(session.closed for session in model.sessions)


def test_times_count_from_the_beginning_of_the_recording() -> None:
    model = ScriptedModel(hears)
    model.certainty = 15.0
    options: dict[str, Any] = {"detector": LoudnessDetector(), "silence": 1.0, "word_times": True}
    (segment,) = eg.transcribe((np.concatenate([sound(seconds=10.0), LOUD]), RATE), model, "en", **options)
    assert segment.words[0].start == pytest.approx(10.5, abs=0.2) and segment.start > 9
    assert segment.start <= segment.words[0].start and segment.words[-1].end <= segment.end


def test_a_question_costs_few_tokens() -> None:
    """Each is about the words around its place, silence is passed over, and nothing is asked when all was heard."""
    asked: list[int] = []
    model = ScriptedModel(hears)
    model.certainty = 15.0
    model.on_call = lambda session, name, value: asked.append(len(value)) if name == "forward" else None
    cough = sound((0.5, 1.3), (2.0, 2.9), (3.5, 8.0), seconds=8.0)  # or whatever the transcript has no words for
    (segment,) = eg.transcribe((cough, RATE), model, "en", detector="none", word_times=True)
    assert segment.words[-1].word == "now" and len(asked) == 5 and max(asked) <= 9
    assert (segment.words[-1].end or 0.0) < 3.5


def test_long_segments_have_no_more_questions() -> None:
    asked: list[int] = []
    words = [f" w{number}" for number in range(50)]
    model = ScriptedModel(lambda session: words[: int(2 * len(session.heard) / RATE)])
    model.certainty = 15.0
    model.on_call = lambda session, name, value: asked.append(len(value)) if name == "forward" else None
    (segment,) = eg.transcribe((sound((0.0, 25.0), seconds=25.0), RATE), model, "en", detector="none", word_times=True)
    assert len(segment.words) == 50 and 16 < len(asked) <= 32
    times = [((number + 1) / 2, word.end or 0.0) for number, word in enumerate(segment.words)]
    assert max(abs(a - b) for a, b in times) < 0.5 and np.median([abs(a - b) for a, b in times]) < 0.25


def test_without_words_nothing_is_asked() -> None:
    for options in ({"word_times": True}, {}):
        model = ScriptedModel("" if options else "Yes.")
        (segment,) = eg.transcribe((LOUD, RATE), model, "en", detector="none", **options)
        assert len(model.sessions) == 2 and not any(word.timed for word in segment.words)


def test_the_search_can_be_cancelled() -> None:
    model = ScriptedModel(hears)
    with eg.Transcriber(model, "en", detector="none", word_times=True) as transcriber:
        model.on_call = lambda session, name, value: transcriber.cancel() if name == "forward" else None
        with pytest.raises(Cancelled):
            list(transcriber.segments((LOUD, RATE)))
        assert all(session.closed for session in model.sessions if session.parent)


def test_the_engine_scores_what_it_would_compute_by_hand(model: eg.Model) -> None:
    """Of sound that goes on, of tokens in the middle of an answer; the session goes on undisturbed."""
    with eg.Transcriber(model, "en") as transcriber, transcriber.request.session.fork() as session:
        closing, ids = transcriber.request.closing, [100, 101, 102, 103, 104]
        with session.stream_audio() as audio:
            audio.push(LOUD[:RATE])
            found = score(session, closing, ids, 2, 5)
            audio.push(LOUD[RATE:])
        with transcriber.request.session.fork() as other:
            other.feed_audio(LOUD[:RATE])
            rows = other.forward([*closing, *ids]).astype(np.float64)[len(closing) - 1 :]
        by_hand = [rows[i][ids[i]] - np.log(np.exp(rows[i]).sum()) for i in range(2, 5)]
        assert found == pytest.approx(by_hand, abs=1e-4)
        with transcriber.request.session.fork() as whole:
            whole.feed_audio(LOUD)
            assert np.array_equal(whole.logits(), session.logits())


def test_words_of_the_engine_have_times_in_order(model: eg.Model) -> None:
    options: dict[str, Any] = {"detector": "none", "max_tokens": 12, "sampling": eg.Sampling(temperature=3.0, seed=5)}
    plain = eg.transcribe((LOUD, RATE), model, "en", **options)
    found = eg.transcribe((LOUD, RATE), model, "en", word_times=True, **options)
    assert found.words and [w.word for w in found.words] == [w.word for w in plain.words]  # the text stays
    assert [w.probability for w in found.words] == [w.probability for w in plain.words]
    times = [time for word in found.words for time in (word.start, word.end)]
    assert all(time is not None for time in times) and times == sorted(times)  # type: ignore[type-var]
    assert found[0].start <= times[0] and times[-1] <= found[0].end  # type: ignore[operator]


# ---- subtitles ---------------------------------------------------------------------------------------------------

TIMED = Segment(
    0.0,
    4.0,
    "Fish & chips, <please>.",
    words=(
        Word("Fish", 0.5, 0.9),
        Word("&", 1.0, 1.1),
        Word("chips,", 1.1, 1.6),
        Word("<please>.", 2.5, 3.0),
    ),
)


def test_vtt_has_the_time_before_each_word() -> None:
    assert Transcript([TIMED]).render("vtt") == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:03.000\n"
        "Fish <00:00:01.000>&amp; <00:00:01.100>chips, <00:00:02.500>&lt;please&gt;.\n\n"
    )


def test_srt_underlines_each_word() -> None:
    cues = Transcript([TIMED]).render("srt").strip().split("\n\n")
    assert cues[0] == "1\n00:00:00,500 --> 00:00:01,000\n<u>Fish</u> & chips, <please>."
    assert cues[2] == "3\n00:00:01,100 --> 00:00:02,500\nFish & <u>chips,</u> <please>."
    assert cues[3] == "4\n00:00:02,500 --> 00:00:03,000\nFish & chips, <u><please>.</u>" and len(cues) == 4


@pytest.mark.parametrize("unit", ["word ", "well-known-to-everybody ", "长", "ab\u00a0: "])
def test_long_segments_are_cut_into_cues(unit: str) -> None:
    text = (unit * 60).strip()
    parts = list(text) if unit == "长" else text.split(" ")
    words = tuple(Word(part, 0.1 * n, 0.1 * n + 0.1) for n, part in enumerate(parts))
    vtt = Transcript([Segment(0.0, 6.0, text, words=words)]).render("vtt")
    shown = [block.split("\n")[1:] for block in vtt.strip().split("\n\n")[1:]]
    assert all(len(lines) <= 2 for lines in shown) and len(shown) > 1
    assert re.sub(r"<[^>]*>|\s", "", "".join(map("".join, shown))) == re.sub(r"\s", "", text)
    ends = re.findall(r"^(\S+) --> (\S+)$", vtt, re.MULTILINE)
    assert all(start < end for start, end in ends) and all(a[1] <= b[0] for a, b in pairwise(ends))
    for (start, end), lines in zip(ends, shown, strict=True):
        inside = re.findall(r"<([\d:.]+)>", "".join(lines))
        assert inside == sorted(set(inside)) and all(start < time < end for time in inside)


def test_words_without_times_and_translations_have_plain_cues() -> None:
    plain = Segment(0.0, 1.0, "Good day.", words=(Word("Good", probability=0.9), Word("day.", 0.5, 1.0)))
    translated = Segment(0.0, 1.0, "Good day.", "Guten Tag.", words=(Word("Good", 0.1, 0.5), Word("day.", 0.5, 1.0)))
    for segment, text in ((plain, "Good day."), (translated, "Guten Tag.")):
        for form in ("srt", "vtt"):
            assert Transcript([segment]).render(form).count("-->") == 1 and text in Transcript([segment]).render(form)
    assert json.loads(Transcript([translated]).render("json"))["segments"][0]["words"][0]["start"] == 0.1
