"""`edge-gemma assistant --check`: tries everything that the assistant needs, and says what to mend.

Each check returns a `Finding`. They run one after the other, so that a device is never opened twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...assistant.earcons import earcon
from ...assistant.interface import Voice
from ...assistant.toolbox import Toolbox
from ...assistant.wake import WakeDetector
from ...audio.source import SAMPLE_RATE, Source
from ...engine.memory import available
from ...errors import EdgeGemmaError

__all__ = [
    "Finding",
    "check_echo",
    "check_machine",
    "check_memory",
    "check_microphone",
    "check_model",
    "check_speaker",
    "check_tools",
    "check_wake",
]

_LISTEN = 3.0  # seconds of the microphone
_SILENT, _QUIET, _LOUD, _CLIPPED = -75.0, -55.0, -3.0, 0.001  # dB of full scale, and a share of samples
_HOT = 80.0  # degrees at which a Raspberry Pi 5 becomes slower
_SPARE = 300 * 2**20  # bytes that the rest of the system needs


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        name: what was checked.
        grade: "good", "poor" (it works, and could work better) or "bad" (it does not work).
        text: what was found.
        advice: what to do about it; "" for nothing.
    """

    name: str
    grade: Literal["good", "poor", "bad"]
    text: str
    advice: str = ""


def check_microphone(open_microphone: Callable[[], Source]) -> tuple[Finding, NDArray[np.float32]]:
    """Records some seconds. Returns the finding and the (n,) samples."""
    nothing = np.zeros(0, np.float32)
    try:
        with contextlib.closing(open_microphone()) as microphone:
            parts, until = [nothing], time.monotonic() + _LISTEN
            while (left := until - time.monotonic()) > 0:
                block = microphone.read(0.5, left)
                if block is None:
                    break
                parts.append(block)
            name, lost = microphone.name, microphone.lost
    except EdgeGemmaError as error:
        return Finding("microphone", "bad", str(error)), nothing
    samples = np.concatenate(parts)
    if len(samples) < SAMPLE_RATE:
        return Finding("microphone", "bad", f"{name} has given no sound.", "Check that it is connected."), samples
    return _judged(name, samples, lost), samples


def _judged(name: str, samples: NDArray[np.float32], lost: float) -> Finding:
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    levels = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    noise, loudest = float(np.percentile(levels, 10)), float(levels.max())
    text = f"{name}: noise at {noise:.0f} dB, loudest at {loudest:.0f} dB of full scale."
    if loudest < _SILENT:
        advice = (
            "It gives nothing but silence: switch it on, raise its level in alsamixer, and let this program record."
        )
        return Finding("microphone", "bad", text, advice)
    if np.mean(np.abs(samples) > 0.99) > _CLIPPED:
        return Finding("microphone", "poor", text, "It is too loud, and distorts: lower its level in alsamixer (F4).")
    if loudest < _QUIET:
        return Finding(
            "microphone", "poor", text, "If you have spoken, it is too quiet: raise its level in alsamixer (F4)."
        )
    if noise > -40:
        return Finding(
            "microphone", "poor", text, "The room, or the device, is noisy: the end of speech is hard to find."
        )
    if lost > 0:
        return Finding(
            "microphone", "poor", text, f"{lost:.1f} s of sound were lost: the machine is too slow or too busy."
        )
    return Finding("microphone", "good", text)


def check_speaker(open_speaker: Callable[[], Any] | None, voice: Voice | None) -> Finding:
    """Plays an earcon and a sentence."""
    if open_speaker is None:
        return Finding("loudspeaker", "poor", "There is none: replies are only shown.")
    try:
        with contextlib.closing(open_speaker()) as speaker:
            speaker.write(earcon("wake", speaker.rate))
            if voice:
                for block in voice.speak("This is how I sound.", "en"):
                    speaker.write(block)
            late = time.monotonic() + 15
            while speaker.pending > 0 and time.monotonic() < late and not speaker.gone:
                time.sleep(0.02)
            if speaker.gone or time.monotonic() >= late:
                return Finding("loudspeaker", "bad", f"{speaker.name} does not play.", "Check that it is connected.")
            text = f"{speaker.name}: played, {1000 * speaker.latency:.0f} ms behind."
            return Finding("loudspeaker", "good", text, "" if voice else "There is no voice: replies are only shown.")
    except EdgeGemmaError as error:
        return Finding("loudspeaker", "bad", str(error))


def check_wake(open_wake: Callable[[], WakeDetector | None], samples: NDArray[np.float32]) -> Finding:
    """Hears the samples of the microphone, in which nobody was asked to say the word."""
    try:
        wake = open_wake()
    except EdgeGemmaError as error:
        return Finding("wake word", "bad", str(error))
    if wake is None:
        return Finding("wake word", "good", "None is needed.")
    began = time.perf_counter()
    heard = [word for at in range(0, len(samples), 320) if (word := wake.push(samples[at : at + 320]))]
    text = f"listens for {', '.join(wake.words)}."
    if len(samples):
        share = (time.perf_counter() - began) / (len(samples) / SAMPLE_RATE)
        text = f"{text[:-1]}; {100 * share:.1f}% of a core."
    return Finding("wake word", "good", f"{text} It was heard." if heard else text)


def check_echo(open_echo: Callable[[], Any]) -> Finding:
    """Opens the echo canceller."""
    try:
        if open_echo() is None:
            return Finding(
                "echo", "good", "Not cancelled: the wake word or a key interrupts an answer, speech does not."
            )
    except EdgeGemmaError as error:
        return Finding("echo", "bad", str(error))
    return Finding("echo", "good", "Cancelled: speech interrupts an answer.")


def check_tools(open_tools: Callable[[], Toolbox]) -> Iterator[Finding]:
    """Loads the tools, and connects to their servers."""
    try:
        with contextlib.closing(open_tools()) as tools:
            for problem in tools.problems:
                yield Finding(
                    "tools", "poor", problem, "The rest works without; it is tried again while the assistant runs."
                )
            names = [tool.name for tool in tools.tools]
            yield Finding("tools", "good", f"{len(names)}: {', '.join(names)}." if names else "none.")
    except EdgeGemmaError as error:
        yield Finding("tools", "bad", str(error))


def check_model(model: Any, toy: bool) -> Finding:
    """Looks whether the model hears, and how fast it is."""
    if not model.has_audio:
        return Finding(
            "model", "bad", f"{model.path.name} has no audio encoder.", "Give its encoders with --mmproj FILE."
        )
    with contextlib.closing(model.session(context=256)) as session:
        session.feed_tokens(model.tokenizer.encode("The quick brown fox jumps over the lazy dog.", bos=True))
        session.next()
        began = time.perf_counter()
        for _ in range(5):
            session.next()
        speed = 5 / (time.perf_counter() - began)
    text = f"{model.path.name}: {speed:.1f} tokens a second."
    if toy:
        return Finding(
            "model", "poor", text, "This is the toy model, which knows commands to a home: `edge-gemma pull e2b`."
        )
    if speed < 4:
        return Finding(
            "model", "poor", text, "Speech is about as fast as this: take a smaller model, or close other programs."
        )
    return Finding("model", "good", text)


def check_memory(needed: int) -> Finding:
    """Compares what the model needs with what the machine has."""
    text = f"the assistant needs {needed / 2**30:.1f} GB"
    free = available()
    if free is None:
        return Finding("memory", "good", f"{text}.")
    text += f", and {free / 2**30:.1f} GB are free."
    if needed > free:
        return Finding("memory", "bad", text, "Take a smaller model, or give --memory-limit.")
    if needed + _SPARE > free:
        return Finding(
            "memory", "poor", text, "That is little for the rest of the system; --memory-limit keeps a bound."
        )
    return Finding("memory", "good", text)


def check_machine() -> Iterator[Finding]:
    """Temperature, throttling, and the rights to use sound devices, where this machine tells them."""
    with contextlib.suppress(OSError, ValueError):
        degrees = int(Path("/sys/class/thermal/thermal_zone0/temp").read_text()) / 1000
        if degrees >= _HOT:
            advice = "It becomes slower when hot: give it a cooler."
            yield Finding("temperature", "poor", f"{degrees:.0f} degrees.", advice)
        else:
            yield Finding("temperature", "good", f"{degrees:.0f} degrees.")
    sound = Path("/dev/snd")
    if sound.is_dir() and not os.access(sound / "timer", os.R_OK) and not shutil.which("pw-cli"):
        advice = "Join the group audio: `sudo usermod -aG audio $USER`, and log in again."
        yield Finding("rights", "poor", "This user may not use the sound devices.", advice)
