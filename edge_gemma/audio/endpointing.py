"""Endpointing: where an utterance begins and ends.

A detector (vad.py) gives one probability of speech for each block of 512 samples (32 ms). The `Endpointer` turns the
probabilities into events while the sound comes in. `segments` cuts whole recordings with it. Each sample belongs to one
utterance or to the silence between two. The result does not depend on how the sound is cut into pieces for `push`.
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
from .level import raised
from .source import SAMPLE_RATE, open_audio
from .vad import BLOCK, Detector, detector, split_blocks

#: Samples of one soft token. An utterance that is too long is cut at a multiple of this.
SOFT_TOKEN = 640

_FADES = 0.15  # speech ends where its probability is by so much below the one at which it begins
_SOFT = 0.2  # share of the probability at which speech begins: blocks of so much just before may be its soft beginning
_SOFT_GAP = 3  # blocks of less that may lie between them
_SOFT_LONGEST = 1.0  # seconds of a soft beginning
_SEARCH = 8.0  # seconds before the length limit in which the place for a cut is searched
_QUIET_BLOCKS = 5  # blocks over which the level is averaged there: longer than the silent part of a consonant
_NOTHING = np.zeros(0, np.float32)


# ---- utterances ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class EndpointEvent:
    """An event of an `Endpointer`. The order is: start (audio | pause audio* resume)* [pause audio*] end.

    "start"   an utterance begins. `samples` are all of it so far, from `pre_roll` seconds before the speech on.
    "audio"   the next `samples` of the utterance. They also come during a pause.
    "pause"   the speaker has been silent for `pause` seconds.
    "resume"  the speaker speaks again after a pause.
    "end"     the utterance is over. It consists of the first `keep` samples of its events. `reason` is "silence", "finish"
              (the sound has ended) or "cut" (the utterance became too long). After a cut the samples beyond `keep` may
              come again in the next "start".
    """

    kind: Literal["start", "audio", "pause", "resume", "end"]
    time: float  #: seconds: of the first sample (start, audio), of the silence's (pause) or speech's (resume) begin, or the end
    samples: NDArray[np.float32] = field(default_factory=lambda: _NOTHING)  #: (n,) at 16 kHz
    keep: int = 0
    reason: str = ""


class Endpointer:
    """Finds the utterances in sound while it comes in. Holds a few seconds of sound, however long the stream is.

    An utterance begins when `min_speech` seconds of speech lie within twice that time. So a click does not begin one, and
    does not end a pause either. The blocks just before may be a soft beginning, of which a detector is not sure: up to a
    second of them, as long as their probability is a fifth of the threshold, belongs to the speech. An utterance is over
    after `silence` seconds without speech. The events hand out all of this silence, but only its first `tail` seconds belong
    to the utterance (`keep`): the others may belong to the next one.

    An utterance that would become longer than `max_seconds` is cut at the quietest place in its last 8 s. Its `keep` is
    then a multiple of 640 samples, and the next utterance goes on from there without a gap.
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
        threshold: float = 0.5,
    ) -> None:
        """All times are in seconds.

        Args:
            detector: a detector, the name of one as `vad.detector` takes it, or None for "auto".
            silence: how long a silence ends an utterance.
            pause: how long a silence makes a "pause" event; at most `silence`.
            pre_roll: sound before the speech that belongs to the utterance, unless it belongs to the one before.
            min_speech: the shortest speech that begins an utterance.
            max_seconds: the longest utterance.
            tail: silence after the speech that belongs to the utterance; at most `silence`. None means `pause`: then
                `keep` counts exactly the samples that were handed out before the last "pause".
            threshold: the probability from which on a block is speech, 0 to 1. A higher one needs clearer speech.

        Raises EdgeGemmaValueError: "argument" for times that do not fit together, and what `vad.detector` raises.
        """
        self.detector = _detector_of(detector)
        tail = pause if tail is None else tail
        times = {"silence": silence, "pause": pause, "pre_roll": pre_roll, "min_speech": min_speech, "tail": tail}
        for name, seconds in times.items():
            if not 0 <= seconds < math.inf:
                raise EdgeGemmaValueError(f"{name} is {seconds}; it must be a number of seconds.", "argument")
            if name in ("pause", "tail") and seconds > silence:
                raise EdgeGemmaValueError(f"{name} is {seconds} s, more than the silence of {silence} s.", "argument")
        if not 0 <= threshold <= 1:
            raise EdgeGemmaValueError(f"threshold is {threshold}; it must be a probability, 0 to 1.", "argument")
        self._on, self._off, self._soft = threshold, max(threshold - _FADES, 0.0), threshold * _SOFT
        self._silence, self._pause, self._need = (_in_blocks(seconds) for seconds in (silence, pause, min_speech))
        self._tail = self._pause * BLOCK if tail == pause else round(tail * SAMPLE_RATE)
        self._pre_roll = round(pre_roll * SAMPLE_RATE)
        window = 2 * self._need
        shortest = 2 * (self._pre_roll + window * BLOCK) / SAMPLE_RATE
        if not max(1.0, shortest) <= max_seconds < math.inf:
            raise EdgeGemmaValueError(
                f"max_seconds is {max_seconds}; with this pre_roll and min_speech it must be at least "
                f"{max(1.0, shortest):.2f}.",
                "argument",
            )
        #: The longest utterance, in seconds.
        self.max_seconds = max_seconds
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._search = int(min(_SEARCH, max_seconds / 2) * SAMPLE_RATE) // BLOCK
        self._reach = int(min(_SOFT_LONGEST, max_seconds / 4) * SAMPLE_RATE) // BLOCK
        self._speech: deque[bool] = deque(maxlen=window)  # whether the last blocks, since the last pause, are speech
        self._recent: deque[tuple[NDArray[np.float32], float]] = deque(
            maxlen=max(self._search, window + self._reach + -(-self._pre_roll // BLOCK))
        )
        self.reset()

    def reset(self, time: float = 0.0) -> None:
        """Starts anew. The first sample of the sound that follows lies at `time` seconds. Forgets an open utterance."""
        self.detector.reset()
        self._now = round(time * SAMPLE_RATE)  # position in samples: blocks before it have been evaluated
        self._free = self._now  # samples before this position belong to an earlier utterance, or to earlier sound
        self._incomplete = _NOTHING  # samples that wait until their block is complete
        self._speech.clear()
        self._recent.clear()
        self._open = False
        self._patience = self._silence  # blocks of silence that end the open utterance
        self._fresh: list[NDArray[np.float32]] = []  # blocks of the open utterance that no event has handed out yet

    def push(self, samples: ArrayLike) -> list[EndpointEvent]:
        """(n,) samples, 16 kHz mono -> the events that they cause. Up to 511 samples wait for the next call.

        Raises EdgeGemmaValueError "argument" for what `source.to_mono` refuses; nothing has changed then.
        """
        events: list[EndpointEvent] = []
        blocks, self._incomplete = split_blocks(self._incomplete, samples)
        if len(blocks):
            probabilities = self.detector.push(blocks.reshape(-1))
            for block, probability in zip(blocks, probabilities, strict=True):
                self._advance(block, float(probability), events)
            self._hand_out(events)
        return events

    def end_after(self, silence: float) -> None:
        """The pause that is open ends its utterance after so many seconds instead of `silence`; a later pause does not."""
        if self._open and self._paused:
            self._patience = max(_in_blocks(silence), self._pause)

    def finish(self) -> list[EndpointEvent]:
        """Ends an open utterance, since the sound has ended. Afterwards the endpointer is as after `reset()`."""
        events: list[EndpointEvent] = []
        if self._open and self._now + self._incomplete.size - self._began > self._limit:
            self._cut(events)
        if self._open:
            if self._incomplete.size:
                self._fresh.append(self._incomplete)
                self._now += self._incomplete.size
            self._end(min(self._now, self._spoke + self._tail) if self._quiet else self._now, "finish", events)
        self.reset()
        return events

    def _advance(self, block: NDArray[np.float32], probability: float, events: list[EndpointEvent]) -> None:
        """Moves on by one block and appends the events that it causes."""
        if self._open and self._now + BLOCK - self._began > self._limit:
            self._cut(events)
        self._recent.append((block, probability))
        self._now += BLOCK
        self._speech.append(probability >= self._on)
        sure = sum(self._speech) >= self._need
        first = self._now - (len(self._speech) - self._speech.index(True)) * BLOCK if sure else 0
        if not self._open:
            if sure:
                self._start(max(self._softly_from(first) - self._pre_roll, self._free), events)
            return
        self._fresh.append(block)
        if self._paused:
            if sure:
                self._hand_out(events)
                events.append(EndpointEvent("resume", first / SAMPLE_RATE))
                self._paused, self._quiet, self._spoke = False, 0, self._now
                self._patience = self._silence
                return
        elif probability >= self._on or (probability >= self._off and not self._quiet):
            self._quiet, self._spoke = 0, self._now
            return
        self._quiet += 1
        if not self._paused and self._quiet >= self._pause:
            self._hand_out(events)
            events.append(EndpointEvent("pause", self._spoke / SAMPLE_RATE))
            self._paused = True
            self._speech.clear()
        if self._quiet >= self._patience:
            self._end(min(self._now, self._spoke + self._tail), "silence", events)

    def _softly_from(self, first: int) -> int:
        """Where the speech begins softly whose first clear block begins at sample `first`."""
        clear = len(self._recent) - (self._now - first) // BLOCK
        found = clear
        for at in range(clear - 1, max(clear - self._reach, 0) - 1, -1):
            if self._recent[at][1] >= self._soft:
                found = at
            elif found - at > _SOFT_GAP:
                break
        return first - (clear - found) * BLOCK

    def _start(self, began: int, events: list[EndpointEvent]) -> None:
        """Opens an utterance that began at sample `began`, which the recent blocks still contain."""
        self._open, self._paused, self._patience = True, False, self._silence
        self._began, self._spoke, self._quiet = began, self._now, 0
        recent = np.concatenate([block for block, _ in self._recent])
        events.append(EndpointEvent("start", began / SAMPLE_RATE, recent[recent.size - (self._now - began) :]))

    def _hand_out(self, events: list[EndpointEvent]) -> None:
        """Appends an "audio" event with the samples that no event has handed out yet."""
        if self._fresh:
            samples = np.concatenate(self._fresh)
            events.append(EndpointEvent("audio", (self._now - samples.size) / SAMPLE_RATE, samples))
            self._fresh = []

    def _end(self, end: int, reason: str, events: list[EndpointEvent]) -> None:
        self._hand_out(events)
        events.append(EndpointEvent("end", end / SAMPLE_RATE, keep=end - self._began, reason=reason))
        self._open, self._free = False, end

    def _cut(self, events: list[EndpointEvent]) -> None:
        """Ends an utterance that has no room for another block. Opens the next one if speech lies behind the cut."""
        quiet, spoke, length = self._quiet, self._spoke, self._now - self._began
        if self._paused:  # the pause itself is the best place for the cut
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
        """The position of the quietest place in the last seconds of the open utterance: the middle of five blocks.

        It has the lowest sum of the probability of speech and the level. Of several equal places it is the last one.
        """
        count = min(self._search, (self._now - self._began) // BLOCK)
        last = [self._recent[i] for i in range(-count, 0)]
        power = np.mean(np.square(np.stack([block for block, _ in last])), axis=1)
        noise = np.array([probability for _, probability in last]) + np.log10(power + 1e-10) / 4
        sums = np.convolve(noise, np.ones(_QUIET_BLOCKS), "valid")
        middle = len(sums) - 1 - int(np.argmin(sums[::-1])) + _QUIET_BLOCKS / 2  # in blocks
        return self._now - round((count - middle) * BLOCK)


def _in_blocks(seconds: float) -> int:
    """A time in blocks, rounded up; at least one."""
    return max(1, math.ceil(seconds * SAMPLE_RATE / BLOCK - 1e-6))


def _detector_of(wanted: Detector | str | None) -> Detector:
    return detector(wanted or "auto") if wanted is None or isinstance(wanted, str) else wanted


# ---- recordings ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Clip:
    """An utterance of a recording, from `start` to `end` seconds; `samples`: (n,) float32 at 16 kHz.

    A quiet utterance is made louder (level.py); the others have the samples of the recording.
    """

    start: float
    end: float
    samples: NDArray[np.float32]


def segments(source: Any, endpointer: Endpointer | None = None, whole: bool = False) -> Iterator[Clip]:
    """The utterances of a recording, one after the other. Holds one at a time, however long the recording is.

    Args:
        source: what `open_audio` takes. A `Source` is read from its current position; times still count from its
            beginning.
        endpointer: the endpointer to use instead of one with the defaults. It is reset.
        whole: give a recording that is not longer than the longest utterance as one clip, from its first word to its
            last, pauses included. This reads the whole recording first, so a live source gives nothing until it ends.

    Raises what `open_audio` and `Source.read` raise.
    """
    for clip in clips_and_gaps(source, endpointer, whole):
        if clip is not None:
            yield clip


def clips_and_gaps(source: Any, endpointer: Endpointer | None = None, whole: bool = False) -> Iterator[Clip | None]:
    """As `segments`, and None after each piece of sound, of half a second or none at all, that has ended no utterance: so the
    caller can do other work while a long pause is read, or while a source has nothing to give."""
    opened = open_audio(source)
    endpointer = Endpointer() if endpointer is None else endpointer
    try:
        began, pieces = opened.position, iter(opened)
        if not whole:
            yield from _clips(pieces, endpointer, began)
            return
        beginning: list[NDArray[np.float32]] = []
        room = round(endpointer.max_seconds * SAMPLE_RATE)
        while room >= 0 and (piece := next(pieces, None)) is not None:
            beginning.append(piece)
            room -= piece.size
            yield None
        clips = _clips(itertools.chain(beginning, pieces), endpointer, began)
        if room < 0:
            yield from clips
        elif found := [clip for clip in clips if clip is not None]:
            first, last = (round((time - began) * SAMPLE_RATE) for time in (found[0].start, found[-1].end))
            yield Clip(found[0].start, found[-1].end, raised(np.concatenate(beginning)[first:last]))
    finally:
        if opened is not source:
            opened.close()


def _clips(pieces: Iterator[NDArray[np.float32]], endpointer: Endpointer, began: float) -> Iterator[Clip | None]:
    """The utterances in pieces of sound of any size, of which the first begins at `began` seconds; None after a piece that has
    ended none."""
    endpointer.reset(began)
    start, samples = 0.0, []
    for events in itertools.chain(map(endpointer.push, pieces), map(Endpointer.finish, [endpointer])):
        ended = False
        for event in events:
            if event.kind == "start":
                start, samples = event.time, []
            samples.append(event.samples)
            if event.kind == "end":
                ended = True
                yield Clip(start, event.time, raised(np.concatenate(samples)[: event.keep]))
        if not ended:
            yield None
