"""What an application changes while a model is open, and what it is told: threads, the log, versions, bounds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import check, ffi, lib, new_struct
from edge_gemma.errors import EdgeGemmaError
from support.paths import DATA, ROOT

IDS = [2, *range(20, 60)]


def threads_of(model: eg.Model) -> int:
    info = new_struct("eg_model_info")
    check(lib.eg_model_get_info(model.pointer, info, ffi.NULL), ffi.NULL)
    return int(info.threads)


def test_threads_change_nothing_but_the_time() -> None:
    err = new_struct("eg_error")
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", threads=3) as model, model.session(context=128) as session:
        found = []
        for threads in (3, 1, 2, 0):
            check(lib.eg_model_set_threads(model.pointer, threads, err), err)
            assert threads_of(model) == (threads or 3)
            session.rewind_to(0)
            session.feed_tokens(IDS)
            found.append(session.logits())
        assert all(np.array_equal(found[0], logits) for logits in found[1:])
        with pytest.raises(EdgeGemmaError, match="opened with 3"):
            check(lib.eg_model_set_threads(model.pointer, 4, err), err)
        assert threads_of(model) == 3


def test_the_log_tells_what_was_chosen() -> None:
    lines: list[str] = []

    @ffi.callback("void(void *, const char *)")
    def log(context: Any, line: Any) -> None:
        lines.append(ffi.string(line).decode())

    params, out, err = new_struct("eg_model_params"), ffi.new("eg_model **"), new_struct("eg_error")
    name = ffi.new("char[]", str(DATA / "e2b-Q4_0.gguf").encode())
    params.path, params.threads, params.log = name, 2, log
    check(lib.eg_model_open(params, out, err), err)
    lib.eg_model_close(out[0])
    assert len(lines) == 1 and f"{eg.isa} kernels, 2 threads" in lines[0] and "\n" not in lines[0]


def test_versions_and_bounds() -> None:
    header = (ROOT / "csrc" / "edge_gemma.h").read_text()
    version = re.findall(r"#define EG_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    assert ".".join(version) == ffi.string(lib.eg_version()).decode()
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", threads=1) as model:
        tokenizer = lib.eg_model_tokenizer(model.pointer)
        assert 12 + 3 < lib.eg_tokenizer_piece_capacity(tokenizer) + 12 <= lib.EG_TOKEN_TEXT_MAX


def test_the_last_reference_frees() -> None:
    """Of an encoder; those of sessions, chats, voices, streams and models are tests/c/use_close.c's."""
    err, out, written = new_struct("eg_error"), ffi.new("eg_image_encoder **"), ffi.new("size_t *")
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "vision-e2b.gguf", threads=1) as model:
        check(lib.eg_image_encoder_open(model.pointer, out, err), err)
        hidden = model.config.hidden_size
    lib.eg_image_encoder_retain(out[0])
    lib.eg_image_encoder_close(out[0])
    image, pixels, soft = new_struct("eg_image"), ffi.new("uint8_t[]", 3), ffi.new("float[]", 70 * hidden)
    image.rgb, image.width, image.height, image.max_tokens = pixels, 1, 1, 70
    check(lib.eg_image_encoder_run(out[0], image, soft, 70, written, err), err)
    assert written[0] > 0 and np.isfinite(np.frombuffer(ffi.buffer(soft), np.float32)).all()
    lib.eg_image_encoder_close(out[0])
