"""`edge-gemma translate`: speech or text from one language into another.

Owns the decision between the two, and texts; recordings go the way of `transcribe`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from .common import UsageError, add_verb, open_model, sampling
from .recordings import INTERRUPTED, add_recording_options, plan, replacing, write_down
from .terminal import Interrupt, Screen

EXAMPLES = """
edge-gemma translate --from en --to de talk.wav
edge-gemma translate --from Spanish --to English --bilingual --output film.srt film.flac
edge-gemma translate --to French "Where is the station?"
edge-gemma translate --to ja letter.txt
cat letter.txt | edge-gemma translate --to ja
"""

CHOICE = """\
An argument that is the path of an existing file is that file: a recording if its name ends as those of sound files do or
its content is no text, else a text. Any other argument is the text itself. --as decides otherwise."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "translate", "translate speech or text", EXAMPLES)
    parser.description = f"{parser.description}\n\n{CHOICE}"
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE|TEXT",
        help="recordings, or one text or text file; - or none is standard input",
    )
    parser.add_argument(
        "--from", dest="source", metavar="L", help="language of the input, a name or a code (default: any)"
    )
    parser.add_argument("--to", required=True, metavar="L", help="language to translate into")
    parser.add_argument(
        "--as", dest="kind", choices=("speech", "text"), help="take the input for a recording, or a file for a text"
    )
    parser.add_argument("--bilingual", action="store_true", help="text and subtitles with the original above")
    add_recording_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Translates the inputs."""
    inputs = args.inputs or ["-"]
    if "-" in inputs and sys.stdin.isatty():
        raise UsageError("nothing to translate: give a file or a text as argument, or on standard input")
    stdin = _Stdin() if "-" in inputs else None
    kinds = [_kind(args.kind, value, stdin) for value in inputs]
    if set(kinds) == {"speech"}:
        return write_down(args, inputs, args.source, args.to, stdin)
    if len(inputs) > 1:
        raise UsageError("several arguments must all be recordings; put a text in quotation marks")
    return _text(args, inputs[0], kinds[0], stdin)


class _Stdin:
    """Standard input, whose beginning can be looked at before it is read."""

    name = "standard input"

    def __init__(self) -> None:
        self._raw = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 -- lives with the process
        self._head: bytes | None = None

    @property
    def head(self) -> bytes:
        """What comes first; waits for it."""
        if self._head is None:
            self._head = self._raw.read(4096) or b""
        return self._head

    def read(self, n: int = -1) -> bytes:
        """At most n bytes, as soon as there are some; all of them for -1."""
        if n < 0:
            return self.head + self._raw.readall()
        head, self._head = self.head[:n], self.head[n:]
        return head or self._raw.read(n) or b""


def _kind(wanted: str | None, value: str, stdin: _Stdin | None) -> str:
    """What the input is: speech, a document, or a text."""
    from ..speech.translator import input_kind, is_text

    if wanted == "speech":
        return "speech"
    if value == "-" and stdin:
        return "document" if wanted or is_text(stdin.head) else "speech"
    if wanted == "text":
        return "document" if Path(value).is_file() else "text"
    return input_kind(value)


def _text(args: argparse.Namespace, value: str, kind: str, stdin: _Stdin | None) -> int:
    """Translates one text; what comes goes to standard output at once, and to a file when it is whole."""
    from ..errors import Cancelled
    from ..speech.translator import Translator, read_text

    if args.resume:
        raise UsageError("--resume is for recordings")
    format, (output,) = plan(args, [value if kind == "document" else "translation"])
    if format not in ("txt", "json"):
        raise UsageError(f"a text has no times, so it can not become {format}")
    if value == "-" and stdin:
        text = stdin.read().decode("utf-8-sig", "replace")
    else:
        text = read_text(value) if kind == "document" else value
    if not text.strip():
        raise UsageError("the text is empty")
    screen = Screen(sys.stdout) if output is None and format == "txt" else None
    said: list[str] = []
    with (
        open_model(args) as model,
        Translator(
            model,
            args.to,
            args.source,
            context=args.context,
            kv=args.kv,
            memory_limit=args.memory_limit,
            max_tokens=args.max_tokens,
            stop=args.stop,
            sampling=sampling(args),
        ) as translator,
    ):
        if screen and args.bilingual:
            screen.line(text.strip() + "\n")
        with Interrupt(translator.cancel) as interrupt, contextlib.suppress(Cancelled):
            for piece in translator.pieces(text):
                said.append(piece)
                if screen:
                    screen.write(piece)
        names = {"from": translator.source_language, "to": translator.to}
    if screen:
        screen.end_line()
    if interrupt.hit:
        return INTERRUPTED
    if not screen:
        _deliver(_written(format, text.strip(), "".join(said), args.bilingual, names), output)
    return 0


def _written(format: str, text: str, translation: str, bilingual: bool, names: dict[str, str | None]) -> str:
    if format == "json":
        return json.dumps({**names, "text": text, "translation": translation}, indent=2, ensure_ascii=False) + "\n"
    return f"{text}\n\n{translation}\n" if bilingual else f"{translation}\n"


def _deliver(content: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(content)
    elif output.exists() and not output.is_file():  # a pipe or a device
        output.write_text(content, encoding="utf-8")
    else:
        with replacing(output.resolve()) as file:
            file.write(content)
