"""GGUF files as raw material for another one: metadata as the bytes that are in the file, tensors piece by piece.

`GGUFFile` checks the file first and says what is in it; this finds out where. Owns nothing of what keys mean, but that
keys about a file's own layout (parts, alignment) do not belong to the next file.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.gguf import GGUFFile
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

__all__ = ["GGUFSource", "SourceTensor"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type of value
_STRING, _ARRAY = 8, 9
_LAYOUT = ("general.alignment", "split.")
_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


class SourceTensor(NamedTuple):
    """A tensor in its file; `shape` as GGUF orders it: fastest axis first."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    path: Path
    offset: int  #: of its first byte in the file

    def read(self, start: int, count: int) -> NDArray[np.uint8]:
        """Bytes start .. start + count of its data. Raises OSError."""
        data = np.fromfile(self.path, np.uint8, count, offset=self.offset + start)
        if data.size != count:
            raise EdgeGemmaOSError(f"{self.path}: the file ended inside tensor {self.name}.", "file")
        return data


class GGUFSource:
    """`metadata`: key -> bytes of its type and value; `tensors` in the order of the file, of all parts of a split one.

    Raises what `GGUFFile` raises, and ValueError for tensors of unknown type.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the directory of the file; data stays where it is."""
        self.path = Path(path)
        with GGUFFile(path) as file:
            known = {tensor.name: tensor for tensor in file.tensors}
        self.metadata: dict[str, bytes] = {}
        self.tensors: list[SourceTensor] = []
        for number, part in enumerate(_parts(self.path)):
            metadata, places = _walk(part)
            if number == 0:
                self.metadata = {key: value for key, value in metadata.items() if not key.startswith(_LAYOUT)}
            for name, offset in places.items():
                tensor = known[name]
                if tensor.type_name is None:
                    raise EdgeGemmaValueError(
                        f"{part}: tensor {name} has a type that this version does not know.", "unsupported"
                    )
                self.tensors.append(SourceTensor(name, tensor.type_name, tensor.shape, tensor.bytes, part, offset))


def _parts(path: Path) -> list[Path]:
    if not (match := _PART.search(path.name)):
        return [path]
    count = int(match[1])
    return [path.with_name(f"{path.name[: match.start()]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _walk(path: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Metadata, and where each tensor's data begins, of a file that was checked before."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tensor_count, key_count = struct.unpack_from("<QQ", data, 8)
        metadata, at = {}, 24
        for _ in range(key_count):
            key, at = _string(data, at)
            end = _value_end(data, at + 4, struct.unpack_from("<I", data, at)[0])
            metadata[key], at = data[at:end], end
        places = {}
        for _ in range(tensor_count):
            name, at = _string(data, at)
            at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4
            places[name] = struct.unpack_from("<Q", data, at)[0]
            at += 8
        alignment = struct.unpack_from("<I", metadata.get("general.alignment", struct.pack("<II", 4, 32)), 4)[0]
        start = -(-at // alignment) * alignment
        return metadata, {name: start + offset for name, offset in places.items()}


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    end = at + 8 + struct.unpack_from("<Q", data, at)[0]
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value_end(data: mmap.mmap, at: int, kind: int) -> int:
    """Where a value of that type ends."""
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element in _SIZES:
        return at + _SIZES[element] * int(count)
    for _ in range(count):
        at = _value_end(data, at, element)
    return at
