"""Where the assistant keeps what survives a restart, and files that are whole at every moment."""

from __future__ import annotations

import contextlib
import os
import tempfile

from ..errors import EdgeGemmaOSError

__all__ = ["read_text", "state_folder", "write_text"]


def state_folder() -> str:
    """The folder of the assistant's own files: edge-gemma/assistant in $XDG_STATE_HOME, else in ~/.local/state."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join("~", ".local", "state")
    return os.path.join(os.path.expanduser(home), "edge-gemma", "assistant")


def read_text(path: str) -> str:
    """The text of a file, "" if there is none. Raises EdgeGemmaOSError "file" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot read {path}: {error.strerror or error}.", "file") from error


def write_text(path: str, text: str) -> None:
    """Writes a file in one step: a reader, or a power cut, finds the old text or the new one. Makes its folder.

    A link stays one: the file that it leads to is written. Raises EdgeGemmaOSError "file".
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600
        handle, made = tempfile.mkstemp(dir=folder, prefix=".writing-")
        try:
            with open(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(made, mode)
            os.replace(made, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
        if (directory := os.open(folder, os.O_RDONLY)) >= 0:
            with contextlib.suppress(OSError):
                os.fsync(directory)
            os.close(directory)
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot write {path}: {error.strerror or error}.", "file") from error
