"""A conversation agent over Wyoming: words in, an intent that Home Assistant carries out or words to be spoken out.

Owns the conversations: the client names them, and tells only what was said last. A conversation is forgotten after a while.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from wyoming.event import Event
from wyoming.handle import Handled
from wyoming.intent import Entity, Intent, IntentsStart, IntentsStop

from .core import Core
from .failures import RequestError
from .home_intents import INTENTS
from .requests import ChatRequest

__all__ = ["INSTRUCTIONS", "Agent"]

INSTRUCTIONS = (
    "You are the voice assistant of a home. When the user wants something done in the home, call the tool for it. "
    "Otherwise answer in one or two short sentences that can be spoken, without lists or signs."
)
_CONVERSATIONS, _MESSAGES, _FORGET = 32, 24, 300.0  # how many, of how many messages, for how many seconds
_LONGEST = 4000  # characters of what a user says
_ANSWER = 400  # tokens


class Agent:
    """The conversations of all clients. Of the event loop's thread."""

    def __init__(self, core: Core, instructions: str = INSTRUCTIONS, tools: Sequence[dict[str, Any]] = INTENTS) -> None:
        """`tools`: actions that the client carries out."""
        self._core, self._instructions, self._tools = core, instructions, tools
        self._known: OrderedDict[str, tuple[float, list[dict[str, Any]]]] = OrderedDict()

    async def answer(self, text: str, context: dict[str, Any] | None) -> list[Event]:
        """The events that answer what a user says. Raises RequestError."""
        if len(text) > _LONGEST:
            raise RequestError(400, "That was too long for me.")
        conversation = str((context or {}).get("conversation_id") or "")[:200]
        history = self._history(conversation)
        messages = [*history, {"role": "user", "content": text}]
        request = ChatRequest(
            messages=[{"role": "system", "content": self._instructions}, *messages],
            tools=self._tools,
            max_tokens=_ANSWER,
            streamed=True,
            hint=conversation,
        )
        answers = await self._core.answers(request)
        reply = (await self._core.complete(answers))[0].reply
        answer: dict[str, Any] = {"role": "assistant", "content": reply.content}
        if reply.tool_calls:
            calls = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments or {}},
                }
                for number, call in enumerate(reply.tool_calls)
            ]
            results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"success": true}'} for call in calls]
            self._keep(conversation, [*messages, {**answer, "tool_calls": calls}, *results])
            return _intents(reply.tool_calls, reply.content, context)
        self._keep(conversation, [*messages, answer])
        return [Handled(text=reply.content, context=context).event()]

    def _history(self, conversation: str) -> list[dict[str, Any]]:
        when, messages = self._known.get(conversation, (0.0, []))
        return messages if conversation and time.monotonic() - when < _FORGET else []

    def _keep(self, conversation: str, messages: list[dict[str, Any]]) -> None:
        if not conversation:
            return
        while len(messages) > _MESSAGES:  # whole turns, the oldest first
            messages = messages[1:]
            while messages and messages[0]["role"] != "user":
                messages = messages[1:]
        self._known[conversation] = time.monotonic(), messages
        self._known.move_to_end(conversation)
        while len(self._known) > _CONVERSATIONS:
            self._known.popitem(last=False)


def _intents(calls: Sequence[Any], text: str, context: dict[str, Any] | None) -> list[Event]:
    events = []
    for call in calls:
        slots = [Entity(name, value) for name, value in (call.arguments or {}).items() if value is not None]
        events.append(Intent(name=call.name, entities=slots, text=text or None, context=context).event())
    return events if len(events) == 1 else [IntentsStart(context=context).event(), *events, IntentsStop().event()]
