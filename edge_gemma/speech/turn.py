"""A spoken turn, and its answer, begun before it is certain that the speaker has finished.

`Turn` hears: sound goes into a session while it is spoken. At a pause a fork of that session begins to answer. The answer is
kept when the pause was the end of the turn, and dropped without a trace when it was not. `TurnTiming` notes when all of that
happened, and `Latency` is what users learn of it.

Whoever drives a turn (listener.py for one) decides where sound comes from, what a pause is, when there is time for a step of
an answer, and what becomes of the words. This file has no threads and reads no clock but the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..audio.source import SAMPLE_RATE
from ..engine.interface import SessionLike
from ..engine.sampling import GREEDY, Sampling
from ..errors import EdgeGemmaError
from .answer import Answer, Samples
from .request import SpeechRequest

__all__ = ["Latency", "Turn", "TurnTiming"]


class Turn:
    """One turn of a speaker: heard while it is spoken, answered from its last pause on.

        turn = Turn(request)
        turn.push(samples)        # as they come
        turn.pause()              # perhaps the end: an answer is begun
        turn.early.step()         # when there is time
        turn.resume()             # it was not the end; or
        answer = turn.finish()    # it was: the answer as far as it is, to be continued

    A conversation goes on in `answer.session`. A transcription closes the answer, and the next turn begins with the request
    again.

    Attributes:
        heard: samples so far.
        kept: how many of them the answer is about; known from a pause or the end on.
        early: the answer that a pause began; None when there is none.
    """

    early: Answer | None

    def __init__(self, request: SpeechRequest) -> None:
        """Opens the turn. `request`: what is asked; its session must stay open as long as the turn."""
        self.heard, self.kept, self.early = 0, 0, None
        self._request = request
        self._blocks: list[Samples] = []
        self._fed = 0  # how many of the blocks the session has heard
        self._draft: list[int] = []
        self._session = request.session.fork()
        self._audio = self._session.stream_audio()

    def push(self, samples: Samples) -> None:
        """Hears (n,) samples at 16 kHz. Raises EdgeGemmaError "context" when they do not fit."""
        self._blocks.append(np.array(samples, np.float32))
        self.heard += len(samples)
        if not self.early:  # encoding the silence of a pause can wait; the answer cannot
            self._feed()

    def suggest(self, ids: Sequence[int]) -> None:
        """Names tokens that the answer may begin with. They can make the answer faster, but never change it."""
        if len(ids) > len(self._draft):
            self._draft = list(ids)

    def guess(
        self, *, sampling: Sampling = GREEDY, draft: Sequence[int] = (), trusted: int = 0, line: bool = False
    ) -> Answer:
        """An answer about what was heard so far, in a fork of the session. It belongs to the caller.

        Options as in `Answer`.
        """
        return self._answer(
            self._session.fork(), self.heard, sampling=sampling, draft=draft, trusted=trusted, line=line
        )

    def pause(self) -> Answer:
        """Begins the answer about what was heard until now. What is pushed from now on waits for `resume`."""
        self.resume()
        self.kept = self.heard
        self.early = self.guess(sampling=self._request.sampling, draft=self._draft)
        return self.early

    def resume(self) -> None:
        """Drops the answer that a pause began. Its tokens become a draft of the next answer."""
        if self.early:
            self.suggest(self.early.ids)
            self.early.close()
            self.early = None
            self._feed()

    def _feed(self) -> None:
        new, self._fed = self._blocks[self._fed :], len(self._blocks)
        if new:
            self._audio.push(np.concatenate(new))

    def finish(self, keep: int | None = None) -> Answer:
        """Ends the turn. The answer belongs to the caller, and with it the session.

        The answer is the one that the last pause began, unless that one has heard more than `keep` samples. Otherwise it is
        a new one about the first `keep` samples, or all of them for None.

        A cut at `keep` removes whole soft tokens (40 ms each) from the end. The last one that stays may know up to 30 ms of
        sound behind the cut, because frames of the encoder overlap. Where the session cannot go back that far, the samples
        are heard again.
        """
        keep = self.heard if keep is None else min(keep, self.heard)
        if self.early and self.kept <= keep:
            answer, self.early = self.early, None
            self._session.close()
            return answer
        self.resume()
        self.kept = keep
        session, sound = self._session, None
        count = session.model.audio_tokens
        surplus = count(self.heard) - count(keep)
        if surplus:
            self._audio.finish()
            end = session.tokens[-1]
            try:
                session.rewind(surplus + 1)
                session.feed_tokens([end])
            except EdgeGemmaError as error:
                if error.code != "state":
                    raise
                session.close()
                session, sound = self._request.session.fork(), self._kept_samples()
        return self._answer(session, keep, sound=sound, draft=self._draft)

    def again(self, sampling: Sampling | None = None) -> Answer:
        """Another answer about the same samples, which are heard again. It belongs to the caller.

        `sampling`: None for that of the request.
        """
        return self._answer(self._request.session.fork(), self.kept, sampling=sampling, sound=self._kept_samples())

    def close(self) -> None:
        """Closes the sessions that do not belong to the caller. Further calls do nothing."""
        if self.early:
            self.early.close()
            self.early = None
        self._session.close()

    def _kept_samples(self) -> Samples:
        return np.concatenate(self._blocks)[: self.kept]

    def _answer(
        self,
        session: SessionLike,
        samples: int,
        *,
        sampling: Sampling | None = None,
        sound: Samples | None = None,
        draft: Sequence[int] = (),
        trusted: int = 0,
        line: bool = False,
    ) -> Answer:
        return self._request.answer(
            session, samples / SAMPLE_RATE, sampling=sampling, sound=sound, draft=draft, trusted=trusted, line=line
        )


@dataclass(frozen=True)
class Latency:
    """How long the answer to an utterance took, in seconds.

    Attributes:
        decision: from the end of speech to the decision that it was the end: mostly the silence that the decision takes.
        first_token: from that decision to the first token of the answer; 0 when the token was there before.
        last_token: from the decision to the last token.
        tokens: how many tokens the answer has.
        ready: how many of them were there at the decision.
    """

    decision: float
    first_token: float
    last_token: float
    tokens: int
    ready: int

    @property
    def speech_to_first_token(self) -> float:
        """From the end of speech to the first token."""
        return self.decision + self.first_token

    @property
    def speech_to_last_token(self) -> float:
        """From the end of speech to the last token."""
        return self.decision + self.last_token


class TurnTiming:
    """When a turn was spoken and answered, on the clock of whoever drives it.

    Attributes:
        spoken: the end of speech; None until a pause.
        decided: when it was decided that this was the end; 0 until then.
        first: when the first token of the answer was there, or its end if it has no tokens; None until then. It is before
            `decided` when the answer was begun in a pause.
        ready: tokens of the answer at the decision.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self.spoken: float | None = None
        self.decided = 0.0
        self.first: float | None = None
        self.ready = 0

    def pause(self, at: float) -> None:
        """Speech has ended at that moment of the clock, perhaps for good."""
        self.spoken = at

    def resume(self) -> None:
        """Speech goes on, so the answer that the pause began does not count."""
        self.spoken = self.first = None

    def end(self, turn: Turn, keep: int, at: float) -> Answer:
        """It is decided that the turn is over: finishes it. `keep` as in `Turn.finish`; `at`: its end on the clock."""
        self.decided = self._clock()
        self.spoken = min(at if self.spoken is None else self.spoken, self.decided)
        answer = turn.finish(keep)
        self.ready = len(answer.ids)
        if not (answer.ids or answer.stop):
            self.first = None
        return answer

    def step(self, answer: Answer) -> None:
        """Does a step of the answer, and notes the time of its first token. Raises as `Answer.step`."""
        answer.step()
        if self.first is None and (answer.ids or answer.stop):
            self.first = self._clock()

    def restart(self) -> None:
        """Another answer takes the place of the one so far."""
        self.first, self.ready = None, 0

    def latency(self, tokens: int) -> Latency:
        """The latency of an answer of so many tokens that is complete at this moment."""
        spoken = self.decided if self.spoken is None else self.spoken
        first = self._clock() if self.first is None else self.first
        return Latency(
            decision=self.decided - spoken,
            first_token=max(first - self.decided, 0.0),
            last_token=self._clock() - self.decided,
            tokens=tokens,
            ready=self.ready,
        )
