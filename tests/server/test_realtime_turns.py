"""/v1/realtime: what ends a turn, answers that begin before it is over, and what happens when nobody speaks."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("websockets", reason="needs the extra server")

from edge_gemma.audio.source import load_audio
from edge_gemma.chat.prompt import Media
from edge_gemma.engine.model import Model
from edge_gemma.server import ears
from edge_gemma.server.bodies import Fields
from edge_gemma.server.core import Core
from edge_gemma.server.ears import is_sentence
from edge_gemma.server.realtime_config import Config
from edge_gemma.server.realtime_ear import Detection
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from server.test_realtime import COMMAND, SILENCE, Beeps, Talk, hearing, house_session, talk

PAUSE = SILENCE[: len(SILENCE) * 3 // 10]  # 0.6 s


@pytest.fixture(scope="module")
def turn_server():
    core = Core(lambda: Model.load("toy", threads=2), Settings(stop_seconds=1, listeners=4), "demo", Beeps)
    with Running(core) as running:
        yield running


@pytest.fixture
def begun(turn_server, monkeypatch) -> list[Any]:
    """The answers to speech that were begun."""
    found: list[Any] = []
    begin = turn_server.core.begin

    def noting(prepared):
        answers = begin(prepared)
        if any(isinstance(unit, Media) for unit in prepared.units):
            found.extend(answers)
        return answers

    monkeypatch.setattr(turn_server.core, "begin", noting)
    return found


async def until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def session(house: Any, transcription: Any = None, **detection: Any) -> dict[str, Any]:
    detection = {"type": "server_vad", "silence_duration_ms": 2000, **detection}
    audio = hearing(turn_detection=detection, transcription=transcription)
    return {**house_session(house, **audio), "output_modalities": ["text"]}


WORDS = [None, {"model": "any", "language": "en"}]


@pytest.mark.parametrize("transcription", WORDS, ids=["sound", "words"])
def test_an_answer_begins_in_a_pause_and_is_told_afterwards(turn_server, house, begun, transcription):
    async def conversation(talk: Talk) -> None:
        await talk.setup(**session(house, transcription))
        await talk.speak(np.concatenate([PAUSE, load_audio(COMMAND.path), PAUSE]), pace=0.7)
        await until(lambda: begun)
        [early] = begun
        await talk.speak(SILENCE, pace=0.2)  # the two seconds are over
        done = await talk.until("response.done")
        assert begun == [early]
        assert talk.kinds.index("input_audio_buffer.speech_stopped") < talk.kinds.index("response.created")
        assert [item.name for item in done.response.output] == [COMMAND.call["name"]]

    talk(turn_server, conversation)


@pytest.mark.parametrize("transcription", WORDS, ids=["sound", "words"])
def test_an_answer_is_dropped_when_the_speaker_goes_on(turn_server, house, begun, transcription):
    async def conversation(talk: Talk) -> None:
        await talk.setup(**session(house, transcription))
        command = load_audio(COMMAND.path)
        await talk.speak(np.concatenate([PAUSE, command, PAUSE]), pace=0.7)
        await until(lambda: begun)
        await talk.speak(np.concatenate([command, PAUSE]), pace=0.7)
        await until(lambda: len(begun) == 2)
        await talk.speak(SILENCE, pace=0.2)
        done = await talk.until("response.done")
        assert len(begun) == 2 and talk.kinds.count("response.created") == 1
        assert (await begun[0].next()) is not None and begun[0]._job.cancelled
        first, second = (answer.prepared.tokens for answer in begun)
        assert done.response.usage.input_tokens == second > first + 20  # both commands

    talk(turn_server, conversation)


def test_nothing_begins_early_where_the_client_asks_for_answers(turn_server, house, begun):
    async def conversation(talk: Talk) -> None:
        await talk.setup(**session(house, create_response=False))
        await talk.speak(np.concatenate([PAUSE, load_audio(COMMAND.path), PAUSE]), pace=0.7)
        await talk.speak(SILENCE, pace=0.2)
        await talk.until("conversation.item.done")
        assert not begun

    talk(turn_server, conversation)


def test_sound_before_the_speech(turn_server):
    """`prefix_padding_ms` is sound that belongs to the turn."""
    starts: list[int] = []

    async def conversation(talk: Talk) -> None:
        detection = {"type": "server_vad", "prefix_padding_ms": 1000 * len(starts), "create_response": False}
        await talk.setup(audio=hearing(turn_detection=detection))
        await talk.speak(np.concatenate([SILENCE, load_audio(COMMAND.path), SILENCE]))
        starts.append((await talk.until("input_audio_buffer.speech_started")).audio_start_ms)

    talk(turn_server, conversation)
    talk(turn_server, conversation)
    assert starts[0] - starts[1] == 1000


def test_a_threshold_that_nothing_reaches(turn_server):
    async def conversation(talk: Talk) -> None:
        detection = {"type": "server_vad", "threshold": 1.0, "create_response": False}
        await talk.setup(audio=hearing(turn_detection=detection))
        await talk.speak(np.concatenate([load_audio(COMMAND.path), SILENCE]))
        await talk.connection.input_audio_buffer.commit()
        await talk.connection.conversation.item.retrieve(item_id="none")
        while (event := await talk.next()).type != "error":
            assert not event.type.startswith("input_audio_buffer")

    talk(turn_server, conversation)


def test_a_whole_sentence_ends_a_turn_sooner(turn_server, house, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(ears, "is_sentence", lambda text: said.append(text) is None)

    async def conversation(talk: Talk) -> None:
        detection = {"type": "semantic_vad", "eagerness": "low", "create_response": False}
        audio = hearing(turn_detection=detection, transcription=WORDS[1])
        await talk.setup(**house_session(house, **audio))
        await talk.speak(np.concatenate([load_audio(COMMAND.path), SILENCE, SILENCE]), pace=0.7)  # 4 s are not 8
        await talk.until("input_audio_buffer.speech_stopped")
        assert said and said[-1]

    talk(turn_server, conversation)


def test_what_a_session_detects():
    def detection(given: Any) -> Config:
        return Config("sess", "m", "realtime", False).update(
            Fields({"audio": {"input": {"turn_detection": given, "noise_reduction": {"type": "near_field"}}}})
        )

    found = {
        eagerness: detection({"type": "semantic_vad", "eagerness": eagerness}).detection
        for eagerness in ("low", "high")
    }
    assert found["low"] == Detection(8.0, 1.2) and found["high"] == Detection(2.0, 0.35)
    given = {"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": 500, "silence_duration_ms": 300}
    assert detection(given).detection == Detection(0.3, None, 0.7, 0.5)
    assert detection(None).detection is None and detection(None).idle is None
    assert detection({**given, "idle_timeout_ms": 6000}).idle == 6.0 and detection(given).idle is None
    assert detection(given).hearing["noise_reduction"] is None  # the session tells what is done


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Turn on the light.", True),
        ("Really?", True),
        ("He said “Stop!”", True),
        ("电灯打开了。", True),
        ("Turn on the", False),
        ("Well...", False),
        ("first,", False),
        ("", False),
    ],
)
def test_whole_sentences(text, whole):
    assert is_sentence(text) is whole


def test_nobody_speaks(turn_server, house, monkeypatch):
    """After an answer and a silence the model speaks again, once."""
    monkeypatch.setattr(Config, "idle", property(lambda self: 0.3))

    async def conversation(talk: Talk) -> None:
        await talk.setup(**{**session(house), "max_output_tokens": 4, "tools": []})
        await talk.speak(SILENCE[:8000])
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
        await talk.connection.conversation.item.create(item=message)
        await talk.connection.response.create()
        first = await talk.until("response.done")
        triggered = await talk.until("input_audio_buffer.timeout_triggered")
        assert 0 <= triggered.audio_start_ms <= triggered.audio_end_ms
        committed = await talk.until("input_audio_buffer.committed")
        assert committed.item_id == triggered.item_id
        monkeypatch.setattr(Config, "idle", property(lambda self: None))
        second = await talk.until("response.done")
        assert second.response.id != first.response.id and second.response.status != "failed"

    talk(turn_server, conversation)
