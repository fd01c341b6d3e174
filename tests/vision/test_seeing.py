"""Pictures through the engine's encoder into sessions and chats: what is fed, what failures leave, and cancelling."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.cache import shared_cache
from edge_gemma.vision.feeding import feed_pixels
from edge_gemma.vision.images import load_image
from support.paths import DATA

PICTURES = DATA / "pictures"
MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "vision-e2b.gguf"


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(MODEL, mmproj=MMPROJ, threads=2) as opened:
        yield opened


def test_a_chat_writes_the_same_tokens(model: eg.Model) -> None:
    """The template's place of a picture, and `feed_image`, are the same thing."""
    path = PICTURES / "rgba.png"
    with model.chat(max_tokens=1, context=400) as chat, model.session(context=400) as session:
        list(chat.send("What?", images=path, image_tokens=70))
        session.feed_text("<bos><|turn>user\n", special=True)
        session.feed_image(path, 70)
        session.feed_text("What?<turn|>\n<|turn>model\n", special=True)
        ends = len(session.tokens)
        assert chat.session.tokens[:ends] == session.tokens
        assert chat.session.tokens[ends] == session.logits().argmax() or len(chat.session.tokens) == ends + 1


def test_different_pictures_and_no_markers(model: eg.Model) -> None:
    images = PICTURES
    logits = []
    for name in ("rgba.png", "small.png"):
        with model.session(context=200) as session:
            session.feed_tokens([2])
            session.feed_image(images / name, "low", markers=False)
            assert set(session.tokens[1:]) == {-1}
            logits.append(session.logits())
    assert np.abs(logits[0] - logits[1]).max() > 0.1


def test_failures_add_nothing(model: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PICTURES / "rgba.png"
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


def test_cancelling_ends_the_encoder(model: eg.Model) -> None:
    """Within a layer, from another thread; the next call works."""
    path = PICTURES / "small.png"
    begun, asked = threading.Event(), threading.Event()
    with model.chat(context=1200, max_tokens=1, sampling=eg.Sampling(temperature=0)) as chat:
        reports: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            reports.append((done, total))
            begun.set()
            asked.wait(30)

        def stop() -> None:
            begun.wait(30)
            chat.cancel()
            asked.set()

        thread = threading.Thread(target=stop)
        thread.start()
        done = list(chat.send("?", images=path, image_tokens=1120, progress=progress))[-1]
        thread.join()
        assert done.stop == "cancelled" and -1 not in chat.session.tokens
        assert len(reports) == 1 and reports[0][0] < reports[0][1]
        assert shared_cache.size == 0
        assert list(chat.send())[-1].stop == "length" and chat.session.tokens.count(-1) == 1107
        session = model.session(context=1200)
        session.cancel()
        with pytest.raises(eg.Cancelled):
            session.feed_image(path, 280)
        session.feed_image(path, 280)
        assert session.position == 2 + model.image_tokens(47, 31)


def test_a_closed_model_leaves_the_cache(model: eg.Model) -> None:
    pixels = load_image(PICTURES / "rgba.png")
    other = eg.Model.load(model.path, mmproj=model.mmproj, threads=1)
    with other.session() as session:
        feed_pixels(session, pixels, 70)
    assert shared_cache.size > 0
    other.close()
    del other, session
    gc.collect()
    assert shared_cache.size == 0


@pytest.mark.parametrize("budget", [70, 140, 280])
def test_the_cache_changes_no_token(model: eg.Model, budget: int) -> None:
    """The rows of the cache are those of the encoder, however the picture was given."""
    path = PICTURES / "rotated.jpg"
    direct = model.encode_image(path, budget)
    logits = []
    for image in (path, path.read_bytes(), load_image(path)):
        with model.session(context=400) as session:
            session.feed_tokens([2])
            session.feed_image(image, budget)
            logits.append(session.logits())
    with model.session(context=400) as session:
        session.feed_tokens([2, *markers(model)[0]])
        session.feed_embeddings(direct, picture=True)
        session.feed_tokens(markers(model)[1])
        logits.append(session.logits())
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
    assert shared_cache.size == direct.nbytes


def markers(model: eg.Model) -> list[list[int]]:
    return [model.tokenizer.encode(text, special=True) for text in ("<|image>", "<image|>")]


def test_threads_encode_a_picture_once(model: eg.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    original = eg.Model.encode_image

    def counted(self: eg.Model, *args: Any, **options: Any) -> Any:
        calls.append(args)
        return original(self, *args, **options)

    monkeypatch.setattr(eg.Model, "encode_image", counted)
    found: list[np.ndarray] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        with model.session(context=400) as session:
            session.feed_tokens([2])
            session.feed_image(PICTURES / "rgba.png", 280)
            found.append(session.logits())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(found) == 4 and all(np.array_equal(found[0], other) for other in found)


def test_the_command(run_cli: Any, tmp_path: Path) -> None:
    """The whole way, from the files to JSON lines, in a process of its own."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((PICTURES / "rgba.png").read_bytes()[:2000])
    files = [PICTURES / "rgba.png", damaged, PICTURES / "rotated.jpg"]
    options = ["--model", str(MODEL), "--mmproj", str(MMPROJ), "--image-tokens", "70", "-n", "4", "--json"]
    done = run_cli("describe", *map(str, files), *options)
    assert done.returncode == 1 and "damaged.png" in done.stderr and "2 of 3 files described" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["width"], row["height"], row["tokens"]["image"]) for row in rows] == [(160, 150, 64), (80, 120, 60)]
    done = run_cli("run", "--image", str(files[0]), "--raw", "x", *options[:4])
    assert done.returncode == 2
    done = run_cli(
        "run", "--image", str(files[0]), "What?", *options[:4], "-n", "4", "--detail", "low", "--temperature", "0"
    )
    assert done.returncode == 0, done.stderr
    deaf = run_cli("describe", str(files[0]), "--model", str(MODEL))
    assert deaf.returncode == 1 and "without image encoder" in deaf.stderr
