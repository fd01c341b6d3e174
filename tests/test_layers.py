"""The architecture as rules: who may include, import or use whom, what kernels may not do, and what no file may contain."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from support.paths import ROOT

CSRC, PACKAGE = ROOT / "csrc", ROOT / "edge_gemma"
C_FILES = sorted(path for path in CSRC.rglob("*.*") if path.suffix in {".c", ".h", ".inc"} and path.parent != CSRC)
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").rglob("*.py"))
# From the bottom to the top; a directory may use its own files and those of lower ranks, not of its neighbours.
C_RANKS = {"base": 0, "format": 1, "kernels": 2, "nn": 3, "text": 3, "decoder": 4, "audio": 4, "vision": 4, "api": 5}
PYTHON_RANKS = {
    "_version": 0,
    "shell": 0,
    "errors": 1,
    "installation": 1,
    "audio": 2,
    "hub": 2,
    "engine": 3,
    "kernels": 4,
    "files": 5,
    "vision": 5,
    "chat": 6,
    "speech": 7,
    "assistant": 8,
    "server": 9,
    "demo": 9,
    "cli": 10,
    "_build": 10,
    "__init__": 11,
    "__main__": 11,
}
# A convenience that reaches upward: the import stands in the function, so the engine loads without it.
LATE = {
    "engine/model.py": {
        "edge_gemma.chat.conversation.Chat",
        "edge_gemma.chat.tools.Tool",
        "edge_gemma.vision.feeding.encode_picture",
    },
    "engine/session.py": {
        "edge_gemma.chat.structured.form_of",
        "edge_gemma.vision.feeding.feed_picture",
        "edge_gemma.vision.feeding.feed_video",
    },
}
# Names with an underscore that are public all the same: those of a NamedTuple.
PUBLIC_UNDERSCORES = {"_replace", "_asdict", "_fields", "_field_defaults", "_make"}
INTRINSICS = re.compile(r"(imm|intrin|arm_neon|arm_sve|arm_acle|wasm_simd128|cpuid)\w*\.h")
LONGEST = 800
TEXT = {".c", ".h", ".inc", ".cpp", ".py", ".sh", ".md", ".toml", ".in", ".kt", ".kts", ".java"}


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
        if header.parent == CSRC:
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


def module_of(path: Path) -> str:
    """The absolute name of a module of the package; of a folder's `__init__.py` that of the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_from(node: ast.ImportFrom, path: Path) -> str:
    """The absolute name of the module in `from MODULE import ...`."""
    package = list(path.relative_to(ROOT).parent.parts)
    base = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(path: Path) -> set[str]:
    """Absolute names of everything that a module imports from this package: `edge_gemma.engine.model.Model` and such."""
    return imports_in(ast.walk(ast.parse(path.read_text())), path)


def imports_in(nodes: Iterable[ast.AST], path: Path) -> set[str]:
    """The same for some of the module's nodes."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{imported_from(node, path)}.{alias.name}" for alias in node.names}
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


def is_private(name: str) -> bool:
    """Whether a name is for its own file alone."""
    return name.startswith("_") and not name.endswith("__") and name != "_" and name not in PUBLIC_UNDERSCORES


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a file defines: functions, classes, variables, attributes of `self` and `cls`, entries of `__slots__`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Assign) and any(ast.unparse(target) == "__slots__" for target in node.targets):
            names |= {item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)}
    return names


def foreign_modules(tree: ast.Module) -> set[str]:
    """Names that a file gives to modules of other projects, such as `os`."""
    names = (alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    return {(alias.asname or alias.name).split(".")[0] for alias in names if alias.name.split(".")[0] != "edge_gemma"}


def private_names_of_others(path: Path) -> list[str]:
    """Where a file uses a private name that another file of the package defines, with line numbers."""
    tree = ast.parse(path.read_text())
    own, foreign, found = defined_names(tree), foreign_modules(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and imported_from(node, path).split(".")[0] == "edge_gemma":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr not in own:
            names = [] if isinstance(node.value, ast.Name) and node.value.id in foreign else [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            names = [node.args[1].value] if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else []
            names = [name for name in names if name not in own]
        else:
            continue
        found += [f"{node.lineno}: {name}" for name in names if is_private(name)]
    return found


@pytest.mark.parametrize("path", [*PYTHON_FILES, *TOOLS], ids=name)
def test_no_private_names_of_others(path):
    found = private_names_of_others(path)
    assert not found, f"private to other files: {found}"


def test_private_name_rule_catches_each_kind(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "edge_gemma" / "cli" / "verb.py"
    path.parent.mkdir(parents=True)

    def found(text: str) -> list[str]:
        path.write_text(text)
        return private_names_of_others(path)

    assert found("from ..engine.model import Model, _open\n") == ["1: _open"]
    assert found("from edge_gemma.engine.model import _open as opened\n") == ["1: _open"]
    assert found("def length(session):\n    return session._position\n") == ["2: _position"]
    assert found("class Loud(Source):\n    def read(self):\n        return self._next()\n") == ["3: _next"]
    assert found("def close(session):\n    session._closed = True\n") == ["2: _closed"]
    assert found("def length(session):\n    return getattr(session, '_position')\n") == ["2: _position"]
    assert not found("class Own:\n    def __init__(self, x):\n        self._x = x\n\ndef x(own):\n    return own._x\n")
    assert not found("class Own:\n    __slots__ = ('_x',)\n\ndef x(own):\n    return own._x\n")
    assert not found("class Own:\n    _x = 1\n    def _y(self): ...\n\ndef x(own):\n    return own._x, own._y()\n")
    assert not found("import os, sys\nfrom numpy import _core\nos._exit(sys._getframe().f_lineno)\n")
    assert not found("def changed(pair):\n    return pair._replace(a=1).__class__\n")


def module_level(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes that run, or count for type checkers, when a module is imported: all but what stands in functions."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from module_level(ast.iter_child_nodes(node))


def import_graph(paths: Iterable[Path]) -> dict[str, set[str]]:
    """For each module the modules that it imports as it is loaded or type-checked."""
    paths = {module_of(path): path for path in paths}
    graph = {}
    for module, path in paths.items():
        found = imports_in(module_level(ast.parse(path.read_text()).body), path)
        targets = {target if target in paths else target.rpartition(".")[0] for target in found}
        graph[module] = targets & set(paths)
    return graph


def import_cycles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of modules that import each other, directly or through others of the group; sorted by name."""
    reached: dict[str, set[str]] = {}
    for module in graph:
        seen: set[str] = set()
        waiting = list(graph[module])
        while waiting:
            if (target := waiting.pop()) not in seen:
                seen.add(target)
                waiting += graph[target]
        reached[module] = seen
    groups = {tuple(sorted(m for m in reached[a] if a in reached[m])) for a in graph if a in reached[a]}
    return sorted(groups)


def test_no_import_cycles():
    found = import_cycles(import_graph(PYTHON_FILES))
    assert not found, "these modules import each other: " + "; ".join(map(", ".join, found))


def test_import_cycles_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    texts = {
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\n",
        "b.py": "from . import c\n",
        "c.py": "class C:\n    from .a import A\n",
        "d.py": "from .a import A\ndef late():\n    from .e import E\n",
        "e.py": "import edge_gemma.d\n",
    }
    folder = tmp_path / "edge_gemma"
    folder.mkdir()
    for file, text in texts.items():
        (folder / file).write_text(text)
    graph = import_graph(sorted(folder.glob("*.py")))
    assert graph["edge_gemma.b"] == {"edge_gemma.c"}
    assert import_cycles(graph) == [("edge_gemma.a", "edge_gemma.b", "edge_gemma.c")]


def project_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone")
    return [path for path in (ROOT / entry for entry in listing.decode().split("\0") if entry) if path.is_file()]


def test_files_are_short():
    code = [path for path in project_files() if path.suffix in {".c", ".h", ".inc", ".cpp", ".py", ".kt", ".java"}]
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


@pytest.mark.parametrize(("file", "functions"), [("edge_gemma.h", 50), ("edge_gemma_chat.h", 6)])
def test_every_function_of_the_header_is_described(file, functions):
    header = (CSRC / file).read_text()
    chunks = [chunk for chunk in re.split(r"\n{2,}", header) if "\nEG_API" in f"\n{chunk}"]
    assert len(chunks) > functions
    assert not [chunk for chunk in chunks if not chunk.startswith("/*")]
    assert not [chunk for chunk in chunks if chunk.count("EG_API ") != 1], "a comment describes one function"


@pytest.mark.parametrize("path", [path for path in C_FILES if path.parent.name in {"api", "text"}], ids=name)
def test_errors_are_sentences(path):
    """They begin with a small letter or a name, so that a program can put its own words before, and end with a full stop."""
    literals = r'((?:[^";]*?)?(?:"(?:[^"\\]|\\.)*"\s*(?:EG_VERSION\s*)?)+)'
    found = re.findall(rf"eg_fail\(\s*err,\s*(?:status|EG_\w+),\s*{literals}", path.read_text())
    texts = ["".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal)) for literal in found]
    assert len(texts) == path.read_text().count("eg_fail(")
    assert not [text for text in texts if not text.endswith(".") or re.match(r"[A-Z][a-z]", text)]


def test_c_documentation_is_current():
    tool = runpy.run_path(str(ROOT / "tools" / "c_api_doc.py"))
    current = tool["page"]((CSRC / "edge_gemma.h").read_text())
    assert (ROOT / "docs" / "c-api.md").read_text(encoding="utf-8") == current, "run python tools/c_api_doc.py"
