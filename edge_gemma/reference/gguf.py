"""Reads GGUF files: metadata, and tensors that are dequantized when they are used.

Owns the container (versions 2 and 3, little endian, whole or split files). It does not own block formats (quants.py) or
the meaning of tensor names (text.py, audio.py, vision.py). Source: Gemma 4 specification, container.

    header: magic "GGUF", u32 version, u64 tensors, u64 pairs
    pair:   string key, u32 type, value            tensor: string name, u32 dims, u64 ne[dims], u32 type, u64 offset
    data:   next multiple of general.alignment (32); offsets are relative to it; ne[0] is the fastest axis

Tensor shapes are given here in row-major order, the reverse of ne: a matrix W[out, in] computes y = W x.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import quants

_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))  # metadata type -> struct code
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class GgufError(ValueError):
    """The file is not a GGUF file that this reader understands. The message has the place in the file."""


class _Cursor:
    """Reads forward through a buffer and never past its end."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data, self.at = data, 0

    def read(self, count: int) -> NDArray[np.uint8]:
        if count > self.data.size - self.at:
            raise GgufError(f"the file ends inside the {count} bytes at offset {self.at}.")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.read(struct.calcsize("<" + code)).tobytes())[0]

    def string(self) -> str:
        return self.read(self.number("Q")).tobytes().decode("utf-8", "surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth == 4:
            raise GgufError(f"the value at offset {self.at} has the unknown metadata type {kind}.")
        element, count = self.number("I"), self.number("Q")
        if element in _SCALARS:
            dtype = np.dtype(_SCALARS[element]).newbyteorder("<")
            return self.read(count * dtype.itemsize).view(dtype).tolist()
        return [self.value(element, depth + 1) for _ in range(count)]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: row-major shape, name of the weight type, raw blocks [bytes]."""

    shape: tuple[int, ...]
    type: str
    raw: NDArray[np.uint8]

    def array(self) -> NDArray[np.float32]:
        """All values, float32 [shape]."""
        return quants.dequantize(self.raw, self.type).reshape(self.shape)

    def rows(self, ids: Iterable[int]) -> NDArray[np.float32]:
        """Some rows of a matrix, float32 [len(ids), shape[1]]. Reads these rows only. Raises IndexError for a wrong id."""
        rows = self.raw.reshape(self.shape[0], -1)[np.asarray(list(ids), np.int64)]
        return quants.dequantize(rows, self.type).reshape(-1, self.shape[1])


class Gguf:
    """An open GGUF file: `metadata` (key -> value) and `tensors` (name -> Tensor), both plain dictionaries.

    `path` may be any part of a split file (name-00001-of-00003.gguf). All parts are opened; the metadata is that of the
    first part. Raises OSError, or GgufError (a ValueError) for a malformed or truncated file or an unknown weight type.
    """

    def __init__(self, path: str | Path) -> None:
        paths = _parts(Path(path))
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        for number, part in enumerate(paths):
            metadata, tensors = _read(part)
            if metadata.get("split.count") not in (None, 0, 1, len(paths)):
                raise GgufError(f"{part}: one of {metadata['split.count']} parts, but its name says {len(paths)}.")
            if metadata.get("split.no", number) != number:
                raise GgufError(f"{part}: part {metadata['split.no']}, counted from 0, but its name says {number}.")
            if doubled := self.tensors.keys() & tensors.keys():
                raise GgufError(f"{part}: tensor {min(doubled)} is in two parts.")
            self.metadata = self.metadata or metadata
            self.tensors |= tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise GgufError(f"the file has no tensor {name}.")
        return self.tensors[name]

    def values(self, name: str) -> NDArray[np.float32]:
        """All values of a tensor, float32 [shape]. Those of QC2, QC4 and QC8 are multiplied by their row's scale."""
        array = self[name].array()
        return array * self._scale(name) if self[name].type in quants.PER_CHANNEL else array

    def rows(self, name: str, ids: Iterable[int]) -> NDArray[np.float32]:
        """As `values`, for some rows of a matrix: [len(ids), columns]. Reads these rows only."""
        ids = list(ids)
        rows = self[name].rows(ids)
        return rows * self._scale(name)[ids] if self[name].type in quants.PER_CHANNEL else rows

    def _scale(self, name: str) -> NDArray[np.float32]:
        """X.scale of X.weight: [rows, 1] with one scale a row, or [rows, columns] where a row has a scale for each part."""
        rows, columns = self[name].shape
        scale = self[name.removesuffix(".weight") + ".scale"].array()
        scale = scale.reshape(len(scale), -1)
        if len(scale) != rows or columns % scale.shape[1]:
            raise GgufError(f"tensor {name} of shape [{rows}, {columns}] has scales of shape {list(scale.shape)}.")
        return scale if scale.shape[1] == 1 else np.repeat(scale, columns // scale.shape[1], axis=1)

    def steps(self, name: str) -> tuple[float, float]:
        """The quantization steps of a matrix's input and output: X.input_scale and X.output_scale of X.weight.

        A step is 0 if the tensor is missing or the type of the matrix is not QC2, QC4 or QC8.
        """
        if self[name].type not in quants.PER_CHANNEL:
            return 0.0, 0.0
        names = (f"{name.removesuffix('.weight')}.{side}_scale" for side in ("input", "output"))
        steps = [float(self[name].array().reshape(-1)[0]) if name in self else 0.0 for name in names]
        return steps[0], steps[1]


def _parts(path: Path) -> list[Path]:
    if not (match := _PART.search(path.name)):
        return [path]
    count = int(match[2])
    return [path.with_name(f"{path.name[: match.start()]}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.stat().st_size < 24:
        raise GgufError(f"{path}: too short for a GGUF file.")
    cursor = _Cursor(np.memmap(path, np.uint8, "r"))
    if cursor.read(4).tobytes() != b"GGUF":
        raise GgufError(f"{path}: not a GGUF file.")
    if (version := cursor.number("I")) not in (2, 3):
        raise GgufError(f"{path}: GGUF version {version}, not 2 or 3.")
    tensor_count, pair_count = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    infos = []
    for _ in range(tensor_count):
        name, dims = cursor.string(), cursor.number("I")
        if dims > 4:
            raise GgufError(f"{path}: tensor {name} has {dims} dimensions.")
        ne = [cursor.number("Q") for _ in range(dims)]
        infos.append((name, tuple(reversed(ne)), cursor.number("I"), cursor.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise GgufError(f"{path}: the alignment is {alignment}.")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, shape, type_id, offset in infos:
        try:
            kind = quants.block_type(type_id)
        except ValueError as error:
            raise GgufError(f"{path}: tensor {name}: {error}") from None
        if shape and shape[-1] % kind.elements:
            raise GgufError(f"{path}: tensor {name}: rows of {shape[-1]} values are not whole {kind.name} blocks.")
        cursor.at = start + offset
        if name in tensors:
            raise GgufError(f"{path}: tensor {name} appears twice.")
        tensors[name] = Tensor(shape, kind.name, cursor.read(math.prod(shape) // kind.elements * kind.bytes))
    return metadata, tensors
