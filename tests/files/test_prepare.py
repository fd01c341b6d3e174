"""Making a sidecar: what it contains, that it is made once, and that nothing is left of one that was not finished."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma import kernels
from edge_gemma.errors import EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from edge_gemma.files.gguf_source import GGUFSource
from edge_gemma.files.prepare import HEAD_TYPES, is_worthwhile, prepare
from edge_gemma.files.quantize import quantize
from edge_gemma.hub.sidecar import sidecar_path
from support.paths import DATA

MODEL = DATA / "e2b-Q4_0.gguf"  # head Q6_K


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(MODEL, tmp_path / "m.gguf"))


def tensor(path: Path, name: str) -> tuple[str, bytes]:
    """The type and the data of a tensor."""
    (found,) = (tensor for tensor in GGUFSource(path).tensors if tensor.name == name)
    return found.type, found.read(0, found.bytes).tobytes()


@pytest.mark.parametrize("type", HEAD_TYPES)
def test_the_head_in_every_type(model: Path, type: str) -> None:
    """The bytes are those of the quantizer, however many threads there are, and the saving is what the engine tells."""
    seen: list[tuple[int, int, str]] = []
    made = prepare(model, type=type.lower(), threads=3, progress=lambda *at: seen.append(at))
    assert (made.path, made.head, made.type, made.made) == (sidecar_path(model), "Q6_K", type, True)
    head, data = tensor(model, "token_embd.weight")
    lean, written = tensor(made.path, "output_lean.weight")
    assert lean == type and written == kernels.quantize(kernels.dequantize(data, head), type).tobytes()
    assert made.saved == len(data) - len(written) and made.bytes == made.path.stat().st_size
    assert seen[-1] == (len(written), len(written), "token_embd.weight") and sorted(seen) == seen
    assert sorted(model.parent.iterdir()) == [model, made.path] or set(model.parent.iterdir()) == {model, made.path}


def test_it_is_made_once(model: Path) -> None:
    first = prepare(model)
    stamp = first.path.stat().st_mtime_ns
    again = prepare(model)
    assert not again.made and again[:5] == first[:5] and again.path.stat().st_mtime_ns == stamp
    assert prepare(model, type="Q4_0").made  # another type
    assert prepare(model, type="Q4_0", force=True).made
    model.write_bytes((DATA / "e4b-Q4_0.gguf").read_bytes())
    assert prepare(model).made  # another file
    with eg.Model.load(model) as opened:
        assert opened.sidecar


def test_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """The small 26B has rows of 128 values, which IQ4_XS has not."""
    path = Path(shutil.copy(DATA / "moe-Q4_0.gguf", tmp_path / "m.gguf"))
    assert prepare(path).type == "IQ4_NL"
    eg.Model.load(path).close()


def test_where_it_is_worthwhile(model: Path, tmp_path: Path) -> None:
    assert is_worthwhile(model)  # per-layer embeddings, layers of four bits, a head of six
    assert not is_worthwhile(DATA / "moe-Q4_0.gguf")
    small = quantize(model, tmp_path / "small.gguf", "Q4_0", tensor_types={"token_embd.weight": "Q4_0"}).path
    assert not is_worthwhile(small)
    large = quantize(model, tmp_path / "large.gguf", "Q8_0").path
    assert not is_worthwhile(large)
    with pytest.raises(EdgeGemmaValueError, match=r"needs no sidecar: its head has type Q4_0"):
        prepare(small, type="Q4_0")
    assert not sidecar_path(small).exists()


@pytest.mark.parametrize(
    ("source", "options", "code", "text"),
    [
        ("audio-e2b.gguf", {}, "unsupported", "is no Gemma 4 model"),
        ("e2b-Q4_0.gguf", {"type": "Q8_0"}, "argument", "the head takes one of IQ4_XS"),
        ("e2b-Q4_0.gguf", {"type": "NO"}, "argument", "NO"),
    ],
)
def test_what_is_refused(tmp_path: Path, source: str, options: dict[str, Any], code: str, text: str) -> None:
    path = Path(shutil.copy(DATA / source, tmp_path / "m.gguf"))
    with pytest.raises(EdgeGemmaValueError, match=text) as caught:
        prepare(path, **options)
    assert caught.value.code == code and list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_kind_is_not_replaced(model: Path) -> None:
    sidecar_path(model).write_text("notes of mine")
    with pytest.raises(EdgeGemmaOSError, match="is no GGUF file, so it is not replaced"):
        prepare(model)
    assert sidecar_path(model).read_text() == "notes of mine"


# ---- nothing half done -------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """What a caller raises to end the work."""


def stop(*_: object) -> None:
    raise Stop


@pytest.fixture(params=["none", "good"])
def before(request: pytest.FixtureRequest, model: Path) -> bytes | None:
    """What is there before: no sidecar, or one of another type, which must stay."""
    return prepare(model, type="Q5_K").path.read_bytes() if request.param == "good" else None


def unchanged(model: Path, before: bytes | None) -> bool:
    path = sidecar_path(model)
    files = {model, path} if before else {model}
    return set(model.parent.iterdir()) == files and (before is None or path.read_bytes() == before)


def test_stopped_by_its_caller(model: Path, before: bytes | None) -> None:
    with pytest.raises(Stop):
        prepare(model, progress=stop)
    assert unchanged(model, before)


def test_no_room(model: Path, before: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is checked before anything is written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(EdgeGemmaOSError, match=r"has 0\.00 GB left; m\.lean\.gguf needs"):
        prepare(model)
    assert unchanged(model, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_meanwhile(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the room that there was."""
    model = small_disk / "m.gguf"
    model.symlink_to(MODEL)
    (small_disk / "other").write_bytes(bytes(350_000))
    with pytest.raises(EdgeGemmaOSError, match="needs"):
        prepare(model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(
        EdgeGemmaOSError, match=r"writing .*m\.lean\.gguf failed: No space left on device; no file was left"
    ):
        prepare(model)
    assert sorted(path.name for path in small_disk.iterdir()) == ["m.gguf", "other"]
    (small_disk / "other").unlink()
    assert prepare(model).made
    with eg.Model.load(model) as opened:
        assert opened.sidecar


def test_a_damaged_model(model: Path, before: bytes | None) -> None:
    """The file ends before the head does: the engine says so before anything is written."""
    data = model.read_bytes()
    model.write_bytes(data[:-1000])
    with pytest.raises(EdgeGemmaError, match="truncated"):
        prepare(model)
    assert unchanged(model, before)


def test_two_at_a_time(model: Path) -> None:
    """Each writes a file of its own, and the last one gets the name."""
    command = [
        sys.executable,
        "-c",
        "import sys; from edge_gemma.files.prepare import prepare; prepare(sys.argv[1], force=True)",
    ]
    running = [subprocess.Popen([*command, str(model)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert set(model.parent.iterdir()) == {model, sidecar_path(model)}
    eg.Model.load(model).close()


# ---- the command -------------------------------------------------------------------------------------------------------------


def test_the_command(model: Path, run_cli: Callable[..., Any]) -> None:
    done = run_cli("prepare", str(model))
    assert done.returncode == 0, done.stderr
    path = sidecar_path(model)
    assert done.stdout.splitlines() == [
        f"{path}  {os.path.getsize(path) / 1000:.3g} kB",
        "  head    Q6_K -> IQ4_XS: a token reads 37.9 kB less, which stay out of memory",
        "  to undo it, remove m.lean.gguf",
    ]
    assert "made before" in run_cli("prepare", str(model)).stdout
    outputs = [
        run_cli(
            "run", "-m", str(model), "--raw", "--temperature", "0", "--max-tokens", "5", "--json", *options, "hello"
        )
        for options in ([], ["--no-sidecar"])
    ]
    assert outputs[0].returncode == outputs[1].returncode == 0, outputs
    path.write_bytes(path.read_bytes()[:-100])
    failed = run_cli("run", "-m", str(model), "hello")
    assert failed.returncode == 1 and str(path) in failed.stderr and "prepare`, remove it" in failed.stderr
    assert "sidecar=False" not in failed.stderr
    assert run_cli("run", "-m", str(model), "--no-sidecar", "--max-tokens", "1", "hello").returncode == 0
