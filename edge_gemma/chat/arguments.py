"""Arguments of tools: from what a model wrote to what a function takes.

    model's text --calls.py--> plain data --convert_object--> data of the schema's types --revive--> values of the hints' types

Owns these two conversions. A number in quotes becomes the number, and a number where a text is expected becomes the text, since
models often miss that difference; what does not fit otherwise is an error that tells the model what to write. Nothing is
rounded, cut or made up.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from .calls import written_key
from .signatures import class_hints, is_model, plain_hint, schema_of_hint

__all__ = ["convert_object", "convert_value", "revive"]

# ---- to the types of a schema ----------------------------------------------------------------------------------------


def _convert_scalar(value: Any, kind: str, where: str) -> Any:
    if kind == "string":
        if isinstance(value, str):
            return value
        # The model has left out the quotes around a number or a constant.
        return json.dumps(value, ensure_ascii=False)
    if kind == "boolean":
        if isinstance(value, bool):
            return value
        if str(value).strip().lower() in ("true", "1", "yes", "on", "false", "0", "no", "off"):
            return str(value).strip().lower() in ("true", "1", "yes", "on")
        raise ValueError(f"{where} must be true or false, not {value!r}")
    try:
        number = float(value) if not isinstance(value, (bool, list, dict, type(None))) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if kind == "integer" and math.isfinite(number) and number.is_integer():
        # From the digits themselves if there are only digits: a float cannot hold 2**53 + 1.
        return int(value) if re.fullmatch(r"\s*[-+]?\d+\s*", str(value)) else int(number)
    if kind == "number" and math.isfinite(number):
        return value if isinstance(value, (int, float)) else number
    raise ValueError(f"{where} must be {'a whole number' if kind == 'integer' else 'a number'}, not {value!r}")


def _convert_any_of(value: Any, schemas: Sequence[Mapping[str, Any]], where: str) -> Any:
    exact = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    kind = exact.get(type(value))
    # The value's own type comes first, so that 3 stays a number under "string or integer".
    ordered = sorted(schemas, key=lambda s: (s.get("type") != kind, kind != "integer" or s.get("type") != "number"))
    problems = []
    for schema in ordered:
        try:
            return convert_value(value, schema, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(problems))


def convert_value(value: Any, schema: Mapping[str, Any], where: str) -> Any:
    """`value` in the type that `schema` names. Raises ValueError with a message for the model."""
    kind = schema.get("type")
    if isinstance(kind, (list, tuple)):
        if value is None and "null" in kind:
            return None
        return _convert_any_of(value, [{**schema, "type": k} for k in kind if k != "null"], where)
    if value is None and (schema.get("nullable") or kind in (None, "null")):
        return None
    if isinstance(schema.get("anyOf"), (list, tuple)) and schema["anyOf"]:
        return _convert_any_of(value, schema["anyOf"], where)
    kind = kind.lower() if isinstance(kind, str) else None
    if kind is not None and value is None:
        raise ValueError(f"{where} must not be null")
    if kind in ("string", "boolean", "integer", "number"):
        value = _convert_scalar(value, kind, where)
    elif kind in ("array", "object") and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            if kind == "object":
                raise ValueError(f"{where} must be an object, not {value!r}") from None
    if kind == "array":
        items = value if isinstance(value, (list, tuple)) else [value]
        first, others = schema.get("prefixItems") or (), schema.get("items")
        members = [*first, *[others] * (len(items) - len(first))]
        value = [
            convert_value(item, member, f"{where}[{i}]") if isinstance(member, Mapping) else item
            for i, (item, member) in enumerate(zip(items, members, strict=False))
        ]
    elif kind == "object":
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, not {value!r}")
        value = convert_object(value, schema, where)
    _check_limits(value, schema, where)
    choices = schema.get("enum")
    if choices and not any(
        value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices
    ):
        same = [c for c in choices if str(c).casefold() == str(value).strip().casefold()]
        if not same:
            raise ValueError(f"{where} must be one of {', '.join(map(str, choices))}, not {value!r}")
        value = same[0]
    return value


def convert_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments in the types that the schema of their object names. Raises ValueError with a message for the model."""
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties", not properties)
    converted = {}
    aliases = {written_key(name): name for name in properties if written_key(name) != name}
    for name, item in value.items():
        name = aliases.get(name, name) if name not in properties else name
        label = f"{where}.{name}" if where else str(name)
        if name in properties:
            optional = name not in (schema.get("required") or ())
            # null for an optional argument means that it is left out
            if item is None and optional and not properties[name].get("nullable"):
                continue
            converted[name] = convert_value(item, properties[name], label)
        elif extra:
            converted[name] = convert_value(item, extra, label) if isinstance(extra, Mapping) else item
        else:
            known = ", ".join(properties) or "none"
            raise ValueError(f"there is no argument {label}; the arguments are: {known}")
    missing = [name for name in schema.get("required") or () if name not in converted]
    if missing:
        raise ValueError(f"missing argument{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return converted


_LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, limit: value >= limit, "at least"),
    "maximum": (lambda value, limit: value <= limit, "at most"),
    "exclusiveMinimum": (lambda value, limit: value > limit, "more than"),
    "exclusiveMaximum": (lambda value, limit: value < limit, "less than"),
}
_LENGTHS = {
    "minLength": (str, "at least", "characters"),
    "maxLength": (str, "at most", "characters"),
    "minItems": (list, "at least", "elements"),
    "maxItems": (list, "at most", "elements"),
}


def _check_limits(value: Any, schema: Mapping[str, Any], where: str) -> None:
    for keyword, (fits, words) in _LIMITS.items():
        limit = schema.get(keyword)
        both = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in (value, limit))
        if both and not fits(value, limit):
            raise ValueError(f"{where} must be {words} {limit}, not {value}")
    for keyword, (kind, words, what) in _LENGTHS.items():
        limit = schema.get(keyword)
        if isinstance(value, kind) and isinstance(limit, int):
            length = len(value)
            if (length < limit) if words == "at least" else (length > limit):
                raise ValueError(f"{where} must have {words} {limit} {what}, not {length}")


# ---- to the types of hints -------------------------------------------------------------------------------------------

_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    datetime.datetime: lambda text: datetime.datetime.fromisoformat(
        text.replace("Z", "+00:00") if text[-1:] == "Z" else text
    ),
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    uuid.UUID: uuid.UUID,
    bytes: str.encode,
    bytearray: lambda text: bytearray(text.encode()),
    complex: complex,
    os.PathLike: pathlib.Path,
}
_ABSTRACT = {
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}


def revive(value: Any, hint: Any) -> Any:
    """Plain data in the type that a function's hint names: enums, dataclasses, models, tuples, sets, dates, paths.

    Raises ValueError or TypeError for a value that this type does not have.
    """
    hint = plain_hint(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin is Union or origin is types.UnionType:
        return _revive_union(value, [member for member in arguments if member is not type(None)])
    if origin is Literal:
        return next((choice for choice in arguments if isinstance(choice, enum.Enum) and choice.value == value), value)
    if isinstance(hint, type) and origin is None:
        return _revive_class(value, hint)
    base = _ABSTRACT.get(origin, origin)
    if isinstance(value, list) and isinstance(base, type) and not issubclass(base, Mapping):
        if base is tuple and arguments and Ellipsis not in arguments:
            return tuple(revive(item, member) for item, member in zip(value, arguments, strict=False))
        return base(revive(item, arguments[0]) for item in value) if base in (list, tuple, set, frozenset) else value
    if isinstance(value, Mapping) and isinstance(base, type) and issubclass(base, Mapping) and len(arguments) == 2:
        return {_revive_key(key, arguments[0]): revive(item, arguments[1]) for key, item in value.items()}
    return value


def _revive_class(value: Any, hint: type) -> Any:
    if hint in _FROM_TEXT:
        return _FROM_TEXT[hint](value) if isinstance(value, str) else value
    if is_model(hint):
        return hint.model_validate(value)  # type: ignore[attr-defined]
    if issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
        return hint(value) if value in values else hint[value]
    if issubclass(hint, pathlib.PurePath) and isinstance(value, str):
        return hint(value)
    if isinstance(value, Mapping) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        hints, _ = class_hints(hint)
        return hint(**{name: revive(item, hints.get(name)) for name, item in value.items()})
    if isinstance(value, Mapping) and typing.is_typeddict(hint):
        hints, _ = class_hints(hint)
        return {name: revive(item, hints.get(name)) for name, item in value.items()}
    if hint in (tuple, set, frozenset) and isinstance(value, list):
        return hint(value)
    if hint is decimal.Decimal and isinstance(value, (int, float)):
        return decimal.Decimal(str(value))
    if hint is float and isinstance(value, int):
        return float(value)
    if (
        issubclass(hint, (str, int, float))
        and hint not in (str, int, float, bool)
        and isinstance(value, (str, int, float))
    ):
        return hint(value)  # a subclass, such as one that checks its value
    return value


def _revive_union(value: Any, members: Sequence[Any]) -> Any:
    """The value as the first member whose schema it satisfies as it is, else as the first that takes it."""
    problems = []
    for exact in (True, False):
        for member in members:
            try:
                converted = convert_value(value, schema_of_hint(member), "it")
                if not exact or (converted == value and type(converted) is type(value)):
                    return revive(converted, member)
            except (ValueError, TypeError) as error:
                problems.append(str(error))
    raise ValueError("; or ".join(dict.fromkeys(problems)))


def _revive_key(key: Any, hint: Any) -> Any:
    return revive(convert_value(key, schema_of_hint(hint), "a key"), hint)
