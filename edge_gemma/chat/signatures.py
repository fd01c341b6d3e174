"""JSON Schemas of Python functions: from signature, type hints and docstring.

Owns what a type hint means in a schema, and which type hints a function has. arguments.py makes the values that these types
stand for. Hints are resolved one by one: a name that only a type checker knows costs the type of one argument, not of all.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import os
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union

from ..errors import EdgeGemmaValueError
from .schemas import TOOL_NAME, TYPE_NAMES, outer_frame, resolved_schema, schema_of_values

__all__ = ["Described", "callable_hints", "class_hints", "describe", "is_model", "plain_hint", "schema_of_hint"]

FORMATS: dict[Any, str] = {
    datetime.datetime: "date-time",
    datetime.date: "date",
    datetime.time: "time",
    uuid.UUID: "uuid",
}
"""The types that are strings of a format in JSON Schema."""

_TEXTS = (bytes, bytearray, complex, os.PathLike, enum.Flag)
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Set)
_ABSTRACT_LISTS = (collections.abc.Iterable, collections.abc.Collection)
_CONSTRAINTS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}
_OF_LISTS = {"minLength": "minItems", "maxLength": "maxItems"}


# ---- type hints ------------------------------------------------------------------------------------------------------


def _resolved(
    annotations: Mapping[str, Any], names: dict[str, Any], local: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Type hints without strings in them, and the arguments whose hints cannot be resolved."""
    hints: dict[str, Any] = {}
    unknown = []
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, names, local, include_extras=True)
        except Exception:  # a hint is any expression and may raise anything
            unknown.append(name)
    return hints, unknown


def _annotations(target: Any) -> Mapping[str, Any]:
    try:
        return inspect.get_annotations(target)
    except TypeError:  # it has none
        return {}
    except Exception:  # they are evaluated late, since Python 3.14
        import annotationlib  # type: ignore[import-not-found, unused-ignore]

        found: Mapping[str, Any] = annotationlib.get_annotations(target, format=annotationlib.Format.FORWARDREF)
        return found


def class_hints(kind: type) -> tuple[dict[str, Any], list[str]]:
    """The type hints of a class with fields, and the fields whose hints cannot be resolved: these are `str`."""
    hints: dict[str, Any] = {}
    unresolved: list[str] = []
    for base in reversed(kind.__mro__):
        module = sys.modules.get(base.__module__)
        found, unknown = _resolved(_annotations(base), dict(vars(module)) if module else {}, dict(vars(base)))
        hints |= {**found, **dict.fromkeys(unknown, str)}
        unresolved += unknown
    return hints, unresolved


def callable_hints(function: Callable[..., Any]) -> tuple[dict[str, Any], list[str]]:
    """The type hints of a callable, and the names of the arguments whose hints cannot be resolved.

    Names in hints are looked for where the function was written, and where this package was called: a tool and the types of
    its arguments are often made in one function.
    """
    while isinstance(function, functools.partial):
        function = function.func
    hints: dict[str, Any] = {}
    target: Any = function
    if inspect.isclass(function):
        (hints, _), target = class_hints(function), function.__init__
    elif not inspect.isroutine(function):
        target = type(function).__call__
    target = inspect.unwrap(target)
    target = getattr(target, "__func__", target)
    names = dict(getattr(target, "__globals__", {}))
    code, cells = getattr(target, "__code__", None), getattr(target, "__closure__", None)
    frame, _ = outer_frame()
    local: dict[str, Any] = dict(frame.f_locals) if frame else {}
    local |= {parameter.__name__: parameter for parameter in getattr(target, "__type_params__", ())}
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            local[name] = cell.cell_contents
        except ValueError:
            pass  # the name is not bound yet
    found, unknown = _resolved(_annotations(target), names, local)
    return {**hints, **found}, [name for name in unknown if name != "return"]


def plain_hint(hint: Any) -> Any:
    """A hint without Annotated, Required, NewType and aliases around it."""
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated or str(origin).rpartition(".")[2] in (
            "Required",
            "NotRequired",
            "ReadOnly",
            "Final",
            "ClassVar",
        ):
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif isinstance(hint, typing.TypeVar):
            hint = hint.__bound__ or Any
        else:
            return hint


def is_model(hint: Any) -> bool:
    """Whether the hint is a model of pydantic, which brings its own schema and checks."""
    return isinstance(hint, type) and all(
        callable(getattr(hint, name, None)) for name in ("model_json_schema", "model_validate")
    )


class _Hints:
    """Makes the schemas of hints. `unknown` tells of those that JSON has nothing for, which become strings."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self._open: list[Any] = []  # classes that are being described, so that one inside itself ends

    def schema(self, hint: Any) -> dict[str, Any]:
        """The JSON schema of a type hint."""
        if typing.get_origin(hint) is typing.Annotated:
            return self._annotated(hint)
        hint = plain_hint(hint)
        if hint is Any or hint is object or hint is inspect.Parameter.empty:
            return {}
        if isinstance(hint, collections.abc.Hashable) and hint in TYPE_NAMES:
            return {"type": TYPE_NAMES[hint]}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Union or origin is types.UnionType:
            return self._union(arguments)
        if origin is Literal:
            return schema_of_values([value.value if isinstance(value, enum.Enum) else value for value in arguments])
        if isinstance(hint, type):
            found = self._of_class(hint)
            if found is not None:
                return found
        base = origin or hint
        if isinstance(base, type) and issubclass(base, collections.abc.Mapping):
            values = self.schema(arguments[1]) if len(arguments) == 2 else {}
            return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
        if (isinstance(base, type) and issubclass(base, _LISTS)) or base in _ABSTRACT_LISTS:
            return self._list(base, arguments)
        self.unknown.append(f"a model cannot write {getattr(hint, '__name__', None) or hint}")
        return {"type": "string"}

    def _of_class(self, hint: type) -> dict[str, Any] | None:
        """The schema of a class that is no collection; None for others."""
        if hint in FORMATS:
            return {"type": "string", "format": FORMATS[hint]}
        if hint is decimal.Decimal:
            return {"type": "number"}
        if is_model(hint):
            schema: Any = hint.model_json_schema()  # type: ignore[attr-defined]
            return resolved_schema(schema, hint.__name__)[0]
        if issubclass(hint, enum.Enum) and not issubclass(hint, enum.Flag):
            values = [member.value for member in hint]
            plain = all(value is None or type(value) in TYPE_NAMES for value in values)
            return schema_of_values(values if plain else [member.name for member in hint])
        if dataclasses.is_dataclass(hint):
            hints, missing = self._fields(hint), dataclasses.MISSING
            fields = [
                (f.name, hints.get(f.name, str), f.default is missing and f.default_factory is missing)
                for f in dataclasses.fields(hint)
                if f.init
            ]
            return self._object(hint, fields)
        if typing.is_typeddict(hint):
            required: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
            return self._object(hint, [(name, kind, name in required) for name, kind in self._fields(hint).items()])
        if issubclass(hint, tuple) and hasattr(hint, "_fields"):
            hints, defaults = self._fields(hint), hint._field_defaults  # type: ignore[attr-defined]
            return self._object(hint, [(name, hints.get(name, Any), name not in defaults) for name in hint._fields])
        for base, name in TYPE_NAMES.items():
            if issubclass(hint, base):
                return {"type": name}  # such as a subclass of str
        return {"type": "string"} if issubclass(hint, _TEXTS) else None

    def _fields(self, kind: type) -> dict[str, Any]:
        hints, unresolved = class_hints(kind)
        self.unknown += [f"the type hint of {kind.__name__}.{name} cannot be resolved" for name in unresolved]
        return hints

    def _annotated(self, hint: Any) -> dict[str, Any]:
        inner, *notes = typing.get_args(hint)
        schema = self.schema(inner)
        notes += [more for note in notes for more in getattr(note, "metadata", None) or ()]
        for note in notes:
            words = (
                note
                if isinstance(note, str)
                else getattr(note, "description", None) or getattr(note, "documentation", None)
            )
            if isinstance(words, str) and "description" not in schema:
                schema = {**schema, "description": words}
            for attribute, keyword in _CONSTRAINTS.items():
                value = getattr(note, attribute, None)
                if isinstance(value, (int, float)) or (attribute == "pattern" and isinstance(value, str)):
                    schema = {
                        **schema,
                        _OF_LISTS.get(keyword, keyword) if schema.get("type") == "array" else keyword: value,
                    }
        return schema

    def _union(self, members: Iterable[Any]) -> dict[str, Any]:
        members = list(members)
        found = [self.schema(member) for member in members if member is not type(None)]
        schemas = [schema for number, schema in enumerate(found) if schema not in found[:number]]
        if {} in schemas:
            return {}
        # The prompt format has one type per argument and shows the first; a call may use any of them.
        first = schemas[0] if schemas else {"type": "null"}
        schema = dict(first) if len(schemas) < 2 else {**first, "anyOf": schemas}
        return {**schema, "nullable": True} if type(None) in members else schema

    def _list(self, base: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
        members = [self.schema(member) for member in arguments if member is not Ellipsis]
        different = [member for number, member in enumerate(members) if member and member not in members[:number]]
        schema: dict[str, Any] = {"type": "array"}
        if len(different) == 1:
            schema["items"] = different[0]
        elif different:
            schema["items"] = {**different[0], "anyOf": different}
        if base is tuple and members and Ellipsis not in arguments:
            schema |= {"prefixItems": members, "minItems": len(members), "maxItems": len(members)}
        return schema

    def _object(self, hint: type, fields: Iterable[tuple[str, Any, bool]]) -> dict[str, Any]:
        if hint in self._open:
            return {"type": "object"}
        self._open.append(hint)
        properties, required = {}, []
        for name, kind, needed in fields:
            properties[name] = self.schema(kind)
            if needed:
                required.append(name)
        self._open.remove(hint)
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        return {**schema, "required": required} if required else schema


def schema_of_hint(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type hint; a type that JSON does not have is described as a string."""
    return _Hints().schema(hint)


# ---- docstrings ------------------------------------------------------------------------------------------------------


_SECTION = re.compile(
    r"(args|arguments|parameters|params|keyword args|keyword arguments|other parameters)\s*:?\s*\Z", re.IGNORECASE
)
_OTHER_SECTION = re.compile(
    r"(returns?|yields?|raises?|examples?|notes?|warnings?|references|see also|attributes|warns|todo)\s*:?\s*\Z",
    re.IGNORECASE,
)
_FIELD = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Splits a docstring into its description and the descriptions of arguments, in Google, NumPy or Sphinx style."""
    lines = inspect.cleandoc(text).splitlines() + [""]
    description: list[str] = []
    arguments: dict[str, list[str]] = {}
    section, current, entry_indent, numpy_style = "text", "", 0, False
    for number, line in enumerate(lines):
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        underlined = number + 1 < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[number + 1]) is not None
        if number and numpy_style and re.fullmatch(r"-{3,}", stripped):
            continue
        heading = underlined or (stripped.endswith(":") and indent == 0)
        if heading and (_SECTION.match(stripped) or _OTHER_SECTION.match(stripped)):
            section, current, numpy_style = "args" if _SECTION.match(stripped) else "other", "", underlined
            entry_indent = -1
            continue
        if field := _FIELD.match(stripped):
            section, current, entry_indent, numpy_style = "sphinx", field[1], indent, False
            arguments[current] = [field[2]]
        elif stripped.startswith(":") and re.match(r":\w+[^:]*:", stripped):
            section, current = "sphinx", ""  # :returns:, :type x: and the like
        elif section == "text":
            description.append(line)
        elif section == "sphinx":
            if stripped and current and indent > entry_indent:
                arguments[current].append(stripped)
            elif stripped:
                current = ""
        elif section == "args" and stripped:
            entry_indent = indent if entry_indent < 0 else entry_indent
            if indent > entry_indent:
                if current:
                    arguments[current].append(stripped)
            elif numpy_style:
                names = re.split(r"\s*:", stripped, maxsplit=1)[0]
                current = names.split(",")[0].strip().lstrip("*")
                arguments[current] = []
            elif entry := _ENTRY.match(stripped):
                current = entry[1]
                arguments[current] = [entry[2]]
            else:
                current = ""
    joined = {name: " ".join(part for part in parts if part) for name, parts in arguments.items()}
    return " ".join(" ".join(description).split()), {name: text for name, text in joined.items() if text}


# ---- functions -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Described:
    """A function as a tool.

    Attributes:
        schema: {"name", "description", "parameters"}.
        hints: of the arguments, as far as they can be resolved.
        guessed: arguments that are taken as strings, because their hint says nothing that a model could write; with the
            reason.
    """

    schema: dict[str, Any]
    hints: dict[str, Any]
    guessed: dict[str, str]


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that a model can give by name. *args and **kwargs are left out where there are others."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise EdgeGemmaValueError(f"Tool {name}: its signature cannot be read: {error}.", code="tool") from error
    if inspect.isfunction(function) and found and found[0].name in ("self", "cls") and "." in function.__qualname__:
        raise EdgeGemmaValueError(f"Tool {name} is a method without its object: pass object.{name}.", code="tool")
    if any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in found):
        raise EdgeGemmaValueError(f"Tool {name}: positional-only parameters cannot be given by name.", code="tool")
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in found if p.kind in kinds]
    if found and not named:
        raise EdgeGemmaValueError(
            f"Tool {name} takes {', '.join(map(str, found))}, so its arguments have no names: give them names, or use"
            " functools.wraps where a decorator hides them.",
            code="tool",
        )
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    return [p for p in named if p.name not in bound]


def describe(function: Callable[..., Any]) -> Described:
    """Describes a callable as a tool. Raises EdgeGemmaValueError "tool"."""
    name = _name_of(function)
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise EdgeGemmaValueError(f"Tool {name} is a generator: return all of its values at once.", code="tool")
    if not TOOL_NAME.match(name):
        raise EdgeGemmaValueError(
            f"The tool name {name!r} is not an identifier: use a function with a name.", code="tool"
        )
    parameters = _parameters(function, name)
    by_call = not inspect.isroutine(plain) and not inspect.isclass(plain)
    text = inspect.getdoc(plain) or (inspect.getdoc(type(plain).__call__) if by_call else "")
    description, notes = _read_docstring(text or "")
    hints, unknown = callable_hints(function)
    guessed = dict.fromkeys((p.name for p in parameters if p.name in unknown), "its type hint cannot be resolved")
    properties: dict[str, Any] = {}
    for parameter in parameters:
        hint = hints.get(parameter.name)
        if hint is None:
            no_default = parameter.default in (inspect.Parameter.empty, None)
            hint = str if no_default or parameter.name in guessed else type(parameter.default)
        made = _Hints()
        schema = made.schema(hint)
        if made.unknown and parameter.name in hints:
            guessed[parameter.name] = made.unknown[0]
        if parameter.name in notes:
            schema = {**schema, "description": notes[parameter.name]}
        properties[parameter.name] = schema
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return Described({"name": name, "description": description, "parameters": schema}, hints, guessed)
