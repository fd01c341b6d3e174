"""`ReplyForm`: the form of a whole reply in a chat. Thoughts are free, calls keep to their declarations, and the answer may
have a form of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.constraint import Constraint
from ..engine.interface import Form, TokenizerLike
from .call_grammar import CALL, END_OF_CALL
from .vocabulary import end_tokens

__all__ = ["ReplyForm"]

_OPEN_THOUGHT, _CLOSE_THOUGHT, _RESPONSE = "<|channel>", "<channel|>", "<|tool_response>"


class ReplyForm:
    """What one reply of a chat keeps to. A `Form`."""

    def __init__(
        self,
        calls: Form | None,
        answer: Form | None,
        *,
        thinking: bool = False,
        in_thought: bool = False,
        must_call: bool = False,
        most_calls: int | None = None,
    ) -> None:
        """
        Args:
            calls: what follows <|tool_call>: see `call_grammar`. None: calls are free, or are no part of the reply if `answer`
                has a form.
            answer: the form of what is neither thought nor call; None for free text.
            thinking: a thought may precede an answer that has a form.
            in_thought: the reply begins inside a thought.
            must_call: the reply is a call, without a text before it.
            most_calls: how many calls the reply may have; None for any number.
        """
        self._calls, self._answer = calls, answer
        self._options = (thinking, in_thought, must_call, most_calls)

    def start(self, tokenizer: TokenizerLike) -> Constraint:
        """The constraint of the reply. Raises EdgeGemmaError as `Grammar.start`."""
        answer = None if self._answer is None else self._answer.start(tokenizer)
        return _Reply(tokenizer, self._calls, answer, *self._options)


class _Reply:
    """A reply on its way."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        calls: Form | None,
        answer: Constraint | None,
        thinking: bool,
        in_thought: bool,
        must_call: bool,
        most_calls: int | None,
    ) -> None:
        self._tokenizer, self._calls, self._answer = tokenizer, calls, answer
        self._call: Any = None  # the constraint of the call that has begun
        self._free_call = False  # a call without a constraint has begun
        self._must_call, self._thinking = must_call, thinking
        self._calls_left = most_calls
        self._ids = {text: tokenizer.find(text) for text in (CALL, END_OF_CALL, _OPEN_THOUGHT, _CLOSE_THOUGHT)}
        call, opening = self._ids[CALL], self._ids[_OPEN_THOUGHT]
        self._begins = {
            token for token in (call if calls else None, opening if thinking else None) if token is not None
        }
        self._ends = {*end_tokens(tokenizer), *([] if (found := tokenizer.find(_RESPONSE)) is None else [found])}
        self._in_thought, self._answered, self._called = in_thought, False, False

    def check(self, token: int) -> NDArray[np.uint32] | None:
        """As `Constraint.check`."""
        if self._call is not None:
            mask: NDArray[np.uint32] | None = self._call.check(token)
            return mask
        if self._in_thought or self._free_call:
            return None
        if self._must_call and not self._called:
            thought = {self._ids[_OPEN_THOUGHT]} if self._thinking else set()
            return self._only(token, {self._ids[CALL], *thought} - {None})
        if self._calls_left == 0:
            return self._only(token, self._ends)
        if self._answer is None:
            return None
        if self._called:  # a form of the answer is for replies without calls
            return self._only(token, self._ends | (self._begins & {self._ids[CALL]}))
        begins = set() if self._answered else self._begins
        if token in begins:
            return None
        mask = self._answer.check(token)
        return mask if mask is None or not begins else self._with(mask.copy(), begins)

    def accept(self, tokens: Sequence[int]) -> None:
        """As `Constraint.accept`."""
        for token in tokens:
            self._accept(token)

    def forced(self) -> list[int]:
        """As `Constraint.forced`."""
        if self._call is not None:
            found: list[int] = self._call.forced()
            return found
        if self._must_call and not (self._called or self._in_thought or self._free_call or self._thinking):
            return [token for token in (self._ids[CALL],) if token is not None]
        inside = self._in_thought or self._free_call or self._called
        if inside or self._answer is None or (self._begins and not self._answered):
            return []
        return self._answer.forced()

    def _accept(self, token: int) -> None:
        if self._call is not None:
            self._call.accept([token])
            if token == self._ids[END_OF_CALL]:
                self._end_call()
        elif self._free_call:
            if token == self._ids[END_OF_CALL]:
                self._end_call()
        elif self._in_thought:
            self._in_thought = token != self._ids[_CLOSE_THOUGHT]
        elif token == self._ids[CALL] and self._calls is not None:
            self._call = self._calls.start(self._tokenizer)
        elif token == self._ids[CALL] and (self._must_call or self._calls_left is not None):
            self._free_call = True
        elif token == self._ids[_OPEN_THOUGHT] and (self._answer is None or token in self._begins):
            self._in_thought = True
        elif self._answer is not None and not self._called:
            self._answer.accept([token])
            self._answered = True

    def _end_call(self) -> None:
        self._call, self._free_call, self._called = None, False, True
        if self._calls_left:
            self._calls_left -= 1

    def _only(self, token: int, allowed: set[Any]) -> NDArray[np.uint32] | None:
        """None if the token is one of these, else the mask that allows these alone."""
        return None if token in allowed else self._with(self._empty(), allowed)

    def _empty(self) -> NDArray[np.uint32]:
        return np.zeros((self._tokenizer.vocab_size + 31) // 32, np.uint32)

    @staticmethod
    def _with(mask: NDArray[np.uint32], tokens: set[Any]) -> NDArray[np.uint32]:
        """The mask with these tokens allowed too."""
        for token in tokens:
            mask[token // 32] |= np.uint32(1 << token % 32)
        return mask
