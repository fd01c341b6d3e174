"""The grammar of Gemma's tool calls: declared names, declared arguments, values of the declared types.

    call:NAME{KEY:value,...}<tool_call|>        what follows <|tool_call>; the notation is that of calls.py

Arguments come in the order in which templates write them, required ones always, each at most once. Owns the translation of
declarations, as schemas.py leaves them, to llguidance's Lark notation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.interface import TokenizerLike
from ..errors import EdgeGemmaError, EdgeGemmaValueError
from .calls import ANY_MARKER, MARKERS, QUOTE, format_value, written_key
from .json_schema import readable_schema, sets_of
from .patterns import FORMATS, portable
from .schema_work import is_costly_divisor, is_costly_pattern
from .schemas import warn_caller
from .structured import Grammar

__all__ = ["CALL", "END_OF_CALL", "call_grammar"]

CALL, END_OF_CALL = "<|tool_call>", "<tool_call|>"

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Numbers that every program can read, and that end.
_INTEGER = "/-?(0|[1-9][0-9]{0,14})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?(e[+-]?[0-9]{1,2})?/"
_LARGEST = 10**15
_DEPTH = 4  # of lists and objects that a declaration says nothing about


def call_grammar(tools: Sequence[Mapping[str, Any]], tokenizer: TokenizerLike) -> Grammar | None:
    """What follows <|tool_call>, up to and with <tool_call|>.

    Args:
        tools: {"type": "function", "function": {...}} as `Toolbox.schemas`.
        tokenizer: whose control tokens are used.

    Returns None without tools, and when the vocabulary lacks the control tokens. Raises EdgeGemmaError "argument" for
    declarations that are too large for a grammar, "unsupported" without llguidance.
    """
    tokens = [tokenizer.find(text) for text in (QUOTE, END_OF_CALL)]
    if not tools or None in tokens:
        return None
    return Grammar.lark(_Writer(*(f"<[{token}]>" for token in tokens)).grammar(tools))


class _Writer:
    """Writes the rules of one grammar."""

    def __init__(self, quote: str, end: str) -> None:
        self._quote, self._end = quote, end
        self._rules: list[str] = []
        self._named: dict[str, str] = {}  # rules by what they are for, so that equal declarations share one

    def grammar(self, tools: Sequence[Mapping[str, Any]]) -> str:
        functions = [tool["function"] for tool in tools]
        calls = [
            f"{_literal('call:' + function['name'])} {self._arguments(function.get('parameters') or {})}"
            for function in functions
        ]
        return "\n".join([f"start: ({' | '.join(calls)}) {self._end}", *self._rules, ""])

    def _arguments(self, schema: Mapping[str, Any]) -> str:
        open_to_others = schema.get("properties") or schema.get("additionalProperties")
        return self._object(schema) if open_to_others else '"{}"'

    # ---- values ----

    def _value(self, schema: Mapping[str, Any]) -> str:
        """An expression for the values that a declaration allows."""
        choices = [*self._choices(schema), *(['"null"'] if schema.get("nullable") else [])]
        return f"({' | '.join(dict.fromkeys(choices))})"

    def _choices(self, schema: Mapping[str, Any]) -> list[str]:
        if schema.get("enum"):
            return [self._constant(value) for value in schema["enum"]]
        if schema.get("anyOf"):
            return [self._value(member) for member in schema["anyOf"]]
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, (list, tuple)) else [kinds]
        return [self._kind(str(kind).lower() if kind else "", schema) for kind in kinds]

    def _constant(self, value: Any) -> str:
        parts = re.split(f"({re.escape(QUOTE)})", format_value(value))
        return " ".join(self._quote if part == QUOTE else _literal(part) for part in parts if part)

    def _kind(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "string":
            return f"{self._quote} {self._text(schema)} {self._quote}"
        if kind in ("integer", "number"):
            return self._number(kind, {key: schema[key] for key in _BOUNDS if key in schema})
        if kind == "boolean":
            return '("true" | "false")'
        if kind == "null":
            return '"null"'
        if kind == "array":
            return self._array(schema)
        return self._object(schema) if kind == "object" else self._anything(_DEPTH)

    def _number(self, kind: str, bounds: Mapping[str, Any]) -> str:
        if is_costly_divisor(bounds.get("multipleOf")):  # which the check of the whole call knows
            bounds = {key: value for key, value in bounds.items() if key != "multipleOf"}
        if not bounds:
            return self._rule(_INTEGER if kind == "integer" else _NUMBER, "NUMBER")
        least = {} if {"minimum", "exclusiveMinimum"} & set(bounds) else {"minimum": -_LARGEST}
        most = {} if {"maximum", "exclusiveMaximum"} & set(bounds) else {"maximum": _LARGEST}
        number = readable_schema({"type": kind, **least, **most, **bounds})
        return self._rule(f"%json {json.dumps(number)}", "number")

    def _text(self, schema: Mapping[str, Any]) -> str:
        """The name of a terminal: text between two delimiters, without the texts of control tokens."""
        allowed = [f"/(?s:.*)/ & ~/(?s:.*)({'|'.join(map(_escaped, MARKERS))})(?s:.*)/"]
        least, most = schema.get("minLength"), schema.get("maxLength")
        if least or most is not None:
            allowed.append(f"/(?s:.{{{least or 0},{'' if most is None else most}}})/")
        if "pattern" in schema and (pattern := _usable(schema["pattern"])) is not None:
            allowed.append(f"/{_slashes(pattern)}/")
        if (form := FORMATS.get(schema.get("format", ""))) is not None:
            allowed.append(f"/{_slashes(form)}/")
        return self._rule(" & ".join(allowed), "TEXT")

    def _array(self, schema: Mapping[str, Any]) -> str:
        if schema.get("uniqueItems") and (sets := sets_of(schema)):
            return f"({' | '.join(map(self._constant, sets))})"
        first = [self._value(member) for member in schema.get("prefixItems") or ()]
        items = schema.get("items", True)
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if items is False:
            most = len(first) if most is None else min(most, len(first))
        other = self._value(items) if isinstance(items, Mapping) else self._anything(_DEPTH - 1)
        members = first[: len(first) if most is None else most]
        return f'"[" {_list(members, other, least, most)} "]"'

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties = schema.get("properties") or {}
        if properties:
            return f'"{{" {self._members(properties, set(schema.get("required") or ()))} "}}"'
        extra = schema.get("additionalProperties", True)
        if extra is False:
            return '"{}"'
        least, most = int(schema.get("minProperties", 0)), schema.get("maxProperties")
        return self._map(self._value(extra) if isinstance(extra, Mapping) else self._anything(_DEPTH - 1), least, most)

    def _members(self, properties: Mapping[str, Mapping[str, Any]], required: set[str]) -> str:
        """The members in the order of templates. Two rules for each: nothing precedes it, or something does."""
        first, after = '""', '""'
        for key in sorted(properties, key=str.lower, reverse=True):
            member = f"{_literal(ANY_MARKER.sub('', written_key(key)) + ':')} {self._value(properties[key])}"
            with_first, with_after = f"{member} {after}", f'"," {member} {after}'
            if key not in required:
                with_first, with_after = f"{with_first} | {first}", f"{with_after} | {after}"
            first, after = self._rule(with_first, "first"), self._rule(with_after, "more")
        return first

    def _map(self, value: str, least: int = 0, most: int | None = None) -> str:
        key = self._rule(r"/[a-zA-Z_][\w.\-]*/", "KEY")
        pair = f'{key} ":" {value}'
        return f'"{{" {_list([], pair, least, most)} "}}"'

    def _anything(self, depth: int) -> str:
        """Any value, in so many levels at most."""
        scalars = [self._kind(kind, {}) for kind in ("string", "number", "boolean", "null")]
        if depth <= 0:
            return self._rule(" | ".join(scalars), "any")
        inner = self._anything(depth - 1)
        return self._rule(" | ".join([*scalars, f'"[" ({inner} ("," {inner})*)? "]"', self._map(inner)]), "any")

    def _rule(self, body: str, kind: str) -> str:
        if body == '""':
            return body
        if body not in self._named:
            self._named[body] = f"{kind}_{len(self._rules)}"
            self._rules.append(f"{self._named[body]}: {body}")
        return self._named[body]


def _list(first: Sequence[str], other: str, least: int, most: int | None) -> str:
    """Members between commas: `first`, then any number of `other`; from `least` to `most` in all."""
    if most == 0:
        return '""'
    head = first[0] if first else other
    rest = list(first[1:])
    text = ""
    for number in range(len(rest), 0, -1):  # the member of this number, and those behind it, may be missing
        text = _optional(f'"," {rest[number - 1]} {text}', number + 1 > least)
        if number == len(rest):
            text = _optional(f'"," {rest[number - 1]} {_more(other, len(rest) + 1, least, most)}', number + 1 > least)
    if not rest:
        text = _more(other, 1, least, most)
    return _optional(f"{head} {text}", least < 1)


def _more(other: str, before: int, least: int, most: int | None) -> str:
    low, high = max(0, least - before), "" if most is None else str(max(0, most - before))
    return "" if high == "0" else f'("," {other}){{{low},{high}}}'


def _optional(text: str, is_optional: bool) -> str:
    return f"({text})?" if is_optional else text


def _usable(pattern: str) -> str | None:
    """The pattern for a whole text. Warns and returns None for one that llguidance cannot follow, with look-around for one."""
    whole = whole_pattern(pattern)
    try:
        if whole is None:
            raise EdgeGemmaValueError("It has anchors in its middle.", "argument")
        if is_costly_pattern(whole):
            raise EdgeGemmaValueError("It repeats what repeats too often.", "argument")
        Grammar.regex(whole)
    except EdgeGemmaError as error:
        warn_caller(f"The pattern {pattern!r} of a tool does not limit its calls. {error}")
        return None
    return whole


def whole_pattern(pattern: str) -> str | None:
    """A regular expression for the whole of a text in which `pattern`, of a JSON schema, matches somewhere. None for one with
    anchors in its middle."""
    parts = [_anchored(part) for part in _alternatives(pattern)]
    return None if None in parts else "|".join(f"({part})" for part in parts)


def _pieces(pattern: str) -> list[tuple[str, int, bool]]:
    """The characters of a pattern, escapes as one. With each: how many groups are open behind it, whether it is in a class."""
    pieces: list[tuple[str, int, bool]] = []
    depth, in_class = 0, False
    for piece in re.findall(r"\\.|.", pattern, flags=re.S):
        inside = in_class or piece == "["
        in_class = inside and piece != "]"
        depth += 0 if inside else (piece == "(") - (piece == ")")
        pieces.append((piece, depth, inside))
    return pieces


def _alternatives(pattern: str) -> list[str]:
    """The alternatives at the top level."""
    parts = [""]
    for piece, depth, in_class in _pieces(pattern):
        if piece == "|" and not depth and not in_class:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _anchored(part: str) -> str | None:
    pieces = _pieces(part)
    if len(pieces) > 1 and pieces[0][0] == "(" and pieces[-1][1] == 0 and all(depth for _, depth, _ in pieces[:-1]):
        inner = part[3:-1] if part.startswith("(?:") else part[1:-1]  # one group, with anchors of its own
        return whole_pattern(inner) if inner[:1] != "?" else None
    begins, ends = pieces[:1] == [("^", 0, False)], pieces[-1:] == [("$", 0, False)]
    inner = part[begins : len(part) - ends]
    if any(piece in ("^", "$", r"\b", r"\B") and not in_class for piece, _, in_class in _pieces(inner)):
        return None
    return f"{'' if begins else '(?s:.*)'}{portable(inner)}{'' if ends else '(?s:.*)'}"


def _literal(text: str) -> str:
    """A text in Lark's notation."""
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _slashes(re.sub(r"([\\.+*?()|\[\]{}^$\"])", r"\\\1", text))


def _slashes(pattern: str) -> str:
    """A regular expression for between two slashes."""
    return re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern)
