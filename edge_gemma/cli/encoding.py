"""Output in an encoding that lacks characters: nothing is lost, and the user is told once.

Python uses UTF-8 wherever the locale names no other encoding, LC_ALL=C included. Where the locale does, or PYTHONIOENCODING
or PYTHONUTF8=0, characters that the encoding lacks are written as JSON and Python escape them, such as \\u00bf, and one
line on standard error says so.
"""

from __future__ import annotations

import codecs
import os
import sys

_HANDLER = "edge_gemma.escape"
_told = False


def tolerate_encoding(platform: str = sys.platform) -> None:
    """Makes standard output and standard error escape what their encodings lack, instead of raising an error.

    Standard input that Python takes for ASCII is read as UTF-8, of which ASCII is a part. On Windows pipes and files are UTF-8,
    as on the other systems: the code page of the country lacks most characters. PYTHONIOENCODING chooses another one.
    """
    if platform == "win32" and not os.environ.get("PYTHONIOENCODING"):
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8")
    if hasattr(sys.stdin, "reconfigure") and codecs.lookup(sys.stdin.encoding).name == "ascii":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    codecs.register_error(_HANDLER, _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER if stream is sys.stdout else "backslashreplace")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """The error handler: escapes that are valid in JSON strings, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    if not all("\ud800" <= character <= "\udfff" for character in wrong):  # surrogates: a file name that is no text
        _tell(error.encoding)
    units = wrong.encode("utf-16-be", "surrogatepass")
    escaped = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return escaped, error.end


def _tell(encoding: str) -> None:
    """Says once that characters are missing."""
    global _told
    if not _told:
        _told = True
        from .terminal import print_warning

        print_warning(
            f"the encoding {encoding} lacks characters of the output, which are written as \\uXXXX. For UTF-8, set "
            "LC_ALL=C.UTF-8 or another UTF-8 locale."
        )
