"""Measures echo cancellers on synthetic echo: what is left of the assistant's voice, what becomes of the speaker's, the cost.

    python tools/echo.py [webrtc] [livekit]

espeak-ng speaks the assistant's sentences. Their echo passes a loudspeaker that distorts, a room of 0.25 s reverberation, and a
delay of 80 ms. Every fourth of the time somebody else speaks as well. The first five seconds, in which a canceller learns the
room, are left out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from wake_word import SAMPLE_RATE, Samples, loudness, noise, say

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_gemma.assistant.echo import KINDS, EchoFilter, canceller
from edge_gemma.audio.vad import BLOCK, detector

SENTENCES = (
    "The light in the kitchen is on, and the blinds in the bedroom are closed.",
    "Tomorrow it will be cloudy in the morning and sunny in the afternoon, with eighteen degrees.",
    "Your timer for the noodles has four minutes and twenty seconds left.",
    "I have added milk, bread and two lemons to the list.",
)
REQUESTS = ("No, I meant the office.", "Please stop now.", "And what about Sunday?", "Turn it off again.")
STEP = SAMPLE_RATE // 50
TURNS = 96


def scene(chance: np.random.Generator) -> tuple[Samples, Samples, Samples, NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) samples each: what is played, its echo, the speaker; and where only the assistant speaks, or both do."""
    far, near, alone, both = [], [], [], []
    for turn in range(TURNS):
        spoken = say(SENTENCES[turn % 4], "en-us+f3", 160, 50)
        spoken = spoken * np.float32(0.1 / loudness(spoken))
        gap = np.zeros(SAMPLE_RATE // 2, np.float32)
        other = np.zeros(len(spoken), np.float32)
        if turn % 4 == 3:
            request = say(REQUESTS[turn // 4 % 4], "en-gb+m3", 150, 45)[: len(spoken)]
            other[: len(request)] = request * np.float32(0.1 / loudness(request))
        far += [spoken, gap]
        near += [other, gap]
        alone += [np.full(len(spoken), turn % 4 != 3), np.zeros(len(gap), bool)]
        both += [np.full(len(spoken), turn % 4 == 3), np.zeros(len(gap), bool)]
    played, speaker = np.concatenate(far), np.concatenate(near)
    distorted = np.tanh(2.0 * played) / 2
    room = chance.standard_normal(SAMPLE_RATE // 4) * np.exp(-np.arange(SAMPLE_RATE // 4) / (0.036 * SAMPLE_RATE))
    room[0] = 2.0
    room *= 0.8 / np.sqrt(np.sum(np.square(room)))
    size = 1 << int(np.ceil(np.log2(len(played) + len(room))))
    echo = np.fft.irfft(np.fft.rfft(distorted, size) * np.fft.rfft(room, size), size)[: len(played)]
    echo = np.concatenate([np.zeros(round(0.08 * SAMPLE_RATE)), echo])[: len(played)].astype(np.float32)
    return played, echo, speaker, np.concatenate(alone), np.concatenate(both)


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio + 1e-12))


def likeness(found: Samples, wanted: Samples) -> float:
    """The scale-invariant ratio of signal and distortion, in decibels."""
    scale = float(found @ wanted) / float(wanted @ wanted + 1e-12)
    return decibels(float(np.sum(np.square(scale * wanted))) / float(np.sum(np.square(found - scale * wanted)) + 1e-12))


def aligned(found: Samples, wanted: Samples) -> Samples:
    """The samples without the delay of the canceller, at most 20 ms."""
    best = max(range(SAMPLE_RATE // 50), key=lambda shift: float(found[shift:] @ wanted[: len(wanted) - shift]))
    return np.concatenate([found[best:], np.zeros(best, np.float32)])


def interruptions(samples: Samples, where: NDArray[np.bool_]) -> int:
    """In how many of the pieces of time a detector of speech finds somebody."""
    rate = detector("auto")
    speech = rate.push(samples) >= 0.6
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(int), [0]])))
    found = 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start >= 5 * SAMPLE_RATE:
            flags = speech[start // BLOCK : end // BLOCK]
            found += any(sum(flags[at : at + 6]) >= 3 for at in range(max(1, len(flags) - 5)))
    return found


def pieces(where: NDArray[np.bool_]) -> int:
    """How many pieces of time there are."""
    return int(np.sum(np.diff(np.concatenate([[0], where.astype(int)])) == 1))


def main() -> None:
    """Prints a table."""
    chance = np.random.default_rng(3)
    played, echo, speaker, alone, both = scene(chance)
    recorded = echo + speaker + noise(len(echo), chance) * np.float32(0.001)
    later = np.arange(len(echo)) >= 5 * SAMPLE_RATE
    talking = (np.abs(speaker) > 0.003) & later
    silent, both = alone & later, both & later

    def row(name: str, samples: Samples, removed: float, share: str) -> str:
        own = f"{interruptions(samples, silent)} of {pieces(silent)}"
        others = f"{interruptions(samples, both)} of {pieces(both)}"
        kept = likeness(aligned(samples, speaker)[talking], speaker[talking])
        return f"| {name} | {removed:.1f} dB | {kept:.1f} dB | {own} | {others} | {share} |"

    print("| canceller | echo removed | speaker's likeness | interrupts itself | is interrupted | of a core |")
    print("| --- " * 6 + "|")
    print(row("none", recorded, 0.0, ""))
    for kind in sys.argv[1:] or KINDS:
        cleaner, parts = EchoFilter(canceller(kind)), []
        began = time.thread_time()
        for at in range(0, len(recorded), STEP):
            cleaner.played((np.clip(played[at : at + STEP], -1, 1) * 32767).astype(np.int16))
            parts.append(cleaner.push(recorded[at : at + STEP]))
        share = (time.thread_time() - began) / (len(recorded) / SAMPLE_RATE)
        cleaned = np.concatenate(parts)
        cleaned = np.concatenate([cleaned, np.zeros(len(recorded) - len(cleaned), np.float32)])
        removed = decibels(float(np.mean(np.square(recorded[silent]))) / float(np.mean(np.square(cleaned[silent]))))
        print(row(kind, cleaned, removed, f"{100 * share:.1f}%"))


if __name__ == "__main__":
    main()
