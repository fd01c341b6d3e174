"""What the cache has: listed, used without a network, read-only, removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.hub import downloaded, pull, remove
from support.fake_hub import FakeHub
from support.paths import DATA

pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")

MODEL, ENCODERS = (DATA / "e2b-Q4_0.gguf").read_bytes(), (DATA / "audio-e2b.gguf").read_bytes()
E2B = "ggml-org/gemma-4-E2B-it-GGUF"
FILES = {
    "gemma-4-E2B-it-Q4_0.gguf": MODEL,
    "gemma-4-E2B-it-Q8_0.gguf": MODEL + b"8",
    "gemma-4-E2B-it-NVFP4.gguf": MODEL + b"4",
    "mmproj-gemma-4-E2B-it-Q8_0.gguf": ENCODERS,
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "EDGE_GEMMA_MODEL", "EDGE_GEMMA_MMPROJ"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(E2B, FILES)
        yield server


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "hf" / "hub"


def names() -> list[str]:
    return sorted(entry.name for entry in downloaded())


@pytest.mark.parametrize(
    "name",
    [
        "gemma4:e2b",
        f"hf.co/{E2B}:Q4_0",
        f"https://huggingface.co/{E2B}",
        f"{E2B}/gemma-4-E2B-it-Q4_0.gguf",
        f"{E2B}@main",
    ],
)
def test_pull_takes_what_people_write(hub, capsys, name):
    assert main(["pull", name]) == 0
    assert "gemma-4-E2B-it-Q4_0.gguf" in capsys.readouterr().out
    with eg.Model.load(name) as model:
        assert model.has_audio


def test_the_advice_of_pull_names_what_was_pulled(hub, capsys):
    assert main(["pull", "e2b", "-q", "Q8_0"]) == 0
    assert "run -m e2b:Q8_0 " in capsys.readouterr().out
    assert main(["pull", "e2b"]) == 0
    assert "run -m e2b " in capsys.readouterr().out


def test_types_that_cannot_be_read_are_refused_before_the_download(hub, capsys):
    assert main(["pull", "e2b:NVFP4"]) == 1
    assert "NVFP4 cannot be read" in capsys.readouterr().err and not hub.requests
    hub.add("someone/only", {"m-NVFP4.gguf": MODEL, "m-IQ1_S.gguf": MODEL})
    assert main(["pull", "someone/only"]) == 1
    assert "only IQ1_S, NVFP4, which cannot be read" in capsys.readouterr().err


def test_list(hub, capsys):
    assert main(["list"]) == 0
    assert "pull e2b" in capsys.readouterr().out
    pull("e2b")
    pull("e2b", "Q8_0")
    hub.add("someone/llama-GGUF", {"llama-Q4_0.gguf": MODEL.replace(b"gemma4", b"llamax")})
    pull("someone/llama-GGUF")
    assert names() == ["e2b:Q4_0", "e2b:Q8_0", "someone/llama-GGUF:Q4_0"]
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and {line.split()[0] for line in lines[1:]} == {"e2b:Q4_0", "e2b:Q8_0"}
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in entries} == {"e2b:Q4_0", "e2b:Q8_0"}
    assert all(os.path.isfile(entry["model"]) and os.path.isfile(entry["mmproj"]) for entry in entries)


def test_remove(hub, cache, capsys):
    pull("e2b")
    pull("e2b", "Q8_0")
    assert main(["rm", "e2b", "--yes"]) == 1
    assert "several models: e2b:Q4_0, e2b:Q8_0" in capsys.readouterr().err
    assert main(["rm", "e2b:Q8_0"]) == 2  # nobody can be asked
    assert "--yes" in capsys.readouterr().err
    assert remove("e2b:q8_0") == len(MODEL) + 1
    assert names() == ["e2b:Q4_0"]
    with eg.Model.load("e2b") as model:
        assert model.has_audio  # the encoders are kept for the other one
    assert main(["rm", "nothing", "e2b", "-y"]) == 1
    done = capsys.readouterr()
    assert "nothing is not in" in done.err and "e2b is removed" in done.out
    assert names() == [] and not list(cache.glob("models--*"))
    assert pull("e2b").downloaded > 0  # what is left does not stand in the way


def test_remove_from_several_commits(hub, cache):
    """The same files in two snapshots: no link to what is gone stays behind."""
    pull("e2b")
    hub.repositories[E2B].files["README.md"] = b"new text"  # another commit
    pull("e2b")
    folder = cache / f"models--{E2B.replace('/', '--')}"
    assert len(list((folder / "snapshots").iterdir())) == 2
    remove("e2b")
    assert names() == [] and not folder.exists()


def test_remove_takes_nothing_else(hub, cache, tmp_path):
    """Neither files of others in the repository nor what links lead to outside the cache."""
    done = pull("e2b")
    snapshot = done.model.parent
    other = snapshot / "config.json"
    other.write_text("{}")
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(MODEL)
    (snapshot / "mine-Q5_0.gguf").symlink_to(outside)
    assert names() == ["e2b:Q4_0", "e2b:Q5_0"]
    remove("e2b:Q5_0")
    remove("e2b:Q4_0")
    assert outside.read_bytes() == MODEL and other.exists() and names() == []
    assert (cache / f"models--{E2B.replace('/', '--')}" / "refs" / "main").exists()


@pytest.mark.parametrize("how", ["offline", "no connection", "no package"])
def test_pull_of_what_is_there_needs_no_network(hub, how, monkeypatch, capsys):
    import sys

    pull("e2b")
    if how == "offline":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "no connection":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    requests = len(hub.requests)
    assert main(["pull", "e2b"]) == 0
    assert "downloaded before" in capsys.readouterr().out and len(hub.requests) == requests
    assert main(["pull", "e2b:Q8_0"]) == 1
    assert main(["pull", "e4b"]) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_read_only_cache(hub, cache, monkeypatch):
    """Permissions do not bind root, so writing is refused here."""
    from edge_gemma.hub import download

    pull("e2b")
    before = sorted(str(path) for path in cache.rglob("*"))

    def refused(*_args, **_options):
        raise PermissionError(13, "Permission denied", str(cache))

    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(download.os, "makedirs", refused)
    monkeypatch.setattr(download.os, "utime", refused)
    assert pull("e2b").downloaded == 0
    with pytest.raises(OSError, match=r"cannot be written.*HF_HOME"):
        pull("e2b", "Q8_0")
    monkeypatch.undo()
    assert sorted(str(path) for path in cache.rglob("*")) == before


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_are_not_there(hub, monkeypatch, variable, tmp_path):
    from huggingface_hub import HfApi

    monkeypatch.setenv(variable, str(tmp_path / "absent.pem"))

    def missing(*_args, **_options):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(HfApi, "model_info", missing)
    with pytest.raises(OSError, match=rf"{variable} is .*absent.pem, which does not exist"):
        pull("e2b")


def test_no_room(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(OSError, match="make room"):
        pull("e2b")
