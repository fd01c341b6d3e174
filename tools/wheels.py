"""Builds the wheels and the C libraries for all systems, on one Linux machine.

    python tools/wheels.py [TARGET ...] [-o dist] [--check]

Every file of the engine is compiled once for each target, by the clang in the package `ziglang`. The objects become the
extension module of a wheel for CPython 3.10 and later, a shared library, and a static one. Two runs make the same bytes.

Needs the packages ziglang, cffi, setuptools and abi3info; with --check also abi3audit and auditwheel. What --check looks at:
the stable interface (abi3audit), the version of the C library (auditwheel), the members and digests of the wheel, and the
size of the libraries. tools/run_wheels.py runs what one machine can run.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member of an archive
PYTHON = "cp310"  # the oldest CPython, whose stable interface is used


@dataclasses.dataclass(frozen=True)
class Target:
    """A system.

    Attributes:
        triple: its name for zig.
        tag: the platform in the wheel's name.
        machine: for the table of functions of a Windows library.
    """

    triple: str
    tag: str
    machine: str = ""

    @property
    def windows(self) -> bool:
        return "windows" in self.triple

    @property
    def macos(self) -> bool:
        return "macos" in self.triple

    @property
    def library(self) -> str:
        """File name of the shared library."""
        return "edge_gemma.dll" if self.windows else "libedge_gemma.dylib" if self.macos else "libedge_gemma.so"


TARGETS = {
    "linux-x86_64": Target("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
    "linux-aarch64": Target("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64.manylinux2014_aarch64"),
    "musl-x86_64": Target("x86_64-linux-musl", "musllinux_1_2_x86_64"),
    "musl-aarch64": Target("aarch64-linux-musl", "musllinux_1_2_aarch64"),
    "macos-arm64": Target("aarch64-macos.11.0", "macosx_11_0_arm64"),
    "macos-x86_64": Target("x86_64-macos.11.0", "macosx_11_0_x86_64"),
    "windows-amd64": Target("x86_64-windows-gnu", "win_amd64", "i386:x86-64"),
    "windows-arm64": Target("aarch64-windows-gnu", "win_arm64", "arm64"),
}

# What Python.h wants to know about Windows. The real file is in installations for Windows only.
WINDOWS_CONFIG = """
#define MS_WIN64
#define MS_WIN32
#define MS_WINDOWS
#define NT_THREADS
#define WITH_THREAD
#define HAVE_DECLSPEC_DLL
#define Py_ENABLE_SHARED 1
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8
#define SIZEOF_FPOS_T 8
#define SIZEOF_OFF_T 4
#define SIZEOF_PID_T 4
#define ALIGNOF_SIZE_T 8
#define ALIGNOF_MAX_ALIGN_T 16
#define HAVE_STDDEF_H 1
#define HAVE_STDINT_H 1
#define HAVE_ERRNO_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_INTTYPES_H 1
#define PLATLIBDIR "lib"
#define STDC_HEADERS 1
"""


class Failure(Exception):
    """The sentence says what to do."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The output of a command. Raises Failure with what it printed if it does not succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command[:6]))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def zig(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "ziglang", *arguments)


def build_settings() -> tuple[object, list[str]]:
    """The cffi builder, and the flags for the compiler, from edge_gemma/_build.py."""
    specification = importlib.util.spec_from_file_location("edge_gemma_build", ROOT / "edge_gemma" / "_build.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.builder(), list(module.FLAGS)


def version() -> str:
    found = re.search(r'#define EG_VERSION "([^"]+)"', (ROOT / "csrc" / "edge_gemma.h").read_text())
    if not found:
        raise Failure("csrc/edge_gemma.h has no EG_VERSION.")
    return found[1]


# ---- compiling -------------------------------------------------------------------------------------------------------


def headers(work: Path, windows: bool) -> Path:
    """A folder with Python's headers for a system. The stable interface is the same on all, but for pyconfig.h."""
    own = Path(sysconfig.get_path("include"))
    if not (own / "Python.h").exists():
        raise Failure(f"{own} has no Python.h: install Python's development headers.")
    if not windows:
        return own
    folder = work / "include-windows"
    if not folder.exists():
        shutil.copytree(own, folder)
        (folder / "pyconfig.h").write_text(WINDOWS_CONFIG)
    return folder


def python_library(work: Path, target: Target) -> Path:
    """The import library of python3.dll, which has the stable interface."""
    import abi3info
    from abi3info.models import PyVersion

    oldest = PyVersion(3, 10)
    lines = ["LIBRARY python3.dll", "EXPORTS"]
    lines += sorted(symbol.name for symbol, about in abi3info.FUNCTIONS.items() if about.added <= oldest)
    lines += sorted(f"{symbol.name} DATA" for symbol, about in abi3info.DATAS.items() if about.added <= oldest)
    definition, library = work / "python3.def", work / f"python3-{target.tag}.lib"
    definition.write_text("\n".join(lines) + "\n")
    zig("dlltool", "-m", target.machine, "-d", definition, "-l", library)
    return library


def compile_target(target: Target, work: Path, source: Path, flags: list[str]) -> tuple[list[Path], Path]:
    """The objects of the engine, and the one of the extension module."""
    folder = work / target.tag
    folder.mkdir()
    common = [
        "cc",
        "-target",
        target.triple,
        "-c",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffile-prefix-map=.=edge_gemma",
    ]
    flags = [flag for flag in flags if not (target.windows and flag == "-pthread")]
    engine = (ROOT / "csrc" / "sources.txt").read_text().split()
    objects = [folder / (name.replace("/", "-") + ".o") for name in engine]

    def one(name: str, path: Path) -> None:
        zig(*common, *flags, "-DEG_BUILD", "-DEG_SHARED", "-Icsrc", f"csrc/{name}", "-o", path)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, engine, objects))
    module = folder / "_engine.o"
    # What cffi writes has parameters without use, and casts between types of functions.
    quiet = ("-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-error")
    zig(*common, *flags, *quiet, "-Icsrc", f"-I{headers(work, target.windows)}", source, "-o", module)
    return objects, module


def link(target: Target, work: Path, objects: list[Path], out: Path, python: bool) -> None:
    """Links a shared library; with `python` an extension module."""
    command: list[str | Path] = ["cc", "-target", target.triple, "-shared", "-s", *objects, "-o", out]
    if target.windows:
        command += [python_library(work, target)] if python else [f"-Wl,--out-implib,{out.with_suffix('.lib')}"]
    elif target.macos:
        command += ["-Wl,-undefined,dynamic_lookup"] if python else [f"-Wl,-install_name,@rpath/{out.name}"]
    else:  # devices with pages of 16 KB load only what is aligned to them
        command += ["-lm", "-pthread", "-Wl,-z,max-page-size=16384"]
        command += [] if python else [f"-Wl,-soname,{out.name}"]
    zig(*command)


# ---- archives --------------------------------------------------------------------------------------------------------


def pure_part(work: Path) -> None:
    """Makes work/pure, the package without its extension module, and work/metadata, as setuptools has them.

    Both are made of the source distribution: what is not in it cannot be in a wheel.
    """
    package, metadata, sources = work / "pure", work / "metadata", work / "sources"
    run(sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={work}", "sdist", f"--dist-dir={work / 'sdist'}")
    with tarfile.open(next((work / "sdist").glob("*.tar.gz"))) as archive:
        archive.extractall(sources, filter="data")
    (folder,) = sources.iterdir()
    run(sys.executable, "setup.py", "-q", "build_py", "--build-lib", package, cwd=folder)
    metadata.mkdir()
    run(sys.executable, "setup.py", "-q", "dist_info", "--output-dir", metadata, cwd=folder)
    (info,) = metadata.glob("*.dist-info")
    manual = package / f"{info.name.removesuffix('.dist-info')}.data" / "data" / "share" / "man" / "man1"
    manual.mkdir(parents=True)
    shutil.copy(folder / "docs" / "edge-gemma.1", manual)


def write_wheel(target: Target, work: Path, module: Path, out: Path) -> Path:
    """Packs the wheel and its list of digests. Members have a fixed order and time."""
    package, info = work / "pure", next((work / "metadata").glob("*.dist-info"))
    members = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    members["edge_gemma/" + ("_engine.pyd" if target.windows else "_engine.abi3.so")] = module.read_bytes()
    for path in info.rglob("*"):
        if path.is_file() and path.name not in ("WHEEL", "RECORD", "SOURCES.txt"):
            members[f"{info.name}/{path.relative_to(info).as_posix()}"] = path.read_bytes()
    tags = "".join(f"Tag: {PYTHON}-abi3-{tag}\n" for tag in target.tag.split("."))
    head = f"Wheel-Version: 1.0\nGenerator: edge_gemma tools/wheels.py\nRoot-Is-Purelib: false\n{tags}"
    members[f"{info.name}/WHEEL"] = head.encode()
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in sorted(members.items())
    )
    members[f"{info.name}/RECORD"] = f"{record}{info.name}/RECORD,,\n".encode()
    path = out / f"{info.name.removesuffix('.dist-info')}-{PYTHON}-abi3-{target.tag}.whl"
    _pack(path, members)
    return path


def write_library(name: str, target: Target, work: Path, objects: list[Path], out: Path) -> Path:
    """Packs the shared and the static library with their headers."""
    shared, static = work / target.tag / target.library, work / target.tag / "libedge_gemma.a"
    link(target, work, objects, shared, python=False)
    zig("ar", "rcsD", static, *objects)
    top = f"edge_gemma-{version()}-{name}"
    headers = [*(ROOT / "csrc").glob("edge_gemma*.h"), ROOT / "csrc" / "module.modulemap"]
    members = {f"{top}/include/{header.name}": header.read_bytes() for header in headers}
    members[f"{top}/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    for path in (shared, static, *shared.parent.glob("edge_gemma.lib")):
        members[f"{top}/{'bin' if path.suffix == '.dll' else 'lib'}/{path.name}"] = path.read_bytes()
    path = out / f"{top}.zip"
    _pack(path, members)
    return path


def _pack(path: Path, members: dict[str, bytes]) -> None:
    """Writes a zip file whose bytes depend on its members only. An unfinished one is never left."""
    part = path.with_name(path.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(members.items(), key=lambda member: (".dist-info/" in member[0], member[0])):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (
                0o755 if name.endswith((".so", ".pyd", ".dll", ".dylib")) else 0o644
            ) << 16 | 0x80000000
            archive.writestr(entry, data)
    os.replace(part, path)


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_wheel(target: Target, path: Path) -> list[str]:
    """What is certain about a wheel, in words. Raises Failure if something is wrong."""
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        listed = [line.split(",") for line in archive.read(record).decode().splitlines()]
        if {line[0] for line in listed} != set(archive.namelist()):
            raise Failure(f"{path.name}: RECORD and the members differ.")
        for name, digest, _ in listed[:-1]:
            found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            if digest != f"sha256={found}":
                raise Failure(f"{path.name}: the digest of {name} is wrong.")
    said = ["digests agree"]
    run(sys.executable, "-m", "abi3audit", "--strict", "--report", path)
    said.append("stable interface")
    if "manylinux" in target.tag:
        report = run(sys.executable, "-m", "auditwheel", "show", path)
        wanted = target.tag.split(".")[0]
        found = re.search(r"following\s+platform\s+tag:\s+\"(\w+)\"", report.replace("\n", " "))
        if not found or int(found[1].split("_")[2]) > int(wanted.split("_")[2]):
            raise Failure(f"{path.name} is not consistent with {wanted}:\n{report}")
        said.append(f"consistent with {found[1]}")
    return said


# ---- all -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """A folder for what lies between the sources and the archives."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise Failure(f"{keep} is not empty: choose another folder for --keep.")
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="edge-gemma-wheels-") as folder:
        yield Path(folder)


def build(names: list[str], out: Path, check: bool, keep: Path | None = None) -> None:
    """Builds the targets. Prints a line for each file."""
    out.mkdir(parents=True, exist_ok=True)
    with workplace(keep) as work:
        builder, flags = build_settings()
        source = work / "_engine.c"
        builder.emit_c_code(str(source))  # type: ignore[attr-defined]
        pure_part(work)
        for name in names:
            target = TARGETS[name]
            objects, module = compile_target(target, work, source, flags)
            extension = work / target.tag / ("_engine.pyd" if target.windows else "_engine.abi3.so")
            link(target, work, [module, *objects], extension, python=True)
            wheel = write_wheel(target, work, extension, out)
            said = check_wheel(target, wheel) if check else ["not checked"]
            print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {', '.join(said)}", flush=True)
            library = write_library(name, target, work, objects, out)
            size = (work / target.tag / target.library).stat().st_size
            print(f"{library.name}: {target.library} has {size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--check", action="store_true", help="look at the wheels with abi3audit and auditwheel")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the objects in this folder")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target {sorted(unknown)[0]}; there are: {', '.join(TARGETS)}.")
    needed = ("ziglang", "cffi", "setuptools", "abi3info", *(("abi3audit", "auditwheel") if options.check else ()))
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        parser.error(f"install {' '.join(missing)}: pip install {' '.join(missing)}.")
    try:
        build(options.targets or list(TARGETS), options.out, options.check, options.keep)
    except Failure as failure:
        sys.exit(f"wheels: {failure}")


if __name__ == "__main__":
    main()
