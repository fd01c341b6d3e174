"""`edge-gemma describe`: pictures and videos in words, and where things are in pictures.

Answers go to standard output, one file after the other. Everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .common import (
    DONE,
    FAILED,
    INTERRUPTED,
    UsageError,
    add_model_options,
    add_sampling_options,
    add_session_options,
    add_verb,
    explain,
    format_stats,
    open_model,
    print_json,
    rounded,
    sampling,
    session_options,
    timings,
)
from .outputs import check_output, naming
from .parsing import file_path, plain_text
from .pictures import EncodingBar, add_budget_options, media_options
from .terminal import Interrupt, print_error, print_warning

STDIN = "-"
CAMERA = "camera"  # what the output calls a picture of the camera

EXAMPLES = """
edge-gemma describe -m e2b photo.jpg
edge-gemma describe photo.jpg --question "What is written on the sign?" --detail high
edge-gemma describe photos/ --json
edge-gemma describe photo.jpg --locate cat --output found.png
edge-gemma describe holiday.mp4 --fps 1
edge-gemma describe --camera --question "Is the door open?"
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "describe", "say what is in pictures and videos", EXAMPLES)
    parser.add_argument(
        "files",
        nargs="*",
        type=file_path,
        metavar="FILE",
        help="picture, video, or folder of these; - is a picture on standard input",
    )
    parser.add_argument(
        "--question", "-q", type=plain_text, metavar="TEXT", help="what to answer (default: a description)"
    )
    parser.add_argument(
        "--locate",
        action="append",
        type=plain_text,
        metavar="LABEL",
        help="find these things in pictures: a line for each with label, left, top, right and bottom in pixels, separated by"
        " tabs; may be given several times",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=file_path,
        metavar="PNG",
        help="with --locate: write the picture with the boxes drawn; for several pictures, a folder",
    )
    parser.add_argument("--force", "-f", action="store_true", help="with --output: replace files that exist already")
    parser.add_argument(
        "--camera",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="take a picture with the camera: a number, or a device such as /dev/video0 (default: the first one)",
    )
    parser.add_argument("--no-sound", action="store_true", help="do not listen to the sound of videos")
    parser.add_argument("--json", action="store_true", help="a JSON object for each file, as lines for several files")
    parser.add_argument("--verbose", "-v", action="store_true", help="print sizes, tokens and speed on standard error")
    add_budget_options(parser)
    add_sampling_options(parser, max_tokens=512, temperature=0.0)
    add_session_options(parser)
    add_model_options(parser)
    return parser


@dataclass
class Found:
    """What came of a file, as --json prints it without the values that are None."""

    file: str
    kind: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    question: str | None = None
    text: str | None = None
    boxes: list[dict[str, Any]] | None = None
    output: str | None = None
    stop: str | None = None
    tokens: dict[str, int] | None = None
    timings: dict[str, Any] | None = None


def run(args: argparse.Namespace) -> int:
    """Describes the files."""
    files, missing = _expanded(args)
    options = media_options(args)
    outputs = _outputs(args, files)
    from .. import Describer
    from ..vision.video import is_video

    done = failed = 0
    for folder in missing:
        failed += 1
        print_error(f"{folder} has no pictures or videos.")
    drawing = {"max_tokens": args.max_tokens, "sampling": sampling(args), "stop": args.stop}
    hears = not args.no_sound and any(os.path.isfile(file) and is_video(file) for file in files)
    with (
        open_model(args) as model,
        Describer(model, **drawing, **session_options(args, model, audio=hears, vision=True)) as describer,
        Interrupt(describer.cancel) as interrupt,
    ):
        several = len(files) > 1
        for file, output in zip(files, outputs, strict=True):
            try:
                with EncodingBar(os.path.basename(file) or file) as bar:
                    found = _do(describer, args, options, file, output, bar)
                _print(found, args, several)
                done += 1
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever it is, it is the trouble of this file alone
                if not interrupt.hit:
                    failed += 1
                    message = explain(error)
                    print_error(message if _name(file) in message else f"{_name(file)}: {message}")
            if interrupt.hit:
                break
    if done < len(files) > 1:
        print(f"edge-gemma: {done} of {len(files)} files described, {failed} failed.", file=sys.stderr)
    return INTERRUPTED if interrupt.hit else FAILED if failed else DONE


def _expanded(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The files, with those of folders in the order of their names, and the folders that have none. Raises UsageError."""
    from ..vision.images import is_image_name
    from ..vision.video import is_video

    files, empty = [], []
    for name in args.files:
        if not os.path.isdir(name):
            files.append(name)
            continue
        paths = (os.path.join(name, entry) for entry in sorted(os.listdir(name)) if not entry.startswith("."))
        found = [path for path in paths if os.path.isfile(path) and (is_image_name(path) or is_video(path))]
        files += found
        if not found:
            empty.append(name)
    if args.camera is not None:
        files.append(CAMERA)
    if not files and not empty:
        raise UsageError("FILE is missing: give a picture, a video or a folder, or --camera.")
    if files.count(STDIN) > 1:
        raise UsageError("- is standard input, which can be read only once.")
    if STDIN in files and sys.stdin.isatty():
        raise UsageError("- reads a picture from standard input, but that is the terminal: pipe a picture into it.")
    if args.locate and args.question is not None:
        raise UsageError("--locate asks a question of its own: it cannot be used with --question.")
    return files, empty


def _outputs(args: argparse.Namespace, files: list[str]) -> list[Path | None]:
    """Where the pictures with boxes go. Raises UsageError where a file would be replaced that may not be."""
    if args.output is None:
        return [None] * len(files)
    if not args.locate:
        raise UsageError("--output is the picture with the boxes of --locate: give a label with --locate.")
    output = Path(args.output)
    if len(files) > 1 or output.is_dir() or args.output.endswith(os.sep):
        if output.exists() and not output.is_dir():
            raise UsageError(f"--output {args.output} is a file, and there are {len(files)} pictures: give a folder.")
        with naming(output):
            output.mkdir(parents=True, exist_ok=True)
        names = ["stdin" if file == STDIN else Path(file).stem for file in files]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two pictures would be written to {output / double}.png: describe them one by one.")
        outputs = [output / f"{name}.png" for name in names]
    else:
        if output.suffix.lower() != ".png":
            raise UsageError(f"--output {args.output} is written as PNG: give a name that ends with .png.")
        outputs = [output]
    for path in outputs:
        check_output(path, files, force=args.force, text=False)
    return list(outputs)


def _name(file: str) -> str:
    return "standard input" if file == STDIN else file


def _do(
    describer: Any, args: argparse.Namespace, options: dict[str, Any], file: str, output: Path | None, bar: EncodingBar
) -> Found:
    """Describes one file."""
    from ..vision.video import is_video

    is_camera = file == CAMERA and file not in args.files
    before = describer.stats
    if file != STDIN and not is_camera and is_video(file):
        found = _video(describer, args, options, file, bar)
    else:
        found = _picture(describer, args, options, file, is_camera, output, bar)
    after = describer.stats
    used = {key: after[key] - before[key] for key in after}
    found.timings = rounded({**(found.timings or {}), **timings(used)["timings"]})
    if args.verbose:
        print(f"[{_name(file)}: {_size(found)}; {found.stop}; {format_stats(used)}; {_total(found)}]", file=sys.stderr)
    return found


def _total(found: Found) -> str:
    """How long all of it took, the encoding of pictures included."""
    return f"{(found.timings or {}).get('total_s', 0):.2f} s in all"


def _size(found: Found) -> str:
    tokens = (found.tokens or {}).get("image", 0)
    what = f"{found.frames} frames" if found.kind == "video" else f"{found.width} x {found.height} pixels"
    return f"{what}, {tokens} tokens"


def _picture(
    describer: Any,
    args: argparse.Namespace,
    options: dict[str, Any],
    file: str,
    is_camera: bool,
    output: Path | None,
    bar: EncodingBar,
) -> Found:
    """Describes a picture, or finds things in it."""
    from ..vision.images import load_image

    if is_camera:
        from ..vision.camera import take_picture

        pixels = take_picture(args.camera or None)
    else:
        pixels = load_image(sys.stdin.buffer if file == STDIN else file)
    height, width = pixels.shape[:2]
    found = Found(_name(file), "image", width, height)
    if not args.locate:
        found.question = args.question
        _take(found, describer.describe(pixels, args.question, options["image_tokens"], bar))
        return found
    from ..vision.boxes import draw_boxes, parse_boxes
    from ..vision.describe import location_request

    answer = describer.describe(pixels, location_request(args.locate), options["image_tokens"], bar)
    _take(found, answer)
    boxes = parse_boxes(answer.text, width, height, args.locate[0] if len(args.locate) == 1 else "")
    found.boxes = [asdict(box) for box in boxes]
    if output is not None:
        _write_png(output, draw_boxes(pixels, boxes))
        found.output = str(output)
    return found


def _video(describer: Any, args: argparse.Namespace, options: dict[str, Any], file: str, bar: EncodingBar) -> Found:
    """Describes a video."""
    from ..errors import EdgeGemmaError
    from ..vision.video import SOUND_SECONDS, load_video

    if args.locate:
        raise EdgeGemmaError(f"{file} is a video: things are located in pictures only.", "unsupported")
    sound = describer.hears and not args.no_sound
    clip = load_video(file, options["frames"], options["fps"], sound=sound, room=describer.context)
    if clip.sound_seconds is not None and clip.sound_seconds > SOUND_SECONDS + 0.5:
        print_warning(
            f"of the sound of {file}, the first {SOUND_SECONDS:.0f} of {clip.sound_seconds:.0f} seconds are heard."
        )
    height, width = clip.size or clip.frames[0].pixels.shape[:2]
    found = Found(file, "video", width, height, len(clip.frames), args.question)
    _take(found, describer.describe_video(clip, args.question, sound=sound, progress=bar))
    return found


def _take(found: Found, answer: Any) -> None:
    """Notes an answer."""
    found.text, found.stop = answer.text, answer.stop
    stats = answer.stats
    found.tokens = {
        "image": stats["image_tokens"],
        "prompt": stats["prompt_tokens"] + stats["reused_tokens"],
        "answer": stats["generated_tokens"],
    }
    found.timings = {"first_token_s": stats["first_token_s"], "total_s": stats["seconds"]}


def _print(found: Found, args: argparse.Namespace, several: bool) -> None:
    """Prints what came of a file."""
    if args.json:
        print_json({name: value for name, value in asdict(found).items() if value is not None}, one_line=several)
        sys.stdout.flush()
        return
    if several:
        print(f"==> {found.file} <==")
    if found.boxes is None:
        print(found.text)
        if found.stop == "length":
            print_warning(f"the answer about {found.file} is cut off: --max-tokens or --context allows no more.")
    for box in found.boxes or ():
        print("\t".join([box["label"], *(f"{box[side]:.0f}" for side in ("left", "top", "right", "bottom"))]))
    if found.boxes == []:
        print(f"edge-gemma: no {' and no '.join(args.locate)} was found in {found.file}.", file=sys.stderr)
    sys.stdout.flush()


def _write_png(path: Path, image: Any) -> None:
    """Writes a picture. It replaces the file in one step, so none is left half written."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"edge-gemma-{os.urandom(6).hex()}.new")
    with naming(path):
        if target.exists() and not target.is_file():
            target.write_bytes(buffer.getvalue())
            return
        try:
            temporary.write_bytes(buffer.getvalue())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
