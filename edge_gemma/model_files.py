"""Which files make up the model when nobody names them: those of the environment.

Owns the two variables, how they go together, and the words for when a file is missing. Opens nothing.
"""

from __future__ import annotations

import os
from typing import Any

from .errors import EdgeGemmaValueError

__all__ = ["MMPROJ_VARIABLE", "MODEL_VARIABLE", "model_files", "no_encoder"]

Path = str | os.PathLike[str]

MODEL_VARIABLE = "EDGE_GEMMA_MODEL"
MMPROJ_VARIABLE = "EDGE_GEMMA_MMPROJ"

_NO_MODEL = f"""no model file given.
Gemma 4 runs from a GGUF file: download one, for example from the Gemma 4 GGUF repositories on Hugging Face
(https://huggingface.co/models?search=gemma-4+gguf), then name it with --model FILE (in Python: model=) or in the
environment variable {MODEL_VARIABLE}. Its encoders for audio and images are a second file, an "mmproj", named with
--mmproj FILE (mmproj=) or in {MMPROJ_VARIABLE}."""


def model_files(model: Path | None = None, mmproj: Path | None = None) -> tuple[Path, Path | None]:
    """The model's file and that of its encoders, from the environment where they are None.

    EDGE_GEMMA_MMPROJ belongs to the model of EDGE_GEMMA_MODEL: it is left alone when that variable names one model and
    the caller another. Raises EdgeGemmaValueError with code "argument" when there is no model.
    """
    default = os.environ.get(MODEL_VARIABLE) or None
    chosen = model or default
    if not chosen:
        raise EdgeGemmaValueError(_NO_MODEL, "argument")
    if mmproj is None and (default is None or os.fspath(chosen) == default):
        mmproj = os.environ.get(MMPROJ_VARIABLE) or None
    return chosen, mmproj


def no_encoder(model: Any, sense: str) -> EdgeGemmaValueError:
    """The error for sound or pictures given to a model that has no encoder for them; `sense`: "audio" or "image"."""
    return EdgeGemmaValueError(
        f"{os.path.basename(model.path)} was opened without {sense} encoder: that is a second file, an mmproj. Name it "
        f"with --mmproj FILE (in Python: mmproj=) or in {MMPROJ_VARIABLE}.",
        "unsupported",
    )
