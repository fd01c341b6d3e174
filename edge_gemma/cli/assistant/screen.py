"""What `edge-gemma assistant` shows: a calm screen of what was said and done, lines of JSON, or nothing.

Each class has `show`, which is called with what happens, and `close`.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol

from ..terminal import Screen, TransientLine, print_warning

__all__ = ["Calm", "JSONLines", "Output", "Quiet"]

_STATES = {
    "asleep": "waiting for the wake word",
    "awake": "listening",
    "hearing": "listening ...",
    "thinking": "thinking ...",
    "speaking": "speaking",
    "announcing": "speaking",
}


class Output(Protocol):
    """Shows what happens."""

    def show(self, kind: str, values: dict[str, Any]) -> None:
        """Takes news of an `AssistantLoop`."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class Quiet:
    """Shows problems, on standard error, and nothing else."""

    def show(self, kind: str, values: dict[str, Any]) -> None:
        """As `Output.show`."""
        if kind in ("problem", "devices") and values["text"]:
            print_warning(values["text"])

    def close(self) -> None:
        """As `Output.close`."""


class JSONLines:
    """One line of JSON for each event."""

    def show(self, kind: str, values: dict[str, Any]) -> None:
        """As `Output.show`."""
        print(json.dumps({"event": kind, **values}, ensure_ascii=False, default=str), flush=True)

    def close(self) -> None:
        """As `Output.close`."""


class Calm:
    """What was said and what was answered, line by line, and below it, at a terminal, what the assistant does now."""

    def __init__(self, asleep: str) -> None:
        """`asleep`: what is to be done to wake it."""
        self._states = {**_STATES, "asleep": asleep}
        self._out, self._now = Screen(sys.stdout), TransientLine()
        self._state = "asleep"

    def show(self, kind: str, values: dict[str, Any]) -> None:
        """As `Output.show`."""
        if kind == "state":
            self._state = values["state"]
            self._show_now()
        elif kind == "partial" and values["agreed"]:
            self._show_now((values["agreed"], "bold"), (values["text"][len(values["agreed"]) :], "dim"))
        elif kind == "heard" and values["text"]:
            self._line(f"> {values['text']}", "bold")
        elif kind == "call":
            arguments = ", ".join(f"{name}={value}" for name, value in values["arguments"].items())
            self._line(f"  {values['name']}({arguments})", "dim")
        elif kind == "result" and isinstance(values["result"], dict) and "error" in values["result"]:
            self._line(f"  {values['result']['error']}", "dim")
        elif kind == "reply" and values["final"] and values["text"].strip():
            self._line(values["text"].strip())
        elif kind == "reply" and not values["final"]:
            self._show_now((values["text"].strip()[-200:], ""))
        elif kind == "announcement":
            self._line(values["text"])
        elif kind in ("problem", "devices") and values["text"]:
            self._now.clear()
            print_warning(values["text"])

    def _line(self, text: str, style: str = "") -> None:
        self._now.clear()
        self._out.line(" ".join(text.split()) if not text.startswith("  ") else text, style)
        self._show_now()

    def _show_now(self, *parts: tuple[str, str]) -> None:
        if self._out.is_terminal:
            self._now.show(*(parts or ((self._states[self._state], "dim"),)))

    def close(self) -> None:
        """As `Output.close`."""
        self._now.clear()
