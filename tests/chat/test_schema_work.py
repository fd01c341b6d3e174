"""Schemas that would take minutes and gigabytes are refused before llguidance sees them."""

from __future__ import annotations

import pytest

pytest.importorskip("llguidance", reason="needs the extra structured")

from edge_gemma.chat.call_grammar import call_grammar
from edge_gemma.chat.schema_work import check_work, is_costly_divisor, is_costly_pattern
from edge_gemma.chat.structured import Grammar
from edge_gemma.engine.model import Model
from edge_gemma.errors import EdgeGemmaValueError

REFERENCES = {f"p{k}": {"pattern": f"{k}", **({"$ref": f"#/$defs/p{k - 1}"} if k else {})} for k in range(20)}
COSTLY = [
    {"type": "integer", "multipleOf": 999983},
    {"type": "number", "multipleOf": 0.0123457},
    {"type": "string", "pattern": "^(a{1000}){1000}$"},
    {"type": "string", "pattern": "((x{100}|y)+z){0,2000}"},
    {"type": "object", "patternProperties": {"((a{99}){99}){99}": True}},
    {"type": "string", "allOf": [{"pattern": f"a{{{k}}}"} for k in range(20)]},
    {
        "type": "array",
        "items": {"anyOf": [True, {"allOf": [{"allOf": [{"pattern": "a"}] * 5}, {"allOf": [{"pattern": "b"}] * 5}]}]},
    },
    {"$ref": "#/$defs/p19", "$defs": REFERENCES},
]
CHEAP = [
    {"type": "integer", "multipleOf": 1_000_000},
    {"type": "number", "multipleOf": 0.001},
    {"type": "string", "pattern": r"^(\d{1,3}\.){3}\d{1,3}$"},
    {"type": "string", "pattern": r"^[({]{5}\(a{1000}\){1000}$"},
    {"type": "string", "minLength": 10**9},
    {"type": "object", "properties": {"pattern": {"type": "string"}, "multipleOf": {"type": "number"}}},
    {"enum": [{"pattern": "((a{999}){999}){999}"}]},
    {"type": "object", "properties": {f"p{k}": {"type": "string", "pattern": f"^{k}$"} for k in range(50)}},
    {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": f"^{k}$"} for k in range(50)]}},
    {"type": "object", "properties": {"child": {"$ref": "#"}}},
]


@pytest.mark.parametrize("schema", COSTLY)
def test_costly_schemas_are_refused(schema):
    with pytest.raises(EdgeGemmaValueError, match="cannot be used") as caught:
        Grammar.json_schema(schema)
    assert caught.value.code == "argument"


@pytest.mark.parametrize("schema", CHEAP)
def test_other_schemas_are_not(schema):
    check_work(schema)


def test_a_schema_that_refers_to_itself_is_read_once():
    """Twofold, at every level: a count without memory would not come to its end."""
    check_work({"allOf": [{"$ref": "#"}] * 2, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}] * 9}}})


def test_a_schema_that_is_too_deep_is_refused():
    schema: dict[str, object] = {"pattern": "a"}
    for _ in range(5000):
        schema = {"allOf": [schema]}
    with pytest.raises(EdgeGemmaValueError):
        Grammar.json_schema(schema)


def test_calls_leave_out_what_costs_too_much(recwarn):
    """The rest of the declaration still limits the call; the whole call is checked by others."""
    fields = {"a": {"type": "integer", "multipleOf": 999983}, "b": {"type": "string", "pattern": "^(a{1000}){1000}$"}}
    tool = {"name": "f", "parameters": {"type": "object", "properties": fields, "required": ["a", "b"]}}
    with Model.load("toy", threads=1) as model:
        found = call_grammar([{"type": "function", "function": tool}], model.tokenizer)
        assert found is not None
        found.start(model.tokenizer)
    assert any("does not limit" in str(warning.message) for warning in recwarn)
    assert is_costly_divisor(999983) and is_costly_pattern("(a{1000}){1000}")
