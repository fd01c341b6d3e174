"""Writes docs/cli.md and the man page docs/edge-gemma.1 from the parsers of the command. Run it after a change of an option.

Both are made of the parsers' data and not of argparse's help, so that every version of Python gives the same text.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_gemma.cli import EPILOG, verb_parsers
from edge_gemma.cli.parsing import Parser, placeholder, usage

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
MAN = ROOT / "docs" / "edge-gemma.1"
SUMMARY = "Gemma 4 on the device, from GGUF files"
HEAD = """# The command `edge-gemma`

Made by `tools/cli_doc.py` from the parsers; change it there. `edge-gemma VERB --help` prints the same, and so does
`man edge-gemma` after installation.

- Options and arguments may come in any order, and options may be shortened: `--temp 0`. Behind `--` everything is an argument.
- Results go to standard output; progress, notices and errors to standard error.
- `--json` prints one JSON object. Verbs with several results print one object a line (JSON Lines).
"""
STATUS = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("130", "interrupted with Ctrl-C"),
    ("141", "the program that read the output has ended"),
    ("143", "terminated by SIGTERM"),
)
ENVIRONMENT = (
    ("EDGE_GEMMA_MODEL", "the model when --model names none: a file or a name"),
    ("EDGE_GEMMA_MMPROJ", "the encoders of that model when --mmproj names none"),
    ("EDGE_GEMMA_ISA", "the instruction set of the kernels, in place of the best one"),
    ("EDGE_GEMMA_DEBUG", "1 shows where an error comes from"),
    ("NO_COLOR", "anything turns colors off"),
)


def heading(action: argparse.Action) -> str:
    """How an argument or option is written."""
    values = placeholder(action)
    return f"{', '.join(action.option_strings)} {values}".strip() if action.option_strings else values


def text_of(action: argparse.Action) -> str:
    """The help of an argument or option as one line."""
    return " ".join((action.help or "").replace("%%", "%").split())


def paragraphs(parser: Parser) -> list[str]:
    """The description of a verb: its summary, and what else is to be said."""
    return [" ".join(text.split()) for text in (parser.description or "").split("\n\n")]


def examples_of(parser: Parser) -> tuple[list[str], str]:
    """The command lines at the end of a parser's help, and what follows them."""
    before, _, after = (parser.epilog or "").partition("\n\n")
    return [line.strip() for line in before.splitlines()[1:]], after


def title_of(title: str) -> str:
    """argparse has changed the titles of its own groups."""
    return {"positional arguments": "arguments", "optional arguments": "options"}.get(title, title)


def page() -> str:
    """docs/cli.md."""
    _, verbs = verb_parsers()
    rows = [f"| [{verb}](#{verb}) | {paragraphs(parser)[0]} |" for verb, parser in verbs.items()]
    parts = [HEAD, "| Verb | |\n|---|---|\n" + "\n".join(rows) + "\n"]
    for verb, parser in verbs.items():
        examples, after = examples_of(parser)
        description = "\n\n".join(map(marked, paragraphs(parser)))
        parts.append(f"## {verb}\n\n{description}\n\n```text\n{usage(parser)}\n```\n")
        for title, actions in parser.sections():
            lines = [f"- `{heading(action)}`: {marked(text_of(action))}" for action in actions if action.dest != "help"]
            if lines:
                parts.append(f"**{title_of(title).capitalize()}**\n\n" + "\n".join(lines) + "\n")
        parts.append("**Examples**\n\n```text\n" + "\n".join(examples) + "\n```\n")
        if after:
            title, _, body = after.partition("\n")
            parts.append(f"**{title.rstrip(':').capitalize()}**\n\n```text\n{textwrap.dedent(body)}\n```\n")
    parts.append("## Exit status\n\n" + "\n".join(f"- {number}: {text}" for number, text in STATUS) + "\n")
    parts.append("## Environment\n\n" + "\n".join(f"- `{name}`: {text}" for name, text in ENVIRONMENT) + "\n")
    return "\n".join(parts)


def marked(text: str) -> str:
    """Markdown of a help text: options as code."""
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)(?![\w`])", r"`\1`", text).replace("*", r"\*")


def roff(text: str) -> str:
    """A text in a man page."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in escaped.split("\n"))


def entries(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms and their explanations."""
    for term, text in pairs:
        yield f".TP\n.B {roff(term)}\n{roff(text)}"


def man() -> str:
    """docs/edge-gemma.1."""
    _, verbs = verb_parsers()
    parts = [
        '.\\" Made by tools/cli_doc.py from the parsers.',
        '.TH EDGE\\-GEMMA 1 "" "edge_gemma" "User Commands"',
        f".SH NAME\nedge\\-gemma \\- {roff(SUMMARY)}",
        ".SH SYNOPSIS\n.B edge\\-gemma\n.I VERB\n[OPTION ...] [ARGUMENT ...]",
        ".SH DESCRIPTION\nRuns Gemma 4 from GGUF files: chat, transcription, translation, live speech.\n"
        "Results go to standard output; progress, notices and errors to standard error.",
        ".SH VERBS",
        *entries((verb, paragraphs(parser)[0]) for verb, parser in verbs.items()),
    ]
    for verb, parser in verbs.items():
        examples, after = examples_of(parser)
        description = "\n.PP\n".join(map(roff, paragraphs(parser)))
        parts.append(f".SH {verb.upper()}\n.B {roff(usage(parser))}\n.PP\n{description}")
        for title, actions in parser.sections():
            shown = [(heading(action), text_of(action)) for action in actions if action.dest != "help"]
            if shown:
                parts += [f".SS {roff(title_of(title))}", *entries(shown)]
        parts.append(".SS examples\n.nf\n" + roff("\n".join(examples)) + "\n.fi")
        if after:
            title, _, body = after.partition("\n")
            parts.append(f".SS {roff(title.rstrip(':'))}\n.nf\n{roff(body)}\n.fi")
    lines = [line.strip() for line in EPILOG.partition("\n\n")[0].splitlines()[1:]]
    parts += [".SH EXAMPLES\n.nf\n" + roff("\n".join(lines)) + "\n.fi"]
    parts += [".SH EXIT STATUS", *entries(STATUS), ".SH ENVIRONMENT", *entries(ENVIRONMENT)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    MAN.write_text(man(), encoding="utf-8")
