"""In which language something was said: one short question to the model, about the words that it has understood.

The question is about text, so it takes no encoder and few tokens. Its answer counts only if it names one
language that is known here.
"""

from __future__ import annotations

import re

from ..engine.interface import ModelLike, SessionLike
from ..errors import EdgeGemmaValueError
from ..hub.resolve import is_embedded
from .answer import Answer
from .languages import LANGUAGES, LanguageName, language_name
from .line_breaking import width
from .prompts import language_question, text_turn

__all__ = ["LanguageDetection", "language_in"]

# Columns of text: so much is waited for, since one word may belong to several languages, and so much is enough.
_ENOUGH, _MOST = 40, 300
_ANSWER = 12  # tokens of the answer at most


class LanguageDetection:
    """Collects the words of a recording until they are enough to ask about, and asks once.

    Attributes:
        language: what was found; None before, and when the model gave no usable answer.
    """

    language: LanguageName | None = None

    def __init__(self, model: ModelLike, kv: str | None = None) -> None:
        """`kv`: the type of the KV cache of the session that is asked."""
        self._model, self._kv, self._text = model, kv, ""
        # The embedded toy model was trained on no such question, and would answer with a command.
        self._open = not is_embedded(model.path)

    def hear(self, text: str, last: bool = False) -> tuple[SessionLike, list[int]] | None:
        """Takes the words of a segment; `last`: no words will follow.

        Returns, once, when it is time to ask: a new session, which belongs to the caller, and the question, both for `ask`.
        """
        self._text = f"{self._text} {text}".strip()
        if not (self._open and self._text and (last or width(self._text) >= _ENOUGH)):
            return None
        self._open = False
        ids = text_turn(self._model.tokenizer, language_question(self._text[:_MOST]))
        context = len(ids) + _ANSWER + 1
        if context > self._model.config.context_length:
            return None
        return self._model.session(context=context, kv=self._kv), ids

    def ask(self, session: SessionLike, question: list[int]) -> None:
        """Asks, and notes the answer. Raises as `Answer.step`."""
        answer = Answer(session, question, _ANSWER, line=True)
        answer.finish()
        self.language = language_in(answer.text)


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
