"""Sound in files that libsndfile does not read: m4a, mp4, webm, AAC, WMA, AMR and more, also the sound of videos.

Owns the two ways to FFmpeg: the package PyAV, which contains it (extra `voice`), and else the program `ffmpeg`. Both give the
first audio track at its own rate, with all of its channels. A position is reached by decoding from the beginning, since only
that gives the same samples as reading straight on.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from .pcm import TOLERANCE, Lookahead, PcmDecoder, Tolerant
from .wav import open_wav

# What FFmpeg may take a file for. Playlists and scripts are not among it: they would make it open other files or addresses.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,m4a,matroska,mov,mp3,mp4,mpc,mpc8,"
    "mpeg,mpegts,mpegtsraw,nut,oga,ogg,oma,qcp,rm,sox,tak,truehd,tta,voc,w64,wav,webm,wsd,wv,xwma,3gp,3g2"
)
# Formats whose header has no length: FFmpeg guesses it by the bit rate.
_GUESSED = frozenset("aac ac3 eac3 amr amrnb amrwb dts dtshd loas mp3 mpeg mpegts flv truehd".split())
_SHORT = 0.25  # seconds by which a stated length is longer than the sound because of what encoders add
_LONGEST_GAP = 600.0  # seconds that may be missing between two packets of a file that does not state its length


class _Media(abc.ABC):
    """What both decoders share: reading in portions, seeking, and the warning at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rate: float = 0
        self.frames: int | None = None  # by the file, before anything was read
        self.warning: str | None = None
        self._tracks = 1
        self._lost = 0.0  # seconds that could not be decoded
        self.cut = 0.0  #: missing bytes by those of the file, where its header tells its size; 0 otherwise
        self._at = 0  # frames that were returned or dropped
        self._held: NDArray[Any] = np.zeros((0, 1), np.float32)  # frames that were decoded and not returned yet
        self._drop = 0  # frames to be dropped, up to the position that `seek` wants

    @abc.abstractmethod
    def _next(self) -> NDArray[Any]:
        """The next (k, channels) samples, of any number; k = 0 at the end."""

    @abc.abstractmethod
    def _restart(self) -> None:
        """Begins anew, at the beginning of the sound."""

    def read(self, n: int) -> NDArray[Any]:
        """Up to n frames."""
        block = self._held
        while not len(block) or self._drop:
            if not len(block):
                block = self._next()
                if not len(block):
                    self._drop = 0
                    self._end()
                    return block
            dropped = min(self._drop, len(block))
            self._drop -= dropped
            self._at += dropped
            block = block[dropped:]
        self._held = block[n:]
        self._at += len(block[:n])
        return block[:n]

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`."""
        if frame < self._at:
            self._at, self._lost, self._held = 0, 0.0, self._held[:0]
            self._restart()
        self._drop = frame - self._at

    def _end(self) -> None:
        """Sets the warning."""
        missing = self._lost
        if self.frames is not None:
            missing = max(missing, self.frames / self.rate - self._at / self.rate - _SHORT)
        missing = max(missing, self.cut * self._at / self.rate)
        sentences = []
        if missing >= TOLERANCE:
            sentences.append(f"{self.name} is damaged or cut short: {missing:.1f} s of it could not be read.")
        if self._tracks > 1:
            sentences.append(f"{self.name} has {self._tracks} audio tracks, of which the first was read.")
        self.warning = " ".join(sentences) or None

    @abc.abstractmethod
    def close(self) -> None:
        """Releases everything."""


class PyAvDecoder(_Media):
    """Decodes with PyAV."""

    def __init__(self, file: IO[bytes], name: str, kind: str, owned: bool = False) -> None:
        """`file` can seek and is closed by `close` if it is `owned`; `kind` is what messages call its format.

        Raises ImportError without PyAV, EdgeGemmaValueError "format" for a file that it cannot read.
        """
        super().__init__(name)
        import av

        self._av, self._file, self._kind, self._owned = av, file, kind, owned
        self._container: Any = None
        self._resampler: tuple[Any, Any] | None = None  # for frames of such a format
        self._restart()

    def _restart(self) -> None:
        self._release()
        self._file.seek(0)
        errors = (self._av.error.FFmpegError, OSError, ValueError, IndexError)
        try:
            self._container = self._av.open(
                Tolerant(self._file),
                "r",
                metadata_errors="replace",
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            )
            tracks = self._container.streams.audio
            if not tracks:
                raise _no_sound(self.name, self._kind)
            self._tracks = len(tracks)
            self._seconds = self._stated(tracks[0])
            self._blocks = self._decode(tracks[0])
            self._held = next(self._blocks, self._held[:0])
        except EdgeGemmaValueError:
            raise
        except errors as error:
            self._release()
            reason = str(getattr(error, "strerror", None) or error)
            raise _unreadable(self._file, self.name, self._kind, reason) from error
        if not self.rate:  # nothing could be decoded
            self._release()
            raise _unreadable(self._file, self.name, self._kind, "none of its sound can be decoded")
        self.frames = None if self._seconds is None else round(self._seconds * self.rate)

    def _stated(self, track: Any) -> float | None:
        """The length by the header, in seconds."""
        names = self._container.format.name.split(",")
        if _GUESSED.intersection(names):
            return None
        if track.duration and track.time_base:
            return float(track.duration * track.time_base)
        return self._container.duration / 1e6 if self._container.duration else None

    def _decode(self, track: Any) -> Iterator[NDArray[Any]]:
        """Yields (k, channels) samples, and silence for the time of packets that are missing or damaged."""
        layout, begin, at = None, None, 0
        for frame in self._packets(track):
            if layout is None:
                self.rate, layout = frame.sample_rate, frame.layout
            channels = len(layout.channels)
            if frame.pts is not None and frame.time_base:
                time = float(frame.pts * frame.time_base)
                begin = time - at / self.rate if begin is None else begin
                gap = time - begin - at / self.rate
                end = _LONGEST_GAP if self._seconds is None else self._seconds - at / self.rate
                if not -TOLERANCE < gap < end:  # a mistake in the times
                    begin = time - at / self.rate
                elif gap >= TOLERANCE:
                    self._lost += gap
                    at += round(gap * self.rate)
                    yield np.zeros((round(gap * self.rate), channels), np.float32)
            for part in [frame] if self._is_alike(frame, channels) else self._resampled(frame, layout):
                samples = part.to_ndarray()
                block = samples.T if part.format.is_planar else samples.reshape(-1, channels)
                if len(block):
                    at += len(block)
                    yield block

    def _is_alike(self, frame: Any, channels: int) -> bool:
        return frame.sample_rate == self.rate and len(frame.layout.channels) == channels

    def _resampled(self, frame: Any, layout: Any) -> list[Any]:
        """A frame with another rate or number of channels than the first one, as frames like that one."""
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        try:
            if self._resampler is None or self._resampler[0] != setup:
                self._resampler = setup, self._av.AudioResampler("fltp", layout, int(self.rate))
            frame.pts = None
            return list(self._resampler[1].resample(frame))
        except (self._av.error.FFmpegError, ValueError):
            self._lost += frame.samples / max(frame.sample_rate, 1)
            return []

    def _packets(self, track: Any) -> Iterator[Any]:
        """Yields decoded frames; leaves out packets that cannot be decoded."""
        failure = self._av.error.FFmpegError
        packets, damaged = self._container.demux(track), 0.0
        while True:
            try:
                packet = next(packets, None)
            except (failure, OSError, ValueError):
                packet = None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except (failure, ValueError):
                frames = []
                damaged += float((packet.duration or 0) * (packet.time_base or 0))
            for frame in frames:
                damaged = 0.0 if frame.pts is not None else damaged  # the gap before this frame tells what is missing
                yield frame
        self._lost += damaged

    def _next(self) -> NDArray[Any]:
        return next(self._blocks, np.zeros((0, 1), np.float32))

    def _release(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def close(self) -> None:
        """Closes the decoder, and the file if it is owned."""
        self._blocks = iter(())
        self._held = self._held[:0]
        self._release()
        if self._owned:
            self._file.close()


class FfmpegDecoder(_Media):
    """Decodes with the program ffmpeg, which writes wav into a pipe."""

    def __init__(self, program: str, file: IO[bytes], name: str, kind: str, owned: bool = False) -> None:
        """`program`: its path; the others as for `PyAvDecoder`. Raises EdgeGemmaValueError "format"."""
        super().__init__(name)
        self._program, self._file, self._kind, self._owned = program, file, kind, owned
        self._process: subprocess.Popen[bytes] | None = None
        self._copy = None if _has_descriptor(file) else _copied(file)
        self._restart()

    def _restart(self) -> None:
        self._release()
        # The file goes by its descriptor, or as a copy: so no name can look like an option or an address.
        descriptors = () if self._copy else (self._file.fileno(),)
        place = self._copy.name if self._copy else f"/dev/fd/{descriptors[0]}"
        command = [self._program, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "info"]
        command += ["-protocol_whitelist", "file", "-format_whitelist", _FORMATS, "-i", f"file:{place}"]
        command += ["-map", "0:a:0", "-vn", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by _release
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages, pass_fds=descriptors
        )
        assert self._process.stdout is not None
        ahead = Lookahead(self._process.stdout, self.name)
        try:
            if not ahead.peek(12):
                raise self._failure()
            decoder = open_wav(self._process.stdout, ahead, self.name, None)
            assert isinstance(decoder, PcmDecoder)
        except BaseException:
            self._release()
            raise
        self._decoder, self.rate = decoder, decoder.rate
        said = self._said()
        self._tracks = len(re.findall(r"^ *Stream #0:\d+.*: Audio:", said.split("\nOutput #0")[0], re.MULTILINE)) or 1
        form = re.search(r"^Input #0, ([\w,]+), from", said, re.MULTILINE)
        length = re.search(r"^ *Duration: (\d+):(\d+):([\d.]+)", said, re.MULTILINE)
        self.frames = None
        if length and form and not _GUESSED.intersection(form[1].split(",")):
            hours, minutes, seconds = map(float, length.groups())
            self.frames = round((hours * 3600 + minutes * 60 + seconds) * self.rate)

    def _said(self) -> str:
        # The process writes at the file's position, which must not move.
        return os.pread(self._messages.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def _failure(self) -> EdgeGemmaValueError:
        """The error of a process that has given nothing."""
        assert self._process is not None
        self._process.wait()
        said = self._said()
        if "Input #0" in said and ": Audio:" not in said:
            return _no_sound(self.name, self._kind)
        lines = [re.sub(r"\[[^]]*\] *|file:\S+: *", "", line) for line in said.splitlines() if line.strip()]
        reason = lines[-1].strip().rstrip(".") if lines else "ffmpeg has failed"
        return _unreadable(self._file, self.name, self._kind, reason)

    def _next(self) -> NDArray[Any]:
        return self._decoder.read(8192)

    def _end(self) -> None:
        super()._end()
        if self.warning is None and self._process is not None:
            failed = self._process.wait() != 0
            if failed or re.search(r"Error (while decoding|submitting)|Invalid data found|corrupt", self._said()):
                self.warning = f"{self.name} is damaged: parts of it could not be read."

    def _release(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()
            self._messages.close()

    def close(self) -> None:
        """Ends the process, and closes the file if it is owned."""
        self._release()
        if self._copy is not None:
            self._copy.close()
        if self._owned:
            self._file.close()


def open_media(file: IO[bytes], name: str, kind: str, owned: bool = False) -> PyAvDecoder | FfmpegDecoder | None:
    """The decoder of a file by PyAV, or else by ffmpeg. None without both.

    Args:
        file: can seek; it is read from its beginning.
        name: what messages call the file.
        kind: what messages call its format.
        owned: whether the decoder closes the file. After an error the file stays open.

    Raises EdgeGemmaValueError "format" for what cannot be read.
    """
    try:
        return PyAvDecoder(file, name, kind, owned)
    except ImportError:
        program = shutil.which("ffmpeg")
    return FfmpegDecoder(program, file, name, kind, owned) if program and os.name == "posix" else None


def _has_descriptor(file: IO[bytes]) -> bool:
    """Whether another process can open `file` by its descriptor, at a position of its own."""
    try:
        return file.fileno() >= 0 and sys.platform == "linux"
    except (AttributeError, OSError, ValueError):
        return False


def _copied(file: IO[bytes]) -> Any:
    """A temporary file with the content of `file`, and with a name."""
    file.seek(0)
    copy = tempfile.NamedTemporaryFile(prefix="edge-gemma-")  # noqa: SIM115 -- the decoder closes it
    shutil.copyfileobj(file, copy)
    copy.flush()
    return copy


def _no_sound(name: str, kind: str) -> EdgeGemmaValueError:
    return EdgeGemmaValueError(f"{name} is {kind} without sound: it has no audio track.", "format")


def _unreadable(file: IO[bytes], name: str, kind: str, reason: str) -> EdgeGemmaValueError:
    """The error about a file that cannot be read, because of `reason` in FFmpeg's words."""
    if _has_no_index(file):
        return EdgeGemmaValueError(
            f"{name} is {kind} without the index at its end: the recording was not finished, or not copied whole.",
            "format",
        )
    return EdgeGemmaValueError(
        f"{name} is {kind} that cannot be read ({reason}): it is damaged or cut short, or its encoding is not known.",
        "format",
    )


def _has_no_index(file: IO[bytes]) -> bool:
    """Whether an MP4 file consists of other parts than "moov", in which all that is needed to decode it stands."""
    at, head = 0, b""
    found: list[bytes] = []
    while len(found) < 1000:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or head[4:8] == b"moov" or not (found or head[4:8] in (b"ftyp", b"mdat", b"wide", b"free")):
            break
        length = int.from_bytes(head[:4], "big")
        found.append(head[4:8])
        at += int.from_bytes(head[8:], "big") if length == 1 else max(length, 8)
    return b"mdat" in found and head[4:8] != b"moov"
