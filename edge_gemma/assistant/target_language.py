"""`TargetLanguage`: which language an utterance is translated into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..speech.languages import language_name

__all__ = ["TargetLanguage"]


@dataclass(frozen=True)
class TargetLanguage:
    """Picks a language other than the one that is spoken.

    Attributes:
        to: the language to translate into, a name or a code; None picks one by the language that is spoken.
        common_words: by the code of a language, some of its most common words, separated by spaces. They tell which
            language a text is in.
        partners: by the code of the spoken language, the language to translate into. All others are translated into
            English.
    """

    to: str | None = None
    common_words: Mapping[str, str] = field(default_factory=dict)
    partners: Mapping[str, str] = field(default_factory=dict)

    def pick(self, text: str, spoken: str | None = None) -> str | None:
        """The English name of the language to translate `text` into; None when it is in that language already.

        `spoken`: the language of the text, a name or a code; None guesses it from the words.
        """
        spoken = spoken or self.guess(text)
        target = language_name(self.to or self._partner(spoken))
        return None if spoken and language_name(spoken) == target else target

    def guess(self, text: str) -> str | None:
        """The code of the language with the most common words in the text; None when the text has no such word."""
        words = re.findall(r"\w+", text.casefold())
        found = {code: sum(word in common.split() for word in words) for code, common in self.common_words.items()}
        best = max(found, key=lambda code: found[code], default=None)
        return best if best and found[best] else None

    def _partner(self, spoken: str | None) -> str:
        partners = {language_name(code): other for code, other in self.partners.items()}
        return partners.get(language_name(spoken), "en") if spoken else "en"
