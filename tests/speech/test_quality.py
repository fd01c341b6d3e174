"""Guarded transcription: loops, implausible answers and silence, on a scripted model and on the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import FOLDER, bundled
from edge_gemma.hub.resolve import EMBEDDED
from edge_gemma.speech.quality import is_silence, other_boundaries
from support.listening import sound
from support.scripted import RATE, ScriptedModel

LOOP = ["I say ", *["again and "] * 400]
SIX = sound((0.0, 6.0), seconds=6.0)


def scripted(*answers: Any) -> ScriptedModel:
    """Gives these answers, and another one after the half second of silence that answers are compared with."""
    left = list(answers)
    return ScriptedModel(lambda session: "zzz" if session.seconds == 0.5 else left.pop(0))


def heard(model: ScriptedModel, samples: np.ndarray = SIX, **options: Any) -> eg.Segment:
    model.certainty = 20.0
    with eg.Transcriber(model, "en", detector="none", guarded=True, **options) as transcriber:
        (segment,) = transcriber.segments(samples)
    assert all(session.closed for session in model.sessions)
    return segment


def test_a_loop_is_heard_again_with_other_boundaries() -> None:
    quiet = SIX.copy()
    quiet[round(2.5 * RATE) : round(2.8 * RATE)] = 0  # where the cut belongs
    model = scripted(LOOP, "First half.", "Second half.")
    segment = heard(model, quiet)
    assert segment.text == "First half. Second half." and len(segment.words) == 4
    assert (segment.start, segment.end, segment.retried, segment.problem) == (0.0, 6.0, "loop", None)
    whole, first, second = model.heard[:3]
    assert len(first) + len(second) == len(whole) and 2.5 * RATE < len(first) < 2.8 * RATE
    assert all(request.sampling.greedy for request in model.requests)


def test_a_half_that_repeats_itself_is_drawn_again_and_then_cut() -> None:
    segment = heard(scripted(LOOP, "First.", LOOP, "Second."))
    assert (segment.text, segment.problem) == ("First. Second.", None)
    segment = heard(scripted(LOOP, "First.", LOOP, LOOP))
    assert (segment.text, segment.retried, segment.problem) == ("First. I say again and", "loop", "loop")


def test_more_words_than_anybody_says() -> None:
    fast = " ".join("the quick brown fox jumps over a lazy dog but my vow".replace(" ", "") + "xyzabcdefgh")
    segment = heard(scripted(fast, "Hello", "there."))
    assert (segment.text, segment.retried, segment.problem) == ("Hello there.", "speed", None)
    segment = heard(scripted(fast, fast, "there."))
    assert (segment.text, segment.retried, segment.problem) == (fast, "speed", "speed")
    short = heard(scripted("one two three four five six seven eight nine ten", "One."), SIX[:RATE])
    assert (short.text, short.retried) == ("One.", "speed")
    assert heard(scripted("".join(chr(0x4E00 + 7 * n) for n in range(110)), "今日は", "。")).retried == "speed"


def test_what_may_be_right_is_left_alone() -> None:
    for text in ("Hello there.", "no, no, no, no", "今日はいい天気です。" * 2, "a " * 30):
        model = scripted(text)
        segment = heard(model)
        assert (segment.text, segment.retried, segment.problem) == (text.strip(), None, None)
        assert len(model.requests) == 1
    model = scripted(LOOP)  # drawn with chance: marked, not heard again
    segment = heard(model, sampling=eg.Sampling(temperature=0.7, seed=1))
    assert (segment.text, segment.retried, segment.problem) == ("I say again and", None, "loop")


def test_an_improbable_answer_is_marked() -> None:
    model = scripted("Perhaps.", "Or", "not.")
    with eg.Transcriber(model, "en", detector="none", guarded=True) as transcriber:
        (segment,) = transcriber.segments(SIX)
    assert segment.retried == segment.problem == "unsure"
    assert eg.Segment.from_dict(segment.as_dict()) == segment


def test_no_sound_is_not_asked_about() -> None:
    model = scripted()
    segment = heard(model, np.zeros(3 * RATE, np.float32))
    assert (segment.text, segment.problem) == ("", "silence") and not model.requests


def test_an_empty_answer_is_silence_and_is_not_put_again() -> None:
    model = scripted("")
    segment = heard(model)
    assert (segment.text, segment.retried, segment.problem) == ("", None, "silence")
    assert len(model.requests) == 1


def test_punctuation_alone_is_no_speech() -> None:
    for text in (".", "…", "? !", "♪"):
        segment = heard(scripted(text))
        assert (segment.text, segment.words, segment.problem) == ("", (), "silence")
    assert heard(scripted("3!")).text == "3!"
    with eg.Transcriber(scripted("."), "en", detector="none") as transcriber:  # as the model wrote it
        assert [segment.text for segment in transcriber.segments(SIX)] == ["."]


def test_places_of_cuts() -> None:
    parts = other_boundaries(SIX)
    assert np.array_equal(np.concatenate([samples for samples, _ in parts]), SIX)
    assert [at for _, at in parts] == [0, len(parts[0][0])]
    ((samples, at),) = other_boundaries(SIX[: 2 * RATE])
    assert at < 0 and np.array_equal(samples[-at:], SIX[: 2 * RATE]) and is_silence(samples[:-at])
    assert is_silence(SIX[:0]) and not is_silence(SIX)


@pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
def test_the_embedded_model_says_nothing_where_nobody_speaks() -> None:
    random = np.random.default_rng(0)
    speech = [load_audio(FOLDER / utterance.path.name) for utterance in bundled()]
    nothing = [
        np.zeros(3 * RATE),
        random.standard_normal(3 * RATE) * 0.05,
        random.standard_normal(6 * RATE) * 0.005,
        np.sin(np.arange(3 * RATE) * 0.2) * 0.1,
    ]
    with eg.Model.load("toy") as model:
        said = [eg.transcribe(samples, model, detector="none", guarded=True) for samples in speech]
        free = [eg.transcribe(samples, model, detector="none") for samples in speech]
        assert [transcript.text for transcript in said] == [transcript.text for transcript in free]
        for samples in nothing:
            found = eg.transcribe(samples.astype(np.float32), model, detector="none", guarded=True)
            assert not found.text and [segment.problem for segment in found] == ["silence"]
            times = eg.transcribe(speech[0], model, detector="none", guarded=True, word_times=True)
            assert all(word.timed for word in times.words)
