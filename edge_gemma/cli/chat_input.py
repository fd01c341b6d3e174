"""Where the lines of a chat come from: a pipe, or a terminal with editing, history and completion.

At a terminal `prompt_toolkit` reads the lines if it is installed, else `readline`. Both complete commands and file names with
Tab and keep the same history in the user's state directory.
"""

from __future__ import annotations

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HISTORY_LENGTH = 1000


class History:
    """The messages of earlier chats, oldest first, one a line in a file that only the user can read."""

    def __init__(self, file: Path | None = None) -> None:
        """`file`: by default that of the chat in the user's state directory."""
        self._file = file or _state_folder() / "edge-gemma" / "chat_history"

    def entries(self) -> list[str]:
        """The last messages."""
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [_unescaped(line) for line in lines[-HISTORY_LENGTH:] if line]

    def add(self, text: str) -> None:
        """Appends a message, unless it is empty. A file that cannot be written is left alone."""
        if not text.strip():
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(
                os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8"
            ) as file:
                file.write(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "") + "\n")

    def shorten(self) -> None:
        """Drops the oldest messages of a file that has become long."""
        with contextlib.suppress(OSError):
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if len(lines) > 2 * HISTORY_LENGTH:
                self._file.write_text("".join(lines[-HISTORY_LENGTH:]), encoding="utf-8")


def _unescaped(line: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return Path(state) if state else Path.home() / ".local" / "state"


def completions(line: str, commands: Sequence[str], with_file: Iterable[str]) -> list[tuple[str, str]]:
    """What Tab offers at the end of a line: the end of the line that is replaced, and its replacement.

    Args:
        line: up to the cursor.
        commands: the words that begin with a slash.
        with_file: those of them that a file name follows.
    """
    word, space, rest = line.partition(" ")
    if not word.startswith("/"):
        return []
    if not space:
        return [(word, name) for name in sorted(commands) if name.startswith(word)]
    return [(rest, name) for name in _files(rest)] if word in with_file else []


def _files(begin: str) -> list[str]:
    """The files and folders whose names begin like this; a folder ends with a slash."""
    folder, name = os.path.split(begin)
    try:
        found = sorted(os.listdir(os.path.expanduser(folder) or os.curdir))
    except OSError:
        return []
    paths = [os.path.join(folder, entry) for entry in found if entry.startswith(name) and (name or entry[0] != ".")]
    return [path + os.sep * os.path.isdir(os.path.expanduser(path)) for path in paths]


class LineReader(ABC):
    """Reads lines. Reading raises EOFError at the end of the input and KeyboardInterrupt for Ctrl-C at the prompt."""

    is_terminal = False

    @abstractmethod
    def read(self, prompt: str) -> str:
        """One line, or several that were pasted; `prompt` is shown at a terminal only."""

    def close(self) -> None:
        """Ends the reading."""
        return


class PipeReader(LineReader):
    """Lines of a pipe or a file."""

    def read(self, prompt: str) -> str:
        """The next line."""
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class ReadlineReader(LineReader):
    """Lines of a terminal, edited by `readline` where Python has it."""

    is_terminal = True

    def __init__(self, history: History, commands: Sequence[str], with_file: Sequence[str]) -> None:
        """`commands` and `with_file` as for `completions`."""
        self._history = history
        self._commands, self._with_file = commands, with_file
        self._found: list[str] = []
        with contextlib.suppress(ImportError):  # absent on Windows
            import readline

            readline.set_history_length(HISTORY_LENGTH)
            for entry in history.entries():
                readline.add_history(entry.replace("\n", " "))
            readline.set_completer_delims("")
            readline.set_completer(self._complete)
            readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def _complete(self, line: str, number: int) -> str | None:
        """readline's way to ask for the completions of a line, one by one."""
        if number == 0:
            found = completions(line, self._commands, self._with_file)
            self._found = [line[: len(line) - len(begin)] + text for begin, text in found]
        return self._found[number] if number < len(self._found) else None

    def read(self, prompt: str) -> str:
        """The next line."""
        line = input(prompt)
        self._history.add(line)
        return line

    def close(self) -> None:
        """Shortens the history."""
        self._history.shorten()


class PromptToolkitReader(LineReader):
    """Lines of a terminal, edited by `prompt_toolkit`.

    A text of several lines that is pasted is one message. Alt-Enter begins a new line. Ctrl-C clears the line, or raises
    KeyboardInterrupt if there is nothing to clear.
    """

    is_terminal = True

    def __init__(self, history: History, commands: Sequence[str], with_file: Sequence[str]) -> None:
        """`commands` and `with_file` as for `completions`. Raises ImportError without prompt_toolkit."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        class Words(Completer):
            def get_completions(self, document: Any, complete_event: Any) -> Iterable[Any]:
                for begin, text in completions(document.text_before_cursor, commands, with_file):
                    yield Completion(text, -len(begin))

        keys = KeyBindings()

        @keys.add("c-c")
        def _(event: Any) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            else:
                event.app.exit(exception=KeyboardInterrupt)

        @keys.add("escape", "enter")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        self._history = history
        self._session: Any = PromptSession(
            history=InMemoryHistory(history.entries()),
            completer=Words(),
            complete_while_typing=False,
            key_bindings=keys,
            prompt_continuation="| ",
            reserve_space_for_menu=4,
        )

    def read(self, prompt: str) -> str:
        """The next message."""
        text: str = self._session.prompt(prompt)
        self._history.add(text)
        return text

    def close(self) -> None:
        """Shortens the history."""
        self._history.shorten()


def open_reader(commands: Sequence[str], with_file: Sequence[str]) -> LineReader:
    """The best reader for standard input; `commands` and `with_file` as for `completions`."""
    if not sys.stdin.isatty():
        return PipeReader()
    history = History()
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):
            return PromptToolkitReader(history, commands, with_file)
    return ReadlineReader(history, commands, with_file)
