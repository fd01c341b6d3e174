"""Downloads in trouble: several at once, no network in the middle, caches of others, proxies, models of other kinds."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.hub import download, downloaded, interrupted, pull, remove
from edge_gemma.hub.cache import locate
from edge_gemma.installation import pip_line
from support.fake_hub import FakeHub
from support.paths import DATA

pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")

MODEL, ENCODERS = (DATA / "e2b-Q4_0.gguf").read_bytes(), (DATA / "audio-e2b.gguf").read_bytes()
E2B, UNSLOTH = "ggml-org/gemma-4-E2B-it-GGUF", "unsloth/gemma-4-E2B-it-GGUF"
Q4, MMPROJ = "gemma-4-E2B-it-Q4_0.gguf", "mmproj-gemma-4-E2B-it-Q8_0.gguf"
PROXIES = [name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower())]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    names = (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "EDGE_GEMMA_MODEL",
        "EDGE_GEMMA_MMPROJ",
    )
    for name in (*names, *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(E2B, {Q4: MODEL, "gemma-4-E2B-it-Q8_0.gguf": MODEL + b"8", MMPROJ: ENCODERS})
        yield server


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "hf" / "hub"


def cut_for_good(hub: FakeHub, name: str, after: int = 100_000) -> None:
    """The connection breaks off, and comes back for nothing."""
    hub.cut[name] = [after] + [0] * download.ATTEMPTS


# ---- without a network -------------------------------------------------------------------------------------------


def test_what_is_there_without_a_network_is_said(hub, monkeypatch, capsys):
    pull("e2b")
    assert pull("e2b").unchecked is None
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in pull("e2b").unchecked
    assert main(["pull", "e2b"]) == 0
    out, err = capsys.readouterr()
    assert "downloaded before" in out and "nothing newer was looked for: cannot reach" in err and err.count("\n") == 1


@pytest.mark.parametrize("trouble", ["down", "babble", "unsized"])
def test_a_hub_in_trouble_is_as_no_hub(hub, trouble):
    first = pull("e2b")
    setattr(hub, trouble, 503 if trouble == "down" else True)
    again = pull("e2b")
    assert again.model == first.model and again.unchecked
    with pytest.raises(OSError, match=r"status 503|does not answer"):
        pull("e2b:Q4_K_M")


def test_a_download_that_breaks_off_is_no_success(hub):
    """Although the cache has another quantization of the same name."""
    pull("e2b:Q8_0")
    cut_for_good(hub, Q4)
    with pytest.raises(OSError, match="the download is continued"):
        pull("e2b")


def test_encoders_that_are_missing_without_a_network(hub, monkeypatch):
    pull("e2b", mmproj=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull("e2b", mmproj=False).unchecked
    with pytest.raises(OSError, match="has the model, but no encoders"):
        pull("e2b")


def test_revisions_are_told_apart(hub, cache, monkeypatch):
    repository = hub.repositories[E2B]
    old = pull(E2B, mmproj=False)
    repository.branches.add("v2")
    repository.files[Q4] = MODEL + b"2"
    new = pull(f"{E2B}@v2", mmproj=False)
    assert new.revision != old.revision
    assert locate(f"{E2B}@v2")[0] == str(new.model) and locate(f"{E2B}@{old.revision}")[0] == str(old.model)
    with pytest.raises(OSError, match=rf"edge-gemma pull {E2B} --revision v3"):
        locate(f"{E2B}@v3")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull(E2B, revision=old.revision, mmproj=False).model == old.model
    with pytest.raises(OSError, match="cannot reach"):
        pull(E2B, revision="v3", mmproj=False)


# ---- caches of others --------------------------------------------------------------------------------------------


def test_two_at_once(hub):
    """The second waits for the first, and has nothing to download."""
    hub.stall[Q4] = 200_000
    results, seen = [], []
    first = threading.Thread(target=lambda: results.append(pull("e2b", mmproj=False)))
    first.start()
    assert hub.stalled.wait(30)

    def progress(name: str, done: int, total: int) -> None:
        seen.append(done)
        hub.released.set()

    second = pull("e2b", mmproj=False, progress=progress)
    first.join(30)
    assert second.downloaded == 0 and results[0].downloaded == len(MODEL) and seen[0] >= 100_000
    assert hub.sent(Q4).count(None) == 1 and second.model.read_bytes() == MODEL


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_read_only_cache_of_an_older_commit(hub, cache, monkeypatch):
    """The repository has a new text and the same models: all is there. Permissions do not bind root, so writing is refused."""
    first = pull("e2b")
    hub.repositories[E2B].files["other-Q2_K.gguf"] = b"new"

    def refused(*_args, **_options):
        raise OSError(30, "Read-only file system", str(cache))

    monkeypatch.setattr(download.os, "makedirs", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    again = pull("e2b")
    assert again.model == first.model and again.mmproj == first.mmproj and again.downloaded == 0
    with pytest.raises(OSError, match=r"cannot be written: Read-only file system.*HF_HOME"):
        pull("e2b:Q8_0")
    monkeypatch.setattr(os, "remove", refused)
    with pytest.raises(eg.EdgeGemmaError, match="cannot be removed: Read-only file system"):
        remove("e2b")


@pytest.mark.parametrize("reference", [b"", b"\xff\xfe", b"nonsense"])
def test_a_damaged_reference_is_mended(hub, cache, reference):
    done = pull("e2b")
    path = cache / f"models--{E2B.replace('/', '--')}" / "refs" / "main"
    path.write_bytes(reference)
    assert locate("e2b")[0] == str(done.model) and pull("e2b").downloaded == 0
    assert path.read_text() == done.revision


def test_a_cache_in_a_relative_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", "here")
    pull("e2b", mmproj=False)
    assert (tmp_path / "here").is_dir() and locate("e2b")[0].startswith("here")


@pytest.mark.parametrize("home", ["a file", "a link to nowhere", "a folder below a file"])
def test_a_cache_that_cannot_be_made(hub, tmp_path, monkeypatch, home):
    place = tmp_path / "place"
    if home == "a link to nowhere":
        place.symlink_to(tmp_path / "nowhere" / "x")
    else:
        place.write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "x" if home == "a folder below a file" else place))
    with pytest.raises(eg.EdgeGemmaError, match=rf"{place}.* cannot be written: .*HF_HOME") as failed:
        pull("e2b")
    assert failed.value.code == "file" and downloaded() == []


def test_a_disk_that_does_not_tell_its_size(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    assert pull("e2b").downloaded


# ---- proxies and addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://127.0.0.1:9", r"cannot reach .*the proxy of HTTP_PROXY"),
        ("what://x", "the proxy of HTTP_PROXY cannot be used"),
        ("socks5://127.0.0.1:9", "cannot reach|the proxy of HTTP_PROXY needs another package: .* install socksio"),
    ],
)
def test_proxies(hub, monkeypatch, proxy, words):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "")
    from huggingface_hub import close_session

    close_session()  # it keeps the proxies of its first use
    try:
        with pytest.raises(eg.EdgeGemmaError, match=words) as failed:
            pull("e2b")
        assert failed.value.code == "file"
    finally:
        close_session()


def test_an_endpoint_that_is_no_address(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(OSError, match=r"HF_ENDPOINT is mirror\.example, but an address begins with https"):
        pull("e2b")


@pytest.mark.parametrize(
    ("prefix", "has_pip", "line"),
    [
        ("/opt/me/venv", True, "/opt/me/venv/bin/python -m pip install 'edge-gemma[voice]' soxr"),
        ("/opt/my venv", True, "'/opt/my venv/bin/python' -m pip install 'edge-gemma[voice]' soxr"),
        ("/opt/me/venv", False, "uv pip install --python /opt/me/venv/bin/python 'edge-gemma[voice]' soxr"),
        ("/opt/me/.local/pipx/venvs/edge-gemma", True, "pipx runpip edge-gemma install 'edge-gemma[voice]' soxr"),
    ],
)
def test_how_packages_are_added(monkeypatch, prefix, has_pip, line, tmp_path):

    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "executable", f"{prefix}/bin/python")
    if has_pip:
        (tmp_path / "pip").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert pip_line("edge-gemma[voice]", "soxr") == line


# ---- what is no model, or another one ----------------------------------------------------------------------------


def test_models_of_other_kinds_are_refused_before_the_download(hub):
    hub.add("someone/other", {"other-Q4_0.gguf": MODEL}, architecture="llama")
    with pytest.raises(eg.EdgeGemmaError, match="a model of the architecture llama, and only Gemma 4") as failed:
        pull("someone/other")
    assert failed.value.code == "unsupported" and not hub.sent("other-Q4_0.gguf")
    # What the Hub tells may be of another file of the repository.
    for name, architecture in (
        ("someone/tuned", "gemma4"),
        ("someone/encoders", "clip"),
        ("a/my-gemma-4-E2B", "drafter"),
    ):
        hub.add(name, {f"{name[-4:]}-Q4_0.gguf": MODEL + name.encode()}, architecture=architecture)
        assert pull(name).downloaded


def test_encoders_are_no_model(hub):
    with pytest.raises(ValueError, match=rf"{MMPROJ} has encoders and no model: pull {E2B}"):
        pull(f"https://huggingface.co/{E2B}/resolve/main/{MMPROJ}")


@pytest.mark.parametrize("name", ["e2b:UD-IQ1_S", "e2b:iq1_m"])
def test_types_in_all_spellings(hub, name):
    with pytest.raises(ValueError, match="cannot be read"):
        pull(name)
    assert not hub.requests


# ---- list and rm -------------------------------------------------------------------------------------------------


def test_equal_names_of_different_models(hub):
    """Each has a name of its own, and rm takes the one that is named and no other."""
    hub.add(UNSLOTH, {Q4: MODEL + b"u", "tuned-Q4_0.gguf": MODEL + b"t"})
    for name in (f"{UNSLOTH}/tuned-Q4_0.gguf", f"{UNSLOTH}/{Q4}", E2B):
        pull(name, mmproj=False)
    paths = [entry.model for entry in downloaded()]
    for number, path in enumerate(reversed(paths)):  # their order must not hang on the clock's resolution
        os.utime(path, (1000 + number, 1000 + number), follow_symlinks=False)
    names = [entry.name for entry in downloaded()]
    assert sorted(names) == sorted({"e2b:Q4_0", f"{UNSLOTH}:Q4_0", names[2]}) and names[2].endswith("-Q4_0.gguf")
    assert [locate(name)[0] for name in names] == [str(path) for path in paths]
    with pytest.raises(ValueError, match="several models"):
        remove("e2b")
    remove("e2b:Q4_0")
    assert [entry.model for entry in downloaded()] == paths[1:]
    remove(downloaded()[1].name)
    assert [entry.model for entry in downloaded()] == paths[1:2]


def test_an_interrupted_download(hub, cache, capsys):
    cut_for_good(hub, Q4)
    assert main(["pull", "e2b"]) == 1
    assert interrupted() == {E2B: 100_000} and downloaded() == []
    capsys.readouterr()
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert f"interrupted: {E2B}" in out and f"pull {E2B}` continues" in out
    assert main(["rm", "e2b", "--yes"]) == 0
    assert interrupted() == {} and not list(cache.glob("models--*"))
    with pytest.raises(ValueError, match="has nothing"):
        remove("e2b")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_rm_asks(hub, monkeypatch, capsys, answer, gone):
    pull("e2b")
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    assert main(["rm", "e2b"]) == 0
    assert "Remove e2b, 2.23 MB? [y/N] " in capsys.readouterr().err and (downloaded() == []) == gone


def test_rm_does_not_ask_about_what_is_not_there(hub, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", _Terminal("y\n"))
    assert main(["rm", "e2b"]) == 1
    out, err = capsys.readouterr()
    assert "Remove" not in out + err and "is not in" in err
