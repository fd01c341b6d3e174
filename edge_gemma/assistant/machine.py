"""`Machine`: what the assistant does next, as wake words, speech, answers, keys and time come.

Owns no devices, no threads and no model: it is told what happens, and says what to do through `Actions`. So every transition
can be tried without hardware, on a clock of the test.

    asleep -> awake         the wake word or a key; without wake word it is always awake
    awake -> hearing        somebody speaks
    hearing -> thinking     the turn is over
    thinking -> speaking    the first sound of the answer
    speaking -> awake       the answer was heard; for some seconds the next request needs no wake word
    awake -> asleep         nobody has spoken for some seconds
    thinking, speaking -> hearing     somebody interrupts
    asleep, awake -> announcing       a tool has something to say; a ringing one repeats it until it is stopped
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .sentences import is_stop

__all__ = ["Actions", "Announcement", "Machine", "Settings", "State"]

State = Literal["asleep", "awake", "hearing", "thinking", "speaking", "announcing"]


@dataclass(frozen=True)
class Announcement:
    """What a tool says by itself; see `Announcer`."""

    text: str
    sound: NDArray[np.int16] | None = None


@dataclass(frozen=True)
class Settings:
    """How the assistant behaves. Times are in seconds.

    Attributes:
        needs_waking: whether it listens only after a wake word or a key.
        names: words that may stand beside "stop": the assistant's name, the wake words.
        interruption: what stops an answer: "speech", which needs an echo canceller or headphones; "wake", the wake word or a
            key; "none", a key alone.
        hears_itself: whether the microphone hears the loudspeaker, since there is no echo canceller. Then nothing but the
            wake word is listened to while something sounds.
        patience: how long it waits for the first word after it was woken.
        follow_up: how long after an answer the next request needs no wake word; 0 for never.
        ring_pause: between two rings.
        ring_for: after which a ringing alarm gives up.
        forget_after: without a turn, until a conversation is forgotten.
    """

    needs_waking: bool = True
    names: tuple[str, ...] = ()
    interruption: Literal["speech", "wake", "none"] = "wake"
    hears_itself: bool = True
    patience: float = 6.0
    follow_up: float = 6.0
    ring_pause: float = 2.0
    ring_for: float = 600.0
    forget_after: float = 180.0


class Actions(Protocol):
    """What a machine can do."""

    def listen(self, since: int | None) -> None:
        """Opens the ears, from the position `since` on; None for now. Further calls do nothing."""
        ...

    def ignore(self) -> None:
        """Shuts the ears."""
        ...

    def finish_utterance(self) -> None:
        """Ends what is being said now, and shuts the ears."""
        ...

    def watch(self, watching: bool) -> None:
        """Whether speech interrupts at once."""
        ...

    def earcon(self, name: str) -> None:
        """Plays a short sound."""
        ...

    def begin(self, text: str) -> None:
        """Begins an answer that may be dropped."""
        ...

    def drop(self) -> None:
        """Drops the answer that was begun."""
        ...

    def answer(self, text: str) -> None:
        """The words are all: the answer is made, with tools, and spoken. One that was begun with the same words goes on."""
        ...

    def interrupt(self) -> None:
        """Stops the sound and the answer. The conversation keeps what was heard."""
        ...

    def announce(self, announcement: Announcement) -> None:
        """Plays it, once."""
        ...

    def hush(self) -> None:
        """Stops the sound of an announcement."""
        ...

    def forget(self) -> None:
        """Forgets the conversation."""
        ...

    def changed(self, state: State) -> None:
        """The state is another one."""
        ...


class Machine:
    """Decides. One thread uses it.

    Attributes:
        state: where it is.
    """

    def __init__(self, actions: Actions, settings: Settings, clock: Callable[[], float]) -> None:
        """It is asleep, or awake without a wake word, after `start`."""
        self.state: State = "asleep"
        self._do, self._settings, self._clock = actions, settings, clock
        self._until = math.inf  # when an awake one falls asleep
        self._follows = False  # whether it is awake because an answer has just been heard
        self._answered = False  # whether the answer is complete
        self._speaks = False  # whether somebody speaks while an announcement sounds
        self._waiting: deque[Announcement] = deque()
        self._ringing: Announcement | None = None  # the announcement that sounds or rings
        self._ring_at = self._ring_until = math.inf
        self._sounds = False  # whether an answer or an announcement is heard
        self._last_turn = math.inf  # when the last one ended; infinite when there is nothing to forget

    def start(self) -> None:
        """The sound begins."""
        self._rest()

    # ---- what happens ----

    def woken(self, since: int | None = None) -> None:
        """The wake word was said. `since`: where the request begins, for `Actions.listen`."""
        if self.state == "hearing":
            return  # the word is a part of the request
        self._silence()
        self._wake(since)

    def pressed(self) -> None:
        """The key to talk was pressed: it wakes, ends what is being said, or stops what sounds."""
        if self.state == "hearing":
            self._do.finish_utterance()
        elif self.state == "awake" and self._settings.needs_waking and not self._follows:
            self._sleep()
        elif self.state == "announcing":
            self._silence()
            self._rest()
        else:
            self._silence()
            self._wake(None)

    def released(self) -> None:
        """The key that was held is released: what was said is the request."""
        if self.state == "hearing":
            self._do.finish_utterance()

    def stopped(self) -> None:
        """The key to stop was pressed."""
        if self.state == "hearing":
            self._do.drop()
            self._do.ignore()
        self._silence()
        self._sleep() if self.state != "asleep" else self._rest()

    def speech_began(self) -> None:
        """Somebody begins to speak, and the ears are open."""
        if self.state == "announcing":
            self._speaks = True
            self._ring_at = math.inf
            if self._sounds:
                self._do.hush()
                self._sounds = False
        elif self.state != "asleep":
            self._silence()
            self._enter("hearing")

    def interrupted(self) -> None:
        """Speech was noticed while the ears watched for it. The sound has stopped already; the words will follow."""
        if self.state in ("thinking", "speaking"):
            self._do.interrupt()
            self._sounds = False
            self._wake(None, quietly=True)
        elif self.state == "announcing":
            self.speech_began()

    def paused(self, text: str) -> None:
        """What was said so far may be all, and this is its transcript."""
        if self.state == "hearing" and text and not is_stop(text, self._settings.names):
            self._do.begin(text)

    def resumed(self) -> None:
        """The speaker goes on."""
        if self.state == "hearing":
            self._do.drop()

    def heard(self, text: str) -> None:
        """The utterance is over; `text` is "" where there were no words."""
        stop = is_stop(text, self._settings.names)
        if self.state == "announcing":
            self._speaks = False
            if stop:
                self._silence()
                self._rest()
            elif self._ringing and self._ringing.sound is not None:
                self._ring_at = self._clock() + self._settings.ring_pause
            else:
                self._announced()
        elif self.state == "hearing":
            if stop:
                self._do.drop()
                self._do.earcon("sleep")
                self._sleep(quietly=True)
            elif text:
                self._answered = self._sounds = False
                self._do.earcon("heard")
                self._enter("thinking")
                self._do.answer(text)
            else:
                self._do.drop()
                self._wake(None, quietly=True)

    def sound_began(self) -> None:
        """The first sound of the answer, or of an announcement, is played."""
        self._sounds = True
        if self.state == "thinking":
            self._enter("speaking")
        self._set_ears()

    def sound_ended(self) -> None:
        """All of the reply or the announcement was heard."""
        self._sounds = False
        if self.state in ("thinking", "speaking") and self._answered:
            self._last_turn = self._clock()
            self._follow()
        elif self.state == "announcing" and not self._speaks:
            self._announced()
        self._set_ears()

    def answer_ended(self) -> None:
        """The answer is complete; `sound_ended` follows when it was heard."""
        self._answered = True

    def announced(self, announcement: Announcement) -> None:
        """A tool has something to say."""
        self._waiting.append(announcement)
        self._announce_next()

    def devices_changed(self, ready: bool) -> None:
        """The sound devices have gone, or have come back."""
        if not ready and self.state != "asleep":
            if self.state == "hearing":
                self._do.drop()
            if self.state != "announcing":
                self._silence()
                self._sleep(quietly=True)

    def tick(self) -> None:
        """Time has passed."""
        now = self._clock()
        if self.state == "awake" and now >= self._until:
            self._sleep(quietly=self._follows)
        if self.state == "announcing" and now >= self._ring_until:
            self._silence()
            self._rest()
        elif self.state == "announcing" and now >= self._ring_at and self._ringing:
            self._ring_at = math.inf
            self._do.announce(self._ringing)
        if self.state in ("asleep", "awake") and now >= self._last_turn + self._settings.forget_after:
            self._last_turn = math.inf
            self._do.forget()
        self._announce_next()

    # ---- transitions ----

    def _enter(self, state: State) -> None:
        changed, self.state = state != self.state, state
        self._set_ears()
        if changed:
            self._do.changed(state)

    def _set_ears(self) -> None:
        settings = self._settings
        deaf = self._sounds and settings.hears_itself
        by_speech = settings.interruption == "speech" and not deaf
        answering = self.state in ("thinking", "speaking")
        announcing = self.state == "announcing"
        if self.state in ("hearing", "awake") or (announcing and not deaf) or (answering and by_speech):
            self._do.listen(None)
        else:
            self._do.ignore()
        self._do.watch(by_speech and (answering or announcing) and not self._speaks)

    def _wake(self, since: int | None, quietly: bool = False) -> None:
        if not quietly:
            self._do.earcon("wake")
        self._follows = False
        self._until = self._clock() + self._settings.patience if self._settings.needs_waking else math.inf
        self._do.listen(since)
        self._enter("awake")

    def _follow(self) -> None:
        """After an answer."""
        if not self._settings.needs_waking:
            self._rest()
        elif self._settings.follow_up > 0:
            self._follows, self._until = True, self._clock() + self._settings.follow_up
            self._enter("awake")
        else:
            self._sleep(quietly=True)
        self._announce_next()

    def _rest(self) -> None:
        """As it is when nothing happens."""
        if self._settings.needs_waking:
            self._enter("asleep")
        else:
            self._until, self._follows = math.inf, True
            self._enter("awake")

    def _sleep(self, quietly: bool = False) -> None:
        if not quietly and self._settings.needs_waking:
            self._do.earcon("sleep")
        self._rest()

    def _silence(self) -> None:
        """Stops what is being answered or announced."""
        if self.state in ("thinking", "speaking"):
            self._do.interrupt()
            self._last_turn = self._clock()
        elif self.state == "announcing":
            self._do.hush()
            self._ringing, self._speaks = None, False
            self._ring_at = self._ring_until = math.inf
        self._sounds = False

    # ---- announcements ----

    def _announce_next(self) -> None:
        """Begins the next announcement, if nobody is about to speak."""
        if not self._waiting or not (self.state == "asleep" or (self.state == "awake" and self._follows)):
            return
        self._ringing = self._waiting.popleft()
        self._speaks, self._sounds = False, False
        self._ring_until = self._clock() + self._settings.ring_for
        self._enter("announcing")
        self._do.announce(self._ringing)

    def _announced(self) -> None:
        """An announcement was heard to its end: a ringing one rings again after a pause."""
        if self._ringing and self._ringing.sound is not None:
            self._ring_at = self._clock() + self._settings.ring_pause
        else:
            self._ringing = None
            self._ring_until = math.inf
            self._rest()
            self._announce_next()
