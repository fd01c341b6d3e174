"""What is spoken at once, and what is not spoken."""

from __future__ import annotations

import pytest

from edge_gemma.assistant.sentences import Sentences, is_stop, spoken


def cut(text: str, size: int = 1) -> list[str]:
    """All pieces of a text that comes so many characters at a time."""
    sentences = Sentences()
    found = [item for at in range(0, len(text), size) for item in sentences.feed(text[at : at + size])]
    return found + sentences.finish()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Yes. It is 3.5 degrees! Really?", ["Yes.", "It is 3.5 degrees!", "Really?"]),
        ("Dr. Smith met J. R. on 3. Mai. Then he left.", ["Dr. Smith met J. R. on 3. Mai.", "Then he left."]),
        ("Das heißt z. B. hier. Gut.", ["Das heißt z. B. hier.", "Gut."]),
        ('He said "no." Then "yes"!', ['He said "no."', 'Then "yes"!']),
        ("今日は晴れです。明日は雨です。", ["今日は晴れです。", "明日は雨です。"]),
        ("One\nTwo\n\nThree", ["One", "Two", "Three"]),
        ("", []),
    ],
)
def test_sentences(text: str, pieces: list[str], size: int) -> None:
    assert cut(text, size) == pieces


def test_a_sentence_is_there_as_soon_as_it_has_ended() -> None:
    sentences = Sentences()
    assert sentences.feed("The light is on.") == []
    assert sentences.feed(" ") == ["The light is on."]
    assert sentences.feed("And") == [] and sentences.finish() == ["And"]
    assert sentences.feed("In the kitchen of course, ") == ["In the kitchen of course,"]


def test_the_first_clause_is_spoken_while_its_sentence_is_made() -> None:
    text = "When the sun goes down, the lights go on, and so on. First, second, third and fourth."
    rest = ["the lights go on, and so on.", "First, second, third and fourth."]
    assert cut(text, 1) == ["When the sun goes down,", *rest]
    assert cut(text, 1000) == [f"When the sun goes down, {rest[0]}", rest[1]]


def test_text_without_any_mark_is_cut_between_words() -> None:
    pieces = cut("word " * 200)
    assert len(pieces) > 3 and all(len(piece) <= 240 for piece in pieces)
    assert " ".join(pieces) == ("word " * 200).strip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("**Two** things:\n- _milk_\n- `eggs` 🥚", "Two things: milk eggs"),
        ("See [the page](https://a.b/c) or https://www.example.org/x?y.", "See the page or example.org"),
        ("# Heading", "Heading"),
        ("🙂 ...", ""),
        ("5 - 3 = 2", "5 - 3 = 2"),
    ],
)
def test_what_no_voice_can_say(text: str, said: str) -> None:
    assert spoken(text) == said


@pytest.mark.parametrize(
    "text", ["Stop.", "stop stop", "Please stop!", "Nabu, sei still!", "Cállate", "停止。", "Never mind."]
)
def test_stop(text: str) -> None:
    assert is_stop(text, ("Nabu",))


@pytest.mark.parametrize("text", ["", "Please", "stop the music in the kitchen", "Where is the bus stop?", "Nabu"])
def test_no_stop(text: str) -> None:
    assert not is_stop(text, ("Nabu",))
