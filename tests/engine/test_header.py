"""What the public header promises beyond results: structs of every size, options of zero, requests to cancel, files inside
files."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import check, ffi, file_params, lib, new_struct, pointer
from support.gguf_writer import Q8_0
from support.paths import DATA, ROOT
from support.tiny_model import VOCAB, Shape, model_writer, write_model

IDS = [2, *range(20, 40)]
#: Every struct of the header that begins with struct_size, and what to call to have it read or filled.
INPUTS = ["eg_file_params", "eg_model_params", "eg_session_params", "eg_sampling", "eg_audio_params", "eg_chat_message"]
INPUTS += ["eg_batch_item", "eg_image", "eg_reply_params", "eg_chat_params", "eg_chat_part", "eg_voice_params"]
OUTPUTS = ["eg_file_metadata", "eg_file_tensor", "eg_model_info", "eg_memory", "eg_token", "eg_stats", "eg_error"]
OUTPUTS += ["eg_reply_event", "eg_voice_event"]


@pytest.fixture(scope="module")
def model():
    """The small E2B with its encoder."""
    with eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "audio-e2b.gguf", threads=2) as opened:
        yield opened


@pytest.fixture
def session(model: eg.Model):
    """A session that has read IDS."""
    with model.session(context=256) as opened:
        opened.feed_tokens(IDS)
        yield opened


# ---- structs -----------------------------------------------------------------------------------------------------------


def padded(name: str, extra: int, fill: int) -> tuple[Any, Any]:
    """A struct of the header with so many bytes behind it, all of them `fill`, and the memory that holds it."""
    size = ffi.sizeof(name)
    memory = ffi.new("uint64_t[]", (size + extra) // 8 + 3)
    struct = ffi.cast(f"{name} *", memory)
    ffi.buffer(memory, size + extra)[size:] = bytes([fill]) * extra
    struct.struct_size = size + extra
    return struct, memory


def reader(name: str, session: eg.Session) -> Callable[[Any, Any], int]:
    """A call that reads the struct."""
    raw = session.model.pointer
    if name == "eg_file_params":
        out = ffi.new("eg_file **")
        return lambda struct, err: lib.eg_file_open(struct, out, err) or lib.eg_file_close(out[0]) or lib.EG_OK
    if name == "eg_model_params":
        made = ffi.new("eg_model **")
        return lambda struct, err: lib.eg_model_open(struct, made, err) or lib.eg_model_close(made[0]) or lib.EG_OK
    if name == "eg_session_params":
        return lambda struct, err: lib.eg_session_estimate(raw, struct, new_struct("eg_memory"), err)
    if name == "eg_sampling":
        return lambda struct, err: lib.eg_session_next(session.pointer, struct, new_struct("eg_token"), err)
    if name == "eg_audio_params":
        stream = ffi.new("eg_audio_stream **")
        return lambda struct, err: (
            lib.eg_audio_stream_open(raw, struct, stream, err) or lib.eg_audio_stream_close(stream[0]) or lib.EG_OK
        )
    if name == "eg_image":
        seeing = eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=DATA / "vision-e2b.gguf").session(context=2048)
        return lambda struct, err: lib.eg_session_feed_image(seeing.pointer, struct, err)
    if name == "eg_reply_params":
        reply = ffi.new("eg_reply **")
        return lambda struct, err: lib.eg_reply_open(struct, reply, err) or lib.eg_reply_close(reply[0]) or lib.EG_OK
    chat = ffi.new("eg_chat **")
    if name == "eg_chat_params":
        return lambda struct, err: lib.eg_chat_open(raw, struct, chat, err) or lib.eg_chat_close(chat[0]) or lib.EG_OK
    if name == "eg_chat_part":
        check(lib.eg_chat_open(raw, ffi.NULL, chat, ffi.NULL), ffi.NULL)
        opened = ffi.gc(chat[0], lib.eg_chat_close)
        return lambda struct, err: lib.eg_chat_add_parts(opened, struct, 1, err)
    voice = ffi.new("eg_voice **")
    if name == "eg_voice_params":
        return lambda struct, err: (
            lib.eg_voice_open(raw, struct, voice, err) or lib.eg_voice_close(voice[0]) or lib.EG_OK
        )
    if name == "eg_batch_item":
        return lambda struct, err: lib.eg_batch_run(struct, 1, err)
    length = ffi.new("size_t *")
    return lambda struct, err: lib.eg_chat_render(struct, 1, 0, ffi.NULL, 0, length, err)


def set_fields(name: str, struct: Any, session: eg.Session) -> list[Any]:
    """Makes a zeroed struct usable; returns what must stay alive."""
    kept = [ffi.new("char[]", str(DATA / "e2b-Q4_0.gguf").encode()), ffi.new("char[]", b"user")]
    if name in ("eg_file_params", "eg_model_params"):
        struct.path = kept[0]
    elif name == "eg_chat_message":
        struct.role = struct.content = kept[1]
    elif name == "eg_chat_part":
        struct.text = kept[1]
    elif name == "eg_batch_item":
        struct.session = session.pointer
    elif name == "eg_image":
        kept.append(ffi.new("uint8_t[]", 3))
        struct.width = struct.height = 1
        struct.rgb = kept[-1]
    return kept


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_any_size(name: str, session: eg.Session) -> None:
    """A newer caller may leave zero what this version does not know, and must not set it; a size of 0 is refused."""
    call, err = reader(name, session), new_struct("eg_error")
    for extra, fill, want in ((0, 0, lib.EG_OK), (24, 0, lib.EG_OK), (24, 1, lib.EG_ERROR_ARGUMENT)):
        struct, memory = padded(name, extra, fill)
        kept = set_fields(name, struct, session)
        assert call(struct, err) == want, ffi.string(err.message)
        assert kept
        assert memory
    text = ffi.string(err.message).decode()
    assert name in text
    assert "does not know" in text
    for size in (0, 3, 2**31):
        struct.struct_size = size
        assert call(struct, err) == lib.EG_ERROR_ARGUMENT
        text = ffi.string(err.message).decode()
        assert f"struct_size is {size}" in text
        assert f"sizeof({name})" in text
    assert call(ffi.NULL, err) in (lib.EG_OK, lib.EG_ERROR_ARGUMENT)  # defaults, where a function has them


def filler(name: str, session: eg.Session, file: Any) -> Callable[[Any, Any], int]:
    """A call that fills the struct."""
    if name == "eg_file_metadata":
        return lambda struct, err: lib.eg_file_get_metadata(file, 0, struct, err)
    if name == "eg_file_tensor":
        return lambda struct, err: lib.eg_file_get_tensor(file, 0, struct, err)
    if name == "eg_model_info":
        return lambda struct, err: lib.eg_model_get_info(session.model.pointer, struct, err)
    if name == "eg_memory":
        return lambda struct, err: lib.eg_session_get_memory(session.pointer, struct, err)
    if name == "eg_stats":
        return lambda struct, err: lib.eg_session_get_stats(session.pointer, struct, err)
    if name == "eg_reply_event":
        out = ffi.new("eg_reply **")
        check(lib.eg_reply_open(ffi.NULL, out, ffi.NULL), ffi.NULL)
        reply = ffi.gc(out[0], lib.eg_reply_close)
        return lambda struct, err: lib.eg_reply_next(reply, struct, err)
    if name == "eg_voice_event":
        voice_out = ffi.new("eg_voice **")
        check(lib.eg_voice_open(session.model.pointer, ffi.NULL, voice_out, ffi.NULL), ffi.NULL)
        voice = ffi.gc(voice_out[0], lib.eg_voice_close)
        return lambda struct, err: lib.eg_voice_step(voice, ffi.NULL, struct, err)
    if name == "eg_error":
        return lambda struct, err: lib.eg_session_rewind_to(session.pointer, 10**6, struct) and lib.EG_OK
    return lambda struct, err: lib.eg_session_next(session.pointer, ffi.NULL, struct, err)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_size(name: str, session: eg.Session) -> None:
    """An older caller's struct is filled up to its end and no byte further; what a newer one has in addition becomes zero."""
    out, err = ffi.new("eg_file **"), new_struct("eg_error")
    check(lib.eg_file_open(file_params(DATA / "e2b-Q4_0.gguf"), out, err), err)
    call, full = filler(name, session, out[0]), ffi.sizeof(name)
    for size in (12, full - 8, full, full + 24):
        session.rewind(session.position - len(IDS))
        struct, memory = padded(name, 40, 0x55)
        ffi.buffer(struct, full)[4:] = b"\x55" * (full - 4)
        struct.struct_size = size
        assert call(struct, err) == lib.EG_OK, ffi.string(err.message)
        bytes_now = bytes(ffi.buffer(memory, full + 40))
        assert struct.struct_size == size
        assert bytes_now[4 : min(size, full)] != b"\x55" * (min(size, full) - 4)
        assert bytes_now[full:size] == b"\0" * max(size - full, 0)
        assert bytes_now[size:] == b"\x55" * (full + 40 - size)
    for size in (0, 3, 2**31):
        struct.struct_size = size
        before = bytes(ffi.buffer(memory))
        if name == "eg_error":
            call(struct, err)
        else:
            assert call(struct, err) == lib.EG_ERROR_ARGUMENT
            assert f"set it to sizeof({name})" in ffi.string(err.message).decode()
        assert bytes(ffi.buffer(memory)) == before
    lib.eg_file_close(out[0])


def test_a_short_message_is_cut() -> None:
    """An error whose message has room for a few characters holds these and a zero."""
    struct, memory = padded("eg_error", 0, 0)
    struct.struct_size = 8 + 6
    assert lib.eg_model_open(ffi.NULL, ffi.NULL, struct) == lib.EG_ERROR_ARGUMENT == struct.status
    assert bytes(ffi.buffer(memory))[8:16] == b"out i\0\0\0"
    for size in (8, 9):  # no room for a character and its zero
        struct, memory = padded("eg_error", 0, 0)
        struct.struct_size = size
        before = bytes(ffi.buffer(memory))
        assert lib.eg_model_open(ffi.NULL, ffi.NULL, struct) == lib.EG_ERROR_ARGUMENT
        assert bytes(ffi.buffer(memory)) == before


def test_messages_lie_struct_size_apart() -> None:
    """Elements of an array are as far apart as the first one says; all must say the same."""
    size, length, err = ffi.sizeof("eg_chat_message"), ffi.new("size_t *"), new_struct("eg_error")
    memory, texts = ffi.new("uint8_t[]", 3 * (size + 8)), [ffi.new("char[]", b"user"), ffi.new("char[]", b"hello")]
    for i in range(3):
        message = ffi.cast("eg_chat_message *", memory + i * (size + 8))
        message.struct_size, message.role, message.content = size + 8, texts[0], texts[1]
    first, text = ffi.cast("eg_chat_message *", memory), ffi.new("char[]", 200)
    check(lib.eg_chat_render(first, 3, 0, text, 200, length, err), err)
    assert ffi.string(text) == b"<bos>" + 3 * b"<|turn>user\nhello<turn|>\n"
    message.struct_size = size
    assert lib.eg_chat_render(first, 3, 0, text, 200, length, err) == lib.EG_ERROR_ARGUMENT
    assert "messages[2].struct_size" in ffi.string(err.message).decode()


def test_new_struct_sets_every_size() -> None:
    """Python's helper states the size of every struct that has one, and the lists above name them all."""
    for name in INPUTS + OUTPUTS:
        assert new_struct(name).struct_size == ffi.sizeof(name)
    headers = "".join((ROOT / "csrc" / name).read_text() for name in ("edge_gemma.h", "edge_gemma_chat.h"))
    structs = re.findall(r"^typedef struct \w+ \{(.*?)^\} (\w+);", headers, re.S | re.M)
    assert {name for body, name in structs if body.strip().startswith("uint32_t struct_size;")} == set(INPUTS + OUTPUTS)
    assert {name for _, name in structs} - set(INPUTS + OUTPUTS) == {
        "eg_logit_bias",
        "eg_logprob",
    }  # elements of fixed size


# ---- sampling ----------------------------------------------------------------------------------------------------------


def drawn(session: eg.Session, sampling: Any, n: int = 30, seed: int = 5) -> list[int]:
    """n tokens from after IDS."""
    token, err, found = new_struct("eg_token"), new_struct("eg_error"), []
    session.rewind(session.position - len(IDS))
    lib.eg_session_seed(session.pointer, seed)
    for _ in range(n):
        check(lib.eg_session_next(session.pointer, sampling, token, err), err)
        found.append(token.id)
    return found


def test_defaults_of_sampling(session: eg.Session) -> None:
    """NULL, eg_sampling_default, and Python's defaults are one distribution, which is not the greedy one."""
    sampling = new_struct("eg_sampling")
    lib.eg_sampling_default(sampling)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1, 64, np.float32(0.95))
    assert sampling.struct_size == ffi.sizeof("eg_sampling")
    want = drawn(session, sampling)
    assert drawn(session, ffi.NULL) == want != drawn(session, new_struct("eg_sampling"))
    session.rewind(session.position - len(IDS))
    for _ in session.generate(max_tokens=1, seed=5):
        pass
    assert session.tokens[-1] == want[0]
    sampling.struct_size = 0
    sampling.top_k = 3
    lib.eg_sampling_default(sampling)  # cannot know how much is there
    lib.eg_sampling_default(ffi.NULL)
    assert sampling.top_k == 3


def test_zeroed_sampling_is_greedy(session: eg.Session) -> None:
    """Zero is off for every option; penalties, biases and suppressed ids count with greedy decoding too."""
    zero = new_struct("eg_sampling")
    best = int(session.logits().argmax())
    assert drawn(session, zero, 1) == drawn(session, zero, 1, seed=9) == [best]
    never = ffi.new("int32_t[]", [best])
    zero.suppress, zero.n_suppress = never, 1
    second = drawn(session, zero, 1)[0]
    assert second != best
    bias = ffi.new("eg_logit_bias[]", [{"id": 77, "bias": 1e4}])
    zero.biases, zero.n_biases = bias, 1
    assert drawn(session, zero, 1) == [77]
    plain, penalty = new_struct("eg_sampling"), new_struct("eg_sampling")
    penalty.presence_penalty = 1e4
    assert len(set(drawn(session, penalty, 12))) == 12
    assert len(set(drawn(session, plain, 12))) < 12


def test_zero_is_off_when_drawing(session: eg.Session) -> None:
    """A temperature alone draws from all tokens, as 1 does for top_p and a number beyond the vocabulary for top_k."""
    alone, off = new_struct("eg_sampling"), new_struct("eg_sampling")
    alone.temperature = off.temperature = 1.5
    off.top_k, off.top_p, off.repetition_penalty, off.penalty_window = 2**32 - 1, 1, 1, 64
    assert drawn(session, alone, 60) == drawn(session, off, 60)
    wrong, err = new_struct("eg_sampling"), new_struct("eg_error")
    for field, value in (("temperature", -1), ("temperature", np.nan), ("top_p", 1.5), ("text_flags", 2)):
        wrong = new_struct("eg_sampling")
        setattr(wrong, field, value)
        token = new_struct("eg_token")
        assert lib.eg_session_next(session.pointer, wrong, token, err) == lib.EG_ERROR_ARGUMENT
        assert field in ffi.string(err.message).decode()


# ---- cancelling --------------------------------------------------------------------------------------------------------


def test_cancel_ends_the_next_call(session: eg.Session) -> None:
    """Without a running call a request waits for the next one that computes, which uses it up; others leave it."""
    row = np.zeros((1, session.model.config.hidden_size), np.float32)
    for call in (
        lambda: session.feed_tokens([20]),
        lambda: session.feed_tokens([]),
        lambda: session.feed_text("a"),
        lambda: session.feed_embeddings(row),
        lambda: session.forward([20]),
        lambda: session.logits(),
        lambda: session.feed_audio(np.zeros(2000)),
        lambda: session.stream_audio(),
    ):
        session.cancel()
        session.cancel()
        assert session.position == len(IDS)
        assert session.stats["decode_tokens"] == 0
        session.rewind(0)
        session.fork().logits()  # a fork has no part in it
        with pytest.raises(eg.Cancelled):
            call()
        assert session.tokens == IDS
        assert session.audio is None
    want = session.logits()
    session.cancel()
    generation = session.generate(3)
    assert (generation.text, generation.stop) == ("", "cancelled")
    assert session.tokens == IDS
    assert np.array_equal(session.logits(), want)


def test_cancel_ends_open_audio(session: eg.Session) -> None:
    """Audio is over after push and after end alike; the position tells what was kept."""
    for finish in (False, True):
        audio = session.stream_audio()
        audio.push(np.zeros(16000))
        kept = session.position
        session.cancel()
        with pytest.raises(eg.Cancelled):
            if finish:
                audio.finish()
            else:
                audio.push(np.zeros(10))
        assert session.audio is None
        assert session.position == kept
        session.rewind(kept - len(IDS))
    assert session.tokens == IDS


def test_cancel_of_a_stream_ends_its_next_call(model: eg.Model) -> None:
    """Push and finish; the recording is lost, and a reset makes the stream usable."""
    with model.audio_encoder() as stream:
        for call in (lambda: stream.push(np.zeros(5000)), lambda: stream.finish()):
            stream.cancel()
            stream.reset()  # is no such call
            with pytest.raises(eg.Cancelled):
                call()
            with pytest.raises(eg.EdgeGemmaError, match="reset"):
                stream.push(np.zeros(10))
            stream.reset()
        stream.push(np.zeros(5000))
        stream.finish()


def test_cancel_from_another_thread(tmp_path: Path) -> None:
    """One request stops a long prefill early; what was kept is a clean prefix from which the session goes on."""
    shape = Shape([True, False] * 12, hidden=256, ffn=[1024] * 24, context=8192, type=Q8_0)
    with eg.Model.load(write_model(tmp_path / "deep.gguf", shape), threads=1) as m:
        ids = np.concatenate([[2], np.random.default_rng(1).integers(8, VOCAB, 5998)]).astype(np.int32)
        s, err = m.session(context=8192), new_struct("eg_error")
        worker = threading.Timer(0.05, s.cancel)
        worker.start()
        start = time.monotonic()
        status = lib.eg_session_feed_tokens(s.pointer, pointer(ids, "int32_t *"), ids.size, err)
        took = time.monotonic() - start
        worker.join()
        assert status == lib.EG_CANCELLED
        assert ffi.string(err.message) == b"cancelled."
        kept = s.position
        assert kept < ids.size, took
        assert s.tokens == ids[:kept].tolist()
        s.feed_tokens(ids[kept : kept + 5])  # the request is used up
        fresh = m.session(context=8192)
        fresh.feed_tokens(ids[: kept + 5])
        assert np.array_equal(s.logits(), fresh.logits())


def test_no_request_is_lost(session: eg.Session) -> None:
    """However it falls on running calls and the time between them, a request stops exactly one call."""
    stopped = 0
    for delay in np.linspace(0, 0.004, 20):
        worker = threading.Timer(delay, session.cancel)
        worker.start()
        for _ in range(100000):
            try:
                session.feed_tokens([21, 22])
                session.rewind(session.position - len(IDS))
            except eg.Cancelled:
                stopped += 1
                break
        worker.join()
        session.rewind(session.position - len(IDS))
        session.feed_tokens([])
    assert stopped == 20


# ---- going back --------------------------------------------------------------------------------------------------------


def test_rewind_to(session: eg.Session) -> None:
    """To any position up to the present one; beyond it nothing changes."""
    err, want = new_struct("eg_error"), session.logits()
    session.feed_tokens([50, 51, 52])
    check(lib.eg_session_rewind_to(session.pointer, len(IDS) + 3, err), err)
    assert session.position == len(IDS) + 3
    assert lib.eg_session_rewind_to(session.pointer, len(IDS) + 4, err) == lib.EG_ERROR_ARGUMENT
    check(lib.eg_session_rewind_to(session.pointer, len(IDS), err), err)
    assert session.tokens == IDS
    assert np.array_equal(session.logits(), want)
    with pytest.raises(ValueError, match="cannot go back by 22"):
        session.rewind(len(IDS) + 1)


def test_abort_drops_audio(session: eg.Session) -> None:
    """The timeline is as before the begin, and works; without open audio there is nothing to abort."""
    err, want = new_struct("eg_error"), session.logits()
    for n in (0, 100, 20000, 40000):
        audio = session.stream_audio()
        audio.push(np.linspace(-0.1, 0.1, n))
        assert lib.eg_session_rewind_to(session.pointer, 3, err) == lib.EG_ERROR_STATE
        audio.abandon()
        assert session.audio is None
        assert session.tokens == IDS
        assert np.array_equal(session.logits(), want)
        audio.abandon()  # does nothing
    assert lib.eg_session_audio_abort(session.pointer, err) == lib.EG_ERROR_STATE
    session.feed_audio(np.zeros(3000))
    session.logits()


def test_abort_where_the_timeline_cannot_go_back(model: eg.Model) -> None:
    """The windows have left the place, and sound before it cannot be evaluated again: the audio is over, and what was heard
    stays."""
    with model.session(context=4096) as s:
        s.feed_text("<bos>")
        s.feed_audio(np.zeros(5000))
        audio = s.stream_audio()
        audio.push(np.zeros(16000 * 60))
        before = s.position
        with pytest.raises(eg.EdgeGemmaError) as caught:
            audio.abandon()
        assert caught.value.code == "state"
        assert s.audio is None
        assert s.position == before > 1000
        s.feed_text("<audio|>")
        assert np.isfinite(s.logits()).all()
        with pytest.raises(KeyError), s.stream_audio() as audio:  # the exception comes through
            audio.push(np.zeros(16000 * 60))
            raise KeyError


# ---- files inside files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 4096, 13])
@pytest.mark.parametrize("to_the_end", [False, True])
def test_files_and_tokenizers_by_descriptor(offset: int, to_the_end: bool, tmp_path: Path) -> None:
    """At any byte of another file; the descriptor is not needed afterwards."""
    data = model_writer(Shape([True, False])).build()
    plain, packed = tmp_path / "m.gguf", tmp_path / "asset"
    plain.write_bytes(data)
    packed.write_bytes(b"x" * offset + data + (b"" if to_the_end else b"y" * 77))
    file, tokenizer, err = ffi.new("eg_file **"), ffi.new("eg_tokenizer **"), new_struct("eg_error")
    with packed.open("rb") as opened:
        params = new_struct("eg_file_params")
        params.fd, params.offset, params.length = opened.fileno(), offset, 0 if to_the_end else len(data)
        check(lib.eg_file_open(params, file, err), err)
        check(lib.eg_tokenizer_open(params, tokenizer, err), err)
        params.offset = offset + 1
        assert lib.eg_file_open(params, file, err) != lib.EG_OK
        assert lib.eg_tokenizer_open(params, tokenizer, err) != lib.EG_OK
    with eg.GGUFFile(plain) as want:
        assert lib.eg_file_metadata_count(file[0]) == len(want.metadata)
        tensor = new_struct("eg_file_tensor")
        check(lib.eg_file_get_tensor(file[0], len(want.tensors) - 1, tensor, err), err)
        assert ffi.buffer(tensor.name, tensor.name_length)[:].decode() == want.tensors[-1].name
        assert tensor.bytes == want.tensors[-1].bytes
        assert ffi.buffer(tensor.data, tensor.bytes)[:] in data
    ids, n = ffi.new("int32_t[]", 20), ffi.new("size_t *")
    check(lib.eg_tokenizer_encode(tokenizer[0], b"hello", 5, 0, ids, 20, n, err), err)
    assert ffi.unpack(ids, n[0]) == eg.Tokenizer.load(plain).encode("hello")
    lib.eg_file_close(file[0])
    lib.eg_tokenizer_close(tokenizer[0])
