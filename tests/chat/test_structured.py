"""Answers of a form: JSON schemas, regular expressions, grammars, with whatever tokens a model happens to like."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.chat.structured import Following, Grammar
from support.paths import ROOT

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
pytest.importorskip("llguidance", reason="needs llguidance")

TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"
SCHEMAS: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "schemas.json").read_text())
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
# Nearly every token is as likely as any other at this temperature, as if the weights were random.
RANDOM = eg.Sampling(temperature=30.0, top_k=0, top_p=1.0)


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Model]:
    with eg.Model.load(TOY) as model:
        yield model


def begun(model: eg.Model, seed: int = 0) -> eg.Session:
    session = model.session(1024)
    session.feed_text("<|turn>user\nSay something.<turn|>\n<|turn>model\n", special=True, bos=True)
    session.seed(seed)
    return session


def validate(text: str, schema: Any) -> None:
    kind = jsonschema.Draft202012Validator
    jsonschema.validate(json.loads(text), schema, cls=kind, format_checker=kind.FORMAT_CHECKER)


# ---- JSON schemas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SCHEMAS, ids=lambda case: case["name"])
def test_every_answer_validates(toy: eg.Model, case: dict[str, Any]) -> None:
    """Or it is unfinished for a reason that `stop` tells."""
    grammar, finished = Grammar.json_schema(case["schema"]), 0
    closing = {token: 100.0 for text in ('"', "}", "]", "@", ".") for token in toy.tokenizer.encode(text)[-1:]}
    ending = eg.Sampling(temperature=20.0, top_k=0, top_p=1.0, logit_bias=closing)  # strings do not go on and on
    for sampling in (eg.Sampling(temperature=0), eg.Sampling(), RANDOM, ending, ending, ending):
        generation = begun(toy, finished).generate(300, sampling=sampling, grammar=grammar)
        assert generation.stop in ("eos", "turn", "length")
        if generation.stop != "length":
            validate(generation.text, case["schema"])
            finished += 1
    assert finished or case["name"] == "pattern unanchored"  # who would draw "cat"?


@pytest.mark.parametrize("shape", ["e2b", "e4b", "moe", "dense"])
def test_every_answer_of_random_weights_validates(shape: str) -> None:
    """Of every schema, at every temperature. Another vocabulary cuts texts at other places."""
    finished, unfinished = 0, set()
    with eg.Model.load(ROOT / "tests" / "data" / f"{shape}-Q4_0.gguf", threads=2) as model:
        for case in SCHEMAS:
            grammar, ended = Grammar.json_schema(case["schema"]), 0
            for seed, temperature in enumerate((0.0, 0.7, 1.0, 2.0, 30.0)):
                top = {"top_k": 0, "top_p": 1.0} if temperature > 1 else {}
                sampling = eg.Sampling(temperature=temperature, **top)
                generation = begun(model, seed).generate(150, sampling=sampling, grammar=grammar)
                assert generation.stop in ("eos", "turn", "length")
                if generation.stop != "length":
                    validate(generation.text, case["schema"])
                    ended += 1
            finished += ended
            unfinished |= set() if ended else {case["name"]}
    assert finished > 2 * len(SCHEMAS), unfinished


@pytest.mark.parametrize("case", SCHEMAS, ids=lambda case: case["name"])
def test_what_a_schema_allows(toy: eg.Model, case: dict[str, Any]) -> None:
    """The valid instances can be written, token by token, and no invalid one can be finished."""
    grammar = Grammar.json_schema(case["schema"])
    for value, valid in [*((v, True) for v in case["valid"]), *((v, False) for v in case["invalid"])]:
        assert follows(toy, grammar, json.dumps(value, ensure_ascii=False)) == valid or unusual(value, valid), value


def unusual(value: Any, valid: bool) -> bool:
    """Objects are written in the order of their properties; instances may have another one."""
    return valid and isinstance(value, (dict, list)) and bool(value)


def follows(model: eg.Model, grammar: Grammar, text: str) -> bool:
    following = grammar.start(model.tokenizer)
    for token in model.tokenizer.encode(text):
        if following.check(token) is not None:
            return False
        following.accept([token])
    return following.complete


MAP = {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 2, "maxProperties": 2}


def test_an_answer_that_a_grammar_is_too_wide_for_ends_with_an_error(toy: eg.Model) -> None:
    """No grammar knows that a name has been there before."""
    pytest.importorskip("jsonschema_rs", reason="needs jsonschema-rs")
    for text, valid in (('{"a": true, "b": false}', True), ('{"a": true, "a": false}', False)):
        following, end = Grammar.json_schema(MAP).start(toy.tokenizer), toy.tokenizer.find("<eos>")
        assert end is not None
        for token in toy.tokenizer.encode(text):
            assert following.check(token) is None
            following.accept([token])
        assert following.complete
        if valid:
            following.accept([end])
            continue
        with pytest.raises(eg.EdgeGemmaError, match=r"does not keep to the schema: .*propert.*\.") as caught:
            following.accept([end])
        assert caught.value.code == "grammar"


@pytest.mark.parametrize("text", ["1e999", "-1e999", "[" * 300 + "]" * 300, "12345678901234567890123", '"\u2028"'])
def test_odd_answers_are_no_problem_of_the_check(toy: eg.Model, text: str) -> None:
    following, end = Grammar.json_schema({"title": "Anything"}).start(toy.tokenizer), toy.tokenizer.find("<turn|>")
    assert end is not None
    for token in [*toy.tokenizer.encode(text), end]:
        assert following.check(token) is None
        following.accept([token])


def test_an_answer_ends_when_nothing_more_may_follow(toy: eg.Model) -> None:
    session = begun(toy)
    generation = session.generate(50, schema={"const": {"a": [1, "x"]}})
    assert (generation.text, generation.stop in ("eos", "turn")) == ('{"a": [1, "x"]}', True)
    assert session.stats["decode_tokens"] == 1  # the end; all else was fed


def test_schemas_as_text_and_booleans(toy: eg.Model) -> None:
    assert json.loads(begun(toy).generate(30, schema='{"enum": [7]}').text) == 7
    generation = begun(toy).generate(200, schema=True, sampling=eg.Sampling(temperature=0))
    assert generation.stop == "length" or json.loads(generation.text) is not NotImplemented


@pytest.mark.parametrize("byte_by_byte", ["Zürich", "日本語", "🦙🦙", "naïve\n"])
def test_characters_of_several_tokens(toy: eg.Model, byte_by_byte: str) -> None:
    """The vocabulary has most of them as bytes only; forced ones are cut between characters."""
    schema = {"enum": [byte_by_byte + "a", byte_by_byte + "é", byte_by_byte + "è"]}
    for seed in range(4):
        pieces = list(begun(toy, seed).generate(60, schema=schema, sampling=RANDOM))
        assert json.loads("".join(pieces)) in schema["enum"]
        assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "no JSON"),
        (False, "allows nothing"),
        ([1], "list"),
        ({"type": "strin"}, "strin"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://example.com/x.json"}, "example.com"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "string", "pattern": "((("}, "unclosed"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"minimum": 10**400, "type": "integer"}, "out of range"),
        ({"x": {1, 2}}, "no JSON"),
    ],
)
def test_unusable_schemas(toy: eg.Model, schema: Any, words: str) -> None:
    with pytest.raises(eg.EdgeGemmaError, match=re.escape(words)) as caught:
        begun(toy).generate(schema=schema)
    assert caught.value.code == "argument"
    assert str(caught.value).endswith(".") and not str(caught.value).endswith("..")


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE: dict[str, Any] = {
    "deep": nested(3000),
    "less deep": nested(200),
    "a huge enum": {"enum": [f"word{n * 7919 % 100000}" for n in range(50000)]},
    "itself": {"$ref": "#"},
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "long text": {"type": "string", "minLength": 1000000},
    "many items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    "nested repetition": {"type": "string", "pattern": "^(.{1,1000}){1,1000}$"},
    "catastrophic": {"type": "string", "pattern": "^(a+)+(b|c+)*$"},
    "a window": {"type": "string", "pattern": "^(a|aa|aaa|b)*c(.*x.{500})$"},
    "products": {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]} for i in range(12)]},
    "many properties": {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(20000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas(toy: eg.Model, name: str) -> None:
    """They are refused, or cost a bounded time: nothing here runs for long, or the test's time limit ends it."""
    begin = time.perf_counter()
    try:
        generation = begun(toy).generate(40, schema=HOSTILE[name], sampling=eg.Sampling())
        assert generation.stop in ("eos", "turn", "length")
    except eg.EdgeGemmaError as error:
        assert error.code in ("argument", "grammar")
    assert time.perf_counter() - begin < 60  # hours or gigabytes are what this is about


# ---- regular expressions and grammars -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [r"[0-9]{3}-[a-f]{2}", r"(yes|no|maybe) [A-Z]", r"a*b", r"\d+ (apples|Äpfel)"])
def test_a_regular_expression_matches_the_whole_answer(toy: eg.Model, pattern: str) -> None:
    for seed in range(5):
        generation = begun(toy, seed).generate(60, regex=pattern, sampling=RANDOM)
        # llguidance knows digits of a later Unicode than Python does: each becomes one that \d allows and [0-9] does not.
        text = "".join("\u0661" if unicodedata.category(char) == "Cn" else char for char in generation.text)
        assert generation.stop == "length" or re.fullmatch(pattern, text)


def test_a_grammar(toy: eg.Model) -> None:
    grammar = Grammar.lark('start: NAME " is " ("big" | "small") "."\nNAME: /[A-Z][a-z]{1,5}/')
    for seed in range(5):
        text = begun(toy, seed).generate(60, grammar=grammar, sampling=RANDOM).text
        assert re.fullmatch(r"[A-Z][a-z]{1,5} is (big|small)\.", text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "["}, "regular expression"),
        ({"regex": 3}, "must be a text"),
        ({"grammar": "begin: nothing"}, "grammar cannot be used"),
        ({"grammar": 'start: "a"', "schema": {}}, "exclude each other"),
        ({"regex": "a", "schema": {}}, "exclude each other"),
    ],
)
def test_unusable_forms(toy: eg.Model, options: dict[str, Any], words: str) -> None:
    with pytest.raises(eg.EdgeGemmaError, match=words) as caught:
        begun(toy).generate(**options)
    assert caught.value.code == "argument"


def test_control_tokens_are_no_text(toy: eg.Model) -> None:
    """A string may hold any character, but no control token, however likely that is."""
    likely = eg.Sampling(logit_bias={toy.tokenizer.special_tokens[text]: 50.0 for text in toy.tokenizer.control_tokens})
    generation = begun(toy).generate(30, schema={"type": "string", "maxLength": 30}, sampling=likely, special=True)
    control = {toy.tokenizer.find(text) for text in toy.tokenizer.control_tokens}
    assert not control & {token.id for token in generation.tokens[:-1]}


def test_one_grammar_for_several_answers_and_models(toy: eg.Model, each_tokenizer: eg.Tokenizer) -> None:
    grammar = Grammar.json_schema({"enum": ["a", "b"]})
    assert {begun(toy, seed).generate(9, grammar=grammar, sampling=RANDOM).text for seed in range(12)} == {'"a"', '"b"'}
    following = grammar.start(each_tokenizer)
    assert following.check(each_tokenizer.encode('"')[0]) is None


def test_a_grammar_keeps_no_tokenizer() -> None:
    """A long-lived grammar does not hold what a closed model's vocabulary took."""
    grammar = Grammar.json_schema({"enum": ["a"]})
    tokenizer = eg.Tokenizer.load(ROOT / "tests" / "data" / "e2b-Q4_0.gguf")
    assert grammar.start(tokenizer).forced()
    kept = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert kept() is None


@pytest.fixture
def each_tokenizer() -> eg.Tokenizer:
    return eg.Tokenizer.load(ROOT / "tests" / "data" / "e2b-Q4_0.gguf")


# ---- cost -----------------------------------------------------------------------------------------------------------------


def test_fixed_text_costs_no_steps(toy: eg.Model) -> None:
    """A schema with four fifths of fixed text takes at most two fifths of the passes that drawing each token takes."""
    names = ["temperature outside", "humidity of the air", "speed of the wind", "cover of the clouds"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    session = begun(toy)
    generation = session.generate(200, schema=schema)
    assert set(json.loads(generation.text)) == set(names)
    drawn, every = session.stats["decode_tokens"], len(generation.tokens)
    free = len(toy.tokenizer.encode("true")) * len(names)
    assert free <= every / 5
    assert drawn <= 0.4 * every


def test_a_mask_is_made_only_for_a_refused_token(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that fits by itself is not masked at all."""
    masks = 0

    def counted(self: Following, whole: Callable[[Following], Any] = Following.mask) -> Any:
        nonlocal masks
        masks += 1
        return whole(self)

    monkeypatch.setattr(Following, "mask", counted)
    grammar = Grammar.regex("(?s).*")
    free, bound = (
        begun(toy).generate(20, sampling=eg.Sampling(temperature=0), grammar=g).text for g in (None, grammar)
    )
    assert (free, masks) == (bound, 0)
    begun(toy).generate(20, sampling=RANDOM, regex="[0-9]{20}").text  # noqa: B018 (the text is drawn when it is asked for)
    assert masks > 5


def test_without_llguidance(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(eg.EdgeGemmaError, match=r"edge_gemma\[structured\]") as caught:
        begun(toy).generate(schema={})
    assert caught.value.code == "unsupported"


# ---- together with everything else that changes what is drawn ------------------------------------------------------------

PENALTIES: list[dict[str, Any]] = [
    {"temperature": 0.0, "repetition_penalty": 1.8},
    {"temperature": 0.7, "presence_penalty": 2.0, "frequency_penalty": 2.0, "penalty_window": 16},
    {"temperature": 1.5, "top_k": 8, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 0.7},
    {"temperature": 30.0, "top_k": 0, "top_p": 1.0, "frequency_penalty": -2.0},
]


@pytest.mark.parametrize("options", PENALTIES, ids=str)
@pytest.mark.parametrize(
    "form", [{"schema": CITY}, {"regex": "(ab|ba){8}"}, {"schema": {"enum": [[1, 1, 1, 1]]}}], ids=str
)
def test_probabilities_under_a_constraint_with_penalties(
    toy: eg.Model, form: dict[str, Any], options: dict[str, Any]
) -> None:
    """They are those of the model alone: neither the form nor a penalty is in them. The answer keeps its form."""
    session = begun(toy, 3)
    before = session.tokens
    generation = session.generate(120, sampling=eg.Sampling(**options), logprobs=4, **form)
    assert generation.stop in ("eos", "turn", "length")
    if generation.stop != "length" and "schema" in form:
        validate(generation.text, form["schema"])
    elif generation.stop != "length":
        assert re.fullmatch(form["regex"], generation.text)
    drawn = [token.id for token in generation.tokens]
    reference = toy.session(1024)
    reference.feed_tokens(before)
    logits = np.stack([reference.logits(), *reference.forward(drawn[:-1])]).astype(np.float64)
    wanted = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    assert len(generation.logprobs) == len(drawn) == len(wanted)
    for token, values in zip(generation.tokens, wanted, strict=True):
        assert token.logprob == pytest.approx(values[token.id], abs=1e-3)
        ids, logprobs = zip(*token.top_logprobs, strict=True)
        assert list(logprobs) == sorted(logprobs, reverse=True)
        assert np.allclose(logprobs, np.sort(values)[::-1][:4], atol=1e-3)
        assert np.allclose(values[list(ids)], logprobs, atol=1e-3)


def test_penalties_change_what_a_form_leaves_open(toy: eg.Model) -> None:
    """Without a form's choice there is nothing to punish; with one, a token that was drawn before is drawn less."""
    biased = dict.fromkeys(toy.tokenizer.encode("a"), 60.0)
    plain, punished = (
        begun(toy).generate(40, regex="[ab]{24}", sampling=eg.Sampling(temperature=0, logit_bias=biased, **more)).text
        for more in ({}, {"frequency_penalty": 30.0})
    )
    assert len(plain) == len(punished) == 24 and "b" not in plain and "b" in punished


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_token_that_may_not_be_drawn_and_must_be(toy: eg.Model, logprobs: int | None) -> None:
    """The form goes first, or it ends with an error: no answer has another form, and none goes on for ever."""
    unwanted = [number for number in range(toy.tokenizer.vocab_size) if "a" in toy.tokenizer.decode([number])]
    try:
        text = begun(toy).generate(20, regex="b?a", sampling=eg.Sampling(suppress=unwanted), logprobs=logprobs).text
    except eg.EdgeGemmaError as error:
        assert error.code in ("argument", "grammar", "state") and str(error).endswith(".")
    else:
        assert re.fullmatch("b?a", text)
