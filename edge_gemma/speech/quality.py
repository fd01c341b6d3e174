"""Whether an answer about speech can be right: `problem_of`, and where else to cut a clip whose answer cannot.

The limits are far outside of what people say, so that good segments are left alone.
"""

from __future__ import annotations

import numpy as np

from ..audio.source import SAMPLE_RATE
from .answer import Answer, Samples
from .prompts import loop_start

__all__ = ["NOBODY", "has_words", "is_silence", "other_boundaries", "problem_of"]

NOBODY = 0.5
"""The `no_speech_prob` from which on a segment is no speech."""

_LOUDEST_SILENCE = 1e-4  # of full scale: three steps of 16-bit samples
_WORDS, _LETTERS = 8.0, 40.0  # a second; the fastest speakers reach 6 words, or 30 letters
_SOLID_LETTERS = 16.0  # a second, of scripts that have no spaces: Chinese speakers reach 8
_LEAST = 1.0  # seconds that are taken as the length of a shorter clip: in it the rates say little
_UNSURE = -1.0  # mean log-probability; good speech has -0.3 and more
_CUT = 4.0  # seconds from which on a clip is cut in two
_QUIET = 1600  # samples over which the level is averaged where a place for the cut is looked for
_LEAD = 4000  # samples of silence before a clip that is too short to be cut


def is_silence(samples: Samples) -> bool:
    """Whether (n,) samples have no sound at all."""
    return not len(samples) or float(np.abs(samples).max()) <= _LOUDEST_SILENCE


def has_words(text: str) -> bool:
    """Whether a transcript has a letter or a digit. Punctuation alone is what a model writes down of noise."""
    return any(letter.isalnum() for letter in text)


def problem_of(answer: Answer, said: str, seconds: float) -> str | None:
    """Why what was `said` in so many seconds cannot be right, as far as the answer tells; None when it can be.

    "loop": it repeats itself. "speed": it has more words or letters than anybody says. "unsure": none of it is probable.
    """
    if loop_start(answer.text) is not None:
        return "loop"
    seconds = max(seconds, _LEAST)
    letters = sum(letter.isalnum() for letter in said)
    spaced = sum(letter.isalnum() and ord(letter) < 0x0E00 for letter in said)  # below: scripts with spaces
    if (
        len(said.split()) > _WORDS * seconds
        or spaced > _LETTERS * seconds
        or letters - spaced > _SOLID_LETTERS * seconds
    ):
        return "speed"
    return "unsure" if said and (answer.avg_logprob or 0.0) < _UNSURE else None


def other_boundaries(samples: Samples) -> list[tuple[Samples, int]]:
    """The clip cut otherwise: in two at the quietest place of its middle half, or, if it is short, with a quarter second of
    silence before it. Each part with the place of its first sample in the clip, which may be negative."""
    if len(samples) < _CUT * SAMPLE_RATE:
        return [(np.concatenate([np.zeros(_LEAD, np.float32), samples]), -_LEAD)]
    first, end = len(samples) // 4, len(samples) * 3 // 4
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples[first:end], dtype=np.float64))])
    at = first + int(np.argmin(sums[_QUIET:] - sums[:-_QUIET])) + _QUIET // 2
    return [(samples[:at], 0), (samples[at:], at)]
