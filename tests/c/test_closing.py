"""Closing what another thread is using: references, with gcc's sanitizers and under valgrind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.c_build import DATA, build, sanitized

MODELS = [DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"]
pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


def closes(*command: str | Path, **environment: str) -> None:
    wrapped = [shutil.which("setarch") or "env", *(["-R"] if shutil.which("setarch") else []), *map(str, command)]
    done = subprocess.run(
        [*wrapped, *map(str, MODELS)], capture_output=True, text=True, timeout=580, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "closed\n"


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_the_call_ends_and_then_the_memory_goes(kind: str, tmp_path: Path) -> None:
    """A session that feeds, a chat that answers and a voice that hears, each closed by another thread at twelve moments."""
    closes(sanitized("use_close.c", tmp_path, kind))


@pytest.mark.slow
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    if not (valgrind := shutil.which("valgrind")):
        pytest.skip("needs valgrind")
    command = [valgrind, "-q", "--error-exitcode=9", "--leak-check=full", build("gcc", "use_close.c", tmp_path)]
    # valgrind does not know AVX-512
    closes(*command, **({"EDGE_GEMMA_ISA": "avx2"} if os.uname().machine == "x86_64" else {}))
