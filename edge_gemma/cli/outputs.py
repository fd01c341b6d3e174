"""Files that commands write: which may be replaced, how they are replaced in one step, and errors that name them.

The rule of every verb: a file is not replaced without --force, and with it only if the command could have written such a
file. So a pattern of the shell that puts a recording behind --output never costs the recording.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TextIO

from ..errors import EdgeGemmaOSError
from .common import UsageError

STDOUT = "standard output"
_OPEN_STREAM = re.compile(r"/dev/(stdout|stderr)|(?:/dev/fd|/proc/self/fd)/(\d+)")


def open_text(path: Path, mode: Literal["w", "a", "x"] = "w") -> TextIO:
    """Opens a file for UTF-8. A name of a file may have lone surrogates, which are written as JSON escapes them.

    An open stream of this process, such as /dev/stdout, is not opened anew: that would empty the file to which the shell
    appends, and would write to a file that the shell has opened for reading.
    """
    number = _open_stream(path)
    if number is None:
        return path.open(mode, encoding="utf-8", errors="backslashreplace")
    sys.stdout.flush()
    return os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace")


def _open_stream(path: Path) -> int | None:
    """The number of the open file of this process that a path such as /dev/stdout or /dev/fd/3 means; None for others."""
    found = _OPEN_STREAM.fullmatch(str(path))
    if not found:
        return None
    return int(found[2]) if found[2] else ("stdout", "stderr").index(found[1]) + 1


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or an open stream of this process, into which everything may be written."""
    if _open_stream(path) is not None:
        return True  # also where the shell has sent the stream to a file
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(path: Path, inputs: Iterable[str] = (), *, force: bool | None, text: bool = True) -> None:
    """Raises UsageError unless a command may write this file. Nothing is changed.

    Args:
        path: the file, as the user named it.
        inputs: files that the command reads: none of them is replaced, not even with `force`.
        force: whether a file that exists may be replaced; None for a command without --force: it may not.
        text: whether the command writes text: then only text is replaced.
    """
    if is_stream(path):
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} is a directory, and the output is one file.")
    for name in inputs:
        with contextlib.suppress(OSError, ValueError):
            if path.samefile(name):
                raise UsageError(f"{path} is both input and output.")
    parent = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(parent):
        kind = "is not a directory" if os.path.exists(parent) else "does not exist"
        raise UsageError(f"{path} cannot be written: {parent} {kind}.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: the directory {parent} is read-only.")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:  # such as a name that is too long, or symbolic links in a circle
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    if not size:
        return
    if text and not _is_text(path):
        raise UsageError(f"{path} exists already and is no text file, so it is not replaced: give another name.")
    if not force:
        advice = "give another name" + (", or --force to replace it" if force is not None else "")
        raise UsageError(f"{path} exists already: {advice}.")


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


def stdout_is_broken() -> bool:
    """Whether nothing more can be written to standard output, as when the disk is full."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return error.errno != errno.EAGAIN
    return False


@contextlib.contextmanager
def replacing(path: Path, name: str | Path | None = None) -> Iterator[TextIO]:
    """A text file to write. It replaces `path` when the `with` block ends, and is removed after an exception.

    `name`: what errors call it, if not `path`. The file that is replaced hands down its permissions.
    """
    target = Path(os.path.realpath(path))
    # The name is short and new: with that of the target in it, it could be too long, or that of a file of somebody else.
    temporary = target.with_name(f"edge-gemma-{os.urandom(6).hex()}.new")
    try:
        with naming(name or path):
            with open_text(temporary, "x") as file:
                with contextlib.suppress(OSError):
                    shutil.copymode(target, temporary)
                yield file
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
