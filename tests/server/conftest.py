"""A server in this process with the embedded model, and its clients."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("starlette", reason="needs the extra server")
pytest.importorskip("uvicorn", reason="needs the extra server")
pytest.importorskip("prometheus_client", reason="needs the extra server")

from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings

NAME = "demo"


def run_server(**options: Any) -> Running:
    """A server with these settings, which is not started yet."""
    settings = Settings(**{"stop_seconds": 2.0, **options})
    return Running(Core(lambda: Model.load("toy", threads=2), settings, NAME))


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """The server that most tests share."""
    with run_server() as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    """Plain requests to it."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[Callable[..., Running]]:
    """Starts servers with settings of a test's own."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        running = run_server(**options)
        started.append(running)
        return running.__enter__()

    yield start
    for running in started:
        running.__exit__()


@dataclasses.dataclass(frozen=True)
class House:
    """The instructions and tools that the embedded model was trained on."""

    instructions: str
    tools: list[dict[str, Any]]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A command that it knows."""
        return [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": "Turn on the kitchen lights."},
        ]


@pytest.fixture(scope="session")
def house() -> House:
    """See `House`."""
    return House(INSTRUCTIONS, Toolbox(Home().tools).schemas)


def endless(running: Running, **changes: Any) -> dict[str, Any]:
    """A request whose answer goes on until its timeline is full, or somebody ends it."""
    tokenizer = running.core.model.tokenizer
    ends = [
        tokenizer.find(text)
        for text in ("<eos>", "<turn|>", "<|tool_response>", "<|tool_call>", "<|channel>", "<|turn>")
    ]
    biases = {str(token): -100 for token in ends if token is not None}
    return {"prompt": "Hello", "max_tokens": 100_000, "logit_bias": biases, "stream": True, "seed": 1, **changes}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Waits for something that happens in another thread."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def named_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream whose names are the types of their data."""
    assert answer.status_code == 200, answer.text
    found, name = [], ""
    for line in answer.text.splitlines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            found.append(json.loads(line[6:]))
            assert found[-1]["type"] == name
    return found
