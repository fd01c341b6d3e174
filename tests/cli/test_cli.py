"""The command line as its users see it: processes, pipes, terminals and signals, on a tiny model of random weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edge_gemma
from support.gguf_writer import TENSOR_F32, Writer, tiny_vocabulary
from support.paths import DATA
from support.terminals import Terminal, environment
from support.terminals import edge_gemma as cli

MODEL = str(DATA / "dense-Q4_0.gguf")
GREEDY = ("--temperature", "0")
# Greedy, this model repeats a line break after the opening of its turn; heat makes it say something, always the same.
SEEDED = ("--seed", "3", "--temperature", "5", "--top-k", "40")
# A text that it continues with "ooo" until it is stopped, and options that make turns long.
ENDLESS = ("--raw", "--temperature", "0", "--max-tokens", "3000", "Hello")
LONG = ("--seed", "0", "--temperature", "20", "--top-k", "2", "--max-tokens", "3000")


def good(*args: str, text: str = "", **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = cli(*args, text=text, **env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def bad(status: int, *args: str, text: str = "", **env: str) -> str:
    """The error message of a command that must fail in order."""
    done = cli(*args, text=text, **env)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "edge-gemma" in done.stderr and "error: " in done.stderr
    return done.stderr


# ---- help and errors --------------------------------------------------------------------------------------------


def test_help_names_the_verbs_and_loads_nothing_more() -> None:
    script = (
        "import sys, edge_gemma; before = set(sys.modules); from edge_gemma.cli import main; status = main(['--help']);"
        "heavy = {'numpy', 'edge_gemma.engine.native', 'rich', 'jinja2', 'readline'} & (set(sys.modules) - before);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"run", "chat", "info", "bench"} <= set(re.findall(r"^ {4}(\w+) ", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("verb", ["run", "chat", "info", "bench"])
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    text = good(verb, "--help")
    assert f"usage: edge-gemma {verb}" in text
    assert f"examples:\n  edge-gemma {verb}" in text


@pytest.mark.slow
def test_usage_errors() -> None:
    assert "there is no verb sing" in bad(2, "sing")
    assert "1.5 is not between 0 and 1" in bad(2, "run", "hello", "--top-p", "1.5")
    assert "is not a whole number" in bad(2, "run", "hello", "--context", "many")
    assert "--raw" in bad(2, "run", "hello", "--raw", "--thinking", "-m", MODEL)
    assert "empty" in bad(2, "run", "-m", MODEL, text=" \n")
    assert "no room" in bad(2, "bench", "-m", MODEL, "--context", "100")


@pytest.mark.parametrize("verb", ["run", "chat", "info", "bench"])
def test_bad_files_give_one_line(verb: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(MODEL).read_bytes()[:5000])
    for file in (tmp_path / "missing.gguf", broken, Path(__file__), tmp_path):
        message = bad(1, verb, "--model", str(file), text="hello")
        assert message.startswith("edge-gemma: error: ") and message.count("\n") == 1
        assert "internal error" not in message


def test_debug_variable_shows_where() -> None:
    done = cli("info", "nowhere.gguf", EDGE_GEMMA_DEBUG="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_version() -> None:
    assert good("--version") == f"edge-gemma {edge_gemma.__version__}\n"


# ---- run --------------------------------------------------------------------------------------------------------


def test_run_answers_and_is_reproducible() -> None:
    command = ("run", "-m", MODEL, "--max-tokens", "12")
    answer = good(*command, *SEEDED, "Hello there")
    assert answer.strip() and answer.endswith("\n")
    assert good("run", "--max-tokens", "12", *SEEDED, "Hello there", EDGE_GEMMA_MODEL=MODEL) == answer
    assert good(*command, *SEEDED, "--seed", "4", "Hello there") != answer
    greedy = good(*command, *GREEDY, "--raw", "Hello there")
    assert good(*command, *GREEDY, "--raw", "Hello there", "--seed", "4") == greedy != answer


@pytest.mark.slow
def test_run_reads_its_prompt_from_anywhere(tmp_path: Path) -> None:
    command = ("run", "-m", MODEL, "--max-tokens", "12", *SEEDED)
    expected = good(*command, "one\n\ntwo")
    file = tmp_path / "two.txt"
    file.write_text("two")
    assert good(*command, text="one\n\ntwo") == expected
    assert good(*command, "-", text="one\n\ntwo") == expected
    assert good(*command, "one", "--file", str(file)) == expected
    assert good(*command, "one", "--file", "-", text="two") == expected
    assert good(*command, "--system", "Be brief.", "one\n\ntwo") != expected
    assert "missing.txt: No such file" in bad(1, *command, "--file", str(tmp_path / "missing.txt"))


def test_run_json() -> None:
    command = ("run", "-m", MODEL, "--max-tokens", "9", *SEEDED, "--json")
    for extra in ((), ("--raw",)):
        answer = json.loads(good(*command, *extra, "Hello there"))
        assert set(answer) == {"text", "thinking", "stop", "tokens", "timings"}
        assert answer["text"] and isinstance(answer["stop"], str)
        assert 0 < answer["tokens"]["answer"] <= 9 and answer["tokens"]["prompt"] > 2
        assert answer["timings"]["answer_s"] > 0


def test_run_raw_differs_from_a_turn_and_equals_it_written_out() -> None:
    command = ("run", "-m", MODEL, "--max-tokens", "12", *GREEDY)
    turn = good(*command, "Hello")
    assert good(*command, "--raw", "Hello") != turn
    assert good(*command, "--raw", "<|turn>user\nHello<turn|>\n<|turn>model\n").strip() == turn.strip()


def test_run_stops_at_a_text() -> None:
    command = ("run", "-m", MODEL, "--max-tokens", "40", *GREEDY, "--raw")
    whole = good(*command, "Hello there").rstrip("\n")
    stop = whole[len(whole) // 2 :][:3]
    assert good(*command, "--stop", stop, "Hello there").rstrip("\n") == whole[: whole.index(stop)].rstrip("\n")


def test_run_verbose_goes_to_stderr() -> None:
    done = cli("run", "-m", MODEL, "--max-tokens", "5", *GREEDY, "-v", "Hello")
    assert done.returncode == 0 and "tok/s" in done.stderr and "tok/s" not in done.stdout


def test_run_is_quiet_when_the_pipe_breaks() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_gemma", "run", "-m", MODEL, *ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout and process.stderr
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_run_stops_at_ctrl_c() -> None:
    restore = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # in case the tests run in the background
    script = f"import signal, sys; {restore}; from edge_gemma.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", "-m", MODEL, *ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b"" and out.endswith(b"\n")


# ---- info -------------------------------------------------------------------------------------------------------


def test_info_text() -> None:
    text = good("info", MODEL)
    for expected in (
        "gemma4",
        "Q4_0",
        "by part",
        "attention",
        "by type",
        "vocabulary",
        "512 tokens",
        "memory",
        "window 16",
    ):
        assert expected in text
    listed = good("info", "--model", MODEL, "--tensors", "--metadata")
    assert "blk.5.ffn_down.weight" in listed and "gemma4.block_count = 6" in listed


def test_info_json_adds_up() -> None:
    report = json.loads(good("info", MODEL, "--json", "--tensors", "--metadata"))
    assert report["file_bytes"] == os.path.getsize(MODEL)
    assert report["shape"]["layers"] == 6 and report["shape"]["global_layers"] == [5]
    assert report["shape"]["kv_heads"] == {"local": 4, "global": 1}
    assert len(report["tensors"]) == 86 and report["metadata"]["gemma4.attention.sliding_window"] == 16
    for group in ("parts", "types"):
        assert sum(entry["parameters"] for entry in report[group]) == report["parameters"]
        assert sum(entry["bytes"] for entry in report[group]) == sum(t["bytes"] for t in report["tensors"])
    with edge_gemma.Model.load(MODEL) as model:
        assert report["decode_bytes"] == pytest.approx(model.config.decode_bytes, rel=0.01)
        for entry in report["memory"]:
            assert entry["kv"] == model.estimate(entry["context"], entry["kv_type"])["kv"]


def test_info_of_encoders() -> None:
    """A vision encoder with the cost of pictures, by budget, and the projections of the 12B model."""
    text = good("info", str(DATA / "vision-moe.gguf"))
    assert re.search(
        r"vision encoder +projector type gemma4v, block count 2, embedding length 64, .* patch size 16\n", text
    )
    assert re.search(r"\n  soft tokens  patches  multiply-adds\n  70 +630 +0\.2 G\n", text)
    report = json.loads(good("info", str(DATA / "vision-moe.gguf"), "--json"))
    layer, attention = 4 * 64 * 64 + 3 * 64 * 128, 2 * 630 * 64
    work = 630 * (2 * (layer + attention) + 768 * 64) + 70 * 64 * 128
    assert report["pictures"][0] == {"budget": 70, "patches": 630, "multiply_adds": work}
    assert [entry["budget"] for entry in report["pictures"]] == [70, 140, 280, 560, 1120]

    unified = json.loads(good("info", str(DATA / "unified-mmproj.gguf"), "--json"))
    assert unified["shape"] == {
        "vision": {"projector_type": "gemma4uv", "embedding_length": 32, "projection_dim": 32, "patch_size": 48},
        "audio": {"projector_type": "gemma4ua", "projection_dim": 32, "samples_per_token": 640},
    }
    assert unified["pictures"][2] == {"budget": 280, "patches": 280, "multiply_adds": 280 * 32 * (6912 + 32)}
    assert "pictures" not in json.loads(good("info", str(DATA / "audio-e2b.gguf"), "--json"))


@pytest.mark.slow
def test_info_tolerates_foreign_files(tmp_path: Path) -> None:
    file = tmp_path / "foreign.gguf"
    llama = {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 8}
    gemma = {"general.architecture": "gemma4", "gemma4.block_count": 2, "gemma4.embedding_length": 8}
    cases: list[dict[str, Any]] = [
        {},
        llama,
        llama | {"llama.block_count": 2**32 - 1},
        llama | {"llama.attention.head_count": 0},
        llama | {"llama.attention.head_count": [1], "llama.feed_forward_length": ["a", "b"]},
        gemma | {"gemma4.block_count": "many"},
        gemma | {"gemma4.attention.shared_kv_layers": 9, "gemma4.context_length": "long"},
        {"general.architecture": "clip", "clip.has_audio_encoder": True, "clip.audio.block_count": 12},
        {
            "general.architecture": "clip",
            "clip.has_vision_encoder": True,
            "clip.vision.block_count": "x",
            "clip.vision.projector_type": "gemma4uv",
        },
        {"general.architecture": "clip", "clip.has_audio_encoder": 1, "clip.audio.projector_type": "gemma4ua"},
        {
            "general.architecture": 7,
            "general.name": [1, 2],
            "tokenizer.ggml.tokens": ["a"],
            "tokenizer.chat_template": 3,
        },
    ]
    for pairs in cases:
        writer = Writer()
        for key, value in pairs.items():
            writer.entry(key, value)
        for name in ("token_embd.weight", "blk.0.attn_k.weight", "strange"):
            writer.tensor(name, [2], TENSOR_F32, bytes(8))
        file.write_bytes(writer.build())
        assert good("info", str(file), "--tensors", "--metadata")
        report = json.loads(good("info", str(file), "--json"))
        assert report["parameters"] == 6
    file.write_bytes(tiny_vocabulary().build())
    assert json.loads(good("info", str(file), "--json"))["kind"] == "vocabulary"
    assert good("info", str(file), "--template") == "{{ messages }}\n"
    assert "no chat template" in bad(1, "info", MODEL, "--template")


# ---- bench ------------------------------------------------------------------------------------------------------


def test_bench() -> None:
    sizes = ("--prompt-tokens", "40", "--tokens", "12", "--repeats", "2")
    report = json.loads(good("bench", "-m", MODEL, "--json", *sizes))
    for name in ("load_s", "prefill_tok_s", "decode_tok_s", "first_token_s"):
        assert report[name] > 0 and len(report["values"][name]) == 2
    assert 5 < report["peak_rss_mb"] < 2000
    assert 500_000 < report["bytes_per_token"] < 1_000_000
    assert report["model"]["type"] == "Q4_0" and report["prompt_tokens"] == 40 and report["isa"]
    assert "tok/s" in good("bench", "-m", MODEL, *sizes)


# ---- chat -------------------------------------------------------------------------------------------------------


def chat(script: str, *args: str, status: int = 0, **env: str) -> tuple[list[str], str]:
    """A conversation over pipes: lines of the output, text of the errors."""
    done = cli("chat", "-m", MODEL, "--max-tokens", "8", *SEEDED, *args, text=script, **env)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines(), done.stderr


def test_chat_takes_piped_lines_as_turns() -> None:
    single = chat("Hello\n")[0]
    double = chat("Hello\nAnd then?\n")[0]
    assert single and double[: len(single)] == single and len(double) > len(single)
    assert chat("Hello")[0] == single  # no newline at the end of the input
    assert chat("\n  \nHello\n/quit\nnever said\n")[0] == single


@pytest.mark.slow
def test_chat_reset_system_save_and_load(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    first = chat("Hello\n")[0]
    assert chat("Hello\n/reset\nHello\n")[0] == [*first, "(new conversation)", *first]
    assert chat(f"Hello\n/save {file}\n")[0] == [*first, f"(saved to {file})"]
    lines, _ = chat(f"/load {file}\nAnd then?\n")
    assert lines[0] == f"(loaded {file}: 1 turn)"
    assert lines[1:] == chat("And then?\n", "--load", str(file))[0] != chat("And then?\n")[0]
    lines, _ = chat("/system\n/system Be brief.\n/system\nHello\n")
    assert lines[0] == "(no instructions)" and lines[2] == "Be brief."
    assert lines[3:] == chat("Hello\n", "--system", "Be brief.")[0] != first


def test_chat_several_lines_as_one_message() -> None:
    expected = chat("/multi\none\ntwo\n/end\n")[0]
    assert expected == chat("one\\\ntwo\n")[0] != chat("one\n")[0]


def test_chat_tools(tmp_path: Path) -> None:
    file = tmp_path / "my tools.py"
    file.write_text(
        "from math import sqrt\n\ndef add(a: int, b: int) -> int:\n"
        '    """Adds two numbers.\n\n    Args:\n        a: First.\n        b: Second.\n    """\n    return a + b\n\n'
        "def _hidden() -> None:\n    pass\n"
    )
    lines, _ = chat(f"/tools\n/tools {file}\n/tools off\nHello\n")
    assert lines[1] == "add  Adds two numbers." and lines[0] == lines[2] and lines[0].startswith("(no tools")
    assert lines[3:] == chat("Hello\n")[0]
    assert chat("Hello\n", "--tools", str(file))[0] != lines[3:]
    file.write_text("1 / 0\n")
    assert "ZeroDivisionError" in chat(f"/tools {file}\n", status=1)[1]


def test_chat_explains_what_it_does_not_know() -> None:
    lines, errors = chat("/frobnicate now\n/save\n/load nowhere.json\n/help\n/stats\n//help\n", "-v", status=1)
    assert "there is no command /frobnicate" in errors and "/save FILE" in errors and "nowhere.json" in errors
    assert any(line.startswith("/tools") for line in lines)
    assert any("context: " in line for line in lines) and any("memory: " in line for line in lines)
    assert "tok/s" in errors


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(*args, XDG_STATE_HOME=str(tmp_path)))
        return opened[-1]

    yield start
    for process in opened:
        process.close()


def test_chat_survives_ctrl_c(terminal: Any, tmp_path: Path) -> None:
    talk = terminal("chat", "-m", MODEL, *LONG)
    talk.expect(r"\n> ")
    stopped = 0
    for word in ("Hello", "there", "one", "two", "three", "four"):  # until two long answers were stopped
        talk.type(f"{word}\n")
        talk.expect(word + r"\r\n")
        talk.expect(r"\S")
        talk.type("\x03")
        stopped += talk.expect(r"\[stopped\]|/quit to leave") == "[stopped]"
        talk.expect(r"> ")
        if stopped == 2:
            break
    assert stopped == 2
    time.sleep(0.2)  # the prompt is written just before it listens
    talk.type("\x03")
    talk.expect(r"/quit to leave")
    talk.type("/stats\n")
    talk.expect(r"context: [\d,]+ of")
    talk.expect(r"> ")
    talk.type("\x04")
    assert talk.wait() == 0
    assert "Hello\nthere\n" in (tmp_path / "edge-gemma" / "chat_history").read_text()
