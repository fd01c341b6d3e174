"""Pictures and videos in a session: the logits of Hugging Face's prompts, and what is left after failures.

Most tests run twice: with the engine's encoder, and with the oracle's own soft tokens in its place. The second kind is exact
about everything but the encoder: markers, their order, the times of frames, the masks, and sound behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.budgets import target_size
from edge_gemma.vision.cache import picture_key, shared_cache
from edge_gemma.vision.images import load_image
from support.videos import make_video, picture

BEGIN, END, SOFT, VIDEO_SOFT = 17, 18, 19, 23  # of the tiny vocabulary
AUDIO_BEGIN, AUDIO_END, AUDIO_SOFT = 20, 21, 22


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


@pytest.fixture(params=["e2b", "moe", "dense"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["the engine's encoder", "the oracle's soft tokens"])
def encoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tolerance(encoder: str) -> float:
    """Of logits between -7 and 7."""
    return 2e-3 if encoder == "the engine's encoder" else 1e-4


@pytest.fixture
def oracle(shared: Path, variant: str) -> Any:
    return np.load(shared / "fixtures" / "vision" / f"{variant}.npz")


@pytest.fixture
def model(shared: Path, variant: str, monkeypatch: pytest.MonkeyPatch, oracle: Any, encoder: str) -> Iterator[eg.Model]:
    """A model. The oracle knows the pictures of the fixtures at 70 tokens."""
    images = shared / "fixtures" / "vision" / "images"
    known = {name.removesuffix("_70_soft"): oracle[name] for name in oracle if name.endswith("_70_soft")}
    table = {
        picture_key(load_image(next(images.glob(f"{name}.*")))): rows
        for name, rows in known.items()
        if list(images.glob(f"{name}.*"))
    }
    folder = shared / "fixtures" / variant
    if encoder == "the oracle's soft tokens":
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

    monkeypatch.setattr(eg.Model, "encode_image", encode_image)
    monkeypatch.setattr(eg.Model, "image_tokens", image_tokens)


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
def test_prompts_of_the_oracle(prompt: str, model: eg.Model, oracle: Any, shared: Path, tolerance: float) -> None:
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
    assert np.abs(found - wanted).max() < tolerance


@pytest.mark.parametrize("variant", ["e2b"], indirect=True)
def test_the_video_of_the_oracle(
    variant: str, shared: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, tolerance: float
) -> None:
    """Six frames with their times: every token but the soft ones is that of the processor."""
    video = np.load(shared / "fixtures" / "video" / f"{variant}.npz")
    frames = video["frames"]
    table = {picture_key(frame): rows for frame, rows in zip(frames, video["soft"], strict=True)}
    if encoder == "the oracle's soft tokens":
        install(monkeypatch, table)
    ids = list(video["prompt_ids"])
    first, last = ids.index(BEGIN), len(ids) - 1 - ids[::-1].index(END)
    folder = shared / "fixtures" / variant
    with (
        eg.Model.load(folder / "model-BF16.gguf", mmproj=folder / "mmproj-BF16.gguf", threads=2) as model,
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
    assert np.abs(found - wanted).max() < tolerance


@pytest.mark.parametrize(("variant", "encoder"), [("e2b", "the engine's encoder")], indirect=True)
def test_a_video_file_and_its_sound(model: eg.Model, tmp_path: Path) -> None:
    """From the file to the answer."""
    pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path / "walk.mp4"
    path.write_bytes(make_video(40, 10, sound=1.0))
    with model.session(context=900) as session:
        session.feed_text("<bos>", special=True)
        session.feed_video(path, frames=3)
        runs = "".join("_" if token < 0 else "x" for token in session.tokens)
        times = [len(model.tokenizer.encode(text)) for text in ("00:00 ", " 00:01 ", " 00:02 ")]
        frame = model.image_tokens(64, 48, 70)
        wanted = "x" + "".join("x" * (time + 1) + "_" * frame + "x" for time in times)
        heard = runs.removeprefix(wanted)
        assert heard.startswith("x_") and heard.endswith("_x") and 22 <= heard.count("_") <= 30
        assert session.generate(max_tokens=5, temperature=0).tokens
        with pytest.raises(EdgeGemmaError, match="there is room for"):
            session.feed_video(path)
    assert isinstance(eg.describe(picture(0, 2), model, "?", 70, answer_tokens=5), str)
