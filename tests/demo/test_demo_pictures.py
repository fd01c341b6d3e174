"""The pictures of the demonstration: the list, the verdict on what is said about them, and how it is shown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.demo.home import Home
from edge_gemma.demo.pictures import BUDGET, FOLDER, Look, Picture, blocks, bundled_pictures, look
from edge_gemma.demo.screen import JSONLines, Lines
from edge_gemma.vision.boxes import Box
from edge_gemma.vision.describe import Describer
from edge_gemma.vision.images import load_image
from support.paths import DATA


@pytest.fixture
def picture() -> Picture:
    return bundled_pictures()[0]


def seen(picture: Picture, *boxes: tuple[float, ...], description: str | None = None) -> Look:
    found = tuple(Box(picture.label, *box) for box in boxes or picture.boxes)
    return Look(picture, description or picture.description, picture.answer, found, 0.5)


def test_the_pictures_are_in_the_package_and_show_what_the_list_says() -> None:
    found = bundled_pictures()
    assert len(found) == 3 and len({len(picture.boxes) for picture in found}) > 1
    for picture in found:
        height, width = load_image(picture.path).shape[:2]
        assert width > height  # exchanged axes must be seen
        for left, top, right, bottom in picture.boxes:
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert picture.path.stat().st_size < 20_000
    left, right = re.findall(r"\w+ (?:circle|star)", found[0].description)
    assert found[0].label == right and found[0].boxes[0][0] > load_image(found[0].path).shape[1] / 2, left


def test_a_list_that_cannot_be_used(tmp_path: Path) -> None:
    assert bundled_pictures(tmp_path) == []
    shutil.copy(FOLDER / "pictures.json", tmp_path)
    with pytest.raises(OSError, match=r"1\.png: missing, although pictures\.json"):
        bundled_pictures(tmp_path)
    for text in ("{", "[1]", '[{"file": "x"}]'):
        (tmp_path / "pictures.json").write_text(text)
        with pytest.raises(ValueError, match="not a list of pictures"):
            bundled_pictures(tmp_path)


def test_the_verdict(picture: Picture) -> None:
    (box,) = picture.boxes
    left, top, right, bottom = box
    height, width = load_image(picture.path).shape[:2]
    assert seen(picture).verdict() == {"description": True, "answer": True, "boxes": True}
    assert seen(picture, description=picture.description.upper().strip(".")).verdict()["description"]
    assert not seen(picture, description="A red star left of an orange circle.").verdict()["description"]
    mirrored = (width - right, top, width - left, bottom)
    exchanged = (top * width / height, left * height / width, bottom * width / height, right * height / width)
    for wrong in (mirrored, exchanged, (left / 2, top / 2, right / 2, bottom / 2)):
        assert not seen(picture, wrong).verdict()["boxes"]
    assert not seen(picture, box, mirrored).verdict()["boxes"]
    near = (left + 0.1 * (right - left), top, right, bottom)
    assert seen(picture, near).verdict()["boxes"]


def test_lines_and_json(picture: Picture, capsys: Any) -> None:
    Lines(1).look(seen(picture))
    shown = capsys.readouterr().out
    assert picture.description in shown and picture.question in shown and "wrong" not in shown
    numbers = [int(text) for text in re.search(r"at ([\d, to]+)", shown)[1].replace("to", ",").split(",")]
    assert numbers == [round(value) for value in picture.boxes[0]]
    Lines(1).look(Look(picture, "A red\ncircle.", "", (), 1.0))
    shown = capsys.readouterr().out
    assert "A red circle." in shown and f"no {picture.label}" in shown and "wrong: description, answer, boxes" in shown
    JSONLines(Home()).look(seen(picture))
    values = json.loads(capsys.readouterr().out)
    assert values["event"] == "picture" and values["file"] == "1.png" and all(values["right"].values())
    assert values["boxes"][0]["left"] == picture.boxes[0][0]


def test_blocks_show_the_picture_and_its_boxes() -> None:
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, :50] = (200, 0, 0)
    lines = blocks(pixels, [Box("x", 60, 0, 90, 59)], 10)
    assert len(lines) == 3 and all(line.count("▀") == 10 and line.endswith("\x1b[0m") for line in lines)
    cells = lines[1].split("▀")
    assert "38;2;200;0;0" in cells[0] and "38;2;0;0;0" in cells[5] and "38;2;255;255;255" in cells[6]


def test_a_model_looks_at_a_picture(picture: Picture) -> None:
    """With the answers of an untrained model."""
    files = DATA / "e2b-Q4_0.gguf", DATA / "vision-e2b.gguf"
    with eg.Model.load(files[0], mmproj=files[1]) as model, Describer(model, max_tokens=8) as describer:
        found = look(describer, picture)
        assert found.seconds > 0 and found.description == describer.describe(picture.path, None, BUDGET).text
        assert found.answer == describer.describe(picture.path, picture.question, BUDGET).text
        assert not all(found.verdict().values())
