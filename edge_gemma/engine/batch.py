"""`next_tokens`: one token for each of several sessions, in one pass through the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from ..errors import EdgeGemmaValueError
from .constraint import Constraint, TokenCheck
from .generation import Token
from .native import check, ffi, int_array, lib, new_struct, pointer
from .sampling import NativeSampling, Sampling, mask_words
from .session import Session
from .tokens import token_of

__all__ = ["next_tokens"]

_DEFAULT = Sampling()


def next_tokens(
    sessions: Sequence[Session],
    sampling: Sampling | Sequence[Sampling | None] | None = None,
    *,
    special: bool = False,
    masks: Sequence[ArrayLike | None] | None = None,
    constraints: Sequence[Constraint | None] | None = None,
    logprobs: int | Sequence[int | None] | None = None,
    prefixes: Sequence[ArrayLike] | None = None,
    feed: Sequence[tuple[Session, ArrayLike]] = (),
) -> list[Token]:
    """Draws a token for each of several sessions of one model, and appends it. The weights are read once for all of them: where
    memory is the limit, eight tokens take about twice the time of one. Every session gets the token that `Session.next`
    would have given it alone.

    Args:
        sessions: up to 128, of any positions and types of cache; none of them twice.
        sampling: how tokens are drawn, for all or for each.
        special, logprobs: as in `Session.next`; `logprobs` for all, or for each.
        masks, constraints, prefixes: for each session what `mask`, `constraint` and `prefix` are in `Session.next`.
        feed: further sessions with the ids that are appended to them in the same pass, such as pieces of prompts. A pass has
            128 rows, of which each drawn token takes one; what is more takes further passes.

    Raises:
        EdgeGemmaError: "argument" for a session that is there twice or belongs to another model; "context" and "state" as in
            `Session.next`. Then nothing changes. `Cancelled` when one of the sessions was cancelled: nothing was drawn, and the
            positions tell what was appended.
    """
    options = _options(sampling, len(sessions))
    asked_logprobs = [logprobs] * len(sessions) if logprobs is None or isinstance(logprobs, int) else list(logprobs)
    per_session = (("masks", masks), ("constraints", constraints), ("prefixes", prefixes), ("logprobs", asked_logprobs))
    for name, given in per_session:
        if given is not None and len(given) != len(sessions):
            raise EdgeGemmaValueError(f"there are {len(given)} {name} for {len(sessions)} sessions.", "argument")
    everyone = [*sessions, *(session for session, _ in feed)]
    if len(set(everyone)) < len(everyone):
        raise EdgeGemmaValueError("a session is there twice: it can have one part in a pass.", "argument")
    if not everyone:
        return []
    items, tokens, err = ffi.new("eg_batch_item[]", len(everyone)), [], new_struct("eg_error")
    kept: list[Any] = []  # what the structs point to
    checks: list[TokenCheck] = []
    with contextlib.ExitStack() as locked:
        for at, session in enumerate(everyone):
            items[at].struct_size = ffi.sizeof("eg_batch_item")
            items[at].session = locked.enter_context(session.exclusive())
        for at, (session, how) in enumerate(zip(sessions, options, strict=True)):
            vocab_size = session.model.config.vocab_size
            words = mask_words(masks[at] if masks else None, vocab_size)
            constraint = constraints[at] if constraints else None
            asked = None if constraint is None else TokenCheck(constraint, vocab_size)
            checks += [] if asked is None else [asked]
            native, token = NativeSampling(how or _DEFAULT, special), new_struct("eg_token")
            items[at].draw, items[at].sampling, items[at].token = (
                True,
                native.require(words, asked_logprobs[at], asked),
                token,
            )
            tokens.append(token)
            kept += [words, native]
        appended = [*(prefixes if prefixes is not None else [()] * len(sessions)), *(ids for _, ids in feed)]
        for at, ids in enumerate(appended):
            array = int_array(ids, "ids")
            items[at].ids, items[at].n = pointer(array, "int32_t *"), array.size
            kept.append(array)
        status = lib.eg_batch_run(items, len(everyone), err)
        for asked in checks:
            if asked.raised is not None:
                raise asked.raised
        check(status, err)
        return [token_of(token, n) for token, n in zip(tokens, asked_logprobs, strict=True)]


def _options(sampling: Sampling | Sequence[Sampling | None] | None, n: int) -> Sequence[Sampling | None]:
    if sampling is None or isinstance(sampling, Sampling):
        return [sampling] * n
    if len(sampling) != n:
        raise EdgeGemmaValueError(f"there are {len(sampling)} samplings for {n} sessions.", "argument")
    return sampling
