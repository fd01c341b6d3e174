"""Where words begin and end in their sound, from three hints: `align`.

1. When each word became certain (word_times.py measures it): the step in its log-probability, looked at again and again while
   the sound goes on.
2. How long it takes to say it: words of more letters take longer, in proportion.
3. Where the sound is quiet: there is no word.

The best compromise is found by dynamic programming over frames of 40 ms. A word that the words before it tell already has
no step, so the other hints place it. Knows neither models nor sessions.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE

__all__ = ["FRAME", "Step", "align", "quietness"]

FRAME = 0.04
"""Seconds of a frame: a soft token."""

Floats = NDArray[np.float64]

# A word is certain when this share of it has been heard, and a little more: encoder and decoder look back, not ahead.
_HEARD, _LAG = 0.8, 0.12
# Weights: of a nat of a step over one second, of the squared logarithm of (duration / expected duration), of a second of
# silence in a word, of a second of sound between words, and of a gap. Errors hardly change when one of them is doubled or
# halved. Sound between two words, such as music, costs no more than `_MUSIC`.
_STEP, _DURATION, _SILENCE, _SOUND, _GAP, _MUSIC = 0.6, 2.0, 20.0, 20.0, 0.5, 15.0
_SLOWEST = 0.13  # seconds that a letter takes at most, also where most of the sound is no speech
_LONGEST = 2.5  # seconds of a word, unless three times as much as expected is longer
_LEVEL = 0.02  # seconds of which the loudness is measured
# Decibels: silence lies so far below the loud parts, at least and at most; it ends gradually above its level.
_NEAR, _FAR, _RANGE = 15.0, 40.0, 10.0


@dataclass(frozen=True)
class Step:
    """How sure a model was of a word when it had heard more and more of the sound.

    Attributes:
        times: (k,) seconds of sound that it had heard, evenly spaced by `spacing`, or with gaps.
        logprobs: (k,) log-probabilities of the word, the sum of its tokens.
        final: the same with all of the sound.
    """

    times: Floats
    logprobs: Floats
    final: float


def quietness(samples: NDArray[np.float32]) -> Floats:
    """(n,) samples at 16 kHz -> how quiet each frame is, 0 to 1; 1 is the silence or the steady noise of this sound."""
    size = round(_LEVEL * SAMPLE_RATE)
    parts = np.asarray(samples[: len(samples) // size * size], np.float64).reshape(-1, size)
    if not len(parts):
        return np.zeros(0)
    levels = 10 * np.log10(np.mean(np.square(parts), axis=1) + 1e-10)
    smooth = np.convolve(levels, np.ones(5) / 5, "valid") if len(levels) >= 5 else levels
    loud = float(np.percentile(levels, 95))
    floor = min(max(float(smooth.min()), loud - _FAR), loud - _NEAR)
    quiet = np.clip(1 - (levels - floor) / _RANGE, 0.0, 1.0)
    pairs = round(FRAME / _LEVEL)
    return np.asarray(quiet[: len(quiet) // pairs * pairs].reshape(-1, pairs).mean(axis=1))


def align(
    words: Sequence[str], steps: Sequence[Step | None], quiet: Floats, spacing: float
) -> list[tuple[float, float]]:
    """Start and end in seconds of each word, in order, without overlap.

    Args:
        words: as they are written.
        steps: what is known of when each became certain.
        quiet: (frames,) from `quietness`.
        spacing: seconds of sound between two of the times of a step.
    """
    frames, n = len(quiet), len(words)
    lengths = np.array([_length(word) for word in words])
    if frames < n:  # more words than frames: nothing can be found
        edges = np.concatenate([[0.0], np.cumsum(lengths)]) * frames * FRAME / max(lengths.sum(), 1)
        return [(float(a), float(b)) for a, b in itertools.pairwise(edges)]
    silence, sound = (np.concatenate([[0.0], np.cumsum(part)]) * FRAME for part in (quiet, 1 - quiet))
    expected = np.maximum(lengths * min(sound[-1] / lengths.sum(), _SLOWEST), FRAME)
    begin, choices = -np.minimum(_SOUND * sound, _MUSIC), []
    for i in range(n):
        step = steps[i]
        gain = np.zeros(frames + 1) if step is None else _gain(step, frames, spacing)
        ends, starts = _end_word(begin, gain, float(expected[i]), silence)
        begin, before = _begin_word(ends, sound)
        choices.append((starts, before))
    at = int(np.argmax(ends - np.minimum(_SOUND * (sound[-1] - sound), _MUSIC)))
    found: list[tuple[float, float]] = []
    for starts, before in reversed(choices):
        if found:
            at = int(before[at])
        start = int(starts[at])
        found.append((start * FRAME, at * FRAME))
        at = start
    return found[::-1]


def _length(word: str) -> float:
    """How long it takes to say a word, in letters: a digit and an ideograph are a syllable at least, and words have edges."""
    letters = 0.0
    for letter in word:
        if letter.isdigit() or unicodedata.east_asian_width(letter) in "WF":
            letters += 3
        elif letter.isalpha():
            letters += 1
    return max(letters, 1.0) + 1.0


def _gain(step: Step, frames: int, spacing: float) -> Floats:
    """(frames + 1,): how well the step fits a word that became certain at that edge of a frame."""
    low = min(float(step.logprobs.min()), step.final)
    above = step.logprobs - (low + step.final) / 2  # positive once it is certain
    sums = np.concatenate([[0.0], np.cumsum(above)])
    edges = np.concatenate([step.times - spacing / 2, [step.times[-1] + spacing / 2]])
    # Where the model was not asked, the word was uncertain before, and certain afterwards.
    fit = _STEP * spacing * (sums[-1] - 2 * sums)
    slope = _STEP * (step.final - low) / 2
    at = np.arange(frames + 1) * FRAME
    outside = np.maximum(edges[0] - at, 0.0) + np.maximum(at - edges[-1], 0.0)
    return np.asarray(np.interp(at, edges, fit) - slope * 2 * outside)


def _end_word(begin: Floats, gain: Floats, expected: float, silence: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The best sum for a word that ends at each edge, and where it begins then."""
    frames = len(begin) - 1
    best, starts = np.full(frames + 1, -np.inf), np.zeros(frames + 1, np.int64)
    first = np.arange(frames + 1)
    for length in range(1, min(frames, int(max(_LONGEST, 3 * expected) / FRAME)) + 1):
        start = first[: frames + 1 - length]
        known = np.minimum(start + round(_HEARD * length + _LAG / FRAME), frames)
        cost = _DURATION * np.log(length * FRAME / expected) ** 2
        total = begin[start] + gain[known] - cost - _SILENCE * (silence[length:] - silence[: frames + 1 - length])
        better = total > best[length:]
        best[length:][better] = total[better]
        starts[length:][better] = start[better]
    return best, starts


def _begin_word(ends: Floats, sound: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The best sum for a word that begins at each edge, and where the word before it ends: there, or before a gap."""
    best, where = ends, np.arange(len(ends))
    for sums, cost in ((ends + _SOUND * sound, _SOUND * sound), (ends, _MUSIC)):
        highest = np.maximum.accumulate(sums)
        last = np.maximum.accumulate(np.where(sums == highest, np.arange(len(sums)), 0))
        gap = highest - cost - _GAP
        where = np.where(gap > best, last, where)
        best = np.maximum(gap, best)
    return best, where
