"""`edge-gemma quantize`: writes a GGUF file with fewer bits to a weight.

Owns the options and the messages. The work is done by `edge_gemma.files.quantize`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from .common import DONE, UsageError, add_verb, count
from .terminal import Bar

EXAMPLES = """
edge-gemma quantize gemma-4-E2B-it-BF16.gguf gemma-4-E2B-it-Q4_0.gguf --type Q4_0
edge-gemma quantize mmproj-gemma-4-E2B-it-BF16.gguf . --type Q8_0
edge-gemma quantize model-BF16.gguf small.gguf --type Q4_K_M --tensor-type "blk.*.attn_v.weight=Q8_0"
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "quantize", "store a GGUF file's weights in fewer bits", EXAMPLES)
    parser.add_argument("source", metavar="IN", help="a model or its encoders (mmproj), preferably in BF16")
    parser.add_argument(
        "out", metavar="OUT", help="the new file, or a directory, in which the file gets IN's name with the new type"
    )
    parser.add_argument(
        "--type",
        required=True,
        metavar="T",
        help="F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K,"
        " Q6_K, IQ4_NL, IQ4_XS, or a mix: Q3_K_M, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M",
    )
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="PATTERN=T",
        help="another type for the tensors whose names"
        " match a shell pattern; may be given several times: the last one that matches decides",
    )
    parser.add_argument("--force", "-f", action="store_true", help="replace a file that is already there")
    parser.add_argument("--threads", "-t", type=count, metavar="N", help="worker threads (default: all processors)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Quantizes the file and prints what was written."""
    pairs = [pair.partition("=") for pair in args.tensor_type]
    if wrong := [pattern for pattern, equals, type in pairs if not (pattern and equals and type)]:
        raise UsageError(f"--tensor-type {wrong[0]!r} does not have the form PATTERN=TYPE.")
    from ..files.quantize import quantize

    with Bar(Path(args.source).name, 0, 1, format_bytes) as bar:
        written = quantize(
            args.source,
            args.out,
            args.type,
            tensor_types=[(pattern, type) for pattern, _, type in pairs],
            force=args.force,
            threads=args.threads,
            progress=lambda done, total, name: bar.update(done, total),
        )
    for note in written.notes:
        print(f"note: {note}", file=sys.stderr)
    types = ", ".join(f"{n} {type}" for type, n in sorted(written.types.items(), key=lambda entry: -entry[1]))
    print(f"{written.path}  {format_bytes(written.path.stat().st_size)}  tensors: {types}")
    return DONE
