"""What the tests of turns and listening share: sound, a detector and a source by script, and a model that knows its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edge_gemma as eg
from edge_gemma.audio.source import Source
from edge_gemma.speech.prompts import asr_prompt, speech_turn
from support.paths import DATA

MODEL, MMPROJ = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"
RATE = 16000


class Loud:
    """A detector for which speech is what is loud."""

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


class Scripted(Source):
    """Sound in blocks, each followed by moments without, in which there is time for other work. Runs on its own clock."""

    live = True

    def __init__(self, samples: np.ndarray, block: int = 512, moments: int = 0) -> None:
        super().__init__()
        self._script: Iterator[np.ndarray] = self._pieces(samples, block, moments)
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
        return next(self._script, None)

    def clock(self) -> float:
        """As if all work took no time."""
        return 100 + self.given / RATE


def base_and_closing(model: eg.Model) -> tuple[eg.Session, list[int]]:
    """A session that has read the request, and the tokens between sound and answer."""
    before, after = speech_turn(model.tokenizer, asr_prompt("en"))
    base = model.session(context=1024)
    base.feed_tokens(before)
    return base, after


class Player:
    """A session of a model that says `script(seconds heard)`. Knows just what turns and listeners use."""

    def __init__(self, model: Players, other: Player | None = None) -> None:
        self.model, self.closed, self.last_stop = model, False, ""
        self.heard = other.heard if other else 0
        self.ids = list(other.ids) if other else []
        self.answer_at = other.answer_at if other else None
        self.audio = self if other and other.audio else None
        model.sessions.append(self)

    def fork(self) -> Player:
        return Player(self.model, self)

    def stream_audio(self) -> Player:
        self.heard, self.audio = 0, self
        return self

    def push(self, samples: np.ndarray) -> None:
        assert self.audio
        self.heard += len(samples)

    def finish(self) -> None:
        self.audio = None
        self.ids.append(-1)

    def feed_tokens(self, ids: Sequence[int]) -> None:
        closing = self.model.closing
        if self.ids and self.ids[-1] == -1:
            assert list(ids[: len(closing)]) == closing
            self.answer_at = len(self.ids) + len(closing)
        self.ids += ids

    def _next(self, position: int) -> int:
        lines = self.model.lines(self.heard / RATE)
        at = position - self.answer_at
        return lines[at] if at < len(lines) else self.model.stop

    def logits(self) -> np.ndarray:
        return np.eye(1, self.model.tokenizer.vocab_size, self._next(len(self.ids)), dtype=np.float32)[0]

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        self.model.checked += len(ids)
        start = len(self.ids)
        self.ids += ids
        size = self.model.tokenizer.vocab_size
        return np.stack([np.eye(1, size, self._next(start + n + 1), dtype=np.float32)[0] for n in range(len(ids))])

    def rewind(self, n: int) -> None:
        del self.ids[len(self.ids) - n :]

    def generate(self, max_tokens: int, temperature: float) -> Iterator[str]:
        assert (max_tokens, temperature) == (1, 0)
        self.model.drawn += 1
        token = self._next(len(self.ids))
        self.ids.append(token)
        self.last_stop = "turn" if token == self.model.stop else "length"
        return iter([])

    @property
    def tokens(self) -> list[int]:
        return self.ids

    def close(self) -> None:
        self.closed = True


class Players:
    """The model that goes with it."""

    has_audio, path = True, Path("script.gguf")

    def __init__(self, tokenizer: Any, script: Callable[[float], str]) -> None:
        self.tokenizer, self.script = tokenizer, script
        self.config = type("Config", (), {"context_length": 4096})
        self.closing = speech_turn(tokenizer, asr_prompt("en"))[1]
        self.stop = tokenizer.find("<turn|>")
        self.sessions: list[Player] = []
        self.checked = self.drawn = 0

    def lines(self, seconds: float) -> list[int]:
        return self.tokenizer.encode(self.script(seconds), special=False)

    def session(self, **_: Any) -> Player:
        return Player(self)
