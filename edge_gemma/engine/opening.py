"""Models for functions that take an open model, a path, a name, or nothing: `opened_model`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..hub.resolve import model_files, warn_if_toy
from .interface import ModelLike
from .model import Model

__all__ = ["ModelOrPath", "opened_model"]

ModelOrPath = ModelLike | str | os.PathLike[str]
"""An open model, the path of its file, or the name of one that was downloaded."""


@contextlib.contextmanager
def opened_model(
    model: ModelOrPath | None, mmproj: str | os.PathLike[str] | None, threads: int | None
) -> Iterator[ModelLike]:
    """The model itself, or the one of a path or of the environment, which is closed afterwards."""
    if model is not None and not isinstance(model, (str, os.PathLike)):
        yield model
        return
    path, encoders = model_files(model, mmproj)
    if model is None:
        warn_if_toy(path)
    with Model.load(path, mmproj=encoders, threads=threads) as opened:
        yield opened
