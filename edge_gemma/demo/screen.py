"""How the demonstration is shown: on a terminal that is redrawn, line by line, or as JSON for programs.

Each of the three classes has `show`, which is called with every event of `Demo`, and `close`, which is called at the end.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from ..engine.memory import format_bytes
from ..speech.languages import language_name
from ..speech.prompts import one_line
from .demo import DemoEvent, DemoExchange
from .home import DONE, ROOMS, THINGS, Home

HOME_COLUMNS = 77  # of the home when things that are off are shown too
WIDE = HOME_COLUMNS + 50  # columns from which the home is shown beside the words
TALL = 24  # rows from which all rooms are shown; on fewer rows, only those where something is on


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
    if timing.tokens_per_second:
        parts.append(f"{timing.tokens_per_second:,.0f} tok/s")
    if timing.resident:
        parts.append(format_bytes(timing.resident))
    return " · ".join(parts)


def verdict_text(exchange: DemoExchange) -> str:
    """What is wrong in the answers to a bundled utterance; "" when everything is right."""
    wrong = [name for name, fine in exchange.verdict().items() if not fine]
    said = exchange.utterance.text if exchange.utterance and "text" in wrong else ""
    return (f"wrong: {', '.join(wrong)}" + (f"; it was: {said}" if said else "")) if wrong else ""


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

    def close(self, summary: dict[str, Any]) -> None:
        """Prints the summary."""
        self._print({"event": "summary", **summary, "home": self._home.state()})

    @staticmethod
    def _print(values: dict[str, Any]) -> None:
        print(json.dumps(values, ensure_ascii=False), flush=True)


class Lines:
    """A line of text for each event, for pipes and for terminals without `rich`."""

    def __init__(self, total: int | None) -> None:
        self._total = total

    def show(self, event: DemoEvent) -> None:
        """Prints a line, unless the event is not worth one."""
        exchange = event.exchange
        if event.kind == "start":
            self._line(f"[{_heading(event, self._total)}]")
        elif event.kind == "partial":
            if exchange and not exchange.end:  # after the end, the transcript follows soon
                self._line(f"  ... {event.text}")
        elif event.kind == "transcript":
            self._line(f"  heard: {event.text or '(no words)'}")
        elif event.kind == "call":
            self._line(f"  call:  {call_text(event.call)}")
        elif event.kind == "result":
            self._line(f"  home:  {result_text(event)}")
        elif event.kind == "reply" and event.final:
            self._line(f"  reply: {event.text or '(none)'}")
        elif event.kind == "translation" and exchange:
            self._line(f"  in {exchange.target}: {event.text}")
        elif event.kind == "done" and exchange:
            for note in (exchange.problem, verdict_text(exchange), timing_text(exchange)):
                if note:
                    self._line(f"  {one_line(note)}")
        elif event.kind == "overrun":
            self._line(f"edge-gemma: warning: {event.lost:.2f} s of sound were lost: the machine is too busy")

    def close(self, summary: dict[str, Any]) -> None:
        """There is nothing to do."""

    @staticmethod
    def _line(text: str) -> None:
        print(text, flush=True)


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
    """The current exchange and the home, redrawn in place, below the exchanges that are over. Needs `rich`."""

    def __init__(self, home: Home, total: int | None, title: str, console: Any = None) -> None:
        """Raises ImportError without `rich`."""
        from rich.console import Console
        from rich.live import Live

        self._home, self._total, self._title = home, total, title
        self._console = console or Console(highlight=False)
        self._signs = _FANCY if self._console.encoding.lower().startswith("utf") else _ASCII
        self._levels: deque[float] = deque(maxlen=24)
        self._changed: set[str] = set()
        self._clear()
        # Other output, such as warnings, appears above what is redrawn.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=True)
        self._live.start()
        self._draw()

    def _clear(self) -> None:
        self._exchange: DemoExchange | None = None
        self._heading, self._speaking = "", False
        self._text = self._agreed = self._reply = ""
        self._calls: list[tuple[str, str]] = []

    def show(self, event: DemoEvent) -> None:
        """Shows the event."""
        if event.kind == "overrun":
            self._console.print(f"{event.lost:.2f} s of sound were lost: the machine is too busy", style="yellow")
            return
        if event.kind == "start":
            self._print_exchange()
            self._exchange, self._heading, self._speaking = event.exchange, _heading(event, self._total), True
            self._changed = set()
        if event.exchange is not self._exchange:
            if event.kind == "result":  # of the exchange before: somebody spoke while it was answered
                self._changed = set(event.changes)
                self._draw()
            return
        if event.kind == "sound":
            self._levels.append(event.level)
        elif event.kind == "partial":
            self._text, self._agreed = event.text, event.agreed
        elif event.kind == "transcript":
            self._text = self._agreed = event.text
            self._speaking = False
        elif event.kind == "call":
            self._calls.append((call_text(event.call), ""))
        elif event.kind == "result":
            self._calls[-1] = (self._calls[-1][0], result_text(event))
            self._changed = set(event.changes)
        elif event.kind == "reply":
            self._reply, self._speaking = event.text, False
        if event.kind in ("call", "done"):
            self._speaking = False
        self._draw()

    def close(self, summary: dict[str, Any]) -> None:
        """Leaves the exchanges, and the home as it is now, on the screen."""
        self._print_exchange()
        self._live.stop()
        if summary["exchanges"]:
            self._console.print(self._home_panel(self._console.width))

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table

        width = self._console.width
        if width < WIDE:
            self._live.update(Group(self._exchange_panel(), self._home_panel(width)), refresh=True)
            return
        both = Table.grid(expand=True)
        both.add_column(ratio=1)
        both.add_column(width=HOME_COLUMNS)
        both.add_row(self._exchange_panel(self._rows() + 2), self._home_panel(HOME_COLUMNS))
        self._live.update(both, refresh=True)

    def _print_exchange(self) -> None:
        """Prints the current exchange above what is redrawn, if it is over, and clears it."""
        exchange = self._exchange
        if exchange is None or exchange.timing is None:
            self._clear()
            return
        from rich.text import Text

        signs, wrong = self._signs, verdict_text(exchange)
        mark = (signs["wrong"] if wrong else signs["right"]) if exchange.utterance else signs["on"]
        style = "bold red" if wrong else "bold green"
        lines = [Text.assemble((f"{mark} ", style), (exchange.text or "(no words)", "bold"))]
        if exchange.translation:
            lines.append(Text.assemble((f"  {exchange.target}: ", "dim"), one_line(exchange.translation)))
        lines += [Text.assemble(("  " + call, "cyan"), (f" {signs['to']} {did}", "dim")) for call, did in self._calls]
        if exchange.reply:
            lines.append(Text.assemble(f"  {signs['reply']} ", exchange.reply))
        lines += [Text(f"  {one_line(note)}", "red") for note in (exchange.problem, wrong) if note]
        if exchange.timing.first_token is not None:
            lines[0].append(f"  {exchange.timing.first_token:.2f} s", "dim")
        self._console.print(*lines, sep="\n")
        self._clear()

    # ---- what is being said ----------------------------------------------------------------------------------------------

    def _exchange_panel(self, height: int | None = None) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        signs, exchange = self._signs, self._exchange
        text = Text.assemble((self._agreed, "bold"), (self._text[len(self._agreed) :], "dim"))
        if self._speaking:
            text.append(signs["talk"], "dim")
        lines = [self._meter(), text]
        if exchange and exchange.translation:
            lines.append(Text.assemble((f"{exchange.target}: ", "dim"), one_line(exchange.translation)))
        else:
            lines.append(Text())
        lines += [
            Text.assemble((f"{signs['call']} {call}", "bold cyan"), (f" {signs['to']} {did}" if did else "", "cyan"))
            for call, did in self._calls
        ] or [Text()]
        lines.append(Text.assemble((f"{signs['reply']} ", "bold green"), self._reply) if self._reply else Text())
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

    def _rows(self) -> int:
        return len(ROOMS) + 2 if self._console.height >= TALL else 6

    def _home_panel(self, width: int) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        state = self._home.state()
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, room in state["rooms"].items():
            lit = any(room[thing] for thing in THINGS) or room["music"] or self._has_changed(f"rooms.{name}.")
            if self._console.height >= TALL or lit:
                table.add_row(Text(name, "" if lit else "dim"), *self._room(name, room, width))
        return Panel(
            Group(table, *self._rest(state)),
            title=Text("home", "bold"),
            title_align="left",
            border_style="dim",
            padding=(0, 1),
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
        things, all_of_them = Text(), width >= HOME_COLUMNS and not self._console.no_color
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

    def _rest(self, state: dict[str, Any]) -> list[Any]:
        """The lines about what belongs to no room."""
        from rich.text import Text

        def line(*cells: tuple[str, str, str]) -> Text:
            text = Text()
            for label, value, path in cells:
                text.append(f"{label} ", "dim").append(*self._cell(value, "", path)).append("  ")
            return text

        timers = ", ".join(f"{amount} {unit}" for amount, unit in state["timers"])
        return [
            line(
                ("thermostat", f"{state['degrees']}°", "degrees"),
                ("volume", str(state["volume"]), "volume"),
                ("front door", "locked" if state["locked"] else "unlocked", "locked"),
                ("garage", "open" if state["garage_open"] else "closed", "garage_open"),
            ),
            line(
                ("timers", timers or "none", "timers"),
                ("alarms", one_line(", ".join(state["alarms"])) or "none", "alarms"),
                ("list", ", ".join(state["shopping"]) or "empty", "shopping"),
            ),
        ]
