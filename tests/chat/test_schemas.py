"""Ready schemas of tools: the forms in which other programs have them, what is resolved, and what the model is shown."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from edge_gemma.chat.prompt import Prompt
from edge_gemma.chat.schemas import shown_schema
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.chat.tools import Tool, Toolbox, tool_schema
from edge_gemma.errors import EdgeGemmaValueError
from support.scripted import ScriptedTokenizer

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
PARAMETERS = {"type": "object", "properties": {"city": STRING, "days": {"type": "integer"}}, "required": ["city"]}


def parameters_of(schema: Any) -> dict[str, Any]:
    """The parameters, resolved without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: dict[str, Any] = tool_schema({"name": "f", "parameters": schema})["function"]["parameters"]
    return found


def argument(schema: Any, **root: Any) -> Any:
    """The resolved schema of one argument."""
    return parameters_of({"type": "object", "properties": {"a": schema}, **root})["properties"]["a"]


@pytest.mark.parametrize(
    "tool",
    [
        {
            "type": "function",
            "function": {"name": "f", "description": "Tells.", "parameters": PARAMETERS, "strict": True},
        },
        {"type": "function", "name": "f", "description": "Tells.", "parameters": PARAMETERS, "strict": None},
        {"name": "f", "description": "Tells.", "input_schema": PARAMETERS, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "f", "description": "Tells.", "input_schema": PARAMETERS},
        {
            "name": "f",
            "title": "F",
            "description": "Tells.",
            "inputSchema": PARAMETERS,
            "annotations": None,
            "icons": None,
        },
        {"name": "f", "description": "Tells.", "inputSchema": PARAMETERS, "parameters": PARAMETERS, "outputSchema": {}},
        {"name": "f", "description": "Tells.", "parameters_json_schema": PARAMETERS},
    ],
)
def test_the_forms_of_others(tool: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function = tool_schema(tool)["function"]
    assert function["name"] == "f" and function["description"] == "Tells." and function["parameters"] == PARAMETERS
    assert not {"inputSchema", "input_schema", "parameters_json_schema", "type"} & set(function)


def test_tools_of_mcp() -> None:
    types = pytest.importorskip("mcp.types")
    tool = types.Tool(name="f", inputSchema=PARAMETERS)
    for given in (tool, tool.model_dump(), tool.model_dump(exclude_none=True)):
        function = tool_schema(given)["function"]
        assert function["name"] == "f" and function["description"] == "" and function["parameters"] == PARAMETERS
    assert not Toolbox([tool]).can_call("f")


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ({"name": "f", "properties": {"a": STRING}}, '"properties", which is not read'),
        ({"name": "f", "args": {"a": STRING}}, '"args", which is not read'),
        ({"name": "f", "parameters": PARAMETERS, "inputSchema": {"type": "object"}}, "different schemas"),
        ({"functionDeclarations": [{"name": "f"}]}, "several tools"),
        ({"type": "web_search_20250305", "name": "web_search"}, "only the service"),
        ({"name": "f", "parameters": [STRING]}, "no JSON schema"),
        ({"name": "f", "inputSchema": "string"}, "no JSON schema"),
        ({"name": "f", "parameters": {"city": {"description": "x"}}}, 'no "properties"'),
        ({"name": "f", "parameters": {"type": "array"}}, "must be an object"),
        ({"name": "f", "parameters": {"type": "object", "properties": [STRING]}}, "no mapping"),
        ({"name": "f", "parameters": {"properties": {"a": "string"}}}, "a is no JSON schema"),
        ({"name": "f", "parameters": {"properties": {"a": {"type": "str"}}}}, "of type 'str'"),
        ({"name": "f", "parameters": {"properties": {"a": {**STRING, "required": True}}}}, "list of names"),
        ({"name": "f", "parameters": {"properties": {"a": STRING}, "required": ["b"]}}, '"required" names b'),
        ({"name": "f", "parameters": {"properties": {"a": {"enum": "x"}}}}, "enum is no list"),
        ({"name": "f", "parameters": {"properties": {"a": {"$ref": "#/$defs/A"}}}}, "points to nothing"),
        ({"name": "f", "parameters": {"properties": {"a": {"$ref": "https://a.b/c"}}}}, "outside of the schema"),
    ],
)
def test_schemas_of_which_something_would_be_lost(tool: dict[str, Any], words: str) -> None:
    with pytest.raises(EdgeGemmaValueError, match=words) as caught:
        Toolbox([tool])
    assert caught.value.code == "tool"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"$ref": "#/$defs/Size"}, {"type": "string", "enum": ["s", "m"]}),
        ({"$ref": "#/$defs/Size", "description": "d"}, {"type": "string", "enum": ["s", "m"], "description": "d"}),
        ({"allOf": [{"$ref": "#/$defs/Size"}], "default": "s"}, {"type": "string", "enum": ["s", "m"], "default": "s"}),
        ({"$ref": "#/$defs/a~1b"}, {"type": "integer"}),
        ({"anyOf": [STRING, {"type": "null"}], "default": None}, {"type": "string", "nullable": True, "default": None}),
        (
            {"oneOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]},
            {"type": "string", "enum": ["s", "m"], "nullable": True},
        ),
        ({"type": ["integer", "null"]}, {"type": "integer", "nullable": True}),
        ({"type": "STRING"}, STRING),
        ({"const": 3}, {"type": "integer", "enum": [3]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, {"type": "string", "enum": ["a", "b"]}),
        ({"type": ["string", "number"]}, {"type": "string", "anyOf": [STRING, {"type": "number"}]}),
        (
            {"anyOf": [STRING, {"anyOf": [STRING, {"type": "integer"}]}]},
            {"type": "string", "anyOf": [STRING, {"type": "integer"}]},
        ),
        ({"items": STRING}, {"type": "array", "items": STRING}),
        (True, {}),
        ({"properties": {"x": False, "y": {}}}, {"type": "object", "properties": {"y": {}}}),
        (
            {
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": STRING},
                "oneOf": [{"properties": {"n": {}}}],
            },
            {"type": "object", "properties": {"kind": STRING, "n": {}}, "required": ["kind"]},
        ),
        (
            {"allOf": [{"properties": {"x": STRING}}, {"properties": {"y": STRING}}, {"required": ["x", "y"]}]},
            {"type": "object", "properties": {"x": STRING, "y": STRING}, "required": ["x", "y"]},
        ),
    ],
)
def test_schemas_are_resolved(given: Any, found: dict[str, Any]) -> None:
    assert argument(given, **{"$defs": {"Size": {"enum": ["s", "m"]}, "a/b": {"type": "integer"}}}) == found


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({**PARAMETERS, "dependentRequired": {"days": ["city"]}}, "dependentRequired will not reach the model"),
        ({**PARAMETERS, "anyOf": [{"required": ["days"]}]}, "anyOf will not"),
        ({"properties": {"a": {**STRING, "propertyNames": STRING}}}, "propertyNames will not"),
        (
            {"$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}}, "$ref": "#/$defs/N"},
            "the recursion of #/\\$defs/N",
        ),
    ],
)
def test_what_is_not_understood_is_told_once(schema: dict[str, Any], words: str) -> None:
    with pytest.warns(UserWarning, match=words) as caught:
        tool_schema({"name": "f", "parameters": schema})
    assert len(caught) == 1 and caught[0].filename == __file__


def test_the_caller_schema_is_not_changed() -> None:
    given = {"type": "object", "properties": {"a": {"anyOf": [{"const": 1}, {"type": "null"}]}}}
    before = repr(given)
    tool_schema({"name": "f", "parameters": given})
    assert repr(given) == before


@pytest.mark.parametrize(
    ("schema", "given", "taken"),
    [
        ({"$ref": "#/$defs/P"}, {"x": "3"}, {"x": 3}),
        ({"anyOf": [{"$ref": "#/$defs/P"}, STRING]}, {"x": 3}, {"x": 3}),
        ({"anyOf": [{"$ref": "#/$defs/P"}, STRING]}, "p", "p"),
        ({"anyOf": [STRING, {"type": "number"}]}, 3, 3),
        ({"const": 3}, "3", 3),
        ({"prefixItems": [{"type": "integer"}, STRING]}, ["1", 2], [1, "2"]),
        ({"type": ["string", "null"]}, None, None),
        ({}, {"k": [1]}, {"k": [1]}),
    ],
)
def test_resolved_schemas_convert(schema: Any, given: Any, taken: Any) -> None:
    def take(**arguments: Any) -> Any:
        return arguments["a"]

    defs = {"P": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}
    tool = tool_schema({"name": "f", "parameters": {"properties": {"a": schema}, "required": ["a"], "$defs": defs}})
    assert Toolbox([Tool(tool, take)]).call("f", {"a": given}) == taken


@pytest.mark.parametrize(
    ("schema", "given", "words"),
    [
        ({"type": "integer", "minimum": 1}, 0, "a must be at least 1, not 0"),
        ({"type": "number", "exclusiveMaximum": 2}, 2, "a must be less than 2"),
        ({"type": "string", "maxLength": 2}, "abc", "a must have at most 2 characters, not 3"),
        ({"type": "array", "minItems": 2}, [1], "a must have at least 2 elements, not 1"),
    ],
)
def test_limits_are_checked(schema: dict[str, Any], given: Any, words: str) -> None:
    tool = Tool(tool_schema({"name": "f", "parameters": {"properties": {"a": schema}}}), lambda a: a)
    assert words in Toolbox([tool]).call("f", {"a": given})["error"]


def test_templates_are_shown_what_they_print() -> None:
    schema = {
        "properties": {
            "n": {"type": "integer", "minimum": 1, "enum": [1, 2], "description": "How many.", "title": "N"},
            "table": {"type": "object", "additionalProperties": {"type": "number"}},
            "either": {"anyOf": [{"type": "integer"}, {"type": "array", "items": STRING}], "default": 3},
            "day": {"type": "string", "format": "date"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/P"}, "x-order": 1},
        },
        "$defs": {"P": {"type": "object", "properties": {"x": STRING}, "additionalProperties": False}},
    }
    shown = shown_schema(tool_schema({"name": "f", "parameters": schema}))["function"]["parameters"]
    assert shown == {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "enum": [1, 2], "description": "How many. (one of 1, 2; at least 1)"},
            "table": {"type": "object", "properties": {}, "description": "(any keys, with values: number)"},
            "either": {"type": "integer", "description": "(integer or array of string; default 3)"},
            "day": {"type": "string", "description": "(format date)"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": STRING}}},
        },
    }


KEYWORDS = {
    "type": "object",
    "properties": {
        "description": {"type": "string", "description": "what it is"},
        "type": {"type": "string", "enum": ["a", "b"]},
        "properties": {"type": "object", "properties": {"required": {"type": "boolean"}, "other": STRING}},
        "nullable": {
            "type": "array",
            "items": {"type": "object", "properties": {"type": STRING}, "required": ["type"]},
        },
    },
    "required": ["type"],
}


@pytest.mark.parametrize("own", [True, False])
def test_arguments_may_have_the_names_of_keywords(own: bool, request: pytest.FixtureRequest) -> None:
    template = BUILTIN_TEMPLATE if own else request.getfixturevalue("file_template")
    tokenizer = ScriptedTokenizer()
    prompt = Prompt(tokenizer, template, [tool_schema({"name": "f", "parameters": KEYWORDS})])
    units = prompt.conversation([{"role": "user", "content": "x"}])
    text = tokenizer.decode([unit for unit in units if isinstance(unit, int)], special=True)
    declared = text.partition("<|tool>")[2].partition("<tool|>")[0]
    text_type, quote = 'type:<|"|>STRING<|"|>', '<|"|>'
    assert f"description:{{description:{quote}what it is{quote},{text_type}}}" in declared
    assert f"type:{{enum:[{quote}a{quote},{quote}b{quote}],{text_type}}}" in declared.replace(" enum", "enum")
    assert "required:{" in declared and f"other:{{{text_type}}}" in declared
    assert f"type:{{{text_type}}}" in declared and f"required:[{quote}type{quote}]" in declared
    assert all(ord(character) < 0x10000 for character in text)


def test_names_that_the_notation_cannot_hold_are_found_again() -> None:
    schema = {"properties": {"filter[name]": STRING, "user:id": {"type": "integer"}}, "required": ["user:id"]}
    tool = Tool(tool_schema({"name": "f", "parameters": schema}), lambda **given: given)
    assert Toolbox([tool]).call("f", {"filter_name_": "x", "user_id": "3"}) == {"filter[name]": "x", "user:id": 3}
