"""GGUF files for inspection: metadata and the tensor directory, without loading a model.

A thin wrapper over the engine's `eg_file_*` functions, which check the file. It owns the open handle; it does not own
tensor data (`Model`) or tokenizing (`Tokenizer`).

    with GGUFFile("model.gguf") as file:
        print(file.metadata["general.architecture"], len(file.tensors))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from .descriptor import FileSource, path_of
from .native import Handle, check, ffi, file_params, lib, new_struct

_DTYPES = {  # GGUF value type -> array type; strings (8) and arrays (9) have none
    0: np.uint8,
    1: np.int8,
    2: np.uint16,
    3: np.int16,
    4: np.uint32,
    5: np.int32,
    6: np.float32,
    7: np.bool_,
    10: np.uint64,
    11: np.int64,
    12: np.float64,
}
_STRING, _BOOL, _FLOATS, _WIDE = 8, 7, (6, 12), (10, 11)


class TensorInfo(NamedTuple):
    """A row of the tensor directory."""

    name: str
    type_name: str | None  #: "Q4_0", also a type that this version cannot read; None for an unknown number
    shape: tuple[int, ...]  #: as GGUF orders it: fastest axis first
    bytes: int  #: in the file; 0 for an unknown type


class StringArray(Sequence[str]):
    """A string array that stays in the file: each access decodes one string.

    Bytes that are not UTF-8 read as U+FFFD.
    """

    def __init__(self, file: GGUFFile, index: int, count: int) -> None:
        self._file, self._index, self._count = file, index, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self._count))]
        if not -self._count <= at < self._count:
            raise IndexError(f"element {at} of an array of {self._count}")
        return self._file._string(self._index, at % self._count)

    def __repr__(self) -> str:
        return f"<StringArray of {self._count}>"


class Metadata(Mapping[str, Any]):
    """The keys of a file in their order; values are read when asked for.

    Numbers are int, float or bool; number arrays are NumPy arrays of the file's type (integers beyond 2**53 are rounded
    to a double's precision); string arrays are `StringArray`.
    """

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        entry = new_struct("eg_file_metadata")
        self._entries: dict[str, tuple[int, int, bool, int]] = {}
        for index in range(lib.eg_file_metadata_count(file.pointer)):
            file._call(lib.eg_file_get_metadata, index, entry)
            key = _text(entry.key, entry.key_length)
            self._entries[key] = (index, entry.type, bool(entry.is_array), entry.count)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Any:
        index, kind, is_array, count = self._entries[key]
        if kind == _STRING:
            return StringArray(self._file, index, count) if is_array else self._file._string(index, 0)
        if is_array:
            return self._file._numbers(index, kind, count)
        return _python_number(self._file._number(index, 0), kind)


class GGUFFile(Handle):
    """An open, fully checked GGUF file of version 2 or 3, split or not; of a split one, give the first part.

    Raises `EdgeGemmaError` (also a ValueError or OSError, as fits) with a sentence that says what is wrong.
    """

    kind = "file"

    def __init__(self, path: FileSource) -> None:
        """Opens a file, given by its path or as a `FileDescriptor`."""
        self.path = str(path_of(path))
        self._err = new_struct("eg_error")
        out = ffi.new("eg_file **")
        check(lib.eg_file_open(file_params(path), out, self._err), self._err)
        super().__init__(out[0], lib.eg_file_close)
        self._number_out = ffi.new("double *")
        self._text_out, self._length_out = ffi.new("const char **"), ffi.new("size_t *")
        self._metadata: Metadata | None = None
        self._tensors: list[TensorInfo] | None = None

    @property
    def metadata(self) -> Metadata:
        """Keys and values."""
        if self._metadata is None:
            self._metadata = Metadata(self)
        return self._metadata

    @property
    def tensors(self) -> list[TensorInfo]:
        """The tensor directory, all parts of a split file together."""
        if self._tensors is None:
            tensor = new_struct("eg_file_tensor")
            rows: list[TensorInfo] = []
            for index in range(lib.eg_file_tensor_count(self.pointer)):
                self._call(lib.eg_file_get_tensor, index, tensor)
                type_name = ffi.string(tensor.type_name).decode() if tensor.type_name != ffi.NULL else None
                shape = tuple(tensor.dims[i] for i in range(tensor.n_dims))
                rows.append(TensorInfo(_text(tensor.name, tensor.name_length), type_name, shape, tensor.bytes))
            self._tensors = rows
        return self._tensors

    def identity(self) -> tuple[int, int]:
        """Internal: what a sidecar says of the file that it was made of: its size in bytes, and a digest."""
        return lib.eg_file_bytes(self.pointer), lib.eg_file_sidecar_digest(self.pointer)

    def __repr__(self) -> str:
        return f"<GGUFFile {self.path!r}{' (closed)' if self.closed else ''}>"

    def _call(self, function: Any, *arguments: Any) -> None:
        check(function(self.pointer, *arguments, self._err), self._err)

    def _number(self, index: int, element: int) -> float:
        self._call(lib.eg_file_get_number, index, element, self._number_out)
        return float(self._number_out[0])

    def _numbers(self, index: int, kind: int, count: int) -> NDArray[Any]:
        if kind not in _DTYPES:
            self._number(index, 0)  # raises: the engine words the refusal
            raise AssertionError("unreachable")
        values = (_python_number(self._number(index, i), kind) for i in range(count))
        return np.fromiter(values, _DTYPES[kind], count)

    def _string(self, index: int, element: int) -> str:
        with self.exclusive() as file:
            check(lib.eg_file_get_string(file, index, element, self._text_out, self._length_out, self._err), self._err)
            return _text(self._text_out[0], self._length_out[0])


def _text(data: Any, length: int) -> str:
    return bytes(ffi.buffer(data, length)).decode("utf-8", "replace")


def _python_number(value: float, kind: int) -> bool | int | float:
    if kind in _FLOATS:
        return value
    if kind == _BOOL:
        return value != 0
    if kind in _WIDE:  # a double may round up to one past the last integer of the type
        return min(int(value), int(np.iinfo(_DTYPES[kind]).max))
    return int(value)
