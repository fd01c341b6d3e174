"""The small model that hears, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import edge_gemma as eg
from support.listening import MMPROJ, MODEL


@pytest.fixture(scope="module")
def model() -> Iterator[eg.Model]:
    with eg.Model.load(MODEL, mmproj=MMPROJ, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer() -> eg.Tokenizer:
    return eg.Tokenizer.load(MODEL)
