"""`edge-gemma completion`: prints a script with which a shell completes verbs, options and file names.

`shtab` makes the script from the parsers of all verbs.
"""

from __future__ import annotations

import argparse
from typing import Any

from .common import DONE, add_verb, typed_python

SHELLS = ("bash", "zsh", "fish")
FILES = ("FILE", "PATH", "IN", "OUT", "HF_DIR", "INPUT")  # placeholders of what a file name can stand for

EXAMPLES = """
eval "$(edge-gemma completion bash)"
edge-gemma completion bash >> ~/.bash_completion
edge-gemma completion zsh > "${fpath[1]}/_edge-gemma"
edge-gemma completion fish > ~/.config/fish/completions/edge-gemma.fish
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(
        subparsers, "completion", "print a script that lets a shell complete the command with Tab", EXAMPLES
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from ..errors import EdgeGemmaError
    from . import verb_parsers

    try:
        import shtab
    except ImportError as error:
        raise EdgeGemmaError(f"completion needs the package shtab: `{typed_python()} -m pip install shtab`.") from error
    root, verbs = verb_parsers()
    for parser in verbs.values():
        for action in [*parser.positionals(), *parser.options()]:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # an attribute that shtab looks for
    print(shtab.complete(root, args.shell))
    return DONE
