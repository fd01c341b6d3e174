"""/openapi.json: the description is valid and whole, requests and answers fit it, and what it allows never fails the server."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from edge_gemma.server.app import create_app
from edge_gemma.server.core import Core
from edge_gemma.server.openapi import description
from edge_gemma.server.settings import Settings

FOR_PEOPLE = {"/", "/page/about.json", "/page/{name}", "/favicon.ico"}
USER = {"role": "user", "content": "Hello"}
TOOL = {"name": "turn_on", "description": "Turns it on.", "parameters": {"type": "object", "properties": {}}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "any",
        "messages": [{"role": "system", "content": None}, USER],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "none",
        "max_tokens": 4,
        "temperature": 0.0,
        "user": "someone",
    },
    "/v1/completions": {"prompt": "Hello", "max_tokens": 4, "logprobs": 1},
    "/v1/responses": {"input": [USER], "max_output_tokens": 4, "text": {"format": {"type": "text"}}},
    "/v1/responses/input_tokens": {"input": "Hello"},
    "/api/chat": {
        "model": "demo",
        "messages": [USER],
        "stream": False,
        "options": {"num_predict": 4, "num_ctx": 8192.0},
        "keep_alive": -1.0,
    },
    "/api/generate": {"model": "demo:latest", "prompt": "Hello", "stream": False, "options": {"num_predict": 4}},
    "/api/show": {"model": "demo"},
    "/v1/messages": {"max_tokens": 4, "messages": [USER], "system": [{"type": "text", "text": "Be brief."}]},
    "/v1/messages/count_tokens": {"messages": [USER]},
}


def validator(whole: dict[str, Any], schema: dict[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": whole["components"]})


def test_every_route_is_described():
    app = create_app(Core(lambda: None, Settings(), "demo"))  # type: ignore[arg-type, return-value]
    found = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path not in FOR_PEOPLE
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = description("demo")["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == found


def test_the_description_is_valid(http):
    whole = http.get("/openapi.json").json()
    assert whole["openapi"].startswith("3.1") and "security" not in whole
    named = set()
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for methods in whole["paths"].values():
        for operation in methods.values():
            bodies = [operation.get("requestBody", {"content": {}}), *operation["responses"].values()]
            for body in bodies:
                named |= {form.get("schema", {}).get("$ref") for form in body["content"].values()} - {None}
    assert named == {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}


def test_a_key_is_described(own_server):
    import httpx

    running = own_server(api_key="secret")
    with httpx.Client(base_url=running.url, headers={"Authorization": "Bearer secret"}) as client:
        assert client.get("/openapi.json").json()["security"] == [{"bearer": []}]


@pytest.mark.parametrize("path", REQUESTS)
def test_requests_and_answers_fit(http, path):
    whole = http.get("/openapi.json").json()
    operation = whole["paths"][path]["post"]
    validator(whole, operation["requestBody"]["content"]["application/json"]["schema"]).validate(REQUESTS[path])
    answer = http.post(path, json=REQUESTS[path])
    assert answer.status_code == 200, answer.text
    validator(whole, operation["responses"]["200"]["content"]["application/json"]["schema"]).validate(answer.json())
    refused = http.post(path, json={"messages": 5, "input": 5, "prompt": 5, "model": 5})
    assert refused.status_code == 400
    validator(whole, operation["responses"]["4XX"]["content"]["application/json"]["schema"]).validate(refused.json())


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/demo", "/api/tags", "/api/ps", "/api/version"])
def test_answers_about_the_server_fit(http, path):
    whole = http.get("/openapi.json").json()
    described = "/v1/models/{name}" if path.endswith("/demo") else path
    form = whole["paths"][described]["get"]["responses"]["200"]["content"]["application/json"]
    validator(whole, form["schema"]).validate(http.get(path).json())


def test_a_wrong_answer_would_be_found():
    whole = description("demo")
    schema = whole["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        validator(whole, schema).validate({"id": "x", "object": "chat.completion"})
