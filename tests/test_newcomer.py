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

from support.fake_hub import FakeHub
from support.paths import DATA, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="types what the README says for Linux"),
]
E2B = "ggml-org/gemma-4-E2B-it-GGUF"


def run(command: str, cwd: Path, env: dict[str, str], timeout: int = 600) -> str:
    """Runs a line in a shell; standard output and error of a line that must succeed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=timeout,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A user with an empty home, and a Hub on this machine."""
    home = tmp_path_factory.mktemp("home")
    # The settings of pip and of the package index stay; everything of this test's own environment goes.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EDGE_GEMMA", "VIRTUAL_ENV", "PYTHON", "HF_", "MAKE", "MFLAGS"))
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
    folder = tmp_path_factory.mktemp("clone") / "edge_gemma"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "_engine*.so", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def demo(clone: Path, environment: dict[str, str]) -> str:
    """What the first command of the README prints."""
    python = getattr(sys, "_base_executable", sys.executable)
    return run(f"make demo ARGS=--fast PYTHON={python}", clone, environment)


def test_the_build_says_that_it_builds(demo):
    assert "Building the engine" in demo.splitlines()[0] and "minute" in demo.splitlines()[0]


def test_the_advice_of_the_demo_works_as_typed(demo, clone, environment):
    """Every command that the last lines name is typed in the folder where it was printed, in a shell of its own."""
    commands = re.findall(
        r"^ *(?:\$ )?(\S*edge-gemma (?:pull|run|chat|transcribe|list)\b.*?)(?:  +.*)?$", demo, re.MULTILINE
    )
    assert any(" pull " in command for command in commands), demo[-2000:]
    for command in commands:
        if "--microphone" not in command:
            run(command, clone, environment)


def test_the_environment_of_make_is_complete(demo, clone, environment):
    """Downloading, sound files and the toy, without another installation."""
    run(".venv/bin/edge-gemma pull e2b && .venv/bin/edge-gemma list", clone, environment)
    sound = "edge_gemma/demo/data/utterances/1-en.wav"
    assert "kitchen" in run(f".venv/bin/edge-gemma transcribe -m e2b {sound}", clone, environment)
    assert "toy" in run(f".venv/bin/edge-gemma transcribe {sound}", clone, environment)


def test_pip_install_in_a_fresh_environment(demo, clone, environment, tmp_path):
    """As the README says, then Python inside and outside the clone."""
    readme = (clone / "README.md").read_text(encoding="utf-8")
    for line in ("python3 -m venv venv", ". venv/bin/activate", "pip install '.[cli,voice,hub]'"):
        assert f"\n{line}\n" in readme
    python = getattr(sys, "_base_executable", sys.executable)
    # The build of `make demo` is reused: what is tested is that the lines work, not the compiler again.
    lines = f"{python} -m venv {tmp_path}/venv && . {tmp_path}/venv/bin/activate && pip install -q '.[cli,voice,hub]'"
    run(lines, clone, environment)
    activate = f". {tmp_path}/venv/bin/activate"
    assert "edge-gemma" in run(f"{activate} && edge-gemma --version", tmp_path, environment)
    load = "import edge_gemma as eg; print(eg.Model.load('toy').config.layers)"
    assert run(f'{activate} && python -c "{load}"', tmp_path, environment).strip().isdigit()
    run(f"{activate} && edge-gemma run -m {DATA}/dense-Q4_0.gguf -n 4 Hello", tmp_path, environment)
    # In the clone, the source is found first: it has an engine since `make demo` has built it there.
    assert run(f'{activate} && python -c "{load}"', clone, environment).strip().isdigit()
