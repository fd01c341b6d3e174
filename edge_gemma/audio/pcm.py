"""Samples without compression, and those of telephones (A-law, mu-law): their types, and reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

#: Seconds that may be missing at the end of a recording without a warning.
TOLERANCE = 0.1


class Encoding(NamedTuple):
    """A type of samples."""

    size: int  #: bytes of a sample
    decode: Callable[[bytes], NDArray[Any]]  #: bytes of whole samples -> (n,) samples of any type that `to_mono` takes


def _plain(dtype: str) -> Encoding:
    return Encoding(np.dtype(dtype).itemsize, lambda data: np.frombuffer(data, dtype))


def _three_bytes(first: int, dtype: str) -> Encoding:
    """24-bit samples, which become the upper 24 bits of int32. `first`: where they begin in the four bytes."""

    def decode(data: bytes) -> NDArray[Any]:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, first : first + 3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view(dtype).reshape(-1)

    return Encoding(3, decode)


def _table(values: NDArray[np.int16]) -> Encoding:
    return Encoding(1, lambda data: values[np.frombuffer(data, np.uint8)])


def _mu_law() -> NDArray[np.int16]:
    """The 256 samples of mu-law (ITU-T G.711)."""
    code = ~np.arange(256) & 255
    size = (((code & 15) << 3) + 132 << (code >> 4 & 7)) - 132
    return np.where(code & 128, -size, size).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    """The 256 samples of A-law (ITU-T G.711)."""
    code = np.arange(256) ^ 0x55
    segment = code >> 4 & 7
    size = ((code & 15) << 4) + 8
    size = np.where(segment > 0, size + 256 << np.maximum(segment, 1) - 1, size)
    return np.where(code & 128, size, -size).astype(np.int16)


#: Types of raw samples by ffmpeg's names.
ENCODINGS: dict[str, Encoding] = {
    "u8": _plain("u1"),
    "s8": _plain("i1"),
    "s16le": _plain("<i2"),
    "s16be": _plain(">i2"),
    "s24le": _three_bytes(1, "<i4"),
    "s24be": _three_bytes(0, ">i4"),
    "s32le": _plain("<i4"),
    "s32be": _plain(">i4"),
    "f32le": _plain("<f4"),
    "f32be": _plain(">f4"),
    "f64le": _plain("<f8"),
    "f64be": _plain(">f8"),
    "alaw": _table(_a_law()),
    "mulaw": _table(_mu_law()),
}


class PcmDecoder:
    """Samples in a file or a stream."""

    def __init__(
        self,
        file: IO[bytes] | Lookahead,
        name: str,
        rate: float,
        channels: int,
        encoding: str,
        start: int = 0,
        length: int | None = None,
    ) -> None:
        """Reads on from the position that the file has.

        Args:
            file: a binary file, which stays open.
            name: what messages call it.
            rate: samples a second.
            channels: samples of a frame.
            encoding: the type of the samples, one of `ENCODINGS`.
            start: byte at which the samples begin; needed by `seek`.
            length: bytes of samples; None for a stream, whose length is unknown.

        Raises EdgeGemmaValueError "argument" for an unknown encoding or an impossible number of channels.
        """
        if encoding not in ENCODINGS:
            raise EdgeGemmaValueError(
                f"encoding is {encoding!r}; it must be one of {', '.join(ENCODINGS)}.", "argument"
            )
        if channels not in range(1, 0x10000):
            raise EdgeGemmaValueError(f"channels is {channels!r}; it must be at least 1.", "argument")
        self.rate = rate
        self.warning: str | None = None
        self._file, self.name, self._channels = file, name, channels
        self._encoding = ENCODINGS[encoding]
        self.frame_bytes = channels * self._encoding.size
        self.frames = None if length is None else length // self.frame_bytes
        self._start = start
        self.left = length  # bytes that were not read yet; None when unknown
        self.incomplete = b""  # the first bytes of a frame whose others were not read yet

    def seconds(self, size: int) -> float:
        """The duration of `size` bytes."""
        return size / self.frame_bytes / self.rate

    def read(self, n: int) -> NDArray[Any]:
        """Up to n frames, as soon as some are there."""
        want = n * self.frame_bytes
        if self.left is not None:
            want = min(want, self.left)
        data = self.incomplete
        while len(data) < self.frame_bytes <= want:
            more = read_some(self._file, want - len(data), self.name)
            if not more:
                break
            data += more
        whole = min(len(data), want) // self.frame_bytes * self.frame_bytes
        data, self.incomplete = data[:whole], data[whole:]
        if self.left is not None:
            self.left -= whole
        return self._encoding.decode(data).reshape(-1, self._channels)

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`. Only for files, whose length is known."""
        assert self.frames is not None
        frame = min(frame, self.frames)
        self._file.seek(self._start + frame * self.frame_bytes)
        self.incomplete, self.left = b"", (self.frames - frame) * self.frame_bytes

    def close(self) -> None:
        """Does nothing: the file belongs to the caller."""


class AssumedDecoder(PcmDecoder):
    """Samples without a header whose format nobody stated. Reading fails when they are evidently of another format."""

    _JUDGED = 2048  # frames that are judged together

    def __init__(
        self, file: IO[bytes] | Lookahead, name: str, rate: float, encoding: str, length: int | None = None
    ) -> None:
        """Mono. Raises as `PcmDecoder`."""
        super().__init__(file, name, rate, 1, encoding, 0, length)
        self._seen: list[NDArray[Any]] | None = []  # frames that were not judged yet; None once the format is believed

    def read(self, n: int) -> NDArray[Any]:
        """Up to n frames. Raises EdgeGemmaValueError "format" when they are no samples of this format."""
        block = super().read(n)
        if self._seen is not None:
            self._seen.append(block)
            if sum(map(len, self._seen)) >= self._JUDGED:
                self._judge(np.concatenate(self._seen)[:, 0] / 32768)
        return block

    def _judge(self, samples: NDArray[np.float64]) -> None:
        """Believes samples as soon as some are loud enough and none of what compressed data or another type looks like.

        Sound at 16 kHz has neighbours that are alike, and most of it lies near 0. Compressed data, and samples of another
        type or byte order, are as loud as full scale and have neighbours that differ as those of noise do.
        """
        middle = float(samples.mean())
        around = samples - middle
        power = float(np.mean(around**2))
        alike = float(np.mean(around[1:] * around[:-1])) / max(power, 1e-12)
        near_zero = float(np.mean(np.abs(samples) < 0.5))
        if abs(middle) > 0.5 or near_zero < 0.1 or (power > 0.16 and alike < 0.3):
            raise EdgeGemmaValueError(
                f"{self.name} has no header that is known, and its bytes are no 16-bit samples at 16 kHz: they are "
                "compressed, or samples of another type. Convert the sound to wav, or state its rate and encoding.",
                "format",
            )
        self._seen = None if power > 1e-4 else []


class Lookahead:
    """A binary file whose next bytes can be looked at before they are read."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """`name` is what messages call the file."""
        self._file, self._name, self._ahead = file, name, b""

    def peek(self, n: int) -> bytes:
        """The next n bytes, fewer at the end of the file. They are not read: `read1` returns them again."""
        while len(self._ahead) < n and (more := read_some(self._file, n - len(self._ahead), self._name)):
            self._ahead += more
        return self._ahead[:n]

    def read1(self, n: int) -> bytes:
        """At most n bytes, as soon as there are any; b"" at the end."""
        if not self._ahead:
            return read_some(self._file, n, self._name)
        data, self._ahead = self._ahead[:n], self._ahead[n:]
        return data

    def skip(self, n: int) -> None:
        """Reads and drops n bytes."""
        while n > 0 and (data := self.read1(min(n, 1 << 16))):
            n -= len(data)

    def seek(self, position: int) -> None:
        """Goes to a byte of a file that can seek."""
        self._ahead = b""
        self._file.seek(position)


class Tolerant:
    """What libraries need of a file. Damaged files make them seek to positions that do not exist: that is no exception here."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` can seek."""
        self._file = file

    def read(self, n: int = -1) -> bytes:
        """The next n bytes, fewer at the end."""
        return self._file.read(n)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a position and returns it; -1 if there is no such position."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def read_some(file: IO[bytes] | Lookahead, n: int, name: str) -> bytes:
    """At most n bytes, as soon as there are any; b"" at the end. Raises EdgeGemmaOSError, EdgeGemmaValueError."""
    try:
        data = getattr(file, "read1", None) or file.read  # type: ignore[union-attr]
        data = data(n)
    except OSError as error:
        if isinstance(error, EdgeGemmaOSError):
            raise
        raise EdgeGemmaOSError(f"cannot read {name}: {error.strerror or error}.", "file") from error
    if data is None:
        raise EdgeGemmaOSError(f"cannot read {name}: it is in non-blocking mode.", "file")
    if isinstance(data, str):
        raise EdgeGemmaValueError(f"{name} returns text, not bytes: open it in binary mode.", "argument")
    return bytes(data)
