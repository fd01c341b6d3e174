"""Many recordings: what they are to a `Transcriber`, and what it tells of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..audio.source import Source
from .transcript import Segment

__all__ = ["Event", "Recording"]


@dataclass(eq=False)
class Recording:
    """A recording that is to be transcribed.

    Attributes:
        name: what messages call it.
        open: opens its sound, which the transcriber closes. What it raises is told as the recording's failure.
        done: its first segments, found by an earlier run with the same settings.
        data: whatever the caller wants to find again in the events.
    """

    name: str
    open: Callable[[], Source]
    done: Sequence[Segment] = ()
    data: Any = None


@dataclass(frozen=True, eq=False)
class Event:
    """What has become of a recording.

    Attributes:
        kind: "segment"; "end", after its last one; "failed", in place of what would follow.
        recording: the recording.
        segment: of "segment".
        error: of "failed".
        duration: of "segment" the seconds of the recording, None where they are not known; of "end" those that were read.
        language: of "end" the English name of the language that was detected, or None.
        warning, assumption: of "end", those of the source.
    """

    kind: Literal["segment", "end", "failed"]
    recording: Recording
    segment: Segment | None = None
    error: Exception | None = None
    duration: float | None = None
    language: str | None = None
    warning: str | None = None
    assumption: str | None = None
