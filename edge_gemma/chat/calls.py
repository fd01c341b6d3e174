"""Tool calls and tool responses as text in Gemma 4's prompt format: written exactly, read tolerantly.

    call     = call:NAME{KEY:value,...}          between <|tool_call> and <tool_call|>
    response = response:NAME{KEY:value,...}      between <|tool_response> and <tool_response|>
    value    = <|"|>text<|"|> | number | true | false | null | {KEY:value,...} | [value,...]

Owns this notation and the texts of all control tokens; reply.py finds these in a reply. A string in the notation has no
escapes: it ends at the next <|"|>. Models leave out the opening or closing delimiter, use the quotes and constants of JSON or
Python, or write whole calls as JSON or as Python; the reader understands all of these.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "ANY_MARKER",
    "MARKERS",
    "QUOTE",
    "ToolCall",
    "format_call",
    "format_tool_response",
    "format_value",
    "parse_calls",
    "plain_data",
    "written_key",
]

QUOTE = '<|"|>'
"""The string delimiter, one token of the vocabulary."""

MARKERS: tuple[str, ...] = (
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "<mask>",
    "<|turn>",
    "<turn|>",
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    QUOTE,
    "<|image>",
    "<image|>",
    "<|image|>",
    "<|audio>",
    "<audio|>",
    "<|audio|>",
    "<|video|>",
)
"""The texts of all control tokens. No two of them can overlap in a text."""

ANY_MARKER = re.compile("|".join(map(re.escape, MARKERS)))
"""Finds the text of a control token."""

MAX_DEPTH = 64  # of nested lists and objects; deeper ones are kept as text


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        name: the tool's name; there need not be such a tool. "" when a broken call has none.
        arguments: by name, plain JSON values as the model wrote them, not yet checked.
        problem: why the call is broken and must not be run: it was cut off, or a part of it cannot be read, so arguments may
            be missing, or it does not keep to its declaration. "" for a whole call.
    """

    name: str
    arguments: dict[str, Any]
    problem: str = ""

    def __getitem__(self, key: str) -> Any:
        """`call["name"]` and `call["arguments"]`, so that `dict(call)` works."""
        if key not in ("name", "arguments"):
            raise KeyError(key)
        return getattr(self, key)

    def keys(self) -> list[str]:
        """The two keys that `call[...]` accepts."""
        return ["name", "arguments"]

    def __iter__(self) -> Iterator[str]:
        """Iterates over `keys()`."""
        return iter(self.keys())


# ---- writing ---------------------------------------------------------------------------------------------------------


def _without_markers(text: str) -> str:
    # A delimiter inside a string cannot be escaped. With a space after its "<" it is no token any more, but still readable.
    return ANY_MARKER.sub(lambda found: "< " + found[0][1:], text)


def _plain_level(value: Any) -> Any:
    """`value` with its outermost level as plain data; an object of an unknown type becomes its str()."""
    if value is None or isinstance(value, (bool, str, int, float, Mapping, list, tuple)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return _plain_level(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if callable(getattr(value, "tolist", None)):  # arrays and their scalars
        return value.tolist()
    if callable(getattr(value, "model_dump", None)):  # models of pydantic
        return value.model_dump(mode="json")
    return str(value)


def plain_data(value: Any) -> Any:
    """`value` in the types of JSON, converted as `format_value` does it. A history keeps the results of tools in this form."""
    value = _plain_level(value)
    if isinstance(value, Mapping):
        return {str(_plain_level(key)): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def written_key(key: str) -> str:
    """A key as calls and responses have it: it has no delimiters, so the characters that would end it are replaced."""
    return re.sub(r"[:{}\[\],]", "_", key)


def format_value(value: Any) -> str:
    """Writes a value in the prompt format.

    Args:
        value: None, bool, number, string, list, tuple, mapping; also enums, dataclasses, sets, dates and arrays. Anything
            else is written as its `str()`. NaN and infinities have no notation and become null.

    Returns:
        The text. Keys are sorted without regard to case. The texts of control tokens inside strings, such as the string
        delimiter, are written with a space after their "<", so that feeding the text makes no control tokens of them.
    """
    value = _plain_level(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else "null"
    if isinstance(value, str):
        return QUOTE + _without_markers(value) + QUOTE
    if isinstance(value, Mapping):
        return "{" + _format_pairs(value) + "}"
    return "[" + ",".join(map(format_value, value)) + "]"


def _format_pairs(pairs: Mapping[Any, Any]) -> str:
    named = ((_without_markers(written_key(str(_plain_level(key)))), item) for key, item in pairs.items())
    return ",".join(f"{key}:{format_value(item)}" for key, item in sorted(named, key=lambda pair: pair[0].lower()))


def format_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Writes a tool call with its markers: `<|tool_call>call:NAME{...}<tool_call|>`."""
    return f"<|tool_call>call:{name}{{{_format_pairs(arguments)}}}<tool_call|>"


def format_tool_response(name: str, result: Any) -> str:
    """Writes a tool's result with its markers: `<|tool_response>response:NAME{...}<tool_response|>`.

    Args:
        name: the tool's name.
        result: a mapping (or dataclass), written as the object itself; anything else becomes {value:...}. The values
            may be all that `format_value` takes.
    """
    plain = _plain_level(result)
    pairs = plain if isinstance(plain, Mapping) else {"value": plain}
    return f"<|tool_response>response:{name}{{{_format_pairs(pairs)}}}<tool_response|>"


# ---- reading ---------------------------------------------------------------------------------------------------------

_SPACE = re.compile(r"\s*")
_COMMAS = re.compile(r"[\s,]*")
_NAME = re.compile(r"(?:call\s*:)?\s*([\w.\-/]+(?::[\w.\-/]+)*)\s*")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\Z")
_KEY = re.compile(r"""\s*(?:<\|"\|>(?P<q>.*?)<\|"\|>|"(?P<d>(?:[^"\\]|\\.)*)"|'(?P<s>(?:[^'\\]|\\.)*)'|(?P<bare>[^\s:={}\[\](),<"'][^:={}\[\](),<"']*?)(?:<\|"\|>|["'])?)\s*[:=]""", re.DOTALL)  # fmt: skip  # noqa: E501
# What follows a call inside its markers and may belong to its arguments: a bracket, a comma, a delimiter, or "key:".
_MORE_ARGUMENTS = re.compile(r"""[,{}\[\])=:]|<\|"\|>|["']?[\w.\-]+["']?\s*[:=]""")
_ENTRY_IN_LIST = re.compile(r"[A-Za-z_]\w*\s*[:=](?!//)")
_WORDS = {"true": True, "false": False, "null": None, "none": None}


class _Reader:
    """Reads values from `text` and moves `at` behind them. Never fails: text that it does not understand becomes a string, and
    `problem` tells when a part of an object was lost by that."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.whole = True  # whether every bracket was closed
        self.open_string = False  # whether a string was not closed
        self.problem = ""

    def complete(self) -> bool:
        """Whether every bracket and string was closed."""
        return self.whole and not self.open_string

    def skip(self) -> str:
        """Skips white space; the next character, or "" at the end."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at : self.at + 1]

    def ends(self, at: int, inside: str) -> bool:
        """Whether a value may end before `at`: at a closing bracket, at the end, or at a comma before the next entry."""
        at = _SPACE.match(self.text, at).end()  # type: ignore[union-attr]
        if at >= len(self.text) or self.text[at] in "}])":
            return True
        if self.text[at] != ",":
            return False
        if inside == "[":
            return True
        after = _COMMAS.match(self.text, at).end()  # type: ignore[union-attr]
        return after >= len(self.text) or self.text[after] in "})" or _KEY.match(self.text, after) is not None

    def pairs(self, closing: str, depth: int) -> dict[str, Any]:
        """The entries of an object, up to and including `closing`."""
        found: dict[str, Any] = {}
        while True:
            char = self.skip()
            if not char:
                self.whole = False
                return found
            if char in "})]":
                self.at += 1
                if char == closing or char != "]":
                    return found
                self.problem = self.problem or "a bracket is closed that was not open"
                continue
            if char == ",":
                self.at += 1
                continue
            key = _KEY.match(self.text, self.at)
            if key is None:
                before = self.at
                self.value("{", depth)
                self.at = max(self.at, before + 1)
                self.problem = self.problem or f"{_shortened(self.text[before : self.at])} has no name"
                continue
            self.at = key.end()
            name, char = _key_name(key), self.skip()
            if char in "},)]":
                self.problem = self.problem or f"{name} has no value"
            value = self.value("{", depth)
            if name in found and (found[name] != value or type(found[name]) is not type(value)):
                self.problem = self.problem or f"{name} is given twice"
            found[name] = value

    def items(self, closing: str, depth: int) -> list[Any]:
        """The elements of a list, up to and including `closing`."""
        found: list[Any] = []
        while True:
            char = self.skip()
            if not char:
                self.whole = False
                return found
            if char in "})]":
                # Another kind of bracket closes what encloses the list: leave it there.
                self.at += char == closing
                if char != closing and any(isinstance(item, str) and _ENTRY_IN_LIST.match(item) for item in found):
                    self.problem = self.problem or "a list is not closed before the next entry"
                return found
            if char == ",":
                self.at += 1
                continue
            before = self.at
            found.append(self.value("[", depth))
            self.at = max(self.at, before + 1)

    def value(self, inside: str, depth: int) -> Any:
        """One value. `inside` tells what encloses it: "{" or "["."""
        char = self.skip()
        if self.text.startswith(QUOTE, self.at):
            return self.quoted(inside)
        if char and char in "\"'":
            return self.json_string(char, inside)
        if char and char in "{[(" and depth < MAX_DEPTH:
            start = self.at
            self.at += 1
            nested = self.pairs("}", depth + 1) if char == "{" else self.items("]" if char == "[" else ")", depth + 1)
            if self.ends(self.at, inside) or not self.whole:
                return nested
            self.at = start  # the bracket only begins a text without delimiters, such as "[sic] word"
        return self.bare(inside)

    def quoted(self, inside: str) -> str:
        """A string that begins with the delimiter."""
        start = self.at + len(QUOTE)
        end = self.text.find(QUOTE, start)
        if end < 0:
            self.at = start
            return self.unclosed(inside)
        if not self.ends(end + len(QUOTE), inside):
            # The next delimiter opens the string of another entry: this string was never closed.
            entry = self.last_key(start, end) if inside == "{" else -1
            if entry >= 0:
                self.at = entry
                return self.text[start:entry].rstrip()
        self.at = end + len(QUOTE)
        return self.text[start:end]

    def last_key(self, start: int, end: int) -> int:
        """The position of the comma before the entry whose value would begin at `end`; -1 if there is no such entry."""
        comma = self.text.rfind(",", start, end)
        key = _KEY.match(self.text, comma + 1) if comma >= 0 else None
        return comma if key is not None and _SPACE.match(self.text, key.end()).end() == end else -1  # type: ignore[union-attr]

    def unclosed(self, inside: str) -> str:
        """The rest of a string that is not closed before the text ends."""
        self.open_string = True
        text = self.until_end(inside)
        # The other kind of quote may have closed it.
        return text[:-1] if text[-1:] in ('"', "'") else text

    def json_string(self, quote: str, inside: str) -> str:
        """A string in the quotes of JSON or Python. A quote is a part of the string unless a value may end there."""
        start, at, last = self.at + 1, self.at + 1, -1
        path_end = -1  # where the string ends if a backslash before a quote is its last character, as in "C:\\dir\\"
        triple = self.text.startswith(quote * 3, self.at)
        if triple and (end := self.text.find(quote * 3, self.at + 3)) >= 0:
            text, self.at = self.text[self.at + 3 : end], end + 3
            return text
        while at < len(self.text):
            if self.text.startswith(QUOTE, at):  # closed by the delimiter instead
                self.at = at + len(QUOTE)
                return _unescape(self.text[start:at], quote)
            if self.text[at] == "\\":
                if path_end < 0 and self.text[at + 1 : at + 2] == quote and self.ends(at + 2, inside):
                    path_end = at + 1
                at += 2
                continue
            if self.text[at] == quote:
                if path_end >= 0 and not self.ends(at + 1, inside):
                    last = path_end  # this quote opens the string of another entry
                    break
                last = at
                if self.ends(at + 1, inside):
                    break
            at += 1
        if last < 0 and path_end < 0:
            self.open_string = True
            self.at = start
            return self.until_end(inside)
        last = path_end if last < 0 else last
        self.at = last + 1
        return _unescape(self.text[start:last], quote)

    def bare(self, inside: str) -> Any:
        """A number, a constant, or a string whose opening delimiter is missing."""
        start = self.at
        end = self.text.find(QUOTE, start)
        if end >= 0 and not self.ends(self.bare_end(start, inside), inside):
            end = -1
        if (
            end >= 0
            and self.text[start:end].rstrip()[-1:] not in (":", "=", ",", "[", "{", "(")
            and self.ends(end + len(QUOTE), inside)
        ):
            first = self.bare_end(start, inside)
            # The delimiter closes this value, unless the value is a number or a constant that ends before it.
            if first >= end or _constant(self.text[start:first].strip()) is _NO_CONSTANT:
                self.at = end + len(QUOTE)
                return self.text[start:end]
        text = self.until_end(inside)
        value = _constant(text)
        if value is not _NO_CONSTANT:
            return value
        return text[:-1].rstrip() if text[-1:] == '"' and text.count('"') == 1 else text

    def bare_end(self, start: int, inside: str) -> int:
        """Where a text without delimiters ends: at the bracket that closes what encloses it, or at a comma before an entry."""
        depth, at = 0, start
        while at < len(self.text):
            char = self.text[at]
            if char in "{[(":
                depth += 1
            elif char in "}])":
                if depth == 0:
                    break
                depth -= 1
            elif char == "," and depth == 0 and self.ends(at, inside):
                break
            at += 1
        return at

    def until_end(self, inside: str) -> str:
        start = self.at
        self.at = self.bare_end(start, inside)
        self.whole = self.whole and self.at < len(self.text)
        return self.text[start : self.at].strip()


_NO_CONSTANT = object()


def _constant(text: str) -> Any:
    """The number or constant that `text` spells, or _NO_CONSTANT."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    # int() refuses thousands of digits; such a "number" is an identifier and stays text.
    if len(text) > 300 or not _NUMBER.match(text):
        return _NO_CONSTANT
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else _NO_CONSTANT


_ESCAPE = re.compile(
    r"\\(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2})"
    r"|(?P<one>.))",
    re.DOTALL,
)
_SINGLE_BACKSLASHES = re.compile(r"[A-Za-z]:(?:\\[^\\/\n]+)+\\?\Z")  # a path of Windows
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_RARELY_MEANT = {"b": "\b", "f": "\f"}


def _unescape(text: str, quote: str) -> str:
    """`text`, from inside quotes, with the escapes of JSON replaced. What is no escape keeps its backslash: models write
    regular expressions, paths and formulas without doubling it."""
    if "\\" not in text or _SINGLE_BACKSLASHES.match(text):
        return text
    known = {**_ESCAPED, **_RARELY_MEANT, **({"/": "/"} if quote == '"' else {})}

    def replace(found: re.Match[str]) -> str:
        if found["one"]:
            return known.get(found["one"], found[0])
        if found["pair"]:
            return str(json.loads(f'"{found[0]}"'))
        if found["x"]:
            return chr(int(found["x"], 16)) if quote == "'" else found[0]
        character = chr(int(found["u"], 16))
        return found[0] if "\ud800" <= character <= "\udfff" else character

    if any(found["one"] not in known for found in _ESCAPE.finditer(text) if found["one"]):
        # Who leaves a backslash single means \b and \f of a pattern or a path, not a backspace and a form feed.
        known = {escape: meant for escape, meant in known.items() if escape not in _RARELY_MEANT}
    return _ESCAPE.sub(replace, text)


def _key_name(key: re.Match[str]) -> str:
    for group, quote in (("d", '"'), ("s", "'")):
        if key[group] is not None:
            return _unescape(key[group], quote).strip()
    return str(key["bare"] if key["q"] is None else key["q"]).strip()


def _shortened(text: str) -> str:
    text = text.replace(QUOTE, '"').strip()
    return repr(text if len(text) <= 40 else text[:39] + "\u2026")


_WRAPPERS = ("function", "tool_call", "function_call")
_NAME_KEYS = ("name", "tool", "function", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
_OTHER_KEYS = ("type", "id", "index", "call_id", "tool_call_id")


def _from_json(value: Any) -> ToolCall | None:
    """A call written as {"name": ..., "arguments": {...}}, possibly under "function" or "tool_call"."""
    for wrapper in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
    if not isinstance(value, dict):
        return None
    name_key = next((key for key in _NAME_KEYS if isinstance(value.get(key), str) and value[key]), None)
    if name_key is None:
        return None
    name = value[name_key]
    key = next((key for key in _ARGUMENT_KEYS if key in value), None)
    if key is None:
        others = [other for other in value if other != name_key and other not in _OTHER_KEYS]
        problem = f"{', '.join(map(str, others))} must be inside arguments" if others else ""
        return ToolCall(name, {}, problem)
    arguments: Any = value[key]
    if isinstance(arguments, str):
        reader = _Reader(arguments)
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = reader.value("[", 0)
            if reader.skip() or reader.problem or not reader.complete():
                arguments = None
    if arguments is None and value[key] is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return ToolCall(name, {}, "its arguments are no object")
    return ToolCall(name, arguments)


def parse_calls(text: str) -> tuple[list[ToolCall], str, bool]:
    """Reads the text between <|tool_call> and <tool_call|>. Never raises.

    Args:
        text: usually one `call:NAME{...}`; also several, or calls written as JSON or as Python.

    Returns:
        The calls, broken ones with their `problem`; the text that is left over and belongs to no call, normally ""; and
        whether the last call was complete, with every bracket and string closed.
    """
    text = text.replace("<escape>", QUOTE)
    calls: list[ToolCall] = []
    reader = _Reader(text)
    comma = False
    while reader.skip():
        start = reader.at
        char = text[start]
        found = _read_calls(reader)
        if found is None:
            left_over = _left_over(text[start:].strip(), calls, comma)
            return calls, left_over, reader.complete()
        calls.extend(found)
        comma = reader.skip() in (",", ";") and char not in "{["
        reader.at += comma
    return calls, "", reader.complete()


def _read_calls(reader: _Reader) -> list[ToolCall] | None:
    """The calls that begin where the reader stands; None where there is no call."""
    text, start = reader.text, reader.at
    if text[start] in "{[":
        value = reader.value("[", 0)
        found = [_from_json(item) for item in (value if isinstance(value, list) else [value])]
        whole = [call for call in found if call is not None]
        return _with_problem(whole, reader) if whole and len(whole) == len(found) else None
    name = _NAME.match(text, start)
    if name is None:
        return None
    following = text[name.end() : name.end() + 1]
    if following and following in "{(":
        reader.at = name.end() + 1
        return _with_problem([ToolCall(name[1], reader.pairs("}" if following == "{" else ")", 0))], reader)
    if re.match(r"\s*call\s*:", text) and not following and not text[:start].strip():
        # Only a name: a call without arguments whose braces are missing or have not come yet.
        reader.at, reader.whole = name.end(), False
        return [ToolCall(name[1], {})]
    return None


def _with_problem(calls: list[ToolCall], reader: _Reader) -> list[ToolCall]:
    problem, reader.problem = reader.problem, ""
    return [dataclasses.replace(call, problem=call.problem or problem) for call in calls]


def _left_over(rest: str, calls: list[ToolCall], comma: bool) -> str:
    """What of `rest`, the text behind the last call, is a text of its own. Marks a call whose arguments it may belong to, and
    adds a call to `calls` where it was meant to be one but cannot be read."""
    if calls:
        if not rest.strip("})] \t\r\n"):
            return ""  # superfluous brackets
        if not comma and not _MORE_ARGUMENTS.match(rest):
            return rest
        calls[-1] = dataclasses.replace(
            calls[-1], problem=calls[-1].problem or f"{_shortened(rest)} stands behind its arguments"
        )
        return ""
    if re.match(r"call\b", rest) or any(mark in rest for mark in ("{", QUOTE)):
        calls.append(ToolCall("", {}, f"{_shortened(rest)} is no call of a tool"))
        return ""
    return rest
