"""What a grammar adds to drawing tokens: python tools/constraint_cost.py MODEL.gguf [TOKENS]

Prints processor time in milliseconds, on one thread, for the instruction set that EDGE_GEMMA_ISA names, else the best one:
    step    evaluating and drawing a token without a grammar
    check   added when the token that was drawn may stand there
    mask    added when it may not: the grammar's mask, and the second draw. The place is inside a JSON string of limited length,
            where a mask takes longest.
    answer  the time inside the grammar, as a share of the whole, for an answer that a JSON schema limits
A session's fork holds the logits of the next token, so a token drawn there is drawn and nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edge_gemma as eg
from edge_gemma.engine.constraint import Constraint

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


class Timed:
    """A constraint that counts its masks and its time; `refusing`: it refuses every token that was drawn."""

    def __init__(self, follows: Any, refusing: bool = False) -> None:
        """`follows`: the grammar's constraint."""
        self._follows, self._refusing = follows, refusing
        self.seconds, self.masks = 0.0, 0

    def start(self, tokenizer: Any) -> Constraint:
        """Itself, as a form."""
        return self

    def check(self, token: int) -> NDArray[np.uint32] | None:
        """As `Constraint.check`."""
        mask: NDArray[np.uint32] | None
        mask = self._timed(self._follows.mask) if self._refusing else self._timed(self._follows.check, token)
        self.masks += mask is not None
        return mask

    def accept(self, tokens: Sequence[int]) -> None:
        """As `Constraint.accept`."""
        self._timed(self._follows.accept, tokens)

    def forced(self) -> list[int]:
        """As `Constraint.forced`."""
        found: list[int] = self._timed(self._follows.forced)
        return found

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.process_time()
        found = call(*arguments)
        self.seconds += time.process_time() - begin
        return found


def least(once: Callable[[], float], times: int) -> float:
    """The least of several measurements, in milliseconds."""
    return 1000 * min(once() for _ in range(times))


def main() -> None:
    """Measures and prints two lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens", type=int, nargs="?", default=20)
    args = parser.parse_args()
    sampling = eg.Sampling()
    with eg.Model.load(args.model, threads=1) as model, model.session(512) as session:
        tokenizer = model.tokenizer
        session.feed_text("The sea", bos=True)
        session.seed(1)
        anything = eg.Grammar.regex("(?s:.*)").start(tokenizer)
        text, before = eg.Grammar.json_schema({"type": "string", "maxLength": 40}), tokenizer.encode('"The sea')

        def refusing() -> Constraint:
            follows = text.start(tokenizer)  # anew, since the same place again would take no time
            follows.accept(before)
            return Timed(follows, refusing=True)

        def step() -> float:
            begin = time.process_time()
            session.next(sampling)
            return time.process_time() - begin

        def draw(constraint: Constraint | None) -> float:
            with session.fork() as fork:
                begin = time.process_time()
                fork.next(sampling, constraint=constraint)
                return time.process_time() - begin

        whole = least(step, args.tokens)
        session.logits()  # which the forks have then
        free = least(lambda: draw(None), args.tokens)
        checked = least(lambda: draw(anything), args.tokens) - free
        masked = least(lambda: draw(refusing()), args.tokens) - free
        print(
            f"{eg.isa}: step {whole:.2f}, check {checked:.3f} ({checked / whole:.2%}), mask {masked:.2f} ({masked / whole:.1%})"
        )

        answer = Timed(eg.Grammar.json_schema(SCHEMA).start(tokenizer))
        begin = time.process_time()
        drawn = len(session.generate(args.tokens * 4, sampling=sampling, grammar=answer).tokens)
        seconds = time.process_time() - begin
        inside = answer.seconds + answer.masks * free / 1000  # a refused token is drawn twice
        print(f"answer of {drawn} tokens with {answer.masks} masks: {inside / seconds:.1%} of its time for the grammar")


if __name__ == "__main__":
    main()
