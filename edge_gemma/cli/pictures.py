"""What the verbs that see share: the options about pictures and videos, and the progress line while they are encoded."""

from __future__ import annotations

import argparse
from typing import Any

from ..vision.budgets import BUDGETS, DETAILS
from .common import UsageError, count
from .parsing import file_path
from .terminal import Bar


def image_tokens(text: str) -> int:
    """A budget of soft tokens."""
    if text not in map(str, BUDGETS):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, BUDGETS))}")
    return int(text)


def rate(text: str) -> float:
    """Frames a second: above 0, at most 100."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 100")
    return value


def add_media_options(parser: argparse.ArgumentParser, where: str) -> None:
    """Adds --image and --video. `where`: what the help says of their place."""
    parser.add_argument(
        "--image",
        "-i",
        action="append",
        type=file_path,
        metavar="FILE",
        help=f"a picture, which the model sees {where}; may be given several times",
    )
    parser.add_argument(
        "--video",
        action="append",
        type=file_path,
        metavar="FILE",
        help=f"a video, which the model sees {where}, and whose first 30 seconds it hears; may be given several times",
    )


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options about the tokens of pictures and the frames of videos."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--image-tokens",
        type=image_tokens,
        metavar="N",
        help=f"soft tokens of a picture at most: {', '.join(map(str, BUDGETS))}; more of them show more detail and take longer"
        " (default: 280)",
    )
    group.add_argument(
        "--detail",
        choices=DETAILS,
        help="instead of --image-tokens: 70, as many as the picture's own resolution takes, or 1120",
    )
    group.add_argument(
        "--frames", type=count, metavar="N", help="frames of a video, evenly from its beginning (default: 32)"
    )
    group.add_argument("--fps", type=rate, metavar="X", help="frames for each second of a video, instead of --frames")


def media_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options about pictures and videos as keyword arguments of `Chat.send`. Raises UsageError."""
    if args.image_tokens is not None and args.detail is not None:
        raise UsageError("--image-tokens and --detail cannot be given both.")
    if args.frames is not None and args.fps is not None:
        raise UsageError("--frames and --fps cannot be given both.")
    return {"image_tokens": args.image_tokens or args.detail, "frames": args.frames, "fps": args.fps}


class EncodingBar:
    """A progress bar on standard error while pictures are encoded, at a terminal. Call it with what is done, and all of it."""

    def __init__(self, name: str) -> None:
        """`name`: what is encoded."""
        self._name = name
        self._bar: Bar | None = None

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` soft tokens are there."""
        if done >= total:
            self.close()
            return
        if self._bar is None:
            self._bar = Bar(self._name, 0, total, lambda tokens: f"{tokens:.0f} tokens")
            self._bar.__enter__()
        self._bar.update(done, total)

    def close(self) -> None:
        """Takes it away."""
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None

    def __enter__(self) -> EncodingBar:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Takes it away."""
        self.close()
