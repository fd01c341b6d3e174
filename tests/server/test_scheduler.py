"""The scheduler behind the server: places, queues, clients that leave or read slowly, live work, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from edge_gemma.engine.model import Model
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.server.core import Core
from edge_gemma.server.ears import LiveListener, memory_of_ears
from edge_gemma.server.failures import RequestError
from edge_gemma.server.requests import ChatRequest
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from server.conftest import NAME, endless, until

PATH = "/v1/completions"
# A test holds on to `lines`: an httpx answer is closed when the iterator over its lines is dropped.


def active(running: Running) -> int:
    return running.core.scheduler.counts[0]


def counter(running: Running, name: str) -> float:
    page = httpx.get(running.url + "/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"edge_gemma_{name}"))


def test_a_client_that_leaves_frees_its_place(own_server):
    running = own_server(parallel=1)
    for _ in range(5):
        with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
    assert until(lambda: active(running) == 0)
    short = httpx.post(running.url + PATH, json={"prompt": "Hello", "max_tokens": 2}, timeout=30)
    assert short.status_code == 200
    assert counter(running, "generated_tokens_total") < 3000, "the rest of the answers was not made"


def test_a_client_that_does_not_wait_for_a_whole_answer(own_server):
    running = own_server(parallel=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(running.url + PATH, json=endless(running, stream=False), timeout=0.3)
    assert until(lambda: active(running) == 0)


def test_connections_that_are_dropped_at_once(own_server):
    running = own_server(parallel=2)
    body = json.dumps(endless(running)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(60):
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as channel:
            channel.sendall((head + body)[: len(head) + len(body) - (number % 3 == 0) * 20])
    short = {"prompt": "Hello", "max_tokens": 2}
    assert until(lambda: httpx.post(running.url + PATH, json=short).status_code == 200)
    assert until(lambda: running.core.scheduler.counts == (0, 0))
    assert counter(running, "failures_total") == 0


def test_a_full_queue_refuses_with_a_time_to_come_back(own_server):
    running = own_server(parallel=1, queue=1)
    short = {"prompt": "Hello", "max_tokens": 2}
    with ThreadPoolExecutor(1) as threads:
        with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            second = threads.submit(httpx.post, running.url + PATH, json=short, timeout=60)
            waits = until(lambda: running.core.scheduler.counts == (1, 1), 5)
            third = httpx.post(running.url + PATH, json=short, timeout=10)
        assert waits and second.result().status_code == 200
    assert third.status_code == 429 and int(third.headers["retry-after"]) > 0
    assert third.json()["error"]["type"] == "rate_limit_error"


def test_a_refused_request_that_is_sent_again_is_answered(own_server):
    """Home Assistant's library sends a request three times, after the time that the refusal tells."""
    openai = pytest.importorskip("openai", reason="needs the client of OpenAI")
    running = own_server(parallel=1, queue=1)
    sent: list[str] = []
    keeper = httpx.Client(event_hooks={"request": [lambda one: sent.append(one.headers["x-stainless-retry-count"])]})
    with (
        ThreadPoolExecutor(2) as threads,
        openai.OpenAI(base_url=running.url + "/v1", api_key="x", max_retries=2, http_client=keeper) as client,
    ):
        with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            threads.submit(httpx.post, running.url + PATH, json={"prompt": "Hello", "max_tokens": 2}, timeout=60)
            assert until(lambda: running.core.scheduler.counts == (1, 1), 5)
            again = threads.submit(client.completions.create, model="any", prompt="Hello", max_tokens=2)
            assert until(lambda: len(sent) == 1, 5)
            time.sleep(0.5)
        assert again.result(60).usage.completion_tokens == 2
    assert sent == ["0", "1"]


def test_who_waits_for_too_long_is_told_so(own_server):
    running = own_server(parallel=1, queue_seconds=0.2)
    with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        late = httpx.post(running.url + PATH, json={"prompt": "Hello", "max_tokens": 2}, timeout=30)
    assert late.status_code == 503 and late.headers["retry-after"]


def test_short_answers_do_not_wait_for_long_ones(own_server):
    running = own_server(parallel=2)
    with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        for _ in range(3):
            assert (
                httpx.post(running.url + PATH, json={"prompt": "Hello", "max_tokens": 5}, timeout=30).status_code == 200
            )
        assert active(running) == 1, "the long one goes on"


def test_a_streamed_answer_goes_before_one_that_nobody_watches(own_server):
    """A browser's chat asks for its title a moment before it asks for the answer."""
    running = own_server(parallel=1)
    ended: list[str] = []

    def ask(name: str, stream: bool) -> None:
        body = {"prompt": name, "max_tokens": 3 if stream else 100, "stream": stream}
        assert httpx.post(running.url + PATH, json=body, timeout=60).status_code == 200
        ended.append(name)

    with ThreadPoolExecutor(2) as threads:
        with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            title = threads.submit(ask, "title", False)
            assert until(lambda: running.core.scheduler.counts == (1, 1))
            chat = threads.submit(ask, "chat", True)
            assert until(lambda: running.core.scheduler.counts == (1, 2))
        title.result()
        chat.result()
    assert ended == ["chat", "title"]


@contextlib.contextmanager
def reads_nothing(running: Running) -> Iterator[None]:
    """A client that asks for an endless answer and reads none of it."""
    body = json.dumps(endless(running, logprobs=5)).encode()
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        channel.connect(("127.0.0.1", running.port))
        channel.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        yield


def test_a_slow_reader_is_not_written_for(own_server):
    running = own_server(parallel=2, stall_seconds=600.0)
    with reads_nothing(running):
        scheduler = running.core.scheduler

        def passes() -> float:
            return counter(running, "passes_total")

        assert until(lambda: passes() > 50)
        # It comes to rest: buffers are full, and nothing is drawn.
        last = [-1.0]

        def rests() -> bool:
            before, last[0] = last[0], passes()
            threading.Event().wait(0.3)
            return before == last[0] == passes()

        assert until(rests, 60) and scheduler.counts[0] == 1
        assert passes() < 3900, "it was not the end of the timeline"
        assert httpx.post(running.url + PATH, json={"prompt": "Hello", "max_tokens": 5}, timeout=30).status_code == 200
    assert until(lambda: scheduler.counts[0] == 0)


def test_a_reader_that_takes_nothing_loses_its_place(own_server):
    running = own_server(parallel=1, stall_seconds=0.5)
    with reads_nothing(running):
        assert until(lambda: active(running) == 1)
        assert until(lambda: active(running) == 0)
        assert httpx.post(running.url + PATH, json={"prompt": "Hello", "max_tokens": 2}, timeout=30).status_code == 200


def test_what_a_call_raises_comes_back(server):
    with pytest.raises(ZeroDivisionError):
        server.core.scheduler.call(lambda: 1 // 0).result(10)
    assert httpx.get(server.url + "/health").status_code == 200


def test_answers_end_in_order_when_the_server_is_stopped(own_server):
    running = own_server(stop_seconds=0.3)
    with httpx.stream("POST", running.url + PATH, json=endless(running), timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.stop()
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
    with pytest.raises(RequestError):
        running.core.scheduler  # noqa: B018


def test_while_the_model_is_loaded_the_server_says_so():
    may_load = threading.Event()

    def load() -> Model:
        may_load.wait()
        return Model.load("toy", threads=1)

    running = Running(Core(load, Settings(), NAME))
    running.start()
    try:
        for path in ("/health", "/v1/models", "/api/tags"):
            answer = httpx.get(running.url + path)
            assert answer.status_code == 503 and answer.headers["retry-after"]
        answer = httpx.post(running.url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
        assert answer.status_code == 503 and answer.json()["error"]["message"].startswith("The model is being loaded")
        may_load.set()
        assert until(lambda: httpx.get(running.url + "/health").status_code == 200)
    finally:
        may_load.set()
        running.__exit__()


def test_answers_are_those_that_each_would_get_alone(server):
    bodies = [
        {"prompt": text, "max_tokens": 40, "seed": 7, "n": 1} for text in ("Turn", "What is", "Hello there", "Play")
    ]
    alone = [httpx.post(server.url + PATH, json=body, timeout=60).json()["choices"][0]["text"] for body in bodies]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda body: httpx.post(server.url + PATH, json=body, timeout=60).json(), bodies))
    assert [answer["choices"][0]["text"] for answer in together] == alone


def test_several_answers_to_one_request_differ_by_their_seeds(http):
    body = {"prompt": "Please", "max_tokens": 30, "n": 3, "seed": 5}
    first, second = (http.post(PATH, json=body).json() for _ in range(2))
    texts = [choice["text"] for choice in first["choices"]]
    assert len(set(texts)) == 3 and texts == [choice["text"] for choice in second["choices"]]


def test_a_memory_limit_plans_for_all_timelines_and_the_cache(own_server):
    def context(limit: int, **options: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            # A process of one size, so that two plans can be compared.
            patch.setattr("edge_gemma.engine.memory.resident", lambda *_: 300_000_000)
            running = own_server(memory_limit=limit, **options)
            return running.core.context

    limit = 592_000_000
    free = context(limit, parallel=1, cache_bytes=0)
    assert context(limit, parallel=8, listeners=1, recordings=1, cache_bytes=0) < free
    with pytest.raises(EdgeGemmaError, match="memory limit"):
        context(limit, parallel=1, cache_bytes=300_000_000)


def test_a_memory_limit_counts_what_hears(own_server):
    running = own_server(memory_limit=4_000_000_000, parallel=3)
    core = running.core
    assert (core.settings.listeners, core.settings.recordings) == (3, 2)
    few, many = (memory_of_ears(core.model, Settings(listeners=count), "f16") for count in (1, 8))
    with LiveListener(core.model) as listener:
        session = listener.request.session
        assert session.context <= 1280
        assert many - few >= 7 * 4 * session.memory()["kv"]

    async def turns() -> list[bool]:
        place = {"role": "user", "content": [{"type": "audio", "audio": np.zeros(1, np.float32)}]}
        first, second = [await core.heard.turn_of(ChatRequest(messages=[place])) for _ in range(2)]
        first.close()
        third = await core.heard.turn_of(ChatRequest(messages=[place]))
        third.close()
        return [first is not None, second is not None, third is not None]

    assert asyncio.run(turns()) == [True, False, True]
