"""Timers and alarms: they are set, kept, and ring."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma.assistant.phrases import duration, failure, phrase
from edge_gemma.assistant.timers import Timers, ringing
from edge_gemma.chat.tools import Toolbox
from edge_gemma.errors import EdgeGemmaError

MONDAY = datetime.datetime(2026, 11, 30, 8, 0).timestamp()


class Clocks:
    """The clock of the computer and one that is never set; `pass_time` moves both."""

    def __init__(self, now: float = MONDAY) -> None:
        self.now, self.steady = now, 100.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds


class Announced:
    """Takes what is announced."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bool]] = []
        self.news = threading.Semaphore(0)

    def __call__(self, text: str, sound: Any = None) -> None:
        self.said.append((text, sound is not None))
        self.news.release()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "timers.json"


@pytest.fixture
def opened(path: Path) -> Iterator[Any]:
    timers: list[Timers] = []

    def start(clocks: Clocks | None = None, language: str | None = "en") -> tuple[Timers, Announced]:
        options = {"now": lambda: clocks.now, "clock": lambda: clocks.steady} if clocks else {}
        timers.append(Timers(str(path), language, **options))
        announced = Announced()
        timers[-1].start(announced)
        return timers[-1], announced

    yield start
    for item in timers:
        item.close()


def look(timers: Timers) -> None:
    """Has the waiting thread look at the clock."""
    with timers._changed:
        timers._changed.notify()


def test_a_timer_rings(opened: Any) -> None:
    timers, announced = opened()
    began = time.monotonic()
    assert timers.set_timer(seconds=1.2, name="eggs") == {"timer": "eggs", "rings_in": "1 second"}
    assert announced.news.acquire(timeout=20) and time.monotonic() - began >= 1.2
    assert announced.said == [("The timer eggs is over.", True)] and timers.list_timers() == []


def test_timers_survive_a_restart_and_ring_in_their_order(path: Path, opened: Any) -> None:
    clocks = Clocks()
    first, _ = opened(clocks)
    first.set_timer(minutes=10, name="pasta")
    first.set_timer(minutes=5)
    first.set_alarm("09:00")
    first.close()
    clocks.pass_time(240)
    again, announced = opened(clocks)
    assert [entry.get("rings_in") for entry in again.list_timers()] == ["1 minute", "6 minutes", None]
    for seconds in (70, 300, 3600):
        clocks.pass_time(seconds)
        look(again)
        assert announced.news.acquire(timeout=20)
    assert announced.said == [
        ("The timer for 5 minutes is over.", True),
        ("The timer pasta is over.", True),
        ("It is 09:00.", True),
    ]
    assert json.loads(path.read_text())["entries"] == []


def test_what_was_missed_is_told_at_the_start(opened: Any) -> None:
    clocks = Clocks()
    first, _ = opened(clocks)
    first.set_timer(minutes=5, name="pasta")
    first.set_alarm("8:30", name="doctor")
    first.set_alarm("08:45", repeat="daily")
    first.close()
    clocks.pass_time(7200)
    again, announced = opened(clocks)
    assert announced.said == [
        ("While I was off, a timer ended at 08:05. pasta.", False),
        ("While I was off, I missed the alarm for 08:30. doctor.", False),
        ("While I was off, I missed the alarm for 08:45.", False),
    ]
    assert again.list_timers() == [{"kind": "alarm", "rings_at": "08:45", "day": "daily"}]
    third, announced = opened(clocks)
    assert announced.said == [] and len(third.list_timers()) == 1


def test_what_ends_while_it_starts_rings(opened: Any) -> None:
    clocks = Clocks()
    first, _ = opened(clocks)
    first.set_timer(minutes=5)
    first.close()
    clocks.pass_time(320)
    _, announced = opened(clocks)
    assert announced.news.acquire(timeout=20) and announced.said == [("The timer for 5 minutes is over.", True)]


@pytest.mark.parametrize(
    "now, alarm, repeat, expected",
    [
        ("2026-11-30 08:00", "09:00", "once", "2026-11-30 09:00"),
        ("2026-11-30 08:00", "07:00", "once", "2026-12-01 07:00"),
        ("2026-11-30 08:00", "08:00", "once", "2026-12-01 08:00"),
        ("2026-12-04 08:00", "07:00", "weekdays", "2026-12-07 07:00"),  # a Friday
        ("2026-12-04 08:00", "07:00", "weekends", "2026-12-05 07:00"),
        ("2026-12-06 08:00", "07:00", "weekends", "2026-12-12 07:00"),  # a Sunday
        ("2026-12-06 08:00", "23:59", "daily", "2026-12-06 23:59"),
    ],
)
def test_alarms_ring_on_their_days(path: Path, now: str, alarm: str, repeat: Any, expected: str) -> None:
    moment = datetime.datetime.fromisoformat(now).timestamp()
    timers = Timers(str(path), now=lambda: moment, clock=lambda: 0.0)
    timers.set_alarm(alarm, repeat)
    due = json.loads(path.read_text())["entries"][0]["due"]
    assert f"{datetime.datetime.fromtimestamp(due):%Y-%m-%d %H:%M}" == expected


def test_an_alarm_of_every_day_rings_again(opened: Any) -> None:
    clocks = Clocks()
    timers, announced = opened(clocks)
    timers.set_alarm("09:00", "weekdays", "work")
    for _ in range(2):
        clocks.pass_time(24 * 3600)
        look(timers)
        assert announced.news.acquire(timeout=20)
    assert announced.said == [("It is 09:00. work.", True)] * 2 and len(timers.list_timers()) == 1


@pytest.mark.parametrize("by", [-3600.0, 3600.0, 40 * 365 * 86400.0])
def test_a_timer_does_not_care_when_the_clock_is_set(opened: Any, by: float) -> None:
    """As where a computer without a battery learns the time from the network."""
    clocks = Clocks()
    timers, announced = opened(clocks)
    timers.set_timer(minutes=10)
    timers.set_alarm("09:00")
    clocks.now += by
    look(timers)
    clocks.pass_time(590)
    look(timers)
    assert not announced.news.acquire(timeout=0.3)
    clocks.pass_time(20)
    look(timers)
    assert announced.news.acquire(timeout=20)
    assert [text for text, _ in announced.said if "timer" in text] == ["The timer for 10 minutes is over."]
    due = timers.list_timers()
    assert due and due[0]["rings_at"] == "09:00"


def test_what_is_cancelled_does_not_ring(opened: Any) -> None:
    timers, announced = opened(Clocks())
    timers.set_timer(minutes=5, name="Eggs")
    timers.set_timer(minutes=10, name="pasta al forno")
    timers.set_timer(hours=1)
    timers.set_alarm("07:15")
    assert timers.cancel_alarm() == "cancelled: 07:15"
    box = Toolbox(timers.tools)
    assert box.call("cancel_timer", {}) == {
        "error": "There are several: Eggs, pasta al forno, 1 hour. Say which one, or all."
    }
    assert box.call("cancel_timer", {"name": "rice"}) == {
        "error": "There is no timer rice; there are: Eggs, pasta al forno, 1 hour."
    }
    assert box.call("cancel_alarm", {}) == {"error": "There is no alarm."}
    assert timers.cancel_timer("pasta") == "cancelled: pasta al forno"
    assert timers.cancel_timer("1 hour") == "cancelled: 1 hour"
    timers.set_timer(minutes=3)
    assert timers.cancel_timer("all") == "cancelled: 3 minutes, Eggs"
    assert timers.list_timers() == [] and announced.said == []


@pytest.mark.parametrize(
    "text, time", [("7:30", "07:30"), ("07:30:00", "07:30"), ("7", "07:00"), ("7:30 pm", "19:30"), ("12 am", "00:00"),
                   ("12:05 p.m.", "12:05"), ("19h30", "19:30"), ("7.45", "07:45")],
)  # fmt: skip
def test_times_are_read_as_models_write_them(path: Path, text: str, time: str) -> None:
    assert Timers(str(path)).set_alarm(text)["rings_at"] == time


@pytest.mark.parametrize(
    "call, message",
    [
        (("set_alarm", {"time": "25:00"}), "write it as HH:MM"),
        (("set_alarm", {"time": "soon"}), "write it as HH:MM"),
        (("set_alarm", {"time": "13 pm"}), "write it as HH:MM"),
        (("set_alarm", {"time": "7:00", "repeat": "yearly"}), "repeat"),
        (("set_timer", {}), "at least one second"),
        (("set_timer", {"hours": 200}), "at most a week"),
        (("set_timer", {"minutes": -5}), "at least one second"),
    ],
)
def test_unusable_times(path: Path, call: tuple[str, dict[str, Any]], message: str) -> None:
    assert message in Toolbox(Timers(str(path)).tools).call(*call)["error"]


def test_there_is_an_end_to_timers(path: Path) -> None:
    timers = Timers(str(path))
    for _ in range(50):
        timers.set_timer(minutes=5)
    with pytest.raises(EdgeGemmaError, match="50 timers and alarms"):
        timers.set_timer(minutes=5)


def test_the_clock(path: Path) -> None:
    timers = Timers(str(path), now=lambda: MONDAY + 65 * 60)
    assert timers.get_time() == {"time": "09:05", "date": "2026-11-30", "day": "Monday"}


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"format": "edge-gemma-timers", "version": 9, "entries": []}',
        '{"format": "edge-gemma-timers", "version": 1, "entries": [{"kind": "bomb", "due": 1}]}',
        '{"format": "edge-gemma-timers", "version": 1, "entries": [{"kind": "alarm", "due": 1, "time": "99:00"}]}',
        '{"format": "edge-gemma-timers", "version": 1, "entries": [{"kind": "timer", "due": "x"}]}',
    ],
)
def test_a_damaged_file_is_kept_aside(path: Path, damage: str) -> None:
    path.parent.mkdir()
    path.write_text(damage)
    timers = Timers(str(path))
    assert "timers.json is damaged" in timers.problem and timers.list_timers() == []
    assert Path(f"{path}.damaged").read_text() == damage
    timers.set_timer(minutes=1)
    assert Timers(str(path)).problem == ""


def test_the_sound_of_a_timer() -> None:
    sound = ringing()
    assert sound.dtype == np.int16 and 1.5 < len(sound) / 16000 < 1.7 and np.abs(sound).max() > 8000


def test_announcements_speak_the_language(opened: Any) -> None:
    timers, announced = opened(None, "de-AT")
    timers.set_timer(seconds=1)
    assert announced.news.acquire(timeout=20)
    assert announced.said == [("Der Timer für 1 Sekunde ist abgelaufen.", True)]
    assert phrase("left", "eo") == "All right, I have done nothing."
    assert [duration(seconds, "en") for seconds in (1, 90, 5400, 7261)] == [
        "1 second",
        "1 minute 30 seconds",
        "1 hour 30 minutes",
        "2 hours 1 minute 1 second",
    ]


@pytest.mark.parametrize(
    "result, said",
    [
        ({"error": "ValueError: no room cellar"}, "That did not work: no room cellar."),
        ({"error": "house does not answer."}, "That did not work: house does not answer."),
        ({"error": "KeyError"}, "That did not work."),
        ({"error": "OSError: [Errno 2] No such file: '/etc/x/y'"}, "That did not work."),
        ({"error": "a\nb"}, "That did not work."),
        ({"error": "x" * 500}, "That did not work."),
        ({"error": False, "data": 1}, None),
        ("done", None),
        ([1], None),
    ],
)  # fmt: skip
def test_failures_are_said_for_ears(result: Any, said: str | None) -> None:
    assert failure(result, "en") == said
