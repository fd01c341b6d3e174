"""The drawn pictures of the embedded model's training: pixels, boxes, descriptions, questions and lists belong together."""

from __future__ import annotations

import random
import re
import sys
from typing import Any

import numpy as np
import pytest

from edge_gemma.vision.boxes import parse_boxes
from edge_gemma.vision.budgets import BUDGETS, target_size
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools" / "demo"))
import scenes
import tasks


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    """Pictures with Pillow's own font: the others may not be installed."""
    fonts, scenes.FONTS = scenes.FONTS, ()
    try:
        rng = random.Random(4)
        return [scenes.draw(rng, rng.randint(120, 400), rng.randint(120, 400)) for _ in range(300)]
    finally:
        scenes.FONTS = fonts


def colored(scene: scenes.Scene, color: str) -> Any:
    """Rows and columns of the pixels of a color."""
    return np.nonzero((np.abs(scene.pixels.astype(int) - scenes.COLORS[color]) <= 16).all(-1))


def test_the_color_is_in_the_box_and_nowhere_else(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        if len(scene.things) > 1:
            continue
        (thing,) = scene.things
        y, x = colored(scene, thing.color)
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert np.abs(found - thing.box).max() <= 3, (thing, found)
        # The convention: top, left, bottom, right.
        height, width = scene.pixels.shape[:2]
        top, left, bottom, right = scene.box(thing)
        slack = 3 + max(width, height) / 200  # boxes are in hundredths
        assert abs(top * height / 1000 - found[1]) < slack and abs(bottom * height / 1000 - found[3]) < slack
        assert abs(left * width / 1000 - found[0]) < slack and abs(right * width / 1000 - found[2]) < slack


def test_the_package_reads_the_lists_as_they_are_meant(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        height, width = scene.pixels.shape[:2]
        for label, things in scenes.labels(scene).items():
            parts = tasks.located(scene, [(label, thing) for thing in things])
            boxes = parse_boxes("".join(text for text, _ in parts), width, height)
            assert len(boxes) == len(things) and {box.label for box in boxes} == {label}
            for box, thing in zip(boxes, things, strict=True):
                found = (box.left, box.top, box.right, box.bottom)
                assert np.abs(np.subtract(found, thing.box)).max() <= max(width, height) / 190


def test_words_say_where_things_are(drawn: list[scenes.Scene]) -> None:
    seen = set()
    for scene in drawn:
        if not scene.relation:
            continue
        first, second = scene.things
        axis = 0 if scene.relation == "left of" else 1
        assert first.box[axis + 2] < second.box[axis]
        assert f"{first.noun} {scene.relation} " in scenes.description(scene)
        places = {asked.text: asked.answer for asked in scenes.questions(scene) if asked.about == "place"}
        opposite = {"left of": "right of", "above": "below"}[scene.relation]
        wanted = f"{opposite} the {first.noun}."
        assert places[f"Where is the {second.noun}?"] == wanted[0].upper() + wanted[1:]
        seen.add(scene.relation)
    assert seen == {"left of", "above"}


def test_words_count(drawn: list[scenes.Scene]) -> None:
    counts = set()
    for scene in drawn:
        for asked in scenes.questions(scene):
            if asked.about == "number" and "shapes" not in asked.text:
                shape = re.fullmatch(r"How many (\w+?)(?:e?s) are there\?", asked.text)
                assert shape
                names = [thing.kind for thing in scene.things]
                count = sum(name.rstrip("e") == shape[1].rstrip("e") for name in names)
                assert scenes.NUMBERS[count].title() + "." == asked.answer
                counts.add(count)
        if len(scene.things) > 1 and scene.alike:
            assert scenes.description(scene).lower().startswith(scenes.NUMBERS[len(scene.things)])
    assert counts >= {1, 2, 3, 4, 5}


def test_an_answer_is_the_only_one(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        answers: dict[str, str] = {}
        for asked in scenes.questions(scene):
            assert answers.setdefault(asked.text, asked.answer) == asked.answer


def test_the_parts_of_an_answer_name_their_things(drawn: list[scenes.Scene]) -> None:
    """The decoder learns from them where to look."""
    for scene in drawn:
        parts = tasks.described(scene)
        assert "".join(text for text, _ in parts) == scenes.description(scene)
        for text, thing in parts[:-1]:
            assert thing and text.lower().endswith(thing.noun.lower())
        found = [("x", thing) for thing in scene.things]
        parts = [(text, thing) for text, thing in tasks.located(scene, found) if thing]
        assert [thing for _, thing in parts] == list(scene.things)
        for text, thing in parts:  # up to the first side, where the right thing must have been found
            assert thing and text.endswith(f'{{"box_2d": [{scene.box(thing)[0]}')
        for asked in scenes.questions(scene):
            if asked.thing and asked.about == "text":
                assert asked.answer == asked.thing.text + "."
            elif asked.thing and asked.about == "color":
                assert asked.thing.color in asked.answer.lower() and asked.thing.kind in asked.text


def test_one_in_twenty_pairs_is_held_out(drawn: list[scenes.Scene]) -> None:
    pairs = {scenes.description(scene): scene.held_out for scene in drawn if scene.relation}
    assert 0 < sum(pairs.values()) < len(pairs) / 5
    assert not any(scene.held_out for scene in drawn if len(scene.things) == 1 and not scene.things[0].text)
    rng = random.Random(1)
    assert scenes.draw(rng, 90, 80, held_out=True).held_out and not scenes.draw(rng, 90, 80, held_out=False).held_out


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (100, 100), (640, 199)])
def test_sizes_and_patches_are_the_models(size: tuple[int, int]) -> None:
    height, width = size
    for budget in BUDGETS:
        columns, rows = scenes.target_size(width, height, budget)
        assert (rows * scenes.CELL, columns * scenes.CELL) == target_size(height, width, budget)
    y, x = np.mgrid[:96, :144]
    picture = np.stack([y, x, y * 0], -1).astype(np.uint8)
    patches = scenes.patches(picture, 3, 2)
    assert patches.shape == (54, 768)
    patch = patches[10].reshape(16, 16, 3)  # the second patch of the second row
    assert (patch[:, :, 0] == np.arange(16, 32)[:, None]).all() and (patch[:, :, 1] == np.arange(16, 32)).all()
