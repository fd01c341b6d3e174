"""What a tool does to the world: nothing, something, or something that is always asked about first.

    reads       it only tells something
    changes     it changes something; asked about where the words were heard badly
    asks        it is always asked about: the door, an order, what cannot be undone

A Python tool says so in its docstring, with the line "Read-only." or "Ask first."; an MCP server in the annotations of the
tool. Where nothing is said, names such as get_weather read, and all others change.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal

__all__ = ["Effect", "effect_of_function", "effect_of_hints", "effect_of_name"]

Effect = Literal["reads", "changes", "asks"]

_MARK = re.compile(r"^\s*(read-only|ask first)\.?\s*$", re.IGNORECASE | re.MULTILINE)
_READING = frozenset(
    "get read list find search describe query fetch lookup tell is has what when where who how current".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def effect_of_name(name: str) -> Effect:
    """The effect of a tool that says nothing about it: get_time, weather.read, intent__HassGetState read.

    Its first word counts, behind the last dot or pair of underscores, which stand between the name of a program and that of
    its tool. Home Assistant begins most of its names with "Hass".
    """
    words = [word.lower() for word in _WORD.findall(re.split(r"[./]|__", name)[-1])]
    first = next((word for word in words if word != "hass"), "")
    return "reads" if first in _READING else "changes"


def effect_of_function(function: Callable[..., Any], name: str) -> Effect:
    """The effect of a Python function."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    marks = {found.lower() for found in _MARK.findall(getattr(plain, "__doc__", None) or "")}
    if "ask first" in marks:
        return "asks"
    return "reads" if "read-only" in marks else effect_of_name(name)


def effect_of_hints(name: str, read_only: bool | None) -> Effect:
    """The effect of a tool of an MCP server; `read_only` is its readOnlyHint, None where the server gives none.

    Its destructiveHint says nothing more: the default is true, and Home Assistant has it for each light that is switched.
    """
    return effect_of_name(name) if read_only is None else "reads" if read_only else "changes"
