"""Measures the error that the leaner head of a sidecar causes: logits with each type, compared with those of the model's file.

usage: python tools/head_loss.py MODEL.gguf [--tokens 1024] [--text FILE]

Feeds the same tokens (random ones, or those of a text) to the model with a sidecar of each type, and without, and reads the
logits of every position. Prints the rms of the difference over the rms of the logits, the mean Kullback-Leibler divergence in
nats, and the percentage of positions whose most probable token is the same. Only a text that the model was made for tells
about its answers; random weights and random tokens tell about the arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_gemma import Model
from edge_gemma.files.prepare import HEAD_TYPES, prepare

STEP = 64  # positions whose logits are in memory at a time


def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities of rows of logits."""
    y = x.astype(np.float64) - x.max(1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(1, keepdims=True)))


def tokens(model: Model, text: Path | None, count: int) -> NDArray[np.int32]:
    """The ids that are fed."""
    if text:
        return np.array(model.tokenizer.encode(text.read_text("utf-8"), special=True, bos=True), np.int32)[:count]
    return np.random.default_rng(0).integers(0, model.config.vocab_size, count, np.int32)


def main() -> None:
    """Prints a line for each type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Model.load(args.model, sidecar=False) as plain:
        ids = tokens(plain, args.text, args.tokens)
        print(f"{args.model.name}, {len(ids)} tokens, compared with the model's own head")
        for type in HEAD_TYPES:
            link = Path(folder, f"{type}.gguf")
            link.symlink_to(args.model.resolve())
            old, new = prepare(link, type=type)[1:3]
            sums = np.zeros(4)
            with Model.load(link) as lean:
                sessions = [model.session(context=len(ids), kv="f32") for model in (plain, lean)]
                for at in range(0, len(ids), STEP):
                    want, got = (session.forward(ids[at : at + STEP]) for session in sessions)
                    right = log_softmax(want)
                    sums += (
                        np.square(got - want, dtype=np.float64).sum(),
                        np.square(want, dtype=np.float64).sum(),
                        (np.exp(right) * (right - log_softmax(got))).sum(),
                        (got.argmax(1) == want.argmax(1)).sum(),
                    )
            rms, mean, same = np.sqrt(sums[0] / sums[1]), sums[2] / len(ids), 100 * sums[3] / len(ids)
            print(f"  {old} -> {new:6} rms {rms:.2g}, divergence {mean:.2g} nats, same best token {same:.2f}%")


if __name__ == "__main__":
    main()
