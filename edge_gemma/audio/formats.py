"""Decoders of sound files: wav and raw PCM are decoded here, every other format by soundfile (extra `voice`).

A decoder has
    rate        samples a second
    frames      length in frames; None when unknown
    warning     a sentence about damage, or None
    read(n)     the next (k, channels) samples in their stored type, 1 <= k <= n; k = 0 at the end
    seek(frame) goes on reading at `frame`
    close()
`read` blocks until it has bytes. Conversion to 16 kHz mono is in source.py.
"""

from __future__ import annotations

import struct
import tempfile
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

#: Types of raw samples: ffmpeg's name -> NumPy's name; "" for the one that NumPy lacks.
ENCODINGS = {
    "u8": "u1",
    "s8": "i1",
    "s16le": "<i2",
    "s16be": ">i2",
    "s24le": "",
    "s32le": "<i4",
    "s32be": ">i4",
    "f32le": "<f4",
    "f32be": ">f4",
    "f64le": "<f8",
    "f64be": ">f8",
}

_WAV_ENCODINGS = {(1, 1): "u8", (1, 2): "s16le", (1, 3): "s24le", (1, 4): "s32le", (3, 4): "f32le", (3, 8): "f64le"}
_EXTENSIBLE = 0xFFFE
# A program that writes to a pipe cannot fill in the length afterwards. It leaves 0, or a number of at least this size.
_ENDLESS = 0x7FF00000
# First bytes of files that are left to soundfile: formats that it reads, and others that must not be read as raw samples.
_MAGIC = (b"fLaC", b"OggS", b"ID3", b"RIFX", b"RF64", b"FORM", b"caff", b"\x1aE\xdf\xa3")


class ArrayDecoder:
    """An array of (n, channels) samples."""

    warning: str | None = None

    def __init__(self, samples: NDArray[Any], rate: float) -> None:
        """`samples`: of any type; they are not copied."""
        self.rate, self.frames = rate, len(samples)
        self._samples, self._at = samples, 0

    def read(self, n: int) -> NDArray[Any]:
        """The next n frames, fewer at the end."""
        block = self._samples[self._at : self._at + n]
        self._at += len(block)
        return block

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`."""
        self._at = frame

    def close(self) -> None:
        """Does nothing: an array needs no closing."""


class PcmDecoder:
    """Uncompressed samples in a file or a stream."""

    def __init__(self, file: IO[bytes], name: str, rate: float, channels: int, encoding: str) -> None:
        """Raises EdgeGemmaValueError "argument" for an unknown encoding or an impossible number of channels."""
        if encoding not in ENCODINGS:
            raise EdgeGemmaValueError(
                f"encoding is {encoding!r}; it must be one of {', '.join(ENCODINGS)}.", "argument"
            )
        if channels not in range(1, 0x10000):
            raise EdgeGemmaValueError(f"channels is {channels!r}; it must be at least 1.", "argument")
        self.rate, self.frames, self.warning = rate, None, None
        self._file, self._name, self._channels = file, name, channels
        self._dtype = ENCODINGS[encoding]
        self._frame_bytes = channels * (np.dtype(self._dtype).itemsize if self._dtype else 3)
        self._start = 0  # byte at which the samples begin
        self._left: int | None = None  # bytes of samples that were not read yet; None when unknown
        self._unused = b""  # bytes that were read from the file but not returned yet

    def put_back(self, data: bytes) -> PcmDecoder:
        """Begins with `data`, the first bytes of the samples, which were read from the file already."""
        self._unused = data
        return self

    def bound(self, start: int, stated: int | None, available: int | None) -> PcmDecoder:
        """Sets where the samples lie: from byte `start` on, `stated` bytes by the header and `available` by the file's size.

        None means that a size is unknown.
        """
        known = [size for size in (stated, available) if size is not None]
        self._start, self._left = start, min(known, default=None)
        if available is not None:
            self.frames = self._left // self._frame_bytes
            if stated is not None and available < stated:
                self._warn(stated - available)
        return self

    def _warn(self, missing: int) -> None:
        """Sets the warning about `missing` bytes."""
        seconds = missing / self._frame_bytes / self.rate
        self.warning = f"{self._name} is cut short: {seconds:.1f} s fewer than its header says."

    def read(self, n: int) -> NDArray[Any]:
        """Up to n frames, as soon as some are there."""
        want = n * self._frame_bytes
        if self._left is not None:
            want = min(want, self._left)
        data = self._unused
        while len(data) < self._frame_bytes <= want and (more := read_some(self._file, want - len(data), self._name)):
            data += more
        whole = min(len(data), want) // self._frame_bytes * self._frame_bytes
        data, self._unused = data[:whole], data[whole:]
        if self._left is not None:
            self._left -= whole
            if not whole and self._left >= self._frame_bytes and self.warning is None:
                self._warn(self._left)
        if self._dtype:
            samples = np.frombuffer(data, self._dtype)
        else:  # 24-bit samples become the upper 24 bits of int32
            wide = np.zeros((whole // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            samples = wide.view("<i4")
        return samples.reshape(-1, self._channels)

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`. Only for files, whose length is known."""
        frame = min(frame, self.frames)
        self._file.seek(self._start + frame * self._frame_bytes)
        self._unused, self._left = b"", (self.frames - frame) * self._frame_bytes

    def close(self) -> None:
        """Does nothing: the file belongs to the caller."""


class SoundfileDecoder:
    """Every format that libsndfile reads, through the package soundfile."""

    def __init__(self, file: IO[bytes], name: str, owned: bool = False) -> None:
        """`owned`: whether `close` closes the file.

        Raises EdgeGemmaValueError "format" when the file cannot be read, "unsupported" without soundfile.
        """
        try:
            import soundfile
        except (ImportError, OSError) as error:  # OSError: soundfile is installed, its library libsndfile is not
            raise EdgeGemmaValueError(
                f"{name} is not a plain wav file, and other formats need soundfile: pip install 'edge-gemma[voice]'.",
                "unsupported",
            ) from error
        self._error = soundfile.SoundFileError
        try:
            self._file = soundfile.SoundFile(file)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: the file's name ends in .raw
            raise EdgeGemmaValueError(
                f"{name} is not a sound file that can be read. Readable are wav, flac, ogg and mp3, and raw samples when "
                "their rate is given; convert other formats with a program such as ffmpeg.",
                "format",
            ) from error
        # soundfile seeks after each read of a seekable file. In an mp3 that is not exact, so consecutive reads would not
        # join. A file that says it is not seekable is read straight on.
        self._file.seekable = lambda: False
        self._name, self._at = name, 0
        self._owned = file if owned else None
        self.rate = self._file.samplerate
        self.frames: int | None = self._file.frames if self._file.frames < 2**62 else None
        self.warning: str | None = None

    def read(self, n: int) -> NDArray[np.float32]:
        """Up to n frames. Damage ends the sound and sets the warning."""
        try:
            block = self._file.read(n, dtype="float32", always_2d=True)
        except self._error:
            block = np.zeros((0, 1), np.float32)
        self._at += len(block)
        # The stated length of a compressed file may be an estimate, so a tenth of a second is tolerated.
        if not len(block) and self.frames is not None and self._at < self.frames - self.rate // 10:
            self.warning = f"{self._name} is damaged or cut short: {self._at / self.rate:.1f} s could be read."
        return block

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`."""
        self._at = frame if self.frames is None else min(frame, self.frames)
        before = min(self._at, self.rate)  # a decoder's output depends on what came before: one second is decoded again
        try:
            self._file.seek(self._at - before)
            self._file.read(before, dtype="float32")
        except self._error as error:
            raise EdgeGemmaValueError(f"{self._name}: cannot go to {frame / self.rate:.1f} s.", "format") from error

    def close(self) -> None:
        """Closes the decoder, and the file if it is owned."""
        self._file.close()
        if self._owned is not None:
            self._owned.close()


Decoder = ArrayDecoder | PcmDecoder | SoundfileDecoder


class Raw(NamedTuple):
    """The format of samples without a header."""

    rate: float
    channels: int
    encoding: str
    stated: bool  #: whether the caller gave the format; False: it is the default


def open_decoder(file: IO[bytes], name: str, raw: Raw | None, seekable: bool) -> Decoder:
    """The decoder for a file, chosen by its first bytes.

    Args:
        file: a binary file. A seekable file is read from its beginning.
        name: what messages call the file.
        raw: the format of the samples if the file has no known header; None refuses such a file.
        seekable: whether the file can seek; then its end is its size.

    Raises:
        EdgeGemmaValueError: "format" for a file that is empty, damaged, or of an unknown kind; "unsupported" without
            soundfile; "argument" for an unusable `raw`.
        EdgeGemmaOSError: "file" when the file cannot be read.
    """
    size = file.seek(0, 2) if seekable else None
    if seekable:
        file.seek(0)
    head = _read_exactly(file, 12, name)
    if not head:
        raise EdgeGemmaValueError(f"{name} is empty.", "format")
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        if decoder := _open_wav(file, name, head, size):
            return decoder
        if not seekable:
            raise EdgeGemmaValueError(f"{name} is a compressed wav stream: save it as a file first.", "unsupported")
    elif raw is not None and not _has_known_header(head, raw.stated):
        decoder = PcmDecoder(file, name, raw.rate, raw.channels, raw.encoding)
        if not seekable:
            return decoder.put_back(head)
        file.seek(0)
        return decoder.bound(0, None, size)
    if seekable:
        file.seek(0)
        return SoundfileDecoder(file, name)
    # libsndfile seeks in its input, so a stream is copied to a temporary file first.
    copy = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the decoder, which closes it
    try:
        copy.write(head)
        while data := read_some(file, 1 << 16, name):
            copy.write(data)
        copy.seek(0)
        return SoundfileDecoder(copy, name, owned=True)
    except BaseException:
        copy.close()
        raise


def _has_known_header(head: bytes, raw_stated: bool) -> bool:
    """Whether the first 12 bytes are the header of a file format. `raw_stated`: the caller says that they are samples."""
    if head.startswith(_MAGIC) or head[4:8] == b"ftyp":
        return True
    # An mp3 may begin with a frame: 11 bits set, layer III, no reserved value. Raw samples rarely look like that.
    bits = int.from_bytes(head[:4], "big")
    frame = bits >> 21 == 0x7FF and bits >> 19 & 3 != 1 and bits >> 17 & 3 == 1
    return frame and not raw_stated and bits >> 12 & 15 not in (0, 15) and bits >> 10 & 3 != 3 and bits & 3 != 2


def _open_wav(file: IO[bytes], name: str, head: bytes, size: int | None) -> PcmDecoder | None:
    """Reads the header after its first 12 bytes, `head`; `size` is the file's, None for a stream. None for compressed wav."""
    riff = int.from_bytes(head[4:8], "little")
    start, form = len(head), b""
    while True:
        chunk = _read_exactly(file, 8, name)
        if len(chunk) < 8:
            raise EdgeGemmaValueError(f"{name} is damaged: its header ends before the samples begin.", "format")
        kind, length = struct.unpack("<4sI", chunk)
        start += 8
        if kind == b"data":
            break
        padded = length + length % 2
        if kind == b"fmt ":
            form = _read_exactly(file, min(padded, 40), name)
            _skip(file, padded - len(form), name)
        else:
            _skip(file, padded, name)
        start += padded
    if len(form) < 16:
        raise EdgeGemmaValueError(f"{name} is damaged: its header does not say what the samples are.", "format")
    tag, channels, rate, _, frame_bytes, _ = struct.unpack("<HHIIHH", form[:16])
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    if not channels or not rate or not frame_bytes or frame_bytes % channels:
        raise EdgeGemmaValueError(
            f"{name} is damaged: its header says {channels} channels, {rate} Hz and {frame_bytes} bytes a frame.",
            "format",
        )
    encoding = _WAV_ENCODINGS.get((tag, frame_bytes // channels))
    if encoding is None:
        return None
    available = None if size is None else max(0, size - start)
    unfinished = length == 0 and (riff >= _ENDLESS or riff + 8 <= start)
    endless = length >= _ENDLESS and (available is None or available < length)
    stated = None if unfinished or endless else length
    return PcmDecoder(file, name, rate, channels, encoding).bound(start, stated, available)


def read_some(file: IO[bytes], n: int, name: str) -> bytes:
    """At most n bytes, as soon as there are any; b"" at the end. Raises EdgeGemmaOSError, EdgeGemmaValueError."""
    try:
        data = getattr(file, "read1", file.read)(n)
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot read {name}: {error.strerror or error}.", "file") from error
    if data is None:
        raise EdgeGemmaOSError(f"cannot read {name}: it is in non-blocking mode.", "file")
    if isinstance(data, str):
        raise EdgeGemmaValueError(f"{name} returns text, not bytes: open it in binary mode.", "argument")
    return bytes(data)


def _read_exactly(file: IO[bytes], n: int, name: str) -> bytes:
    """Exactly n bytes, or fewer at the end of the file."""
    data = b""
    while len(data) < n and (more := read_some(file, n - len(data), name)):
        data += more
    return data


def _skip(file: IO[bytes], n: int, name: str) -> None:
    """Reads and drops n bytes."""
    while n > 0 and (data := read_some(file, min(n, 1 << 16), name)):
        n -= len(data)
