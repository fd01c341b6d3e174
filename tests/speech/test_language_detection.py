"""Which language a recording is in: when the model is asked, what it is asked, and which answers count."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.errors import Cancelled
from edge_gemma.speech.language_detection import LanguageDetection, language_in
from edge_gemma.speech.prompts import language_question, text_turn
from support.scripted import RATE, ScriptedModel, ScriptedSession

QUESTION = "In which language is the following text?"
SOUND = np.full(6 * RATE, 0.1, np.float32)
CUT: dict[str, Any] = {"detector": "none", "max_seconds": 2.0}


@pytest.mark.parametrize(
    ("answer", "language"),
    [
        ("Danish", "Danish"),
        (" **Danish**.\n", "Danish"),
        ("Dansk", "Danish"),
        ("da", "Danish"),
        ("The text is in Danish.", "Danish"),
        ("It is Swiss German.", "Swiss German"),
        ("brazilian portuguese", "Brazilian Portuguese"),
        ("Danish or Norwegian", None),
        ("I cannot tell.", None),
        ("It is no language.", None),
        ("name:Klingon", None),
        ("Klingon", None),
        ("", None),
    ],
)
def test_which_answers_count(answer: str, language: str | None) -> None:
    assert language_in(answer) == language


def model_of(language: str, words: str, tokenizer: Any) -> ScriptedModel:
    """A model that hears `words` in each segment and gives this answer to the question."""
    return ScriptedModel(lambda session: language if QUESTION in session.text else words, tokenizer=tokenizer)


def questions(model: ScriptedModel) -> list[ScriptedSession]:
    return [session for session in model.sessions if QUESTION in session.text]


def test_the_model_is_asked_once_when_there_are_words_enough(tokenizer: Any) -> None:
    words = "Det blæser stærkt i dag."
    model = model_of("Danish", words, tokenizer)
    with eg.Transcriber(model, detect_language=True, **CUT) as transcriber:
        assert transcriber.detected_language is None
        known = [transcriber.detected_language for _ in transcriber.segments(SOUND)]
        assert known[:2] == [None, "Danish"] and set(known[1:]) == {"Danish"}  # the words of one segment are too few
        (asked,) = questions(model)
        assert asked.closed and f"{words} {words}<turn|>" in asked.text and not asked.heard.size
        list(transcriber.segments(SOUND))
        assert len(questions(model)) == 2  # another recording
        list(transcriber.segments((SOUND[:RATE], RATE)))
        assert transcriber.detected_language == "Danish" and len(questions(model)) == 3  # all the words that there are
        list(transcriber.segments((SOUND[:100], RATE)))
        assert transcriber.detected_language is None and len(questions(model)) == 3  # there are none


def test_transcripts_tell_the_language(tokenizer: Any) -> None:
    model = model_of("Danish", "Det blæser.", tokenizer)
    found = eg.transcribe(SOUND, model, detect_language=True, **CUT)
    assert found.language == "Danish" and found.info == {"language": "Danish", "language_detected": True}
    content = json.loads(found.render("json"))
    assert content["language"] == "Danish" and content["language_detected"] is True
    given = eg.transcribe(SOUND, model, "sv", detect_language=True, **CUT)
    assert given.info == {"language": "Swedish", "language_detected": False}
    unknown = eg.transcribe(SOUND, model_of("Who knows.", "Det blæser.", tokenizer), detect_language=True, **CUT)
    assert unknown.language is None and unknown.info == {"language_detected": False}
    translated = eg.translate((SOUND, RATE), "de", model, detect_language=True, **CUT)
    assert isinstance(translated, eg.Transcript) and translated.language == "Danish"


def test_nobody_is_asked_without_need(tokenizer: Any) -> None:
    cases: list[dict[str, Any]] = [{}, {"language": "da", "detect_language": True}]
    for options in cases:
        model = model_of("Danish", "Det blæser.", tokenizer)
        found = eg.transcribe(SOUND, model, **CUT, **options)
        assert found.text and not questions(model) and not found.info.get("language_detected")


def test_the_question_can_be_cancelled(tokenizer: Any) -> None:
    words = "Det blæser stærkt i dag på havet."

    def script(session: ScriptedSession) -> str:
        if QUESTION in session.text:
            transcriber.cancel()
            return "Danish"
        return words

    model = ScriptedModel(script, tokenizer=tokenizer)
    with eg.Transcriber(model, detect_language=True, **CUT) as transcriber, pytest.raises(Cancelled):
        list(transcriber.segments(SOUND))
    assert all(session.closed for session in model.sessions)


def test_a_question_that_does_not_fit_is_not_asked(tokenizer: Any) -> None:
    model = ScriptedModel("Danish", tokenizer=tokenizer, context_length=64)
    assert LanguageDetection(model).hear("Det blæser stærkt i dag på havet. " * 3) is None and not model.sessions


def test_the_engine_answers_as_it_would_by_hand(model: eg.Model) -> None:
    """Random weights name no language, so the answer is none. What was asked and answered is the same as by hand."""
    detection, text = LanguageDetection(model), "Det blæser stærkt i dag på havet, og bølgerne er høje."
    asked = detection.hear(text)
    assert asked
    session, question = asked
    assert question == text_turn(model.tokenizer, language_question(text)) and detection.hear(text) is None
    with session:
        detection.ask(session, question)
        answer = model.tokenizer.decode([token for token in session.tokens[len(question) :] if token >= 0])
        with model.session(context=session.context) as other:
            other.feed_tokens(question)
            by_hand = other.generate(max_tokens=12, temperature=0).text
    assert answer.startswith(by_hand.split("\n")[0]) and detection.language == language_in(by_hand)
