"""Drawing under a constraint: the token that was drawn is checked, a mask is asked for only if it is refused, and tokens
without a choice are fed in the pass of the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import edge_gemma as eg
from edge_gemma.engine.constraint import TokenCheck
from edge_gemma.engine.native import ffi, lib, new_struct

GREEDY = eg.Sampling(temperature=0)


class Only:
    """Allows some tokens, at every place the same; `forced` at places (the number of tokens so far) come without a choice."""

    def __init__(self, vocab: int, allowed: Sequence[int], forced: dict[int, list[int]] | None = None) -> None:
        self.words = eg_words(vocab, allowed)
        self.allowed, self.force = set(allowed), forced or {}
        self.checked: list[int] = []
        self.accepted: list[int] = []
        self.masks = 0

    def check(self, token: int) -> NDArray[np.uint32] | None:
        self.checked.append(token)
        if token in self.allowed:
            return None
        self.masks += 1
        return self.words

    def accept(self, tokens: Sequence[int]) -> None:
        self.accepted += tokens

    def forced(self) -> list[int]:
        return self.force.get(len(self.accepted), [])

    def start(self, tokenizer: object) -> Only:
        return self


def eg_words(vocab: int, allowed: Sequence[int]) -> NDArray[np.uint32]:
    words = np.zeros((vocab + 31) // 32, np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def begun(model: eg.Model, seed: int = 3) -> eg.Session:
    session = model.session(256)
    session.feed_tokens([2, 30, 41, 52, 63])
    session.seed(seed)
    return session


def allowing(model: eg.Model, share: float) -> list[int]:
    rng = np.random.default_rng(5)
    return np.flatnonzero(rng.random(model.config.vocab_size) < share).tolist()


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_greedy_is_the_masked_maximum(each_shape: eg.Model, share: float) -> None:
    """The same tokens as with the mask given beforehand, and a mask only where the best token is refused."""
    allowed = allowing(each_shape, share)
    plain, session = begun(each_shape), begun(each_shape)
    constraint, refused = Only(each_shape.config.vocab_size, allowed), 0
    for _ in range(12):
        refused += int(np.argmax(plain.logits())) not in constraint.allowed
        want = plain.next(GREEDY, mask=constraint.words, logprobs=2)
        assert session.next(GREEDY, constraint=constraint, logprobs=2) == want
    assert constraint.masks == refused
    assert share < 1 or refused == 0
    assert len(constraint.checked) == 12


def test_probabilities_are_those_of_the_allowed_tokens(each_shape: eg.Model) -> None:
    """Drawn, checked and drawn anew: as often as with the mask given beforehand."""
    base = begun(each_shape)
    best = np.argsort(base.logits())[::-1]
    allowed = [int(best[0]), int(best[3]), int(best[5])]
    sampling = eg.Sampling(temperature=1.0, top_k=0, top_p=1.0)
    logits = base.logits()[allowed].astype(np.float64)
    want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    counts, n = np.zeros(3), 600
    for seed in range(n):
        session = base.fork()
        session.seed(seed)
        counts[allowed.index(session.next(sampling, constraint=Only(base.model.config.vocab_size, allowed)).id)] += 1
        session.close()
    assert np.abs(counts / n - want).max() < 4 * np.sqrt(0.25 / n)


def test_the_same_seed_gives_the_same_tokens(each_shape: eg.Model) -> None:
    allowed = allowing(each_shape, 0.3)

    def drawn() -> list[int]:
        session, constraint = begun(each_shape), Only(each_shape.config.vocab_size, allowed)
        return [session.next(eg.Sampling(temperature=1.5), constraint=constraint).id for _ in range(10)]

    assert drawn() == drawn()
    assert set(drawn()) <= set(allowed)


def test_nothing_allowed(each_shape: eg.Model) -> None:
    session = begun(each_shape)
    before = session.position
    with pytest.raises(eg.EdgeGemmaError, match="no token can be drawn") as caught:
        session.next(GREEDY, constraint=Only(each_shape.config.vocab_size, []))
    assert caught.value.code == "state"
    assert session.position == before


def test_an_error_of_the_constraint_ends_the_drawing(each_shape: eg.Model) -> None:
    class Broken(Only):
        def check(self, token: int) -> NDArray[np.uint32] | None:
            raise KeyError("broken")

    session, plain = begun(each_shape), begun(each_shape)
    with pytest.raises(KeyError, match="broken"):
        session.next(constraint=Broken(each_shape.config.vocab_size, []))
    assert session.tokens == plain.tokens
    assert session.next() == plain.next()  # no random number was used up


def test_a_prefix_is_fed_in_the_same_pass(each_shape: eg.Model) -> None:
    session, plain = begun(each_shape), begun(each_shape)
    plain.feed_tokens([70, 71, 72])
    assert session.next(prefix=[70, 71, 72]) == plain.next()
    assert session.tokens == plain.tokens
    with pytest.raises(eg.EdgeGemmaError, match="ids") as caught:
        session.next(prefix=[each_shape.config.vocab_size])
    assert caught.value.code == "argument"
    assert session.tokens == plain.tokens


@pytest.mark.parametrize("logprobs", [None, 0])
def test_forced_tokens(each_shape: eg.Model, logprobs: int | None) -> None:
    """They are in the text and the timeline; with log-probabilities they are drawn, so that each has one."""
    vocab = each_shape.config.vocab_size
    forced = {0: [70, 71, 72], 4: [80], 6: [90, 91]}
    single = {at + i: token for at, run in forced.items() for i, token in enumerate(run)}

    class Drawn(Only):  # forces by its mask as well, as a grammar does
        def check(self, token: int) -> NDArray[np.uint32] | None:
            wanted = single.get(len(self.accepted))
            return None if wanted in (None, token) else eg_words(vocab, [wanted])

    session, constraint = begun(each_shape), Drawn(vocab, range(vocab), forced)
    before = session.position
    generation = session.generate(20, sampling=GREEDY, grammar=constraint, special=True, logprobs=logprobs)
    text = generation.text
    ids = [token.id for token in generation.tokens]
    assert ids[:3] == [70, 71, 72] and ids[4] == 80 and ids[6:8] == [90, 91]
    assert session.tokens[before:] == ids
    assert text == each_shape.tokenizer.decode([i for i in ids if i not in ENDS], special=True)
    assert all((token.logprob is None) == (logprobs is None) for token in generation.tokens)
    plain = begun(each_shape)
    plain.feed_tokens(ids)
    assert np.array_equal(session.logits(), plain.logits())


ENDS = (1, 106)


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_max_tokens_counts_forced_tokens(each_shape: eg.Model, most: int) -> None:
    session = begun(each_shape)
    constraint = Only(each_shape.config.vocab_size, range(each_shape.config.vocab_size), {0: [70, 71, 72]})
    generation = session.generate(most, sampling=GREEDY, grammar=constraint)
    assert [token.id for token in generation.tokens][:3] == [70, 71, 72][:most]
    assert (len(generation.tokens), generation.stop) == (most, "length")
    assert session.position == 5 + most


def test_cancelling_keeps_no_forced_token(each_shape: eg.Model) -> None:
    session = begun(each_shape)
    constraint = Only(each_shape.config.vocab_size, range(each_shape.config.vocab_size), {0: [70, 71, 72]})
    generation = session.generate(20, grammar=constraint)
    session.cancel()
    assert (generation.stop, generation.text) == ("cancelled", "")
    assert session.position == 5


def test_a_draft_is_not_checked_by_a_constraint(each_shape: eg.Model) -> None:
    session = begun(each_shape)
    sampling, err, kept = new_struct("eg_sampling"), new_struct("eg_error"), ffi.new("size_t *")
    handle = ffi.new_handle(TokenCheck(Only(each_shape.config.vocab_size, []), each_shape.config.vocab_size))
    sampling.check_token, sampling.check_context = lib.edge_gemma_check_token, handle
    status = lib.eg_session_verify(session.pointer, [70], 1, sampling, ffi.NULL, kept, err)
    assert status == lib.EG_ERROR_ARGUMENT and b"check_token" in ffi.string(err.message)


def test_in_a_batch(each_shape: eg.Model) -> None:
    """Several sessions of one pass, each with its own check."""
    vocab = each_shape.config.vocab_size
    sets = [allowing(each_shape, 0.1), allowing(each_shape, 0.4), list(range(vocab))]
    alone = [begun(each_shape, seed) for seed in range(3)]
    want = [s.next(GREEDY, constraint=Only(vocab, allowed)) for s, allowed in zip(alone, sets, strict=True)]
    together = [begun(each_shape, seed) for seed in range(3)]
    constraints: list[Only | None] = [Only(vocab, sets[0]), Only(vocab, sets[1]), None]
    assert eg.next_tokens(together, GREEDY, constraints=constraints) == want


def test_an_error_in_a_batch(each_shape: eg.Model) -> None:
    class Broken(Only):
        def check(self, token: int) -> NDArray[np.uint32] | None:
            raise KeyError("broken")

    sessions = [begun(each_shape), begun(each_shape)]
    vocab = each_shape.config.vocab_size
    draw: Callable[[], object] = lambda: eg.next_tokens(sessions, constraints=[None, Broken(vocab, [])])  # noqa: E731
    with pytest.raises(KeyError, match="broken"):
        draw()
    assert [s.position for s in sessions] == [5, 5]
