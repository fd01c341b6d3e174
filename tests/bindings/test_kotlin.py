"""The binding for Android, on a JVM: the same tokens as the C program and Python, and no complaint of -Xcheck:jni.

And the library that phones load: aligned for pages of 16 KB, small, with nothing but the native methods to be seen.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_gemma.audio.source import open_audio
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from support.c_build import build, objects_of
from support.pages import blocks
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import android

PROGRAM = ROOT / "tests" / "bindings" / "kotlin"
SAMPLE = ROOT / "bindings" / "android" / "sample" / "src" / "main" / "kotlin"
UTTERANCE = ROOT / "edge_gemma" / "demo" / "data" / "utterances" / "1-en.wav"
NATIVE = ROOT / "bindings" / "android" / "src" / "main" / "kotlin" / "org" / "edgegemma" / "Native.kt"
pytestmark = pytest.mark.slow
FLAGS = ("-fPIC", "-fvisibility=hidden")  # so that library and C program have the same objects
COMPILER = shutil.which("gcc") or shutil.which("clang")
needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")


def needs_kotlin() -> None:
    try:
        android.kotlin_jars()
        android.java_home()
    except android.MissingTool as problem:
        pytest.skip(str(problem))


@dataclass(frozen=True)
class Built:
    """What the parts run with."""

    library: Path
    classes: list[Path]
    arguments: list[str]

    def run(self, part: str) -> list[str]:
        """The lines that a part of the program prints; the JVM must have nothing to say."""
        path = os.pathsep.join(map(str, [*self.classes, *android.kotlin_jars()]))
        command = [
            str(android.java_home() / "bin" / "java"),
            "-Xcheck:jni",
            "--add-opens=java.base/java.io=ALL-UNNAMED",  # the number of a file's descriptor
            f"-Dedgegemma.library={self.library}",
            *("-cp", path, "org.edgegemma.tests.ProgramKt", part, *self.arguments),
        ]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        lines = done.stdout.splitlines()
        assert lines[-1] == "end"
        # Of -Xcheck:jni come lines that begin with WARNING or FATAL, and stack traces.
        assert not re.search(r"(?i)warning|fatal|\tat ", done.stdout + done.stderr), done.stdout + done.stderr
        return lines[:-1]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The embedded model, the tools of its home, and an utterance between faint noise, as for the C program."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "tools.json").write_text(json.dumps(Toolbox(Home().tools).schemas))
    noise = np.random.default_rng(1).normal(0, 1e-3, 27200).astype(np.float32)
    sound = np.concatenate([noise[:8000], *open_audio(UTTERANCE), noise[8000:]])
    sound.astype(np.float32).tofile(folder / "samples")
    return [str(EMBEDDED), str(EMBEDDED_MMPROJ), str(folder / "tools.json"), INSTRUCTIONS, str(folder / "samples")]


def write_page(folder: Path) -> Path:
    """The Kotlin of docs/android.md, each block in a function."""
    lines = ["package org.edgegemma.page", "import org.edgegemma.*", "import org.edgegemma.android.*"]
    found = [block for block in blocks("docs/android.md") if block.language == "kotlin"]
    assert len(found) > 1
    for number, block in enumerate(found):
        lines += [f"suspend fun block{number}() {{", block.text, "}"]
    (folder / "Page.kt").write_text("\n".join(lines))
    return folder / "Page.kt"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> Built:
    """The library for this computer, and the classes of the binding, the sample, the page and the test."""
    needs_kotlin()
    if not COMPILER:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kotlin")
    library = folder / "libedge_gemma_jni.so"
    android.build_for_host(library, [Path(path) for path in objects_of(COMPILER, FLAGS)])
    (folder / "android").mkdir()
    system = android.android_classes(folder / "android")
    android.compile_kotlin([android.KOTLIN], folder / "binding", [system], explicit=True)
    sources = [PROGRAM, SAMPLE, write_page(folder)]
    android.compile_kotlin(sources, folder / "test", [folder / "binding", system])
    return Built(library, [folder / "binding", folder / "test"], arguments)


def test_voice_is_that_of_the_c_program(built: Built, tmp_path: Path) -> None:
    """Sound, partial words, a tool, its result, the answer, the tokens, and an answer that is cancelled: line for line."""
    assert COMPILER
    program = build(COMPILER, "use_voice.c", tmp_path, *FLAGS)
    there = subprocess.run([program, *built.arguments], capture_output=True, text=True, timeout=300, check=True)
    lines = built.run("voice")
    assert lines == there.stdout.splitlines()
    kinds = [line.split()[0] for line in lines]
    assert {"speech", "partial", "pause", "words", "call", "done", "tokens"} == set(kinds) and lines[-1] == "done 6 "


def test_listen_is_the_same_turn(built: Built) -> None:
    """The flow of a voice, with tools that it runs, has the tokens of the loop by hand; ending it early leaves no trace."""
    by_hand = built.run("voice")
    lines = built.run("listen")
    end = by_hand.index(next(line for line in by_hand if line.startswith("tokens ")))
    wanted = {line for line in by_hand[: end + 1] if line.split()[0] in ("words", "call", "done", "tokens")}
    assert {line for line in lines if not line.startswith("again ")} == wanted
    (words,) = [line.partition(" ")[2] for line in lines if line.startswith("words ")]
    assert [line for line in lines if line.startswith("again ")] == [f"again {words}"] * 2


def test_errors_have_code_and_sentence(built: Built) -> None:
    built.run("errors")


def test_descriptors_masks_pictures_detector(built: Built) -> None:
    assert [line for line in built.run("more") if line.startswith("words ")]


def test_cancelling_and_closing_meet_calls(built: Built) -> None:
    built.run("busy")


# ---- the library that phones load ------------------------------------------------------------------------------------


def elf(*options: str | Path) -> str:
    reader = shutil.which("readelf") or shutil.which("llvm-readelf")
    if not reader:
        pytest.skip("needs readelf")
    return subprocess.run([reader, "-W", *options], capture_output=True, text=True, check=True).stdout


def check_library(library: Path, *, most: int | None = None) -> None:
    loads = re.findall(r"^\s*LOAD .*?(0x[0-9a-f]+)$", elf("-l", library), flags=re.M)
    assert len(loads) >= 2 and {int(alignment, 16) for alignment in loads} == {0x4000}
    symbols = [line.split() for line in elf("--dyn-syms", library).splitlines() if re.match(r"\s*\d+:", line)]
    defined = {fields[7] for fields in symbols if len(fields) > 7 and fields[6] != "UND"}
    methods = re.findall(r"external fun (\w+)", NATIVE.read_text())
    assert len(methods) > 30 and defined == {f"Java_org_edgegemma_Native_{name}" for name in methods}
    if most:
        assert library.stat().st_size < most


def test_library_of_this_computer(built: Built) -> None:
    check_library(built.library)


@needs_zig
def test_library_of_phones(tmp_path: Path) -> None:
    """Bionic's headers are not to be had here, so it is linked with musl: the same code, the same linker."""
    try:
        android.java_home()  # has jni.h
    except android.MissingTool as problem:
        pytest.skip(str(problem))
    library = tmp_path / "libedge_gemma_jni.so"
    android.build_library(android.zig_compiler("arm64-v8a", "musl"), library)
    check_library(library, most=1_000_000)
    assert "AArch64" in elf("-h", library)


def test_aar_is_laid_out(tmp_path: Path) -> None:
    """The files that Android's build looks for, with the same bytes every time."""
    (tmp_path / "classes" / "org").mkdir(parents=True)
    (tmp_path / "classes" / "org" / "A.class").write_bytes(b"class")
    for abi in android.ABIS:
        (tmp_path / "libraries" / abi).mkdir(parents=True)
        for name in ("libedge_gemma_jni.so", "libedge_gemma.a"):
            (tmp_path / "libraries" / abi / name).write_bytes(b"code")
    files = [tmp_path / "a.aar", tmp_path / "b.aar"]
    for file in files:
        android.lay_out(file, tmp_path / "classes", tmp_path / "libraries")
    assert files[0].read_bytes() == files[1].read_bytes()
    with zipfile.ZipFile(files[0]) as archive:
        names = set(archive.namelist())
        prefab = "prefab/modules/edge_gemma"
        assert {"AndroidManifest.xml", "classes.jar", "R.txt", "proguard.txt", "prefab/prefab.json"} <= names
        assert {
            f"{prefab}/module.json",
            f"{prefab}/include/edge_gemma.h",
            f"{prefab}/include/edge_gemma_chat.h",
            f"{prefab}/include/edge_gemma_platform.h",
        } <= names
        for abi in ("arm64-v8a", "x86_64"):
            assert {f"jni/{abi}/libedge_gemma_jni.so", f"{prefab}/libs/android.{abi}/libedge_gemma.a"} <= names
            assert json.loads(archive.read(f"{prefab}/libs/android.{abi}/abi.json"))["static"]
        assert b'package="org.edgegemma"' in archive.read("AndroidManifest.xml")
        with archive.open("classes.jar") as jar, zipfile.ZipFile(jar) as classes:
            assert classes.namelist() == ["org/A.class"]


def test_native_methods_have_functions() -> None:
    """Each external function of Kotlin has its C function; the compilers cannot tell."""
    text = "".join(path.read_text() for path in sorted(android.JNI.glob("*.c")))
    functions = re.findall(r"^NATIVE\(\w+, (\w+)\)", text, flags=re.M)
    assert sorted(functions) == sorted(re.findall(r"external fun (\w+)", NATIVE.read_text()))
