"""`describe` and `locate`: what is asked, what comes back, and which errors come before a model is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import edge_gemma as eg
from edge_gemma.errors import Cancelled, EdgeGemmaError
from edge_gemma.vision.cache import shared_cache
from edge_gemma.vision.describe import location_request
from support.scripted import ScriptedModel


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


def picture(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (50, 100, 3)).astype(np.uint8)


def test_a_description(tmp_path: Path) -> None:
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png")
    model = ScriptedModel("  A cat on a mat.\n")
    assert eg.describe(tmp_path / "a.png", model) == "A cat on a mat."
    assert "<|image><image|>Describe this picture.<turn|>" in model.sessions[0].text
    assert model.requests[0].sampling.temperature == 0 and model.encoded[0][1] == 280
    assert model.sessions[0].closed and not model.closed
    assert eg.describe(picture(), model, "How many?", 70, answer_tokens=3) == "A"
    assert "How many?" in model.sessions[1].text and model.encoded[1][1] == 70


def test_boxes_are_in_pixels_of_the_turned_picture(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    model = ScriptedModel('[{"box_2d": [0, 0, 500, 1000]}, {"box_2d": [900, 900, 1000, 1000], "label": "ear"}]')
    assert eg.locate(tmp_path / "a.png", "cat", model) == [eg.Box("cat", 0, 0, 50, 50), eg.Box("ear", 45, 90, 50, 100)]
    assert eg.locate(picture(), ["cat", "ear"], model)[0] == eg.Box("", 0, 0, 100, 25)
    assert eg.locate(picture(), "cat", ScriptedModel("I see none.")) == []


def test_a_request_names_what_is_wanted() -> None:
    text = location_request("traffic light")
    assert "every traffic light" in text and '"label": "traffic light"' in text and "box_2d" in text
    assert "every cat and every dog" in location_request(["cat", "dog"])
    assert '"label": "a \\"b\\""' in location_request('a "b"')


def test_errors_come_before_the_model_is_opened() -> None:
    for call in (
        lambda: eg.describe("none.png", "no-model.gguf"),
        lambda: eg.locate("none.png", "cat", "no-model.gguf"),
    ):
        with pytest.raises(EdgeGemmaError, match=r"none\.png"):
            call()
    for wrong in ({"label": ""}, {"label": []}, {"label": ["a", " "]}):
        with pytest.raises(EdgeGemmaError, match="label"):
            eg.locate("none.png", **wrong, model="no-model.gguf")  # type: ignore[arg-type]
    with pytest.raises(EdgeGemmaError, match="must be one of"):
        eg.describe(picture(), "no-model.gguf", max_tokens=100)
    with pytest.raises(EdgeGemmaError, match="question is empty"):
        eg.describe(picture(), ScriptedModel("x"), " ")
    with pytest.raises(EdgeGemmaError, match="without image encoder") as caught:
        eg.describe(picture(), ScriptedModel("x", has_vision=False))
    assert caught.value.code == "unsupported"


def test_a_describer_answers_each_by_itself_and_can_be_cancelled() -> None:
    model = ScriptedModel("Yes.")
    with eg.Describer(model, max_tokens=9) as describer:
        first = describer.describe(picture(1))
        assert (first.text, first.stop, first.stats["image_tokens"]) == ("Yes.", "turn", model.image_tokens(100, 50))
        frames = [(0, picture(2)), (2, picture(3))]
        assert describer.describe_video(frames, "Where?").text == "Yes."
        assert "user\n00:00 <|image><image|> 00:02 <|image><image|>Where?<turn|>" in model.sessions[0].text
        assert model.sessions[0].text.count("<|turn>user") == 1
        model.on_encode = lambda image: describer.cancel()
        with pytest.raises(Cancelled):
            describer.describe(picture(4))
        model.on_encode = None
        seen: list[Any] = []
        assert describer.describe(picture(4), progress=lambda *parts: seen.append(parts)).text == "Yes." and seen
    assert model.sessions[0].closed
