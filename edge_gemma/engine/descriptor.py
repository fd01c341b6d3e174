"""`FileDescriptor`: a GGUF file that has no path of its own, such as an asset inside an application's package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileDescriptor", "FileSource", "path_of"]


@dataclass(frozen=True)
class FileDescriptor:
    """An open file, and where in it a GGUF file lies.

    Attributes:
        fd: the descriptor. It stays the caller's, who may close it as soon as the file was opened from it.
        offset: bytes before the GGUF file.
        length: bytes of the GGUF file; 0 for all up to the end.
    """

    fd: int
    offset: int = 0
    length: int = 0


FileSource = str | os.PathLike[str] | FileDescriptor
"""Where a GGUF file is."""


def path_of(source: FileSource) -> Path:
    """The path, or for a descriptor what messages call it."""
    return Path(f"<descriptor {source.fd}>") if isinstance(source, FileDescriptor) else Path(source)
