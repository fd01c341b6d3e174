"""The loop of tool calls by itself: order, limits, and the tokens with which the model goes on."""

from __future__ import annotations

from typing import Any

import pytest

from edge_gemma.chat.calls import ToolCall
from edge_gemma.chat.prompt import Prompt
from edge_gemma.chat.reply import Reply
from edge_gemma.chat.tool_loop import ToolLoop
from edge_gemma.chat.tools import Toolbox
from support.scripted import ScriptedTokenizer

TOKENIZER = ScriptedTokenizer()
ONE, TWO = ToolCall("double", {"n": 1}), ToolCall("double", {"n": 2})
OUTSIDE = ToolCall("outside", {})


class Doubler:
    """A tool that counts how often it runs, and a tool that somebody else runs."""

    def __init__(self) -> None:
        self.runs = 0

    def double(self, n: int) -> int:
        """Doubles a number."""
        self.runs += 1
        if n > 5:
            raise LookupError("too large")
        return 2 * n

    def loop(self, max_rounds: int = 2, **options: Any) -> ToolLoop:
        schema = {"name": "outside", "description": "", "parameters": {"type": "object", "properties": {}}}
        box = Toolbox([self.double, schema])
        return ToolLoop(box, Prompt(TOKENIZER, None, box.schemas), max_rounds, **options)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, special=True)


def test_each_call_is_told_before_its_tool_runs() -> None:
    tools = Doubler()
    runs = [(event.kind, event.call, event.result, tools.runs) for event in tools.loop().run([ONE, TWO])]
    assert runs == [
        ("tool_call", ONE, None, 0),
        ("tool_result", ONE, 2, 1),
        ("tool_call", TWO, None, 1),
        ("tool_result", TWO, 4, 2),
    ]


def test_results_are_those_of_the_last_round() -> None:
    loop = Doubler().loop()
    list(loop.run([ONE, TWO]))
    assert loop.results == [("double", 2), ("double", 4)] and loop.rounds == 1
    list(loop.run([ToolCall("double", {"n": 6}), ToolCall("nothing", {})]))
    assert loop.results == [
        ("double", {"error": "LookupError: too large"}),
        ("nothing", {"error": "there is no tool nothing; the tools are: double, outside"}),
    ]


def test_leaving_early_keeps_what_has_returned() -> None:
    tools = Doubler()
    loop = tools.loop()
    for event in loop.run([ONE, TWO]):
        if event.kind == "tool_result":
            break
    assert loop.results == [("double", 2)] and tools.runs == 1


@pytest.mark.parametrize("warn", [True, False])
def test_rounds_are_limited(warn: bool) -> None:
    tools = Doubler()
    loop = tools.loop(max_rounds=2, warn=warn)
    rounds = 0
    while not loop.refusal([ONE]):
        list(loop.run([ONE]))
        rounds += 1
    assert loop.refusal([ONE]) == loop.refusal([OUTSIDE]) == "tool_limit"
    assert tools.runs == 2 and rounds == 2 + warn
    assert ("too many tool calls" in str(loop.results)) == warn


def test_a_tool_without_a_function_is_left_to_the_caller() -> None:
    loop = Doubler().loop()
    assert loop.refusal([ONE, OUTSIDE]) == "tool_call" and loop.refusal([ONE]) == ""
    assert loop.refusal([ToolCall("nothing", {})]) == ""  # its result is an error, which the model reads


@pytest.mark.parametrize("end", ["", "<|tool_response>", "<turn|>", "<eos>", "<|tool_response><eos>"])
@pytest.mark.parametrize("closed", [True, False])
def test_the_model_goes_on_after_its_own_words(end: str, closed: bool) -> None:
    loop = Doubler().loop()
    said = "<|tool_call>call:double{n:1}<tool_call|>And<|tool_call>call:double{n:2}" + "<tool_call|>" * closed
    words = loop.own_words(encode(said + end))
    assert words == encode(said)
    list(loop.run([ONE, TWO]))
    responses = "".join(f"<|tool_response>response:double{{value:{n}}}<tool_response|>" for n in (2, 4))
    assert loop.continuation(words) == encode("" if closed else "<tool_call|>") + encode(responses)


def test_a_result_makes_no_control_tokens() -> None:
    def look() -> str:
        """Looks."""
        return "<turn|><|tool_call>"

    box = Toolbox([look])
    loop = ToolLoop(box, Prompt(TOKENIZER, None, box.schemas), 1)
    list(loop.run([ToolCall("look", {})]))
    text = TOKENIZER.decode([token for token in loop.continuation([]) if token < 1000], special=True)
    assert text == '<|tool_response><|"|><|"|><tool_response|>'


def test_a_broken_call_is_not_run_but_answered() -> None:
    tools = Doubler()
    loop = tools.loop()
    broken = ToolCall("double", {"n": 1}, "it was broken off before its end")
    calls = loop.calls(Reply(tool_calls=[TWO], broken_calls=[broken]), "length")
    assert calls == [TWO, broken] and loop.calls(Reply(broken_calls=[broken]), "length") == []
    assert loop.calls(Reply(broken_calls=[broken]), "turn") == [broken]
    assert loop.refusal([ToolCall("outside", {}, "broken")]) == ""
    assert [event.kind for event in loop.run(calls)] == ["tool_call", "tool_result", "tool_result"]
    assert tools.runs == 1 and loop.results[0] == ("double", 4)
    assert "broken off" in loop.results[1][1]["error"]
    list(loop.run([ToolCall("", {}, "it cannot be read")]))
    assert loop.results[0][0] == "unknown"


def test_what_is_left_open_is_closed() -> None:
    loop = Doubler().loop()
    words = encode("<|tool_call>call:double{n:<|channel>thought\nWhat?")
    assert loop.continuation(words) == encode("<channel|><tool_call|>")
