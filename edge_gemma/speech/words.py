"""The words of a transcript, and which tokens of the answer say them: `token_words`.

Owns what a word is: text between spaces, with the punctuation beside it. Scripts that write no spaces have a word for each
token, in whole characters. Knows neither models nor sound.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..engine.interface import TokenizerLike
from ..engine.tokenizer import StreamingDetokenizer
from .line_breaking import unspaced_ends
from .transcript import Word

__all__ = ["TokenWord", "mean_logprob", "plain_words", "token_words"]


@dataclass(frozen=True)
class TokenWord:
    """A word of a text, and the tokens `first` to `end - 1` of the answer, which say it. A token may belong to two words."""

    text: str
    first: int
    end: int


@dataclass(frozen=True)
class _Letter:
    """A character that is no space, and the tokens that say it: more than one for a character of several tokens."""

    text: str
    first: int
    end: int


def token_words(text: str, ids: Sequence[int], tokenizer: TokenizerLike) -> list[TokenWord]:
    """The words of a text that was read from an answer.

    Args:
        text: what was said. It stands in the answer as it is, but for white space and control characters.
        ids: the tokens of the answer.
        tokenizer: the model's.

    Returns:
        All words of the text; none when the text does not stand in the answer.
    """
    letters, speech = _letters(ids, tokenizer)
    answer, wanted = "".join(letter.text for letter in letters), "".join(text.split())
    at = answer.find(wanted, speech)
    at = answer.find(wanted) if at < 0 else at
    if not wanted or at < 0:
        return []
    said = letters[at : at + len(wanted)]
    begins = {i for i, (a, b) in enumerate(pairwise(said), start=1) if b.first >= a.end}  # with a new token
    words, done = [], 0
    for word in _split(text, begins):
        n = len("".join(word.split()))
        words.append(TokenWord(word, said[done].first, said[done + n - 1].end))
        done += n
    return words


def _letters(ids: Sequence[int], tokenizer: TokenizerLike) -> tuple[list[_Letter], int]:
    """The characters of an answer that are no spaces, and how many of them come before the last control token: thoughts."""
    letters: list[_Letter] = []
    speech, first = 0, 0
    detokenizer = StreamingDetokenizer(tokenizer)
    for at, token in enumerate(ids):
        piece = detokenizer.feed(token)
        if not tokenizer.decode([token]) and tokenizer.decode([token], special=True):  # a control token
            speech, first = len(letters), at + 1
            continue
        letters += (_Letter(c, first, at + 1) for c in piece if not c.isspace() and unicodedata.category(c) != "Cc")
        first = at + 1 if piece else first  # a character that is not complete yet goes on with the next token
    return letters, speech


def _split(text: str, begins: set[int]) -> list[str]:
    """The words of a text. `begins`: before which of its characters, spaces not counted, a token begins."""
    spans: list[tuple[int, int]] = []
    done = 0  # characters that are no spaces
    for chunk in re.finditer(r"\S+", text):
        ends = [end for end in unspaced_ends(chunk[0]) if done + end in begins]
        for a, b in pairwise([0, *ends, len(chunk[0])]):
            spans.append((chunk.start() + a, chunk.start() + b))
        done += len(chunk[0])
    merged: list[tuple[int, int]] = []
    lonely = False  # the last span is punctuation that waits for its word
    for a, b in spans:
        sounds = any(c.isalnum() for c in text[a:b])
        if merged and (lonely or not sounds):
            merged[-1] = merged[-1][0], b
            lonely = lonely and not sounds
        else:
            merged.append((a, b))
            lonely = not sounds
    return [text[a:b] for a, b in merged]


def mean_logprob(logprobs: Sequence[float]) -> float | None:
    """The mean of log-probabilities; None without any."""
    return sum(logprobs) / len(logprobs) if logprobs else None


def plain_words(words: Sequence[TokenWord], logprobs: Sequence[float]) -> tuple[Word, ...]:
    """Words with their probabilities. `logprobs`: those of the tokens of the answer."""
    means = (mean_logprob(logprobs[word.first : word.end]) for word in words)
    return tuple(
        Word(word.text, probability=None if mean is None else math.exp(mean))
        for word, mean in zip(words, means, strict=True)
    )
