"""Commands as the shell of this system has them: what a user can paste, and what a user has typed."""

from __future__ import annotations

import os
import shlex


def quoted(word: str) -> str:
    """A word of a command, in quotes if it needs them: those of POSIX shells, or the double ones of Windows."""
    if os.name != "nt":
        return shlex.quote(word)
    from subprocess import list2cmdline

    return list2cmdline([word])


def split_command(text: str) -> list[str]:
    """The words of a command. On Windows a backslash is a part of a path; elsewhere it takes the next character as it is.

    Raises:
        ValueError: a quote is not closed.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if os.name == "nt":
        lexer.escape = ""
    return list(lexer)
