"""How sure the model was of each word: which tokens say a word, and what a transcript tells of it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.speech.transcript import DOUBTFUL, Segment, Transcript, Word
from edge_gemma.speech.words import plain_words, token_words
from support.listening import sound
from support.scripted import RATE, ScriptedModel, ScriptedSession, ScriptedTokenizer

SOUND = sound((0.5, 1.5), seconds=2.0)


def split(text: str, tokens: list[str]) -> list[tuple[str, int, int]]:
    """The words of a text, and their tokens, when an answer has these tokens."""
    tokenizer = ScriptedTokenizer()
    words = token_words(text, [tokenizer.word(token) for token in tokens], tokenizer)
    return [(word.text, word.first, word.end) for word in words]


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("Turn it off.", ["Turn", " it", " o", "ff", "."], [("Turn", 0, 1), ("it", 1, 2), ("off.", 2, 5)]),
        ("a b", ["a", " ", "b"], [("a", 0, 1), ("b", 2, 3)]),
        ("a b", ["a ", " \n", "b\n"], [("a", 0, 1), ("b", 2, 3)]),  # on one line, with single spaces
        ("Hello", ["Hel", "\0", "lo"], [("Hello", 0, 3)]),
        ("of the", ["of the"], [("of", 0, 1), ("the", 0, 1)]),  # one token, two words
        ("well-known", ["well", "-", "known"], [("well-known", 0, 3)]),
        ("¿ Qué ?", ["¿", " Qué", " ?"], [("¿ Qué ?", 0, 3)]),  # punctuation has no sound
        ("a - b", ["a", " -", " b"], [("a -", 0, 2), ("b", 2, 3)]),
        ("今天天气好。", ["今天", "天气", "好", "。"], [("今天", 0, 1), ("天气", 1, 2), ("好。", 2, 4)]),
        ("ไปบ้าน", ["ไป", "บ้", "าน"], [("ไป", 0, 1), ("บ้าน", 1, 3)]),  # a token that begins within a cluster
        ("Hi.", ["<|channel>", "thought", "Hi", "<channel|>", "Hi", "."], [("Hi.", 4, 6)]),
        ("Good day.", ["Good", " day", ".", "\nFrench:", " Bonjour"], [("Good", 0, 1), ("day.", 1, 3)]),
        ("another text", ["no"], []),
        ("", ["no"], []),
    ],
)
def test_which_tokens_say_a_word(text: str, tokens: list[str], words: list[tuple[str, int, int]]) -> None:
    assert split(text, tokens) == words


def test_a_character_of_several_tokens_belongs_to_all_of_them(tokenizer: Any) -> None:
    ids = tokenizer.encode("a ĝ b")
    assert len(ids) > len("a ĝ b".split()) + 1  # bytes
    words = token_words("a ĝ b", ids, tokenizer)
    assert [word.text for word in words] == ["a", "ĝ", "b"]
    assert words[1].end - words[1].first >= 2 and words[0].end <= words[1].first and words[1].end <= words[2].first
    assert words[-1].end == len(ids)


def test_the_probability_is_of_the_mean_of_the_tokens() -> None:
    tokenizer = ScriptedTokenizer()
    words = token_words("yes or no", [tokenizer.word(token) for token in ("yes", " o", "r", " no")], tokenizer)
    yes, between, no = plain_words(words, [-0.01, -1.0, -3.0, math.log(DOUBTFUL), -9.0])
    assert (yes.word, between.word, no.word) == ("yes", "or", "no")
    assert between.probability == pytest.approx(math.exp(-2.0)) and yes.probability == pytest.approx(math.exp(-0.01))
    assert between.doubtful and not yes.doubtful and not no.doubtful and not Word("unknown").doubtful


def test_a_transcript_tells_how_sure_the_model_was() -> None:
    model = ScriptedModel([["Good", " day", ".", "\nFrench:", " Bonjour"]])
    with eg.Transcriber(model, "en", "fr", detector="none") as transcriber:
        (segment,) = transcriber.segments((SOUND, RATE))
    assert (segment.text, segment.translation) == ("Good day.", "Bonjour")
    assert segment.avg_logprob == pytest.approx(model.logprob)
    assert [word.word for word in segment.words] == ["Good", "day."]
    assert all(word.probability == pytest.approx(math.exp(model.logprob)) for word in segment.words)
    assert Transcript([segment]).words == segment.words


def test_a_translation_does_not_count_for_the_transcript() -> None:
    """The mean is over the tokens of the transcript and the one that ended it, here the label of the translation."""
    model, drawn = ScriptedModel([["Good", " day", ".", "\nFrench:", " Bonjour"]]), list[float]()

    def draw(session: ScriptedSession, name: str, value: Any) -> None:
        if name == "next":
            model.certainty = 10.0 + len(drawn)
            drawn.append(model.logprob)

    model.on_call = draw
    with eg.Transcriber(model, "en", "fr", detector="none") as transcriber:
        (segment,) = transcriber.segments((SOUND, RATE))
    assert len(drawn) == 6 and segment.avg_logprob == pytest.approx(np.mean(drawn[:4]))
    assert segment.words[1].probability == pytest.approx(math.exp(np.mean(drawn[1:3])))


def test_segments_without_words_are_measured_too() -> None:
    with eg.Transcriber(ScriptedModel([[]]), "en", detector="none") as transcriber:
        (segment,) = transcriber.segments((SOUND, RATE))
    assert segment.text == "" and segment.words == () and segment.avg_logprob is not None


def test_words_in_json() -> None:
    words = (Word("Good", 0.5, 0.80004, 0.98765), Word("day.", probability=0.25))
    segment = Segment(0.0, 1.0, "Good day.", avg_logprob=-0.51234, words=words)
    content = json.loads(Transcript([segment]).render("json"))["segments"][0]
    assert content["avg_logprob"] == -0.512 and content["words"] == [
        {"word": "Good", "start": 0.5, "end": 0.8, "probability": 0.988},
        {"word": "day.", "probability": 0.25, "doubtful": True},
    ]
    assert Segment.from_dict(json.loads(json.dumps(segment.as_dict()))) == segment
    plain = Segment(0.0, 1.0, "Good day.")
    assert set(plain.as_dict()) == {"start", "end", "text"} and Segment.from_dict(plain.as_dict()) == plain


def test_the_engine_measures_what_it_draws(model: eg.Model) -> None:
    """The probabilities of words are those of the logits, computed by hand in another session."""
    options = {"detector": "none", "max_tokens": 12, "sampling": eg.Sampling(temperature=3.0, seed=5)}
    (segment,) = eg.transcribe((SOUND, RATE), model, "en", **options)
    assert segment.words and segment.avg_logprob is not None
    with eg.Transcriber(model, "en", **options) as transcriber:
        with transcriber.request.session.fork() as session:
            session.feed_audio(SOUND)
            answer = transcriber.request.answer(session, len(SOUND) / RATE)
            answer.finish()
        with transcriber.request.session.fork() as other:
            other.feed_audio(SOUND)
            rows = other.forward([*transcriber.request.closing, *answer.ids]).astype(np.float64)
    rows = rows[len(transcriber.request.closing) - 1 :]
    by_hand = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(rows, answer.ids, strict=False)]
    for word, known in zip(token_words(segment.text, answer.ids, model.tokenizer), segment.words, strict=True):
        assert word.text == known.word and known.probability is not None
        assert math.log(known.probability) == pytest.approx(np.mean(by_hand[word.first : word.end]), abs=1e-4)
