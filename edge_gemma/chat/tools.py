"""Tools that the model may call: their schemas, the conversion of arguments, and the calls themselves.

Owns the conversion of a Python function to a JSON schema, and of a model's arguments to those of the function. Does not read
the model's text (reply.py), nor decide which calls are run (tool_loop.py). A call never raises for what the model wrote or
for what the tool did: the model gets the result {"error": ...} and can correct itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import inspect
import json
import math
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Union

from ..errors import EdgeGemmaValueError

__all__ = ["Tool", "Toolbox", "as_schema", "plain_schema", "tool_schema"]

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_NAME = re.compile(r"[A-Za-z_][\w.\-]*\Z")


# ---- schemas of functions --------------------------------------------------------------------------------------------


def _schema_of_values(values: Sequence[Any]) -> dict[str, Any]:
    first = next((v for v in values if v is not None), "")
    schema: dict[str, Any] = {"type": _SCALARS.get(type(first), "string"), "enum": [v for v in values if v is not None]}
    return {**schema, "nullable": True} if None in values else schema


def _schema_of_fields(fields: Iterable[tuple[str, Any, bool]]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    required = []
    for name, hint, needed in fields:
        schema["properties"][name] = _schema_of_hint(hint)
        if needed:
            required.append(name)
    return {**schema, "required": required} if required else schema


def _dataclass_fields(hint: Any) -> list[tuple[str, Any, bool]]:
    hints = _hints_of_class(hint)
    missing = dataclasses.MISSING
    return [
        (f.name, hints.get(f.name, str), f.default is missing and f.default_factory is missing)
        for f in dataclasses.fields(hint)
        if f.init
    ]


def _schema_of_union(members: Sequence[Any]) -> dict[str, Any]:
    schemas = [_schema_of_hint(member) for member in members if member is not type(None)]
    # The prompt format has one type per argument and shows the first; a call may use any of them.
    schema = dict(schemas[0]) if len(schemas) == 1 else {**schemas[0], "anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in members else schema


def _schema_of_hint(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type hint; a type that JSON does not have is described as a string."""
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        schema = _schema_of_hint(arguments[0])
        notes = [note for note in arguments[1:] if isinstance(note, str)]
        return {**schema, "description": notes[0]} if notes else schema
    if origin is Union or origin is types.UnionType:
        return _schema_of_union(arguments)
    if origin is Literal:
        return _schema_of_values(arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _schema_of_values([member.value for member in hint])
    if dataclasses.is_dataclass(hint):
        return _schema_of_fields(_dataclass_fields(hint))
    if callable(model_schema := getattr(hint, "model_json_schema", None)):  # a model of pydantic
        return plain_schema(model_schema())
    if typing.is_typeddict(hint):
        hints = _hints_of_class(hint)
        return _schema_of_fields((name, kind, name in hint.__required_keys__) for name, kind in hints.items())
    base = origin or hint
    if isinstance(base, type) and issubclass(base, (list, tuple, set, frozenset, Sequence)) and base is not bytes:
        members = [a for a in arguments if a is not Ellipsis]
        return {"type": "array", "items": _schema_of_hint(members[0])} if members else {"type": "array"}
    if isinstance(base, type) and issubclass(base, Mapping):
        schema = {"type": "object"}
        return {**schema, "additionalProperties": _schema_of_hint(arguments[1])} if len(arguments) == 2 else schema
    return {"type": "string"}


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


def _resolved(annotations: Mapping[str, Any], names: dict[str, Any], owner: str) -> dict[str, Any]:
    """Type hints one by one: one that cannot be resolved, because only a type checker knows its name, spoils no other."""
    found: dict[str, Any] = {}
    for name, hint in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found |= typing.get_type_hints(holder, names, include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError):
            warnings.warn(
                f"Tool {owner}: the type hint {hint!r} of {name} cannot be resolved, so the model is told that it is a text.",
                stacklevel=2,
            )
    return found


def _hints_of_class(hint: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(hint, include_extras=True)
    except (NameError, TypeError, AttributeError):
        names = vars(sys.modules[hint.__module__]) if hint.__module__ in sys.modules else {}
        annotations: dict[str, Any] = {}
        for base in reversed(hint.__mro__):
            annotations |= inspect.get_annotations(base)
        return _resolved(annotations, dict(names), hint.__name__)


def _callable_hints(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        plain = inspect.unwrap(target)
        plain = getattr(plain, "__func__", plain)
        names = dict(getattr(plain, "__globals__", {}))
        if inspect.isfunction(plain):
            names |= inspect.getclosurevars(plain).nonlocals
        return _resolved(getattr(plain, "__annotations__", {}), names, _name_of(function))


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a model can give by name: neither *args and **kwargs nor the receiver of an unbound method."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = list(inspect.signature(function).parameters.values())
    if found and found[0].name in ("self", "cls") and found[0].annotation is inspect.Parameter.empty:
        found = found[1:]
    if any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in found):
        raise EdgeGemmaValueError(
            f"Tool {_name_of(function)}: positional-only parameters cannot be given by name.", code="tool"
        )
    return [p for p in found if p.kind in kinds]


def tool_schema(function: Callable[..., Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Describes a Python function as a tool.

    Args:
        function: a function, bound method or callable object. Its signature and type hints give names and types (str,
            int, float, bool, list, tuple, dict, Optional, unions, Literal, Enum, dataclasses, TypedDict, Annotated with
            a description), its docstring gives the descriptions, in Google, NumPy or Sphinx style. It may also be a
            schema as OpenAI ("function", "parameters"), MCP ("inputSchema") and Anthropic ("input_schema") write them, or
            an object of MCP or pydantic that has one.

    Returns:
        {"type": "function", "function": {"name", "description", "parameters"}}.

    Raises:
        EdgeGemmaValueError: "tool" when it is neither a callable nor a schema that the model can be told.
    """
    if not isinstance(function, Mapping) and not inspect.isclass(function) and hasattr(function, "model_dump"):
        function = function.model_dump(exclude_none=True)  # a tool as the MCP library has it
    if isinstance(function, Mapping):
        schema: dict[str, Any] = {"type": "function", "function": _read_schema(function)}
    elif callable(function):
        schema = {"type": "function", "function": _describe(function)}
    else:
        raise EdgeGemmaValueError(f"A tool is a function or a JSON schema, not {type(function).__name__}.", code="tool")
    if not _NAME.match(schema["function"]["name"]):
        raise EdgeGemmaValueError(f"The tool name {schema['function']['name']!r} is not an identifier.", code="tool")
    return schema


_SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema")


def _read_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The inner part of a ready schema, with its arguments under "parameters"."""
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise EdgeGemmaValueError('A tool schema needs a "name", alone or under "function".', code="tool")
    name = inner["name"]
    given = [key for key in _SCHEMA_KEYS if inner.get(key)]
    if len(given) > 1:
        raise EdgeGemmaValueError(f"Tool {name}: its arguments are told twice, in {' and '.join(given)}.", code="tool")
    read = {key: value for key, value in inner.items() if key not in _SCHEMA_KEYS}
    read["description"] = inner.get("description") or ""
    if given:
        parameters = inner[given[0]]
        if not isinstance(parameters, Mapping) or not (
            {"properties", "type", "$ref", "anyOf", "allOf"} & set(parameters)
        ):
            raise EdgeGemmaValueError(f'Tool {name}: "{given[0]}" is no JSON schema with "properties".', code="tool")
        read["parameters"] = plain_schema(parameters)
        properties = read["parameters"].get("properties") or {}
        if unknown := [name for name in read["parameters"].get("required") or () if name not in properties]:
            raise EdgeGemmaValueError(
                f"Tool {name}: {unknown[0]} is required, but not among its arguments.", code="tool"
            )
    elif "parameters" in inner:
        read["parameters"] = dict(inner["parameters"] or {})
    return read


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema in the words that the prompt format has: references resolved, null as "nullable", const as an enum.

    Pydantic and MCP write nested models as "$ref" into "$defs", and what may be null as "anyOf" or as a list of types.
    """
    return _plain(schema, schema, ())


def _plain(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):  # true and false are schemas, too
        return {}
    found = {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$schema", "title")}
    reference = found.pop("$ref", None)
    if isinstance(reference, str):
        if reference in inside:  # a model that contains itself
            return {"type": "object", **found}
        target: Any = root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        return {**_plain(target, root, (*inside, reference)), **found}
    for part in found.pop("allOf", None) or ():
        found = {**_plain(part, root, inside), **found}
    kinds = found.get("type")
    if isinstance(kinds, (list, tuple)):
        rest = [kind for kind in kinds if kind != "null"]
        found["type"] = rest[0] if len(rest) == 1 else rest
        found |= {"nullable": True} if len(rest) < len(kinds) else {}
    for word in ("anyOf", "oneOf"):
        choices = found.pop(word, None)
        if isinstance(choices, (list, tuple)):
            rest = [_plain(choice, root, inside) for choice in choices if choice != {"type": "null"}]
            found |= {"nullable": True} if len(rest) < len(choices) else {}
            # The prompt format has one type per argument and shows the first; a call may use any of them.
            found = {**rest[0], **found} if len(rest) == 1 else {**(rest[0] if rest else {}), **found, "anyOf": rest}
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "type" not in found and found.get("enum"):
        found["type"] = _SCALARS.get(type(found["enum"][0]), "string")
    if "properties" in found:
        found.setdefault("type", "object")
        found["properties"] = {name: _plain(value, root, inside) for name, value in (found["properties"] or {}).items()}
    for word in ("items", "additionalProperties"):
        if isinstance(found.get(word), Mapping):
            found[word] = _plain(found[word], root, inside)
    return found


def _describe(function: Callable[..., Any]) -> dict[str, Any]:
    name = _name_of(function)
    try:
        parameters = _parameters(function)
    except (TypeError, ValueError) as error:
        if isinstance(error, EdgeGemmaValueError):
            raise
        raise EdgeGemmaValueError(f"Tool {name}: its signature cannot be read: {error}.", code="tool") from error
    description, notes = _read_docstring(inspect.getdoc(function) or "")
    hints = _callable_hints(function)
    properties: dict[str, Any] = {}
    for parameter in parameters:
        hint = hints.get(parameter.name)
        if hint is None:
            no_default = parameter.default in (inspect.Parameter.empty, None)
            hint = str if no_default else type(parameter.default)
        schema = _schema_of_hint(hint)
        if parameter.name in notes:
            schema = {**schema, "description": notes[parameter.name]}
        properties[parameter.name] = schema
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"name": name, "description": description, "parameters": schema}


def as_schema(tool: Any) -> Any:
    """The schema of `tool` for a template: a mapping as it is, the schema of a `Tool`, the description of a callable."""
    if isinstance(tool, Mapping):
        return tool
    return tool.schema if isinstance(tool, Tool) else tool_schema(tool)


# ---- conversion of arguments -----------------------------------------------------------------------------------------


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
    ordered = sorted(schemas, key=lambda s: s.get("type") != kind)
    problems = []
    for schema in ordered:
        try:
            return _convert(value, schema, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(problems))


def _convert(value: Any, schema: Mapping[str, Any], where: str) -> Any:
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
        member = schema.get("items")
        if isinstance(member, Mapping):
            items = [_convert(item, member, f"{where}[{i}]") for i, item in enumerate(items)]
        value = list(items)
    elif kind == "object":
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, not {value!r}")
        value = _convert_object(value, schema, where)
    choices = schema.get("enum")
    if choices and value not in choices:
        same = [c for c in choices if str(c).casefold() == str(value).strip().casefold()]
        if not same:
            raise ValueError(f"{where} must be one of {', '.join(map(str, choices))}, not {value!r}")
        value = same[0]
    return value


def _convert_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties", not properties)
    converted = {}
    for name, item in value.items():
        label = f"{where}.{name}" if where else str(name)
        if name in properties:
            optional = name not in (schema.get("required") or ())
            # null for an optional argument means that it is left out
            if item is None and optional and not properties[name].get("nullable"):
                continue
            converted[name] = _convert(item, properties[name], label)
        elif extra:
            converted[name] = _convert(item, extra, label) if isinstance(extra, Mapping) else item
        else:
            known = ", ".join(properties) or "none"
            raise ValueError(f"there is no argument {label}; the arguments are: {known}")
    missing = [name for name in schema.get("required") or () if name not in converted]
    if missing:
        raise ValueError(f"missing argument{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return converted


def _revive(value: Any, hint: Any) -> Any:
    """Plain data in the type that the function's hint names: enums, dataclasses, tuples, sets."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin is typing.Annotated:
        return _revive(value, arguments[0])
    if origin is Union or origin is types.UnionType:
        members = [a for a in arguments if a is not type(None)]
        return _revive(value, members[0]) if len(members) == 1 else value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if callable(validate := getattr(hint, "model_validate", None)):
        return validate(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        hints = _hints_of_class(hint)
        return hint(**{name: _revive(item, hints.get(name)) for name, item in value.items()})
    if origin in (list, tuple, set, frozenset) and isinstance(value, list):
        member = arguments[0] if arguments else None
        return origin(_revive(item, member) for item in value)
    if hint in (tuple, set, frozenset) and isinstance(value, list):
        return hint(value)
    if hint is float and isinstance(value, int):
        return float(value)
    return value


# ---- tools -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tool:
    """One tool: its schema, and its function unless the caller runs the tool elsewhere.

    Attributes:
        schema: {"type": "function", "function": {...}}.
        function: called with the converted arguments by name; None when only the schema is known.
    """

    schema: dict[str, Any]
    function: Callable[..., Any] | None = None

    @classmethod
    def of(cls, tool: Any) -> Tool:
        """Makes a Tool of a function, a schema, or a Tool. Raises EdgeGemmaValueError "tool"."""
        if isinstance(tool, Tool):
            return tool
        return cls(tool_schema(tool), None if isinstance(tool, Mapping) else tool)

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        name: str = self.schema["function"]["name"]
        return name

    def convert(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Checks `arguments` against the schema and converts them for the function.

        Raises:
            EdgeGemmaValueError: "tool", with a message that tells the model what to change.
        """
        parameters = self.schema["function"].get("parameters") or {}
        try:
            converted = _convert_object(arguments, parameters, "")
            if self.function is not None:
                hints = _callable_hints(self.function)
                converted = {name: _revive(item, hints.get(name)) for name, item in converted.items()}
        except (ValueError, TypeError) as error:
            raise EdgeGemmaValueError(str(error), code="tool") from error
        return converted


class Toolbox:
    """The tools of one conversation, by name.

    Args:
        tools: functions, JSON schemas or `Tool`s, with distinct names.

    Raises:
        EdgeGemmaValueError: "tool" for anything else, or for two tools of one name.
    """

    def __init__(self, tools: Iterable[Any] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in map(Tool.of, tools):
            if tool.name in self._tools:
                raise EdgeGemmaValueError(f"Two tools are called {tool.name}.", code="tool")
            self._tools[tool.name] = tool

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> typing.Iterator[Tool]:
        return iter(self._tools.values())

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The schemas, in the order in which the tools were given."""
        return [tool.schema for tool in self]

    def can_call(self, name: str) -> bool:
        """False when only the schema of the tool is known. An unknown name can be called: the result is an error."""
        return name not in self._tools or self._tools[name].function is not None

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Runs a tool.

        Args:
            name: the tool.
            arguments: as the model wrote them; checked and converted first.

        Returns:
            What the function returned, or {"error": message} for an unknown tool, unusable arguments, a schema without
            a function, or an exception in the function. Only exceptions such as KeyboardInterrupt are raised.
        """
        tool = self._tools.get(name)
        if tool is None:
            return {"error": f"there is no tool {name}; the tools are: {', '.join(self._tools) or 'none'}"}
        if tool.function is None:
            return {"error": f"the tool {name} is not available here"}
        try:
            return _awaited(tool.function(**tool.convert(arguments)))
        except EdgeGemmaValueError as error:
            return {"error": str(error)}
        except Exception as error:  # the tool is the caller's code; the model reads of its failure
            return {"error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}


def _awaited(result: Any) -> Any:
    """The result of a tool; that of an asynchronous one is waited for."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as pool:  # a loop runs in this thread, and it waits for this call
        return pool.submit(asyncio.run, wait()).result()
