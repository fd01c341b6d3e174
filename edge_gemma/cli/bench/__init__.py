"""`edge-gemma bench`: speed and memory of a model on this machine.

Each repeat opens the model, feeds a prompt of random tokens and decodes greedily; the median is reported. Definitions:

    load_s          opening the model file
    prefill_tok_s   prompt tokens / time until the logits of the last one are there
    first_token_s   from feeding the prompt to the first token of the answer
    decode_tok_s    further tokens / their time
    decode_faults   major page faults of decoding one further token: pages that had to be read from the disk
    expert_hit_rate     of a model larger than memory: chosen experts that were in memory, while further tokens were decoded
    read_mb_per_token   of such a model: 10^6 bytes read from the disk or the page cache for a further token
    peak_rss_mb     peak resident memory of the process, by the kernel's count, in 10^6 bytes
    bytes_per_token weights that decoding one token reads

--audio adds the figures of audio.py. With --memory-limit the measurement runs in a process of its own with a cold page
cache, in a memory cgroup of that size where the system allows one. What does not fit then shows in the speed and in the
page faults. --compare, --sweep and --plot are in compare.py, sweep.py and plot.py, and process.py starts processes.
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

from ...engine.memory import MemoryLimit, Plan, fit, format_bytes, resident
from .. import inspection
from ..common import (
    DONE,
    INTERRUPTED,
    UsageError,
    add_model_options,
    add_session_options,
    add_verb,
    count,
    counts,
    format_count,
    format_threads,
    model_path,
    model_paths,
    open_model,
    print_json,
    rounded,
    wholes,
)
from ..parsing import file_path
from . import audio, compare, plot, sweep
from .process import MemoryGroup, run_json

SEED = 20240229
MEASURES = ("load_s", "prefill_tok_s", "decode_tok_s", "first_token_s", "decode_faults")
# More page faults a token mean that weights are read from the disk again and again. Rows of the per-layer table cause two.
THRASHES = 16

EXAMPLES = """
edge-gemma bench -m gemma-4-E2B-it-Q4_0.gguf
edge-gemma bench --prompt-tokens 1024 --tokens 128 --threads 4
edge-gemma bench --json | jq .decode_tok_s
edge-gemma bench --batch 8
edge-gemma bench --audio speech.wav
edge-gemma bench --memory-limit 1.5GB
edge-gemma bench --compare --rounds 5 --peer-python ~/llama/bin/python
edge-gemma bench --sweep --threads 1,2 --prompt 128,512,2048 --depth 0,4096,32768 --plot speed.png
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "bench", "measure speed and memory", EXAMPLES)
    parser.add_argument(
        "--prompt-tokens", "--prompt", "-p", type=counts, default=[512], metavar="N,...", help="default: 512"
    )
    parser.add_argument("--tokens", "-n", type=count, default=64, metavar="N", help="tokens to decode (default: 64)")
    parser.add_argument("--repeats", "-r", type=count, default=3, metavar="N", help="the median counts (default: 3)")
    parser.add_argument(
        "--batch", type=count, metavar="N", help="also decode N conversations at once, in one pass through the weights"
    )
    parser.add_argument(
        "--audio",
        type=file_path,
        metavar="FILE",
        help="also measure the latency of answers to speech, with this recording in real time",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with all values instead of a table")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process in the memory cgroup
    group = parser.add_argument_group("comparison with llama.cpp")
    group.add_argument(
        "--compare", action="store_true", help="alternate with llama-cpp-python on the same file and tokens"
    )
    group.add_argument("--rounds", type=count, default=3, metavar="N", help="runs of each program (default: 3)")
    group.add_argument(
        "--peer-python", type=file_path, metavar="PYTHON", help="a Python that has llama-cpp-python (default: this one)"
    )
    group = parser.add_argument_group("many sizes")
    group.add_argument(
        "--sweep", action="store_true", help="every combination of --threads, --prompt and --depth, in one table"
    )
    group.add_argument("--depth", type=wholes, metavar="N,...", help="tokens in the cache beforehand (default: 0)")
    group.add_argument(
        "--plot", type=file_path, metavar="FILE", help="also draw a chart of the sweep: .png, .svg, .pdf"
    )
    group.add_argument("--force", "-f", action="store_true", help="with --plot: replace a file that exists already")
    add_session_options(parser, default="what is needed")
    add_model_options(parser, several_threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measures and reports."""
    args.thread_counts = args.threads or [0]
    if args.sweep:
        return _sweep(args)
    for name, values in (("--threads", args.thread_counts), ("--prompt-tokens", args.prompt_tokens)):
        if len(values) > 1:
            raise UsageError(f"several numbers of {name} need --sweep.")
    if args.depth or args.plot:
        raise UsageError(f"{'--depth' if args.depth else '--plot'} needs --sweep.")
    args.threads, args.prompt_tokens = args.thread_counts[0] or None, args.prompt_tokens[0]
    if args.compare:
        report, show = _compare(args), compare.print_comparison
    elif args.memory_limit and not args.inside:
        report, show = _measure_inside(args), _print_report
    else:
        report, show = measure(args), _print_report
    if args.json:
        print_json(rounded(report))
    else:
        show(report)
    return DONE


def _sweep(args: argparse.Namespace) -> int:
    if args.compare or args.audio or args.batch or args.memory_limit:
        raise UsageError("--sweep cannot be used with --compare, --audio, --batch or --memory-limit.")
    if args.plot:
        plot.check_plot(args.plot, args.force)
    report = sweep.sweep(args, prompt_ids)
    if args.json:
        print_json(rounded(report))
    elif report["decode"]:
        sweep.print_sweep(report)
    if args.plot and report["decode"]:
        plot.write_plot(report, args.plot)
    return INTERRUPTED if report["interrupted"] else DONE


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    """The report of the comparison."""
    if args.audio or args.batch or args.memory_limit or args.kv not in (None, "f16"):
        raise UsageError("--compare cannot be used with --audio, --batch, --memory-limit, or a cache other than f16.")
    peer = args.peer_python or sys.executable
    compare.check_peer(peer)
    context = _context(args)
    with open_model(args) as model:
        ids, threads = prompt_ids(model.tokenizer, args.prompt_tokens), model.threads
    return compare.compare(model_path(args), ids, args.tokens, context, threads, args.rounds, peer, not args.no_sidecar)


def _context(args: argparse.Namespace) -> int:
    """--context, by default the length of the prompt and the answer together."""
    needed: int = args.prompt_tokens + args.tokens
    if (args.context or needed) < needed:
        raise UsageError(f"--context {args.context} has no room for {args.prompt_tokens} + {args.tokens} tokens.")
    return args.context or needed


def _measure_inside(args: argparse.Namespace) -> dict[str, Any]:
    """Measures in a process of its own. A memory cgroup enforces --memory-limit where the system allows it."""
    path, mmproj = model_paths(args)
    command = [sys.executable, "-c", _INSIDE, "bench", "--inside", "--json", "--memory-limit", f"{args.memory_limit}"]
    command += ["--model", path, "--prompt-tokens", f"{args.prompt_tokens}", "--tokens", f"{args.tokens}"]
    command += ["--repeats", f"{args.repeats}"]
    options = {
        "--mmproj": mmproj,
        "--audio": args.audio,
        "--batch": args.batch,
        "--context": args.context,
        "--kv": args.kv,
        "--threads": args.threads,
    }
    command += [word for name, value in options.items() if value is not None for word in (name, f"{value}")]
    command += ["--no-sidecar"] * args.no_sidecar
    with open_model(args) as model:  # raises an error first: a process that exceeds the limit is killed without one
        _plan(args, model, _context(args))
        files = (path, mmproj, model.sidecar)
    try:
        group = MemoryGroup(args.memory_limit)
    except OSError as error:
        report = run_json(command)
        reason = error.strerror or str(error)
        return report | {"limit": {"bytes": args.memory_limit, "enforced": False, "reason": reason}}
    for file in filter(None, files):
        _forget(file)
    with group:
        report = run_json(group.command(command))
        limit = {"bytes": args.memory_limit, "enforced": True, "group_peak": group.peak(), "hits": group.hits()}
    return report | {"limit": {**limit, "thrashes": report["decode_faults"] > THRASHES}}


def _plan(args: argparse.Namespace, model: Any, context: int) -> Plan:
    """The cache and context that stay within --memory-limit. Raises EdgeGemmaMemoryError if the limit is too small."""
    least = args.prompt_tokens + args.tokens
    limit = MemoryLimit(
        args.memory_limit, least=least, sessions=1 + (args.batch or 0), audio=args.audio is not None, vision=False
    )
    return fit(model, limit, context, args.kv)


# The program of the process: it prints the report on one line, as `run_json` expects.
_INSIDE = """
import contextlib, io, json, sys
from edge_gemma.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    status = main(sys.argv[1:])
if status == 0:
    print(json.dumps(json.loads(out.getvalue())))
sys.exit(status)
"""


def _forget(file: str | os.PathLike[str]) -> None:
    """Drops a file from the page cache, if the system can: pages that are in it already are not charged to the cgroup."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError), open(file, "rb") as data:
            os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The report: medians at the top level, and all measured values under "values"."""
    path, context, kv = model_path(args), _context(args), args.kv or "f16"
    from ... import __version__, isa

    samples = audio.load(args.audio) if args.audio else None
    measures = MEASURES + (audio.MEASURES if args.audio else ()) + (("batch_tok_s",) if args.batch else ())
    values: dict[str, list[float]] = {name: [] for name in measures}
    about: dict[str, Any] = {}
    plan = None
    for _ in range(args.repeats):
        start = time.perf_counter()
        with open_model(args) as model:
            values["load_s"].append(time.perf_counter() - start)
            if args.memory_limit and plan is None:
                plan = _plan(args, model, context)
                context, kv = plan.context, plan.kv
            measured = _measure_session(model, args, context, kv)
            if samples is not None:
                measured |= audio.measure(model, samples, kv)
            for name, value in measured.items():
                values.setdefault(name, []).append(value)
            about = {
                "name": model.config.name,
                "parameters": model.config.parameters,
                "bytes_per_token": model.config.decode_bytes,
                "threads": model.threads,
            }
    return {
        **{name: statistics.median(every) for name, every in values.items()},
        **({} if samples is None else {"audio_s": audio.seconds(samples)}),
        **({} if plan is None else {"planned_mb": plan.need.total / 1e6}),
        "peak_rss_mb": peak_memory(),
        "page_faults": page_faults(),
        "bytes_per_token": about.pop("bytes_per_token"),
        "model": {"file": os.path.basename(path), "type": _type(path), **about},
        "prompt_tokens": args.prompt_tokens,
        "tokens": args.tokens,
        **({"batch": args.batch} if args.batch else {}),
        "context": context,
        "kv": kv,
        "repeats": args.repeats,
        "isa": isa,
        "version": __version__,
        "values": values,
    }


def _measure_session(model: Any, args: argparse.Namespace, context: int, kv: str) -> dict[str, float]:
    """The figures of one prefill and one decode."""
    ids = prompt_ids(model.tokenizer, args.prompt_tokens)
    with contextlib.closing(model.session(context=context, kv=kv)) as session:
        start = time.perf_counter()
        session.feed_tokens(ids)
        session.logits()
        prefilled = time.perf_counter()
        sweep.draw(session, 1)
        first, faults = time.perf_counter(), page_faults()
        further, read = args.tokens - 1, session.stats
        sweep.draw(session, further)
        end, faults = time.perf_counter(), page_faults() - faults
        experts = _experts(read, session.stats, further) if model.weight_budget else {}
        session.rewind_to(len(ids))
        batch = {"batch_tok_s": _measure_batch(session, args.batch, args.tokens)} if args.batch else {}
    return {
        "prefill_tok_s": len(ids) / (prefilled - start),
        "first_token_s": first - start,
        "decode_tok_s": further / (end - first) if further else 1 / (first - prefilled),
        "decode_faults": faults / max(further, 1),
        **experts,
        **batch,
    }


def _experts(before: dict[str, float], after: dict[str, float], tokens: int) -> dict[str, float]:
    """Of a model larger than memory, while so many tokens are decoded: the share of the chosen experts that were in memory, and
    the 10^6 bytes read for a token."""
    hits, misses, read = (after[name] - before[name] for name in ("expert_hits", "expert_misses", "weight_bytes"))
    share = {"expert_hit_rate": hits / (hits + misses)} if hits + misses else {}
    return {**share, "read_mb_per_token": read / 1e6 / max(tokens, 1)}


def _measure_batch(session: Any, n: int, steps: int) -> float:
    """Tokens a second of n forks together."""
    from ...engine.batch import next_tokens
    from ...engine.sampling import GREEDY

    with contextlib.ExitStack() as opened:
        sessions = [opened.enter_context(session.fork()) for _ in range(n)]
        start = time.perf_counter()
        for _ in range(steps):
            next_tokens(sessions, GREEDY)
        return steps * n / (time.perf_counter() - start)


def prompt_ids(tokenizer: Any, n: int) -> list[int]:
    """n random tokens without special ones, always the same for a vocabulary."""
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
    """Peak resident memory of this process in 10^6 bytes; None if the system does not report it."""
    if (most := resident("VmHWM")) is not None:
        return most / 1e6
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def page_faults() -> int:
    """Major page faults of this process: pages read from the disk. 0 if the system does not report them."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _type(path: str) -> str | None:
    """The type of most of the file's weights."""
    from ...engine.gguf import GGUFFile
    from ..info import tensor_rows

    with GGUFFile(path) as file:
        return inspection.main_type(tensor_rows(file))


def _print_report(report: dict[str, Any]) -> None:
    model = report["model"]
    rate = report["bytes_per_token"] * report["decode_tok_s"]
    peak = report["peak_rss_mb"]
    print(f"{model['name'] or model['file']} ({model['type']}, {format_count(model['parameters'])} parameters)")
    print(f"{report['isa']}, {format_threads(model['threads'])}, median of {report['repeats']}")
    rows: tuple[tuple[str, str, str], ...] = (
        ("load", f"{report['load_s'] * 1000:.1f} ms", ""),
        ("prefill", f"{report['prefill_tok_s']:.1f} tok/s", f"{report['prompt_tokens']} tokens"),
        ("first token", f"{report['first_token_s']:.3f} s", "after the prompt began"),
        ("decode", f"{report['decode_tok_s']:.1f} tok/s", f"{report['tokens']} tokens, {format_bytes(rate)}/s"),
        ("read per token", format_bytes(report["bytes_per_token"]), ""),
        ("peak memory", f"{peak:.0f} MB" if peak else "unknown", f"context {report['context']}, kv {report['kv']}"),
    )
    if "read_mb_per_token" in report:
        found = f"{report['expert_hit_rate']:.1%} found" if "expert_hit_rate" in report else "larger"
        rows += (("experts", found, f"{report['read_mb_per_token']:.1f} MB read for each further token"),)
    if "batch_tok_s" in report:
        ratio = report["batch_tok_s"] / report["decode_tok_s"]
        note = f"{report['batch']} conversations together, {ratio:.1f} times one"
        rows += (("batch", f"{report['batch_tok_s']:.1f} tok/s", note),)
    if "audio_s" in report:
        rows += audio.rows(report)
    if "limit" in report:
        rows += _limit_rows(report)
    for label, value, note in rows:
        print(f"  {label:<14}  {value:>14}  {note}".rstrip())


def _limit_rows(report: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Lines about a memory limit: label, value, note."""
    limit, faults = report["limit"], f"{report['decode_faults']:.1f}"
    rows: tuple[tuple[str, str, str], ...] = (
        ("memory limit", format_bytes(limit["bytes"]), f"planned {report['planned_mb']:.0f} MB"),
        ("page faults", str(report["page_faults"]), f"{faults} for each further token"),
    )
    if not limit["enforced"]:
        return (*rows, ("", "not enforced", f"no memory cgroup could be made: {limit['reason']}"))
    peak = format_bytes(limit["group_peak"]) if limit["group_peak"] else "unknown"
    verdict = "it thrashes: weights are read from the disk repeatedly" if limit["thrashes"] else "it does not thrash"
    return (*rows, ("in the cgroup", peak, f"most charged, page cache included; {verdict}"))
