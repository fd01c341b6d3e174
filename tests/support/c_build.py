"""Builds programs of tests/c with all of the engine: its objects once for each compiler and set of flags, side by side.

Processes that test side by side share the objects: the first one that needs them compiles, and the others wait.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.paths import ROOT

CSRC = ROOT / "csrc"
DATA = ROOT / "tests" / "data"
FLAGS = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-pthread", f"-I{CSRC}"]
CROSS, QEMU = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static")
OBJECTS = "EDGE_GEMMA_TEST_OBJECTS"
"""Environment variable: the folder of the objects, which tests/conftest.py makes and removes."""


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@functools.cache
def objects_of(compiler: str, flags: tuple[str, ...]) -> list[str]:
    folder = Path(os.environ[OBJECTS], hashlib.sha256("\0".join([compiler, *flags]).encode()).hexdigest())
    sources = (CSRC / "sources.txt").read_text().split()
    objects = [str(folder / source.replace("/", "-")) + ".o" for source in sources]
    while not (folder / "complete").exists():
        try:
            folder.mkdir()
        except FileExistsError:  # another process compiles; the folder vanishes if that fails
            time.sleep(0.1)
            continue
        commands = [
            [compiler, *FLAGS, *flags, "-c", str(CSRC / source), "-o", target]
            for source, target in zip(sources, objects, strict=True)
        ]
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(_compile, commands))
        except BaseException:
            shutil.rmtree(folder)
            raise
        (folder / "complete").touch()
    return objects


def build(compiler: str, program: str, folder: Path, *flags: str, first: tuple[str, ...] = ()) -> Path:
    """Compiles tests/c/`program` and links it into `folder`; `first` are flags of the program alone, before all others."""
    out = folder / f"{Path(program).stem}-{Path(compiler).name}"
    source = str(ROOT / "tests" / "c" / program)
    _compile([compiler, *first, *FLAGS, *flags, source, *objects_of(compiler, flags), "-o", str(out), "-lm"])
    return out


def sanitized(program: str, folder: Path, kind: str, first: tuple[str, ...] = ()) -> Path:
    """Builds with gcc and a sanitizer; skips where its run-time library is missing."""
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    flag = f"-fsanitize={kind}"
    if subprocess.run(["gcc", flag, str(probe), "-o", str(folder / "probe")], capture_output=True).returncode:
        pytest.skip(f"gcc has no {kind} sanitizer here")
    flags = ("-O1", "-g", flag, "-fno-sanitize-recover=all", "-Wno-error")
    return build("gcc", program, folder, *flags, first=first)


def run(*command: str | Path) -> str:
    """Output of a program that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
