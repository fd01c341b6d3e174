"""A short run of each fuzzer, or its seeds alone where there is no libFuzzer. Long runs: `make fuzz SECONDS=1200`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.paths import TESTS

FUZZ = TESTS / "fuzz"
SECONDS = 10
SANITIZERS = "-fsanitize=fuzzer,address,undefined"


def links(compiler: str, flags: list[str], source: str, folder: Path) -> bool:
    """Whether the compiler and its run-time libraries are there."""
    if not shutil.which(compiler):
        return False
    file = folder / "try.c"
    file.write_text(source)
    return subprocess.run([compiler, *flags, file, "-o", folder / "try"], capture_output=True).returncode == 0


def make(target: str, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Runs make in tests/fuzz; output together."""
    command = ["make", "-C", FUZZ, target, f"BUILD={folder}", *(f"{key}={value}" for key, value in variables.items())]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS")}
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, encoding="utf-8", errors="replace"
    )


@pytest.mark.parametrize("target", ["gguf", "tokenizer", "encoders", "picture", "reply"])
def test_fuzz(target, tmp_path):
    if os.name != "posix" or not shutil.which("make"):
        pytest.skip("needs make on a POSIX system")
    entry = "int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return n && d[0] > 255; }"
    if links("clang", [SANITIZERS], entry, tmp_path):
        done = make("fuzz", tmp_path, TARGETS=target, SECONDS=SECONDS)
    elif links("gcc", ["-fsanitize=address,undefined"], "int main(void) { return 0; }", tmp_path):
        done = make("replay", tmp_path, TARGETS=target)
    else:
        pytest.skip("needs clang with libFuzzer, or gcc with its sanitizers")
    print(done.stdout[-600:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert not list(tmp_path.glob("crash-*")) and not list(tmp_path.glob("timeout-*"))
