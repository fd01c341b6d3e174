"""The commands to the home in three languages, with their meanings.

A `Command` is an intent with its arguments. phrases.txt has the ways to say it: rows with one phrase for each language that
mean the same. So every sentence has exactly one translation.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import words
from words import LANGUAGES, Word, same


@dataclass(frozen=True)
class Sentence:
    """A sentence in one language, with its translations, its tool call and the reply to it.

    Attributes:
        language: en, es or de.
        text: the sentence as written, with digits.
        spoken: the sentence as spoken, with numbers in words.
        translations: language -> text.
        call: (tool, arguments); None if no tool is called.
        reply: a function from the tool's result (None without a call) to the reply.
        key: identifies the sentence, independent of its language, to hold some sentences out for the tests.
    """

    language: str
    text: str
    spoken: str
    translations: dict[str, str]
    call: tuple[str, dict[str, Any]] | None
    reply: Callable[[Any], str]
    key: str

    @property
    def held_out(self) -> bool:
        """Whether the sentence is held out for the tests: one in twenty of the sentences with arguments are."""
        return "=" in self.key and int(hashlib.sha256(self.key.encode()).hexdigest()[:8], 16) % 20 == 0


# Ways to make a request of an imperative. Spanish and German need the infinitive in questions.
MANNERS = [
    ("{do}.", "{do}.", "{do}."),
    ("Please {do}.", "Por favor, {do}.", "Bitte {do}."),
    ("{do}, please.", "{do}, por favor.", "{do}, bitte."),
    ("Could you {do}?", "¿Podrías {inf}?", "Könntest du {inf}?"),
    ("Can you {do}?", "¿Puedes {inf}?", "Kannst du {inf}?"),
    ("Could you please {do}?", "¿Podrías {inf}, por favor?", "Könntest du bitte {inf}?"),
]

Slots = dict[str, Word]


def _first_upper(text: str) -> str:
    return re.sub(r"[^\W\d_]", lambda found: found[0].upper(), text, count=1)


def _spell(pattern: str, slots: Slots) -> Word:
    text = pattern.format(**{name: word.text for name, word in slots.items()})
    spoken = pattern.format(**{name: word.spoken for name, word in slots.items()})
    return Word(_first_upper(text), spoken)


def _ways(cell: str) -> list[str]:
    return [way.strip() for way in cell.split(" | ")]


@functools.cache
def _rows(intent: str) -> list[tuple[str, tuple[list[str], ...]]]:
    """The sentences of an intent: the name of each, and the ways to say it in each language."""
    text = (Path(__file__).parent / "phrases.txt").read_text(encoding="utf-8")
    found = re.search(rf"^\[{intent}\](!?)\n(.*?)(?=\n\[|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, intent
    rows = [row.splitlines() for row in found[2].strip().split("\n\n")]
    if found[1]:
        return [(f"{number}", tuple(map(_ways, row))) for number, row in enumerate(rows)]
    return [
        (f"{number}.{manner}", tuple(_in_manner(cell, form) for cell, form in zip(row, forms, strict=True)))
        for number, row in enumerate(rows)
        for manner, forms in enumerate(MANNERS)
    ]


def _in_manner(cell: str, form: str) -> list[str]:
    """The ways to say an imperative, as sentences."""
    sentences = []
    for way in _ways(cell):
        do, _, infinitive = way.partition(" ~ ")
        sentences.append(form.replace("{do}", do).replace("{inf}", infinitive))
    return sentences


@dataclass(frozen=True)
class Command:
    """An intent with its arguments.

    Attributes:
        intent: the heading of its phrases in phrases.txt.
        slots: language -> words to fill into a phrase.
        call, reply: as in `Sentence`; the first argument of `reply` is the language.
        key: the arguments; "" if there are none.
    """

    intent: str
    slots: dict[str, Slots]
    call: tuple[str, dict[str, Any]] | None
    reply: Callable[[str, Any], str]
    key: str = ""

    def sentence(self, language: str, rng: random.Random) -> Sentence:
        """One of the ways to say the command, at random."""
        name, cells = rng.choice(_rows(self.intent))
        return self._sentence(language, name, cells, rng.randrange(len(cells[LANGUAGES.index(language)])))

    def sentences(self, language: str) -> list[Sentence]:
        """All ways to say the command."""
        at = LANGUAGES.index(language)
        return [
            self._sentence(language, name, cells, way)
            for name, cells in _rows(self.intent)
            for way in range(len(cells[at]))
        ]

    def _sentence(self, language: str, name: str, cells: tuple[list[str], ...], way: int) -> Sentence:
        written = _spell(cells[LANGUAGES.index(language)][way], self.slots[language])
        others = {
            other: _spell(cells[at][0], self.slots[other]).text
            for at, other in enumerate(LANGUAGES)
            if other != language
        }
        key = f"{self.intent} {name} {self.key}"
        return Sentence(language, *written, others, self.call, functools.partial(self.reply, language), key)


def _done(en: str, es: str, de: str) -> Callable[[str, Any], str]:
    """A reply that does not depend on the tool's result."""
    return lambda language, result: dict(zip(LANGUAGES, (en, es, de), strict=True))[language]


def _by_language(en: Slots, es: Slots, de: Slots) -> dict[str, Slots]:
    return dict(zip(LANGUAGES, (en, es, de), strict=True))


NOTHING: dict[str, Slots] = _by_language({}, {}, {})


def _room_slots(room: str) -> dict[str, Slots]:
    of, inside, german = words.ROOMS[room]
    return _by_language({"room": same(room)}, {"of": same(of), "in": same(inside)}, {"in": same(german)})


def _with(slots: dict[str, Slots], name: str, values: dict[str, Word]) -> dict[str, Slots]:
    return {language: {**slots[language], name: values[language]} for language in LANGUAGES}


def _named(table: dict[str, tuple[str, str]], name: str) -> dict[str, Word]:
    return dict(zip(LANGUAGES, map(same, (name, *table[name])), strict=True))


def switching(room: str, thing: str, on: bool, word: int = 0, moving: bool = False) -> Command:
    """Switches a thing. `word` selects one of its names. `moving` says "open" and "close", for blinds."""
    names = words.THINGS[thing][word]
    slots = _with(_room_slots(room), "thing", dict(zip(LANGUAGES, map(same, names), strict=True)))
    rows = ("OPEN" if on else "CLOSE") if moving else ("ON" if on else "OFF")
    es, de = (_first_upper(name) for name in names[1:])
    de = {"Den ": "Der "}.get(de[:4], de[:4]) + de[4:]
    _, es_in, de_in = words.ROOMS[room]
    many = names[0].endswith("s")
    if thing == "blinds":
        states = ("open", "abiertas", "offen") if on else ("closed", "cerradas", "geschlossen")
    else:
        ending = "as" if es.startswith("Las") else "a" if es.startswith("La ") else "o"
        states = ("on", f"encendid{ending}", "an") if on else ("off", f"apagad{ending}", "aus")
    verbs = ("are", "están", "sind") if many else ("is", "está", "ist")
    reply = _done(
        f"The {room} {names[0]} {verbs[0]} {states[0]}.",
        f"{es} {verbs[1]} {states[1]} {es_in}.",
        f"{de} {de_in} {verbs[2]} {states[2]}.",
    )
    arguments = {"room": room, "thing": thing, "on": on}
    return Command(rows, slots, ("switch", arguments), reply, f"room={room} thing={names[0]}")


def coloring(room: str, color: str) -> Command:
    slots = _with(_room_slots(room), "color", _named(words.COLORS, color))
    es, de = words.COLORS[color]
    reply = _done(
        f"The {room} lights are {color}.",
        f"Luces {words.ROOMS[room][0]}: {es}.",
        f"Die Lichter {words.ROOMS[room][2]} sind {de}.",
    )
    return Command("COLOR", slots, ("set_color", {"room": room, "color": color}), reply, f"room={room} color={color}")


def dimming(room: str, percent: int) -> Command:
    values = {language: words.counted(language, percent, words.PERCENT) for language in LANGUAGES}
    reply = _done(
        f"The {room} lights are at {values['en'].text}.",
        f"Luces {words.ROOMS[room][0]}: {values['es'].text}.",
        f"Die Lichter {words.ROOMS[room][2]} sind auf {values['de'].text}.",
    )
    call = ("set_brightness", {"room": room, "percent": percent})
    return Command(
        "BRIGHTNESS", _with(_room_slots(room), "percent", values), call, reply, f"room={room} percent={percent}"
    )


def timing(value: int, unit: str) -> Command:
    values = {language: words.amount(language, value, unit) for language in LANGUAGES}
    reply = _done(f"Timer: {values['en'].text}.", f"Temporizador: {values['es'].text}.", f"Timer: {values['de'].text}.")
    return Command(
        "TIMER",
        _with(NOTHING, "amount", values),
        ("set_timer", {"amount": value, "unit": unit}),
        reply,
        f"{unit}={value}",
    )


def waking(hour: int, minute: int, sharp: bool = False) -> Command:
    values = {language: words.clock(language, hour, minute, sharp) for language in LANGUAGES}
    reply = _done(f"Alarm at {values['en'].text}.", f"Alarma a {values['es'].text}.", f"Wecker um {values['de'].text}.")
    time = f"{hour}:{minute:02d}"
    return Command(
        "ALARM", _with(NOTHING, "clock", values), ("set_alarm", {"time": time}), reply, f"time={time}{'!' * sharp}"
    )


def _say_time(language: str, result: dict[str, str]) -> str:
    return {"en": "It is {}.", "es": "Son las {}.", "de": "Es ist {} Uhr."}[language].format(result["time"])


def forecasting(city: str, day: str, named: bool = True) -> Command:
    """Asks for the weather. `named`: whether the sentence names the day, which it need not for today."""

    def reply(language: str, result: dict[str, Any]) -> str:
        at = LANGUAGES.index(language)
        place, date, sky = (
            (name, *table[name])[at]
            for name, table in ((city, words.CITIES), (day, words.DAYS), (result["sky"], words.SKIES))
        )
        return f"{place}, {date}: {sky}, {words.counted(language, result['degrees'], words.DEGREES).text}."

    slots = _with(_with(NOTHING, "city", _named(words.CITIES, city)), "day", _named(words.DAYS, day))
    return Command(
        "WEATHER" if named else "WEATHER_NOW",
        slots,
        ("get_weather", {"city": city, "day": day}),
        reply,
        f"city={city} day={day}",
    )


def adding(item: str) -> Command:
    es, de = words.ITEMS[item]
    reply = _done(f"Added {item}.", f"Añadido: {es}.", f"Hinzugefügt: {de}.")
    return Command(
        "ADD", _with(NOTHING, "item", _named(words.ITEMS, item)), ("add_item", {"item": item}), reply, f"item={item}"
    )


def _say_list(language: str, result: dict[str, list[str]]) -> str:
    at = LANGUAGES.index(language)
    names = [(item, *words.ITEMS[item])[at] for item in result["items"]]
    if not names:
        return ("The list is empty.", "La lista está vacía.", "Die Liste ist leer.")[at]
    return ("On the list: {}.", "En la lista: {}.", "Auf der Liste: {}.")[at].format(", ".join(names))


def playing(genre: str, room: str) -> Command:
    slots = _with(_room_slots(room), "genre", _named(words.GENRES, genre))
    es, de = words.GENRES[genre]
    reply = _done(
        f"Playing {genre} in the {room}.", f"Suena {es} {words.ROOMS[room][1]}.", f"{de} spielt {words.ROOMS[room][2]}."
    )
    return Command("PLAY", slots, ("play_music", {"genre": genre, "room": room}), reply, f"genre={genre} room={room}")


def heating(value: int) -> Command:
    values = {language: words.counted(language, value, words.DEGREES) for language in LANGUAGES}
    reply = _done(
        f"Set to {values['en'].text}.", f"Puesto a {values['es'].text}.", f"Auf {values['de'].text} gestellt."
    )
    call = ("set_thermostat", {"degrees": value})
    return Command("HEAT", _with(NOTHING, "degrees", values), call, reply, f"degrees={value}")


FIXED = [
    Command(
        "CANCEL",
        NOTHING,
        ("cancel_timer", {}),
        _done("Timer canceled.", "Temporizador cancelado.", "Timer abgebrochen."),
    ),
    Command("TIME", NOTHING, ("get_time", {}), _say_time),
    Command("READ", NOTHING, ("read_list", {}), _say_list),
    Command("LIST", NOTHING, ("read_list", {}), _say_list),
    Command("SILENCE", NOTHING, ("stop_music", {}), _done("Music stopped.", "Música parada.", "Musik aus.")),
    Command("UP", NOTHING, ("change_volume", {"direction": "up"}), _done("Louder.", "Más alto.", "Lauter.")),
    Command("DOWN", NOTHING, ("change_volume", {"direction": "down"}), _done("Quieter.", "Más bajo.", "Leiser.")),
    Command(
        "GARAGE_OPEN",
        NOTHING,
        ("garage_door", {"open": True}),
        _done("The garage door is open.", "El garaje está abierto.", "Das Garagentor ist offen."),
    ),
    Command(
        "GARAGE_CLOSE",
        NOTHING,
        ("garage_door", {"open": False}),
        _done("The garage door is closed.", "El garaje está cerrado.", "Das Garagentor ist zu."),
    ),
    Command(
        "LOCK",
        NOTHING,
        ("lock_door", {}),
        _done("The front door is locked.", "La puerta está cerrada con llave.", "Die Haustür ist abgeschlossen."),
    ),
    Command(
        "MORNING", NOTHING, ("scene", {"name": "morning"}), _done("Good morning!", "¡Buenos días!", "Guten Morgen!")
    ),
    Command("NIGHT", NOTHING, ("scene", {"name": "night"}), _done("Good night!", "¡Buenas noches!", "Gute Nacht!")),
    Command("THANKS", NOTHING, None, _done("You're welcome.", "De nada.", "Gern geschehen.")),
    Command("STOP", NOTHING, ("stop", {}), _done("Stopped.", "Parado.", "Gestoppt.")),
    # After a pause, the "please" that belongs to a request is a sentence of its own.
    Command("PLEASE", NOTHING, None, _done("Yes?", "¿Sí?", "Ja?")),
]


def _number(rng: random.Random, usual: int) -> int:
    """A number from 1 to 100. Half of the time it is at most `usual`, or a multiple of 5."""
    if rng.random() < 0.5:
        return rng.randint(1, 100)
    return rng.choice([rng.randint(1, usual), 5 * rng.randint(1, 20)])


def _switching(rng: random.Random) -> Command:
    thing = rng.choice(["light", "light", "fan", "heater", "blinds", "television"])
    moving = thing == "blinds" and rng.random() < 0.7
    return switching(
        rng.choice(list(words.ROOMS)), thing, rng.random() < 0.5, rng.randrange(len(words.THINGS[thing])), moving
    )


def _waking(rng: random.Random) -> Command:
    minute = rng.choice([0, 0, 15, 30, 45, 5 * rng.randrange(12), rng.randrange(60)])
    return waking(rng.randint(1, 12), minute, not minute and rng.random() < 0.5)


def _forecasting(rng: random.Random) -> Command:
    day = rng.choice(list(words.DAYS))
    return forecasting(rng.choice(list(words.CITIES)), day, day == "tomorrow" or rng.random() < 0.6)


_DRAWS: list[tuple[float, Callable[[random.Random], Command]]] = [
    (6, _switching),
    (3, lambda rng: coloring(rng.choice(list(words.ROOMS)), rng.choice(list(words.COLORS)))),
    (3, lambda rng: dimming(rng.choice(list(words.ROOMS)), _number(rng, 20))),
    (3, lambda rng: timing(_number(rng, 20), rng.choice(list(words.UNITS)))),
    (2, _waking),
    (3, _forecasting),
    (2, lambda rng: adding(rng.choice(list(words.ITEMS)))),
    (2, lambda rng: playing(rng.choice(list(words.GENRES)), rng.choice(list(words.ROOMS)))),
    (2, lambda rng: heating(_number(rng, 30))),
    (7, lambda rng: rng.choice(FIXED)),
]


def draw(rng: random.Random) -> Command:
    """A random command. The weights are roughly how often people would give it."""
    return rng.choices([make for _, make in _DRAWS], [weight for weight, _ in _DRAWS])[0](rng)
