"""In which language a text is, without asking the model: an assistant speaks each sentence in the language of its words.

py3langid (extra `assistant`) tells languages by their letters. It is sure of a sentence, but not of a word or two, so those are
taken to be in the language of the text before them. Without it the language stays unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["SPOKEN", "LanguageGuess"]

SPOKEN = "en de es fr it pt nl pl ru uk cs sk sv da no fi hu ro bg el tr ar fa he hi bn ta te ja ko zh vi id ca".split()
"""Languages that a sentence may be in, where nothing else is known."""


_ENOUGH = 10  # letters that tell a language with the Latin alphabet
_LATIN = 0x250  # letters from here on belong to few languages, so two of them are enough
_MARGIN = 4.0  # natural logarithms by which another language than the last one has to be more probable


@functools.cache
def _rank() -> Callable[[str], list[tuple[str, float]]] | None:
    """Languages with their log-probabilities, up to a constant; None without py3langid."""
    try:
        import py3langid
    except ImportError:
        return None
    rank: Any = py3langid.rank
    return rank  # type: ignore[no-any-return]


class LanguageGuess:
    """Guesses the language of one text after another."""

    def __init__(self, languages: Collection[str]) -> None:
        """Reads the table of letters, which takes a moment. `languages`: codes of those that are possible."""
        self._possible = {code.partition("-")[0] for code in languages}
        self._last: str | None = None
        if rank := _rank():
            rank("The first text takes longer than others.")

    def __call__(self, text: str) -> str | None:
        """The code of the language; None when nothing tells it."""
        letters = [letter for letter in text if letter.isalpha()]
        foreign = sum(ord(letter) >= _LATIN for letter in letters)
        rank = _rank()
        if rank and (len(letters) >= _ENOUGH or foreign >= 2):
            found = {code: float(score) for code, score in rank(text) if code in self._possible}
            best = max(found, key=lambda code: found[code], default=None)
            if best is not None and (self._last not in found or found[best] - found[self._last] > _MARGIN):
                self._last = best
        return self._last
