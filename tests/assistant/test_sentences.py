"""What is spoken at once, what is not spoken, and what means stop."""

from __future__ import annotations

import pytest

from edge_gemma.assistant.sentences import Sentences, is_stop, spoken, whole_sentences
from edge_gemma.assistant.text_language import LanguageGuess


def cut(text: str, size: int = 1, early: bool = False) -> list[str]:
    """All pieces of a text that comes so many characters at a time."""
    sentences = Sentences(early)
    found = [item for at in range(0, len(text), size) for item in sentences.feed(text[at : at + size])]
    return found + sentences.finish()


@pytest.mark.parametrize(
    "expected",
    [
        ["Dr. Smith lives at No. 5.", "He is nice."],
        ["Am 3. Mai ist frei.", "Danach nicht."],
        ["Heute ist der 24. Dezember.", "Morgen auch."],
        ["Das war Nummer 3.", "Maria kam."],
        ["Das ist z. B. Milch, d. h. weiß.", "Und Brot."],
        ["Es ist 7.30 Uhr.", "Gut."],
        ["I met Tom.", "He left."],
        ["It costs 3.50 euros.", "See example.com/a.b?c=1 for more.", "OK."],
        ["Use e.g. Apples.", "Yes."],
        ["We go at 5 p.m. today.", "We go at 5 p.m.", "Then we rest."],
        ["J. R. Smith came from the U.S. yesterday.", "He left."],
        ["Usa fruta, p. ej. Manzanas.", "¿Quieres más?", "¡Sí!"],
        ["M. Dupont vient.", "Bien."],
        ["Hi!", "How are you?", "Fine, thanks…", "Bye."],
        ['He said "Stop!" and left.', "Then it was quiet."],
        ["Wait... what?", "No!"],
        ["The answer is 5.", "Then go."],
        ["今日は晴れです。", "明日は雨です。", "「はい！」"],
        ["Dr. Smith met J. R. on 3. Mai.", "Then he left."],
        ['He said "no."', 'Then "yes"!'],
        ["यह अच्छा है।", "हाँ।"],
        ["هل أنت هنا؟", "نعم."],
        ["Это дом.", "Он большой."],
        ["```py\nx = 1. Y = 2\n```", "Done.", "Ok."],
        ["Version 2.0 is out.", "It is good"],
    ],
    ids=lambda expected: expected[0][:12],
)
def test_sentences_end_where_they_should(expected: list[str]) -> None:
    joiner = "" if expected[0][-1] == "。" else " "
    text = joiner.join(expected).replace("``` ", "```\n")
    for size in (1, 2, 3, 5, len(text)):
        assert cut(text, size) == expected, size
    assert whole_sentences(text) == expected


def test_lines_are_sentences() -> None:
    assert whole_sentences("Buy:\n- milk\n- eggs. Two.\n\n1. Go\n2. Stay") == [
        "Buy:",
        "- milk",
        "- eggs.",
        "Two.",
        "1. Go",
        "2. Stay",
    ]


def test_a_sentence_comes_with_the_first_letter_of_the_next() -> None:
    splitter = Sentences()
    assert splitter.feed("The light is on.") == [] and splitter.feed(" ") == []
    assert splitter.feed("A") == ["The light is on."]
    assert splitter.finish() == ["A"] and splitter.finish() == []


def test_the_first_clause_is_spoken_while_its_sentence_is_made() -> None:
    text = "When the sun goes down, the lights go on, and so on. First, second, third and fourth."
    pieces = ["When the sun goes down,", "the lights go on, and so on.", "First, second, third and fourth."]
    assert cut(text, 1, early=True) == pieces
    assert cut(text, 1000, early=True) == [f"{pieces[0]} {pieces[1]}", pieces[2]]
    assert cut("ああああああああああああああ、いい。ううう、え。", 2, early=True) == [
        "ああああああああああああああ、",
        "いい。",
        "ううう、え。",
    ]
    assert cut("Yes, of course. No.", early=True) == ["Yes, of course.", "No."]


@pytest.mark.parametrize("text", ["word " * 300, "word, " * 300, "x" * 1500, "no.end" * 200])
def test_long_sentences_are_cut_and_nothing_is_lost(text: str) -> None:
    found = whole_sentences(text)
    assert len(found) > 3 and all(len(sentence) <= 240 for sentence in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "**Bold**, *it* and _x_, ***both***, but snake_case_name and 2*3*4",
            "Bold, it and x, both, but snake_case_name and 2*3*4",
        ),
        ("# Title\n- one\n- [x] two\n\n1. three", "Title. one. two. 1: three"),
        ("See [the docs](https://www.example.com/a?b=c).", "See the docs."),
        ("See https://user@www.foo.org:80/x, or www.bar.net/y.", "See foo.org, or bar.net."),
        ("Ok 😀👍🏽 👨‍👩‍👧 5️⃣!", "Ok 5!"),
        ("| a | b |\n|---|:--|\n| 1 | 2 |", "a, b. 1, 2"),
        ("```py\nx\n```\nDone", "Done"),
        ("It is 20°C, 5–7 km & more → ok", "It is 20 degrees Celsius, 5 to 7 km and more, ok"),
        ("x < 3 > 2 <br>hi</b>", "x < 3 > 2 hi"),
        ("`rm -rf` \\*not\\*", "rm -rf *not*"),
        ("a\x00b\x07 c\u202e\ud800", "ab c"),
        ("🎉 ---\n***\n…", ""),
        ("می‌خواهم", "می‌خواهم"),
        ("**Two** things:\n- _milk_\n- `eggs` 🥚", "Two things: milk. eggs"),
        ("5 - 3 = 2", "5 - 3 = 2"),
        ("> quoted\n> ~~more~~", "quoted. more"),
        ("![A cat](cat.png) sleeps[^1].", "A cat sleeps."),
        ("Don't—it's O'Brien's \"5%\" at 7:30.", "Don't—it's O'Brien's \"5%\" at 7:30."),
    ],
)
def test_text_is_made_spoken(text: str, said: str) -> None:
    assert spoken(text, "en") == said


def test_signs_become_words_of_the_language() -> None:
    assert spoken("20 °C & 5–7°", "de-CH") == "20 Grad Celsius und 5 bis 7 Grad"
    assert spoken("20 °C & 5–7°") == "20 °C & 5–7°"


def test_the_language_of_sentences() -> None:
    pytest.importorskip("py3langid")
    guess = LanguageGuess({"en", "de", "es", "ru", "ja"})
    assert guess("OK") is None
    assert guess("The kitchen light is on.") == "en"
    assert guess("OK") == "en"
    assert guess("Das Licht in der Küche ist an.") == "de"
    assert guess("Fertig.") == "de" and guess("20 %") == "de"
    assert guess("La luz está encendida.") == "es"
    assert guess("はい、そうです。") == "ja" and guess("Да.") == "ru"


@pytest.mark.parametrize(
    "text", ["Stop.", "stop stop", "Please stop!", "Nabu, sei still!", "Cállate", "停止。", "Never mind."]
)
def test_stop(text: str) -> None:
    assert is_stop(text, ("Nabu",))


@pytest.mark.parametrize("text", ["", "Please", "stop the music in the kitchen", "Where is the bus stop?", "Nabu"])
def test_no_stop(text: str) -> None:
    assert not is_stop(text, ("Nabu",))
