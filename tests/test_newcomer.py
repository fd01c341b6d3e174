"""What a newcomer types, in a copy of the tree: `make demo`, the advice that it prints, `pip install` in a fresh environment.

tests/docs runs the code of the pages; here are the commands that make an environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.checkout import copy_checkout
from support.fake_hub import FakeHub
from support.paths import DATA, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="types what the README says for Linux")
slow = pytest.mark.slow
E2B = "ggml-org/gemma-4-E2B-it-GGUF"


def run(command: str, cwd: Path, env: dict[str, str], status: int = 0) -> str:
    """Runs a line in a shell, which must end with this status; standard output and error."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == status, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A user with an empty home, and a Hub on this machine."""
    home = tmp_path_factory.mktemp("home")
    for program in ("make", "gcc", "bash"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    index = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home), "setuptools>=77"]
    if subprocess.run(index, capture_output=True).returncode:
        pytest.skip("needs a package index")
    # The settings of pip and of the package index stay; everything of this test's own environment goes.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EDGE_GEMMA", "VIRTUAL_ENV", "PYTHON", "HF_", "MAKE", "MFLAGS", "PIP_FLAGS"))
    }
    venv = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != venv)
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    with FakeHub() as hub:
        demo = ROOT / "edge_gemma" / "demo" / "data"
        hub.add(
            E2B,
            {
                "gemma-4-E2B-it-Q4_0.gguf": (demo / "demo.gguf").read_bytes(),
                "mmproj-gemma-4-E2B-it-Q8_0.gguf": (demo / "demo-mmproj.gguf").read_bytes(),
            },
        )
        yield {
            **kept,
            **({"PIP_CACHE_DIR": cache} if cache else {}),
            "PATH": path,
            "HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the tree, without what was built."""
    return copy_checkout(tmp_path_factory.mktemp("clone") / "edge_gemma")


@pytest.fixture(scope="module")
def demo(clone: Path, environment: dict[str, str]) -> str:
    """What the first command of the README prints."""
    python = getattr(sys, "_base_executable", sys.executable)
    return run(f"make demo ARGS=--fast PYTHON={python}", clone, environment)


@slow
def test_the_build_says_that_it_builds(demo):
    assert "Building the engine" in demo.splitlines()[0] and "minute" in demo.splitlines()[0]


@slow
def test_the_advice_of_the_demo_works_as_typed(demo, clone, environment):
    """Every command that the last lines name is typed in the folder where it was printed, in a shell of its own."""
    commands = re.findall(
        r"^ *(?:\$ )?(\S*edge-gemma (?:pull|run|chat|transcribe|list)\b.*?)(?:  +.*)?$", demo, re.MULTILINE
    )
    assert any(" pull " in command for command in commands), demo[-2000:]
    for command in commands:
        if "--microphone" not in command:
            run(command, clone, environment)


@slow
def test_the_environment_of_make_is_complete(demo, clone, environment):
    """Downloading, sound files and the toy, without another installation."""
    run(".venv/bin/edge-gemma pull e2b && .venv/bin/edge-gemma list", clone, environment)
    sound = "edge_gemma/demo/data/utterances/1-en.wav"
    assert "kitchen" in run(f".venv/bin/edge-gemma transcribe -m e2b {sound}", clone, environment)
    assert "toy" in run(f".venv/bin/edge-gemma transcribe {sound}", clone, environment)


@slow
def test_the_next_advice_works_as_typed(demo, clone, environment, tmp_path):
    """Each command names the next one: with an empty cache, after a download, and in an error."""
    environment = {**environment, "HF_HOME": str(tmp_path)}
    (command,) = re.findall(r"`([^`]*)`", run(".venv/bin/edge-gemma list", clone, environment))
    (command,) = re.findall(r"^Now: (.*)$", run(command, clone, environment), re.MULTILINE)
    assert run(command, clone, environment).strip()
    refused = run(".venv/bin/edge-gemma run -m e4b Hello", clone, environment, status=1)
    (command,) = re.findall(r"`([^`]*)`", refused)
    assert "there is no repository" in run(command, clone, environment, status=1)


@slow
def test_pip_install_in_a_fresh_environment(demo, clone, environment, tmp_path):
    """As the README says, then Python inside and outside the clone."""
    readme = (clone / "README.md").read_text(encoding="utf-8")
    for line in ("python3 -m venv venv", ". venv/bin/activate", "pip install '.[cli,voice,hub]'"):
        assert f"\n{line}\n" in readme
    python = getattr(sys, "_base_executable", sys.executable)
    # What is tested is that the lines work, not the compiler again, so it need not optimize.
    compiler = tmp_path / "quick-cc"
    compiler.write_text('#!/bin/sh\nexec gcc "$@" -O0\n')
    compiler.chmod(0o755)
    lines = f"{python} -m venv {tmp_path}/venv && . {tmp_path}/venv/bin/activate && pip install -q '.[cli,voice,hub]'"
    run(lines, clone, {**environment, "CC": str(compiler)})
    activate = f". {tmp_path}/venv/bin/activate"
    assert "edge-gemma" in run(f"{activate} && edge-gemma --version", tmp_path, environment)
    load = "import edge_gemma as eg; print(eg.Model.load('toy').config.layers)"
    assert run(f'{activate} && python -c "{load}"', tmp_path, environment).strip().isdigit()
    run(f"{activate} && edge-gemma run -m {DATA}/dense-Q4_0.gguf -n 4 Hello", tmp_path, environment)
    # In the clone, the source is found first: it has an engine since `make demo` has built it there.
    assert run(f'{activate} && python -c "{load}"', clone, environment).strip().isdigit()
    # What errors advise. pip knows the installed package, and does not ask the index for it.
    done = run(f"{activate} && python -m pip install --dry-run 'edge-gemma[voice,hub]'", tmp_path, environment)
    assert "Would install" not in done


@slow
def test_nothing_is_built_twice(demo, clone, environment):
    run("make -q .venv/.ready", clone, environment)


# ---- what is missing ---------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder of programs that come first: a user who is not root, and a Python that lacks its header and venv."""
    # As Debian's Python without python3-venv: `-m venv` makes a folder, and fails.
    python = 'case "$*" in *version_info*) exit 0 ;; "-m venv "*) mkdir -p "$3/bin" ;; esac\nexit 1'
    for name, text in {"id": "echo 1000", "bare-python": python}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_missing_system_packages_are_named_as_they_can_be_installed(bare):
    env = {**os.environ, "PATH": f"{bare}{os.pathsep}{os.environ['PATH']}", "PYTHON": "bare-python"}
    said = run(f"sh {ROOT}/tools/bootstrap.sh build", bare, env)
    assert "the build fails without them" in said
    assert re.search(r"sudo apt install .*python3-dev .*python3-venv", said)


def make_demo(bare: Path) -> str:
    """What `make demo` says in a copy of the tree without sources, with the Python of `bare`, where it must fail."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    tree = bare / "tree"
    for name in ("Makefile", "tools/bootstrap.sh"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in ("pyproject.toml", "setup.py", "edge_gemma/_build.py", "edge_gemma/_version.py", "csrc/sources.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    env = {**os.environ, "PATH": f"{bare}{os.pathsep}{os.environ['PATH']}", "MAKEFLAGS": ""}
    said = run("make demo PYTHON=bare-python", tree, env, status=2)
    assert not (tree / ".venv").exists()
    return said


def test_no_half_of_an_environment_is_left(bare):
    """The next `make` would take it for a whole one."""
    assert "python3-venv" in make_demo(bare)


def test_a_python_that_is_too_old(bare):
    (bare / "bare-python").write_text("#!/bin/sh\nexit 1\n")
    assert "bare-python is not Python 3.10 or later: name one that is, as in `make demo PYTHON=" in make_demo(bare)
