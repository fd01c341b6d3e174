"""The wheel: its tag, what is in it, and that it works alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support.paths import ROOT

pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 to build without downloading it")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the unpacked source distribution, so that both are known to be complete."""
    tmp = tmp_path_factory.mktemp("wheel")
    # egg_info goes elsewhere too: building must leave no trace in the tree.
    sdist = ["setup.py", "-q", "egg_info", f"--egg-base={tmp}", "sdist", f"--dist-dir={tmp}"]
    run(sys.executable, *sdist, cwd=ROOT)
    (archive,) = tmp.glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp, archive, cwd=tmp)
    (path,) = tmp.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="no stable interface without the GIL")
def test_one_wheel_for_all_versions(wheel, names):
    assert "-cp310-abi3-" in wheel.name
    if sys.platform != "win32":
        assert "edge_gemma/_engine.abi3.so" in names


def test_contents(names):
    assert [name for name in names if name.endswith(".data/data/share/man/man1/edge-gemma.1")]
    package = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    assert {Path(name).parts[0] for name in package} == {"edge_gemma"}
    expected = {path for path in (ROOT / "edge_gemma").rglob("*") if path.suffix in {".py", ".npz"}}
    expected |= {path for path in (ROOT / "edge_gemma" / "demo" / "data").rglob("*") if path.is_file()}
    expected.add(ROOT / "edge_gemma" / "chat" / "chat_template.jinja")
    assert package - {path.relative_to(ROOT).as_posix() for path in expected} <= {
        "edge_gemma/py.typed",
        *(name for name in package if name.startswith("edge_gemma/_engine")),
    }
    assert {path.relative_to(ROOT).as_posix() for path in expected} <= package
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_runs_alone(wheel, tmp_path, dense_model):
    """In a new environment that shares only the libraries it depends on."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    dependencies = Path(sysconfig.get_path("platlib"))
    report = "import sys; sys.path.append(sys.argv[1]); import edge_gemma as eg; print(eg.__file__)"
    where = run(scripts / "python", "-I", "-c", report, dependencies, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    code = "m = eg.Model.load(sys.argv[2]); print(m.config.vocab_size)"
    out = run(scripts / "python", "-I", "-c", f"{report}; {code}", dependencies, dense_model, cwd=tmp_path)
    assert int(out.split()[-1]) > 0
    assert (scripts / "edge-gemma").exists() or (scripts / "edge-gemma.exe").exists()


def test_a_source_folder_without_the_engine_says_so(tmp_path):
    """As after `pip install .`, when Python runs in the folder of the source."""
    shutil.copytree(ROOT / "edge_gemma", tmp_path / "edge_gemma", ignore=shutil.ignore_patterns("_engine*.so", "data"))
    # An editable installation would find the engine elsewhere.
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)]; "
        f"sys.path = [p for p in sys.path if p != {str(ROOT)!r}]; import edge_gemma; edge_gemma.Model"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "pip install -e ." in done.stderr and str(tmp_path) in done.stderr


def test_setuptools_can_be_imported_afterwards():
    """Looking for pip by its module made setuptools, imported later, fail."""
    code = "from edge_gemma.errors import pip_line; import edge_gemma.audio.source; pip_line('x'); import setuptools"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
