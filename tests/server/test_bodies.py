"""Requests that are wrong, hostile, half or too large: each gets its error, and none a 500."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from server.conftest import endless, until

QUESTION = [{"role": "user", "content": "Hello"}]
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens"]
PATHS += ["/api/chat", "/api/generate", "/api/show"]


def post(http: httpx.Client, content: bytes, path: str = "/v1/chat/completions") -> httpx.Response:
    return http.post(path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b'"text"',
            b"\xff\xfe{}",
            b'{"a": NaN}',
            b'{"a": 1e',
            b"{} {}",
            b'{"model": "\\ud800"}',
        ),
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=range(13),
)
def test_what_is_no_json_object(http, path, content):
    assert post(http, content, path).status_code == 400


WRONG_FIELDS = [
    *({"messages": None}, {"messages": {}}, {"messages": ["x"]}, {"messages": [{}]}, {"messages": [{"role": "king"}]}),
    *(
        {"temperature": "hot"},
        {"temperature": -1},
        {"temperature": True},
        {"temperature": 1e999},
        {"top_p": 2},
        {"top_k": 0.5},
    ),
    *({"max_tokens": -5}, {"max_tokens": "many"}, {"n": 0}, {"n": 1000}, {"seed": 2**70}, {"stop": [""]}, {"stop": 5}),
    *({"stop": ["a"] * 100}, {"tools": "all"}, {"tools": [{"type": "function"}]}, {"tool_choice": "perhaps"}),
    *(
        {"tools": [{"type": "function", "function": {"name": "bad name!"}}]},
        {"stream": "yes"},
        {"logit_bias": {"x": 1}},
    ),
    *({"logit_bias": {"-1": 1}}, {"logit_bias": {"99999999": 1}}, {"response_format": "json"}, {"logprobs": 3}),
    *(
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}},
    ),
    *(
        {"reasoning_effort": "some"},
        {"top_logprobs": 21, "logprobs": True},
        {"messages": [{"role": "user", "content": [{"type": "x"}]}]},
    ),
    *(
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
    ),
    {
        "tool_choice": {"type": "function", "function": {"name": "none_such"}},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
]


@pytest.mark.parametrize("wrong", WRONG_FIELDS, ids=[json.dumps(wrong)[:60] for wrong in WRONG_FIELDS])
def test_a_wrong_field_is_a_clear_refusal(http, wrong):
    content = json.dumps({"model": "demo", "messages": QUESTION, "max_tokens": 2, **wrong}).replace("Infinity", "1e999")
    answer = post(http, content.encode())
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.endswith(".") and "Traceback" not in message


VALUES = [None, True, 0, -1, 1e300, "", "x", [], [None], {}, {"type": "x"}, [[]], [{"type": None}], {"a": {"b": []}}]
FIELDS = {
    "/v1/chat/completions": [
        "messages",
        "tools",
        "tool_choice",
        "response_format",
        "stream_options",
        "logit_bias",
        "reasoning",
    ],
    "/v1/responses": [
        "input",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "instructions",
        "previous_response_id",
    ],
    "/v1/completions": ["prompt", "logprobs", "echo", "n", "suffix"],
    "/v1/messages": ["messages", "system", "tools", "tool_choice", "thinking", "metadata", "stop_sequences"],
    "/api/chat": ["messages", "tools", "format", "options", "think", "keep_alive"],
    "/api/generate": ["prompt", "images", "format", "options", "system"],
}


@pytest.mark.parametrize("path", FIELDS)
def test_no_value_of_a_field_is_a_fault_of_the_server(http, path):
    for field in FIELDS[path]:
        for value in VALUES:
            body = {
                "model": "demo",
                "messages": QUESTION,
                "prompt": "x",
                "input": "x",
                "max_tokens": 1,
                "max_output_tokens": 1,
            }
            body |= {"stream": False, "options": {"num_predict": 1}, field: value}
            answer = http.post(path, json=body)
            assert answer.status_code < 500, (field, value, answer.text)


@pytest.mark.parametrize("path", FIELDS)
def test_a_request_that_is_refused_leaves_no_answer_behind(http, server, path):
    """Also for fields that matter for the form of the answer alone."""
    body = {"model": "demo", "messages": QUESTION, "prompt": "x", "input": "x", "max_tokens": 4000, "stream": True}
    for wrong in (
        {"model": 5},
        {"stream_options": 5},
        {"stream_options": {"include_usage": 5}},
        {"store": 5},
        {"echo": 5},
    ):
        http.post(path, json={**body, **wrong, "max_tokens": 5, "options": {"num_predict": 5}})
    scheduler = server.core.scheduler
    assert until(lambda: scheduler.counts == (0, 0), 20)


def test_a_large_body_is_refused_before_it_is_read(own_server):
    running = own_server(max_body=1 << 20)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as channel:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        channel.sendall(head)
        assert b" 413 " in channel.recv(4096)
    answer = httpx.post(running.url + "/v1/chat/completions", content=iter([b" " * 300_000] * 8))
    assert answer.status_code == 413, "also when no length is told"


def test_all_bodies_together_are_bounded(own_server):
    running = own_server(max_bodies=1 << 20, stall_seconds=5.0)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as first:
        first.sendall(head + b" " * 800_000)
        deadline = 50
        answer = None
        while deadline and (answer is None or answer.status_code != 503):
            answer = httpx.post(running.url + "/v1/chat/completions", content=b" " * 900_000)
            deadline -= 1
        assert answer is not None and answer.status_code == 503 and answer.headers["retry-after"]
    ended = httpx.post(running.url + "/v1/chat/completions", content=b" " * 900_000)
    for _ in range(50):
        if ended.status_code == 400:
            break
        ended = httpx.post(running.url + "/v1/chat/completions", content=b" " * 900_000)
    assert ended.status_code == 400, "the bytes of a client that has left are free again"


def test_a_half_body_is_given_up(own_server):
    running = own_server(stall_seconds=0.2)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as channel:
        channel.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in channel.recv(4096)


@pytest.mark.parametrize("head", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_half_head_is_given_up(own_server, head):
    running = own_server(stall_seconds=0.3)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as channel:
        channel.sendall(head)
        assert channel.recv(4096) == b"", "the connection is closed"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as channel:
        channel.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in channel.recv(4096)
        channel.sendall(head)
        while head and channel.recv(4096):  # an idle connection may wait for longer
            pass
    long = endless(running, max_tokens=400, stream=False)
    assert httpx.post(running.url + "/v1/completions", json=long, timeout=60).status_code == 200, (
        "answers may take longer"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.png",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:image/png,abc",
        "data:,",
    ],
)
def test_nothing_is_fetched(http, url):
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    answer = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert answer.status_code == 400 and "fetches nothing" in answer.json()["error"]["message"]
    blocks = [{"type": "image", "source": {"type": "url", "url": url}}]
    answer = http.post("/v1/messages", json={"max_tokens": 1, "messages": [{"role": "user", "content": blocks}]})
    assert answer.status_code == 400 and "fetches nothing" in answer.json()["error"]["message"]


def test_unknown_addresses_and_methods(http):
    assert http.get("/v1/none").status_code == 404 and http.get("/v1/none").json()["error"]["type"] == "not_found_error"
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.post("/api/pull", json={"model": "x"}).status_code == 403
