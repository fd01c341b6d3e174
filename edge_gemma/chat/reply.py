"""What the model says, taken apart: thoughts, text, tool calls; all at once or while it is generated.

Owns the markers of a model turn and the states between them. The notation inside a call is calls.py's. A reply is read
with its control tokens written out:

    [<|channel>thought\\n THOUGHT <channel|>] TEXT {<|tool_call>call:NAME{...}<tool_call|>} [<|tool_response>] [<turn|>]

Models slip: they open a channel without a thought, close one that is not open, add an empty thought, leave a call open,
end with <eos> after it. None of that reaches the text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Literal

from .calls import QUOTE, ToolCall, format_tool_response, format_value, parse_calls

__all__ = ["ChatEvent", "Reply", "ReplyParser", "ToolCall", "format_tool_response", "format_value", "parse_reply"]


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of the model. Also unpacks: `thinking, content, tool_calls = reply`.

    Attributes:
        thinking: its thoughts, "" if it had none; several are joined by an empty line.
        content: the answer's text without markers, trimmed.
        tool_calls: the calls in the order in which they were made.
    """

    thinking: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """Yields thinking, content and tool_calls."""
        return iter((self.thinking, self.content, self.tool_calls))


@dataclasses.dataclass(frozen=True)
class ChatEvent:
    """A piece of an answer, as a parser or a chat yields it.

    Attributes:
        kind: "text" and "thinking" come with `text`; "tool_call" with `call`; "tool_result" with `call` and `result`;
            "done", a chat's last event, with `reply` and `stats`.
        text: what was added. All texts of one kind together are the reply's content, or its thinking.
        call: the call that was made or answered.
        result: what the tool returned.
        reply: everything said since the user's message.
        stats: see `Chat.send`.
    """

    kind: Literal["text", "thinking", "tool_call", "tool_result", "done"]
    text: str = ""
    call: ToolCall | None = None
    result: Any = None
    reply: Reply | None = None
    stats: dict[str, Any] | None = None

    @property
    def name(self) -> str | None:
        """Of the tool, in tool_call and tool_result."""
        return self.call.name if self.call else None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """Of the call, in tool_call and tool_result."""
        return self.call.arguments if self.call else None

    @property
    def stop(self) -> str | None:
        """Why the answer ended, in done."""
        return self.stats["stop"] if self.stats else None


class _Stream:
    """One kind of text, trimmed as it comes: white space waits until something follows it."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.waiting = ""
        self.fresh = (
            True  # at the beginning of a stretch: white space is dropped, and an empty line parts it from the last
        )

    def add(self, text: str) -> str:
        """What can be shown now that `text` has come."""
        if self.fresh:
            text = text.lstrip()
            if not text:
                return ""
            self.fresh = False
            self.waiting = "\n\n" if self.parts else ""
        text = self.waiting + text
        shown = text.rstrip()
        self.waiting = text[len(shown) :]
        if shown:
            self.parts.append(shown)
        return shown

    def whole(self) -> str:
        return "".join(self.parts)


# The names that the small function-calling Gemma uses for the same things.
_CALL_OPENS = ("<|tool_call>", "<start_function_call>")
_CALL_CLOSES = ("<tool_call|>", "<end_function_call>")
_RESPONSE_OPENS = ("<|tool_response>", "<start_function_response>")
_RESPONSE_CLOSES = ("<tool_response|>", "<end_function_response>")
_ENDS = ("<turn|>", "<eos>")
_OPEN_THOUGHT, _CLOSE_THOUGHT, _TURN = "<|channel>", "<channel|>", "<|turn>"
_DROPPED = (
    "<bos>",
    "<pad>",
    "<|think|>",
    "<|tool>",
    "<tool|>",
    "<|image>",
    "<image|>",
    "<|image|>",
    "<|audio>",
    "<audio|>",
    "<|audio|>",
    "<|video|>",
)


def _any_of(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)))


_CALL_ENDS = (*_CALL_CLOSES, *_CALL_OPENS, *_RESPONSE_OPENS, *_ENDS, _OPEN_THOUGHT, _TURN)
_MARKERS = (*_CALL_ENDS, *_RESPONSE_CLOSES, _CLOSE_THOUGHT, QUOTE, *_DROPPED)
_IN_TEXT = _any_of(*_MARKERS)
_IN_CALL = _any_of(*_CALL_ENDS)
_IN_RESPONSE = _any_of(*_RESPONSE_CLOSES, *_ENDS)
_PREFIXES = frozenset(marker[:n] for marker in _MARKERS for n in range(1, len(marker)))
_LONGEST = max(map(len, _MARKERS))


def _held_back(text: str) -> int:
    """Length of the end of `text` that may become a marker."""
    at = text.rfind("<", max(0, len(text) - _LONGEST))
    return len(text) - at if at >= 0 and text[at:] in _PREFIXES else 0


class ReplyParser:
    """Takes a reply apart while it is generated.

    Feed it pieces of any size, with control tokens written out; the result does not depend on where they are cut. No part
    of a marker is ever given out as text: what may become one is held back until it is decided.

        parser = ReplyParser()
        for piece in session.generate(special=True):
            for event in parser.feed(piece): ...
        for event in parser.finish(): ...
        reply = parser.reply
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._searched = 0  # where in the buffer the search for the end of a call goes on
        self._state: Literal["text", "thought", "call", "response", "role", "ended"] = "text"
        self._text, self._thinking = _Stream(), _Stream()
        self._calls: list[ToolCall] = []
        self._events: list[ChatEvent] = []
        self._finished = False

    @property
    def reply(self) -> Reply:
        """What has been given out so far."""
        return Reply(self._thinking.whole(), self._text.whole(), list(self._calls))

    def feed(self, piece: str) -> list[ChatEvent]:
        """Takes the next piece; returns the events that it completes, often none. Ignores what comes after the end."""
        if not self._finished and self._state != "ended":
            self._buffer += piece
            while self._step(False):
                pass
        return self._take()

    def finish(self, complete: bool = True) -> list[ChatEvent]:
        """Ends the reply and returns the last events. A second call returns nothing.

        Args:
            complete: the model ended by itself, so a call that it left open counts. False when the reply was cut off:
                an unfinished call is then dropped, for its arguments may be cut off too.
        """
        if not self._finished:
            self._finished = True
            while self._step(True):
                pass
            if self._state == "call":
                self._end_call(self._buffer, complete)
        return self._take()

    def _take(self) -> list[ChatEvent]:
        events, self._events = self._events, []
        return events

    # Each step works off one stretch of the buffer and tells whether there may be more to do. `last`: nothing will follow.

    def _step(self, last: bool) -> bool:
        if self._state in ("text", "thought"):
            return self._step_text(last)
        if self._state == "call":
            return self._step_call()
        if self._state == "response":
            found = _IN_RESPONSE.search(self._buffer)
            if found is None:
                self._buffer = "" if last else self._buffer[-_LONGEST:]
                return False
            self._buffer = self._buffer[found.start() if found[0] in _ENDS else found.end() :]
            self._state = "text"
            return True
        if self._state == "role":
            _, newline, rest = self._buffer.partition("\n")
            if newline:
                self._buffer, self._state = rest, "text"
            return bool(newline)
        self._buffer = ""
        return False

    def _step_text(self, last: bool) -> bool:
        found = _IN_TEXT.search(self._buffer)
        if found is None:
            held = _held_back(self._buffer)
            if last and (held <= 2 or "|" not in self._buffer[-held:]):
                held = 0  # "a <" and "a <t" end a text; "a <|cha" is a marker that was cut off
            self._say(self._buffer[: len(self._buffer) - held])
            self._buffer = "" if last else self._buffer[len(self._buffer) - held :]
            return False
        self._say(self._buffer[: found.start()])
        self._buffer = self._buffer[found.start() :]
        marker, rest = found[0], self._buffer[len(found[0]) :]
        following = True
        if marker in (_OPEN_THOUGHT, *_RESPONSE_OPENS):
            word = "thought" if marker == _OPEN_THOUGHT else "response"
            decided = _begins_with(rest, word, last)
            if decided is None:
                return False
            following = decided
            if following:
                rest = rest.lstrip()[len(word) :]
        if not following:
            pass  # the marker alone is dropped, and the state stays
        elif marker == _OPEN_THOUGHT:
            self._thinking.fresh = True
            self._state = "thought"
        elif marker == _CLOSE_THOUGHT:
            self._state = "text"
        elif marker in _RESPONSE_OPENS:
            self._state = "response"
        elif marker in _CALL_OPENS:
            self._state, self._searched = "call", 0
        elif marker in _ENDS:
            self._state = "ended"
        elif marker == _TURN:
            # Before anything else it is the head of the turn; later the model has begun a turn that is not its own.
            begun = self._text.parts or self._thinking.parts or self._calls
            self._state = "ended" if begun else "role"
        elif marker == QUOTE:
            self._say('"')
        self._buffer = rest
        return True

    def _step_call(self) -> bool:
        found = _IN_CALL.search(self._buffer, self._searched)
        if found is None:
            self._searched = max(0, len(self._buffer) - _LONGEST)
            return False
        body, self._buffer = self._buffer[: found.start()], self._buffer[found.start() :]
        if found[0] in _CALL_CLOSES:
            self._buffer = self._buffer[len(found[0]) :]
        self._end_call(body, True)
        return True

    def _end_call(self, body: str, complete: bool) -> None:
        self._state = "text"
        calls, left_over, whole = parse_calls(body)
        if not whole and not complete:
            # Cut off in the middle: the calls before the last one are whole, and nothing of the last is of use.
            calls, left_over = calls[:-1], ""
        for call in calls:
            self._calls.append(call)
            self._events.append(ChatEvent("tool_call", call=call))
        # What is no call at all is shown rather than lost, but without its markers.
        self._say(_IN_TEXT.sub(lambda found: '"' if found[0] == QUOTE else "", left_over))

    def _say(self, text: str) -> None:
        stream, kind = (self._thinking, "thinking") if self._state == "thought" else (self._text, "text")
        if shown := stream.add(text):
            self._events.append(ChatEvent(kind, text=shown))  # type: ignore[arg-type]


def _begins_with(text: str, word: str, last: bool) -> bool | None:
    """Whether `text` begins with `word`, as a whole word after white space; None while that is not decided."""
    text = text.lstrip()
    if text.startswith(word) and len(text) > len(word):
        return not (text[len(word)].isalnum() or text[len(word)] == "_")
    if not word.startswith(text):
        return False
    # At the end, a part of the word can only be the beginning of a head that was cut off.
    return bool(text) if last else None


def parse_reply(text: str) -> Reply:
    """Takes a finished reply apart.

    Args:
        text: what the model generated, with control tokens written out (`generate(special=True)`); the stop token and
            the head of the turn may be there.

    Returns:
        A Reply, which unpacks as thinking, content, tool_calls. Never raises: see the module for the slips that it
        understands; a call that can not be understood at all stays in the content as text.
    """
    parser = ReplyParser()
    parser.feed(text)
    parser.finish()
    return parser.reply
