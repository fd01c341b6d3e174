"""Breaks text that comes in pieces between words, for a terminal, which would break it anywhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_TAB = 8


def width_of(text: str) -> int:
    """The columns that a text takes in a terminal; tabs count as one."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class WordWrap:
    """Text in, the same text out with line breaks in place of spaces where a line would be too long.

    A word is held back until it is complete: `flush` gives the last one. Lines of a Markdown code block stay as they are,
    so that they can be copied, and so do the spaces at the start of a line. Scripts without spaces are broken anywhere.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        """`columns` tells the width of the terminal."""
        self._width = columns
        self._column = 0  # where the next character goes, without `_gap` and `_word`
        self._gap, self._word = "", ""  # what is held back
        self._inside = False  # whether the start of the word was written, because it is longer than a line
        self._fence, self._start = False, ""  # whether in a code block; the first characters of the line

    def feed(self, text: str) -> str:
        """The next piece of text; what can be written of it."""
        return "".join(map(self._take, text))

    def flush(self) -> str:
        """Writes what is held back."""
        return self._put_word() + self._put_gap()

    def _take(self, character: str) -> str:
        if character == "\n":
            out = self._put_word()
            self._fence ^= self._start.startswith("```")
            self._column, self._gap, self._start, self._inside = 0, "", "", False
            return out + "\n"
        if len(self._start) < 3 and (self._start or character != " "):
            self._start += character
        if character in " \t":
            out = self._put_word()
            self._gap, self._inside = self._gap + character, False
            return out
        if _columns(character) == 2:  # may be broken before and after
            out = self._put_word()
            self._word, self._inside = character, False
            return out + self._put_word()
        self._word += character
        if width_of(self._word) < self._width():
            return ""
        out = self._put_word()
        self._inside = True
        return out

    def _put_word(self) -> str:
        if not self._word:
            return ""
        length, out = width_of(self._word), ""
        gap = len(self._gap.expandtabs(_TAB))
        code = self._fence or self._start.startswith("```")
        fits = self._column + gap + length <= self._width()
        if not (code or fits or self._inside) and self._column:
            self._gap, self._column, out = "", 0, "\n"
        out += self._put_gap() + self._word
        self._column += length
        if self._column > self._width():  # the terminal has broken it
            self._column = self._column % self._width() or self._width()
        self._word = ""
        return out

    def _put_gap(self) -> str:
        gap, self._gap = self._gap, ""
        self._column += len(gap.expandtabs(_TAB))
        return gap
