"""What a clip of speech is asked, and how often: `hear_clip`.

Owns the attempts, and which of their answers stands. Evaluates nothing itself: it yields each attempt and is sent the complete
answer, so that several clips can be at work at the same time (batching.py).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from ..engine.sampling import Sampling
from .answer import Answer, Samples
from .request import SpeechRequest, second_attempt

__all__ = ["Attempt", "Heard", "Hearing", "hear_clip"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """(n,) samples at 16 kHz that the request is put to, and how the answer is drawn."""

    samples: Samples
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class Heard:
    """What a clip has come to.

    Attributes:
        answer: the complete answer, its session closed; None where there is nothing to hear.
    """

    answer: Answer | None


Hearing: TypeAlias = "Generator[Attempt, Answer | None, Heard]"
"""Yields attempts and is sent their complete answers; the first `send` is of None."""


def hear_clip(request: SpeechRequest, samples: Samples) -> Hearing:
    """Asks what is said in a clip, and once more where the answer repeats itself."""
    if request.session.model.audio_tokens(len(samples)) == 0:  # too few for the encoder
        return Heard(None)
    answer = yield Attempt(samples, request.sampling)
    assert answer is not None
    if again := second_attempt(answer.text, request.sampling):
        answer = yield Attempt(samples, again)
    return Heard(answer)
