"""`edge-gemma prepare`: makes the sidecar of a model, with a leaner head.

Owns the options and the messages. The work is done by `edge_gemma.files.prepare`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, INTERRUPTED, add_verb, count
from .parsing import file_path
from .terminal import Bar

EXAMPLES = """
edge-gemma prepare gemma-4-E2B-it-Q4_0.gguf
edge-gemma prepare e4b
edge-gemma prepare model-Q4_K_M.gguf --type Q5_K --force
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "prepare", "make a model need less memory, with a file beside it", EXAMPLES)
    parser.add_argument(
        "model",
        type=file_path,
        metavar="FILE",
        help="a model, or the name of one that was downloaded; the sidecar of X.gguf is X.lean.gguf. It has the model's"
        " head, the largest matrix that every token reads, in fewer bits, and is used whenever the model is opened",
    )
    parser.add_argument(
        "--type",
        default="IQ4_XS",
        metavar="T",
        help="type of the head in the sidecar: IQ4_XS, Q4_K, IQ4_NL, Q4_0, Q5_K (default: IQ4_XS)",
    )
    parser.add_argument("--force", "-f", action="store_true", help="make a sidecar again that is there already")
    parser.add_argument("--threads", "-t", type=count, metavar="N", help="worker threads (default: all processors)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Makes the sidecar and prints what it saves."""
    from ..files.prepare import prepare

    try:
        with Bar(Path(args.model).name, 0, 1, format_bytes) as bar:
            done = prepare(
                args.model,
                type=args.type,
                force=args.force,
                threads=args.threads,
                progress=lambda done, total, name: bar.update(done, total),
            )
    except KeyboardInterrupt:
        print("stopped: nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print(f"{done.path}  {format_bytes(done.bytes)}{'' if done.made else ', made before'}")
    print(
        f"  head    {done.head} -> {done.type}: a token reads {format_bytes(done.saved)} less, which stay out of memory"
    )
    print(f"  to undo it, remove {done.path.name}")
    return DONE
