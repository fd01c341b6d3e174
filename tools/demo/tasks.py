"""Requests to the demo model and the right answers, with exactly the tokens that the package produces.

A `Request` has the tokens around the speech (or the typed words), which many examples share. An `Example` has the typed words
and the answer.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import scenes
import words
from domain import Sentence
from edge_gemma.chat.calls import format_call, format_tool_response
from edge_gemma.chat.prompt import Media, Prompt
from edge_gemma.chat.template import render_chat
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.interface import TokenizerLike
from edge_gemma.speech.languages import language_name
from edge_gemma.speech.prompts import (
    asr_prompt,
    language_question,
    speech_turn,
    text_translation_prompt,
    text_turn,
    translation_prompt,
)
from edge_gemma.vision.describe import PICTURE_QUESTION, location_request
from words import LANGUAGES

SCHEMAS = Toolbox(Home().tools).schemas


def result_for(sentence: Sentence, rng: random.Random) -> Any:
    """A result that the tool of this sentence could return."""
    tool = sentence.call[0] if sentence.call else None
    if tool == "get_time":
        return {"time": f"{rng.randrange(24)}:{rng.randrange(60):02d}"}
    if tool == "get_weather":
        return {"degrees": rng.randint(1, 40), "sky": rng.choice(list(words.SKIES))}
    if tool == "read_list":
        return {"items": rng.sample(list(words.ITEMS), rng.choice([0, 1, 1, 2, 2, 3, 4]))}
    return "done"


def call_text(sentence: Sentence) -> str:
    """The text of the tool call for a sentence; "" if it has none."""
    return format_call(*sentence.call) if sentence.call else ""


# The package's requests come first and are the most frequent. The others are Google's, for programs that ask so.
DESCRIBE = (PICTURE_QUESTION, "Describe this image.", "What is in this picture?")


def locate(labels: list[str], rng: random.Random) -> str:
    """A request for the boxes of things."""
    if rng.random() < 0.7:
        return location_request(labels)
    return (
        f"Detect the {' and the '.join(labels)}. Output a json list where each entry contains the 2D bounding box in "
        '"box_2d" and the label in "label".'
    )


Part = tuple[str, scenes.Thing | None]  # a piece of an answer, and the thing that it is about, or None


@dataclass(frozen=True)
class Shown:
    """A question about a picture.

    Attributes:
        question, answer: the texts.
        parts: the answer.
    """

    question: str
    parts: list[Part]

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.parts)


def located(scene: scenes.Scene, found: list[tuple[str, scenes.Thing]]) -> list[Part]:
    """The boxes of things with their labels, in Google's convention.

    Of each entry, only what comes before the second side is a part that names its thing: whoever has written one side knows
    where to read the next.
    """
    parts = list[Part]()
    for label, thing in found:
        begin, comma, rest = json.dumps({"box_2d": scene.box(thing), "label": label}).partition(",")
        parts += [((", " if parts else "[") + begin, thing), (comma + rest, None)]
    return [*parts, ("]" if parts else "[]", None)]


def described(scene: scenes.Scene) -> list[Part]:
    """The description of a picture, in parts that end with the noun of a thing."""
    text, parts = scenes.description(scene), list[Part]()
    for thing in () if scene.alike and len(scene.things) > 1 else scene.things:
        end = text.lower().index(thing.noun.lower()) + len(thing.noun)
        parts.append((text[:end], thing))
        text = text[end:]
    return [*parts, (text, None)]


def prompts() -> Iterator[str]:
    """The texts of all requests."""
    rng = random.Random(0)
    for text in (*DESCRIBE, *(locate(["circle", "square"], rng) for _ in range(6))):
        yield render_chat([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], None)
    yield render_chat(
        [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": [{"type": "audio"}]}],
        None,
        tools=SCHEMAS,
    )
    for source in (None, *LANGUAGES):
        yield asr_prompt(source)
        for target in LANGUAGES:
            if target != source:
                yield translation_prompt(source, target)
                yield text_translation_prompt("", source, target)


@dataclass(frozen=True)
class Request:
    """The tokens around the speech or the typed words.

    Attributes:
        before: tokens before them; for speech, the last one is the marker that begins audio.
        after: tokens between them and the answer; for speech, the first one is the marker that ends audio.
        typed: whether the words are typed.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    typed: bool


@dataclass(frozen=True)
class Example:
    """One example of a request.

    Attributes:
        words: tokens of the typed words; () for speech.
        answer: tokens of the answer.
        learn: for each token of the answer, whether the model has to learn it (not the tokens of a tool's result).
        things: for each token of an answer about a picture, the thing that it is about; None if it is not one.
    """

    words: tuple[int, ...]
    answer: tuple[int, ...]
    learn: tuple[bool, ...]
    things: tuple[scenes.Thing | None, ...] = ()


class Tasks:
    """Writes requests and examples for one tokenizer."""

    def __init__(self, pieces: TokenizerLike) -> None:
        self.pieces = pieces
        self._end = pieces.find("<turn|>")

    @functools.cache  # noqa: B019 there is one object
    def transcription(self, source: str | None) -> Request:
        return self._speech(asr_prompt(source))

    @functools.cache  # noqa: B019
    def translation(self, source: str | None, target: str) -> Request:
        return self._speech(translation_prompt(source, target))

    @functools.cache  # noqa: B019
    def typed_translation(self, source: str | None, target: str) -> Request:
        ids = [text_turn(self.pieces, text_translation_prompt(text, source, target)) for text in ("1", "Turn")]
        return self._typed(ids)

    @functools.cache  # noqa: B019
    def typed_language(self) -> Request:
        """The request to name the language of a text."""
        return self._typed([text_turn(self.pieces, language_question(text)) for text in ("1", "Turn")])

    @functools.cache  # noqa: B019
    def command(self) -> Request:
        units = self._prompt().conversation(self._messages([{"type": "audio", "audio": np.zeros(1, np.float32)}]))
        at = next(number for number, unit in enumerate(units) if isinstance(unit, Media))
        return Request(
            (*units[:at], self.pieces.find("<|audio>")), (self.pieces.find("<audio|>"), *units[at + 1 :]), False
        )

    @functools.cache  # noqa: B019
    def typed_command(self) -> Request:
        return self._typed([self._prompt().conversation(self._messages(text)) for text in ("1", "Turn")])

    @functools.cache  # noqa: B019
    def picture(self) -> Request:
        """The request about a picture. The words of an example begin with the marker that ends the picture."""
        content = [{"type": "image", "image": np.zeros((1, 1, 3), np.uint8)}, {"type": "text", "text": "?"}]
        prompt = Prompt(self.pieces, None, options={"enable_thinking": False})
        units = prompt.conversation([{"role": "user", "content": content}])
        at = next(number for number, unit in enumerate(units) if isinstance(unit, Media))
        assert units[at + 1 : at + 2] == self.pieces.encode("?")
        return Request((*units[:at], self.pieces.find("<|image>")), tuple(units[at + 2 :]), True)

    def about(self, shown: Shown) -> Example:
        """A question about a picture, and its answer."""
        words = (self.pieces.find("<image|>"), *self.pieces.encode(shown.question))
        example = self.answer(shown.answer)
        things, text = list[scenes.Thing | None](), ""
        for part, thing in shown.parts:
            text += part
            things += [thing] * (len(self.pieces.encode(text)) - len(things))
        return Example(words, example.answer, example.learn, (*things, None))

    def shown(self, scene: scenes.Scene, rng: random.Random, kind: str) -> Shown:
        """A question of a kind (describe, question, locate) about a picture."""
        if kind == "describe":
            return Shown(rng.choices(DESCRIBE, (6, 2, 2))[0], described(scene))
        if kind == "question":
            # Each thing that is asked for is as frequent as the others.
            found = scenes.questions(scene)
            about = rng.choice(sorted({question.about for question in found}))
            question = rng.choice([question for question in found if question.about == about])
            return Shown(question.text, [(question.answer, question.thing)])
        labels = scenes.labels(scene)
        absent = f"{rng.choice(list(scenes.COLORS))} {rng.choice(list(scenes.SHAPES))}"
        chosen = rng.sample(list(labels), min(len(labels), rng.choices((1, 2), (8, 2))[0]))
        if rng.random() < 0.1:
            chosen = [absent]
        things: dict[scenes.Thing, str] = {}  # a thing that has two of the labels gets the first
        for label in chosen:
            things |= {thing: label for thing in labels.get(label, []) if thing not in things}
        ordered = sorted(things.items(), key=lambda item: item[0].box)
        return Shown(locate(chosen, rng), located(scene, [(label, thing) for thing, label in ordered]))

    def _prompt(self) -> Prompt:
        return Prompt(self.pieces, None, SCHEMAS, {"enable_thinking": False})

    def _messages(self, content: Any) -> list[dict[str, Any]]:
        return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": content}]

    def _speech(self, instruction: str) -> Request:
        before, after = speech_turn(self.pieces, instruction)
        return Request((*before, self.pieces.find("<|audio>")), (self.pieces.find("<audio|>"), *after), False)

    def _typed(self, prompts: list[list[Any]]) -> Request:
        """The request around typed words: the tokens that two prompts with different words have in common."""
        one, other = prompts
        begin = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        end = next(at for at, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b)
        return Request(tuple(one[:begin]), tuple(one[len(one) - end :]), True)

    def answer(self, text: str) -> Example:
        """An answer in words."""
        ids = (*self.pieces.encode(text), self._end)
        return Example((), ids, (True,) * len(ids))

    def transcript(self, sentence: Sentence) -> Example:
        return self.answer(sentence.text)

    def translated(self, sentence: Sentence, target: str) -> Example:
        return self.answer(f"{sentence.text}\n{language_name(target)}: {sentence.translations[target]}")

    def done(self, sentence: Sentence, rng: random.Random) -> Example:
        """A tool call, its result and the reply; only the reply for a sentence without a call."""
        result = result_for(sentence, rng)
        reply = self.answer(sentence.reply(result))
        if not sentence.call:
            return reply
        call = self.pieces.encode(call_text(sentence), special=True)
        response = self.pieces.encode(format_tool_response(sentence.call[0], result), special=True)
        # The marker that begins the response is learned, too: the model writes it, and then waits for the result.
        learn = (True,) * (len(call) + 1) + (False,) * (len(response) - 1) + reply.learn
        return Example((), (*call, *response, *reply.answer), learn)

    def typed(self, text: str, example: Example) -> Example:
        """The same example for words that are typed instead of spoken."""
        return Example(tuple(self.pieces.encode(text)), example.answer, example.learn)
