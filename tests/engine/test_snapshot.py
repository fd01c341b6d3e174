"""The file format of snapshots, byte by byte: it outlives the program that wrote it. That a restored session goes on exactly
as the saved one is tested in test_engine.py."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.native import check, ffi, lib, new_struct
from support.tiny_model import Shape, write_model

#: Name, offset and struct format of each field before the tokens. All numbers are little endian.
FIELDS = [
    ("magic", 0, "8s"),
    ("version", 8, "I"),
    ("kv", 12, "I"),
    ("fingerprint", 16, "Q"),
    ("context", 24, "Q"),
    ("length", 32, "Q"),
    ("evaluated", 40, "Q"),
    ("high", 48, "Q"),
    ("picture", 56, "I"),
    ("random", 60, "Q"),
    ("has_last", 68, "I"),
    ("n_held", 72, "I"),
    ("held", 76, "4s"),
]
TOKENS = 80
SEED = 0x0123456789ABCDEF


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """Two layers, of which one has a window; hidden size 64, one K/V head of 16 and of 32."""
    path = write_model(tmp_path_factory.mktemp("model") / "m.gguf", Shape([True, False]))
    with eg.Model.load(path, threads=1) as opened:
        yield opened


def half_character(model: eg.Model, kv: str = "f16") -> eg.Session:
    """A session of 6 tokens whose last one, drawn and not evaluated, is the first byte of a character of three."""
    session = model.session(context=40, kv=kv)
    session.feed_tokens([2, 20, 21, 22, 23])
    byte = model.tokenizer.find("<0xE2>")
    assert list(session.generate(1, temperature=0, logit_bias={byte: 1e4})) == []
    lib.eg_session_seed(session.pointer, SEED)
    return session


def saved(session: eg.Session, folder: Path) -> bytes:
    """The bytes of its snapshot."""
    session.save(folder / "s.snap")
    return (folder / "s.snap").read_bytes()


def fnv(data: bytes) -> int:
    """The hash at the end: FNV-1a over words of 8 bytes, folded, and over single bytes at the end of each write."""
    value, prime, mask = 0, 0x100000001B3, 2**64 - 1
    at = 0
    for size in writes(data):
        part, at = data[at : at + size], at + size
        for i in range(0, size - size % 8, 8):
            value = (value ^ int.from_bytes(part[i : i + 8], "little")) * prime & mask
            value ^= value >> 32
        for byte in part[size - size % 8 :]:
            value = (value ^ byte) * prime & mask
    return value


def writes(data: bytes) -> list[int]:
    """Sizes of the parts of the file of half_character, in order."""
    header = [8, 4, 4, 8, 8, 8, 8, 8, 4, 8, 4, 4, 4]
    body = [4 * 6, 4 * 64, 4 * 64, *([2 * 16] * 10), *([2 * 32] * 10)]
    assert sum(header) == TOKENS
    assert sum(header + body) + 8 == len(data)
    return header + body


def test_every_byte_of_a_small_snapshot(model: eg.Model, tmp_path: Path) -> None:
    """Header, tokens, the last token's state, K and V of five positions in two layers, and the hash."""
    session = half_character(model)
    data = saved(session, tmp_path)
    got = {name: struct.unpack_from("<" + form, data, at)[0] for name, at, form in FIELDS}
    fingerprint = got.pop("fingerprint")
    assert got == {
        "magic": b"EGSNAP\r\n",
        "version": 2,
        "kv": lib.EG_KV_F16,
        "context": 40,
        "length": 6,
        "evaluated": 5,
        "high": 5,
        "picture": 1120,
        "random": SEED,
        "has_last": 1,
        "n_held": 1,
        "held": b"\xe2\0\0\0",
    }
    other = model.session(context=10)
    other.feed_tokens([2])
    assert struct.unpack_from("<Q", saved(other, tmp_path), 16)[0] == fingerprint
    assert np.frombuffer(data, "<i4", 6, TOKENS).tolist() == session.tokens
    embedding = np.frombuffer(data, "<f4", 64, TOKENS + 24)
    assert np.array_equal(embedding, model.session(context=40).hidden_states(session.tokens[:5])[0, 4])
    keys = np.frombuffer(data, "<f2", 16, TOKENS + 24 + 512)  # the first position's, in the first layer
    assert np.isfinite(keys).all()
    assert 0.01 < np.abs(keys.astype(np.float32)).max() < 100
    assert struct.unpack_from("<Q", data, len(data) - 8)[0] == fnv(data)


@pytest.mark.parametrize("kv", ["f16", "f32", "q8"])
def test_a_half_character_survives(kv: str, model: eg.Model, tmp_path: Path) -> None:
    """What the detokenizer holds is saved field by field: the rest of the character completes it."""
    session = half_character(model, kv)
    session.save(tmp_path / "s.snap")
    restored = model.session(restore=tmp_path / "s.snap")
    rest = [model.tokenizer.find(f"<0x{byte:02X}>") for byte in "€".encode()[1:]]
    for s in (session, restored):
        text = "".join("".join(s.generate(1, temperature=0, logit_bias={byte: 1e4})) for byte in rest)
        assert text == "€"
    assert np.array_equal(session.logits(), restored.logits())


@pytest.mark.parametrize("version", [0, 1, 3, 0x100])
def test_other_versions_are_refused(version: int, model: eg.Model, tmp_path: Path) -> None:
    """With a sentence that names theirs."""
    data = bytearray(saved(half_character(model), tmp_path))
    struct.pack_into("<I", data, 8, version)
    (tmp_path / "s.snap").write_bytes(data)
    with pytest.raises(eg.EdgeGemmaError, match=f"version {version} of the format") as caught:
        model.session(restore=tmp_path / "s.snap")
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv", 3),
        ("context", 0),
        ("context", 513),
        ("context", 2**63),
        ("length", 41),
        ("evaluated", 7),
        ("high", 4),
        ("high", 41),
        ("picture", 0),
        ("picture", 1121),
        ("has_last", 2),
        ("n_held", 4),
    ],
)
def test_every_field_is_checked(name: str, value: int, model: eg.Model, tmp_path: Path) -> None:
    """Before anything is made of it, and with its name in the sentence."""
    data = bytearray(saved(half_character(model), tmp_path))
    at, form = next((at, form) for field, at, form in FIELDS if field == name)
    struct.pack_into("<" + form, data, at, value)
    (tmp_path / "s.snap").write_bytes(data)
    with pytest.raises(ValueError, match=f"field '{name}' is out of range") as caught:
        model.session(restore=tmp_path / "s.snap")
    assert caught.value.code == "format"


def test_tokens_are_checked(model: eg.Model, tmp_path: Path) -> None:
    """An id outside the vocabulary, and a soft token that waits, are refused although the hash is right."""
    good = saved(half_character(model), tmp_path)
    for index, value in ((0, 10**6), (1, -2), (5, -1)):
        data = bytearray(good)
        struct.pack_into("<i", data, TOKENS + 4 * index, value)
        struct.pack_into("<Q", data, len(data) - 8, fnv(bytes(data)))
        (tmp_path / "s.snap").write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            model.session(restore=tmp_path / "s.snap")
    (tmp_path / "s.snap").write_bytes(good)
    model.session(restore=tmp_path / "s.snap").close()


# ---- memory and descriptors --------------------------------------------------------------------------------------------


def in_memory(session: eg.Session) -> bytes:
    size, err = ffi.new("size_t *"), new_struct("eg_error")
    check(lib.eg_session_save_to_memory(session.pointer, ffi.NULL, 0, size, err), err)
    memory = ffi.new("uint8_t[]", size[0] + 8)
    check(lib.eg_session_save_to_memory(session.pointer, memory, size[0] - 1, size, err), err)
    assert bytes(ffi.buffer(memory)) == bytes(size[0] + 8)  # it does not fit
    check(lib.eg_session_save_to_memory(session.pointer, memory, size[0] + 8, size, err), err)
    assert bytes(ffi.buffer(memory))[size[0] :] == bytes(8)
    return bytes(ffi.buffer(memory, size[0]))


def restored(model: eg.Model, kind: str, *arguments: Any, context: int = 0) -> list[int]:
    """Tokens of the session that eg_session_restore_from_KIND opens, and of its next two draws."""
    out, err, token = ffi.new("eg_session **"), new_struct("eg_error"), new_struct("eg_token")
    call = getattr(lib, f"eg_session_restore_from_{kind}")
    check(call(model.pointer, *arguments, context, out, err), err)
    session = ffi.gc(out[0], lib.eg_session_close)
    for _ in range(2):
        check(lib.eg_session_next(session, new_struct("eg_sampling"), token, err), err)
    ids = ffi.new("int32_t[]", 40)
    return list(ids[0 : lib.eg_session_get_tokens(session, 0, ids, 40)])


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_memory_and_descriptors_have_the_bytes_of_the_file(kv: str, model: eg.Model, tmp_path: Path) -> None:
    session, err = half_character(model, kv), new_struct("eg_error")
    data = saved(session, tmp_path)
    assert in_memory(session) == data
    with (tmp_path / "asset").open("w+b") as file:
        file.write(b"x" * 13)
        file.flush()
        check(lib.eg_session_save_to_fd(session.pointer, file.fileno(), err), err)
        file.seek(0, 2)
        assert file.tell() == 13 + len(data)
        file.write(b"y" * 70000)
        file.flush()
        (tmp_path / "alone").write_bytes(data)
        next_two = restored(model, "memory", ffi.from_buffer(data), len(data))
        assert next_two[:6] == session.tokens and len(next_two) == 8
        assert restored(model, "fd", file.fileno(), 13, len(data)) == next_two
        with (tmp_path / "alone").open("rb") as alone:
            assert restored(model, "fd", alone.fileno(), 0, 0, context=20) == next_two
    list(session.generate(2, temperature=0))
    assert session.tokens == next_two


def test_a_pipe_takes_a_snapshot(model: eg.Model, tmp_path: Path) -> None:
    session, err = half_character(model), new_struct("eg_error")
    reader, writer = os.pipe()
    check(lib.eg_session_save_to_fd(session.pointer, writer, err), err)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == saved(session, tmp_path)


def test_damage_in_memory_and_behind_descriptors(model: eg.Model, tmp_path: Path) -> None:
    """Cut at every seventh byte, one byte too many, one that differs; with sentences that tell where."""
    data = saved(half_character(model), tmp_path)
    for bad in (*(data[:n] for n in range(1, len(data), 7)), data + b"\0", data[:90] + b"\xff" + data[91:]):
        with pytest.raises(ValueError, match=r"^snapshot in memory: "):
            restored(model, "memory", ffi.from_buffer(bad), len(bad))
    with (tmp_path / "s.snap").open("rb") as file:
        name = rf"^descriptor {file.fileno()}: "
        for offset, length in ((0, len(data) - 1), (1, 0), (0, 79), (len(data), 0)):
            with pytest.raises(ValueError, match=name):
                restored(model, "fd", file.fileno(), offset, length)
        with pytest.raises(OSError, match=name):
            restored(model, "fd", file.fileno(), 2**63, 0)
        err = new_struct("eg_error")
        session = half_character(model)
        assert lib.eg_session_save_to_fd(session.pointer, file.fileno(), err) == lib.EG_ERROR_FILE
        assert f"descriptor {file.fileno()}: " in ffi.string(err.message).decode()
    with pytest.raises(OSError, match="descriptor 999: "):
        restored(model, "fd", 999, 0, 0)
    with pytest.raises(ValueError, match="NULL"):
        restored(model, "memory", ffi.NULL, 0)
