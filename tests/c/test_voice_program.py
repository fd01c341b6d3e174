"""A C program of under 100 lines has the voice turn: sound, partial words, a tool, its result, what to say, and cancelling.

Its tokens are those of the package, with gcc's sanitizers and under valgrind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.audio.source import open_audio
from edge_gemma.chat.template import BUILTIN_TEMPLATE
from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import INSTRUCTIONS, Home
from edge_gemma.engine.native import lib
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ
from support.c_build import build, sanitized
from support.paths import ROOT

PROGRAM = ROOT / "tests" / "c" / "use_voice.c"
UTTERANCE = ROOT / "edge_gemma" / "demo" / "data" / "utterances" / "1-en.wav"
pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the program is run with: the embedded model, the tools of its home, and an utterance between faint noise."""
    folder = tmp_path_factory.mktemp("voice")
    (folder / "tools.json").write_text(json.dumps(Toolbox(Home().tools).schemas))
    noise = np.random.default_rng(1).normal(0, 1e-3, 27200).astype(np.float32)
    sound = np.concatenate([noise[:8000], *open_audio(UTTERANCE), noise[8000:]])
    sound.astype(np.float32).tofile(folder / "samples")
    return [str(EMBEDDED), str(EMBEDDED_MMPROJ), str(folder / "tools.json"), INSTRUCTIONS, str(folder / "samples")]


def check(lines: list[str]) -> None:
    """Both turns were as they should be, and the tokens of the first are those of the package."""
    words = [line.partition(" ")[2] for line in lines if line.startswith("words ")]
    assert len(words) == 2 and words[0] == words[1] != ""
    kinds = [line.partition(" ")[0] for line in lines]
    end = kinds.index("tokens")
    assert kinds[0] == "speech" and kinds[1] == "partial" and "pause" in kinds[:end]
    calls = [json.loads(line.split(" ", 2)[2]) for line in lines[:end] if line.startswith("call ")]
    with eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ, threads=2) as model:
        chat = model.chat(
            INSTRUCTIONS,
            Toolbox(Home().tools).schemas,
            context=2048,
            template=BUILTIN_TEMPLATE,
            sampling=eg.Sampling(temperature=0),
            constrain=False,
        )
        (call,) = [event.call for event in chat.send(words[0]) if event.kind == "tool_call"]
        assert call and calls == [call.arguments]
        chat.history.append({"role": "tool", "name": call.name, "content": "done"})
        reply = list(chat.send())[-1].reply
        assert reply and f"done {lib.EG_CHAT_STOP_TURN} {reply.content}" in lines[:end]
        assert lines[end] == "tokens " + " ".join(map(str, chat.session.tokens))
        chat.close()
    assert lines[-1].startswith(f"done {lib.EG_CHAT_STOP_CANCELLED} ")


def run(*command: str | Path, **environment: str) -> list[str]:
    wrapped = [shutil.which("setarch") or "env", *(["-R"] if shutil.which("setarch") else []), *map(str, command)]
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=580, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_it_is_short() -> None:
    assert PROGRAM.read_text().count("\n") < 100


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_tokens_are_those_of_the_package(kind: str, arguments: list[str], tmp_path: Path) -> None:
    check(run(sanitized("use_voice.c", tmp_path, kind), *arguments))


@pytest.mark.slow
def test_valgrind_finds_nothing(arguments: list[str], tmp_path: Path) -> None:
    if not (valgrind := shutil.which("valgrind")):
        pytest.skip("needs valgrind")
    program = build("gcc", "use_voice.c", tmp_path)
    command = [valgrind, "-q", "--error-exitcode=9", "--leak-check=full", program, *arguments]
    # valgrind does not know AVX-512
    check(run(*command, **({"EDGE_GEMMA_ISA": "avx2"} if os.uname().machine == "x86_64" else {})))
