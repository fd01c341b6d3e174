"""Where the sidecar of a model lies: a small GGUF file with a leaner version of its head.

X.lean.gguf beside X.gguf; of a split file, beside its first part. The engine has the same rule (csrc/nn/sidecar.c): it uses
the file by itself when it opens the model. `files/prepare.py` makes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["ENDING", "adopt_sidecar", "sidecar_files", "sidecar_path"]

ENDING = ".lean.gguf"


def sidecar_path(model: str | os.PathLike[str]) -> Path:
    """The path of a model's sidecar, whether or not it exists."""
    return Path(os.fspath(model).removesuffix(".gguf") + ENDING)


def sidecar_files(model: str | os.PathLike[str]) -> list[Path]:
    """The sidecar of a model, if it exists, and what was left of the making when the process was killed."""
    path = sidecar_path(model)
    return [found for found in (path, *path.parent.glob(f".{path.name}.*.part")) if found.is_file()]


def adopt_sidecar(model: Path, older: Path) -> None:
    """Moves the sidecar of `older` to `model` if both are links to one file of the cache and `model` has none.

    A new commit of a repository gives an unchanged file another link, in a folder of its own.
    """
    if os.path.realpath(model) == os.path.realpath(older) and not sidecar_path(model).exists():
        with contextlib.suppress(OSError):  # there is none, or the cache cannot be written
            os.replace(sidecar_path(older), sidecar_path(model))
