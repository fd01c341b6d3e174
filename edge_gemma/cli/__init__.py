"""The command `edge-gemma`: finds the verb, runs it, and turns failures into one line and an exit status.

Each verb is a module of this folder with `add_parser(subparsers)` and `run(args) -> int`. A new verb is a new file here
(a folder if it takes several files, as `bench/`) and its name in `VERBS`; it uses public names of the package only. What
several verbs need goes into common.py (options, output) or terminal.py (progress, Ctrl-C).

Only the verb that was asked for is imported. No verb imports NumPy or the engine before it has work for them.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 141 the reader of the output has ended, 143 terminated
(SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from .common import (
    BROKEN_PIPE,
    DEBUG_VARIABLE,
    DONE,
    FAILED,
    INTERRUPTED,
    UsageError,
    explain,
    preparation,
    typed_command,
)
from .encoding import tolerate_encoding
from .outputs import STDOUT, stdout_is_broken
from .parsing import WRONG_USAGE, Parser, suggestion
from .terminal import TERMINATED, print_error

VERBS = (
    "demo",
    "run",
    "chat",
    "describe",
    "transcribe",
    "translate",
    "listen",
    "assistant",
    "serve",
    "info",
    "bench",
    "convert",
    "quantize",
    "prepare",
    "pull",
    "list",
    "rm",
    "completion",
)
# What other programs call our verbs.
_SYNONYMS = {
    "ls": "list",
    "ps": "list",
    "models": "list",
    "remove": "rm",
    "delete": "rm",
    "download": "pull",
    "get": "pull",
    "show": "info",
    "inspect": "info",
    "generate": "run",
    "ask": "run",
    "complete": "completion",
    "caption": "describe",
    "look": "describe",
    "whisper": "transcribe",
    "benchmark": "bench",
    "server": "serve",
}

EPILOG = f"""\
examples:
  edge-gemma demo
  edge-gemma pull e2b
  edge-gemma run -m e2b "Why is the sky blue?"
  edge-gemma chat -m e2b
  edge-gemma describe -m e2b photo.jpg
  edge-gemma transcribe -m e2b talk.wav
  edge-gemma translate -m e2b --to German "Where is the station?"
  edge-gemma listen -m e2b --partials
  edge-gemma assistant -m e2b
  edge-gemma serve -m e2b
  edge-gemma info gemma-4-E2B-it-Q4_0.gguf
  edge-gemma bench -m e2b --json
  edge-gemma convert gemma-4-E2B-it gemma-4-E2B-it-BF16.gguf
  edge-gemma quantize model-BF16.gguf model-Q4_K_M.gguf --type Q4_K_M
  edge-gemma prepare gemma-4-E2B-it-Q4_0.gguf

`edge-gemma VERB --help` explains a verb.
The environment variables EDGE_GEMMA_MODEL and EDGE_GEMMA_MMPROJ name the files when --model and --mmproj do not. \
{DEBUG_VARIABLE}=1 shows where an error comes from."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) and returns the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the shell, as in `edge-gemma run Hello >&-`
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 -- lives with the process
    tolerate_encoding()
    try:
        with _terminable():
            status = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE


def _main(argv: list[str]) -> int:
    """Finds the verb, runs it, and writes the last of the output."""
    try:
        args = _parse(argv)
        status = _run(args) if args else DONE
    except SystemExit as stop:  # argparse has printed the help or the error, or the process was terminated
        status = stop.code if isinstance(stop.code, int) else DONE if stop.code is None else WRONG_USAGE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # the last of the output cannot be written
        _silence_stdout()
        return status if status else _fail(f"{STDOUT} cannot be written: {error.strerror}.", FAILED)
    return status


def _run(args: argparse.Namespace) -> int:
    """Runs the verb. Failures become one line on standard error and an exit status."""
    try:
        status: int = args.run(args)
        return status
    except BrokenPipeError:
        raise
    except UsageError as error:
        return _fail(str(error), WRONG_USAGE, f"edge-gemma {args.verb}")
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        return _fail(_explained(error) + preparation(error, args), FAILED)


def _explained(error: Exception) -> str:
    """One line for an exception. An error of the system that names no file is mostly about the output."""
    if isinstance(error, OSError) and error.filename is None and error.strerror and stdout_is_broken():
        _silence_stdout()
        return f"{STDOUT} cannot be written: {error.strerror}."
    return explain(error)


def _parse(argv: list[str]) -> argparse.Namespace | None:
    """The options of the verb in `argv`; None when the help was printed instead. Raises SystemExit for wrong usage."""
    if argv[:1] == ["help"]:  # as git, pip and others have it
        argv = [*(word for word in argv[1:2] if not word.startswith("-")), "--help"]
    elif argv[:1] == ["version"]:
        argv = ["--version"]
    verb = argv[0] if argv else ""
    if verb in VERBS:
        parser = verb_parsers([verb])[1][verb]
        args = parser.read(argv[1:])
        args.verb = verb
        return args
    root, _ = verb_parsers(VERBS)
    if not argv:
        print(root.format_help(), end="", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)
    if verb in ("-h", "--help", "-V", "--version"):
        root.parse_args([verb])
    elif verb.startswith("-"):
        named = next((word for word in argv if word in VERBS), "VERB")
        root.error(f"the verb comes before its options: edge-gemma {named} {verb} ...")
    elif verb in _SYNONYMS:
        root.error(f"there is no verb {verb}; edge-gemma has {_SYNONYMS[verb]} for it.")
    else:
        root.error(f"there is no verb {verb}{suggestion(verb, VERBS)}")
    return None


def verb_parsers(verbs: tuple[str, ...] | list[str] = VERBS) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command and those of the given verbs by name."""
    root = Parser(prog="edge-gemma", description="Gemma 4 on the device, from GGUF files.", epilog=EPILOG)
    root.add_argument("--version", "-V", action=_Version)
    subparsers = root.add_subparsers(title="verbs", metavar="VERB", dest="verb")
    found = {}
    for verb in verbs:
        module = importlib.import_module(f".{verb}", __name__)
        found[verb] = module.add_parser(subparsers)
        found[verb].set_defaults(run=module.run)
    return root, found


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM ends the program in order: open files are closed, and what is unfinished is removed or kept as after
    Ctrl-C."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    old: Any = signal.signal(signal.SIGTERM, leave) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, old)


class _Version(argparse.Action):
    """--version. The engine, which knows the version, is loaded only when the option is given."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"edge-gemma {__version__}")
        parser.exit()


def _fail(message: str, status: int, program: str = "edge-gemma") -> int:
    """Prints an error and returns the exit status. Commands that the message names become such as can be typed here."""
    message = message.replace("`edge-gemma ", f"`{typed_command()} ")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print_error(message, program)
    return status


def _silence_stdout() -> None:
    """Sends later output to the null device: the interpreter's last flush would fail on the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
