"""Which files make up the model when nobody names them: those of the environment, else the embedded ones.

Owns the two variables, how they go together, the place of the small model that comes with the package, and the words for
when a file is missing. Opens nothing. Models by name, such as "e2b", are looked up by cache.py.
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
"""A toy model, trained on synthetic commands to a home, and its audio encoder. A checkout may be without them."""

TOY = "toy"
"""The name of the embedded model, for those who want just that."""

_NO_MODEL = f"""no model file given.
Gemma 4 runs from a GGUF file: download one from Hugging Face with `edge-gemma pull e2b` and name it with --model e2b (in
Python: model=), or any other file with --model FILE, or either in the environment variable {MODEL_VARIABLE}. The encoders for
audio and images are a second file, an "mmproj", named with --mmproj FILE (mmproj=) or in {MMPROJ_VARIABLE}; a name brings
its own."""


def locate(model: Path, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The files of a model that is given by name: "toy" is the embedded one, "e2b" and others were downloaded. `mmproj`
    where nobody gave one; anything else comes back as it is, and so does a file of such a name. Raises EdgeGemmaOSError
    with code "file" for a name whose model was not downloaded."""
    if model == TOY and not os.path.isfile(model) and os.path.isfile(EMBEDDED):
        return EMBEDDED, mmproj or _embedded_mmproj()
    return locate_download(model, mmproj)


def model_files(model: Path | None = None, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The model's file and that of its encoders, from the environment where they are None, by name where it is one.

    Where nothing names a model it is the embedded one. EDGE_GEMMA_MMPROJ belongs to the model of EDGE_GEMMA_MODEL: it is
    left alone when that variable names one model and the caller another. Raises EdgeGemmaValueError with code "argument"
    when there is no model, EdgeGemmaOSError with code "file" when it is named but not downloaded.
    """
    default = os.environ.get(MODEL_VARIABLE) or None
    chosen = model or default
    if not chosen and os.path.isfile(EMBEDDED):
        return EMBEDDED, mmproj or _embedded_mmproj()
    if not chosen:
        raise EdgeGemmaValueError(_NO_MODEL, "argument")
    if mmproj is None and (default is None or os.fspath(chosen) == default):
        mmproj = os.environ.get(MMPROJ_VARIABLE) or None
    return locate(chosen, mmproj)


def _embedded_mmproj() -> Path | None:
    return EMBEDDED_MMPROJ if os.path.isfile(EMBEDDED_MMPROJ) else None


@functools.cache
def _warn_of_toy() -> None:
    warnings.warn(
        "no model was named, so the toy model of the package answers: it knows commands to a home and nothing else. Give "
        f'a GGUF file or a name such as "e2b", or set {MODEL_VARIABLE}; "toy" asks for this one.',
        stacklevel=4,
    )


def warn_if_toy(model: Path) -> None:
    """Warns, once in a process, when the model that neither the caller nor EDGE_GEMMA_MODEL named is the embedded one."""
    if is_embedded(model) and not os.environ.get(MODEL_VARIABLE):
        _warn_of_toy()


def is_embedded(model: Path) -> bool:
    """Whether this is the file of the model that comes with the package."""
    return os.fspath(model) == EMBEDDED


def no_encoder(model: Any, sense: str) -> EdgeGemmaValueError:
    """The error for sound or pictures given to a model that has no encoder for them; `sense`: "audio" or "image"."""
    return EdgeGemmaValueError(
        f"{os.path.basename(model.path)} was opened without {sense} encoder: that is a second file, an mmproj. Name it "
        f"with --mmproj FILE (in Python: mmproj=) or in {MMPROJ_VARIABLE}.",
        "unsupported",
    )
