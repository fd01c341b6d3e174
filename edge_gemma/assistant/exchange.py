"""What an assistant tells about an utterance: `Exchange`, all that came of it; `Timing`, what it took; `AssistantEvent`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..chat.calls import ToolCall

__all__ = ["AssistantEvent", "Exchange", "Timing"]


@dataclass(frozen=True)
class Timing:
    """What an exchange took. Times are seconds after the end of speech; None if the source was not read at the speed of speech.

    Attributes:
        first_token: until the first token was known. A token of an answer that a pause began is known before the decision.
        decision: until it was decided that the utterance was over: the silence that this takes.
        acted: until the first tool had run; without a tool call, until the reply was complete.
        ready: tokens of the first answer that were known at the decision.
        tokens: of all answers to the utterance.
        tokens_per_second: the speed of decoding them; None when nothing was measured.
        resident: bytes of this process in memory; None where the system does not tell.
    """

    first_token: float | None
    decision: float | None
    acted: float | None
    ready: int
    tokens: int
    tokens_per_second: float | None
    resident: int | None


@dataclass(eq=False)
class Exchange:
    """One utterance and everything that came of it.

    Attributes:
        start, end: seconds in the sound.
        language: what is spoken, a name or a code, if that is known before anything is understood.
        text: what was understood, "" for no words; None until it is known.
        translation, target: the text in another language, and the English name of that language; None when there was
            nothing to translate.
        calls, results: what the model called and what the tools returned, in order.
        reply: what the model replied.
        problem: why the answer broke off; "" if it did not.
        timing: what the exchange took; None until it is over.
    """

    start: float
    end: float = 0.0
    language: str | None = None
    text: str | None = None
    translation: str | None = None
    target: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    reply: str = ""
    problem: str = ""
    timing: Timing | None = None


@dataclass(frozen=True)
class AssistantEvent:
    """Something that has happened in an exchange.

    Attributes:
        kind: "start", somebody begins to speak; "sound", how loud the speech is; "partial", what seems to be said so far;
            "transcript", what was said; "call", the model calls a tool, which has not run yet; "result", the tool has
            returned; "reply", what the model replies; "translation", the transcript in another language; "done", the
            exchange is over; "overrun", sound was lost.
        time: seconds since the sound began, of the sound that the event is about.
        exchange: the exchange that the event belongs to; None for an overrun.
        level: of sound, the loudness of about 0.1 s of it, 0 (silence) to 1 (loud).
        text: of partial, transcript, reply and translation: the words.
        agreed: of a partial, the beginning of `text` that several guesses agree on; see `ListenerEvent`.
        final: of a reply, whether it is complete.
        call: of call and result.
        result: of a result, plain data.
        lost: of an overrun, seconds.
    """

    kind: Literal[
        "start", "sound", "partial", "transcript", "call", "result", "reply", "translation", "done", "overrun"
    ]
    time: float
    exchange: Exchange | None = None
    level: float = 0.0
    text: str = ""
    agreed: str = ""
    final: bool = False
    call: ToolCall | None = None
    result: Any = None
    lost: float = 0.0
