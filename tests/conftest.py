"""What several test files use. Reasons of skipped tests stand in pytest's closing summary (-ra in pyproject.toml)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from support.c_build import OBJECTS
from support.paths import ROOT, SHARED

settings.register_profile("untimed", deadline=None)  # an example may take long on a busy machine
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """The folder of compiled objects belongs to the first process; those that it starts inherit the name."""
    if OBJECTS not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="edge-gemma-objects-")
        os.environ[OBJECTS] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What compiles C programs is slow. What talks to other processes depends on their timing, and runs a second time after a
    failure: pytest's closing summary counts these tests as rerun.

    Where several processes test side by side, the tests of a file stay together, since they share their fixtures. What depends
    on timing runs in one process: two such tests at a time would be too much for a small machine. So does what builds in a
    copy of the whole checkout, in which files come and go meanwhile."""
    for item in items:
        group = item.path.stem
        if item.path.parent.name == "c":
            item.add_marker(pytest.mark.slow)
        if item.path.parent.name in ("assistant", "server"):
            item.add_marker(pytest.mark.flaky(reruns=1))
            group = "timing"
        if item.path.parent.name == "docs" or item.path.stem in ("test_install", "test_newcomer", "test_wheels"):
            group = "checkout"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of large fixtures that is no part of the project: EDGE_GEMMA_SHARED, or `shared` beside it."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("needs the shared fixtures: set EDGE_GEMMA_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def dense_model() -> Path:
    """A Gemma 4 of the dense shape with random weights and a small vocabulary."""
    return ROOT / "tests" / "data" / "dense-Q4_0.gguf"


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `edge-gemma ARGS...` in a process of its own."""

    def run(*args: str, **options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_gemma", *args]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60, **options)

    return run
