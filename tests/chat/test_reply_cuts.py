"""Replies at the border of the engine: every case of test_reply.py cut at every byte, bytes that are no UTF-8, and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import test_reply as cases
from edge_gemma.chat.calls import parse_calls
from edge_gemma.chat.reply import Reply, ReplyParser, parse_reply
from edge_gemma.engine.native import check, ffi, lib, new_struct

Q = '<|"|>'


def texts(test: Any) -> list[str]:
    """The texts with which a test of test_reply.py is run."""
    (mark,) = (mark for mark in test.pytestmark if mark.name == "parametrize")
    rows = [row if isinstance(row, tuple) else (row,) for row in mark.args[1]]
    return [row[0].replace("Q", Q) for row in rows]


REPLIES = [
    *texts(cases.test_replies),
    *texts(cases.test_what_a_lone_end_of_a_thought_precedes_is_the_answer),
    *texts(cases.test_thoughts_around_and_inside_a_call),
    *texts(cases.test_a_call_that_is_only_thought_of_is_no_call),
    *texts(cases.test_a_call_that_is_not_whole_is_no_call_to_run),
    *(f"<|tool_call>call:f{{{body}}}<tool_call|>" for body in texts(cases.test_arguments)),
    "wide\u2003 \u3000space \u00e9\U0001f999<|channel>thought\n\u00a0why\u2003\n<channel|>\u2003end\u00a0",
]


def told(pieces: list[bytes], complete: bool = True) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """The events of a reply that is fed in these pieces, neighbouring texts of one kind joined; its answer and its thoughts."""
    out, err, event = ffi.new("eg_reply **"), new_struct("eg_error"), new_struct("eg_reply_event")
    check(lib.eg_reply_open(ffi.NULL, out, err), err)
    reply = ffi.gc(out[0], lib.eg_reply_close)
    events: list[tuple[Any, ...]] = []

    def take() -> None:
        while lib.eg_reply_next(reply, event, err) == lib.EG_OK and event.kind != lib.EG_EVENT_NONE:
            text = ffi.buffer(event.text, event.text_length)[:]
            text.decode()  # whole characters only
            if event.kind in (lib.EG_EVENT_CALL, lib.EG_EVENT_BROKEN_CALL):
                events.append((event.kind, text, *map(ffi.string, (event.name, event.arguments, event.problem))))
            elif events and events[-1][0] == event.kind:
                events[-1] = (event.kind, events[-1][1] + text)
            else:
                events.append((event.kind, text))

    for piece in pieces:
        check(lib.eg_reply_feed(reply, piece, len(piece), err), err)
        take()
    check(lib.eg_reply_finish(reply, complete, err), err)
    take()
    whole, length = [], ffi.new("size_t *")
    for kind in (lib.EG_EVENT_TEXT, lib.EG_EVENT_THOUGHT):
        text = lib.eg_reply_get(reply, kind, length)
        whole.append(ffi.buffer(text, length[0])[:])
    return events, whole


@pytest.mark.parametrize("complete", [True, False])
def test_every_cut_of_every_case(complete: bool) -> None:
    """A reply is the same in one piece, byte by byte, and cut in two at every byte."""
    assert len(REPLIES) > 120
    for text in REPLIES:
        written = text.encode()
        whole = told([written], complete)
        assert told([written[n : n + 1] for n in range(len(written))], complete) == whole, text
        for cut in range(len(written)):
            assert told([written[:cut], written[cut:]], complete) == whole, (text, cut)


@given(st.binary(max_size=30), st.integers(0, 30))
def test_bytes_that_are_no_text_are_replaced(written: bytes, cut: int) -> None:
    text = "x" + written.decode("utf-8", "replace") + "x"
    assert told([b"x" + written[:cut], written[cut:] + b"x"])[1] == [
        s.encode() for s in (parse_reply(text).content, "")
    ]


def test_a_character_that_does_not_end_is_replaced() -> None:
    assert told([b"a\xf0\x9f", b"\xa6"])[1][0].decode() == "a\ufffd"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_arguments_that_are_strict_json_keep_every_value(
    arguments: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    """Arguments as JSON in a string, which OpenAI's format has, go through the strict reader and the writer."""
    written = json.dumps(arguments, ensure_ascii=ascii_only, indent=indent)
    body = json.dumps({"name": "f", "arguments": written})
    if not any(mark in body for mark in ('<|\\"|>', "<escape>")):
        calls, left_over, whole = parse_calls(body)
        assert [(call.name, call.arguments, call.problem) for call in calls] == [("f", arguments, "")]
        assert (left_over, whole) == ("", True)


@pytest.mark.parametrize(
    "written", ['{"a":1e}', '{"a":01}', '{"a" 1}', '{"a":1,}', '{"a":"\x01"}', '{"a":tru}', "{", "[1 2]"]
)
def test_what_is_no_json_goes_to_the_tolerant_reader(written: str) -> None:
    """These are no strict JSON: the tolerant reader takes them as models mean them, or the call is broken."""
    (call,), _, _ = parse_calls(json.dumps({"name": "f", "arguments": written}))
    assert bool(call.problem) != bool(call.arguments)


def test_deep_json_is_refused_and_not_a_crash() -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    (call,), _, _ = parse_calls(json.dumps({"name": "f", "arguments": deep}))
    assert call.name == "f"


@pytest.mark.parametrize(
    ("number", "value"), [("1.7976931348623157e308", 1.7976931348623157e308), ("1.8e308", "1.8e308")]
)
def test_numbers_end_where_doubles_do(number: str, value: Any) -> None:
    (call,), _, _ = parse_calls(f"call:f{{a:{number},b:{'0' * 3}{number},c:0.{'0' * 150}1e-250}}")
    assert call.arguments["a"] == value and call.arguments["b"] == f"000{number}" and call.arguments["c"] == 0.0


def test_a_parser_cannot_be_copied() -> None:
    import copy

    with pytest.raises(TypeError, match="reply parser"):
        copy.copy(ReplyParser())
    assert parse_reply("a") == Reply(content="a")
