"""`Token` and `Generation`: what a session draws, one by one or as text. The loop over tokens is here, and only here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import Cancelled, EdgeGemmaValueError

__all__ = ["Generation", "StopFilter", "Token", "possible_stop", "stop_texts"]


@dataclass(frozen=True)
class Token:
    """A token that was drawn.

    Attributes:
        id: its number in the vocabulary.
        text: what it adds, whole characters only; "" while a character is incomplete, and for a token that stops.
        stop: why the answer ends with this token: eos, turn or tool_response; "" if it goes on.
        logprob: the natural logarithm of its probability, by the model's logits alone; None unless it was asked for.
        top_logprobs: (id, logprob) of the likeliest tokens, the best first; as many as were asked for.
    """

    id: int
    text: str
    stop: str = ""
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Generation:
    """Text that is drawn while it is iterated over. From `Session.generate`.

        for piece in session.generate(max_tokens=100):
            print(piece, end="")
        print(session.generate(max_tokens=100).text)

    Attributes that tell of the result draw what has not been drawn yet; iteration then still yields every piece.
    """

    def __init__(self, draw: Callable[[int], Sequence[Token]], max_tokens: int, stops: Sequence[str]) -> None:
        """Internal: use `Session.generate`.

        Args:
            draw: draws and appends a token, or several, at most as many as it is told. Raises `Cancelled`.
            max_tokens: the most tokens to draw.
            stops: texts that end it.
        """
        self._draw, self._left, self._filter = draw, max_tokens, StopFilter(stops)
        self._tokens: list[Token] = []
        self._pieces: list[str] = []  # all so far
        self._given = 0  # of these, by iteration
        self._stop = ""

    def __iter__(self) -> Iterator[str]:
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next piece of text, whole characters only, never empty."""
        while self._given == len(self._pieces):
            if self._stop:
                raise StopIteration
            self._step()
        self._given += 1
        return self._pieces[self._given - 1]

    def close(self) -> None:
        """Draws nothing more; `stop` is "cancelled" unless it had ended before."""
        if not self._stop:
            self._finish("cancelled")

    @property
    def stop(self) -> str:
        """Why it ended: eos, turn, tool_response (a token of the model), stop (a text of `stop`), length, cancelled."""
        return self._all()._stop

    @property
    def tokens(self) -> list[Token]:
        """The tokens that were drawn, the one that stopped it included."""
        return list(self._all()._tokens)

    @property
    def logprobs(self) -> list[float]:
        """The log-probabilities of `tokens`; empty unless they were asked for."""
        return [token.logprob for token in self._all()._tokens if token.logprob is not None]

    @property
    def text(self) -> str:
        """The whole text, without what stopped it."""
        return "".join(self._all()._pieces)

    def __repr__(self) -> str:
        """Tells how far it is, and draws nothing."""
        return f"<Generation of {len(self._tokens)} tokens{', ' + self._stop if self._stop else ''}>"

    def _all(self) -> Generation:
        while not self._stop:
            self._step()
        return self

    def _step(self) -> None:
        """Draws a token, or finds that nothing is left to draw."""
        if self._left <= 0:
            self._finish("length")
            return
        try:
            drawn = self._draw(self._left)
        except Cancelled:
            self._finish("cancelled")
            return
        self._left -= len(drawn)
        self._tokens += drawn
        for token in drawn:
            if not self._stop:
                self._take(token)

    def _take(self, token: Token) -> None:
        piece, stop = self._filter.take(token)
        self._give(piece)
        if stop:
            self._finish(stop)

    def _finish(self, stop: str) -> None:
        self._stop = stop
        self._give(self._filter.rest())

    def _give(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)


class StopFilter:
    """The text of tokens up to a stop: a text that ends it is left out, and what may become one is held back.

    Attributes:
        found: the text that has ended it; "" if none has.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: texts that end it, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""  # the end of the text, which may be the beginning of a stop text
        self.found = ""  # the text that has ended it

    def take(self, token: Token) -> tuple[str, str]:
        """What can be shown with this token, and why the text ends with it: the token's own stop, "stop", or ""."""
        self._held += token.text
        if token.stop:
            return self.rest(), token.stop
        if found := [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]:
            at, self.found = min(found)
            self._held = self._held[:at]
            return self.rest(), "stop"
        shown = len(self._held) - possible_stop(self._held, self._stops)
        piece, self._held = self._held[:shown], self._held[shown:]
        return piece, ""

    def rest(self) -> str:
        """What was held back: the text has ended."""
        piece, self._held = self._held, ""
        return piece


def stop_texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop texts, given as one text, several, or None. Raises EdgeGemmaValueError "argument" for an empty one, and for what is
    no text."""
    texts = (
        (stop,) if isinstance(stop, str) else tuple(stop or ()) if isinstance(stop, (Iterable, type(None))) else (stop,)
    )
    if not all(isinstance(text, str) for text in texts):
        raise EdgeGemmaValueError(f"stop is {stop!r}; it must be a text, or a list of texts.", "argument")
    if not all(texts):
        raise EdgeGemmaValueError("stop has an empty string.", "argument")
    return texts


def possible_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for n in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-n:]) for stop in stops):
            return n
    return 0
