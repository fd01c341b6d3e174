"""`ReplyReader`: speaks the replies of a `SpokenAssistant`, as they grow."""

from __future__ import annotations

from .exchange import AssistantEvent, Exchange
from .mouth import Mouth

__all__ = ["ReplyReader"]


class ReplyReader:
    """Has a mouth speak what events tell."""

    def __init__(self, mouth: Mouth) -> None:
        """`mouth`: stays open."""
        self._mouth = mouth
        self._exchange: Exchange | None = None  # whose reply is being spoken
        self._said = ""  # of it

    def show(self, event: AssistantEvent) -> None:
        """Takes an event. A reply that turns out to be another one, such as that to a tool's result, is spoken anew."""
        if event.kind != "reply":
            return
        text = event.text
        if event.exchange is not self._exchange or not text.startswith(self._said):
            self._exchange, self._said = event.exchange, ""
            if text:
                self._mouth.begin()
        if not text:
            return
        self._mouth.add(text[len(self._said) :])
        self._said = text
        if event.final:
            self._mouth.finish()
