"""Pictures and videos in a session: the logits of Hugging Face's prompts, from the oracle's own soft tokens.

So what is tested here is everything but the encoder: markers, their order, the times of frames, the masks, and sound behind
them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.budgets import target_size
from edge_gemma.vision.cache import picture_key, shared_cache
from edge_gemma.vision.feeding import feed_pixels
from edge_gemma.vision.images import load_image

BEGIN, END, SOFT, VIDEO_SOFT = 17, 18, 19, 23  # of the tiny vocabulary
AUDIO_BEGIN, AUDIO_END, AUDIO_SOFT = 20, 21, 22


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


@pytest.fixture(params=["e2b", "moe", "dense"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def oracle(shared: Path, variant: str) -> Any:
    return np.load(shared / "fixtures" / "vision" / f"{variant}.npz")


@pytest.fixture
def model(shared: Path, variant: str, monkeypatch: pytest.MonkeyPatch, oracle: Any) -> Iterator[eg.Model]:
    """A model whose encoder is the oracle: it knows the pictures of the fixtures at 70 tokens."""
    images = shared / "fixtures" / "vision" / "images"
    known = {name.removesuffix("_70_soft"): oracle[name] for name in oracle if name.endswith("_70_soft")}
    table = {
        picture_key(load_image(next(images.glob(f"{name}.*")))): rows
        for name, rows in known.items()
        if list(images.glob(f"{name}.*"))
    }
    folder = shared / "fixtures" / variant
    install(monkeypatch, table)
    with eg.Model.load(folder / "model-BF16.gguf", mmproj=folder / "mmproj-BF16.gguf", threads=2) as opened:
        yield opened


def install(monkeypatch: pytest.MonkeyPatch, table: dict[bytes, np.ndarray]) -> None:
    """Puts rows in the place of the encoder."""

    def encode_image(self: eg.Model, image: Any, max_tokens: int = 280, *, progress: Any = None) -> np.ndarray:
        assert max_tokens == 70
        return table[picture_key(image)]

    def image_tokens(self: eg.Model, width: int, height: int, max_tokens: int = 280) -> int:
        rows, columns = target_size(height, width, max_tokens)
        return rows * columns // 48**2

    monkeypatch.setattr(eg.Model, "encode_image", encode_image, raising=False)
    monkeypatch.setattr(eg.Model, "image_tokens", image_tokens, raising=False)
    monkeypatch.setattr(eg.Model, "has_vision", True, raising=False)


def feed_prompt(session: eg.Session, ids: np.ndarray, pictures: Iterator[Path], sounds: Iterator[np.ndarray]) -> None:
    """Feeds a prompt of the oracle: runs of placeholders become pictures and recordings."""
    ids = list(ids)
    at = 0
    while at < len(ids):
        if ids[at] in (BEGIN, AUDIO_BEGIN):
            end = ids.index(END if ids[at] == BEGIN else AUDIO_END, at)
            assert set(ids[at + 1 : end]) <= {SOFT, AUDIO_SOFT}
            before = session.position
            if ids[at] == BEGIN:
                session.feed_image(next(pictures), max_tokens=70)
            else:
                session.feed_audio(next(sounds))
            assert session.position - before == end + 1 - at
            at = end + 1
        else:
            stop = next((n for n in range(at, len(ids)) if ids[n] in (BEGIN, AUDIO_BEGIN)), len(ids))
            session.feed_tokens(ids[at:stop])
            at = stop


@pytest.mark.parametrize("prompt", ["two", "adjacent", "image_audio"])
def test_prompts_of_the_oracle(prompt: str, model: eg.Model, oracle: Any, shared: Path) -> None:
    """Two pictures with text between them, one directly behind the other, and a picture and then sound."""
    if f"prompt_{prompt}_ids" not in oracle:
        pytest.skip("this shape does not hear")
    images = shared / "fixtures" / "vision" / "images"
    paths = (next(images.glob(f"{name}.*")) for name in oracle[f"prompt_{prompt}_images"])
    sounds = iter([oracle["prompt_audio_samples"]] if prompt == "image_audio" else [])
    with model.session(kv="f32") as session:
        feed_prompt(session, oracle[f"prompt_{prompt}_ids"], paths, sounds)
        found = session.logits()
    wanted = oracle[f"prompt_{prompt}_logits"][-1]
    assert oracle[f"prompt_{prompt}_at"][-1] == len(oracle[f"prompt_{prompt}_ids"]) - 1
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_the_video_of_the_oracle(variant: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six frames with their times: every token but the soft ones is that of the processor."""
    video = np.load(shared / "fixtures" / "video" / f"{variant}.npz")
    frames = video["frames"]
    table = {picture_key(frame): rows for frame, rows in zip(frames, video["soft"], strict=True)}
    install(monkeypatch, table)
    ids = list(video["prompt_ids"])
    first, last = ids.index(BEGIN), len(ids) - 1 - ids[::-1].index(END)
    folder = shared / "fixtures" / variant
    with (
        eg.Model.load(folder / "model-BF16.gguf", threads=2) as model,
        model.session(kv="f32") as session,
    ):
        listed = [(index / float(video["fps"]), frame) for index, frame in zip(video["indices"], frames, strict=True)]
        times = model.tokenizer.encode("00:00 ")
        assert ids[first - len(times) : first] == times
        session.feed_tokens(ids[: first - len(times)])
        session.feed_video(listed)
        assert session.position == last + 1
        assert [-1 if number in (SOFT, VIDEO_SOFT) else number for number in ids[: last + 1]] == session.tokens
        session.feed_tokens(ids[last + 1 :])
        found, wanted = session.logits(), video["prompt_logits"][-1]
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_a_chat_writes_the_same_tokens(model: eg.Model, shared: Path) -> None:
    """The template's place of a picture, and `feed_image`, are the same thing."""
    path = shared / "fixtures" / "vision" / "images" / "rgba.png"
    with model.chat(max_tokens=1, context=400) as chat, model.session(context=400) as session:
        list(chat.send("What?", images=path, image_tokens=70))
        session.feed_text("<bos><|turn>user\n", special=True)
        session.feed_image(path, 70)
        session.feed_text("What?<turn|>\n<|turn>model\n", special=True)
        ends = len(session.tokens)
        assert chat.session.tokens[:ends] == session.tokens
        assert chat.session.tokens[ends] == session.logits().argmax() or len(chat.session.tokens) == ends + 1


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_different_pictures_and_no_markers(model: eg.Model, shared: Path) -> None:
    images = shared / "fixtures" / "vision" / "images"
    logits = []
    for name in ("rgba.png", "photo.png"):
        with model.session(context=200) as session:
            session.feed_tokens([2])
            session.feed_image(images / name, "low", markers=False)
            assert set(session.tokens[1:]) == {-1}
            logits.append(session.logits())
    assert np.abs(logits[0] - logits[1]).max() > 0.1


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_failures_add_nothing(model: eg.Model, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared / "fixtures" / "vision" / "images" / "rgba.png"
    with model.session(context=100) as session:
        session.feed_tokens([2, 30, 31])
        session.logits()

        def refused(call: Callable[[], None], code: str) -> None:
            with pytest.raises(EdgeGemmaError) as caught:
                call()
            assert caught.value.code == code and session.tokens == [2, 30, 31]

        refused(lambda: session.feed_image("none.png"), "file")
        refused(lambda: session.feed_image(b"no picture"), "format")
        refused(lambda: session.feed_image(path, 100), "argument")
        refused(lambda: session.feed_image(path), "context")
        refused(lambda: session.feed_video("none.mp4"), "file")
        refused(lambda: session.feed_video([(0, path), (1, path)]), "context")
        refused(lambda: session.feed_video([(0, path), (1, b"x")]), "format")
        session.cancel()
        refused(lambda: session.feed_image(path, 70), "cancelled")
        session.feed_image(path, 70)
        assert len(session.tokens) == 3 + 2 + 64
        monkeypatch.setattr(eg.Model, "has_vision", False)
        with pytest.raises(EdgeGemmaError, match="image encoder") as caught:
            session.feed_image(path, 70)
        assert caught.value.code == "unsupported"


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_a_closed_model_leaves_the_cache(model: eg.Model, shared: Path) -> None:
    pixels = load_image(shared / "fixtures" / "vision" / "images" / "rgba.png")
    other = eg.Model.load(model.path, threads=1)
    with other.session() as session:
        feed_pixels(session, pixels, 70)
    assert shared_cache.size > 0
    other.close()
    del other, session
    gc.collect()
    assert shared_cache.size == 0
