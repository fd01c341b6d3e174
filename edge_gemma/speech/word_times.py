"""When each word of a transcript was said: `WordTimer`.

A decoder that hears tells no times. But the audio encoder is causal, so the sound itself tells when a word became known: the
transcript is fixed, the sound is heard once more, and every half second a fork of the session is asked how probable the words
around this place are by then. alignment.py makes times of the answers.

A question costs a pass over the tokens of the answer so far, with the logits of about eight of them. The number of questions
about a segment is limited, so all of it takes up to twice as long as the transcription (docs/benchmarks.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..audio.source import SAMPLE_RATE
from ..engine.interface import SessionLike
from .alignment import FRAME, Step, align, quietness
from .answer import Samples
from .scoring import score
from .words import TokenWord

__all__ = ["STEP", "hear_word_times"]

STEP = 0.48
"""Seconds of sound between two questions, at least."""
_QUESTIONS = 32  # about one segment, at most

_WORDS, _TOKENS = 3, 8  # that a question is about, at least: a fast speaker says two words in a step
_LOWEST = -10.0  # log-probability of a token: below it all are equally improbable
_SILENT = 0.9  # from this quietness on there is nothing new to ask about


@dataclass
class _Known:
    """What is known of a word: how probable its tokens are, together, after so many seconds of sound."""

    final: float
    times: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, time: float, logprob: float) -> None:
        self.times.append(time)
        self.logprobs.append(logprob)

    @property
    def heard(self) -> float:
        """Positive if the last answer is nearer to the one about all of the sound than to the lowest; 0 for a word without
        a step."""
        return self.logprobs[-1] - (min(*self.logprobs, self.final) + self.final) / 2

    def step(self) -> Step | None:
        return Step(np.array(self.times), np.array(self.logprobs), self.final) if self.times else None


def hear_word_times(
    session: SessionLike,
    samples: Samples,
    closing: Sequence[int],
    ids: Sequence[int],
    words: Sequence[TokenWord],
    logprobs: Sequence[float],
    check: Callable[[], None] = lambda: None,
) -> list[tuple[float, float]]:
    """Start and end of each word, in seconds of the sound.

    Args:
        session: has read the request up to the sound; it hears the sound, and its audio is open afterwards.
        samples: (n,) at 16 kHz.
        closing: tokens between the sound and the answer.
        ids: those of the answer.
        words: the words of the answer.
        logprobs: of `ids`, as they were when the answer was drawn.
        check: is called between two questions; what it raises ends the work.
    """
    known = [_Known(_sum(logprobs[word.first : word.end])) for word in words]
    step = max(STEP, math.ceil(len(samples) / SAMPLE_RATE / _QUESTIONS / FRAME) * FRAME)
    quiet, size, next_word = quietness(samples), round(step * SAMPLE_RATE), 0
    audio = session.stream_audio()
    for start in range(0, len(samples) - size + 1, size):
        audio.push(samples[start : start + size])
        check()
        frames = quiet[round(start / SAMPLE_RATE / FRAME) : round((start + size) / SAMPLE_RATE / FRAME)]
        if frames.min(initial=1.0) >= _SILENT:
            continue
        about = _around(words, next_word)
        first, end = words[about.start].first, words[about.stop - 1].end
        with_sound = score(session, closing, ids, first, end)
        for i in about:
            a, b = words[i].first - first, words[i].end - first
            known[i].add((start + size) / SAMPLE_RATE, _sum(with_sound[a:b]))
        next_word = _next_word(known, about)
        if next_word == len(words):
            break
    return align([word.text for word in words], [one.step() for one in known], quiet, step)


def _sum(logprobs: Sequence[float]) -> float:
    """The log-probability of several tokens."""
    return sum(max(logprob, _LOWEST) for logprob in logprobs)


def _around(words: Sequence[TokenWord], next_word: int) -> range:
    """The words to ask about when all before `next_word` were heard: the one before it, which may become more certain, and
    those that may come in this step."""
    first = last = max(0, next_word - 1)
    while last < len(words) and (last < next_word + _WORDS or words[last - 1].end - words[first].first < _TOKENS):
        last += 1
    return range(first, last)


def _next_word(known: Sequence[_Known], about: range) -> int:
    """Which word was not heard yet, so that the words before it are certain and it and those behind it are not, as well as
    possible: a word that never becomes certain does not stop the others."""
    heard = [known[i].heard for i in about]
    return about.start + max(range(len(heard) + 1), key=lambda n: (sum(heard[:n]) - sum(heard[n:]), -n))
