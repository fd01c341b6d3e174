"""/v1/responses as the openai library, agents and strict clients use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from edge_gemma.server.conversation_store import ConversationStore, Kept
from edge_gemma.server.running import Running
from server.conftest import House, named_events


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as opened:
        yield opened


def flat(house: House) -> list[dict[str, Any]]:
    return [{"type": "function", "strict": False, **tool["function"]} for tool in house.tools]


def events(http: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    return named_events(http.post("/v1/responses", json={"model": "demo", "stream": True, **body}))


def test_text_plain_and_streamed(client):
    options: dict[str, Any] = {
        "model": "demo",
        "input": "Turn on the light.",
        "temperature": 0,
        "max_output_tokens": 24,
    }
    whole = client.responses.create(**options, instructions="Be brief.")
    with client.responses.stream(**options, instructions="Be brief.") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert whole.output_text and final.output_text == whole.output_text
    assert kinds[0] == "response.created" and kinds[1] == "response.in_progress"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert final.usage.input_tokens == whole.usage.input_tokens > 0
    assert final.usage.input_tokens_details.cached_tokens > 0
    assert {"response.output_item.added", "response.content_part.added", "response.output_text.done"} <= set(kinds)


def test_every_event_has_what_strict_clients_ask_for(http, house):
    body = {"input": house.messages, "tools": flat(house), "temperature": 0}
    found = events(http, body)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    response = found[0]["response"]
    assert {"id", "object", "created_at", "model", "output", "status", "tools", "tool_choice", "error"} <= set(response)
    assert response["status"] == "in_progress" and response["output"] == [] and response["tools"] == flat(house)
    inner = [event for event in found if event["type"].split(".")[1] in ("output_item", "function_call_arguments")]
    assert inner and all("output_index" in event for event in inner)
    done = next(event for event in found if event["type"] == "response.function_call_arguments.done")
    item = next(event["item"] for event in found if event["type"] == "response.output_item.done")
    assert item["id"].startswith("fc_") and item["call_id"].startswith("call_") and done["item_id"] == item["id"]
    assert json.loads(item["arguments"]) and done["arguments"] == item["arguments"]
    assert found[-1]["type"] == "response.completed" and found[-1]["response"]["output"] == [item]


def test_parts_of_a_message_carry_their_places(http):
    found = events(http, {"input": "Hello there", "max_output_tokens": 12, "temperature": 0})
    parts = [event for event in found if event["type"].startswith(("response.output_text", "response.content_part"))]
    assert parts and all({"item_id", "output_index", "content_index"} <= set(event) for event in parts)
    text = "".join(event["delta"] for event in parts if event["type"] == "response.output_text.delta")
    done = next(event for event in parts if event["type"] == "response.output_text.done")
    assert done["text"] == text


def test_a_conversation_goes_on_from_its_id(client, http):
    first = client.responses.create(model="demo", input="Turn on the light.", temperature=0, max_output_tokens=16)
    second = client.responses.create(
        model="demo", input="And off.", previous_response_id=first.id, max_output_tokens=16
    )
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="demo", input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    passing = client.responses.create(model="demo", input="x", store=False, max_output_tokens=2)
    assert http.get(f"/v1/responses/{passing.id}").status_code == 404


def test_a_tool_round_and_what_only_others_can_run(client, house):
    tools = [*flat(house), {"type": "web_search"}, {"type": "custom", "name": "patch"}, {"type": "local_shell"}]
    messages: list[Any] = [{"type": "message", **message} for message in house.messages]
    first = client.responses.create(model="demo", input=messages, tools=tools, temperature=0)
    call = next(item for item in first.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"success": true}'}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "AAAA"}
    rounds = [*messages, reasoning, call.model_dump(), output]
    second = client.responses.create(model="demo", input=rounds, tools=tools, temperature=0)
    assert second.output_text
    again = client.responses.create(
        model="demo", input=[output], previous_response_id=first.id, tools=tools, temperature=0
    )
    assert again.output_text == second.output_text


def test_developer_and_system_messages_become_one_place(http):
    parts = [{"type": "input_text", "text": "Be careful."}]
    given = [
        {"type": "message", "role": "developer", "content": parts},
        {"type": "message", "role": "system", "content": parts},
        {"role": "user", "content": "hello"},
    ]
    body = {"instructions": "Be brief.", "input": given, "max_output_tokens": 2, "reasoning": {"effort": "none"}}
    assert http.post("/v1/responses", json=body).status_code == 200


def test_an_incomplete_answer_says_why(client):
    answer = client.responses.create(model="demo", input="Turn on the light.", max_output_tokens=1)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"


def test_input_tokens_are_counted(http):
    counted = http.post("/v1/responses/input_tokens", json={"input": "Turn on the light."}).json()["input_tokens"]
    answer = http.post("/v1/responses", json={"input": "Turn on the light.", "max_output_tokens": 1}).json()
    assert counted == answer["usage"]["input_tokens"]


def test_the_store_is_bounded():
    store = ConversationStore(20_000)
    for number in range(100):
        store.add(str(number), Kept([{"role": "user", "content": "x" * 500}], {"id": str(number)}, ""))
    assert store.get("99") is not None and store.get("0") is None
    store.add("large", Kept([{"role": "user", "content": "x" * 100_000}], {}, ""))
    assert store.get("large") is None and store.get("99") is not None
    assert store.remove("99") and not store.remove("99")
