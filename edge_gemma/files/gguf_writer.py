"""Writes GGUF files from front to back: the directory first, then one tensor after the other, in little memory.

Owns the bytes of the container. An incomplete file never has the final name: data goes to a temporary file beside it, which
is renamed at the end and removed after a failure. This module does not own the meaning of keys and tensors.

    with GGUFWriter("out.gguf", {"general.architecture": text("gemma4")}, [OutputTensor("x", "F32", (32,))]) as writer:
        writer.tensor("x", [np.zeros(32, np.float32)])

Metadata values are bytes as the file has them, type number included: made by functions such as `u32(35)`, or copied from
another file.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..kernels import type_info

__all__ = ["GGUFWriter", "OutputTensor", "boolean", "f32", "numbers", "refuse_existing", "text", "texts", "u32"]

VERSION, ALIGNMENT = 3, 32
_U32, _F32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_ELEMENTS = {np.dtype(np.int32): 5, np.dtype(np.float32): _F32, np.dtype(np.bool_): _BOOL}


# ---- metadata values --------------------------------------------------------------------------------------------


def u32(value: int) -> bytes:
    """A whole number below 2^32."""
    return struct.pack("<II", _U32, value)


def f32(value: float) -> bytes:
    """A float32."""
    return struct.pack("<If", _F32, value)


def boolean(value: bool) -> bytes:
    """True or false."""
    return struct.pack("<I?", _BOOL, value)


def text(value: str) -> bytes:
    """A string."""
    return struct.pack("<I", _STRING) + _string(value)


def numbers(values: ArrayLike, dtype: type[np.generic]) -> bytes:
    """An array of int32, float32 or bool."""
    array = np.ascontiguousarray(values, dtype)
    return struct.pack("<IIQ", _ARRAY, _ELEMENTS[array.dtype], array.size) + array.tobytes()


def texts(values: Sequence[str]) -> bytes:
    """An array of strings."""
    return struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(map(_string, values))


def _string(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


# ---- files ------------------------------------------------------------------------------------------------------


class OutputTensor(NamedTuple):
    """A tensor to be written: one entry of the file's directory."""

    name: str
    type: str  #: "Q4_0"
    shape: tuple[int, ...]  #: as GGUF orders it: fastest axis first

    @property
    def bytes(self) -> int:
        """Size of the data in bytes."""
        info = type_info(self.type)
        return math.prod(self.shape) // int(info.block) * int(info.bytes)


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """Raises an error for an output file that exists already. With `force`, GGUF files and empty ones may be replaced."""
    for path in paths:
        if path.is_dir():
            raise EdgeGemmaOSError(f"{path} is a directory: give the name of a file.", "file")
        if path.exists() and not path.is_file():  # a pipe or a device, which the new file would replace
            raise EdgeGemmaOSError(f"{path} is no regular file: give the name of a file.", "file")
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(4) != b"GGUF":
                    raise EdgeGemmaOSError(f"{path} is no GGUF file, so it is not replaced: give another name.", "file")
        if path.exists() and not force:
            raise EdgeGemmaOSError(f"{path} exists already: --force (in Python: force=True) replaces it.", "file")


class GGUFWriter:
    """One file to be written. It gets its final name at the end of the `with` block. A failure leaves no file behind."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, bytes],
        tensors: Sequence[OutputTensor],
    ) -> None:
        """Lays out the file. Nothing is written before the `with` block."""
        self.path = Path(path)
        self._tensors, self._done = list(tensors), 0
        head = struct.pack("<4sIQQ", b"GGUF", VERSION, len(tensors), len(metadata))
        head += b"".join(_string(key) + value for key, value in metadata.items())
        offset = 0
        for tensor in tensors:
            if tensor.shape[0] % type_info(tensor.type).block:
                raise EdgeGemmaValueError(
                    f"tensor {tensor.name}: rows of {tensor.shape[0]} values are not whole blocks of {tensor.type}.",
                    "argument",
                )
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += _string(tensor.name) + shape + struct.pack("<IQ", type_info(tensor.type).id, offset)
            offset += tensor.bytes + _padding(tensor.bytes)
        self._head = head + bytes(_padding(len(head)))
        #: Size of the file when it is complete.
        self.size = len(self._head) + offset
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> GGUFWriter:
        """Writes the directory. Raises OSError if the disk has no room for the whole file."""
        folder = self.path.parent
        try:
            free = shutil.disk_usage(folder).free
            if free < self.size:
                raise EdgeGemmaOSError(
                    f"{folder} has {free / 1e9:.2f} GB left; {self.path.name} needs {self.size / 1e9:.2f} GB.", "file"
                )
            self._file = open(self._partial, "wb")  # __exit__ closes it
        except EdgeGemmaOSError:
            raise
        except OSError as error:
            raise EdgeGemmaOSError(f"cannot write {self.path}: {error.strerror}.", "file") from error
        try:
            self._write(self._head)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the file its name. After an exception it removes the temporary file."""
        try:
            if kind is None:
                if self._done != len(self._tensors):
                    missing = self._tensors[self._done].name
                    raise EdgeGemmaValueError(f"{self.path}: tensor {missing} was not written.", "state")
                try:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._file.close()
                    os.replace(self._partial, self.path)
                except OSError as failure:
                    raise self._failed(failure) from failure
        finally:
            self._discard()

    def tensor(self, name: str, pieces: Iterable[bytes | NDArray[np.generic]]) -> None:
        """Writes the data of the next tensor. Raises ValueError unless name and size are as planned, OSError on failure."""
        planned = self._tensors[self._done]
        if name != planned.name:
            raise EdgeGemmaValueError(f"tensor {planned.name} is next, not {name}.", "state")
        written = 0
        for piece in pieces:
            data = (
                memoryview(piece).cast("B")
                if isinstance(piece, bytes)
                else memoryview(piece.reshape(-1).view(np.uint8))
            )
            self._write(data)
            written += len(data)
        if written != planned.bytes:
            raise EdgeGemmaValueError(f"tensor {name} has {written} bytes; {planned.bytes} were planned.", "state")
        self._write(bytes(_padding(written)))
        self._done += 1

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> EdgeGemmaOSError:
        return EdgeGemmaOSError(f"writing {self.path} failed: {error.strerror}; no file was left behind.", "file")

    def _discard(self) -> None:
        try:
            self._file.close()
        except OSError:  # closing flushes, which fails again on a full disk
            pass
        self._partial.unlink(missing_ok=True)


def _padding(size: int) -> int:
    """Bytes from `size` to the next multiple of the alignment."""
    return -size % ALIGNMENT
