"""Pictures and recordings that come inside requests, as arrays.

Nothing is fetched and no file is opened: an address of the web or of a file is an error. Content is not trusted: its size
is known before it is decoded, one item is decoded at a time, and only formats whose first bytes are known reach a decoder.
(What no table knows is left to a media library elsewhere; some of its formats are lists of other files.)
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import threading
from typing import IO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..audio.kinds import identify
from ..audio.source import SAMPLE_RATE, Source, open_audio
from ..errors import EdgeGemmaError
from ..vision.images import load_image
from .failures import RequestError, request_error

__all__ = ["SOUNDS", "data_url", "decoded", "picture", "recording", "sound_source"]

SOUNDS = frozenset(
    f"{article} file"
    for article in (
        *(
            "a wav",
            "a FLAC",
            "an Ogg",
            "an MP3",
            "an AAC",
            "an M4A",
            "an MP4",
            "a 3GPP",
            "an AIFF",
            "a CAF",
            "an AU",
            "an AMR",
        ),
        *("a Matroska or WebM", "a QuickTime", "a Wave64"),
    )
)
"""The kinds of sound files that are taken from requests."""

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*(?P<base64>;base64)?,")
_decoding = threading.Lock()


def decoded(text: str, param: str) -> bytes:
    """The bytes of a base64 text. Raises RequestError."""
    try:
        return base64.b64decode("".join(text.split()) if "\n" in text else text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "The attached data is not base64.", param=param) from None


def data_url(url: str, param: str, what: str) -> bytes:
    """The bytes of a data URL; `what` is what errors call it. Raises RequestError for every other address."""
    found = _DATA_URL.match(url)
    if found is None or not found["base64"]:
        raise RequestError(
            400,
            f"{what} must be sent inside the request, as a data URL with base64: this server fetches nothing.",
            param=param,
            code="no_fetching",
        )
    return decoded(url[found.end() :], param)


def picture(data: bytes, max_pixels: int, param: str) -> NDArray[np.uint8]:
    """(h, w, 3) uint8, read-only. Raises RequestError."""
    with _decoding:
        try:
            try:
                with PIL.Image.open(io.BytesIO(data)) as image:
                    pixels = image.width * image.height
            except Exception:  # what this is, load_image says better
                pixels = 0
            if pixels > max_pixels:
                raise RequestError(
                    400,
                    f"The picture has {pixels / 1e6:.0f} million pixels; up to {max_pixels / 1e6:.0f} million are taken.",
                    param=param,
                )
            array = load_image(data)
        except EdgeGemmaError as error:
            failure = request_error(error)
            failure.param = param
            raise failure from None
    array.flags.writeable = False
    return array


def sound_source(file: IO[bytes], param: str) -> Source:
    """A recording in a seekable file as a `Source` of 16 kHz mono; the caller closes both. Raises RequestError."""

    def peek(count: int) -> bytes:
        file.seek(0)
        head = file.read(count)
        file.seek(0)
        return head

    kind = identify(peek)
    if kind is None or kind.name not in SOUNDS:
        found = "of an unknown format" if kind is None else kind.name
        raise RequestError(
            400, f"The recording is {found}. Send wav, mp3, flac, ogg, m4a or webm.", param=param, code="unknown_sound"
        )
    try:
        return open_audio(file)
    except EdgeGemmaError as error:
        failure = request_error(error)
        failure.param = param
        raise failure from None


def recording(data: bytes, max_seconds: float, param: str) -> NDArray[np.float32]:
    """16 kHz mono samples (n,), read-only, of a whole recording. Raises RequestError, also for a longer one."""
    with _decoding, sound_source(io.BytesIO(data), param) as source:
        parts, left = [], int(max_seconds * SAMPLE_RATE)
        try:
            while left >= 0 and (block := source.read(min(1.0, max_seconds))) is not None and block.size:
                parts.append(block)
                left -= block.size
        except EdgeGemmaError as error:
            failure = request_error(error)
            failure.param = param
            raise failure from None
    if left < 0:
        raise RequestError(
            400, f"The recording is longer than {max_seconds:.0f} seconds, the most that is heard.", param=param
        )
    samples = np.concatenate(parts).astype(np.float32, copy=False) if parts else np.zeros(0, np.float32)
    if samples.size < 161:
        raise RequestError(400, "The recording is empty.", param=param)
    samples.flags.writeable = False
    return samples
