"""A C program of under 100 lines has the voice turn: sound, partial words, a tool, its result, what to say, and cancelling.

Its tokens are those of the package, with gcc's sanitizers and under valgrind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_gemma.engine.native import lib
from support.c_build import build, sanitized
from support.paths import ROOT
from support.voice_turn import check_voice_turn, voice_arguments

PROGRAM = ROOT / "tests" / "c" / "use_voice.c"
pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return voice_arguments(tmp_path_factory.mktemp("voice"))


def check(lines: list[str]) -> None:
    """The first turn is that of the package; the second is the same until it is cancelled in its last answer."""
    check_voice_turn(lines, str(lib.EG_CHAT_STOP_TURN))
    first, second = ([line for line in lines if line.startswith("call ")][at::2] for at in (0, 1))
    assert len(first) == 1 and first == second
    assert lines[-1].startswith(f"done {lib.EG_CHAT_STOP_CANCELLED} ")


def run(*command: str | Path, **environment: str) -> list[str]:
    wrapped = [shutil.which("setarch") or "env", *(["-R"] if shutil.which("setarch") else []), *map(str, command)]
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=580, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_it_is_short() -> None:
    assert PROGRAM.read_text().count("\n") < 100


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_tokens_are_those_of_the_package(kind: str, arguments: list[str], tmp_path: Path) -> None:
    check(run(sanitized("use_voice.c", tmp_path, kind), *arguments))


@pytest.mark.slow
def test_valgrind_finds_nothing(arguments: list[str], tmp_path: Path) -> None:
    if not (valgrind := shutil.which("valgrind")):
        pytest.skip("needs valgrind")
    program = build("gcc", "use_voice.c", tmp_path)
    command = [valgrind, "-q", "--error-exitcode=9", "--leak-check=full", program, *arguments]
    # valgrind does not know AVX-512
    check(run(*command, **({"EDGE_GEMMA_ISA": "avx2"} if os.uname().machine == "x86_64" else {})))
