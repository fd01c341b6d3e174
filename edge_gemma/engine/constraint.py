"""What limits the tokens of an answer: the seam between drawing and whatever knows a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .native import ffi, pointer

__all__ = ["Constraint", "TokenCheck"]


class Constraint(Protocol):
    """Follows one answer, and says which tokens may come next."""

    def check(self, token: int) -> NDArray[np.uint32] | None:
        """None if the token may come next; else which tokens may: a bit for each, in words of 32 bits. Ends are tokens too."""
        ...

    def accept(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these tokens."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next, as far as there is no choice; whole characters only, and no end."""
        ...


class TokenCheck:
    """A constraint as the engine calls it while it draws one token. What it raises ends the drawing."""

    def __init__(self, constraint: Constraint, vocab_size: int) -> None:
        """`vocab_size`: tokens of the model, for a mask when the constraint has failed."""
        self.raised: BaseException | None = None
        self._constraint, self._vocab_size = constraint, vocab_size
        self._mask: NDArray[np.uint32] | None = None  # what the engine reads

    def __call__(self, token: int) -> Any:
        """The engine's mask, or NULL."""
        self._mask = self._constraint.check(token)
        return ffi.NULL if self._mask is None else pointer(self._mask, "uint32_t *")

    def fail(self, error: BaseException) -> Any:
        """Keeps the error; the mask returned has no token."""
        self.raised = error
        self._mask = np.zeros((self._vocab_size + 31) // 32, np.uint32)
        return pointer(self._mask, "uint32_t *")


def _report_failure(kind: Any, error: BaseException, trace: Any) -> Any:
    return ffi.from_handle(trace.tb_frame.f_locals["context"]).fail(error)


@ffi.def_extern(name="edge_gemma_check_token", onerror=_report_failure)
def _check_token(context: Any, token: int) -> Any:
    return ffi.from_handle(context)(token)
