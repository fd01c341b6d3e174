"""The Wyoming server as Home Assistant uses it, with the `wyoming` package as its client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("wyoming", reason="needs the extra server")

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.intent import Intent
from wyoming.ping import Ping

from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.model import Model
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.server.announcing import announced
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from edge_gemma.server.wyoming_agent import Agent
from edge_gemma.server.wyoming_server import wyoming
from edge_gemma.speech.transcriber import transcribe

COMMAND = next(item for item in bundled() if item.language == "en")


@pytest.fixture(scope="module")
def house_server(house: Any) -> Iterator[tuple[Running, int]]:
    ports: list[int] = []
    companion = wyoming("127.0.0.1", 0, lambda core: Agent(core, house.instructions, house.tools), bound=ports.append)
    core = Core(lambda: Model.load("toy", threads=2), Settings(stop_seconds=1, stall_seconds=2, listeners=2), "demo")
    with Running(core, companions=[companion]) as running:
        yield running, ports[0]


@pytest.fixture
def port(house_server: tuple[Running, int]) -> int:
    return house_server[1]


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[AsyncTcpClient]:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        yield client


async def answer(client: AsyncTcpClient, *kinds: str) -> Event:
    """The next event of one of these kinds, or the error."""
    while True:
        event = await asyncio.wait_for(client.read_event(), 30)
        assert event is not None, "the connection was closed"
        if event.type in kinds or event.type == "error" or not kinds:
            return event


async def ask(port: int, event: Event) -> Event:
    async with connected(port) as client:
        await client.write_event(event)
        return await answer(client)


def pcm(samples: Any) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def speak(client: AsyncTcpClient, sound: bytes, pace: float = 0.0, piece: int = 320, rate: int = 16000) -> None:
    """As Home Assistant sends sound: 10 ms at a time."""
    await client.write_event(AudioStart(rate, 2, 1).event())
    for at in range(0, len(sound), piece):
        await client.write_event(AudioChunk(rate, 2, 1, sound[at : at + piece]).event())
        if pace:
            await asyncio.sleep(pace * piece / 2 / rate)


@pytest.fixture(scope="module")
def words(house_server: tuple[Running, int]) -> str:
    return transcribe(load_audio(COMMAND.path), house_server[0].core.model, "en").text


def test_describe_costs_nothing(house_server, port):
    """Home Assistant asks every 30 seconds: no pass of the model, and the same answer each time."""
    first = asyncio.run(ask(port, Describe().event()))
    found = Info.from_event(first)
    [hearing], [agent] = found.asr, found.handle
    assert hearing.installed and agent.installed and agent.supports_home_control
    assert hearing.requires_external_vad is False and hearing.supports_transcript_streaming
    assert "en" in hearing.models[0].languages
    before = house_server[0].core.metrics.text()
    passes = [line for line in before.splitlines() if b"passes_total" in line]
    assert asyncio.run(ask(port, Describe().event())).data == first.data
    assert passes == [line for line in house_server[0].core.metrics.text().splitlines() if b"passes_total" in line]


def test_ping(port):
    pong = asyncio.run(ask(port, Ping(text="hello").event()))
    assert pong.type == "pong" and pong.data["text"] == "hello"


def test_the_turn_ends_before_audio_stop(port):
    """The end of speech is found here: the transcript comes while the client still sends silence."""
    sound = pcm(np.concatenate([load_audio(COMMAND.path), np.zeros(16000 * 60, np.float32)]))

    async def turn() -> tuple[str, list[str], int]:
        async with connected(port) as client:
            await client.write_event(Transcribe(language="en").event())
            speaking = asyncio.create_task(speak(client, sound, pace=1.0, piece=1280))
            kinds = []
            while (event := await answer(client)).type != "transcript":
                kinds.append(event.type)
            assert not speaking.done()
            speaking.cancel()
            return Transcript.from_event(event).text, kinds, 0

    text, kinds, _ = asyncio.run(turn())
    assert "kitchen" in text and set(kinds) <= {"transcript-start", "transcript-chunk"}


def test_a_recording_is_heard_to_its_end(port, words):
    """A client that sends faster than anybody speaks has an end of its own: all utterances are one transcript."""
    samples = load_audio(COMMAND.path)
    sound = pcm(np.concatenate([samples, np.zeros(24000, np.float32), samples]))

    async def turn() -> tuple[str, str, list[str]]:
        async with connected(port) as client:
            await client.write_event(Transcribe(language="en").event())
            speaking = asyncio.create_task(speak(client, sound, piece=32000))
            pieces, kinds = [], []
            await speaking
            await client.write_event(AudioStop().event())
            while True:
                event = await answer(client)
                kinds.append(event.type)
                if event.type == "transcript-chunk":
                    pieces.append(event.data["text"])
                if event.type == "transcript":
                    text = event.data["text"]
                if event.type == "transcript-stop":
                    return text, "".join(pieces), kinds

    text, streamed, kinds = asyncio.run(turn())
    assert text.count("kitchen") == 2 and text == streamed
    assert kinds[0] == "transcript-start" and kinds[-2:] == ["transcript", "transcript-stop"]


def test_sound_of_another_rate(port):
    samples = load_audio(COMMAND.path)
    slow = np.interp(np.arange(0, len(samples), 2 / 3), np.arange(len(samples)), samples)

    async def turn() -> Event:
        async with connected(port) as client:
            await speak(client, pcm(slow), rate=24000, piece=48000)
            await client.write_event(AudioStop().event())
            return await answer(client, "transcript")

    assert "kitchen" in asyncio.run(turn()).data["text"]


def test_silence_is_an_empty_transcript(port):
    async def turn() -> Event:
        async with connected(port) as client:
            await client.write_event(Transcribe().event())
            await speak(client, bytes(64000), piece=6400)
            await client.write_event(AudioStop().event())
            return await answer(client, "transcript")

    assert asyncio.run(turn()).data["text"] == ""


def test_several_turns_on_one_connection(port, words):
    async def turns() -> list[str]:
        texts = []
        async with connected(port) as client:
            for _ in range(2):
                await client.write_event(Transcribe(language="en").event())
                await speak(client, pcm(load_audio(COMMAND.path)), piece=3200)
                await client.write_event(AudioStop().event())
                texts.append((await answer(client, "transcript")).data["text"])
        return texts

    assert asyncio.run(turns()) == [words, words]


def test_the_agent_answers_with_an_intent(port):
    """The tool call of the model is an intent, which Home Assistant carries out."""
    context = {"conversation_id": "01M8", "device_id": "95a6"}
    event = asyncio.run(ask(port, Transcript("Turn on the kitchen lights.", context=context, language="en").event()))
    intent = Intent.from_event(event)
    assert intent.name == "switch" and intent.context == context
    assert {entity.name: entity.value for entity in intent.entities} == COMMAND.call["arguments"]


def test_the_agent_knows_the_conversation(house_server, port):
    def said(text: str) -> Event:
        return asyncio.run(ask(port, Transcript(text, context={"conversation_id": "two"}).event()))

    assert said("Turn on the kitchen lights.").type == "intent"
    before = house_server[0].core.metrics.text()
    assert said("Hello.").type in ("handled", "intent")

    def cached(page: bytes) -> float:
        return float(
            next(line.split()[1] for line in page.splitlines() if line.startswith(b"edge_gemma_cached_tokens_total"))
        )

    assert cached(house_server[0].core.metrics.text()) - cached(before) > 100


def test_the_session_that_heard_the_words_goes_on(house_server, port, house):
    """Home Assistant brings the words back to the chat. Once it has done so, the next utterance is fed to that chat while it is
    spoken, so nothing of the sound is left to read; the turns that follow find it in the cache."""
    server = house_server[0]
    listener_sound = pcm(load_audio(COMMAND.path))

    async def heard() -> str:
        async with connected(port) as client:
            await client.write_event(Transcribe(language="en").event())
            await speak(client, listener_sound, piece=3200)
            await client.write_event(AudioStop().event())
            return str((await answer(client, "transcript")).data["text"])

    def asked(messages: list[dict[str, Any]]) -> tuple[dict[str, Any], int, int]:
        body = {"messages": messages, "tools": house.tools, "temperature": 0, "user": "01KX"}
        found = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).json()
        usage = found["usage"]
        return found["choices"][0]["message"], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

    system = {"role": "system", "content": house.instructions}
    text = asyncio.run(heard())
    asked([system, {"role": "user", "content": text}])
    assert asyncio.run(heard()) == text
    messages = [system, {"role": "user", "content": text}]
    message, with_sound, cached = asked(messages)
    sound = server.core.model.audio_tokens(len(load_audio(COMMAND.path)))
    words = len(server.core.model.tokenizer.encode(text, special=False))
    assert with_sound - cached < words + 12  # the sound was read before
    assert message["tool_calls"][0]["function"]["name"] == COMMAND.call["name"]
    messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"}]
    _, total, cached = asked(messages)
    assert cached >= with_sound and total - cached < 32
    # Typed words, and other instructions, are nobody's voice.
    _, typed, _ = asked([system, {"role": "user", "content": "Turn on the bedroom fan."}])
    assert typed < with_sound - sound // 2
    _, other, _ = asked([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])
    assert other < with_sound - sound // 2


def test_a_client_that_leaves_is_no_trouble(house_server, port):
    async def leave() -> None:
        for _ in range(2 * house_server[0].core.settings.listeners):
            async with connected(port) as client:
                await client.write_event(Transcribe(language="en").event())
                await speak(client, pcm(load_audio(COMMAND.path)), piece=3200)
            async with connected(port) as client:
                await client.write_event(Transcript("Turn on the kitchen lights.").event())

    asyncio.run(leave())
    assert asyncio.run(ask(port, Transcript("Turn on the kitchen lights.").event())).type == "intent"


HOSTILE = [
    b"\n",
    b"no json\n",
    b"[1, 2]\n",
    b"{" * 2000 + b"\n",
    b'{"type": 5}\n',
    b'{"type": "ping", "data": []}\n{"type": "describe", "data_length": -1}\n',
    b'{"type": "describe", "data_length": 99999999999}\n',
    b'{"type": "audio-chunk", "payload_length": 4000000000}\n',
    b'{"type": "audio-chunk", "payload_length": true}\n',
    b"x" * 200_000,
    b'{"type": "audio-start", "data": {"rate": 0, "width": 2, "channels": 1}}\n',
    b'{"type": "audio-start", "data": {"rate": 1e300, "width": 2, "channels": 1}}\n',
    b'{"type": "audio-start", "data": {}}\n',
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 3, "channels": 1}, "payload_length": 3}\nabc',
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 3}\nabc',
    b'{"type": "transcribe", "data": {"language": "Klingon"}}\n'
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 2}\nab',
    b'{"type": "transcribe", "data": {"language": 5}}\n',
    b'{"type": "transcribe", "data": {"transcript_names": [5]}}\n{"type": "audio-stop"}\n',
    b'{"type": "transcript", "data": {"text": 5}}\n',
    b'{"type": "transcript", "data": {}}\n',
    json.dumps({"type": "transcript", "data": {"text": "x" * 5000}}).encode() + b"\n",
    b'{"type": "describe", "data_length": 10}\n',  # and nothing more
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_frames_end_in_an_error(port, number):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(HOSTILE[number])
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    assert b'"type": "error"' in answer
    assert asyncio.run(ask(port, Ping(text="x").event())).type == "pong"


def test_the_network_is_told(own_server: Callable[..., Running]):
    """A listener of the same network finds the server, under a name that stays the same."""
    pytest.importorskip("zeroconf", reason="needs zeroconf")
    import ifaddr
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    mine = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4 and ip.ip[:4] != "127."]
    if not mine:
        pytest.skip("needs a network")

    async def find() -> AsyncServiceInfo | None:
        async with announced("0.0.0.0", 10300, "house.example"), AsyncZeroconf() as listener:
            return await listener.async_get_service_info(
                "_wyoming._tcp.local.", "edge-gemma-house._wyoming._tcp.local.", timeout=10_000
            )

    found = asyncio.run(find())
    assert found is not None and found.port == 10300 and set(found.parsed_addresses()) & set(mine)


def test_loopback_is_not_announced():
    with pytest.raises(EdgeGemmaError, match="nothing to announce"):
        wyoming("127.0.0.1", 0, announce=True)


def test_while_the_model_is_loaded():
    """Home Assistant tries again later when it gets an error."""
    go, ports = threading.Event(), []

    def load() -> Model:
        go.wait(30)
        return Model.load("toy", threads=1)

    running = Running(
        Core(load, Settings(stop_seconds=0.1), "demo"), companions=[wyoming("127.0.0.1", 0, bound=ports.append)]
    )
    running.start()
    try:
        event = asyncio.run(ask(ports[0], Describe().event()))
        assert event.type == "error" and "loaded" in event.data["text"]
    finally:
        go.set()
        running.__exit__()
