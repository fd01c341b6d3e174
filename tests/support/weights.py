"""Weights of several kinds to quantize, the same every time; errors of a quantized copy. Used by tests and by
tools/record_quantizer_errors.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COUNT = 256 * 96
# Types whose quantizer has a choice; the others are defined to the bit.
CHOOSING = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def weights() -> dict[str, NDArray[np.float32]]:
    """Arrays of COUNT values by kind."""
    rng, t = np.random.default_rng(7), np.arange(COUNT)
    kinds = {
        "normal": 0.02 * rng.standard_normal(COUNT),
        "heavy-tailed": np.clip(0.02 * rng.standard_t(4, COUNT), -2, 2),
        "very heavy-tailed": np.clip(0.02 * rng.standard_t(2, COUNT), -3, 3),
        "laplace": rng.laplace(0, 0.01, COUNT),
        "smooth": 0.1 * np.sin(t / 37) * np.cos(t / 911),
        "positive": 0.02 + 0.1 * rng.random(COUNT),
        "off centre": 0.01 + 0.02 * rng.standard_normal(COUNT),
        "of many sizes": 0.02 * np.exp(rng.standard_normal(COUNT // 32)).repeat(32) * rng.standard_normal(COUNT),
    }
    return {kind: values.astype(np.float32) for kind, values in kinds.items()}


def errors(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, float]:
    """Root mean square error of y, plain and with each value weighted by its magnitude."""
    square = (x.astype(np.float64) - y) ** 2
    weight = np.abs(x.astype(np.float64))
    return float(np.sqrt(square.mean())), float(np.sqrt((weight * square).sum() / weight.sum()))
