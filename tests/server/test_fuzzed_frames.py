"""Damaged frames of Wyoming and of /v1/realtime: the server tells an error or goes on, and serves the next client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("wyoming", reason="needs the extra server")
pytest.importorskip("websockets", reason="needs the extra server")

import websockets

from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from edge_gemma.server.wyoming_server import wyoming

SOUND = base64.b64encode(bytes(range(256)) * 10).decode()
EVENTS = [
    {
        "type": "session.update",
        "session": {"type": "realtime", "instructions": "x", "tools": [], "tool_choice": "auto"},
    },
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "x", "language": "en"}}}}},
    {"type": "input_audio_buffer.append", "audio": SOUND},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
    },
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "y", "output": "z"}},
    {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 5},
    {"type": "response.create", "response": {"max_output_tokens": 2, "metadata": {"a": "b"}, "input": []}},
    {"type": "response.cancel"},
]
FRAMES = [
    b'{"type": "describe"}\n',
    b'{"type": "ping", "data": {"text": "x"}}\n',
    b'{"type": "transcribe", "data": {"language": "en"}}\n',
    b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n',
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 4}\nabcd',
    b'{"type": "audio-chunk", "data_length": 44, "payload_length": 2}\n{"rate": 16000, "width": 2, "channels": 1   }ab',
    b'{"type": "audio-stop"}\n',
    b'{"type": "recognize", "data": {"text": "x"}}\n',
]
WRONG = [None, True, -1, 0, 1e308, 10**30, "", "x" * 300, "\u0000", [], [[]], {}, {"a": {}}, [None]]


@pytest.fixture(scope="module")
def house_server() -> Iterator[tuple[Running, int]]:
    ports: list[int] = []
    settings = Settings(stop_seconds=1, stall_seconds=1, listeners=4)
    companion = wyoming("127.0.0.1", 0, bound=ports.append)
    core = Core(lambda: Model.load("toy", threads=2), settings, "demo")
    with Running(core, companions=[companion]) as running:
        yield running, ports[0]


def failures(server: Running) -> list[str]:
    """What the server did not foresee."""
    lines = server.core.metrics.text().decode().splitlines()
    return [line for line in lines if 'status="500"' in line or (line.startswith("edge_gemma_failures_total{"))]


def bent(value: object, chance: random.Random) -> object:
    """A value with something wrong in it."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice([*value])
        changed = dict(value)
        if chance.random() < 0.15:
            del changed[name]
        else:
            changed[name] = bent(value[name], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.7:
        return [bent(value[0], chance), *value[1:]]
    return chance.choice(WRONG)


def scratched(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, left out or doubled."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) or 1)
        kind = chance.randrange(4)
        if kind == 0 and found:
            found[at] = chance.randrange(256)
        elif kind == 1:
            del found[at : at + chance.randint(1, 8)]
        elif kind == 2:
            found[at:at] = found[at : at + 8]
        else:
            found[at:at] = bytes([chance.choice(b'0123456789{}[]",:\\\n-e')])
    return bytes(found)


def test_wyoming(house_server):
    server, port = house_server
    for seed in range(120):
        chance = random.Random(seed)
        frames = [scratched(frame, chance) if chance.random() < 0.6 else frame for frame in chance.choices(FRAMES, k=4)]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, contextlib.suppress(OSError):
            connection.sendall(b"".join(frames))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(FRAMES[1])
        assert b"pong" in connection.recv(1000)
    assert not failures(server)


def test_realtime(house_server):
    server, _ = house_server

    async def run() -> None:
        for seed in range(60):
            chance = random.Random(seed)
            url = server.url.replace("http", "ws") + "/v1/realtime"
            async with websockets.connect(url, max_size=None) as connection:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await connection.recv()
                    for event in chance.choices(EVENTS, k=6):
                        changed = bent(event, chance) if chance.random() < 0.7 else event
                        if isinstance(changed, dict):
                            changed.setdefault("type", event["type"])
                        await connection.send(json.dumps(changed))
                    await connection.send("the end")
                    while True:
                        event = json.loads(await asyncio.wait_for(connection.recv(), 30))
                        assert "failed to answer" not in str(event), (seed, event)
                assert connection.close_code == 1008, seed

    asyncio.run(run())
    assert not failures(server)
