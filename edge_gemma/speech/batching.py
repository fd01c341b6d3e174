"""Several clips of speech heard together: `Together` evaluates their answers in one pass through the weights.

Owns which clips are at work at the same time, and the order of the results. What a clip is asked, and how often, is decided by
its `Hearing` (hearing.py); the sound comes from elsewhere, clip by clip.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..audio.endpointing import Clip
from ..audio.source import SAMPLE_RATE
from ..engine.batch import next_tokens
from ..engine.generation import Token
from ..engine.interface import ModelLike, SessionLike
from ..engine.memory import available, sessions_need
from ..engine.model import Model
from ..engine.session import Session
from ..errors import Cancelled, EdgeGemmaValueError
from .answer import Answer
from .hearing import Attempt, Heard, Hearing
from .request import SpeechRequest

__all__ = ["MOST", "Together", "batch_size", "check_batch"]

MOST = 64
"""The largest batch."""

_ROOM = 400_000_000  # bytes that the sessions of a batch take beside the first, at most, where nobody asked for more
_FOR_CORE, _USUAL = 4, 16  # clips for each thread, and at most: beyond that one more clip saves little
_WAITING = 4  # times the batch: clips that may be complete while the one before them is not
_PIECES = 128  # of sound, half a second each, that are read for the next clip before the others go on


def check_batch(batch: int | None) -> None:
    """Raises EdgeGemmaValueError "argument" for a batch that cannot be."""
    if batch is not None and not 1 <= batch <= MOST:
        raise EdgeGemmaValueError(f"batch is {batch}; it must be within 1 and {MOST}.", "argument")


def batch_size(model: ModelLike, context: int, kv: str, room: int | None) -> int:
    """How many clips are heard together where nobody said: by the threads of the model, and by memory.

    Args:
        model, context, kv: of the sessions.
        room: bytes that they may take beside the first; None for what the machine has to spare.
    """
    if not isinstance(model, Model):  # it evaluates one timeline at a time
        return 1
    if room is None:
        spare = available()
        room = _ROOM if spare is None else spare // 2
    each = sessions_need(model, context, kv, 1, audio=True)
    return max(1, min(1 + min(room, _ROOM) // each, _FOR_CORE * model.threads, _USUAL))


@dataclass(eq=False)
class _Job:
    """A clip at work, or a mark, which needs none.

    Attributes:
        hearing: what it is asked; None for a mark.
        answer: the one that is being written; None once all is known.
        opened: closes the session of the answer.
        heard: what has come of it.
        error: what has ended it instead.
    """

    clip: Any
    hearing: Hearing | None
    answer: Answer | None = None
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    heard: Heard | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.hearing is None or self.heard is not None or self.error is not None


class Together:
    """Hears clips, up to `size` of them at the same time. What each comes to does not depend on the others, nor on `size`."""

    def __init__(
        self,
        request: SpeechRequest,
        size: int,
        working: Callable[[SessionLike], contextlib.AbstractContextManager[SessionLike]],
        check_cancelled: Callable[[], None],
    ) -> None:
        """`working` and `check_cancelled` are those of a `Cancellable`."""
        self._request, self._size = request, size
        self._working, self._check_cancelled = working, check_cancelled

    def run(
        self,
        clips: Iterator[Any],
        hear: Callable[[Any], Hearing],
        *,
        waiting: Callable[[], bool] = lambda: False,
        patient: Callable[[bool], None] = lambda _: None,
        growing: Callable[[str], None] | None = None,
        soon: bool = False,
    ) -> Generator[tuple[Any, Heard | Exception | None], None, None]:
        """Yields each clip with what it has come to, or with the error that has ended it, in their order, as soon as it and all
        before it are complete.

        A failure of the sound is raised where it would be if the clips were heard one by one: after the results of all clips
        before it. After `Cancelled` nothing more comes.

        Args:
            clips: each a `Clip`; None is a moment without one; anything else is a mark, yielded at its place with None.
            hear: what a clip is asked.
            waiting: whether the sound has nothing to give right now.
            patient: is told before the next clip is asked for whether nothing else is to do, so that it may be waited for.
            growing: called with the text of the next result while it is written.
            soon: whether the first results should come as soon as if clips were heard one by one: the first clip is alone,
                then two are at work, then four, and so on.
        """
        jobs: deque[_Job] = deque()  # in their order, complete ones among them
        failure: Exception | None = None
        ended, shown = False, ""
        size = 1 if soon else self._size
        try:
            while True:
                self._check_cancelled()
                pieces = 0
                while not ended and self._has_room(jobs, size) and not (jobs and jobs[0].done):
                    if jobs and (pieces >= _PIECES or (pieces and waiting())):
                        break
                    patient(not jobs)
                    try:
                        clip = next(clips)
                    except StopIteration:
                        ended = True
                    except Cancelled:
                        raise
                    except Exception as error:  # raised when all clips before it are complete
                        ended, failure = True, error
                    else:
                        pieces += 1
                        if isinstance(clip, Clip):
                            jobs.append(_Job(clip, hear(clip)))
                            self._advance(jobs[-1], None)
                        elif clip is not None:
                            jobs.append(_Job(clip, None))
                self._draw([job for job in jobs if job.answer is not None])
                if growing and jobs and (answer := jobs[0].answer) and answer.text != shown:
                    shown = answer.text
                    growing(shown)
                while jobs and jobs[0].done:
                    job, shown = jobs.popleft(), ""
                    size = min(2 * size, self._size)
                    yield job.clip, job.error or job.heard
                if ended and not jobs:
                    break
        except Cancelled:  # raised by a session, perhaps
            with contextlib.suppress(Cancelled):
                self._check_cancelled()
            raise
        finally:
            with contextlib.ExitStack() as closing:
                for job in jobs:
                    closing.callback(job.opened.close)
        if failure:
            raise failure

    @staticmethod
    def _has_room(jobs: Sequence[_Job], size: int) -> bool:
        return sum(not job.done for job in jobs) < size and len(jobs) < _WAITING * size

    def _advance(self, job: _Job, answer: Answer | None) -> None:
        """Goes on with a clip, not a mark, with a complete answer about it if there is one, up to where it draws tokens."""
        assert job.hearing is not None
        try:
            while True:
                attempt = job.hearing.send(answer)
                answer = job.answer = self._begin(job, attempt)
                if answer.drawing:
                    return
                self._end(job)
        except StopIteration as end:
            job.answer, job.heard = None, end.value
        except Cancelled:
            raise
        except Exception as error:
            job.answer, job.error = None, error
            with contextlib.suppress(Exception):
                job.opened.close()

    def _begin(self, job: _Job, attempt: Attempt) -> Answer:
        """An answer that has heard its sound, and draws tokens next."""
        session = job.opened.enter_context(self._working(self._request.session.fork()))
        session.feed_audio(attempt.samples)
        answer = self._request.answer(session, len(attempt.samples) / SAMPLE_RATE, sampling=attempt.sampling)
        while not answer.drawing and answer.step():
            pass
        return answer

    @staticmethod
    def _end(job: _Job) -> None:
        """Closes the session of an answer, which keeps what it has written."""
        opened, job.opened = job.opened, contextlib.ExitStack()
        opened.close()

    def _draw(self, jobs: Sequence[_Job]) -> None:
        """Draws a token for the answer of each of these jobs."""
        answers = [job.answer for job in jobs if job.answer is not None]
        if not answers:
            return
        tokens = _draw_all(answers)
        for job, answer, token in zip(jobs, answers, tokens, strict=True):
            if not answer.take(token):
                answer.finish()  # nothing is left of its steps, and so of the cycle that its generator is part of
                self._end(job)
                self._advance(job, answer)


def _draw_all(answers: Sequence[Answer]) -> list[Token]:
    """The next token of each answer."""
    sessions = [answer.session for answer in answers if isinstance(answer.session, Session)]
    if len(sessions) < len(answers):  # of a model that evaluates one timeline at a time
        return [a.session.next(a.sampling, logprobs=a.logprobs_wanted) for a in answers]
    return next_tokens(
        sessions, [answer.sampling for answer in answers], logprobs=[answer.logprobs_wanted for answer in answers]
    )
