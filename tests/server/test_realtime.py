"""/v1/realtime with the `openai` library as its client, and with clients that send what they should not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import openai
import pytest

pytest.importorskip("websockets", reason="needs the extra server")

import websockets

from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings

COMMAND = next(item for item in bundled() if item.language == "en")
SILENCE = np.zeros(32000, np.float32)


class Beeps:
    """A voice: every letter is 10 ms of a constant."""

    sample_rate = 24000
    opened = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.closed = False

    def speak(self, text: str, language: str | None) -> Iterator[Any]:
        for _ in text:
            yield np.full(240, 1000, np.int16)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def house_server() -> Iterator[Running]:
    core = Core(lambda: Model.load("toy", threads=2), Settings(stop_seconds=1, listeners=4), "demo")
    with Running(core) as running:
        yield running


@pytest.fixture(scope="module")
def speaking_server() -> Iterator[Running]:
    core = Core(lambda: Model.load("toy", threads=2), Settings(stop_seconds=1, listeners=4), "demo", Beeps)
    with Running(core) as running:
        yield running


class Talk:
    """A session of the library, and all events that came."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.events = connection, []

    async def next(self) -> Any:
        event = await asyncio.wait_for(self.connection.recv(), 60)
        self.events.append(event)
        return event

    async def until(self, *kinds: str) -> Any:
        while (event := await self.next()).type not in kinds:
            assert event.type != "error", event
        return event

    async def setup(self, **session: Any) -> None:
        session = {"type": "realtime", **session}
        assert (await self.next()).type == "session.created"
        await self.connection.session.update(session=session)
        assert (await self.next()).type == "session.updated"

    async def speak(self, samples: Any, rate: int = 24000, piece: int = 960, pace: float = 0.0) -> None:
        """40 ms a message, as Open WebUI sends them."""
        at = np.arange(0, len(samples), 16000 / rate)
        pcm = (np.clip(np.interp(at, np.arange(len(samples)), samples), -1, 1) * 32767).astype("<i2")
        for start in range(0, len(pcm), piece):
            data = base64.b64encode(pcm[start : start + piece].tobytes()).decode()
            await self.connection.input_audio_buffer.append(audio=data)
            await asyncio.sleep(pace * piece / rate)

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.events]


def talk(server: Running, conversation: Callable[[Talk], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with (
            openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            await conversation(Talk(connection))

    asyncio.run(run())


def hearing(**options: Any) -> dict[str, Any]:
    return {"input": {"format": {"type": "audio/pcm", "rate": 24000}, **options}}


MANUAL = hearing(turn_detection=None)


def house_session(house: Any, **audio: Any) -> dict[str, Any]:
    tools = [{"type": "function", **tool["function"]} for tool in house.tools]
    return {"instructions": house.instructions, "tools": tools, "audio": audio or MANUAL, "temperature": 0}


def test_a_text_session(house_server):
    async def conversation(talk: Talk) -> None:
        await talk.setup(instructions="Be brief.", output_modalities=["text"])
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
        await talk.connection.conversation.item.create(item={"id": "item_mine", **message})
        await talk.connection.response.create(
            response={"metadata": {"input_item_id": "item_mine"}, "max_output_tokens": 8}
        )
        done = await talk.until("response.done")
        assert talk.kinds[2:9] == [
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_text.delta",
        ]
        assert talk.events[2].item.id == "item_mine" and talk.events[2].previous_item_id is None
        assert talk.events[6].previous_item_id == "item_mine"
        text = "".join(event.delta for event in talk.events if event.type == "response.output_text.delta")
        assert done.response.output[0].content[0].text == text
        assert done.response.metadata == {"input_item_id": "item_mine"}
        assert done.response.status in ("completed", "incomplete") and done.response.usage.output_tokens > 0
        assert talk.kinds[-5:] == [
            "response.output_text.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        assert len({event.event_id for event in talk.events}) == len(talk.events)

    talk(house_server, conversation)


@pytest.mark.parametrize("transcription", [None, {"model": "any", "language": "en"}])
def test_a_spoken_command_calls_a_tool(house_server, house, transcription):
    """Server VAD: the speech becomes an item whose id was told when it began, and the answer follows by itself."""

    async def conversation(talk: Talk) -> None:
        audio = hearing(turn_detection={"type": "server_vad"}, transcription=transcription)
        await talk.setup(**house_session(house, **audio))
        await talk.speak(np.concatenate([SILENCE, load_audio(COMMAND.path), SILENCE]), pace=0.7)
        done = await talk.until("response.done")
        started, stopped, committed = (
            next(event for event in talk.events if event.type == f"input_audio_buffer.{kind}")
            for kind in ("speech_started", "speech_stopped", "committed")
        )
        added = next(event for event in talk.events if event.type == "conversation.item.added")
        assert started.item_id == stopped.item_id == committed.item_id == added.item.id
        assert 0 <= started.audio_start_ms < stopped.audio_end_ms
        [call] = done.response.output
        assert call.type == "function_call" and call.status == "completed" and call.name == COMMAND.call["name"]
        assert json.loads(call.arguments) == COMMAND.call["arguments"]
        if transcription:
            order = [kind for kind in talk.kinds if "audio" in kind or kind.startswith("conversation")]
            assert order[:6] == [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                "conversation.item.input_audio_transcription.delta",
            ]
            words = next(event for event in talk.events if event.type.endswith("transcription.completed"))
            assert "kitchen" in words.transcript and words.item_id == started.item_id
        # The timeline of the conversation has heard the sound: nothing of it is left to read.
        usage = done.response.usage
        left = usage.input_tokens - usage.input_token_details.cached_tokens
        assert left < 24
        # The second round, as clients do it.
        await talk.connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": '{"result": "done"}'}
        )
        await talk.connection.response.create(response={"tools": [], "tool_choice": "none"})
        answer = await talk.until("response.done")
        assert answer.response.output[0].type == "message"

    talk(house_server, conversation)


def test_a_turn_that_the_client_ends(house_server, house):
    """Manual commit: the sound is heard while it comes, so at the commit little is left to do."""

    async def conversation(talk: Talk) -> None:
        await talk.setup(**house_session(house))
        await talk.connection.input_audio_buffer.commit()
        error = await talk.next()
        assert error.type == "error" and error.error.code == "input_audio_buffer_commit_empty"
        for _ in range(2):
            await talk.speak(load_audio(COMMAND.path))
            await talk.connection.input_audio_buffer.commit()
            await talk.connection.response.create()
            done = await talk.until("response.done")
            assert done.response.output[0].name == COMMAND.call["name"]
        usage = done.response.usage
        assert usage.input_tokens - usage.input_token_details.cached_tokens < 24
        await talk.speak(load_audio(COMMAND.path))
        await talk.connection.input_audio_buffer.clear()
        assert (await talk.next()).type == "input_audio_buffer.cleared"
        await talk.connection.input_audio_buffer.commit()
        assert (await talk.next()).type == "error"

    talk(house_server, conversation)


def test_a_transcription_session(house_server):
    """As speech-to-speech opens it: no detection, appends, a commit."""

    async def conversation(talk: Talk) -> None:
        audio = hearing(turn_detection=None, transcription={"model": "gpt-live-transcribe", "language": "en"})
        await talk.setup(type="transcription", audio=audio)
        for _ in range(2):
            await talk.speak(load_audio(COMMAND.path), piece=9542 // 2)
            await talk.connection.input_audio_buffer.commit()
            completed = await talk.until("conversation.item.input_audio_transcription.completed")
            assert "kitchen" in completed.transcript
            deltas = [event.delta for event in talk.events if event.type.endswith("transcription.delta")]
            assert "".join(deltas) == completed.transcript
            talk.events.clear()
        await talk.connection.response.create()
        assert (await talk.next()).type == "error"

    talk(house_server, conversation)


def test_the_call_of_open_webui(house_server, house):
    """Its server ends turns and asks for the answers, after it has replaced a message with an id of its own."""

    async def conversation(talk: Talk) -> None:
        detection = {"type": "server_vad", "interrupt_response": False, "create_response": False}
        audio = hearing(turn_detection=detection, transcription={"model": "gpt-transcribe"})
        await talk.setup(**house_session(house, **audio))
        context = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "[]"}]}
        await talk.connection.conversation.item.create(item={"id": "chat_context_1", **context})
        await talk.until("conversation.item.done")
        await talk.speak(np.concatenate([load_audio(COMMAND.path), SILENCE]))
        await talk.until("conversation.item.input_audio_transcription.completed")
        await talk.connection.conversation.item.delete(item_id="chat_context_1")
        assert (await talk.until("conversation.item.deleted")).item_id == "chat_context_1"
        await talk.connection.conversation.item.create(item={"id": "chat_context_2", **context})
        assert (await talk.until("conversation.item.added")).item.id == "chat_context_2"
        assert "response.created" not in talk.kinds
        await talk.connection.response.create(response={"metadata": {"input_item_id": "x"}})
        done = await talk.until("response.done")
        assert done.response.status == "completed" and done.response.metadata == {"input_item_id": "x"}

    talk(house_server, conversation)


def test_noise_is_not_answered(house_server, house):
    async def conversation(talk: Talk) -> None:
        await talk.setup(**house_session(house, **hearing(turn_detection={"type": "server_vad"})))
        await talk.speak(np.random.default_rng(0).normal(0, 1e-4, 48000))
        await talk.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
        )
        assert (await talk.next()).type == "conversation.item.added"

    talk(house_server, conversation)


def test_an_answer_is_cancelled(house_server):
    async def conversation(talk: Talk) -> None:
        await talk.setup(instructions="Tell a story.")
        await talk.connection.response.cancel()
        assert (await talk.next()).error.code == "response_cancel_not_active"
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
        await talk.connection.conversation.item.create(item=item)
        gate = threading.Event()  # the engine stands still until the answer is cancelled
        house_server.core.scheduler.call(lambda: gate.wait(30))
        try:
            await talk.connection.response.create()
            await talk.until("response.created")
            await talk.connection.response.create()
            assert (await talk.until("error")).error.code == "conversation_already_has_active_response"
            await talk.connection.response.cancel()
            await talk.connection.conversation.item.create(item=item)
            await talk.until("conversation.item.added")
        finally:
            gate.set()
        if "response.done" not in talk.kinds:
            await talk.until("response.done")
        done = next(event for event in talk.events if event.type == "response.done")
        assert done.response.status == "cancelled"
        talk.events.clear()
        await talk.connection.response.create(
            response={"conversation": "none", "input": [item], "max_output_tokens": 4}
        )
        done = await talk.until("response.done")
        assert done.response.conversation_id is None and "conversation.item.added" not in talk.kinds

    talk(house_server, conversation)


def test_a_spoken_answer(speaking_server):
    """Speech with its text; and what was not played is taken out of the conversation."""

    async def conversation(talk: Talk) -> None:
        await talk.setup(instructions="Be brief.", output_modalities=["audio"])
        assert talk.events[1].session.output_modalities == ["audio"]
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
        await talk.connection.conversation.item.create(item=item)
        await talk.connection.response.create(response={"max_output_tokens": 24, "tool_choice": "none"})
        done = await talk.until("response.done")
        [message] = done.response.output
        [content] = message.content
        assert content.type == "output_audio" and content.transcript
        pieces = [base64.b64decode(event.delta) for event in talk.events if event.type == "response.output_audio.delta"]
        # Open WebUI ends its call at half a sample, and at a message of more than 512 KiB.
        assert all(len(piece) % 2 == 0 and 0 < len(piece) < 256 << 10 for piece in pieces)
        sound = b"".join(pieces)
        assert len(sound) % 480 == 0 and np.all(np.frombuffer(sound, "<i2") == 1000)
        assert talk.kinds.index("response.output_audio.done") < talk.kinds.index(
            "response.output_audio_transcript.done"
        )
        await talk.connection.conversation.item.truncate(item_id=message.id, content_index=0, audio_end_ms=0)
        assert (await talk.until("conversation.item.truncated")).audio_end_ms == 0
        await talk.connection.conversation.item.retrieve(item_id=message.id)
        assert (await talk.until("conversation.item.retrieved")).item.content[0].transcript == ""

    talk(speaking_server, conversation)


# ---- what comes from clients that know no better -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def raw(server: Running, query: str = "") -> AsyncIterator[Any]:
    url = server.url.replace("http", "ws") + "/v1/realtime" + query
    async with websockets.connect(url, max_size=None) as connection:
        created = json.loads(await connection.recv())
        assert created["type"] == "session.created"
        yield connection


def exchange(server: Running, *messages: str | bytes) -> tuple[list[dict[str, Any]], int | None]:
    """All events that come, and the code with which the connection is closed; None if it stays open."""

    async def run() -> tuple[list[dict[str, Any]], int | None]:
        events = []
        async with raw(server) as connection:
            for message in messages:
                await connection.send(message)
            try:
                while True:
                    events.append(json.loads(await asyncio.wait_for(connection.recv(), 1.5)))
            except asyncio.TimeoutError:
                return events, None
            except websockets.ConnectionClosed as error:
                return events, error.rcvd.code if error.rcvd else 1006

    return asyncio.run(run())


DAMAGED: list[str | bytes] = [
    "",
    "no json",
    "[]",
    "5",
    "{}",
    '{"type": 5}',
    b"\x00\x01",
    "[" * 100_000,
    '{"type": "input_audio_buffer.append"}',
    '{"type": "input_audio_buffer.append", "audio": "AAA="}'.replace("AAA=", "AAAA"),
    '{"type": "input_audio_buffer.append", "audio": "***"}',
    '{"type": "session.update", "session": {"instructions": "\\ud800"}}',
]


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_damaged_messages_end_the_connection(house_server, number):
    events, code = exchange(house_server, DAMAGED[number])
    assert [event["type"] for event in events] == ["error"] and code == 1008
    assert events[0]["error"]["message"].endswith(".")


REFUSED: list[dict[str, Any]] = [
    {"type": "unknown.event"},
    {"type": "session.update"},
    {"type": "session.update", "session": {"type": "other"}},
    {"type": "session.update", "session": {"output_modalities": ["smell"]}},
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/x"}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 1}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "no"}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": 5}}}},
    {"type": "session.update", "session": {"tool_choice": {"name": 5}}},
    {"type": "session.update", "session": {"tools": [5]}},
    {"type": "session.update", "session": {"max_output_tokens": -1}},
    {"type": "conversation.item.create"},
    {"type": "conversation.item.create", "item": {"type": "poem"}},
    {"type": "conversation.item.create", "item": {"type": "message", "role": "nobody"}},
    {"type": "conversation.item.create", "previous_item_id": "none", "item": {"type": "message", "role": "user"}},
    {"type": "conversation.item.delete", "item_id": "none"},
    {"type": "conversation.item.retrieve"},
    {"type": "conversation.item.truncate", "item_id": "none"},
    {"type": "input_audio_buffer.commit"},
    {"type": "response.cancel"},
    {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "none"}]}},
    {"type": "response.create", "response": {"input": 5}},
]


def test_refused_events_leave_the_connection_open(house_server):
    messages = [json.dumps({**event, "event_id": f"mine_{number}"}) for number, event in enumerate(REFUSED)]
    events, code = exchange(house_server, *messages)
    assert code is None and [event["type"] for event in events] == ["error"] * len(REFUSED)
    assert [event["error"]["event_id"] for event in events] == [f"mine_{number}" for number in range(len(REFUSED))]


def test_too_many_errors_end_the_connection(house_server):
    events, code = exchange(house_server, *['{"type": "x"}'] * 50)
    assert code == 1008 and len(events) < 40


def test_too_large_a_message(house_server):
    _, code = exchange(house_server, json.dumps({"type": "x", "junk": "x" * (3 << 20)}))
    assert code == 1009


def test_unknown_fields_and_extensions_are_left_out(house_server):
    """speech-to-speech adds `extensions`."""
    update = {"type": "session.update", "session": {"type": "realtime", "extensions": ["x"], "prompt": {"id": "y"}}}
    events, code = exchange(house_server, json.dumps(update))
    assert code is None and [event["type"] for event in events] == ["session.updated"]
    assert "extensions" not in events[0]["session"]


def test_partial_words_are_told_on_request(house_server):
    async def run() -> list[dict[str, Any]]:
        events = []
        async with raw(house_server, "?intent=transcription") as connection:
            session = {
                "include": ["item.input_audio_transcription.partials"],
                "audio": hearing(transcription={"language": "en"}),
            }
            await connection.send(json.dumps({"type": "session.update", "session": session}))
            samples = np.concatenate([load_audio(COMMAND.path), SILENCE])
            pcm = (samples * 32767).astype("<i2")
            pcm = np.interp(np.arange(0, len(pcm), 2 / 3), np.arange(len(pcm)), pcm).astype("<i2")
            for at in range(0, len(pcm), 2400):
                data = base64.b64encode(pcm[at : at + 2400].tobytes()).decode()
                await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
                await asyncio.sleep(0.1)
            while not events or not events[-1]["type"].endswith("completed"):
                events.append(json.loads(await asyncio.wait_for(connection.recv(), 30)))
        return events

    events = asyncio.run(run())
    partials = [event for event in events if event["type"].endswith("transcription.partial")]
    started = next(event for event in events if event["type"].endswith("speech_started"))
    assert partials and all(event["item_id"] == started["item_id"] for event in partials)
    assert all(event["text"].startswith(event["agreed"]) for event in partials)


def test_clients_that_leave_free_their_places(house_server):
    async def leave() -> None:
        for _ in range(2 * house_server.core.settings.listeners):
            async with raw(house_server) as connection:
                data = base64.b64encode(bytes(48000)).decode()
                await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))

    asyncio.run(leave())
    events, code = exchange(
        house_server,
        json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(48000)).decode()}),
    )
    assert code is None and events == []
