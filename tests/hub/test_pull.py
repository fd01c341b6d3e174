"""Downloading models and finding them by name, against a Hub on this machine (`fake_hub`)."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.hub import download, pull
from edge_gemma.hub.cache import ENCODER_ORDER, cache_folder, locate, pick, sort_out
from edge_gemma.hub.resolve import model_files
from support.fake_hub import TOKEN, FakeHub
from support.gguf_writer import Writer, write_split
from support.paths import DATA
from support.tiny_model import SHAPES, model_writer

MODEL, ENCODERS = (DATA / "e2b-Q4_0.gguf").read_bytes(), (DATA / "audio-e2b.gguf").read_bytes()
E2B = "ggml-org/gemma-4-E2B-it-GGUF"
Q4, MMPROJ = "gemma-4-E2B-it-Q4_0.gguf", "mmproj-gemma-4-E2B-it-Q8_0.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a place to work in, and no configuration of whoever runs the tests."""
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "EDGE_GEMMA_MODEL",
        "EDGE_GEMMA_MMPROJ",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs pip install 'edge-gemma[hub]'")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def e2b(hub: FakeHub) -> FakeHub:
    """A Hub with E2B as it is published, small."""
    files = {
        Q4: MODEL,
        "gemma-4-E2B-it-Q8_0.gguf": MODEL + b"8",
        "mtp-gemma-4-E2B-it-Q4_0.gguf": b"a drafter",
        "mmproj-gemma-4-E2B-it-BF16.gguf": ENCODERS + b"b",
        "mmproj-gemma-4-E2B-it-Q4_0.gguf": ENCODERS + b"4",
        MMPROJ: ENCODERS,
        "README.md": b"text",
    }
    hub.add(E2B, files, in_git=("README.md",))
    return hub


def partial(cache: Path) -> Path:
    """The one file that is not complete."""
    (path,) = cache.glob("models--*/blobs/*.incomplete")
    return path


# ---- choosing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("gemma-4-E2B-it-Q4_0.gguf", "Q4_0"),
        ("gemma-4-E2B_q4_0-it.gguf", "Q4_0"),
        ("google_gemma-4-26B-A4B-it-IQ3_XXS.gguf", "IQ3_XXS"),
        ("gemma-4-31B-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gemma-4-E4B-it-Q6_K.gguf", "Q6_K"),
        ("BF16/gemma-4-31B-it-BF16-00001-of-00001.gguf", "BF16"),
        ("Q8_0/gemma-4-31B-it.gguf", "Q8_0"),
        ("gemma-4-E2B-it.f16.gguf", "F16"),
        ("gemma-4-E2B-it-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("gemma-4-26B-A4B-it.gguf", None),
    ],
)
def test_quantization_in_a_name(name, quant):
    ((weights,), encoders) = sort_out([name])
    assert weights.quant == quant and not encoders


def test_what_lies_beside_models_is_none():
    aside = [
        "mtp-gemma-4-E2B-it-Q4_0.gguf",
        "MTP/gemma-4-26B-A4B-it-Q8_0.gguf",
        "dflash-gemma-4-31B-it-Q8_0.gguf",
        "imatrix_unsloth.gguf",
        "gemma-4-E2B-it-assistant-Q8_0.gguf",
        "README.md",
    ]
    assert sort_out(aside) == ([], [])


def test_split_files_are_taken_whole_or_not_at_all():
    parts = [f"m-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    ((weights,), _) = sort_out(reversed(parts))
    assert weights.parts == tuple(parts)
    assert sort_out(parts[1:]) == ([], [])


def test_which_quantization():
    names = [
        "a-Q8_0.gguf",
        "a-UD-Q4_K_M.gguf",
        "a-Q5_K_M.gguf",
        "a-1-Q8_0.gguf",
        "a-mmproj.gguf",
        "a-mmproj-F16.gguf",
    ]
    models, encoders = sort_out(names)
    assert pick(models).quant == "Q5_K_M"
    assert pick(models, "q8_0").parts == ("a-Q8_0.gguf",)
    assert pick(models, "Q4_K_M").quant == "UD-Q4_K_M"
    assert pick(models, "Q4_K") is None
    assert pick(encoders, order=ENCODER_ORDER).parts == ("a-mmproj-F16.gguf",)


# ---- downloading -------------------------------------------------------------------------------------------------


def test_a_plain_download(e2b, cache):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    calls: list[tuple[str, int, int]] = []
    done = pull("e2b", progress=lambda *call: calls.append(call))
    assert (done.repository, done.quant, done.revision) == (E2B, "Q4_0", e2b.repositories[E2B].commit)
    assert done.model.read_bytes() == MODEL and done.mmproj.read_bytes() == ENCODERS
    assert done.size == done.downloaded == len(MODEL) + len(ENCODERS)
    # Others find it in the cache as if they had put it there.
    assert try_to_load_from_cache(E2B, Q4, cache_dir=cache) == str(done.model)
    (repository,) = scan_cache_dir(cache).repos
    assert repository.repo_id == E2B and set(repository.refs) == {"main"}
    assert repository.size_on_disk == done.size and not list(cache.rglob("*.incomplete"))
    for name, size in ((Q4, len(MODEL)), (MMPROJ, len(ENCODERS))):
        for what in (name, f"checking {name}"):
            amounts = [amount for text, amount, total in calls if text == what and total == size]
            assert amounts == sorted(amounts) and amounts[-1] == size
    assert e2b.sent(Q4) == e2b.sent(MMPROJ) == [None]
    assert not e2b.sent("gemma-4-E2B-it-Q8_0.gguf")


def test_what_is_there_is_not_downloaded_again(e2b):
    first = pull("e2b")
    again = pull("E2B")
    assert again.model == first.model and again.downloaded == 0 and again.size == first.size
    assert len(e2b.sent(Q4)) == len(e2b.sent(MMPROJ)) == 1


def test_a_new_commit_with_the_same_file(e2b, cache):
    first = pull("e2b")
    e2b.repositories[E2B].files["README.md"] = b"new text"
    second = pull("e2b")
    assert second.revision != first.revision and second.downloaded == 0 and second.model.read_bytes() == MODEL
    assert (cache / "models--ggml-org--gemma-4-E2B-it-GGUF/refs/main").read_text() == second.revision


def test_without_encoders_and_by_quantization(e2b):
    done = pull("e2b", "q8_0", mmproj=False)
    assert done.quant == "Q8_0" and done.mmproj is None and done.model.name == "gemma-4-E2B-it-Q8_0.gguf"
    assert not e2b.sent(MMPROJ)
    other = pull("e2b", mmproj=False)
    assert other.quant == "Q4_0"
    os.utime(done.model, (1000, 1000), follow_symlinks=False)
    os.utime(other.model, (2000, 2000), follow_symlinks=False)
    assert locate("e2b")[0] == str(other.model)
    assert pull("e2b:q8_0", mmproj=False).downloaded == 0
    assert locate("e2b")[0] == str(done.model)  # the last that was pulled, not the last that was downloaded


def test_a_disk_without_links(e2b, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    done = pull("e2b")
    assert done.model.read_bytes() == MODEL and not done.model.is_symlink()
    assert pull("e2b").downloaded == 0 and locate("e2b") == (str(done.model), str(done.mmproj))


def test_a_file_in_git(hub):
    hub.add("o/r", {"small-Q4_0.gguf": b"GGUF small"}, in_git=("small-Q4_0.gguf",))
    assert pull("o/r").model.read_bytes() == b"GGUF small"


def test_split_files(hub, tmp_path):
    whole = model_writer(SHAPES["plain"])
    parts = [Writer(entries=whole.entries), Writer()]
    for i, tensor in enumerate(whole.tensors):
        parts[i % 2].tensors.append(tensor)
    paths = write_split(tmp_path, "tiny-BF16", parts)
    hub.add("o/r", {f"BF16/{path.name}": path.read_bytes() for path in paths})
    done = pull("o/r")
    assert done.model.name == "tiny-BF16-00001-of-00002.gguf" and done.size == sum(p.stat().st_size for p in paths)
    with eg.Model.load("o/r") as model:
        assert model.path == done.model and model.config.layers == 3


def test_the_next_repository_is_tried(hub):
    hub.add(E2B, {Q4: MODEL})
    hub.add("unsloth/gemma-4-E2B-it-GGUF", {"gemma-4-E2B-it-UD-Q4_K_XL.gguf": b"xl"})
    assert pull("e2b").repository == E2B
    assert pull("e2b", "Q4_K_XL").repository == "unsloth/gemma-4-E2B-it-GGUF"


def test_revisions(e2b):
    old = e2b.repositories[E2B].commit
    done = pull("e2b", revision=old, mmproj=False)
    assert done.revision == old and not list(done.model.parents[2].glob("refs/*"))
    with pytest.raises(OSError, match="has no revision 'nonsense'"):
        pull("e2b", revision="nonsense")


# ---- interruptions -----------------------------------------------------------------------------------------------


def test_a_cut_connection_is_taken_up_again(e2b):
    e2b.cut[Q4] = [100_000] * (download.ATTEMPTS + 1)
    assert pull("e2b", mmproj=False).model.read_bytes() == MODEL
    assert e2b.sent(Q4) == [None, *(f"bytes={n}00000-" for n in range(1, download.ATTEMPTS + 2))]


def test_the_next_command_goes_on(e2b, cache):
    e2b.cut[Q4] = [100_000] + [0] * download.ATTEMPTS
    with pytest.raises(eg.EdgeGemmaError, match=r"cannot reach .*the download is continued") as failed:
        pull("e2b")
    assert failed.value.code == "file" and partial(cache).stat().st_size == 100_000
    assert not list(cache.glob("models--*/snapshots/*/*.gguf"))
    e2b.cut.clear()
    e2b.requests.clear()
    done = pull("e2b")
    assert e2b.sent(Q4) == ["bytes=100000-"] and done.model.read_bytes() == MODEL
    assert done.downloaded == len(MODEL) - 100_000 + len(ENCODERS)


def test_a_server_that_sends_everything_again(e2b):
    e2b.cut[Q4], e2b.whole = [100_000], {Q4}
    assert pull("e2b", mmproj=False).model.read_bytes() == MODEL
    assert e2b.sent(Q4) == [None, "bytes=100000-"]


def test_a_partial_file_that_is_too_long(e2b, cache):
    e2b.cut[Q4] = [10] + [0] * download.ATTEMPTS
    with pytest.raises(OSError):
        pull("e2b")
    partial(cache).write_bytes(bytes(len(MODEL) + 1))
    assert pull("e2b").model.read_bytes() == MODEL


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c(e2b, cache):
    e2b.stall[Q4] = 200_000
    restore = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # in case the tests run in the background
    script = f"import signal, sys; {restore}; from edge_gemma.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "pull", "e2b"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert e2b.stalled.wait(30)
    deadline = time.monotonic() + 10
    while not (list(cache.rglob("*.incomplete")) and partial(cache).stat().st_size >= 150_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == b"" and err == b"stopped: the same command continues from here.\n"
    e2b.released.set()
    size = partial(cache).stat().st_size
    assert size == 200_000
    e2b.requests.clear()
    assert pull("e2b").model.read_bytes() == MODEL and e2b.sent(Q4) == [f"bytes={size}-"]


# ---- failures ----------------------------------------------------------------------------------------------------


def test_a_wrong_checksum(e2b, cache):
    e2b.damaged = {Q4}
    with pytest.raises(eg.EdgeGemmaError, match=rf"^{Q4} of {E2B} arrived damaged.*run the command again") as failed:
        pull("e2b")
    assert failed.value.code == "file"
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    e2b.damaged = set()
    e2b.requests.clear()
    assert pull("e2b").model.read_bytes() == MODEL and e2b.sent(Q4) == [None]


def test_no_room_is_seen_before_it_starts(e2b, monkeypatch):
    free = len(MODEL) + len(ENCODERS) - 1
    usage = SimpleNamespace(free=free, total=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        eg.EdgeGemmaError, match=r"^the download has 0\.00458 GB, but .* has room for 0\.00458 GB.*HF_HOME"
    ):
        pull("e2b")
    assert not e2b.sent(Q4)
    usage.free += 1
    pull("e2b")
    usage.free = 0
    pull("e2b")  # nothing to download, nothing needed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_disk_becomes_full(e2b, cache):
    checksum = e2b.repositories[E2B].checksum(Q4)
    blobs = cache / "models--ggml-org--gemma-4-E2B-it-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{checksum}.edge-gemma.incomplete").symlink_to("/dev/full")
    with pytest.raises(eg.EdgeGemmaError, match=r"the disk of .* is full.*the download is continued") as failed:
        pull("e2b")
    assert failed.value.__cause__.errno == errno.ENOSPC and not list(cache.glob("models--*/snapshots/*"))


def test_repositories_that_are_not_there_or_not_open(hub, monkeypatch):
    hub.add("o/gated", {"m-Q4_0.gguf": MODEL}, gated=True)
    hub.add("o/private", {"m-Q4_0.gguf": MODEL}, private=True)
    hub.add("o/empty", {"model.safetensors": b""})
    for name, message in [
        ("o/none", "there is no repository o/none at"),
        ("o/private", "or it is private: check the name, or log in with `hf auth login`"),
        ("o/gated", f"o/gated is gated: accept its licence at {hub.url}/o/gated, then log in with `hf auth login`"),
        ("o/empty", "there is no o/empty: o/empty has no model in GGUF files"),
        ("o/no--name", "o/no--name is not a valid name of a repository"),
        ("e2b", f"there is no repository {E2B}"),
        ("e3b", "'e3b' names no model: give e2b, e4b, 26b, 31b, or a repository as OWNER/REPO"),
        ("../up", "names no model"),
    ]:
        with pytest.raises(eg.EdgeGemmaError) as failed:
            pull(name)
        assert message in str(failed.value) and "\n" not in str(failed.value)
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    with pytest.raises(OSError, match="o/gated is gated"):
        pull("o/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pull("o/gated").model.read_bytes() == pull("o/private").model.read_bytes() == MODEL


def test_a_quantization_that_is_not_there(e2b):
    e2b.add("google/gemma-4-E2B-it-qat-q4_0-gguf", {"gemma-4-E2B_q4_0-it.gguf": MODEL})
    with pytest.raises(ValueError) as failed:
        pull("e2b", "Q3_K_M")
    assert str(failed.value) == (
        f"there is no e2b as Q3_K_M: {E2B} has Q4_0, Q8_0; google/gemma-4-E2B-it-qat-q4_0-gguf has Q4_0."
    )


@pytest.mark.parametrize(
    ("status", "words"), [(429, "too many requests"), (503, "try again later"), (403, "your token")]
)
def test_a_hub_that_refuses(e2b, status, words):
    e2b.down = status
    with pytest.raises(OSError, match=rf"{E2B} answered with status {status}; .*{words}"):
        pull("e2b")


def test_something_else_answers(e2b):
    e2b.babble = True
    with pytest.raises(OSError, match="does not answer as the Hugging Face Hub does"):
        pull("e2b")


def test_names_do_not_leave_the_cache(hub, tmp_path):
    repository = hub.add("o/r", {"../../../../../evil-Q4_0.gguf": b"evil"})
    with pytest.raises(OSError, match="does not answer as"):
        pull("o/r")
    repository.files = {"m-Q4_0.gguf": b"evil"}
    repository.checksum = lambda _: "../../evil"
    with pytest.raises(OSError, match="does not answer as"):
        pull("o/r")


def test_no_connection(monkeypatch, hub):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"^cannot reach http://127.0.0.1:9: .*Check the connection"):
        pull("e2b")
    monkeypatch.setattr(sys.modules["huggingface_hub.constants"], "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        pull("e2b")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OSError, match="-m pip install huggingface_hub"):
        pull("e2b")


def test_one_download_at_a_time(e2b, cache, monkeypatch):
    from filelock import FileLock

    checksum = e2b.repositories[E2B].checksum(Q4)
    lock = cache / ".locks" / "models--ggml-org--gemma-4-E2B-it-GGUF" / f"{checksum}.lock"
    lock.parent.mkdir(parents=True)
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    with FileLock(lock), pytest.raises(OSError, match=f"{Q4} is being downloaded by another process.*remove .*lock"):
        pull("e2b")


def test_files_too_large_for_http_are_left_to_the_library(e2b, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_OVER_HTTP", len(ENCODERS) - 1)
    done = pull("e2b")
    assert done.mmproj.read_bytes() == ENCODERS and done.model.read_bytes() == MODEL
    agents = {r.headers["user-agent"].split(";")[0] for r in e2b.requests if r.method == "HEAD" and MMPROJ in r.path}
    assert len(agents) == 1  # it asks for the head of a file first, and `pull` does not


# ---- names -------------------------------------------------------------------------------------------------------


def put(cache: Path, repository: str, name: str, commit: str = "c0", age: float = 0.0) -> Path:
    """A downloaded file in the cache, `age` seconds old."""
    folder = cache / ("models--" + repository.replace("/", "--"))
    blob, pointer = folder / "blobs" / name.replace("/", "_"), folder / "snapshots" / commit / name
    for path in (blob, pointer):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"")
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    then = time.time() - age
    os.utime(pointer, (then, then), follow_symlinks=False)
    return pointer


def found(model: Any, mmproj: Any = None) -> tuple[Any, Any]:
    model, mmproj = locate(model, mmproj)
    return Path(model), mmproj and Path(mmproj)


def test_a_name_is_what_was_pulled_last(cache):
    old = put(cache, E2B, Q4, age=10)
    encoders = put(cache, E2B, MMPROJ, age=10)
    put(cache, E2B, "mmproj-gemma-4-E2B-it-BF16.gguf")
    new = put(cache, "unsloth/gemma-4-E2B-it-GGUF", "gemma-4-E2B-it-UD-Q4_K_XL.gguf")
    put(cache, "google/gemma-4-E4B-it-qat-q4_0-gguf", "gemma-4-E4B_q4_0-it.gguf")
    assert found("e2b") == (new, None)
    assert found("E2B:q4_0") == (old, encoders)
    assert found("e2b:Q4_K_XL") == (new, None)
    assert found("e2b:Q4_0", "mine.gguf") == (old, Path("mine.gguf"))
    assert found("e4b")[0].name == "gemma-4-E4B_q4_0-it.gguf"
    assert found("GGML-org/gemma-4-E2B-it-GGUF") == (old, encoders)
    os.utime(old, (time.time() + 1,) * 2, follow_symlinks=False)
    assert found("e2b") == (old, encoders)


def test_encoders_of_another_revision(cache):
    model, encoders = put(cache, E2B, Q4, commit="b"), put(cache, E2B, MMPROJ, commit="a")
    assert found("e2b") == (model, encoders)
    nearer = put(cache, E2B, MMPROJ, commit="b")
    assert found("e2b") == (model, nearer)


def test_names_that_were_not_downloaded(cache):
    with pytest.raises(eg.EdgeGemmaError, match=r"^e2b is not in .* yet: run `edge-gemma pull e2b`\.$") as failed:
        model_files("e2b")
    assert failed.value.code == "file" and isinstance(failed.value, OSError)
    with pytest.raises(OSError, match="run `edge-gemma pull e2b --quant Q8_0`"):
        eg.Model.load("e2b:Q8_0")
    put(cache, E2B, Q4)
    with pytest.raises(
        OSError, match=r"^e2b was downloaded as Q4_0, not as Q8_0: run `edge-gemma pull e2b --quant Q8_0`"
    ):
        model_files("e2b:Q8_0")
    with pytest.raises(
        OSError, match="there is no file e3b, and no model of that name: the names are e2b, e4b, 26b, 31b"
    ):
        model_files("e3b")


def test_a_deleted_blob_and_missing_parts_are_no_download(cache):
    put(cache, E2B, Q4).resolve().unlink()
    put(cache, E2B, "gemma-4-E2B-it-BF16-00001-of-00002.gguf")
    with pytest.raises(OSError, match="run `edge-gemma pull e2b`"):
        model_files("e2b")
    second = put(cache, E2B, "gemma-4-E2B-it-BF16-00002-of-00002.gguf")
    assert found("e2b")[0] == second.with_name("gemma-4-E2B-it-BF16-00001-of-00002.gguf")


def test_paths_stay_paths(cache):
    put(cache, E2B, Q4)
    for path in ("./e2b", "e2b.gguf", "folder/e2b", "/e2b", Path("e2b"), "some.gguf", "owner/none"):
        assert locate(path, "m") == (path, "m")
    Path("e2b").mkdir()
    assert found("e2b")[0].name == Q4
    Path("e2b").rmdir()
    Path("e2b").write_bytes(b"")
    assert locate("e2b") == ("e2b", None)
    Path("folder").mkdir()
    assert locate("folder") == ("folder", None)


def test_the_environment_may_name_models(cache, monkeypatch):
    model, encoders = put(cache, E2B, Q4), put(cache, E2B, MMPROJ)
    monkeypatch.setenv("EDGE_GEMMA_MODEL", "e2b")
    assert model_files() == (str(model), str(encoders))
    monkeypatch.setenv("EDGE_GEMMA_MMPROJ", "mine.gguf")
    assert model_files() == (str(model), "mine.gguf")
    assert model_files("e2b:Q4_0") == (str(model), str(encoders))


def test_where_the_cache_is(monkeypatch, tmp_path):
    """In the same place as for huggingface_hub, which reads the environment once."""
    pytest.importorskip("huggingface_hub", reason="compares with huggingface_hub")
    names = {"XDG_CACHE_HOME": "~/x", "HF_HOME": "~/y", "HUGGINGFACE_HUB_CACHE": "/z", "HF_HUB_CACHE": "$HOME/q"}
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    monkeypatch.setenv("HOME", str(tmp_path))
    for count in (0, 2, 4):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name in list(names)[:count]:
            monkeypatch.setenv(name, names[name])
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == cache_folder()


# ---- the command -------------------------------------------------------------------------------------------------


def test_pull_and_run(e2b, monkeypatch, capsys):
    assert main(["pull", "e2b", "--no-mmproj"]) == 0
    assert "mmproj" not in capsys.readouterr().out and not e2b.sent(MMPROJ)
    assert main(["pull", "e2b", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["name"] == "e2b" and report["quant"] == "Q4_0" and report["downloaded_bytes"] == len(ENCODERS)
    assert err == ""  # no terminal, no progress
    assert main(["pull", "e2b"]) == 0
    out, _ = capsys.readouterr()
    assert report["model"] in out and "downloaded before" in out
    # From here on there is neither a network nor huggingface_hub.
    e2b.down = 503
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with eg.Model.load("e2b") as model:
        assert model.has_audio and str(model.path) == report["model"]
    for name in ("e2b", "e2b:Q4_0", E2B):
        assert main(["run", "-m", name, "--max-tokens", "2", "--temperature", "0", "--json", "hello"]) == 0
        assert json.loads(capsys.readouterr().out)["tokens"]["answer"] == 2
    requests = len(e2b.requests)
    assert main(["run", "-m", "e4b", "hello"]) == 1
    assert re.search("run `.*edge.gemma pull e4b`", capsys.readouterr().err) and len(e2b.requests) == requests


def test_finding_a_model_imports_nothing_large(e2b):
    pull("e2b")
    script = (
        "import sys, edge_gemma.hub.resolve as m; m.model_files('e2b');"
        "assert not {'huggingface_hub', 'urllib.request', 'edge_gemma.hub.download'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_messages_of_the_command(e2b, capsys):
    for arguments, message in [
        (["pull", "e2b", "--quant", "Q2_K"], "there is no e2b as Q2_K"),
        (["pull", "nobody/nothing"], "there is no repository nobody/nothing"),
    ]:
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("edge-gemma: error: ") and message in err and err.count("\n") == 1
