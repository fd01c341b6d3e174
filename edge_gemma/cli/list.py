"""`edge-gemma list`: the models that were downloaded."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, add_verb, print_json, print_table, typed_command

EXAMPLES = """
edge-gemma list
edge-gemma list --json
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "list", "list the models that were downloaded", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of text")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the Gemma 4 models of the cache; models of other kinds are left out."""
    from ..hub import downloaded, interrupted
    from ..hub.cache import cache_folder

    models = [entry for entry in downloaded() if _is_gemma4(str(entry.model))]
    if args.json:
        print_json(
            [
                {
                    "name": entry.name,
                    "repository": entry.repository,
                    "quant": entry.quant,
                    "bytes": entry.size,
                    "model": str(entry.model),
                    "mmproj": entry.mmproj and str(entry.mmproj),
                    "sidecar": entry.sidecar and str(entry.sidecar),
                    "downloaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.time)),
                }
                for entry in models
            ]
        )
        return DONE
    if not models:
        print(f"No model is in {cache_folder()}. `{typed_command()} pull e2b` downloads one.")
    else:
        rows: list[tuple[str, ...]] = [("NAME", "SIZE", "ENCODERS", "SIDECAR", "DOWNLOADED")]
        for entry in models:
            encoders = format_bytes(entry.mmproj.stat().st_size) if entry.mmproj else "-"
            sidecar = format_bytes(entry.sidecar.stat().st_size) if entry.sidecar else "-"
            day = time.strftime("%Y-%m-%d", time.localtime(entry.time))
            rows.append((entry.name, format_bytes(entry.size), encoders, sidecar, day))
        print_table(rows, indent=0)
    for repository, size in interrupted().items():
        print(
            f"interrupted: {repository}, {format_bytes(size)}. `{typed_command()} pull {repository}` continues the download, "
            f"`rm {repository}` removes it."
        )
    return DONE


def _is_gemma4(path: str) -> bool:
    """Whether a file is a model of this engine."""
    from .. import EdgeGemmaError, GGUFFile

    try:
        with GGUFFile(path) as file:
            return file.metadata.get("general.architecture") == "gemma4"
    except EdgeGemmaError:  # damaged: it is shown, so that it can be removed
        return True
