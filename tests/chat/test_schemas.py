"""Tools as people have them: schemas of MCP, pydantic and others, hints that do not resolve, asynchronous functions."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import pytest

from edge_gemma.chat.conversation import Chat
from edge_gemma.chat.tools import Tool, Toolbox, plain_schema, tool_schema
from edge_gemma.errors import EdgeGemmaError
from support.paths import ROOT
from support.scripted import ScriptedModel, ScriptedTokenizer

if TYPE_CHECKING:
    from nowhere import Seat


@dataclasses.dataclass
class Order:
    count: int
    seat: Seat


OFFICIAL = (ROOT / "edge_gemma" / "chat" / "chat_template.jinja").read_text()
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def shown(*tools: Any, template: str | None = None) -> str:
    """What the model reads of tools."""
    model = ScriptedModel(["x"], tokenizer=ScriptedTokenizer(template))
    chat = Chat(model, tools=list(tools))
    list(chat.send("Hi"))
    return model.tokenizer.decode(chat.session.tokens, special=True).split("Hi")[0]


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "f", "description": "d", "inputSchema": PARAMETERS},
        {"name": "f", "description": "d", "input_schema": PARAMETERS},
        {"name": "f", "description": "d", "parameters": PARAMETERS},
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS}},
        {"type": "function", "name": "f", "description": "d", "parameters": PARAMETERS, "strict": True},
        {
            "name": "f",
            "title": "F",
            "description": "d",
            "inputSchema": PARAMETERS,
            "outputSchema": {},
            "annotations": {},
        },
    ],
)
def test_where_arguments_stand(tool):
    assert tool_schema(tool)["function"]["parameters"] == PARAMETERS
    assert "city" in shown(tool) and "city" in shown(tool, template=OFFICIAL)


def test_a_tool_of_the_mcp_library():
    class Listed:
        def model_dump(self, exclude_none=False):
            return {"name": "f", "inputSchema": PARAMETERS}

    assert tool_schema(Listed())["function"] == {"name": "f", "description": "", "parameters": PARAMETERS}


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ({"name": "f", "parameters": PARAMETERS, "inputSchema": PARAMETERS}, "told twice"),
        ({"name": "f", "parameters": {"city": {"description": "x"}}}, "no JSON schema"),
        ({"name": "f", "inputSchema": "string"}, "no JSON schema"),
        ({"name": "f", "parameters": {**PARAMETERS, "required": ["town"]}}, "town is required, but not among"),
    ],
)
def test_what_the_model_could_not_be_told(tool, message):
    with pytest.raises(EdgeGemmaError, match=message):
        tool_schema(tool)


def test_references_and_choices():
    """As pydantic writes nested models, what may be null, and constants."""
    schema = {
        "$defs": {
            "Size": {"enum": ["small", "large"], "title": "Size", "type": "string"},
            "Pizza": {
                "type": "object",
                "title": "Pizza",
                "properties": {"size": {"$ref": "#/$defs/Size"}, "of": {"$ref": "#/$defs/Pizza"}},
            },
        },
        "type": "object",
        "properties": {
            "pizza": {"$ref": "#/$defs/Pizza", "description": "what"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "when": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "tip": {"type": ["number", "null"]},
            "kind": {"const": "order"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/Size"}},
        },
    }
    found = plain_schema(schema)["properties"]
    size = {"type": "string", "enum": ["small", "large"]}
    assert found["pizza"]["properties"]["size"] == size and found["pizza"]["description"] == "what"
    assert found["pizza"]["properties"]["of"] == {"type": "object"}  # it contains itself
    assert found["note"] == {"type": "string", "nullable": True, "default": None}
    assert found["when"]["type"] == "integer" and [c["type"] for c in found["when"]["anyOf"]] == ["integer", "string"]
    assert found["tip"] == {"type": "number", "nullable": True}
    assert found["kind"] == {"type": "string", "enum": ["order"]} and found["list"]["items"] == size
    tool = Tool({"type": "function", "function": {"name": "f", "parameters": plain_schema(schema)}})
    arguments = {"pizza": {"size": "LARGE"}, "note": None, "when": "noon", "tip": "2.5", "list": ["small"]}
    assert tool.convert(arguments)["pizza"] == {"size": "large"} and tool.convert(arguments)["tip"] == 2.5


def test_models_of_pydantic():
    pydantic = pytest.importorskip("pydantic")
    Order = pydantic.create_model("Order", city=(str, ...), count=(int | None, None))

    def send(order) -> str:
        return f"{type(order).__name__} {order.city} {order.count}"

    send.__annotations__["order"] = Order
    box = Toolbox([send])
    assert box.schemas[0]["function"]["parameters"]["properties"]["order"]["properties"]["city"] == {"type": "string"}
    assert box.call("send", {"order": {"city": "Rome", "count": "3"}}) == "Order Rome 3"


@pytest.mark.parametrize("template", [None, OFFICIAL])
def test_arguments_that_have_the_names_of_schema_words(template):
    """Templates leave such names out where they walk through a schema."""

    def post(type: str, description: str, nullable: bool, city: str) -> None:
        """Posts."""

    names = ("type", "description", "nullable", "required", "properties")
    ready = {"name": "nested", "parameters": {"type": "object", "properties": {
        "item": {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": ["type"]}
    }}}  # fmt: skip
    text = shown(post, ready, template=template)
    for name in ("type", "description", "nullable", "city"):
        assert text.split("nested")[0].count(f"{name}:{{") == 1, text
    for name in names:
        assert f"{name}:{{" in text.split("nested")[1], text
    assert not any("\ue000" <= char <= "\uf8ff" for char in text)  # the marks are gone


def test_hints_are_resolved_one_by_one():
    def book(seats: int, tags: list[str], seat: Seat, when: Nothing = None) -> str:  # noqa: F821
        return f"{seats + 1} {tags} {seat}"

    with pytest.warns(UserWarning, match=r"Tool book: the type hint 'Seat' of seat cannot be resolved"):
        box = Toolbox([book])
    properties = box.schemas[0]["function"]["parameters"]["properties"]
    assert properties["seats"] == {"type": "integer"} and properties["tags"]["items"] == {"type": "string"}
    assert properties["seat"] == {"type": "string"}
    with pytest.warns(UserWarning):
        assert box.call("book", {"seats": "3", "tags": "window", "seat": "A1"}) == "4 ['window'] A1"


def test_classes_with_hints_that_do_not_resolve():
    def send(order: Order) -> int:
        return order.count + 1

    with pytest.warns(UserWarning, match="seat"):
        box = Toolbox([send])
        assert box.schemas[0]["function"]["parameters"]["properties"]["order"]["properties"]["count"] == {
            "type": "integer"
        }
        assert box.call("send", {"order": {"count": "2", "seat": "x"}}) == 3


def test_partial_and_asynchronous_functions():
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    def scale(factor: int, number: int) -> int:
        """Scales."""
        return factor * number

    box = Toolbox([double, functools.partial(scale, 3)])
    assert [schema["function"]["name"] for schema in box.schemas] == ["double", "scale"]
    assert box.schemas[1]["function"]["parameters"]["properties"] == {"number": {"type": "integer"}}
    assert box.call("double", {"number": "4"}) == 8 and box.call("scale", {"number": "4"}) == 12

    async def inside() -> Any:
        return box.call("double", {"number": 5})  # also where a loop runs already

    assert asyncio.run(inside()) == 10
