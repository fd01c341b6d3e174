"""Tokens that the engine has drawn."""

from __future__ import annotations

from typing import Any

from .generation import Token
from .native import lib, text_of

__all__ = ["token_of"]

_STOPS = {lib.EG_STOP_EOS: "eos", lib.EG_STOP_TURN: "turn", lib.EG_STOP_TOOL_RESPONSE: "tool_response"}


def token_of(drawn: Any, logprobs: int | None) -> Token:
    """A `Token` of the `eg_token *`; `logprobs` as in `Session.next`. Called while the engine's text is valid."""
    text, stop = text_of(drawn.text, drawn.text_length), _STOPS.get(drawn.stop, "")
    if logprobs is None:
        return Token(drawn.id, text, stop)
    best = tuple((drawn.top_logprobs[i].id, drawn.top_logprobs[i].logprob) for i in range(drawn.n_top_logprobs))
    return Token(drawn.id, text, stop, drawn.logprob, best)
