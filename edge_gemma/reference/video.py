"""Video: which frames of it are looked at, and the text around their soft tokens.

Owns the choice of frames and the layout of the prompt. Every frame is a picture of at most 70 soft tokens (images.py,
vision.py). Decoding of files, and sound, are not part of it. Source: Gemma 4 specification, video.

    frames     floor(i total / count) for i = 0 .. count - 1;   count is 32, or int(total / fps * wanted frames a second)
    prompt     "00:00 <|image>" tokens "<image|> 00:14 <|image>" tokens "<image|> ..."

Soft tokens of a frame behave like those of a picture, but their placeholder is `<|video|>`.
"""

from __future__ import annotations

from collections.abc import Sequence

BUDGET = 70
"""The largest number of soft tokens of a frame."""
FRAMES = 32
"""Number of frames that are taken from a video, if nothing else is wanted."""
FPS = 24.0
"""Frames a second of a video that does not say it."""


def frame_indices(total: int, frames: int = FRAMES) -> list[int]:
    """The frames to take of a video of `total` frames: as many as wanted, evenly spread, from the first one on.

    Raises ValueError if the video has fewer.
    """
    if not 1 <= frames <= total:
        raise ValueError(f"{frames} frames are wanted of a video that has {total}.")
    return [int(i * total / frames) for i in range(frames)]


def frame_count(total: int, fps: float, wanted: float) -> int:
    """Number of frames to take so that there are about `wanted` in a second: at least one."""
    return max(1, int(total / fps * wanted))


def time_stamp(seconds: float) -> str:
    """`MM:SS`, truncated to whole seconds. Minutes go on beyond 59, and then have more digits where they need them."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def prompt(indices: Sequence[int], tokens: int, fps: float | None = None) -> str:
    """The text that stands for a video in a prompt, with `tokens` placeholders for the soft tokens of each frame."""
    frames = (f"{time_stamp(i / (fps or FPS))} <|image>{'<|video|>' * tokens}<image|>" for i in indices)
    return " ".join(frames)
