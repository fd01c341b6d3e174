"""From what a model writes to what a voice can say: without Markdown, emoji, whole addresses, and signs that nobody hears.

The words stay as they are, so what is heard is what is shown. How numbers are pronounced is the task of the voice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

__all__ = ["spoken"]

_URL = re.compile(r"(?:https?://|www\.)[^\s<>()\[\]{}\"'`|]+", re.IGNORECASE)
_TRAILING = ".,;:!?*_~"  # punctuation behind an address that does not belong to it
_IMAGE = re.compile(r"!\[([^\]\n]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_LINK = re.compile(r"\[([^\]\n]+)\](?:\([^)\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]\n]*\])")
_FOOTNOTE = re.compile(r"\[\^[^\]\n]+\]:?")
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(.+?)\1")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>")
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$", re.MULTILINE)
_TABLE_RULE = re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+[ \t]*:?-*:?[ \t]*$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*\|(.+?)\|?[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_QUOTED = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[-*+•◦▪‣·][ \t]+(?:\[[ xX]\][ \t]+)?", re.MULTILINE)
_NUMBER = re.compile(r"^([ \t]*\d+)[.)][ \t]+", re.MULTILINE)
_EMPHASIS = re.compile(
    r"(?<![\w*\\])(\*{1,3})(?=\S)(.+?)(?<=[^\s\\])\1(?![\w*])|(?<![\w\\])(_{1,3})(?=\S)(.+?)(?<=[^\s\\])\3(?!\w)"
)
_STRUCK = re.compile(r"~~(?=\S)(.+?)(?<=\S)~~")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|~>])")
_ARROW = re.compile(r"\s*[←-⇿⟵-⟿➔-➾]\s*")
_JOINER = re.compile(
    r"(?<!\w)[\u200c\u200d]|[\u200c\u200d](?!\w)"
)  # those of emoji; Indic and Persian words need theirs
_STOPPED = ".!?…:;,。！？"

# Signs that voices leave out or spell, as words.
_SIGNS: Mapping[str, Mapping[str, str]] = {
    "en": {"°C": " degrees Celsius", "°F": " degrees Fahrenheit", "°": " degrees", "&": " and "},
    "de": {"°C": " Grad Celsius", "°F": " Grad Fahrenheit", "°": " Grad", "&": " und "},
    "es": {"°C": " grados Celsius", "°F": " grados Fahrenheit", "°": " grados", "&": " y "},
    "fr": {"°C": " degrés Celsius", "°F": " degrés Fahrenheit", "°": " degrés", "&": " et "},
    "it": {"°C": " gradi Celsius", "°F": " gradi Fahrenheit", "°": " gradi", "&": " e "},
    "nl": {"°C": " graden Celsius", "°F": " graden Fahrenheit", "°": " graden", "&": " en "},
    "pt": {"°C": " graus Celsius", "°F": " graus Fahrenheit", "°": " graus", "&": " e "},
}
_RANGE = {"en": "to", "de": "bis", "es": "a", "fr": "à", "it": "a", "nl": "tot", "pt": "a"}


def spoken(text: str, language: str | None = None) -> str:
    """What a voice says of a text that a model has written; "" if nothing of it can be said.

    Args:
        text: any text, with Markdown, code, tables, emoji.
        language: the code of its language, for the few signs that become words; None leaves them to the voice.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _without_markdown(_FENCED.sub("", text))
    text = _with_words_for_signs(text, (language or "").partition("-")[0].lower())
    text = _JOINER.sub("", "".join(filter(_can_be_said, text)))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if any(letter.isalnum() for letter in line)]
    # A line that ends without punctuation gets a full stop, so that it is not run together with the next one.
    return " ".join(
        line if line.rstrip("\"'”’»)")[-1:] in _STOPPED or last else f"{line}."
        for line, last in ((line, number == len(lines)) for number, line in enumerate(lines, start=1))
    )


def _without_markdown(text: str) -> str:
    text = _TABLE_RULE.sub("", text)
    text = _RULE.sub("", text)
    text = _TABLE_ROW.sub(lambda row: ", ".join(cell.strip() for cell in row[1].split("|") if cell.strip()), text)
    text = _IMAGE.sub(r"\1", text)
    text = _LINK.sub(r"\1", text)
    text = _FOOTNOTE.sub("", text)
    text = _CODE.sub(r"\2", text)
    text = _TAG.sub(" ", text)
    text = _URL.sub(_spoken_address, text)
    text = _HEADING.sub(r"\1", text)
    text = _QUOTED.sub("", text)
    text = _BULLET.sub("", text)
    text = _NUMBER.sub(r"\1: ", text)
    for _ in range(3):  # emphasis inside emphasis
        text = _EMPHASIS.sub(lambda found: found[2] or found[4], text)
    text = _STRUCK.sub(r"\1", text)
    text = _ESCAPED.sub(r"\1", text)
    return text.replace("**", "").replace("`", "")


def _spoken_address(found: re.Match[str]) -> str:
    """The host of an address: nobody wants to hear the rest."""
    address = found[0].rstrip(_TRAILING)
    host = re.sub(r"^(?:https?://)?(?:[^/@\s]*@)?(?:www\.)?", "", address, flags=re.IGNORECASE)
    return re.split(r"[/?#:]", host)[0] + found[0][len(address) :]


def _with_words_for_signs(text: str, language: str) -> str:
    for sign, words in _SIGNS.get(language, {}).items():
        text = re.sub(rf"\s*{re.escape(sign)}(?!\w)" if sign != "&" else r"\s+&\s+", words, text)
    if language in _RANGE:
        text = re.sub(r"(?<=\d)\s?[–—]\s?(?=\d)", f" {_RANGE[language]} ", text)
    return _ARROW.sub(", ", text.replace("\u2212", "-"))


def _can_be_said(letter: str) -> bool:
    """Whether a character is neither an emoji nor a control or invisible character."""
    kind = unicodedata.category(letter)
    if kind[0] == "C":
        return letter in "\n\t\u200c\u200d"
    modifier = kind == "Me" or "\ufe00" <= letter <= "\ufe0f" or "\U0001f3fb" <= letter <= "\U0001f3ff"
    return not modifier and (kind != "So" or letter in "°©®™№")
