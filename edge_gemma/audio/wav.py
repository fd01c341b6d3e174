"""Wav files: RIFF, its big-endian form RIFX, and the 64-bit forms RF64 and BW64. Also AU files, which are as simple.

Owns their headers, and where their samples end. A header often tells too little: a recorder that was killed has not written
the length, or an old one; 32 bits hold no length beyond 4 GiB, so it wraps around. Therefore a stated length counts only if
the file ends there, or if chunks follow. Otherwise the samples go on to the end of the file.
"""

from __future__ import annotations

import re
from typing import IO, Any, NamedTuple

from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from .pcm import TOLERANCE, Lookahead, PcmDecoder

# Format tag and bytes of a sample -> encoding without its byte order.
_ENCODINGS = {
    (1, 1): "u8",
    (1, 2): "s16",
    (1, 3): "s24",
    (1, 4): "s32",
    (3, 4): "f32",
    (3, 8): "f64",
    (6, 1): "alaw",
    (7, 1): "mulaw",
}
_AU_ENCODINGS = {1: "mulaw", 2: "s8", 3: "s16be", 4: "s24be", 5: "s32be", 6: "f32be", 7: "f64be", 27: "alaw"}
_EXTENSIBLE = 0xFFFE
# A program that writes to a pipe cannot fill in the length afterwards. It leaves 0, or a number of at least this size.
_ENDLESS = 0x7FF00000
_LONGEST_HEADER = 1 << 26
_IDENTIFIER = re.compile(rb"[A-Za-z]\w{2}[\w ]")
# Chunks that are known to follow samples. Other names count only with a length that fits.
_CHUNKS = (
    b"LIST", b"INFO", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"inst", b"plst", b"PEAK", b"iXML", b"axml",
    b"aXML", b"_PMX", b"JUNK", b"junk", b"PAD ", b"pad ", b"FLLR", b"acid", b"afsp", b"levl", b"DISP", b"cart", b"chna",
    b"umid", b"SNDM", b"note", b"labl", b"ltxt", b"mext", b"minf", b"elm1", b"regn", b"strc", b"Cr8r", b"ResU", b"LGWV",
    b"SAUR", b"qlty", b"link", b"dbmd", b"slnt", b"olym", b"MARK", b"data", b"RIFF", b"RIFX", b"RF64", b"BW64",
)  # fmt: skip
_RECORDINGS = (b"data", b"RIFF", b"RIFX", b"RF64", b"BW64")  # chunks with more sound
_TAGS = (b"TAG", b"ID3", b"APETAGEX")  # what tagging programs append, which is no chunk


class _Header(NamedTuple):
    rate: int
    channels: int
    encoding: str | None  #: None for compressed samples
    big: bool  #: whether numbers are big-endian
    start: int  #: byte at which the samples begin
    length: int | None  #: bytes of samples by the header; None when it does not know


def open_wav(file: IO[bytes], ahead: Lookahead, name: str, size: int | None, base: int = 0) -> PcmDecoder | None:
    """The decoder of a wav file.

    Args:
        file: the file.
        ahead: looks at its next bytes, of which none have been read.
        name: what messages call the file.
        size: bytes of the file; None for a stream.
        base: bytes in front of the header.

    Returns None for compressed samples that are not decoded here; then nothing of a stream has been read. Raises
    EdgeGemmaValueError "format" for a damaged header.
    """
    header = _read_header(ahead, name, base)
    if header.encoding is None:
        return None
    if size is None:
        ahead.skip(header.start)
        return _Stream(ahead, name, header)
    return _of_file(file, name, header, size)


def _read_header(ahead: Lookahead, name: str, base: int) -> _Header:
    """Reads up to where the samples begin, without taking anything from `ahead`."""
    big = ahead.peek(base + 4)[base:] == b"RIFX"
    order: Any = "big" if big else "little"
    at, form, length64 = base + 12, b"", None
    while True:
        chunk = ahead.peek(at + 8)[at:]
        if len(chunk) < 8 or at > _LONGEST_HEADER:
            raise EdgeGemmaValueError(f"{name} is damaged: its header ends before the samples begin.", "format")
        kind, length = chunk[:4], int.from_bytes(chunk[4:], order)
        at += 8
        if kind == b"data":
            break
        if kind == b"fmt ":
            form = ahead.peek(at + min(length, 40))[at:]
        elif kind == b"ds64":
            length64 = int.from_bytes(ahead.peek(at + 16)[at + 8 :], order)
        at += length
        if (
            length % 2
            and not _IDENTIFIER.match(ahead.peek(at + 5)[at:], 1)
            and _IDENTIFIER.match(ahead.peek(at + 4)[at:])
        ):
            continue  # chunks begin at even bytes, but some programs leave out the byte that is to be added
        at += length % 2
    if len(form) < 16:
        raise EdgeGemmaValueError(f"{name} is damaged: its header does not say what the samples are.", "format")
    tag, channels, frame_bytes = (int.from_bytes(form[i : i + 2], order) for i in (0, 2, 12))
    rate = int.from_bytes(form[4:8], order)
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], order)
    if not channels or not rate or (tag in (1, 3, 6, 7) and (not frame_bytes or frame_bytes % channels)):
        raise EdgeGemmaValueError(
            f"{name} is damaged: its header says {channels} channels, {rate} Hz and {frame_bytes} bytes a frame.",
            "format",
        )
    encoding = _ENCODINGS.get((tag, frame_bytes // channels))
    if encoding and encoding[-1].isdecimal() and encoding != "u8":
        encoding += "be" if big else "le"
    if length == 0xFFFFFFFF and length64 is not None and length64 < 1 << 62:
        return _Header(rate, channels, encoding, big, at, length64)
    return _Header(rate, channels, encoding, big, at, None if length == 0xFFFFFFFF else length)


def _is_chunk(head: bytes, big: bool, room: int) -> bool:
    """Whether the bytes `head` behind the samples begin a chunk of at most `room` bytes, or a tag, rather than samples."""
    if head.startswith((*_CHUNKS, *_TAGS)):
        return True
    length = int.from_bytes(head[4:8], "big" if big else "little")
    return _IDENTIFIER.match(head) is not None and len(head) == 8 and length <= room


# ---- files -----------------------------------------------------------------------------------------------------------


def _of_file(file: IO[bytes], name: str, header: _Header, size: int) -> PcmDecoder:
    """The decoder of the samples in a file of `size` bytes."""
    available = max(0, size - header.start)
    stated = header.length
    length, more = available, 0
    if stated is not None and stated < available:
        length, more = _length(file, header, stated, available)
    assert header.encoding is not None
    decoder = PcmDecoder(file, name, header.rate, header.channels, header.encoding, header.start, length)
    endless = stated is None or (stated >= _ENDLESS and available < stated and stated < 1 << 32)
    if stated is not None and not endless and decoder.seconds(stated - available) >= TOLERANCE:
        decoder.warning = (
            f"{name} is cut short: {decoder.seconds(stated - available):.1f} s fewer than its header says."
        )
    elif stated and not endless and length > stated and (length - stated) % (1 << 32):
        if decoder.seconds(length - stated) >= TOLERANCE:
            decoder.warning = _outdated(name, decoder.seconds(stated), decoder.seconds(length))
    elif decoder.seconds(more) >= TOLERANCE:
        decoder.warning = _joined(name, decoder.seconds(more))
    file.seek(header.start)
    return decoder


def _length(file: IO[bytes], header: _Header, stated: int, available: int) -> tuple[int, int]:
    """Where the samples end, in bytes from their beginning, and how many bytes of another recording follow them.

    `stated`: the length by the header, less than `available`, the bytes up to the end of the file.
    """
    wrapped = stated + (
        available - stated >> 32 << 32
    )  # a length beyond 32 bits, of which the header has the lower ones
    for length in dict.fromkeys((stated, wrapped)):
        for pad in (length % 2, 0):
            at = length + pad
            if at >= available:
                return length, 0
            file.seek(header.start + at)
            head = file.read(8)
            if _is_chunk(head, header.big, available - at - 8):
                return length, _more(file, header, at, available)
    return available, 0


def _more(file: IO[bytes], header: _Header, at: int, available: int) -> int:
    """The bytes of another recording among the chunks that begin at byte `at` behind the beginning of the samples."""
    while available - at >= 8:
        file.seek(header.start + at)
        head = file.read(8)
        if head.startswith(_RECORDINGS):
            return available - at
        length = int.from_bytes(head[4:], "big" if header.big else "little")
        if not _is_chunk(head, header.big, available - at - 8) or head.startswith(_TAGS):
            break
        at += 8 + length + length % 2
    return 0


def _outdated(name: str, stated: float, found: float) -> str:
    return f"{name} has an outdated header: it tells of {stated:.1f} s, and {found:.1f} s were found and read."


def _joined(name: str, seconds: float) -> str:
    return f"{name} holds another recording behind the first: {seconds:.1f} s were not read. Split the file."


def open_au(file: IO[bytes], ahead: Lookahead, name: str, size: int | None) -> PcmDecoder | None:
    """The decoder of an AU file, whose samples always go on to the end. Arguments and result are those of `open_wav`."""
    head = ahead.peek(24)
    start, stated, number, rate, channels = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4))
    encoding = _AU_ENCODINGS.get(number)
    if not head.startswith(b".snd") or encoding is None or start < 24 or not rate or not channels:
        return None
    if size is None:
        ahead.skip(start)
        return PcmDecoder(ahead, name, rate, channels, encoding)
    length = max(0, size - start)
    decoder = PcmDecoder(file, name, rate, channels, encoding, start, length)
    if stated < _ENDLESS and decoder.seconds(stated - length) >= TOLERANCE:
        decoder.warning = f"{name} is cut short: {decoder.seconds(stated - length):.1f} s fewer than its header says."
    file.seek(start)
    return decoder


# ---- streams ---------------------------------------------------------------------------------------------------------


class _Stream(PcmDecoder):
    """Wav from a pipe. What follows the stated length is looked at when it comes."""

    def __init__(self, ahead: Lookahead, name: str, header: _Header) -> None:
        assert header.encoding is not None
        endless = header.length is None or _ENDLESS <= header.length < 1 << 32
        length = None if endless else header.length
        super().__init__(ahead, name, header.rate, header.channels, header.encoding, header.start, length)
        self.frames = None
        self._ahead, self._header, self._stated = ahead, header, length
        self._given = 0  # bytes of samples that were returned
        self._ended = False

    def read(self, n: int) -> NDArray[Any]:
        block = super().read(n)
        at_limit = self.left is not None and self.left < self.frame_bytes
        if not len(block) and not self._ended and at_limit and self._goes_on():
            self.left = None
            block = super().read(n)
        self._given += len(block) * self.frame_bytes
        if not len(block) and not self._ended:
            self._ended = True
            self._compare()
        return block

    def _goes_on(self) -> bool:
        """Whether samples follow the stated length. Reads to the end if something else follows."""
        assert self.left is not None and self._stated is not None
        missing = self.left - len(self.incomplete)  # of the part of a frame that is stated
        self.incomplete += self._ahead.peek(missing)
        self._ahead.skip(missing)
        pad = self._stated % 2
        head = self._ahead.peek(8 + pad)
        if len(head) <= pad:
            return False
        for skipped in dict.fromkeys((pad, 0)):
            if _is_chunk(head[skipped : skipped + 8], self._header.big, 1 << 20):
                self._ahead.skip(skipped)
                self._drain()
                return False
        return True

    def _drain(self) -> None:
        """Reads the chunks behind the samples, and warns of another recording among them."""
        while len(head := self._ahead.peek(8)) == 8 and _is_chunk(head, self._header.big, 1 << 20):
            if head.startswith(_RECORDINGS):
                size = 0
                while data := self._ahead.read1(1 << 16):
                    size += len(data)
                if self.seconds(size) >= TOLERANCE:
                    self.warning = _joined(self.name, self.seconds(size))
                return
            if head.startswith(_TAGS):
                return
            length = int.from_bytes(head[4:], "big" if self._header.big else "little")
            self._ahead.skip(8 + length + length % 2)

    def _compare(self) -> None:
        """Warns where the header's length and what came differ."""
        if not self._stated:
            return
        missing = self.seconds(self._stated - self._given)
        if missing >= TOLERANCE:
            self.warning = f"{self.name} is cut short: {missing:.1f} s fewer than its header says."
        elif -missing >= TOLERANCE:
            self.warning = _outdated(self.name, self.seconds(self._stated), self.seconds(self._given))
