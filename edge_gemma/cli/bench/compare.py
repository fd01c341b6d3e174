"""`edge-gemma bench --compare`: this project and llama.cpp on the same file and the same tokens, alternating.

Each run is a process of its own (run.py), and the program that runs first changes from round to round. The report has
medians, ranges and ratios, and what was compared: versions, instruction sets, threads, the file. It also has the number of
cores that other work took meanwhile: the figures are reliable only if this is near 0.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...engine.memory import format_bytes
from ..common import UsageError, format_threads, print_table
from ..terminal import Bar
from . import run
from .process import cpu_of_others, run_json, summary

# name, label, unit, digits, whether more is better
FIGURES = (
    ("load_s", "open", "s", ".3f", False),
    ("prefill_tok_s", "prefill", "tok/s", ".1f", True),
    ("first_token_s", "first token", "s", ".3f", False),
    ("decode_tok_s", "decode", "tok/s", ".1f", True),
    ("peak_mb", "peak memory", "MB", ".0f", False),
)
_HAS_PEER = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llama_cpp') is None)"
OURS, PEER = "edge_gemma", "llama.cpp"


def check_peer(python: str) -> None:
    """Raises UsageError unless the interpreter `python` has llama-cpp-python."""
    try:
        missing = subprocess.run([python, "-c", _HAS_PEER], capture_output=True, check=False).returncode != 0
    except OSError as error:
        raise UsageError(f"--peer-python {python}: {error.strerror or error}") from None
    if missing:
        raise UsageError(
            f"{python} has no llama-cpp-python: install it (pip install llama-cpp-python), or name a Python that has it with"
            " --peer-python."
        )


def compare(
    path: str, ids: list[int], tokens: int, context: int, threads: int, rounds: int, peer: str, sidecar: bool = True
) -> dict[str, Any]:
    """Runs both programs, alternating. Raises EdgeGemmaError when a run fails, KeyboardInterrupt for Ctrl-C."""
    code = Path(run.__file__).read_text(encoding="utf-8")
    options = {"path": path, "ids": ids, "tokens": tokens, "threads": threads, "context": context, "sidecar": sidecar}
    job = json.dumps(options)
    pythons = {OURS: sys.executable, PEER: peer}
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], PEER: []}
    others: list[float] = []
    with Bar("comparing", 0, 2 * rounds, label=lambda done: f"{done:.0f} runs") as bar:
        for turn in range(2 * rounds):
            program = (OURS, PEER) if turn // 2 % 2 == 0 else (PEER, OURS)
            name = program[turn % 2]
            start, busy = time.perf_counter(), cpu_of_others()
            runs[name].append(run_json([pythons[name], "-c", code, name], job))
            if busy is not None:
                others.append(max(0.0, ((cpu_of_others() or 0.0) - busy) / (time.perf_counter() - start)))
            bar.update(turn + 1, 2 * rounds)
    about = {name: rows[-1]["about"] for name, rows in runs.items()}
    medians = {name: {key: _median(rows, key) for key, *_ in FIGURES} for name, rows in runs.items()}
    return {
        "programs": {name: {**about[name], **medians[name]} for name in runs},
        "ratios": {key: _ratio(medians[OURS][key], medians[PEER][key], more) for key, *_, more in FIGURES},
        "file": os.path.basename(path),
        "file_bytes": os.path.getsize(path),
        "prompt_tokens": len(ids),
        "tokens": tokens,
        "context": context,
        "threads": threads,
        "rounds": rounds,
        "machine": {"type": platform.machine(), "system": platform.platform(), "cores": os.cpu_count()},
        "others_cores": others,
        "runs": runs,
    }


def _values(rows: list[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _median(rows: list[dict[str, Any]], key: str) -> float | None:
    values = _values(rows, key)
    return statistics.median(values) if values else None


def _ratio(ours: float | None, peer: float | None, more: bool) -> float | None:
    """How many times better edge_gemma is; `more`: whether larger values are better."""
    if not ours or not peer:
        return None
    return ours / peer if more else peer / ours


def print_comparison(report: dict[str, Any]) -> None:
    """Prints the report as a table."""
    machine, programs = report["machine"], report["programs"]
    threads = format_threads(report["threads"])
    print(f"{report['file']} ({format_bytes(report['file_bytes'])}), {threads}, {machine['cores']} cores")
    print(
        f"{report['prompt_tokens']} tokens of prompt, {report['tokens']} decoded, median (range) of {report['rounds']}\n"
    )
    rows: list[tuple[str, ...]] = [("", OURS, PEER, "ratio")]
    for key, label, unit, form, _ in FIGURES:
        cells = []
        for name in (OURS, PEER):
            values = _values(report["runs"][name], key)
            cells.append(f"{summary(values, form)} {unit}" if values else "unknown")
        ratio = report["ratios"][key]
        rows.append((label, *cells, f"{ratio:.2f} x" if ratio else ""))
    print_table(rows)
    print("\n  ratio: how many times better edge_gemma is")
    for name in (OURS, PEER):
        about = programs[name]
        print(f"  {name}: {about['version']}; {about['isa']}")
    if report["others_cores"]:
        print(f"  other work on the machine: {summary(report['others_cores'], '.2f')} cores")
