"""Pictures and recordings in requests: budgets, the cache, what is refused, and a bounded decoder."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from edge_gemma.audio.source import SAMPLE_RATE
from edge_gemma.engine.model import Model
from edge_gemma.server.core import Core
from edge_gemma.server.failures import RequestError
from edge_gemma.server.media import recording
from edge_gemma.server.running import Running
from edge_gemma.server.settings import Settings
from server.conftest import until
from support.paths import DATA

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def seeing() -> Iterator[Running]:
    def load() -> Model:
        return Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "vision-e2b.gguf", threads=2)

    with Running(Core(load, Settings(stop_seconds=2.0, max_pixels=400_000), "tiny")) as running:
        yield running


def png(width: int = 64, height: int = 48, colour: tuple[int, int, int] = (200, 30, 30)) -> str:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def wav(seconds: float = 0.5) -> str:
    file = io.BytesIO()
    sound = np.sin(np.arange(int(seconds * SAMPLE_RATE)) * 0.2) * 8000
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        writer.writeframes(sound.astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def image_part(data: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data or png()}", **more}}


def ask(running: Running, parts: list[dict[str, Any]], **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 2, "temperature": 0, **more}
    return httpx.post(running.url + PATH, json=body, timeout=60)


def prompt_tokens(running: Running, **more: Any) -> int:
    answer = ask(running, [image_part(png(900, 900), **more), {"type": "text", "text": "Which colour?"}])
    # 400,000 pixels are the most here.
    assert answer.status_code == 400
    answer = ask(running, [image_part(png(600, 600), **more), {"type": "text", "text": "Which colour?"}])
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["usage"]["prompt_tokens"]
    return found


def test_each_picture_has_its_budget(seeing):
    low, default = prompt_tokens(seeing, detail="low"), prompt_tokens(seeing)
    assert prompt_tokens(seeing, max_soft_tokens=70) == low < prompt_tokens(seeing, max_soft_tokens=140) < default
    assert prompt_tokens(seeing, detail="auto") == default < prompt_tokens(seeing, detail="high")
    wrong = ask(seeing, [image_part(max_soft_tokens=100)])
    assert wrong.status_code == 400 and "70, 140, 280, 560, 1120" in wrong.json()["error"]["message"]


def test_a_picture_is_found_in_the_cache(seeing):
    parts = [image_part(png(80, 64, (1, 2, 3))), {"type": "text", "text": "Which colour?"}]
    first = ask(seeing, parts).json()["usage"]
    again = ask(seeing, parts).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == first["prompt_tokens"] - 1
    other = ask(seeing, [image_part(png(80, 64, (3, 2, 1))), parts[1]]).json()["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] < 10, "another picture of the same size is another prompt"


def test_pictures_in_every_interface(seeing):
    words = {"type": "input_text", "text": "Colour?"}
    content = [words, {"type": "input_image", "image_url": f"data:image/png;base64,{png()}"}]
    responses = {"input": [{"role": "user", "content": content}], "max_output_tokens": 2}
    assert httpx.post(seeing.url + "/v1/responses", json=responses, timeout=60).status_code == 200
    source = {"type": "base64", "media_type": "image/png", "data": png()}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "Colour?"}]}]
    body = {"messages": messages, "max_tokens": 2}
    assert httpx.post(seeing.url + "/v1/messages", json=body, timeout=60).status_code == 200
    chat = {"messages": [{"role": "user", "content": "Colour?", "images": [png()]}]}
    for path, asked in (("chat", chat), ("generate", {"prompt": "Colour?", "images": [png()]})):
        whole = {"model": "tiny", "stream": False, "options": {"num_predict": 2}, **asked}
        answer = httpx.post(f"{seeing.url}/api/{path}", json=whole, timeout=60)
        assert answer.status_code == 200 and answer.json()["prompt_eval_count"] > 100


def test_a_picture_is_never_left_out_silently(seeing):
    def load() -> Model:
        return Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "audio-e2b.gguf")

    with Running(Core(load, Settings(stop_seconds=2.0), "blind")) as running:
        blind = ask(running, [image_part(), {"type": "text", "text": "Which colour?"}])
    assert blind.status_code == 400 and blind.json()["error"]["message"] == "This model cannot see pictures."
    cut = base64.b64encode(base64.b64decode(png(200, 200))[:-60]).decode()
    for data in (cut, base64.b64encode(b"no picture").decode(), "%%%"):
        assert ask(seeing, [image_part(data)]).status_code == 400


def test_a_large_picture_is_refused_before_it_is_decoded(seeing):
    answer = ask(seeing, [image_part(png(5000, 4000))])
    assert answer.status_code == 400 and "20 million pixels" in answer.json()["error"]["message"]


def test_a_client_that_leaves_while_its_picture_is_encoded(seeing):
    body = {"messages": [{"role": "user", "content": [image_part(png(600, 601), detail="high")]}], "max_tokens": 2}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(seeing.url + PATH, json=body, timeout=0.01)
    assert until(lambda: seeing.core.scheduler.counts == (0, 0))
    assert ask(seeing, [image_part()]).status_code == 200


def test_a_recording_is_heard(server):
    sound = {"type": "input_audio", "input_audio": {"data": wav(), "format": "wav"}}
    alone = ask(server, [sound], chat_template_kwargs={"enable_thinking": False})
    assert alone.status_code == 200, alone.text
    short = alone.json()["usage"]["prompt_tokens"]
    longer = ask(server, [{"type": "input_audio", "input_audio": {"data": wav(2.5), "format": "wav"}}])
    assert longer.json()["usage"]["prompt_tokens"] == short + 50, "a token for every 40 ms"
    again = ask(server, [{"type": "input_audio", "input_audio": {"data": wav(2.5), "format": "mp3"}}])
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 60, "the format is told by the bytes"


@pytest.mark.parametrize("data", [b"#EXTM3U\nfile:///etc/passwd\n", b"no sound", b"", b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_recording(server, data):
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode() or "=", "format": "wav"}}
    assert ask(server, [sound]).status_code == 400


def test_a_recording_that_is_too_long():
    with pytest.raises(RequestError, match=r"longer than 1 seconds"):
        recording(base64.b64decode(wav(1.2)), 1.0, "x")
    assert recording(base64.b64decode(wav(0.9)), 1.0, "x").size == int(0.9 * SAMPLE_RATE)
