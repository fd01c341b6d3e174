"""The tokens that small models draw are those that were recorded: no change of the code may move a bit of the arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pytest

import edge_gemma as eg
from support.paths import DATA

RECORDED = json.loads((DATA / "tokens-drawn.json").read_text())
SAMPLED = eg.Sampling(temperature=0.9, top_k=40, top_p=0.9, seed=7, repetition_penalty=1.1)


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_tokens_are_drawn(name: str) -> None:
    """FILE:f16 and FILE:q8 are greedy with that cache; FILE:sampled draws with a seed."""
    file, how = name.split(":")
    with eg.Model.load(DATA / file) as model:
        session = model.session(400, kv="f16" if how == "sampled" else how)
        session.feed_tokens((np.arange(150) * 7919 + 11) % (model.config.vocab_size - 50) + 30)
        sampling = SAMPLED if how == "sampled" else eg.Sampling(temperature=0)
        assert [token.id for token in session.generate(60, sampling=sampling).tokens] == RECORDED[name]
