"""The clock: what time it is, timers, and alarms that survive a restart and ring.

Owns the list of timers and alarms, the file in which it is kept, and the thread that waits for the next one. What rings is told
to the loop (`Announcer`), which plays it until somebody stops it.

A timer ends after its time, also where the clock of the computer is set meanwhile: a Raspberry Pi has no battery, and learns
the time from the network some seconds after it has started. An alarm keeps to the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from .interface import Announcer
from .phrases import duration, phrase
from .state import read_text, write_text

__all__ = ["Timers", "ringing"]

Repeat = Literal["once", "daily", "weekdays", "weekends"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_REPEATS: dict[str, frozenset[int]] = {
    "once": frozenset(range(7)),
    "daily": frozenset(range(7)),
    "weekdays": frozenset(range(5)),
    "weekends": frozenset((5, 6)),
}
_LONGEST = 7 * 24 * 3600  # seconds of a timer
_MOST = 50  # timers and alarms
_LOOK = 5.0  # seconds after which the clock is looked at again, in case it was set
_SET = 2.0  # seconds by which a clock that was set differs
_MISSED = 60.0  # seconds after which a timer or alarm has been missed and does not ring any more
_FORMAT = "edge-gemma-timers"


@dataclass(frozen=True)
class Entry:
    """A timer or an alarm.

    Attributes:
        kind: which of them.
        due: when it rings, seconds since 1970.
        name: what it is for; "" for nothing in particular.
        seconds: of a timer, its length.
        time, repeat: of an alarm: "HH:MM", and the days.
    """

    kind: Literal["timer", "alarm"]
    due: float
    name: str = ""
    seconds: float = 0.0
    time: str = ""
    repeat: Repeat = "once"


def ringing(rate: int = 16000) -> NDArray[np.int16]:
    """One round of the sound of a timer or alarm: (n,) samples, 1.6 s."""
    at = np.arange(round(0.12 * rate)) / rate
    envelope = np.minimum(1, np.minimum(at / 0.01, (at[-1] - at) / 0.04))
    beep = (np.sin(2 * np.pi * 880 * at) + 0.4 * np.sin(2 * np.pi * 1760 * at)) * envelope / 1.4
    round_ = np.zeros(round(1.6 * rate))
    for number in range(4):
        start = round(number * 0.2 * rate)
        round_[start : start + len(beep)] = beep
    return (round_ * 16000).astype(np.int16)


class Timers:
    """Timers and alarms, and the tools that set them.

    Attributes:
        problem: why the file of an earlier run could not be used; "" if it could.
    """

    def __init__(
        self,
        path: str,
        language: str | None = None,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the timers and alarms of the last run.

        Args:
            path: the file in which they are kept.
            language: the code of the language of announcements.
            now: seconds since 1970, by the clock of the computer, which may be set.
            clock: seconds, by a clock that is never set.

        Raises:
            EdgeGemmaOSError: "file" when the file cannot be read or written.
        """
        self._path, self._language, self._now, self._clock = os.path.expanduser(path), language, now, clock
        self._changed = threading.Condition()
        self._offset = now() - clock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.problem = ""
        self._entries = self._read()

    @property
    def tools(self) -> list[Callable[..., Any]]:
        """Functions that a model may call."""
        return [self.get_time, self.set_timer, self.cancel_timer, self.set_alarm, self.cancel_alarm, self.list_timers]

    def start(self, announce: Announcer) -> None:
        """Begins to wait. What was missed since the last run is announced at once."""
        for text in self._missed():
            announce(text)
        self._thread = threading.Thread(target=self._wait, args=(announce,), name="timers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the waiting. Further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    # ---- tools -------------------------------------------------------------------------------------------------------

    def get_time(self) -> dict[str, str]:
        """Tells the time, the date and the day of the week."""
        now = self._local(self._now())
        return {"time": f"{now:%H:%M}", "date": f"{now:%Y-%m-%d}", "day": _DAYS[now.weekday()]}

    def set_timer(self, hours: float = 0, minutes: float = 0, seconds: float = 0, name: str = "") -> dict[str, str]:
        """Sets a timer, which rings when its time is over.

        Args:
            name: what it is for, such as eggs
        """
        length = 3600 * hours + 60 * minutes + seconds
        if not 1 <= length <= _LONGEST:
            raise EdgeGemmaValueError("A timer takes at least one second and at most a week.", "tool")
        entry = Entry("timer", self._now() + length, " ".join(name.split())[:60], length)
        self._add(entry)
        return self._described(entry)

    def cancel_timer(self, name: str = "") -> str:
        """Cancels a timer.

        Args:
            name: which one, if there are several; "all" for all of them
        """
        return self._cancel("timer", name)

    def set_alarm(self, time: str, repeat: Repeat = "once", name: str = "") -> dict[str, str]:
        """Sets an alarm for a time of day.

        Args:
            time: HH:MM, from 00:00 to 23:59
            repeat: on which days
            name: what it is for
        """
        entry = Entry("alarm", 0.0, " ".join(name.split())[:60], 0.0, _time_of_day(time), repeat)
        entry = dataclasses.replace(entry, due=self._next(entry, self._now()))
        self._add(entry)
        return self._described(entry)

    def cancel_alarm(self, name: str = "") -> str:
        """Cancels an alarm.

        Args:
            name: its time or what it is for, if there are several; "all" for all of them
        """
        return self._cancel("alarm", name)

    def list_timers(self) -> list[dict[str, str]]:
        """Lists the timers and alarms, and how long they take."""
        with self._changed:
            return [self._described(entry) for entry in self._entries]

    def _described(self, entry: Entry) -> dict[str, str]:
        told: dict[str, str] = {entry.kind: entry.name} if entry.name else {"kind": entry.kind}
        if entry.kind == "timer":
            return {**told, "rings_in": duration(entry.due - self._now(), "en")}
        due = self._local(entry.due)
        days = {"once": f"{_DAYS[due.weekday()]} {due:%Y-%m-%d}"}.get(entry.repeat, entry.repeat)
        return {**told, "rings_at": entry.time, "day": days}

    def _cancel(self, kind: str, name: str) -> str:
        wanted = " ".join(name.split()).casefold()
        with self._changed:
            mine = [entry for entry in self._entries if entry.kind == kind]
            if wanted in ("all", "every", "everything"):
                gone = mine
            elif wanted:
                gone = [entry for entry in mine if wanted in (entry.name.casefold(), entry.time)]
                gone = gone or [entry for entry in mine if wanted in entry.name.casefold()]
                gone = gone or [entry for entry in mine if entry.seconds and wanted == duration(entry.seconds, "en")]
            else:
                gone = mine
            if not mine:
                raise EdgeGemmaValueError(f"There is no {kind}.", "tool")
            told = ", ".join(_label(entry) for entry in gone or mine)
            if not gone:
                raise EdgeGemmaValueError(f"There is no {kind} {name}; there are: {told}.", "tool")
            if len(gone) > 1 and wanted not in ("all", "every", "everything"):
                raise EdgeGemmaValueError(f"There are several: {told}. Say which one, or all.", "tool")
            self._write([entry for entry in self._entries if entry not in gone])
        return f"cancelled: {told}"

    # ---- the list ----------------------------------------------------------------------------------------------------

    def _add(self, entry: Entry) -> None:
        with self._changed:
            if len(self._entries) >= _MOST:
                raise EdgeGemmaValueError(f"There are {_MOST} timers and alarms; cancel one first.", "tool")
            self._write([*self._entries, entry])

    def _write(self, entries: Sequence[Entry]) -> None:
        """Keeps a new list, and has the thread look at it. With the lock."""
        entries = sorted(entries, key=lambda entry: entry.due)
        data = {"format": _FORMAT, "version": 1, "entries": [dataclasses.asdict(entry) for entry in entries]}
        write_text(self._path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        self._entries = entries
        self._changed.notify()

    def _read(self) -> list[Entry]:
        text = read_text(self._path)
        if not text:
            return []
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT or data["version"] != 1:
                raise ValueError(f"it is of format {data['format']} {data['version']}")
            return sorted((_entry(item) for item in data["entries"]), key=lambda entry: entry.due)
        except (ValueError, KeyError, TypeError) as error:
            kept = f"{self._path}.damaged"
            with contextlib.suppress(OSError):
                os.replace(self._path, kept)
            self.problem = (
                f"{self._path} is damaged ({error}); it was kept as {kept}, and all timers and alarms are gone."
            )
            return []

    # ---- waiting -----------------------------------------------------------------------------------------------------

    def _missed(self) -> list[str]:
        """What is said of timers and alarms that have come and gone. They are removed, or wait for their next day."""
        texts = []
        with self._changed:
            late = [entry for entry in self._entries if self._now() - entry.due > _MISSED]
            for entry in late:
                due = self._local(entry.due)
                name = f"{entry.name}." if entry.name else ""
                texts.append(phrase(f"missed {entry.kind}", self._language, time=f"{due:%H:%M}", name=name))
            if late:
                self._write(self._without(late))
        return texts

    def _without(self, rung: Sequence[Entry]) -> list[Entry]:
        """The list after some have rung."""
        again = [
            dataclasses.replace(entry, due=self._next(entry, self._now()))
            for entry in rung
            if entry.kind == "alarm" and entry.repeat != "once"
        ]
        return [entry for entry in self._entries if entry not in rung] + again

    def _wait(self, announce: Announcer) -> None:
        sound = ringing()
        while True:
            with self._changed:
                if self._closed:
                    return
                self._notice_a_set_clock()
                due = [entry for entry in self._entries if entry.due <= self._now()]
                if due:
                    with contextlib.suppress(OSError):  # a full disk must not keep a timer from ringing
                        self._write(self._without(due))
                    self._entries = [entry for entry in self._entries if entry not in due]
                else:
                    first = self._entries[0].due - self._now() if self._entries else _LOOK
                    self._changed.wait(min(max(first, 0.001), _LOOK))
            for entry in due:
                announce(self._announcement(entry), sound)

    def _notice_a_set_clock(self) -> None:
        """Timers go on as before where the clock was set; alarms are computed anew."""
        offset = self._now() - self._clock()
        by, self._offset = offset - self._offset, offset
        if abs(by) < _SET or not self._entries:
            return
        moved = [
            dataclasses.replace(entry, due=entry.due + by if entry.kind == "timer" else self._next(entry, self._now()))
            for entry in self._entries
        ]
        with contextlib.suppress(OSError):
            self._write(moved)

    def _announcement(self, entry: Entry) -> str:
        if entry.kind == "alarm":
            name = f"{entry.name}." if entry.name else ""
            return phrase("alarm", self._language, time=entry.time, name=name)
        if entry.name:
            return phrase("timer", self._language, name=entry.name)
        return phrase("timer of", self._language, length=duration(entry.seconds, self._language))

    def _next(self, entry: Entry, after: float) -> float:
        """When an alarm rings for the first time after a moment."""
        hour, minute = map(int, entry.time.split(":"))
        start = self._local(after)
        for days in range(9):
            day = start.date() + datetime.timedelta(days)
            if day.weekday() in _REPEATS[entry.repeat]:
                due = datetime.datetime.combine(day, datetime.time(hour, minute)).timestamp()
                if due > after:
                    return due
        raise AssertionError("every week has such a day")

    @staticmethod
    def _local(moment: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(moment)


def _label(entry: Entry) -> str:
    return entry.name or entry.time or duration(entry.seconds, "en")


def _time_of_day(text: str) -> str:
    """ "HH:MM" of what a model writes: "7:30", "07:30:00", "7", "7:30 pm"."""
    words = text.strip().lower().replace(".", ":").replace("h", ":")
    half = next((mark for mark in ("am", "pm", "a:m:", "p:m:") if words.endswith(mark)), "")
    parts = [part for part in words.removesuffix(half).strip().strip(":").split(":") if part.strip()]
    try:
        hour, minute = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
        if half:
            if not 1 <= hour <= 12:
                raise ValueError
            hour = hour % 12 + 12 * (half[0] == "p")
        return f"{datetime.time(hour, minute):%H:%M}"
    except (ValueError, IndexError) as error:
        raise EdgeGemmaValueError(f"The time is {text!r}; write it as HH:MM, from 00:00 to 23:59.", "tool") from error


def _entry(item: Any) -> Entry:
    """An entry of the file. Raises ValueError, KeyError or TypeError for a damaged one."""
    entry = Entry(**item)
    if entry.kind not in ("timer", "alarm") or entry.repeat not in _REPEATS:
        raise ValueError(f"an entry of kind {entry.kind}")
    if not (isinstance(entry.due, (int, float)) and isinstance(entry.seconds, (int, float)) and np.isfinite(entry.due)):
        raise TypeError("a time that is no number")
    if not (isinstance(entry.name, str) and isinstance(entry.time, str)):
        raise TypeError("a name that is no text")
    if entry.kind == "alarm":
        _time_of_day(entry.time)
    return entry
