"""llguidance's view of a vocabulary: what it holds, when it is made, and who counts it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.chat import vocabulary
from edge_gemma.chat.calls import MARKERS
from edge_gemma.chat.vocabulary import prepare, view_bytes, view_of
from edge_gemma.engine.memory import MemoryLimit, memory_need
from support.paths import ROOT

pytest.importorskip("llguidance", reason="needs llguidance")

TOY = ROOT / "edge_gemma" / "demo" / "data" / "demo.gguf"
FIXTURE = ROOT / "tests" / "data" / "e2b-Q4_0.gguf"
TOOL = {"name": "lamp.switch", "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}}}


@pytest.fixture
def toy() -> Iterator[eg.Model]:
    with eg.Model.load(TOY) as model:
        yield model


@pytest.mark.parametrize("file", [TOY, FIXTURE], ids=["toy", "fixture"])
def test_the_view_has_the_bytes_of_every_token(file: Any) -> None:
    tokenizer = eg.Tokenizer.load(file)
    view, control = view_of(tokenizer), {tokenizer.find(text) for text in (*tokenizer.control_tokens, *MARKERS)}
    assert view.vocab_size == tokenizer.vocab_size
    assert set(view.eos_tokens) == {tokenizer.find("<eos>"), tokenizer.find("<turn|>")}
    for number in range(tokenizer.vocab_size):
        text = tokenizer.decode([number], special=True)
        if text == "\ufffd":  # a byte
            continue
        assert view.decode_bytes([number]) == text.encode(), number
        assert view.is_special_token(number) == (number in control), number
    assert view.decode_bytes([tokenizer.find("<0xE4>")]) == b"\xe4"
    assert view.tokenize_str("set the lamp") == tokenizer.encode("set the lamp")


def test_a_view_is_made_once_in_a_thread(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[threading.Thread] = []

    def noted(*arguments: Any, whole: Any = vocabulary._make) -> None:
        makers.append(threading.current_thread())
        whole(*arguments)

    monkeypatch.setattr(vocabulary, "_make", noted)
    grammar = eg.Grammar.regex("a+")
    grammar.prepare(toy.tokenizer)
    views = [view_of(toy.tokenizer), prepare(toy.tokenizer).result()]
    grammar.start(toy.tokenizer)
    assert views[0] is views[1]
    assert len(makers) == 1 and makers[0] is not threading.current_thread()


def test_a_failure_reaches_who_needs_the_view(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("llguidance.LLTokenizer", broken)
    made = prepare(toy.tokenizer)
    with pytest.raises(RuntimeError, match="no room"):
        made.result()
    with pytest.raises(RuntimeError, match="no room"):
        eg.Grammar.regex("a+").start(toy.tokenizer)


def test_a_model_may_be_closed_while_its_view_is_made() -> None:
    with eg.Model.load(TOY) as model:
        made = prepare(model.tokenizer)
    assert made.result().vocab_size > 0


def test_a_chat_makes_it_before_the_first_call(toy: eg.Model) -> None:
    with toy.chat(max_tokens=1):
        assert toy.tokenizer not in vocabulary._views
    with toy.chat(tools=[TOOL], constrain=False):
        assert toy.tokenizer not in vocabulary._views
    with toy.chat(tools=[TOOL]):
        assert toy.tokenizer in vocabulary._views


def test_a_message_with_a_form_makes_it_while_it_is_read(toy: eg.Model) -> None:
    with toy.chat(max_tokens=1) as chat:
        chat.send("Hello", schema={"type": "integer"})
        assert toy.tokenizer in vocabulary._views


# ---- memory -----------------------------------------------------------------------------------------------------------


def test_it_is_counted_until_it_is_there(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = view_bytes(toy.tokenizer)
    assert needed > 0
    assert memory_need(toy, 256, grammar=needed).total - memory_need(toy, 256, fresh=False).total >= needed - 1_000_000
    view_of(toy.tokenizer)
    assert view_bytes(toy.tokenizer) == 0
    with eg.Model.load(TOY) as other:
        monkeypatch.setattr(vocabulary, "can_constrain", lambda: False)
        assert view_bytes(other.tokenizer) == 0


def test_a_chat_plans_for_its_calls(toy: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tools there is room for less, and if nothing is left the error tells the way out."""
    monkeypatch.setattr("edge_gemma.chat.conversation.view_bytes", lambda _: 400_000_000)
    limit = MemoryLimit(memory_need(toy, 512, "q8").total + 200_000_000)
    with pytest.raises(eg.EdgeGemmaError, match=r"400 MB the grammars of answers and calls.*constrain=False") as caught:
        toy.chat(tools=[TOOL], memory_limit=limit)
    assert caught.value.code == "memory"
    for options in ({"tools": [TOOL], "constrain": False}, {}):
        with toy.chat(memory_limit=limit, **options) as chat:
            assert chat.session.context > 512
    with toy.chat(tools=[TOOL], memory_limit=replace(limit, bytes=limit.bytes + 400_000_000)) as chat:
        assert chat.session.context > 512
