"""Decoders of sound files, and the choice of one by the first bytes of a file.

Wav, AU and raw samples are decoded here (wav.py, pcm.py). soundfile (extra `voice`) decodes flac, ogg, mp3, aiff and others;
a media library decodes the rest, and what soundfile fails at (media.py).

A decoder has
    rate        samples a second
    frames      length in frames; None when unknown
    warning     a sentence about damage, or None; final when the sound has ended
    read(n)     the next (k, channels) samples in their stored type, 1 <= k <= n; k = 0 at the end
    seek(frame) goes on reading at `frame`
    close()
`read` blocks until it has bytes. Conversion to 16 kHz mono is in source.py.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from ..installation import pip_line
from .kinds import Kind, identify, mp3_length, tag_length
from .media import FfmpegDecoder, PyAvDecoder, open_media
from .pcm import TOLERANCE, AssumedDecoder, Lookahead, PcmDecoder, Tolerant
from .wav import open_au, open_wav

_UNKNOWN = Kind("no sound file that is known", "sndfile")
# Formats whose length libsndfile takes from a header or from the last page, even where that is wrong. It then leaves out
# the rest, so the media library goes on where libsndfile stops before the end of the file.
_CHECKED = ("an MP3 file", "an Ogg file")
_CHUNKED = ("an AIFF file", "a CAF file", "a Wave64 file")  # here other data may follow the sound
_UNREAD = 300  # bytes at the end of such a file that need not be read: an ID3v1 tag, and a part of a frame


def _install() -> str:
    return f"`{pip_line('edge-gemma[voice]')}`"


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


class SoundfileDecoder:
    """Every format that libsndfile reads, through the package soundfile. Where it fails, a media library goes on."""

    def __init__(self, file: IO[bytes], name: str, kind: Kind, owned: bool = False) -> None:
        """`owned`: whether `close` closes the file.

        Raises ImportError or OSError without soundfile, EdgeGemmaValueError "format" for a file that it cannot read.
        """
        import soundfile

        self._error = soundfile.SoundFileError
        self._input, self._name, self._kind, self._owned = file, name, kind, owned
        self._size = file.seek(0, 2)
        file.seek(0)
        stated = _flac_frames(file) if kind.name == "a FLAC file" else None
        counted = mp3_length(file) if kind.name == "an MP3 file" else None
        file.seek(0)
        try:
            self._file = soundfile.SoundFile(Tolerant(file) if stated is None else _Flac(file))
        except soundfile.SoundFileError as error:
            raise EdgeGemmaValueError(
                f"{name} is {kind.name} that cannot be read: it is damaged or cut short, or its encoding is not known.",
                "format",
            ) from error
        # soundfile seeks after each read of a seekable file. In an mp3 that is not exact, so consecutive reads would not
        # join. A file that says it is not seekable is read straight on.
        self._file.seekable = lambda: False
        self._at = 0
        self._rest: PyAvDecoder | FfmpegDecoder | None = None  # goes on where libsndfile stopped
        self._tried = kind.name not in _CHECKED  # whether a media library was there, and could not read it either
        self._ended = self._failed = False
        # A stated length may be an estimate. A counted one contains what encoders add to each part of a joined file.
        self._tolerance = TOLERANCE if counted is None else 0.5
        self.cut = 0.0  #: missing bytes by those of the file, where its header tells its size; 0 otherwise
        self.rate = self._file.samplerate
        if stated is None and 0 < self._file.frames < 2**62:
            stated = self._file.frames
        self.frames: int | None = counted or stated or None
        self.warning: str | None = None
        if not self._file.frames:  # libsndfile finds no length in a truncated Ogg file, and then reads nothing
            self._go_on()

    def read(self, n: int) -> NDArray[Any]:
        """Up to n frames. Damage ends the sound and sets the warning."""
        block: NDArray[Any] = np.zeros((0, 1), np.float32)
        if self._rest is None and not self._ended:
            try:
                block = self._file.read(n, dtype="float32", always_2d=True)
            except self._error:
                self._failed = True
            if not len(block) and (self._failed or self._unread() > 0):
                self._go_on()
        if self._rest is not None:
            block = self._rest.read(n)
        self._at += len(block)
        if not len(block) and not self._ended:
            self._ended = True
            self._compare()
        return block

    def _unread(self) -> int:
        """Bytes that libsndfile has left at the end of a file, apart from what may follow the sound in its format."""
        at = self._input.tell()
        left = self._size - at
        if self._kind.name in _CHUNKED and left > _UNREAD:
            chunk = _at(self._input, at, 5).lstrip(b"\0")[:4].isalnum()
            self._input.seek(at)
            return 0 if chunk else left
        return max(0, left - _UNREAD) if self._kind.name in _CHECKED else 0

    def _go_on(self) -> None:
        """Lets a media library go on at the current position, if there is one that reads the file."""
        with contextlib.suppress(EdgeGemmaValueError):
            self._tried = True
            rest = open_media(self._input, self._name, self._kind.name)
            self._tried = rest is not None
            if rest is not None and rest.rate == self.rate:
                rest.seek(self._at)
                self._rest = rest

    def _compare(self) -> None:
        """Sets the warning, by the length that the header states and the bytes that were not read."""
        seconds = self._at / self.rate
        unread = self._unread() if self._rest is None else 0
        if self._rest is not None and self._rest.warning:
            self.warning = self._rest.warning
        elif not self._at and self._size > 4096:
            self.warning = f"{self._name} is damaged or cut short: nothing of it could be read."
        elif unread > 4096 and not self._failed:
            self.warning = (
                f"{self._name} has a wrong length in its header: {unread / self._size:.0%} of the file was not read."
            )
            if not self._tried:
                self.warning += f" PyAV ({_install()}) or the program ffmpeg can read all of it."
        elif self.frames is not None and self._at < self.frames - self.rate * self._tolerance:
            self.warning = f"{self._name} is damaged or cut short: {seconds:.1f} s could be read."
        elif seconds * self.cut >= TOLERANCE:
            self.warning = f"{self._name} is cut short: {seconds * self.cut:.1f} s fewer than its header says."

    def seek(self, frame: int) -> None:
        """Goes on reading at `frame`."""
        self._ended, self.warning = False, None
        if self._rest is not None and frame >= self._at:
            self._at = frame
            self._rest.seek(frame)
            return
        if self._rest is not None and self._file.frames:
            self._rest.close()
            self._rest = None
        if self._rest is not None:
            self._at = frame
            self._rest.seek(frame)
            return
        at = min(frame, self._file.frames)
        before = min(at, self.rate)  # a decoder's output depends on what came before: one second is decoded again
        try:
            self._file.seek(at - before)
            self._file.read(before, dtype="float32")
            self._at = at
        except self._error as error:
            self._at = frame
            self._go_on()
            if self._rest is None:
                raise EdgeGemmaValueError(f"{self._name}: cannot go to {frame / self.rate:.1f} s.", "format") from error
            return
        if frame > at:  # a position behind the stated length, where there may be sound
            self._at = frame
            if self._unread() > 0:
                self._go_on()
            if self._rest is None:
                self._at = at

    def close(self) -> None:
        """Closes the decoder, and the file if it is owned."""
        self._file.close()
        if self._rest is not None:
            self._rest.close()
        if self._owned:
            self._input.close()


def _missing(file: IO[bytes]) -> float:
    """The bytes that are missing at the end of a file by those that are there, as far as its header tells its size; or 0."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(64)
    stated = 0
    if head[:4] in (b"FORM", b"RIFF"):
        stated = 8 + int.from_bytes(head[4:8], "big" if head[:4] == b"FORM" else "little")
    elif head[:4] == b"riff":
        stated = int.from_bytes(head[16:24], "little")
    elif head[:4] == b"caff":
        stated = 8
        while stated <= size and len(head := _at(file, stated, 12)) == 12:
            length = int.from_bytes(head[4:], "big", signed=True)
            stated += 12 + max(length, 0)
    # A program that writes to a pipe leaves a length that is 0 or extremely large.
    return (stated - size) / size if size < stated < min(1000 * size, 0x7FF00000) else 0.0


def _at(file: IO[bytes], position: int, n: int) -> bytes:
    file.seek(position)
    return file.read(n)


class _Flac(Tolerant):
    """A FLAC file whose header states no length. libsndfile then reads to the end, also where the stated length is wrong."""

    def read(self, n: int = -1) -> bytes:
        at = self.tell()
        data = bytearray(super().read(n))
        for i in range(
            max(21, at), min(26, at + len(data))
        ):  # 36 bits, of which the first four are the lower half of byte 21
            data[i - at] &= 0xF0 if i == 21 else 0
        return bytes(data)


def _flac_frames(file: IO[bytes]) -> int | None:
    """The length of a FLAC file by its header; 0 if the header does not know it. None if there is no such header."""
    head = file.read(26)
    file.seek(0)
    return int.from_bytes(head[18:26], "big") & (1 << 36) - 1 if head[:5] in (b"fLaC\0", b"fLaC\x80") else None


Decoder = ArrayDecoder | PcmDecoder | SoundfileDecoder | PyAvDecoder | FfmpegDecoder


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
        EdgeGemmaValueError: "format" for a file that is empty, damaged, or of a kind that is not known or no sound;
            "unsupported" for a kind that needs a package; "argument" for an unusable `raw`.
        EdgeGemmaOSError: "file" when the file cannot be read.
    """
    size = file.seek(0, 2) if seekable else None
    if seekable:
        file.seek(0)
    ahead = Lookahead(file, name)
    if not ahead.peek(1):
        raise EdgeGemmaValueError(f"{name} is empty.", "format")
    kind = identify(ahead.peek)
    if kind is None or (kind.weak and raw is not None and raw.stated):
        if raw is not None:
            return _open_raw(file, ahead, name, raw, size)
        kind = _UNKNOWN
    if kind.reader == "none":
        raise EdgeGemmaValueError(f"{name} holds no sound: it is {kind.name}{kind.advice}.", "format")
    base = tag_length(ahead.peek(10))
    inside = identify(lambda n: ahead.peek(base + n)[base:]) if 0 < base < 1 << 24 else kind
    if inside is not None and inside.reader == "wav" and (decoder := open_wav(file, ahead, name, size, base)):
        return decoder
    if kind.name == "an AU file" and (decoder := open_au(file, ahead, name, size)):
        return decoder
    if inside is not None and inside.reader in ("wav", "media"):
        kind = inside
    if seekable:
        return _open_compressed(file, name, kind)
    # Decoders seek in their input, so a stream is copied to a temporary file first.
    copy = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the decoder, which closes it
    try:
        while data := ahead.read1(1 << 16):
            copy.write(data)
        copy.flush()
        return _open_compressed(copy, name, kind, owned=True)
    except BaseException:
        copy.close()
        raise


def _open_raw(file: IO[bytes], ahead: Lookahead, name: str, raw: Raw, size: int | None) -> PcmDecoder:
    """The decoder of samples without a header."""
    samples: IO[bytes] | Lookahead = ahead
    if size is not None:
        file.seek(0)
        samples = file
    if raw.stated:
        return PcmDecoder(samples, name, raw.rate, raw.channels, raw.encoding, 0, size)
    return AssumedDecoder(samples, name, raw.rate, raw.encoding, size)


def _open_compressed(file: IO[bytes], name: str, kind: Kind, owned: bool = False) -> Decoder:
    """The decoder of everything but plain wav and raw samples. Raises EdgeGemmaValueError "format", "unsupported"."""
    failure: EdgeGemmaValueError | None = None
    soundfile = True
    cut = _missing(file)
    if kind.reader != "media":
        try:
            known = SoundfileDecoder(file, name, kind, owned)
            known.cut = cut
            return known
        except EdgeGemmaValueError as error:
            failure = error
        except (ImportError, OSError):  # OSError: soundfile is installed, its library libsndfile is not
            soundfile = False
    try:
        if decoder := open_media(file, name, kind.name, owned):
            decoder.cut = cut
            return decoder
    except EdgeGemmaValueError as error:
        if kind is not _UNKNOWN:
            raise
        failure = error
    if kind is _UNKNOWN:
        raise EdgeGemmaValueError(
            f"{name} is not a sound file that is known. Samples without a header need their rate (such as 16000) and "
            "encoding.",
            "format",
        ) from failure
    if not soundfile:
        raise EdgeGemmaValueError(
            f"{name} is {kind.name}, and reading it needs soundfile: {_install()}.", "unsupported"
        )
    raise EdgeGemmaValueError(
        f"{name} is {kind.name}, and reading it needs PyAV ({_install()}) or the program ffmpeg (apt install ffmpeg).",
        "unsupported",
    ) from failure
