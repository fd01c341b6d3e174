"""Files that commands write: which may be replaced, how they are replaced in one step, and errors that name them.

The rule of every verb: a file is not replaced without --force, and with it only if the command could have written such a
file. So a pattern of the shell that puts a recording behind --output never costs the recording.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TextIO

from ..errors import EdgeGemmaOSError
from .common import UsageError

STDOUT = "standard output"


def open_text(path: Path, mode: Literal["w", "a"] = "w") -> TextIO:
    """Opens a file for UTF-8. A name of a file may have lone surrogates, which are written as JSON escapes them."""
    return path.open(mode, encoding="utf-8", errors="backslashreplace")


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or an open stream of this process, into which everything may be written."""
    if str(path).startswith(("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")):
        return True  # also where the shell has sent the stream to a file
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(path: Path, inputs: Iterable[str] = (), *, force: bool, text: bool = True) -> None:
    """Raises UsageError unless a command may write this file. Nothing is changed.

    Args:
        path: the file, as the user named it.
        inputs: files that the command reads: none of them is replaced, not even with `force`.
        force: whether a file that exists may be replaced.
        text: whether the command writes text: then only text is replaced.
    """
    if is_stream(path):
        return
    if path.is_dir():
        raise UsageError(f"{path} is a directory, and the output is one file.")
    for name in inputs:
        with contextlib.suppress(OSError, ValueError):
            if path.samefile(name):
                raise UsageError(f"{path} is both input and output.")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no directory {parent}.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: the directory {parent} is read-only.")
    if not path.exists() or not path.stat().st_size:
        return
    if not force:
        raise UsageError(f"{path} exists already: give another name, or --force to replace it.")
    if text and not _is_text(path):
        raise UsageError(f"{path} is no text file: --force does not replace it. Give another name.")


def _is_text(path: Path) -> bool:
    """Whether the beginning of a file is UTF-8 without control characters of binary files."""
    with path.open("rb") as file:
        head = file.read(4096)
    try:
        # The last character may be cut.
        text = head.decode("utf-8", "strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    cut = len(head) - len(text.encode("utf-8"))
    return cut <= 3 and not any(character < " " and character not in "\t\n\r\f\x1b" for character in text)


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Turns failures of the system while an output is written into an error that names the output.

    Without it the error names a temporary file, or nothing at all, and a caller would blame the input.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if isinstance(error, EdgeGemmaOSError):
            raise
        raise EdgeGemmaOSError(f"{name} cannot be written: {error.strerror or error}.", "file") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write. It replaces `path` when the `with` block ends, and is removed after an exception."""
    target = path.resolve()
    temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        with naming(path):
            with open_text(temporary) as file:
                yield file
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
