"""A picture from a camera, through FFmpeg's devices (the extra `video`): Video4Linux, AVFoundation of macOS, DirectShow of
Windows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError
from .video import pyav

__all__ = ["take_picture"]

_PATIENCE = 10.0  # seconds in which a camera has to give a picture


def take_picture(device: str | int | None = None, *, warm_up: float = 1.0) -> NDArray[np.uint8]:
    """Takes a picture: (h, w, 3) uint8 RGB.

    Args:
        device: the camera. On Linux a path such as "/dev/video0", or its number; on macOS its number or name; on Windows its
            name. None for the first camera (on Windows it has to be named). A file that FFmpeg reads, such as a video, stands
            for a camera as well.
        warm_up: seconds of pictures that are dropped first, in which a camera finds exposure and focus.

    Raises:
        EdgeGemmaOSError: "file" for a camera that is not there, is in use, or gives no picture.
        EdgeGemmaValueError: "unsupported" without PyAV.
    """
    av = pyav()
    name, form = _device(device)
    failures = (av.error.FFmpegError, OSError, ValueError, IndexError)
    options = {"framerate": "30"} if form == "avfoundation" else {}
    pixels: NDArray[np.uint8] | None = None
    try:
        with av.open(name, "r", format=form, options=options, timeout=_PATIENCE) as container:
            if not container.streams.video:
                raise EdgeGemmaOSError(f"{name} is no camera: it gives no pictures.", "file")
            began, last = time.monotonic(), None
            for frame in _frames(container):
                last = frame
                if time.monotonic() - began >= warm_up:
                    break
            if last is not None:
                pixels = np.ascontiguousarray(last.to_ndarray(format="rgb24"))
    except failures as error:
        raise _failure(name, error) from error
    if pixels is None:
        raise EdgeGemmaOSError(f"the camera {name} has given no picture.", "file")
    return pixels


def _frames(container: Any) -> Iterator[Any]:
    """The pictures of an open camera. AVFoundation says that there is none yet instead of waiting for one."""
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            for frame in container.decode(container.streams.video[0]):
                patience = time.monotonic() + _PATIENCE
                yield frame
            return
        except BlockingIOError:
            if time.monotonic() > patience:
                return
            time.sleep(0.01)


def _device(device: str | int | None) -> tuple[str, str | None]:
    """What FFmpeg opens, and the format under which it does: None for a file."""
    text = "" if device is None else str(device)
    if text and os.path.isfile(text):
        return text, None
    if sys.platform == "darwin":
        return text or "0", "avfoundation"
    if sys.platform == "win32":
        if not text:
            raise EdgeGemmaOSError("the camera has to be named: its name stands in the device manager.", "file")
        return text if text.startswith("video=") else f"video={text}", "dshow"
    return f"/dev/video{text or 0}" if not text or text.isdecimal() else text, "v4l2"


def _failure(name: str, error: BaseException) -> EdgeGemmaOSError:
    if isinstance(error, EdgeGemmaOSError):
        return error
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    return EdgeGemmaOSError(f"the camera {name} cannot be opened: {reason}.", "file")
