"""What the assistant says without its model: that a timer is over, that a call failed, whether it has heard right.

Each phrase has a text for each language; others get the English one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .text_language import LanguageGuess

__all__ = ["duration", "failure", "language_of", "phrase"]

_PHRASES: Mapping[str, Mapping[str, str]] = {
    "timer": {
        "en": "The timer {name} is over.",
        "de": "Der Timer {name} ist abgelaufen.",
        "es": "El temporizador {name} ha terminado.",
        "fr": "Le minuteur {name} est terminé.",
        "it": "Il timer {name} è scaduto.",
        "nl": "De timer {name} is afgelopen.",
        "pt": "O temporizador {name} terminou.",
    },
    "timer of": {
        "en": "The timer for {length} is over.",
        "de": "Der Timer für {length} ist abgelaufen.",
        "es": "El temporizador de {length} ha terminado.",
        "fr": "Le minuteur de {length} est terminé.",
        "it": "Il timer di {length} è scaduto.",
        "nl": "De timer van {length} is afgelopen.",
        "pt": "O temporizador de {length} terminou.",
    },
    "alarm": {
        "en": "It is {time}. {name}",
        "de": "Es ist {time} Uhr. {name}",
        "es": "Son las {time}. {name}",
        "fr": "Il est {time}. {name}",
        "it": "Sono le {time}. {name}",
        "nl": "Het is {time} uur. {name}",
        "pt": "São {time}. {name}",
    },
    "missed timer": {
        "en": "While I was off, a timer ended at {time}. {name}",
        "de": "Während ich aus war, ist um {time} Uhr ein Timer abgelaufen. {name}",
        "es": "Mientras estaba apagado, un temporizador terminó a las {time}. {name}",
        "fr": "Pendant que j'étais éteint, un minuteur s'est terminé à {time}. {name}",
        "it": "Mentre ero spento, un timer è scaduto alle {time}. {name}",
        "nl": "Terwijl ik uit was, is om {time} uur een timer afgelopen. {name}",
        "pt": "Enquanto eu estava desligado, um temporizador terminou às {time}. {name}",
    },
    "missed alarm": {
        "en": "While I was off, I missed the alarm for {time}. {name}",
        "de": "Während ich aus war, habe ich den Wecker um {time} Uhr verpasst. {name}",
        "es": "Mientras estaba apagado, no sonó la alarma de las {time}. {name}",
        "fr": "Pendant que j'étais éteint, j'ai manqué l'alarme de {time}. {name}",
        "it": "Mentre ero spento, ho saltato la sveglia delle {time}. {name}",
        "nl": "Terwijl ik uit was, heb ik de wekker van {time} uur gemist. {name}",
        "pt": "Enquanto eu estava desligado, perdi o alarme das {time}. {name}",
    },
    "did you say": {
        "en": "Did you say: {words}?",
        "de": "Hast du gesagt: {words}?",
        "es": "¿Has dicho: {words}?",
        "fr": "As-tu dit : {words} ?",
        "it": "Hai detto: {words}?",
        "nl": "Zei je: {words}?",
        "pt": "Disseste: {words}?",
    },
    "really": {
        "en": "Shall I really do that: {words}?",
        "de": "Soll ich das wirklich tun: {words}?",
        "es": "¿De verdad lo hago: {words}?",
        "fr": "Dois-je vraiment le faire : {words} ?",
        "it": "Lo faccio davvero: {words}?",
        "nl": "Zal ik dat echt doen: {words}?",
        "pt": "Faço mesmo isso: {words}?",
    },
    "left": {
        "en": "All right, I have done nothing.",
        "de": "Gut, ich habe nichts getan.",
        "es": "De acuerdo, no he hecho nada.",
        "fr": "D'accord, je n'ai rien fait.",
        "it": "Va bene, non ho fatto nulla.",
        "nl": "Goed, ik heb niets gedaan.",
        "pt": "Está bem, não fiz nada.",
    },
    "left that": {
        "en": "All right, I will leave that.",
        "de": "Gut, das lasse ich.",
        "es": "De acuerdo, eso lo dejo.",
        "fr": "D'accord, je laisse cela.",
        "it": "Va bene, questo lo lascio.",
        "nl": "Goed, dat laat ik.",
        "pt": "Está bem, isso fica assim.",
    },
    "failed": {
        "en": "That did not work: {reason}",
        "de": "Das hat nicht geklappt: {reason}",
        "es": "No ha funcionado: {reason}",
        "fr": "Cela n'a pas marché : {reason}",
        "it": "Non ha funzionato: {reason}",
        "nl": "Dat is niet gelukt: {reason}",
        "pt": "Não funcionou: {reason}",
    },
    "failed somehow": {
        "en": "That did not work.",
        "de": "Das hat nicht geklappt.",
        "es": "No ha funcionado.",
        "fr": "Cela n'a pas marché.",
        "it": "Non ha funzionato.",
        "nl": "Dat is niet gelukt.",
        "pt": "Não funcionou.",
    },
}

# (one, several) of each unit, for durations.
_UNITS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "en": {"h": ("hour", "hours"), "m": ("minute", "minutes"), "s": ("second", "seconds")},
    "de": {"h": ("Stunde", "Stunden"), "m": ("Minute", "Minuten"), "s": ("Sekunde", "Sekunden")},
    "es": {"h": ("hora", "horas"), "m": ("minuto", "minutos"), "s": ("segundo", "segundos")},
    "fr": {"h": ("heure", "heures"), "m": ("minute", "minutes"), "s": ("seconde", "secondes")},
    "it": {"h": ("ora", "ore"), "m": ("minuto", "minuti"), "s": ("secondo", "secondi")},
    "nl": {"h": ("uur", "uur"), "m": ("minuut", "minuten"), "s": ("seconde", "seconden")},
    "pt": {"h": ("hora", "horas"), "m": ("minuto", "minutos"), "s": ("segundo", "segundos")},
}

_LONGEST_REASON = 160  # characters that somebody listens to
_EXCEPTION = re.compile(r"^(?:[\w.]*(?:Error|Exception|Warning|Timeout)\b:?\s*)+")
_UNSAYABLE = re.compile(r"Traceback|\n|[{}<>\[\]|\\]|0x[0-9a-f]{4}|/\w+/\w")


def _code(language: str | None) -> str:
    code = (language or "en").replace("_", "-").partition("-")[0].lower()
    return code if code in _UNITS else "en"


def language_of(words: str) -> str | None:
    """The language of words among those that have phrases; None where nothing tells it."""
    return LanguageGuess(_UNITS)(words)


def phrase(kind: str, language: str | None, **values: str) -> str:
    """A phrase in a language, with its places filled in."""
    texts = _PHRASES[kind]
    return " ".join(texts[_code(language)].format(**values).split())


def duration(seconds: float, language: str | None) -> str:
    """A duration in words: "1 hour 30 minutes"."""
    left, units = max(1, round(seconds)), _UNITS[_code(language)]
    parts = []
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {units[unit][count != 1]}")
    return " ".join(parts)


def failure(result: Any, language: str | None) -> str | None:
    """What is said of the result of a call that failed, where the model says nothing; None for a call that did not fail.

    A reason that is made for programs, such as the name of an exception or a path, is left out.
    """
    if not (isinstance(result, Mapping) and result.get("error")):
        return None
    reason = _EXCEPTION.sub("", str(result["error"])).strip()
    if not reason or len(reason) > _LONGEST_REASON or _UNSAYABLE.search(reason):
        return phrase("failed somehow", language)
    return phrase("failed", language, reason=reason if reason[-1] in ".!?" else f"{reason}.")
