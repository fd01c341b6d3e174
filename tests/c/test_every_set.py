"""Several sessions in one pass give the tokens of each alone, the same with every set of kernels that this machine can run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_gemma import kernels
from support.c_build import build
from support.paths import DATA

COMPILER = shutil.which("gcc") or shutil.which("cc")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not COMPILER:
        pytest.skip("no C compiler")
    return build(COMPILER, "use_batch.c", tmp_path_factory.mktemp("batch"))


@pytest.mark.parametrize("variant", ["e2b", "e4b", "moe", "dense"])
def test_every_set_says_the_same(program: Path, variant: str) -> None:
    outputs = {}
    for name in (name for name, target in kernels.targets.items() if target):
        done = subprocess.run(
            [program, DATA / f"{variant}-Q4_0.gguf"],
            env={**os.environ, "EDGE_GEMMA_ISA": name},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        outputs[name] = done.stdout
    assert len(set(outputs.values())) == 1 < len(outputs["scalar"].split())
