"""The Swift package, built and run by SwiftPM where there is a Swift toolchain: its own tests, and the voice turn of the C
program with the tokens of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.pages import blocks
from support.paths import ROOT
from support.voice_turn import check_voice_turn, voice_arguments

APPLE = ROOT / "bindings" / "apple"
needs_swift = pytest.mark.skipif(not shutil.which("swift"), reason="needs swift")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where SwiftPM builds: what EDGE_GEMMA_SWIFT_BUILD names is kept between runs."""
    return os.environ.get("EDGE_GEMMA_SWIFT_BUILD") or str(tmp_path_factory.mktemp("swift"))


def swift(verb: str, scratch: str, *arguments: str) -> str:
    """Output of a verb of SwiftPM on the package, with the optimizer: without it the engine is very slow."""
    command = ["swift", verb, "-c", "release", "--package-path", str(ROOT), "--scratch-path", scratch, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + (done.stderr if verb == "test" else "")


@needs_swift
def test_a_voice_turn_has_the_tokens_of_the_package(scratch: str, tmp_path: Path) -> None:
    """The second turn ends with the task that reads it: what was said of the answer until then is kept."""
    lines = swift("run", scratch, "voice-turn", *voice_arguments(tmp_path)).splitlines()
    check_voice_turn(lines, "model")
    assert lines[-2].startswith("stopped at ")
    (messages,) = re.fullmatch(r"messages (\d+)", lines[-1]).groups()  # type: ignore[union-attr]
    assert 3 <= int(messages) <= 4


@needs_swift
def test_the_tests_of_the_package_pass(scratch: str) -> None:
    out = swift("test", scratch)
    assert re.search(r"Executed [1-9]\d* tests, with 0 failures", out), out[-3000:]


@pytest.mark.skipif(not shutil.which("swiftc"), reason="needs swiftc")
def test_the_blocks_of_the_page_compile(scratch: str, tmp_path: Path) -> None:
    """As one program."""
    swift("build", scratch)
    modules = next(Path(scratch).glob("*/release/Modules"))
    page = [block.text for block in blocks("docs/ios.md") if block.language == "swift"]
    assert len(page) >= 5
    (tmp_path / "main.swift").write_text("\n".join(page))
    command = ["swiftc", "-typecheck", "-I", str(modules), "-I", str(ROOT / "csrc"), str(tmp_path / "main.swift")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_compiles_every_source() -> None:
    """SwiftPM takes all C files that it finds in the folder."""
    found = {str(path.relative_to(ROOT / "csrc")) for path in (ROOT / "csrc").rglob("*.c")}
    assert found == set((ROOT / "csrc" / "sources.txt").read_text().split())


def test_the_framework_script_is_a_script() -> None:
    """It needs a Mac, so here its syntax alone is checked, and that it builds the listed sources and public headers."""
    script = APPLE / "xcframework.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True)
    text = script.read_text()
    for name in ("edge_gemma.h", "edge_gemma_chat.h", "edge_gemma_platform.h", "module.modulemap", "sources.txt"):
        assert name in text
