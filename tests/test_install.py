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

from support.checkout import copy_checkout
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
    run(sys.executable, "setup.py", "-q", "sdist", f"--dist-dir={tmp}", cwd=copy_checkout(tmp / "tree"))
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
    expected |= set((ROOT / "edge_gemma" / "server" / "page_files").iterdir())
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


class Source:
    """A copy of the source, whose engine was never built, in the current folder of a Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("_engine*.so", "data", "__pycache__")
        shutil.copytree(ROOT / "edge_gemma", folder / "edge_gemma", ignore=ignored)
        (folder / "setup.py").touch()
        (folder / "csrc").mkdir()

    def error(self, code: str, *options: str, further: str = "") -> str:
        """The last line of what Python says to a program that fails; `further` is one more folder to import from."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # An editable installation would find the engine in the project.
        paths = f"import sys; sys.path = [p for p in sys.path if p != {str(ROOT)!r}] + [{further!r}]; "
        done = subprocess.run(
            [sys.executable, *options, "-c", paths + code], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "the source"
    folder.mkdir()
    return Source(folder)


USES = ["edge_gemma.Model", "edge_gemma.kernels", "edge_gemma.isa", "from edge_gemma.files import convert"]


@pytest.mark.parametrize("use", USES)
def test_a_source_folder_without_the_engine_says_so(source, tmp_path, use):
    """As after `pip install .`, when Python runs in the folder of the source."""
    code = f"import edge_gemma; {use}"
    message = source.error(code)
    assert message.startswith(f"ImportError: edge_gemma was imported from {source.folder}")
    assert message.endswith(f"{sys.executable} -m pip install -e '{source.folder}'`.") and "leave it" not in message
    installed = tmp_path / "site" / "edge_gemma"
    installed.mkdir(parents=True)
    (installed / "_engine.pyi").touch()
    assert "leave it" not in source.error(code, further=str(installed.parent))
    (installed / "_engine.abi3.so").touch()
    assert f"leave it, and the package in {installed.parent} is used" in source.error(
        code, further=str(installed.parent)
    )


def test_an_engine_of_another_system_says_so(source):
    """As where one folder of source serves a computer and a container."""
    (source.folder / "edge_gemma" / "_engine.abi3.so").write_bytes(b"\xcf\xfa\xed\xfe" + bytes(5000))
    message = source.error("import edge_gemma; edge_gemma.Model")
    assert "does not fit this system" in message and "_engine.abi3.so" in message
    assert f"-m pip install -e '{source.folder}'" in message
    (source.folder / "setup.py").unlink()  # an installed package
    assert "Install the package again" in source.error("import edge_gemma; edge_gemma.Model")


def test_an_engine_of_another_version_says_so(source):
    package = ROOT / "edge_gemma"
    (engine,) = [path for path in package.glob("_engine.*") if path.suffix != ".pyi"]
    shutil.copy(engine, source.folder / "edge_gemma")
    (source.folder / "edge_gemma" / "_version.py").write_text('__version__ = "99.0.0"\n')
    message = source.error("import edge_gemma; edge_gemma.Model")
    assert "edge_gemma 99.0.0 found an engine of version" in message and "Build it again" in message


@pytest.mark.parametrize(
    "use", [*USES[:3], "from edge_gemma.cli import main; sys.exit(main(['run', '-m', __file__, 'x']))"]
)
def test_a_python_without_the_packages_says_so(source, use):
    """As where the environment that edge_gemma was installed into is not active."""
    code = f"__file__ = 'setup.py'; import edge_gemma; {use}"
    message = source.error(code, "-I", "-S", further=str(source.folder))
    assert f"edge_gemma needs the package numpy, which {sys.executable} does not have" in message
    assert f"-m venv venv && venv/bin/python -m pip install '{source.folder}'`." in message
    python = source.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert f"Use {python}, which `make` has set up." in source.error(code, "-I", "-S", further=str(source.folder))
    (source.folder / "setup.py").unlink()
    if "main" not in use:
        assert source.error(code, "-I", "-S", further=str(source.folder)).endswith(" numpy`.")


def test_setuptools_can_be_imported_afterwards():
    """Looking for pip by its module made setuptools, imported later, fail."""
    code = (
        "from edge_gemma.installation import pip_line; import edge_gemma.audio.source; pip_line('x'); import setuptools"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
