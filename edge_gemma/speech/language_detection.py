"""In which language something was said: a short question to the model, about the words that it has understood.

The question is about text, so it takes no encoder and few tokens. Its answer counts only if it names one
language that is known here. `LanguageDetection` asks once about a recording, `SegmentLanguages` about each segment.

The embedded toy was trained on no such question. It knows few languages, so `SegmentLanguages` names each in a request, and
compares how probable the words are then, without the sound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ..engine.interface import ModelLike, SessionLike
from ..errors import EdgeGemmaValueError
from ..hub.resolve import is_embedded
from .answer import Answer
from .languages import LANGUAGES, LanguageName, known_languages, language_name
from .line_breaking import width
from .prompts import asr_prompt, language_question, speech_turn, text_turn
from .scoring import Unheard

__all__ = ["LanguageDetection", "SegmentLanguages", "language_in"]

# Columns of text: so much is waited for, since one word may belong to several languages, and so much is enough.
_ENOUGH, _MOST = 40, 300
_ANSWER = 12  # tokens of the answer at most
_TOKENS, _SILENT_TOKENS = 32, 32  # of a transcript that are compared, and those that silence takes, with room to spare

Working = Callable[[SessionLike], AbstractContextManager[SessionLike]]


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
        return _question(self._model, self._kv, self._text)

    def ask(self, session: SessionLike, question: list[int]) -> None:
        """Asks, and notes the answer. Raises as `Answer.step`."""
        self.language, _ = _ask(session, question)


class SegmentLanguages:
    """Tells the language of each segment, and how probable it is. Close it with `close()`."""

    def __init__(self, model: ModelLike, kv: str | None = None) -> None:
        """`kv`: the type of the KV cache of the sessions that are asked."""
        self._model, self._kv = model, kv
        self._unheard: dict[LanguageName, Unheard] = {}

    def tell(self, text: str, ids: Sequence[int], working: Working) -> tuple[LanguageName | None, float | None]:
        """The language of a segment and its probability; None where the model gave no usable answer.

        Args:
            text: the words of the segment.
            ids: the tokens of the answer that has them.
            working: makes a session the one that is cancelled, and closes it in the end, as `Cancellable.working`.

        Raises as `Answer.step`.
        """
        if known := known_languages(self._model):
            return self._compare(known, ids[:_TOKENS])
        asked = _question(self._model, self._kv, text)
        if asked is None:
            return None, None
        with working(asked[0]):
            return _ask(*asked)

    def _compare(self, known: Sequence[LanguageName], ids: Sequence[int]) -> tuple[LanguageName, float]:
        """The language whose request makes the tokens most probable, if all languages are equally probable beforehand."""
        sums = {name: sum(self._without_sound(name).logprobs(ids)) for name in known}
        best = max(sums, key=lambda name: sums[name])
        return best, 1 / sum(math.exp(logprob - sums[best]) for logprob in sums.values())

    def _without_sound(self, language: LanguageName) -> Unheard:
        if language not in self._unheard:
            before, closing = speech_turn(self._model.tokenizer, asr_prompt(language))
            session = self._model.session(context=len(before) + len(closing) + _TOKENS + _SILENT_TOKENS, kv=self._kv)
            try:
                session.feed_tokens(before)
                self._unheard[language] = Unheard(session, closing)
            finally:
                session.close()
        return self._unheard[language]

    def close(self) -> None:
        """Closes its sessions. Further calls do nothing."""
        for unheard in self._unheard.values():
            unheard.close()


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
