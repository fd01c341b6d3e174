"""Drawing under a constraint: what leaves no choice is fed in one pass with the next choice, and costs no pass of its own."""

from __future__ import annotations

from ..errors import Cancelled
from .constraint import Constraint
from .generation import Token
from .interface import SessionLike
from .sampling import Sampling
from .tokenizer import StreamingDetokenizer

__all__ = ["Constrained"]


class Constrained:
    """Draws the tokens of one answer. For `Generation`."""

    def __init__(
        self, session: SessionLike, constraint: Constraint, sampling: Sampling, special: bool, logprobs: int | None
    ) -> None:
        """Options as in `Session.generate`. With `logprobs` every token is drawn, so that its probability is known."""
        self._session, self._constraint, self._sampling = session, constraint, sampling
        self._special, self._logprobs = special, logprobs
        self._text = StreamingDetokenizer(session.model.tokenizer)
        control = session.model.tokenizer.control_tokens
        self._hidden = frozenset() if special else frozenset(map(session.model.tokenizer.find, control))

    def draw(self, most: int) -> list[Token]:
        """The tokens that must come next, and the one that is drawn after them; at most `most`. Raises as `Session.next`."""
        forced = self._constraint.forced() if self._logprobs is None else []
        tokens = [Token(number, self._text_of(number)) for number in forced[:most]]
        if len(forced) >= most:
            self._session.feed_tokens(forced[:most])
            return tokens
        before = self._session.position
        self._constraint.accept(forced)
        try:
            drawn = self._session.next(
                self._sampling,
                special=self._special,
                logprobs=self._logprobs,
                constraint=self._constraint,
                prefix=forced or None,
            )
        except Cancelled:
            self._session.rewind_to(before)  # what was fed of `forced` is in no answer
            raise
        self._constraint.accept([drawn.id])
        return [*tokens, drawn]

    def _text_of(self, token: int) -> str:
        return "" if token in self._hidden else self._text.feed(token)
