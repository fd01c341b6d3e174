"""The wording of requests about speech and text, and how their answers are read.

Owns the instructions, the chat turn around a recording, the parts of an answer, and the detection of loops, which are answers
that repeat one phrase. Knows neither sessions nor sound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..chat.prompt import Prompt, Unit, around_media
from ..engine.interface import TokenizerLike
from ..errors import EdgeGemmaValueError
from .languages import base_language, language_name

__all__ = [
    "Order",
    "asr_prompt",
    "context_hints",
    "language_question",
    "loop_start",
    "one_line",
    "speech_turn",
    "split_translation",
    "text_translation_prompt",
    "text_turn",
    "translation_prompt",
]

Order = Literal["instruction-first", "audio-first"]

# ---- requests -------------------------------------------------------------------------------------------------------

_ANSWER_FORM = """\


Follow these specific instructions for formatting the answer:
*   Only output the transcription, with no newlines.
*   When transcribing numbers, write the digits, i.e. write 1.7 and not one point seven, and write 3 instead of three."""


def asr_prompt(language: str | None = None) -> str:
    """The request to transcribe speech in `language`; with None the model finds out which language it is."""
    name = language and language_name(language)
    into = f" in {name} into {name} text" if name else ""
    return f"Transcribe the following speech segment{into}.{_ANSWER_FORM}"


def translation_prompt(source_language: str | None, target_language: str) -> str:
    """The request to transcribe speech and to translate it; `source_language` is None as in `asr_prompt`."""
    target = language_name(target_language)
    in_source = f" in {language_name(source_language)}" if source_language else ""
    return (
        f"Transcribe the following speech segment{in_source}, then translate it into {target}.\n"
        f"When formatting the answer, first output the transcription{in_source}, then one newline, "
        f"then output the string '{target}: ', then the translation in {target}."
    )


def context_hints(initial_prompt: str | None, hotwords: str | Sequence[str] | None) -> str:
    """What a request says, behind its instruction, of the context and of the spelling of words; "" without both.

    Args:
        initial_prompt: what the speech is about, or what was said before it.
        hotwords: words and names that may be spoken: a text with commas, or a list.
    """
    words = one_line(hotwords if isinstance(hotwords, str) else ", ".join(hotwords or ())).strip(" ,")
    context = one_line(initial_prompt or "")
    spelling = f"\n\nThese words and names may occur. Spell them exactly like this: {words}." if words else ""
    before = f"\n\nThis is context, and no part of the answer: {context}" if context else ""
    return spelling + before


def text_translation_prompt(text: str, source_language: str | None, target_language: str, hints: str = "") -> str:
    """The request to translate `text`; `source_language` is None as in `asr_prompt`, `hints` is from `context_hints`."""
    from_source = f" from {language_name(source_language)}" if source_language else ""
    return (
        f"Translate the following text{from_source} into {language_name(target_language)}. "
        f"Only output the translation, with no explanations.{hints}\n\n{text}"
    )


def language_question(text: str) -> str:
    """The request to name the language of `text`."""
    return f"In which language is the following text? Only output the English name of the language.\n\n{text}"


def speech_turn(
    tokenizer: TokenizerLike, instruction: str, order: Order = "instruction-first"
) -> tuple[list[int], list[int]]:
    """The user's turn about a recording, in the model's own chat template, without thinking.

    Args:
        tokenizer: the model's.
        instruction: what is asked. Control tokens that are spelled out in it stay plain text.
        order: with "instruction-first" only the end of the turn is left to read when the recording ends, so the answer
            begins sooner. "audio-first" is the order that model cards advise for short clips.

    Returns:
        The tokens before the sound and those after it, both without the markers <|audio> and <audio|>.

    Raises:
        EdgeGemmaValueError: "argument" for another order, "template" when the template has no place for audio.
    """
    if order not in ("instruction-first", "audio-first"):
        raise EdgeGemmaValueError(f'order is {order!r}; choose "instruction-first" or "audio-first".', "argument")
    content = [{"type": "text", "text": instruction}, {"type": "audio", "audio": np.zeros(1, np.float32)}]
    return around_media(_user_turn(tokenizer, content if order == "instruction-first" else content[::-1]))


def text_turn(tokenizer: TokenizerLike, text: str) -> list[int]:
    """The tokens of a user's turn that is only text; otherwise as `speech_turn`."""
    return _ids(_user_turn(tokenizer, text))


def _user_turn(tokenizer: TokenizerLike, content: Any) -> list[Unit]:
    prompt = Prompt(tokenizer, tokenizer.chat_template, options={"enable_thinking": False})
    return prompt.conversation([{"role": "user", "content": content}])


def _ids(units: list[Unit]) -> list[int]:
    return [unit for unit in units if isinstance(unit, int)]


# ---- answers --------------------------------------------------------------------------------------------------------


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # control characters, except white space
_SPACE = re.compile(r"[^\S\u00a0\u202f]+")  # French has spaces that do not break, before its question mark for one


def one_line(text: str) -> str:
    """The text on one line, with single spaces between its words and without control characters."""
    return _SPACE.sub(" ", _CONTROL.sub("", text)).strip()


def split_translation(answer: str, target_language: str, source_language: str | None = None) -> tuple[str, str | None]:
    """Splits an answer to `translation_prompt` into transcription and translation, each on one line.

    The form that was asked for is the transcription, a newline, and "German: " with the translation. Small models deviate
    from it: the label may be bold, stand on the line of the transcription, have a full-width colon, name the language
    without its variant, or be missing. The translation is None where none is found.
    """
    label = _label(target_language)
    found = re.search(rf"^\s*{label}", answer, re.MULTILINE | re.IGNORECASE)
    if found is None:
        found = next(iter([*re.finditer(rf"(?<=\s){label}", answer, re.IGNORECASE)][::-1]), None)
    if found:
        text, translation = answer[: found.start()], answer[found.end() :]
    else:
        text, _, translation = answer.strip().partition("\n")
    if source_language:
        text = re.sub(rf"^\s*{_label(source_language)}", "", text, flags=re.IGNORECASE)
    return one_line(text), one_line(translation) or None


def _label(language: str) -> str:
    """A pattern of the language's name before a text: "Brazilian Portuguese:", "**Portuguese:** "."""
    name = language_name(language)
    names = "|".join(re.escape(each) for each in (name, base_language(name)))
    return rf"[*_]*(?:{names})[*_]*\s*[:：][*_]*"


# A model of few bits may repeat one phrase up to the last token that it is allowed. Speech has repetitions too ("no, no, no"),
# so a loop has at least this many characters and this many equal rounds.
_LOOP_CHARACTERS, _LOOP_ROUNDS, _LONGEST_PHRASE = 96, 6, 120


def loop_start(text: str) -> int | None:
    """Where to cut a text that ends in a loop: behind the first round of the phrase. None for a text without a loop."""
    for period in range(1, min(_LONGEST_PHRASE, len(text) // _LOOP_ROUNDS) + 1):
        length = max(_LOOP_CHARACTERS, _LOOP_ROUNDS * period)
        tail = text[-length:]
        if len(tail) == length and tail[period:] == tail[:-period]:
            start = len(text) - length
            while start > 0 and text[start - 1] == text[start - 1 + period]:
                start -= 1
            return start + period
    return None
