"""Sidecars: what a leaner head changes and what not, and sidecars that are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma import kernels
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.files.prepare import prepare
from edge_gemma.hub.sidecar import sidecar_path
from support.gguf_writer import BF16, Writer, write_split
from support.paths import DATA
from support.tiny_model import SHAPES, VOCAB, Shape, model_writer, write_model

IDS = [2, *range(20, 60)]
# EG_HEAD_EXACT: so many logits at least are computed with the model's own head, or one for each 16 tokens if these are fewer.
EXACT = 128
WIDE = Shape([True, False], unused=4096 + 1, type=BF16)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small E2B, whose head is Q6_K."""
    return Path(shutil.copy(DATA / "e2b-Q4_0.gguf", tmp_path / "m.gguf"))


def logits(path: Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """The logits of all positions, and those behind the last one, with one token at a time."""
    with eg.Model.load(path, threads=2, **options) as opened:
        session = opened.session(256)
        everywhere = session.forward(IDS)
        one = opened.session(256)
        for id in IDS:
            one.feed_tokens([id])
        return everywhere, one.logits()


@pytest.mark.parametrize("type", ["IQ4_XS", "Q4_0", "Q5_K"])
def test_the_best_tokens_have_the_bits_of_the_models_own_head(model: Path, type: str) -> None:
    plain, _ = logits(model)
    prepare(model, type=type)
    lean, last = logits(model)
    for want, got in zip(plain, lean, strict=True):
        best = np.argsort(-want, kind="stable")[:24]
        np.testing.assert_array_equal(got[best], want[best])
        assert 32 <= np.count_nonzero(got == want) < EXACT + 32  # there are 32 groups of tokens
        assert np.sqrt(np.mean((got - want) ** 2)) < 0.1 * np.sqrt(np.mean(want**2))
    np.testing.assert_array_equal(last, lean[-1])


def test_a_large_vocabulary(tmp_path: Path) -> None:
    """More groups of tokens than are computed again; one token more than a whole group."""
    path = write_model(tmp_path / "m.gguf", WIDE)
    plain, _ = logits(path)
    prepare(path)
    lean, _ = logits(path)
    for want, got in zip(plain, lean, strict=True):
        np.testing.assert_array_equal(got[np.argsort(-want)[:40]], np.sort(want)[::-1][:40])
        assert EXACT <= np.count_nonzero(got == want) < EXACT + 32


def test_the_best_token_is_never_lost(tmp_path: Path) -> None:
    """The toy model, whose vocabulary has fewer groups than tokens that are computed again; greedy tokens are those without."""
    path = Path(shutil.copy(eg.Model.load("toy").path, tmp_path / "toy.gguf"))
    ids = np.random.default_rng(0).integers(0, 1312, 500)
    with eg.Model.load(path) as plain:
        want = plain.session(512).forward(ids).argmax(1)
    prepare(path)
    with eg.Model.load(path) as lean:
        np.testing.assert_array_equal(lean.session(512).forward(ids).argmax(1), want)


def test_many_logits_that_tie(tmp_path: Path) -> None:
    """All rows of the head are equal: some are computed again, and all logits are finite."""
    writer = model_writer(WIDE)
    name, dims, kind, raw, place = writer.tensors[0]
    writer.tensors[0] = (name, dims, kind, raw[: 2 * dims[0]] * dims[1], place)
    path = tmp_path / "m.gguf"
    path.write_bytes(writer.build())
    plain, _ = logits(path)
    prepare(path)
    lean, _ = logits(path)
    exact = (lean == plain).sum(1)
    assert np.isfinite(lean).all() and ((exact == 160) | (exact == plain.shape[1])).all()


@pytest.mark.parametrize("isa", [name for name, target in kernels.targets.items() if target])
def test_every_instruction_set_and_number_of_threads_gives_the_same(model: Path, isa: str) -> None:
    prepare(model)
    code = (
        "import sys, zlib, edge_gemma as eg\n"
        "session = eg.Model.load(sys.argv[1], threads=int(sys.argv[2])).session(256)\n"
        f"print(eg.isa, zlib.crc32(session.forward({IDS}).tobytes()))"
    )

    def crc(threads: int, **environment: str) -> list[str]:
        command = [sys.executable, "-c", code, str(model), str(threads)]
        return subprocess.check_output(command, env={**os.environ, **environment}, text=True).split()

    name, want = crc(2)
    assert [crc(threads, EDGE_GEMMA_ISA=isa) for threads in (1, 3)] == [[isa, want]] * 2, name


def test_text_and_drafts_are_those_of_the_models_own_head(model: Path) -> None:
    """Greedy answers, batches of several sessions, and drafts that are checked in one pass."""
    with eg.Model.load(model, threads=2) as opened:
        session = opened.session(256)
        session.feed_tokens(IDS)
        want = [session.next(eg.Sampling(temperature=0)).id for _ in range(20)]
    prepare(model)
    with eg.Model.load(model, threads=2) as opened:
        first = opened.session(256)
        first.feed_tokens(IDS)
        second, pair = first.fork(), [first, first.fork()]
        assert second.verify(want[:8], eg.Sampling(temperature=0)) == 8
        got = [eg.next_tokens(pair, eg.Sampling(temperature=0)) for _ in want]
        assert [[token.id for token in tokens] for tokens in zip(*got, strict=True)] == [want, want]


def test_what_is_told_of_it(model: Path) -> None:
    with eg.Model.load(model) as plain:
        assert plain.sidecar is None
        config, mapped, parts = plain.config, plain.memory()["mapped"], plain.weight_sizes()
    made = prepare(model)
    with eg.Model.load(model) as lean:
        assert lean.sidecar == made.path == sidecar_path(model)
        assert lean.memory()["mapped"] == mapped + made.bytes
        assert lean.config.decode_bytes == config.decode_bytes - made.saved
        assert lean.config.parameters == config.parameters  # the same weights, twice
        sizes = lean.weight_sizes()
        assert sizes["weights"] == parts["weights"] - made.saved
        assert sizes["rows"] - parts["rows"] == 256 * 512 * 210 // 256
    with eg.Model.load(model, sidecar=False) as plain:
        assert plain.sidecar is None and plain.config == config


def test_a_session_is_restored_with_the_same_head_only(model: Path, tmp_path: Path) -> None:
    prepare(model)
    with eg.Model.load(model) as lean:
        session = lean.session(256)
        session.feed_tokens(IDS)
        session.save(tmp_path / "s")
        assert lean.session(restore=tmp_path / "s").position == len(IDS)
    with eg.Model.load(model, sidecar=False) as plain, pytest.raises(EdgeGemmaError, match="another model"):
        plain.session(restore=tmp_path / "s")


# ---- where it lies -----------------------------------------------------------------------------------------------------------


def test_a_sidecar_in_another_place(model: Path, tmp_path: Path) -> None:
    """By its path, and inside another file, as in an application's package."""
    prepare(model)
    want, _ = logits(model)
    moved = sidecar_path(model).rename(tmp_path / "elsewhere.gguf")
    got, _ = logits(model, sidecar=moved)
    np.testing.assert_array_equal(got, want)
    package = tmp_path / "assets.bin"
    package.write_bytes(b"x" * 4097 + model.read_bytes() + b"y" * 13 + moved.read_bytes())
    fd, size = os.open(package, os.O_RDONLY), model.stat().st_size
    part, rest = eg.FileDescriptor(fd, 4097, size), eg.FileDescriptor(fd, 4097 + size + 13)
    with eg.Model.load(part) as plain:
        assert plain.sidecar is None
    with eg.Model.load(part, sidecar=rest) as opened:
        os.close(fd)
        assert str(opened.sidecar) == f"<descriptor {fd}>"
        assert opened.weight_sizes()["weights"] < plain_weights(model)
        np.testing.assert_array_equal(opened.session(256).forward(IDS), want)


def plain_weights(model: Path) -> int:
    with eg.Model.load(model, sidecar=False) as opened:
        return opened.weight_sizes()["weights"]


def test_a_model_without_the_usual_ending_and_a_split_one(tmp_path: Path) -> None:
    bare = Path(shutil.copy(DATA / "e2b-Q4_0.gguf", tmp_path / "blob"))
    assert prepare(bare).path == tmp_path / "blob.lean.gguf"
    with eg.Model.load(bare) as opened:
        assert opened.sidecar
    whole = model_writer(WIDE)
    rest = Writer(tensors=whole.tensors[3:])
    whole.tensors = whole.tensors[:3]
    first, *_ = write_split(tmp_path, "m", [whole, rest])
    assert prepare(first).path.name == "m-00001-of-00002.lean.gguf"
    with eg.Model.load(first) as opened:
        assert opened.sidecar


# ---- sidecars that are refused -----------------------------------------------------------------------------------------------


def damaged(model: Path, change: Callable[[bytes], bytes]) -> None:
    """Makes the sidecar of a model, changed."""
    path = prepare(model).path
    path.write_bytes(change(path.read_bytes()))


def refused(model: Path, code: str, text: str) -> None:
    """The model is not opened, and the message names the sidecar and says what to do."""
    with pytest.raises(EdgeGemmaError, match=text) as caught:
        eg.Model.load(model)
    assert caught.value.code == code
    message = str(caught.value)
    assert message.startswith(f"{sidecar_path(model)}: ") and message.endswith(ADVICE), message
    eg.Model.load(model, sidecar=False).close()
    assert prepare(model).made  # which replaces it
    eg.Model.load(model).close()


ADVICE = "Make it again with `edge-gemma prepare`, remove it, or open the model without its sidecar (in Python: sidecar=False)."


def test_of_another_file(model: Path, tmp_path: Path) -> None:
    """A file of the same shape and size, one that grew by a byte, and one of another shape."""
    prepare(model)
    kept = sidecar_path(model).read_bytes()
    original = model.read_bytes()
    changed = bytearray(original)
    with eg.GGUFFile(model) as file:
        size = next(tensor.bytes for tensor in file.tensors if tensor.name == "token_embd.weight")
    at = original.rindex(prepared_source(model)) + (size - 64) // 8 * 5 + 10  # one of the samples
    changed[at] ^= 1
    for data in (bytes(changed), original + b"x", (DATA / "e4b-Q4_0.gguf").read_bytes()):
        model.write_bytes(data)
        sidecar_path(model).write_bytes(kept)
        refused(model, "format", "was made of another file than")


def prepared_source(model: Path) -> bytes:
    """The token embeddings of a model, as they lie in the file."""
    from edge_gemma.files.gguf_source import GGUFSource

    (tensor,) = (tensor for tensor in GGUFSource(model).tensors if tensor.name == "token_embd.weight")
    return tensor.read(0, tensor.bytes).tobytes()


@pytest.mark.parametrize("size", [0, 4, 20, 100, 400, -1])
def test_truncated(model: Path, size: int) -> None:
    damaged(model, lambda data: data[:size])
    refused(model, "file" if size == 0 else "format", "empty|GGUF|end|promises")


def test_a_directory_in_its_place(model: Path) -> None:
    sidecar_path(model).mkdir()
    with pytest.raises(EdgeGemmaError, match="Is a directory"):
        eg.Model.load(model)


def rewritten(model: Path, **changes: object) -> None:
    """Writes a sidecar of a model with some of its entries changed; None leaves one out."""
    with eg.GGUFFile(prepare(model).path) as file:
        entries = {"general.architecture": "gemma4-sidecar", **{key: file.metadata[key] for key in file.metadata}}
        (tensor,) = file.tensors
    tensors = changes.pop("tensors", [("output_lean.weight", [256, 512], 0, bytes(4 * 256 * 512))])
    entries |= {key.replace("_", ".", 1): value for key, value in changes.items()}
    writer = Writer()
    for key, value in entries.items():
        if value is not None:
            writer.entry(key, value)
    for item in tensors:  # type: ignore[attr-defined]
        writer.tensor(*item)
    assert tensor.name == "output_lean.weight"
    sidecar_path(model).write_bytes(writer.build())


FLOATS = bytes(4 * 256 * 512)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"general_architecture": "gemma4"}, "format", "architecture is 'gemma4', not 'gemma4-sidecar'"),
        ({"general_architecture": None}, "format", "architecture is '', not"),
        ({"sidecar_version": 2}, "unsupported", "is of version 2, and this program reads version 1"),
        ({"sidecar_version": None}, "unsupported", "is of version 0"),
        ({"sidecar_version": "1"}, "unsupported", "is of version 0"),
        ({"sidecar_bytes": None}, "format", "another file"),
        ({"sidecar_digest": 7}, "format", "another file"),
        ({"tensors": []}, "format", "has one tensor"),
        ({"tensors": [("output.weight", [256, 512], 0, FLOATS)]}, "format", "has one tensor"),
        ({"tensors": [("token_embd.weight", [256, 512], 0, FLOATS)]}, "format", "has one tensor"),
        ({"tensors": [("output_lean.weight", [256, 512], 0, FLOATS), ("x", [1], 0, bytes(4))]}, "format", "one tensor"),
        ({"tensors": [("output_lean.weight", [512, 256], 0, FLOATS)]}, "format", "256 x 512 .*512 x 256"),
        ({"tensors": [("output_lean.weight", [256, 512], 99, b"")]}, "unsupported", "type number 99"),
        ({"tensors": [("output_lean.weight", [256, 512], 0x45470004, bytes(65536))]}, "unsupported", "type number"),
    ],
)
def test_hostile(model: Path, changes: dict[str, object], code: str, text: str) -> None:
    rewritten(model, **changes)
    refused(model, code, text)


def test_a_model_with_a_head_of_its_own(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", SHAPES["fused qkv, own output, scalars"])
    with pytest.raises(EdgeGemmaError, match="needs no sidecar"):
        prepare(path)
    with eg.GGUFFile(path) as file:
        size, digest = file.identity()
    writer = Writer().entry("general.architecture", "gemma4-sidecar").entry("sidecar.version", 1)
    writer.entry("sidecar.bytes", str(size)).entry("sidecar.digest", f"{digest:016x}")
    writer.tensor("output_lean.weight", [64, VOCAB], 0, bytes(4 * 64 * VOCAB))
    sidecar_path(path).write_bytes(writer.build())
    with pytest.raises(EdgeGemmaError, match="cannot have a leaner version"):
        eg.Model.load(path)


# ---- rows that are copied out of the file ------------------------------------------------------------------------------------


def test_rows_are_read_without_a_descriptor_to_spare(model: Path) -> None:
    """A process at its limit of open files reads the rows of tables through the mapping; the logits are the same."""
    prepare(model)
    code = (
        "import os, resource, sys, zlib\n"
        "import edge_gemma as eg, numpy as np\n"
        f"ids = {IDS}\n"
        "crc = lambda model: zlib.crc32(model.session(256).forward(ids).tobytes())\n"
        "want = crc(eg.Model.load(sys.argv[1], threads=1))\n"
        "free = os.open(os.devnull, os.O_RDONLY)\n"
        "os.close(free)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))  # one file can be open at a time\n"
        "model = eg.Model.load(sys.argv[1], threads=1)\n"
        "assert not any('m.gguf' in os.path.realpath(f'/proc/self/fd/{fd}') for fd in range(free, free + 1))\n"
        "print(want == crc(model), model.sidecar is not None)"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(model)], text=True) == "True True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is resident")
def test_the_rows_of_a_long_prompt_stay_out_of_memory(tmp_path: Path) -> None:
    """A prompt with tokens from all over the vocabulary: the tables of which rows are read are not resident."""
    shape = Shape([True, False], ple=64, unused=40_000, context=1024)
    path = write_model(tmp_path / "m.gguf", shape)
    for prepared in (False, True):
        if prepared:
            prepare(path)
        with eg.Model.load(path) as opened:
            session = opened.session(1024)
            session.feed_tokens(range(20, 40_000, 60))
            session.logits()
            rows, memory = opened.weight_sizes()["rows"], opened.memory()
        assert rows > 20_000_000 and memory["resident"] < memory["mapped"] - rows + 4_000_000
