"""Calls of tools that keep to their declarations, whatever the model would rather write; and replies around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.chat.call_grammar import CALL, call_grammar, whole_pattern
from edge_gemma.chat.calls import format_call
from edge_gemma.chat.reply_grammar import ReplyForm
from edge_gemma.chat.structured import Grammar
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import Home
from support.paths import ROOT

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
pytest.importorskip("llguidance", reason="needs llguidance")

TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"
RANDOM = eg.Sampling(temperature=30.0, top_k=0, top_p=1.0)
KINDS = ("integer", "string", "number", "boolean")


def an_object(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def declared(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": parameters}}


DECLARED = [
    declared("nothing", an_object({})),
    declared(
        "home.light-set",
        an_object({"room": {"type": "string", "enum": ["kitchen", "living room"]}, "on": {"type": "boolean"}}, "room"),
    ),
    declared("a.b.c", an_object({f"p{i}": {"type": KINDS[i % 4]} for i in range(8)}, "p0", "p3", "p7")),
    declared(
        "all_optional",
        an_object(
            {
                "a": {"type": "integer", "minimum": 3, "maximum": 9},
                "b": {"type": "number", "exclusiveMinimum": 0},
                "C": {"type": "string", "maxLength": 5},
            }
        ),
    ),
    declared(
        "nested",
        an_object(
            {
                "who": an_object(
                    {
                        "name": {"type": "string", "maxLength": 8},
                        "tags": {
                            "type": "array",
                            "items": {"type": "string", "maxLength": 3},
                            "minItems": 1,
                            "maxItems": 3,
                        },
                    },
                    "name",
                    "tags",
                ),
                "when": {"type": "string", "format": "date"},
            },
            "who",
        ),
    ),
    declared(
        "lists",
        an_object(
            {
                "matrix": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                    "maxItems": 2,
                },
                "pair": {
                    "type": "array",
                    "prefixItems": [{"type": "boolean"}, {"type": "integer"}],
                    "items": False,
                    "minItems": 1,
                },
                "rest": {
                    "type": "array",
                    "prefixItems": [{"type": "boolean"}],
                    "items": {"type": "integer"},
                    "maxItems": 3,
                },
                "none": {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
            },
            "matrix",
            "pair",
        ),
    ),
    declared("free", an_object({"x": {"type": "object"}, "y": {"type": "array"}, "z": {}}, "x", "y", "z")),
    declared(
        "a_map",
        an_object(
            {
                "x": {"type": "object", "additionalProperties": {"type": "integer"}},
                "k-1.x": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 10}]},
            },
            "x",
            "k-1.x",
        ),
    ),
    declared(
        "patterns",
        an_object(
            {
                "code": {"type": "string", "pattern": "^[0-9]{3}-[0-9]{4}$"},
                "slash": {"type": "string", "pattern": "^a/b(c|d)$|^e$"},
                "mail": {"type": "string", "format": "email", "maxLength": 12},
                "length": {"type": "string", "minLength": 2, "maxLength": 4},
                "maybe": {"type": ["string", "null"], "maxLength": 3},
                "mixed": {"enum": [1, "1", None, True]},
            },
            "code",
            "mail",
            "length",
            "maybe",
            "mixed",
        ),
    ),
    declared(
        "formats",
        an_object(
            {
                name: {"type": "string", "format": name}
                for name in ("date", "time", "date-time", "duration", "hostname", "ipv4", "ipv6", "uuid")
            },
            "date",
            "time",
            "date-time",
            "ipv6",
        ),
    ),
    declared(
        "dialects",
        an_object(
            {
                "word": {"type": "string", "pattern": r"^\w{2,4}$"},
                "other": {"type": "string", "pattern": r"^[\W|]{1,3}$"},
                "digits": {"type": "string", "pattern": r"^\d+$"},
                "groups": {"type": "string", "pattern": "(^a$)|(?:^b|c$)"},
                "set": {"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}, "uniqueItems": True},
                "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
            },
            "word",
            "digits",
            "groups",
            "set",
            "fraction",
        ),
    ),
    declared("größe-名前", an_object({"größe": {"type": "integer"}, "a b": {"type": "boolean"}}, "größe", "a b")),
]


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Model]:
    with eg.Model.load(TOY) as model:
        yield model


def written(model: eg.Model, tools: list[dict[str, Any]], seed: int, sampling: eg.Sampling) -> eg.Generation:
    grammar = call_grammar(Toolbox(tools).schemas, model.tokenizer)
    session = model.session(2048)
    session.feed_tokens([2, model.tokenizer.special_tokens[CALL]])
    session.seed(seed)
    return session.generate(600, sampling=sampling, grammar=grammar, special=True)


@pytest.mark.parametrize(
    "tools", [*[[tool] for tool in DECLARED], DECLARED], ids=lambda tools: tools[0]["function"]["name"]
)
def test_every_call_validates(toy: eg.Model, tools: list[dict[str, Any]]) -> None:
    close = {
        token: 90.0 for text in ('<|"|>', "}", "]", "@a", ".b") for token in toy.tokenizer.encode(text, special=True)
    }
    ending, finished = eg.Sampling(temperature=20.0, top_k=0, top_p=1.0, logit_bias=close), 0
    for seed, sampling in enumerate([eg.Sampling(temperature=0), eg.Sampling(), RANDOM, RANDOM, *[ending] * 6]):
        generation = written(toy, tools, seed, sampling)
        assert generation.stop in ("eos", "turn", "length")
        if generation.stop == "length":
            continue
        validated(generation.text, tools)
        finished += 1
    assert finished


def validated(text: str, tools: list[dict[str, Any]]) -> None:
    """The text is one call, which keeps to its declaration."""
    reply = eg.parse_reply(CALL + text)
    assert len(reply.tool_calls) == 1 and not reply.broken_calls, text
    call = reply.tool_calls[0]
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}[call.name]
    kind = jsonschema.Draft202012Validator
    strict = {**parameters, "additionalProperties": False}
    jsonschema.validate(call.arguments, strict, cls=kind, format_checker=kind.FORMAT_CHECKER)


@pytest.mark.parametrize("shape", ["e2b", "e4b", "moe", "dense"])
def test_every_call_of_random_weights_validates(shape: str) -> None:
    finished = 0
    with eg.Model.load(ROOT / "tests" / "data" / f"{shape}-Q4_0.gguf", threads=2) as model:
        for tools in [*[[tool] for tool in DECLARED], DECLARED]:
            for seed, temperature in enumerate((0.0, 0.7, 1.0, 2.0)):
                top = {"top_k": 0, "top_p": 1.0} if temperature > 1 else {}
                generation = written(model, tools, seed, eg.Sampling(temperature=temperature, **top))
                assert generation.stop in ("eos", "turn", "length")
                if generation.stop != "length":
                    validated(generation.text, tools)
                    finished += 1
    assert finished > 2 * len(DECLARED)


def test_the_calls_of_a_home_can_be_written(toy: eg.Model) -> None:
    """The calls of templates, with their arguments in their order, are what the grammar wants."""
    box = Toolbox(Home().tools)
    grammar = call_grammar(box.schemas, toy.tokenizer)
    assert grammar is not None
    for name, arguments in [
        ("switch", {"thing": "light", "room": "kitchen", "on": True}),
        ("set_timer", {"amount": 10, "unit": "minutes"}),
    ]:
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in box.schemas}
        if name not in known or set(arguments) - set(known[name]["properties"]):
            continue
        text = format_call(name, arguments).removeprefix(CALL)
        following = grammar.start(toy.tokenizer)
        for token in toy.tokenizer.encode(text, special=True):
            assert following.check(token) is None, text
            following.accept([token])
        assert following.complete


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ("^ab$", ["ab"], ["xab", "abx", ""]),
        ("b", ["b", "abc"], ["", "ac"]),
        ("^a|b$", ["a", "ax", "xb", "b"], ["xa", "bx"]),
        ("^(a|b)$", ["a", "b"], ["ab"]),
        ("^[a|]$", ["a", "|"], ["b"]),
        (r"^a\|b$", ["a|b"], ["a"]),
        (r"\$$", ["1$"], ["1", "$1"]),
        ("[$]$", ["1$"], ["$1"]),
        ("(^a$)|(^b$)", ["a", "b"], ["ab", "xa"]),
        ("(?:^a|b$)", ["a", "ax", "xb"], ["xa"]),
        ("(a)(b)", ["xabx"], ["a", "b"]),
    ],
)
def test_patterns_of_whole_texts(pattern: str, fits: list[str], fails: list[str]) -> None:
    whole = whole_pattern(pattern)
    assert whole is not None
    assert all(re.fullmatch(whole, text) for text in fits)
    assert not any(re.fullmatch(whole, text) for text in fails)


def test_patterns_with_inner_anchors() -> None:
    assert whole_pattern("a(^b|c)") is None
    assert whole_pattern(r"a\bb") is None
    assert whole_pattern("(^a)(b$)") is None


@pytest.mark.parametrize("pattern", [r"\bx", "^(?!x)y", "a(^b|c)"])
def test_a_pattern_that_cannot_be_followed_is_told(toy: eg.Model, pattern: str) -> None:
    """All else of the declarations still holds."""
    parameters = an_object({"x": {"type": "string", "pattern": pattern}, "n": {"enum": [7]}}, "x", "n")
    with pytest.warns(UserWarning, match="does not limit its calls"):
        grammar = call_grammar(Toolbox([declared("f", parameters)]).schemas, toy.tokenizer)
    assert grammar is not None
    assert toy.tokenizer.decode(grammar.start(toy.tokenizer).forced(), special=True).startswith("call:f{")


# ---- replies ---------------------------------------------------------------------------------------------------------------

ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


class Reading:
    """Follows a reply of which the text is given, and tells what is refused."""

    def __init__(self, model: eg.Model, **options: Any) -> None:
        calls = call_grammar(Toolbox([DECLARED[1]]).schemas, model.tokenizer) if options.pop("tools", True) else None
        schema = options.pop("schema", None)
        answer = Grammar.json_schema(schema) if schema else None
        self.tokenizer = model.tokenizer
        self.constraint = ReplyForm(calls, answer, **options).start(model.tokenizer)

    def refused(self, text: str) -> str:
        """The first token of the text that may not come; "" if all may."""
        for token in self.tokenizer.encode(text, special=True):
            mask = self.constraint.check(token)
            if mask is not None:
                assert not mask[token // 32] >> np.uint32(token % 32) & 1
                assert mask.any()
                return self.tokenizer.decode([token], special=True)
            self.constraint.accept([token])
        return ""


GOOD = '<|tool_call>call:home.light-set{on:true,room:<|"|>kitchen<|"|>}<tool_call|>'


def test_text_and_calls(toy: eg.Model) -> None:
    assert Reading(toy).refused("Hello there. " + GOOD + GOOD + "Done.<turn|>") == ""
    assert Reading(toy).refused("<|channel>thought\nA call?<channel|>Yes. " + GOOD) == ""
    assert Reading(toy).refused("Hello." + GOOD.replace("kitchen", "cellar")) != ""
    assert Reading(toy).refused(GOOD.replace("on:true", "on:3")) != ""
    assert Reading(toy).refused(GOOD.replace("home.light-set", "other")) != ""
    assert Reading(toy).refused(GOOD.replace("<tool_call|>", "<turn|>")) == "<turn|>"
    assert Reading(toy, tools=False).refused("<|tool_call>anything<turn|>") == ""


def test_an_answer_with_a_form(toy: eg.Model) -> None:
    assert Reading(toy, schema=ANSWER).refused('{"n": 3}<turn|>') == ""
    assert Reading(toy, schema=ANSWER).refused("Sure!") != ""
    assert Reading(toy, schema=ANSWER).refused(GOOD + "<|tool_response>") == ""
    assert Reading(toy, schema=ANSWER).refused(GOOD + GOOD + "<turn|>") == ""
    assert Reading(toy, schema=ANSWER).refused(GOOD + '{"') != ""
    assert Reading(toy, schema=ANSWER).refused('{"n": 3}' + GOOD) == "<|tool_call>"
    assert Reading(toy, schema=ANSWER, tools=False).refused(GOOD) == "<|tool_call>"
    assert Reading(toy, schema=ANSWER).refused("<|channel>thought\nHm.<channel|>") == "<|channel>"
    assert Reading(toy, schema=ANSWER, thinking=True).refused('<|channel>thought\nHm.<channel|>{"n": 3}<eos>') == ""
    assert Reading(toy, schema=ANSWER, in_thought=True).refused('Hm.<channel|>{"n": 3}<turn|>') == ""


def test_forced_tokens_of_replies(toy: eg.Model) -> None:
    """What begins an answer is forced only if nothing else could begin."""
    first = toy.tokenizer.encode('{"n": ')[0]
    assert Reading(toy, schema=ANSWER, tools=False).constraint.forced()[:1] == [first]
    assert Reading(toy, schema=ANSWER).constraint.forced() == []
    assert Reading(toy, schema=ANSWER, tools=False, thinking=True).constraint.forced() == []
    reading = Reading(toy)
    assert reading.refused(CALL) == ""
    assert toy.tokenizer.decode(reading.constraint.forced()).startswith("call:home")


def test_a_chat_with_a_schema(toy: eg.Model) -> None:
    with eg.Chat(toy) as chat:
        done = [*chat.send("How many?", schema=ANSWER, sampling=eg.Sampling(seed=1))][-1]
        assert done.reply is not None and done.stats is not None
        assert done.stats["stop"] == "length" or set(json.loads(done.reply.content)) == {"n"}
        with pytest.raises(eg.EdgeGemmaError, match="schema cannot be used"):
            chat.send("How many?", schema={"type": "strin"})
        assert len(chat.history) == 2


def test_a_chat_constrains_calls(toy: eg.Model) -> None:
    """At a temperature at which a model writes nonsense, every call is whole and valid; without the constraint none is."""
    likely = {toy.tokenizer.special_tokens[CALL]: 400.0}
    for constrain, valid in ((True, True), (False, False)):
        calls = []
        for seed in range(6):
            sampling = eg.Sampling(temperature=30.0, top_k=0, top_p=1.0, logit_bias=likely)
            with eg.Chat(toy, tools=[DECLARED[1]], constrain=constrain, sampling=sampling, max_tokens=40) as chat:
                chat.session.seed(seed)
                done = [*chat.send("Light!")][-1]
                assert done.reply is not None
                calls += done.reply.tool_calls
        right = [call for call in calls if call.name == "home.light-set" and "room" in call.arguments]
        assert bool(right) == valid and (not valid or right == calls)


def test_declarations_that_are_too_large(toy: eg.Model) -> None:
    words = [f"value number {number}" for number in range(2000)]
    many = [declared(f"f{i}", an_object({"x": {"enum": [f"{word} of {i}" for word in words]}})) for i in range(40)]
    with pytest.raises(eg.EdgeGemmaError, match="2,000,000") as caught:
        eg.Chat(toy, tools=many, constrain=True)
    assert caught.value.code == "argument"
    with pytest.warns(UserWarning, match="not limited"):
        eg.Chat(toy, tools=many).close()
