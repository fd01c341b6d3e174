"""/v1/chat/completions as the openai library and Home Assistant's llama_cpp integration use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from edge_gemma.server.running import Running

QUESTION = [{"role": "user", "content": "Turn on the kitchen lights."}]
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "test_function",
        "description": "Test function.",
        "parameters": {"type": "object", "properties": {}},
    },
}


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="sk-0000000000000000000", max_retries=0) as opened:
        yield opened


def streamed(http: httpx.Client, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    answer = http.post(path, json={"model": "demo", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_plain_and_streamed_answers_are_equal(client):
    options: dict[str, Any] = {"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.choices[0].message.content == text and text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_probe_of_home_assistant(client, stream):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    answer = client.chat.completions.create(
        model="demo", messages=messages, max_tokens=3, tools=[PROBE_TOOL], stream=stream
    )
    if stream:
        assert list(answer)[-1].choices[0].finish_reason in ("length", "stop", "tool_calls")
    else:
        assert answer.usage.completion_tokens <= 3


def test_calls_are_whole_one_a_chunk_and_the_reason_stands_alone(http, house):
    chunks = streamed(http, {"messages": house.messages, "tools": house.tools, "temperature": 0})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls and all(len(call) == 1 for call in calls)
    assert [call[0]["index"] for call in calls] == list(range(len(calls)))
    for call in calls:
        assert isinstance(json.loads(call[0]["function"]["arguments"]), dict)
        assert call[0]["id"] and call[0]["function"]["name"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls" and chunks[-1]["choices"][0]["delta"] == {}


def test_a_tool_round_ends_in_words(client, house):
    first = client.chat.completions.create(model="demo", messages=house.messages, tools=house.tools, temperature=0)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.tool_calls
    said = message.model_dump(exclude_none=True)
    for call in said["tool_calls"]:  # as Home Assistant sends them back
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), separators=(",", ":"))
    said["content"] = ""
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"data": {"success": True}, "error": False})}
        for call in message.tool_calls
    ]
    messages = [*house.messages, said, *results]
    second = client.chat.completions.create(model="demo", messages=messages, tools=house.tools, temperature=0)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens, (
        "the words of the call are found"
    )


def test_an_error_is_a_sentence_for_ears(http):
    answer = http.post("/v1/chat/completions", json={"model": "demo", "messages": []})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"].endswith(".") and "_" not in error["message"]
