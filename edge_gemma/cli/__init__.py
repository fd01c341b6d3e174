"""The command `edge-gemma`: finds the verb, runs it, and turns failures into one line and an exit status.

Each verb is a module of this folder with `add_parser(subparsers)` and `run(args) -> int`. A new verb is a new file here
(a folder if it takes several files, as `bench/`) and its name in `VERBS`; it uses public names of the package only. What
several verbs need goes into common.py (options, output) or terminal.py (progress, Ctrl-C).

Only the verb that was asked for is imported. No verb imports NumPy or the engine before it has work for them.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of the output has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys

from .common import BROKEN_PIPE, DEBUG_VARIABLE, FAILED, INTERRUPTED, WRONG_USAGE, UsageError, explain

VERBS = (
    "demo",
    "run",
    "chat",
    "transcribe",
    "translate",
    "listen",
    "info",
    "bench",
    "convert",
    "quantize",
    "pull",
    "list",
    "rm",
)

EPILOG = f"""\
examples:
  edge-gemma demo
  edge-gemma pull e2b
  edge-gemma run -m e2b "Why is the sky blue?"
  edge-gemma chat -m gemma-4-E2B-it-Q4_0.gguf
  edge-gemma transcribe -m gemma-4-E2B-it-Q4_0.gguf --mmproj mmproj.gguf talk.wav
  edge-gemma translate -m gemma-4-E2B-it-Q4_0.gguf --to German "Where is the station?"
  edge-gemma listen -m gemma-4-E2B-it-Q4_0.gguf --mmproj mmproj.gguf --partials
  edge-gemma info gemma-4-E2B-it-Q4_0.gguf
  edge-gemma bench -m gemma-4-E2B-it-Q4_0.gguf --json
  edge-gemma convert gemma-4-E2B-it gemma-4-E2B-it-BF16.gguf
  edge-gemma quantize gemma-4-E2B-it-BF16.gguf gemma-4-E2B-it-Q4_K_M.gguf --type Q4_K_M

`edge-gemma VERB --help` explains a verb. EDGE_GEMMA_MODEL and EDGE_GEMMA_MMPROJ name the
files when --model and --mmproj do not; {DEBUG_VARIABLE}=1 shows where an error comes from."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) and returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # else a character that the terminal's encoding lacks raises an error
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parser(argv).parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or the error
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    try:
        status = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:  # the last of the output cannot be written
        _silence_stdout()
        return status if status else _fail(f"standard output cannot be written: {error.strerror}.", FAILED)
    return status


def _run(args: argparse.Namespace) -> int:
    """Runs the verb. Failures become one line on standard error and an exit status."""
    try:
        status: int = args.run(args)
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except UsageError as error:
        return _fail(str(error), WRONG_USAGE)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        return _fail(explain(error), FAILED)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser of the verb in `argv`, or of all verbs where there is none."""
    parser = argparse.ArgumentParser(
        prog="edge-gemma",
        description="Gemma 4 on the device, from GGUF files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", "-V", action=_Version)
    subparsers = parser.add_subparsers(metavar="VERB", required=True, dest="verb")
    for verb in argv[:1] if argv[:1] and argv[0] in VERBS else VERBS:
        module = importlib.import_module(f".{verb}", __name__)
        module.add_parser(subparsers).set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """--version. The engine, which knows the version, is loaded only when the option is given."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"edge-gemma {__version__}")
        parser.exit()


def _fail(message: str, status: int) -> int:
    """Prints an error and returns the exit status."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"edge-gemma: error: {message}", file=sys.stderr)
    return status


def _silence_stdout() -> None:
    """Sends later output to the null device: the interpreter's last flush would fail on the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
