"""What the tests of turns and listening share: sound, a voice detector, and a source that is read on its own clock."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import edge_gemma as eg
from edge_gemma.audio.source import Source
from edge_gemma.speech.prompts import asr_prompt, speech_turn
from support.paths import DATA
from support.scripted import RATE

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"


class LoudnessDetector:
    """A voice detector for which all loud sound is speech."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        joined = np.concatenate([self._rest, samples])
        blocks = joined[: len(joined) // 512 * 512].reshape(-1, 512)
        self._rest = joined[blocks.size :]
        return (np.abs(blocks).mean(axis=1) > 0.01).astype(np.float32)

    def reset(self) -> None:
        self._rest = self._rest[:0]


def sound(*loud: tuple[float, float], seconds: float, seed: int = 0) -> np.ndarray:
    """Faint noise, loud between the given seconds: (n,) float32."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * 1e-3
    for start, end in loud:
        samples[round(start * RATE) : round(end * RATE)] *= 100
    return samples


class ScriptedSource(Source):
    """Sound in blocks, each followed by moments without, in which there is time for other work. Runs on its own clock."""

    live = True

    def __init__(self, samples: np.ndarray, block: int = 512, moments: int = 0) -> None:
        super().__init__()
        self._given_pieces: Iterator[np.ndarray] = self._pieces(samples, block, moments)
        self.given = 0

    def _pieces(self, samples: np.ndarray, block: int, moments: int) -> Iterator[np.ndarray]:
        nothing = samples[:0]
        for at in range(0, len(samples), block):
            piece = samples[at : at + block]
            self.given += len(piece)
            yield piece
            for _ in range(1 + moments):  # the first ends the read that brings the piece
                yield nothing

    def next_block(self, timeout: float | None) -> np.ndarray | None:
        return next(self._given_pieces, None)

    def clock(self) -> float:
        """As if all work took no time."""
        return 100 + self.given / RATE


def base_and_closing(model: eg.Model) -> tuple[eg.Session, list[int]]:
    """A session that has read the request, and the tokens between sound and answer."""
    before, after = speech_turn(model.tokenizer, asr_prompt("en"))
    base = model.session(context=1024)
    base.feed_tokens(before)
    return base, after
