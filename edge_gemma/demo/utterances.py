"""The recorded commands that come with the package, and a source of sound in which one follows the other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE, Source, load_audio
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..speech.languages import language_name

__all__ = ["FOLDER", "Playlist", "Utterance", "bundled"]

FOLDER = Path(__file__).parent / "data" / "utterances"
"""The folder of the recordings and of `utterances.json`, which tells what is said in them."""

_LEAD, _GAP = 0.4, 1.0  # seconds of quiet before the first utterance, and at least between two
_BLOCK = 1600  # samples that are read at a time
_NOISE = 5e-4  # root mean square of the noise in the pauses: voice detectors do not expect digital silence
_EARLY = 0.5  # speech may be found so many seconds before the recording begins


@dataclass(frozen=True)
class Utterance:
    """A recording, and the right answers to it.

    Attributes:
        path: the sound file.
        language: code of the language.
        text: what is said.
        translations: the text in other languages, by their codes.
        call: the right tool call, {"name", "arguments"}; None when no tool is to be called.
        reply: the right reply.
    """

    path: Path
    language: str
    text: str
    translations: dict[str, str] = field(default_factory=dict)
    call: dict[str, Any] | None = None
    reply: str = ""


def bundled(language: str | None = None, folder: str | os.PathLike[str] | None = None) -> list[Utterance]:
    """The utterances of a folder, in order.

    Args:
        language: only those in this language, a name or a code; None for all.
        folder: the folder; None for that of the package.

    Raises:
        EdgeGemmaOSError: "file" when the list of utterances or a recording is missing.
        EdgeGemmaValueError: "format" for a list that cannot be read, "argument" when no utterance is in that language.
    """
    listing = Path(folder or FOLDER) / "utterances.json"
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
        found = [
            Utterance(
                listing.parent / entry["file"],
                entry["language"],
                entry["text"],
                dict(entry.get("translations") or {}),
                entry.get("call"),
                entry.get("reply") or "",
            )
            for entry in entries
        ]
    except OSError as error:
        raise EdgeGemmaOSError(f"{listing}: {error.strerror or error}.", "file") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeGemmaValueError(f"{listing}: not a list of utterances: {error}.", "format") from error
    if missing := next((item.path for item in found if not item.path.is_file()), None):
        raise EdgeGemmaOSError(f"{missing}: missing, although {listing.name} names it.", "file")
    if language is not None:
        wanted = language_name(language)
        spoken = sorted({language_name(item.language) for item in found})
        found = [item for item in found if language_name(item.language) == wanted]
        if not found:
            raise EdgeGemmaValueError(f"No utterance is in {wanted}; they are in {', '.join(spoken)}.", "argument")
    return found


class Playlist(Source):
    """Utterances as a microphone in a quiet room would record them. `Paced` makes them come at the speed of speech."""

    name = "the utterances of the demonstration"

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        rest: float = 0.0,
        wait_while: Callable[[], bool] = lambda: False,
        on_begin: Callable[[NDArray[np.float32]], object] | None = None,
    ) -> None:
        """Each utterance is followed by silence: one second, then as long as `wait_while()` is true, then `rest` seconds.

        Args:
            utterances: in the order in which they are heard.
            rest, wait_while: see above.
            on_begin: called with the samples of an utterance, (n,) at 16 kHz, when the first of them is read.
        """
        super().__init__()
        self._utterances, self._rest = list(utterances), rest
        self._wait_while, self._on_begin = wait_while, on_begin
        self._starts: list[float] = []  # seconds at which the utterances so far have begun
        self._random = np.random.default_rng(0)
        self._made = 0  # samples so far
        self._blocks = self._generate()

    def at(self, seconds: float) -> int | None:
        """The number, counted from 0, of the utterance in which speech was found at that time; None before the first."""
        begun = sum(start <= seconds + _EARLY for start in self._starts)
        return begun - 1 if begun else None

    def _generate(self) -> Iterator[NDArray[np.float32]]:
        yield from self._silence(_LEAD)
        for utterance in self._utterances:
            samples = load_audio(utterance.path)
            self._starts.append(self._made / SAMPLE_RATE)
            if self._on_begin:
                self._on_begin(samples)
            for at in range(0, len(samples), _BLOCK):
                yield samples[at : at + _BLOCK]
            yield from self._silence(_GAP)
            while self._wait_while():
                yield from self._silence(_BLOCK / SAMPLE_RATE)
            yield from self._silence(self._rest)

    def _silence(self, seconds: float) -> Iterator[NDArray[np.float32]]:
        left = round(seconds * SAMPLE_RATE)
        while left > 0:
            yield self._random.standard_normal(min(left, _BLOCK), np.float32) * np.float32(_NOISE)
            left -= _BLOCK

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        block = next(self._blocks, None)
        self._made += 0 if block is None else len(block)
        return block
