"""How probable given tokens are: `score` after the sound that a session has heard so far, `Unheard` when nothing was heard.

The tokens are those of an answer, which is fixed. Draws nothing; what the numbers mean is decided elsewhere (word_times.py,
transcriber.py, language_detection.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..audio.source import SAMPLE_RATE
from ..engine.interface import SessionLike
from .answer import Answer

__all__ = ["Unheard", "no_speech_prob", "score"]

_ROWS = 16  # of logits at a time: each is as long as the vocabulary
_SILENCE = 0.5  # seconds that are heard in place of nothing
_MOST = 32  # tokens that tell whether anybody spoke


def score(session: SessionLike, closing: Sequence[int], ids: Sequence[int], first: int, end: int) -> list[float]:
    """Log-probabilities of `ids[first:end]` if the sound ended here and these were the answer. `session` stays as it is.

    `ids` before `first` are part of the answer too; `closing`, the tokens between sound and answer, is not empty.
    """
    found: list[float] = []
    fork = session.fork()
    try:
        if fork.audio is not None:
            fork.audio.finish()
        before = [*closing, *ids[:first]]
        fork.feed_tokens(before[:-1])
        known = [before[-1], *ids[first : end - 1]]
        for at in range(0, end - first, _ROWS):
            rows = fork.forward(known[at : at + _ROWS])
            highest = rows.max(axis=1)
            sums = np.log(np.exp(rows - highest[:, None]).sum(axis=1, dtype=np.float64)) + highest
            drawn = list(ids[first + at : first + at + len(rows)])
            found += (rows[np.arange(len(rows)), drawn] - sums).tolist()
    finally:
        fork.close()
    return found


class Unheard:
    """How probable answers to a request about speech are when nothing is heard but half a second of silence.

    Close it with `close()`.
    """

    def __init__(self, session: SessionLike, closing: Sequence[int]) -> None:
        """`session`: has read the request up to the sound; it stays as it is. `closing`: tokens between sound and answer."""
        self._closing, self._session = closing, session.fork()
        self._session.stream_audio().push(np.zeros(round(_SILENCE * SAMPLE_RATE), np.float32))

    def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Log-probabilities of the tokens of an answer."""
        return score(self._session, self._closing, ids, 0, len(ids))

    def close(self) -> None:
        """Closes the session. Further calls do nothing."""
        self._session.close()


def no_speech_prob(answer: Answer, unheard: Unheard) -> float:
    """The probability that nobody speaks, by the model's own probabilities.

    It is that of an empty answer, and for the rest how probable these tokens are without the sound, divided by how probable
    they are with it, 1 at most. What a model makes of noise, it would have made of silence too; what was said, it could not
    know without hearing it. `answer` is complete and was measured.
    """
    ids, empty = answer.ids[:_MOST], answer.empty_probability
    if not ids:
        return empty
    difference = sum(unheard.logprobs(ids)) - sum(answer.logprobs[: len(ids)])
    return empty + (1 - empty) * math.exp(min(difference, 0.0))
