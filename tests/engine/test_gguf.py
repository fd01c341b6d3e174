"""The GGUF reader: what it must read, what it must refuse, and what it says then."""

import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_gemma.engine.gguf import GGUFFile, StringArray, TensorInfo
from edge_gemma.engine.native import ffi, file_params, lib, new_struct
from edge_gemma.errors import EdgeGemmaError
from support.gguf_writer import (
    ARRAY,
    BOOL,
    CODES,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    STRING,
    TENSOR_F32,
    U8,
    U16,
    U32,
    U64,
    Writer,
    array,
    string,
    write_split,
)
from support.paths import ROOT, SHARED, TESTS

VOCABULARY = SHARED / "vocab" / "ggml-vocab-gemma-4.gguf"
needs_vocabulary = pytest.mark.skipif(not VOCABULARY.exists(), reason=f"the real vocabulary is not at {VOCABULARY}")
FIXTURES = sorted(SHARED.glob("fixtures/*/*.gguf"))
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")

Q4_DATA = bytes(range(36))
F32_DATA = struct.pack("<16f", *range(16))


def small() -> Writer:
    """Two keys and two tensors: 64 values of Q4_0, 16 of F32."""
    writer = Writer().entry("general.name", "small").entry("list", ["a", "bc", ""])
    return writer.tensor("a.weight", [32, 2], Q4_0, Q4_DATA).tensor("b.weight", [16], TENSOR_F32, F32_DATA)


@pytest.fixture
def write(tmp_path):
    """Writes bytes (or a Writer) to a file and returns its path."""

    def run(data: bytes | Writer, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(data.build() if isinstance(data, Writer) else data)
        return path

    return run


def refusal(path: Path) -> EdgeGemmaError:
    """The error that opening gives."""
    with pytest.raises(EdgeGemmaError) as caught:
        GGUFFile(path)
    message = str(caught.value)
    assert message.endswith(".") and message.isprintable(), message
    return caught.value


def tensor_data(path: Path) -> list[bytes]:
    """The raw data of every tensor, through the C functions."""
    out, row = ffi.new("eg_file **"), new_struct("eg_file_tensor")
    assert lib.eg_file_open(file_params(path), out, ffi.NULL) == lib.EG_OK
    found = []
    for i in range(lib.eg_file_tensor_count(out[0])):
        assert lib.eg_file_get_tensor(out[0], i, row, ffi.NULL) == lib.EG_OK
        found.append(bytes(ffi.buffer(row.data, row.bytes)) if row.data != ffi.NULL else None)
    lib.eg_file_close(out[0])
    return found


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_versions(write, version):
    writer = small()
    writer.version = version
    path = write(writer)
    with GGUFFile(path) as file:
        assert dict(file.metadata) | {"list": list(file.metadata["list"])} == {
            "general.name": "small",
            "list": ["a", "bc", ""],
        }
        assert file.tensors == [
            TensorInfo("a.weight", "Q4_0", (32, 2), 36),
            TensorInfo("b.weight", "F32", (16,), 64),
        ]
    assert tensor_data(path) == [Q4_DATA, F32_DATA]


EXTREMES = [
    (U8, [0, 255], np.uint8),
    (I8, [-128, 127], np.int8),
    (U16, [0, 65535], np.uint16),
    (I16, [-32768, 32767], np.int16),
    (U32, [0, 2**32 - 1], np.uint32),
    (I32, [-(2**31), 2**31 - 1, -1], np.int32),
    (F32, [0.5, -1.25, math.inf], np.float32),
    (BOOL, [True, False], np.bool_),
    (U64, [0, 2**53], np.uint64),
    (I64, [-(2**53), 2**53, -1], np.int64),
    (F64, [0.1, -1e300], np.float64),
]


@pytest.mark.parametrize(("kind", "values", "dtype"), EXTREMES)
def test_numbers(write, kind, values, dtype):
    writer = Writer().entry("array", values, kind).entry("none", [], kind)
    for i, value in enumerate(values):
        writer.entry(f"scalar{i}", value, kind)
    with GGUFFile(write(writer)) as file:
        got = file.metadata["array"]
        assert got.dtype == dtype and got.tolist() == values
        assert file.metadata["none"].dtype == dtype and file.metadata["none"].size == 0
        for i, value in enumerate(values):
            scalar = file.metadata[f"scalar{i}"]
            assert scalar == value and type(scalar) is type(value)


def test_integers_beyond_a_double(write):
    with GGUFFile(write(Writer().entry("u", [2**64 - 1], U64).entry("i", [2**63 - 1, -(2**63)], I64))) as file:
        assert file.metadata["u"].tolist() == [2**64 - 1]
        assert file.metadata["i"].tolist() == [2**63 - 1, -(2**63)]


def test_any_byte_but_zero_is_true(write):
    data = struct.pack("<IQ", BOOL, 4) + bytes([0, 1, 2, 255])
    with GGUFFile(write(Writer().raw_entry("b", ARRAY, data).raw_entry("s", BOOL, b"\x80"))) as file:
        assert file.metadata["b"].tolist() == [False, True, True, True]
        assert file.metadata["s"] is True


def test_strings(write):
    texts = [f"token {i}" * (i % 5) for i in range(100)]
    writer = Writer().entry("texts", texts).entry("latin", b"caf\xe9").entry("日本", "語\n")
    with GGUFFile(write(writer)) as file:
        got = file.metadata["texts"]
        assert isinstance(got, StringArray) and len(got) == 100
        assert list(got) == texts and got[-1] == texts[-1] and got[10:13] == texts[10:13]
        assert [got[i] for i in (99, 0, 50, 16, 15, 17)] == [texts[i] for i in (99, 0, 50, 16, 15, 17)]
        with pytest.raises(IndexError):
            got[100]
        assert file.metadata["latin"] == "caf\ufffd" and file.metadata["日本"] == "語\n"
        assert "absent" not in file.metadata
        with pytest.raises(KeyError):
            file.metadata["absent"]


@pytest.mark.parametrize("alignment", [1, 2, 8, 32, 64, 4096, 1 << 20])
def test_alignment(write, alignment):
    writer = small()
    writer.alignment = alignment
    assert tensor_data(write(writer)) == [Q4_DATA, F32_DATA]


@pytest.mark.parametrize("kind", [U8, I8, U16, I16, U32, I32, U64, I64])
def test_alignment_of_any_integer_type(write, kind):
    for pad in range(0, 64, 8):  # for some, alignments 32 and 64 disagree on where the data begins
        writer = Writer(alignment=64, alignment_kind=kind).entry("pad", "x" * pad)
        assert tensor_data(write(writer.tensor("t", [16], TENSOR_F32, F32_DATA))) == [F32_DATA]


def test_shapes(write):
    writer = Writer().tensor("scalar", [], TENSOR_F32, F32_DATA[:4]).tensor("four", [2, 2, 2, 2], TENSOR_F32, F32_DATA)
    writer.tensor("none", [0, 7], TENSOR_F32, b"").tensor("unknown", [3], 1000, b"???")
    path = write(writer)
    with GGUFFile(path) as file:
        assert file.tensors == [
            TensorInfo("scalar", "F32", (), 4),
            TensorInfo("four", "F32", (2, 2, 2, 2), 64),
            TensorInfo("none", "F32", (0, 7), 0),
            TensorInfo("unknown", None, (3,), 0),
        ]
    assert tensor_data(path) == [F32_DATA[:4], F32_DATA, b"", None]


def test_order_of_data_is_free(write):
    writer = Writer().tensor("second", [16], TENSOR_F32, bytes(64), 64).tensor("first", [16], TENSOR_F32, F32_DATA, 0)
    found = tensor_data(write(writer))
    assert found[0] == F32_DATA and found[1] == bytes(64)


def test_empty_and_metadata_only(write):
    with GGUFFile(write(Writer())) as file:
        assert dict(file.metadata) == {} and file.tensors == []
    with GGUFFile(write(Writer().entry("k", 1))) as file:  # nothing follows the keys, not even padding
        assert dict(file.metadata) == {"k": 1} and file.tensors == []


def test_arrays_of_arrays_are_skipped(write):
    writer = Writer().entry("nested", [[1, 2], [3]]).entry("deep", [[["x"], []]]).entry("after", 5)
    with GGUFFile(write(writer)) as file:
        assert list(file.metadata) == ["nested", "deep", "after"] and file.metadata["after"] == 5
        with pytest.raises(EdgeGemmaError, match="key 'nested' is an array of arrays") as caught:
            file.metadata["nested"]
        assert caught.value.code == "unsupported"


def test_close(write):
    path = write(small())
    with GGUFFile(path) as file:
        name, texts, rows = file.metadata["general.name"], file.metadata["list"], file.tensors
    assert name == "small" and len(rows) == 2 and len(texts) == 3 and "closed" in repr(file)
    for use in (lambda: file.metadata["general.name"], lambda: texts[0]):
        with pytest.raises(ValueError, match="closed"):
            use()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        _ = GGUFFile.metadata.fget(closed(path))


def closed(path: Path) -> GGUFFile:
    """A file that was closed before anything was read."""
    file = GGUFFile(path)
    file.close()
    return file


def test_path_of_other_letters(write):
    with GGUFFile(write(small(), "模型 é.gguf")) as file:
        assert file.metadata["general.name"] == "small"


# ---- what is refused ---------------------------------------------------------------------------------------------

HEAD = b"GGUF" + struct.pack("<I", 3)


def with_tensor(**change) -> bytes:
    """One F32 tensor of 16 values, with something changed."""
    row = {"name": "blk.0.attn_q.weight", "dims": [16], "kind": TENSOR_F32, "data": F32_DATA, "offset": None} | change
    return Writer().tensor(row["name"], row["dims"], row["kind"], row["data"], row["offset"]).build()


def with_key(key: str, kind: int, data: bytes) -> bytes:
    """One key of any type and bytes, and enough behind it that its length alone is not the fault."""
    return Writer().raw_entry(key, kind, data).build()


def nested(depth: int) -> bytes:
    """An array that holds an array that holds... of one element each."""
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U8, 0)


HOSTILE = {
    "foreign": (b"PK\x03\x04" + bytes(60), "format", "not a GGUF file"),
    "short foreign": (b"GG", "format", "not a GGUF file"),
    "web page": (b"<!DOCTYPE html><html>", "format", "web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "format", "git lfs pull"),
    "header cut": (HEAD + bytes(15), "format", "inside its header"),
    "version 0": (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "unsupported", "version 0"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "unsupported", "version 1"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "unsupported", "version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "unsupported", "big-endian"),
    "key count": (Writer().build(n_entries=2**64 - 1), "format", "promises 18446744073709551615 metadata keys"),
    "key count, small": (Writer().entry("k", 1).build(n_entries=2), "format", "metadata keys"),
    "tensor count": (Writer().build(n_tensors=2**63), "format", "promises 9223372036854775808 tensors"),
    "key length": (Writer().build(n_entries=1) + struct.pack("<Q", 2**64 - 8) + bytes(64), "format", "key 1 of 1"),
    "long key": (Writer().entry("k" * 65536, 1).build(), "format", "65536 bytes long"),
    "value type": (with_key("odd.key", 13, bytes(8)), "format", "'odd.key' has values of type 13"),
    "element type": (with_key("odd", ARRAY, struct.pack("<IQ", 99, 1)), "format", "'odd' has values of type 99"),
    "string length": (with_key("a", STRING, struct.pack("<Q", 2**64 - 1)), "format", "inside the value of key 'a'"),
    "array count": (with_key("a", ARRAY, array([1], U32, 2**62)), "format", "inside the value of key 'a'"),
    "array overflow": (with_key("a", ARRAY, array([1], U64, 2**61)), "format", "inside the value of key 'a'"),
    "strings count": (with_key("a", ARRAY, array(["x"], STRING, 2**40)), "format", "inside the value of key 'a'"),
    "nested too deep": (with_key("a.key", ARRAY, nested(9)), "unsupported", "'a.key' nests arrays"),
    "nested for ever": (with_key("a.key", ARRAY, nested(20000)), "unsupported", "'a.key' nests arrays"),
    "nested cut": (with_key("a", ARRAY, nested(3)[:-4]), "format", "inside the value of key 'a'"),
    "key twice": (Writer().entry("k.x", 1).entry("o", 1).entry("k.x", 2).build(), "format", "key 'k.x' appears twice"),
    "alignment 0": (Writer().entry("general.alignment", 0).build(), "format", "'general.alignment' is 0"),
    "alignment 24": (Writer().entry("general.alignment", 24).build(), "format", "'general.alignment' is 24"),
    "alignment 2 MiB": (Writer().entry("general.alignment", 2**21).build(), "format", "'general.alignment' is 2097152"),
    "alignment text": (Writer().entry("general.alignment", "32").build(), "format", "'general.alignment' must be"),
    "alignment negative": (Writer().entry("general.alignment", -32).build(), "format", "'general.alignment' must be"),
    "alignment list": (Writer().entry("general.alignment", [32]).build(), "format", "'general.alignment' must be"),
    "five dims": (with_tensor(dims=[1, 1, 1, 1, 1]), "format", "'blk.0.attn_q.weight' has 5 dimensions"),
    "dims count": (with_tensor().replace(b"weight\1", b"weight\xff"), "format", "has 255 dimensions"),
    "long name": (with_tensor(name="n" * 1025), "format", "1025 bytes long"),
    "rows cut": (with_tensor(dims=[33], kind=Q4_0), "format", "'blk.0.attn_q.weight' has rows of 33 values"),
    "dims overflow": (with_tensor(dims=[2**32, 2**32]), "format", "'blk.0.attn_q.weight' are too large"),
    "dims negative": (with_tensor(dims=[2**63]), "format", "'blk.0.attn_q.weight' are too large"),
    "bytes overflow": (with_tensor(dims=[2**62]), "format", "'blk.0.attn_q.weight' are too large"),
    "zero hides overflow": (with_tensor(dims=[0, 2**62, 2**62]), "format", "'blk.0.attn_q.weight' are too large"),
    "unknown type, overflow": (with_tensor(dims=[2**62, 4], kind=999), "format", "'blk.0.attn_q.weight' are too large"),
    "misaligned": (with_tensor(offset=4), "format", "'blk.0.attn_q.weight' begins at byte 4"),
    "offset": (with_tensor(offset=2**40), "format", "it is truncated"),
    "offset overflow": (with_tensor(offset=2**64 - 32), "format", "'blk.0.attn_q.weight' is beyond any file"),
    "unknown type, offset": (with_tensor(kind=999, offset=2**40), "format", "it is truncated"),
    "data cut": (with_tensor()[:-1], "format", "'blk.0.attn_q.weight' ends at byte 160 but the file has only 159"),
    "overlap": (
        Writer().tensor("one", [16], 0, F32_DATA).tensor("two", [16], 0, F32_DATA, 32).build(),
        "format",
        "'one' and 'two' overlap",
    ),
    "same place": (
        Writer().tensor("one", [16], 0, F32_DATA).tensor("two", [8], 0, bytes(64), 0).build(),
        "format",
        "overlap",
    ),
    "tensor twice": (
        Writer()
        .tensor("one", [1], 0, bytes(4))
        .tensor("two", [1], 0, bytes(4))
        .tensor("one", [1], 0, bytes(4))
        .build(),
        "format",
        "tensor 'one' appears twice",
    ),
    "split number": (Writer().entry("split.count", 3).build(), "format", "'split.no'"),
    "split beyond": (Writer().entry("split.count", 3).entry("split.no", 3).build(), "format", "'split.no'"),
    "split count": (Writer().entry("split.count", 10**6).entry("split.no", 0).build(), "format", "'split.count'"),
    "split text": (Writer().entry("split.count", "2").build(), "format", "'split.count' must be"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(write, name):
    data, code, words = HOSTILE[name]
    error = refusal(write(data))
    assert error.code == code and words in str(error), str(error)
    assert "model.gguf: " in str(error) and isinstance(error, ValueError)


@pytest.mark.slow
def test_every_truncation(write):
    data = small().build()
    path = write(data)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert refusal(path).code == ("file" if length == 0 else "format"), length
    path.write_bytes(data)
    GGUFFile(path).close()


def walk(file: GGUFFile) -> None:
    """Reads all there is."""
    for key in file.metadata:
        try:
            value = file.metadata[key]
        except EdgeGemmaError as error:
            assert error.code == "unsupported"
            continue
        if isinstance(value, StringArray):
            list(value)
    assert all(row.bytes >= 0 for row in file.tensors)


@pytest.mark.slow
def test_bit_flips(write):
    data = small().entry("f", [1.5, 2.5]).entry("n", [[1], [2, 3]]).build()
    path = write(data)
    opened = 0
    for bit in range(8 * (len(data) - 128)):  # all but the tensors' data
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(broken)
        try:
            with GGUFFile(path) as file:
                walk(file)
            opened += 1
        except EdgeGemmaError as error:
            assert str(error).isprintable()
    assert opened > 0


def test_random_bytes(write):
    rng = random.Random(1)
    data = small().build()
    path = write(data)
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            broken[rng.randrange(8, len(broken))] = rng.choice([0, 1, 8, 9, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(broken[: rng.randint(24, len(broken))])
        try:
            with GGUFFile(path) as file:
                walk(file)
        except EdgeGemmaError:
            pass


def test_messages_are_printable(write):
    """Names from the file and the path are shown, but no byte of them reaches a terminal as it is."""
    key = b"evil\x1b[31m\n\xff\xe6\x97\xa5\xc2\x9b\xed\xa0\x80"
    error = refusal(write(Writer().raw_entry(key, 77, b"")))
    assert "key 'evil?[31m??日" in str(error)
    error = refusal(write(Writer().raw_entry(b"x" * 60000, 77, b"")))
    assert "type 77" in str(error) and len(str(error)) < 500


def test_long_path(tmp_path):
    folder = tmp_path
    for _ in range(4):
        folder = folder / ("d" * 100)
    folder.mkdir(parents=True)
    path = folder / "the-model.gguf"
    path.write_bytes(with_tensor()[:-1])
    assert "ddd/the-model.gguf: tensor 'blk.0.attn_q.weight' ends" in str(refusal(path)).replace(os.sep, "/")


def test_many_names_are_quick(write):
    writer = Writer()
    for i in range(20000):
        writer.entry(f"key{i}", 1)
    start = time.perf_counter()
    with GGUFFile(write(writer)) as file:
        print(f"20,000 keys: {time.perf_counter() - start:.3f} s")
        assert file.metadata["key19999"] == 1


# ---- files of other kinds ----------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    error = refusal(tmp_path / "absent.gguf")
    assert error.code == "file" and isinstance(error, OSError)
    assert "absent.gguf: cannot open the file: " in str(error)


@posix
def test_not_a_regular_file(tmp_path):
    assert "Is a directory" in str(refusal(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert "this is a pipe" in str(refusal(tmp_path / "fifo"))
    assert "this is a device" in str(refusal(Path(os.devnull)))
    (tmp_path / "empty").touch()
    assert "the file is empty" in str(refusal(tmp_path / "empty"))


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write):
    path = write(small())
    path.chmod(0)
    assert "Permission denied" in str(refusal(path))


# ---- split files -------------------------------------------------------------------------------------------------


def parts(n: int) -> list[Writer]:
    """Parts of one tensor each; the first has the metadata."""
    made = [Writer().tensor(f"t{i}", [16], TENSOR_F32, F32_DATA[:-1] + bytes([i])) for i in range(n)]
    made[0].entry("general.name", "whole")
    return made


def test_split(tmp_path):
    three = parts(3)
    three[1].alignment = 64
    paths = write_split(tmp_path, "some-00001-of-model", three)
    with GGUFFile(paths[0]) as file:
        assert file.metadata["general.name"] == "whole" and file.metadata["split.count"] == 3
        assert [row.name for row in file.tensors] == ["t0", "t1", "t2"]
    assert tensor_data(paths[0]) == [F32_DATA[:-1] + bytes([i]) for i in range(3)]


def test_split_of_one_has_any_name(tmp_path):
    path = write_split(tmp_path, "x", parts(1))[0]
    with GGUFFile(path.rename(tmp_path / "other.gguf")) as file:
        assert len(file.tensors) == 1


def test_split_missing_part(tmp_path):
    paths = write_split(tmp_path, "x", parts(3))
    paths[2].unlink()
    error = refusal(paths[0])
    assert error.code == "file" and "x-00003-of-00003.gguf: cannot open" in str(error) and "part 3 of 3" in str(error)


def test_split_other_than_first(tmp_path):
    error = refusal(write_split(tmp_path, "x", parts(3))[1])
    assert error.code == "argument" and "part 2 of 3" in str(error) and "'-00001-of-00003.gguf'" in str(error)


def test_split_renamed(tmp_path):
    path = write_split(tmp_path, "x", parts(2))[0].rename(tmp_path / "model.gguf")
    error = refusal(path)
    assert error.code == "file" and "'-00001-of-00002.gguf'" in str(error)


def test_split_mixed_up(tmp_path):
    paths = write_split(tmp_path, "x", parts(3))
    shutil.copy(paths[1], paths[2])
    assert "x-00003-of-00003.gguf: by its name this is part 3 of 3" in str(refusal(paths[0]))
    paths[1].write_bytes(small().build())
    assert "x-00002-of-00003.gguf: by its name this is part 2 of 3" in str(refusal(paths[0]))


def test_split_damaged_part(tmp_path):
    paths = write_split(tmp_path, "x", parts(2))
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    assert "x-00002-of-00002.gguf: tensor 't1' ends at byte" in str(refusal(paths[0]))


def test_split_totals(tmp_path):
    assert "promises 9 tensors" in str(refusal(write_split(tmp_path, "x", parts(2), total=9)[0]))
    twins = [Writer().tensor("t", [16], TENSOR_F32, F32_DATA) for _ in range(2)]
    assert "tensor 't' appears twice" in str(refusal(write_split(tmp_path, "y", twins)[0]))


# ---- the C functions ---------------------------------------------------------------------------------------------


def test_arguments(write):
    err, out, number = new_struct("eg_error"), ffi.new("eg_file **"), ffi.new("double *")
    text, length = ffi.new("const char **"), ffi.new("size_t *")
    entry, tensor = new_struct("eg_file_metadata"), new_struct("eg_file_tensor")
    path = file_params(write(small()))
    bad = lib.EG_ERROR_ARGUMENT
    assert lib.eg_file_open(ffi.NULL, out, err) == err.status == bad and b"eg_file_params" in ffi.string(err.message)
    assert lib.eg_file_open(path, ffi.NULL, err) == bad
    lib.eg_file_close(ffi.NULL)
    assert lib.eg_file_metadata_count(ffi.NULL) == lib.eg_file_tensor_count(ffi.NULL) == 0
    assert lib.eg_file_open(path, out, ffi.NULL) == lib.EG_OK
    file = out[0]
    assert lib.eg_file_get_metadata(ffi.NULL, 0, entry, err) == lib.eg_file_get_metadata(file, 0, ffi.NULL, err) == bad
    assert lib.eg_file_get_tensor(ffi.NULL, 0, tensor, err) == lib.eg_file_get_tensor(file, 0, ffi.NULL, err) == bad
    assert lib.eg_file_get_number(ffi.NULL, 0, 0, number, err) == bad
    assert lib.eg_file_get_number(file, 0, 0, ffi.NULL, err) == bad
    assert lib.eg_file_get_string(file, 0, 0, ffi.NULL, length, err) == bad
    assert lib.eg_file_get_string(file, 0, 0, text, ffi.NULL, err) == bad
    assert lib.eg_file_get_metadata(file, 2, entry, err) == bad and b"only 2" in ffi.string(err.message)
    assert lib.eg_file_get_tensor(file, 2**63, tensor, err) == bad and b"only 2" in ffi.string(err.message)
    assert lib.eg_file_get_string(file, 1, 3, text, length, err) == bad and b"'list'" in ffi.string(err.message)
    assert lib.eg_file_get_number(file, 0, 0, number, err) == bad and b"is a string" in ffi.string(err.message)
    lib.eg_file_close(file)
    assert (
        lib.eg_file_open(file_params("/no/such/file"), out, ffi.NULL) == lib.EG_ERROR_FILE and out[0] == file
    )  # untouched


# ---- descriptors and residency -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """Runs gguf_probe, built with the sanitizers."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.name != "posix" or not compiler:
        pytest.skip("needs a C compiler on a POSIX system")
    program = tmp_path_factory.mktemp("probe") / "gguf_probe"
    csrc = ROOT / "csrc"
    sources = [line for line in (csrc / "sources.txt").read_text().split() if line.startswith("format/")]
    names = [csrc / name for name in [*sources, "base/status.c", "base/structs.c", "base/map.c", "base/guard.c"]]
    command = [
        compiler,
        "-std=gnu11",
        "-g",
        "-O1",
        f"-I{csrc}",
        TESTS / "c" / "gguf_probe.c",
        *names,
        "-lm",
        "-pthread",
        "-o",
    ]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*command, program, *sanitize], capture_output=True).returncode:
        subprocess.run([*command, program], check=True)

    def run(path: Path | str, offset: int = 0, length: int = 0) -> list[str]:
        done = subprocess.run([program, path, str(offset), str(length)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 1, 31, 32, 4095, 4096, 5000, 70000])
def test_descriptor_with_offset(write, probe, offset):
    data = small().build()
    path = write(bytes([7]) * offset + data + b"what follows")
    want = [f"a.weight 36 {sum(Q4_DATA)}", f"b.weight 64 {sum(F32_DATA)}"]
    for length in (len(data), 0):  # 0: to the end of the file
        lines = probe(path, offset, length)
        assert lines[:2] == want and lines[2].endswith(f" {length or len(data) + 12}")
    assert "it is truncated" in probe(path, offset, len(data) - 1)[0]


def test_descriptor_refusals(write, probe, tmp_path):
    path = write(small())
    size = path.stat().st_size
    assert probe(path, 0, size + 1)[0].startswith(f"error {lib.EG_ERROR_ARGUMENT} fd ")
    assert "has only" in probe(path, size, 0)[0]
    assert "has only" in probe(path, 8, 2**64 - 8)[0]
    assert "has only" in probe(path, 2**64 - 1, 1)[0]
    assert "not a GGUF file" in probe(path, 4, 0)[0]
    assert "Bad file descriptor" in probe("")[0]
    os.mkfifo(tmp_path / "fifo")
    assert "pipe" in probe(tmp_path / "fifo")[0]
    first = write_split(tmp_path, "x", parts(2))[0]
    assert "cannot be opened by a descriptor" in probe(first)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident")
def test_residency(write, probe):
    data = np.random.default_rng(0).bytes(8 << 20)
    writer = Writer().tensor("big", [2 << 20], TENSOR_F32, data).tensor("other", [2 << 20], TENSOR_F32, data)
    *_, opened, full, after, mapped = map(int, re.findall(r"\d+", probe(write(writer), 0, 0)[-1]))
    print(f"resident: {opened} opened, {full} read, {after} given back, of {mapped}")
    assert full > 16 << 20 and mapped > 16 << 20
    assert opened < 5 << 20 and after < 5 << 20  # a kernel may map 2 MiB at a touch


# ---- real files --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FIXTURES, reason=f"no GGUF files below {SHARED / 'fixtures'}")
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_fixtures(path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is the independent reader")
    want = gguf.GGUFReader(path)
    with GGUFFile(path) as file:
        assert list(file.metadata) == [key for key in want.fields if not key.startswith("GGUF.")]
        for key, value in file.metadata.items():
            expected = want.fields[key].contents()
            assert list(value) == expected if isinstance(expected, list) else value == expected, key
        assert [row.name for row in file.tensors] == [row.name for row in want.tensors]
        for row, other in zip(file.tensors, want.tensors, strict=True):
            assert (row.type_name, row.bytes) == (other.tensor_type.name, other.n_bytes), row.name
            assert list(row.shape) == other.shape.tolist(), row.name
    for got, other in zip(tensor_data(path), want.tensors, strict=True):
        assert got == other.data.tobytes()


def resident_mb() -> float:
    """Resident memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6 if statm.exists() else 0


@needs_vocabulary
def test_real_vocabulary():
    before = resident_mb()
    start = time.perf_counter()
    file = GGUFFile(VOCABULARY)
    seconds = time.perf_counter() - start
    print(f"262,144 tokens, 514,906 merges: {1000 * seconds:.1f} ms, resident +{resident_mb() - before:.1f} MB")
    with file:
        tokens, merges = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.merges"]
        assert len(tokens) == 262144 and len(merges) == 514906 and file.tensors == []
        assert (tokens[0], tokens[2], tokens[105], tokens[262143]) == ("<pad>", "<bos>", "<|turn>", "<unused6226>")
        assert merges[0] == "\n" * 30 + " \n" and file.metadata["tokenizer.ggml.bos_token_id"] == 2
        start = time.perf_counter()
        scores, types = file.metadata["tokenizer.ggml.scores"], file.metadata["tokenizer.ggml.token_type"]
        assert (scores == -1000).all() and np.bincount(types).tolist()[1:] == [261864, 0, 17, 7, 0, 256]
        print(f"two arrays of 262,144 numbers: {1000 * (time.perf_counter() - start):.0f} ms")


def test_writer_agrees_with_the_gguf_package(write):
    """The tests' own writer against the independent reader: every type once."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is the independent reader")
    writer = small()
    for kind in CODES:
        writer.entry(f"v{kind}", True if kind == BOOL else 1.5 if kind in (F32, F64) else 7, kind)
    reader = gguf.GGUFReader(write(writer))
    assert reader.fields["general.name"].contents() == "small" and reader.fields["v10"].contents() == 7
    assert reader.tensors[0].data.tobytes() == Q4_DATA and string("ab") == b"\x02" + bytes(7) + b"ab"
