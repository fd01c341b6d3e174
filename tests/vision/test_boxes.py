"""Boxes: what can be understood of a model's answer, and the drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_gemma.vision.boxes import Box, draw_boxes, parse_boxes

CAT = Box("cat", 20, 5, 40, 15)  # in a picture of 100 x 50
ENTRY = '{"box_2d": [100, 200, 300, 400], "label": "cat"}'
CUT = f'[{ENTRY}, {{"box_2d": [500, 0, 1000, 1000], "label": "dog"}}, {{"box_2d": [1, 2'


@pytest.mark.parametrize(
    "answer",
    [
        f"[{ENTRY}]",
        f"```json\n[{ENTRY}]\n```",
        f"```\n{ENTRY}\n```",
        ENTRY,
        f"I see [one] cat:\n[{ENTRY}]\nIt sleeps.",
        f'{{"objects": [{ENTRY}]}}',
        f"[{ENTRY}, {ENTRY}]",
        "[[100, 200, 300, 400]]",
        "[100, 200, 300, 400]",
        '[{"box_2d": [300, 400, 100, 200], "label": " cat\\n"}]',
        '[{"box_2d": [100.0, 200, 3e2, 400]}]',
        '[{"bounding_box": [100, 200, 300, 400], "name": "cat"}]',
    ],
)
def test_answers(answer: str) -> None:
    assert parse_boxes(answer, 100, 50, "cat") == [CAT]


def test_a_list_that_is_cut_off() -> None:
    """Its whole entries count, wherever the cut is."""
    assert [box.label for box in parse_boxes(CUT, 100, 50)] == ["cat", "dog"]
    for end in range(len(CUT)):
        labels = [box.label for box in parse_boxes(CUT[:end], 100, 50)]
        assert labels == ["cat", "dog"][: len(labels)]


def test_numbers_out_of_range() -> None:
    answer = '[{"box_2d": [-20, 500, 5000, 1001], "label": "x"}]'
    assert parse_boxes(answer, 200, 100) == [Box("x", 100, 0, 200, 100)]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "There is no cat.",
        "null",
        '[{"box_2d": [1, 2, 3]}]',
        '[{"box_2d": [1, 2, 3, "4"]}]',
        '[{"box_2d": [1, 2, 3, true]}]',
        '[{"box_2d": [1, 2, NaN, 4]}]',
        '[{"box_2d": [1, 2, Infinity, 4]}]',
        '[{"box_2d": [100, 100, 100, 900]}]',
        '[{"box_2d": [1100, 0, 1200, 900]}]',
        '[{"box_2d": {"y": 1}}]',
        "[" * 100000,
        "{" * 1000,
        "[{]}" * 1000,
    ],
)
def test_answers_without_a_box(answer: str) -> None:
    assert parse_boxes(answer, 100, 50) == []


def test_points() -> None:
    (point,) = parse_boxes('[{"point": [500, 250], "label": "eye"}]', 200, 100)
    assert point == Box("eye", 50, 50, 50, 50) and point.width == point.height == 0 and point.centre == (50, 50)


def test_every_box_of_a_list_comes_back() -> None:
    """What is written in the model's own form is read again to half of its unit."""
    rng = np.random.default_rng(2)
    for width, height in ((640, 480), (3000, 17), (1, 1)):
        corners = np.sort(rng.integers(0, 1001, (20, 2, 2)), axis=1)
        corners = corners[(corners[:, 0] < corners[:, 1]).all(axis=1)]
        answer = json.dumps([{"box_2d": [*map(int, c.reshape(-1))], "label": f"n{i}"} for i, c in enumerate(corners)])
        for i, box in enumerate(parse_boxes(answer, width, height)):
            (y0, x0), (y1, x1) = corners[i]
            assert box.label == f"n{i}"
            assert np.allclose(
                (box.left, box.top, box.right, box.bottom),
                np.array([x0 * width, y0 * height, x1 * width, y1 * height]) / 1000,
            )


def test_drawing() -> None:
    pixels = np.full((100, 200, 3), 255, np.uint8)
    boxes = [Box("猫 cat", 20, 40, 120, 90), Box("", 150, 50, 150, 50), Box("at the border", 180, 0, 200, 100)]
    image = draw_boxes(pixels, boxes)
    drawn = np.array(image)
    assert image.size == (200, 100) and (pixels == 255).all()
    assert (drawn[60, 20] != 255).any() and (drawn[60, 119] != 255).any() and (drawn[89, 70] != 255).any()
    assert (drawn[65, 60] == 255).all(), "the inside is left as it is"
    assert (drawn[25:38, 20:60] != 255).any(), "the label stands above the box"
    assert (drawn[44:57, 144:157] != 255).any(), "a point is a circle"
    for size in ((1, 1), (3, 900), (900, 3)):
        draw_boxes(np.zeros((*size, 3), np.uint8), [Box("x", 0, 0, size[1], size[0])])
