"""Measures what batches save when long recordings are transcribed, on a model whose weights may be random.

    python tools/archive_speed.py MODEL MMPROJ --minutes 60 --batch 1 8 --tokens 80
    python tools/archive_speed.py toy --minutes 10

The sound is the demo's commands one after the other, with pauses, noise and tones between them. Each round transcribes it
once for every batch size, in another order each time, and the texts must be equal. --tokens bounds the answers: random
weights do not end them. Then they are drawn with chance: the most probable tokens of random weights repeat themselves, and an
answer that does so is asked for twice.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import edge_gemma as eg
from edge_gemma.audio.source import SAMPLE_RATE, Source, load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.memory import format_bytes, resident


class Hour(Source):
    """Commands, a few to a segment, and what is between them. Made while it is read."""

    def __init__(self, minutes: float, seed: int = 0) -> None:
        super().__init__()
        self.duration = 60.0 * minutes
        self._pieces = self._make(np.random.default_rng(seed))

    def _make(self, random: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        left = round((self.duration or 0.0) * SAMPLE_RATE)
        sounds = [load_audio(utterance.path) for utterance in bundled()]
        while left > 0:
            for sound in random.permutation(len(sounds))[: random.integers(3, 9)]:
                loud = sounds[sound] * random.uniform(0.4, 1.0)
                yield loud.astype(np.float32)
                yield self._noise(random, 0.3)
                left -= len(loud) + round(0.3 * SAMPLE_RATE)
            seconds = float(random.uniform(1, 4))
            yield self._tones(random, seconds) if random.random() < 0.2 else self._noise(random, seconds)
            left -= round(seconds * SAMPLE_RATE)

    @staticmethod
    def _noise(random: np.random.Generator, seconds: float) -> NDArray[np.float32]:
        return (random.standard_normal(round(seconds * SAMPLE_RATE)) * 5e-4).astype(np.float32)

    @staticmethod
    def _tones(random: np.random.Generator, seconds: float) -> NDArray[np.float32]:
        t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        chord = sum(np.sin(2 * np.pi * f * t) for f in random.uniform(100, 800, 3))
        return (0.02 * chord).astype(np.float32)

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        return next(self._pieces, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="GGUF file, or a name such as e2b or toy")
    parser.add_argument("mmproj", nargs="?", help="GGUF file of the encoders")
    parser.add_argument("--minutes", type=float, default=60.0, help="of sound (default: 60)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="sizes to compare (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, help="of the model (default: the fast cores)")
    parser.add_argument("--tokens", type=int, help="the most tokens of an answer (default: by its length)")
    parser.add_argument("--detector", default="auto", help="voice activity detector (default: auto)")
    args = parser.parse_args()
    took: dict[int, list[float]] = {size: [] for size in args.batch}
    texts: set[str] = set()
    orders = itertools.cycle(itertools.permutations(args.batch))
    with eg.Model.load(args.model, mmproj=args.mmproj, threads=args.threads) as model:
        for _ in range(args.rounds):
            for size in next(orders):
                began, words, number = time.perf_counter(), [], 0
                found = eg.transcribe_segments(
                    Hour(args.minutes),
                    model,
                    batch=size,
                    max_tokens=args.tokens,
                    sampling=args.tokens and eg.Sampling(seed=0),
                    detector=args.detector,
                )
                for segment in found:
                    words.append(segment.text)
                    number += 1
                took[size].append(time.perf_counter() - began)
                texts.add("\n".join(words))
                memory = format_bytes(resident() or 0)
                print(f"batch {size:3}: {took[size][-1]:8.1f} s, {number} segments, {memory} resident", flush=True)
    base = statistics.median(took[args.batch[0]])
    print(f"texts {'are equal' if len(texts) == 1 else 'DIFFER'}")
    for size in args.batch:
        median = statistics.median(took[size])
        rate = f"{60 * args.minutes / median:.1f} times real time"
        print(f"batch {size:3}: {rate}, {base / median:.2f} times as fast as batch {args.batch[0]}")
    raise SystemExit(len(texts) != 1)


if __name__ == "__main__":
    main()
