"""`edge-gemma pull`: downloads a model from the Hugging Face Hub, so that `--model e2b` finds it.

Owns the options and the messages. The work is done by `edge_gemma.hub`. The paths of the files go to standard output, the
progress to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, INTERRUPTED, add_verb, print_json, typed_command
from .terminal import Bar, Screen

EXAMPLES = """
edge-gemma pull e2b
edge-gemma pull e4b --quant Q8_0
edge-gemma pull 26b --no-mmproj
edge-gemma pull unsloth/gemma-4-E2B-it-GGUF --quant Q5_K_M
edge-gemma run -m e2b "Hello"
edge-gemma run -m e4b:Q8_0 "Hello"
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "pull", "download a model from the Hugging Face Hub", EXAMPLES)
    parser.add_argument(
        "name",
        metavar="NAME",
        help="e2b, e4b, 26b, 31b, or a repository of GGUF files: OWNER/REPO, or its address",
    )
    parser.add_argument(
        "--quant", "-q", metavar="TYPE", help="quantization (default: Q4_0, or the next best in the repository)"
    )
    parser.add_argument("--no-mmproj", action="store_true", help="do not download the encoders of audio and images")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: main)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def run(args: argparse.Namespace) -> int:
    """Downloads the files that the cache lacks."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # errors are printed once, by this program
    from ..hub import pull
    from ..hub.download import CHECKING
    from ..hub.names import parse

    shown = _Shown(CHECKING)
    try:
        done = pull(args.name, args.quant, mmproj=not args.no_mmproj, revision=args.revision, progress=shown)
    except KeyboardInterrupt:
        shown.close()
        print("stopped: the same command continues from here.", file=sys.stderr)
        return INTERRUPTED
    finally:
        shown.close()
    wanted = parse(args.name)
    name = wanted.name if wanted else args.name
    if done.quant and (args.quant or (wanted and (wanted.quant or wanted.file))):
        name = f"{name}:{done.quant}"
    if args.json:
        print_json(
            {
                "name": name,
                "repository": done.repository,
                "revision": done.revision,
                "quant": done.quant,
                "model": str(done.model),
                "mmproj": done.mmproj and str(done.mmproj),
                "bytes": done.size,
                "downloaded_bytes": done.downloaded,
                "unchecked": done.unchecked,
            }
        )
        return DONE
    print(f"{done.repository}, {format_bytes(done.size)}{'' if done.downloaded else ', downloaded before'}")
    print(f"  model   {done.model}")
    if done.mmproj:
        print(f"  mmproj  {done.mmproj}")
    elif not args.no_mmproj:
        print("  mmproj  the repository has no encoders")
    if done.unchecked:
        print(f"edge-gemma: warning: nothing newer was looked for: {done.unchecked}.", file=sys.stderr)
    print(f'Now: {typed_command()} run -m {name} "Hello"')
    return DONE


class _Shown:
    """Shows the progress at a terminal: a line and a bar for each file."""

    def __init__(self, checking: str) -> None:
        self._checking, self._what = checking, ""
        self._bar: Bar | None = None
        self._screen = Screen(sys.stderr)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows progress, as `hub.Progress` describes it."""
        if what != self._what:
            self.close()
            self._what = what
            if self._screen.is_terminal and not what.startswith(self._checking):
                self._screen.line(f"{what}, {format_bytes(total)}", "dim")
            self._bar = Bar(what, done, total, format_bytes).__enter__()
        if self._bar:
            self._bar.update(done, total)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar:
            self._bar.__exit__()
            self._bar = None
