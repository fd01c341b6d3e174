"""Schemas in llguidance's words: every answer that may be written validates, also where llguidance alone would be wider."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.chat.json_schema import readable_schema, sets_of
from edge_gemma.chat.patterns import FORMATS, portable
from edge_gemma.chat.structured import Grammar
from support.paths import ROOT

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
pytest.importorskip("llguidance", reason="needs llguidance")

TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"
VALIDATOR = jsonschema.Draft202012Validator


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Tokenizer]:
    yield eg.Tokenizer.load(TOY)


def drawn(tokenizer: eg.Tokenizer, grammar: Grammar, seed: int, most: int = 120) -> str | None:
    """An answer of tokens that are drawn evenly from those that the grammar allows; None for one that did not end."""
    chance, following, tokens = random.Random(seed), grammar.start(tokenizer), list[int]()
    ends = {tokenizer.find("<eos>"), tokenizer.find("<turn|>")}
    closing = {tokenizer.encode(text)[-1] for text in ('"', "}", "]")}
    while len(tokens) < most:
        more = following.forced()
        if not more:
            bits = np.unpackbits(following.mask().view(np.uint8), bitorder="little")[: tokenizer.vocab_size]
            allowed = set(np.flatnonzero(bits).tolist())
            if (allowed & ends) and chance.random() < 0.5:
                return tokenizer.decode(tokens)
            likely = sorted(allowed & closing) if chance.random() < 0.6 else []
            more = [chance.choice(likely or sorted(allowed - ends) or [-1])]
            if more == [-1]:
                return tokenizer.decode(tokens)
        following.accept(more)
        tokens += more
    return None


def an_object(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


NUMBERED = {f"p{number}": {"type": "integer"} for number in range(3)}
KEYS = {"": 1, 'a"b': 2, "back\\slash": 3, "new\nline": 4, "größe 名前 🦙": 5, "\x7f\x01": 6, "$ref": 7}
SCHEMAS: dict[str, Any] = {
    **{f"format {name}": {"type": "string", "format": name} for name in FORMATS if "email" not in name},
    "format password": {"type": "string", "format": "password", "maxLength": 4},
    "format int64": {"type": "integer", "format": "int64"},
    "no property is a format": an_object(
        {"format": {"type": "string", "format": "time"}, "pattern": {"const": 1}}, "format"
    ),
    "february": {"type": "string", "format": "date", "pattern": "-02-29$"},
    "no digits of other scripts": {"type": "string", "pattern": r"^\d{2,4}$"},
    "no word": {"type": "string", "pattern": r"^\W{1,3}$"},
    "no digit": {"type": "string", "pattern": r"^[\D]{1,3}$"},
    "no space": {"type": "string", "pattern": r"^\S{1,3}$"},
    "no quotation mark": {"type": "string", "pattern": r'^[^<>"\\]{1,3}$'},
    "no printable character": {"type": "string", "pattern": r"^[^ -~]{1,3}$"},
    "control characters": {"type": "string", "pattern": r"^[\x00-\x1f]{1,3}$"},
    "control characters again": {"type": "string", "pattern": r"^[\u0000-\u0020]{1,3}$"},
    "a small fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    "a small negative fraction": {"type": "number", "minimum": -0.01, "exclusiveMaximum": 0},
    "above two": {"type": "number", "exclusiveMinimum": 2, "maximum": 2.01},
    "bounds as flags": {"type": "number", "minimum": 0, "exclusiveMinimum": False, "maximum": 0.5},
    "a set": {"type": "array", "items": {"enum": ["x", "y", "z"]}, "uniqueItems": True, "minItems": 1, "maxItems": 2},
    "a set of numbers": {"type": "array", "items": {"enum": [1, True, 1.0, None]}, "uniqueItems": True},
    "no set": {"type": "array", "items": {"type": "boolean"}, "uniqueItems": False, "maxItems": 3},
    "named members": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "propertyNames": {"enum": ["a", "b"]},
    },
    "patterned members": {
        "type": "object",
        "additionalProperties": {"type": "null"},
        "propertyNames": {"pattern": "^[ab]+$"},
    },
    "short members": {"type": "object", "additionalProperties": {"type": "null"}, "propertyNames": {"maxLength": 2}},
    "dependent": an_object(NUMBERED, dependentRequired={"p0": ["p1"], "p1": ["p2"]}),
    "unevaluated": {"type": "object", "properties": NUMBERED, "unevaluatedProperties": {"type": "boolean"}},
    "unevaluated items": {"type": "array", "prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
    "another dialect": {"$schema": "https://example.com/mine", "type": "integer"},
    "keys": an_object({key: {"const": value} for key, value in KEYS.items()}, *KEYS),
    "a tree": {
        "$defs": {
            "n": an_object({"v": {"type": "boolean"}, "k": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "v")
        },
        "$ref": "#/$defs/n",
    },
    "odd values": {"enum": [1, "1", None, True, False, 1.5, [], {}, [[]], {"a": None}, "🦙", -7, 1e-7, 2**70]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_validates(toy: eg.Tokenizer, name: str) -> None:
    grammar = Grammar.json_schema(SCHEMAS[name])
    answers = [text for seed in range(60) if (text := drawn(toy, grammar, seed)) is not None]
    assert answers
    validator = VALIDATOR(SCHEMAS[name], format_checker=VALIDATOR.FORMAT_CHECKER)
    for text in answers:
        validator.validate(json.loads(text))


def test_real_dates_can_be_written(toy: eg.Tokenizer) -> None:
    for kind, good, bad in [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31", "0001-01-01"], ["2023-02-29", "1900-02-29", "0000-01-01"]),
        ("time", ["23:59:59Z", "01:02:03.5+01:00"], ["23:59:60Z", "24:00:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-01-01T00:00:60Z"]),
    ]:
        grammar = Grammar.json_schema({"type": "string", "format": kind})
        for text, right in [*((t, True) for t in good), *((t, False) for t in bad)]:
            following, fits = grammar.start(toy), True
            for token in toy.encode(json.dumps(text)):
                fits = fits and following.check(token) is None
                if fits:
                    following.accept([token])
            assert (fits and following.complete) == right, text
            assert bool(re.fullmatch(FORMATS[kind], text)) == right, text


def test_what_stays_as_it_is() -> None:
    schema = {
        "properties": {"format": {"type": "string", "maxLength": 3}, "uniqueItems": {"type": "boolean"}},
        "enum": [{"format": "date", "pattern": "\\d"}],
        "default": {"uniqueItems": False},
    }
    assert readable_schema(schema) == schema
    assert readable_schema(True) is True
    assert sets_of({"items": {"enum": [1, 2]}, "minItems": 1}) == [[1], [2], [1, 2]]
    assert sets_of({"items": {"enum": list(range(8))}}) is None
    assert sets_of({"items": {"type": "integer"}}) is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^a\/b.c$", r"^a\/b.c$"),
        (r"\\d", r"\\d"),
        (r"\[^a]", r"\[^a]"),
        (r"[^a]", r"[^\x00a]"),
        (r"[^]a]", r"[^]a]"),
        (r"\x00-", r"\x00-"),
        (r"[\x00-\x05\d]", r"[\x01-\x05[0-9]]"),
    ],
)
def test_portable_patterns(pattern: str, expected: str) -> None:
    assert portable(pattern) == expected


def chain(kind: str, n: int) -> str:
    """Rules that lead from one to the next, as text."""
    if kind == "lark":
        return "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1}' for i in range(n)) + f'\nr{n}: "a"'
    links: dict[str, Any] = {f"a{i}": an_object({"x": {"$ref": f"#/$defs/a{i + 1}"}}) for i in range(n)}
    return json.dumps({"$defs": {**links, f"a{n}": {"type": "integer"}}, "$ref": "#/$defs/a0"})


CHAINED = """
import sys
import edge_gemma as eg
make = eg.Grammar.lark if sys.argv[1] == "lark" else eg.Grammar.json_schema
tokenizer = eg.Tokenizer.load(sys.argv[2])
print(make(sys.stdin.read()).start(tokenizer).mask().any())
"""


@pytest.mark.parametrize("kind", ["lark", "schema"])
def test_long_chains_of_rules_fill_no_stack(kind: str) -> None:
    """llguidance recurses from rule to rule; a stack of the usual size would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", CHAINED, kind, TOY], input=chain(kind, 3000), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    make = Grammar.lark if kind == "lark" else Grammar.json_schema
    with pytest.raises(eg.EdgeGemmaError, match="000 are the most") as caught:
        make(chain(kind, 20_001))
    assert caught.value.code == "argument"
