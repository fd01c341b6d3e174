"""Budgets of pictures: the sizes to which the encoder scales, and the choice of a budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.budgets import BUDGETS, choose_budget, fixed_budget, target_size


def test_sizes_of_the_processor(shared: Path) -> None:
    rows = json.loads((shared / "fixtures" / "vision" / "sizes.json").read_text())
    assert len(rows) > 1000
    assert not [row for row in rows if row[3] and list(target_size(*row[:3])) != row[3]]


@pytest.mark.parametrize(
    ("height", "width", "budget", "size"),
    [
        (480, 640, 70, (336, 432)),
        (480, 640, 280, (672, 912)),
        (1080, 1920, 1120, (1200, 2112)),
        (224, 224, 280, (768, 768)),
        (100, 10000, 70, (48, 3360)),
        (100, 10000, 280, (48, 8016)),
        (1, 60000, 70, (48, 3360)),
        (60000, 1, 1120, (53760, 48)),
        (1, 1, 70, (384, 384)),
    ],
)
def test_sizes(height: int, width: int, budget: int, size: tuple[int, int]) -> None:
    assert target_size(height, width, budget) == size
    assert size[0] * size[1] <= budget * 48 * 48


def test_names_and_numbers() -> None:
    assert choose_budget(None, 10, 10) == 280
    assert choose_budget("low", 4000, 3000) == 70 and choose_budget("high", 10, 10) == 1120
    assert [choose_budget(budget, 10, 10) for budget in BUDGETS] == list(BUDGETS)
    for wrong in (0, 100, True, "medium", "280", -70, 280.5, [280]):
        with pytest.raises(EdgeGemmaError, match="must be one of 70, 140, 280, 560, 1120") as caught:
            choose_budget(wrong, 10, 10)  # type: ignore[arg-type]
        assert caught.value.code == "argument"
    with pytest.raises(EdgeGemmaError):
        fixed_budget("auto")


@pytest.mark.parametrize(
    ("height", "width", "budget"),
    [
        (31, 47, 70),
        (300, 400, 70),
        (480, 672, 140),
        (480, 640, 280),
        (1080, 1920, 1120),
        (4000, 3000, 1120),
        (1, 5000, 140),
    ],
)
def test_auto(height: int, width: int, budget: int) -> None:
    """The smallest budget at which the picture keeps its pixels, and none above it."""
    assert choose_budget("auto", height, width) == budget
    for smaller in BUDGETS[: BUDGETS.index(budget)]:
        rows, columns = target_size(height, width, smaller)
        assert rows < height or columns < width
