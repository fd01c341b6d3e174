"""The protocols of `engine/interface.py`, the engine's classes and the scripted ones of the tests agree; and the scripted ones
behave as the engine's where they can be compared."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.audio import AudioFeed
from edge_gemma.engine.interface import AudioFeedLike, ConfigLike, ModelLike, SessionLike, TokenizerLike
from edge_gemma.errors import Cancelled, EdgeGemmaError
from support.paths import DATA
from support.scripted import (
    ScriptedConfig,
    ScriptedFeed,
    ScriptedModel,
    ScriptedSession,
    ScriptedTokenizer,
)

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(MODEL, mmproj=MMPROJ) as opened:
        yield opened


def members(protocol: type) -> list[str]:
    return sorted(name for name in vars(protocol) if not name.startswith("_"))


PAIRS = [
    (TokenizerLike, eg.Tokenizer, ScriptedTokenizer),
    (ConfigLike, eg.ModelConfig, ScriptedConfig),
    (AudioFeedLike, AudioFeed, ScriptedFeed),
    (SessionLike, eg.Session, ScriptedSession),
    (ModelLike, eg.Model, ScriptedModel),
]


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("protocol", "name"), [(pair[0], name) for pair in PAIRS for name in members(pair[0])])
def test_members_are_the_same(protocol: type, name: str, model: eg.Model) -> None:
    scripted = ScriptedModel("Yes.")
    with model.session(64) as session, scripted.session() as other:
        objects: dict[type, tuple[Any, Any]] = {
            TokenizerLike: (model.tokenizer, scripted.tokenizer),
            ConfigLike: (model.config, scripted.config),
            AudioFeedLike: (session.stream_audio(), other.stream_audio()),
            SessionLike: (session, other),
            ModelLike: (model, scripted),
        }
        declared = vars(protocol)[name]
        for instance in objects[protocol]:
            assert hasattr(instance, name)
            if callable(declared):
                assert parameters(getattr(type(instance), name)) == parameters(declared), type(instance)
            else:
                assert not callable(getattr(instance, name)) or name == "model"


def test_every_protocol_has_members() -> None:
    assert all(members(protocol) for protocol, _, _ in PAIRS)
    assert len(members(SessionLike)) > 15


# ---- the scripted session -----------------------------------------------------------------------------------------


def opened(script: Any, **options: Any) -> tuple[ScriptedModel, ScriptedSession]:
    model = ScriptedModel(script, **options)
    session = model.session()
    session.feed_tokens(model.tokenizer.encode("<bos><|turn>user\nHi<turn|>\n<|turn>model\n", special=True))
    return model, session


def test_answers_come_in_their_order() -> None:
    model, session = opened(["One.<turn|>", [*"Two", "<eos>"], "Three"])
    first = session.generate()
    assert (first.text, first.stop, len(first.tokens)) == ("One.", "turn", 5)
    texts = []
    for _ in range(2):
        session.feed_tokens(model.tokenizer.encode("\n<|turn>model\n", special=True))
        answer = session.generate(max_tokens=4)
        texts.append((answer.text, answer.stop))
    assert texts == [("Two", "eos"), ("Thre", "length")]
    assert session.generate().text == "e"  # the rest of the same answer
    session.feed_tokens([5])
    with pytest.raises(AssertionError, match="no answer left"):
        session.next()
    requests = [(request.max_tokens, request.special) for request in model.requests[:3]]
    assert requests == [(256, False), (4, False), (4, False)]


def test_an_answer_is_a_function_of_the_timeline() -> None:
    model, session = opened(lambda session: f"{session.seconds:g} after {session.text.count('user')}")
    with session.stream_audio() as audio:
        for _ in range(5):
            audio.push(np.ones(1600, np.float32))
            with session.fork() as fork:
                assert fork.audio is not None
                fork.audio.finish()
                fork.feed_tokens(model.tokenizer.encode("<|turn>model\n", special=True))
                assert fork.generate().text == f"{session.seconds:g} after 1"
    assert len(model.heard) == 6 and [len(sound) for sound in model.heard][-2:] == [8000, 8000]
    assert session.tokens.count(-1) == eg.audio_tokens(8000) == 13
    session.rewind(1 + 3)  # the end marker and 120 ms
    assert session.seconds == 0.4 and np.array_equal(session.heard, np.ones(6400, np.float32))


def test_drafts_are_checked_as_with_a_model() -> None:
    model, session = opened("Hello there.")
    tokenizer = model.tokenizer
    assert session.logits().argmax() == tokenizer.find("H")
    draft = tokenizer.encode("Help")
    found = session.forward(draft).argmax(axis=1)
    assert tokenizer.decode(found) == "ello"
    session.rewind(1)
    assert session.fork().generate().text == session.generate().text == "lo there."
    assert (model.checked, len(model.requests)) == (4, 2)
    _, trusting = opened("Hello there.")
    trusting.feed_tokens(tokenizer.encode("<|turn>model\nHello", special=True))
    assert trusting.generate().text == " there."


def test_errors_and_cancelling_at_their_place() -> None:
    _, session = opened([["O", EdgeGemmaError("broken", "memory"), "K"]])
    generation = session.generate()
    assert next(generation) == "O"
    with pytest.raises(EdgeGemmaError, match="broken"):
        next(generation)
    assert generation.text == "OK"
    _, session = opened("One")
    generation = session.generate()
    next(generation)
    session.cancel()
    assert list(generation) == [] and generation.stop == "cancelled"
    assert session.generate().text == "ne"
    session.cancel()  # sticky: it ends the next call
    with pytest.raises(Cancelled):
        session.feed_tokens([5, 6])
    assert session.tokens[-1] == 5
    model, session = opened("One")
    model.on_call = lambda session, name, value: session.cancel() if name == "next" else None
    assert session.generate().stop == "cancelled"
    _, session = opened("One")
    with pytest.raises(EdgeGemmaError) as caught:
        session.feed_tokens([5] * 5000)
    assert caught.value.code == "context" and session.position == len(session.fed[0])
    session.rewind_limit = 2
    for n, code in ((3, "state"), (99, "argument")):
        with pytest.raises(EdgeGemmaError) as caught:
            session.rewind(n)
        assert caught.value.code == code
    session.rewind(session.position)
    session.close()
    with pytest.raises(EdgeGemmaError, match="closed"):
        session.cancel()


def test_a_real_tokenizer_and_half_a_character(model: eg.Model) -> None:
    half = [model.tokenizer.find(f"<0x{byte:02X}>") for byte in (0xC3, 0xA4, 0xC3)]
    scripted = ScriptedModel([half], tokenizer=model.tokenizer)
    session = scripted.session()
    session.feed_tokens([5])
    generation = session.generate()
    assert (generation.text, generation.stop) == ("ä\ufffd", "turn")
    assert [token.text for token in generation.tokens] == ["", "ä", "", "\ufffd"]


def short_stream(session: Any) -> None:
    with session.stream_audio() as audio:
        audio.push(np.zeros(200))


def too_short_stream(session: Any) -> None:
    session.stream_audio().push(np.zeros(100))
    session.audio.finish()


STEPS = [
    lambda session: session.logits(),
    lambda session: session.next(),
    lambda session: session.feed_tokens([2, 5, 6]),
    lambda session: session.feed_tokens([2] * 99),
    lambda session: session.feed_tokens([-3]),
    lambda session: session.feed_audio(np.zeros(5000)),
    lambda session: session.feed_audio(np.zeros(160)),
    lambda session: session.feed_audio(np.zeros(5000), markers=False),
    lambda session: session.feed_audio(np.zeros(99000)),
    lambda session: session.stream_audio(),
    lambda session: session.feed_tokens([5]),
    lambda session: session.next(),
    lambda session: session.fork().audio.finish(),
    lambda session: session.rewind(0),
    lambda session: session.rewind(99),
    lambda session: session.rewind(-1),
    short_stream,
    too_short_stream,
    lambda session: session.rewind_to(2),
    lambda session: session.close(),
    lambda session: session.cancel(),
    lambda session: session.feed_tokens([5]),
]


def test_timelines_are_those_of_a_real_session(model: eg.Model) -> None:
    """Feeding, rewinding and failing leave the same tokens."""
    scripted = ScriptedModel("Yes.", tokenizer=model.tokenizer)
    timelines = []
    for session in (model.session(64), scripted.session(64)):
        seen: list[Any] = []
        for step in STEPS:
            try:
                step(session)
            except EdgeGemmaError as error:
                seen.append(error.code)
            seen.append(None if session.closed else (session.tokens, session.audio is not None))
        timelines.append(seen)
    assert timelines[0] == timelines[1]
