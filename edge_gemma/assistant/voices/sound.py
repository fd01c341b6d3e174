"""From what a voice writes, wav or raw samples in a pipe, to pieces of 16-bit samples at one rate.

The headers and types of samples are those of recordings, which audio/wav.py and audio/pcm.py read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ...audio.mono import mean
from ...audio.pcm import Lookahead, PcmDecoder
from ...audio.wav import open_wav
from ...errors import EdgeGemmaError
from ...installation import pip_line
from ..interface import EdgeGemmaVoiceError

__all__ = ["Pcm", "Readable", "pieces"]

Pcm = NDArray[np.int16]
"""(n,) mono samples."""

_PIECE = 0.1  # seconds of sound that a piece has at most
_HEADERS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_LOUDEST = 32767


class Readable(Protocol):
    """A stream of bytes."""

    def read1(self, n: int, /) -> bytes:
        """At most n bytes, as soon as there are any; b"" at the end."""
        ...


def pieces(stream: Readable, name: str, raw_rate: int, sample_rate: int) -> Iterator[Pcm]:
    """Yields the sound of a stream as soon as it comes.

    Args:
        stream: a wav file, or 16-bit little-endian mono samples without a header.
        name: what errors call the voice.
        raw_rate: samples a second of sound without a header.
        sample_rate: that of the pieces.

    Raises:
        EdgeGemmaVoiceError: for a header that is damaged or tells of compressed samples, and for another rate where soxr
            (extra `voice`) is missing.
    """
    # The readers of recordings ask a file for nothing but `read1`.
    file = cast("IO[bytes]", cast("object", stream))
    ahead = Lookahead(file, name)
    try:
        decoder: PcmDecoder | None = PcmDecoder(ahead, name, raw_rate, 1, "s16le")
        if ahead.peek(4) in _HEADERS:
            decoder = open_wav(file, ahead, name, None)
    except EdgeGemmaVoiceError:
        raise
    except EdgeGemmaError as error:
        raise EdgeGemmaVoiceError(str(error)) from error
    if decoder is None:
        raise EdgeGemmaVoiceError(
            f"{name} gave compressed sound; a voice has to give wav of plain samples, or raw ones."
        )
    resampler = None if decoder.rate == sample_rate else _resampler(name, decoder.rate, sample_rate)
    while len(frames := decoder.read(max(1, round(decoder.rate * _PIECE)))):
        mono = mean(_floats(frames))
        yield _integers(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None:
        yield _integers(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _resampler(name: str, rate: float, sample_rate: int) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise EdgeGemmaVoiceError(
            f"{name} gave {rate:g} samples a second, and {sample_rate} are wanted; converting them needs soxr: "
            f"`{pip_line('edge-gemma[voice]')}`."
        ) from error
    return soxr.ResampleStream(rate, sample_rate, 1)


def _floats(frames: NDArray[Any]) -> NDArray[np.float32]:
    """(n, channels) samples of any type, in [-1, 1]."""
    if frames.dtype.kind == "f":
        return np.nan_to_num(frames).astype(np.float32)
    if frames.dtype.kind == "u":  # 8 bits, around 128
        return ((frames.astype(np.float64) - 128) / 128).astype(np.float32)
    return np.asarray(frames / float(1 << (8 * frames.dtype.itemsize - 1)), np.float32)


def _integers(samples: NDArray[np.float32]) -> Pcm:
    return np.clip(np.rint(samples * (_LOUDEST + 1)), -_LOUDEST - 1, _LOUDEST).astype(np.int16)
