"""`ToolLoop`: from the tool calls of a reply to the place where the model goes on.

Owns the order of the calls, the limit on their rounds, and the tokens that follow the model's own words. It neither generates
nor feeds: the driver does both, with a session of its own (conversation.py for chats, assistant/spoken.py for speech).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from .calls import ToolCall, plain_data
from .prompt import Prompt
from .reply import MODEL_STOPS, ChatEvent, Reply
from .tools import Toolbox

__all__ = ["ToolLoop"]

_TOO_MANY = {"error": "too many tool calls in one answer: answer with what is known"}


class ToolLoop:
    """Runs the tool calls of one answer, round by round. A round is the calls of one reply.

        loop = ToolLoop(tools, prompt, max_rounds=8)
        reply = ...                                         # what the model generates
        while (calls := loop.calls(reply, stop)) and not loop.refusal(calls):
            for event in loop.run(calls): ...
            ...                                             # feed loop.continuation(ids of the reply)
            reply = ...

    Attributes:
        rounds: how many rounds have been run.
        results: of the last round, (name of the tool, result as plain data) for every call that has returned.
    """

    def __init__(self, tools: Toolbox, prompt: Prompt, max_rounds: int, *, warn: bool = True) -> None:
        """Begins an answer.

        Args:
            tools: what the calls run.
            prompt: writes the results as tokens.
            max_rounds: the most rounds in which tools run.
            warn: after these, one more round is allowed in which no tool runs: its results tell the model to answer.
        """
        self.rounds = 0
        self.results: list[tuple[str, Any]] = []
        self._tools, self._prompt, self._max_rounds, self._warn = tools, prompt, max_rounds, warn

    @staticmethod
    def calls(reply: Reply, stop: str) -> list[ToolCall]:
        """The calls that want a result, for `refusal` and `run`.

        Args:
            reply: of the model.
            stop: why it ended. Where the model itself ended the reply, or the loop goes on anyway, the model is told of its
                broken calls as well.
        """
        told = reply.broken_calls if reply.tool_calls or stop in MODEL_STOPS else []
        return [*reply.tool_calls, *told]

    def refusal(self, calls: Sequence[ToolCall]) -> Literal["", "tool_limit", "tool_call"]:
        """Why the calls are not to be run: "tool_limit", there were too many rounds; "tool_call", the function of a tool is
        not known here, so the caller has to run it. "" when they are to be run."""
        if self.rounds >= self._max_rounds + self._warn:
            return "tool_limit"
        return "" if all(call.problem or self._tools.can_call(call.name) for call in calls) else "tool_call"

    def run(self, calls: Sequence[ToolCall]) -> Iterator[ChatEvent]:
        """Runs the calls in order. Yields "tool_call" before each tool runs and "tool_result" afterwards. A broken call is not
        run: only its "tool_result" comes, an error for the model.

        A driver may leave the iteration early: `results` then has the calls that have returned.
        """
        allowed = self.rounds < self._max_rounds
        self.rounds += 1
        self.results = []
        for call in calls:
            result: Any = dict(_TOO_MANY)
            if call.problem:
                result = {"error": f"the call was not run, because {call.problem}: write the whole call again"}
            else:
                yield ChatEvent("tool_call", call=call)
                if allowed:
                    result = plain_data(self._tools.call(call.name, call.arguments))
            self.results.append((call.name or "unknown", result))
            yield ChatEvent("tool_result", call=call, result=result)

    def own_words(self, ids: Sequence[int]) -> list[int]:
        """The ids of a reply without the token that ended it."""
        stops = self._prompt.stop_tokens()
        end = len(ids)
        while end and ids[end - 1] in stops:
            end -= 1
        return list(ids[:end])

    def continuation(self, own_words: Sequence[int]) -> list[int]:
        """What is fed after the own words of the reply whose calls were run last, so that the model goes on."""
        # Models sometimes leave their last call, or a thought inside it, open.
        pairs = (("<|channel>", "<channel|>"), ("<|tool_call>", "<tool_call|>"))
        end = [token for pair in pairs if (token := self._closing(own_words, *pair)) is not None]
        return [*end, *self._prompt.responses(self.results)]

    def _closing(self, own_words: Sequence[int], begin: str, end: str) -> int | None:
        """The token `end` if the words leave `begin` open."""
        opening, closing = self._prompt.token(begin), self._prompt.token(end)
        markers = [token for token in own_words if token in (opening, closing)]
        return closing if markers[-1:] == [opening] else None
