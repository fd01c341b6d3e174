"""Endpointing: where an utterance begins and ends.

A detector (vad.py) gives one probability of speech for each block of 512 samples (32 ms). The `Endpointer` makes events of
these while the sound comes in, and `segments` cuts whole recordings with it. Each sample belongs to one utterance, or to the
silence between two; how the sound is cut into pieces on its way here makes no difference.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaValueError
from .source import SAMPLE_RATE, open_audio
from .vad import BLOCK, Detector, detector, split_blocks

#: Samples to which utterances are cut that are too long: those of one soft token.
SOFT_TOKEN = 640

_ON, _OFF = 0.5, 0.35  # speech begins at the one, and ends below the other
_SEARCH = 8.0  # seconds before the limit in which a place to cut is looked for
_HUSH = 5  # blocks over which quietness is averaged: longer than the closure of a consonant
_NOTHING = np.zeros(0, np.float32)


# ---- utterances ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class EndpointEvent:
    """What an `Endpointer` has to say. An utterance is: start (audio | pause audio* resume)* [pause audio*] end.

    "start"   an utterance begins; `samples` are all that belong to it so far, from a little before the speech on.
    "audio"   `samples` go on with it, also while a pause lasts.
    "pause"   the speaker has been silent for `pause` seconds.
    "resume"  and speaks again.
    "end"     the utterance is over. The first `keep` of the samples that were handed out are it. `reason` is "silence";
              "finish", the sound has ended; or "cut", it became too long: a part of what was handed out may then come
              again, as the next "start".
    """

    kind: Literal["start", "audio", "pause", "resume", "end"]
    time: float  #: seconds in the sound: of the first of `samples`; where silence (pause), speech (resume) begins; the end
    samples: NDArray[np.float32] = field(default_factory=lambda: _NOTHING)  #: (n,) at 16 kHz
    keep: int = 0
    reason: str = ""


class Endpointer:
    """Makes utterances of sound while it comes in. Holds a few seconds of it, however long it goes on.

    Speech begins when `min_speech` seconds of it are found within twice that time, so that a click is none. It is over
    after `silence` seconds without (again, a click is no speech), and handed out up to the end of these; what is kept of
    them is `tail`, so that the rest can be the beginning of the next utterance.

    An utterance that would become longer than `max_seconds` is cut where it is quietest in its last 8 s, `keep` being a
    multiple of 640 samples then; the next one goes on from there, without a gap.
    """

    def __init__(
        self,
        detector: Detector | str | None = None,
        silence: float = 0.7,
        pause: float = 0.25,
        pre_roll: float = 0.3,
        min_speech: float = 0.1,
        max_seconds: float = 28.0,
        tail: float | None = None,
    ) -> None:
        """All times are in seconds.

        Args:
            detector: a detector, its kind, or None for the best there is.
            silence: ends an utterance.
            pause: makes a "pause" event, at most `silence`.
            pre_roll: sound before the speech that belongs to the utterance, as far as it is not another's.
            min_speech: less is no utterance.
            max_seconds: the longest utterance.
            tail: silence after the speech that belongs to it, at most `silence`; None for `pause`: what is kept in the
                end is then just what had been handed out at the last "pause".

        Raises EdgeGemmaValueError: "argument" for times that do not fit together; what `detector` raises.
        """
        self.detector = _detector_of(detector)
        tail = pause if tail is None else tail
        times = {"silence": silence, "pause": pause, "pre_roll": pre_roll, "min_speech": min_speech, "tail": tail}
        for name, seconds in times.items():
            if not 0 <= seconds < math.inf:
                raise EdgeGemmaValueError(f"{name} is {seconds}; it is a number of seconds.", "argument")
            if name in ("pause", "tail") and seconds > silence:
                raise EdgeGemmaValueError(f"{name} is {seconds} s, more than the silence of {silence} s.", "argument")
        self._silence, self._pause, self._need = (_in_blocks(seconds) for seconds in (silence, pause, min_speech))
        self._tail = self._pause * BLOCK if tail == pause else round(tail * SAMPLE_RATE)
        self._pre_roll = round(pre_roll * SAMPLE_RATE)
        window = 2 * self._need
        shortest = 2 * (self._pre_roll + window * BLOCK) / SAMPLE_RATE
        if not max(1.0, shortest) <= max_seconds < math.inf:
            raise EdgeGemmaValueError(
                f"max_seconds is {max_seconds}; with this pre_roll and min_speech it is at least {max(1.0, shortest):.2f}.",
                "argument",
            )
        #: The longest utterance, in seconds.
        self.max_seconds = max_seconds
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._search = int(min(_SEARCH, max_seconds / 2) * SAMPLE_RATE) // BLOCK
        self._speech: deque[bool] = deque(maxlen=window)  # of the last blocks, since the last pause
        self._recent: deque[tuple[NDArray[np.float32], float]] = deque(
            maxlen=max(self._search, window + -(-self._pre_roll // BLOCK))
        )
        self.reset()

    def reset(self, time: float = 0.0) -> None:
        """New sound follows, whose first sample lies at `time` (seconds). An open utterance is forgotten."""
        self.detector.reset()
        self._now = self._free = round(
            time * SAMPLE_RATE
        )  # all before has been looked at; is someone's, or lies before
        self._rest = _NOTHING  # of a block
        self._speech.clear()
        self._recent.clear()
        self._open = False
        self._fresh: list[NDArray[np.float32]] = []  # to be handed out

    def push(self, samples: ArrayLike) -> list[EndpointEvent]:
        """(n,) samples, 16 kHz mono -> what they bring. Up to 511 samples wait for the next call.

        Raises EdgeGemmaValueError "argument" for samples that are none (nothing has changed then).
        """
        events: list[EndpointEvent] = []
        blocks, self._rest = split_blocks(self._rest, samples)
        if len(blocks):
            probabilities = self.detector.push(blocks.reshape(-1))
            for block, probability in zip(blocks, probabilities, strict=True):
                self._take(block, float(probability), events)
            self._hand_out(events)
        return events

    def finish(self) -> list[EndpointEvent]:
        """The sound has ended: ends an open utterance. The endpointer is as new then."""
        events: list[EndpointEvent] = []
        if self._open and self._now + self._rest.size - self._began > self._limit:
            self._cut(events)
        if self._open:
            if self._rest.size:
                self._fresh.append(self._rest)
                self._now += self._rest.size
            self._end(min(self._now, self._spoke + self._tail) if self._quiet else self._now, "finish", events)
        self.reset()
        return events

    def _take(self, block: NDArray[np.float32], probability: float, events: list[EndpointEvent]) -> None:
        if self._open and self._now + BLOCK - self._began > self._limit:
            self._cut(events)
        self._recent.append((block, probability))
        self._now += BLOCK
        self._speech.append(probability >= _ON)
        sure = sum(self._speech) >= self._need
        first = self._now - (len(self._speech) - self._speech.index(True)) * BLOCK if sure else 0
        if not self._open:
            if sure:
                self._start(max(first - self._pre_roll, self._free), events)
            return
        self._fresh.append(block)
        if self._paused:
            if sure:
                self._hand_out(events)
                events.append(EndpointEvent("resume", first / SAMPLE_RATE))
                self._paused, self._quiet, self._spoke = False, 0, self._now
                return
        elif probability >= _ON or (probability >= _OFF and not self._quiet):
            self._quiet, self._spoke = 0, self._now
            return
        self._quiet += 1
        if not self._paused and self._quiet >= self._pause:
            self._hand_out(events)
            events.append(EndpointEvent("pause", self._spoke / SAMPLE_RATE))
            self._paused = True
            self._speech.clear()
        if self._quiet >= self._silence:
            self._end(min(self._now, self._spoke + self._tail), "silence", events)

    def _start(self, began: int, events: list[EndpointEvent]) -> None:
        self._open, self._paused = True, False
        self._began, self._spoke, self._quiet = began, self._now, 0
        recent = np.concatenate([block for block, _ in self._recent])
        events.append(EndpointEvent("start", began / SAMPLE_RATE, recent[recent.size - (self._now - began) :]))

    def _hand_out(self, events: list[EndpointEvent]) -> None:
        if self._fresh:
            samples = np.concatenate(self._fresh)
            events.append(EndpointEvent("audio", (self._now - samples.size) / SAMPLE_RATE, samples))
            self._fresh = []

    def _end(self, end: int, reason: str, events: list[EndpointEvent]) -> None:
        self._hand_out(events)
        events.append(EndpointEvent("end", end / SAMPLE_RATE, keep=end - self._began, reason=reason))
        self._open, self._free = False, end

    def _cut(self, events: list[EndpointEvent]) -> None:
        """Ends an utterance that has no room for another block, and goes on with a new one if speech is left over."""
        quiet, spoke, length = self._quiet, self._spoke, self._now - self._began
        if self._paused:  # there is no better place than this
            keep = -(-(spoke + self._tail - self._began) // SOFT_TOKEN) * SOFT_TOKEN
        else:
            keep = round((self._quietest() - self._began) / SOFT_TOKEN) * SOFT_TOKEN
        cut = self._began + min(keep, length // SOFT_TOKEN * SOFT_TOKEN)
        self._end(cut, "cut", events)
        if self._paused:
            return
        self._speech.clear()
        if spoke - cut > BLOCK:
            self._start(cut, events)
            self._quiet, self._spoke = quiet, spoke

    def _quietest(self) -> int:
        """The middle of the quietest stretch of the open utterance's last seconds: where little is heard, least of all
        speech. Of equal ones it is the last."""
        count = min(self._search, (self._now - self._began) // BLOCK)
        last = [self._recent[i] for i in range(-count, 0)]
        power = np.mean(np.square(np.stack([block for block, _ in last])), axis=1)
        noise = np.array([probability for _, probability in last]) + np.log10(power + 1e-10) / 4
        hush = np.convolve(noise, np.ones(_HUSH), "valid")
        middle = len(hush) - 1 - int(np.argmin(hush[::-1])) + _HUSH / 2  # in blocks
        return self._now - round((count - middle) * BLOCK)


def _in_blocks(seconds: float) -> int:
    return max(1, math.ceil(seconds * SAMPLE_RATE / BLOCK - 1e-6))


def _detector_of(wanted: Detector | str | None) -> Detector:
    return detector(wanted or "auto") if wanted is None or isinstance(wanted, str) else wanted


# ---- recordings ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Clip:
    """An utterance of a recording, from `start` to `end` seconds; `samples`: (n,) float32 at 16 kHz."""

    start: float
    end: float
    samples: NDArray[np.float32]


def segments(source: Any, endpointer: Endpointer | None = None, whole: bool = False) -> Iterator[Clip]:
    """The utterances of a recording, one after the other. Holds one at a time, however long the recording is.

    Args:
        source: what `open_audio` takes. Of a `Source` the part that was not yet read is used; times are from its
            beginning all the same.
        endpointer: rules of one's own; it is reset.
        whole: a recording that is not longer than the longest utterance comes as one clip, from its first word to its
            last, with the pauses between. (A live source is then waited for.)

    Raises what `open_audio` and `Source.read` raise.
    """
    opened = open_audio(source)
    rules = Endpointer() if endpointer is None else endpointer
    try:
        began, blocks = opened.position, iter(opened)
        if not whole:
            yield from _clips(blocks, rules, began)
            return
        head: list[NDArray[np.float32]] = []
        room = round(rules.max_seconds * SAMPLE_RATE)
        while room >= 0 and (block := next(blocks, None)) is not None:
            head.append(block)
            room -= block.size
        clips = _clips(itertools.chain(head, blocks), rules, began)
        if room < 0:
            yield from clips
        elif parts := list(clips):
            first, last = (round((time - began) * SAMPLE_RATE) for time in (parts[0].start, parts[-1].end))
            yield Clip(parts[0].start, parts[-1].end, np.concatenate(head)[first:last])
    finally:
        if opened is not source:
            opened.close()


def _clips(blocks: Iterator[NDArray[np.float32]], rules: Endpointer, began: float) -> Iterator[Clip]:
    rules.reset(began)
    start, samples = 0.0, []
    for events in itertools.chain(map(rules.push, blocks), map(Endpointer.finish, [rules])):
        for event in events:
            if event.kind == "start":
                start, samples = event.time, []
            samples.append(event.samples)
            if event.kind == "end":
                yield Clip(start, event.time, np.concatenate(samples)[: event.keep])
