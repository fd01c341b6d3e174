"""/v1/audio as the openai library and other programs use it."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.server.running import Running
from edge_gemma.speech.transcriber import transcribe
from edge_gemma.speech.turn import Turn

PATH = "/v1/audio/transcriptions"


def wav_of(samples: Any, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def command() -> Any:
    return next(item for item in bundled() if item.language == "en")


@pytest.fixture(scope="module")
def sound(command: Any) -> bytes:
    return command.path.read_bytes()


@pytest.fixture(scope="module")
def words(server: Running, command: Any) -> str:
    return transcribe(str(command.path), server.core.model, "en").text


def test_all_formats(client, sound, words):
    def heard(format: str, **options: Any) -> Any:
        options = {"model": "whisper-1", "file": ("speech.wav", sound), "language": "en", **options}
        return client.audio.transcriptions.create(response_format=format, **options)

    assert words and heard("json").text == words
    assert heard("text").strip() == words
    assert heard("srt").startswith("1\n00:00:0") and words.split()[0] in heard("srt")
    assert heard("vtt").startswith("WEBVTT\n\n00:00:0")
    verbose = heard("verbose_json")
    assert verbose.text == words and verbose.language == "english" and verbose.words is None
    assert verbose.duration == pytest.approx(len(sound) / 32000, abs=0.1)
    [segment] = verbose.segments
    assert segment.text == words and 0 <= segment.start < segment.end <= verbose.duration
    assert segment.avg_logprob < 0 and segment.tokens and segment.compression_ratio > 0


def test_words_have_times(client, sound, words):
    timed = client.audio.transcriptions.create(
        model="whisper-1",
        file=("speech.wav", sound),
        language="en",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert " ".join(word.word for word in timed.words) == words and timed.segments
    starts = [word.start for word in timed.words]
    assert starts == sorted(starts) and all(0 <= word.start <= word.end <= timed.duration for word in timed.words)


def test_streamed_words(client, command):
    twice = np.concatenate([load_audio(command.path), np.zeros(24000, np.float32), load_audio(command.path)])
    options: dict[str, Any] = {"model": "any", "file": ("speech.wav", wav_of(twice)), "language": "en"}
    whole = client.audio.transcriptions.create(**options).text
    events = list(client.audio.transcriptions.create(**options, stream=True))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1) and len(events) > 4
    assert events[-1].type == "transcript.text.done" and events[-1].text == whole and whole.count("kitchen") == 2
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


@pytest.mark.filterwarnings("ignore:deprecated")
def test_translation(client, server):
    german = next(item for item in bundled() if item.language == "de")
    found = client.audio.translations.create(model="any", file=("a.wav", german.path.read_bytes()))
    expected = transcribe(str(german.path), server.core.model, to="English").translation
    assert found.text == expected and expected
    verbose = client.audio.translations.create(
        model="any", file=("a.wav", german.path.read_bytes()), response_format="verbose_json"
    )
    assert verbose.task == "translate" and verbose.text == expected
    shown = client.audio.translations.create(
        model="any", file=("a.wav", german.path.read_bytes()), response_format="srt"
    )
    assert expected.split()[0] in shown


def test_the_kind_is_told_by_the_bytes(http, sound, words):
    """Open WebUI calls everything mp3 and application/octet-stream, and sends no content-length."""
    request = http.build_request(
        "POST",
        PATH,
        data={"model": "m", "language": "en"},
        files={"file": ("x.mp3", sound, "application/octet-stream")},
    )
    body = request.read()

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    answer = http.post(PATH, content=pieces(), headers={"content-type": request.headers["content-type"]})
    assert answer.status_code == 200 and answer.json()["text"] == words


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 400),
        (b"no sound at all", 400),
        (b"#EXTM3U\nfile:///etc/passwd\n", 400),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", 400),
        (b"\x1aE\xdf\xa3" + bytes(200), 400),
    ],
)
def test_what_is_no_sound(http, content, code):
    for more in ({}, {"stream": "true"}):
        answer = http.post(PATH, files={"file": ("x.wav", content)}, data={"model": "m", **more})
        assert answer.status_code == code
        assert answer.json()["error"]["message"].endswith(".")


def test_unusable_forms(http, sound):
    def refused(**request: Any) -> str:
        answer = http.post(PATH, **request)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["error"]["message"])

    assert "form" in refused(json={"file": "x"})
    assert "file" in refused(data={"model": "m"}, files={"other": ("x.wav", sound)})
    assert "damaged" in refused(files=[("file", ("x.wav", sound)), ("file", ("y.wav", sound))])
    assert "Klingon" in refused(data={"language": "Klingon"}, files={"file": ("x.wav", sound)})
    assert "response_format" in refused(data={"response_format": "pdf"}, files={"file": ("x.wav", sound)})
    assert "temperature" in refused(data={"temperature": "hot"}, files={"file": ("x.wav", sound)})
    assert "granularities" in refused(data={"timestamp_granularities[]": ["letter"]}, files={"file": ("x.wav", sound)})
    assert "recording" in refused(content=b"--x\r\nbad", headers={"content-type": "multipart/form-data; boundary=x"})
    assert "damaged" in refused(content=b"rubbish", headers={"content-type": "multipart/form-data"})
    many = {f"f{number}": "x" for number in range(100)}
    assert "damaged" in refused(data=many, files={"file": ("x.wav", sound)})


def test_a_large_upload_is_refused(own_server: Callable[..., Running]):
    running = own_server(max_body=100_000)
    with httpx.Client(base_url=running.url) as http:
        answer = http.post(PATH, files={"file": ("x.wav", bytes(200_000))})
        assert answer.status_code == 413


def test_long_silence_has_no_words(client):
    found = client.audio.transcriptions.create(model="m", file=("s.wav", wav_of(np.zeros(160_000))))
    assert found.text == ""


def test_only_what_is_new_is_heard(
    client: openai.OpenAI, server: Running, command: Any, monkeypatch: pytest.MonkeyPatch
):
    """speech-to-speech sends a recording again from its start, while somebody speaks."""
    pushed: list[int] = []
    push = Turn.push
    monkeypatch.setattr(Turn, "push", lambda turn, samples: (pushed.append(len(samples)), push(turn, samples))[1])
    samples = np.concatenate([load_audio(command.path), np.zeros(16000, np.float32)])
    texts = []
    for at in range(12000, len(samples) + 6400, 6400):
        file = ("audio.wav", wav_of(samples[:at]))
        texts.append(client.audio.transcriptions.create(model="m", file=file, language="en").text)
    assert "kitchen" in texts[-1] and len(set(texts)) > 1
    assert 0 < sum(pushed) <= len(samples)  # each sample once, and not once for each request
    pushed.clear()
    other = client.audio.transcriptions.create(model="m", file=("a.wav", wav_of(0.5 * samples)), language="en")
    assert "kitchen" in other.text and not pushed  # another recording


def test_a_client_that_leaves_ends_the_work(server: Running, http: httpx.Client, command: Any):
    """Its place is free again: as many clients leave as may be heard, and the next one is answered."""
    long = wav_of(np.concatenate([np.concatenate([load_audio(command.path), np.zeros(16000, np.float32)])] * 20))
    for _ in range(2 * server.core.settings.recordings):
        with http.stream("POST", PATH, files={"file": ("x.wav", long)}, data={"stream": "true"}) as answer:
            first = next(answer.iter_lines())
            assert json.loads(first.removeprefix("data: "))["type"] == "transcript.text.delta"
    answer = http.post(PATH, files={"file": ("x.wav", wav_of(load_audio(command.path)))})
    assert answer.status_code == 200
