"""Replies as thoughts, text and tool calls, all at once or while they are generated.

The engine parses them (csrc/text/reply.c). A reply is read with its control tokens written out:

    [<|channel>thought\\n THOUGHT <channel|>] TEXT {<|tool_call>call:NAME{...}<tool_call|>} [<|tool_response>] [<turn|>]

Models make mistakes: they close a thought that was never opened, open a channel without a name, think inside a call, leave a
call open, or end with <eos> after a call. Markers never become text. What precedes the lone end of a thought is a thought: text
that was shown cannot be taken back, so the events of a stream may have shown it as text, but the `Reply` tells it apart. A call
that was broken off is told as broken, and never as a call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from ..engine.native import Uncopyable, check, ffi, lib, new_struct, text_of
from ..errors import EdgeGemmaMemoryError
from .calls import ToolCall, call_in_words, format_tool_response, format_value, tool_call

__all__ = [
    "MODEL_STOPS",
    "ChatEvent",
    "Reply",
    "ReplyParser",
    "ToolCall",
    "format_tool_response",
    "format_value",
    "parse_reply",
]

MODEL_STOPS = {"eos": "<eos>", "turn": "<turn|>", "tool_response": "<|tool_response>"}
"""How a model itself ends a reply: the name of the stop, and the text of its token. Any other stop cuts the reply off."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of the model. Also unpacks: `thinking, content, tool_calls = reply`.

    Attributes:
        thinking: its thoughts, "" if it had none; several are joined by an empty line.
        content: the answer's text without markers, trimmed.
        tool_calls: the calls in the order in which they were made.
        broken_calls: calls that were cut off or cannot be read, each with its `problem`; they must not be run.
    """

    thinking: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = dataclasses.field(default_factory=list)
    broken_calls: list[ToolCall] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """Yields thinking, content and tool_calls."""
        return iter((self.thinking, self.content, self.tool_calls))


@dataclasses.dataclass(frozen=True)
class ChatEvent:
    """A piece of an answer, as a parser or a chat yields it.

    Attributes:
        kind: "text" and "thinking" come with `text`; "tool_call" with `call`; "tool_result" with `call` and `result`;
            "broken_call", a call that is not run, with `call`, whose `problem` tells why, and its `text`; "done", a chat's
            last event, with `reply` and `stats`.
        text: what was added. All texts of one kind together are the reply's content, or its thinking, but for a thought that
            the model never opened: it comes as "text", and only `reply` has it among the thoughts.
        call: the call that was made or answered.
        result: what the tool returned, as plain data.
        reply: everything that was said since the user's message.
        stats: see `Chat.send`.
    """

    kind: Literal["text", "thinking", "tool_call", "tool_result", "broken_call", "done"]
    text: str = ""
    call: ToolCall | None = None
    result: Any = None
    reply: Reply | None = None
    stats: dict[str, Any] | None = None

    @property
    def name(self) -> str | None:
        """Of the tool, in tool_call, tool_result and broken_call."""
        return self.call.name if self.call else None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """Of the call, in tool_call, tool_result and broken_call."""
        return self.call.arguments if self.call else None

    @property
    def stop(self) -> str | None:
        """Why the answer ended, in done."""
        return self.stats["stop"] if self.stats else None


def _texts(texts: Iterable[str]) -> tuple[Any, list[Any]]:
    """Texts as an array of C strings, and the strings, which must live as long."""
    held = [ffi.new("char[]", text.encode("utf-8", "replace")) for text in texts]
    return ffi.new("const char *[]", held), held


class ReplyParser(Uncopyable):
    """Parses a reply while it is generated.

    Feed it pieces of any size, with control tokens written out; the result does not depend on where they are cut. No part
    of a marker is ever returned as text: what may become a marker is held back until that is decided.

        parser = ReplyParser()
        for piece in session.generate(special=True):
            for event in parser.feed(piece): ...
        for event in parser.finish(): ...
        reply = parser.reply
    """

    kind = "reply parser"

    def __init__(
        self,
        *,
        in_thought: bool = False,
        markers: Iterable[str] = (),
        ends: Iterable[str] = (),
        check_call: Callable[[ToolCall], ToolCall] = lambda call: call,
    ) -> None:
        """Begins a reply.

        Args:
            in_thought: the prompt ended inside a thought, so the reply begins in it.
            markers: texts of further control tokens, which are dropped.
            ends: those of them that end the model's turn.
            check_call: called with each whole call before it is told; what it returns, with a `problem` for one that must not
                be run, takes the place of the call.
        """
        self._check_call = check_call
        params = new_struct("eg_reply_params")
        params.in_thought = in_thought
        marker_array, marker_texts = _texts(markers)
        end_array, end_texts = _texts(ends)
        params.markers, params.n_markers = marker_array, len(marker_texts)
        params.ends, params.n_ends = end_array, len(end_texts)
        raw, self._error = ffi.new("eg_reply **"), new_struct("eg_error")
        check(lib.eg_reply_open(params, raw, self._error), self._error)
        self._raw = ffi.gc(raw[0], lib.eg_reply_close)
        self._event = new_struct("eg_reply_event")
        self._calls: list[ToolCall] = []
        self._broken: list[ToolCall] = []

    @property
    def ended(self) -> bool:
        """Whether a marker has ended the model's turn. Text after it is ignored."""
        return bool(lib.eg_reply_ended(self._raw))

    @property
    def reply(self) -> Reply:
        """The reply as far as it has been returned in events."""
        thinking, content = map(self._whole, (lib.EG_EVENT_THOUGHT, lib.EG_EVENT_TEXT))
        return Reply(thinking, content, list(self._calls), list(self._broken))

    def feed(self, piece: str) -> list[ChatEvent]:
        """Parses the next piece; returns the events that it completes, often none. Text after the end is ignored."""
        written = piece.encode("utf-8", "replace")
        check(lib.eg_reply_feed(self._raw, written, len(written), self._error), self._error)
        return self._take_events()

    def finish(self, complete: bool = True) -> list[ChatEvent]:
        """Ends the reply and returns the last events. A second call returns nothing.

        Args:
            complete: the model ended the reply itself. False when the reply was cut off: what precedes the lone end of a
                thought is then a thought even though nothing follows it.
        """
        check(lib.eg_reply_finish(self._raw, complete, self._error), self._error)
        return self._take_events()

    def _whole(self, kind: int) -> str:
        length = ffi.new("size_t *")
        found = lib.eg_reply_get(self._raw, kind, length)
        if found == ffi.NULL:
            raise EdgeGemmaMemoryError("There is no memory for the reply.", "memory")
        return text_of(found, length[0])

    def _take_events(self) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        event = self._event
        while True:
            check(lib.eg_reply_next(self._raw, event, self._error), self._error)
            if event.kind == lib.EG_EVENT_NONE:
                return events
            text = text_of(event.text, event.text_length)
            if event.kind in (lib.EG_EVENT_TEXT, lib.EG_EVENT_THOUGHT):
                events.append(ChatEvent("text" if event.kind == lib.EG_EVENT_TEXT else "thinking", text=text))
                continue
            name, arguments, problem = (
                ffi.string(part).decode() for part in (event.name, event.arguments, event.problem)
            )
            call = tool_call(name, arguments, problem)
            if not problem and (call := self._check_call(call)).problem:
                text = call_in_words(call)
            (self._broken if call.problem else self._calls).append(call)
            events.append(ChatEvent("broken_call" if call.problem else "tool_call", text=text, call=call))


def parse_reply(text: str) -> Reply:
    """Parses a finished reply. Never raises.

    Args:
        text: what the model generated, with control tokens written out (`generate(special=True)`); it may contain the stop
            token and the head of the turn.

    Returns:
        A Reply, which unpacks as thinking, content, tool_calls. Common mistakes of models are understood. What precedes the
        lone end of a thought is thinking. A call that cannot be read as a whole is among `broken_calls`.
    """
    parser = ReplyParser()
    parser.feed(text)
    parser.finish()
    return parser.reply
