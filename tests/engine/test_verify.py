"""What a session does besides feeding and drawing: drafts that are checked, timelines that are made equal to a list of ids,
masks, and log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import ffi, lib, new_struct

GREEDY = eg.Sampling(temperature=0)
WARM = eg.Sampling(temperature=0.7)
SAMPLINGS = [
    GREEDY,
    WARM,
    eg.Sampling(temperature=0, repetition_penalty=1.3, frequency_penalty=0.3),
    eg.Sampling(temperature=1.5, top_k=0, top_p=1, suppress=[40, 41], logit_bias={42: 3.0}),
]


def begun(model: eg.Model, n: int = 20, context: int = 512) -> eg.Session:
    session = model.session(context)
    session.feed_tokens([2, *np.random.default_rng(n).integers(20, 250, n - 1).tolist()])
    session.seed(7)
    return session


def check_same(a: eg.Session, b: eg.Session, sampling: eg.Sampling = WARM) -> None:
    assert a.tokens == b.tokens
    assert np.array_equal(a.logits(), b.logits())
    assert [a.next(sampling) for _ in range(4)] == [b.next(sampling) for _ in range(4)]


# ---- verify ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("start", [1, 20, 150])
def test_a_draft_changes_nothing(each_shape: eg.Model, sampling: eg.Sampling, start: int) -> None:
    """Right, wrong, short and long drafts, checked at once or in parts: the same tokens, logits, texts and random numbers as
    without them."""
    drawn = begun(each_shape, start)
    tokens = [drawn.next(sampling, logprobs=0) for _ in range(40)]
    ids = [token.id for token in tokens]
    other = [(number + 1) % 200 for number in ids]
    for draft, parts in (
        (ids, [40]),
        (ids, [1, 2, 16, 17, 4]),
        (ids[:10] + other[10:], [40]),
        (other, [40]),
        (ids[:16] + other[16:17], [17]),
        (ids[:17] + other[17:], [16, 24]),
        ([], [0]),
    ):
        plain, session = begun(each_shape, start), begun(each_shape, start)
        right = next((i for i, (a, b) in enumerate(zip(draft, ids, strict=False)) if a != b), len(draft))
        kept, at, logprobs = 0, 0, list[float]()
        for part in parts:
            found = session.verify(draft[at : at + part], sampling, logprobs=logprobs)
            kept, at = kept + found, at + part
            if found < part:
                break
        assert kept == right
        for _ in range(kept):
            plain.next(sampling)
        assert logprobs == [token.logprob for token in tokens[:kept]]
        check_same(session, plain, sampling)


def test_a_draft_after_anything(e2b: eg.Model) -> None:
    """After a drawn token, known logits, a rewind, a fork, a recording, a snapshot, and a full context."""

    def draw(session: eg.Session) -> None:
        session.next(WARM)

    def know(session: eg.Session) -> None:
        session.logits()

    def rewind(session: eg.Session) -> None:
        session.next(WARM)
        session.feed_tokens([50, 51])
        session.rewind(2)

    def hear(session: eg.Session) -> None:
        session.feed_audio(np.random.default_rng(1).standard_normal(9000).astype(np.float32) * 0.1)

    def hear_bare(session: eg.Session) -> None:
        session.feed_audio(np.random.default_rng(1).standard_normal(9000).astype(np.float32) * 0.1, markers=False)

    def embed(session: eg.Session) -> None:
        session.feed_embeddings(np.random.default_rng(2).standard_normal((3, e2b.config.hidden_size)))

    for prepare in (draw, know, rewind, hear, hear_bare, embed):
        plain, session = begun(e2b), begun(e2b)
        prepare(plain)
        prepare(session)
        fork = plain.fork()
        ids = [fork.next(WARM).id for _ in range(6)]
        assert session.verify([*ids[:4], ids[4] + 1], WARM) == 4
        for number in ids[:4]:
            assert plain.next(WARM).id == number
        assert session.fork().tokens == plain.tokens
        check_same(session.fork(), plain.fork())
        check_same(session, plain)


def test_a_verified_session_is_saved_and_goes_back(e2b: eg.Model, tmp_path: Any) -> None:
    plain, session = begun(e2b), begun(e2b)
    ids = [plain.fork().next(GREEDY).id]
    assert session.verify([*ids, ids[0] + 1], GREEDY) == 1
    plain.next(GREEDY)
    session.save(tmp_path / "s.snap")
    check_same(e2b.session(restore=tmp_path / "s.snap"), plain.fork())
    session.rewind(1)
    plain.rewind(1)
    check_same(session, plain)


def test_going_back_again_and_again(e2b: eg.Model) -> None:
    """From a state in which the last token waits to be evaluated again."""
    session, ids = begun(e2b), begun(e2b).tokens
    for n in range(19, 0, -1):
        session.rewind_to(n)
        other = e2b.session(64)
        other.feed_tokens(ids[:n])
        assert np.array_equal(session.fork().logits(), other.logits())


def test_a_draft_that_does_not_fit(e2b: eg.Model) -> None:
    session = begun(e2b, 20, context=23)
    ids = [token.id for token in (session.fork(),) for token in [token.next(GREEDY) for _ in range(3)]]
    assert session.verify([*ids, 5, 6], GREEDY) == 3
    assert session.position == session.context
    assert session.verify([5], GREEDY) == 0
    with pytest.raises(eg.EdgeGemmaError) as caught:
        session.next(GREEDY)
    assert caught.value.code == "context"


def test_verify_checks_what_it_gets(e2b: eg.Model) -> None:
    session = begun(e2b)
    before = session.tokens
    for ids, options, message in (([10**6], {}, "the vocabulary has"), ([-1], {}, "ids"), ([[1]], {}, "whole numbers")):
        with pytest.raises(eg.EdgeGemmaError, match=message):
            session.verify(ids, **options)
    with pytest.raises(eg.EdgeGemmaError, match="before the first token"):
        e2b.session(16).verify([5])
    with pytest.raises(eg.EdgeGemmaError, match="no token can be drawn"):
        session.verify([5], eg.Sampling(suppress=range(e2b.config.vocab_size)))
    session.cancel()
    with pytest.raises(eg.Cancelled):
        session.verify([5])
    assert session.tokens == before
    check_same(session, begun(e2b))


def test_half_a_character_continues_behind_a_draft(e2b: eg.Model) -> None:
    """The text of the next token is whole, although its first bytes were in the draft."""
    session = begun(e2b)
    first, second, third = (e2b.tokenizer.find(f"<0x{byte:02X}>") for byte in "€".encode())
    sampling = eg.Sampling(temperature=0, logit_bias={first: 1e4})
    assert session.verify([first], sampling) == 1
    assert session.verify([second], eg.Sampling(temperature=0, logit_bias={second: 1e4})) == 1
    assert session.next(eg.Sampling(temperature=0, logit_bias={third: 1e4})).text == "€"


# ---- sync ------------------------------------------------------------------------------------------------------------


def test_sync(each_shape: eg.Model) -> None:
    """The timeline of a new session that was fed the ids, with the least work."""
    ids = np.random.default_rng(3).integers(20, 250, 300).tolist()
    session = each_shape.session(512)
    for wanted, kept in (
        (ids[:100], 0),
        (ids[:100], 100),
        (ids[:150], 100),
        (ids[:120], 119),  # the last one is evaluated again, for the logits that follow it
        ([*ids[:110], 7, 8, 9], 109),
        (ids, 109),
        (ids[:290], 289),
        ([], 0),
        (ids[:5], 0),
    ):
        assert session.sync(wanted) == kept
        assert session.tokens == wanted
        if wanted:
            other = each_shape.session(512)
            other.feed_tokens(wanted)
            session.seed(1)
            other.seed(1)
            check_same(session.fork(), other)


def test_sync_with_soft_tokens(e2b: eg.Model) -> None:
    """-1 keeps what was heard; it cannot be fed, and it is no token."""
    session = e2b.session(256)
    session.feed_tokens([2, 30])
    session.feed_audio(np.random.default_rng(1).standard_normal(9000).astype(np.float32) * 0.1)
    session.feed_tokens([40, 41])
    before = session.tokens
    assert session.sync([*before[:-1], 50, 51]) == len(before) - 2
    assert session.tokens == [*before[:-1], 50, 51]
    now = session.tokens
    soft = before.index(-1)
    for wanted, code in (
        ([*now, -1], "argument"),
        ([2, -1], "argument"),
        ([5] * 300, "context"),
        ([10**6], "argument"),
    ):
        with pytest.raises(eg.EdgeGemmaError) as caught:
            session.sync(wanted)
        assert caught.value.code == code and session.tokens == now
    assert session.sync(now[: soft + 2]) == soft + 2  # the last kept token is soft
    session.sync([2, 30, 31])
    other = e2b.session(256)
    other.feed_tokens([2, 30, 31])
    assert np.array_equal(session.logits(), other.logits())


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS[:3])
def test_a_mask_allows_and_forbids(e2b: eg.Model, sampling: eg.Sampling) -> None:
    """As suppressing all others does, given as bools, words, or words of the other sign."""
    size = e2b.config.vocab_size
    allowed = np.zeros(size, bool)
    allowed[[30, 31, 32, size - 1]] = True
    words = np.zeros((size + 31) // 32, np.uint32)
    for number in np.flatnonzero(allowed):
        words[number // 32] |= np.uint32(1 << number % 32)
    want = None
    for mask in (allowed, words, words.view(np.int32), np.append(words, [0, 0]).astype(np.uint32)):
        session = begun(e2b)
        drawn = [session.next(sampling, mask=mask).id for _ in range(8)]
        assert set(drawn) <= {30, 31, 32, size - 1}
        want = want or drawn
        assert drawn == want
    suppressing = eg.Sampling(
        temperature=sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        suppress=np.flatnonzero(~allowed).tolist(),
    )
    session = begun(e2b)
    assert [session.next(suppressing).id for _ in range(8)] == want


def test_masks_of_a_batch(e2b: eg.Model) -> None:
    sessions = [begun(e2b, n) for n in (5, 6, 7)]
    masks = [np.arange(e2b.config.vocab_size) == number for number in (77, 88)]
    tokens = eg.next_tokens(sessions, GREEDY, masks=[masks[0], None, masks[1]])
    assert [tokens[0].id, tokens[2].id] == [77, 88]
    assert tokens[1].id == begun(e2b, 6).next(GREEDY).id


def test_a_mask_that_allows_nothing(e2b: eg.Model) -> None:
    """Is an error, greedy or not, and so is a token that both lists forbid; nothing is drawn."""
    session, size = begun(e2b), e2b.config.vocab_size
    for sampling, mask in (
        (GREEDY, np.zeros(size, bool)),
        (WARM, np.zeros(size, bool)),
        (eg.Sampling(suppress=[30]), np.arange(size) == 30),
    ):
        with pytest.raises(eg.EdgeGemmaError, match="no token can be drawn") as caught:
            session.next(sampling, mask=mask)
        assert caught.value.code == "state"
    for wrong in (np.zeros(size, np.uint8), np.zeros(3, np.uint32), np.zeros((1, size), bool), [True]):
        with pytest.raises(eg.EdgeGemmaError, match="mask must be"):
            session.next(mask=wrong)
    check_same(session, begun(e2b))


def test_a_short_mask_is_refused_in_c(e2b: eg.Model) -> None:
    session, sampling, err = begun(e2b), new_struct("eg_sampling"), new_struct("eg_error")
    sampling.mask, sampling.n_mask = ffi.new("uint32_t[]", 1), 1
    assert lib.eg_session_next(session.pointer, sampling, new_struct("eg_token"), err) == lib.EG_ERROR_ARGUMENT
    assert b"mask has 1 words of 32 bits" in ffi.string(err.message)


# ---- log-probabilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_logprobs(each_shape: eg.Model, sampling: eg.Sampling) -> None:
    """Those of the logits in float64, whatever changes the drawing; the best ones in their order."""
    session = begun(each_shape)
    for n in (0, 5, 64):
        logits = session.logits().astype(np.float64)
        want = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        token = session.next(sampling, logprobs=n)
        assert token.logprob == pytest.approx(want[token.id], abs=2e-6)
        order = np.lexsort((np.arange(len(want)), -logits))[:n]
        assert [number for number, _ in token.top_logprobs] == order.tolist()
        assert [value for _, value in token.top_logprobs] == pytest.approx(want[order].tolist(), abs=2e-6)
    assert session.next(sampling).logprob is None


def test_logprobs_of_a_generation(e2b: eg.Model) -> None:
    session = begun(e2b)
    generation = session.generate(5, temperature=0, logprobs=1)
    assert len(generation.logprobs) == len(generation.tokens) == 5
    assert [token.top_logprobs[0] for token in generation.tokens] == [
        (token.id, token.logprob) for token in generation.tokens
    ]
    assert begun(e2b).generate(5, temperature=0).logprobs == []
