"""Chat templates: a file's own against recorded renderings, ours against the format, and hostile ones against the limits."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import numpy as np
import pytest

from edge_gemma.chat.template import BUILTIN_TEMPLATE, render_chat
from edge_gemma.errors import EdgeGemmaValueError
from support.paths import DATA

CASES: list[dict[str, Any]] = json.loads((DATA / "chat.json").read_text(encoding="utf-8"))


def render(case: dict[str, Any], template: str | None, **options: Any) -> str:
    return render_chat(
        case["messages"],
        template,
        tools=case["tools"],
        add_generation_prompt=case["add_generation_prompt"],
        **{**case["options"], **options},
    )


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_files_own_template(number: int, file_template: str) -> None:
    assert render(CASES[number], file_template) == CASES[number]["text"]


def test_null_arguments_and_other_fields_pass_through(file_template: str) -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": " a "}, {"type": "audio"}, {"type": "text", "text": "b"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"function": {"name": "f", "arguments": {"B": None, "a": {"y": [1, 2.5, True], "x": "é<"}}}},
                {"function": {"name": "g", "arguments": '"a": 1'}},
            ],
            "tool_responses": [{"name": "f", "response": {"k": [None]}}, {"name": "g", "response": 3}],
        },
        {"role": "critic", "content": "odd role"},
    ]
    assert render_chat(messages, file_template, enable_thinking=True) == (
        "<bos><|turn>system\n<|think|><turn|>\n<|turn>user\na<|audio|>b<turn|>\n<|turn>model\n"
        '<|tool_call>call:f{a:{x:<|"|>é<<|"|>,y:[1,2.5,true]},B:None}<tool_call|><|tool_call>call:g{"a": 1}<tool_call|>'
        "<|tool_response>response:f{k:[None]}<tool_response|><|tool_response>response:g{value:3}<tool_response|>"
        "<|turn>critic\nodd role<turn|>\n<|turn>model\n"
    )


def _is_plain(case: dict[str, Any]) -> bool:
    """Whether nothing in it is written differently in the revisions of the format."""
    text = case["text"]
    nested = any(mark in text for mark in (",items:", ",properties:{fade"))
    return not (nested or "<|turn>tool" in text or "<|image|>" in text or "<|video|>" in text)


@pytest.mark.parametrize("number", [n for n, case in enumerate(CASES) if _is_plain(case)])
def test_the_builtin_template_agrees_where_the_revisions_do(number: int) -> None:
    expected = CASES[number]["text"].replace("<|think|>", "<|think|>\n")
    assert render(CASES[number], None, empty_thought=True) == expected


def test_plain_cases_are_most() -> None:
    assert sum(map(_is_plain, CASES)) >= 13


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": 'Say "<|"|>"',
        "parameters": {
            "type": "object",
            "properties": {
                "list": {"type": "array", "description": "d", "items": {"type": "string", "enum": ["a", "b"]}},
                "Deep": {
                    "type": "object",
                    "nullable": True,
                    "properties": {"type": {"type": "string"}, "n": {"type": "integer"}},
                    "required": ["n"],
                },
            },
            "required": ["list"],
        },
        "response": {"type": "object", "description": "r"},
    },
}


def test_the_builtin_template_declares_nested_tools() -> None:
    text = render_chat([{"role": "user", "content": "x"}], BUILTIN_TEMPLATE, tools=[TOOL])
    string, integer = 'type:<|"|>STRING<|"|>', 'type:<|"|>INTEGER<|"|>'
    assert text == (
        "<bos><|turn>system\n"
        '<|tool>declaration:f{description:<|"|>Say """<|"|>,parameters:{properties:{'
        f"Deep:{{nullable:true,properties:{{n:{{{integer}}},type:{{{string}}}}},"
        'required:[<|"|>n<|"|>],type:<|"|>OBJECT<|"|>},'
        f'list:{{description:<|"|>d<|"|>,items:{{enum:[<|"|>a<|"|>,<|"|>b<|"|>],{string}}},type:<|"|>ARRAY<|"|>}}'
        '},required:[<|"|>list<|"|>],type:<|"|>OBJECT<|"|>},'
        'response:{description:<|"|>r<|"|>,type:<|"|>OBJECT<|"|>}}<tool|>'
        "<turn|>\n<|turn>user\nx<turn|>\n<|turn>model\n"
    )


def test_the_builtin_template_keeps_calls_and_responses_in_one_turn() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"b": None, "A": "x"}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "Look.", "reasoning_content": "why", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": {"ok": True}},
    ]
    turn = (
        '<|turn>model\n<|channel>thought\nwhy\n<channel|>Look.<|tool_call>call:f{A:<|"|>x<|"|>,b:null}<tool_call|>'
        "<|tool_response>response:f{ok:true}<tool_response|>"
    )
    begin = "<bos><|turn>user\nq<turn|>\n"
    assert render_chat(messages, None) == begin + turn
    assert render_chat(messages, None, add_generation_prompt=False) == begin + turn + "<turn|>\n"
    messages.append({"role": "assistant", "content": "Done."})
    assert render_chat(messages, None, add_generation_prompt=False) == begin + turn + "Done.<turn|>\n"
    messages.append({"role": "user", "content": "next"})
    later = turn.replace("<|channel>thought\nwhy\n<channel|>", "")
    assert render_chat(messages, None) == (begin + later + "Done.<turn|>\n<|turn>user\nnext<turn|>\n<|turn>model\n")
    unanswered = [messages[0], messages[1], messages[-1]]
    assert "<tool_call|><turn|>\n<|turn>user\nnext<turn|>\n<|turn>model\n" in render_chat(unanswered, None)


def test_what_templates_are_written_against() -> None:
    text = render_chat(
        [{"role": "user", "content": "<é>"}],
        "{% for m in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "|{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}|{{ strftime_now('%Y') | length }}|{{ eos_token }}"
        "|{{ documents is none }}|{{ tools is none }}|{{ dict(a=1)['a'] }}|{{ extra }}|{{ bos_token }}",
        bos_token="B",
        extra=[1],
    )
    assert text == '{"role": "user", "content": "<é>"}|{\n "a": 2,\n "b": 1\n}|4|<eos>|True|True|1|[1]|B'


def test_functions_are_described_and_schemas_untouched() -> None:
    def add(a: int) -> int:
        """Adds."""
        return a

    bare = {"name": "x"}
    text = render_chat([], "{{ tools | tojson }}", tools=[add, bare])
    assert json.loads(text)[0]["function"]["parameters"]["required"] == ["a"]
    assert json.loads(text)[1] == bare


def test_templates_see_plain_data_only() -> None:
    @dataclasses.dataclass
    class Part:
        type: str
        audio: Any

    class Text(str):
        def secret(self) -> str:
            return "leaked"

    message = {"role": Text("user"), "content": [Part("audio", np.zeros(3)), (1, np.float32(0.5))]}
    assert render_chat([message], "{{ messages }}{{ messages[0].role.secret }}") == (
        "[{'role': 'user', 'content': [{'type': 'audio', 'audio': '<ndarray>'}, (1, 0.5)]}]"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "not valid Jinja: line 1"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{{ messages[0].nothing.more }}", "refuses this conversation"),
        ("{{ 1 / 0 }}", "fails on this conversation: ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "stopped|refuses"),
        ("{{ messages.append(1) }}", "stopped"),
        ("{{ cycler.__init__.__globals__ }}", "stopped|refuses"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "stopped"),
        ("{{ 'a' * 99999999999 }}", "stopped"),
        ("{{ 9 ** 99999999 }}", "stopped"),
        ("{{ '%99999999999d' % 1 }}", "stopped"),
        ("{% for a in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "stopped"),
        (
            "{% set ns = namespace(s='aaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "stopped",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests too deeply|stopped"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "nest|compiled|valid"),
    ],
)
def test_bad_templates_are_errors(template: str, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(EdgeGemmaValueError, match=message) as caught:
        render_chat([{"role": "user", "content": "x"}], template)
    assert caught.value.code == "template"
    assert time.perf_counter() - began < 10


def test_a_stopped_template_does_not_spend_the_next_ones_budget() -> None:
    for _ in range(2):
        with pytest.raises(EdgeGemmaValueError):
            render_chat([], "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
        assert render_chat([], "{% for a in range(9) %}{{ a }}{% endfor %}") == "012345678"


def test_compiled_templates_are_kept() -> None:
    case = CASES[1]
    render(case, None)
    began = time.perf_counter()
    for _ in range(20):
        render(case, None)
    assert time.perf_counter() - began < 1.0, "compiling takes some 30 ms each time"
