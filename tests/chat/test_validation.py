"""Finished calls against the schemas that declare them, where a grammar cannot follow these."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.chat.call_grammar import CALL
from edge_gemma.chat.calls import ToolCall, format_call
from edge_gemma.chat.tools import Tool, Toolbox
from edge_gemma.chat.validation import check_of
from support.paths import ROOT
from support.scripted import ScriptedModel

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
pytest.importorskip("jsonschema_rs", reason="needs jsonschema-rs")
pytest.importorskip("llguidance", reason="needs llguidance")

TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"
DIGITS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3}

# What of JSON Schema no grammar of calls follows. Values are short, so that calls which are drawn at random come to their end.
BEYOND: dict[str, dict[str, Any]] = {
    "not": {"x": {"type": "integer", "minimum": 0, "maximum": 5, "not": {"const": 3}}},
    "contains": {"x": {**DIGITS, "contains": {"minimum": 5}}},
    "uniqueItems": {"x": {**DIGITS, "uniqueItems": True}},
    "oneOf": {"x": {"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}]}},
    "enum and bounds": {"x": {"type": "integer", "enum": [1, 2, 3], "minimum": 2}},
    "if": {"x": {"type": "boolean"}, "y": {"type": "boolean"}},
    "minProperties": {"x": {"type": "boolean"}, "y": {"type": "boolean"}},
    "dependentRequired": {"x": {"type": "boolean"}, "y": {"type": "boolean"}},
    "look-around": {"x": {"type": "string", "pattern": "^(?!a)", "maxLength": 2}},
    "map": {
        "x": {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2}
    },
    "names": {"a:b": {"type": "boolean"}, "c,d": {"type": "boolean"}, "e[f]{g}": {"type": "boolean"}},
    "inner names": {"x": {"type": "object", "properties": {"a:b": {"enum": [1]}}, "required": ["a:b"]}},
}
MORE: dict[str, dict[str, Any]] = {
    "if": {"if": {"properties": {"x": {"const": True}}}, "then": {"required": ["y"]}},
    "minProperties": {"minProperties": 1},
    "dependentRequired": {"dependentRequired": {"x": ["y"]}},
    "names": {"required": ["a:b", "c,d"]},
}
OPTIONAL = ("if", "minProperties", "dependentRequired", "names")


def declared(name: str) -> dict[str, Any]:
    required = {} if name in OPTIONAL else {"required": list(BEYOND[name])}
    return {
        "type": "object",
        "properties": BEYOND[name],
        "additionalProperties": False,
        **required,
        **MORE.get(name, {}),
    }


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": parameters}}


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Model]:
    with eg.Model.load(TOY) as model:
        yield model


@pytest.mark.filterwarnings("ignore::UserWarning")  # that the model will not see all of a declaration
@pytest.mark.parametrize("name", BEYOND)
def test_every_call_validates_or_tells_why_not(toy: eg.Model, name: str) -> None:
    """With tokens that are drawn nearly at random."""
    parameters, close = declared(name), {toy.tokenizer.special_tokens[CALL]: 900.0}
    close |= {token: 60.0 for text in ('<|"|>', "}", "]") for token in toy.tokenizer.encode(text, special=True)}
    valid = 0
    for seed in range(12):
        sampling = eg.Sampling(temperature=20.0, top_k=0, top_p=1.0, logit_bias=close)
        with eg.Chat(toy, tools=[tool(parameters)], sampling=sampling, max_tokens=48) as chat:
            chat.session.seed(seed)
            for event in chat.send("Do it."):
                if event.kind == "broken_call":
                    assert event.call is not None and event.call.problem
                elif event.kind == "tool_call":
                    jsonschema.validate(event.arguments, parameters, cls=jsonschema.Draft202012Validator)
                    valid += 1
                elif event.kind == "done":
                    assert event.stop
    assert valid


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("not", {"x": 3}, "x: "),
        ("contains", {"x": [1, 2]}, "x: "),
        ("uniqueItems", {"x": [1, 1]}, "unique"),
        ("oneOf", {"x": 6}, "more than one"),
        ("enum and bounds", {"x": 1}, "minimum"),
        ("if", {"x": True}, '"y"'),
        ("minProperties", {}, "propert"),
        ("dependentRequired", {"x": True}, '"y"'),
        ("look-around", {"x": "ab"}, "match"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_model_is_told_and_may_correct_itself(name: str, arguments: dict[str, Any], words: str) -> None:
    """The call is not run, and is not told as a call."""
    done = []

    def run(**arguments: Any) -> str:
        done.append(arguments)
        return "done"

    box = Toolbox([tool(declared(name))])
    call = box.checked(ToolCall("f", arguments))
    assert "declaration" in call.problem and words in call.problem and len(call.problem) < 300


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_chat_runs_the_corrected_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def f(x: int) -> str:
        calls.append(x)
        return "done"

    answers = [
        format_call("f", {"x": 3}) + "<|tool_response>",
        format_call("f", {"x": 4}) + "<|tool_response>",
        "Done.",
    ]
    model = ScriptedModel(lambda session: answers[session.text.count("<tool_response|>")])
    monkeypatch.setattr("edge_gemma.chat.conversation.Chat._call_grammar", lambda self, constrain: Free())
    given = tool(declared("not"))
    with eg.Chat(model, tools=[Tool(Toolbox([given]).schemas[0], f, declared=declared("not"))]) as chat:
        events = [*chat.send("Four.")]
    assert calls == [4]
    assert [event.kind for event in events if "call" in event.kind] == ["broken_call", "tool_call"]
    results = [event.result for event in events if event.kind == "tool_result"]
    assert "declaration" in results[0]["error"] and results[1] == "done"


class Free:
    """A grammar of calls that allows all of them."""

    def start(self, tokenizer: Any) -> Free:
        return self

    def check(self, token: int) -> None:
        return None

    def accept(self, tokens: Any) -> None: ...

    def forced(self) -> list[int]:
        return []


def test_names_that_a_call_cannot_spell() -> None:
    """The call has the declared names, also inside."""
    box = Toolbox([tool(declared("names"))])
    call = box.checked(ToolCall("f", {"a_b": True, "c_d": False, "e_f__g_": True}))
    assert (call.arguments, call.problem) == ({"a:b": True, "c,d": False, "e[f]{g}": True}, "")
    inner = Toolbox([tool(declared("inner names"))])
    assert inner.checked(ToolCall("f", {"x": {"a_b": 1}})).arguments == {"x": {"a:b": 1}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"properties": {"a": {"type": "string", "nullable": True}}}, {"a": None}, {"a": 3}),
        ({"$schema": "https://example.com/mine", "minProperties": 1}, {"a": 1}, {}),
        ({"properties": {"a": {"minimum": 0, "exclusiveMinimum": True}}}, {"a": 1}, {"a": 0}),
        ({"properties": {"a": {"items": [{"type": "integer"}]}}}, {"a": [1]}, {"a": ["x"]}),
        ({"properties": {"a": {"format": "date"}}}, {"a": "2026-02-28"}, {"a": "2026-02-30"}),
    ],
)
def test_dialects(schema: dict[str, Any], good: Any, bad: Any) -> None:
    check = check_of(schema)
    assert check is not None
    assert check(good) == "" and check(bad) != ""


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"not": {"const": 3}}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def circles() -> dict[str, Any]:
    return {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}


HOSTILE: dict[str, tuple[Any, Any]] = {
    "deep": (nested(5000), {"a": {}}),
    "less deep": (nested(60), {"a": {"a": {}}}),
    "circles": (circles(), {"a": 1}),
    "itself": ({"properties": {"a": {"$ref": "#"}}}, {"a": {"a": {}}}),
    "elsewhere": ({"$ref": "http://127.0.0.1:9/schema.json"}, {}),
    "a huge enum": ({"properties": {"a": {"enum": [f"word{n}" for n in range(50000)]}}}, {"a": "word"}),
    "catastrophic": ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 5000 + "!"}),
    "catastrophic names": ({"patternProperties": {r"^(\w+\s?)*$": {"type": "null"}}}, {"a" * 60 + "!": 1}),
    "look-around": ({"properties": {"a": {"pattern": "^(?=a)(a+)+$"}}}, {"a": "a" * 60 + "!"}),
    "references back": ({"properties": {"a": {"pattern": r"^(a+)\1+(a+)\2+$"}}}, {"a": "a" * 3001 + "!"}),
    "no schema": ({"type": "strin"}, {}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas(name: str) -> None:
    """A bounded time, and no crash."""
    schema, data = HOSTILE[name]
    begin = time.perf_counter()
    check = check_of(schema)
    assert check is None or len(check(data)) <= 250
    assert time.perf_counter() - begin < 30  # hours are what this is about


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    call = ToolCall("f", {"x": 3})
    with pytest.warns(UserWarning, match="not"):
        assert Toolbox([tool(declared("not"))]).checked(call) == call


TOOLS: dict[str, Any] = {
    **{name: schema for name, (schema, _) in HOSTILE.items()},
    "nested repetition": {"properties": {"a": {"type": "string", "pattern": "^(.{1,1000}){1,1000}$"}}},
    "a window": {"properties": {"a": {"type": "string", "pattern": "^(a|aa|aaa|b)*c(.*x.{500})$"}}},
    "a long text": {"properties": {"a": {"type": "string", "minLength": 10**7}}, "required": ["a"]},
    "many items": {"properties": {"a": {"type": "array", "items": {"type": "null"}, "minItems": 10**9}}},
    "many members": {"properties": {"a": {"type": "object", "minProperties": 10**9}}},
    "many arguments": {"properties": {f"k{number}": {"type": "string"} for number in range(20000)}},
    "alternatives": {"anyOf": [{"properties": {f"p{i}{j}": {"type": "null"}}} for i in range(40) for j in range(40)]},
    "tuples": {"properties": {"a": {"prefixItems": [{"enum": list(range(50))}] * 300}}},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TOOLS)
def test_hostile_declarations(toy: eg.Model, name: str) -> None:
    """They are refused, calls are free or checked, or a call ends for a reason: in a bounded time."""
    begin = time.perf_counter()
    sampling = eg.Sampling(temperature=20.0, top_k=0, top_p=1.0, logit_bias={toy.tokenizer.special_tokens[CALL]: 900.0})
    try:
        with eg.Chat(toy, tools=[tool({"type": "object", **TOOLS[name]})], sampling=sampling, max_tokens=24) as chat:
            chat.session.seed(1)
            done = [*chat.send("Do it.")][-1]
            assert done.stop
    except eg.EdgeGemmaError as error:
        assert error.code in ("tool", "argument", "grammar", "context") and str(error).endswith(".")
    assert time.perf_counter() - begin < 60
