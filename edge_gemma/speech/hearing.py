"""What a clip of speech is asked, and how often: `hear_clip`.

Owns the attempts, and which of their answers stands. Evaluates nothing itself: it yields each attempt and is sent the complete
answer, so that several clips can be at work at the same time (batching.py).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from ..audio.source import SAMPLE_RATE
from ..engine.sampling import Sampling
from .answer import Answer, Samples
from .quality import is_silence, other_boundaries, problem_of
from .request import SpeechRequest, second_attempt

__all__ = ["Attempt", "Heard", "Hearing", "Part", "hear_clip"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """(n,) samples at 16 kHz that the request is put to, and how the answer is drawn."""

    samples: Samples
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a clip with its complete answer, whose session is closed.

    Attributes:
        samples: (n,) at 16 kHz, which were heard.
        at: place of the first of them in the clip; negative where silence was put before it.
        answer: what is said in them.
    """

    samples: Samples
    at: int
    answer: Answer


@dataclass(frozen=True, eq=False)
class Heard:
    """What a clip has come to.

    Attributes:
        parts: mostly one; none where there is nothing to hear.
        retried: the problem of the first answer, which led to others; None without one. As `Segment.retried`.
        problem: that of the answer that stands; None without one. As `Segment.problem`.
    """

    parts: tuple[Part, ...] = ()
    retried: str | None = None
    problem: str | None = None


Hearing: TypeAlias = "Generator[Attempt, Answer | None, Heard]"
"""Yields attempts and is sent their complete answers; the first `send` is of None."""


def hear_clip(request: SpeechRequest, samples: Samples, guarded: bool = False) -> Hearing:
    """Asks what is said in a clip, and once more where the answer repeats itself.

    `guarded`: silence is not asked about, and an answer that cannot be right is put once more with other boundaries.
    """
    if request.session.model.audio_tokens(len(samples)) == 0:  # too few for the encoder
        return Heard()
    if guarded and is_silence(samples):
        return Heard(problem="silence")
    if not guarded or not request.sampling.greedy:
        part = yield from _hear(request, samples, 0, again=True)
        return Heard((part,), problem=_problem(request, part) if guarded else None)
    whole = yield from _hear(request, samples, 0, again=False)
    problem = _problem(request, whole)
    if problem is None:
        return Heard((whole,))
    parts = []
    for piece, at in other_boundaries(samples):
        parts.append((yield from _hear(request, piece, at, again=True)))
    left = next(filter(None, (_problem(request, part) for part in parts)), None)
    # A loop is worse than anything else; of two answers that may be wrong, the more probable one stands.
    if left and problem != "loop" and (left == "loop" or _certainty([whole]) >= _certainty(parts)):
        return Heard((whole,), problem, problem)
    return Heard(tuple(parts), problem, left)


def _hear(request: SpeechRequest, samples: Samples, at: int, again: bool) -> Generator[Attempt, Answer | None, Part]:
    """One part; `again`: drawn once more, with some chance, where the answer repeats itself."""
    answer = yield Attempt(samples, request.sampling)
    assert answer is not None
    if again and (sampling := second_attempt(answer.text, request.sampling)):
        answer = yield Attempt(samples, sampling)
        assert answer is not None
    return Part(samples, at, answer)


def _problem(request: SpeechRequest, part: Part) -> str | None:
    said, translation = request.read(part.answer.text)
    return problem_of(part.answer, said or translation or "", len(part.samples) / SAMPLE_RATE)


def _certainty(parts: list[Part]) -> float:
    logprobs = [logprob for part in parts for logprob in part.answer.logprobs]
    return sum(logprobs) / max(len(logprobs), 1)
