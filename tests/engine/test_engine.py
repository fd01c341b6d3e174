"""The engine against the NumPy reference on shapes of every kind, and its own promises: results that depend neither on
threads, nor on how a prompt was cut, nor on the road that a session took."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.engine.native import check, ffi, lib, new_struct
from edge_gemma.engine.sampling import GREEDY
from edge_gemma.reference.text import TextModel
from support.gguf_writer import BF16, Q8_0, Writer, write_split
from support.tiny_model import SHAPES, VOCAB, Shape, model_writer, write_model


def prompt(n: int, seed: int = 1) -> np.ndarray:
    """n random ids, <bos> first."""
    return np.concatenate([[2], np.random.default_rng(seed).integers(8, VOCAB, n - 1)])


def rms(x: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for models that a whole file of tests shares."""
    return tmp_path_factory.mktemp("models")


#: Per-layer inputs, shared K/V, both kinds of layers, quantized: what the tests of behaviour run on.
RICH = Shape(
    [True, True, False, True, True, False],
    shared=2,
    ple=32,
    heads=4,
    kv_heads=[2] * 6,
    window=9,
    type=Q8_0,
    context=1024,
)


@pytest.fixture(scope="module")
def model(folder: Path):
    """The RICH model, on two threads."""
    with eg.Model.load(write_model(folder / "rich.gguf", RICH), threads=2) as opened:
        yield opened


# ---- equal to the reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_equals_reference(name: str, folder: Path) -> None:
    """F32 weights, f32 cache: float rounding is all that may differ, in every layer."""
    path = write_model(folder / f"{name}.gguf", SHAPES[name])
    ids = prompt(70)
    expected, states = TextModel(path).forward(ids, hidden=True)
    with eg.Model.load(path, threads=2) as m:
        got = m.session(context=128, kv="f32").forward(ids)
        hidden = m.session(context=128, kv="f32").hidden_states(ids)
    assert rms(got - expected) < 2e-5 * max(1, rms(expected))
    for layer, (a, b) in enumerate(zip(hidden, states, strict=True)):
        assert rms(a - b) < 2e-5 * rms(b), f"layer {layer}"


@pytest.mark.parametrize(("kind", "limit"), [(BF16, 2e-5), (Q8_0, 0.1)])
def test_weight_types(kind: int, limit: float, folder: Path) -> None:
    """16-bit weights are exact; 8-bit ones multiply activations rounded to 8 bits, an error of 0.6% in each product that
    these sharply attending random models amplify about tenfold (the fixtures hold it against another engine's)."""
    path = write_model(folder / f"type{kind}.gguf", Shape([True, False, True, False], shared=2, ple=32, type=kind))
    ids = prompt(40)
    expected = TextModel(path).forward(ids)
    with eg.Model.load(path, threads=1) as m:
        assert rms(m.session(kv="f32", context=64).forward(ids) - expected) < limit * rms(expected)


@pytest.mark.parametrize(("kv", "limit"), [("f16", 0.02), ("q8", 0.2)])
def test_cache_types(kv: str, limit: float, folder: Path) -> None:
    """A rounded cache moves the logits by its rounding, 2^-12 for f16 and 1/254 of the largest of 32 for q8, amplified
    as above."""
    ids = prompt(200)
    with eg.Model.load(write_model(folder / "cache.gguf", SHAPES["plain"])) as m:
        exact = m.session(kv="f32", context=256).forward(ids)
        error = rms(m.session(kv=kv, context=256).forward(ids) - exact) / rms(exact)
    assert limit / 100 < error < limit


# ---- the same bits, whatever the road --------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_any_cut_and_any_thread_count(kv: str, folder: Path, model: eg.Model) -> None:
    """Fed whole, token by token, in odd pieces, with 1 to 4 threads, or through forward: the same logits to the bit."""
    ids = prompt(300)
    whole = model.session(kv=kv, context=512)
    whole.feed_tokens(ids)
    expected = whole.logits()
    assert np.array_equal(model.session(kv=kv, context=512).forward(ids)[-1], expected)
    for threads in (1, 2, 4):
        with eg.Model.load(model.path, threads=threads) as m:
            for step in (1, 7, 128, 131):
                s = m.session(kv=kv, context=512)
                for start in range(0, len(ids), step):
                    s.feed_tokens(ids[start : start + step])
                    if start % 3 == 0:
                        s.logits()
                assert np.array_equal(s.logits(), expected), (threads, step)


def test_any_cut_experts(folder: Path) -> None:
    """Experts gather tokens of a block; the block must not show."""
    path = write_model(folder / "moe.gguf", Shape([True, False], heads=4, experts=6, experts_used=3, type=Q8_0))
    ids = prompt(150)
    with eg.Model.load(path, threads=2) as m:
        expected = m.session(context=256).forward(ids)
        s = m.session(context=256)
        rows = np.concatenate([s.forward(ids[a : a + 11]) for a in range(0, 150, 11)])
    assert np.array_equal(rows, expected)


def test_context_size_does_not_show(model: eg.Model) -> None:
    """A context shorter than the rings and a longer one agree."""
    ids = prompt(100)
    assert np.array_equal(model.session(context=100).forward(ids), model.session(context=1024).forward(ids))


def test_rewind(model: eg.Model) -> None:
    """Back by a little (the rings remember), by a lot (evaluated again), to the start; with drawn tokens waiting."""
    ids = prompt(500)
    for keep in (0, 1, 2, 5, 250, 371, 372, 400, 499, 500):
        fresh = model.session(context=512)
        fresh.feed_tokens(np.concatenate([ids[:keep], [9, 10]]))
        s = model.session(context=512)
        s.feed_tokens(ids)
        list(s.generate(3, temperature=0))
        s.rewind(s.position - keep)
        assert s.position == keep
        assert s.tokens == ids[:keep].tolist()
        if 0 < keep < 500:
            again = model.session(context=512)
            again.feed_tokens(ids[:keep])
            assert np.array_equal(s.logits(), again.logits())
        s.feed_tokens([9, 10])
        assert np.array_equal(s.logits(), fresh.logits()), keep
    with pytest.raises(ValueError, match="cannot go back by 503"):
        s.rewind(503)
    s.rewind(s.position)
    with pytest.raises(eg.EdgeGemmaError, match="before the first token"):
        s.logits()


def test_fork(model: eg.Model) -> None:
    """A fork goes on as its parent would have, and neither sees the other."""
    s = model.session(context=512)
    s.feed_tokens(prompt(200))
    twin = s.fork()
    a = "".join(s.generate(30, seed=5))
    assert "".join(twin.generate(30, seed=5)) == a
    twin.feed_tokens(prompt(150, seed=3))
    b = s.fork()
    assert np.array_equal(b.logits(), s.logits())
    assert b.tokens == s.tokens
    assert twin.position == s.position + 150


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
@pytest.mark.parametrize(
    ("n", "back", "saved", "restored"), [(60, 0, 100, 512), (300, 40, 512, 310), (300, 0, 512, None)]
)
def test_snapshot(
    kv: str, n: int, back: int, saved: int, restored: int | None, model: eg.Model, tmp_path: Path
) -> None:
    """Restored, also with another context: the same logits to the bit, the same random text, the same rewinds."""
    s = model.session(context=saved, kv=kv)
    s.feed_tokens(prompt(n))
    list(s.generate(4))
    s.rewind(back)
    s.save(tmp_path / "s.snap")
    t = model.session(context=restored, restore=tmp_path / "s.snap")
    assert (t.position, t.tokens, t.context) == (s.position, s.tokens, restored or saved)
    a, b = s.fork(), t.fork()
    for x in (a, b):
        x.rewind(20)
    assert np.array_equal(a.logits(), b.logits())
    assert list(s.generate(6)) == list(t.generate(6))
    assert np.array_equal(s.logits(), t.logits())


def test_snapshot_refused(model: eg.Model, folder: Path, tmp_path: Path) -> None:
    """Another model's, a cut one, a changed one, no snapshot at all; a failed save leaves the old file."""
    s = model.session(context=64)
    s.feed_tokens(prompt(20))
    path = tmp_path / "s.snap"
    s.save(path)
    other = write_model(folder / "other.gguf", Shape(**{**RICH.__dict__, "seed": 7}))
    with eg.Model.load(other) as m, pytest.raises(ValueError, match="another model"):
        m.session(restore=path)
    data = path.read_bytes()
    for bad in (data[:-1], data[:50], data + b"x", data[:400] + bytes([data[400] ^ 1]) + data[401:], b"", b"x" * 500):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(eg.EdgeGemmaError):
            model.session(restore=tmp_path / "bad")
    with pytest.raises(OSError, match="could not be opened"):
        model.session(restore=tmp_path / "absent")
    with pytest.raises(OSError, match="could not be written"):
        s.save(tmp_path / "no" / "such" / "folder")
    with pytest.raises(eg.EdgeGemmaError, match="more than a context of 10"):
        model.session(context=10, restore=path)


def test_soft_tokens(model: eg.Model, folder: Path) -> None:
    """Rows of embeddings between tokens equal the reference; a rewind stops where it would need them again."""
    path = write_model(folder / "soft.gguf", Shape([True, False, True, False], shared=2, ple=16))
    rng, ids = np.random.default_rng(0), prompt(40)
    soft = rng.standard_normal((15, 64)).astype(np.float32)
    expected = TextModel(path).forward(ids, soft={10 + i: row for i, row in enumerate(soft)})
    with eg.Model.load(path) as m:
        s = m.session(context=512, kv="f32")
        s.feed_tokens(ids[:10])
        s.feed_embeddings(soft[:4])
        s.feed_embeddings(soft[4:])
        assert rms(s.logits() - expected[24]) < 2e-5 * rms(expected)
        assert s.tokens[8:26] == [*ids[8:10].tolist(), *[-1] * 15]
        s.feed_tokens(ids[25:])
        assert rms(s.logits() - expected[39]) < 2e-5 * rms(expected)
        s.rewind(15)
        with pytest.raises(eg.EdgeGemmaError, match="soft"):
            s.logits()
        s.feed_tokens(ids[25:])
        assert rms(s.logits() - expected[39]) < 2e-5 * rms(expected)
        s.feed_tokens(prompt(300))
        with pytest.raises(eg.EdgeGemmaError, match="soft tokens"):
            s.rewind(310)
        assert s.position == 340


# ---- limits, cancelling, reports -------------------------------------------------------------------------------------


def test_context_overflow(model: eg.Model) -> None:
    """An error that says what to do, before anything was added."""
    s = model.session(context=200)
    s.feed_tokens(prompt(190))
    with pytest.raises(ValueError, match="larger context, rewind") as caught:
        s.feed_tokens(prompt(11))
    assert caught.value.code == "context"
    assert s.position == 190
    with pytest.raises(ValueError, match="200 are in use"):
        list(s.generate(20, temperature=0, suppress=[1, 6, 7]))
    assert s.position == 200
    s.rewind(100)
    s.feed_tokens(prompt(50))
    s.logits()


def test_bad_arguments(model: eg.Model) -> None:
    """Each names what is wrong."""
    s = model.session(context=64)
    for ids in ([VOCAB], [-1], [[1, 2]], [0.5], [2**40]):
        with pytest.raises(ValueError, match="ids"):
            s.feed_tokens(ids)
    with pytest.raises(ValueError, match="ids"):
        s.feed_tokens(np.full(40, VOCAB))
    assert s.position == 0
    s.feed_tokens([])
    for options in (
        {"temperature": -1},
        {"top_p": 2},
        {"min_p": float("nan")},
        {"repetition_penalty": 0},
        {"stop": [""]},
        {"top_k": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            s.generate(**options)
    with pytest.raises(ValueError, match="kv is 'f8'"):
        model.session(kv="f8")
    for context in (0, 1025, -1):
        with pytest.raises(ValueError, match="context is"):
            model.session(context=context)
    with pytest.raises(ValueError, match="embeddings has shape"):
        s.feed_embeddings(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="threads"):
        eg.Model.load(model.path, threads=0)


def test_sessions_in_threads(model: eg.Model) -> None:
    """Several sessions of one model at once give what each gives alone."""
    ids = [prompt(120, seed=i) for i in range(4)]
    expected = [model.session(context=256).forward(x)[-1] for x in ids]
    got: list[np.ndarray | None] = [None] * 4

    def run(i: int) -> None:
        s = model.session(context=256)
        for a in range(0, 120, 10):
            s.feed_tokens(ids[i][a : a + 10])
        got[i] = s.logits()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(expected, got, strict=True):
        assert np.array_equal(a, b)


def test_reports(model: eg.Model) -> None:
    """Sizes and counts are what they say."""
    s = model.session(context=300, kv="f32")
    s.feed_tokens(prompt(100))
    list(s.generate(5, temperature=0, suppress=[1, 6, 7]))
    assert s.stats["prefill_tokens"] == 100
    assert s.stats["decode_tokens"] == 5
    assert s.stats["prefill_seconds"] > 0 < s.stats["decode_seconds"]
    memory = s.memory()
    assert memory["mapped"] == model.path.stat().st_size
    assert 0 < memory["resident"] <= memory["mapped"] + 4096
    assert memory["kv"] == model.estimate(300, "f32")["kv"]
    # 4 owners: rings of 9 + 128 positions for 3 of them, 300 for the global one; 2 heads, K and V, 4 bytes
    assert memory["kv"] == 3 * 137 * 2 * 16 * 2 * 4 + 300 * 2 * 32 * 2 * 4
    assert model.config.layers == 6
    assert model.config.kv_layers == 4


def test_closing(folder: Path) -> None:
    """Closed objects say so; closing twice is fine; a model closes its sessions."""
    m = eg.Model.load(write_model(folder / "closing.gguf", Shape([False])))
    s = m.session(context=16)
    m.close()
    m.close()
    with pytest.raises(eg.EdgeGemmaError, match="closed"):
        s.feed_tokens([2])
    with pytest.raises(eg.EdgeGemmaError, match="closed"):
        m.session()
    with pytest.raises(eg.EdgeGemmaError, match="closed"):
        m.tokenizer.encode("a")


def test_a_dropped_model_is_freed_at_once(folder: Path) -> None:
    """No reference cycle keeps the mapping; a session or a tokenizer in use keeps what it needs."""
    path = write_model(folder / "dropped.gguf", Shape([False]))

    def mapped() -> bool:
        return "dropped.gguf" in Path("/proc/self/maps").read_text()

    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not list mappings")
    m = eg.Model.load(path)
    s, t = m.session(context=16), m.tokenizer
    del m
    s.feed_tokens([2])
    assert mapped()
    del s
    assert t.encode("hello")
    assert mapped()
    del t
    assert not mapped()


def test_chat_on_the_real_engine(model: eg.Model) -> None:
    """Turns reuse what the session holds, a reset leaves nothing behind, and media are refused before anything is lost."""
    chat = model.chat("Be brief.", context=512, sampling=GREEDY, max_tokens=6, template=BUILTIN_TEMPLATE)
    done = list(chat.send("hello"))[-1]
    assert done.kind == "done"
    first = done.stats
    again = list(chat.send("world"))[-1].stats
    assert again["reused_tokens"] >= first["prompt_tokens"] - 2
    said = [m["content"] for m in chat.history]
    chat.reset()
    for text in ("hello", "world"):
        list(chat.send(text))
    assert [m["content"] for m in chat.history] == said
    with pytest.raises(ValueError, match="mmproj") as caught:
        chat.send("hear this", audio=np.zeros(100, np.float32))
    assert caught.value.code == "unsupported"
    assert len(chat.history) == 4


def test_a_split_model(folder: Path) -> None:
    """Tensors in three files are the same model."""
    shape = Shape([True, False, True, False], shared=2, ple=16, type=Q8_0)
    whole = model_writer(shape)
    parts = [Writer(entries=whole.entries), Writer(), Writer()]
    for i, tensor in enumerate(whole.tensors):
        parts[i % 3].tensors.append(tensor)
    first = write_split(folder, "split", parts)[0]
    ids = prompt(30)
    with eg.Model.load(first) as split, eg.Model.load(write_model(folder / "whole.gguf", shape)) as m:
        assert np.array_equal(split.session().forward(ids), m.session().forward(ids))
        assert split.config.parameters == m.config.parameters


@pytest.mark.parametrize("offset", [0, 4096, 13])
def test_a_model_inside_another_file(offset: int, folder: Path) -> None:
    """By descriptor, offset and length, as applications open their assets; also where nothing is aligned."""
    data = model_writer(SHAPES["experts"]).build()
    path = folder / f"asset{offset}"
    path.write_bytes(b"x" * offset + data + b"y" * 77)
    ids = prompt(20).astype(np.int32)
    with eg.Model.load(write_model(folder / "experts.gguf", SHAPES["experts"])) as m:
        expected = m.session(context=32).forward(ids)
    with path.open("rb") as file:
        params, out, err = new_struct("eg_model_params"), ffi.new("eg_model **"), new_struct("eg_error")
        params.fd, params.offset, params.length, params.threads = file.fileno(), offset, len(data), 2
        check(lib.eg_model_open(params, out, err), err)
    with eg.Model(out[0], path) as m:  # the descriptor is closed by now: the mapping stays
        assert np.array_equal(m.session(context=32).forward(ids), expected)
