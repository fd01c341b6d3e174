"""The engine against other programs: files written by another converter and quantizer, outputs of the reference
implementation, and as the budget for quantized files a share of the error that another engine has on the same file.

The four Q4_0 files and their numbers are part of the project; the rest is compared where the fixtures are at hand.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import edge_gemma as eg
from support.paths import DATA
from support.paths import SHARED as shared_folder

SHARED = shared_folder / "fixtures"
VARIANTS = ["e2b", "e4b", "moe", "dense"]
#: rms of (engine - reference) that the peer has on the four Q4_0 files
PEER_Q4_0 = {"e2b": 0.0468, "e4b": 0.0723, "moe": 0.0471, "dense": 0.0229}
#: The share of the peer's error that the engine may have: two-term activations leave about half.
SHARE = 0.55
needs_fixtures = pytest.mark.skipif(not SHARED.exists(), reason="the folder of fixtures is not here")


def rms(x: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_within_peer_error(variant: str) -> None:
    """Logits of 100 positions of a Q4_0 file, against float32 arithmetic on the dequantized weights."""
    numbers = np.load(DATA / "reference.npz")
    with eg.Model.load(DATA / f"{variant}-Q4_0.gguf", threads=2) as m:
        logits = m.session(context=128).forward(numbers[f"{variant}_ids"])
    assert rms(logits - numbers[f"{variant}_logits"]) < SHARE * PEER_Q4_0[variant]


@needs_fixtures
@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_equals_reference(variant: str) -> None:
    """Logits, hidden states layer by layer, 1,200 tokens, 40 greedy tokens."""
    r = np.load(SHARED / variant / "reference.npz")
    with eg.Model.load(SHARED / variant / "model-BF16.gguf", threads=2) as m:
        assert rms(m.session().forward(r["text_ids"]) - r["text_logits"]) < 3e-3
        for layer, (a, b) in enumerate(
            zip(m.session(kv="f32").hidden_states(r["text_ids"]), r["text_hidden"], strict=True)
        ):
            assert rms(a - b) < 1e-4 * rms(b), f"layer {layer}"
        s = m.session(context=1300)
        s.feed_tokens(r["long_ids"])
        assert rms(s.logits() - r["long_last_logits"][-1]) < 0.02
        s = m.session(context=1300, kv="f32")
        assert rms(s.forward(r["long_ids"])[-4:] - r["long_last_logits"]) < 5e-4
        for kv in ("f16", "f32"):
            s, ids = m.session(kv=kv), r["greedy_ids"]
            s.feed_tokens(ids[:20])
            list(s.generate(40, temperature=0))
            while s.position < 60:  # a stop token is a token like others here
                list(s.generate(60 - s.position, temperature=0))
            assert s.tokens == ids.tolist()


@needs_fixtures
def test_all_types_within_peer_error() -> None:
    """Every quantized fixture, within a share of the peer's error."""
    over = []
    for key, budget in json.loads((SHARED / "peer-error.json").read_text()).items():
        variant, kind = key.split("/")
        ids = np.load(SHARED / variant / "reference.npz")["text_ids"]
        expected = np.load(SHARED / variant / "reference-quantized.npz")[kind]
        with eg.Model.load(SHARED / variant / f"model-{kind}.gguf", threads=2) as m:
            error = rms(m.session(context=128).forward(ids) - expected)
        if error >= SHARE * budget:
            over.append(f"{key}: {error:.4f}, peer {budget}")
    assert not over


@needs_fixtures
@pytest.mark.parametrize("variant", ["e2b", "e4b"])
def test_audio_prompt(variant: str) -> None:
    """The reference's soft tokens among text: the decoder's half of speech."""
    r = np.load(SHARED / variant / "reference.npz")
    ids, soft = r["audio_prompt_ids"], r["audio_a_soft"].reshape(-1, r["text_hidden"].shape[-1])
    values, counts = np.unique(ids, return_counts=True)
    where = np.flatnonzero(ids == values[counts.argmax()])  # the placeholder
    with eg.Model.load(SHARED / variant / "model-BF16.gguf") as m:
        s = m.session(kv="f32")
        s.feed_tokens(ids[: where[0]])
        s.feed_embeddings(soft[: len(where)])
        s.feed_tokens(ids[where[-1] + 1 :])
        expected = r["audio_prompt_logits"].reshape(-1, m.config.vocab_size)[-1]
        assert rms(s.logits() - expected) < 1e-3


@needs_fixtures
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_image_prompt(variant: str, kv: str) -> None:
    """The reference's soft tokens of a picture among text: causal in the small models; in the others they see each other."""
    r = np.load(SHARED / variant / "reference.npz")
    ids, soft = r["image_prompt_ids"].reshape(-1), r["image_soft"].reshape(-1, r["text_hidden"].shape[-1])
    values, counts = np.unique(ids, return_counts=True)
    where = np.flatnonzero(ids == values[counts.argmax()])  # the placeholder
    with eg.Model.load(SHARED / variant / "model-BF16.gguf") as m:
        s = m.session(kv=kv)
        s.feed_tokens(ids[: where[0]])
        s.feed_embeddings(soft[: len(where)], picture=True)
        rest = s.fork().forward(ids[where[-1] + 1 :])
        expected = r["image_prompt_logits"].reshape(-1, m.config.vocab_size)[-len(rest) :]
        assert rms(rest - expected) < {"f32": 1e-3, "f16": 0.02, "q8": 0.3}[kv]
        s.feed_tokens(ids[where[-1] + 1 :])
        assert np.array_equal(s.logits(), rest[-1])
        if variant in ("moe", "dense") and kv == "f32":  # a causal mask would be noticed
            s = m.session(kv=kv)
            s.feed_tokens(ids[: where[0]])
            s.feed_embeddings(soft[: len(where)])
            assert rms(s.forward(ids[where[-1] + 1 :]) - expected) > 0.1
