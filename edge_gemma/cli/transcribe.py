"""`edge-gemma transcribe`: transcribes recordings.

Text goes to standard output as soon as a segment is done, or to files. Everything else goes to standard error. The options
and the output are those of recordings.py.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..audio.folders import is_collection
from .archive import write_archive
from .cluster import write_on_cluster
from .common import SEPARATE, UsageError, add_verb, spoken_language
from .recordings import add_recording_options, write_down

EXAMPLES = """
edge-gemma transcribe -m gemma-4-E2B-it-Q4_0.gguf --mmproj mmproj.gguf talk.wav
edge-gemma transcribe --language de --output talk.srt talk.mp3
edge-gemma transcribe --format json --output transcripts/ --resume *.flac
edge-gemma transcribe interviews/ --output transcripts/
arecord -f S16_LE -r 16000 -t raw | edge-gemma transcribe -
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "transcribe", "write down what is said in recordings", EXAMPLES)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="sound file; folder, list of paths (.txt, .m3u) or pattern in quotation marks, with --output FOLDER; "
        "- is standard input: a sound file or raw samples",
    )
    parser.add_argument(
        "--language", "-l", type=spoken_language, metavar="L", help="spoken language, a name or a code (default: any)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="transcribe on the machines of a Ray cluster: host:port, auto or local; FILE and the output folder may be URLs"
        " such as s3://bucket/calls, and the output has a record for each recording, in jsonl or parquet",
    )
    add_recording_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Transcribes the files."""
    if "-" in args.files and sys.stdin.isatty():
        raise UsageError("- reads sound from standard input, but that is the terminal: pipe sound into it.")
    if args.ray:
        return write_on_cluster(args, args.files)
    if args.channels == SEPARATE:
        return write_archive(args, args.files, args.language)
    if any(map(is_collection, args.files)) and (args.output or len(args.files) == 1):
        if "-" in args.files:
            raise UsageError("- is standard input, and cannot be read together with folders, lists or patterns.")
        return write_archive(args, args.files, args.language)
    return write_down(args, args.files, args.language)
