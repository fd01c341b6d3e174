"""Which model, in which quantization, suits a device of a given memory.

A device needs memory for its system and its programs, so a model may take three quarters of it. The figures are peaks of whole
processes with a context of 8,192 tokens, sound and pictures included; the exact plan is made when the file is there
(`engine/memory.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import EdgeGemmaValueError
from .names import MOBILE

__all__ = ["CHOICES", "CONTEXT", "SHARE", "Choice", "choose"]

SHARE = 0.75
CONTEXT = 8192


class Choice(NamedTuple):
    """A model for a device."""

    name: str  #: "e2b"
    quant: str  #: "Q4_0", or MOBILE
    bytes: int  #: what a process takes with CONTEXT tokens and the encoders
    why: str  #: what it is better in than the next smaller one


CHOICES = (
    Choice("31b", "Q4_0", 21_000_000_000, "the best answers; sees, but does not hear"),
    Choice("26b", "Q4_0", 17_000_000_000, "answers nearly as good at three times the speed; sees, but does not hear"),
    Choice("e4b", "Q4_0", 3_700_000_000, "better answers than E2B; hears and sees"),
    Choice("e4b", MOBILE, 2_950_000_000, "the larger of the small models, trained for 2 and 4 bits; hears and sees"),
    Choice("e2b", "Q4_0", 2_300_000_000, "the small model in its usual form; hears and sees"),
    Choice("e2b", MOBILE, 1_450_000_000, "the smallest there is, trained for 2 and 4 bits; hears and sees"),
)
"""From the best to the smallest."""


def choose(memory: int) -> Choice:
    """The best model that takes no more than SHARE of `memory` bytes. Raises EdgeGemmaValueError "argument" for too little."""
    for choice in CHOICES:
        if choice.bytes <= SHARE * memory:
            return choice
    least = CHOICES[-1].bytes / SHARE
    raise EdgeGemmaValueError(
        f"a device of {memory / 1e9:.3g} GB is too small: the smallest model needs one of {least / 1e9:.2g} GB.",
        "argument",
    )
