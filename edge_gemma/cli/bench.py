"""`edge-gemma bench`: speed and memory of a model on this machine.

Each repeat opens the model, feeds a prompt of random tokens and decodes greedily; the median is reported. Definitions:

    load_s          opening the model file
    prefill_tok_s   prompt tokens / time until the logits of the last one are there
    first_token_s   from feeding the prompt to the first token of the answer
    decode_tok_s    further tokens / their time
    peak_rss_mb     most memory of the process resident at once, by the kernel's count, in 10^6 bytes
    bytes_per_token weights that decoding one token reads

With --audio come the figures of bench_audio.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import time
from typing import Any

from . import bench_audio, inspection
from .common import (
    UsageError,
    add_model_options,
    add_session_options,
    add_verb,
    count,
    format_bytes,
    format_count,
    model_path,
    open_model,
    print_json,
)

SEED = 20240229
MEASURES = ("load_s", "prefill_tok_s", "decode_tok_s", "first_token_s")

EXAMPLES = """
edge-gemma bench -m gemma-4-E2B-it-Q4_0.gguf
edge-gemma bench --prompt-tokens 1024 --tokens 128 --threads 4
edge-gemma bench --json | jq .decode_tok_s
edge-gemma bench --audio speech.wav
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "bench", "measure speed and memory", EXAMPLES)
    parser.add_argument("--prompt-tokens", "-p", type=count, default=512, metavar="N", help="default: 512")
    parser.add_argument("--tokens", "-n", type=count, default=64, metavar="N", help="tokens to decode (default: 64)")
    parser.add_argument("--repeats", "-r", type=count, default=3, metavar="N", help="the median counts (default: 3)")
    parser.add_argument("--audio", metavar="FILE", help="also measure hearing, with this recording, at the speed of speech")
    parser.add_argument("--json", action="store_true", help="one JSON object with all values instead of a table")
    add_session_options(parser)
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measures and reports."""
    report = measure(args)
    if args.json:
        print_json(report)
    else:
        _print_report(report)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures as one dictionary; the medians at its top level, each single value under "values"."""
    path = model_path(args)
    context = args.context or args.prompt_tokens + args.tokens
    if context < args.prompt_tokens + args.tokens:
        raise UsageError(f"--context {context} has no room for {args.prompt_tokens} + {args.tokens} tokens")
    from .. import __version__, isa

    samples = bench_audio.load(args.audio) if args.audio else None
    measures = MEASURES + (bench_audio.MEASURES if args.audio else ())
    values: dict[str, list[float]] = {name: [] for name in measures}
    about: dict[str, Any] = {}
    for _ in range(args.repeats):
        start = time.perf_counter()
        with open_model(args) as model:
            values["load_s"].append(time.perf_counter() - start)
            measured = _measure_session(model, args, context)
            if samples is not None:
                measured |= bench_audio.measure(model, samples, args.kv)
            for name, value in measured.items():
                values[name].append(value)
            about = {
                "name": model.config.name,
                "parameters": model.config.parameters,
                "bytes_per_token": model.config.decode_bytes,
                "threads": model.threads,
            }
    return {
        **{name: statistics.median(every) for name, every in values.items()},
        **({} if samples is None else {"audio_s": bench_audio.seconds(samples)}),
        "peak_rss_mb": peak_memory(),
        "bytes_per_token": about.pop("bytes_per_token"),
        "model": {"file": os.path.basename(path), "type": _type(path), **about},
        "prompt_tokens": args.prompt_tokens,
        "tokens": args.tokens,
        "context": context,
        "kv": args.kv,
        "repeats": args.repeats,
        "isa": isa,
        "version": __version__,
        "values": values,
    }


def _measure_session(model: Any, args: argparse.Namespace, context: int) -> dict[str, float]:
    ids = prompt_ids(model.tokenizer, args.prompt_tokens)
    with contextlib.closing(model.session(context=context, kv=args.kv)) as session:
        start = time.perf_counter()
        session.feed_tokens(ids)
        session.logits()
        prefilled = time.perf_counter()
        _decode(session, 1)
        first = time.perf_counter()
        further = args.tokens - 1
        _decode(session, further)
        end = time.perf_counter()
    return {
        "prefill_tok_s": len(ids) / (prefilled - start),
        "first_token_s": first - start,
        "decode_tok_s": further / (end - first) if further else 1 / (first - prefilled),
    }


def _decode(session: Any, tokens: int) -> None:
    """Draws exactly so many tokens; random prompts end answers at any time, and then it simply goes on."""
    target = session.stats["decode_tokens"] + tokens
    while (left := target - session.stats["decode_tokens"]) > 0:
        before = left
        for _ in session.generate(max_tokens=left, temperature=0.0):
            pass
        if target - session.stats["decode_tokens"] == before:
            raise RuntimeError("the session draws no token")


def prompt_ids(tokenizer: Any, n: int) -> list[int]:
    """The same n random tokens for the same vocabulary; none that is special."""
    draw = random.Random(SEED)
    ids: list[int] = []
    for _ in range(1000 * n):
        if len(ids) == n:
            break
        index = draw.randrange(tokenizer.vocab_size)
        text = tokenizer.decode([index])  # empty for control tokens; "<...>" is a marker
        if text and not text.startswith("<"):
            ids.append(index)
    return ids


def peak_memory() -> float | None:
    """Peak resident memory of this process in 10^6 bytes; None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _type(path: str) -> str | None:
    from ..gguf import GGUFFile
    from .info import tensor_rows

    with GGUFFile(path) as file:
        return inspection.main_type(tensor_rows(file))


def _print_report(report: dict[str, Any]) -> None:
    model = report["model"]
    rate = report["bytes_per_token"] * report["decode_tok_s"]
    peak = report["peak_rss_mb"]
    print(f"{model['name'] or model['file']} ({model['type']}, {format_count(model['parameters'])} parameters)")
    print(f"{report['isa']}, {model['threads']} threads, median of {report['repeats']}")
    rows: tuple[tuple[str, str, str], ...] = (
        ("load", f"{report['load_s'] * 1000:.1f} ms", ""),
        ("prefill", f"{report['prefill_tok_s']:.1f} tok/s", f"{report['prompt_tokens']} tokens"),
        ("first token", f"{report['first_token_s']:.3f} s", "after the prompt began"),
        ("decode", f"{report['decode_tok_s']:.1f} tok/s", f"{report['tokens']} tokens, {format_bytes(rate)}/s"),
        ("read per token", format_bytes(report["bytes_per_token"]), ""),
        ("peak memory", f"{peak:.0f} MB" if peak else "unknown", f"context {report['context']}, kv {report['kv']}"),
    )
    if "audio_s" in report:
        rows += bench_audio.rows(report)
    for label, value, note in rows:
        print(f"  {label:<14}  {value:>14}  {note}".rstrip())
