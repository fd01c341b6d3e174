"""`edge-gemma pull`: downloads a model from the Hugging Face Hub, so that `--model e2b` finds it.

A model of four bits that is meant for small devices is prepared at once (`edge-gemma prepare`), and the output says how much
memory it needs. `--quant mobile` converts Google's packed checkpoint. `--for` chooses model and quantization.

Owns the options and the messages. The work is done by `edge_gemma.hub`, `files/mobile.py` and `files/prepare.py`. The paths of
the files go to standard output, the progress to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from ..hub.devices import CONTEXT, SHARE
from .common import DONE, FAILED, INTERRUPTED, UsageError, add_verb, error_text, print_json, size, typed_command
from .terminal import Bar, Screen, print_error

EXAMPLES = """
edge-gemma pull e2b
edge-gemma pull e2b --quant mobile
edge-gemma pull --for 4GB
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
        nargs="?",
        metavar="NAME",
        help="e2b, e4b, 26b, 31b, or a repository of GGUF files: OWNER/REPO, or its address",
    )
    parser.add_argument(
        "--quant",
        "-q",
        metavar="TYPE",
        help="quantization (default: Q4_0, or the next best in the repository); mobile: e2b or e4b of Google's packed"
        " checkpoint, 2 and 4 bits, for small devices",
    )
    parser.add_argument(
        "--for",
        dest="device",
        type=size,
        metavar="SIZE",
        help="instead of NAME and --quant: the best model for a device with this much memory, such as 2GB, 4GB or 8GB",
    )
    parser.add_argument(
        "--no-prepare", action="store_true", help="do not make the file that lets a small model need less memory"
    )
    parser.add_argument("--no-mmproj", action="store_true", help="do not download the encoders of audio and images")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: main)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def run(args: argparse.Namespace) -> int:
    """Downloads the files that the cache lacks, and makes what belongs to them."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # errors are printed once, by this program
    choice = _chosen(args)
    from ..errors import EdgeGemmaError
    from ..hub.names import parse

    shown, failure = _Shown(), None
    try:
        done = _pull(args, shown)
        try:
            sidecar = None if args.no_prepare else _prepare(done.model, shown)
        except EdgeGemmaError as error:  # the model is there, and works
            sidecar, failure = None, error
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
                "sidecar": sidecar and str(sidecar),
                "bytes": done.size,
                "downloaded_bytes": done.downloaded,
                "unchecked": done.unchecked,
                "memory": _memory(done.model, args.device),
            }
        )
    else:
        print(f"{done.repository}, {format_bytes(done.size)}{'' if done.downloaded else ', downloaded before'}")
        print(f"  model   {done.model}")
        if done.mmproj:
            print(f"  mmproj  {done.mmproj}")
        elif not args.no_mmproj:
            print("  mmproj  the repository has no encoders")
        if sidecar:
            print(f"  sidecar {sidecar}")
        if done.unchecked:
            print(f"edge-gemma: warning: nothing newer was looked for: {done.unchecked}.", file=sys.stderr)
        if choice:
            print(f"For a device of {format_bytes(args.device)}: {choice.name} as {choice.quant}: {choice.why}.")
        if text := _memory_text(_memory(done.model, args.device)):
            print(text)
        limit = f"--memory-limit {args.device * SHARE / 1e9:.3g}GB " if choice else ""
        print(f'Now: {typed_command()} run -m {name} {limit}"Hello"')
    if failure:
        print_error(f"{error_text(failure)} `{typed_command()} prepare {name}` makes the sidecar later.")
    return FAILED if failure else DONE


def _chosen(args: argparse.Namespace) -> Any:
    """Sets name and quantization by --for, and returns the choice; None where the user has named the model."""
    if args.device is None:
        if not args.name:
            raise UsageError("which model? Give a NAME such as e2b, or --for 4GB for the best one for a device.")
        return None
    if args.name or args.quant or args.revision:
        raise UsageError("--for chooses the model: leave out NAME, --quant and --revision.")
    from ..hub.devices import choose

    choice = choose(args.device)
    args.name, args.quant = choice.name, choice.quant
    return choice


def _pull(args: argparse.Namespace, shown: _Shown) -> Any:
    """The files in the cache: downloaded, or converted from the packed checkpoint."""
    from ..hub.names import MOBILE, checkpoint_of, parse

    wanted = parse(args.name)
    options = {"mmproj": not args.no_mmproj, "revision": args.revision, "progress": shown}
    quant = args.quant or (wanted.quant if wanted else None)
    if (quant or "").upper() == MOBILE or (wanted and checkpoint_of(wanted.name) == wanted.name):
        from ..files.mobile import pull_mobile

        return pull_mobile(args.name, **options)
    from ..hub import pull

    return pull(args.name, args.quant, **options)


def _prepare(model: Path, shown: _Shown) -> Path | None:
    """Makes the sidecar of a model for which that is worthwhile. Returns its path."""
    from ..errors import EdgeGemmaError
    from ..files.prepare import is_worthwhile, prepare

    try:
        if not is_worthwhile(model):
            return None
    except EdgeGemmaError:  # what cannot be read now gives its error when it is used
        return None
    name = f"preparing {model.name}"
    return prepare(model, progress=lambda done, total, _: shown(name, done, total)).path


def _memory(model: Path, device: int | None) -> dict[str, Any] | None:
    """What a process takes with a context of 8,192 tokens, text alone; for a device also what fits. None for a file that the
    engine cannot open."""
    from .. import Model
    from ..engine.memory import MemoryLimit, fit, memory_need
    from ..errors import EdgeGemmaError

    try:
        with Model.load(model) as opened:
            context = min(CONTEXT, opened.config.context_length)
            found: dict[str, Any] = {"context": context, "bytes": memory_need(opened, context, fresh=True).total}
            if device:
                plan = fit(opened, MemoryLimit(int(device * SHARE), fresh=True))
                found |= {"fits_context": plan.context, "fits_kv": plan.kv, "fits_bytes": plan.need.total}
            return found
    except EdgeGemmaError:
        return None


def _memory_text(memory: dict[str, Any] | None) -> str:
    """The same as a sentence."""
    if memory is None:
        return ""
    text = f"It needs at most {memory['bytes'] / 1e9:.2f} GB of memory with a context of {memory['context']} tokens."
    if "fits_context" in memory:
        text += (
            f" A context of {memory['fits_context']} tokens with a {memory['fits_kv']} cache takes"
            f" {memory['fits_bytes'] / 1e9:.2f} GB."
        )
    return text


class _Shown:
    """Shows the progress at a terminal: a line and a bar for each file."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Bar | None = None
        self._screen = Screen(sys.stderr)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows progress, as `hub.Progress` describes it."""
        if what != self._what:
            self.close()
            self._what = what
            if self._screen.is_terminal and not what.startswith(("checking ", "converting ", "preparing ")):
                self._screen.line(f"{what}, {format_bytes(total)}", "dim")
            self._bar = Bar(what, done, total, format_bytes).__enter__()
        if self._bar:
            self._bar.update(done, total)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar:
            self._bar.__exit__()
            self._bar = None
