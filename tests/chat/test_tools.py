"""Tools: schemas of functions, conversion of what a model writes, and errors that reach the model instead of the caller."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import pytest

from edge_gemma.chat.template import render_chat
from edge_gemma.chat.tools import Tool, Toolbox, tool_schema
from edge_gemma.errors import EdgeGemmaValueError


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclasses.dataclass
class Place:
    name: str
    zone: int = 0
    unit: Unit = Unit.CELSIUS


class Window(TypedDict, total=False):
    width: int


def everything(
    text: str,
    count: int,
    share: float,
    flag: bool,
    names: list[str],
    grid: list[list[int]],
    table: dict[str, float],
    free: dict,
    unit: Unit,
    mode: Literal["fast", "slow"],
    level: Literal[1, 2, None],
    place: Place,
    window: Window,
    pair: tuple[int, ...],
    either: Union[int, str],  # noqa: UP007 - both spellings are met
    noted: Annotated[str, "a note"],
    anything: Any,
    maybe: Optional[str] = None,  # noqa: UP045
    newer: int | None = None,
    untyped=3,
    *args: int,
    key: str = "k",
    **rest: Any,
) -> str:
    """Does everything.

    And more."""
    return text


def test_type_hints() -> None:
    function = tool_schema(everything)["function"]
    string = {"type": "string"}
    assert function["description"] == "Does everything. And more."
    assert function["parameters"]["properties"] == {
        "text": string,
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "names": {"type": "array", "items": string},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "table": {"type": "object", "additionalProperties": {"type": "number"}},
        "free": {"type": "object"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "level": {"type": "integer", "enum": [1, 2], "nullable": True},
        "place": {
            "type": "object",
            "properties": {"name": string, "zone": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["name"],
        },
        "window": {"type": "object", "properties": {"width": {"type": "integer"}}},
        "pair": {"type": "array", "items": {"type": "integer"}},
        "either": {"type": "integer", "anyOf": [{"type": "integer"}, string]},
        "noted": {"type": "string", "description": "a note"},
        "anything": string,
        "maybe": {"type": "string", "nullable": True},
        "newer": {"type": "integer", "nullable": True},
        "untyped": {"type": "integer"},
        "key": string,
    }
    assert function["parameters"]["required"] == list(function["parameters"]["properties"])[:17]


def google(city: str, days: int = 1) -> None:
    """Tells the weather.

    In one city.

    Args:
        city (str): where; may
            go on here: and here
        days: how many

    Returns:
        city: not an argument
    """


def numpy_style(city: str, days: int = 1) -> None:
    """Tells the weather.

    In one city.

    Parameters
    ----------
    city : str
        where; may
        go on here: and here
    days : int, optional
        how many

    Returns
    -------
    str
        the text
    """


def sphinx(city: str, days: int = 1) -> None:
    """Tells the weather.

    In one city.

    :param city: where; may
        go on here: and here
    :type city: str
    :param int days: how many
    :returns: the text
    """


@pytest.mark.parametrize("function", [google, numpy_style, sphinx])
def test_docstrings(function: Any) -> None:
    schema = tool_schema(function)["function"]
    assert schema["description"] == "Tells the weather. In one city."
    assert schema["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where; may go on here: and here"},
            "days": {"type": "integer", "description": "how many"},
        },
        "required": ["city"],
    }


def test_methods_callables_and_no_docstring() -> None:
    class Home:
        def light(self, on: bool) -> str:
            return f"light {on}"

        def __call__(self, room: str) -> str:
            """Enters."""
            return room

    home = Home()
    assert tool_schema(home.light)["function"] == {
        "name": "light",
        "description": "",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    }
    assert tool_schema(home)["function"]["name"] == "Home"
    box = Toolbox([home.light, home])
    assert box.call("light", {"on": "True"}) == "light True"
    assert box.call("Home", {"room": 3}) == "3"


def test_ready_schemas() -> None:
    inner = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    whole = {"type": "function", "function": {**inner, "description": ""}}
    assert tool_schema(inner) == tool_schema(whole) == whole
    assert "description" not in inner
    assert not Toolbox([inner]).can_call("f")
    assert Toolbox([inner]).can_call("g")
    assert Toolbox([inner]).call("f", {}) == {"error": "the tool f is not available here"}


@pytest.mark.parametrize(
    "bad", [3, {}, {"name": 3}, {"name": "a b"}, {"name": "x{<|turn>"}, lambda x: x, abs, [google]]
)
def test_what_is_no_tool(bad: Any) -> None:
    with pytest.raises(EdgeGemmaValueError) as caught:
        tool_schema(bad)
    assert caught.value.code == "tool"


def test_names_are_distinct() -> None:
    with pytest.raises(EdgeGemmaValueError, match="Two tools"):
        Toolbox([google, Tool.of(google)])


def test_schemas_render() -> None:
    text = render_chat([], None, tools=[everything])
    assert "level:{enum:[1,2],nullable:true,type:" in text
    assert text == render_chat([], None, tools=[Tool.of(everything)])


def take(
    count: int = 0,
    share: float = 0.0,
    flag: bool = False,
    text: str = "",
    names: list[str] | None = None,
    mode: Literal["fast", "slow"] = "fast",
    table: dict[str, int] | None = None,
    either: int | str = 0,
    unit: Unit = Unit.CELSIUS,
    place: Place | None = None,
    places: list[Place] | None = None,
    pair: tuple[int, ...] = (),
    chosen: set[str] | None = None,
) -> dict[str, Any]:
    """Gives back what it took."""
    return {
        name: value for name, value in locals().items() if value not in (None, 0, False, "", (), "fast", Unit.CELSIUS)
    }


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"count": "3"}, {"count": 3}),
        ({"count": 3.0}, {"count": 3}),
        ({"count": "9007199254740993"}, {"count": 9007199254740993}),
        ({"share": "2.5"}, {"share": 2.5}),
        ({"share": 2}, {"share": 2.0}),
        ({"flag": "Yes"}, {"flag": True}),
        ({"flag": 1}, {"flag": True}),
        ({"text": 12}, {"text": "12"}),
        ({"text": True}, {"text": "true"}),
        ({"names": "one"}, {"names": ["one"]}),
        ({"names": '["a", "b"]'}, {"names": ["a", "b"]}),
        ({"names": ["a", 2]}, {"names": ["a", "2"]}),
        ({"mode": "SLOW "}, {"mode": "slow"}),
        ({"table": '{"a": "1"}'}, {"table": {"a": 1}}),
        ({"either": "x"}, {"either": "x"}),
        ({"either": 4}, {"either": 4}),
        ({"unit": "f"}, {"unit": Unit.FAHRENHEIT}),
        ({"place": {"name": "Rome", "unit": "F"}}, {"place": Place("Rome", 0, Unit.FAHRENHEIT)}),
        ({"places": [{"name": "Rome", "zone": "2"}]}, {"places": [Place("Rome", 2)]}),
        ({"pair": [1, "2"]}, {"pair": (1, 2)}),
        ({"chosen": ["a", "a"]}, {"chosen": {"a"}}),
        ({"count": None, "names": None, "mode": None}, {}),
    ],
)
def test_arguments_are_converted(given: dict[str, Any], taken: dict[str, Any]) -> None:
    assert Toolbox([take]).call("take", given) == taken


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": "three"}, "count must be a whole number, not 'three'"),
        ({"count": 2.5}, "whole number"),
        ({"count": True}, "whole number"),
        ({"count": [1]}, "whole number"),
        ({"share": "inf"}, "must be a number"),
        ({"flag": "maybe"}, "true or false"),
        ({"mode": "medium"}, "one of fast, slow"),
        ({"table": "x"}, "must be an object"),
        ({"table": {"a": "x"}}, "table.a must be a whole number"),
        ({"places": [{}]}, "missing argument: name"),
        ({"place": {"name": "x", "size": 1}}, "there is no argument place.size; the arguments are: name, zone, unit"),
        ({"size": 1}, "there is no argument size; the arguments are: count"),
    ],
)
def test_unusable_arguments_are_explained(given: dict[str, Any], words: str) -> None:
    result = Toolbox([take]).call("take", given)
    assert words in result["error"]


def test_exceptions_become_results() -> None:
    def fail(kind: str) -> None:
        if kind == "stop":
            raise KeyboardInterrupt
        raise OSError if kind == "bare" else RuntimeError("broken")

    box = Toolbox([fail])
    assert box.call("fail", {"kind": "x"}) == {"error": "RuntimeError: broken"}
    assert box.call("fail", {"kind": "bare"}) == {"error": "OSError"}
    assert box.call("fail", {}) == {"error": "missing argument: kind"}
    assert box.call("none", {}) == {"error": "there is no tool none; the tools are: fail"}
    with pytest.raises(KeyboardInterrupt):
        box.call("fail", {"kind": "stop"})
