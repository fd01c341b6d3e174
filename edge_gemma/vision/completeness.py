"""Whether a JPEG or PNG file has data for all of its picture.

Pillow notices where a file ends too early. Where the data inside the file end too early, as with a header that lies about the
height, the decoders of these two formats paint the rest in one colour and say nothing. The checks here take about as long as
decoding, so they run only where the last four pixels of a picture have one colour.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

import PIL.Image
import PIL.ImageChops

__all__ = ["is_complete"]

# Bytes that hardly any Huffman code reads as "nothing changes", and the markers with which intervals of a JPEG begin.
_NOISE = bytes((37 * n * n + 91 * n) % 251 for n in range(64))
_PROBE = b"".join(_NOISE + bytes((0xFF, 0xD0 + n % 8)) for n in range(24))
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG pixel, by the colour type
# The passes of an interlaced PNG: first column and row, steps between columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def is_complete(image: PIL.Image.Image, file: IO[bytes]) -> bool:
    """Whether the file has the data of its whole picture. True for formats that need no check.

    Args:
        image: the decoded picture of the file, as it lies there.
        file: can seek.
    """
    if image.format not in ("JPEG", "PNG") or not _ends_in_one_colour(image):
        return True
    file.seek(0)
    data = file.read()
    return _jpeg_is_complete(image, data) if image.format == "JPEG" else _png_is_complete(data)


def _ends_in_one_colour(image: PIL.Image.Image) -> bool:
    corner = image.crop((max(image.width - 4, 0), image.height - 1, image.width, image.height))
    extrema: Any = [channel.getextrema() for channel in corner.split()]
    return all(low == high for low, high in extrema)


def _jpeg_is_complete(image: PIL.Image.Image, data: bytes) -> bool:
    """Bytes at the end of a scan tell: the decoder skips them if the scan is complete, and reads them if it is not."""
    ends = list(_scan_ends(data))
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    other = PIL.Image.open(io.BytesIO(_PROBE.join(pieces)), formats=["JPEG", "MPO"])
    return PIL.ImageChops.difference(image, other).getbbox() is None


def _scan_ends(data: bytes) -> Iterator[int]:
    """The positions behind the coded data of each scan of a JPEG."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        if data[at + 1] == 0xFF:  # a byte that fills a gap
            at += 1
            continue
        is_scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if is_scan:
            found = _END_OF_SCAN.search(data, at)
            if found is None:
                return
            at = found.start()
            yield at


def _png_is_complete(data: bytes) -> bool:
    """Whether as many bytes come out of the compressed data as the rows of the picture take."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, colour, interlaced = data[24], data[25], data[28]
    bits = depth * _CHANNELS.get(colour, 1)
    sizes = [(width, height)]
    if interlaced:
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
    wanted = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    unpacker, found = zlib.decompressobj(), 0
    for part in _png_parts(data):
        while part and found < wanted:
            found += len(unpacker.decompress(part, 1 << 20))
            part = unpacker.unconsumed_tail
    return found + len(unpacker.flush()) >= wanted


def _png_parts(data: bytes) -> Iterator[bytes]:
    """The pieces of the compressed data of a PNG."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += length + 12
