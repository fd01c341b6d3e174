"""The simulated home: its tools are what a model was trained on, so they must stay as they are."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from edge_gemma.chat.tools import Toolbox
from edge_gemma.demo.home import CITIES, ROOMS, THINGS, Home, changes
from edge_gemma.errors import EdgeGemmaValueError

NOON = datetime.datetime(2026, 3, 1, 12, 5)

DECLARED = """
switch: Switch a thing (room string, thing string, on boolean)
set_color: Color of lights (room string, color string)
set_brightness: Brightness of lights (room string, percent integer)
set_timer: Start a timer (amount integer, unit string)
cancel_timer: Cancel the timer ()
set_alarm: Wake at a time (time string)
get_time: The time ()
get_weather: The weather (city string, day string)
add_item: Add to the shopping list (item string)
read_list: Read the shopping list ()
play_music: Play music (genre string, room string)
stop_music: Stop the music ()
change_volume: Turn the volume up or down (direction string)
set_thermostat: Set the temperature (degrees integer)
garage_door: Open or close the garage door (open boolean)
lock_door: Lock the front door ()
scene: Say good morning or good night (name string)
stop: Stop everything ()
"""


@pytest.fixture
def home() -> Home:
    return Home(lambda: NOON)


def test_declarations_are_those_of_the_training(home: Home) -> None:
    lines = []
    for tool in Toolbox(home.tools).schemas:
        function = tool["function"]
        arguments = function["parameters"]["properties"]
        assert function["parameters"].get("required", []) == list(arguments)
        typed = ", ".join(f"{name} {schema['type']}" for name, schema in arguments.items())
        lines.append(f"{function['name']}: {function['description']} ({typed})")
    assert lines == DECLARED.split("\n")[1:-1]


@pytest.mark.parametrize(
    "name, arguments, different",
    [
        ("switch", {"room": "kitchen", "thing": "fan", "on": True}, {"rooms.kitchen.fan": True}),
        ("switch", {"room": "kitchen", "thing": "fan", "on": False}, {}),
        ("set_color", {"room": "hallway", "color": "red"}, {"rooms.hallway.light": True, "rooms.hallway.color": "red"}),
        ("set_color", {"room": "garden", "color": "red"}, {"rooms.garden.color": "red"}),  # it is on from the beginning
        ("set_brightness", {"room": "office", "percent": 40}, {"rooms.office.light": True, "rooms.office.percent": 40}),
        ("set_brightness", {"room": "office", "percent": 0}, {"rooms.office.percent": 0}),
        ("set_timer", {"amount": 5, "unit": "minutes"}, {"timers": [[5, "minutes"]]}),
        ("cancel_timer", {}, {}),
        ("set_alarm", {"time": "7:30"}, {"alarms": ["7:30"]}),
        ("add_item", {"item": "milk"}, {"shopping": ["milk"]}),
        ("play_music", {"genre": "jazz", "room": "bedroom"}, {"rooms.bedroom.music": "jazz"}),
        ("change_volume", {"direction": "up"}, {"volume": 6}),
        ("set_thermostat", {"degrees": 21}, {"degrees": 21}),
        ("garage_door", {"open": True}, {"garage_open": True}),
        ("lock_door", {}, {"locked": True}),
        ("scene", {"name": "morning"}, {f"rooms.{room}.blinds": True for room in ROOMS}),
        ("scene", {"name": "night"}, {"locked": True, "rooms.garden.light": False}),
    ],
)
def test_what_tools_change(home: Home, name: str, arguments: dict[str, Any], different: dict[str, Any]) -> None:
    before = home.state()
    assert Toolbox(home.tools).call(name, arguments) == "done"
    assert changes(before, home.state()) == different


def test_what_tools_tell(home: Home) -> None:
    assert home.get_time() == {"time": "12:05"}
    assert home.read_list() == {"items": []}
    home.add_item("rice")
    home.add_item("eggs")
    assert home.read_list() == {"items": ["rice", "eggs"]}
    reports = [home.get_weather(city, day) for city in CITIES for day in ("today", "tomorrow")]
    assert reports == [Home(lambda: NOON).get_weather(city, day) for city in CITIES for day in ("today", "tomorrow")]
    assert all(5 <= report["degrees"] < 30 and report["sky"] for report in reports)
    assert len({report["sky"] for report in reports}) > 1


def test_endings(home: Home) -> None:
    for amount in (1, 2):
        home.set_timer(amount, "hours")
    home.cancel_timer()
    assert home.timers == [(1, "hours")]
    home.play_music("pop", "office")
    home.stop_music()
    assert home.rooms["office"].music is None
    home.play_music("pop", "office")
    home.stop()
    assert home.rooms["office"].music is None and home.timers == []
    for _ in range(20):
        home.change_volume("down")
    assert home.volume == 0
    home.switch("kitchen", "light", True)
    home.scene("morning")
    home.scene("night")
    assert not any(room.on[thing] for room in home.rooms.values() for thing in THINGS) and home.locked


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("switch", {"room": "cellar", "thing": "light", "on": True}, "cellar.*kitchen, bedroom"),
        ("switch", {"room": "kitchen", "thing": "oven", "on": True}, "oven.*light, fan"),
        ("set_color", {"room": "kitchen", "color": "plaid"}, "plaid"),
        ("set_brightness", {"room": "kitchen", "percent": 101}, "101.*0 to 100"),
        ("set_timer", {"amount": 0, "unit": "minutes"}, "0.*1 to 1000"),
        ("set_timer", {"amount": 1, "unit": "weeks"}, "weeks"),
        ("get_weather", {"city": "Atlantis", "day": "today"}, "Atlantis"),
        ("get_weather", {"city": "Oslo", "day": "someday"}, "someday"),
        ("add_item", {"item": "gold"}, "gold"),
        ("play_music", {"genre": "noise", "room": "kitchen"}, "noise"),
        ("change_volume", {"direction": "left"}, "left"),
        ("set_thermostat", {"degrees": 1000}, "1000"),
        ("scene", {"name": "noon"}, "noon"),
    ],
)
def test_what_the_home_does_not_have(home: Home, name: str, arguments: dict[str, Any], message: str) -> None:
    before = home.state()
    with pytest.raises(EdgeGemmaValueError, match=message) as failure:
        getattr(home, name)(**arguments)
    assert failure.value.code == "tool" and home.state() == before
