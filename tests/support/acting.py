"""A model that knows its part of the demonstration, and recordings for it: what is heard tells which of them is spoken."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edge_gemma as eg
from edge_gemma.chat.calls import MARKERS, format_call
from support.paths import DATA

RATE = 16000

PIECE: list[dict[str, Any]] = [
    {
        "language": "en",
        "text": "Turn on the kitchen light.",
        "seconds": 1.2,
        "translations": {"es": "Enciende la luz de la cocina.", "de": "Schalte das Licht in der Küche ein."},
        "call": {"name": "switch", "arguments": {"room": "kitchen", "thing": "light", "on": True}},
        "reply": "The kitchen light is on.",
    },
    {
        "language": "es",
        "text": "Pon las luces del salón en azul.",
        "seconds": 1.5,
        "translations": {
            "en": "Set the living room lights to blue.",
            "de": "Stelle die Lichter im Wohnzimmer auf blau.",
        },
        "call": {"name": "set_color", "arguments": {"room": "living room", "color": "blue"}},
        "reply": "Luces del salón: azul.",
    },
    {
        "language": "de",
        "text": "Danke.",
        "seconds": 0.8,
        "translations": {"en": "Thank you.", "es": "Gracias."},
        "call": None,
        "reply": "Gern geschehen.",
    },
]


def record(folder: Path, piece: Sequence[dict[str, Any]] = PIECE) -> Path:
    """Writes the recordings, each of a loudness of its own, and their list."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, line in enumerate(piece):
        name = f"{number:02}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((sound(number, line["seconds"]) * 32767).astype("<i2").tobytes())
        entries.append(
            {"file": name, **{key: line[key] for key in ("language", "text", "translations", "call", "reply")}}
        )
    (folder / "utterances.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return folder


def sound(number: int, seconds: float) -> np.ndarray:
    """(n,) float32, as loud as the number says, with a breath at both ends."""
    loud = np.random.default_rng(number).uniform(-1, 1, round(seconds * RATE)).astype(np.float32)
    loud *= 0.1 * (number + 1) / np.abs(loud).max()
    breath = np.zeros(RATE // 20, np.float32)
    return np.concatenate([breath, loud, breath])


class Actor:
    """The model. What it says: `script(role, line, share)`, where the role is "call", "reply", "asr" or the name of a
    language to translate into, `line` is one of the piece, and `share` how much of it has been heard, 0 to 1."""

    has_audio, path, threads = True, Path("script.gguf"), 1

    def __init__(self, piece: Sequence[dict[str, Any]] = PIECE, script: Any = None) -> None:
        with eg.Model.load(DATA / "e2b-Q4_0.gguf") as model:
            self.tokenizer: Any = _Spelling(model.tokenizer)
        self.piece, self.script = list(piece), script or by_heart
        self.config = type("Config", (), {"context_length": 8192, "name": "Actor", "parameters": 1000})
        self.sessions: list[Part] = []

    def session(self, **_: Any) -> Part:
        return Part(self)

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def by_heart(role: str, line: dict[str, Any], share: float) -> str:
    """The piece as it is written."""
    words = line["text"].split()
    heard = line["text"] if share > 0.9 else " ".join(words[: int(share * len(words))])
    if role == "asr":
        return heard
    if role == "call":
        return call(**line["call"]) if line["call"] else line["reply"]
    if role == "reply":
        return line["reply"]
    codes = {"English": "en", "Spanish": "es", "German": "de"}
    return f"{heard}\n{role}: {line['translations'][codes[role]]}"


def call(name: str, arguments: dict[str, Any]) -> str:
    """A call as models write it, and the token after which they wait."""
    return format_call(name, arguments) + "<|tool_response>"


class _Spelling:
    """A tokenizer that outlives its model: what it has spelled, it can read."""

    def __init__(self, tokenizer: Any) -> None:
        self._markers = {}
        for marker in MARKERS:
            ids = tokenizer.encode(marker, special=True)
            if len(ids) == 1:
                self._markers[marker] = ids[0]
        self._texts = {number: marker for marker, number in self._markers.items()}
        self.vocab_size, self.chat_template = 0x11000, None

    def find(self, text: str) -> int | None:
        return self._markers.get(text)

    def encode(self, text: str, special: bool = True, bos: bool = False) -> list[int]:
        ids: list[int] = []
        while text:
            marker = next((marker for marker in self._markers if special and text.startswith(marker)), None)
            ids.append(self._markers[marker] if marker else 1000 + ord(text[0]))
            text = text[len(marker or text[0]) :]
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        return "".join(self._texts.get(n, "") * special if n < 1000 else chr(n - 1000) for n in ids if n >= 0)


class Part:
    """A session. Knows just what the demonstration uses."""

    def __init__(self, model: Actor, other: Part | None = None) -> None:
        self.model, self.closed, self.last_stop = model, False, ""
        self.ids: list[int] = list(other.ids) if other else []
        self.heard, self.loudest = (other.heard, other.loudest) if other else (0, 0.0)
        self.audio = self if other and other.audio else None
        self.drawn = 0
        model.sessions.append(self)

    # ---- as sessions have it ----

    def fork(self) -> Part:
        return Part(self.model, self)

    def stream_audio(self) -> Part:
        self.heard, self.loudest, self.audio = 0, 0.0, self
        return self

    def push(self, samples: np.ndarray) -> None:
        assert self.audio and not self.closed
        # Blocks of the room's noise are no speech.
        self.heard += int(np.count_nonzero(np.abs(samples) > 0.01))
        self.loudest = max(self.loudest, float(np.abs(samples).max(initial=0)))

    def finish(self) -> None:
        self.audio = None
        self.ids.append(-1)

    def feed_tokens(self, ids: Sequence[int]) -> None:
        assert not self.audio and not self.closed
        self.ids += ids

    def rewind(self, n: int) -> None:
        self.ids = self.ids[: len(self.ids) - n]

    def logits(self) -> np.ndarray:
        return self._row(len(self.ids))

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        start = len(self.ids)
        self.ids += ids
        return np.stack([self._row(start + n + 1) for n in range(len(ids))])

    def generate(self, max_tokens: int, temperature: float = 0.0, **_: Any) -> Iterator[str]:
        token = self._next(len(self.ids))
        self.ids.append(token)
        self.drawn += 1
        stops = {"<turn|>": "turn", "<|tool_response>": "tool_response"}
        self.last_stop = stops.get(self.model.tokenizer.decode([token], special=True), "length")
        return iter([])

    @property
    def tokens(self) -> list[int]:
        return list(self.ids)

    @property
    def stats(self) -> dict[str, float]:
        return {"decode_tokens": self.drawn, "decode_seconds": self.drawn / 50}

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    # ---- the part ----

    def _row(self, at: int) -> np.ndarray:
        row = np.zeros(self.model.tokenizer.vocab_size + 1000, np.float32)
        row[self._next(at)] = 1
        return row

    def _next(self, at: int) -> int:
        """The token at that place of the timeline: the answer goes on as the script says."""
        tokenizer = self.model.tokenizer
        text = tokenizer.decode(self.ids, special=True)
        answered = "<tool_response|>" in text
        opening = tokenizer.encode("<tool_response|>" if answered else "<|turn>model\n")
        begins = [n for n in range(len(self.ids)) if self.ids[n : n + len(opening)] == opening]
        start = begins[-1] + len(opening)
        says = tokenizer.encode(self.model.script(self._role(text, answered), self._line(), self._share()))
        return says[at - start] if at - start < len(says) else tokenizer.find("<turn|>")

    def _role(self, text: str, answered: bool) -> str:
        if "declaration:switch" in text:
            return "reply" if answered else "call"
        if "then translate it into " in text or "translat" in text:
            return next(name for name in ("English", "Spanish", "German") if f"'{name}: '" in text)
        return "asr"

    def _line(self) -> dict[str, Any]:
        return self.model.piece[max(0, round(self.loudest * 10) - 1)]

    def _share(self) -> float:
        return min(1.0, self.heard / RATE / self._line()["seconds"] * 1.25)
