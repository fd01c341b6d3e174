"""Ollama's interface as its library, Home Assistant and Open WebUI use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from edge_gemma.chat.vocabulary import can_constrain
from edge_gemma.server.running import Running

MODEL = "demo:latest"


@pytest.fixture
def client(server: Running) -> Iterator[ollama.Client]:
    yield ollama.Client(host=server.url)


def lines(http: httpx.Client, body: dict[str, Any], path: str = "/api/chat") -> list[dict[str, Any]]:
    answer = http.post(path, json={"model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_model_is_listed(client, http):
    assert [model.model for model in client.list().models] == [MODEL]
    assert [model.model for model in client.ps().models] == [MODEL]
    shown = client.show("demo")
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities)
    assert shown.modelinfo["general.architecture"] == "gemma4"
    assert http.get("/api/version").json()["version"]


def test_chat_plain_and_streamed(client):
    messages = [{"role": "user", "content": "Turn on the light."}]
    options = {"temperature": 0, "num_predict": 24}
    whole = client.chat(MODEL, messages, options=options, think=False)
    parts = list(client.chat(MODEL, messages, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content != ""
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count > 0 and parts[-1].done_reason == whole.done_reason
    assert whole.prompt_eval_count > 0 and whole.total_duration > 0


def test_a_request_of_home_assistant(http, house):
    """Numbers are floats, tools have lost parts of their schemas, and the model is asked for streamed lines."""
    body = {
        "stream": True,
        "options": {"num_ctx": 8192.0, "temperature": 0.0},
        "keep_alive": -1.0,
        "messages": house.messages,
        "tools": [{"type": "function", "function": {**tool["function"], "description": "x"}} for tool in house.tools],
    }
    found = lines(http, {**body, "tools": house.tools})
    calls = [call for line in found for call in line["message"].get("tool_calls", [])]
    assert calls and all(isinstance(call["function"]["arguments"], dict) for call in calls)
    assert found[-1]["done"] and found[-1]["done_reason"] == "stop"
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": call["function"]} for call in calls]}
    results = [{"role": "tool", "content": '{"success": true}'} for _ in calls]  # without names and ids
    after = lines(http, {**body, "tools": house.tools, "messages": [*house.messages, said, *results]})
    assert "".join(line["message"]["content"] for line in after)
    assert after[-1]["prompt_eval_cached_count"] > found[-1]["prompt_eval_count"]
    no_type = {"properties": {"domain": {"description": "no type"}}, "required": [], "type": "object"}
    odd = [{"type": "function", "function": {"name": "f", "description": "", "parameters": no_type}}]
    assert lines(http, {**body, "tools": odd, "options": {"num_predict": 2}})[-1]["done"]


@pytest.mark.skipif(not can_constrain(), reason="needs llguidance")
def test_a_task_with_a_format(http):
    schema = {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 0, "maximum": 10, "description": "how many"},
            "room": {"type": "string", "enum": ["kitchen", "bedroom"]},
        },
        "required": ["count", "room"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "How many lights are on?"}],
        "tools": [],
        "stream": False,
        "format": schema,
    }
    answer = http.post("/api/chat", json={"model": MODEL, **body}).json()
    value = json.loads(answer["message"]["content"])
    assert 0 <= value["count"] <= 10 and value["room"] in ("kitchen", "bedroom")
    options = {"num_predict": 200, "seed": 3}
    anything = http.post("/api/chat", json={"model": MODEL, **body, "format": "json", "options": options})
    assert anything.json()["message"]["content"].startswith("{")


def test_generate(client, http):
    answer = client.generate(MODEL, "Turn on the light.", system="Be brief.", options={"num_predict": 8, "seed": 1})
    assert answer.response and answer.eval_count <= 8
    body = {"model": MODEL, "prompt": "Turn", "raw": True, "stream": False, "options": {"num_predict": 3}}
    raw = http.post("/api/generate", json=body)
    assert raw.json()["done"]


def test_loading_and_unloading_change_nothing(client):
    assert client.generate(MODEL, "").done_reason == "load"
    assert client.generate(MODEL, "", keep_alive=0).done_reason == "unload"
    assert client.chat(MODEL, [], keep_alive="300s").done_reason == "load"
    assert client.generate(MODEL, "Hello", options={"num_predict": 1}).done


def test_another_model_is_not_found(http):
    answer = http.post("/api/chat", json={"model": "llama3", "messages": [{"role": "user", "content": "x"}]})
    assert answer.status_code == 404 and "not found" in answer.json()["error"]
    with pytest.raises(ollama.ResponseError):
        ollama.Client(host=str(http.base_url)).pull("llama3")
