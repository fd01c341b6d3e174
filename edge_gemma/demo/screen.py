"""How the demonstration is shown: on a terminal that is redrawn, line by line, or as JSON for programs.

Each of the three classes has `show`, which is called with every event of `Demo`, and `close`, which is called at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from ..engine.memory import format_bytes
from ..speech.languages import language_name
from ..speech.prompts import one_line
from ..vision.images import load_image
from .demo import DemoEvent, DemoExchange
from .home import DONE, ROOMS, THINGS, Home
from .pictures import Look, blocks

HOME_COLUMNS = 77  # of the home when things that are off are shown too
WIDE = HOME_COLUMNS + 50  # columns from which the home is shown beside the words
_KEPT = 500  # exchanges that are printed at the end, at most


def call_text(call: Any) -> str:
    """A call in the notation of programs."""
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return one_line(f"{call.name}({arguments})")


def result_text(event: DemoEvent) -> str:
    """What a call has changed, or its result, or why it was refused."""
    if isinstance(event.result, dict) and "error" in event.result:
        return one_line(f"refused: {event.result['error']}")
    if event.changes:
        return one_line(changes_text(event.changes))
    if isinstance(event.result, dict):
        return one_line(", ".join(f"{name} {_in_words(value)}" for name, value in event.result.items()))
    return "nothing changes" if event.result == DONE else one_line(_in_words(event.result))


def changes_text(changes: dict[str, Any]) -> str:
    """The changes of `home.changes` in words: "living room: light on, light blue"."""
    places: dict[str, list[str]] = {}
    for path, now in changes.items():
        *place, what = path.split(".")
        if isinstance(now, bool):
            name, words = _SWITCHES.get(what, (what, ("off", "on")))
            text = f"{name} {words[now]}"
        else:
            name, unit = _VALUES.get(what, (what, ""))
            text = f"{name} {_in_words(now)}{unit}"
        places.setdefault(place[-1] if place else "", []).append(text)
    return "; ".join((f"{place}: " if place else "") + ", ".join(texts) for place, texts in places.items())


_SWITCHES = {
    "blinds": ("blinds", ("down", "up")),
    "garage_open": ("garage door", ("closed", "open")),
    "locked": ("front door", ("unlocked", "locked")),
}
_VALUES = {"color": ("light", ""), "percent": ("light", "%"), "degrees": ("thermostat", "°")}


def _in_words(value: Any) -> str:
    """Plain data in words, such as "5 minutes, 1 hours" for a list of pairs."""
    if isinstance(value, (list, tuple)):
        parts = (" ".join(map(str, item)) if isinstance(item, (list, tuple)) else str(item) for item in value)
        return ", ".join(parts) or "none"
    return "none" if value is None else str(value)


def timing_text(exchange: DemoExchange) -> str:
    """The times and the memory of an exchange."""
    timing = exchange.timing
    if timing is None:
        return ""
    parts = []
    if timing.first_token is not None:
        parts.append(f"first token {timing.first_token:.2f} s, act {timing.acted:.2f} s after speech")
    if timing.resident:
        parts.append(format_bytes(timing.resident))
    return " · ".join(parts)


def verdict_text(exchange: DemoExchange) -> str:
    """What is wrong in the answers to a bundled utterance; "" when everything is right."""
    wrong = [name for name, fine in exchange.verdict().items() if not fine]
    said = exchange.utterance.text if exchange.utterance and "text" in wrong else ""
    return (f"wrong: {', '.join(wrong)}" + (f"; it was: {said}" if said else "")) if wrong else ""


def look_lines(look: Look) -> list[str]:
    """What a model says about a picture, and what of it is wrong."""
    picture = look.picture
    places = "; ".join(f"{box.left:.0f}, {box.top:.0f} to {box.right:.0f}, {box.bottom:.0f}" for box in look.boxes)
    wrong = [name for name, fine in look.verdict().items() if not fine]
    return [
        f"[picture {picture.path.name}]",
        f"  shows: {one_line(look.description) or '(no words)'}",
        f"  asked: {picture.question} {one_line(look.answer) or '(no words)'}",
        f"  found: {picture.label} at {places}" if places else f"  found: no {picture.label}",
        f"  described {look.seconds:.2f} s after it was shown",
        *([f"  wrong: {', '.join(wrong)}"] if wrong else []),
    ]


class JSONLines:
    """One JSON object a line."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def show(self, event: DemoEvent) -> None:
        """Prints the event, except for "sound"."""
        if event.kind == "sound":
            return
        values: dict[str, Any] = {"event": event.kind, "time": round(event.time, 3)}
        exchange = event.exchange
        if event.kind == "start":
            utterance = exchange and exchange.utterance
            values |= {"number": event.number, "language": utterance.language if utterance else None}
        elif event.kind in ("partial", "transcript", "translation", "reply"):
            values["text"] = event.text
            values |= {"agreed": event.agreed} if event.kind == "partial" else {}
            values |= {"language": exchange.target} if exchange and event.kind == "translation" else {}
            values |= {"final": event.final} if event.kind == "reply" else {}
        elif event.call:
            values |= {"name": event.call.name, "arguments": event.call.arguments}
            values |= {"result": event.result, "changes": event.changes} if event.kind == "result" else {}
        elif event.kind == "done" and exchange:
            values["timing"] = dataclasses.asdict(exchange.timing) if exchange.timing else None
            values |= {"right": exchange.verdict(), "problem": exchange.problem or None}
        elif event.kind == "overrun":
            values["lost_s"] = round(event.lost, 3)
        self._print(values)

    def look(self, look: Look) -> None:
        """Prints what is said about a picture."""
        picture, boxes = look.picture, [dataclasses.asdict(box) for box in look.boxes]
        values: dict[str, Any] = {
            "file": picture.path.name,
            "description": look.description,
            "question": picture.question,
        }
        values |= {"answer": look.answer, "label": picture.label, "boxes": boxes, "seconds": round(look.seconds, 3)}
        self._print({"event": "picture", **values, "right": look.verdict()})

    def close(self, summary: dict[str, Any]) -> None:
        """Prints the summary."""
        self._print({"event": "summary", **summary, "home": self._home.state()})

    @staticmethod
    def _print(values: dict[str, Any]) -> None:
        print(json.dumps(values, ensure_ascii=False), flush=True)


class Lines:
    """A line of text for each event, for pipes and for terminals without `rich`.

    The lines of an exchange come in the order words, calls, reply, translation, in whatever order that became known.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._waiting: dict[DemoExchange, list[str]] = {}  # lines of exchanges without a transcript
        self._partial = ""

    def show(self, event: DemoEvent) -> None:
        """Prints a line, unless the event is not worth one."""
        exchange = event.exchange
        if event.kind == "overrun":
            self._line(f"edge-gemma: warning: {_lost_text(event.lost)}")
        if exchange is None:
            return
        if event.kind == "start":
            self._line(f"[{_heading(event, self._total)}]")
            self._waiting[exchange], self._partial = [], ""
        elif event.kind == "partial":
            if event.agreed != self._partial and not exchange.end:  # after the end, the transcript follows soon
                self._line(f"  ... {event.agreed}")
                self._partial = event.agreed
        elif event.kind == "transcript":
            self._line(f"  heard: {event.text or '(no words)'}")
            for line in self._waiting.pop(exchange, ()):
                self._line(line)
        elif event.kind == "call":
            self._follow(exchange, f"  call:  {call_text(event.call)}")
        elif event.kind == "result":
            self._follow(exchange, f"  home:  {result_text(event)}")
        elif event.kind == "reply" and event.final:
            self._follow(exchange, f"  reply: {event.text or '(none)'}")
        elif event.kind == "translation":
            self._follow(exchange, f"  in {exchange.target}: {event.text}")
        elif event.kind == "done":
            for note in (exchange.problem, verdict_text(exchange), timing_text(exchange)):
                if note:
                    self._line(f"  {one_line(note)}")

    def _follow(self, exchange: DemoExchange, line: str) -> None:
        """Prints a line when the transcript of the exchange has been printed."""
        waiting = self._waiting.get(exchange)
        if waiting is None:
            self._line(line)
        else:
            waiting.append(line)

    def look(self, look: Look) -> None:
        """Prints what is said about a picture."""
        for line in look_lines(look):
            self._line(line)

    def close(self, summary: dict[str, Any]) -> None:
        """There is nothing to do."""

    @staticmethod
    def _line(text: str) -> None:
        print(text, flush=True)


def _lost_text(seconds: float) -> str:
    return f"{seconds:.2f} s of sound were lost: the machine is too busy."


def _heading(event: DemoEvent, total: int | None) -> str:
    utterance = event.exchange.utterance if event.exchange else None
    if utterance is None or event.number is None:
        return "listening"
    return f"{event.number + 1} of {total}, {language_name(utterance.language)}"


# ---- the terminal ----------------------------------------------------------------------------------------------------

_LIGHTS = {
    "red": "bright_red",
    "green": "bright_green",
    "blue": "bright_blue",
    "yellow": "bright_yellow",
    "white": "bright_white",
    "warm white": "#ffd8a8",
}
_NAMES = {"television": "TV"}
_FANCY = {
    "on": "●",
    "off": "○",
    "music": "♪",
    "to": "→",
    "call": "λ",
    "reply": "◆",
    "right": "✓",
    "wrong": "✗",
    "talk": "▌",
    "levels": " ▁▂▃▄▅▆▇█",
}
_ASCII = {
    "on": "*",
    "off": "-",
    "music": "~",
    "to": ">",
    "call": "$",
    "reply": "=",
    "right": "ok",
    "wrong": "no",
    "talk": "|",
    "levels": " ..::--##",
}


class LiveScreen:
    """The current exchange and the home on the alternate screen of a terminal, below the exchanges that are over.

    `close` returns to the normal screen and prints the exchanges and the home there. So neither a key that is pressed
    nor a new size of the window leaves parts of frames behind. Needs `rich`.
    """

    def __init__(self, home: Home, total: int | None, title: str, console: Any = None) -> None:
        """Raises ImportError without `rich`."""
        from rich.console import Console
        from rich.live import Live

        self._home, self._total, self._title = home, total, title
        self._console = console or Console(highlight=False)
        self._signs = _FANCY if self._console.encoding.lower().startswith("utf") else _ASCII
        self._levels: deque[float] = deque(maxlen=24)
        self._over: deque[Any] = deque(maxlen=_KEPT)  # of rich: the exchanges that are over
        self._changed: set[str] = set()
        self._looks: list[Look] = []
        self._lost = 0.0  # seconds of sound
        self._clear()
        self._warnings = io.StringIO()  # they would disturb the frames, so they are shown at the end
        self._redirection = contextlib.redirect_stderr(self._warnings)
        self._redirection.__enter__()
        # Sizes are watched in a thread of its own: while nobody speaks, nothing else draws.
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        self._size = self._console.size
        self._draw()
        self._watcher = threading.Thread(target=self._watch_size, daemon=True)
        self._watcher.start()

    def _clear(self) -> None:
        self._exchange: DemoExchange | None = None
        self._heading, self._speaking = "", False
        self._text = self._reply = ""
        self._calls: list[tuple[str, str]] = []

    def _watch_size(self) -> None:
        while not self._closed.wait(0.2):
            with self._lock:
                if self._console.size != self._size and not self._closed.is_set():
                    self._draw()

    def show(self, event: DemoEvent) -> None:
        """Shows the event."""
        with self._lock:
            self._take(event)
            self._draw()

    def _take(self, event: DemoEvent) -> None:
        """Notes what the event changes on the screen."""
        if event.kind == "overrun":
            self._lost += event.lost
            return
        if event.kind == "start":
            self._put_aside()
            self._exchange, self._heading, self._speaking = event.exchange, _heading(event, self._total), True
            self._changed = set()
        if event.exchange is not self._exchange:
            if event.kind == "result":  # of the exchange before: somebody spoke while it was answered
                self._changed = set(event.changes)
            return
        if event.kind == "sound":
            self._levels.append(event.level)
        elif event.kind == "partial":
            self._text = event.agreed  # the rest is a guess that may change
        elif event.kind == "transcript":
            self._text = event.text
        elif event.kind == "call":
            self._calls.append((call_text(event.call), ""))
        elif event.kind == "result":
            self._calls[-1] = (self._calls[-1][0], result_text(event))
            self._changed = set(event.changes)
        elif event.kind == "reply":
            self._reply = event.text
        if event.kind in ("transcript", "call", "reply", "done"):
            self._speaking = False

    def look(self, look: Look) -> None:
        """Keeps what is said about a picture until `close`: pictures need the normal screen."""
        self._looks.append(look)

    def _print_look(self, look: Look) -> None:
        if self._console.color_system == "truecolor" and self._signs is _FANCY:
            for line in blocks(load_image(look.picture.path), look.boxes, min(48, self._console.width - 2)):
                self._console.file.write(f"  {line}\n")
        self._console.print("\n".join(look_lines(look)), markup=False)

    def close(self, summary: dict[str, Any]) -> None:
        """Leaves the exchanges, the home as it is now, and the pictures on the normal screen."""
        from rich.control import Control

        self._closed.set()
        self._watcher.join()
        self._put_aside()
        self._changed = set()
        # Terminals without an alternate screen would keep the last frame.
        self._console.control(Control.clear(), Control.home())
        self._live.stop()
        self._redirection.__exit__(None, None, None)
        self._console.print(*self._over, sep="\n", end="\n" * bool(self._over))
        if self._over:
            self._console.print(self._home_panel(min(self._console.width, HOME_COLUMNS + 3), len(ROOMS) + 8))
        for look in self._looks:
            self._print_look(look)
        if self._lost:
            self._console.print(_lost_text(self._lost), style="yellow")
        sys.stderr.write(self._warnings.getvalue())

    def _draw(self) -> None:
        from rich.console import Group
        from rich.control import Control
        from rich.table import Table

        width, height = self._size = self._console.size
        if width < WIDE:
            exchange = self._exchange_panel()
            used = self._rows(exchange, width)
            home = self._home_panel(width, height - used)
            used += self._rows(home, width)
            frame = [exchange, home]
        else:
            left = width - HOME_COLUMNS
            used = max(
                self._rows(self._exchange_panel(), left),
                self._rows(self._home_panel(HOME_COLUMNS, height), HOME_COLUMNS),
            )
            both = Table.grid(expand=True)
            both.add_column(ratio=1)
            both.add_column(width=HOME_COLUMNS)
            both.add_row(self._exchange_panel(used), self._home_panel(HOME_COLUMNS, height, used))
            frame = [both]
        self._live.update(Group(*self._last_over(width, height - used), *frame), refresh=True)
        self._console.control(
            Control.home()
        )  # a key that the terminal echoes in the last column would scroll the frame

    def _rows(self, shown: Any, width: int) -> int:
        """How many rows something takes."""
        return len(self._console.render_lines(shown, self._console.options.update(width=width, height=None), pad=False))

    def _last_over(self, width: int, rows: int) -> list[Any]:
        """The last exchanges that are over, as many as fit into the rows."""
        fitting: list[Any] = []
        for exchange in reversed(self._over):
            rows -= self._rows(exchange, width)
            if rows < 0:
                break
            fitting.insert(0, exchange)
        return fitting

    def _put_aside(self) -> None:
        """Moves the current exchange, if anything was understood, to those that are over."""
        exchange = self._exchange
        if exchange is None or exchange.text is None:
            self._clear()
            return
        from rich.text import Text

        signs, wrong = self._signs, verdict_text(exchange) if exchange.timing else ""
        mark = (signs["wrong"] if wrong else signs["right"]) if exchange.utterance else signs["on"]
        style = "bold red" if wrong else "bold green"
        lines = [Text.assemble((f"{mark} ", style), (one_line(exchange.text) or "(no words)", "bold"))]
        lines += [Text.assemble(("  " + call, "cyan"), (f" {signs['to']} {did}", "dim")) for call, did in self._calls]
        if exchange.reply:
            lines.append(Text.assemble(f"  {signs['reply']} ", exchange.reply))
        if exchange.translation:
            lines.append(Text.assemble((f"  {exchange.target}: ", "dim"), one_line(exchange.translation)))
        lines += [Text(f"  {one_line(note)}", "red") for note in (exchange.problem, wrong) if note]
        if exchange.timing and exchange.timing.acted is not None:
            lines[0].append(f"  {exchange.timing.acted:.2f} s", "dim")
        self._over.append(Text("\n").join(lines))
        self._clear()

    # ---- what is being said ----------------------------------------------------------------------------------------------

    def _exchange_panel(self, height: int | None = None) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        signs, exchange = self._signs, self._exchange
        text = Text(self._text, "bold")
        if self._speaking:
            text.append(signs["talk"], "dim")
        lines = [self._meter(), text]
        lines += [
            Text.assemble((f"{signs['call']} {call}", "bold cyan"), (f" {signs['to']} {did}" if did else "", "cyan"))
            for call, did in self._calls
        ] or [Text()]
        lines.append(Text.assemble((f"{signs['reply']} ", "bold green"), self._reply) if self._reply else Text())
        if exchange and exchange.translation:
            lines.append(Text.assemble((f"{exchange.target}: ", "dim"), one_line(exchange.translation)))
        else:
            lines.append(Text())
        if self._lost:
            lines.append(Text(_lost_text(self._lost), "yellow"))
        else:
            lines.append(Text(timing_text(exchange) if exchange else "", "dim"))
        return Panel(
            Group(*lines),
            title=Text(self._title, "bold"),
            title_align="left",
            padding=(0, 1),
            height=height,
            border_style="cyan" if self._speaking else "dim",
        )

    def _meter(self) -> Any:
        from rich.text import Text

        bars = self._signs["levels"]
        waves = "".join(bars[round(level * (len(bars) - 1))] for level in self._levels).rjust(self._levels.maxlen or 0)
        heading = self._heading or "ready"
        return Text.assemble((waves, "cyan" if self._speaking else "dim"), "  ", (heading, "dim"))

    # ---- the home --------------------------------------------------------------------------------------------------------

    def _home_panel(self, width: int, rows: int, height: int | None = None) -> Any:
        """The home in at most so many rows, or in a panel of that height.

        Where there is no room for all rooms, those are shown where something has changed, then those where something is
        on. What belongs to no room is always shown.
        """
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        state, in_use = self._home.state(), {}
        for name, room in state["rooms"].items():
            in_use[name] = any(room[thing] for thing in THINGS) or room["music"]
        rest = self._rest(state, width - 4)
        left = max(0, rows - 2 - self._rows(Group(*rest), width - 4))
        shown = sorted(in_use, key=lambda name: (not self._has_changed(f"rooms.{name}."), not in_use[name]))[:left]
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, room in state["rooms"].items():
            if name in shown:
                lit = in_use[name] or self._has_changed(f"rooms.{name}.")
                table.add_row(Text(name, "" if lit else "dim"), *self._room(name, room, width))
        return Panel(
            Group(*([table] if shown else []), *rest),
            title=Text("home", "bold"),
            title_align="left",
            border_style="dim",
            padding=(0, 1),
            height=height,
            width=width,
        )

    def _has_changed(self, start: str) -> bool:
        return any(path.startswith(start) for path in self._changed)

    def _cell(self, text: str, style: str, *paths: str) -> tuple[str, str]:
        """A text about the home and its style: highlighted if one of the paths has just changed."""
        return text, f"{style} reverse".strip() if self._changed.intersection(paths) else style

    def _room(self, name: str, room: dict[str, Any], width: int) -> Iterable[Any]:
        from rich.text import Text

        place, signs = f"rooms.{name}.", self._signs
        if room["light"]:
            shown = f"{signs['on']} {room['color']}" + (f" {room['percent']}%" if room["percent"] != 100 else "")
            style = _LIGHTS[room["color"]]
        else:
            shown, style = signs["off"], "dim"
        yield Text.assemble(self._cell(shown, style, *(place + key for key in ("light", "color", "percent"))))
        things, all_of_them = Text(no_wrap=True), width >= HOME_COLUMNS and not self._console.no_color
        for thing in THINGS[1:]:
            on, label = room[thing], _NAMES.get(thing, thing)
            if on or all_of_them or place + thing in self._changed:
                if not all_of_them and (thing == "blinds" or not on):
                    label += " " + _SWITCHES.get(thing, ("", ("off", "on")))[1][on]
                things.append(*self._cell(label, "bold green" if on else "dim", place + thing)).append(" ")
        yield things
        music = (
            f"{signs['music']} {room['music']}" if room["music"] else signs["off"] * (place + "music" in self._changed)
        )
        yield Text.assemble(self._cell(music, "magenta", place + "music"))

    def _rest(self, state: dict[str, Any], width: int) -> list[Any]:
        """The lines about what belongs to no room. A line ends between two of its parts where there are several."""
        from rich.text import Text

        lines = []
        for cells in self._rest_cells(state):
            line = Text()
            for label, value, path in cells:
                part = Text.assemble((f"{label} ", "dim"), self._cell(value, "", path))
                if line and line.cell_len + 2 + part.cell_len > width:
                    lines.append(line)
                    line = Text()
                line.append("  " if line else "").append(part)
            lines.append(line)
        return lines

    def _rest_cells(self, state: dict[str, Any]) -> list[list[tuple[str, str, str]]]:
        """For each line (label, value, path of the value)."""
        timers = ", ".join(f"{amount} {unit}" for amount, unit in state["timers"])
        return [
            [
                ("thermostat", f"{state['degrees']}°", "degrees"),
                ("volume", str(state["volume"]), "volume"),
                ("front door", "locked" if state["locked"] else "unlocked", "locked"),
                ("garage", "open" if state["garage_open"] else "closed", "garage_open"),
            ],
            [
                ("timers", timers or "none", "timers"),
                ("alarms", one_line(", ".join(state["alarms"])) or "none", "alarms"),
                ("list", ", ".join(state["shopping"]) or "empty", "shopping"),
            ],
        ]
