"""The engine on Windows: compiled by zig's clang for Windows on x86-64 and run by wine, it gives the bits that it gives here.
For Windows on Arm and for macOS it is compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.c_build import build, objects_of
from support.paths import DATA

WINE = next(
    (
        path
        for path in ("/usr/lib/wine/wine64", shutil.which("wine64"), shutil.which("wine"))
        if path and Path(path).exists()
    ),
    None,
)
COMPILER = shutil.which("gcc") or shutil.which("cc")

needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")
needs_wine = pytest.mark.skipif(not WINE, reason="needs wine64")


def zig(folder: Path, target: str) -> str:
    """A program that compiles for a target."""
    path = folder / f"zig-{target}"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang cc -target {target} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def windows(folder: Path) -> str:
    return zig(folder, "x86_64-windows-gnu")


def run(folder: Path, program: Path, *arguments: object, isa: str = "") -> str:
    """What a program prints, with the line ends of this system; one for Windows runs in wine."""
    wine = [WINE] if "windows" in program.name else []
    environment = {**os.environ, "WINEPREFIX": str(folder / "wine"), "WINEDEBUG": "-all", "EDGE_GEMMA_ISA": isa}
    done = subprocess.run([*wine, program, *map(str, arguments)], capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().replace("\r\n", "\n")


@needs_zig
@needs_wine
def test_kernels_have_the_same_bits(folder: Path, windows: str) -> None:
    assert COMPILER, "no C compiler"
    theirs = run(folder, build(windows, "kernel_check.c", folder))
    assert theirs == run(folder, build(COMPILER, "kernel_check.c", folder)) and theirs.count("\n") > 100


@needs_zig
@needs_wine
def test_threads_paths_clock(folder: Path, windows: str) -> None:
    for program in ("pool_check.c", "path_check.c"):
        run(folder, build(windows, program, folder), folder)


@needs_zig
@needs_wine
@pytest.mark.parametrize("isa", ["scalar", "avx2", ""])
@pytest.mark.parametrize(
    ("program", "files"),
    [
        ("use_c.c", ["moe-Q4_0.gguf"]),
        ("use_audio.c", ["e2b-Q4_0.gguf", "audio-e2b.gguf"]),
        ("use_image.c", ["e2b-Q4_0.gguf", "vision-e2b.gguf"]),
    ],
)
def test_models_have_the_same_bits(folder: Path, windows: str, program: str, files: list[str], isa: str) -> None:
    assert COMPILER, "no C compiler"
    arguments = [DATA / name for name in files]
    theirs = run(folder, build(windows, program, folder), *arguments, isa=isa)
    assert theirs == run(folder, build(COMPILER, program, folder), *arguments) and theirs


@needs_zig
@pytest.mark.parametrize("target", ["aarch64-windows-gnu", "aarch64-macos", "x86_64-macos"])
def test_compiles_without_warnings(folder: Path, target: str) -> None:
    assert objects_of(zig(folder, target), ("-O0",))


def test_paths_here(folder: Path) -> None:
    assert COMPILER, "no C compiler"
    run(folder, build(COMPILER, "path_check.c", folder), folder)
