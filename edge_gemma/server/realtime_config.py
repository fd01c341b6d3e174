"""What a realtime session is told to do: the session object of OpenAI's interface, checked when it is changed.

`null` and an absent field differ here: a field that is absent stays as it is, `null` switches something off. Fields that mean
nothing here are left out, as clients add some of their own. The object tells what is done: `noise_reduction` stays null,
`truncation` disabled and `speed` 1, whatever a client wants.
"""

from __future__ import annotations

import copy
from typing import Any

from .bodies import Fields
from .realtime_ear import Detection

__all__ = ["SILENCE", "Config", "response_options"]

SILENCE = 0.5
"""Seconds that end a turn, unless the client says otherwise."""

# Seconds of silence behind a whole sentence, and behind other words.
_EAGERNESS = {"low": (1.2, 8.0), "auto": (0.7, 4.0), "medium": (0.7, 4.0), "high": (0.35, 2.0)}
_FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")
_PCM = {"type": "audio/pcm", "rate": 24000}
_DETECTION = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": round(SILENCE * 1000),
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}


class Config:
    """The configuration of a session.

    Attributes:
        values: the session object, as clients see it.
    """

    def __init__(self, number: str, model: str, kind: str, speaks: bool) -> None:
        """`kind`: realtime or transcription; `speaks`: whether there is a voice."""
        self._speaks = speaks
        hearing: dict[str, Any] = {
            "format": dict(_PCM),
            "noise_reduction": None,
            "transcription": {"model": model} if kind == "transcription" else None,
            "turn_detection": dict(_DETECTION),
        }
        self.values: dict[str, Any] = {
            "id": number,
            "object": f"realtime.{'session' if kind == 'realtime' else 'transcription_session'}",
            "type": kind,
            "model": model,
            "include": None,
            "audio": {"input": hearing},
        }
        if kind == "realtime":
            self.values |= {
                "instructions": "",
                "output_modalities": ["audio"] if speaks else ["text"],
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "truncation": "disabled",
                "tracing": None,
            }
            self.values["audio"]["output"] = {"format": dict(_PCM), "voice": "default", "speed": 1.0}

    @property
    def answers(self) -> bool:
        """Whether this is a session with answers, and not one that only writes down."""
        return bool(self.values["type"] == "realtime")

    @property
    def hearing(self) -> dict[str, Any]:
        """`audio.input`."""
        found: dict[str, Any] = self.values["audio"]["input"]
        return found

    @property
    def detection(self) -> Detection | None:
        """What ends a turn; None where the client ends turns."""
        given = self.hearing["turn_detection"]
        if given is None:
            return None
        if given["type"] == "semantic_vad":
            sentence, silence = _EAGERNESS[given["eagerness"]]
            return Detection(silence, sentence)
        silence, padding = (float(given[name]) / 1000 for name in ("silence_duration_ms", "prefix_padding_ms"))
        return Detection(silence, None, float(given["threshold"]), padding)

    @property
    def idle(self) -> float | None:
        """Seconds after an answer in which nobody speaks, until the model speaks again; None for no such thing."""
        given = (self.hearing["turn_detection"] or {}).get("idle_timeout_ms")
        return None if given is None or not self.answers else float(given) / 1000

    def detects(self, name: str) -> bool:
        """`create_response` or `interrupt_response`: whether the end or the start of speech does that."""
        detection = self.hearing["turn_detection"]
        return bool(self.answers and detection is not None and detection[name])

    def update(self, fields: Fields) -> Config:
        """A configuration with the changes of a `session.update`. Raises RequestError."""
        kind = fields.text("type", self.values["type"], ("realtime", "transcription")) or "realtime"
        if kind != self.values["type"]:
            changed = Config(self.values["id"], self.values["model"], kind, self._speaks)
        else:
            changed = copy.copy(self)
            changed.values = copy.deepcopy(self.values)
        values = changed.values
        if changed.answers:
            values |= response_options(fields, self._speaks)
        if "include" in fields.values:
            values["include"] = fields.texts("include") or None
        audio = fields.object("audio") or Fields({})
        if hearing := audio.object("input"):
            _change_hearing(values["audio"]["input"], hearing)
        if changed.answers and (speaking := audio.object("output")):
            _change_speaking(values["audio"]["output"], speaking)
        return changed


def response_options(fields: Fields, speaks: bool) -> dict[str, Any]:
    """What a session and a single response have in common, as far as it is given. Raises RequestError."""
    found: dict[str, Any] = {}
    if (instructions := fields.text("instructions")) is not None:
        found["instructions"] = instructions
    if modalities := fields.texts("output_modalities"):
        if not set(modalities) <= {"text", "audio"}:
            raise fields.wrong("output_modalities", '["text"] or ["audio"]')
        found["output_modalities"] = ["audio"] if speaks and "audio" in modalities else ["text"]
    if fields.raw("tools") is not None:
        found["tools"] = [
            tool.values
            for tool in fields.objects("tools")
            if tool.text("type", "function") == "function" and tool.text("name")
        ]
    choice = fields.raw("tool_choice")
    if choice is not None:
        named = isinstance(choice, dict) and isinstance(choice.get("name"), str)
        if choice not in ("auto", "none", "required") and not named:
            raise fields.wrong("tool_choice", "auto, none, required or a function")
        found["tool_choice"] = choice
    most = fields.raw("max_output_tokens")
    if most is not None:
        found["max_output_tokens"] = most if most == "inf" else fields.whole("max_output_tokens", 1, 1 << 20)
    if (temperature := fields.number("temperature", 0, 2)) is not None:
        found["temperature"] = temperature
    return found


def _format(fields: Fields, speaking: bool) -> dict[str, Any]:
    found = fields.object("format")
    if found is None:
        return {}
    kind = found.text("type", "audio/pcm", _FORMATS[:1] if speaking else _FORMATS) or "audio/pcm"
    rate = found.whole("rate", 8000, 48000, 24000)
    return {"format": {"type": kind, "rate": rate} if kind == "audio/pcm" else {"type": kind}}


def _change_hearing(values: dict[str, Any], fields: Fields) -> None:
    values |= _format(fields, speaking=False)
    if "transcription" in fields.values:
        wanted = fields.object("transcription")
        values["transcription"] = wanted and {
            name: value for name in ("model", "language", "prompt") if (value := wanted.text(name)) is not None
        }
    if "turn_detection" in fields.values:
        detection = fields.object("turn_detection")
        values["turn_detection"] = detection and _detection(detection, values["turn_detection"])


def _detection(fields: Fields, before: dict[str, Any] | None) -> dict[str, Any]:
    kind = fields.text("type", "server_vad", ("server_vad", "semantic_vad"))
    reacts = {
        name: fields.flag(name, True if before is None else before[name])
        for name in ("create_response", "interrupt_response")
    }
    if kind == "semantic_vad":
        return {"type": kind, "eagerness": fields.text("eagerness", "auto", tuple(_EAGERNESS)) or "auto", **reacts}
    return {
        "type": kind,
        "threshold": fields.number("threshold", 0, 1, 0.5),
        "idle_timeout_ms": fields.whole("idle_timeout_ms", 5000, 30_000),
        "prefix_padding_ms": fields.whole("prefix_padding_ms", 0, 5000, 300),
        "silence_duration_ms": fields.whole("silence_duration_ms", 100, 10_000, round(SILENCE * 1000)),
        **reacts,
    }


def _change_speaking(values: dict[str, Any], fields: Fields) -> None:
    values |= _format(fields, speaking=True)
    voice = fields.raw("voice")
    if isinstance(voice, str):
        values["voice"] = voice
    fields.number("speed", 0.25, 1.5)
