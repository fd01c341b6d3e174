"""`edge-gemma convert`: converts a Hugging Face checkpoint to GGUF files.

Owns the options and the messages. The work is done by `edge_gemma.files.convert`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, UsageError, add_verb
from .parsing import file_path
from .terminal import Bar

EXAMPLES = """
edge-gemma convert gemma-4-E2B-it gemma-4-E2B-it-BF16.gguf
edge-gemma convert gemma-4-E2B-it . --type Q8_0
edge-gemma convert ./fine-tuned out.gguf --mmproj out-encoders.gguf
edge-gemma convert ./fine-tuned out.gguf --no-mmproj --force
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "convert", "make GGUF files of a Hugging Face checkpoint", EXAMPLES)
    parser.add_argument(
        "checkpoint", metavar="HF_DIR", help="directory with config.json, *.safetensors, tokenizer.json"
    )
    parser.add_argument(
        "out", metavar="OUT", help="file of the text model, or a directory, in which it gets the checkpoint's name"
    )
    parser.add_argument(
        "--mmproj", type=file_path, metavar="FILE", help="file of the encoders, if any (default: mmproj-OUT beside OUT)"
    )
    parser.add_argument("--no-mmproj", action="store_true", help="do not write the encoders")
    parser.add_argument(
        "--type",
        default="BF16",
        metavar="T",
        help="type of matrices that the checkpoint has not packed: BF16, F16, F32, Q8_0 (default: BF16)",
    )
    parser.add_argument("--force", "-f", action="store_true", help="replace files that are already there")
    return parser


def run(args: argparse.Namespace) -> int:
    """Converts the checkpoint and prints what was written."""
    if args.mmproj and args.no_mmproj:
        raise UsageError("--mmproj and --no-mmproj contradict each other.")
    from ..files.convert import convert

    with Bar(Path(args.checkpoint).resolve().name, 0, 1, format_bytes) as bar:
        written = convert(
            args.checkpoint,
            args.out,
            mmproj=False if args.no_mmproj else args.mmproj,
            type=args.type,
            force=args.force,
            progress=lambda done, total, name: bar.update(done, total),
        )
    for path in filter(None, written):
        print(f"{path}  {format_bytes(path.stat().st_size)}")
    return DONE
