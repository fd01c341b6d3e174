"""The exceptions of edge_gemma. Each is an EdgeGemmaError with a `.code`, and the built-in kind that fits as well."""

from __future__ import annotations


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
