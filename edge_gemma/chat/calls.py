"""Tool calls and tool responses as text in Gemma 4's prompt format: written exactly, read tolerantly.

    call     = call:NAME{KEY:value,...}          between <|tool_call> and <tool_call|>
    response = response:NAME{KEY:value,...}      between <|tool_response> and <tool_response|>
    value    = <|"|>text<|"|> | number | true | false | null | {KEY:value,...} | [value,...]

Owns the writing of this notation and the texts of all control tokens. The engine reads it (csrc/text/calls.h). A string in the
notation has no escapes: it ends at the next <|"|>. Models leave out the opening or closing delimiter, use the quotes and
constants of JSON or Python, or write whole calls as JSON or as Python; the reader understands all of these.
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

from ..engine.native import ffi, lib, text_of
from ..errors import EdgeGemmaMemoryError

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
    "tool_call",
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


def call_in_words(call: ToolCall) -> str:
    """A call as a text without markers: `call:NAME{...}`."""
    return f"call:{call.name}{{{_format_pairs(call.arguments)}}}".replace(QUOTE, '"')


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


def tool_call(name: str, arguments: str, problem: str) -> ToolCall:
    """A call of which the engine tells the arguments as JSON."""
    return ToolCall(name, json.loads(arguments), problem)


def parse_calls(text: str) -> tuple[list[ToolCall], str, bool]:
    """Reads the text between <|tool_call> and <tool_call|>. Never raises but for memory.

    Args:
        text: usually one `call:NAME{...}`; also several, or calls written as JSON or as Python.

    Returns:
        The calls, broken ones with their `problem`; the text that is left over and belongs to no call, normally ""; and
        whether the last call was complete, with every bracket and string closed.
    """
    written = text.encode("utf-8", "replace")
    calls = ffi.new("eg_tool_calls *")
    if not lib.eg_tool_calls_read(written, len(written), calls):
        raise EdgeGemmaMemoryError("There is no memory for a tool call.", "memory")
    try:
        found = [
            tool_call(
                text_of(call.name, call.name_length),
                text_of(call.arguments, call.arguments_length),
                text_of(call.problem, call.problem_length),
            )
            for call in (calls.items[n] for n in range(calls.n))
        ]
        return found, text_of(calls.left_over, calls.left_over_length), bool(calls.whole)
    finally:
        lib.eg_tool_calls_free(calls)
