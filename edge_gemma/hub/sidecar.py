"""Where the sidecar of a model lies: a small GGUF file with a leaner version of its head.

X.lean.gguf beside X.gguf; of a split file, beside its first part. The engine has the same rule (csrc/nn/sidecar.c): it uses
the file by itself when it opens the model. `files/prepare.py` makes it.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ENDING", "sidecar_path"]

ENDING = ".lean.gguf"


def sidecar_path(model: str | os.PathLike[str]) -> Path:
    """The path of a model's sidecar, whether or not it exists."""
    return Path(os.fspath(model).removesuffix(".gguf") + ENDING)
