"""The sampler, seen from outside: chosen logits in, drawn tokens counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from support.tiny_model import VOCAB, Shape, write_model

#: Logits of a few tokens; all others are far below.
LOGITS = {20: 2.0, 21: 1.0, 22: 0.0, 23: 0.0, 24: -1.0, 25: -4.0}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    """A session whose next token is to be drawn."""
    path = write_model(tmp_path_factory.mktemp("sampler") / "m.gguf", Shape([True, False], context=128))
    with eg.Model.load(path, threads=1) as m:
        s = m.session(context=128)
        s.feed_tokens([2, 20, 20, 20, 21, 30])
        yield s


def biases(session: eg.Session, wanted: dict[int, float]) -> dict[int, float]:
    """What turns the session's logits into `wanted`, and all others into -60."""
    return {i: wanted.get(i, -60.0) - float(x) for i, x in enumerate(session.logits())}


def draw(session: eg.Session, n: int, wanted: dict[int, float] = LOGITS, **options: object) -> Counter[int]:
    """Counts of n tokens drawn from the same place."""
    bias, counts = biases(session, wanted), Counter()
    for i in range(n):
        for _ in session.generate(1, logit_bias=bias, seed=1000 + i, **options):
            pass
        counts[session.tokens[-1]] += 1
        session.rewind(1)
    return counts


def close(counts: Counter[int], weights: dict[int, float]) -> bool:
    """Whether counts fit the weights: each within four standard deviations, and nothing else was drawn."""
    n, total = sum(counts.values()), sum(weights.values())
    if set(counts) - set(weights):
        return False
    p = {i: w / total for i, w in weights.items()}
    return all(abs(counts[i] - n * p[i]) <= 4 * np.sqrt(n * p[i] * (1 - p[i])) + 1 for i in weights)


def test_plain_temperature_one(session: eg.Session) -> None:
    """softmax of the logits when all cuts are off"""
    counts = draw(session, 3000, top_k=0, top_p=1.0)
    assert close(counts, {i: np.exp(x) for i, x in LOGITS.items()})


def test_temperature(session: eg.Session) -> None:
    """softmax(logits / T)"""
    counts = draw(session, 2000, top_k=0, top_p=1.0, temperature=0.5)
    assert close(counts, {i: np.exp(2 * x) for i, x in LOGITS.items()})


def test_top_k(session: eg.Session) -> None:
    """The k largest; of equal ones the lower id."""
    counts = draw(session, 2000, top_k=3, top_p=1.0)
    assert close(counts, {i: np.exp(LOGITS[i]) for i in (20, 21, 22)})
    assert set(draw(session, 50, top_k=1, top_p=1.0)) == {20}


def test_top_p(session: eg.Session) -> None:
    """The fewest tokens whose probability reaches p: 0.593 + 0.218 is short of 0.82, the third makes it."""
    counts = draw(session, 2000, top_k=0, top_p=0.82)
    assert close(counts, {i: np.exp(LOGITS[i]) for i in (20, 21, 22)})
    assert set(draw(session, 50, top_k=0, top_p=0.5)) == {20}
    assert set(draw(session, 50, top_k=0, top_p=0.0)) == {20}


def test_min_p(session: eg.Session) -> None:
    """Not below min_p times the largest: exp(-2) = 0.135, exp(-3) = 0.05."""
    counts = draw(session, 2000, top_k=0, top_p=1.0, min_p=0.1)
    assert close(counts, {i: np.exp(LOGITS[i]) for i in (20, 21, 22, 23)})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "cut", [{"top_k": 0, "top_p": 0.9}, {"top_k": 12, "top_p": 0.8}, {"top_k": 0, "top_p": 0.97, "min_p": 0.1}]
)
def test_cuts_of_many(session: eg.Session, seed: int, cut: dict[str, float]) -> None:
    """All cuts, on logits of many tokens in any order: what is left has its share."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(20, VOCAB), 60, replace=False)
    wanted = {int(i): float(x) for i, x in zip(ids, rng.normal(0, 1.5, ids.size), strict=True)}
    best = sorted(wanted, key=lambda i: (-wanted[i], i))[: cut["top_k"] or None]
    p = np.exp([wanted[i] - wanted[best[0]] for i in best])
    reached = np.cumsum(p) - p < cut["top_p"] * p.sum()
    keep = reached & (p >= cut.get("min_p", 0))
    assert 3 < keep.sum() < len(best)
    assert close(draw(session, 1500, wanted, **cut), {i: w for i, w, kept in zip(best, p, keep, strict=True) if kept})


def test_a_bias_without_bounds(session: eg.Session) -> None:
    """A token that is infinitely likely is always drawn."""
    for _ in session.generate(3, logit_bias={33: np.inf}, top_k=0, top_p=1.0):
        pass
    assert session.tokens[-3:] == [33] * 3
    session.rewind(3)


def test_greedy_and_suppress(session: eg.Session) -> None:
    """Temperature 0 takes the largest; suppressed ids are never taken."""
    assert set(draw(session, 3, temperature=0)) == {20}
    assert set(draw(session, 3, temperature=0, suppress=[20])) == {21}
    assert set(draw(session, 200, suppress=[20, 21])) <= {22, 23, 24, 25}


@pytest.mark.slow
def test_penalties(session: eg.Session) -> None:
    """History: 20 three times, 21 once."""
    even = dict.fromkeys((20, 21, 22), 2.0)
    counts = draw(session, 2000, even, repetition_penalty=2.0, top_p=1.0)
    assert close(counts, {20: np.e, 21: np.e, 22: np.e**2})
    counts = draw(session, 2000, even, presence_penalty=1.0, top_p=1.0)
    assert close(counts, {20: np.e, 21: np.e, 22: np.e**2})
    counts = draw(session, 2000, even, frequency_penalty=0.5, top_p=1.0)
    assert close(counts, {20: np.exp(0.5), 21: np.exp(1.5), 22: np.exp(2.0)})
    counts = draw(session, 2000, even, frequency_penalty=0.5, penalty_window=2, top_p=1.0)  # sees 21 and 30 only
    assert close(counts, {20: np.exp(2.0), 21: np.exp(1.5), 22: np.exp(2.0)})
    below = dict.fromkeys((20, 22), -1.0)  # a negative logit is multiplied, not divided
    counts = draw(session, 2000, below, repetition_penalty=2.0, top_p=1.0)
    assert close(counts, {20: np.exp(-2.0), 22: np.exp(-1.0)})


def test_defaults(session: eg.Session) -> None:
    """Temperature 1, top-k 64, top-p 0.95: of 100 equal tokens the first 61 (the fewest that reach 0.95 of 64)."""
    counts = draw(session, 3000, dict.fromkeys(range(100, 200), 0.0))
    assert set(counts) == set(range(100, 161))


def test_seed(session: eg.Session) -> None:
    """The same seed, the same text; a known sequence, so that it is the same on every machine."""
    bias = biases(session, dict.fromkeys(range(20, 276), 0.0))
    found = []
    for seed in (1, 1, 2):
        for _ in session.generate(8, seed=seed, top_k=0, top_p=1.0, logit_bias=bias):
            pass
        found.append(session.tokens[6:])
        session.rewind(session.position - 6)
    assert found[0] == found[1] != found[2]
    for _ in session.generate(1, seed=0, top_k=0, top_p=1.0, logit_bias=bias):
        pass
    # splitmix64 of seed 0 begins 0xe220a8397b1dcdaf, and 0xe2 of 256 equal tokens is the 226th
    assert session.tokens[6] == 20 + 0xE2
    session.rewind(1)


def test_stop_strings(session: eg.Session) -> None:
    """Text before a stop string comes out, the string does not, also when it comes in pieces."""
    letters = {c: session.model.tokenizer.find(c) for c in "helowrd"}
    bias = dict.fromkeys(range(VOCAB), -100.0)
    for c in letters.values():
        bias[c] = 0.0
    whole = session.generate(60, seed=3, logit_bias=bias)
    text = "".join(whole)
    session.rewind(session.position - 6)
    assert len(text) == 60
    assert whole.stop == "length"
    stop = text[20:23]
    answer = session.generate(60, seed=3, logit_bias=bias, stop=["zzz", stop])
    assert "".join(answer) == answer.text == text[: text.index(stop)]
    assert answer.stop == "stop"
    session.rewind(session.position - 6)
    answer = session.generate(22, seed=3, logit_bias=bias, stop=text[20:23] + "x")
    assert "".join(answer) == text[:22] and answer.stop == "length"
    session.rewind(session.position - 6)


def test_stop_tokens(session: eg.Session) -> None:
    """<eos>, <turn|> and <|tool_response> end the answer, are appended, and are not shown."""
    for token, name in (("<eos>", "eos"), ("<turn|>", "turn"), ("<|tool_response>", "tool_response")):
        number = session.model.tokenizer.find(token)
        answer = session.generate(5, logit_bias={number: 1000.0}, special=True)
        assert list(answer) == [] and answer.stop == name
        assert answer.tokens == [eg.Token(number, "", name)]
        assert session.tokens[-1] == number
        session.rewind(1)


def test_half_characters_are_held(session: eg.Session, tmp_path: Path) -> None:
    """Byte tokens of one character come out together; a broken one as U+FFFD."""
    byte = {b: session.model.tokenizer.find(f"<0x{b:02X}>") for b in "é🎉".encode()}
    got, sequence = [], [byte[b] for b in "🎉é".encode()]
    for number in sequence:
        got += list(session.generate(1, temperature=0, logit_bias={number: 1000.0}))
    # each call holds its half character back and goes on with it
    assert "".join(got) == "🎉é"
    session.rewind(len(sequence))
