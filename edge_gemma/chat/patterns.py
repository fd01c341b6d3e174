"""Regular expressions of JSON schemas, and of their formats, as llguidance's grammars use them.

A schema is read by several programs, whose dialects differ: \\d has the digits of all scripts for Python, and only those of
ASCII for JavaScript. What is generated must satisfy all of them, so `portable` makes a pattern as narrow as the narrowest.
"""

from __future__ import annotations

import re

__all__ = ["FORMATS", "NO_LEAP_SECOND", "REAL_DATE", "portable"]

# Classes that mean the same in every dialect. A class may stand inside another one.
_CLASSES = {
    r"\d": "[0-9]",
    r"\D": r"\P{Nd}",
    r"\w": "[0-9A-Za-z_]",
    r"\W": r"[^\p{L}\p{M}\p{N}\p{Pc}]",
    r"\S": r"[^\s\x1c-\x1f\x85\u{FEFF}]",
}
_FROM_NUL = re.compile(r"\\(x0|u000)0-")  # the beginning of a range
_PIECE = re.compile(rf"{_FROM_NUL.pattern}|\\.|\[\^(?!\])|.", re.DOTALL)

_COMMON_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # from 0001 on
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_COMMON_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"

REAL_DATE = rf"^({_COMMON_YEAR}-(0[13-9]|1[0-2]|02-([01][0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
"""Of texts that begin with a date, those whose year and day exist."""

NO_LEAP_SECOND = "[0-9]{2}:[0-9]{2}:[0-5]"
"""Of texts that have a time, those whose second every program knows."""

_HEX, _OCTET = "[0-9a-fA-F]{1,4}", "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_SHORTENED = [f"({_HEX}:){{1,{before}}}(:{_HEX}){{1,{7 - before}}}" for before in range(1, 7)]
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_NAME = f"({_LABEL}\\.){{0,4}}[a-zA-Z]([a-zA-Z0-9]{{0,30}})"
_PATH = r"([a-zA-Z0-9._~!$&'()*+,;=:@/-]|%[0-9a-fA-F]{2})*"
_URI = rf"([a-z][a-z0-9+.-]*://{_NAME}(:[0-9]{{1,4}})?(/{_PATH})?(\?{_PATH})?(#{_PATH})?|(mailto|tel|urn):[a-zA-Z0-9@.:+-]+)"
_DAYS = "([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
_HOURS = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
_POINTER = "(/([^~/]|~[01])*)*"
_EMAIL = r"[a-zA-Z0-9_+-]+(\.[a-zA-Z0-9_+-]+)*@[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P({_DAYS}({_HOURS})?|{_HOURS}|[0-9]+W)",
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _NAME,
    "idn-hostname": "[a-z]{1,30}(\\.[a-z]{1,30}){0,4}",
    "ipv4": rf"{_OCTET}(\.{_OCTET}){{3}}",
    "ipv6": f"({'|'.join([f'({_HEX}:){{7}}{_HEX}', *_SHORTENED, f':(:{_HEX}){{1,7}}', f'({_HEX}:){{1,7}}:', '::'])})",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": _URI,
    "uri-reference": _URI,
    "uri-template": _URI,
    "iri": _URI,
    "iri-reference": _URI,
    "json-pointer": _POINTER,
    "relative-json-pointer": "[0-9](#|(/([^~/]|~[01])*)+)",
    "regex": "[a-zA-Z0-9 _]*",
}
"""The formats of JSON Schema as expressions for a whole text, some of them narrower than the format: all that is usual fits."""


def portable(pattern: str) -> str:
    """A pattern that matches only what the given one matches in every dialect.

    It also avoids a mistake of llguidance 1.9: in a JSON string, a class with all control characters has the quotation mark and
    the backslash too. So no class but those with both of them has NUL.
    """
    pieces, in_class = [], False
    for found in _PIECE.finditer(pattern):
        piece = found[0]
        if in_class and _FROM_NUL.fullmatch(piece):
            piece = r"\x01-"
        in_class = piece != "]" if in_class else piece[0] == "["
        pieces.append(r"[^\x00" if piece == "[^" else _CLASSES.get(piece, piece))
    return "".join(pieces)
