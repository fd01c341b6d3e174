"""A simulated home, and the tools with which a model changes it.

The demonstration shows the home; nothing real is switched. The embedded model was trained on exactly these tools: names,
arguments and results must stay as they are.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import EdgeGemmaValueError

__all__ = ["CITIES", "COLORS", "DONE", "GENRES", "INSTRUCTIONS", "ITEMS", "ROOMS", "THINGS", "Home", "changes"]

INSTRUCTIONS = "You are the voice of a home."
"""The system instructions that go with the tools."""

ROOMS = ("kitchen", "bedroom", "living room", "bathroom", "hallway", "office", "garage", "garden")
THINGS = ("light", "fan", "heater", "blinds", "television")
COLORS = ("red", "green", "blue", "yellow", "white", "warm white")
CITIES = ("Zurich", "London", "Paris", "Tokyo", "Berlin", "Madrid", "Rome", "Oslo")
ITEMS = ("milk", "eggs", "bread", "butter", "apples", "bananas", "cheese", "coffee", "rice", "tomatoes")
GENRES = ("jazz", "rock", "classical", "pop")
_SKIES = ("sunny", "cloudy", "rainy", "windy")

DONE = "done"
"""What a tool returns when it has no other result."""


@dataclass
class Room:
    """What is switched on in a room.

    Attributes:
        on: by the name of a thing; for blinds, whether they are open.
        color, percent: of the light.
        music: the genre that plays there; None for silence.
    """

    on: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(THINGS, False))
    color: str = "white"
    percent: int = 100
    music: str | None = None


class Home:
    """The state of the home, and `tools`, the functions that a model may call.

    Every tool raises EdgeGemmaValueError "tool" for a room, a thing or a value that the home does not have.

    Attributes:
        rooms: by name.
        timers: those that run, as (amount, unit), oldest first.
        alarms: times of day.
        shopping: the shopping list.
        volume: of the music, 0 to 10.
        degrees: what the thermostat is set to.
        garage_open: whether the garage door is open.
        locked: whether the front door is locked.
    """

    def __init__(self, now: Callable[[], datetime.datetime] = datetime.datetime.now) -> None:
        """It is evening: the lights in the garden are on. Everything else is off, and the front door is not locked.

        `now` tells the time.
        """
        self._now = now
        self.rooms = {name: Room() for name in ROOMS}
        self.rooms["garden"].on["light"] = True
        self.timers: list[tuple[int, str]] = []
        self.alarms: list[str] = []
        self.shopping: list[str] = []
        self.volume, self.degrees = 5, 19
        self.garage_open = self.locked = False

    @property
    def tools(self) -> list[Callable[..., Any]]:
        """The tools, always in the same order."""
        return [
            self.switch,
            self.set_color,
            self.set_brightness,
            self.set_timer,
            self.cancel_timer,
            self.set_alarm,
            self.get_time,
            self.get_weather,
            self.add_item,
            self.read_list,
            self.play_music,
            self.stop_music,
            self.change_volume,
            self.set_thermostat,
            self.garage_door,
            self.lock_door,
            self.scene,
            self.stop,
        ]

    def state(self) -> dict[str, Any]:
        """The whole state as plain data: "rooms" by name, and a key for each other attribute."""
        return {
            "rooms": {
                name: {**room.on, "color": room.color, "percent": room.percent, "music": room.music}
                for name, room in self.rooms.items()
            },
            "timers": [list(timer) for timer in self.timers],
            "alarms": list(self.alarms),
            "shopping": list(self.shopping),
            "volume": self.volume,
            "degrees": self.degrees,
            "garage_open": self.garage_open,
            "locked": self.locked,
        }

    def switch(self, room: str, thing: str, on: bool) -> str:
        """Switch a thing"""
        self._room(room).on[_known("thing", thing, THINGS)] = on
        return DONE

    def set_color(self, room: str, color: str) -> str:
        """Color of lights"""
        place = self._room(room)
        place.color = _known("color", color, COLORS)
        place.on["light"] = True
        return DONE

    def set_brightness(self, room: str, percent: int) -> str:
        """Brightness of lights"""
        place = self._room(room)
        place.percent = _within("percent", percent, 0, 100)
        place.on["light"] = percent > 0
        return DONE

    def set_timer(self, amount: int, unit: str) -> str:
        """Start a timer"""
        self.timers.append((_within("amount", amount, 1, 1000), _known("unit", unit, ("seconds", "minutes", "hours"))))
        return DONE

    def cancel_timer(self) -> str:
        """Cancel the timer"""
        if self.timers:
            self.timers.pop()
        return DONE

    def set_alarm(self, time: str) -> str:
        """Wake at a time"""
        self.alarms.append(time)
        return DONE

    def get_time(self) -> dict[str, str]:
        """The time"""
        now = self._now()
        return {"time": f"{now.hour}:{now.minute:02d}"}

    def get_weather(self, city: str, day: str) -> dict[str, Any]:
        """The weather"""
        city, day = _known("city", city, CITIES), _known("day", day, ("today", "tomorrow"))
        date = self._now().date() + datetime.timedelta(days=day == "tomorrow")
        draw = (date.toordinal() * 7 + CITIES.index(city) * 11) % 97
        return {"degrees": 5 + draw % 25, "sky": _SKIES[draw % len(_SKIES)]}

    def add_item(self, item: str) -> str:
        """Add to the shopping list"""
        self.shopping.append(_known("item", item, ITEMS))
        return DONE

    def read_list(self) -> dict[str, list[str]]:
        """Read the shopping list"""
        return {"items": list(self.shopping)}

    def play_music(self, genre: str, room: str) -> str:
        """Play music"""
        self._room(room).music = _known("genre", genre, GENRES)
        return DONE

    def stop_music(self) -> str:
        """Stop the music"""
        for place in self.rooms.values():
            place.music = None
        return DONE

    def change_volume(self, direction: str) -> str:
        """Turn the volume up or down"""
        step = 1 if _known("direction", direction, ("up", "down")) == "up" else -1
        self.volume = min(10, max(0, self.volume + step))
        return DONE

    def set_thermostat(self, degrees: int) -> str:
        """Set the temperature"""
        self.degrees = _within("degrees", degrees, 1, 100)
        return DONE

    def garage_door(self, open: bool) -> str:
        """Open or close the garage door"""
        self.garage_open = open
        return DONE

    def lock_door(self) -> str:
        """Lock the front door"""
        self.locked = True
        return DONE

    def scene(self, name: str) -> str:
        """Say good morning or good night"""
        night = _known("name", name, ("morning", "night")) == "night"
        for place in self.rooms.values():
            place.on["blinds"] = not night
            if night:
                place.on["light"], place.music = False, None
        self.locked = self.locked or night
        return DONE

    def stop(self) -> str:
        """Stop everything"""
        self.timers.clear()
        return self.stop_music()

    def _room(self, name: str) -> Room:
        return self.rooms[_known("room", name, ROOMS)]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ between two states, as they are afterwards, by path: {"rooms.kitchen.light": True}."""
    found: dict[str, Any] = {}
    for key, now in after.items():
        was = before.get(key)
        if isinstance(now, Mapping) and isinstance(was, Mapping):
            found.update({f"{key}.{path}": value for path, value in changes(was, now).items()})
        elif was != now:
            found[key] = now
    return found


def _known(argument: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise EdgeGemmaValueError(f"{argument} is {value!r}; this home knows: {', '.join(values)}.", "tool")
    return value


def _within(argument: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise EdgeGemmaValueError(f"{argument} is {value}; it goes from {least} to {most}.", "tool")
    return value
