"""Reads a GGUF file that is to be rewritten: metadata as the bytes of the file, tensors piece by piece.

`engine.gguf.GGUFFile` checks the file first and lists its content. This module finds where the content lies. It does not
interpret keys, except that it leaves out those about the layout of the file itself (parts, alignment).
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

from .. import kernels
from ..engine.gguf import GGUFFile
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

__all__ = ["GGUFSource", "SourceTensor"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type number of a value -> its bytes
_STRING, _ARRAY = 8, 9
_LAYOUT = ("general.alignment", "split.")
_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


class SourceTensor(NamedTuple):
    """A tensor in a GGUF file. `shape` has the fastest axis first, as in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    path: Path
    offset: int  #: of its first byte in the file

    def read(self, start: int, count: int) -> NDArray[np.uint8]:
        """Bytes start .. start + count of the data. Raises OSError."""
        data = np.fromfile(self.path, np.uint8, count, offset=self.offset + start)
        if data.size != count:
            raise EdgeGemmaOSError(f"{self.path}: the file ended inside tensor {self.name}.", "file")
        return data


class GGUFSource:
    """The content of a GGUF file.

    `metadata` maps each key to the bytes of its type and value. `tensors` are in the order of the file; a split file has
    the tensors of all its parts. Raises what `GGUFFile` raises, and ValueError for tensors of unknown type.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the directory of the file. The data is read later, by `SourceTensor.read`."""
        self.path = Path(path)
        with GGUFFile(path) as file:
            known = {tensor.name: tensor for tensor in file.tensors}
        self.metadata: dict[str, bytes] = {}
        self.tensors: list[SourceTensor] = []
        for number, part in enumerate(_parts(self.path)):
            metadata, offsets = _walk(part)
            if number == 0:
                self.metadata = {key: value for key, value in metadata.items() if not key.startswith(_LAYOUT)}
            for name, offset in offsets.items():
                tensor = known[name]
                if tensor.type_name not in kernels.types:
                    raise EdgeGemmaValueError(
                        f"{part}: the tensor {name} has type {tensor.type_name or 'unknown'}, which this version cannot "
                        "read; take the model in another quantization, such as BF16 or Q8_0.",
                        "unsupported",
                    )
                self.tensors.append(SourceTensor(name, tensor.type_name, tensor.shape, tensor.bytes, part, offset))


def _parts(path: Path) -> list[Path]:
    """All parts of a split file whose first part is `path`; otherwise the path itself."""
    if not (match := _PART.search(path.name)):
        return [path]
    count = int(match[1])
    return [path.with_name(f"{path.name[: match.start()]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _walk(path: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Metadata, and the offset of each tensor's data, of a file that `GGUFFile` has checked."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tensor_count, key_count = struct.unpack_from("<QQ", data, 8)
        metadata, at = {}, 24
        for _ in range(key_count):
            key, at = _string(data, at)
            end = _value_end(data, at + 4, struct.unpack_from("<I", data, at)[0])
            metadata[key], at = data[at:end], end
        offsets = {}  # relative to the begin of the data
        for _ in range(tensor_count):
            name, at = _string(data, at)
            at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4
            offsets[name] = struct.unpack_from("<Q", data, at)[0]
            at += 8
        alignment = struct.unpack_from("<I", metadata.get("general.alignment", struct.pack("<II", 4, 32)), 4)[0]
        start = -(-at // alignment) * alignment
        return metadata, {name: start + offset for name, offset in offsets.items()}


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    """The string at a position, and the position after it."""
    end = at + 8 + struct.unpack_from("<Q", data, at)[0]
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value_end(data: mmap.mmap, at: int, kind: int) -> int:
    """The position after the value at `at`, whose type number is `kind`."""
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
