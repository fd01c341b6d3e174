"""Videos as the frames that the model sees: `load_video`, and `Video` behind it.

Owns the reading of video files with PyAV (extra `video`), which contains FFmpeg. The packets of a file are counted first,
without decoding: headers do not always tell the number of frames, and some do not tell the truth. Then the chosen frames are
decoded one at a time, from the nearest key frame before each, so memory does not grow with the video. sampling.py chooses the
frames.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..audio.kinds import identify
from ..audio.pcm import Tolerant
from ..audio.source import local_path, open_audio
from ..errors import EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line
from .budgets import FRAME_BUDGET, target_size
from .images import is_image_name, load_image
from .sampling import DEFAULT_FPS, MAX_FRAMES, frame_indices

__all__ = ["SOUND_SECONDS", "Clip", "Frame", "Video", "is_video", "load_video", "pyav"]

SOUND_SECONDS = 30.0
"""Seconds of a video's sound that are heard, from its beginning: Gemma 4 was trained on recordings up to this length."""

# What FFmpeg may take a file for. Playlists and scripts are not among it: they would make it open other files or addresses.
_FORMATS = (
    "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,webm,3gp,3g2,apng"
)
_ENDINGS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .wmv .asf .flv .mpg .mpeg .ts .m2ts .mts .3gp .3g2 .ogv .mxf .h264 .hevc".split()
)
_CLOCK = re.compile(r"(\d+):(\d+):([\d.]+)")
_MISSING = 0.05  # the part of the stated frames whose absence is no damage: editors cut between key frames


class Frame(NamedTuple):
    """A picture of a video: its time in seconds from the beginning, and its (h, w, 3) uint8 pixels."""

    seconds: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Clip:
    """What the model sees and hears of a video.

    Attributes:
        frames: in their order.
        sound: 16 kHz mono samples (n,), or None.
        name: what messages call it.
        duration: seconds of the whole video, if it is known.
        size: (height, width) of the pictures as the file has them, if that is known: the frames may be smaller.
        sound_seconds: how long the whole sound track is, if it is known; the samples end after `SOUND_SECONDS`.
    """

    frames: tuple[Frame, ...]
    sound: NDArray[np.float32] | None = field(default=None, repr=False)
    name: str = "the video"
    duration: float | None = None
    sound_seconds: float | None = None
    size: tuple[int, int] | None = None

    def __repr__(self) -> str:
        """Tells the number of frames."""
        return f"<Clip of {self.name}: {len(self.frames)} frames>"


def load_video(
    video: Any,
    frames: int | None = None,
    fps: float | None = None,
    *,
    sound: bool = False,
    room: int | None = None,
) -> Clip:
    """Reads the frames of a video that the model sees.

    Args:
        video: a path or a file:// URL; a binary file object that can seek, which is read from its beginning and stays open;
            a list of (seconds, picture), with pictures as `load_image` takes them, which is taken as it is; or a `Clip`,
            which is returned.
        frames: how many frames, evenly from the beginning; None for 32. A video with fewer frames gives all of them.
        fps: frames for each second of the video, instead of their number.
        sound: also reads the first 30 seconds of the sound track, if the file has one.
        room: soft tokens that there is room for. A video that takes more is refused before anything is decoded.

    Returns:
        A Clip. Its frames have at most the size to which the encoder scales them, so it takes little memory.

    Raises:
        EdgeGemmaOSError: "file" for what cannot be opened or read.
        EdgeGemmaValueError: "format" for a file without pictures, a damaged one, or one that is cut short; "unsupported"
            without PyAV; "argument" for unusable arguments; "context" for too many frames.
    """
    if isinstance(video, Clip):
        return video
    if isinstance(video, (list, tuple)):
        given = _given_frames(video)
        _check_room(len(given), given[0].pixels.shape[:2], room, "the list of frames")
        return Clip(tuple(Frame(frame.seconds, _shrunk(frame.pixels)) for frame in given), name="the list of frames")
    with Video(video) as opened:
        indices = frame_indices(opened.total, frames, fps, opened.fps)
        _check_room(len(indices), opened.size, room, opened.name)
        size, taken = None, []
        for frame in opened.frames(indices):
            size = size or (frame.pixels.shape[0], frame.pixels.shape[1])
            taken.append(Frame(frame.seconds, _shrunk(frame.pixels)))
        samples, length = opened.sound() if sound else (None, None)
        return Clip(tuple(taken), samples, opened.name, opened.duration, length, size)


def _given_frames(video: Sequence[Any]) -> list[Frame]:
    """The frames of a list of (seconds, picture). Raises EdgeGemmaValueError "argument"."""
    found = []
    for number, item in enumerate(video):
        pair = tuple(item) if isinstance(item, (tuple, list)) else ()
        if len(pair) != 2 or not isinstance(pair[0], (int, float)) or not 0 <= pair[0] < math.inf:
            raise EdgeGemmaValueError(
                f"entry {number} of the video is no (seconds, picture), with seconds from 0 on.", "argument"
            )
        found.append(Frame(float(pair[0]), load_image(pair[1])))
    if not found:
        raise EdgeGemmaValueError("the video is an empty list.", "argument")
    if len(found) > MAX_FRAMES:
        raise EdgeGemmaValueError(f"{len(found)} frames are too many: {MAX_FRAMES} is the limit.", "argument")
    return found


def _check_room(frames: int, size: tuple[int, int], room: int | None, name: str) -> None:
    """Raises EdgeGemmaValueError "context" when the soft tokens of so many frames of (height, width) take more than `room`."""
    rows, columns = target_size(*size, FRAME_BUDGET)
    each = rows * columns // 48**2 + 2  # and the markers
    if room is not None and frames * each > room:
        raise EdgeGemmaValueError(
            f"{frames} frames of {name} take {frames * each} tokens, and there is room for {room}: at most "
            f"{room // each} frames fit. Take fewer, or a larger context.",
            "context",
        )


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame as the encoder would scale it, where scaling it again would change nothing; else the frame itself."""
    size = target_size(pixels.shape[0], pixels.shape[1], FRAME_BUDGET)
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    if not smaller or target_size(*size, FRAME_BUDGET) != size:
        return pixels
    return np.array(PIL.Image.fromarray(pixels).resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC))


def is_video(path: str) -> bool:
    """Whether a file is a video rather than a picture: by the ending of its name, else by its first bytes."""
    if os.path.splitext(path)[1].lower() in _ENDINGS:
        return True
    if is_image_name(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
        kind = identify(lambda count: head[:count])
    except (OSError, ValueError):
        return False
    return kind is not None and kind.reader == "media"


def pyav() -> Any:
    """The package PyAV. Raises EdgeGemmaValueError "unsupported" without it."""
    try:
        import av
    except ImportError:
        raise EdgeGemmaValueError(
            f"videos and cameras need the package PyAV: `{pip_line('edge-gemma[video]')}`.", "unsupported"
        ) from None
    return av


class Video:
    """An open video file. Close it with `close()` or a `with` block; one thread at a time may use it.

    Attributes:
        name: what messages call it.
        total: how many frames it has.
        fps: frames a second on average; None if the file does not tell.
        size: (height, width) of its pictures.
        duration: seconds.
    """

    def __init__(self, video: Any) -> None:
        """Opens the file and counts its frames; arguments and errors as `load_video`."""
        self._av = pyav()
        self._failures = (self._av.error.FFmpegError, OSError, ValueError, IndexError, EOFError)
        self._path: str | None = None
        if isinstance(video, (str, os.PathLike)):
            self._path = self.name = local_path(video, "video")
            self._file: IO[bytes] = _open_path(self.name)
        elif hasattr(video, "read") and hasattr(video, "seekable") and video.seekable():
            given = getattr(video, "name", None)
            self.name, self._file = given if isinstance(given, str) else "the file object", video
        else:
            raise EdgeGemmaValueError(
                f"a video cannot come from a {type(video).__name__}: give a path, a file object that can seek, or a list of "
                "(seconds, picture).",
                "argument",
            )
        self._container: Any = None
        try:
            self._open()
            self._survey()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file, unless it was given open."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._path is not None:
            self._file.close()

    def __enter__(self) -> Video:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _open(self) -> None:
        """Begins at the first packet."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._file.seek(0)
        try:
            self._container = self._av.open(
                Tolerant(self._file),
                "r",
                metadata_errors="replace",
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            )
        except self._failures as error:
            raise self._unreadable(error) from error
        # A picture of an album's cover is a stream of its own.
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            raise EdgeGemmaValueError(f"{self.name} has no pictures: it has no video track.", "format")
        if streams[0].codec_context is None:
            raise EdgeGemmaValueError(
                f"{self.name} cannot be decoded: the encoding of its pictures is not known.", "format"
            )
        # FFmpeg's threads for whole frames stay off: after a jump in a file they may wait for each other without end.
        self._stream = streams[0]

    def _survey(self) -> None:
        """Reads the times of all packets."""
        stream, times, keys = self._stream, [], []
        stated, rate = int(stream.frames or 0), stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self._base = float(stream.time_base or 0)
        height, width = stream.codec_context.height, stream.codec_context.width
        stated_seconds = _stated_seconds(stream)
        total, end = 0, 0
        try:
            for packet in self._container.demux(stream):
                if not packet.size:
                    continue
                total += 1
                if packet.pts is not None:
                    times.append(packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except self._failures as error:
            raise self._unreadable(error) from error
        if not total:
            raise EdgeGemmaValueError(f"{self.name} has no pictures: its video track is empty.", "format")
        if stated and total < stated * (1 - _MISSING):
            raise EdgeGemmaValueError(
                f"{self.name} is damaged or cut short: it has {total} of its {stated} frames.", "format"
            )
        self.total = total
        # Raw streams have no times, and some old files not for all frames. Their frames are counted as they are decoded.
        self._times: list[int] | None = sorted(times) if len(set(times)) == total else None
        self._keys = sorted(keys)
        if self._times is not None and self._base:
            self.duration = (end - self._times[0]) * self._base
        else:
            self.duration = total / (self.fps or DEFAULT_FPS)
        if stated_seconds * (1 - _MISSING) - 0.5 > self.duration:
            raise EdgeGemmaValueError(
                f"{self.name} is damaged or cut short: it has {self.duration:.1f} of its {stated_seconds:.1f} seconds.",
                "format",
            )
        if not height or not width:
            raise EdgeGemmaValueError(f"{self.name} is damaged: its pictures have no size.", "format")
        self.size = (height, width)
        self._open()

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decodes the frames with these indices, which ascend, and yields each before the next is decoded.

        Raises EdgeGemmaValueError "format" where one of them cannot be decoded.
        """
        decoded = self._by_time(indices) if self._times is not None else self._by_count(indices)
        given = 0
        try:
            for frame, seconds in decoded:
                yield Frame(seconds, self._pixels(frame))
                given += 1
        except EdgeGemmaError:
            raise
        except self._failures as error:
            raise self._unreadable(error) from error
        if given < len(indices):
            raise EdgeGemmaValueError(
                f"{self.name} is damaged or cut short: frame {indices[given] + 1} of {self.total} cannot be decoded.",
                "format",
            )

    def _by_time(self, indices: Sequence[int]) -> Iterator[tuple[Any, float]]:
        """The frames by their times: the decoder goes to the key frame before each, unless it is past that already."""
        assert self._times is not None
        base, first, at = self._base, self._times[0], None
        decoder: Iterator[Any] = iter(())
        for index in indices:
            wanted = self._times[index]
            key = bisect_right(self._keys, wanted) - 1
            if at is None or (key >= 0 and self._keys[key] > at):
                decoder = self._decoder_at(self._keys[key] if key >= 0 else None, wanted)
            for frame in decoder:
                if frame.pts is not None:
                    at = frame.pts
                    if at >= wanted:
                        yield frame, max((wanted - first) * base, 0.0)
                        break
            else:
                return

    def _decoder_at(self, key: int | None, wanted: int) -> Iterator[Any]:
        """Decodes from the key frame on. Where seeking has gone too far, as in some files, from the beginning."""
        if key is not None and key > self._times[0]:  # type: ignore[index]
            with contextlib.suppress(*self._failures):
                self._container.seek(key, stream=self._stream, backward=True)
                decoder = self._container.decode(self._stream)
                first = next(decoder, None)
                if first is not None and first.pts is not None and first.pts <= wanted:
                    return _chained(first, decoder)
        self._open()
        decoder = self._container.decode(self._stream)
        return iter(decoder)

    def _by_count(self, indices: Sequence[int]) -> Iterator[tuple[Any, float]]:
        """The frames by their number, of all that are decoded."""
        self._open()
        waiting = iter(indices)
        wanted = next(waiting, None)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if wanted is None:
                return
            if number == wanted:
                yield frame, number / (self.fps or DEFAULT_FPS)
                wanted = next(waiting, None)

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 of a decoded frame, turned as the file says."""
        if not frame.width or not frame.height:
            raise EdgeGemmaValueError(f"{self.name} is damaged: a frame has no size.", "format")
        limit = PIL.Image.MAX_IMAGE_PIXELS
        if limit is not None and frame.width * frame.height > limit:
            raise EdgeGemmaValueError(f"{self.name} has frames of {frame.width} x {frame.height} pixels.", "format")
        quarter = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4  # turns to the left
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter))

    def sound(self) -> tuple[NDArray[np.float32] | None, float | None]:
        """The first `SOUND_SECONDS` of the sound track, 16 kHz mono (n,), and how long all of it is, if that is known.

        (None, None) for a video without sound.
        """
        if not self._container.streams.audio:
            return None, None
        self._file.seek(0)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(self._path, "rb")) if self._path is not None else self._file
            source = open_audio(file)
            if file is not source:
                stack.callback(source.close)
            length, blocks, left = source.duration, [], SOUND_SECONDS
            while left > 0 and (block := source.read(left)) is not None:
                blocks.append(block)
                left = SOUND_SECONDS - source.position
            samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return (samples, length) if len(samples) > 160 else (None, None)

    def _unreadable(self, error: BaseException) -> EdgeGemmaValueError:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        return EdgeGemmaValueError(
            f"{self.name} is no video that can be read ({reason}): it is of another kind, damaged or cut short.",
            "format",
        )


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is the still picture of a music file."""
    disposition = getattr(stream, "disposition", 0)
    return bool(int(disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def _stated_seconds(stream: Any) -> float:
    """The length of a track by the header of a Matroska file, 0 where it does not tell."""
    found = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _open_path(name: str) -> IO[bytes]:
    if os.path.isdir(name):
        raise EdgeGemmaOSError(f"{name} is a directory: give a video.", "file")
    if os.path.exists(name) and not os.path.isfile(name):
        raise EdgeGemmaOSError(f"{name} is no regular file: a video is read from a file that can seek.", "file")
    try:
        return open(name, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise EdgeGemmaOSError(f"cannot open {name}: {getattr(error, 'strerror', None) or error}.", "file") from error
