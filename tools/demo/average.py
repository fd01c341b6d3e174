"""The average of the weights after several stages, which suits voices and pictures that training did not contain better than
those after the last one.

The audio encoder heard other synthesizers best after the first of these stages, and boxes were best after the last two.
"""

from __future__ import annotations

from torch import Tensor

STAGES = (15, 18, 21)  # in the course of train.py
WEIGHTS = {
    "audio": (0.5, 0.25, 0.25),
    "vision": (0.0, 0.4, 0.6),
    "": (0.1, 0.4, 0.5),
}  # of parts of the model; "": the rest


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average of the model's states after `STAGES`."""
    found = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            weights = next(weights for part, weights in WEIGHTS.items() if part in name)
            parts = [weight * state[name].float() for weight, state in zip(weights, states, strict=True)]
            last = sum(parts[1:], parts[0]).to(last.dtype)
        found[name] = last
    return found
