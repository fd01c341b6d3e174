"""What a file is, by its first bytes: a format of sound, or something that holds no sound.

Owns the table of formats. formats.py decides who decodes them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import IO, Literal, NamedTuple

#: First bytes that `identify` looks at in every file: enough for tar, whose signature ends at byte 262.
HEAD = 264


class Kind(NamedTuple):
    """A kind of file."""

    name: str  #: with its article, as messages say it
    #: "wav": wav.py decodes it; "sndfile": libsndfile, or else a media library; "media": a media library; "none": no sound
    reader: Literal["wav", "sndfile", "media", "none"]
    advice: str = ""  #: what to do with a file without sound: follows its name in a message
    weak: bool = False  #: a few bytes tell it, so samples without a header may look like it


_MP3 = Kind("an MP3 file", "sndfile")
_AAC = Kind("an AAC file", "media")
_MP4 = Kind("an MP4 file", "media")
_IMAGE = Kind("an image", "none")
_PACKED = ". Unpack it first"
_TEXT = Kind("a text", "none")

# First bytes, as patterns that are tried in this order.
_TABLE = [
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"(RIFF|RIFX|RF64|BW64)....WAVE", Kind("a wav file", "wav")),
        (rb"RIFF....AVI ", Kind("an AVI video", "media")),
        (rb"RIFF....QLCM", Kind("a QCP file", "media")),
        (rb"RIFF....WEBP", _IMAGE),
        (rb"RIFF....RMID|MThd", Kind("a MIDI file, which holds notes", "none")),
        (rb"(RIFF|RIFX|RF64|BW64)", Kind("a RIFF file of another kind than wav", "none")),
        (rb"fLaC", Kind("a FLAC file", "sndfile")),
        (rb"OggS", Kind("an Ogg file", "sndfile")),
        (rb"ID3[\x02-\x04]", _MP3),
        (rb"FORM....AIF[FC]", Kind("an AIFF file", "sndfile")),
        (rb"FORM....(8SVX|16SV)", Kind("an IFF file", "sndfile")),
        (rb"caff\x00[\x01\x02]", Kind("a CAF file", "sndfile")),
        (rb"riff\x2e\x91\xcf\x11", Kind("a Wave64 file", "sndfile")),
        (rb"\.snd\x00|dns\.", Kind("an AU file", "sndfile")),
        (rb"NIST_1A\n", Kind("a NIST Sphere file", "sndfile")),
        (rb"Creative Voice File", Kind("a VOC file", "sndfile")),
        (rb"PVF[12]\n", Kind("a PVF file", "sndfile")),
        (rb"....ftyp(avi[fs]|hei[cxms]|hev[cm]|m[is]f1)", _IMAGE),
        (rb"....ftyp3g", Kind("a 3GPP file", "media")),
        (rb"....ftypM4[ABP]", Kind("an M4A file", "media")),
        (rb"....ftypqt|....(moov|mdat|wide|pnot)", Kind("a QuickTime file", "media")),
        (rb"....ftyp", _MP4),
        (rb"\x1a\x45\xdf\xa3", Kind("a Matroska or WebM file", "media")),
        (rb"0&\xb2u\x8ef\xcf\x11", Kind("a WMA or WMV file", "media")),
        (rb"#!AMR", Kind("an AMR file", "media")),
        (rb"\x02?#!SILK", Kind("a SILK voice message", "none", ". Convert it to wav first")),
        (rb"FLV\x01", Kind("a Flash video", "media")),
        (rb"\.RMF\x00|\.ra\xfd", Kind("a RealMedia file", "media")),
        (rb"MAC [\x00-\xff]\x0f", Kind("a Monkey's Audio file", "media")),
        (rb"wvpk", Kind("a WavPack file", "media")),
        (rb"TTA[12]", Kind("a True Audio file", "media")),
        (rb"MPCK|MP\+", Kind("a Musepack file", "media")),
        (rb"DSD \x1c|FRM8", Kind("a DSD file", "media")),
        (rb"tBaK", Kind("a TAK file", "media")),
        (rb"ADIF", _AAC),
        (rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\xff\x1f\x00\xe8|\x1f\xff\xe8\x00", Kind("a DTS file", "media")),
        (rb"\x00\x00\x01\xba", Kind("an MPEG video", "media")),
        (rb"G.{187}G", Kind("an MPEG transport stream", "media", weak=True)),
        (rb"\x0b\x77.{3}[\x00-\x87]", Kind("an AC-3 file", "media", weak=True)),
        (rb"[\xd0-\xdf](.{32}[\xd0-\xdf]){4}", Kind("a GSM file", "none", ". Convert it to wav first", weak=True)),
        (rb"\x1f\x8b\x08", Kind("a gzip archive", "none", _PACKED)),
        (rb"BZh[1-9]1AY", Kind("a bzip2 archive", "none", _PACKED)),
        (rb"\xfd7zXZ\x00", Kind("an xz archive", "none", _PACKED)),
        (rb"\x28\xb5\x2f\xfd", Kind("a Zstandard archive", "none", _PACKED)),
        (rb"\x04\x22\x4d\x18", Kind("an LZ4 archive", "none", _PACKED)),
        (rb"PK(\x03\x04|\x05\x06)", Kind("a zip archive or an office document", "none", _PACKED)),
        (rb"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", "none", _PACKED)),
        (rb"Rar!\x1a\x07", Kind("a RAR archive", "none", _PACKED)),
        (rb".{257}ustar", Kind("a tar archive", "none", _PACKED)),
        (rb"\x89PNG|\xff\xd8\xff[\xc0-\xfe]|GIF8[79]a|II\*\x00|MM\x00\*", _IMAGE),
        (rb"%PDF-", Kind("a PDF document", "none")),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1", Kind("an office document", "none")),
        (rb"\x7fELF|MZ[\x00-\xff]\x00[\x00-\x1f]\x00\x00\x00|\xcf\xfa\xed\xfe", Kind("a program", "none")),
        (rb"GGUF", Kind("a model file", "none")),
        (rb"SQLite format 3", Kind("a database", "none")),
        (rb"version https://git-lfs", Kind("a Git LFS pointer", "none", ". Fetch its content with git lfs pull")),
    )
]
# Beginnings of texts, in lower case and without white space in front.
_TEXTS = [
    (("<!doctype html", "<html", "<head", "<body"), "an HTML page", ", perhaps the error page of a download"),
    (("<?xml", "<svg", "<rss", "<mpd"), "an XML document", ""),
    (("{", "["), "a text in JSON or a similar format", ", perhaps the error message of a download"),
    (("#extm3u", "[playlist]"), "a playlist", ". Give the sound files that it names"),
    (("{\\rtf",), "an RTF document", ""),
]
_RATES = (44100, 48000, 32000)
_BIT_RATES = {  # in kbit/s by (version 1 or not, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def identify(peek: Callable[[int], bytes]) -> Kind | None:
    """The kind of a file; None for one that is not known, such as samples without a header.

    Args:
        peek: returns the first n bytes, or fewer where the file is shorter. It is asked for more than `HEAD` bytes only if
            the first ones look like a frame of MPEG audio, which the next frame confirms.
    """
    head = peek(HEAD)
    for pattern, kind in _TABLE:
        if pattern.match(head):
            return kind
    if text := _text(head):
        return text
    for length, kind in ((_mpeg_length(head), _MP3), (_adts_length(head), _AAC), (_loas_length(head), _AAC)):
        if length:
            following = peek(length + 2)[length:]
            if not following or (following[:1] == head[:1] and (following[1:] or head[1:])[0] & 0xE0 == 0xE0):
                return kind._replace(weak=True)
    return None


def tag_length(head: bytes) -> int:
    """Bytes of an ID3v2 tag in front of the sound, whose first bytes are `head`; 0 if there is none."""
    if not re.match(rb"ID3[\x02-\x04].[\x00-\xff][\x00-\x7f]{4}", head, re.DOTALL):
        return 0
    size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def mp3_length(file: IO[bytes]) -> int | None:
    """The length of an MP3 file in samples, by counting its frames; None if its first frame states the length.

    Without that, programs take the bit rate of the first frame for that of all. A length that was stated before another file
    was appended does not count. Reads the whole file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    skipped = tag_length(file.read(10))
    file.seek(skipped)
    data, samples, at = file.read(1 << 20), 0, 0
    if tag := re.search(rb"(?:Xing|Info)...(.)(.{8})|VBRI.{6}(.{4})", data[:2048], re.DOTALL):
        flags, xing, vbri = tag[1], tag[2], tag[3]
        stated = int.from_bytes(vbri or (xing[4:] if flags[0] & 3 == 3 else b""), "big")
        if size - skipped - stated < 0.02 * size or not stated:
            return None
    while len(data) >= 4:
        while at + 4 <= len(data):
            length = _mpeg_length(data[at : at + 4])
            if length:
                first, layer = data[at + 1] & 8, 4 - (data[at + 1] >> 1 & 3)
                samples += 384 if layer == 1 else 576 if layer == 3 and not first else 1152
                at += length
            else:
                at = data.find(b"\xff", at + 1) if data[at] != 0xFF else at + 1
                at = len(data) if at < 0 else at
        rest, at = data[at:], max(0, at - len(data))
        data = rest + file.read(1 << 20)
        if len(data) == len(rest):
            break
    return samples


def _mpeg_length(head: bytes) -> int:
    """Bytes of the MPEG audio frame (layers I to III) with which a file begins; 0 if it begins with something else."""
    bits = int.from_bytes(head[:4], "big")
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    bit_rate, rate = bits >> 12 & 15, bits >> 10 & 3
    if bits >> 21 != 0x7FF or version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return 0
    first = version == 3
    hertz = _RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    bits_a_second, padding = _BIT_RATES[first, layer][bit_rate - 1] * 1000, bits >> 9 & 1
    if layer == 1:
        return (12 * bits_a_second // hertz + padding) * 4
    return (72 if layer == 3 and not first else 144) * bits_a_second // hertz + padding


def _adts_length(head: bytes) -> int:
    """Bytes of the AAC frame (ADTS) with which a file begins; 0 if it begins with something else."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0


def _loas_length(head: bytes) -> int:
    """Bytes of the AAC frame (LOAS) with which a file begins; 0 if it begins with something else."""
    if len(head) < 3 or head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    return ((head[1] & 0x1F) << 8 | head[2]) + 3


def _text(head: bytes) -> Kind | None:
    """The kind of a text; None for what is none: bytes that are no UTF-8 or UTF-16, or have control characters."""
    encoding = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(head[:2], "utf-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    text = text.lstrip("\ufeff")
    # Samples hardly ever look like this: small ones have bytes of 0, and letters would be loud and all of one sign.
    if len(text) < 3 or not all(letter.isprintable() or letter in "\t\n\r\f\x1b" for letter in text):
        return None
    beginning = text.lstrip().lower()
    for beginnings, name, advice in _TEXTS:
        if beginning.startswith(beginnings):
            return Kind(name, "none", advice)
    return _TEXT
