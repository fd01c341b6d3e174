"""`Sampling`, `Session.next` and `Generation`: options that are checked when they are made, tokens one by one or as text."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.sampling import GREEDY
from edge_gemma.engine.tokenizer import StreamingDetokenizer
from edge_gemma.errors import Cancelled, EdgeGemmaError, EdgeGemmaValueError
from support.paths import DATA
from support.tiny_model import VOCAB, Shape, write_model

PROMPT = [2, *range(20, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[eg.Model]:
    path = write_model(tmp_path_factory.mktemp("generation") / "m.gguf", Shape([True, False], context=8192))
    with eg.Model.load(path, threads=1) as opened:
        yield opened


@pytest.fixture
def session(model: eg.Model) -> Iterator[eg.Session]:
    with model.session(context=128) as opened:
        opened.feed_tokens(PROMPT)
        yield opened


# ---- Sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("temperature", (-0.1, float("nan"), float("inf"), "1", None, [1], 1e7)),
        ("top_p", (-0.1, 1.1, "x")),
        ("top_k", (-1, 1.5, 2**32, "64")),
        ("min_p", (-1e-9, 2)),
        ("repetition_penalty", (0, -1, float("nan"))),
        ("presence_penalty", (float("inf"), 1e7)),
        ("frequency_penalty", (-float("inf"), b"1")),
        ("penalty_window", (-1, 0.5, 2**32)),
        ("seed", (1.0, "1", float("nan"))),
        ("logit_bias", ({-1: 1.0}, {0.5: 1.0}, {"a": 1.0}, {5: float("nan")}, {5: "x"}, [5], None)),
        ("suppress", ([-1], [0.5], ["a"], "ab", 5, [2**31], [float("inf")], None)),
    ],
)
def test_a_wrong_option_is_refused_when_it_is_made(option: str, values: tuple[Any, ...], session: eg.Session) -> None:
    for value in values:
        with pytest.raises(EdgeGemmaValueError, match=rf"^{option} .*\.$") as caught:
            eg.Sampling(**{option: value})
        assert caught.value.code == "argument"
        if value is not None:  # for generate() None is the default
            with pytest.raises(EdgeGemmaValueError, match=option):
                session.generate(**{option: value})
    assert session.position == len(PROMPT)


def test_wrong_names_are_type_errors(session: eg.Session) -> None:
    with pytest.raises(TypeError, match="temprature"):
        eg.Sampling(temprature=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        eg.Sampling(1.0)  # type: ignore[misc]  # by name only
    with pytest.raises(TypeError, match="temprature"):
        session.generate(temprature=0)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        GREEDY.temperature = 1.0  # type: ignore[misc]


def test_every_option_is_checked_and_has_a_default() -> None:
    names = {field.name for field in dataclasses.fields(eg.Sampling)}
    checked = {mark.args[1][n][0] for mark in [_parametrize()] for n in range(len(mark.args[1]))}
    assert names == checked
    assert eg.Sampling() == eg.Sampling(temperature=1, top_p=0.95, top_k=64, logit_bias={}, suppress=())


def _parametrize() -> Any:
    (mark,) = test_a_wrong_option_is_refused_when_it_is_made.pytestmark  # type: ignore[attr-defined]
    return mark


def test_values_of_numpy_and_the_ends_of_ranges() -> None:
    made = eg.Sampling(
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        top_k=np.int64(3),  # type: ignore[arg-type]
        seed=np.int64(7),  # type: ignore[arg-type]
        suppress=np.array([4, 5]),  # type: ignore[arg-type]
        logit_bias={np.int32(3): -np.inf},  # type: ignore[dict-item]
    )
    assert made.suppress == (4, 5) and made.logit_bias == {3: -np.inf} and type(made.seed) is int
    assert hash(made) == hash(dataclasses.replace(made)) and made == dataclasses.replace(made)
    eg.Sampling(temperature=0, top_p=0, top_k=0, min_p=1, penalty_window=2**32 - 1, seed=-1)


def test_what_was_checked_stays() -> None:
    bias, suppress = {5: 1.0}, [6]
    made = eg.Sampling(logit_bias=bias, suppress=suppress)
    bias[5] = float("nan")
    suppress.append(-1)
    assert made.logit_bias == {5: 1.0} and made.suppress == (6,)


def test_what_depends_on_chance() -> None:
    assert GREEDY.greedy and not eg.Sampling(temperature=0.1).greedy


def test_single_options_change_a_sampling(session: eg.Session) -> None:
    """`generate(sampling=..., option=...)` is `generate` with both."""
    base = eg.Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=5)
    found = []
    for options in (
        {"sampling": base, "temperature": 3.0, "seed": 6},
        {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "seed": 6},
        {"sampling": dataclasses.replace(base, temperature=3.0, seed=6)},
    ):
        found.append([token.id for token in session.generate(12, **options).tokens])
        session.rewind_to(len(PROMPT))
    assert found[0] == found[1] == found[2]


# ---- tokens one by one, and as text -----------------------------------------------------------------------------------


HOT = eg.Sampling(temperature=3.0, top_k=0, top_p=1.0, suppress=[1, 6, 7])


@pytest.mark.parametrize("special", [False, True])
def test_next_gives_the_tokens_of_generate(session: eg.Session, special: bool) -> None:
    twin = session.fork()
    generation = session.generate(40, sampling=HOT, seed=11, special=special)
    twin.seed(11)
    tokens = [twin.next(HOT, special=special) for _ in range(40)]
    assert generation.tokens == tokens
    assert generation.text == "".join(token.text for token in tokens)
    assert session.tokens == twin.tokens == [*PROMPT, *(token.id for token in tokens)]


def test_next_by_itself_draws_with_the_defaults(session: eg.Session) -> None:
    twin = session.fork()
    for one in (session, twin):
        one.seed(3)
    assert session.next() == twin.next(eg.Sampling())


def test_next_ignores_the_seed_of_its_sampling(session: eg.Session) -> None:
    """Or every token would be drawn with the first number of the same sequence."""
    twin = session.fork()
    for one in (session, twin):
        one.seed(3)
    seeded = dataclasses.replace(HOT, seed=99)
    assert [session.next(HOT).id for _ in range(8)] == [twin.next(seeded).id for _ in range(8)]


def test_stop_tokens_of_next(session: eg.Session) -> None:
    number = session.model.tokenizer.find("<turn|>")
    assert number is not None
    drawn = session.next(eg.Sampling(logit_bias={number: np.inf}), special=True)
    assert drawn == eg.Token(number, "", "turn") and session.tokens[-1] == number


def test_errors_of_next(model: eg.Model) -> None:
    with model.session(context=3) as session:
        with pytest.raises(EdgeGemmaError) as caught:
            session.next()
        assert caught.value.code == "state"
        session.feed_tokens([2, 3])
        session.next(HOT)
        with pytest.raises(EdgeGemmaError) as caught:
            session.next(HOT)
        assert caught.value.code == "context" and session.position == 3
        generation = session.generate(5)
        with pytest.raises(EdgeGemmaError):
            next(generation)


@pytest.mark.parametrize("attribute", ["stop", "tokens", "text"])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_results_complete_it_and_iteration_yields_every_piece(session: eg.Session, attribute: str, first: int) -> None:
    twin = session.fork()
    whole = list(twin.generate(20, sampling=HOT, seed=4))
    generation = session.generate(20, sampling=HOT, seed=4)
    before = [next(generation) for _ in range(first)]
    assert len(session.tokens) < len(twin.tokens)
    getattr(generation, attribute)
    assert session.tokens == twin.tokens
    assert [*before, *generation] == whole and "".join(whole) == generation.text
    assert list(generation) == [] and generation.stop == "length"
    assert all(whole), "no piece is empty"


def test_a_repr_draws_nothing(session: eg.Session) -> None:
    generation = session.generate(3, sampling=HOT)
    assert repr(generation) == "<Generation of 0 tokens>" and session.position == len(PROMPT)
    assert generation.stop == "length" and repr(generation) == "<Generation of 3 tokens, length>"


def test_close_draws_nothing_more(session: eg.Session) -> None:
    generation = session.generate(20, sampling=HOT, seed=4)
    first = next(generation)
    position = session.position
    generation.close()
    assert generation.stop == "cancelled" and generation.text.startswith(first) and session.position == position
    assert list(generation) == [] or "".join(generation) == ""
    done = session.generate(2, sampling=HOT)
    assert done.stop == "length"
    done.close()
    assert done.stop == "length"  # it had ended before


def test_closing_gives_what_was_held_for_a_stop_text(session: eg.Session) -> None:
    letter = session.model.tokenizer.find("h")
    assert letter is not None
    generation = session.generate(9, logit_bias={letter: np.inf}, stop="hx")
    assert next(generation) == "h"  # drawn twice: the second may begin the stop text
    assert session.position == len(PROMPT) + 2
    generation.close()
    assert list(generation) == ["h"] and generation.text == "hh" and len(generation.tokens) == 2


def test_no_tokens_at_all(session: eg.Session) -> None:
    for limit in (0, -1):
        generation = session.generate(limit)
        assert (generation.text, generation.stop, generation.tokens) == ("", "length", [])
    assert session.position == len(PROMPT)


def test_a_cancelled_generation_says_so() -> None:
    drawn = iter(["a", "b"])

    def draw(most: int) -> list[eg.Token]:
        text = next(drawn, None)
        if text is None:
            raise Cancelled
        return [eg.Token(1, text)]

    generation = eg.Generation(draw, 9, ["bc"])
    assert list(generation) == ["a", "b"] and generation.stop == "cancelled" and len(generation.tokens) == 2


def test_rewind_to(session: eg.Session) -> None:
    logits = session.logits()
    session.generate(7, sampling=HOT).text  # noqa: B018
    session.rewind_to(len(PROMPT))
    assert session.tokens == PROMPT and np.array_equal(session.logits(), logits)
    session.rewind_to(5)
    session.rewind_to(5)
    assert session.tokens == PROMPT[:5]
    for position in (6, 99, -1):
        with pytest.raises(EdgeGemmaValueError) as caught:
            session.rewind_to(position)
        assert caught.value.code == "argument" and session.position == 5
    session.rewind_to(0)
    assert session.tokens == []


# ---- whole characters -------------------------------------------------------------------------------------------------


TEXTS = ["é", "日本語", "🎉", "a🎉b", "👩‍👩‍👧", "\ufffd", "é\n<|turn>x"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("damage", [None, 0, 1, -1])
def test_letters_as_a_session_gives_them(session: eg.Session, text: str, damage: int | None) -> None:
    """Bytes of a character that is not complete are held back, and broken ones become U+FFFD, by both alike."""
    tokenizer = session.model.tokenizer
    ids = []
    for byte in text.encode():
        found = tokenizer.find(f"<0x{byte:02X}>")
        assert found is not None
        ids.append(found)
    if damage is not None:
        del ids[damage]
    stop = tokenizer.find("<turn|>")
    assert stop is not None
    letters = StreamingDetokenizer(tokenizer)
    session.feed_tokens([20])
    expected, given = "", ""
    for number in ids:
        expected += session.next(eg.Sampling(logit_bias={number: np.inf}), special=True).text
        given += letters.feed(number)
    assert "\ufffd" not in given or damage is not None or "\ufffd" in text
    expected += session.next(eg.Sampling(logit_bias={stop: np.inf}), special=True).text
    given += letters.finish()
    assert given == expected == tokenizer.decode(ids, special=True)
    assert letters.finish() == ""


def test_control_tokens_are_written_out_on_demand(session: eg.Session) -> None:
    tokenizer = session.model.tokenizer
    turn = tokenizer.find("<|turn>")
    assert turn is not None
    forced = eg.Sampling(logit_bias={turn: np.inf})
    assert [session.next(forced, special=special).text for special in (False, True)] == ["", "<|turn>"]
    assert session.next(forced).text == ""
    assert session.generate(1, sampling=forced).text == ""
    assert StreamingDetokenizer(tokenizer).feed(turn) == "<|turn>"


def test_control_tokens_are_left_out_by_default(session: eg.Session) -> None:
    tokenizer, text = session.model.tokenizer, "<|turn>h"
    turn = tokenizer.find("<|turn>")
    plain, marked = tokenizer.encode(text), tokenizer.encode(text, special=True)
    assert turn not in plain and marked[0] == turn
    assert tokenizer.decode(marked) == "h" and tokenizer.decode(plain) == text
    session.feed_text(text)
    assert session.tokens[len(PROMPT) :] == plain


# ---- contexts, copies, the toy ----------------------------------------------------------------------------------------


def test_context_none(tmp_path: Path, model: eg.Model) -> None:
    """4096, or the model's own length; with a memory limit as much as fits; of a saved session its own."""
    assert model.session().context == model.session(context=None).context == 4096
    assert model.session(memory_limit="100GB").context == model.config.context_length == 8192
    path = write_model(tmp_path / "short.gguf", Shape([True, False], context=300))
    with eg.Model.load(path, threads=1) as short, short.session() as session:
        assert session.context == 300
    with model.session(context=77) as session:
        session.feed_tokens(PROMPT)
        session.save(tmp_path / "saved")
    with model.session(restore=tmp_path / "saved") as session:
        assert session.context == 77 and session.tokens == PROMPT


COPIES = [
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
    lambda thing: pickle.dumps(thing, protocol=0),
    lambda thing: copy.deepcopy([thing]),
]


@pytest.mark.parametrize("kind", ["model", "session", "tokenizer", "own tokenizer", "file", "audio encoder"])
@pytest.mark.parametrize("duplicate", COPIES)
def test_objects_of_the_engine_are_not_copied(kind: str, duplicate: Any) -> None:
    """Two would close the same object."""
    path = DATA / "e2b-Q4_0.gguf"
    with eg.Model.load(path, mmproj=DATA / "audio-e2b.gguf") as model, eg.GGUFFile(path) as file:
        thing = {
            "model": model,
            "session": model.session(64),
            "tokenizer": model.tokenizer,
            "own tokenizer": eg.Tokenizer.load(path),
            "file": file,
            "audio encoder": model.audio_encoder(),
        }[kind]
        with pytest.raises(TypeError, match=rf"^a.* {kind.removeprefix('own ')} cannot be (copied|pickled): .+\.$"):
            duplicate(thing)
        assert not getattr(thing, "closed", False)


def test_a_process_that_tries_to_copy_ends_in_order() -> None:
    script = f"""
import copy, gc, multiprocessing, pickle, sys
import edge_gemma as eg
path = {str(DATA / "e2b-Q4_0.gguf")!r}
with eg.Model.load(path, mmproj={str(DATA / "audio-e2b.gguf")!r}) as model, eg.GGUFFile(path) as file:
    for thing in (model, model.session(64), model.tokenizer, eg.Tokenizer.load(path), file, model.audio_encoder()):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            try:
                duplicate(thing)
            except TypeError as error:
                print(error)
        del thing
        gc.collect()
    model.session(64).feed_tokens([2, 3])
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and lines[-1] == "done" and len(lines) == 19


TOY = Path(eg.__file__).parent / "demo" / "data" / "demo.gguf"


@pytest.mark.skipif(not TOY.exists(), reason="the checkout is without the embedded model")
@pytest.mark.parametrize(
    ("variable", "calls", "warnings"),
    [
        ("", "Model.load()", 1),
        ("", "Model.load(); Model.load()", 1),
        ("", "Model.load('toy')", 0),
        ("", "Model.load('toy'); Model.load()", 1),
        (str(DATA / "e2b-Q4_0.gguf"), "Model.load()", 0),
        ("toy", "Model.load()", 0),
        ("", f"Model.load({str(DATA / 'e2b-Q4_0.gguf')!r})", 0),
        ("", "edge_gemma.transcribe((numpy.zeros(8000, 'f4'), 16000), 'toy')", 0),
        ("", "edge_gemma.transcribe((numpy.zeros(8000, 'f4'), 16000)); Model.load()", 1),
    ],
)
def test_the_toy_warns_once_when_nobody_named_it(
    variable: str, calls: str, warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_GEMMA_MODEL", variable)
    monkeypatch.delenv("EDGE_GEMMA_MMPROJ", raising=False)
    script = f"import edge_gemma, numpy; from edge_gemma import Model; {calls}"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: no model was named") == warnings


def test_vocabulary_of_the_tests(model: eg.Model) -> None:
    assert model.config.vocab_size == model.tokenizer.vocab_size == len(model.tokenizer) == VOCAB
