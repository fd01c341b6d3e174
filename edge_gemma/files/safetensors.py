"""Reads Hugging Face checkpoints: the tensors of one or several safetensors files, piece by piece.

Owns the container, and which file contains which tensor. It does not own the meaning of names (checkpoint_names.py).

    file: u64 length of the header, header (JSON: name -> dtype, shape, data_offsets), data; offsets count from the data
    several files: model.safetensors.index.json maps each tensor's name to its file
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

__all__ = ["Checkpoint", "StoredTensor", "read_json"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
# dtype -> NumPy type. BF16 is read as its bit pattern. Of the other types only the size of a value is needed.
_FLOATS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, **{name: dtype.itemsize for name, dtype in _FLOATS.items()}}


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file. `shape` has the slowest axis first, as in the file."""

    name: str
    dtype: str  #: "BF16"
    shape: tuple[int, ...]
    path: Path
    offset: int  #: of its first byte in the file

    @property
    def count(self) -> int:
        """Number of values; 1 for a scalar."""
        return math.prod(self.shape)

    def read(self, start: int = 0, count: int | None = None) -> NDArray[Any]:
        """Values start .. start + count of the flattened tensor in their stored type; BF16 as uint16 with the same bits.

        Raises ValueError for a type other than F32, F16 and BF16, OSError when the file cannot be read.
        """
        if self.dtype not in _FLOATS:
            raise _broken(self.path, f"tensor {self.name} has type {self.dtype}, which is neither F32, F16 nor BF16")
        dtype, count = _FLOATS[self.dtype], self.count - start if count is None else count
        data = np.fromfile(self.path, dtype, count, offset=self.offset + start * dtype.itemsize)
        if data.size != count:
            raise EdgeGemmaOSError(f"{self.path}: the file ended inside tensor {self.name}.", "file")
        return data

    def raw(self, start: int, count: int) -> NDArray[np.uint8]:
        """Bytes start .. start + count of the data, whatever the type. Raises OSError when the file cannot be read."""
        data = np.fromfile(self.path, np.uint8, count, offset=self.offset + start)
        if data.size != count:
            raise EdgeGemmaOSError(f"{self.path}: the file ended inside tensor {self.name}.", "file")
        return data

    def floats(self, start: int = 0, count: int | None = None) -> NDArray[np.float32]:
        """Values start .. start + count of the flattened tensor as float32. Raises as `read`."""
        data = self.read(start, count)
        if self.dtype == "BF16":
            return (data.astype(np.uint32) << 16).view(np.float32)
        return data.astype(np.float32)


class Checkpoint(Mapping[str, StoredTensor]):
    """The tensors of a checkpoint directory by name. Headers are read and checked when it is opened, data later.

    Raises OSError for missing files, ValueError for a damaged file and for an index that does not fit the files.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Opens model.safetensors, or the files of model.safetensors.index.json."""
        self.directory = Path(directory)
        self._tensors: dict[str, StoredTensor] = {}
        index = self.directory / INDEX
        if not index.is_file():
            self._tensors = {tensor.name: tensor for tensor in _read_header(self._single())}
            return
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise _broken(index, "it has no weight_map")
        for name in sorted(set(places.values())):
            path = self.directory / name
            if Path(name).name != name or not path.is_file():
                raise EdgeGemmaOSError(
                    f"{index} names {name}, which does not exist: download the checkpoint completely.", "file"
                )
            self._tensors |= {t.name: t for t in _read_header(path) if places.get(t.name) == name}
        if missing := sorted(places.keys() - self._tensors.keys()):
            raise _broken(index, f"{len(missing)} tensors are not in the files it names, the first is {missing[0]}")

    def _single(self) -> Path:
        """The only file of a checkpoint without an index."""
        files = sorted(self.directory.glob("*.safetensors"))
        if (path := self.directory / SINGLE) in files:
            return path
        if len(files) != 1:
            found = f"{len(files)} files *.safetensors but no {INDEX}" if files else "no *.safetensors"
            raise EdgeGemmaOSError(f"{self.directory}: {found}; a checkpoint has {SINGLE} or {INDEX}.", "file")
        return files[0]

    def __getitem__(self, name: str) -> StoredTensor:
        """The tensor of that name. Raises KeyError."""
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the files."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._tensors)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and ValueError for a file that is not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise EdgeGemmaOSError(f"{path}: {error.strerror}.", "file") from error
    except ValueError as error:
        raise _broken(path, f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(path, "it is not a JSON object")
    return value


def _read_header(path: Path) -> list[StoredTensor]:
    """The tensors of a file, with every entry of the header checked."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _broken(path, "it is not a safetensors file, or only the beginning of one")
        header = file.read(length)
    try:
        entries = json.loads(header)
    except ValueError as error:
        raise _broken(path, f"its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _broken(path, "its header is not a JSON object")
    data = 8 + length
    return [_entry(path, name, entry, data, size) for name, entry in entries.items() if name != "__metadata__"]


def _entry(path: Path, name: str, entry: Any, data: int, size: int) -> StoredTensor:
    """One entry of the header, checked against the file's size; the data begins at byte `data`."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        raise _broken(path, f"its header has an invalid entry for tensor {name}") from None
    if dtype in _SIZES and (not whole or end - begin != math.prod(shape) * _SIZES[dtype]):
        raise _broken(path, f"tensor {name} has the wrong number of bytes for {dtype} {list(shape)}")
    if not whole or begin > end or data + end > size:
        raise _broken(path, f"tensor {name} lies outside the file, which may be only the beginning of one")
    return StoredTensor(name, str(dtype), shape, path, data + begin)


def _broken(path: Path, reason: str) -> EdgeGemmaValueError:
    return EdgeGemmaValueError(f"{path}: {reason}.", "format")
