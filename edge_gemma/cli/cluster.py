"""`edge-gemma transcribe --ray`: archives on the machines of a Ray cluster. The work is in `edge_gemma.speech.cluster`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from .common import DONE, FAILED, INTERRUPTED, UsageError, model_paths
from .recordings import PARQUET
from .terminal import ArchiveBar, format_clock, print_error

_NAMES = ("initial_prompt", "hotwords", "order", "max_seconds", "whole", "max_tokens", "stop", "batch", "context", "kv")
_SINGLE = ("resume", "watch", "nice", "word_times", "memory_limit", "rate", "channels")


def write_on_cluster(args: argparse.Namespace, names: list[str]) -> int:
    """Transcribes what the names mean. Returns the exit status: FAILED if a recording failed."""
    from ..speech.cluster import transcribe_on_ray

    if args.output in (None, "", "-"):
        raise UsageError("--ray needs --output FOLDER, or the URL of a folder, for the records.")
    if args.format not in (None, "jsonl", PARQUET):
        raise UsageError(f"the records of a cluster are jsonl or parquet, not {args.format}.")
    for name in _SINGLE:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} is not for --ray.")
    began = time.perf_counter()
    options: dict[str, Any] = {name: getattr(args, name) for name in _NAMES}
    options |= {"language": args.language, "detector": args.vad, "guarded": args.guard is not False}
    options |= {"detect_language": "segments" if args.details else args.language is None}
    if args.temperature:
        raise UsageError("--temperature is not for --ray: each machine writes the most likely words.")
    model, mmproj = model_paths(args)
    with ArchiveBar(0, 0) as bar:

        def progress(record: dict[str, Any], done: int, all: int) -> None:
            bar.count(done, all)
            if error := record.get("error"):
                print_error(error if record["path"] in error else f"{record['path']}: {error}")

        try:
            summary = transcribe_on_ray(
                args.ray,
                names,
                args.output,
                format=args.format or "jsonl",
                model=model,
                mmproj=mmproj,
                threads=args.threads,
                options=options,
                progress=progress,
            )
        except KeyboardInterrupt:
            print("edge-gemma: interrupted; the same command goes on from there.", file=sys.stderr)
            return INTERRUPTED
    took = time.perf_counter() - began
    rate = f"{summary.seconds / took:.1f} times real time"
    print(
        f"done     {summary.done:6}  {format_clock(summary.seconds)} of sound in {format_clock(took)}, {rate}",
        file=sys.stderr,
    )
    if summary.skipped:
        print(f"skipped  {summary.skipped:6}  done before", file=sys.stderr)
    if summary.failures:
        print(f"failed   {len(summary.failures):6}  see failed-recordings.jsonl", file=sys.stderr)
    return FAILED if summary.failures else DONE
