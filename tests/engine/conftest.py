"""Models that several files of this folder open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import edge_gemma as eg
from support.paths import DATA


@pytest.fixture(scope="module", params=["e2b", "e4b", "moe", "dense"])
def each_shape(request: pytest.FixtureRequest) -> Iterator[eg.Model]:
    """The four shapes of the model, small."""
    with eg.Model.load(DATA / f"{request.param}-Q4_0.gguf", threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def e2b() -> Iterator[eg.Model]:
    """The small E2B with its audio encoder."""
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "audio-e2b.gguf", threads=2) as opened:
        yield opened
