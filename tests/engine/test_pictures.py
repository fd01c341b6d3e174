"""The tokens of a picture in the decoder: in models without per-layer embeddings they see each other in local layers, however
many they are; compared with the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import check, ffi, lib, new_struct
from edge_gemma.reference.text import TextModel
from support.tiny_model import Shape, write_model

CONTEXT = 2048
SHAPES = {
    "dense": Shape([True, False, True, False], window=9, context=CONTEXT),
    "wide window": Shape([True, True, False], window=200, context=CONTEXT, kv_heads=[2, 2, 1]),
    "experts": Shape([True, False], window=30, experts=6, experts_used=3, context=CONTEXT),
    "per-layer embeddings": Shape([True, False, True, False], shared=2, ple=16, window=9, context=CONTEXT),
}


def soft(n: int, width: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, width)).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("sizes", [[40], [128, 129], [300, 1, 17]])
def test_pictures(name: str, sizes: list[int], tmp_path: Path) -> None:
    """Pictures smaller and larger than a block and a window, after each other with tokens between them."""
    path = write_model(tmp_path / "m.gguf", SHAPES[name])
    rng = np.random.default_rng(1)
    texts = [[2, *rng.integers(20, 200, 36).tolist()]] + [
        rng.integers(20, 200, 5 + n).tolist() for n in range(len(sizes))
    ]
    pictures = [soft(n, SHAPES[name].hidden) for n in sizes]
    with eg.Model.load(path, threads=3) as model:
        for kv, forked in (("f32", False), ("f32", True)):
            session = model.session(CONTEXT, kv=kv)
            session.feed_tokens(texts[0])
            for picture, after in zip(pictures, texts[1:], strict=True):
                session.feed_embeddings(picture, picture=True)
                if forked:
                    session = session.fork()
                    session.feed_embeddings(picture[:0], picture=True)
                session.feed_tokens(after)
            logits = session.logits()
            ids = session.tokens
            image = [at for at, number in enumerate(ids) if number < 0]
            rows = iter(np.concatenate(pictures))
            want = TextModel(path).forward(
                [max(number, 0) for number in ids], soft={at: next(rows) for at in image}, image=image, last=1
            )
            assert np.abs(logits - want[0]).max() < 2e-3
        causal = model.session(CONTEXT, kv="f32")
        causal.feed_tokens(texts[0])
        for picture, after in zip(pictures, texts[1:], strict=True):
            causal.feed_embeddings(picture)
            causal.feed_tokens(after)
        same = np.array_equal(causal.logits(), logits)
        assert same == (name == "per-layer embeddings")


def test_the_largest_picture(tmp_path: Path) -> None:
    """1,120 tokens are one block; its work space is given back. A session may be opened for less, and refuses more."""
    path = write_model(tmp_path / "m.gguf", SHAPES["dense"])
    with eg.Model.load(path, threads=2) as model:
        session = model.session(CONTEXT)
        session.feed_tokens([2, 30])
        before = session.memory()["workspace"]
        session.feed_embeddings(soft(1120, 64), picture=True)
        assert session.memory()["workspace"] == before
        with pytest.raises(eg.EdgeGemmaError, match="1120 at most") as caught:
            session.feed_embeddings(soft(1121, 64), picture=True)
        assert caught.value.code == "argument" and session.position == 1122
        params, err, out = new_struct("eg_session_params"), new_struct("eg_error"), ffi.new("eg_session **")
        params.context, params.picture = CONTEXT, 70
        sizes = [new_struct("eg_memory") for _ in range(2)]
        check(lib.eg_session_estimate(model.pointer, params, sizes[0], err), err)
        check(lib.eg_session_open(model.pointer, params, out, err), err)
        small = model.adopt(out[0])
        small.feed_embeddings(soft(70, 64), picture=True)
        with pytest.raises(eg.EdgeGemmaError, match="70 at most"):
            small.fork().feed_embeddings(soft(71, 64), picture=True)
        small.save(tmp_path / "s.snap")
        with pytest.raises(eg.EdgeGemmaError, match="70 at most"):
            model.session(restore=tmp_path / "s.snap").feed_embeddings(soft(71, 64), picture=True)
        params.picture = 0
        check(lib.eg_session_estimate(model.pointer, params, sizes[1], err), err)
        assert sizes[0].kv < sizes[1].kv
        params.picture = 1121
        assert lib.eg_session_open(model.pointer, params, out, err) == lib.EG_ERROR_ARGUMENT


def test_a_picture_after_the_ring_has_wrapped(tmp_path: Path) -> None:
    """The ring of a layer with a window has room for a block and the window before it, wherever it begins."""
    path = write_model(tmp_path / "m.gguf", SHAPES["wide window"])
    with eg.Model.load(path, threads=2) as model:
        want = None
        for cut in (1, 64, 500):
            session = model.session(CONTEXT)
            ids = [2, *np.random.default_rng(5).integers(20, 200, 1400).tolist()]
            for at in range(0, len(ids), cut):
                session.feed_tokens(ids[at : at + cut])
            session.feed_embeddings(soft(400, 64), picture=True)
            session.feed_tokens([30, 31])
            want = session.logits() if want is None else want
            assert np.array_equal(session.logits(), want)
        reference = TextModel(path).forward(
            [*ids, *[0] * 400, 30, 31],
            soft={1401 + n: row for n, row in enumerate(soft(400, 64))},
            image=range(1401, 1801),
            last=1,
        )
        assert np.abs(want - reference[0]).max() < 0.05  # an f16 cache
