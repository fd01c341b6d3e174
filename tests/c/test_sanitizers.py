"""The whole engine under the address, undefined-behaviour and thread sanitizers, on models of three shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.c_build import DATA, sanitized

GCC = shutil.which("gcc")
MODELS = [DATA / f"{name}-Q4_0.gguf" for name in ("e2b", "moe", "dense")]
SEEING = [[DATA / f"{name}-Q4_0.gguf", DATA / f"vision-{name}.gguf"] for name in ("e2b", "moe")]
HEARING = [DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"]
pytestmark = pytest.mark.skipif(not GCC, reason="no gcc")


def run(program: Path, *arguments: Path, **options: str) -> None:
    """A report of a sanitizer makes the program fail. Thread sanitizers need a fixed address layout. `options`: environment."""
    command = [str(program), *map(str, arguments)]
    if setarch := shutil.which("setarch"):
        command = [setarch, "-R", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | options)
    assert done.returncode == 0, done.stderr


def test_address_and_undefined(tmp_path: Path) -> None:
    """No bad access, leak or undefined operation from opening to closing, nor in any kernel."""
    program = sanitized("use_c.c", tmp_path, "address,undefined")
    for model in MODELS:
        run(program, model)
    run(sanitized("use_audio.c", tmp_path, "address,undefined"), *HEARING)
    run(sanitized("kernel_check.c", tmp_path, "address,undefined"))
    program = sanitized("use_image.c", tmp_path, "address,undefined")
    for files in SEEING:
        run(program, *files)
    for name in ("use_batch.c", "use_limit.c"):
        program = sanitized(name, tmp_path, "address,undefined")
        for model in MODELS:
            run(program, model)


def test_threads(tmp_path: Path) -> None:
    """No data race between the threads of the pool, and every piece of work done once."""
    run(sanitized("pool_check.c", tmp_path, "thread"))
    program = sanitized("use_c.c", tmp_path, "thread")
    for model in MODELS:
        run(program, model)
    run(sanitized("use_audio.c", tmp_path, "thread"), *HEARING)
    program = sanitized("use_image.c", tmp_path, "thread")
    for files in SEEING:
        run(program, *files)
    for name in ("use_batch.c", "use_limit.c"):
        program = sanitized(name, tmp_path, "thread")
        for model in MODELS:
            run(program, model)


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_the_store_of_weights(kind: str, tmp_path: Path) -> None:
    """What stays in memory, by how often it is used; the threads that read."""
    run(sanitized("store_check.c", tmp_path, kind), DATA / "moe-Q4_0.gguf")


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_a_disk_that_fails(kind: str, tmp_path: Path) -> None:
    """A file that is cut short ends the call with an error in every thread; other faults are the application's."""
    program, copy = sanitized("use_fault.c", tmp_path, kind), tmp_path / "model.gguf"
    # The handler replaces pages that others read, which the system does at once; the sanitizer takes it for a write. It must
    # remember enough to know whose write it was.
    (tmp_path / "suppressed").write_text("race:guard.c\n")
    options = {"TSAN_OPTIONS": f"suppressions={tmp_path / 'suppressed'} history_size=7"}
    for model in MODELS:
        for how in ([], [Path("limited")], [Path("tensors")]):
            shutil.copyfile(model, copy)
            run(program, copy, *how, **options)
