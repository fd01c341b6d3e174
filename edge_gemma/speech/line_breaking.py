"""Where the lines of subtitles end: `wrap` cuts a text into lines of so many columns.

Owns the width of characters and the places where a line may end in scripts with and without spaces. These are the rules of
Unicode (UAX 11, 14 and 29) and of Japanese typesetting (kinsoku), as far as subtitles need them. Thai, Lao, Khmer and Burmese
write no spaces between words, and finding the words takes a dictionary, so their lines end between grapheme clusters.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from itertools import pairwise

__all__ = ["unspaced_ends", "width", "wrap"]

_SPACE = re.compile(r"[^\S\u00a0\u2007\u202f]+")  # but for spaces that no line may end at
_ZWJ, _EMOJI_STYLE, _ZERO_WIDTH_SPACE = "\u200d", "\ufe0f", "\u200b"
_GLUE = "\u00a0\u2007\u202f\u2060"
_ASIAN_END = "、。，．！？；：｡､"
# Beside closing brackets and quotation marks, which have categories of their own: no line begins with these.
_NO_BEGIN = set(
    _ASIAN_END + "・…‥～〜ー々ゝゞヽヾぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶｧｨｩｪｫｯｬｭｮｰﾞﾟ｡､･,.:;!?%‰°℃'\"؟،؛।॥"
    "\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ec6\u17d4\u17d5\u17d6\u17d7\u104a\u104b"
)
_NO_END = set(
    "¿¡$£€¥\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
)  # vowels that stand before their consonant
_NO_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0xA9E0, 0xAA7F),
)
_HANGUL = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC))


class _Break(enum.IntEnum):
    """How good it is to end a line behind a cluster."""

    NEVER, CLUSTER, SYLLABLE, IDEOGRAPH, WORD = range(5)


def width(text: str) -> int:
    """How many columns a text takes: two for a wide character or an emoji, none for a combining mark."""
    return sum(map(_cluster_width, _clusters(text)))


def wrap(text: str, columns: int) -> list[str]:
    """Cuts a text into lines of at most so many columns, without the white space between them.

    A line ends between words, behind a hyphen, or between characters of scripts without spaces. A word is cut, between
    grapheme clusters, only if it is longer than a line.
    """
    lines, clusters = [], _clusters(_SPACE.sub(" ", text).strip())
    breaks = [*(_break_between(a, b) for a, b in pairwise(clusters)), _Break.WORD]
    at = 0
    while at < len(clusters):
        end = _line_end(clusters, breaks, at, columns)
        lines.append("".join(clusters[at:end]).strip(f" {_ZERO_WIDTH_SPACE}"))
        at = end
    return [line for line in lines if line]


def unspaced_ends(text: str) -> list[int]:
    """Where a word may end in a text without spaces: indices between characters of scripts that write none, in order."""
    ends, clusters, at = [], _clusters(text), 0
    for before, after in pairwise(clusters):
        at += len(before)
        kind = _break_between(before, after)
        asian = _is_ideograph(before[0]) or _is_ideograph(after[0])  # other scripts have a WORD break behind a hyphen
        if kind in (_Break.IDEOGRAPH, _Break.SYLLABLE) or (kind is _Break.WORD and asian):
            ends.append(at)
    return ends


def _line_end(clusters: list[str], breaks: list[_Break], at: int, columns: int) -> int:
    """The end of the line that begins with cluster `at`."""
    last: dict[_Break, tuple[int, int]] = {}  # for each kind of break the last one: the end, and the width up to there
    filled, end = 0, at
    while end < len(clusters):
        filled += _cluster_width(clusters[end])
        if filled - (clusters[end] == " ") > columns and end > at:
            break
        end += 1
        last[breaks[end - 1]] = end, filled
    else:
        return end
    # A good break is worth half a line; a word is not cut where any other break is.
    for kind in (_Break.WORD, _Break.IDEOGRAPH, _Break.SYLLABLE):
        if kind in last and 2 * last[kind][1] >= columns:
            return last[kind][0]
    for kind in (_Break.IDEOGRAPH, _Break.SYLLABLE, _Break.WORD, _Break.CLUSTER):
        if kind in last:
            return last[kind][0]
    return end


def _clusters(text: str) -> list[str]:
    """What readers take for one character: a letter with its marks, an emoji of several parts, a flag."""
    clusters: list[str] = []
    for letter in text:
        if clusters and _joins(clusters[-1], letter):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _joins(cluster: str, letter: str) -> bool:
    before = cluster[-1]
    if before == " ":
        return False
    if unicodedata.category(letter) in ("Mn", "Me", "Mc") or letter == _ZWJ or 0x1F3FB <= ord(letter) <= 0x1F3FF:
        return True
    if before == _ZWJ or unicodedata.combining(before) == 9:  # a virama takes the next consonant along
        return True
    if _is_flag(letter):
        return len(cluster) == 1 and _is_flag(before)
    return 0x1160 <= ord(letter) <= 0x11FF and _within(before, _HANGUL)  # vowels and finals of a syllable


def _cluster_width(cluster: str) -> int:
    if _EMOJI_STYLE in cluster or (len(cluster) == 2 and _is_flag(cluster[0])):
        return 2
    if unicodedata.category(cluster[0]) in ("Mn", "Me", "Mc", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(cluster[0]) in "WF" else 1


def _break_between(before: str, after: str) -> _Break:
    """How good it is to end a line between two neighbouring clusters."""
    a, b = before[-1], after[0]
    if before in (" ", _ZERO_WIDTH_SPACE):
        return _Break.NEVER if before == " " and b in "!?;:»" else _Break.WORD  # French has a space before these
    if after == " " or b in _NO_BEGIN or unicodedata.category(b) in ("Pe", "Pf") or b in _GLUE:
        return _Break.NEVER
    if a in _NO_END or unicodedata.category(a) in ("Ps", "Pi") or a in _GLUE:
        return _Break.NEVER
    if a in _ASIAN_END or (a == "-" and b.isalpha()) or a in "\u2010\u2013\u2014":
        return _Break.WORD
    if _is_ideograph(before[0]) or _is_ideograph(b):
        closing = unicodedata.category(a) in ("Pe", "Pf") and unicodedata.east_asian_width(a) in "WF"
        return _Break.WORD if closing else _Break.IDEOGRAPH
    if _within(before[0], _NO_SPACES) and _within(b, _NO_SPACES):
        return _Break.SYLLABLE
    return _Break.CLUSTER


def _is_ideograph(letter: str) -> bool:
    """Whether lines may end before and behind it: ideographs, kana and emoji. Korean has spaces."""
    return unicodedata.east_asian_width(letter) in "WFH" and not _within(letter, _HANGUL)


def _is_flag(letter: str) -> bool:
    return 0x1F1E6 <= ord(letter) <= 0x1F1FF


def _within(letter: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= ord(letter) <= high for low, high in ranges)
