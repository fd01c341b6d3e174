"""Small videos, made with PyAV: a picture whose red grows from frame to frame, with a green corner at the top left."""

from __future__ import annotations

import io
import struct

import numpy as np


def make_video(
    frames: int = 20,
    fps: int = 10,
    *,
    codec: str = "libx264",
    form: str = "mp4",
    size: tuple[int, int] = (64, 48),
    keys: int = 250,
    sound: float = 0,
) -> bytes:
    """The content of a video file.

    Args:
        frames, fps: how many, and how many a second.
        codec, form: names of FFmpeg's encoder and container.
        size: (width, height).
        keys: a key frame comes after so many frames.
        sound: seconds of a tone.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        video = container.add_stream(codec, rate=fps, options={"g": str(keys)})
        video.width, video.height = size
        video.pix_fmt = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, frames, size), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            times = np.arange(int(sound * 16000)) / 16000
            samples = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
            for start in range(0, len(samples), 1024):
                block = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts = 16000, start
                container.mux(audio.encode(block))
            container.mux(audio.encode())
    return buffer.getvalue()


def picture(number: int, frames: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """(h, w, 3) uint8: frame `number` of a video with so many frames."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, :, 0] = number * 255 // max(frames - 1, 1)
    pixels[: size[1] // 2, : size[0] // 2, 1] = 255
    return pixels


def turned_right(video: bytes) -> bytes:
    """An mp4 file whose header turns its pictures to the right, as that of a phone that is held upright."""
    one = 1 << 16
    upright, right = (
        struct.pack(">9i", *rows)
        for rows in ((one, 0, 0, 0, one, 0, 0, 0, 1 << 30), (0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30))
    )
    at = video.index(upright, video.index(b"tkhd"))
    return video[:at] + right + video[at + len(right) :]
