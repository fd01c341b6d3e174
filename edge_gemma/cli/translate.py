"""`edge-gemma translate`: translates speech or text into another language.

Owns the decision whether an input is speech or text, and the translation of texts. Recordings are translated by
recordings.py, as for `transcribe`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .archive import write_archive
from .common import DONE, INTERRUPTED, SEPARATE, UsageError, add_verb, language, open_model, sampling, spoken_language
from .outputs import STDOUT, is_stream, naming, open_text, replacing
from .parsing import plain_text
from .recordings import add_recording_options, plan, write_down
from .terminal import Interrupt, Screen

EXAMPLES = """
edge-gemma translate --from en --to de talk.wav
edge-gemma translate --from Spanish --to English --bilingual --output film.srt film.flac
edge-gemma translate --to French "Where is the station?"
edge-gemma translate --to ja letter.txt
cat letter.txt | edge-gemma translate --to ja
"""

CHOICE = """\
An argument that is the path of an existing file means that file. The file is a recording if its name ends like that of a
sound file, or if its content is not text; otherwise it is a text. Any other argument is the text itself. --as overrides
this."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "translate", "translate speech or text", EXAMPLES)
    parser.description = f"{parser.description}\n\n{CHOICE}"
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE|TEXT",
        help="recordings, or folders of them with --output FOLDER; or one text or text file (default, and -: standard input)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=spoken_language,
        metavar="L",
        help="language of the input, a name or a code (default: any)",
    )
    parser.add_argument("--to", required=True, type=language, metavar="L", help="language to translate into")
    parser.add_argument(
        "--as", dest="kind", choices=("speech", "text"), help="treat the inputs as recordings, or as texts"
    )
    parser.add_argument("--bilingual", action="store_true", help="write the original above the translation")
    add_recording_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Translates the inputs."""
    inputs = args.inputs or ["-"]
    if "-" in inputs and sys.stdin.isatty():
        raise UsageError("there is nothing to translate: give a file or a text as argument, or on standard input.")
    if folders := [value for value in inputs if args.kind != "text" and os.path.isdir(value)]:
        others = [value for value in inputs if value not in folders and not os.path.isfile(value)]
        if others:
            raise UsageError(f"{folders[0]} is a folder, and {others[0]} is no file: translate one of them at a time.")
        return write_archive(args, inputs, args.source, args.to)
    if args.channels == SEPARATE:
        return write_archive(args, inputs, args.source, args.to)
    stdin = _Stdin() if "-" in inputs else None
    kinds = [_kind(args.kind, value, stdin) for value in inputs]
    if set(kinds) == {"speech"}:
        return write_down(args, inputs, args.source, args.to, stdin)
    if "text" in kinds and not any(
        kind == "speech" or Path(value).is_file() for kind, value in zip(kinds, inputs, strict=True)
    ):
        inputs, kinds = [plain_text(" ".join(inputs))], ["text"]  # words of one text
    if len(inputs) > 1 and "speech" not in kinds:
        raise UsageError("one text file can be translated at a time; put a text in quotation marks.")
    if len(inputs) > 1:
        raise UsageError("several arguments must all be recordings: put a text in quotation marks.")
    return _text(args, inputs[0], kinds[0], stdin)


class _Stdin:
    """Standard input as a binary file whose first bytes can be inspected before they are read."""

    name = "standard input"

    def __init__(self) -> None:
        self._raw = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 -- lives with the process
        self._peeked: bytes | None = None

    def peek(self) -> bytes:
        """The first bytes, without reading them; waits until there are some."""
        if self._peeked is None:
            self._peeked = self._raw.read(4096) or b""
        return self._peeked

    def read(self, n: int = -1) -> bytes:
        """At most n bytes, as soon as there are any; all of them for -1."""
        peeked = self.peek()
        if n < 0:
            return peeked + self._raw.readall()
        data, self._peeked = peeked[:n], peeked[n:]
        return data or self._raw.read(n) or b""


def _kind(wanted: str | None, value: str, stdin: _Stdin | None) -> str:
    """What an input is: "speech", "document" (a file or standard input with a text), or "text" (the argument itself)."""
    from ..speech.translator import input_kind, is_text

    if wanted == "speech":
        return "speech"
    if value == "-" and stdin:
        return "document" if wanted or is_text(stdin.peek()) else "speech"
    if wanted == "text":
        return "document" if Path(value).is_file() else "text"
    return input_kind(value)


def _text(args: argparse.Namespace, value: str, kind: str, stdin: _Stdin | None) -> int:
    """Translates one text: to standard output piece by piece, or to a file when it is complete."""
    from ..errors import Cancelled
    from ..speech.translator import Translator, read_text

    if args.resume:
        raise UsageError("--resume is for recordings, not for texts.")
    if kind == "document" and value != "-" and not Path(value).is_file():
        what = "is a directory" if Path(value).is_dir() else "does not exist"
        raise UsageError(f"the file {value} {what}. If that is the text itself, add --as text.")
    format, (output,) = plan(args, [value if kind == "document" else "translation"])
    if format not in ("txt", "json", "jsonl"):
        raise UsageError(f"a text has no times, so its format cannot be {format}.")
    if value == "-" and stdin:
        text = stdin.read().decode("utf-8-sig", "replace")
    else:
        text = read_text(value) if kind == "document" else value
    if not text.strip():
        raise UsageError("the text is empty.")
    screen = Screen(sys.stdout) if output is None and format == "txt" else None
    said: list[str] = []
    with (
        open_model(args) as model,
        Translator(
            model,
            args.to,
            args.source,
            initial_prompt=args.initial_prompt,
            hotwords=args.hotwords,
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
    return DONE


def _written(format: str, text: str, translation: str, bilingual: bool, names: Mapping[str, str | None]) -> str:
    """The translation in an output format, "txt", "json" or "jsonl"."""
    if format in ("json", "jsonl"):
        indent = 2 if format == "json" else None
        return json.dumps({**names, "text": text, "translation": translation}, indent=indent, ensure_ascii=False) + "\n"
    return f"{text}\n\n{translation}\n" if bilingual else f"{translation}\n"


def _deliver(content: str, output: Path | None) -> None:
    """Writes the content to a file, or to standard output for None."""
    if output is None:
        with naming(STDOUT):
            sys.stdout.write(content)
            sys.stdout.flush()
    elif is_stream(output):
        with naming(output), open_text(output) as file:
            file.write(content)
    else:
        with replacing(output) as file:
            file.write(content)
