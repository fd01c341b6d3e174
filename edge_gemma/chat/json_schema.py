"""JSON schemas as llguidance reads them.

Where llguidance is wider than a schema, or than programs that validate, the schema is made narrower: days and seconds that do
not exist, classes of characters that dialects disagree about. What llguidance does not know is said in other words where there
are any. What is left is for llguidance to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from .patterns import FORMATS, NO_LEAP_SECOND, REAL_DATE, portable

__all__ = ["readable_schema", "sets_of"]

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    *("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_IN_PLACE = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"}
_DRAFTS = ("draft-04/", "draft-06/", "draft-07/", "draft/2019-09/", "draft/2020-12/")

_KNOWN = {
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
}  # there
_NARROWER = {"date": (REAL_DATE,), "time": (NO_LEAP_SECOND,), "date-time": (REAL_DATE, NO_LEAP_SECOND)}


def readable_schema(schema: Any) -> Any:
    """The schema in llguidance's words; what is no schema stays as it is. Raises RecursionError for one that is too deep."""
    if isinstance(schema, list):
        return [readable_schema(member) for member in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            found[key] = {name: readable_schema(member) for name, member in value.items()}
        elif key in _LISTS or key in _SINGLE:
            found[key] = readable_schema(value)
        else:
            found[key] = value
    for reword in _REWORDINGS:
        reword(found)
    return found


def _draft(schema: dict[str, Any]) -> None:
    """llguidance would download the schema of a dialect that it does not know."""
    if not any(draft in str(schema.get("$schema", _DRAFTS[0])) for draft in _DRAFTS):
        del schema["$schema"]


def _pattern(schema: dict[str, Any]) -> None:
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = portable(pattern)


def _format(schema: dict[str, Any]) -> None:
    """A format that JSON Schema does not define, such as "password", is a remark."""
    kind = schema.get("format")
    if not isinstance(kind, str):
        return
    if kind not in _KNOWN:
        del schema["format"]
    patterns = _NARROWER.get(kind, ()) if kind in _KNOWN else (f"^({FORMATS[kind]})$",) if kind in FORMATS else ()
    _also(schema, *({"pattern": pattern} for pattern in patterns))


def _exclusive_bounds(schema: dict[str, Any]) -> None:
    """llguidance 1.9 takes a whole number for a fraction beyond it: 0 for exclusiveMinimum 0 and maximum 0.1."""
    low, high = (_bound(schema, *keys) for keys in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")))
    if low is None or high is None or not 0 < high - low < 1:
        return
    for end, exclusive, key, step in (
        (low, "exclusiveMinimum", "minimum", 1),
        (high, "exclusiveMaximum", "maximum", -1),
    ):
        if schema.get(exclusive) == end and end == int(end):
            schema[key] = round(end + step * (high - low) / 1e6, 15)
            del schema[exclusive]


def _bound(schema: Mapping[str, Any], *keys: str) -> float | None:
    """The bound of a number that holds, if there is one and it is no flag of the fourth draft."""
    given = [schema[key] for key in keys if isinstance(schema.get(key), (int, float)) and schema[key] is not True]
    return None if not given else (max if "minimum" in keys else min)(given)


def _unique_items(schema: dict[str, Any]) -> None:
    """Arrays of different members of a small enumeration are the sets of it."""
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    elif schema.get("uniqueItems") is True and (sets := sets_of(schema)) is not None:
        del schema["uniqueItems"]
        _also(schema, {"anyOf": [{"enum": sets}, {"type": ["object", "string", "number", "boolean", "null"]}]})


def sets_of(schema: Mapping[str, Any]) -> list[list[Any]] | None:
    """The arrays that a schema with `uniqueItems` allows, each in the order of the enumeration of its items. None if they are
    not of an enumeration, or of one with more than seven values."""
    items = schema.get("items")
    values = items.get("enum") if isinstance(items, Mapping) else None
    if not isinstance(values, (list, tuple)) or len(values) > 7 or "prefixItems" in schema:
        return None
    values = list({json.dumps(float(v) if type(v) is int else v): v for v in values}.values())  # 1 and 1.0 are equal
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(values))
    return [list(some) for n in range(len(values) + 1) if least <= n <= most for some in combinations(values, n)]


def _unevaluated(schema: dict[str, Any]) -> None:
    """Where no other keyword evaluates members, those that are not evaluated are those that are not declared."""
    if _IN_PLACE & set(schema):
        return
    for rest, unevaluated in (("additionalProperties", "unevaluatedProperties"), ("items", "unevaluatedItems")):
        if unevaluated in schema and "contains" not in schema:
            schema.setdefault(rest, schema.pop(unevaluated))
            schema.pop(unevaluated, None)


def _property_names(schema: dict[str, Any]) -> None:
    """Names of members become the members themselves, or a pattern of them, where nothing else is declared."""
    names = schema.get("propertyNames")
    if names is True or names in ({}, {"type": "string"}):
        del schema["propertyNames"]
        return
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & set(schema):
        return
    value, rest = schema.get("additionalProperties", True), set(names) - {"type"}
    if rest == {"enum"} and all(isinstance(name, str) for name in names["enum"]):
        declared = {"properties": dict.fromkeys(names["enum"], value)}
    elif rest == {"pattern"}:
        declared = {"patternProperties": {names["pattern"]: value}}
    elif rest and rest <= {"minLength", "maxLength"}:
        length = f"{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}"
        declared = {"patternProperties": {f"^(?s:.){length}$": value}}
    else:
        return
    del schema["propertyNames"]
    schema |= {**declared, "additionalProperties": False}


def _dependent_required(schema: dict[str, Any]) -> None:
    """Either the one is missing, or the others are there as well."""
    dependent = schema.get("dependentRequired")
    if not isinstance(dependent, Mapping) or not all(isinstance(names, list) for names in dependent.values()):
        return
    del schema["dependentRequired"]
    _also(
        schema,
        *(
            {"anyOf": [{"properties": {key: False}}, {"required": [key, *names]}]}
            for key, names in dependent.items()
            if names
        ),
    )


def _also(schema: dict[str, Any], *more: dict[str, Any]) -> None:
    """The schema and these hold together."""
    if more:
        schema["allOf"] = [*schema.get("allOf", ()), *more]


_REWORDINGS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _draft,
    _pattern,
    _format,
    _exclusive_bounds,
    _unique_items,
    _unevaluated,
    _property_names,
    _dependent_required,
)
