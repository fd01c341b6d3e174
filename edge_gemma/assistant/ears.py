"""`Ears`: everything that hears all the time. A `Source` for a `Listener`, which hears only what it is to hear.

Sound goes through the echo canceller, to the wake word detector, and, while the assistant speaks, to a detector of speech that
interrupts. The listener gets it when the ears are open, and silence in its place when they are closed, so that its time goes
on. All of that happens in `hear`, which a thread calls for every 20 ms, since none of it may wait for a model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE, Source
from ..audio.vad import BLOCK, Detector
from .devices import SoundDevices
from .echo import EchoFilter
from .wake import WakeDetector

__all__ = ["Ears", "SilenceAware"]

_BLOCK = 0.02  # seconds that are read at a time
_TIMEOUT = 0.25  # seconds to wait for sound before looking whether to stop
_MEMORY = 2 * SAMPLE_RATE  # samples that can be heard afterwards
_MOST = 120 * SAMPLE_RATE  # samples that may wait for the listener
# The micro models tell a word 80 to 220 ms after its end; what was said since then belongs to the request.
_LATE = round(0.2 * SAMPLE_RATE)
_SPEECH, _BLOCKS = 0.6, 3  # probability and number of blocks, of the last 6, that are an interruption
_NOTHING = np.zeros(0, np.float32)


class SilenceAware:
    """A detector of speech that does not ask another one about digital silence, which closed ears give all the time."""

    def __init__(self, detector: Detector, ignored: Callable[[], int] = lambda: 0) -> None:
        """Rates nothing yet.

        Args:
            detector: rates everything else.
            ignored: the sample, counted from the last `reset`, before which nothing is speech: the end of a wake word alone
                begins no utterance.
        """
        self._detector, self._ignored, self._rest, self._count = detector, ignored, _NOTHING, 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) samples -> (k,) probabilities, one for each block of 512 samples that they complete."""
        joined = np.concatenate([self._rest, samples])
        count = len(joined) // BLOCK
        self._rest = joined[count * BLOCK :]
        found = np.zeros(count, np.float32)
        for number, block in enumerate(joined[: count * BLOCK].reshape(-1, BLOCK)):
            if block.any():
                probability = self._detector.push(block)[0]
                found[number] = 0.0 if self._count < self._ignored() else probability
            self._count += BLOCK
        return found

    def reset(self) -> None:
        """New sound follows."""
        self._rest, self._count = _NOTHING, 0
        self._detector.reset()


class Ears(Source):
    """Hears a microphone all the time.

    `open`, `shut`, `finish`, `watch` come from any thread; `hear` and `run` belong to one thread, reading to another one.

    Attributes:
        overruns: how often sound was lost because the listener was too slow.
    """

    live = True
    name = "the microphone"

    def __init__(
        self,
        devices: SoundDevices,
        *,
        wake: WakeDetector | None = None,
        echo: EchoFilter | None = None,
        interruption: Detector | None = None,
        on_wake: Callable[[str, int], None] = lambda word, since: None,
        on_interruption: Callable[[], None] = lambda: None,
    ) -> None:
        """The ears are shut.

        Args:
            devices: what is heard.
            wake: listens for the wake word; None for no wake word.
            echo: removes what the loudspeaker plays; None for no cancellation.
            interruption: rates speech while the ears watch for it; None for no interruption by speech.
            on_wake: called, by the thread that hears, with the word and the position from which on what was said belongs to the
                request; see `open`.
            on_interruption: called, by the thread that hears, when somebody speaks while the ears watch for it.
        """
        super().__init__()
        self.overruns = 0
        self._devices, self._wake, self._echo = devices, wake, echo
        self._interruption, self._on_wake, self._on_interruption = interruption, on_wake, on_interruption
        self._state = threading.Condition()  # guards what follows
        self._open = self._ended = self._stopped = False
        self._waiting: deque[NDArray[np.float32]] = deque()
        self._count = 0  # samples that wait
        self._recent: deque[NDArray[np.float32]] = deque()
        self._now = 0  # samples so far
        self._given = 0  # samples that were given to the listener
        self._before = 0  # of these, those up to the last wake word
        self._ahead = 0  # samples that the listener got twice or too early: so much silence is left out later
        self._watching = False
        self._speech: deque[bool] = deque(maxlen=2 * _BLOCKS)

    # ---- the thread that hears ----

    def run(self) -> None:
        """Hears until `stop`, or until the sound ends."""
        while not self._stopped:
            block = self._devices.read(_BLOCK, _TIMEOUT)
            if block is None:
                break
            if len(block):
                self.hear(block)
        with self._state:
            self._ended = True
            self._state.notify_all()

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Takes the next (n,) samples at 16 kHz."""
        if self._echo:
            samples = self._echo.push(samples)
        word = self._wake.push(samples) if self._wake else None
        with self._state:
            self._now += len(samples)
            self._recent.append(samples)
            while sum(map(len, self._recent)) - len(self._recent[0]) > _MEMORY:
                self._recent.popleft()
            if self._open:
                self._put(samples)
            else:
                left_out = min(self._ahead, len(samples))
                self._ahead -= left_out
                self._put(np.zeros(len(samples) - left_out, np.float32))
            since, watching = self._now - _LATE, self._watching
        if word:
            self._on_wake(word, since)
        if watching and self._is_interruption(samples):
            with self._state:
                self._watching = False
            self._on_interruption()

    def _is_interruption(self, samples: NDArray[np.float32]) -> bool:
        if not self._interruption:
            return False
        self._speech.extend(probability >= _SPEECH for probability in self._interruption.push(samples))
        return sum(self._speech) >= _BLOCKS

    def _put(self, samples: NDArray[np.float32]) -> None:
        if not len(samples):
            return
        if self._count + len(samples) > _MOST:
            self.overruns += 1
            return
        self._waiting.append(samples)
        self._count += len(samples)
        self._given += len(samples)
        self._state.notify_all()

    # ---- any thread ----

    def open(self, since: int | None = None) -> None:
        """Lets the listener hear, from the position `since` of the samples so far on, or from now on.

        What was said before now comes again, so that a request that follows the wake word without a pause is whole.
        """
        with self._state:
            if self._open:
                return
            self._open = True
            missed = 0 if since is None else min(max(0, self._now - since), sum(map(len, self._recent)))
            if missed:
                recent = np.concatenate(list(self._recent))
                self._put(recent[len(recent) - missed :])
                self._ahead += missed
                self._before = self._given

    @property
    def before_request(self) -> int:
        """How many of the samples that the listener got were said before the last wake word was noticed."""
        return self._before

    def shut(self) -> None:
        """Gives the listener silence."""
        with self._state:
            self._open = False

    def finish(self, silence: float) -> None:
        """Ends the utterance now: the listener gets so many seconds of silence at once, and the ears are shut."""
        with self._state:
            self._open = False
            count = round(silence * SAMPLE_RATE)
            self._put(np.zeros(count, np.float32))
            self._ahead += count

    def watch(self, watching: bool) -> None:
        """Whether speech is an interruption."""
        with self._state:
            if watching and not self._watching:
                self._speech.clear()
            self._watching = watching

    def stop(self) -> None:
        """Ends the sound: `run` returns, and the listener's source has ended."""
        with self._state:
            self._stopped = self._ended = True
            self._state.notify_all()

    # ---- the listener's thread ----

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        with self._state:
            self._state.wait_for(lambda: self._waiting or self._ended, timeout)
            if self._waiting:
                self._count = 0
                blocks, self._waiting = list(self._waiting), deque()
                return np.concatenate(blocks)
            return None if self._ended else _NOTHING
