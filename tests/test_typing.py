"""The types of the package as type checkers of its users see them."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_gemma as eg
from support.paths import ROOT

MODULES = {
    "eg": eg,
    "eg.kernels": eg.kernels,
    "edge_gemma.hub": importlib.import_module("edge_gemma.hub"),
    "edge_gemma.files.convert": importlib.import_module("edge_gemma.files.convert"),
    "edge_gemma.files.quantize": importlib.import_module("edge_gemma.files.quantize"),
    "edge_gemma.files.prepare": importlib.import_module("edge_gemma.files.prepare"),
    "edge_gemma.files.mobile": importlib.import_module("edge_gemma.files.mobile"),
}
NAMES = [f"{module}.{name}" for module, owner in MODULES.items() for name in owner.__all__]

#: What users write, and the type that it must have.
USES = {
    'eg.Model.load("m.gguf")': "Model",
    'model.session(memory_limit="1GB")': "Session",
    "model.tokenizer": "Tokenizer",
    'model.tokenizer.encode("x", special=True)': "list[int]",
    "model.config.context_length": "int",
    "model.chat(sampling=eg.Sampling(temperature=0))": "Chat",
    'next(iter(model.chat().send("x")))': "ChatEvent",
    "session.next(eg.Sampling(top_k=1))": "Token",
    "session.next().stop": "str",
    "session.generate(max_tokens=3, temperature=0.5)": "Generation",
    "session.generate().text": "str",
    "next(session.generate())": "str",
    "session.fork()": "Session",
    "session.tokens": "list[int]",
    'eg.parse_reply("x")': "Reply",
    "eg.isa": "str",
    'eg.transcribe("x.wav", "e2b")': "Transcript",
    'next(eg.transcribe_segments("x.wav"))': "Segment",
    'next(eg.transcribe_many("x/"))': "Transcribed",
    "next(eg.listen())": "ListenerEvent",
    'eg.open_audio("x.wav")': "Source",
    'eg.transcribe("x.wav").render("srt")': "str",
    'eg.describe("photo.jpg", "e2b")': "str",
    'eg.locate("photo.jpg", "cat")': "list[Box]",
    "eg.Describer(model).describe(b'').text": "str",
    "eg.kernels.targets": "dict[str, Target | None]",
    'edge_gemma.hub.pull("e2b")': "Pulled",
    'edge_gemma.files.prepare.prepare("m.gguf").saved': "int",
    'edge_gemma.files.mobile.pull_mobile("e2b").model': "Path",
    'eg.Model.load("m.gguf", sidecar=False).sidecar': "Path | None",
}
CONSUMER = """\
import edge_gemma
import edge_gemma as eg
import edge_gemma.files.convert
import edge_gemma.files.mobile
import edge_gemma.files.prepare
import edge_gemma.files.quantize
import edge_gemma.hub

model = eg.Model.load("m.gguf")
session = model.session()
"""


def test_everything_public_is_listed() -> None:
    assert set(eg.__all__) <= set(dir(eg))
    for module, owner in MODULES.items():
        assert len(owner.__all__) == len(set(owner.__all__)), module
        assert all(hasattr(owner, name) for name in owner.__all__), module


@pytest.mark.parametrize("module", [owner.__name__ for owner in MODULES.values()])
@pytest.mark.parametrize("statement", ["import {}", "from {} import *", "import edge_gemma; {}"])
def test_every_way_to_import(module: str, statement: str) -> None:
    if module.startswith("edge_gemma.files.") and ";" in statement:
        pytest.skip("a module below another is imported by its name, as everywhere in Python")
    done = subprocess.run([sys.executable, "-c", statement.format(module)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reveals the type of each public name and of each use."""
    path = tmp_path_factory.mktemp("typing") / "consumer.py"
    path.write_text(CONSUMER + "".join(f"reveal_type({expression})\n" for expression in [*NAMES, *USES]))
    return path


def check(revealed: list[str]) -> None:
    """Compares the revealed types, in the order of NAMES and USES."""
    plain = [re.sub(r"\b(?:[a-z_]+\.)+(?=\w)|Optional", "", text.replace("builtins.", "")) for text in revealed]
    assert len(plain) == len(NAMES) + len(USES)
    names, uses = dict(zip(NAMES, plain, strict=False)), dict(zip(USES, plain[len(NAMES) :], strict=True))
    assert not [name for name, found in names.items() if found in ("Any", "Unknown", "") or "Unknown" in found]
    assert not [name for name, found in names.items() if found.endswith("-> Any")]
    assert uses == USES


def run_mypy(program: Path, *options: str) -> str:
    """What mypy says about a program, which must have no errors. Those inside of the package do not count."""
    pytest.importorskip("mypy", reason="needs mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *options]
    done = subprocess.run(
        [*command, f"--cache-dir={ROOT / '.mypy_cache'}", program],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mypy_sees_every_public_name(consumer: Path) -> None:
    check(re.findall(r'Revealed type is "(.*)"', run_mypy(consumer)))


def test_mypy_sees_an_editable_installation(tmp_path: Path) -> None:
    """From any folder, without a path: type checkers do not follow the import hooks that setuptools makes by default."""
    direct = importlib.metadata.distribution("edge-gemma").read_text("direct_url.json")
    if not json.loads(direct or "{}").get("dir_info", {}).get("editable"):
        pytest.skip("this installation is not editable")
    pytest.importorskip("mypy", reason="needs mypy")
    (tmp_path / "program.py").write_text("import edge_gemma\nreveal_type(edge_gemma.isa)\n")
    env = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={ROOT / '.mypy_cache'}", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert 'Revealed type is "str"' in done.stdout.replace("builtins.", ""), done.stdout


def test_pyright_sees_every_public_name(consumer: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("pyright", path=path) or shutil.which("basedpyright", path=path)
    if program is None:
        pytest.skip("needs pyright or basedpyright")
    (consumer.parent / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"})
    )
    done = subprocess.run(
        [program, "--outputjson", f"--pythonpath={sys.executable}"], cwd=consumer.parent, capture_output=True, text=True
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert not [entry["message"] for entry in found if entry["severity"] == "error"]
    shown = sorted(
        (entry["range"]["start"]["line"], entry["message"]) for entry in found if entry["severity"] == "information"
    )
    check([re.sub(r'Type of ".*" is "(.*)"', r"\1", message, flags=re.S) for _, message in shown])


PROTOCOLS = """\
import edge_gemma as eg
from edge_gemma.engine.audio import AudioFeed
from edge_gemma.engine.interface import AudioFeedLike, ConfigLike, ModelLike, SessionLike, TokenizerLike
from support.scripted import ScriptedConfig, ScriptedFeed, ScriptedModel, ScriptedSession, ScriptedTokenizer

def real(m: eg.Model, s: eg.Session, t: eg.Tokenizer, a: AudioFeed, c: eg.ModelConfig) -> None:
    protocols(m, s, t, a, c)

def scripted(m: ScriptedModel, s: ScriptedSession, t: ScriptedTokenizer, a: ScriptedFeed, c: ScriptedConfig) -> None:
    protocols(m, s, t, a, c)

def protocols(m: ModelLike, s: SessionLike, t: TokenizerLike, a: AudioFeedLike, c: ConfigLike) -> None: ...
"""


def test_protocols_are_implemented(tmp_path: Path) -> None:
    """By the classes of the engine and by the scripted ones of the tests, as far as types tell."""
    program = tmp_path / "protocols.py"
    program.write_text(PROTOCOLS)
    run_mypy(program)


@pytest.mark.parametrize("name", ["scripted.py", "dialogue.py"])
def test_the_scripted_model_is_typed(name: str) -> None:
    run_mypy(ROOT / "tests" / "support" / name, "--explicit-package-bases")
