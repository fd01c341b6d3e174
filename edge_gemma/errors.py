"""The exceptions of edge_gemma. Each is an EdgeGemmaError with a `.code`, and the built-in kind that fits as well."""

from __future__ import annotations

import os
import shlex
import sys


class EdgeGemmaError(Exception):
    """Base of all errors of this package.

    `code` is one of: argument, file, format, unsupported, memory, context, state, cancelled, template, tool, invalid.
    """

    def __init__(self, message: str, code: str = "invalid") -> None:
        """`message` is a sentence for people; `code` a word for programs."""
        super().__init__(message)
        self.code = code


class EdgeGemmaValueError(EdgeGemmaError, ValueError):
    """A wrong argument, a damaged or unsupported file, a full context."""


class EdgeGemmaOSError(EdgeGemmaError, OSError):
    """A file that could not be opened, read or written."""


class EdgeGemmaMemoryError(EdgeGemmaError, MemoryError):
    """Not enough memory."""


class Cancelled(EdgeGemmaError):
    """The call was stopped by `cancel()`; what was done until then is kept."""

    def __init__(self, message: str = "cancelled", code: str = "cancelled") -> None:
        """The message is "cancelled"."""
        super().__init__(message, code)


def pip_line(*packages: str) -> str:
    """The command that installs packages where this program runs: into its virtual environment, or that of pipx or uv.

    "edge-gemma[voice]" stands for the packages of that extra.
    """
    wanted = " ".join(map(shlex.quote, packages))
    if os.path.join("pipx", "venvs") in sys.prefix:
        return f"pipx runpip {os.path.basename(sys.prefix)} install {wanted}"
    python = shlex.quote(sys.executable or "python3")
    # Not by importlib.util.find_spec("pip"): setuptools takes that for pip itself, and fails when it is imported later.
    if not any(os.path.isdir(os.path.join(folder, "pip")) for folder in sys.path if folder):
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m pip install {wanted}"
