"""What a model is asked about speech, and how its answers are read.

Owns the wording of the requests, the turn around a recording, the parts of an answer, and the
detection of answers that run in circles. Knows neither sessions nor sound.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np

from ..chat.prompt import Media, Prompt, TokenizerLike, Unit
from ..errors import EdgeGemmaValueError
from .languages import language_name

__all__ = [
    "Order",
    "asr_prompt",
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
    """The request for a transcription of speech in `language`; None leaves it to the model to find out which it is."""
    name = language and language_name(language)
    into = f" in {name} into {name} text" if name else ""
    return f"Transcribe the following speech segment{into}.{_ANSWER_FORM}"


def translation_prompt(source: str | None, target: str) -> str:
    """The request for a transcription of speech in `source` and its translation; source None as in `asr_prompt`."""
    target = language_name(target)
    in_source = f" in {language_name(source)}" if source else ""
    return (
        f"Transcribe the following speech segment{in_source}, then translate it into {target}.\n"
        f"When formatting the answer, first output the transcription{in_source}, then one newline, "
        f"then output the string '{target}: ', then the translation in {target}."
    )


def text_translation_prompt(text: str, source: str | None, target: str) -> str:
    """The request for a translation of `text`; source None as in `asr_prompt`."""
    from_source = f" from {language_name(source)}" if source else ""
    return (
        f"Translate the following text{from_source} into {language_name(target)}. "
        f"Only output the translation, with no explanations.\n\n{text}"
    )


def speech_turn(
    tokenizer: TokenizerLike, instruction: str, order: Order = "instruction-first"
) -> tuple[list[int], list[int]]:
    """The user's turn about a recording, in the model's own chat template, without thinking.

    Args:
        tokenizer: the model's.
        instruction: what is asked; markers in it are mere text.
        order: "instruction-first" leaves only the turn's closing to be read when the recording ends; "audio-first" is
            the order that model cards advise for short clips.

    Returns:
        The tokens before and after the sound; the sound's own begin and end markers are in neither.

    Raises:
        EdgeGemmaValueError: "argument" for another order, "template" when the template has no place for audio.
    """
    if order not in ("instruction-first", "audio-first"):
        raise EdgeGemmaValueError(f'order is {order!r}; choose "instruction-first" or "audio-first".', "argument")
    content = [{"type": "text", "text": instruction}, {"type": "audio", "audio": np.zeros(1, np.float32)}]
    units = _user_turn(tokenizer, content if order == "instruction-first" else content[::-1])
    at = next(number for number, unit in enumerate(units) if isinstance(unit, Media))
    return _ids(units[:at]), _ids(units[at + 1 :])


def text_turn(tokenizer: TokenizerLike, text: str) -> list[int]:
    """A user's turn with nothing but text, otherwise as `speech_turn`."""
    return _ids(_user_turn(tokenizer, text))


def _user_turn(tokenizer: TokenizerLike, content: Any) -> list[Unit]:
    prompt = Prompt(tokenizer, getattr(tokenizer, "chat_template", None), options={"enable_thinking": False})
    return prompt.conversation([{"role": "user", "content": content}])


def _ids(units: list[Unit]) -> list[int]:
    return [unit for unit in units if isinstance(unit, int)]


# ---- answers --------------------------------------------------------------------------------------------------------


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # those that are no white space


def one_line(text: str) -> str:
    """The text on one line, single spaces between its words, no control characters."""
    return " ".join(_CONTROL.sub("", text).split())


def split_translation(answer: str, target: str, source: str | None = None) -> tuple[str, str | None]:
    """Parts an answer to `translation_prompt` into transcription and translation, each on one line.

    The wanted form is the transcription, a newline, and "German: " with the translation. Small models slip, so the label
    may also be bold, follow on the same line, have a full-width colon, or be missing behind the newline. Where no
    translation can be made out it is None.
    """
    label = rf"[*_]*{re.escape(language_name(target))}[*_]*\s*[:：][*_]*"
    found = re.search(rf"^\s*{label}", answer, re.MULTILINE | re.IGNORECASE)
    if found is None:
        found = next(iter([*re.finditer(rf"(?<=\s){label}", answer, re.IGNORECASE)][::-1]), None)
    if found:
        text, translation = answer[: found.start()], answer[found.end() :]
    else:
        text, _, translation = answer.strip().partition("\n")
    if source:
        text = re.sub(rf"^\s*[*_]*{re.escape(language_name(source))}[*_]*\s*[:：][*_]*", "", text, flags=re.IGNORECASE)
    return one_line(text), one_line(translation) or None


# A low-bit model may fall into saying one phrase over and over, and would go on to the last allowed token. Speech has
# repetitions too ("no, no, no"), so a loop is what fills this many characters with at least so many equal rounds.
_LOOP_CHARACTERS, _LOOP_ROUNDS, _LONGEST_PHRASE = 96, 6, 120


def loop_start(text: str) -> int | None:
    """Where to cut a text that ends in a loop: behind the first round of the phrase. None when it does not."""
    for period in range(1, min(_LONGEST_PHRASE, len(text) // _LOOP_ROUNDS) + 1):
        length = max(_LOOP_CHARACTERS, _LOOP_ROUNDS * period)
        tail = text[-length:]
        if len(tail) == length and tail[period:] == tail[:-period]:
            start = len(text) - length
            while start > 0 and text[start - 1] == text[start - 1 + period]:
                start -= 1
            return start + period
    return None
