"""Events of the Wyoming protocol, read within bounds: a line of JSON, more JSON, and bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wyoming.event import Event

from .failures import RequestError

__all__ = ["LINE", "read_event"]

LINE = 64 << 10
"""The longest line, in bytes."""

_PART = 1 << 20  # bytes of data, and of sound
_DAMAGED = "The event is damaged."


async def read_event(reader: asyncio.StreamReader, idle: float, stall: float) -> Event | None:
    """The next event; None at the end. Raises RequestError for what is none, and when it does not come.

    Args:
        reader: with a limit of `LINE`.
        idle: seconds to wait for an event.
        stall: seconds that one may take.
    """
    try:
        first = await asyncio.wait_for(reader.read(1), idle)
        if not first:
            return None
        return await asyncio.wait_for(_rest(reader, first), stall)
    except (TimeoutError, asyncio.TimeoutError):
        raise RequestError(408, "No event came for a long time.") from None
    except asyncio.LimitOverrunError:
        raise RequestError(400, "The event is too large.") from None
    except asyncio.IncompleteReadError:
        raise RequestError(400, "The event did not come to its end.") from None
    except (ValueError, RecursionError):  # ValueError: a line beyond the limit, or no JSON
        raise RequestError(400, _DAMAGED) from None
    except OSError:
        return None


async def _rest(reader: asyncio.StreamReader, first: bytes) -> Event:
    head = _object(first + await reader.readuntil(b"\n"))
    kind, data = head.get("type"), head.get("data") or {}
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise RequestError(400, _DAMAGED)
    if more := _length(head, "data_length"):
        data = data | _object(await reader.readexactly(more))
    length = _length(head, "payload_length")
    payload = await reader.readexactly(length) if length else None
    return Event(type=kind, data=data, payload=payload)


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise RequestError(400, _DAMAGED)
    return value


def _length(head: dict[str, Any], name: str) -> int:
    value = head.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RequestError(400, _DAMAGED)
    if value > _PART:
        raise RequestError(400, "The event is too large.")
    return value
