"""Which frames of a video the model sees, and how the time of each is written: the rules of Hugging Face's processor."""

from __future__ import annotations

import math

from ..errors import EdgeGemmaValueError

__all__ = ["DEFAULT_FPS", "DEFAULT_FRAMES", "MAX_FRAMES", "frame_indices", "time_text"]

DEFAULT_FRAMES = 32
"""Frames of a video where nothing else is asked for."""

DEFAULT_FPS = 24.0
"""Frames a second of a video that does not tell."""

MAX_FRAMES = 2048
"""More frames than that are refused: no context holds them."""


def frame_indices(
    total: int, frames: int | None = None, fps: float | None = None, video_fps: float | None = None
) -> list[int]:
    """The indices of the frames that are taken, evenly from the beginning of the video: floor(i * total / n) for i < n.

    Args:
        total: the frames of the video.
        frames: n; None for 32. A video with fewer frames gives all of them.
        fps: frames for each second of the video instead of their number: n = max(1, floor(total / video_fps * fps)).
        video_fps: frames a second of the video; None for 24.

    Raises EdgeGemmaValueError "argument" for both `frames` and `fps`, for numbers that are not above 0, and for more than 2048
    frames.
    """
    if frames is not None and fps is not None:
        raise EdgeGemmaValueError("frames and fps cannot be given both: give one of them.", "argument")
    if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
        raise EdgeGemmaValueError(f"frames is {frames!r}; it must be a whole number above 0.", "argument")
    if fps is not None and not (isinstance(fps, (int, float)) and 0 < fps < math.inf):
        raise EdgeGemmaValueError(f"fps is {fps!r}; it must be a number above 0.", "argument")
    if total < 1:
        return []
    wanted = DEFAULT_FRAMES if frames is None else frames
    if fps is not None:
        wanted = max(1, math.floor(min(total / (video_fps or DEFAULT_FPS) * fps, total)))
    wanted = min(wanted, total)
    if wanted > MAX_FRAMES:
        advice = "a smaller fps" if fps is not None else "fewer frames"
        raise EdgeGemmaValueError(f"{wanted} frames are too many: ask for {advice}, {MAX_FRAMES} at most.", "argument")
    return [i * total // wanted for i in range(wanted)]


def time_text(seconds: float) -> str:
    """A time as the model reads it: minutes and seconds of at least two digits each, cut off, such as "01:05" or "75:00"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02}:{rest:02}"
