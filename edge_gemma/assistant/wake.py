"""Wake words: detectors that hear all sound and tell when one of their words was said.

Owns the adapters of pymicro-wakeword (the default: about half a percent of a core) and pyopen-wakeword, and the names of
their models. Both packages bring their models with them, and both run on the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line

__all__ = ["DEFAULT", "MicroWakeDetector", "OpenWakeDetector", "WakeDetector", "wake_detector", "wake_words"]

DEFAULT = "okay_nabu"
"""The word that is listened for when none is named."""

_QUIET = 1.0  # seconds after a detection in which there is no other one: the same word stays in the detector's window
_PACKAGES = {"micro": "pymicro_wakeword", "open": "pyopen_wakeword"}


class WakeDetector(Protocol):
    """Hears all sound.

    Attributes:
        words: what it listens for, as people say it: ("okay nabu",).
    """

    words: tuple[str, ...]

    def push(self, samples: NDArray[np.float32]) -> str | None:
        """Takes (n,) samples at 16 kHz. Returns the word that ends in them, or None."""
        ...


class MicroWakeDetector:
    """Detectors of pymicro-wakeword, which see a spectrum of every 10 ms."""

    def __init__(self, models: Sequence[str] = (DEFAULT,), threshold: float | None = None) -> None:
        """Loads models.

        Args:
            models: names of models of the package, or paths of the JSON files that describe others.
            threshold: the least mean probability of a detection; None for what each model's description says.

        Raises:
            EdgeGemmaOSError: "unsupported" without the package, "file" for a file that cannot be read.
            EdgeGemmaValueError: "argument" for an unknown name.
        """
        package = _package("micro")
        self._features = package.MicroWakeWordFeatures()
        self._models = [_loaded(name, "micro", package, ".json") for name in models]
        for model in self._models:
            model.probability_cutoff = model.probability_cutoff if threshold is None else threshold
        self.words = tuple(_as_said(model.wake_word) for model in self._models)
        self._quiet = 0  # samples until the next detection is told

    def push(self, samples: NDArray[np.float32]) -> str | None:
        """As `WakeDetector.push`."""
        self._quiet = max(0, self._quiet - len(samples))
        found = None
        for features in self._features.process_streaming(_as_bytes(samples)):
            for model, word in zip(self._models, self.words, strict=True):
                if model.process_streaming(features) and not self._quiet:
                    found, self._quiet = word, round(_QUIET * SAMPLE_RATE)
        return found


class OpenWakeDetector:
    """Detectors of pyopen-wakeword, which see embeddings of every 80 ms."""

    def __init__(self, models: Sequence[str] = (DEFAULT,), threshold: float | None = None) -> None:
        """Loads models; arguments and errors as in `MicroWakeDetector`, but with paths of .tflite files.

        `threshold`: None for 0.5.
        """
        package = _package("open")
        self._features = package.OpenWakeWordFeatures.from_builtin()
        self._models = [_loaded(name, "open", package, ".tflite") for name in models]
        self.words = tuple(_as_said(Path(name).stem) for name in models)
        self._threshold = 0.5 if threshold is None else threshold
        self._quiet = 0

    def push(self, samples: NDArray[np.float32]) -> str | None:
        """As `WakeDetector.push`."""
        self._quiet = max(0, self._quiet - len(samples))
        found = None
        for features in self._features.process_streaming(_as_bytes(samples)):
            for model, word in zip(self._models, self.words, strict=True):
                for probability in model.process_streaming(features):
                    if probability > self._threshold and not self._quiet:
                        found, self._quiet = word, round(_QUIET * SAMPLE_RATE)
        return found


def wake_words() -> list[str]:
    """The words that `wake_detector` knows by name, such as "okay_nabu" and "open:alexa"; [] without the packages."""
    names = []
    for kind in _PACKAGES:
        try:
            models = _package(kind).Model
        except EdgeGemmaOSError:
            continue
        names += [model.value if kind == "micro" else f"{kind}:{model.value}" for model in models]
    return names


def wake_detector(words: Sequence[str] = (DEFAULT,), threshold: float | None = None) -> WakeDetector:
    """A detector of words, all of one kind.

    Args:
        words: names such as "okay_nabu" or "hey jarvis", of pymicro-wakeword; "open:alexa" of pyopen-wakeword; or paths, of
            a .json file of microWakeWord or a .tflite file of openWakeWord.
        threshold: see the detectors.

    Raises: as the detectors; EdgeGemmaValueError "argument" for words of both kinds.
    """
    kinds = {"open" if word.startswith("open:") or word.endswith(".tflite") else "micro" for word in words}
    if len(kinds) != 1:
        raise EdgeGemmaValueError("the wake words are of two packages; choose words of one of them.", "argument")
    names = [word.partition(":")[2] if word.split(":")[0] in _PACKAGES else word for word in words]
    return MicroWakeDetector(names, threshold) if kinds == {"micro"} else OpenWakeDetector(names, threshold)


def _package(kind: str) -> Any:
    try:
        return importlib.import_module(_PACKAGES[kind])
    except (ImportError, OSError) as error:
        name = _PACKAGES[kind].replace("_", "-")
        raise EdgeGemmaOSError(
            f"wake words need the package {name}: `{pip_line('edge-gemma[assistant]')}`. Without it, use a key or listen to "
            "everything.",
            "unsupported",
        ) from error


def _loaded(name: str, kind: str, package: Any, suffix: str) -> Any:
    """A model of the package by its name, or of a file."""
    detector = package.MicroWakeWord if kind == "micro" else package.OpenWakeWord
    known = {model.value: model for model in package.Model}
    wanted = name.strip().lower().replace(" ", "_")
    if wanted in known:
        return detector.from_builtin(known[wanted])
    if not name.endswith(suffix):
        raise EdgeGemmaValueError(
            f"there is no wake word {name!r}; choose one of {', '.join(known)}, or give the path of a {suffix} file.",
            "argument",
        )
    if not Path(name).is_file():
        raise EdgeGemmaOSError(f"{name}: there is no such wake word file.", "file")
    try:
        return detector.from_config(name) if kind == "micro" else detector.from_model(name)
    except Exception as error:  # the packages raise what their parsers and libraries do
        raise EdgeGemmaOSError(f"{name}: not a wake word model: {error}.", "file") from error


def _as_said(name: str) -> str:
    return name.replace("_", " ").strip().lower()


def _as_bytes(samples: NDArray[np.float32]) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
