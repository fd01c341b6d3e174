"""`Mouth`: speaks a reply while it is generated, sentence by sentence.

A thread of its own has the next sentence made while the one before is heard. A reply may be prepared before it is certain that
it will be needed; then its sound waits until `release`. `stop` silences the loudspeaker at once, from any thread, and tells
how far the reply was heard.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .devices import Player
from .interface import EdgeGemmaVoiceError, Voice
from .sentences import Sentences, spoken

__all__ = ["Mouth"]

_TAIL = 0.15  # seconds after the last sample until a room is quiet
_CHARACTERS = 15.0  # that are spoken in a second
_POLL = 0.02  # seconds between looks at the loudspeaker


@dataclass
class _Piece:
    """A sentence, and how many seconds of sound it has become."""

    text: str
    seconds: float = 0.0


class Mouth:
    """Speaks. Any thread may use it."""

    def __init__(
        self,
        devices: Player,
        voice: Voice | None,
        *,
        language_of: Callable[[str], str | None] = lambda text: None,
        on_sound: Callable[[], None] = lambda: None,
        on_silence: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts its thread.

        Args:
            devices: what plays.
            voice: makes speech; None for an assistant that writes only. It belongs to the mouth's thread.
            language_of: the code of the language of a text; None for that of the voice.
            on_sound: called when the first sound of a reply goes to the loudspeaker.
            on_silence: called when a reply has ended, all of it was heard, and the room is quiet again.
            on_failure: called with a sentence when the voice fails, once until it speaks again.
            clock: seconds.

        The callbacks come from the mouth's thread.
        """
        self._devices, self._voice, self._language_of, self._clock = devices, voice, language_of, clock
        self._on_sound, self._on_silence, self._on_failure = on_sound, on_silence, on_failure
        self._state = threading.Condition()  # guards what follows
        self._number = 0  # of the reply; a thread that works for an older one drops what it makes
        self._sentences = Sentences()
        self._texts: deque[str] = deque()  # to be spoken
        self._pieces: list[_Piece] = []  # that were made, or are being made
        self._held: list[NDArray[np.int16]] = []  # sound that waits for release
        self._open = self._released = self._sounded = False
        self._failed = self._closed = False
        self._thread = threading.Thread(target=self._run, name="edge_gemma-mouth", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def begin(self, *, held: bool = False) -> None:
        """A new reply begins; one that is being spoken is dropped. `held`: nothing is heard until `release`."""
        with self._state:
            self._drop()
            self._open, self._released = True, not held

    def add(self, text: str) -> None:
        """More of the reply."""
        with self._state:
            if self._open:
                self._say(self._sentences.feed(text))

    def finish(self) -> None:
        """The reply is complete. When it was heard, `on_silence` is called."""
        with self._state:
            if self._open:
                self._say(self._sentences.finish())
                self._open = False
                self._state.notify_all()

    def play(self, sound: NDArray[np.int16]) -> None:
        """(n,) samples at the loudspeaker's rate: a part of the reply that is open, else a sound of its own."""
        with self._state:
            if self._open and self._released:
                self._write(sound)
            else:
                self._devices.write(sound)

    def release(self) -> None:
        """What was prepared is heard."""
        with self._state:
            self._released = True
            held, self._held = self._held, []
            for block in held:
                self._write(block)
            self._state.notify_all()

    def stop(self) -> str:
        """Silences the loudspeaker and drops the reply. Returns the words that were heard of it."""
        with self._state:
            pending = self._devices.pending
            self._devices.stop()
            held = sum(len(block) for block in self._held) / self._devices.rate
            left = pending + held
            heard: list[str] = []
            for piece in reversed(self._pieces):
                part = piece.seconds - left
                left = max(0.0, left - piece.seconds)
                if part > 0:
                    words = piece.text.split()
                    heard.insert(0, " ".join(words[: round(len(words) * min(1.0, part / piece.seconds))]))
            self._drop()
            return " ".join(filter(None, heard))

    @property
    def waiting(self) -> float:
        """About how many seconds of speech were added and have not been heard."""
        with self._state:
            held = sum(map(len, self._held)) / self._devices.rate
            return self._devices.pending + held + sum(map(len, self._texts)) / _CHARACTERS

    @property
    def prepared(self) -> bool:
        """Whether sound waits for `release`."""
        with self._state:
            return bool(self._held)

    def close(self) -> None:
        """Stops, and ends the thread and the voice."""
        with self._state:
            self._drop()
            self._closed = True
            self._state.notify_all()
        self._thread.join()
        if self._voice:
            self._voice.close()

    # ---- with the lock ----

    def _drop(self) -> None:
        self._number += 1
        self._sentences = Sentences()
        self._texts.clear()
        self._pieces, self._held = [], []
        self._open = self._released = self._sounded = False
        self._state.notify_all()

    def _say(self, sentences: list[str]) -> None:
        self._texts.extend(sentences)
        self._state.notify_all()

    def _write(self, block: NDArray[np.int16]) -> None:
        self._devices.write(block)
        if not self._sounded:
            self._sounded = True
            self._on_sound()

    # ---- its thread ----

    def _run(self) -> None:
        told = 0  # the number of the last reply whose end was told
        while True:
            with self._state:
                while not (self._texts or self._closed or self._ended(told)):
                    self._state.wait()
                if self._closed:
                    return
                number = self._number
                text = self._texts.popleft() if self._texts else None
                if text is not None:
                    self._pieces.append(piece := _Piece(text))
            if text is None:
                if self._wait_for_silence(number):
                    told = number
                    self._on_silence()
            elif self._voice:
                language = self._language_of(spoken(text))
                piece.text = spoken(text, language)
                if piece.text:
                    self._speak(self._voice, language, piece, number)

    def _ended(self, told: int) -> bool:
        """Whether all sound of the current reply was made, and its end is to be told."""
        return self._released and not self._open and not self._held and self._number != told

    def _wait_for_silence(self, number: int) -> bool:
        """Waits until the loudspeaker is done. False if the reply was dropped, or goes on."""
        quiet_since: float | None = None
        while True:
            with self._state:
                if self._number != number or self._texts or self._closed:
                    return False
                if self._devices.pending > 0:
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = self._clock()
                if quiet_since is not None and (not self._sounded or self._clock() - quiet_since >= _TAIL):
                    return True
                self._state.wait(_POLL)

    def _speak(self, voice: Voice, language: str | None, piece: _Piece, number: int) -> None:
        try:
            with contextlib.closing(iter(voice.speak(piece.text, language))) as sound:  # type: ignore[type-var]
                for block in sound:
                    samples = resampled(block, voice.sample_rate, self._devices.rate)
                    with self._state:
                        if self._number != number:
                            return
                        piece.seconds += len(samples) / self._devices.rate
                        if self._released:
                            self._write(samples)
                        else:
                            self._held.append(samples)
            self._failed = False
        except EdgeGemmaVoiceError as error:
            if not self._failed:
                self._failed = True
                self._on_failure(str(error))


def resampled(block: NDArray[np.int16], rate: int, wanted: int) -> NDArray[np.int16]:
    """(n,) samples at another rate, (round(n * wanted / rate),), by straight lines between samples: enough for speech."""
    if rate == wanted or not len(block):
        return block
    count = max(1, round(len(block) * wanted / rate))
    return np.interp(np.arange(count) * (rate / wanted), np.arange(len(block)), block).astype(np.int16)
