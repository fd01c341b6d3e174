"""In which language something was said: a short question to the model, about the words that it has understood.

The question is about text, so it takes no encoder and few tokens. Its answer counts only if it names one
language that is known here. `LanguageDetection` asks once about a recording, `segment_language` about a segment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ..engine.interface import ModelLike, SessionLike
from ..errors import EdgeGemmaValueError
from .answer import Answer
from .languages import LANGUAGES, LanguageName, language_name
from .line_breaking import width
from .prompts import language_question, text_turn

__all__ = ["LanguageDetection", "language_in", "segment_language"]

# Columns of text: so much is waited for, since one word may belong to several languages, and so much is enough.
_ENOUGH, _MOST = 40, 300
_ANSWER = 12  # tokens of the answer at most

Working = Callable[[SessionLike], AbstractContextManager[SessionLike]]


class LanguageDetection:
    """Collects the words of a recording until they are enough to ask about, and asks once.

    Attributes:
        language: what was found; None before, and when the model gave no usable answer.
    """

    language: LanguageName | None = None

    def __init__(self, model: ModelLike, kv: str | None = None) -> None:
        """`kv`: the type of the KV cache of the session that is asked."""
        self._model, self._kv, self._text, self._open = model, kv, "", True

    def hear(self, text: str, last: bool = False) -> tuple[SessionLike, list[int]] | None:
        """Takes the words of a segment; `last`: no words will follow.

        Returns, once, when it is time to ask: a new session, which belongs to the caller, and the question, both for `ask`.
        """
        self._text = f"{self._text} {text}".strip()
        if not (self._open and self._text and (last or width(self._text) >= _ENOUGH)):
            return None
        self._open = False
        return _question(self._model, self._kv, self._text)

    def ask(self, session: SessionLike, question: list[int]) -> None:
        """Asks, and notes the answer. Raises as `Answer.step`."""
        self.language, _ = _ask(session, question)


def segment_language(
    model: ModelLike, text: str, working: Working, kv: str | None = None
) -> tuple[LanguageName | None, float | None]:
    """The language of a segment and its probability; None where the model gave no usable answer.

    Args:
        text: the words of the segment.
        working: makes a session the one that is cancelled, and closes it in the end, as `Cancellable.working`.
        kv: the type of the KV cache of the session that is asked.

    Raises as `Answer.step`.
    """
    asked = _question(model, kv, text)
    if asked is None:
        return None, None
    with working(asked[0]):
        return _ask(*asked)


def _question(model: ModelLike, kv: str | None, text: str) -> tuple[SessionLike, list[int]] | None:
    """A new session and the question about a text, for `_ask`; None where it does not fit."""
    ids = text_turn(model.tokenizer, language_question(text[:_MOST]))
    context = len(ids) + _ANSWER + 1
    return None if context > model.config.context_length else (model.session(context=context, kv=kv), ids)


def _ask(session: SessionLike, question: Sequence[int]) -> tuple[LanguageName | None, float | None]:
    """The language that the model names, and the probability of the tokens that name it."""
    answer = Answer(session, question, _ANSWER, line=True, measured=True)
    answer.finish()
    language = language_in(answer.text)
    return language, math.exp(sum(answer.logprobs[: len(answer.ids)])) if language else None


def language_in(answer: str) -> LanguageName | None:
    """The one language that an answer names: "German", "**German**", "It is German."; None for no or several languages."""
    words = answer.strip().strip("*_.\"'` ")
    if ":" not in words and words:
        try:
            return language_name(words)
        except EdgeGemmaValueError:
            pass
    found = [name for name in {*LANGUAGES.values()} if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer)]
    whole = [name for name in found if not any(name != other and name in other for other in found)]  # Swiss German
    return language_name(whole[0]) if len(whole) == 1 else None
