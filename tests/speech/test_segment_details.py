"""What transcripts tell of each segment by the model's own probabilities: whether anybody speaks, and in which language."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.speech.answer import Answer
from edge_gemma.speech.scoring import Unheard, no_speech_prob
from edge_gemma.speech.transcript import Transcript
from support.listening import LoudnessDetector, sound
from support.scripted import RATE, ScriptedModel, ScriptedSession

QUESTION = "In which language is the following text?"
SOUND = sound((0.5, 1.5), seconds=2.0)


def heard_anything(session: ScriptedSession) -> bool:
    return bool(np.abs(session.heard).max(initial=0.0) > 0.01)


def no_speech(script: Any, certainty: float = 15.0) -> eg.Segment:
    model = ScriptedModel(script)
    model.certainty = certainty
    with eg.Transcriber(model, "en", detector="none", no_speech=True) as transcriber:
        (segment,) = transcriber.segments((SOUND, RATE))
    assert all(session.closed for session in model.sessions)
    return segment


# ---- whether anybody speaks --------------------------------------------------------------------------------------


def test_words_that_silence_would_give_too_are_no_speech() -> None:
    assert no_speech("Yes.").no_speech_prob == pytest.approx(1.0)
    assert no_speech(["Yes."] * 2 + [""] * 9).no_speech_prob == pytest.approx(1.0)


def test_words_that_depend_on_the_sound_are_speech() -> None:
    said = no_speech(lambda session: "Yes." if heard_anything(session) else "")
    assert said.text == "Yes." and said.no_speech_prob is not None and 0 <= said.no_speech_prob < 1e-9


def test_the_probability_is_the_ratio_of_those_of_the_tokens() -> None:
    """Without the sound the model says another word first: the logit of one token is then 0 and not 2."""
    said = no_speech(lambda session: ["a", "b"] if heard_anything(session) else ["c", "b"], certainty=2.0)
    assert said.no_speech_prob == pytest.approx(math.exp(-2.0), abs=1e-6)


def test_an_empty_answer_tells_its_own_probability() -> None:
    segment = no_speech("")
    assert segment.text == "" and segment.no_speech_prob == pytest.approx(math.exp(segment.avg_logprob or 0.0))


def test_no_long_answer_costs_more_than_a_short_one() -> None:
    scored: list[int] = []
    model = ScriptedModel([[f"{number} " for number in range(60)], *[""] * 9])
    model.on_call = lambda session, name, value: scored.append(len(value)) if name == "forward" else None
    eg.transcribe((SOUND, RATE), model, "en", detector="none", no_speech=True)
    assert sum(scored) == 32 and max(scored) <= 16


def test_the_engine_compares_with_silence(model: eg.Model) -> None:
    """Computed by hand in sessions of its own."""
    with eg.Transcriber(model, "en", max_tokens=8) as transcriber:
        request = transcriber.request
        unheard = Unheard(request.session, request.closing)
        session = request.session.fork()
        session.feed_audio(SOUND)
        answer = Answer(session, request.closing, 8, measured=True)
        answer.finish()
        found = no_speech_prob(answer, unheard)
        answer.close()
        unheard.close()
        sums, rows = [], []
        for samples in (np.zeros(RATE // 2, np.float32), SOUND):
            other = request.session.fork()
            other.feed_audio(samples)
            rows = other.forward([*request.closing, *answer.ids]).astype(np.float64)[len(request.closing) - 1 :]
            rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
            sums.append(sum(row[token] for row, token in zip(rows, answer.ids, strict=False)))
            other.close()
        ends = [model.tokenizer.find("<turn|>"), model.tokenizer.eos]
        empty = sum(math.exp(rows[0][end]) for end in ends if end in np.argsort(rows[0])[-64:])
    assert answer.empty_probability == pytest.approx(empty, abs=1e-4)
    assert found == pytest.approx(empty + (1 - empty) * min(1.0, math.exp(sums[0] - sums[1])), abs=1e-3)


# ---- languages ---------------------------------------------------------------------------------------------------


def test_each_segment_has_its_language(tokenizer: Any) -> None:
    """The question is about the words of the segment alone; the answer tells how probable it was."""
    words = ["Det blæser stærkt i dag.", "It is windy today.", "??"]

    def script(session: ScriptedSession) -> str:
        if QUESTION not in session.text:
            return words[len(model.heard) - 1]
        asked = session.text.split(QUESTION)[1]
        return "Danish" if "blæser" in asked else "English" if "windy" in asked else "None of them"

    model = ScriptedModel(script, tokenizer=tokenizer)
    model.certainty = 12.0
    three = sound((0.5, 2.0), (4.0, 5.5), (7.5, 9.0), seconds=10.0)
    found = eg.transcribe((three, RATE), model, detector=LoudnessDetector(), detect_language="segments")
    assert [segment.text for segment in found] == words
    assert [segment.language for segment in found] == ["Danish", "English", None]
    for segment, language in zip(found, ("Danish", "English"), strict=False):
        tokens = len(tokenizer.encode(language))
        assert segment.language_probability == pytest.approx(math.exp(tokens * model.logprob))
    assert found[2].language_probability is None and all(session.closed for session in model.sessions)
    content = json.loads(found.render("json"))["segments"]
    assert content[0]["language"] == "Danish" and 0 < content[0]["language_probability"] < 1


def test_a_language_that_was_named_is_not_asked_for(tokenizer: Any) -> None:
    model = ScriptedModel("Yes.", tokenizer=tokenizer)
    found = eg.transcribe((SOUND, RATE), model, "sv", detector="none", detect_language="segments")
    assert [(s.language, s.language_probability) for s in found] == [("Swedish", None)]
    assert not any(QUESTION in session.text for session in model.sessions)


def test_details_are_told_on_request_only() -> None:
    found = eg.transcribe((SOUND, RATE), ScriptedModel("Yes."), "en", detector="none")
    content = json.loads(Transcript(found).render("json"))["segments"][0]
    assert "no_speech_prob" not in content and "language_probability" not in content and "avg_logprob" in content
