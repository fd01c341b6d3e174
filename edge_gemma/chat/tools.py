"""Tools that the model may call: registration, and the calls themselves.

Owns what may be given as a tool, and the running of a call. The schema comes from signatures.py for functions and from
schemas.py for ready schemas; arguments.py converts what the model wrote. Does not read the model's text (reply.py), nor decide
which calls are run (tool_loop.py). A call never raises for what the model wrote or for what the tool did: the model gets the
result {"error": ...} and can correct itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import EdgeGemmaValueError
from .arguments import convert_object, revive
from .calls import ToolCall
from .schemas import function_schema, given_parameters, warn_caller
from .signatures import Described, callable_hints, describe
from .validation import Check, check_of

__all__ = ["Tool", "Toolbox", "as_schema", "tool_schema"]


def tool_schema(tool: Any) -> dict[str, Any]:
    """Describes a tool.

    Args:
        tool: a function, a bound method, a `functools.partial`, a callable object or a class. Its signature and type hints
            give names and types, its docstring gives the descriptions, in Google, NumPy or Sphinx style. Hints may be str,
            int, float, bool, list, tuple, set, dict, Optional, unions, Literal, enums, dataclasses, TypedDict, NamedTuple,
            models of pydantic, dates, UUID, Decimal, paths, and Annotated with a description or limits. An argument whose
            hint says nothing that a model could write is taken as a string, with a warning. Arguments that a partial has
            bound, *args and **kwargs are not declared.

            Or a ready schema: OpenAI's {"type": "function", "function": {...}}, also without the wrapper, Anthropic's with
            "input_schema", a tool of MCP, as an object or as a dict with "inputSchema". References, allOf, oneOf and
            const are resolved; keywords that cannot be are told in a warning.

    Returns:
        {"type": "function", "function": {"name", "description", "parameters"}}.

    Raises:
        EdgeGemmaValueError: "tool" for anything else; for a function whose arguments have no names, a generator or a method
            without its object; for a schema of which the model would see something wrong.
    """
    if isinstance(tool, Mapping):
        return function_schema(tool)
    if callable(tool):
        return {"type": "function", "function": _described(tool).schema}
    if callable(getattr(tool, "model_dump", None)):  # a Tool of the package mcp
        return function_schema(tool.model_dump(exclude_none=True))
    raise EdgeGemmaValueError(f"A tool is a function or a JSON schema, not {type(tool).__name__}.", code="tool")


def _described(function: Callable[..., Any]) -> Described:
    described = describe(function)
    for name, reason in described.guessed.items():
        kind = described.schema["parameters"]["properties"][name].get("type", "string")
        warn_caller(f"Tool {described.schema['name']}: {name} is taken as type {kind}, because {reason}.")
    return described


def as_schema(tool: Any) -> Any:
    """The schema of `tool` for a template: a mapping as it is, the schema of a `Tool`, the description of a callable."""
    if isinstance(tool, Mapping):
        return tool
    return tool.schema if isinstance(tool, Tool) else tool_schema(tool)


# ---- tools -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tool:
    """One tool: its schema, and its function unless the caller runs the tool elsewhere.

    A coroutine function is run to its end, in an event loop of its own.

    Attributes:
        schema: {"type": "function", "function": {...}}.
        function: called with the converted arguments by name; None when only the schema is known.
        hints: the types of the arguments; None to read them from the function.
        declared: the JSON schema of the arguments as it was given, where `schema` says less: see `Toolbox.checked`.
    """

    schema: dict[str, Any]
    function: Callable[..., Any] | None = None
    hints: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    declared: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, tool: Any) -> Tool:
        """Makes a Tool of a function, a schema, or a Tool. Raises EdgeGemmaValueError "tool"."""
        if isinstance(tool, Tool):
            return tool
        if isinstance(tool, Mapping) or not callable(tool):
            schema = tool_schema(tool)
            given = tool if isinstance(tool, Mapping) else tool.model_dump(exclude_none=True)
            return cls(schema, declared=given_parameters(given))
        described = _described(tool)
        return cls({"type": "function", "function": described.schema}, tool, described.hints)

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        name: str = self.schema["function"]["name"]
        return name

    def convert(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Checks `arguments` against the schema and converts them for the function.

        A number in quotes becomes the number ("3" is 3, for an integer), a number or a constant becomes text where a text is
        expected, a single value becomes a list of one, and null for an optional argument leaves it out. Text that is no
        number, a fraction for an integer, a value beyond the schema's limits or outside of its enumeration, and an argument
        that the tool does not have are errors.

        Raises:
            EdgeGemmaValueError: "tool", with a message that tells the model what to change.
        """
        parameters = self.schema["function"].get("parameters") or {}
        try:
            converted = convert_object(arguments, parameters, "")
            if self.function is not None:
                hints = callable_hints(self.function)[0] if self.hints is None else self.hints
                converted = {name: _revived(name, item, hints) for name, item in converted.items()}
        except (ValueError, TypeError, KeyError) as error:
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
        self._checks: dict[str, Check | None] = {}  # of tools that were called
        for tool in map(Tool.of, tools):
            if tool.name in self._tools:
                raise EdgeGemmaValueError(f"Two tools are called {tool.name}.", code="tool")
            self._tools[tool.name] = tool

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The schemas, in the order in which the tools were given."""
        return [tool.schema for tool in self]

    def can_call(self, name: str) -> bool:
        """False when only the schema of the tool is known. An unknown name can be called: the result is an error."""
        return name not in self._tools or self._tools[name].function is not None

    def checked(self, call: ToolCall) -> ToolCall:
        """A call that the grammar of calls has led, checked against the schema that was given: a grammar cannot follow all of
        JSON Schema. Where the notation of calls has no room for the name of an argument, the call gets the declared one.

        A call that does not keep to the schema comes back with its `problem`. Without jsonschema-rs none is checked.
        """
        tool = self._tools.get(call.name)
        if call.problem or tool is None or tool.declared is None:
            return call
        if call.name not in self._checks:
            self._checks[call.name] = check_of(tool.declared)
        check = self._checks[call.name]
        if check is None or not (problem := check(call.arguments)):
            return call
        with contextlib.suppress(ValueError, TypeError, KeyError):
            arguments = convert_object(call.arguments, tool.schema["function"].get("parameters") or {}, "")
            if not check(arguments):
                return dataclasses.replace(call, arguments=arguments)
        return dataclasses.replace(
            call, problem=f"its arguments do not keep to the declaration of the tool ({problem})"
        )

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
            result = tool.function(**tool.convert(arguments))
            return _awaited(result) if inspect.isawaitable(result) else result
        except EdgeGemmaValueError as error:
            return {"error": str(error)}
        except Exception as error:  # the tool is the caller's code; the model reads of its failure
            return {"error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}


def _revived(name: str, value: Any, hints: Mapping[str, Any]) -> Any:
    try:
        return revive(value, hints.get(name))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name} cannot be {value!r}: {error}") from error


def _awaited(result: Awaitable[Any]) -> Any:
    """The result of a coroutine. Where this thread has a running event loop, another thread runs it."""

    async def wait() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()
