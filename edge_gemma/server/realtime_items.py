"""The conversation of a realtime session: its items, and the messages that the model reads of them."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.source import to_mono
from .bodies import Fields
from .core import Core
from .failures import RequestError
from .live_sound import samples_of
from .media import decoded
from .openai_chat import image_part

__all__ = ["Conversation", "Item", "new_id"]

_MOST = 512  # items
_SOUND = 16_000_000  # samples of recordings that are kept: the oldest ones become their words
_CONTENT = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio", "text"),
}


def new_id(kind: str = "item") -> str:
    """An id of OpenAI's form."""
    return f"{kind}_{uuid.uuid4().hex[:20]}"


@dataclass(eq=False)
class Item:
    """An item.

    Attributes:
        values: as clients see it.
        samples: what was said, 16 kHz mono; None for none.
        fed: whether a timeline heard it while it was spoken.
        written: done when the words of `samples` are known; None where they are not wanted.
        pictures: the parts of pictures, by the index of their content.
        spoken: of speech that was sent: until when it lasts, in milliseconds, and its text.
    """

    values: dict[str, Any]
    samples: NDArray[np.float32] | None = None
    fed: bool = False
    written: asyncio.Future[str] | None = None
    pictures: dict[int, dict[str, Any]] = field(default_factory=dict)
    spoken: list[tuple[float, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.values["id"])

    def parts(self) -> list[dict[str, Any]]:
        """The content of a message as the model reads it."""
        parts: list[dict[str, Any]] = []
        for index, content in enumerate(self.values.get("content", ())):
            words = content.get("text") or content.get("transcript") or ""
            if index in self.pictures:
                parts.append(self.pictures[index])
            if content["type"] == "input_audio" and self.samples is not None and (self.fed or not words):
                parts.append({"type": "audio", "audio": self.samples})
            if words:
                parts.append({"type": "text", "text": words})
        return parts


class Conversation:
    """Items in their order."""

    def __init__(self) -> None:
        """No items."""
        self.items: list[Item] = []

    def find(self, number: str | None) -> Item:
        """The item of an id. Raises RequestError."""
        for item in self.items:
            if item.id == number:
                return item
        raise RequestError(400, "There is no item of this id.", param="item_id", code="item_not_found")

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Adds an item, at the end or behind another one ("root" is the beginning). Returns the id of the one before it."""
        if any(other.id == item.id for other in self.items):
            raise RequestError(400, "There is an item of this id already.", param="item.id", code="item_exists")
        if len(self.items) >= _MOST:
            raise RequestError(400, f"The conversation has {_MOST} items, the most that are kept.")
        at = 0 if after == "root" else len(self.items) if after is None else self.items.index(self.find(after)) + 1
        self.items.insert(at, item)
        left = _SOUND
        for other in reversed(self.items):
            left -= 0 if other.samples is None else other.samples.size
            if left < 0:
                other.samples = None
        return self.items[at - 1].id if at else None

    def delete(self, number: str | None) -> None:
        """Removes an item. Raises RequestError."""
        self.items.remove(self.find(number))

    def messages(self, instructions: str, items: list[Item] | None = None) -> list[dict[str, Any]]:
        """The conversation as the neutral request has it. `items`: others instead."""
        found: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
        for item in self.items if items is None else items:
            values = item.values
            if values["type"] == "function_call":
                call = {
                    "id": values["call_id"],
                    "type": "function",
                    "function": {"name": values["name"], "arguments": _object(values["arguments"])},
                }
                if found and found[-1]["role"] == "assistant":
                    found[-1].setdefault("tool_calls", []).append(call)
                else:
                    found.append({"role": "assistant", "content": "", "tool_calls": [call]})
            elif values["type"] == "function_call_output":
                found.append({"role": "tool", "tool_call_id": values["call_id"], "content": values["output"]})
            elif parts := item.parts():
                plain = len(parts) == 1 and parts[0]["type"] == "text"
                found.append({"role": values["role"], "content": parts[0]["text"] if plain else parts})
        return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_item(core: Core, fields: Fields, rate: int) -> Item:
    """An item that a client adds. `rate`: of its sound. Raises RequestError."""
    kind = fields.text("type", "message", ("message", "function_call", "function_call_output"))
    values: dict[str, Any] = {
        "id": (fields.text("id") or new_id())[:100],
        "object": "realtime.item",
        "type": kind,
        "status": "completed",
    }
    if kind != "message":
        values["call_id"] = fields.text("call_id") or new_id("call")
        if kind == "function_call":
            values |= {"name": fields.text("name") or "", "arguments": fields.text("arguments") or "{}"}
        else:
            values["output"] = fields.text("output") or ""
        return Item(values)
    role = fields.text("role", choices=tuple(_CONTENT))
    if role is None:
        raise fields.wrong("role", f"one of {', '.join(_CONTENT)}")
    item = Item(values | {"role": role, "content": []})
    for index, part in enumerate(fields.objects("content")):
        _read_part(core, item, index, part, role, rate)
    return item


def _read_part(core: Core, item: Item, index: int, part: Fields, role: str, rate: int) -> None:
    kind = part.text("type", choices=_CONTENT[role]) or _CONTENT[role][0]
    shown: dict[str, Any] = {"type": kind}
    if kind == "input_image":
        item.pictures[index] = image_part(core, part)
    elif kind == "input_audio" and (data := part.text("audio")):
        item.samples = to_mono(samples_of(decoded(data, f"{part.where}audio")), rate)
        item.samples.flags.writeable = False
    for name in ("text", "transcript"):
        if (text := part.text(name)) is not None:
            shown[name] = text
    if kind == "input_audio":
        shown.setdefault("transcript", None)
    item.values["content"].append(shown)


def encoded(samples: NDArray[np.int16]) -> str:
    """Sound as messages have it."""
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


__all__ += ["encoded", "read_item"]
