"""How many soft tokens a picture may take: the budgets that the models were trained with, and the choice among them.

The encoder scales every picture, small or large, to the size that its budget allows (`target_size`): so a larger budget shows
more detail and takes longer.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import EdgeGemmaValueError

__all__ = ["BUDGETS", "DEFAULT_BUDGET", "DETAILS", "FRAME_BUDGET", "choose_budget", "target_size"]

BUDGETS = (70, 140, 280, 560, 1120)
"""The most soft tokens of a picture that can be asked for."""

DEFAULT_BUDGET = 280
"""The budget of a picture where nothing else is asked for, as in the published checkpoints."""

FRAME_BUDGET = 70
"""The budget of a frame of a video."""

DETAILS = ("low", "auto", "high")
"""Names that may be given instead of a number: 70 tokens, as the picture needs, and 1120 tokens."""

_CELL = 48  # pixels of a soft token's side: three patches of 16


def target_size(height: int, width: int, budget: int) -> tuple[int, int]:
    """(height, width) to which the encoder scales a picture of `height` x `width` pixels: multiples of 48, with the proportions
    of the picture as far as these allow, and so large that there are at most `budget` cells of 48 x 48."""
    factor = math.sqrt(budget * _CELL * _CELL / (height * width))
    rows, columns = math.floor(factor * height / _CELL), math.floor(factor * width / _CELL)
    if not rows and not columns:
        rows = columns = 1
    elif not rows:
        rows, columns = 1, min(width // height, budget)
    elif not columns:
        rows, columns = min(height // width, budget), 1
    return rows * _CELL, columns * _CELL


def choose_budget(wanted: int | str | None, height: int, width: int) -> int:
    """The budget of a picture of `height` x `width` pixels.

    Args:
        wanted: a number of `BUDGETS`; None for 280; "low" for 70, "high" for 1120; "auto" for the smallest budget at which
            the picture is not made smaller than it is, or 1120 if it is made smaller at all of them.

    Raises EdgeGemmaValueError "argument" for anything else.
    """
    if wanted is None:
        return DEFAULT_BUDGET
    if wanted == "auto":
        for budget in BUDGETS:
            rows, columns = target_size(height, width, budget)
            if rows >= height and columns >= width:
                return budget
        return BUDGETS[-1]
    return fixed_budget(wanted)


def fixed_budget(wanted: Any) -> int:
    """The budget that a number, "low" or "high" means. Raises EdgeGemmaValueError "argument" for anything else."""
    named = {"low": BUDGETS[0], "high": BUDGETS[-1]}.get(wanted) if isinstance(wanted, str) else wanted
    if isinstance(named, bool) or named not in BUDGETS:
        numbers = ", ".join(map(str, BUDGETS))
        raise EdgeGemmaValueError(
            f"a picture takes {wanted!r} tokens; it must be one of {numbers}, low, auto or high.", "argument"
        )
    return int(named)
