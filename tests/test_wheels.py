"""tools/wheels.py: targets, archives and their checks; tools/run_wheels.py: what was run, and what was not."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import run_wheels
import wheels

LISTED = "edge_gemma/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"


def unpacked(folder: Path) -> Any:
    """A folder as wheels.py leaves it before packing: an empty package and its metadata."""
    for name in ("pure/edge_gemma/__init__.py", "metadata/edge_gemma-1.2.dist-info/METADATA", "module"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder / "module"


@pytest.mark.parametrize("name", ["linux-x86_64", "windows-arm64"])
def test_the_archive_is_a_wheel_and_always_the_same(tmp_path: Path, name: str) -> None:
    target, made = wheels.TARGETS[name], []
    for run in ("one", "two"):
        module = unpacked(tmp_path / run)
        os.utime(tmp_path / run / "pure/edge_gemma/__init__.py", (1e9, 1e9))
        made.append(wheels.write_wheel(target, tmp_path / run, module, tmp_path / run))
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].name == f"edge_gemma-1.2-cp310-abi3-{target.tag}.whl"
    with zipfile.ZipFile(made[0]) as archive:
        names = archive.namelist()
        head = archive.read("edge_gemma-1.2.dist-info/WHEEL").decode()
        assert LISTED in archive.read("edge_gemma-1.2.dist-info/RECORD").decode()
    assert ("edge_gemma/_engine.pyd" in names) == target.windows
    assert head.count("Tag: ") == len(target.tag.split(".")) and "Root-Is-Purelib: false" in head
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_wheel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "run", lambda *command: "")
    target = wheels.TARGETS["macos-arm64"]
    path = wheels.write_wheel(target, tmp_path, unpacked(tmp_path), tmp_path)
    assert wheels.check_wheel(target, path)[0] == "digests agree"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for changed in ({"edge_gemma/__init__.py": b"x = 1\n"}, {"edge_gemma/more.py": b""}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**members, **changed}.items():
                archive.writestr(name, data)
        with pytest.raises(wheels.Failure, match=path.name):
            wheels.check_wheel(target, path)


def test_an_unknown_target_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wheels.py", "amiga"])
    with pytest.raises(SystemExit):
        wheels.main()
    assert "unknown target amiga; there are: linux-x86_64," in capsys.readouterr().err


def test_what_was_not_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not to be able to run something is no failure, but a wheel that is not there is."""
    assert run_wheels.run(["macos-arm64"], tmp_path, tmp_path / "work")
    assert capsys.readouterr().out == ("macos-arm64, wheel: built, not run\nmacos-arm64, C library: built, not run\n")
    assert not run_wheels.run(["linux-x86_64"], tmp_path, tmp_path / "work")
    assert f"linux-x86_64, wheel: FAILED: it is not in {tmp_path}." in capsys.readouterr().out


def test_a_wheel_with_other_words_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["right", "wrong"])
    wheels.write_wheel(wheels.TARGETS["linux-x86_64"], tmp_path, unpacked(tmp_path), tmp_path)
    place = tmp_path / "work/linux-x86_64/wheel/edge_gemma/__init__.py"

    def output(*_: object, **__: str) -> str:
        return json.dumps({"file": str(place), "said": next(said)})

    monkeypatch.setattr(run_wheels, "output", output)
    (tmp_path / "work").mkdir()
    with pytest.raises(wheels.Failure, match=r"\.whl says right, and the checkout wrong"):
        run_wheels.Runner(tmp_path, tmp_path / "work").wheel("linux-x86_64")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linux-x86_64", "linux-aarch64", "musl-x86_64", "windows-amd64"])
def test_built_and_run(tmp_path: Path, work: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What clang makes of the sources for a system says there what the package under test says here."""
    if not all(importlib.util.find_spec(package) for package in ("ziglang", "abi3info")):
        pytest.skip("needs the packages ziglang and abi3info")
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("needs Linux on x86-64")
    wheels.build([name], tmp_path, check=False)
    capsys.readouterr()
    assert run_wheels.run([name], tmp_path, work), capsys.readouterr().out
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    if unable := [line for line in said if ": not run" in line]:
        pytest.skip(" ".join(unable))
    assert sum(": run (" in line for line in said) == (1 if "musl" in name else 2), said
