"""`edge-gemma rm`: removes downloaded models."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, FAILED, UsageError, add_verb, error_text
from .terminal import print_error

EXAMPLES = """
edge-gemma rm e2b
edge-gemma rm e2b:Q8_0 unsloth/gemma-4-E4B-it-GGUF --yes
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "rm", "remove models that were downloaded", EXAMPLES)
    parser.add_argument("names", nargs="+", metavar="NAME", help="as `edge-gemma list` shows it")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    return parser


def run(args: argparse.Namespace) -> int:
    """Removes the models one after the other; one that cannot be removed does not keep the others."""
    from ..errors import EdgeGemmaError
    from ..hub import find, remove

    if not args.yes and not sys.stdin.isatty():
        raise UsageError("rm asks before it removes something, and here nobody can answer: give --yes.")
    failed = False
    for name in args.names:
        try:
            found = find(name)  # before the question: a name that is wrong needs none
            if not args.yes and not _confirmed(name, sum(map(_size, found))):
                continue
            print(f"{name} is removed, {format_bytes(remove(name))} are free.")
        except EdgeGemmaError as error:
            failed = True
            print_error(error_text(error))
    return FAILED if failed else DONE


def _size(entry: Any) -> int:
    """Bytes of a model with its sidecar."""
    size: int = entry.size + (entry.sidecar.stat().st_size if entry.sidecar else 0)
    return size


def _confirmed(name: str, size: int) -> bool:
    """Asks at the terminal. Ctrl-D means no."""
    what = f"{name}, {format_bytes(size)}" if size else f"the interrupted download of {name}"
    print(f"Remove {what}? [y/N] ", end="", flush=True, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
