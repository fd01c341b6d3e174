"""tools/wheels.py: targets, archives and their checks; and, where zig is installed, a wheel that runs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
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


@pytest.mark.slow
def test_a_wheel_of_another_compiler_gives_the_same_answers(tmp_path: Path) -> None:
    """The wheel that clang makes for this system transcribes as the one under test does."""
    if not all(importlib.util.find_spec(name) for name in ("ziglang", "abi3info")):
        pytest.skip("needs the packages ziglang and abi3info (the extra `release`)")
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("needs Linux on x86-64")
    wheels.build(["linux-x86_64"], tmp_path, check=False)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "installed")
    said = []
    for folder in (tmp_path / "installed", ROOT):
        command = "import edge_gemma as eg; m = eg.Model.load('toy'); s = m.session(); print(eg.__file__)\n"
        command += "s.feed_text('Turn on the light.', bos=True)\n"
        command += "print(list(s.generate(12, temperature=0)), s.logits().tobytes().hex())"
        place = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=place, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        said.append(done.stdout.splitlines())
    assert said[0][0].startswith(str(tmp_path)) and said[0][1] == said[1][1]
