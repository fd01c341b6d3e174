"""From the pieces of an answer to whole sentences, each as early as possible: the first is spoken while the next is made.

`Sentences` cuts a reply while it is generated, `spoken` (speakable.py) removes what no voice can say, and `is_stop` tells
whether an utterance means to be quiet.

A sentence ends at its punctuation, if white space and the next word follow, unless the full stop belongs to an abbreviation
("Dr. Smith", "z. B."), an initial, or an ordinal number ("am 3. Mai"). It also ends with its line, as entries of lists do. A
long sentence is cut at a comma or a space. The first piece of a reply may be a clause, since the first sound should come soon.
"""

from __future__ import annotations

import re

from .speakable import spoken

__all__ = ["Sentences", "is_stop", "spoken", "whole_sentences"]

_WORDS, _CHARACTERS = 4, 14  # of a clause that is spoken by itself, at least
_LONGEST = 240  # characters without an end, after which a piece ends at a comma or between two words

# Without their last full stop, in small letters. A full stop behind them does not end a sentence.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof st jr sr vs etc no nos vol fig approx dept est inc ltd co corp e.g i.e eg ie cf al a.m p.m u.s u.k
    bzw ca d.h evtl ggf hr fr frl inkl max min mind nr o.ä s.o s.u sog str tel u.a u.u usw vgl z.b z.t z.zt abs art jh mio mrd
    bspw dipl ing geb gest
    sr sra srta dra ud uds p.ej pág núm aprox av dcha izq ej ee.uu
    m mm mme mlle mlles av bd env p.ex p ex art chap éd hab tél
    sig sigg dott ing avv es ecc pag tel
    dhr mevr bijv blz enz m.b.v o.a
    exmo exma núm
    jan feb mär mar apr jun jul aug sep sept okt oct nov dez dec janv févr avr juil déc ene abr ago dic
    mon tue wed thu fri sat sun
    """.split()
)
# Those that often end a sentence as well: they do where a capital letter follows that is not the first of a name.
_ENDING = frozenset(
    "etc usw ecc enz a.m p.m u.s u.k inc ltd co corp al ee.uu mio mrd max min no est sun sat art".split()
)
_ORDINAL_BEFORE = frozenset("der die das dem den des am im vom zum beim ab bis seit und den, dem,".split())
_MONTHS = frozenset(
    """
    januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert stock klasse
    januari februari mars maj juni juli augusti oktober tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta
    ledna února března dubna května června července srpna září října listopadu prosince
    """.split()
)
_CLOSERS = "\"'”’»«›)\\]}*_"
_WIDE_CLAUSE = "，、；："
_WIDE = "。！？"  # East Asian scripts write no space behind them
_END = re.compile(
    rf"[.!?…؟۔।॥]+[{_CLOSERS}]*(?=\s)"  # Latin, Cyrillic, Arabic, Indic
    rf"|[{_WIDE}…]+[」』）》】〕”’]*(?=[^{_WIDE}…」』）》】〕”’])"
    r"|[ \t]*\n"
)
_FOLLOWING = re.compile(r"\s+(\S+)(\s?)")
_CLAUSE = re.compile(rf"[,;:—–]+(?=\s)|[{_WIDE_CLAUSE}]")
_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)


class Sentences:
    """Cuts growing text into sentences.

    sentences = Sentences()
    for piece in reply: say(sentences.feed(piece))
    say(sentences.finish())
    """

    def __init__(self, early: bool = True) -> None:
        """Nothing was fed. `early`: whether the first piece may be a clause."""
        self._early = self._first = early
        self._text = ""

    def feed(self, piece: str) -> list[str]:
        """Takes more text. Returns the sentences that it completes, without white space around them."""
        self._text += piece
        found = []
        while (end := self._end()) is not None:
            sentence, self._text = self._text[:end].strip(), self._text[end:].lstrip(" \t")
            if sentence:
                found.append(sentence)
                self._first = False
        return found

    def finish(self) -> list[str]:
        """What is left: the text is complete. Afterwards as new."""
        found = self.feed("\n")
        rest, self._text, self._first = self._text.strip(), "", self._early
        return [*found, *([rest] if rest else [])]

    def _end(self) -> int | None:
        """Where the first sentence ends; None while that is not known."""
        text = self._text
        if fence := _FENCE.match(text):
            # Code is one sentence, which ends with the line of its closing fence.
            closing = re.compile(rf"^[ \t]*{fence[1]}[ \t]*\n", re.MULTILINE).search(text, fence.end())
            return closing.end() if closing else None
        for end in _END.finditer(text):
            if end[0].endswith("\n"):
                return end.end()
            if end[0][0] in _WIDE:
                return end.end()
            following = _FOLLOWING.match(text, end.end())
            if following and _ends(text[: end.start()], end[0], following[1]):
                # A number needs the whole word: in "3. Mai" it goes on, in "3. Maria" it does not.
                whole = following[2] or not text[end.start() - 1 : end.start()].isdecimal()
                return end.end() if whole else self._cut(end.start())
            if not following and "\n" not in text[end.end() :]:
                return self._cut(end.start())
        return self._cut(len(text))

    def _cut(self, most: int) -> int | None:
        """Where a piece ends within the first `most` characters, which hold no end of a sentence."""
        if self._first:
            for clause in _CLAUSE.finditer(self._text, 0, most):
                before = self._text[: clause.start()]
                if len(before.split()) >= _WORDS or (clause[0] in _WIDE_CLAUSE and len(before) >= _CHARACTERS):
                    return clause.end()
        if most <= _LONGEST:
            return None
        clauses = [clause.end() for clause in _CLAUSE.finditer(self._text, _LONGEST // 3, _LONGEST)]
        space = self._text.rfind(" ", _LONGEST // 3, _LONGEST)
        return clauses[-1] if clauses else space + 1 if space >= 0 else _LONGEST


def _ends(before: str, end: str, following: str) -> bool:
    """Whether punctuation ends a sentence. `before`: the text up to it; `following`: what comes behind the white space."""
    first = following[0]
    if end[0] != ".":
        # "Wait... what?" and "She asked 'why?' and left" go on.
        return not (first.islower() and (end[0] == "…" or end[-1] in "\"'”’»"))
    if len(end) > 1 and end[1] == "." and first.islower():
        return False
    words = before.split()
    word = words[-1].lstrip("(\"'„“«‚[*_").lower() if words else ""
    if not word or word == "…":
        return True
    if word.isdecimal():
        if len(words) == 1 or "\n" in before[len(before.rstrip()) - len(word) - 1 : len(before) - len(word)]:
            return False  # the number of an entry of a list
        previous = words[-2].lower()
        ordinal = len(word) <= 2 and (previous in _ORDINAL_BEFORE or following.lower().rstrip(".,;:!?") in _MONTHS)
        return not (ordinal or first.islower())
    if word in _ABBREVIATIONS:
        return word in _ENDING and (first.isupper() or not first.isalnum())
    if len(word) == 1 and word.isalpha():
        return False  # an initial, or the part of an abbreviation: "J. Smith", "z. B."
    if len(word) == 3 and word[1] == "." and word[0].isalpha():
        return first.isupper()  # "U.S."
    return not first.islower()


def whole_sentences(text: str) -> list[str]:
    """The sentences of a text that is complete."""
    splitter = Sentences(early=False)
    return [*splitter.feed(text), *splitter.finish()]


# ---- what means stop --------------------------------------------------------------------------------------------------


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


def is_stop(text: str, names: tuple[str, ...] = ()) -> bool:
    """Whether an utterance says no more than "stop", in one of the common languages.

    `names`: words that may stand beside it, such as the assistant's name.
    """
    beside = _POLITE | {word for name in names for word in name.lower().split()}
    words = re.findall(r"[\w'’-]+", text.lower())
    said = " ".join(word for word in words if word not in beside)
    return said in _STOP_WORDS or (bool(said) and set(said.split()) == {"stop"})
