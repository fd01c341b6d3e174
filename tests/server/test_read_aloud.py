"""/v1/audio/speech with the openai library, and a voice that beeps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import numpy as np
import openai
import pytest

from edge_gemma.assistant.interface import EdgeGemmaVoiceError
from edge_gemma.audio.source import load_audio
from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings

TEXT = "Hello there. **How** are you today?"


class Beeps:
    sample_rate = 24000

    said: ClassVar[list[tuple[str, str | None]]] = []

    def speak(self, text: str, language: str | None) -> Iterator[Any]:
        self.said.append((text, language))
        if "fail" in text:
            raise EdgeGemmaVoiceError("It is hoarse.")
        for letter in text:
            yield (10_000 * np.sin(np.arange(1200) * (0.05 + ord(letter) % 7 / 100))).astype(np.int16)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    core = Core(lambda: Model.load("toy", threads=1), Settings(stop_seconds=1), "demo", Beeps)
    with Running(core) as running, openai.OpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0) as opened:
        yield opened


def read(client: openai.OpenAI, text: str = TEXT, **options: Any) -> tuple[bytes, str]:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=text, **options
    ) as found:
        return found.read(), found.headers["content-type"]


def test_every_format(client):
    sound, kind = read(client, response_format="pcm", extra_body={"stream_format": "audio"})
    assert kind == "audio/pcm"  # speech-to-speech takes nothing else
    seconds = len(sound) / 48000
    assert len(sound) % 2 == 0 and seconds == pytest.approx(0.05 * len("Hello there.How are you today?"), abs=0.06)
    wav, kind = read(client, response_format="wav")
    assert kind == "audio/wav" and wav[44:] == sound
    assert len(load_audio(io.BytesIO(wav))) == pytest.approx(16000 * seconds, rel=0.01)
    pytest.importorskip("soundfile", reason="needs the extra voice")
    for options in ({}, {"response_format": "flac"}, {"response_format": "opus"}):  # without a format: mp3
        data, kind = read(client, **options)
        assert kind.startswith("audio/")
        assert len(load_audio(io.BytesIO(data))) == pytest.approx(16000 * seconds, rel=0.1)


def test_the_language_is_that_of_the_words(client):
    """Signs are said in it, and the voice is told."""
    pytest.importorskip("py3langid", reason="needs the extra assistant")
    Beeps.said.clear()
    read(
        client,
        "Im Wohnzimmer sind es heute ungefähr 20 °C. In the living room it is about 20 °C today.",
        response_format="pcm",
    )
    assert [language for _, language in Beeps.said] == ["de", "en"]
    assert ["Grad Celsius" in Beeps.said[0][0], "degrees Celsius" in Beeps.said[1][0]] == [True, True], Beeps.said


def test_refusals(client, http: httpx.Client):
    for text in ("", " ", "x" * 5000):
        with pytest.raises(openai.BadRequestError):
            read(client, text)
    with pytest.raises(openai.BadRequestError):
        read(client, response_format="aac")
    for form in ("pcm", "mp3"):
        with pytest.raises(openai.InternalServerError, match="hoarse"):
            read(client, "fail", response_format=form)
    answer = http.post("/v1/audio/speech", json={"input": "x", "voice": "alloy"})  # a server without a voice
    assert answer.status_code == 404 and "--voice" in answer.json()["error"]["message"]
