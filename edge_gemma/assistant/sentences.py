"""What is spoken at once: `Sentences` cuts a growing reply into sentences, `spoken` removes what no voice can say.

The first piece of a reply may be a clause, since the first sound should come soon. A cut in the wrong place costs a little
melody, and a cut that is missing costs time, so neither needs to be perfect.
"""

from __future__ import annotations

import re

__all__ = ["Sentences", "is_stop", "spoken"]

_END = re.compile(r"[.!?…]+[\"')\]»”’]*(?=\s)|[。！？]+[」』”]*|\n+")
_CLAUSE = re.compile(r"[,;:–—](?=\s)|[，、；]")
_WORDS, _CHARACTERS = 4, 14  # of a clause that is spoken by itself, at least
_LONGEST = 240  # characters without an end, after which a piece ends between two words
# Words that end in a full stop and no sentence: titles, and what comes before a number or a name.
_ABBREVIATIONS = frozenset("mr mrs ms dr prof st vs no nr bzw ca usw etc sr sra srta mme mlle art inc ltd jr".split())

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ADDRESS = re.compile(r"https?://(?:www\.)?([^/\s]+)\S*")
_MARKS = re.compile(r"[*_`~#|<>]+|^\s*(?:[-+•]\s+)", re.MULTILINE)
_PICTURES = re.compile("[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]")

_STOPS = {
    "en": "stop, stop it, stop that, stop talking, be quiet, quiet, silence, shut up, cancel, never mind, enough",
    "de": "stopp, halt, hör auf, aufhören, sei still, sei ruhig, ruhe, genug, abbrechen, vergiss es, schluss",
    "es": "para, basta, cállate, silencio, cancelar, cancela, detente, ya basta, olvídalo",
    "fr": "arrête, arrêtez, tais-toi, silence, ça suffit, annule, annuler, laisse tomber",
    "it": "basta, fermati, zitto, silenzio, annulla, lascia stare",
    "pt": "pare, para, chega, silêncio, cancela, cancelar, deixa",
    "nl": "stoppen, hou op, stil, wees stil, genoeg, annuleren, laat maar",
    "pl": "przestań, cisza, dość, anuluj",
    "ru": "стоп, хватит, тихо, замолчи, отмена",
    "ja": "ストップ, やめて, 止めて, とめて, 静かに, キャンセル",
    "zh": "停, 停止, 停下, 安静, 取消, 闭嘴, 别说了",
}
_STOP_WORDS = frozenset(word for words in _STOPS.values() for word in words.split(", "))
_POLITE = frozenset("please bitte ok okay hey now jetzt por favor s'il te plaît now".split())


class Sentences:
    """Cuts growing text into sentences.

    sentences = Sentences()
    for piece in reply: say(sentences.feed(piece))
    say(sentences.finish())
    """

    def __init__(self) -> None:
        """Nothing was fed."""
        self._text, self._first = "", True

    def feed(self, piece: str) -> list[str]:
        """Takes more text. Returns the sentences that it completes, without white space around them."""
        self._text += piece
        found = []
        while (end := self._end()) is not None:
            sentence, self._text = self._text[:end].strip(), self._text[end:]
            if sentence:
                found.append(sentence)
                self._first = False
        return found

    def finish(self) -> list[str]:
        """What is left: the text is complete. Afterwards as new."""
        rest, self._text, self._first = self._text.strip(), "", True
        return [rest] if rest else []

    def _end(self) -> int | None:
        """Where the next piece ends; None where that is not known yet."""
        for found in _END.finditer(self._text):
            if found[0][0] != "." or not self._goes_on(found.start()):
                return found.end()
        if self._first:
            for found in _CLAUSE.finditer(self._text):
                before = self._text[: found.start()]
                if len(before.split()) >= _WORDS or (found[0] in "，、；" and len(before) >= _CHARACTERS):
                    return found.end()
        if len(self._text) > _LONGEST:
            space = self._text.rfind(" ", 0, _LONGEST)
            return space + 1 if space > 0 else _LONGEST
        return None

    def _goes_on(self, stop: int) -> bool:
        """Whether the full stop there ends an abbreviation or a number, so that the sentence goes on."""
        word = re.split(r"[\s(]", self._text[:stop])[-1]
        return (len(word) == 1 and word.isalpha()) or word.lower() in _ABBREVIATIONS or "." in word or word.isdecimal()


def spoken(text: str) -> str:
    """The text without Markdown, addresses and pictures, on one line; "" where nothing is left to say."""
    text = _ADDRESS.sub(r"\1", _LINK.sub(r"\1", text))
    text = " ".join(_PICTURES.sub(" ", _MARKS.sub("", text)).split())
    return text if any(char.isalnum() for char in text) else ""


def is_stop(text: str, names: tuple[str, ...] = ()) -> bool:
    """Whether an utterance says no more than "stop", in one of the common languages.

    `names`: words that may stand beside it, such as the assistant's name.
    """
    beside = _POLITE | {word for name in names for word in name.lower().split()}
    words = re.findall(r"[\w'’-]+", text.lower())
    said = " ".join(word for word in words if word not in beside)
    return said in _STOP_WORDS or (bool(said) and set(said.split()) == {"stop"})
