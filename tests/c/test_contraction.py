"""No compiler fuses a multiplication and an addition by itself, also without -ffp-contract=off."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.c_build import CSRC

#: What clang makes of the source before it optimizes: a product that may be fused is called llvm.fmuladd there.
FRONT_END = ["clang", "-std=c11", "-O0", "-Xclang", "-disable-llvm-passes", "-S", "-emit-llvm", f"-I{CSRC}", "-o", "-"]


def fuses(source: Path) -> bool:
    done = subprocess.run([*FRONT_END, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return "llvm.fmuladd" in done.stdout


@pytest.mark.skipif(not shutil.which("clang"), reason="needs clang")
def test_no_source_leaves_it_to_the_compiler(tmp_path: Path) -> None:
    probe = tmp_path / "probe.c"
    function = "float f(float a, float b, float c);\nfloat f(float a, float b, float c) { return a * b + c; }\n"
    probe.write_text(function)
    if not fuses(probe):
        pytest.skip("this clang fuses nothing unless it is told to")
    probe.write_text(f'#include "base/exact.h"\n{function}')
    assert not fuses(probe)
    sources = (CSRC / "sources.txt").read_text().split()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        fused = pool.map(lambda source: fuses(CSRC / source), sources)
        assert not [source for source, bad in zip(sources, fused, strict=True) if bad]
