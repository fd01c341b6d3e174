"""Tools: schemas of functions, conversion of what a model writes, and errors that reach the model instead of the caller."""

from __future__ import annotations

import asyncio
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, Union

import pytest

from edge_gemma.chat.template import render_chat
from edge_gemma.chat.tools import Tool, Toolbox, tool_schema
from edge_gemma.errors import EdgeGemmaValueError

if TYPE_CHECKING:
    from nowhere import Connection


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
        "anything": {},
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
    "bad", [3, {}, {"name": 3}, {"name": "a b"}, {"name": "x{<|turn>"}, lambda x: x, abs, [google], None, "google"]
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


# ---- hints, one by one -----------------------------------------------------------------------------------------------


def test_a_hint_for_the_type_checker_costs_no_other_argument() -> None:
    def book(seats: int, tags: list[str], link: Connection, wait: Connection = 5, vip: bool = False) -> str:
        """Books."""
        return f"{seats!r} {tags!r} {link!r} {wait!r} {vip!r}"

    with pytest.warns(UserWarning) as caught:
        box = Toolbox([book])
    assert [str(warning.message) for warning in caught] == [
        "Tool book: link is taken as type string, because its type hint cannot be resolved.",
        "Tool book: wait is taken as type string, because its type hint cannot be resolved.",
    ]
    assert caught[0].filename == __file__
    assert box.call("book", {"seats": "3", "tags": "aisle", "link": 7, "vip": "true"}) == "3 ['aisle'] '7' 5 True"


def test_types_inside_a_function_are_found() -> None:
    class Size(enum.Enum):
        SMALL = 1

    def cup(size: Size) -> Any:
        """Fills a cup."""
        return size if size else Size

    assert Toolbox([cup]).call("cup", {"size": "1"}) is Size.SMALL


@dataclasses.dataclass
class Order:
    count: int
    link: Connection


def test_a_field_for_the_type_checker_costs_no_other_field() -> None:
    def send(order: Order) -> str:
        """Sends."""
        return f"{order.count + 1} {order.link}"

    with pytest.warns(UserWarning, match=r"the type hint of Order\.link cannot be resolved"):
        box = Toolbox([send])
    assert box.call("send", {"order": {"count": "2", "link": 3}}) == "3 3"


def test_what_no_model_can_write_is_told() -> None:
    class Engine:
        pass

    def drive(engine: Engine, speed: int) -> str:
        """Drives."""
        return f"{engine} {speed}"

    with pytest.warns(UserWarning, match="engine is taken as type string, because a model cannot write Engine"):
        assert Toolbox([drive]).call("drive", {"engine": "diesel", "speed": "3"}) == "diesel 3"


class Seat(NamedTuple):
    row: int
    letter: str = "a"


@dataclasses.dataclass
class Branch:
    length: float
    branches: list[Branch] = dataclasses.field(default_factory=list)


class Depth(enum.Enum):
    LOW = (0, 1)
    HIGH = (2, 3)


Metres = NewType("Metres", float)


def travel(
    seat: Seat = Seat(1),  # noqa: B008
    day: datetime.date | None = None,
    at: datetime.datetime | None = None,
    key: uuid.UUID | None = None,
    folder: pathlib.Path | None = None,
    price: decimal.Decimal | None = None,
    depth: Depth | None = None,
    far: Metres = Metres(0),
    stops: dict[int, list[datetime.date]] | None = None,
    pair: tuple[int, str] | None = None,
    names: collections.abc.Iterable[str] = (),
    either: Unit | Seat | int | None = None,
    anything: Any = None,
    tree: Branch | None = None,
    data: bytes = b"",
) -> dict[str, Any]:
    """Gives back what it took."""
    return {name: value for name, value in locals().items() if value not in (None, 0, (), b"", Seat(1))}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"seat": {"row": "3"}}, {"seat": Seat(3, "a")}),
        ({"day": "2027-02-03"}, {"day": datetime.date(2027, 2, 3)}),
        ({"at": "2027-02-03T04:05:06Z"}, {"at": datetime.datetime(2027, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)}),
        ({"key": "0" * 32}, {"key": uuid.UUID(int=0)}),
        ({"folder": "/a"}, {"folder": pathlib.Path("/a")}),
        ({"price": 0.1}, {"price": decimal.Decimal("0.1")}),
        ({"depth": "HIGH"}, {"depth": Depth.HIGH}),
        ({"far": "2"}, {"far": 2.0}),
        ({"stops": {"3": ["2027-02-03"]}}, {"stops": {3: [datetime.date(2027, 2, 3)]}}),
        ({"pair": ["1", 2]}, {"pair": (1, "2")}),
        ({"names": "a"}, {"names": ["a"]}),
        ({"either": "F"}, {"either": Unit.FAHRENHEIT}),
        ({"either": {"row": 1, "letter": "b"}}, {"either": Seat(1, "b")}),
        ({"either": 4}, {"either": 4}),
        ({"anything": 3}, {"anything": 3}),
        ({"anything": {"a": [1]}}, {"anything": {"a": [1]}}),
        ({"tree": {"length": 1, "branches": []}}, {"tree": Branch(1.0)}),
        ({"data": "x"}, {"data": b"x"}),
    ],
)
def test_arguments_of_many_types(given: dict[str, Any], taken: dict[str, Any]) -> None:
    assert Toolbox([travel]).call("travel", given) == taken


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"day": "tomorrow"}, "day cannot be 'tomorrow'"),
        ({"pair": [1]}, "pair must have at least 2 elements"),
        ({"either": [1]}, "either must be"),
        ({"key": "x"}, "key cannot be 'x'"),
    ],
)
def test_unusable_values_of_many_types(given: dict[str, Any], words: str) -> None:
    assert words in Toolbox([travel]).call("travel", given)["error"]


def test_a_partial_hides_what_it_has_bound() -> None:
    def light(room: str, on: bool, level: int = 3) -> str:
        """Switches.

        Args:
            on: or off
        """
        return f"{room} {on} {level}"

    for tool in (functools.partial(light, "hall"), functools.partial(light, room="hall")):
        function = tool_schema(tool)["function"]
        assert function["name"] == "light" and function["description"] == "Switches."
        assert list(function["parameters"]["properties"]) == ["on", "level"]
        assert function["parameters"]["properties"]["on"] == {"type": "boolean", "description": "or off"}
        assert Toolbox([tool]).call("light", {"on": "no", "level": "4"}) == "hall False 4"


def test_decorated_functions_keep_their_arguments() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @logged
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    assert Toolbox([double]).call("double", {"n": "4"}) == 8


def bare(*args: int, **kwargs: int) -> None:
    """Its arguments have no names."""


def generator(n: int) -> Any:
    """Gives one by one."""
    yield n


class Heater:
    def warm(self, degrees: int) -> int:
        """Warms."""
        return degrees


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (bare, r"takes \*args: .int., \*\*kwargs"),
        (generator, "is a generator"),
        (Heater.warm, "method without its object"),
    ],
)
def test_functions_that_cannot_be_tools(bad: Any, words: str) -> None:
    with pytest.raises(EdgeGemmaValueError, match=words) as caught:
        Toolbox([bad])
    assert caught.value.code == "tool"
    assert Toolbox([Heater().warm]).call("warm", {"degrees": "20"}) == 20


def test_coroutines_are_run() -> None:
    async def add(a: int, b: int = 1) -> int:
        """Adds."""
        await asyncio.sleep(0)
        return a + b

    async def fail() -> None:
        """Fails."""
        raise LookupError("gone")

    box = Toolbox([add, fail])
    assert box.call("add", {"a": "2"}) == 3

    async def inside() -> tuple[Any, Any]:
        return box.call("add", {"a": 3}), box.call("fail", {})

    assert asyncio.run(inside()) == (4, {"error": "LookupError: gone"})


def test_models_of_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Room(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        name: str = pydantic.Field(description="its name")
        floor: int = pydantic.Field(0, ge=-1, le=9)
        use: Literal["bed", "bath"] | None = None

    def paint(room: Room, layers: Annotated[int, pydantic.Field(ge=1, description="how many")] = 1) -> Any:
        """Paints."""
        return room if layers else Room

    properties = tool_schema(paint)["function"]["parameters"]["properties"]
    assert properties["layers"] == {"type": "integer", "description": "how many", "minimum": 1}
    room = properties["room"]
    assert room["type"] == "object" and room["required"] == ["name"]
    assert room["properties"]["name"]["description"] == "its name"
    assert room["properties"]["use"]["enum"] == ["bed", "bath"] and room["properties"]["use"]["nullable"]
    box = Toolbox([paint, Room])
    made = box.call("paint", {"room": {"name": "x", "floor": "3", "use": "Bed"}})
    assert made == Room(name="x", floor=3, use="bed")
    assert box.call("Room", {"name": "x"}) == Room(name="x")
    assert "at most 9" in box.call("paint", {"room": {"name": "x", "floor": 12}})["error"]
    assert "at least 1" in box.call("paint", {"room": {"name": "x"}, "layers": 0})["error"]
