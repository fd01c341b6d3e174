"""A list of notes in a text file, one "- note" a line, which its owner may edit as well."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import Any

from ..errors import EdgeGemmaValueError
from .state import read_text, write_text

__all__ = ["Notes"]

_LINE = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+(.*\S)")
_LONGEST, _MOST = 500, 200  # characters of a note; notes


class Notes:
    """The list, and the tools that read and change it.

    Attributes:
        path: the file. It is read anew for each call, and lines that are no notes stay as they are.
    """

    def __init__(self, path: str) -> None:
        """`path`: the file, which is made with the first note."""
        self.path = os.path.expanduser(path)
        self._lock = threading.Lock()

    @property
    def tools(self) -> list[Callable[..., Any]]:
        """Functions that a model may call."""
        return [self.add_note, self.read_notes, self.remove_note]

    def add_note(self, text: str) -> str:
        """Adds a note, such as something to buy or to remember.

        Args:
            text: the note, in the user's words
        """
        note = " ".join(text.split())
        if not note or len(note) > _LONGEST:
            raise EdgeGemmaValueError(f"A note has 1 to {_LONGEST} characters.", "tool")
        with self._lock:
            lines = self._lines()
            if sum(_LINE.match(line) is not None for line in lines) >= _MOST:
                raise EdgeGemmaValueError("There are too many notes: remove some first.", "tool")
            self._write([*lines, f"- {note}"])
        return f"noted: {note}"

    def read_notes(self) -> list[str]:
        """Reads the list of notes."""
        return [found[1] for line in self._lines() if (found := _LINE.match(line))]

    def remove_note(self, text: str) -> str:
        """Removes a note.

        Args:
            text: the note or a part of it; "all" for all notes
        """
        wanted = " ".join(text.split()).casefold()
        with self._lock:
            lines = self._lines()
            notes = [(at, found[1]) for at, line in enumerate(lines) if (found := _LINE.match(line))]
            every = wanted in ("all", "everything", "*")
            gone = [at for at, note in notes if every or note.casefold() == wanted]
            gone = gone or [at for at, note in notes if wanted and wanted in note.casefold()]
            if not gone:
                raise EdgeGemmaValueError(f"There is no note about {text!r}.", "tool")
            if len(gone) > 1 and not every:
                choices = "; ".join(note for at, note in notes if at in gone)
                raise EdgeGemmaValueError(f"Several notes fit: {choices}. Say which one.", "tool")
            removed = ", ".join(note for at, note in notes if at in gone)
            self._write([line for at, line in enumerate(lines) if at not in gone])
        return f"removed: {removed}"

    def _lines(self) -> list[str]:
        return read_text(self.path).splitlines()

    def _write(self, lines: list[str]) -> None:
        write_text(self.path, "".join(f"{line}\n" for line in lines))
