"""Anthropic's interface as its library and coding agents use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from edge_gemma.server.running import Running
from server.conftest import named_events

RULES = "You are an agent that edits files. " + "Work in small steps and check each of them. " * 20


@pytest.fixture
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="sk-test", max_retries=0) as opened:
        yield opened


def tools_of(house: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": tool["function"]["name"],
            "description": tool["function"].get("description", ""),
            "input_schema": tool["function"]["parameters"],
        }
        for tool in house.tools
    ]


def agent(changing: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude",
        "max_tokens": 8,
        "stream": True,
        "metadata": {"user_id": "user_0_account__session_0"},
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.0; cch={changing};"},
            {"type": "text", "text": RULES, "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]}
        ],
        **more,
    }


def test_text_plain_and_streamed(client):
    options: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 24,
        "extra_body": {"temperature": 0},  # no argument of every version
        "messages": [{"role": "user", "content": "Turn on the light."}],
    }
    whole = client.messages.create(**options, system="Be brief.")
    with client.messages.stream(**options, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].text == text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_tool_round(client, house):
    tools = tools_of(house)
    options: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 60,
        "extra_body": {"temperature": 0},
        "tools": tools,
        "system": house.instructions,
    }
    ask = [house.messages[1]]
    first = client.messages.create(**options, messages=ask)
    assert first.stop_reason == "tool_use"
    uses = [block for block in first.content if block.type == "tool_use"]
    assert uses and uses[0].id.startswith("toolu_") and isinstance(uses[0].input, dict)
    with client.messages.stream(**options, messages=ask) as stream:
        assert [block.input for block in stream.get_final_message().content if block.type == "tool_use"] == [
            use.input for use in uses
        ]
    results = [
        {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "done"}]} for use in uses
    ]
    said = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
    second = client.messages.create(**options, messages=[*ask, said, {"role": "user", "content": results}])
    assert second.content[0].text and second.usage.cache_read_input_tokens >= first.usage.input_tokens


def test_the_line_of_an_agent_that_changes_does_not_spoil_the_cache(http):
    first, second = (
        named_events(http.post("/v1/messages?beta=true", json=agent(changing))) for changing in ("1a2b3", "9f8e7")
    )
    kinds = [event["type"] for event in second]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    used = second[0]["message"]["usage"]
    assert used["cache_read_input_tokens"] > 150 and "cache_creation_input_tokens" in used
    assert used["cache_read_input_tokens"] + used["input_tokens"] == sum(
        first[0]["message"]["usage"][name] for name in ("cache_read_input_tokens", "input_tokens")
    )
    blocks = [event for event in second if event["type"].startswith("content_block")]
    ends = [event["type"] for event in (*blocks[:1], *blocks[-1:])]
    assert ends in ([], ["content_block_start", "content_block_stop"])


def test_fields_that_are_not_known_and_blocks_of_thoughts(http):
    rounds = [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I read it."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "print(1)", "is_error": False},
                {"type": "text", "text": "go on"},
            ],
        },
    ]
    body = agent("0", messages=rounds, thinking={"type": "adaptive"}, context_management={"edits": []})
    assert named_events(http.post("/v1/messages?beta=true", json=body))[-1]["type"] == "message_stop"


def test_a_stop_sequence_is_named(client):
    options: dict[str, Any] = {"model": "demo", "max_tokens": 30, "extra_body": {"temperature": 0}}
    messages = [{"role": "user", "content": "Turn on the light."}]
    text = client.messages.create(**options, messages=messages).content[0].text
    stopped = client.messages.create(**options, messages=messages, stop_sequences=[text[3:6]])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == text[3:6]
    assert stopped.content[0].text == text[:3].rstrip()


def test_tokens_are_counted(client):
    messages = [{"role": "user", "content": "Turn on the light."}]
    counted = client.messages.count_tokens(model="demo", messages=messages, system="Be brief.").input_tokens
    answer = client.messages.create(model="demo", messages=messages, system="Be brief.", max_tokens=1)
    assert counted == answer.usage.input_tokens + answer.usage.cache_read_input_tokens


def test_errors(http):
    answer = http.post("/v1/messages", json={"messages": [{"role": "user", "content": "x"}]})
    assert answer.status_code == 400
    assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == "invalid_request_error"
