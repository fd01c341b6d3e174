"""The sentences of the embedded model's training: what is said, written, translated, called and replied belongs together."""

from __future__ import annotations

import random
import re
import sys
from typing import Any

import pytest

from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import CITIES, COLORS, GENRES, ITEMS, ROOMS, THINGS, Home
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools" / "demo"))
import domain
import words

LANGUAGES = words.LANGUAGES


@pytest.fixture(scope="module")
def sentences() -> list[domain.Sentence]:
    rng = random.Random(1)
    return [domain.draw(rng).sentence(language, rng) for language in LANGUAGES for _ in range(6000)]


def test_the_same_words_always_mean_the_same(sentences: list[domain.Sentence]) -> None:
    meanings: dict[tuple[str, str], Any] = {}
    for sentence in sentences:
        meaning = (sentence.translations, sentence.call)
        assert meanings.setdefault((sentence.language, sentence.text), meaning) == meaning


def test_what_is_heard_alike_is_written_alike(sentences: list[domain.Sentence]) -> None:
    texts: dict[tuple[str, str], str] = {}
    for sentence in sentences:
        heard = " ".join(re.findall(r"\w+", sentence.spoken.lower()))
        assert texts.setdefault((sentence.language, heard), sentence.text) == sentence.text


def test_a_translation_of_a_translation_is_a_way_to_say_it(sentences: list[domain.Sentence]) -> None:
    known = {(sentence.language, sentence.text): sentence for sentence in sentences}
    seen = 0
    for sentence in sentences:
        for language, text in sentence.translations.items():
            other = known.get((language, text))
            if other:
                seen += 1
                assert other.call == sentence.call
                back = known.get((sentence.language, other.translations[sentence.language]))
                assert back is None or back.call == sentence.call
    assert seen > 3000


def test_numbers_are_digits_in_writing_and_words_in_speech(sentences: list[domain.Sentence]) -> None:
    assert not any(re.search(r"\d", sentence.spoken) for sentence in sentences)
    assert sum(bool(re.search(r"\d", sentence.text)) for sentence in sentences) > 1000
    for sentence in sentences:
        assert sentence.text[-1] in ".?"
        assert not re.search(r"[{}|~]|  ", sentence.text + sentence.spoken)


@pytest.mark.parametrize("language", LANGUAGES)
def test_number_words_are_all_different(language: str) -> None:
    for form in ("", "m", "f"):
        assert len({words.number(language, value, form) for value in range(101)}) == 101


def test_some_numbers() -> None:
    assert [words.number("en", n) for n in (0, 13, 20, 21, 99, 100)] == [
        "zero",
        "thirteen",
        "twenty",
        "twenty one",
        "ninety nine",
        "one hundred",
    ]
    assert [words.number("es", n, "m") for n in (1, 11, 16, 21, 31, 100)] == [
        "un",
        "once",
        "dieciséis",
        "veintiún",
        "treinta y un",
        "cien",
    ]
    assert [words.number("es", n, "f") for n in (1, 21, 41)] == ["una", "veintiuna", "cuarenta y una"]
    assert [words.number("de", n) for n in (1, 17, 21, 61, 77, 100)] == [
        "eins",
        "siebzehn",
        "einundzwanzig",
        "einundsechzig",
        "siebenundsiebzig",
        "hundert",
    ]
    assert words.clock("en", 7, 5) == ("7:05", "seven oh five")
    assert words.clock("es", 1, 30) == ("la 1:30", "la una y treinta")
    assert words.clock("de", 7, 0, sharp=True) == ("Punkt 7 Uhr", "Punkt sieben Uhr")
    assert words.amount("de", 1, "minutes") == ("1 Minute", "eine Minute")
    assert words.amount("es", 21, "hours") == ("21 horas", "veintiuna horas")


def test_every_call_is_one_that_the_home_carries_out(sentences: list[domain.Sentence]) -> None:
    box, names = Toolbox(Home().tools), set()
    for sentence in sentences:
        if sentence.call:
            name, arguments = sentence.call
            result = box.call(name, arguments)
            assert not (isinstance(result, dict) and "error" in result), (sentence.text, result)
            names.add(name)
            assert sentence.reply(result)
    assert names == {tool.name for tool in box}


def test_words_and_home_name_the_same_things() -> None:
    assert (tuple(words.ROOMS), tuple(words.THINGS)) == (ROOMS, THINGS)
    tables = (words.COLORS, words.CITIES, words.ITEMS, words.GENRES)
    assert tuple(map(tuple, tables)) == (COLORS, CITIES, ITEMS, GENRES)


def test_there_are_a_dozen_ways_to_say_most_things() -> None:
    for language in LANGUAGES:
        for command in (
            domain.switching("kitchen", "light", True),
            domain.coloring("garden", "red"),
            domain.timing(5, "minutes"),
            domain.waking(7, 30),
            domain.adding("milk"),
            domain.playing("jazz", "office"),
            domain.heating(20),
        ):
            assert len({sentence.text for sentence in command.sentences(language)}) >= 12


def test_some_sentences_are_kept_for_the_tests(sentences: list[domain.Sentence]) -> None:
    kept = {(s.language, s.text) for s in sentences if s.held_out}
    assert 0.02 < len(kept) / len({(s.language, s.text) for s in sentences}) < 0.08
    assert not kept & {(s.language, s.text) for s in sentences if not s.held_out}
