"""Measures the error that a smaller KV cache causes: logits with f16 and q8, compared with those of f32.

usage: python tools/kv_loss.py MODEL.gguf [--tokens 1024] [--text FILE]

Feeds the same tokens (random ones, or those of a text) to a session of each type and reads the logits of every position.
Prints for f16 and q8 the rms of the difference over the rms of the logits, the mean Kullback-Leibler divergence from f32 in
nats, and the percentage of positions whose most probable token is the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_gemma import Model

STEP = 64  # positions whose logits are in memory at a time


def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities of rows of logits."""
    y = x.astype(np.float64) - x.max(1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(1, keepdims=True)))


def main() -> None:
    """Prints a line for each smaller type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    with Model.load(args.model) as model:
        if args.text:
            ids = np.array(model.tokenizer.encode(args.text.read_text(encoding="utf-8"), bos=True), np.int32)[
                : args.tokens
            ]
        else:
            ids = np.random.default_rng(0).integers(0, model.config.vocab_size, args.tokens, np.int32)
        sessions = {kv: model.session(context=len(ids), kv=kv) for kv in ("f32", "f16", "q8")}
        total = {kv: np.zeros(4) for kv in ("f16", "q8")}
        for at in range(0, len(ids), STEP):
            logits = {kv: session.forward(ids[at : at + STEP]) for kv, session in sessions.items()}
            want = log_softmax(logits["f32"])
            for kv, sums in total.items():
                got, difference = log_softmax(logits[kv]), logits[kv] - logits["f32"]
                same = logits[kv].argmax(1) == logits["f32"].argmax(1)
                sums += (
                    np.square(difference, dtype=np.float64).sum(),
                    np.square(logits["f32"], dtype=np.float64).sum(),
                    (np.exp(want) * (want - got)).sum(),
                    same.sum(),
                )
        print(f"{Path(args.model).name}, {len(ids)} tokens, compared with an f32 cache")
        for kv, (difference, size, divergence, same) in total.items():
            rms, mean = np.sqrt(difference / size), divergence / len(ids)
            print(f"  {kv:4} rms {rms:.2g}, divergence {mean:.2g} nats, same best token {100 * same / len(ids):.2f}%")


if __name__ == "__main__":
    main()
