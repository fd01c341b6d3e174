"""Manners of the command line: its errors, notices, help and signals, and what they have in common for all verbs."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gemma.cli import VERBS, verb_parsers
from edge_gemma.cli.common import error_text, in_options
from edge_gemma.cli.parsing import Formatter, Parser, suggestion
from edge_gemma.cli.wrapping import WordWrap, width_of
from edge_gemma.errors import EdgeGemmaError
from support.paths import DATA, ROOT
from support.terminals import Terminal, edge_gemma, environment

MODEL = str(DATA / "dense-Q4_0.gguf")
COMMAND = "Turn on the kitchen lights."
TOY = "No model was named"


# ---- the toy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("run", COMMAND), ("run", "--json", COMMAND), ("info", "--json"), ("chat",)])
def test_the_toy_announces_itself_unless_it_was_named(verb: tuple[str, ...]) -> None:
    done = edge_gemma(*verb)
    assert done.returncode == 0 and done.stderr.count(TOY) == 1 and done.stderr.count("\n") == 1
    assert "pull e2b" in done.stderr and TOY not in done.stdout
    assert edge_gemma(*verb, "--model", "toy").stderr == ""
    assert edge_gemma(*verb, EDGE_GEMMA_MODEL="toy").stderr == ""
    assert edge_gemma(*verb, "-m", MODEL, text="/quit").stderr == ""


@pytest.mark.slow
def test_the_toy_announces_itself_once_in_a_benchmark() -> None:
    done = edge_gemma("bench", "--json", "--repeats", "2", "-p", "8", "-n", "4")
    assert done.returncode == 0 and done.stderr.count(TOY) == 1 and json.loads(done.stdout)["repeats"] == 2


def test_the_toy_carries_out_commands_in_run_and_chat() -> None:
    answer = json.loads(edge_gemma("run", "--json", COMMAND).stdout)["text"]
    assert answer == "The kitchen lights are on."
    talk = edge_gemma("chat", text=f"{COMMAND}\nPlay jazz in the office.\n{COMMAND}\n/tools off\n/tools\n").stdout
    assert talk.count("[switch(") == 2 and talk.count(answer) == 2 and "[play_music(" in talk  # each stands alone
    assert "(no tools" in talk
    assert "[switch(" not in edge_gemma("chat", "--system", "Be brief.", text=COMMAND).stdout


# ---- arguments --------------------------------------------------------------------------------------------------


def test_a_prompt_may_be_several_words_and_options_may_stand_between() -> None:
    command = ("run", "-m", MODEL, "-n", "6", "--seed", "3", "--temperature", "5")
    expected = edge_gemma(*command, "Why is the sky blue").stdout
    assert expected.strip()
    assert edge_gemma(*command, "Why", "is", "the", "sky", "blue").stdout == expected
    assert edge_gemma("run", "Why", "is", *command[1:], "the", "sky", "blue").stdout == expected
    assert edge_gemma(*command, "--", "Why", "is", "the", "sky", "blue").stdout == expected
    assert edge_gemma(*command, "--", "--why").stdout == edge_gemma(*command, "-", text="--why").stdout
    assert (
        edge_gemma("run", "one", *command[1:], "--", "--two").stdout == edge_gemma(*command, "one --two").stdout != ""
    )
    assert edge_gemma(*command, "-5", "+", "3").stdout == edge_gemma(*command, "-", text="-5 + 3").stdout
    assert edge_gemma(*command[:5], "--temperature", "5", "--seed", "-3", "x").returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu", "hello"], ["edge-gemma: ", "no verb rnu", "run"]),
        (["ls"], ["edge-gemma: ", "no verb ls", "list"]),
        (["-m", "e2b", "run", "hello"], ["edge-gemma: ", "verb comes before", "edge-gemma run -m"]),
        (["run", "hi", "--temprature", "1"], ["edge-gemma run: ", "--temprature", "did you mean --temperature?"]),
        (["run", "hi", "--kv", "f61"], ["edge-gemma run: ", "--kv", "'f61'", "f16, f32, q8", "did you mean f16?"]),
        (["run", "hi", "--top-p", "1.5"], ["edge-gemma run: ", "--top-p", "1.5 is not between 0 and 1."]),
        (["run", "hi", "--context"], ["edge-gemma run: ", "--context needs a value."]),
        (["run", "hi", "--stop", "-end"], ["edge-gemma run: ", "--stop=-end"]),
        (["run", "hi", "--json=1"], ["edge-gemma run: ", "--json takes no value"]),
        (["run", "hi", "--t", "1"], ["edge-gemma run: ", "--t could be", "--temperature", "--top-k"]),
        (["convert", "folder"], ["edge-gemma convert: ", "OUT is missing"]),
        (["convert", "a", "b", "c"], ["edge-gemma convert: ", "'c' is one argument too many"]),
        (["bench", "--depth", "5"], ["edge-gemma bench: ", "--depth needs --sweep."]),
        (["completion", "bsh"], ["edge-gemma completion: ", "did you mean bash"]),
    ],
)
def test_usage_errors_are_one_line_of_the_verb(words: list[str], expected: list[str]) -> None:
    done = edge_gemma(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(expected[0] + "error: ")
    assert not [part for part in expected if part not in done.stderr], done.stderr


def test_suggestions() -> None:
    assert suggestion("chatt", VERBS) == "; did you mean chat?"
    assert suggestion("Q9_0", ["Q8_0", "Q4_K_M"]) == "; did you mean Q8_0?"
    assert suggestion("xyzzy", VERBS) == "."


def test_help_comes_by_all_its_names() -> None:
    assert edge_gemma("help").stdout == edge_gemma("--help").stdout != ""
    assert edge_gemma("help", "pull").stdout == edge_gemma("pull", "-h").stdout != ""
    assert edge_gemma("version").stdout == edge_gemma("--version").stdout
    nothing = edge_gemma()
    assert nothing.returncode == 2 and "transcribe" in nothing.stderr and nothing.stdout == ""


def test_a_tilde_is_expanded_in_options_and_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(MODEL)
    (tmp_path / "prompt.txt").write_text("Hello")
    home = {"HOME": str(tmp_path)}
    assert edge_gemma("run", "--model=~/model.gguf", "-n", "2", "--file=~/prompt.txt", **home).returncode == 0
    assert edge_gemma("run", "-n", "2", "Hello", EDGE_GEMMA_MODEL="~/model.gguf", **home).stderr == ""
    for option in ("--model=~/x.gguf", "--mmproj=~/x.gguf", "--audio=~/x.wav", "--file=~/x.txt"):
        done = edge_gemma("run", option, "Hello", **home)
        assert done.returncode == 1 and f"{tmp_path}/x." in done.stderr and "~" not in done.stderr, done.stderr
    _, verbs = verb_parsers()
    for verb, parser in verbs.items():  # whatever names a file
        for action in parser.options():
            if action.metavar == "FILE" and action.type is None:
                pytest.fail(f"{verb} {action.option_strings[0]} does not expand ~")


def test_a_text_to_translate_may_be_several_words() -> None:
    command = ("translate", "--model", "toy", "--to", "de")
    expected = edge_gemma(*command, COMMAND).stdout
    assert expected.strip() and edge_gemma(*command, *COMMAND.split()).stdout == expected
    assert "not" in edge_gemma(*command, "no.wav", "such.wav").stderr


@pytest.mark.skipif(os.name != "posix", reason="closes streams in a shell")
def test_closed_streams_are_no_bug() -> None:
    program = f"{sys.executable} -m edge_gemma run -m {MODEL} -n 2 Hello"
    for closed, status in ((">&-", 0), ("<&-", 0), ("2>&-", 0)):
        done = subprocess.run(["sh", "-c", f"{program} {closed}"], env=environment(), capture_output=True, check=False)
        assert done.returncode == status and b"Traceback" not in done.stderr, (closed, done.stderr)


# ---- errors in the words of the command -------------------------------------------------------------------------


def test_a_full_context_names_the_option() -> None:
    done = edge_gemma("run", "-m", MODEL, "--context", "64", "word " * 400)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    needed = re.search(r"--context (\d+)K", done.stderr)
    assert needed and "64 tokens" in done.stderr and "session" not in done.stderr and "rewind" not in done.stderr
    again = edge_gemma("run", "-m", MODEL, "--context", f"{needed[1]}K", "-n", "2", "word " * 400)
    assert again.returncode == 0 or "context" not in again.stderr, again.stderr
    chat = edge_gemma("chat", "-m", MODEL, "--context", "64", text="word " * 400)
    assert chat.returncode == 1 and "--context" in chat.stderr and "/reset" in chat.stderr


def test_names_of_the_library_become_options() -> None:
    text = "Shorten it (in Python: shorter=True) with max_seconds or memory_limit."
    assert in_options(text, "argument") == "Shorten it with --max-seconds or --memory-limit."
    assert error_text(EdgeGemmaError("9 of 10.", "context")) == "9 of 10."
    assert error_text(OSError(28, "No space left on device")) == "No space left on device"


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 seconds of noise."""
    path = tmp_path_factory.mktemp("long") / "my noise.wav"
    samples = np.random.default_rng(5).normal(0, 300, 40 * 16000).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return str(path)


@pytest.mark.slow
def test_a_long_recording_is_for_transcribe(long_recording: str) -> None:
    done = edge_gemma("run", "--model", "toy", "--audio", long_recording, "-n", "2")
    assert done.returncode == 0 and "lasts 0:40" in done.stderr and "30 seconds" in done.stderr
    assert f"transcribe '{long_recording}'" in done.stderr
    done = edge_gemma("run", "--model", "toy", "--audio", long_recording, "--context", "800")
    assert done.returncode == 1 and "--context" in done.stderr.splitlines()[-1]
    assert "transcribe" in done.stderr.splitlines()[-1]
    done = edge_gemma("chat", "--model", "toy", text=f"/audio {long_recording}")
    assert "lasts 0:40" in done.stderr


# ---- encodings --------------------------------------------------------------------------------------------------


def test_characters_that_the_encoding_lacks_are_escaped_and_announced(tmp_path: Path) -> None:
    file = tmp_path / "Qué? 日本 🙂.gguf"
    file.write_bytes(Path(MODEL).read_bytes())
    done = edge_gemma("info", "--json", str(file), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and json.loads(done.stdout)["file"] == str(file)
    assert "\\u00e9" in done.stdout and "\\ud83d\\ude42" in done.stdout
    assert done.stderr.count("\n") == 1 and "ascii" in done.stderr and "UTF-8" in done.stderr
    assert edge_gemma("info", "--json", str(file)).stderr == ""
    missing = edge_gemma("info", str(tmp_path / "é.gguf"), PYTHONIOENCODING="ascii")
    assert missing.returncode == 1 and "\\xe9.gguf" in missing.stderr


def test_text_in_another_locale_is_utf8() -> None:
    """Arguments and standard input, where Python decodes neither."""
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = ("run", "-m", MODEL, "-n", "3", "--seed", "1", "--json")
    expected = json.loads(edge_gemma(*command, "Qué? 日本").stdout)
    for words, text in (["Qué?", "日本"], ""), ([], "Qué? 日本"):
        found = json.loads(edge_gemma(*command, *words, text=text, **ascii_only).stdout)
        assert (found["text"], found["tokens"]) == (expected["text"], expected["tokens"])
    talk = {"text": "Enciende la luz del baño. ¿Sí?"}
    assert "[switch" in edge_gemma("chat", "--model", "toy", **talk).stdout
    assert edge_gemma("chat", "--model", "toy", **talk, **ascii_only).stdout.isascii()


# ---- signals ----------------------------------------------------------------------------------------------------

INTERRUPTED_IMPORT = """
import builtins, sys
real = builtins.__import__
def interrupted(name, *args, **options):
    if name == {name!r}:
        raise KeyboardInterrupt
    return real(name, *args, **options)
builtins.__import__ = interrupted
from edge_gemma.cli import main
sys.exit(main(["run", "Hello"]))
"""


@pytest.mark.parametrize("module", ["numpy", "_engine", "audio.source"])
def test_ctrl_c_while_the_program_is_loading(module: str) -> None:
    script = INTERRUPTED_IMPORT.format(name=module)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 130 and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_sigterm_ends_a_run_in_order() -> None:
    command = [
        sys.executable,
        "-m",
        "edge_gemma",
        "run",
        "-m",
        MODEL,
        "--raw",
        "--temperature",
        "0",
        "-n",
        "3000",
        "Hello",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout
    process.stdout.read(1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, b"") and out.endswith(b"\n")


# ---- help, completion and pages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_80_columns(verb: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    root, verbs = verb_parsers()
    text = (verbs[verb] if verb else root).format_help()
    assert not [line for line in text.splitlines() if len(line) > 80]
    words = set((verbs[verb] if verb else root).epilog.split())
    assert words <= set(text.split())  # no word is broken


def test_lists_and_examples_are_broken_in_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    parser = Parser(prog="edge-gemma", formatter_class=Formatter)
    parser.epilog = """examples:
  edge-gemma run "two words" --temperature 0.5 "three more words" --json

commands:
  /one    the first of the commands, which takes more than a line

A paragraph
of two lines."""
    assert (
        parser.format_help().partition("examples:\n")[2]
        == """\
  edge-gemma run "two words" --temperature 0.5 \\
      "three more words" --json

commands:
  /one    the first of the commands, which takes
          more than a line

A paragraph of two lines.
"""
    )


def test_pages_of_the_command_are_current() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "cli_doc.py"))
    hint = "run `make docs`"
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == tool["page"](), hint
    assert (ROOT / "docs" / "edge-gemma.1").read_text(encoding="utf-8") == tool["man"](), hint


def test_the_man_page_is_well_formed() -> None:
    if not shutil.which("groff"):
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", str(ROOT / "docs" / "edge-gemma.1")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "" and "TRANSCRIBE" in re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason="needs pip install 'edge-gemma[cli]'")
    script = tmp_path / "script"
    script.write_text(edge_gemma("completion", shell).stdout)
    assert all(verb in script.read_text() for verb in VERBS) and "temperature" in script.read_text()
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0


def test_bash_completes_verbs_options_values_and_files(tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason="needs pip install 'edge-gemma[cli]'")
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    (tmp_path / "script").write_text(edge_gemma("completion", "bash").stdout)
    (tmp_path / "model.gguf").touch()

    def offered(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        program = f"""source ./script; function=$(complete -p edge-gemma | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; $function edge-gemma '{words[-1]}'
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        return subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()

    assert offered("edge-gemma", "trans") == ["transcribe", "translate"]
    assert offered("edge-gemma", "run", "--temp") == ["--temperature"]
    assert offered("edge-gemma", "run", "--kv", "") == ["f16", "f32", "q8"]
    assert "model.gguf" in offered("edge-gemma", "run", "--model", "mod")


# ---- results ----------------------------------------------------------------------------------------------------


def test_several_files_of_info_are_json_lines() -> None:
    files = [MODEL, str(DATA / "audio-e2b.gguf")]
    lines = edge_gemma("info", "--json", *files).stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == files
    assert [json.loads(edge_gemma("info", "--json", file).stdout) for file in files] == list(map(json.loads, lines))
    assert "one file" in edge_gemma("info", "--template", *files).stderr


def test_encoders_in_a_model_file_are_not_read_for_every_token() -> None:
    from edge_gemma import GGUFFile
    from edge_gemma.cli.info import tensor_rows
    from edge_gemma.cli.inspection import decode_bytes, main_type

    with GGUFFile(DATA / "e2b-Q4_0.gguf") as model, GGUFFile(DATA / "audio-e2b.gguf") as encoders:
        own, foreign = tensor_rows(model), tensor_rows(encoders)
        assert sum(row.bytes for row in foreign) > 0
        assert decode_bytes(model.metadata, own + foreign) == decode_bytes(model.metadata, own) > 0
        assert main_type(own + foreign * 50) == main_type(own) and main_type(foreign)


# ---- lines of a terminal ----------------------------------------------------------------------------------------


def wrapped(text: str, columns: int, step: int = 3) -> str:
    wrap = WordWrap(lambda: columns)
    return "".join(wrap.feed(text[i : i + step]) for i in range(0, len(text), step)) + wrap.flush()


@given(st.text(alphabet="ab-. \n日é"), st.integers(5, 20), st.integers(1, 5))
def test_wrapped_text_loses_nothing_and_fits(text: str, columns: int, step: int) -> None:
    found = wrapped(text, columns, step)
    assert found.replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")
    for line in found.split("\n"):
        too_long = any(width_of(word) > columns for word in re.findall(r"[^ 日]+", line))  # broken by the terminal
        assert too_long or width_of(line.rstrip()) <= columns or line.startswith(" ")
    assert found == wrapped(text, columns, 1)


def test_words_are_not_broken() -> None:
    assert wrapped("one two three", 8) == "one two\nthree"
    assert wrapped("  - one two", 8) == "  - one\ntwo"
    assert wrapped("anextraordinarilylongword xy abcdef", 8) == "anextraordinarilylongword xy\nabcdef"
    assert wrapped("日本語日本語", 8) == "日本語日\n本語"
    code = "```\nx = some + long + line + of + code\n```\n"
    assert wrapped(code + "one two three", 8) == code + "one two\nthree"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")
    opened: list[Terminal] = []

    def start(*args: str, **options: str) -> Terminal:
        opened.append(Terminal(*args, XDG_STATE_HOME=str(tmp_path / "state"), **options))
        return opened[-1]

    yield start
    for process in opened:
        process.close()


def test_notices_and_answers_are_broken_between_words(terminal: Any) -> None:
    process = terminal("run", "--no-show-thinking", COMMAND)
    process.expect("lights are on")
    assert process.wait() == 0
    lines = process.screen.replace("\x1b[2m", "").replace("\x1b[0m", "").splitlines()
    assert len(lines) > 4 and all(len(line) <= 80 for line in lines)
    assert TOY in " ".join(lines) and "Turn on the kitchen lights." in " ".join(lines)
    process = terminal("run", "--temprature", "0.12345678", "a prompt")
    assert process.wait() == 2 and all(len(line) <= 80 for line in process.screen.splitlines())


def test_no_option_of_a_file_is_forgotten_by_completion() -> None:
    from edge_gemma.cli.completion import FILES

    _, verbs = verb_parsers()
    names = {
        str(a.metavar) for p in verbs.values() for a in [*p.options(), *p.positionals()] if "FILE" in str(a.metavar)
    }
    assert {name for name in names if name in FILES or "|" in name} == names
    assert all(isinstance(parser, argparse.ArgumentParser) for parser in verbs.values())
