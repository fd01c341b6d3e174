"""Arguments as models write them: backslashes in quotes, and calls of which a part cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gemma.chat.calls import QUOTE, ToolCall, parse_calls


def arguments(body: str) -> dict[str, Any]:
    calls, left_over, whole = parse_calls(f"call:f{{{body}}}")
    assert whole and not left_over and [call.problem for call in calls] == [""]
    return calls[0].arguments


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r'"^\d{3}-\w+\s*$"', r"^\d{3}-\w+\s*$"),
        (r'"\bcat\b|\Adog\Z"', r"\bcat\b|\Adog\Z"),
        (r'"^\\d+$"', r"^\d+$"),
        (r'"\bcat"', "\bcat"),  # all of it is JSON
        (r'"\sum_{i} \alpha_i \frac{1}{2}"', r"\sum_{i} \alpha_i \frac{1}{2}"),
        (r'"D:\games\new\table.txt"', r"D:\games\new\table.txt"),
        (r'"D:\\games\\new"', r"D:\games\new"),
        (r'"say \"no\" \/ \u00e9 \ud83e\udd99 \ud800 \user \x41"', r'say "no" / é 🦙 \ud800 \user \x41'),
        (r"'it\'s \x41 \d \/'", r"it's A \d \/"),
        (r'"one\ntwo\tthree \d"', "one\ntwo\tthree \\d"),
        ('"a\\\nb"', "a\\\nb"),
        (rf"{QUOTE}a\nb\\c{QUOTE}", r"a\nb\\c"),  # Gemma's own strings have no escapes
    ],
)
def test_what_is_no_escape_keeps_its_backslash(written: str, meant: str) -> None:
    assert arguments(f"a:{written},n:1") == {"a": meant, "n": 1}
    assert arguments(f"l:[{written}]") == {"l": [meant]}


def test_a_backslash_may_end_a_path() -> None:
    assert arguments(r'folder:"D:\music\",n:3') == {"folder": "D:\\music\\", "n": 3}
    assert arguments(r'folder:"D:\music\",name:"x"') == {"folder": "D:\\music\\", "name": "x"}
    assert arguments(r'folder:"D:\music\"') == {"folder": "D:\\music\\"}
    assert arguments(r'text:"\"a\", name: b",n:1') == {"text": '"a", name: b', "n": 1}


@given(st.text(max_size=30), st.booleans())
def test_json_is_read_as_json(text: str, ascii_only: bool) -> None:
    if QUOTE not in text:
        assert arguments("a:" + json.dumps(text, ensure_ascii=ascii_only)) == {"a": text}


NO_ESCAPES = st.lists(st.sampled_from([*(f"\\{c}" for c in "dDsSwWAZpk([.*+?|"), *"abc 019^$-_"]), max_size=12)


@given(NO_ESCAPES.map("".join), st.sampled_from("\"'"))
def test_patterns_arrive_as_they_are(pattern: str, quote: str) -> None:
    assert arguments(f"a:{quote}{pattern}{quote}") == {"a": pattern}


NAMES = st.lists(st.text("abnrtfuxUdsZ09 .-_", min_size=1, max_size=8), min_size=1, max_size=4)


@given(st.sampled_from("CDZz"), NAMES)
def test_windows_paths_arrive_as_they_are(drive: str, names: list[str]) -> None:
    path = f"{drive}:\\" + "\\".join(names)
    assert arguments(f'a:"{path}"') == {"a": path}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("call:f{a:1,a:2}", "a is given twice"),
        ("call:f{a:1,a:true}", "a is given twice"),
        ("call:f{o:{x:1,x:2}}", "x is given twice"),
        ('call:f{"kitchen",on:true}', "has no name"),
        (f"call:f{{a:{QUOTE}say {QUOTE}hi{QUOTE} now{QUOTE}}}", "has no name"),
        ("f(1, a=2)", "has no name"),
        ("call:f{a:,b:2}", "a has no value"),
        ("call:f{l:[1,2,b:3}", "not closed"),
        ("call:f{a:1],b:2}", "not open"),
        ("call:f{r:{n:1}},on:true}", "stands behind"),
        ("call:f{a:1} b:2", "stands behind"),
        ("call:f{a:1}, what now", "stands behind"),
        ('{"name": "f", "arguments": "{bad"}', "no object"),
        ('{"name": "f", "arguments": [1]}', "no object"),
        ('{"name": "f", "room": "hall"}', "room must be inside arguments"),
        ("call:{a:1}", "no call"),
        ("call", "no call"),
        ('{"arguments": {"a": 1}}', "no call"),
    ],
)
def test_calls_that_lose_a_part_are_broken(text: str, problem: str) -> None:
    calls, left_over, _ = parse_calls(text)
    assert len(calls) == 1 and problem in calls[0].problem and left_over == ""


@pytest.mark.parametrize(
    "text",
    [
        "call:f{a:1,a:1}",
        "call:f{a:1}}",
        "call:f{a:1,}",
        '{"name": "f", "id": "7", "arguments": {"a": 1}}',
        r'{"name": "f", "arguments": "{\"a\": 1}"}',
    ],
)
def test_calls_that_lose_nothing_are_whole(text: str) -> None:
    assert parse_calls(text) == ([ToolCall("f", {"a": 1})], "", True)


def test_a_broken_call_leaves_the_others_alone() -> None:
    calls, _, _ = parse_calls("call:f{a:1}call:g{b:1,b:2}call:h{}")
    assert [(call.name, call.problem) for call in calls] == [("f", ""), ("g", "b is given twice"), ("h", "")]
