"""The actions of Home Assistant that a conversation agent over Wyoming can ask for, as tools. Home Assistant carries them out.

The names and slots are Home Assistant's. Places and devices are named as the user named them, which is how Home Assistant
finds them; it tells no agent of Wyoming what there is in the house.
"""

from __future__ import annotations

from typing import Any

__all__ = ["INTENTS"]

_NAME = {"type": "string", "description": "the device, as the user calls it"}
_AREA = {"type": "string", "description": "the room, as the user calls it"}
_DOMAINS = ["light", "switch", "fan", "cover", "lock", "media_player", "vacuum", "climate", "scene", "script"]
_DOMAIN = {
    "type": "array",
    "items": {"type": "string", "enum": _DOMAINS},
    "description": "the kind, where all of a room are meant",
}


def _percent(text: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": 100, "description": text}


def _count(text: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": text}


def _intent(name: str, description: str, required: tuple[str, ...] = (), /, **slots: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": slots, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


INTENTS: list[dict[str, Any]] = [
    _intent("HassTurnOn", "Turns on, opens, locks or starts something.", name=_NAME, area=_AREA, domain=_DOMAIN),
    _intent("HassTurnOff", "Turns off, closes, unlocks or stops something.", name=_NAME, area=_AREA, domain=_DOMAIN),
    _intent(
        "HassLightSet",
        "Sets the brightness or color of a light.",
        name=_NAME,
        area=_AREA,
        brightness=_percent("percent"),
        color={"type": "string"},
    ),
    _intent(
        "HassSetPosition",
        "Moves blinds and such to a position.",
        ("position",),
        name=_NAME,
        area=_AREA,
        position=_percent("percent open"),
    ),
    _intent(
        "HassClimateSetTemperature",
        "Sets a thermostat.",
        ("temperature",),
        name=_NAME,
        area=_AREA,
        temperature={"type": "number", "description": "degrees"},
    ),
    _intent("HassClimateGetTemperature", "Tells the temperature.", name=_NAME, area=_AREA),
    _intent("HassMediaPause", "Pauses music or video.", name=_NAME, area=_AREA),
    _intent("HassMediaUnpause", "Goes on with music or video.", name=_NAME, area=_AREA),
    _intent("HassMediaNext", "Goes to the next piece.", name=_NAME, area=_AREA),
    _intent(
        "HassSetVolume", "Sets the volume.", ("volume_level",), name=_NAME, area=_AREA, volume_level=_percent("percent")
    ),
    _intent(
        "HassStartTimer",
        "Starts a timer.",
        hours=_count("hours"),
        minutes=_count("minutes"),
        seconds=_count("seconds"),
        name={"type": "string", "description": "what it is for"},
    ),
    _intent("HassCancelTimer", "Cancels a timer.", name={"type": "string", "description": "what it is for"}),
    _intent(
        "HassTimerStatus",
        "Tells how long a timer still runs.",
        name={"type": "string", "description": "what it is for"},
    ),
    _intent("HassShoppingListAddItem", "Writes something on the shopping list.", ("item",), item={"type": "string"}),
    _intent("HassGetCurrentTime", "Tells the time."),
    _intent("HassGetCurrentDate", "Tells the date."),
    _intent("HassGetWeather", "Tells the weather."),
]
"""Tools as OpenAI's interface declares them."""
