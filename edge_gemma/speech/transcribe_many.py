"""`transcribe_many`: the recordings of folders, lists and patterns in one call, each as soon as it is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..audio.folders import Found, find_recordings
from ..audio.source import open_audio
from ..engine.opening import ModelOrPath, opened_model
from ..errors import EdgeGemmaError
from .many import Recording
from .transcriber import Transcriber, yield_and_close
from .transcript import Segment, Transcript

__all__ = ["Transcribed", "transcribe_many"]


@dataclass(frozen=True)
class Transcribed:
    """A recording that was transcribed, or has failed.

    Attributes:
        path: of the recording.
        transcript: what was said; of one that has failed what was found before, or None.
        error: why it has failed; None if it has not.
        warning: sentences about the sound, as `Source.warning`; None without.
    """

    path: Path
    transcript: Transcript | None
    error: Exception | None = None
    warning: str | None = None


def transcribe_many(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    model: ModelOrPath | None = None,
    language: str | None = None,
    *,
    to: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    guarded: bool = True,
    **options: Any,
) -> Iterator[Transcribed]:
    """Yields each recording as soon as it is done, in their order. Segments of several are heard together, and memory
    does not grow with their number.

        for done in eg.transcribe_many("interviews/", model):
            print(done.path, done.error or done.transcript.text)

    Args:
        paths: files, folders with all folders in them, lists (.txt, .lst, .list, .m3u, .m3u8) and patterns; see
            `edge-gemma transcribe --help`. An iterable is asked for a few recordings ahead.
        model, language, to, mmproj, threads: as in `transcribe`.
        guarded, options: as in `Transcriber`; here segments are guarded unless told otherwise.

    The model is opened at once. A recording that cannot be opened, read or heard comes with its `error`, and the others go on.

    Raises:
        EdgeGemmaError: as `Transcriber` and `Model.load` do.
        TypeError: at once for an option that `Transcriber` does not have.
    """
    names = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(opened_model(model, mmproj, threads))
        transcriber = stack.enter_context(Transcriber(opened, language, to, guarded=guarded, **options))
        resources = stack.pop_all()
    return yield_and_close(_results(transcriber, names), resources)


def _results(transcriber: Transcriber, names: Iterable[str | os.PathLike[str]]) -> Iterator[Transcribed]:
    found: list[Segment] = []
    known = {"language": transcriber.language, "to": transcriber.to}
    with contextlib.closing(transcriber.many(_recordings(names))) as events:
        for event in events:
            if event.segment:
                found.append(event.segment)
                continue
            info: dict[str, Any] = {name: value for name, value in known.items() if value}
            info |= {} if not event.language else {"language": event.language, "language_detected": True}
            info |= {} if event.duration is None else {"duration": round(event.duration, 3)}
            path = Path(event.recording.name)
            transcript = None if event.error and not found else Transcript(found, file=str(path), **info)
            found = []
            yield Transcribed(path, transcript, event.error, event.warning)


def _recordings(names: Iterable[str | os.PathLike[str]]) -> Iterator[Recording]:
    failures: list[tuple[str, EdgeGemmaError]] = []

    def fail(name: str, error: EdgeGemmaError) -> None:
        failures.append((name, error))

    def unreadable() -> Iterator[Recording]:
        for name, error in failures:
            yield Recording(name, partial(_raise, error))
        failures.clear()

    for each in find_recordings(names, failed=fail):
        yield from unreadable()
        yield Recording(str(each.path), partial(_open, each))
    yield from unreadable()


def _open(found: Found) -> Any:
    return open_audio(found.path)


def _raise(error: EdgeGemmaError) -> Any:
    raise error
