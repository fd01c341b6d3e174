"""The dialogue of the demonstration's tests: utterances with recordings of their own, and a scripted model that answers them.

Recordings are told apart by their loudness: that of utterance 0 is 0.1, of utterance 1 it is 0.2, and so on.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gemma.chat.calls import format_call
from support.scripted import RATE, ScriptedModel, ScriptedSession

Utterance = dict[str, Any]
AnswerTo = Callable[[str, Utterance, float], str]

DIALOGUE: list[Utterance] = [
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


def write_recordings(folder: Path, dialogue: Sequence[Utterance] = DIALOGUE) -> Path:
    """Writes the recordings and their list, as the folder of the package has them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, utterance in enumerate(dialogue):
        name = f"{number:02}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((recording(number, utterance["seconds"]) * 32767).astype("<i2").tobytes())
        entries.append(
            {"file": name, **{key: utterance[key] for key in ("language", "text", "translations", "call", "reply")}}
        )
    (folder / "utterances.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return folder


def recording(number: int, seconds: float) -> NDArray[np.float32]:
    """(n,): the recording of an utterance, with 50 ms of silence at both ends. Its loudness varies, as that of speech does."""
    loud = np.random.default_rng(number).uniform(-1, 1, round(seconds * RATE)).astype(np.float32)
    loud *= np.where(np.arange(len(loud)) // (RATE // 10) % 2, np.float32(0.35), np.float32(1))
    loud *= 0.1 * (number + 1) / np.abs(loud).max()
    silence = np.zeros(RATE // 20, np.float32)
    return np.concatenate([silence, loud, silence])


def dialogue_model(answer: AnswerTo | None = None, dialogue: Sequence[Utterance] = DIALOGUE) -> ScriptedModel:
    """A model that answers the utterances.

    `answer(kind, utterance, heard)` tells what it says: the kind is "call" (the first answer to a command), "reply" (the
    answer after the results of tools), "transcript", or the name of a language to transcribe and translate into; `heard` is
    how much of the utterance was heard, 0 to 1. None for `expected_answer`.
    """
    chosen = answer or expected_answer

    def script(session: ScriptedSession) -> str:
        kind = _kind(session.text)
        if kind in ("call", "reply"):  # the words alone are answered
            said = session.text.rpartition("<|turn>user\n")[2].partition("<turn|>")[0]
            utterance = next((line for line in dialogue if line["text"].startswith(said)), dialogue[0])
            return chosen(kind, utterance, len(said.split()) / len(utterance["text"].split()))
        # Blocks of the room's noise are not part of the utterance.
        loud = np.abs(session.heard)
        utterance = dialogue[max(0, round(float(loud.max(initial=0)) * 10) - 1)]
        seconds = np.count_nonzero(loud > 0.01) / RATE
        return chosen(kind, utterance, min(1.0, seconds / utterance["seconds"] * 1.25))

    return ScriptedModel(script, context_length=8192)


def expected_answer(kind: str, utterance: Utterance, heard: float) -> str:
    """What the dialogue says."""
    words: list[str] = utterance["text"].split()
    transcript = str(utterance["text"]) if heard > 0.9 else " ".join(words[: int(heard * len(words))])
    if kind == "transcript":
        return transcript
    if kind == "call" and utterance["call"]:
        return call_text(**utterance["call"])
    if kind in ("call", "reply"):
        return str(utterance["reply"])
    codes = {"English": "en", "Spanish": "es", "German": "de"}
    return f"{transcript}\n{kind}: {utterance['translations'][codes[kind]]}"


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A call as models write it, and the token after which they wait for the result."""
    return format_call(name, arguments) + "<|tool_response>"


def _kind(text: str) -> str:
    """What the prompt asks for."""
    if "declaration:switch" in text:
        return "reply" if "<tool_response|>" in text else "call"
    if "translat" in text:
        return next(name for name in ("English", "Spanish", "German") if f"'{name}: '" in text)
    return "transcript"
