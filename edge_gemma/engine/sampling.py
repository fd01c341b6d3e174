"""`Sampling`: how the next token is chosen. Checked when it is made, so that a wrong option never waits for an answer."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaValueError
from .constraint import TokenCheck
from .native import ffi, lib, new_struct, pointer

__all__ = ["GREEDY", "NativeSampling", "Sampling", "mask_words"]

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 1e6),
    "top_p": (0, 1),
    "top_k": (0, 2**32 - 2),
    "min_p": (0, 1),
    "repetition_penalty": (1e-6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "penalty_window": (0, 2**32 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults are those that Gemma's model card recommends.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: tokens from the most likely on, until their probabilities reach it; 1 is off.
        top_k: so many of the most likely tokens; 0 is off.
        seed: begins the random sequence; the same seed, tokens and options give the same text on every machine. None goes
            on with the session's own sequence.
        min_p: drops tokens below this fraction of the most likely one's probability; 0 is off.
        repetition_penalty, presence_penalty, frequency_penalty: against tokens that were there before; 1, 0 and 0 are off.
        penalty_window: how many of the last tokens these look at; 0 turns them off.
        logit_bias: added to the logits, by token id; -inf forbids a token.
        suppress: ids that are never drawn.

    Raises:
        EdgeGemmaValueError: "argument" for a value out of its range, when the object is made.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 64
    seed: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    suppress: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not _is_number(value) or not (math.isfinite(value) and low <= value <= high):
                raise EdgeGemmaValueError(
                    f"{name} is {value!r}; it must be a number within {low:g} and {high:g}.", "argument"
                )
        for name in ("top_k", "penalty_window"):
            if getattr(self, name) != int(getattr(self, name)):
                raise EdgeGemmaValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number.", "argument")
        if self.seed is not None and not hasattr(self.seed, "__index__"):
            raise EdgeGemmaValueError(f"seed is {self.seed!r}; it must be a whole number or None.", "argument")
        if not isinstance(self.logit_bias, Mapping):
            raise EdgeGemmaValueError(
                f"logit_bias is {self.logit_bias!r}; it must be a mapping of token ids to numbers.", "argument"
            )
        if not all(_is_number(bias) for bias in self.logit_bias.values()):
            raise EdgeGemmaValueError("logit_bias has a value that is not a number.", "argument")
        if not isinstance(self.suppress, Iterable):
            raise EdgeGemmaValueError(f"suppress is {self.suppress!r}; it must be a list of token ids.", "argument")
        # Copies, so that what was checked stays as it is.
        object.__setattr__(self, "seed", None if self.seed is None else operator.index(self.seed))
        object.__setattr__(self, "logit_bias", {_token("logit_bias", i): float(b) for i, b in self.logit_bias.items()})
        object.__setattr__(self, "suppress", tuple(_token("suppress", i) for i in self.suppress))

    def __hash__(self) -> int:
        """Equal ones have the same hash."""
        return hash((self.temperature, self.top_p, self.top_k, self.seed, self.suppress))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, so that nothing depends on chance."""
        return self.temperature == 0


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str | bytes) and float(value) == float(value)
    except (TypeError, ValueError):
        return False


def _token(name: str, value: Any) -> int:
    if not _is_number(value) or not 0 <= value < 2**31 or int(value) != value:
        raise EdgeGemmaValueError(f"{name} has {value!r}; token ids are whole numbers from 0 on.", "argument")
    return int(value)


GREEDY = Sampling(temperature=0.0)
"""The most likely token, always."""


class NativeSampling:
    """The engine's struct for a `Sampling`, and the arrays that it points to."""

    def __init__(self, sampling: Sampling, special: bool = False) -> None:
        """`special`: the texts of control tokens are written out."""
        self.sampling, self.special = sampling, special
        self._check: Any = None  # the handle that the struct points to
        self.struct = struct = new_struct("eg_sampling")
        struct.temperature = sampling.temperature
        struct.top_k = int(sampling.top_k)
        struct.top_p = max(sampling.top_p, 1e-9)  # 0 is one token here, and off in the engine
        struct.min_p = sampling.min_p
        penalties = sampling.penalty_window > 0
        struct.repetition_penalty = sampling.repetition_penalty if penalties else 1
        struct.presence_penalty = sampling.presence_penalty if penalties else 0
        struct.frequency_penalty = sampling.frequency_penalty if penalties else 0
        struct.penalty_window = int(sampling.penalty_window)
        self._biases = ffi.new("eg_logit_bias[]", list(sampling.logit_bias.items()))
        self._suppress = ffi.new("int32_t[]", list(sampling.suppress))
        struct.biases, struct.n_biases = self._biases, len(self._biases)
        struct.suppress, struct.n_suppress = self._suppress, len(self._suppress)
        struct.text_flags = lib.EG_TEXT_SPECIAL if special else 0

    def require(self, mask: NDArray[np.uint32] | None, logprobs: int | None, check: TokenCheck | None = None) -> Any:
        """The struct, with what the next token alone is drawn with. Arguments as in `Session.next`, with a mask of words and a
        check that the caller keeps alive. Returns the pointer."""
        self.struct.mask = ffi.NULL if mask is None else pointer(mask, "uint32_t *")
        self.struct.n_mask = 0 if mask is None else mask.size
        self.struct.logprobs = logprobs is not None
        self.struct.top_logprobs = logprobs or 0
        self._check = None if check is None else ffi.new_handle(check)
        self.struct.check_token = ffi.NULL if check is None else lib.edge_gemma_check_token
        self.struct.check_context = self._check or ffi.NULL
        return self.struct


def mask_words(mask: ArrayLike | None, vocab_size: int) -> NDArray[np.uint32] | None:
    """A mask as the engine reads it: a bit for each token, in words of 32 bits. Takes such words, or (vocab_size,) bools.
    Raises EdgeGemmaValueError "argument" for anything else."""
    if mask is None:
        return None
    given, words = np.asarray(mask), (vocab_size + 31) // 32
    if given.dtype == np.bool_ and given.shape == (vocab_size,):
        packed = np.zeros(words * 4, np.uint8)
        bits = np.packbits(given, bitorder="little")
        packed[: bits.size] = bits
        return packed.view("<u4").astype(np.uint32, copy=False)
    if given.dtype in (np.uint32, np.int32) and given.ndim == 1 and given.size >= words:
        return np.ascontiguousarray(given).view(np.uint32)
    raise EdgeGemmaValueError(
        f"mask must be {vocab_size} bools, or {words} words of 32 bits; it has shape {given.shape} and type {given.dtype}.",
        "argument",
    )
