"""Pulling for small devices: models that are prepared, the packed checkpoint, and the choice for a device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.files import mobile
from edge_gemma.files.mobile import pull_mobile
from edge_gemma.hub import download, downloaded, interrupted, pull, remove
from edge_gemma.hub.devices import CHOICES, choose
from edge_gemma.hub.sidecar import sidecar_path
from support.fake_hub import FakeHub
from support.paths import DATA
from support.tiny_checkpoint import Shape, write_checkpoint

pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")

MODEL, ENCODERS = (DATA / "e2b-Q4_0.gguf").read_bytes(), (DATA / "audio-e2b.gguf").read_bytes()
E2B = "ggml-org/gemma-4-E2B-it-GGUF"
Q4, Q8 = "gemma-4-E2B-it-Q4_0.gguf", "gemma-4-E2B-it-Q8_0.gguf"
PACKED = "google/gemma-4-E2B-it-qat-mobile-transformers"
FILES = {Q4: MODEL, Q8: MODEL + b"8", "mmproj-gemma-4-E2B-it-Q8_0.gguf": ENCODERS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "EDGE_GEMMA_MODEL", "EDGE_GEMMA_MMPROJ"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(E2B, FILES)
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint, which is not packed: conversion is tested elsewhere."""
    folder = write_checkpoint(tmp_path_factory.mktemp("hf") / "hf", Shape())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- prepared models ---------------------------------------------------------------------------------------------------------


def test_pull_prepares_what_needs_it(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "e2b"]) == 0
    out, err = capsys.readouterr()
    model = pull("e2b").model
    assert err == "" and f"sidecar {sidecar_path(model)}" in out
    assert "GB of memory with a context of" in out
    with eg.Model.load("e2b") as opened:
        assert opened.sidecar == sidecar_path(model)
    stamp = sidecar_path(model).stat().st_mtime_ns
    assert main(["pull", "e2b", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sidecar"] == str(sidecar_path(model)) and sidecar_path(model).stat().st_mtime_ns == stamp
    with eg.Model.load("e2b") as opened:
        assert report["memory"]["context"] == min(8192, opened.config.context_length)


def test_pull_without_preparing(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "e2b", "--no-prepare"]) == 0
    assert "sidecar" not in capsys.readouterr().out and not sidecar_path(pull("e2b").model).exists()


def test_no_room_for_the_sidecar(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is there all the same, and the message says what to do."""
    pull("e2b")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000, total=1))
    assert main(["pull", "e2b"]) == 1
    out, err = capsys.readouterr()
    assert "model   " in out and "sidecar " not in out
    assert "needs 0.00 GB" in err and "prepare e2b` makes the sidecar later." in err


def test_list_and_rm_know_sidecars(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "e2b"]) == 0
    pull("e2b", "Q8_0")
    by_name = {entry.name: entry for entry in downloaded()}
    assert set(by_name) == {"e2b:Q4_0", "e2b:Q8_0"}
    sidecar = by_name["e2b:Q4_0"].sidecar
    assert sidecar and sidecar.is_file() and by_name["e2b:Q8_0"].sidecar is None
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    assert [entry["sidecar"] for entry in json.loads(capsys.readouterr().out)] == [None, str(sidecar)]
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "SIZE", "ENCODERS", "SIDECAR", "DOWNLOADED"]
    part = sidecar.with_name(f".{sidecar.name}.123.part")  # of a process that was killed
    part.write_bytes(b"half")
    freed = len(MODEL) + sidecar.stat().st_size + 4
    assert remove("e2b:Q4_0") == freed
    assert not sidecar.exists() and not part.exists() and [entry.name for entry in downloaded()] == ["e2b:Q8_0"]


def test_a_new_commit_with_the_same_file_takes_the_sidecar_over(hub: FakeHub) -> None:
    main(["pull", "e2b"])
    first = pull("e2b")
    data = sidecar_path(first.model).read_bytes()
    hub.add(E2B, {**FILES, "README.md": b"new"}, in_git=("README.md",))
    second = pull("e2b")
    assert second.revision != first.revision and sidecar_path(second.model).read_bytes() == data
    assert not sidecar_path(first.model).exists()
    hub.add(E2B, {**FILES, Q4: MODEL + b"changed"})
    third = pull("e2b")
    assert not sidecar_path(third.model).exists() and sidecar_path(second.model).exists()


# ---- the packed checkpoint ---------------------------------------------------------------------------------------------------


def test_the_packed_checkpoint(hub: FakeHub, checkpoint: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    hub.add(PACKED, {**checkpoint, "README.md": b"x", "model.bin": b"y" * 100}, in_git=("README.md", "config.json"))
    assert main(["pull", "e2b", "--quant", "mobile"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "-m e2b:MOBILE" in out and not hub.sent("model.bin")
    with eg.Model.load("e2b:mobile") as model:
        assert model.has_audio and model.has_vision
        session = model.session(64)
        session.feed_tokens([2, 20, 30])
        assert session.next().id >= 0
    # The checkpoint is gone, and the files are used as they are the next time.
    folder = Path(model.path).parent
    assert sorted(path.name for path in folder.iterdir()) == [model.path.name, f"mmproj-{model.path.name}"]
    assert not list((folder.parent.parent / "blobs").iterdir())
    before = len(hub.sent("model.safetensors"))
    again = pull_mobile("e2b")
    assert again.downloaded == 0 and again.model == model.path and len(hub.sent("model.safetensors")) == before
    assert [entry.name for entry in downloaded()] == ["e2b:MOBILE"]
    hub.down = 503
    assert pull_mobile("e2b").unchecked
    assert remove("e2b:MOBILE") == again.size and not folder.exists()


def test_an_interrupted_download_goes_on(hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    hub.add(PACKED, checkpoint)
    hub.cut["model.safetensors"] = [1000]
    shown: list[str] = []
    pull_mobile("e2b", mmproj=False, progress=lambda what, *_: shown.append(what))
    assert hub.sent("model.safetensors") == [None, "bytes=1000-"]
    order = list(dict.fromkeys(shown))
    assert order[-1] == f"{mobile.CONVERTING}gemma-4-E2B-it-MOBILE.gguf"


def test_a_conversion_that_fails_keeps_the_download(
    hub: FakeHub, checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(PACKED, checkpoint)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mobile, "convert", fail)
        with pytest.raises(KeyboardInterrupt):
            pull_mobile("e2b")
    assert interrupted()[PACKED] >= len(checkpoint["model.safetensors"])
    requests = len(hub.sent("model.safetensors"))
    pull_mobile("e2b")
    assert len(hub.sent("model.safetensors")) == requests and not interrupted().get(PACKED)


def test_an_abandoned_checkpoint_is_removed(hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    hub.add(PACKED, checkpoint)
    from edge_gemma.hub.cache import repository_folder

    source = download.Hub()
    commit, files, _ = source.listing(PACKED, None, (".safetensors", ".json"))
    download.fetch(source, PACKED, "main", commit, list(files.values()), lambda *_: None)
    size = interrupted()[PACKED]
    assert remove(PACKED) == size and not Path(repository_folder(PACKED)).exists()


def test_room_for_both_is_checked_first(
    hub: FakeHub, checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(PACKED, checkpoint)
    size = sum(map(len, checkpoint.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size + 1000, total=1))
    with pytest.raises(OSError, match="are needed for what is made of it"):
        pull_mobile("e2b")
    assert not hub.sent("model.safetensors")


def test_a_packed_checkpoint_of_another_name(hub: FakeHub) -> None:
    """Its name stands on one mention, so a repository that is not there is no fault of the caller."""
    with pytest.raises(OSError, match=f"no repository {PACKED} .*never tried on the Hub.*edge-gemma convert"):
        pull_mobile("e2b")
    with pytest.raises(OSError) as caught:
        pull_mobile("e2b", revision="other")
    assert "never tried" not in str(caught.value)


@pytest.mark.parametrize("name", ["26b", "owner/other", "nothing"])
def test_models_without_a_packed_checkpoint(hub: FakeHub, name: str) -> None:
    with pytest.raises(ValueError, match="there is no packed checkpoint of"):
        pull_mobile(name)
    with pytest.raises(ValueError, match="pull_mobile downloads and converts it"):
        pull("e2b", "mobile")


# ---- devices -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "name", "quant"),
    [
        (2, "e2b", "MOBILE"),
        (3.5, "e2b", "Q4_0"),
        (4, "e4b", "MOBILE"),
        (6, "e4b", "Q4_0"),
        (8, "e4b", "Q4_0"),
        (16, "e4b", "Q4_0"),
        (24, "26b", "Q4_0"),
        (64, "31b", "Q4_0"),
    ],
)
def test_the_choice_for_a_device(memory: float, name: str, quant: str) -> None:
    choice = choose(int(memory * 1e9))
    assert (choice.name, choice.quant) == (name, quant) and choice.why
    assert [entry.bytes for entry in CHOICES] == sorted((entry.bytes for entry in CHOICES), reverse=True)


def test_pull_for_a_device(hub: FakeHub, checkpoint: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    hub.add(PACKED, checkpoint)
    assert main(["pull", "--for", "2GB"]) == 0
    out, _ = capsys.readouterr()
    assert "For a device of 2 GB: e2b as MOBILE: the smallest there is" in out
    assert "-m e2b:MOBILE --memory-limit 1.5GB" in out and "A context of" in out
    assert main(["pull", "--for", "1GB"]) == 1
    assert "a device of 1 GB is too small: the smallest model needs one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["e2b", "--for", "2GB"], ["--for", "2GB", "--quant", "Q8_0"], ["--for", "large"]]
)
def test_wrong_use(hub: FakeHub, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", *words]) == 2
    assert "--for" in capsys.readouterr().err
