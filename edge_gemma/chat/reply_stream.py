"""`ReplyStream`: one reply of the model while its tokens come, whoever draws them.

`Chat` pulls its replies out of a session of its own. A server draws one token for each of many replies in a pass through the
weights, so there the tokens are pushed:

    stream = ReplyStream(prompt, units, max_tokens=100)
    while not stream.stop:
        prefix = stream.forced()                            # tokens that a constraint leaves no choice for
        token = session.next(options, special=True, constraint=stream.constraint, prefix=prefix)
        for event in stream.take(token): ...
    stream.reply

Owns the order of constraint, stop texts and parser, and the count of tokens. Knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.constraint import Constraint
from ..engine.generation import StopFilter, Token
from ..engine.interface import Form
from ..engine.tokenizer import StreamingDetokenizer
from .calls import ToolCall
from .prompt import Prompt, Unit
from .reply import MODEL_STOPS, ChatEvent, Reply

__all__ = ["ReplyStream"]


class ReplyStream:
    """Reads one reply. Tokens are drawn with the texts of control tokens written out.

    Attributes:
        stop: why the reply has ended, as in `Generation.stop`; "" while it goes on.
        generated: how many tokens it has, forced ones and the one that ended it included.
        constraint: what the next token is drawn with; None for free text.
    """

    def __init__(
        self,
        prompt: Prompt,
        units: Sequence[Unit],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        form: Form | None = None,
        every_token: bool = False,
        check_call: Callable[[ToolCall], ToolCall] = lambda call: call,
    ) -> None:
        """Begins the reply to a prompt.

        Args:
            prompt: that wrote `units`.
            units: the whole prompt.
            max_tokens: the most tokens.
            stop: texts that end it.
            form: what it keeps to, such as a `ReplyForm`.
            every_token: no token is forced, so that each has a probability.
            check_call: of calls that are whole: as in `ReplyParser`.
        """
        self.stop, self.generated = "" if max_tokens > 0 else "length", 0
        self.constraint: Constraint | None = None if form is None else form.start(prompt.tokenizer)
        self._parser = prompt.parser(units, check_call)
        self._filter, self._max_tokens = StopFilter(stop), max_tokens
        self._text = StreamingDetokenizer(prompt.tokenizer)
        self._every_token = every_token
        self._forced: list[ChatEvent] = []  # events of tokens that were forced, until a token is drawn

    @property
    def reply(self) -> Reply:
        """The reply as far as it has been told."""
        return self._parser.reply

    @property
    def stop_text(self) -> str:
        """The text of `stop` that has ended it; "" if none has."""
        return self._filter.found

    def forced(self) -> list[int]:
        """The tokens that must come next, which are appended before the next token is drawn. They count as taken: call this
        once for each token that is drawn. The last token of `max_tokens` is never forced."""
        if self.constraint is None or self._every_token:
            return []
        tokens = self.constraint.forced()[: max(self._max_tokens - self.generated - 1, 0)]
        self.constraint.accept(tokens)
        for token in tokens:
            self._forced += self._read(Token(token, self._text.feed(token)))
        return tokens

    def take(self, token: Token) -> list[ChatEvent]:
        """Takes the token that was drawn; returns the events that it completes, often none."""
        if self.constraint is not None and not self.stop:
            self.constraint.accept([token.id])
        events, self._forced = self._forced, []
        events += [] if self.stop else self._read(token)
        if self.stop:
            return events + self._finish()
        if self.generated >= self._max_tokens:
            return events + self.end("length")
        return events

    def end(self, stop: str) -> list[ChatEvent]:
        """Ends the reply; returns the last events. Once it has ended this returns nothing."""
        events, self._forced = self._forced, []
        if not self.stop:
            self.stop = stop
            events += self._parser.feed(self._filter.rest())
            events += self._finish()
        return events

    def _read(self, token: Token) -> list[ChatEvent]:
        self.generated += 1
        piece, self.stop = self._filter.take(token)
        events = self._parser.feed(piece)
        if self._parser.ended and not self.stop:
            self.stop = "turn"  # the engine does not know every token with which a file ends turns
        return events

    def _finish(self) -> list[ChatEvent]:
        return self._parser.finish(complete=self.stop in MODEL_STOPS)
