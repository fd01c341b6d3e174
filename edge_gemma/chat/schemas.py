"""JSON Schemas of tools: from the forms in which other programs have them to one that conversion and templates understand.

    envelope    {"type": "function", "function": {...}} of OpenAI, flat or nested; `input_schema` of Anthropic; `inputSchema` of
                MCP; `parameters_json_schema` of Google. The arguments are always under "parameters" afterwards.
    parameters  references are put in place, `allOf` is merged, `oneOf` is `anyOf`, `const` is an `enum` of one value, and a
                type that may be null is `nullable`.

Owns these two, and what of a schema a template can show (`shown_schema`). Keywords that are understood by none of them are
told as a warning when the tool is registered; a schema of which the model would see something wrong is refused.
"""

from __future__ import annotations

import copy
import inspect
import re
import types
import urllib.parse
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EdgeGemmaValueError

__all__ = [
    "TOOL_NAME",
    "TYPE_NAMES",
    "function_schema",
    "given_parameters",
    "outer_frame",
    "resolved_schema",
    "schema_of_values",
    "shown_schema",
    "warn_caller",
]

TOOL_NAME = re.compile(r"\w[\w.\-/]*\Z")
"""The names that a call can be written with."""

TYPE_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
"""The names of Python's scalar types in JSON Schema."""

_PARAMETERS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema")
_MISTAKEN = (
    "properties",
    "arguments",
    "args",
    "params",
    "schema",
    "input",
    "inputs",
    "required",
    "json_schema",
    "args_schema",
)
_ENVELOPE = {
    *("name", "description", "type", "strict", "title", "response", "return", "annotations", "icons", "meta", "_meta"),
    *("outputSchema", "output_schema", "responseJsonSchema", "response_json_schema", "behavior", "execution"),
    *("cache_control", "defer_loading", "allowed_callers", "input_examples", "eager_input_streaming"),
}
_TOOLSETS = ("functionDeclarations", "function_declarations", "tools", "functions")

_UNDERSTOOD = {
    *("type", "description", "enum", "items", "properties", "required", "nullable", "anyOf", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"),
    *("minItems", "maxItems", "uniqueItems", "prefixItems", "format", "default"),
}
_REMARKS = {
    *("title", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator", "xml", "externalDocs"),
    *(
        "contentEncoding",
        "contentMediaType",
        "$schema",
        "$id",
        "$comment",
        "$anchor",
        "$defs",
        "definitions",
        "$vocabulary",
    ),
    *("propertyOrdering", "minProperties", "maxProperties", "id"),
}
_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_MAX_DEPTH = 24


def _wrong(message: str) -> EdgeGemmaValueError:
    return EdgeGemmaValueError(message, code="tool")


def outer_frame() -> tuple[types.FrameType | None, int]:
    """The frame that called this package, and how far it is above the caller of this function."""
    package, frame, level = __name__.partition(".")[0], inspect.currentframe(), 0
    while frame and frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return frame, level


def warn_caller(message: str) -> None:
    """Warns at the line that called this package."""
    warnings.warn(message, stacklevel=outer_frame()[1])


def schema_of_values(values: Sequence[Any]) -> dict[str, Any]:
    """The schema of an enumeration; None among the values makes it nullable."""
    some = [value for value in values if value is not None]
    kinds = list(dict.fromkeys(TYPE_NAMES.get(type(value), "string") for value in some)) or ["string"]
    schema: dict[str, Any] = {"type": kinds[0], "enum": some}
    if len(kinds) > 1:
        of_kind = {kind: [value for value in some if TYPE_NAMES.get(type(value), "string") == kind] for kind in kinds}
        schema = {"type": kinds[0], "anyOf": [{"type": kind, "enum": found} for kind, found in of_kind.items()]}
    return {**schema, "nullable": True} if None in values else schema


# ---- envelopes -------------------------------------------------------------------------------------------------------


def function_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "description", "parameters"}} of a ready schema in any of the forms above.

    Raises EdgeGemmaValueError "tool" for one without a name, or of which arguments would be lost.
    """
    inner = tool["function"] if isinstance(tool.get("function"), Mapping) else tool
    name = inner.get("name")
    if not isinstance(name, str):
        if sets := [key for key in _TOOLSETS if isinstance(inner.get(key), (list, tuple))]:
            raise _wrong(f'A schema with "{sets[0]}" holds several tools: pass each of them by itself.')
        raise _wrong('A tool schema needs a "name", alone or under "function".')
    if not TOOL_NAME.match(name):
        raise _wrong(f"The tool name {name!r} is not an identifier.")
    kind = inner.get("type")
    if kind not in (None, "function", "custom"):
        raise _wrong(f"Tool {name} is of type {kind!r}, which only the service that offers it can run.")
    given = {key: inner[key] for key in _PARAMETERS if inner.get(key) is not None}
    if len(given) > 1 and any(value != next(iter(given.values())) for value in given.values()):
        raise _wrong(f"Tool {name} has different schemas under {' and '.join(given)}.")
    unknown = [key for key in inner if key not in _ENVELOPE and key not in _PARAMETERS and inner[key] is not None]
    if not given and (lost := [key for key in unknown if key in _MISTAKEN]):
        raise _wrong(f'Tool {name} has "{lost[0]}", which is not read: the arguments belong under "parameters".')
    kept = {
        key: value for key, value in inner.items() if key not in _PARAMETERS and key != "type" and value is not None
    }
    function = {**kept, "description": str(inner.get("description") or "")}
    if given:
        function["parameters"], ignored = resolved_schema(next(iter(given.values())), f"Tool {name}")
        unknown += ignored
    if unknown:
        warn_caller(f"Tool {name}: {', '.join(dict.fromkeys(unknown))} will not reach the model.")
    return {"type": "function", "function": function}


def given_parameters(tool: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the arguments of a ready schema as it was given; None where there is none."""
    inner = tool["function"] if isinstance(tool.get("function"), Mapping) else tool
    return next((inner[key] for key in _PARAMETERS if inner.get(key) is not None), None)


# ---- parameters ------------------------------------------------------------------------------------------------------


def resolved_schema(schema: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """The schema of an object of arguments, resolved, and the keywords that were not understood.

    Raises EdgeGemmaValueError "tool" where the model would see something wrong. `where` begins the message.
    """
    if not isinstance(schema, Mapping):
        raise _wrong(f"{where}: its parameters are no JSON schema, but {type(schema).__name__}.")
    if schema and not (_UNDERSTOOD | {"$ref", "allOf", "oneOf", "anyOf", "$defs"}) & set(schema):
        raise _wrong(f'{where}: its parameters have no "properties", in which the arguments belong.')
    resolver = _Resolver(schema, where)
    found = resolver.resolve(schema, where, ())
    if "anyOf" in found:
        found = resolver.merged_alternatives(found)
    kind = found.get("type", "object")
    if kind != "object":
        raise _wrong(f"{where}: its parameters are of type {kind!r}, but must be an object.")
    for key in ("nullable", "$defs", "definitions", "$schema"):
        found.pop(key, None)
    return {**found, "type": "object", "properties": found.get("properties", {})}, list(dict.fromkeys(resolver.ignored))


class _Resolver:
    """Resolves one schema; `ignored` collects the keywords that nothing here understands."""

    def __init__(self, root: Mapping[str, Any], where: str) -> None:
        self.root, self.where = root, where
        self.ignored: list[str] = []

    def resolve(self, schema: Any, where: str, refs: tuple[str, ...], depth: int = 0) -> dict[str, Any]:
        """`schema` without references. `refs`: those that are being put in place."""
        if schema is True or schema == {}:
            return {}
        if not isinstance(schema, Mapping):
            raise _wrong(f"{where} is no JSON schema, but {schema!r}.")
        if depth > _MAX_DEPTH:
            return {}
        schema, refs = self._flat(schema, where, refs)
        alternatives = [*schema.pop("anyOf", ()), *schema.pop("oneOf", ())]
        if not alternatives:
            return self._single(schema, where, refs, depth)
        if all(isinstance(one, Mapping) and set(one) <= {"required", "not", "title"} for one in alternatives):
            self.ignored.append("anyOf")  # combinations of arguments, which a declaration cannot express
            return self._single(schema, where, refs, depth)
        return self._with_alternatives(schema, alternatives, where, refs, depth)

    def _flat(
        self, schema: Mapping[str, Any], where: str, refs: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """A schema with its reference put in place and its allOf merged; its parts are as they were. Also all references that
        were followed."""
        flat = dict(schema)
        while isinstance(reference := flat.pop("$ref", None), str):
            if reference in refs:
                self.ignored.append(f"the recursion of {reference}")
                return {"type": "object", **self._remarks(flat)}, refs
            refs = (*refs, reference)
            flat = self._merged(self._target(reference, where), flat)
        for part in flat.pop("allOf", ()):
            if isinstance(part, Mapping):
                merged, refs = self._flat(part, where, refs)
                flat = self._merged(merged, flat)
        return flat, refs

    def _single(self, schema: dict[str, Any], where: str, refs: tuple[str, ...], depth: int) -> dict[str, Any]:
        """A schema without references and alternatives."""
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        self._take_type(schema, where)
        self._take_enum(schema, where)
        if isinstance(kinds := schema.get("type"), list):  # several types, each of them an alternative
            rest = {key: value for key, value in schema.items() if key != "type"}
            remarks = self._remarks(rest)
            rest = {key: value for key, value in rest.items() if key not in remarks}
            members = [self._single({"type": kind, **rest}, where, refs, depth) for kind in kinds]
            return {"type": kinds[0], **remarks, "anyOf": members}
        if "properties" in schema:
            schema["properties"] = self._properties(schema["properties"], where, refs, depth)
        self._take_required(schema, where)
        self._take_items(schema, where, refs, depth)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            schema["additionalProperties"] = self.resolve(extra, f"{where}.*", refs, depth + 1) or True
        schema.pop("title", None)
        self.ignored += [
            key for key in schema if key not in _UNDERSTOOD and key not in _REMARKS and not key.startswith("x-")
        ]
        return schema

    def _take_type(self, schema: dict[str, Any], where: str) -> None:
        kind = schema.get("type")
        kinds = [k.lower() if isinstance(k, str) else k for k in (kind if isinstance(kind, (list, tuple)) else [kind])]
        if kind is None:
            inferred = (
                "object"
                if "properties" in schema
                else "array"
                if "items" in schema or "prefixItems" in schema
                else None
            )
            kinds = [inferred] if inferred else []
        for one in kinds:
            if one not in _TYPES:
                raise _wrong(f"{where} is of type {one!r}; JSON has {', '.join(_TYPES)}.")
        if "null" in kinds and len(kinds) > 1:
            schema["nullable"] = True
            kinds.remove("null")
        schema.pop("type", None)
        if kinds:
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds

    def _take_enum(self, schema: dict[str, Any], where: str) -> None:
        if "enum" not in schema:
            return
        values = schema["enum"]
        if not isinstance(values, (list, tuple)) or not values:
            raise _wrong(f"{where}: its enum is no list of values.")
        if None in values and len(values) > 1:
            schema["nullable"] = True
            values = [value for value in values if value is not None]
        schema["enum"] = list(values)
        if "type" not in schema:
            kinds = list(dict.fromkeys(TYPE_NAMES.get(type(value), "object") for value in values))
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds

    def _take_required(self, schema: dict[str, Any], where: str) -> None:
        if "required" not in schema:
            return
        names, properties = schema["required"], schema.get("properties", {})
        if isinstance(names, bool):  # OpenAPI of old: the property itself is required
            raise _wrong(f'{where}: "required" is a list of names beside "properties", not {names}.')
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise _wrong(f'{where}: "required" is no list of names.')
        if lost := [name for name in names if name not in properties]:
            raise _wrong(f'{where}: "required" names {", ".join(lost)}, which "properties" does not have.')
        schema["required"] = list(names)
        if not names:
            del schema["required"]

    def _take_items(self, schema: dict[str, Any], where: str, refs: tuple[str, ...], depth: int) -> None:
        items, first = schema.pop("items", None), schema.pop("prefixItems", None)
        if isinstance(items, (list, tuple)):
            items, first = None, items
        members = [self.resolve(member, f"{where}[]", refs, depth + 1) for member in first or ()]
        if items is not None and not isinstance(items, bool):
            members.append(self.resolve(items, f"{where}[]", refs, depth + 1))
        different = [member for number, member in enumerate(members) if member not in members[:number]]
        if len(different) == 1:
            schema["items"] = different[0]
        elif different:
            schema["items"] = {"type": different[0].get("type", "string"), "anyOf": different}
        if first:
            schema["prefixItems"] = members[: len(first)]
        if first and not isinstance(items, Mapping):
            schema.setdefault("minItems", len(first))
            schema.setdefault("maxItems", len(first))

    def _properties(self, properties: Any, where: str, refs: tuple[str, ...], depth: int) -> dict[str, Any]:
        if not isinstance(properties, Mapping):
            raise _wrong(f'{where}: "properties" is no mapping from names to schemas.')
        found = {}
        for name, schema in properties.items():
            if not isinstance(name, str) or not name.strip():
                raise _wrong(f"{where}: {name!r} is no name of an argument.")
            if schema is not False:
                found[name] = self.resolve(schema, f"{where}: {name}", refs, depth + 1)
        return found

    def _with_alternatives(
        self, base: dict[str, Any], alternatives: Sequence[Any], where: str, refs: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        """`base` with the schemas of its anyOf or oneOf. What `base` demands, each of them demands."""
        remarks = self._remarks(base)
        common = {key: value for key, value in base.items() if key not in remarks}
        members = []
        for one in alternatives:
            if not isinstance(one, Mapping):
                continue
            member = self.resolve(
                {**self._merged(common, one)} if "$ref" not in one else {**one, **common}, where, refs, depth + 1
            )
            if member.get("type") == "null" or member.get("enum") == [None]:
                remarks["nullable"] = True
            else:
                members.append(member)
        nested = [inner for member in members for inner in member.get("anyOf", [member])]
        if any(member.get("nullable") for member in members):
            remarks["nullable"] = True
        members = [inner for number, inner in enumerate(nested) if inner not in nested[:number]]
        if not members:
            return {"type": "null", **remarks}
        if len(members) == 1:
            return {**members[0], **remarks}
        kinds = {member.get("type") for member in members}
        if len(kinds) == 1 and all("enum" in member for member in members):
            values = [value for member in members for value in member["enum"]]
            return {"type": kinds.pop(), **remarks, "enum": list(dict.fromkeys(values))}
        if {} in members:
            return {key: value for key, value in remarks.items() if key != "nullable"}  # anything at all
        return {"type": members[0].get("type", "string"), **remarks, "anyOf": members}

    def merged_alternatives(self, schema: dict[str, Any]) -> dict[str, Any]:
        """One object that has the properties of all alternatives; required are those that every alternative requires."""
        members = schema.pop("anyOf")
        if any(member.get("type") != "object" for member in members):
            raise _wrong(f"{self.where}: its parameters must be an object.")
        self.ignored.append("anyOf")
        merged: dict[str, Any] = {}
        for member in members:
            merged = self._merged(merged, {key: value for key, value in member.items() if key != "required"})
        common = [
            name for name in members[0].get("required", ()) if all(name in m.get("required", ()) for m in members)
        ]
        return {**schema, **merged, **({"required": common} if common else {})}

    @staticmethod
    def _remarks(schema: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in schema.items()
            if key in ("description", "default", "nullable") or key in _REMARKS
        }

    @staticmethod
    def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        """A schema of what satisfies both; where they differ in one keyword, the second has it."""
        merged = {**first, **second}
        if "properties" in first and "properties" in second:
            merged["properties"] = {**first["properties"], **second["properties"]}
        if "required" in first and "required" in second:
            merged["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
        return merged

    def _target(self, reference: str, where: str) -> Mapping[str, Any]:
        """The schema that a reference points to."""
        found: Any = self.root
        if not reference.startswith("#"):
            raise _wrong(f"{where}: the reference {reference!r} points outside of the schema.")
        for part in reference[1:].strip("/").split("/") if reference not in ("#", "#/") else ():
            key = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, (list, tuple)) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise _wrong(f"{where}: the reference {reference!r} points to nothing.")
        if found is True:
            return {}
        if not isinstance(found, Mapping):
            raise _wrong(f"{where}: the reference {reference!r} points to no schema.")
        return found


# ---- what templates show ---------------------------------------------------------------------------------------------


def shown_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool for a template: in its parameters only the keywords that templates print, and everything else in words, in the
    descriptions. Templates take other keywords for arguments, or leave them out."""
    function = dict(tool["function"])
    if "parameters" in function:
        function["parameters"] = {**_shown(function["parameters"]), "type": "object"}
    return {"type": "function", "function": function}


def _shown(schema: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(schema.get("type", "string"))
    shown: dict[str, Any] = {"type": kind}
    words = [str(schema.get("description") or "").strip(), *_in_words(schema)]
    if description := " ".join(word for word in words if word):
        shown["description"] = description
    if "enum" in schema:
        shown["enum"] = copy.copy(schema["enum"])
    if schema.get("nullable"):
        shown["nullable"] = True
    if kind == "array" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        shown["items"] = _shown(schema["items"])
    if kind == "object":
        shown["properties"] = {name: _shown(member) for name, member in (schema.get("properties") or {}).items()}
        if schema.get("required"):
            shown["required"] = list(schema["required"])
    return shown


_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} elements",
    "maxItems": "at most {} elements",
    "pattern": "matching {}",
    "format": "format {}",
}


def _in_words(schema: Mapping[str, Any]) -> list[str]:
    """What a declaration has no keyword for."""
    words = []
    if isinstance(members := schema.get("anyOf"), list):
        words.append(" or ".join(dict.fromkeys(map(_kind_in_words, members))))
    if any(not isinstance(value, str) for value in schema.get("enum", ())):
        words.append(f"one of {', '.join(map(str, schema['enum']))}")
    words += [
        phrase.format(schema[key])
        for key, phrase in _LIMITS.items()
        if not isinstance(schema.get(key), (bool, type(None)))
    ]
    if isinstance(extra := schema.get("additionalProperties"), Mapping):
        words.append(f"any keys, with values: {_kind_in_words(extra)}")
    if schema.get("default") not in (None, "", [], {}):
        words.append(f"default {schema['default']}")
    return [f"({'; '.join(words)})"] if words else []


def _kind_in_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "anything"))
    if kind == "object" and schema.get("properties"):
        required = schema.get("required", ())
        members = (
            f"{name}{'' if name in required else '?'}: {_kind_in_words(m)}" for name, m in schema["properties"].items()
        )
        return "object {" + ", ".join(members) + "}"
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return f"array of {_kind_in_words(schema['items'])}"
    return kind
