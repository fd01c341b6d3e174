"""The only importer of the C extension: hands out `ffi` and `lib`, turns status codes into exceptions, checks arrays."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._version import __version__
from ..errors import Cancelled, EdgeGemmaError, EdgeGemmaMemoryError, EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import build_again, missing_engine
from .descriptor import FileDescriptor, FileSource

try:
    from .._engine import ffi, lib
except ImportError as error:
    raise missing_engine(error) from None

__all__ = [
    "KV_TYPES",
    "Handle",
    "Uncopyable",
    "check",
    "ffi",
    "file_params",
    "float_array",
    "int_array",
    "isa",
    "lib",
    "new_struct",
    "pointer",
    "text_of",
]

_built = ffi.string(lib.eg_version()).decode()
if _built != __version__:
    raise ImportError(f"edge_gemma {__version__} found an engine of version {_built}. {build_again()}")

#: The instruction set whose kernels were chosen for this machine.
isa: str = ffi.string(lib.eg_isa()).decode()

_ERRORS: dict[int, tuple[type[EdgeGemmaError], str]] = {
    lib.EG_ERROR_ARGUMENT: (EdgeGemmaValueError, "argument"),
    lib.EG_ERROR_FILE: (EdgeGemmaOSError, "file"),
    lib.EG_ERROR_FORMAT: (EdgeGemmaValueError, "format"),
    lib.EG_ERROR_UNSUPPORTED: (EdgeGemmaValueError, "unsupported"),
    lib.EG_ERROR_MEMORY: (EdgeGemmaMemoryError, "memory"),
    lib.EG_ERROR_CONTEXT: (EdgeGemmaValueError, "context"),
    lib.EG_ERROR_STATE: (EdgeGemmaError, "state"),
    lib.EG_CANCELLED: (Cancelled, "cancelled"),
}


def check(status: int, err: Any) -> None:
    """Raises the exception that stands for `status` with the text of the `eg_error *`; nothing for EG_OK."""
    if status == lib.EG_OK:
        return
    kind, code = _ERRORS.get(status, (EdgeGemmaError, "invalid"))
    raise kind(ffi.string(err.message).decode("utf-8", "replace"), code)


#: Memory that structs point to, by struct.
_kept: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

Self = TypeVar("Self", bound="Handle")


class Uncopyable:
    """Refers to an object of the engine. A copy would refer to it still when it has been freed, so there is none."""

    #: What error messages call the object.
    kind = "object"
    #: How to get a second one, for the error of those who try to copy it.
    instead = "open another one"

    def __copy__(self) -> NoReturn:
        """Raises TypeError: two would close one object of the engine."""
        raise TypeError(f"a {self.kind} cannot be copied: {self.instead}.")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Raises TypeError, as `__copy__` does."""
        self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Raises TypeError: pickle and multiprocessing cannot carry it to another process."""
        raise TypeError(f"a {self.kind} cannot be pickled: {self.instead}, in the process that uses it.")


class Exclusive:
    """See `Handle.exclusive`. A class of its own, since a generator would add a microsecond to every token."""

    __slots__ = ("_handle", "_lock")

    def __init__(self, handle: Handle, lock: threading.Lock) -> None:
        self._handle, self._lock = handle, lock

    def __enter__(self) -> Any:
        pointer = self._handle.pointer
        if not self._lock.acquire(blocking=False):
            kind, instead = self._handle.kind, self._handle.instead
            raise EdgeGemmaError(f"The {kind} is in use by another thread: {instead}.", "state")
        return pointer

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Handle(Uncopyable):
    """Owns one object of the engine; the base of what can be closed.

    Closed by `close()`, at the end of a `with` block, or by the garbage collector. Any thread may close it at any time: a
    call that is inside holds a reference to the pointer, and the object is freed when the last reference is gone.
    """

    def __init__(
        self,
        raw: Any,
        close: Callable[[Any], object],
        *,
        owner: Any = None,
        cancel: Callable[[Any], object] | None = None,
    ) -> None:
        """Takes over the pointer `raw`, which `close` frees. `owner`: the pointer of an object that must live longer.
        `cancel`: stops a call that is running in another thread when the object is closed."""

        def free(raw: Any, owner: Any = owner) -> None:
            close(raw)

        self._pointer: Any = ffi.gc(raw, free)
        self._cancel = cancel
        self._lock = threading.Lock()

    @property
    def pointer(self) -> Any:
        """The engine's pointer. Raises EdgeGemmaError "state" after `close()`."""
        found = self._pointer
        if found is None:
            raise EdgeGemmaValueError(f"The {self.kind} is closed.", "state")
        return found

    def exclusive(self) -> Exclusive:
        """A `with` block for calls that one thread at a time may make; it gives the pointer. Raises EdgeGemmaError "state"
        while another thread is in such a block.

        What the engine has written stays valid up to the end of the block, also if the object is closed meanwhile.
        """
        return Exclusive(self, self._lock)

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._pointer is None

    def close(self) -> None:
        """Frees the object, as soon as no thread is in a call on it. Further calls do nothing.

        A call that is running in another thread is stopped where that is possible: it raises `Cancelled`.
        """
        found, self._pointer = self._pointer, None
        if found is not None and self._cancel:
            self._cancel(found)

    def __enter__(self: Self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()


KV_TYPES: dict[str, int] = {"f16": lib.EG_KV_F16, "f32": lib.EG_KV_F32, "q8": lib.EG_KV_Q8}
"""Types of the KV cache by name."""


def new_struct(name: str) -> Any:
    """A zeroed struct of the public header, with its struct_size set. Returns the pointer."""
    struct = ffi.new(f"{name} *")
    struct.struct_size = ffi.sizeof(name)
    return struct


def file_params(source: FileSource) -> Any:
    """The `eg_file_params *` of a path or a descriptor."""
    params = new_struct("eg_file_params")
    if isinstance(source, FileDescriptor):
        params.fd, params.offset, params.length = source.fd, source.offset, source.length
        return params
    name = params.path = ffi.new("char[]", os.fsencode(source))
    _kept[params] = name  # as long as the struct is alive
    return params


def text_of(chars: Any, length: int) -> str:
    """A Python string from `length` bytes of UTF-8 owned by the engine."""
    return ffi.buffer(chars, length)[:].decode("utf-8", "replace") if length else ""


def float_array(values: ArrayLike, shape: tuple[int | None, ...], name: str) -> NDArray[np.float32]:
    """`values` as C-contiguous float32 of the given shape (None: any length). Raises ValueError naming the argument."""
    array = np.ascontiguousarray(values, np.float32)
    if array.ndim != len(shape) or any(want not in (None, have) for have, want in zip(array.shape, shape, strict=True)):
        wanted = "x".join("any" if n is None else str(n) for n in shape)
        raise EdgeGemmaValueError(f"{name} has shape {array.shape}; expected {wanted}.", "argument")
    return array


def int_array(values: ArrayLike, name: str) -> NDArray[np.int32]:
    """`values` as a C-contiguous vector of int32. Raises ValueError for other shapes, kinds, or numbers too large."""
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise EdgeGemmaValueError(f"{name} must be a list of whole numbers.", "argument")
    narrow = np.ascontiguousarray(array, np.int32)
    if not np.array_equal(narrow, array):
        raise EdgeGemmaValueError(f"{name} has numbers that do not fit 32 bits.", "argument")
    return narrow


def pointer(array: NDArray[Any], ctype: str) -> Any:
    """A cffi pointer to the first element of a contiguous array, which the caller keeps alive during the call."""
    return ffi.cast(ctype, array.ctypes.data)
