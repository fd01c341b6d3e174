"""Chooses the files of a model and its encoders: those that the caller names, else the environment's, else the embedded ones.

Owns the two environment variables, the paths of the toy model in the package, and the error messages for missing files.
Opens no files. Names such as "e2b" are looked up in cache.py.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

from ..errors import EdgeGemmaValueError
from .cache import locate as locate_download

__all__ = [
    "EMBEDDED",
    "EMBEDDED_MMPROJ",
    "MMPROJ_VARIABLE",
    "MODEL_VARIABLE",
    "TOY",
    "is_embedded",
    "locate",
    "model_files",
    "no_encoder",
    "warn_if_toy",
]

Path = str | os.PathLike[str]

MODEL_VARIABLE = "EDGE_GEMMA_MODEL"
MMPROJ_VARIABLE = "EDGE_GEMMA_MMPROJ"

EMBEDDED, EMBEDDED_MMPROJ = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo", "data", name)
    for name in ("demo.gguf", "demo-mmproj.gguf")
)
"""A toy model, trained on synthetic commands to a home, and its audio encoder. A source checkout may lack them."""

TOY = "toy"
"""The name by which the embedded model is asked for."""

_NO_MODEL = f"""no model file given.
Gemma 4 runs from a GGUF file. Download one from Hugging Face with `edge-gemma pull e2b`, then give --model e2b (in Python:
model="e2b"). Any other file is given with --model FILE. The environment variable {MODEL_VARIABLE} can have either. The
encoders for audio and images are a second file, an "mmproj", given with --mmproj FILE (in Python: mmproj=) or in
{MMPROJ_VARIABLE}. A downloaded model finds its encoders by itself."""


def locate(model: Path, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The files of a model that is given by name: "toy" is the embedded model, others such as "e2b" are downloaded ones.

    The encoders of a name are found if `mmproj` is None. A path is returned as it is, and so is a name if a file of that
    name exists. Raises EdgeGemmaOSError with code "file" for a name whose model was not downloaded. A leading `~` is expanded:
    in --model=~/x.gguf, in unit files of systemd and in Python no shell does it.
    """
    model = _expanded(model)
    mmproj = None if mmproj is None else _expanded(mmproj)
    if model == TOY and not os.path.isfile(model) and os.path.isfile(EMBEDDED):
        return EMBEDDED, mmproj or _embedded_mmproj()
    return locate_download(model, mmproj)


def model_files(model: Path | None = None, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The files of the model and of its encoders (None without). Arguments that are None come from the environment.

    `model` may be a name, as for `locate`. If neither the caller nor the environment names a model, it is the embedded one.
    EDGE_GEMMA_MMPROJ belongs to the model of EDGE_GEMMA_MODEL: it is ignored when the caller names another model. Raises
    EdgeGemmaValueError with code "argument" when there is no model, EdgeGemmaOSError with code "file" when the model is
    named but not downloaded.
    """
    default = os.path.expanduser(os.environ.get(MODEL_VARIABLE, "")) or None
    chosen = model or default
    if not chosen and os.path.isfile(EMBEDDED):
        return EMBEDDED, mmproj or _embedded_mmproj()
    if not chosen:
        raise EdgeGemmaValueError(_NO_MODEL, "argument")
    if mmproj is None and (default is None or os.path.expanduser(chosen) == default):
        mmproj = os.path.expanduser(os.environ.get(MMPROJ_VARIABLE, "")) or None
    return locate(chosen, mmproj)


def _expanded(path: Path) -> Path:
    """The path with a leading `~` expanded, unless a file has this very name."""
    return os.path.expanduser(path) if os.fspath(path).startswith("~") and not os.path.exists(path) else path


def _embedded_mmproj() -> Path | None:
    return EMBEDDED_MMPROJ if os.path.isfile(EMBEDDED_MMPROJ) else None


@functools.cache
def _warn_of_toy() -> None:
    warnings.warn(
        "no model was named, so the embedded toy model answers: it knows commands to a home and nothing else. Give a GGUF "
        f'file or a name such as "e2b", or set {MODEL_VARIABLE}. The name "toy" selects this model without a warning.',
        stacklevel=4,
    )


def warn_if_toy(model: Path) -> None:
    """Warns, once in a process, if this is the embedded model and EDGE_GEMMA_MODEL is not set. For unnamed models only."""
    if is_embedded(model) and not os.environ.get(MODEL_VARIABLE):
        _warn_of_toy()


def is_embedded(model: Path) -> bool:
    """Whether this is the file of the embedded model."""
    return os.fspath(model) == EMBEDDED


def no_encoder(model: Any, sense: str) -> EdgeGemmaValueError:
    """The error for sound or pictures given to a model that has no encoder for them; `sense`: "audio" or "image"."""
    name, mmproj = os.path.basename(model.path), model.mmproj
    if sense == "audio" and not model.config.per_layer_input:  # which E2B and E4B have
        message = (
            f"{name} cannot hear: of Gemma 4, E2B and E4B have an audio encoder, the 26B and 31B models have none."
        )
    elif mmproj is None:
        message = (
            f"{name} was opened without {sense} encoder. The encoder is in a second file, an mmproj: give it with --mmproj "
            f"FILE (in Python: mmproj=) or in {MMPROJ_VARIABLE}."
        )
    else:
        other = "images" if sense == "audio" else "audio"
        message = (
            f"{os.path.basename(mmproj)} has no {sense} encoder: it is for {other} only. Give the mmproj that came with the "
            "model, with --mmproj FILE (in Python: mmproj=)."
        )
    return EdgeGemmaValueError(message, "unsupported")
