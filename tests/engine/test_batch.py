"""Several sessions in one pass through the weights: the same bits as each alone, and bad use changes nothing."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import ffi, lib, new_struct
from edge_gemma.files.quantize import quantize
from support.paths import DATA
from support.tiny_model import Shape, write_model

GREEDY = eg.Sampling(temperature=0)
WARM = eg.Sampling(temperature=1.3, top_p=0.9)
PENALTY = eg.Sampling(temperature=0, repetition_penalty=1.2, presence_penalty=0.5)


def text(seed: int, n: int) -> list[int]:
    """n ids."""
    return [2, *np.random.default_rng(seed).integers(20, 250, n - 1).tolist()]


def timelines(model: eg.Model) -> list[tuple[eg.Session, eg.Sampling]]:
    """Sessions that differ in everything: positions before and behind the window, rewound ones, caches, sampling."""
    made = []
    lengths = [1, 7, 130, 129, 300, 600]  # a window is 16 to 64 tokens here, and a ring 128 more
    for number, (n, kv, sampling) in enumerate(
        zip(
            lengths, itertools.cycle(["f16", "q8", "f32"]), itertools.cycle([GREEDY, WARM, PENALTY, WARM]), strict=False
        )
    ):
        session = model.session(context=n + 64, kv=kv)
        session.feed_tokens(text(number, n))
        session.seed(number)
        if number == 3:
            session.rewind(5)
        if number == 4:
            session = session.fork()
        made.append((session, sampling))
    return made


def check_same(a: eg.Session, b: eg.Session) -> None:
    assert a.tokens == b.tokens
    assert np.array_equal(a.logits(), b.logits())
    assert [a.next(WARM).id for _ in range(3)] == [b.next(WARM).id for _ in range(3)]


def test_a_batch_is_each_alone(each_shape: eg.Model) -> None:
    """Tokens, texts, log-probabilities, logits and random sequences, over some passes and with changing company."""
    alone, together = timelines(each_shape), timelines(each_shape)
    want = [[s.next(sampling, logprobs=2) for _ in range(6)] for s, sampling in alone]
    got: list[list[eg.Token]] = [[] for _ in together]
    for step in range(6):
        members = [i for i in range(len(together)) if step < 3 or i % 2 == step % 2]
        tokens = eg.next_tokens([together[i][0] for i in members], [together[i][1] for i in members], logprobs=2)
        for i, token in zip(members, tokens, strict=True):
            got[i].append(token)
    for i, (session, sampling) in enumerate(together):
        got[i] += [session.next(sampling, logprobs=2) for _ in range(6 - len(got[i]))]
    assert got == want
    for (a, _), (b, _) in zip(alone, together, strict=True):
        check_same(a, b)


@pytest.mark.parametrize("type, other", [("Q4_0", "Q6_K"), ("Q4_K", "Q6_K"), ("Q6_K", "Q4_0"), ("Q4_0", "F16")])
def test_matrices_of_several_types_share_an_input(tmp_path: Path, type: str, other: str) -> None:
    """The kernels for few tokens, some of which want the input in a form of their own, have the bits of those for many."""
    source = write_model(tmp_path / "model.gguf", Shape([True, False], hidden=256, ffn=[512, 512]))
    types = {"*attn_k.weight": other, "*ffn_up.weight": other}
    path = quantize(source, tmp_path / "mixed.gguf", type, tensor_types=types).path
    ids = text(3, 72)
    with eg.Model.load(path, threads=1) as model:
        whole, cut = model.session(context=128), model.session(context=128)
        whole.feed_tokens(ids)
        for n in [*range(1, 9), *range(8, 0, -1)]:
            cut.feed_tokens(ids[:n])
            ids = ids[n:]
        assert not ids
        assert np.array_equal(whole.logits(), cut.logits())


def test_prompts_ride_in_the_same_pass(each_shape: eg.Model) -> None:
    """Pieces of a prompt, longer and shorter than a block, beside tokens that are drawn."""
    alone, together = timelines(each_shape)[:3], timelines(each_shape)[:3]
    prompt = text(50, 333)
    reader, want_reader = each_shape.session(512), each_shape.session(512)
    want_reader.feed_tokens(prompt)
    reader.seed(1)
    want_reader.seed(1)
    want = [[s.next(sampling).id for _ in range(4)] for s, sampling in alone]
    got = []
    for start, end in ((0, 100), (100, 101), (101, 333), (333, 333)):
        feed = [(reader, prompt[start:end])]
        got.append(eg.next_tokens([s for s, _ in together], [sampling for _, sampling in together], feed=feed))
        assert reader.position == end
    assert [[token.id for token in tokens] for tokens in zip(*got, strict=True)] == want
    check_same(reader, want_reader)
    for (a, _), (b, _) in zip(alone, together, strict=True):
        check_same(a, b)


def test_each_has_its_own_prefix_and_log_probabilities(e2b: eg.Model) -> None:
    """What `Session.next` takes for one session, a pass takes for each."""
    prefixes = [text(9, 5), [], text(8, 130)]
    wanted = [3, None, 0]
    together = [e2b.session(context=400) for _ in prefixes]
    alone = [e2b.session(context=400) for _ in prefixes]
    for number, session in enumerate([*together, *alone]):
        session.feed_tokens(text(number % 3, 20))
        session.seed(number % 3)
    drawn = eg.next_tokens(together, GREEDY, prefixes=prefixes, logprobs=wanted)
    expected = [s.next(GREEDY, prefix=p, logprobs=n) for s, p, n in zip(alone, prefixes, wanted, strict=True)]
    assert drawn == expected and [token.logprob is None for token in drawn] == [False, True, False]
    for a, b in zip(together, alone, strict=True):
        check_same(a, b)
    for name in ("prefixes", "logprobs"):
        with pytest.raises(eg.EdgeGemmaError, match=rf"2 {name} for 3 sessions"):
            eg.next_tokens(together, GREEDY, **{name: [[], []] if name == "prefixes" else [0, 0]})


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int) -> None:
    """A batch of eight at different positions, against one after the other on two threads."""
    results = []
    for n, batched in ((2, False), (threads, True)):
        with eg.Model.load(DATA / "e2b-Q4_0.gguf", threads=n) as model:
            sessions = [model.session(512) for _ in range(8)]
            for number, session in enumerate(sessions):
                session.feed_tokens(text(number, 40 * number + 1))
                session.seed(number)
            for _ in range(4):
                if batched:
                    eg.next_tokens(sessions, WARM)
                else:
                    for session in sessions:
                        session.next(WARM)
            results.append([(session.tokens, session.logits().tobytes()) for session in sessions])
    assert results[0] == results[1]


def test_a_full_pass(e2b: eg.Model) -> None:
    """128 sessions are one pass; one more is refused."""
    first = e2b.session(16)
    first.feed_tokens([2, 30])
    sessions = [first.fork() for _ in range(129)]
    want = first.next(GREEDY).id
    assert [token.id for token in eg.next_tokens(sessions[:128], GREEDY)] == [want] * 128
    with pytest.raises(eg.EdgeGemmaError, match="129 sessions are too many"):
        eg.next_tokens(sessions, GREEDY)
    assert sessions[128].tokens == [2, 30]
    assert eg.next_tokens([]) == []


def test_after_sound(e2b: eg.Model) -> None:
    """The end of a recording, which waits, is evaluated in the pass."""
    sound = np.random.default_rng(3).standard_normal(9000).astype(np.float32) * 0.1

    def hear(seed: int) -> eg.Session:
        session = e2b.session(256)
        session.feed_tokens(text(seed, 5))
        session.feed_audio(sound)
        session.seed(seed)
        return session

    alone, together = [hear(1), hear(2)], [hear(1), hear(2)]
    want = [session.next(GREEDY).id for session in alone]
    assert [token.id for token in eg.next_tokens(together, GREEDY)] == want
    for a, b in zip(alone, together, strict=True):
        check_same(a, b)


def test_logits_that_are_known_are_not_computed_again(e2b: eg.Model) -> None:
    sessions = [e2b.session(64) for _ in range(3)]
    for number, session in enumerate(sessions):
        session.feed_tokens(text(number, 4))
    best = [int(session.logits().argmax()) for session in sessions[:2]]
    tokens = eg.next_tokens(sessions, GREEDY)
    assert [token.id for token in tokens[:2]] == best and tokens[2].id == sessions[2].tokens[-1]


# ---- bad use ------------------------------------------------------------------------------------------------------


def states(sessions: list[eg.Session]) -> list[Any]:
    return [(s.tokens, s.fork().logits().tobytes()) for s in sessions if not s.closed]


def test_bad_use_changes_nothing(e2b: eg.Model) -> None:
    sessions = [e2b.session(16) for _ in range(3)]
    for number, session in enumerate(sessions):
        session.feed_tokens(text(number, 3))
    empty, closed, full, hearing = e2b.session(16), e2b.session(16), e2b.session(2), e2b.session(64)
    closed.close()
    full.feed_tokens([2, 30])
    hearing.feed_tokens([2])
    hearing.stream_audio()
    with eg.Model.load(DATA / "e2b-Q4_0.gguf") as other_model:
        other = other_model.session(16)
        other.feed_tokens([2, 30])
        before = states(sessions)
        suppress_all = eg.Sampling(suppress=range(e2b.config.vocab_size))
        for company, options, message, code in (
            ([sessions[0]], {}, "twice", "argument"),
            ([other], {}, "item 3: the session belongs to another model", "argument"),
            ([closed], {}, "closed", "state"),
            ([empty], {}, "item 3: .*no logits before the first token", "state"),
            ([full], {}, "item 3: 1 more tokens do not fit", "context"),
            ([hearing], {}, "item 3: audio is open", "state"),
            ([], {"feed": [(sessions[1], [5])]}, "twice", "argument"),
            ([], {"feed": [(full, [5])]}, "do not fit", "context"),
            ([], {"feed": [(empty, [10**6])]}, "the vocabulary has", "argument"),
            ([], {"sampling": [GREEDY]}, "1 samplings for 3", "argument"),
            ([], {"masks": [None]}, "1 masks for 3", "argument"),
            ([], {"masks": [None, None, np.ones(5, bool)]}, "mask must be", "argument"),
            ([], {"sampling": [GREEDY, suppress_all, GREEDY]}, "no token can be drawn", "state"),
            ([], {"logprobs": 65}, "top_logprobs is 65", "argument"),
        ):
            with pytest.raises(eg.EdgeGemmaError, match=message) as caught:
                eg.next_tokens([*sessions, *company], **options)
            assert caught.value.code == code, message
            assert states(sessions) == before
            assert empty.tokens == [] and full.tokens == [2, 30] and other.tokens == [2, 30]
    assert [token.id for token in eg.next_tokens(sessions, GREEDY)] == [s.tokens[-1] for s in sessions]


def test_the_c_functions_check_what_they_get(e2b: eg.Model) -> None:
    """NULLs, and the same session twice, below the checks of the package."""
    session, err = e2b.session(16), new_struct("eg_error")
    session.feed_tokens([2, 30])
    token, raw = new_struct("eg_token"), session.pointer
    pair = ffi.new("eg_session *[]", [raw, raw])
    tokens = ffi.new("eg_token[2]", [{"struct_size": ffi.sizeof("eg_token")}] * 2)
    assert lib.eg_batch_next(pair, 2, ffi.NULL, tokens, err) == lib.EG_ERROR_ARGUMENT
    assert b"that of item 0 too" in ffi.string(err.message)
    assert lib.eg_batch_next(pair, 1, ffi.NULL, ffi.NULL, err) == lib.EG_ERROR_ARGUMENT
    assert lib.eg_batch_next(ffi.NULL, 1, ffi.NULL, token, err) == lib.EG_ERROR_ARGUMENT
    assert lib.eg_batch_next(pair, 10**6, ffi.NULL, token, err) == lib.EG_ERROR_ARGUMENT
    assert lib.eg_batch_next(ffi.NULL, 0, ffi.NULL, ffi.NULL, err) == lib.EG_OK
    assert lib.eg_batch_run(ffi.NULL, 1, err) == lib.EG_ERROR_ARGUMENT
    pair[1] = ffi.NULL
    assert lib.eg_batch_next(pair, 2, ffi.NULL, tokens, err) == lib.EG_ERROR_ARGUMENT
    assert session.tokens == [2, 30]
    # Two of four bytes more than this version knows: the stride is the caller's.
    fork = session.fork()
    pair[0], pair[1] = raw, fork.pointer
    size = ffi.sizeof("eg_token") + 16
    memory = ffi.new("char[]", 2 * size)
    for at in range(2):
        ffi.cast("eg_token *", ffi.addressof(memory, at * size)).struct_size = size
    session.seed(4)
    fork.seed(4)
    assert lib.eg_batch_next(pair, 2, ffi.NULL, ffi.cast("eg_token *", memory), err) == lib.EG_OK
    ids = [ffi.cast("eg_token *", ffi.addressof(memory, at * size)).id for at in range(2)]
    assert ids == [session.tokens[-1], fork.tokens[-1]] and ids[0] == ids[1]


def test_a_cancelled_session_leaves_the_others(e2b: eg.Model) -> None:
    """A request ends the call, and is used up; nobody has a token more, and the others go on without it."""
    sessions = [e2b.session(32) for _ in range(3)]
    for number, session in enumerate(sessions):
        session.feed_tokens(text(number, 3))
    before = states(sessions)
    sessions[1].cancel()
    with pytest.raises(eg.Cancelled):
        eg.next_tokens(sessions, GREEDY)
    assert states(sessions) == before
    eg.next_tokens(sessions, GREEDY)
    items, err = ffi.new("eg_batch_item[2]"), new_struct("eg_error")
    for at in range(2):
        items[at].struct_size = ffi.sizeof("eg_batch_item")
        items[at].session = sessions[at].pointer
    sessions[1].cancel()
    assert lib.eg_batch_run(items, 2, err) == lib.EG_CANCELLED
    assert [item.cancelled for item in items] == [False, True]


def test_cancelling_while_a_batch_runs(e2b: eg.Model) -> None:
    """From another thread, at any moment: afterwards every session is as if it had not taken part, or has what it evaluated."""
    sessions = [e2b.session(1024) for _ in range(2)]
    for number, session in enumerate(sessions):
        session.feed_tokens(text(number, 3))
    prompt = text(9, 900)
    done = cancelled = 0
    for number in range(30):
        reader = e2b.session(1024)
        timer = threading.Timer(0.002 * (number % 10), reader.cancel)
        timer.start()
        lengths = [session.position for session in sessions]
        try:
            eg.next_tokens(sessions, GREEDY, feed=[(reader, prompt)])
            done += 1
            assert reader.position == 900
        except eg.Cancelled:
            cancelled += 1
            assert [session.position for session in sessions] == lengths
            assert reader.tokens == prompt[: reader.position]
        timer.join()
    assert cancelled and done + cancelled == 30
    for number, session in enumerate(sessions):
        again = e2b.session(1024)
        again.feed_tokens(text(number, 3))
        assert [again.next(GREEDY).id for _ in range(done)] == session.tokens[3:]


# ---- at the same time -----------------------------------------------------------------------------------------------


def test_sessions_of_several_threads_share_a_model(e2b: eg.Model) -> None:
    """Calls that run at the same time, with priorities, give what they give alone."""

    def work(number: int, priority: int) -> tuple[list[int], bytes]:
        session = e2b.session(1024)
        session.priority = priority
        session.feed_tokens(text(number, 500))
        session.seed(number)
        for _ in range(20):
            session.next(WARM)
        return session.tokens, session.logits().tobytes()

    want = [work(number, 0) for number in range(4)]
    got: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda n=number: got.update({n: work(n, n % 2)})) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[number] for number in range(4)] == want


def test_work_spaces(e2b: eg.Model) -> None:
    """One for all sessions while calls come one after the other, and not more than there were calls at once."""
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", threads=2) as model:
        assert model.memory()["workspace"] == 0
        one = model.session(64)
        size = one.memory()["workspace"]
        assert 0 < size <= model.estimate()["workspace"]
        sessions = [one, *(model.session(64) for _ in range(10))]
        for session in sessions:
            session.feed_tokens([2, 30])
            session.next()
        eg.next_tokens(sessions)
        rows = 10 * 4 * model.config.vocab_size  # a row of logits for each session
        assert one.memory()["workspace"] == size + rows
        threads = [threading.Thread(target=session.feed_tokens, args=([5] * 40,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert size + rows <= one.memory()["workspace"] <= 11 * size + rows
        for session in sessions[1:]:
            session.close()
        assert one.memory()["workspace"] in (size, size + rows)  # one is left


def test_priorities() -> None:
    with eg.Model.load(DATA / "e2b-Q4_0.gguf") as model:
        session = model.session(16)
        assert session.priority == 0
        session.priority = 5
        assert session.fork().priority == 5
        for wrong in (1001, -1001):
            with pytest.raises(eg.EdgeGemmaError, match="priority"):
                session.priority = wrong
        assert session.priority == 5
