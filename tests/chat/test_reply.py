"""Replies: what the format says, what models make of it, and independence of how the text is cut."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gemma.chat.calls import MARKERS, format_call, parse_calls, plain_data
from edge_gemma.chat.reply import (
    Reply,
    ReplyParser,
    ToolCall,
    format_tool_response,
    format_value,
    parse_reply,
)

Q = '<|"|>'
ONE = ToolCall("f", {"a": 1})


def test_the_example_of_the_format() -> None:
    text = f"<|channel>thought\nLook it up.\n<channel|><|tool_call>call:get_weather{{city:{Q}Rome{Q},n:3}}<tool_call|>"
    thinking, content, calls = parse_reply(text + "<|tool_response>")
    assert (thinking, content) == ("Look it up.", "")
    assert calls == [ToolCall("get_weather", {"city": "Rome", "n": 3})]
    assert dict(calls[0]) == {"name": "get_weather", "arguments": {"city": "Rome", "n": 3}}
    with pytest.raises(KeyError):
        calls[0]["other"]


@pytest.mark.parametrize(
    ("text", "thinking", "content", "calls"),
    [
        ("", "", "", []),
        (" hello \n", "", "hello", []),
        ("hello<turn|>\n<|turn>user\nmore", "", "hello", []),
        ("<|turn>model\nhello<eos>", "", "hello", []),
        ("hello<|turn>user\nmore", "", "hello", []),
        ("<|channel>thought\nwhy\n<channel|>answer<turn|>", "why", "answer", []),
        ("<|channel>thought\n<channel|>answer", "", "answer", []),
        ("<|channel>thought<channel|>answer", "", "answer", []),
        ("<|channel> thought\nwhy", "why", "", []),
        ("<|channel>thought\nwhy", "why", "", []),
        ("<|channel>thought", "", "", []),
        ("<|channel>thou", "", "", []),
        ("<|channel>answer", "", "answer", []),
        ("<|channel>thoughtful", "", "thoughtful", []),
        ("an<|channel>swer<|channel>", "", "answer", []),
        ("answer<|channel>thought\n<channel|>", "", "answer", []),
        ("answer<channel|>", "", "answer", []),
        ("<channel|><channel|>answer", "", "answer", []),
        ("<|channel>thought\na<channel|>x<|channel>thought\nb<channel|>y", "a\n\nb", "xy", []),
        ("<|channel>thought\na<|channel>thought\nb<channel|>y", "a\n\nb", "y", []),
        ("<|channel>thought\nwhy<|tool_call>call:f{a:1}<tool_call|>", "why", "", [ONE]),
        ("<|tool_call>call:f{a:1}<tool_call|><eos>", "", "", [ONE]),
        ("<|tool_call>call:f{a:1}<eos>", "", "", [ONE]),
        ("<|tool_call>call:f{a:1}", "", "", [ONE]),
        ("<|tool_call>call:f{a:1<tool_call|>", "", "", [ONE]),
        ("<|tool_call>call:f{a:1}<|tool_call>call:f{a:1}<tool_call|>", "", "", [ONE, ONE]),
        ("<|tool_call>call:f{a:1}call:f{a:1}<tool_call|>", "", "", [ONE, ONE]),
        ("<|tool_call>call:f{a:1} and so on", "", "and so on", [ONE]),
        ("Wait. <|tool_call>call:f{a:1}<tool_call|>\n<|tool_response>", "", "Wait.", [ONE]),
        ("<|tool_call>f{a:1}<tool_call|>", "", "", [ONE]),
        ("<|tool_call>\ncall: f { a : 1 }\n<tool_call|>", "", "", [ONE]),
        ("<|tool_call>call:f<tool_call|>", "", "", [ToolCall("f", {})]),
        ("<|tool_call>what is this<tool_call|>!", "", "what is this!", []),
        ("<tool_call|>x", "", "x", []),
        ("a<|tool_response>response:f{v:<turn>}<tool_response|>b", "", "ab", []),
        ("a<|tool_response>b", "", "ab", []),
        ("<start_function_call>call:f{s:<escape>x<escape>}<end_function_call>", "", "", [ToolCall("f", {"s": "x"})]),
        ('<|tool_call>{"name": "f", "arguments": {"a": 1}}<tool_call|>', "", "", [ONE]),
        ('<|tool_call>[{"name": "f", "parameters": "{\\"a\\": 1}"}]<tool_call|>', "", "", [ONE]),
        ('<|tool_call>{"function": {"name": "f", "arguments": {"a": 1}}}<tool_call|>', "", "", [ONE]),
        ("<|tool_call>f(a=1)<tool_call|>", "", "", [ONE]),
        ("if a < b and c <| d", "", "if a < b and c <| d", []),
        ("ends with <", "", "ends with <", []),
        ("ends with <t", "", "ends with <t", []),
        ("ends with <|tool_c", "", "ends with", []),
        ("<b>bold</b> <turn> <|x|>", "", "<b>bold</b> <turn> <|x|>", []),
        (f"he said {Q}no{Q}", "", 'he said "no"', []),
    ],
)
def test_replies(text: str, thinking: str, content: str, calls: list[ToolCall]) -> None:
    assert parse_reply(text) == Reply(thinking, content, calls)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("", {}),
        ("city:RomeQ", {"city": "Rome"}),
        ("city:RomeQ,n:3", {"city": "Rome", "n": 3}),
        ("city:Rome, ItalyQ,n:3", {"city": "Rome, Italy", "n": 3}),
        ("street:5, Main StQ,n:3", {"street": "5, Main St", "n": 3}),
        ("n:3,city:RomeQ", {"n": 3, "city": "Rome"}),
        ("a:RomeQ,b:QOsloQ", {"a": "Rome", "b": "Oslo"}),
        ("a:Rome,b:QOsloQ", {"a": "Rome", "b": "Oslo"}),
        ("l:[aQ,bQ,QcQ]", {"l": ["a", "b", "c"]}),
        ("a:QRome,b:QOsloQ", {"a": "Rome", "b": "Oslo"}),
        ("a:QRome", {"a": "Rome"}),
        ('a:QRome",b:1', {"a": "Rome", "b": 1}),
        ('a:"RomeQ,b:1', {"a": "Rome", "b": 1}),
        ('city:"Rome",n:3', {"city": "Rome", "n": 3}),
        ('"city": "Rome", "n": 3.5, "x": null, "y": true', {"city": "Rome", "n": 3.5, "x": None, "y": True}),
        ("'city': 'Rome', 'x': None, 'y': False", {"city": "Rome", "x": None, "y": False}),
        ("QcityQ:QRomeQ", {"city": "Rome"}),
        ('a:"say "hi", now",b:1', {"a": 'say "hi", now', "b": 1}),
        ('a:"line\\nbreak \\"q\\" \\u00e9"', {"a": 'line\nbreak "q" é'}),
        ("a:'it's',b:2", {"a": "it's", "b": 2}),
        ("a:1,,b:2,", {"a": 1, "b": 2}),
        (",a:1 b:2", {"a": "1 b:2"}),
        (
            "a:-3.5e2,b:+4,c:007,d:1.2.3,e:12:30,f:.5",
            {"a": -350.0, "b": 4, "c": "007", "d": "1.2.3", "e": "12:30", "f": 0.5},
        ),
        ("u:https://x.y/z?a=1,b:2", {"u": "https://x.y/z?a=1", "b": 2}),
        ("o:{x:Q{:QQ,y:[{z:1},[]]},e:{}", {"o": {"x": "{:", "y": [{"z": 1}, []]}, "e": {}}),
        ("o:{x:Q},],:Q,y:[ QaQ , null ]}", {"o": {"x": "},],:", "y": ["a", None]}}),
        ("l:[1,2", {"l": [1, 2]}),
        ("a:Q Q,b:QQ", {"a": " ", "b": ""}),
        ("straße:QÜQ, naïve key:1", {"straße": "Ü", "naïve key": 1}),
        ("code:Qdef f(x):\n\treturn {'a': [x, \"b\"]}  # }Q", {"code": "def f(x):\n\treturn {'a': [x, \"b\"]}  # }"}),
        ("t:[sic] as written,b:1", {"t": "[sic] as written", "b": 1}),
        ("t:(1, 2)", {"t": [1, 2]}),
        ('t:"""a "b" c""",n:1', {"t": 'a "b" c', "n": 1}),
        ("n:" + "9" * 400, {"n": "9" * 400}),
        ("x:1e999", {"x": "1e999"}),
    ],
)
def test_arguments(body: str, arguments: dict[str, Any]) -> None:
    # Q stands for the delimiter; a double one for the string's end right after text that looks like an opening
    text = "<|tool_call>call:f{" + body.replace("QQ,y", Q + ",y").replace("Q", Q) + "}<tool_call|>"
    reply = parse_reply(text)
    assert reply.content == ""
    assert reply.tool_calls == [ToolCall("f", arguments)]


def merged(events: list[Any]) -> list[tuple[str, Any]]:
    """Events with neighbouring texts of one kind joined."""
    out: list[tuple[str, Any]] = []
    for event in events:
        if event.kind == "tool_call":
            out.append((event.kind, event.call))
        elif out and out[-1][0] == event.kind:
            out[-1] = (event.kind, out[-1][1] + event.text)
        else:
            out.append((event.kind, event.text))
    return out


PIECES = st.sampled_from(
    [
        *MARKERS,
        "thought",
        "\n",
        " ",
        "response",
        "call:",
        "call:f{a:1}",
        "f{",
        "a:",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "'",
        "x",
        "<",
        "|>",
        "<|",
        "1",
        "true",
        "<start_function_call>",
        "<end_function_call>",
        "model\n",
        "word",
        "é",
    ]
)
TEXTS = st.lists(PIECES, max_size=25).map("".join)


@settings(max_examples=400)
@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=8), st.booleans())
def test_any_cut_gives_the_same(text: str, cuts: list[int], complete: bool) -> None:
    whole = ReplyParser()
    expected = whole.feed(text) + whole.finish(complete)
    parser, events, at, number = ReplyParser(), [], 0, 0
    while at < len(text):
        size = cuts[number % len(cuts)]
        events += parser.feed(text[at : at + size])
        at, number = at + size, number + 1
    events += parser.finish(complete)
    assert merged(events) == merged(expected)
    assert parser.reply == whole.reply
    if "<channel|>" not in text:  # its lone occurrence turns text that was told into a thought
        assert "".join(e.text for e in events if e.kind == "text") == parser.reply.content
        assert "".join(e.text for e in events if e.kind == "thinking") == parser.reply.thinking
    told = [e.call for e in events if e.kind == "tool_call"], [e.call for e in events if e.kind == "broken_call"]
    assert told == (parser.reply.tool_calls, parser.reply.broken_calls)
    assert parser.finish() == [] and parser.feed("more") == []


@settings(max_examples=200)
@given(st.lists(PIECES.filter(lambda p: p not in ('"', "<", "|>", "<|")), max_size=25).map("".join))
def test_no_marker_is_ever_text(text: str) -> None:
    reply = parse_reply(text)
    shown = ("<unk>", "<mask>")  # words of programmers as often as tokens
    assert not any(m in reply.content + reply.thinking for m in MARKERS if m not in shown)


def test_a_marker_is_held_back_until_it_is_decided() -> None:
    parser = ReplyParser()
    seen = [[e.text for e in parser.feed(piece)] for piece in ("a <", "|chan", "nel>th", "ought", "\n", "b <", "chair")]
    assert seen == [["a"], [], [], [], [], ["b"], [" <chair"]]
    assert parser.reply == Reply("b <chair", "a")


def test_text_comes_at_once() -> None:
    parser = ReplyParser()
    assert [e.text for e in parser.feed("Hel")] == ["Hel"]
    assert [e.text for e in parser.feed("lo ")] == ["lo"]
    assert [e.text for e in parser.feed("you")] == [" you"]


def test_a_cut_off_call_is_broken() -> None:
    parser = ReplyParser()
    parser.feed(f"<|tool_call>call:f{{a:1}}call:send{{to:{Q}al")
    whole, broken = parser.finish(complete=False)
    assert whole.kind == "tool_call" and whole.call == ONE
    assert broken.kind == "broken_call" and broken.name == "send" and broken.text == 'call:f{a:1}call:send{to:"al'
    assert broken.call and "broken off" in broken.call.problem
    assert parser.reply.tool_calls == [ONE] and parser.reply.broken_calls == [broken.call]


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("The sky? Grey.<channel|>It rains.", "The sky? Grey.", "It rains."),
        ("thought\nGrey.<channel|>It rains.<turn|>", "Grey.", "It rains."),
        ("thought\n<channel|>Yes.", "", "Yes."),
        ("thought<channel|>Yes.", "", "Yes."),
        ("<|turn>model\nthought\nGrey.<channel|>Yes.", "Grey.", "Yes."),
        ("thought\nGrey.<channel|>", "Grey.", ""),
        ("thought\nof a poet", "", "thought\nof a poet"),
        ("thoughts are free<channel|>Yes.", "thoughts are free", "Yes."),
        ("One.<channel|>Two.<channel|>Three.", "One.\n\nTwo.", "Three."),
        ("One.<channel|>Two.<channel|>", "One.", "Two."),
        ("<|channel>thought\nOne.<channel|>Two.<channel|>Three.", "One.\n\nTwo.", "Three."),
        ("So.<|channel>thought\nOne.<channel|>Two.", "One.", "So.Two."),
        ("<|channel>analysis\nOne.<channel|>Two.", "One.", "Two."),
        ("<|channel>analysis\nOne.<channel|><|channel>final\nTwo.<channel|>", "One.", "Two."),
        ("<|channel>\nOne.<channel|>Two.", "One.", "Two."),
        ("Say. <|channel>One, two.<channel|>Three.", "One, two.", "Say. Three."),
        ("<|channel>thought\nOne.<|channel>final\nTwo.", "One.", "Two."),
        ("<channel|>Yes.<channel|>", "", "Yes."),
        ("Answer.<channel|><turn|>", "", "Answer."),
        ("Answer.<channel|><|channel>thought\n<channel|>", "", "Answer."),
    ],
)
def test_what_a_lone_end_of_a_thought_precedes_is_the_answer(text: str, thinking: str, content: str) -> None:
    assert parse_reply(text) == Reply(thinking, content)


def test_a_stream_cannot_take_back_what_it_told() -> None:
    parser = ReplyParser()
    events = [event for piece in ("It is ", "late.", "<channel|>", "Ten.") for event in parser.feed(piece)]
    assert "".join(event.text for event in events) == "It is late.Ten."
    assert parser.reply == Reply("It is late.", "Ten.")


def test_a_reply_that_is_cut_off_behind_a_thought_has_no_content() -> None:
    parser = ReplyParser()
    parser.feed("It is late.<channel|>")
    parser.finish(complete=False)
    assert parser.reply == Reply("It is late.", "")


@pytest.mark.parametrize("head", ["", "thought\n", "\nthought \n"])
def test_a_reply_may_begin_in_a_thought(head: str) -> None:
    parser = ReplyParser(in_thought=True)
    events = [event for piece in (*head, "It is", " late.<channel|>Ten.") for event in parser.feed(piece)]
    assert [(event.kind, event.text) for event in events] == [
        ("thinking", "It is"),
        ("thinking", " late."),
        ("text", "Ten."),
    ]
    assert parser.reply == Reply("It is late.", "Ten.")
    endless = ReplyParser(in_thought=True)
    endless.feed("It is late")
    endless.finish(complete=False)
    assert endless.reply == Reply("It is late", "")


LAMP = ToolCall("lamp", {"on": True, "room": "hall"})


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        ("<|tool_call>call:lamp{<|channel>thought\nHall.<channel|>room:QhallQ,on:true}<tool_call|>", "Hall.", ""),
        ("<|tool_call>call:lamp{room:QhallQ,<|channel>thought\nOn.<channel|>on:true}<tool_call|>Ok", "On.", "Ok"),
        ("<|tool_call><|channel>thought\nHall.<channel|>call:lamp{room:QhallQ,on:true}<tool_call|>", "Hall.", ""),
        ("<|tool_call>call:lamp{room:Qha<|channel>thought\n?<channel|>llQ,on:true}<tool_call|>", "?", ""),
        ("<|tool_call>call:lamp{room:QhallQ,on:true}<|channel>thought\nDone.<channel|>Ok", "Done.", "Ok"),
        ("<|tool_call>call:lamp{room:QhallQ,on:true}<channel|><tool_call|>", "", ""),
        ("They want light.<channel|><|tool_call>call:lamp{room:QhallQ,on:true}<tool_call|>", "They want light.", ""),
        ("<|channel>thought\nLight!<|tool_call>call:lamp{room:QhallQ,on:true}<tool_call|><turn|>", "Light!", ""),
        ("<|tool_call>call:lamp{room:QhallQ,on:true}<turn|>", "", ""),
    ],
)
def test_thoughts_around_and_inside_a_call(text: str, thinking: str, content: str) -> None:
    assert parse_reply(text.replace("Q", Q)) == Reply(thinking, content, [LAMP])


@pytest.mark.parametrize(
    ("text", "thinking", "content"),
    [
        (
            "<|channel>thought\nI may <|tool_call>call:f{a:1}<tool_call|>, or not.<channel|>No.",
            "I may call:f{a:1}, or not.",
            "No.",
        ),
        ("<|channel>thought\nMaybe <|tool_call>call:f{a:1}<tool_call|><channel|>No.", "Maybe call:f{a:1}", "No."),
        (
            "<|channel>thought\nMaybe <|tool_call>call:f{a:1}<tool_call|> but why<turn|>",
            "Maybe call:f{a:1} but why",
            "",
        ),
    ],
)
def test_a_call_that_is_only_thought_of_is_no_call(text: str, thinking: str, content: str) -> None:
    assert parse_reply(text) == Reply(thinking, content)


@pytest.mark.parametrize(
    "text",
    [
        "<|tool_call>call:lamp{<|channel>thought\nHall. room:QhallQ,on:true}<tool_call|>",
        "<|tool_call>call:lamp{on:true<turn|>",
        "<|tool_call>call:lamp{on:true<eos>",
        "<|tool_call>call:lamp{on:true",
        "<|tool_call>call:lamp{room:QhallQ,on:t",
        "<|tool_call>call:lamp{room:Qha}<turn|>",
        "<|tool_call>call:lamp<|tool_response>",
        "<|tool_call>call:lamp{on:true<|tool_call>",
        "<|tool_call>call:lamp{Light.<channel|>on:true}<tool_call|>",
        "<|tool_call>call:lamp{on:true,on:false}<tool_call|>",
        "<|tool_call>call:lamp{room:{name:QhallQ}},on:true}<tool_call|>",
    ],
)
def test_a_call_that_is_not_whole_is_no_call_to_run(text: str) -> None:
    reply = parse_reply(text.replace("Q", Q))
    assert reply.tool_calls == [] and reply.content == ""
    assert [call.name for call in reply.broken_calls] == ["lamp"] and reply.broken_calls[0].problem


def test_a_call_in_a_thought_that_was_cut_off_is_broken() -> None:
    parser = ReplyParser()
    parser.feed("<|channel>thought\nMaybe <|tool_call>call:f{a:1}<tool_call|>")
    parser.finish(complete=False)
    assert parser.reply.tool_calls == [] and [call.name for call in parser.reply.broken_calls] == ["f"]


def test_markers_of_the_file() -> None:
    parser = ReplyParser(markers=["<|im_start|>", "<|im_end|>", "[TOOL]"], ends=["<|im_end|>"])
    events = [
        event
        for piece in ("Hel", "lo [TO", "OL]you <|im", "_end|>", "\n<|im_start|>user")
        for event in parser.feed(piece)
    ]
    assert "".join(event.text for event in events) == "Hello you" and parser.ended
    assert parse_reply("Hello<|im_end|>").content == "Hello<|im_end|>"  # known from the tokenizer alone


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(max_size=12).filter(lambda s: not any(m in s for m in MARKERS)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_XYZ09", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.text("abcxyz_", min_size=1, max_size=5), VALUES, max_size=4))
def test_what_is_written_is_read_back(arguments: dict[str, Any]) -> None:
    text = format_call("some_tool", arguments)
    assert parse_reply(text).tool_calls == [ToolCall("some_tool", arguments)]


@settings(max_examples=300)
@given(TEXTS)
def test_reading_calls_never_fails(text: str) -> None:
    calls, left_over, whole = parse_calls(text)
    assert isinstance(calls, list) and isinstance(left_over, str) and isinstance(whole, bool)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "call:f{a:" * 3000, 'call:f{a:"' + '",' * 20_000, "call:f{" + "a:x," * 20_000]
)
def test_reading_long_nonsense_ends_soon(text: str) -> None:
    began = time.perf_counter()
    parse_calls(text)
    assert time.perf_counter() - began < 10


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    y: int
    x: Any


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (2.5, "2.5"),
        (float("nan"), "null"),
        ("x", f"{Q}x{Q}"),
        ([1, [None], ()], "[1,[null],[]]"),
        ({"b": 1, "A": {"z": "q"}, 3: 4}, f"{{3:4,A:{{z:{Q}q{Q}}},b:1}}"),
        ({"a:b}": 1}, "{a_b_:1}"),
        (f"a{Q}b<turn|>", f'{Q}a< |"|>b< turn|>{Q}'),
        (f"<|{Q}|>", f'{Q}<|< |"|>|>{Q}'),
        (Colour.RED, f"{Q}red{Q}"),
        (Level.HIGH, "3"),
        (Point(1, {2}), "{x:[2],y:1}"),
        (np.float32(0.5), "0.5"),
        (np.arange(3), "[0,1,2]"),
        (datetime.date(2025, 3, 1), f"{Q}2025-03-01{Q}"),
        (Ellipsis, f"{Q}Ellipsis{Q}"),
    ],
)
def test_values_are_written(value: Any, text: str) -> None:
    assert format_value(value) == text
    assert format_value(plain_data(value)) == text


def test_responses_are_written() -> None:
    assert format_tool_response("f", {"b": "x", "A": 1}) == (
        f"<|tool_response>response:f{{A:1,b:{Q}x{Q}}}<tool_response|>"
    )
    assert format_tool_response("f", "x") == f"<|tool_response>response:f{{value:{Q}x{Q}}}<tool_response|>"
    assert format_tool_response("f", [1]) == "<|tool_response>response:f{value:[1]}<tool_response|>"
    assert format_tool_response("f", None) == "<|tool_response>response:f{value:null}<tool_response|>"
    assert format_tool_response("f", {}) == "<|tool_response>response:f{}<tool_response|>"
