"""Replies whose tokens are pushed: the same as those that a chat pulls; demanded calls, limits on calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.chat.call_grammar import call_grammar
from edge_gemma.chat.prompt import Prompt
from edge_gemma.chat.reply import ChatEvent
from edge_gemma.chat.reply_grammar import ReplyForm
from edge_gemma.chat.reply_stream import ReplyStream
from edge_gemma.chat.structured import Grammar
from edge_gemma.chat.timeline import Timeline
from edge_gemma.chat.tools import Toolbox
from edge_gemma.chat.vocabulary import can_constrain
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.sampling import GREEDY

TOOLS = Toolbox(Home().tools).schemas
MESSAGES = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "Turn on the kitchen lights."}]


@pytest.fixture(scope="module")
def toy() -> Iterator[eg.Model]:
    with eg.Model.load("toy", threads=1) as model:
        yield model


def pushed(
    model: eg.Model, form: Any = None, tools: Sequence[Any] = TOOLS, **options: Any
) -> tuple[ReplyStream, list[ChatEvent]]:
    """A reply to the command, drawn token by token, and its events."""
    prompt = Prompt(model.tokenizer, model.tokenizer.chat_template, tools)
    units = prompt.conversation(MESSAGES)
    session = model.session(context=2048)
    session.feed_tokens(units)  # type: ignore[arg-type]
    stream = ReplyStream(prompt, units, form=form, **{"max_tokens": 200, **options})
    events: list[ChatEvent] = []
    while not stream.stop:
        prefix = stream.forced()
        events += stream.take(session.next(GREEDY, special=True, constraint=stream.constraint, prefix=prefix))
    assert stream.generated == session.position - len(units)
    session.close()
    return stream, events


def test_a_reply_is_that_of_a_chat(toy: eg.Model) -> None:
    calls = call_grammar(TOOLS, toy.tokenizer) if can_constrain() else None
    form = None if calls is None else ReplyForm(calls, None)
    stream, events = pushed(toy, form)
    with toy.chat(INSTRUCTIONS, TOOLS, sampling=GREEDY) as chat:
        told = [*chat.send(MESSAGES[1]["content"])]
    assert stream.reply == told[-1].reply and stream.stop
    assert [event.call for event in events if event.kind == "tool_call"] == stream.reply.tool_calls != []


def test_stops_and_limits(toy: eg.Model) -> None:
    whole, events = pushed(toy, tools=())
    text = "".join(event.text for event in events)
    assert text == whole.reply.content and len(text) > 8
    stopped, events = pushed(toy, tools=(), stop=(text[5:8],))
    assert stopped.stop == "stop" and stopped.stop_text == text[5:8]
    assert "".join(event.text for event in events) == text[:5].rstrip()
    cut, _ = pushed(toy, tools=(), max_tokens=2)
    assert cut.stop == "length" and cut.generated == 2
    assert ReplyStream(Prompt(toy.tokenizer, None), [], max_tokens=0).stop == "length"


def test_an_end_from_outside_is_told_once(toy: eg.Model) -> None:
    prompt = Prompt(toy.tokenizer, toy.tokenizer.chat_template)
    stream = ReplyStream(prompt, [], max_tokens=9, stop=("never",))
    assert [event.text for event in stream.take(eg.Token(1, "Hello n"))] == ["Hello"], (
        "what may become the stop is held"
    )
    assert [event.text for event in stream.end("cancelled")] == [" n"]
    assert stream.end("length") == [] and stream.stop == "cancelled" and stream.reply.content == "Hello n"


@pytest.mark.skipif(not can_constrain(), reason="needs llguidance")
def test_forced_tokens_are_read_and_counted(toy: eg.Model) -> None:
    schema = {
        "type": "object",
        "properties": {"lamp": {"const": "kitchen ceiling"}},
        "required": ["lamp"],
        "additionalProperties": False,
    }
    form = Grammar.json_schema(schema)
    stream, events = pushed(toy, form, tools=())
    assert "".join(event.text for event in events) == '{"lamp": "kitchen ceiling"}' == stream.reply.content
    every, _ = pushed(toy, form, tools=(), every_token=True)
    assert every.reply == stream.reply
    cut, _ = pushed(toy, form, tools=(), max_tokens=3)
    assert cut.generated == 3


@pytest.mark.parametrize("most", [1, 2])
def test_a_call_may_be_demanded_and_calls_limited(toy: eg.Model, most: int) -> None:
    calls = call_grammar(TOOLS, toy.tokenizer) if can_constrain() else None
    hello = [{"role": "user", "content": "Hello, how are you?"}]
    prompt = Prompt(toy.tokenizer, toy.tokenizer.chat_template, TOOLS)
    units = prompt.conversation(hello)
    form = ReplyForm(calls, None, must_call=True, most_calls=most).start(toy.tokenizer)
    call, end = prompt.token("<|tool_call>"), prompt.token("<tool_call|>")
    assert form.forced() == [call] and units
    assert form.check(end) is not None, "nothing else may begin the reply"  # type: ignore[arg-type]
    free = ReplyForm(None, None, must_call=True, most_calls=most).start(toy.tokenizer)
    for number in range(most):
        mask = free.check(99)
        assert (mask is None) == (number > 0)
        assert free.check(call) is None  # type: ignore[arg-type]
        free.accept([call, 99, end])  # type: ignore[list-item]
    mask = free.check(call)  # type: ignore[arg-type]
    assert mask is not None and not mask[call // 32] >> (call % 32) & 1  # type: ignore[operator]
    assert free.check(toy.tokenizer.eos) is None  # type: ignore[arg-type]


def test_a_fork_of_a_timeline_is_its_own(toy: eg.Model) -> None:
    timeline = Timeline(toy.session(context=256))
    timeline.session.feed_tokens([2, 40, 41, 42, 43])
    copy = timeline.fork()
    assert copy.rewind(2) and timeline.common([2, 40, 41, 9]) == (3, 3) and copy.common([2, 40, 41, 9]) == (2, 2)
    copy.session.close()
    timeline.session.close()
