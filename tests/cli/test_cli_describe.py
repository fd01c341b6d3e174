"""`edge-gemma describe`, and --image and --video of `run` and `chat`, with a model whose answers are written down."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import edge_gemma.cli.chat
import edge_gemma.cli.describe
import edge_gemma.cli.pictures
import edge_gemma.cli.run
from edge_gemma.cli import main
from edge_gemma.vision.cache import shared_cache
from support.scripted import ScriptedModel
from support.videos import make_video

BOXES = '```json\n[{"box_2d": [100, 200, 500, 400], "label": "cat"}]\n```'


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    shared_cache.clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three pictures, one of them damaged, and other things."""
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, name in enumerate(("b.png", "a.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 100, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(pictures / name)
    (pictures / "c.png").write_bytes((pictures / "b.png").read_bytes()[:900])
    (pictures / "notes.txt").write_text("Notes.\n")
    (pictures / ".hidden.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command with a model that gives these answers, and returns status, output and messages."""

    def run(*argv: str, answers: Any = "A cat.", stdin: bytes = b"", **senses: bool) -> tuple[int, str, str]:
        run.model = ScriptedModel(answers, **senses)  # type: ignore[attr-defined]
        for verb in (edge_gemma.cli.describe, edge_gemma.cli.run, edge_gemma.cli.chat):
            monkeypatch.setattr(verb, "open_model", lambda args, notice=True: run.model)  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([*argv])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def model_of(cli: Any) -> ScriptedModel:
    model: ScriptedModel = cli.model
    return model


# ---- describe --------------------------------------------------------------------------------------------------------


def test_a_picture(folder: Path, cli: Any) -> None:
    assert cli("describe", "pictures/b.png") == (0, "A cat.\n", "")
    assert "Describe this picture." in model_of(cli).sessions[0].text
    request = model_of(cli).requests[0]
    assert request.sampling.temperature == 0 and request.max_tokens == 512
    status, _, err = cli("describe", "pictures/b.png", "-q", "What is it?", "--detail", "low", "-v")
    assert status == 0 and "What is it?" in model_of(cli).sessions[0].text
    assert model_of(cli).encoded[0][1] == 70 and "b.png: 100 x 50 pixels, 55 tokens; turn" in err


def test_json_tells_sizes_and_tokens(folder: Path, cli: Any) -> None:
    status, out, _ = cli("describe", "pictures/b.png", "--json", "--image-tokens", "140", "--question", "What?")
    found = json.loads(out)
    assert status == 0 and found["file"] == "pictures/b.png" and found["kind"] == "image"
    assert (found["width"], found["height"], found["question"], found["text"]) == (100, 50, "What?", "A cat.")
    assert found["tokens"]["image"] == model_of(cli).image_tokens(100, 50, 140) and found["tokens"]["answer"] == 7
    assert found["stop"] == "turn" and "boxes" not in found
    assert 0 <= found["timings"]["first_token_s"] <= found["timings"]["total_s"]


def test_a_folder_and_errors_for_each_file(folder: Path, cli: Any) -> None:
    """In the order of their names; what fails is told, and the others go on."""
    status, out, err = cli("describe", "pictures", answers=["First.", "Second."])
    assert status == 1
    assert out == "==> pictures/a.jpg <==\nFirst.\n==> pictures/b.png <==\nSecond.\n"
    assert "pictures/c.png" in err and "damaged or cut short" in err and "2 of 3 files described, 1 failed" in err
    status, out, _ = cli("describe", "pictures/a.jpg", "pictures/b.png", "--json")
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["pictures/a.jpg", "pictures/b.png"]
    (folder / "empty").mkdir()
    status, out, err = cli("describe", "empty", "pictures/a.jpg")
    assert status == 1 and out == "A cat.\n" and "empty has no pictures" in err


def test_each_answer_is_by_itself(folder: Path, cli: Any) -> None:
    cli("describe", "pictures/a.jpg", "pictures/b.png")
    texts = [request.tokens.count(-1) for request in model_of(cli).requests]
    assert texts == [model_of(cli).image_tokens(100, 50)] * 2
    cli("describe", "pictures/b.png", "pictures/b.png")
    assert len(model_of(cli).encoded) == 1


def test_standard_input(folder: Path, cli: Any) -> None:
    data = (folder / "pictures" / "b.png").read_bytes()
    assert cli("describe", "-", stdin=data)[:2] == (0, "A cat.\n")
    status, _, err = cli("describe", "-", stdin=b"no picture")
    assert (status == 1 and "standard input" in err) or "stdin" in err


def test_locating(folder: Path, cli: Any) -> None:
    status, out, err = cli("describe", "pictures/b.png", "--locate", "cat", answers=BOXES)
    assert (status, out, err) == (0, "cat\t20\t5\t40\t25\n", "")
    assert "Find every cat in this picture." in model_of(cli).sessions[0].text
    status, out, err = cli("describe", "pictures/b.png", "--locate", "dog", answers="[]")
    assert (status, out) == (0, "") and "no dog was found in pictures/b.png" in err
    status, out, _ = cli("describe", "pictures/b.png", "--locate", "cat", "--locate", "dog", "--json", answers=BOXES)
    assert json.loads(out)["boxes"] == [{"label": "cat", "left": 20, "top": 5, "right": 40, "bottom": 25}]
    assert "every cat and every dog" in model_of(cli).sessions[0].text


def test_pictures_with_boxes(folder: Path, cli: Any) -> None:
    assert cli("describe", "pictures/b.png", "--locate", "cat", "-o", "found.png", answers=BOXES)[0] == 0
    drawn = np.array(PIL.Image.open("found.png"))
    assert drawn.shape == (50, 100, 3) and (drawn != np.array(PIL.Image.open("pictures/b.png"))).any()
    status, _, err = cli("describe", "pictures/b.png", "--locate", "cat", "-o", "found.png", answers=BOXES)
    assert status == 2 and "--force" in err
    assert cli("describe", "pictures/b.png", "--locate", "cat", "-o", "found.png", "-f", answers=BOXES)[0] == 0
    status, _, err = cli("describe", "pictures/b.png", "--locate", "cat", "-o", "pictures/b.png", "-f", answers=BOXES)
    assert status == 2 and "both input and output" in err
    status, _, _ = cli("describe", "pictures/a.jpg", "pictures/b.png", "--locate", "cat", "-o", "out", answers=BOXES)
    assert status == 0 and sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "b.png"]
    assert not list(folder.glob("*.new"))


def test_videos(folder: Path, cli: Any) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    (folder / "walk.mp4").write_bytes(make_video(40, 10, sound=1))
    status, out, _ = cli("describe", "walk.mp4", "--json", "--frames", "3")
    found = json.loads(out)
    assert (
        status == 0
        and (found["kind"], found["frames"], found["width"], found["height"]) == ("video", 3, 64, 48)
        and len(model_of(cli).heard) == 1
    )
    assert "Describe what happens in this video." in model_of(cli).sessions[0].text
    status, _, err = cli("describe", "walk.mp4", "--fps", "1", "--no-sound", "-v")
    assert status == 0 and len(model_of(cli).encoded) == 4 and not model_of(cli).heard and "4 frames, 252 tokens" in err
    status, _, err = cli("describe", "walk.mp4", "--locate", "cat")
    assert status == 1 and "located in pictures only" in err
    (folder / "walk.mp4").write_bytes(make_video(330, 10, sound=33))
    assert "the first 30 of 33 seconds are heard" in cli("describe", "walk.mp4", "--frames", "1")[2]


def test_the_camera(folder: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    import edge_gemma.vision.camera as camera

    taken: list[Any] = []

    def take_picture(device: Any = None) -> np.ndarray:
        taken.append(device)
        return np.zeros((30, 40, 3), np.uint8)

    monkeypatch.setattr(camera, "take_picture", take_picture)
    assert cli("describe", "--camera")[:2] == (0, "A cat.\n")
    assert json.loads(cli("describe", "--camera", "2", "--json")[1])["file"] == "camera"
    assert taken == [None, "2"]
    monkeypatch.undo()


def test_a_camera_that_is_not_there(folder: Path, cli: Any) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    status, _, err = cli("describe", "--camera", "97")
    assert status == 1 and "the camera" in err and "cannot be opened" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "FILE is missing"),
        (["-", "-"], "only once"),
        (["x.png", "--detail", "low", "--image-tokens", "70"], "cannot be given both"),
        (["x.png", "--frames", "2", "--fps", "1"], "cannot be given both"),
        (["x.png", "--image-tokens", "100"], "not one of 70, 140"),
        (["x.png", "--fps", "0"], "not above 0"),
        (["x.png", "--output", "y.png"], "--locate"),
        (["x.png", "--locate", "cat", "--output", "y.jpg"], "ends with .png"),
        (["x.png", "--locate", "cat", "--question", "What?"], "cannot be used with --question"),
        (["a/x.png", "b/x.png", "--locate", "cat", "--output", "out/"], "two pictures would be written"),
    ],
)
def test_wrong_usage(argv: list[str], words: str, folder: Path, cli: Any) -> None:
    status, out, err = cli("describe", *argv)
    assert (status, out) == (2, "") and words in err and len(err.splitlines()) == 1


def test_a_model_that_does_not_see(folder: Path, cli: Any) -> None:
    status, out, err = cli("describe", "pictures/b.png", has_vision=False)
    assert (status, out) == (1, "") and "without image encoder" in err and "--mmproj" in err
    status, _, err = cli("run", "--image", "pictures/b.png", "What?", has_vision=False)
    assert status == 1 and "without image encoder" in err


def test_an_answer_that_is_cut_off_is_told(folder: Path, cli: Any) -> None:
    status, out, err = cli("describe", "pictures/b.png", "-n", "3")
    assert (status, out) == (0, "A c\n") and "is cut off" in err


# ---- run and chat ------------------------------------------------------------------------------------------------------


def test_run_with_pictures(folder: Path, cli: Any) -> None:
    status, out, _ = cli(
        "run", "--image", "pictures/a.jpg", "-i", "pictures/b.png", "What is it?", "--image-tokens", "70"
    )
    assert (status, out) == (0, "A cat.\n")
    text = model_of(cli).sessions[0].text
    assert "<|turn>user\n<|image><image|><|image><image|>What is it?<turn|>" in text
    assert [budget for _, budget in model_of(cli).encoded] == [70, 70]
    assert cli("run", "--image", "pictures/a.jpg")[:2] == (0, "A cat.\n")
    assert "Describe this picture." in model_of(cli).sessions[0].text
    status, out, err = cli("run", "--image", "pictures/c.png", "What?")
    assert (status, out) == (1, "") and "pictures/c.png" in err and not model_of(cli).requests
    status, _, err = cli("run", "--raw", "--image", "pictures/a.jpg", "x")
    assert status == 2 and "--raw" in err


def test_run_with_a_video(folder: Path, cli: Any) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    (folder / "walk.mp4").write_bytes(make_video(20, 10))
    assert cli("run", "--video", "walk.mp4", "--frames", "2")[:2] == (0, "A cat.\n")
    text = model_of(cli).sessions[0].text
    assert "00:00 <|image><image|> 00:01 <|image><image|>Describe what happens in this video." in text


def test_pictures_in_a_chat(folder: Path, cli: Any) -> None:
    lines = [
        "And this?",
        "/image pictures/a.jpg",
        "What is it?",
        "/image pictures/b.png What is this?",
        "/image pictures/c.png Well?",
        "/image",
        "/quit",
    ]
    status, out, err = cli("chat", "--image", "pictures/b.png", "--detail", "low", stdin="\n".join(lines).encode())
    assert status == 1, "two commands have failed"
    session = model_of(cli).sessions[0]
    turns = [part.partition("<turn|>")[0] for part in session.text.split("<|turn>user\n")[1:]]
    picture = "<|image><image|>"
    assert turns == [f"{picture}And this?", f"{picture}What is it?", f"{picture}What is this?"]
    assert out.count("A cat.") == 3 and "(a.jpg: 100 x 50, 55 tokens)" in out
    assert "c.png" in err and "the file is missing: /image FILE [TEXT]" in err
    assert len(model_of(cli).encoded) == 2, "b.png is known"


def test_a_picture_that_waits_is_kept_after_an_error(folder: Path, cli: Any) -> None:
    lines = ["/image pictures/a.jpg", "/audio none.wav Hear?", "What is it?"]
    status, _, _ = cli("chat", stdin="\n".join(lines).encode())
    assert status == 1
    assert "<|turn>user\n<|image><image|>What is it?<turn|>" in model_of(cli).sessions[0].text
    cli("chat", stdin=b"/image pictures/a.jpg\n/reset\nWhat?\n")
    assert not model_of(cli).encoded


def test_the_bar_is_there_while_pictures_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens with the first report, and is taken away when all is done, or when the block ends."""
    shown: list[Any] = []

    class FakeBar:
        def __init__(self, name: str, start: float, total: float, label: Callable[[float], str]) -> None:
            shown.append((name, start, total, label(70)))

        def __enter__(self) -> FakeBar:
            return self

        def __exit__(self, *_: object) -> None:
            shown.append("closed")

        def update(self, done: float, total: float) -> None:
            shown.append(done)

    monkeypatch.setattr(edge_gemma.cli.pictures, "Bar", FakeBar)
    with edge_gemma.cli.pictures.EncodingBar("a.png") as bar:
        bar(100, 266)
        bar(200, 266)
        bar(266, 266)
        assert shown == [("a.png", 0, 266, "70 tokens"), 100, 200, "closed"]
        bar(10, 70)
    assert shown[4:] == [("a.png", 0, 70, "70 tokens"), 10, "closed"]
    with edge_gemma.cli.pictures.EncodingBar("b.png") as bar:
        bar(70, 70)
    assert len(shown) == 7
