"""What the embedded model sees in drawn pictures that its training did not contain, through the package's own calls."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.demo.pictures import BUDGET, bundled_pictures, look, overlap
from edge_gemma.hub import resolve
from edge_gemma.vision.describe import Describer
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools" / "demo"))
import scenes


def _has_eyes() -> bool:
    try:
        with eg.Model.load("toy") as model:
            return bool(model.has_vision)
    except (ValueError, OSError):
        return False


pytestmark = pytest.mark.skipif(not _has_eyes(), reason="the checkout is without an embedded model with eyes")
COUNT = 60


@pytest.fixture(scope="module")
def describer() -> Iterator[Describer]:
    with eg.Model.load("toy") as model, Describer(model) as opened:
        yield opened


def pictures(
    seed: str,
    count: int,
    shapes: tuple[str, ...] = tuple(scenes.SHAPES),
    sides: tuple[tuple[int, int], ...] = ((200, 640), (200, 640)),
) -> list[scenes.Scene]:
    """Pictures with Pillow's own font. Every second one is of a kind that is held out; of the others the picture is new."""
    fonts, scenes.FONTS = scenes.FONTS, ()
    try:
        rng = random.Random(seed)
        found: list[scenes.Scene] = []
        while len(found) < count:
            held_out = bool(len(found) % 2) or None
            scene = scenes.draw(rng, *(rng.randint(*side) for side in sides), held_out)
            if all(thing.text or thing.kind in shapes for thing in scene.things):
                found.append(scene)
        return found
    finally:
        scenes.FONTS = fonts


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return pictures("test", COUNT)


@pytest.fixture(scope="module")
def symmetric() -> list[scenes.Scene]:
    """Pictures of shapes that stay what they are when axes are mirrored or exchanged."""
    found = pictures("symmetric", 2 * COUNT, ("circle", "square", "cross"))
    return [scene for scene in found if not any(thing.text for thing in scene.things)]


def turned(scene: scenes.Scene, axes: str) -> scenes.Scene:
    """The picture mirrored ("x", "y") or with exchanged axes ("xy"); only its boxes follow, not its relation."""
    height, width = scene.pixels.shape[:2]

    def follow(box: tuple[float, ...]) -> Any:
        left, top, right, bottom = box
        if axes == "x":
            return width - right, top, width - left, bottom
        return (left, height - bottom, right, height - top) if axes == "y" else (top, left, bottom, right)

    pixels = {"x": scene.pixels[:, ::-1], "y": scene.pixels[::-1], "xy": scene.pixels.transpose(1, 0, 2)}[axes]
    things = tuple(dataclasses.replace(thing, box=follow(thing.box)) for thing in scene.things)
    return scenes.Scene(np.ascontiguousarray(pixels), things, scene.relation)


def test_shapes_colors_and_numbers(describer: Describer, drawn: list[scenes.Scene]) -> None:
    right: dict[str, list[bool]] = {}
    rng = random.Random(1)
    for scene in drawn:
        asked = scenes.questions(scene)
        for kind in ("shape", "color", "number"):
            if found := [question for question in asked if question.about == kind]:
                question = rng.choice(found)
                said = describer.describe(scene.pixels, question.text, BUDGET).text
                right.setdefault(kind, []).append(said == question.answer)
    assert right.keys() == {"shape", "color", "number"}
    for kind, values in right.items():
        assert sum(values) >= 0.95 * len(values) - 1, (kind, sum(values), len(values))


def located(describer: Describer, shown: list[scenes.Scene], budget: int, least: float) -> list[bool]:
    """Of the last label of each picture: whether each of its things has a box with this intersection over union."""
    found = []
    for scene in shown:
        label, things = list(scenes.labels(scene).items())[-1]
        boxes = [(box.left, box.top, box.right, box.bottom) for box in describer.locate(scene.pixels, label, budget)]
        found += [max((overlap(thing.box, box) for box in boxes), default=0.0) >= least for thing in things]
    return found


@pytest.mark.parametrize("axes", ["", "x", "xy"])
@pytest.mark.parametrize(("least", "share"), [(0.5, 0.7), (0.7, 0.85)])
def test_boxes(describer: Describer, symmetric: list[scenes.Scene], axes: str, least: float, share: float) -> None:
    """Of pictures, mirrored pictures and pictures with exchanged axes: whatever turns boxes fails in one of them."""
    found = located(describer, [turned(scene, axes) if axes else scene for scene in symmetric[:30]], BUDGET, least)
    assert len(found) > 20 and sum(found) >= share * len(found), (sum(found), len(found))


@pytest.mark.parametrize(
    ("sides", "share"), [(((500, 600), (200, 260)), 0.65), (((200, 260), (500, 600)), 0.5)], ids=["wide", "tall"]
)
def test_boxes_where_one_side_is_two_or_three_times_the_other(describer: Describer, sides: Any, share: float) -> None:
    """With the most tokens that training had, so that the places of most columns or rows are needed."""
    found = located(describer, pictures("long", 30, sides=sides), 280, 0.7)
    assert len(found) > 20 and sum(found) >= share * len(found), (sum(found), len(found))


def test_left_is_not_right_and_above_is_not_below(describer: Describer, symmetric: list[scenes.Scene]) -> None:
    right = []
    for scene in symmetric:
        if not scene.relation:
            continue
        first, second = (thing.phrase for thing in scene.things)
        for shown, (one, other) in (
            (scene, (first, second)),
            (turned(scene, "x" if scene.relation == "left of" else "y"), (second, first)),
        ):
            wanted = f"{one} {scene.relation} {other}."
            right.append(describer.describe(shown.pixels, None, BUDGET).text == wanted[0].upper() + wanted[1:])
    assert len(right) >= 20 and sum(right) >= 0.85 * len(right), (sum(right), len(right))


def test_the_default_budget_works_too(describer: Describer, drawn: list[scenes.Scene]) -> None:
    right = [describer.describe(scene.pixels).text == scenes.description(scene) for scene in drawn[:20]]
    assert sum(right) >= 14, sum(right)


def test_every_picture_of_the_demonstration(describer: Describer) -> None:
    for picture in bundled_pictures():
        found = look(describer, picture)
        assert all(found.verdict().values()), found


def test_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_GEMMA_MODEL", raising=False)
    picture = bundled_pictures()[0]
    assert eg.describe(picture.path, resolve.EMBEDDED, mmproj=resolve.EMBEDDED_MMPROJ) == picture.description
