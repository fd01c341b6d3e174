"""The architecture as rules: who may include or import whom, what kernels may not do, and what no file may contain."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

CSRC, PACKAGE = ROOT / "csrc", ROOT / "edge_gemma"
C_FILES = sorted(path for path in CSRC.rglob("*.*") if path.suffix in {".c", ".h", ".inc"} and path.parent != CSRC)
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
# From the bottom to the top; a directory may use its own files and those of lower ranks, not of its neighbours.
C_RANKS = {"base": 0, "format": 1, "kernels": 2, "nn": 3, "text": 3, "decoder": 4, "audio": 4, "api": 5}
PYTHON_RANKS = {
    "_version": 0,
    "errors": 1,
    "audio": 2,
    "hub": 2,
    "engine": 3,
    "files": 4,
    "chat": 5,
    "speech": 6,
    "assistant": 7,
    "demo": 8,
    "cli": 9,
    "_build": 9,
    "__init__": 10,
    "__main__": 10,
}
# A convenience that reaches upward: the import stands in the function, so the engine loads without it.
LATE = {"engine/model.py": {"edge_gemma.chat.conversation.Chat", "edge_gemma.chat.tools.Tool"}}
INTRINSICS = re.compile(r"(imm|intrin|arm_neon|arm_sve|arm_acle|wasm_simd128|cpuid)\w*\.h")
LONGEST = 800
TEXT = {".c", ".h", ".inc", ".cpp", ".py", ".sh", ".md", ".toml", ".in"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)


def includes(path: Path) -> tuple[list[Path], list[str]]:
    """Our own headers, resolved, and the system's."""
    text = path.read_text()
    ours = [(path.parent / header).resolve() for header in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, flags=re.M)]
    return ours, re.findall(r"^\s*#\s*include\s+<([^>]+)>", text, flags=re.M)


@pytest.mark.parametrize("path", C_FILES, ids=name)
def test_c_includes(path):
    layer = path.relative_to(CSRC).parts[0]
    ours, system = includes(path)
    for header in ours:
        assert header.is_file() and header.is_relative_to(CSRC), f"{header} is not a file of csrc/"
        if header == CSRC / "edge_gemma.h":
            continue
        below = header.relative_to(CSRC).parts[0]
        assert below == layer or C_RANKS[below] < C_RANKS[layer], f"{layer} must not include {header.relative_to(CSRC)}"
    if layer != "kernels":
        assert not [header for header in system if INTRINSICS.fullmatch(header)], "intrinsics belong in kernels/"


@pytest.mark.parametrize("path", [path for path in C_FILES if path.parent.name == "kernels"], ids=name)
def test_kernels_own_nothing(path):
    _, system = includes(path)
    assert not {"stdio.h", "pthread.h", "threads.h", "semaphore.h", "fcntl.h", "sys/mman.h"} & set(system)
    text = without_comments(path.read_text())
    assert not re.findall(r"\b(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|alloca|fopen|printf)\s*\(", text)


def test_sources_are_listed():
    listed = (CSRC / "sources.txt").read_text().split()
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.relative_to(CSRC).as_posix() for path in C_FILES if path.suffix == ".c"}


def imports(path: Path) -> set[str]:
    """Absolute names of everything that a module imports from this package: `edge_gemma.engine.model.Model` and such."""
    package = list(path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {found for found in names if found.split(".")[0] == "edge_gemma"}


def room_of(module: str) -> str:
    """The folder or module of the package that an absolute name begins with."""
    return [*module.split("."), "__init__"][1]


def rank_of(module: str) -> int:
    """The rank of what is imported: a name of the package itself, such as `edge_gemma.Model`, is at the top."""
    return PYTHON_RANKS.get(room_of(module), PYTHON_RANKS["__init__"])


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_python_imports(path):
    found = imports(path)
    if path != PACKAGE / "engine" / "native.py":
        assert not [module for module in found if "_engine" in module.split(".")], "engine/native.py alone imports it"
    folder = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if folder == "reference":
        outside = [module for module in found if not module.startswith("edge_gemma.reference.")]
        assert not outside, "the reference stands alone"
        return
    others = [module for module in found if room_of(module) not in (folder, "_engine")]
    if folder == "cli":  # verbs use the package as its users do
        others = [module for module in others if len(module.split(".")) > 2]
    late = LATE.get(path.relative_to(PACKAGE).as_posix(), set())
    upward = [module for module in others if rank_of(module) >= PYTHON_RANKS[folder] and module not in late]
    assert not upward, f"{folder} must not import {upward}"


def test_import_rule_sees_relative_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "edge_gemma" / "cli" / "verb.py"
    path.parent.mkdir(parents=True)
    path.write_text("from .. import errors\nfrom ..engine.model import Model\nfrom . import common\nimport numpy\n")
    assert imports(path) == {"edge_gemma.errors", "edge_gemma.engine.model.Model", "edge_gemma.cli.common"}


def project_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone")
    return [path for path in (ROOT / entry for entry in listing.decode().split("\0") if entry) if path.is_file()]


def test_files_are_short():
    code = [path for path in project_files() if path.suffix in {".c", ".h", ".inc", ".cpp", ".py"}]
    long = {name(path): count for path in code if (count := path.read_text().count("\n")) > LONGEST}
    assert not long


def test_nothing_is_left_open():
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|NotImplemented" r"Error)\b")
    places = re.compile(r"(?<![\w.])/(work|root|home|tmp|farm)" r"/\w")  # paths of one machine
    found = []
    for path in project_files():
        if path.suffix not in TEXT and path.name not in {"Makefile", "run"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if words.search(line) or places.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()}")
    assert not found


def test_every_function_of_the_header_is_described():
    header = (CSRC / "edge_gemma.h").read_text()
    chunks = [chunk for chunk in re.split(r"\n{2,}", header) if "\nEG_API" in f"\n{chunk}"]
    assert sum(chunk.count("EG_API ") for chunk in chunks) > 30
    assert not [chunk for chunk in chunks if not chunk.startswith("/*")]


def test_c_documentation_is_current():
    tool = runpy.run_path(str(ROOT / "tools" / "c_api_doc.py"))
    current = tool["page"]((CSRC / "edge_gemma.h").read_text())
    assert (ROOT / "docs" / "c-api.md").read_text(encoding="utf-8") == current, "run python tools/c_api_doc.py"
