"""The spoken commands that come with the package, and a quiet room in which they are heard one after the other."""

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
"""Where the recordings are, with `utterances.json` that tells what is said in them."""

_LEAD, _GAP = 0.4, 1.0  # seconds of quiet before the first utterance, and at least between two
_BLOCK = 1600  # samples that are given out at a time
_ROOM = 5e-4  # the noise of the room, rms: quiet, but no digital silence, which says nothing about a room
_EARLY = 0.5  # seconds by which speech may be found before it begins


@dataclass(frozen=True)
class Utterance:
    """One recording and what is right about it.

    Attributes:
        path: of the sound.
        language: code of the language.
        text: what is said.
        translations: the same by the codes of other languages.
        call: what is to be done, {"name", "arguments"}; None when nothing is.
        reply: what is to be answered.
    """

    path: Path
    language: str
    text: str
    translations: dict[str, str] = field(default_factory=dict)
    call: dict[str, Any] | None = None
    reply: str = ""


def bundled(language: str | None = None, folder: str | os.PathLike[str] | None = None) -> list[Utterance]:
    """The utterances of `folder` (None for those of the package) in their order; with `language`, a name or a code, those
    in that language.

    Raises:
        EdgeGemmaOSError: "file" when there is no list of utterances or a recording is missing.
        EdgeGemmaValueError: "format" for a list that cannot be read, "argument" when nothing is said in that language.
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
        raise EdgeGemmaOSError(f"{listing}: {error.strerror or error}", "file") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeGemmaValueError(f"{listing}: not a list of utterances: {error}", "format") from error
    if missing := next((item.path for item in found if not item.path.is_file()), None):
        raise EdgeGemmaOSError(f"{missing}: named by {listing.name}, but missing", "file")
    if language is not None:
        wanted = language_name(language)
        spoken = sorted({language_name(item.language) for item in found})
        found = [item for item in found if language_name(item.language) == wanted]
        if not found:
            raise EdgeGemmaValueError(f"no utterance is in {wanted}; they are in {', '.join(spoken)}.", "argument")
    return found


class Playlist(Source):
    """Utterances as a microphone in a quiet room would hear them. Read it as it is, or at the speed of speech (`Paced`)."""

    name = "the utterances of the demonstration"

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        rest: float = 0.0,
        hold: Callable[[], bool] = lambda: False,
        begin: Callable[[NDArray[np.float32]], object] | None = None,
    ) -> None:
        """Quiet follows each utterance, for one second, then as long as `hold()` is true, then for `rest` seconds.

        Args:
            utterances: in their order.
            rest, hold: see above.
            begin: called with the samples of an utterance, (n,) at 16 kHz, when its first are read.
        """
        super().__init__()
        self._utterances, self._rest, self._hold, self._begin = list(utterances), rest, hold, begin
        self._starts: list[float] = []  # of the utterances so far, seconds
        self._random = np.random.default_rng(0)
        self._made = 0
        self._blocks = self._generate()

    def at(self, seconds: float) -> int | None:
        """Which utterance, counted from 0, is the last that had begun when speech was found at that time."""
        begun = sum(start <= seconds + _EARLY for start in self._starts)
        return begun - 1 if begun else None

    def _generate(self) -> Iterator[NDArray[np.float32]]:
        yield from self._quiet(_LEAD)
        for utterance in self._utterances:
            samples = load_audio(utterance.path)
            self._starts.append(self._made / SAMPLE_RATE)
            if self._begin:
                self._begin(samples)
            for at in range(0, len(samples), _BLOCK):
                yield samples[at : at + _BLOCK]
            yield from self._quiet(_GAP)
            while self._hold():
                yield from self._quiet(_BLOCK / SAMPLE_RATE)
            yield from self._quiet(self._rest)

    def _quiet(self, seconds: float) -> Iterator[NDArray[np.float32]]:
        left = round(seconds * SAMPLE_RATE)
        while left > 0:
            yield self._random.standard_normal(min(left, _BLOCK), np.float32) * np.float32(_ROOM)
            left -= _BLOCK

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        block = next(self._blocks, None)
        self._made += 0 if block is None else len(block)
        return block
