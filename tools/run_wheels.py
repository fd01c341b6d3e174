"""Runs the wheels and the C libraries that tools/wheels.py has built, as far as one Linux machine on x86-64 can.

    python tools/run_wheels.py [TARGET ...] [-d dist] [--work FOLDER]

| | the wheel | the C library |
|---|---|---|
| linux-x86_64 | in this Python | here |
| linux-aarch64 | in Debian's Python for arm64, in qemu as a Cortex-A76 | in qemu |
| musl-x86_64, musl-aarch64 | not run | linked statically: here, in qemu |
| windows-amd64 | in CPython for Windows, in wine | in wine |
| others | not run | not run |

A wheel must transcribe, translate and continue a text with the same words and logits as the package of this checkout, a C
library must answer a chat as the sources do when they are compiled here. One line tells for each what was run.

Needs qemu-aarch64-static, apt-get, wine and gcc, and the package ziglang. What is missing is said in the line of the target.
The Pythons and their packages are downloaded into --work, which can be kept for the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import wheels
from wheels import ROOT, TARGETS, Failure, zig

QEMU = ("qemu-aarch64-static", "-cpu", "cortex-a76")
WINE = next((path for path in ("/usr/lib/wine/wine64", "wine64", "wine") if shutil.which(path)), "wine64")
PACKAGES = ("cffi", "pillow", "jinja2")
# wine 8 lacks a function of the C library that later versions of NumPy call.
WINDOWS_PACKAGES = (*PACKAGES, "numpy<2")
WINDOWS_PYTHON = "3.11"  # the wheels of panda3d have an official python311.dll; PyPI has no other CPython for Windows

# What a package says, as a line of JSON.
EXAMINATION = """
import hashlib, json, sys
import edge_gemma as eg
from edge_gemma.demo.utterances import bundled

first = bundled("en")[0]
with eg.Model.load("toy") as model:
    session = model.session()
    session.feed_text("Turn on the light.", bos=True)
    said = {
        "tokens": [int(token) for token in session.generate(12, temperature=0)],
        "logits": hashlib.sha256(session.logits().tobytes()).hexdigest(),
        "words": eg.transcribe(first.path, model, "English", detector="energy").text,
        "translation": eg.translate(first.path, "German", model, detector="energy").text,
    }
print(json.dumps({"file": eg.__file__, "said": said}))
"""
# python.exe, which the wheel of panda3d does not have.
WINDOWS_PROGRAM = """
#include <windows.h>
int wmain(int argc, wchar_t **argv)
{
    HMODULE python = LoadLibraryW(L"python311.dll");
    int (*run)(int, wchar_t **) = python ? (int (*)(int, wchar_t **))GetProcAddress(python, "Py_Main") : 0;
    return run ? run(argc, argv) : 99;
}
"""


class Impossible(Exception):
    """Says why something was not run."""


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            raise Impossible(f"not run: needs {Path(program).name}")


def output(command: Sequence[str | Path], **variables: str) -> str:
    """What a program prints, with line ends of this system. Raises Failure if it does not succeed."""
    environment = {**os.environ, **variables}
    done = subprocess.run([str(part) for part in command], input=b"", capture_output=True, env=environment)
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command[:5]))} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout.decode().replace("\r\n", "\n")


def fetch(what: str, command: Sequence[str | Path]) -> None:
    """Downloads. Raises Impossible where that fails: a machine may have no network."""
    try:
        output(command)
    except Failure as failure:
        raise Impossible(f"not run: {what} could not be downloaded ({str(failure).strip().splitlines()[-1]})") from None


@dataclasses.dataclass
class Runner:
    """Runs what was built.

    Attributes:
        dist: the folder of wheels and libraries.
        work: for Pythons, packages and programs. Pythons that are there are used again.
    """

    dist: Path
    work: Path

    def _built(self, pattern: str) -> Path:
        found = sorted(self.dist.glob(pattern))
        if not found:
            raise Failure(f"it is not in {self.dist}.")
        return found[-1]

    # ---- wheels ------------------------------------------------------------------------------------------------------

    def wheel(self, name: str) -> str:
        """Runs the wheel of a target. Returns what was run; raises Impossible, or Failure where it says something else."""
        python: dict[str, Callable[[], list[str | Path]]] = {
            "linux-x86_64": lambda: [sys.executable],
            "linux-aarch64": self._arm_python,
            "windows-amd64": self._windows_python,
        }
        if name not in python:
            raise Impossible("built, not run")
        command = python[name]()
        archive = self._built(f"edge_gemma-*-{TARGETS[name].tag}.whl")
        folder = self.work / name / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(archive) as members:
            members.extractall(folder)
        program = self.work / "examination.py"
        program.write_text(EXAMINATION)
        packages = self.work / name / "packages"
        there, here = (
            json.loads(output([*line, program], **self._places(name, places)).splitlines()[-1])
            for line, places in ((command, [folder, packages]), ([sys.executable], [ROOT]))
        )
        if str(folder).strip("/") not in there["file"].replace("\\", "/"):
            raise Failure(f"{archive.name}: {there['file']} was imported instead.")
        if there["said"] != here["said"]:
            raise Failure(f"{archive.name} says {there['said']}, and the checkout {here['said']}.")
        return f"run ({Path(command[0]).name}): words and logits as here"

    def _places(self, name: str, folders: list[Path]) -> dict[str, str]:
        """Environment variables with which Python finds its modules in folders."""
        if not TARGETS[name].windows or folders == [ROOT]:
            return {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}
        home = self.work / name / "python"
        return {
            "PYTHONPATH": ";".join(f"Z:{folder}" for folder in folders),
            "PYTHONHOME": f"Z:{home}",
            "PYTHONUTF8": "1",
            **self._wine(),
        }

    def _wine(self) -> dict[str, str]:
        return {"WINEPREFIX": str(self.work / "wine"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}

    def _download(self, name: str, platforms: Sequence[str], version: str, packages: Sequence[str]) -> None:
        """Unpacks packages of PyPI for another system into work/NAME/packages."""
        folder = self.work / name / "packages"
        part = folder.with_name("packages.part")
        shutil.rmtree(part, ignore_errors=True)
        platform = [option for each in platforms for option in ("--platform", each)]
        where = ["--python-version", version, "--only-binary", ":all:", *platform]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", part]
        fetch(f"packages for {name}", [*pip, *where, *packages])
        part.rename(folder)

    def _arm_python(self) -> list[str | Path]:
        """Debian's Python for arm64, in qemu."""
        need(QEMU[0], "apt-get", "dpkg-deb")
        folder = self.work / "linux-aarch64"
        root = folder / "root"
        if not root.exists():
            self._unpack_debian("arm64", ["python3", "libstdc++6"], root)
        (python,) = (path for path in root.glob("usr/bin/python3.*") if path.suffix[1:].isdigit())
        platforms = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")
        if not (folder / "packages").exists():
            self._download("linux-aarch64", platforms, python.name[6:], [*PACKAGES, "numpy"])
        return [*QEMU, "-L", root, python]

    def _unpack_debian(self, machine: str, packages: list[str], root: Path) -> None:
        """Unpacks packages of this system's distribution for another machine, with all they need; nothing is installed."""
        apt = self.work / f"apt-{machine}"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        options = {
            "APT::Architecture": machine,
            "APT::Architectures": machine,
            "APT::Sandbox::User": "root",
            "Dir::State": apt / "state",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "APT::Install-Recommends": "false",
        }
        command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        fetch(f"Debian's lists for {machine}", [*command, "update"])
        fetch(f"Debian's packages for {machine}", [*command, "install", "-y", "--download-only", *packages])
        part = root.with_name(root.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            output(["dpkg-deb", "-x", package, part])
        part.rename(root)

    def _windows_python(self) -> list[str | Path]:
        """CPython for Windows, in wine: the library from the wheel of panda3d, the standard library from here."""
        need(WINE)
        self._need_zig()
        folder = self.work / "windows-amd64"
        home = folder / "python"
        if not (home / "python.exe").exists():
            self._make_windows_python(home)
        if not (folder / "packages").exists():
            self._download("windows-amd64", ("win_amd64",), WINDOWS_PYTHON, WINDOWS_PACKAGES)
        return [WINE, home / "python.exe"]

    def _make_windows_python(self, home: Path) -> None:
        library = Path(os.__file__).parent
        if sys.version_info[:2] != tuple(map(int, WINDOWS_PYTHON.split("."))):
            raise Impossible(f"not run: needs Python {WINDOWS_PYTHON}, whose standard library it shares")
        shutil.rmtree(home, ignore_errors=True)
        (home / "DLLs").mkdir(parents=True)
        where = ["--python-version", WINDOWS_PYTHON, "--only-binary", ":all:", "--platform", "win_amd64", "--no-deps"]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", self.work]
        fetch("CPython for Windows", [*pip, *where, "panda3d"])
        with zipfile.ZipFile(next(self.work.glob("panda3d-*.whl"))) as archive:
            for member in archive.namelist():
                if member.startswith("deploy_libs/") and not member.endswith("/"):
                    place = home if Path(member).stem.lower() in ("python311", "vcruntime140") else home / "DLLs"
                    (place / Path(member).name).write_bytes(archive.read(member))
        skipped = shutil.ignore_patterns("site-packages", "dist-packages", "lib-dynload", "test", "__pycache__")
        shutil.copytree(library, home / "Lib", ignore=skipped)
        definition, target = self.work / "python3.def", TARGETS["windows-amd64"]
        source = self.work / "python.c"
        # python3.dll passes each function of the stable interface on to python311.dll.
        wheels.python_library(self.work, target)
        names = [line.split() for line in definition.read_text().splitlines()[2:]]
        forwarded = "".join(f"{name} = python311.{name} {' '.join(rest)}\n" for name, *rest in names)
        definition.write_text(f"LIBRARY python3.dll\nEXPORTS\n{forwarded}")
        source.write_text("int python3;\n")
        zig("cc", "-target", target.triple, "-shared", "-s", source, definition, "-o", home / "python3.dll")
        source.write_text(WINDOWS_PROGRAM)
        part = home / "python.part.exe"
        zig("cc", "-target", target.triple, "-municode", "-s", source, "-o", part)
        part.rename(home / "python.exe")

    # ---- C libraries -------------------------------------------------------------------------------------------------

    def library(self, name: str) -> str:
        """Runs a program with the C library of a target. Returns what was run; raises as `wheel`."""
        how: dict[str, tuple[str, ...]] = {
            "linux-x86_64": (),
            "musl-x86_64": (),
            "linux-aarch64": QEMU,
            "musl-aarch64": QEMU,
            "windows-amd64": (WINE,),
        }
        if name not in how:
            raise Impossible("built, not run")
        self._need_zig()
        need(*how[name][:1])
        target, folder = TARGETS[name], self.work / name / "library"
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(self._built(f"edge_gemma-*-{name}.zip")) as archive:
            archive.extractall(folder)
        (top,) = folder.iterdir()
        # The DLL on Windows, the static library elsewhere; with musl the C library is static too, and no loader is needed.
        library = (
            [top / "lib" / "edge_gemma.lib", "-DEG_SHARED"] if target.windows else [top / "lib" / "libedge_gemma.a"]
        )
        program = (top / "bin" / "use_c.exe") if target.windows else top / "use_c"
        static = ["-static"] if "musl" in target.triple else []
        zig(
            "cc",
            "-target",
            target.triple,
            ROOT / "tests/c/use_c.c",
            f"-I{top / 'include'}",
            *library,
            *static,
            "-o",
            program,
        )
        # The loader of the C library of another machine is in the root of its Python.
        root = ["-L", self.work / name / "root"] if name == "linux-aarch64" else []
        if root:
            self._arm_python()
        model = ROOT / "tests/data/moe-Q4_0.gguf"
        theirs = output([*how[name], *root, program, model], **self._wine())
        if theirs != self._from_sources(model):
            raise Failure(
                f"The library of {name} says {theirs!r}, and one compiled here {self._from_sources(model)!r}."
            )
        return f"run ({Path(how[name][0]).name if how[name] else 'here'}): answer as here"

    def _from_sources(self, model: Path) -> str:
        """What the program says with the sources, compiled by this machine's compiler."""
        program = self.work / "use_c"
        if not program.exists():
            need("gcc")
            sources = [ROOT / "csrc" / name for name in (ROOT / "csrc/sources.txt").read_text().split()]
            flags = ["-O2", "-std=c11", "-ffp-contract=off", "-pthread", f"-I{ROOT / 'csrc'}"]
            output(["gcc", *flags, ROOT / "tests/c/use_c.c", *sources, "-lm", "-o", program])
        return output([program, model])

    def _need_zig(self) -> None:
        if not importlib.util.find_spec("ziglang"):
            raise Impossible("not run: needs the package ziglang")


def run(names: list[str], dist: Path, work: Path) -> bool:
    """Runs the targets and prints a line for each wheel and library. Returns whether all that were run are right."""
    runner, good = Runner(dist.resolve(), work.resolve()), True
    for name in names:
        for kind, method in (("wheel", runner.wheel), ("C library", runner.library)):
            try:
                said = method(name)
            except Impossible as reason:
                said = str(reason)
            except Failure as failure:
                said, good = f"FAILED: {failure}", False
            print(f"{name}, {kind}: {said}", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("-d", "--dist", type=Path, default=ROOT / "dist", help="where wheels.py has put them (dist)")
    parser.add_argument("--work", type=Path, help="folder for Pythons and packages, kept; without it a temporary one")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target {sorted(unknown)[0]}; there are: {', '.join(TARGETS)}.")
    with tempfile.TemporaryDirectory(prefix="edge-gemma-run-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        sys.exit(not run(options.targets or list(TARGETS), options.dist, work))


if __name__ == "__main__":
    main()
