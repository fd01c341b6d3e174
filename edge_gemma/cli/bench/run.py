"""One run of one program: the process that `edge-gemma bench --compare` starts for each measurement.

This file imports nothing of the package, so that a Python without edge_gemma can run its text as `python -c TEXT PROGRAM`.
Standard input has the job as one JSON object: path, ids (the prompt), tokens (to decode), threads, context, sidecar (whether
edge_gemma uses the one that lies beside the file). The last line of the output has the figures:

    load_s          opening the model file
    prefill_tok_s   prompt tokens / time until the logits of the last one are there
    first_token_s   the time until these logits are there
    decode_tok_s    tokens decoded greedily (each drawn and evaluated) / their time
    peak_mb         peak resident memory of the process, in 10^6 bytes; null if the system does not report it
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

WARM_UP = 16  # tokens that are evaluated before the measurement, so that all weights have been read once


class EdgeGemma:
    """This project."""

    def __init__(self, job: dict[str, Any]) -> None:
        import edge_gemma

        self.model = edge_gemma.Model.load(job["path"], threads=job["threads"], sidecar=job["sidecar"])
        self.context = job["context"]
        self.about = {"version": edge_gemma.__version__, "isa": edge_gemma.isa, "threads": self.model.threads}

    def feed(self, ids: list[int]) -> None:
        """Evaluates a prompt on an empty timeline."""
        self.session = self.model.session(context=self.context)
        self.session.feed_tokens(ids)
        self.session.logits()

    def decode(self, tokens: int) -> None:
        """Draws and evaluates so many tokens, the last one included."""
        end = self.session.position + tokens
        while self.session.position < end:  # random prompts end answers at any time
            for _ in self.session.generate(end - self.session.position, temperature=0):
                pass
        self.session.logits()


class Llama:
    """llama.cpp through llama-cpp-python, with its defaults: an f16 cache, and weights repacked where it does so."""

    def __init__(self, job: dict[str, Any]) -> None:
        import llama_cpp

        threads = job["threads"]
        self.model = llama_cpp.Llama(
            job["path"],
            n_ctx=job["context"],
            n_threads=threads,
            n_threads_batch=threads,
            n_batch=512,
            n_ubatch=512,
            verbose=False,
            logits_all=False,
        )
        info = llama_cpp.llama_print_system_info().decode("utf-8", "replace").split("|")
        names = [part.split("=")[0].split(":")[-1].strip() for part in info if part.strip().endswith("= 1")]
        self.about = {
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "isa": " ".join(names),
            "threads": threads,
        }

    def feed(self, ids: list[int]) -> None:
        """Evaluates a prompt on an empty timeline."""
        self.model.reset()
        self.model.eval(ids)

    def decode(self, tokens: int) -> None:
        """Draws and evaluates so many tokens."""
        for _ in range(tokens):
            self.model.eval([self.model.sample(temp=0.0)])


PROGRAMS: dict[str, tuple[str, Any]] = {"edge_gemma": ("edge_gemma", EdgeGemma), "llama.cpp": ("llama_cpp", Llama)}


def measure(program: str, job: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run."""
    module, runner_of = PROGRAMS[program]
    importlib.import_module(module)
    start = time.perf_counter()
    runner = runner_of(job)
    loaded = time.perf_counter()
    runner.feed(job["ids"][:WARM_UP])
    begin = time.perf_counter()
    runner.feed(job["ids"])
    first = time.perf_counter()
    runner.decode(job["tokens"])
    end = time.perf_counter()
    return {
        "load_s": loaded - start,
        "prefill_tok_s": len(job["ids"]) / (first - begin),
        "first_token_s": first - begin,
        "decode_tok_s": job["tokens"] / (end - first),
        "peak_mb": _peak(),
        "about": runner.about,
    }


def _peak() -> float | None:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.load(sys.stdin))))
