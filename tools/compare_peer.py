"""Measures edge_gemma and llama.cpp (through llama-cpp-python) on the same file, alternating, one process a run.

usage: python tools/compare_peer.py MODEL.gguf [--prompt-tokens 512] [--tokens 32] [--rounds 3] [--threads 2]

Prints one table row per program with the median of the rounds and the range. Each run opens the model, evaluates a prompt
of random ids, then decodes greedily; `first token` is the time from the prompt at hand to the first token known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

OURS = """
import json, sys, time
import numpy as np
import edge_gemma as eg
path, n, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
m = eg.Model.load(path, threads=threads)
load = time.perf_counter() - start
ids = np.random.default_rng(0).integers(1000, m.config.vocab_size - 1000, n)
def run(k):
    s = m.session(context=n + tokens + 8)
    start = time.perf_counter()
    s.feed_tokens(ids[:k])
    prefill = time.perf_counter()
    s.logits()
    first = time.perf_counter()
    end = s.position + tokens
    while s.position < end:  # a stop token is one like others here
        for _ in s.generate(end - s.position, temperature=0): pass
    return k / (first - start), first - start, tokens / (time.perf_counter() - first)
"""

PEER = """
import json, sys, time
import numpy as np
from llama_cpp import Llama
path, n, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
m = Llama(path, n_ctx=n + tokens + 8, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
          verbose=False, logits_all=False)
load = time.perf_counter() - start
ids = np.random.default_rng(0).integers(1000, m.n_vocab() - 1000, n).tolist()
def run(k):
    m.reset()
    start = time.perf_counter()
    m.eval(ids[:k])
    first = time.perf_counter()
    for _ in range(tokens):
        m.eval([m.sample(temp=0.0)])
    return k / (first - start), first - start, tokens / (time.perf_counter() - first)
"""

PEAK = 'next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024'

REPORT = f"""
run(16)  # first touch of the pages
prefill, first, decode = run(n)
print(json.dumps(dict(load_s=load, prefill_tok_s=prefill, first_token_s=first, decode_tok_s=decode, peak_mb={PEAK})))
"""


def measure(code: str, values: list[object], python: str = sys.executable) -> dict[str, float]:
    """One run in a process of its own: the JSON on its last line."""
    result = subprocess.run([python, "-c", code, *map(str, values)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr[-4000:])
    return json.loads(result.stdout.splitlines()[-1])


def table(runs: dict[str, list[dict[str, float]]], keys: list[str]) -> str:
    """Markdown: a row for each program, median (range) of each key; a dash where it was not measured."""
    lines = ["| | " + " | ".join(keys) + " |", "|---" + "|---" * len(keys) + "|"]
    for name, rows in runs.items():
        cells = []
        for key in keys:
            values = sorted(row[key] for row in rows if key in row)
            cells.append(f"{statistics.median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g})" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs both in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    values = [arguments.model, arguments.prompt_tokens, arguments.tokens, arguments.threads]
    runs: dict[str, list[dict[str, float]]] = {"edge_gemma": [], "llama.cpp": []}
    for _ in range(arguments.rounds):
        for name, code in (("edge_gemma", OURS), ("llama.cpp", PEER)):
            runs[name].append(measure(code + REPORT, values))
            print(name, runs[name][-1], file=sys.stderr)
    print(table(runs, list(runs["edge_gemma"][0])))


if __name__ == "__main__":
    main()
