"""Builds the binding for Android without Android Studio: the JNI library, the Kotlin classes, and the AAR of both.

    python tools/android.py --output edge_gemma.aar                 with the NDK of ANDROID_NDK_HOME
    python tools/android.py --output try.aar --zig musl             without one: for trying the build, no device can load it
    python tools/android.py --host build/libedge_gemma_jni.so       for a JVM on this computer

Kotlin's compiler is found in the folder of jars that EDGE_GEMMA_KOTLIN_JARS names, else in the package kotlin-jupyter-kernel
(pip); the JDK by JAVA_HOME or the program javac. Android's classes come from the SDK of ANDROID_HOME, else from the
declarations in bindings/android/stubs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
BINDING = ROOT / "bindings" / "android"
JNI = BINDING / "src" / "main" / "c"
KOTLIN = BINDING / "src" / "main" / "kotlin"
PACKAGE = "org.edgegemma"
MIN_SDK = 24
#: Android's name of an architecture -> that of compilers.
ABIS = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
FLAGS = ["-std=c11", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
LINK = [
    "-shared",
    "-s",
    f"-Wl,--version-script={JNI / 'exports.map'}",
    "-Wl,--gc-sections",
    "-Wl,-z,max-page-size=16384",
]


class MissingTool(Exception):
    """Something that a build needs is not on this computer; the sentence says what."""


def run(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:6]))} ...\n{done.stdout}{done.stderr}")


# ---- what is at hand -------------------------------------------------------------------------------------------------


def java_home() -> Path:
    """The folder of a JDK."""
    if named := os.environ.get("JAVA_HOME"):
        return Path(named)
    if compiler := shutil.which("javac"):
        return Path(compiler).resolve().parent.parent
    raise MissingTool("There is no JDK: install one, such as Debian's openjdk-17-jdk-headless, or set JAVA_HOME.")


def kotlin_jars() -> list[Path]:
    """Kotlin's compiler, its standard library and the coroutines."""
    named = os.environ.get("EDGE_GEMMA_KOTLIN_JARS")
    package = importlib.util.find_spec("run_kotlin_kernel")
    folder = Path(named) if named else Path(package.origin).parent / "jars" if package and package.origin else None
    jars = sorted(folder.glob("*.jar")) if folder else []
    if not jars:
        raise MissingTool("There is no Kotlin: pip install kotlin-jupyter-kernel, or set EDGE_GEMMA_KOTLIN_JARS.")
    return jars


def ndk_compiler(abi: str) -> list[str]:
    """Clang of the NDK, for an architecture."""
    named = os.environ.get("ANDROID_NDK_HOME")
    found = sorted(Path(named).glob("toolchains/llvm/prebuilt/*/bin/clang")) if named else []
    if not found:
        raise MissingTool("There is no NDK: set ANDROID_NDK_HOME, or give --zig to try the build without one.")
    return [str(found[0]), f"--target={ABIS[abi]}-linux-android{MIN_SDK}"]


def zig_compiler(abi: str, libc: str) -> list[str]:
    """Clang of the package ziglang, for an architecture's Linux with "musl" or "gnu"."""
    if importlib.util.find_spec("ziglang") is None:
        raise MissingTool("There is no zig: pip install ziglang.")
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{ABIS[abi]}-linux-{libc}"]


# ---- the library -----------------------------------------------------------------------------------------------------


def compile_c(compiler: Sequence[str], sources: Sequence[Path], folder: Path, headers: Sequence[Path]) -> list[Path]:
    """Compiles C files to objects in a folder."""
    targets = [folder / f"{source.parent.name}-{source.name}.o" for source in sources]
    include = [f"-I{path}" for path in (CSRC, *headers)]
    commands = [
        [*compiler, *FLAGS, *include, "-c", source, "-o", target]
        for source, target in zip(sources, targets, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))
    return targets


def build_library(
    compiler: Sequence[str],
    output: Path,
    archive: Path | None = None,
    *,
    engine: Sequence[Path] = (),
    own_jni_h: bool = False,
) -> None:
    """Links the engine and its JNI to a library that exports the native methods.

    The engine alone goes to `archive`, for applications with C of their own. engine: its objects, if they are compiled already.
    own_jni_h: the compiler has the header, as that of the NDK does; else it is the JDK's.
    """
    java = java_home() / "include"
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        sources = [CSRC / line for line in (CSRC / "sources.txt").read_text().split()]
        engine = engine or compile_c(compiler, sources, Path(name), [])
        jni = compile_c(compiler, sorted(JNI.glob("*.c")), Path(name), [] if own_jni_h else [java, java / "linux"])
        run([*compiler, *LINK, *jni, *engine, "-o", output, "-lm"])
        if archive:
            archive.parent.mkdir(parents=True, exist_ok=True)
            run([*archiver(compiler), "rcs", archive, *engine])


def archiver(compiler: Sequence[str]) -> list[str]:
    """The `ar` that belongs to a compiler."""
    if "ziglang" in compiler:
        return [*compiler[: list(compiler).index("cc")], "ar"]
    beside = Path(compiler[0]).with_name("llvm-ar")
    return [str(beside)] if beside.exists() else ["ar"]


def build_for_host(output: Path, engine: Sequence[Path] = ()) -> None:
    """The library for a JVM on this computer; engine: as in build_library."""
    compiler = next((found for name in ("gcc", "clang", "cc") if (found := shutil.which(name))), None)
    if not compiler:
        raise MissingTool("There is no C compiler: install gcc or clang.")
    build_library([compiler], output, engine=engine)


# ---- the classes -----------------------------------------------------------------------------------------------------


def compile_kotlin(
    sources: Sequence[Path], output: Path, classpath: Sequence[Path] = (), *, explicit: bool = False
) -> None:
    """Compiles files and folders of Kotlin to a folder of classes; warnings are errors."""
    jars = kotlin_jars()
    compiler = [java_home() / "bin" / "java", "-Xmx1g", "-cp", os.pathsep.join(map(str, jars))]
    options = ["-no-stdlib", "-no-reflect", "-jvm-target", "11", "-Werror", "-module-name", "edge_gemma"]
    options += ["-Xexplicit-api=strict"] if explicit else []
    path = os.pathsep.join(map(str, [*jars, *classpath]))
    run([*compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, "-cp", path, "-d", output, *sources])


def android_classes(folder: Path) -> Path:
    """What stands for Android's classes: the SDK's newest android.jar, else the declarations, compiled to `folder`."""
    if named := os.environ.get("ANDROID_HOME"):
        jars = Path(named).glob("platforms/android-*/android.jar")
        if newest := max(jars, key=lambda jar: int(re.sub(r"\D", "", jar.parent.name) or 0), default=None):
            return newest
    run([java_home() / "bin" / "javac", "-d", folder, *sorted((BINDING / "stubs").rglob("*.java"))])
    return folder


# ---- the AAR ---------------------------------------------------------------------------------------------------------


def version() -> str:
    """The version of the engine."""
    found = re.search(r'#define EG_VERSION "(.+)"', (CSRC / "edge_gemma.h").read_text())
    assert found
    return found[1]


def add_folder(archive: zipfile.ZipFile, folder: Path, prefix: str = "") -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            add(archive, prefix + path.relative_to(folder).as_posix(), path.read_bytes())


def add(archive: zipfile.ZipFile, name: str, data: bytes | str) -> None:
    """With a fixed time, so that the same sources make the same file."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def lay_out(output: Path, classes: Path, libraries: Path) -> None:
    """Writes the AAR. `libraries` has a folder for each ABI, with libedge_gemma_jni.so and libedge_gemma.a."""
    with tempfile.TemporaryDirectory() as name:
        jar = Path(name) / "classes.jar"
        with zipfile.ZipFile(jar, "w") as archive:
            add_folder(archive, classes)
        manifest = (BINDING / "src" / "main" / "AndroidManifest.xml").read_text()
        manifest = manifest.replace(
            'apk/res/android">',
            f'apk/res/android" package="{PACKAGE}">\n    <uses-sdk android:minSdkVersion="{MIN_SDK}" />',
        )
        metadata = (
            "aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=1\nminAndroidGradlePluginVersion=1.0.0\n"
        )
        module = "prefab/modules/edge_gemma"
        with zipfile.ZipFile(output, "w") as archive:
            add(archive, "AndroidManifest.xml", manifest)
            add(archive, "classes.jar", jar.read_bytes())
            add(archive, "R.txt", "")
            add(archive, "proguard.txt", (BINDING / "consumer-rules.pro").read_text())
            add(archive, "META-INF/com/android/build/gradle/aar-metadata.properties", metadata)
            package = {"schema_version": 2, "name": "edge_gemma", "version": version(), "dependencies": []}
            add(archive, "prefab/prefab.json", json.dumps(package))
            add(archive, f"{module}/module.json", json.dumps({"export_libraries": [], "android": {}}))
            for header in ("edge_gemma.h", "edge_gemma_chat.h", "edge_gemma_platform.h"):
                add(archive, f"{module}/include/{header}", (CSRC / header).read_text())
            for folder in sorted(libraries.iterdir()):
                abi = folder.name
                add(archive, f"jni/{abi}/libedge_gemma_jni.so", (folder / "libedge_gemma_jni.so").read_bytes())
                about = {"abi": abi, "api": MIN_SDK, "ndk": 27, "stl": "none", "static": True}
                add(archive, f"{module}/libs/android.{abi}/abi.json", json.dumps(about))
                add(archive, f"{module}/libs/android.{abi}/libedge_gemma.a", (folder / "libedge_gemma.a").read_bytes())


def build_aar(output: Path, zig: str | None) -> None:
    """Compiles everything and writes the AAR."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for abi in ABIS:
            compiler = zig_compiler(abi, zig) if zig else ndk_compiler(abi)
            folder = work / "libraries" / abi
            build_library(compiler, folder / "libedge_gemma_jni.so", folder / "libedge_gemma.a", own_jni_h=not zig)
        (work / "android").mkdir()
        compile_kotlin([KOTLIN], work / "classes", [android_classes(work / "android")], explicit=True)
        lay_out(output, work / "classes", work / "libraries")
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB"
        + (f", linked with {zig}: no device can load it" if zig else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the AAR to write")
    parser.add_argument(
        "--zig", choices=["musl", "gnu"], help="compile with zig, against this C library, instead of the NDK"
    )
    parser.add_argument("--host", type=Path, help="the library for this computer's JVM to write")
    options = parser.parse_args()
    if not (options.output or options.host):
        parser.error("nothing to do: give --output or --host")
    try:
        if options.host:
            build_for_host(options.host)
        if options.output:
            build_aar(options.output, options.zig)
    except MissingTool as problem:
        raise SystemExit(str(problem)) from None


if __name__ == "__main__":
    main()
