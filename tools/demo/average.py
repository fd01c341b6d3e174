"""The average of the weights after several stages, which suits voices and pictures that training did not contain better than
those after the last one.
"""

from __future__ import annotations

from torch import Tensor

# For each stage that averages: the stages before it, by their place in the course of train.py, and the weights of what they
# left, for parts of the model; "": for the rest.
AVERAGES: dict[int, tuple[tuple[int, ...], dict[str, tuple[float, ...]]]] = {
    # The audio encoder heard other synthesizers best after the first of these stages, and boxes were best after the last two.
    22: (
        (15, 18, 21),
        {"audio": (0.5, 0.25, 0.25), "vision": (0.0, 0.4, 0.6), "": (0.1, 0.4, 0.5)},
    ),
    25: ((22, 24), {"": (0.4, 0.6)}),
    29: ((25, 28), {"": (0.4, 0.6)}),
    33: ((29, 32), {"position_embedding": (0.0, 1.0), "": (0.4, 0.6)}),
    37: ((33, 36), {"": (0.4, 0.6)}),
}
KEPT = {stage for stages, _ in AVERAGES.values() for stage in stages}


def average(states: list[dict[str, Tensor]], shares: dict[str, tuple[float, ...]]) -> dict[str, Tensor]:
    """The average of states of the model. `shares`: of each of them, as in `AVERAGES`."""
    found = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            weights = next(weights for part, weights in shares.items() if part in name)
            parts = [weight * state[name].float() for weight, state in zip(weights, states, strict=True)]
            last = sum(parts[1:], parts[0]).to(last.dtype)
        found[name] = last
    return found
