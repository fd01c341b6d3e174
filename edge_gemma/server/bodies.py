"""Requests: bodies that are read within bounds, and fields that are checked when they are read.

A body that is too large is refused as soon as that is known, one that does not come is given up, and all bodies together take
bounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .failures import RequestError
from .settings import Settings

__all__ = ["Bodies", "Fields"]

_SMALL = 64 << 10  # bytes of JSON that are parsed on the spot


class Bodies:
    """Reads the bodies of requests, and knows how many bytes all of them hold. Of the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held = 0

    async def read(self, request: Request) -> bytearray:
        """The whole body. Raises RequestError; ClientDisconnect when the client leaves."""
        data = bytearray()
        async with contextlib.aclosing(self.pieces(request)) as pieces:
            async for piece in pieces:
                data += piece
        return data

    async def pieces(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body piece by piece. All of it counts as held until the last one is taken. Raises as `read`."""
        limits, length = self._settings, request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limits.max_body:
            raise self._too_large()
        mine = 0
        try:
            stream = request.stream().__aiter__()
            while True:
                try:
                    piece = await asyncio.wait_for(anext(stream), limits.stall_seconds)
                except StopAsyncIteration:
                    return
                except (TimeoutError, asyncio.TimeoutError):
                    raise RequestError(408, "The request did not come to its end.") from None
                if self._held + len(piece) > limits.max_bodies:
                    raise RequestError(
                        503, "Too many large requests come in at the same time. Try again in a few seconds."
                    )
                self._held, mine = self._held + len(piece), mine + len(piece)
                if mine > limits.max_body:
                    raise self._too_large()
                yield piece
        finally:
            self._held -= mine

    async def json(self, request: Request) -> Fields:
        """The body as a JSON object. Raises RequestError; ClientDisconnect when the client leaves."""
        data = await self.read(request)
        parse = _parse if len(data) < _SMALL else None
        value = parse(data) if parse else await asyncio.to_thread(_parse, data)
        if not isinstance(value, dict):
            raise RequestError(400, "The body of the request must be a JSON object.")
        return Fields(value)

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"The request is larger than {self._settings.max_body >> 20} MB, the most that is taken."
        )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _parse(data: bytearray) -> Any:
    """JSON in UTF-8. Raises RequestError."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
        return value
    except (ValueError, RecursionError):
        raise RequestError(400, "The body of the request is not JSON in UTF-8.") from None


class Fields:
    """An object of a request. Reading a field checks it; null counts as absent. Raises RequestError."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        """`where`: the path of the object in the request, such as "messages[0]."."""
        self.values, self.where = values, where

    def __contains__(self, name: object) -> bool:
        return self.values.get(name) is not None  # type: ignore[call-overload, no-any-return]

    def raw(self, name: str) -> Any:
        """The value as it is; None for none."""
        return self.values.get(name)

    def wrong(self, name: str, wanted: str) -> RequestError:
        """The error for a field that is not what is wanted."""
        return RequestError(400, f"The field {self.where}{name} must be {wanted}.", param=f"{self.where}{name}")

    def text(self, name: str, default: str | None = None, choices: Sequence[str] = ()) -> str | None:
        """A text, one of `choices` if there are any."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.wrong(name, f"one of {', '.join(choices)}" if choices else "a text")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return default if value is None else value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float | None:
        """A number within bounds."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (low <= value <= high):
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """A whole number within bounds; some clients write 8192.0."""
        value = self.values.get(name)
        if value is None:
            return default
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value != int(value) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return int(value)

    def object(self, name: str) -> Fields | None:
        """An object."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self.where}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """A list of objects; none for an absent field."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(name, "a list of objects")
        return [Fields(item, f"{self.where}{name}[{at}].") for at, item in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        """A text, or a list of texts, as a list."""
        value = self.values.get(name)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a text or a list of texts")
        return list(value)


__all__ += ["ClientDisconnect"]
