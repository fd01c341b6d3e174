"""`bench --compare`, `--sweep`, `--plot` and `--memory-limit` as their users see them. Nothing here says how fast anything is;
llama.cpp is played by a module of its name."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma import kernels
from edge_gemma.cli.bench import compare, plot, sweep
from edge_gemma.cli.bench.process import MemoryGroup, run_json, summary
from edge_gemma.errors import EdgeGemmaError
from support.paths import ROOT

MODEL = str(ROOT / "tests" / "data" / "dense-Q4_0.gguf")
SMALL = ("--tokens", "4", "--threads", "1")

# Knows the calls that run.py makes, and writes down what it was given.
PEER = """
import json, os
__version__ = "9.8.7"
def llama_print_system_info():
    return b"CPU : SSE3 = 1 | AVX = 0 | NEON = 1 | "
class Llama:
    def __init__(self, path, n_ctx, n_threads, n_threads_batch, **options):
        if os.environ.get("PEER_FAILS"):
            raise ValueError("this file is not for me")
        self.log = [os.path.basename(path), n_ctx, n_threads, n_threads_batch, options["logits_all"]]
    def reset(self):
        self.log.append("reset")
    def eval(self, ids):
        self.log.append(len(ids) if len(ids) > 1 else ids)
        if os.environ.get("PEER_LOG"):
            with open(os.environ["PEER_LOG"], "w") as file:
                json.dump(self.log, file)
    def sample(self, temp):
        return 77
"""


@pytest.fixture
def peer(tmp_path: Path) -> dict[str, str]:
    """The environment in which this Python has the module."""
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "llama_cpp.py").write_text(PEER)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'peer'}{os.pathsep}{ROOT}"}


# ---- beside llama.cpp -------------------------------------------------------------------------------------------


def test_compare_runs_both_on_the_same(run_cli, peer: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    options = ("bench", "-m", MODEL, "--compare", "--rounds", "2", "-p", "40", *SMALL)
    done = run_cli(*options, "--json", env={**peer, "PEER_LOG": str(log)})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {name: len(runs) for name, runs in report["runs"].items()} == {"edge_gemma": 2, "llama.cpp": 2}
    for name in ("edge_gemma", "llama.cpp"):
        for key in ("load_s", "prefill_tok_s", "first_token_s", "decode_tok_s"):
            assert report["programs"][name][key] > 0
    ours, theirs = (report["programs"][name]["decode_tok_s"] for name in ("edge_gemma", "llama.cpp"))
    assert report["ratios"]["decode_tok_s"] == pytest.approx(ours / theirs, rel=1e-3)  # five digits are printed
    ours, theirs = (report["programs"][name]["load_s"] for name in ("edge_gemma", "llama.cpp"))
    assert report["ratios"]["load_s"] == pytest.approx(theirs / ours, rel=1e-3)
    assert report["programs"]["llama.cpp"]["version"] == "llama-cpp-python 9.8.7"
    assert report["programs"]["llama.cpp"]["isa"] == "SSE3 NEON"
    assert (report["file"], report["prompt_tokens"], report["tokens"], report["threads"]) == (
        "dense-Q4_0.gguf",
        40,
        4,
        1,
    )
    # the peer got the file, the context, the threads, a warm-up, the prompt, and drew four tokens
    told = ["dense-Q4_0.gguf", 44, 1, 1, False, "reset", 16, "reset", 40, [77], [77], [77], [77]]
    assert json.loads(log.read_text()) == told


def test_compare_prints_a_table(run_cli, peer: dict[str, str]) -> None:
    done = run_cli("bench", "-m", MODEL, "--compare", "--rounds", "1", "-p", "20", *SMALL, env=peer)
    assert done.returncode == 0, done.stderr
    for part in ("edge_gemma", "llama.cpp", "ratio", "prefill", "tok/s", "9.8.7", "SSE3 NEON", "1 thread", " x\n"):
        assert part in done.stdout


def test_compare_without_peer(run_cli, peer: dict[str, str], tmp_path: Path) -> None:
    options = ("bench", "-m", MODEL, "--compare", "--rounds", "1", "-p", "20", *SMALL)
    missing = run_cli(*options, "--peer-python", "/nowhere/python")
    assert missing.returncode == 2 and "/nowhere/python" in missing.stderr and "Traceback" not in missing.stderr
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I "$@"\n')
    bare.chmod(0o755)
    if importlib.util.find_spec("llama_cpp") is None:
        without = run_cli(*options, "--peer-python", str(bare))
        assert without.returncode == 2 and "pip install llama-cpp-python" in without.stderr
    fails = run_cli(*options, env={**peer, "PEER_FAILS": "1"})
    assert fails.returncode == 1 and "this file is not for me" in fails.stderr and fails.stderr.count("\n") == 1


def test_ratios() -> None:
    assert compare._ratio(10.0, 5.0, True) == 2
    assert compare._ratio(10.0, 5.0, False) == 0.5
    assert compare._ratio(None, 5.0, False) is None and compare._ratio(1.0, 0.0, True) is None


# ---- sweep ------------------------------------------------------------------------------------------------------


def run_sweep(run_cli, *options: str) -> Any:
    return run_cli("bench", "-m", MODEL, "--sweep", "--tokens", "3", "--repeats", "2", *options)


def test_a_batch_is_measured(run_cli) -> None:
    size = ("bench", "--prompt", "16", "-r", "1")
    report = json.loads(run_cli(*size, "-n", "4", "--batch", "3", "--json").stdout)
    assert report["batch"] == 3 and report["batch_tok_s"] > 0
    assert "2 conversations together, " in run_cli(*size, "-n", "1", "--batch", "2").stdout
    for other in ("--sweep", "--compare"):
        refused = run_cli(*size, "--batch", "2", other)
        assert refused.returncode == 2 and "--batch" in refused.stderr


def test_sweep_measures_every_combination(run_cli) -> None:
    done = run_sweep(run_cli, "--threads", "2,1", "--prompt", "8,16", "--depth", "64,0,700", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    cells = {(row["threads"], row["depth"], row["prompt_tokens"]) for row in report["prefill"]}
    assert cells == {(t, d, p) for t in (1, 2) for d in (0, 64, 700) for p in (8, 16)}
    assert {(row["threads"], row["depth"]) for row in report["decode"]} == {
        (t, d) for t in (1, 2) for d in (0, 64, 700)
    }
    for row in report["prefill"] + report["decode"]:
        assert len(row["values"]) == 2 and all(value > 0 for value in row["values"])
    assert report["context"] == 716 and report["interrupted"] is False
    assert [cost["threads"] for cost in report["depth_cost_us"]] == [1, 2]
    assert report["global_bytes_per_token"] > 0


def test_sweep_prints_a_table(run_cli) -> None:
    done = run_sweep(run_cli, "--threads", "1", "--prompt", "8", "--depth", "64,700")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].split() == ["threads", "depth", "prefill", "8", "decode", "3"]
    assert [line.split()[:2] for line in lines[3:5]] == [["1", "64"], ["1", "700"]]
    assert "1,000 tokens in the cache" in done.stdout


@pytest.mark.slow
def test_sweep_asks_for_what_is_possible(run_cli) -> None:
    def refused(*options: str, with_sweep: bool = True) -> str:
        done = run_cli("bench", "-m", MODEL, *(("--sweep",) if with_sweep else ()), *options)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "--sweep" in refused("-p", "8,16", with_sweep=False)
    assert "--sweep" in refused("-t", "1,2", with_sweep=False)
    assert "--sweep" in refused("--depth", "10", with_sweep=False)
    assert "--sweep" in refused("--plot", "a.png", with_sweep=False)
    assert "too short" in refused("--context", "100", "--depth", "200")
    assert "the model has only" in refused("--depth", "100M")
    assert "not a whole number" in refused("--depth", "1,x")
    assert "cannot be used with" in refused("--compare")


def test_the_cost_of_depth() -> None:
    """10 ms, and 2 us more for each token: beyond the window alone."""
    rows = [{"threads": 1, "depth": depth, "tok_s": 1 / (0.010 + 2e-6 * depth)} for depth in (512, 1000, 4000)]
    rows.append({"threads": 1, "depth": 0, "tok_s": 1e6})
    assert sweep._depth_costs(rows, 512)[0]["us_per_1000_tokens"] == pytest.approx(2000)
    assert sweep._depth_costs(rows[:1], 512) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_sweep_can_be_interrupted() -> None:
    options = ("--depth", "0,2000", "-p", "64", "-n", "3", "-t", "1", "-r", "1M")
    command = [sys.executable, "-m", "edge_gemma", "bench", "-m", MODEL, "--sweep", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible
    )
    deadline = time.monotonic() + 50
    while not _busy(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert "Traceback" not in err
    assert process.returncode == 130, (out, err)


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _busy(process: subprocess.Popen[str]) -> bool:
    """Whether it has computed for a while, so that it is well beyond imports."""
    if process.poll() is not None:
        return True
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        time.sleep(1.5)
        return True
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") > 0.8


# ---- plot -------------------------------------------------------------------------------------------------------

REPORT: dict[str, Any] = {
    "model": {"name": "A model", "file": "a.gguf"},
    "isa": "avx2",
    "kv": "f16",
    "tokens": 8,
    "prefill": [
        {"threads": t, "depth": d, "prompt_tokens": p, "tok_s": 100.0 * t, "values": [90.0 * t, 110.0 * t]}
        for t in (1, 2)
        for d in (0, 4096)
        for p in (128, 512)
    ],
    "decode": [
        {"threads": t, "depth": d, "tok_s": 10.0 * t, "values": [9.0 * t, 11.0 * t]} for t in (1, 2) for d in (0, 4096)
    ],
}


@pytest.mark.parametrize("only", [{}, {"depth": 0}])
def test_plot(only: dict[str, int], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `plot`")
    report = {**REPORT}
    for key in ("prefill", "decode"):
        report[key] = [row for row in REPORT[key] if all(row[name] == value for name, value in only.items())]
    picture = tmp_path / "chart.svg"
    plot.check_plot(str(picture))
    plot.write_plot(report, str(picture))
    text = picture.read_text()  # letters are paths with the text as a comment
    for words in ("A model", "tokens per second", "Prefill", "Decoding (8 tokens)", "prompt of 512"):
        assert words in text
    assert ("tokens already in the cache" in text) == (not only)
    plot.write_plot(report, str(tmp_path / "chart.png"))
    assert (tmp_path / "chart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_plot_is_refused_before_measuring(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `plot`")
    from edge_gemma.cli.common import UsageError

    for name, words in (("missing/a.png", "no directory"), ("a.doc", "must end in")):
        with pytest.raises(UsageError, match=words):
            plot.check_plot(str(tmp_path / name))


def test_plot_without_matplotlib(run_cli, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('hidden')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = run_cli("bench", "-m", MODEL, "--sweep", "--plot", str(tmp_path / "a.png"), env=environment)
    assert done.returncode == 2 and "edge-gemma[plot]" in done.stderr


# ---- limits -----------------------------------------------------------------------------------------------------


def test_memory_limit_in_a_process_of_its_own(run_cli) -> None:
    options = ("bench", "-m", MODEL, "-p", "20", "-r", "1", *SMALL)
    done = run_cli(*options, "--memory-limit", "500MB", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["limit"]["bytes"] == 500_000_000 and (report["context"], report["kv"]) == (24, "f16")
    assert report["peak_rss_mb"] is None or report["peak_rss_mb"] < 500
    if report["limit"]["enforced"]:
        assert report["limit"]["group_peak"] is None or report["limit"]["group_peak"] <= 500_000_000
        assert report["limit"]["thrashes"] is False
    else:
        assert report["limit"]["reason"]
    text = run_cli(*options, "--memory-limit", "500MB").stdout
    assert "memory limit" in text and "page faults" in text and ("thrash" in text or "not enforced" in text)
    small = run_cli(*options, "--memory-limit", "3MB")
    assert small.returncode == 1 and "at 24 tokens" in small.stderr and small.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX paths")
def test_memory_groups(tmp_path: Path) -> None:
    """On folders that look like those of the kernel, versions 1 and 2."""
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/x\n4:memory:/mine/here\n0::/\n")
    (tmp_path / "memory" / "mine" / "here").mkdir(parents=True)
    group = MemoryGroup(12345, tmp_path, own)
    assert group.path.parent == tmp_path / "memory" / "mine" / "here"
    assert (group.path / "memory.limit_in_bytes").read_text() == "12345"
    (group.path / "memory.max_usage_in_bytes").write_text("999\n")
    (group.path / "memory.failcnt").write_text("7\n")
    assert (group.peak(), group.hits()) == (999, 7)
    run = subprocess.run(group.command(["echo", "a b", "$c"]), capture_output=True, text=True, check=True)
    assert run.stdout == "a b $c\n" and int((group.path / "cgroup.procs").read_text()) > 0

    own.write_text("0::/user/session\n")
    beside = tmp_path / "user"
    (beside / "session").mkdir(parents=True)
    (beside / "cgroup.subtree_control").write_text("cpu memory\n")
    group = MemoryGroup(54321, tmp_path, own)
    assert group.path.parent == beside and (group.path / "memory.max").read_text() == "54321"
    (group.path / "memory.events").write_text("low 0\nmax 3\noom 0\n")
    assert (group.peak(), group.hits()) == (None, 3)
    (beside / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(OSError, match="not delegated"):
        MemoryGroup(1, tmp_path, own)
    own.write_text("")
    with pytest.raises(OSError, match="no memory cgroup"):
        MemoryGroup(1, tmp_path, own)


# ---- processes --------------------------------------------------------------------------------------------------


def test_runs_of_processes() -> None:
    assert run_json([sys.executable, "-c", "print('noise'); print('{\"a\": 1}')"]) == {"a": 1}
    assert run_json([sys.executable, "-c", "import sys, json; print(json.dumps(sys.stdin.read()))"], "hi") == "hi"
    for script, words in (
        ("raise ValueError('broken')", "status 1: ValueError: broken"),
        ("print('no json')", "no json"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import sys; sys.exit('edge-gemma: error: too small')", "^too small$"),
    ):
        with pytest.raises(EdgeGemmaError, match=words):
            run_json([sys.executable, "-c", script])
    assert summary([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"


# ---- the tools that measure ------------------------------------------------------------------------------------------


def tool(name: str) -> Any:
    """A script of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_are_measured_beside_limits(tmp_path: Path) -> None:
    """tools/bench_kernels.py and roof.c: a limit of bytes and of floats for every set that this machine has."""
    bench, limit = tool("bench_kernels"), None
    for target in filter(None, kernels.targets.values()):
        if target.name == "scalar":
            continue
        limit = limit or bench.limits(str(tmp_path))
        assert limit(f"{target.name}_int8") > 0 and limit(f"{bench.FLOATS.get(target.name, target.name)}_float") > 0
        bench.product(target, "Q4_0", np.zeros(16 * bench.COLS // 32 * 18, np.uint8), 1)()
        work, size, products = bench.attention(target, "q8", 1)
        work()
        assert (size, products) == (2 * bench.KEYS * (512 + 64), 2 * bench.KEYS * 8 * 512)


def test_the_loss_of_a_smaller_cache_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tools/kv_loss.py: a line for f16 and for q8, neither without loss."""
    monkeypatch.setattr(sys, "argv", ["kv_loss.py", MODEL, "--tokens", "70"])
    tool("kv_loss").main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "dense-Q4_0.gguf, 70 tokens, compared with an f32 cache"
    assert [line.split()[0] for line in lines] == ["f16", "q8"]
    assert all(0 < float(line.split()[2].rstrip(",")) < 0.2 for line in lines)
