"""Parsing of replies into thoughts, text and tool calls, all at once or while the reply is generated.

Owns the markers of a model turn and the states between them. calls.py owns the notation inside a call. A reply is read
with its control tokens written out:

    [<|channel>thought\\n THOUGHT <channel|>] TEXT {<|tool_call>call:NAME{...}<tool_call|>} [<|tool_response>] [<turn|>]

Models make mistakes: they open a channel without a thought, close one that is not open, add an empty thought, leave a call
open, or end with <eos> after a call. The parser removes such markers from the text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Literal

from .calls import MARKERS, QUOTE, ToolCall, format_tool_response, format_value, parse_calls

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
        result: what the tool returned, as plain data.
        reply: everything that was said since the user's message.
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


class _TrimmedText:
    """Text of one kind, trimmed while it comes: white space is held back until other text follows it."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.waiting = ""  # white space that is held back
        # At the beginning of a passage: leading white space is dropped, and an empty line separates it from the passage before.
        self.fresh = True

    def add(self, text: str) -> str:
        """Adds `text`; returns what can be shown now."""
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


def _any_of(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)))


_CALL_ENDS = (*_CALL_CLOSES, *_CALL_OPENS, *_RESPONSE_OPENS, *_ENDS, _OPEN_THOUGHT, _TURN)
# Markers without a meaning in a reply are dropped. "<unk>" and "<mask>" are kept: a text may be about these words.
_DROPPED = tuple(marker for marker in MARKERS if marker not in ("<unk>", "<mask>"))
_MARKERS = tuple(dict.fromkeys((*_CALL_ENDS, *_RESPONSE_CLOSES, *_DROPPED)))
_IN_TEXT = _any_of(*_MARKERS)
_IN_CALL = _any_of(*_CALL_ENDS)
_IN_RESPONSE = _any_of(*_RESPONSE_CLOSES, *_ENDS)
_PREFIXES = frozenset(marker[:n] for marker in _MARKERS for n in range(1, len(marker)))
_LONGEST = max(map(len, _MARKERS))


def _possible_marker(text: str) -> int:
    """The length of the end of `text` that may be the beginning of a marker."""
    at = text.rfind("<", max(0, len(text) - _LONGEST))
    return len(text) - at if at >= 0 and text[at:] in _PREFIXES else 0


class ReplyParser:
    """Parses a reply while it is generated.

    Feed it pieces of any size, with control tokens written out; the result does not depend on where they are cut. No part
    of a marker is ever returned as text: what may become a marker is held back until that is decided.

        parser = ReplyParser()
        for piece in session.generate(special=True):
            for event in parser.feed(piece): ...
        for event in parser.finish(): ...
        reply = parser.reply
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._searched = 0  # offset in the buffer: the end of a call is not before it
        self._state: Literal["text", "thought", "call", "response", "role", "ended"] = "text"
        self._text, self._thinking = _TrimmedText(), _TrimmedText()
        self._calls: list[ToolCall] = []
        self._events: list[ChatEvent] = []
        self._finished = False

    @property
    def reply(self) -> Reply:
        """The reply as far as it has been returned in events."""
        return Reply(self._thinking.whole(), self._text.whole(), list(self._calls))

    def feed(self, piece: str) -> list[ChatEvent]:
        """Parses the next piece; returns the events that it completes, often none. Text after the end is ignored."""
        if not self._finished and self._state != "ended":
            self._buffer += piece
            while self._step(False):
                pass
        return self._drain_events()

    def finish(self, complete: bool = True) -> list[ChatEvent]:
        """Ends the reply and returns the last events. A second call returns nothing.

        Args:
            complete: the model ended the reply itself, so a call that it left open counts. False when the reply was cut
                off: an unfinished call is then dropped, because its arguments may be incomplete.
        """
        if not self._finished:
            self._finished = True
            while self._step(True):
                pass
            if self._state == "call":
                self._end_call(self._buffer, complete)
        return self._drain_events()

    def _drain_events(self) -> list[ChatEvent]:
        events, self._events = self._events, []
        return events

    # Each step consumes a part of the buffer and returns whether another step may be possible. `last`: no text will follow.

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
            held = _possible_marker(self._buffer)
            if last and (held <= 2 or "|" not in self._buffer[-held:]):
                held = 0  # "a <" and "a <t" end a text; "a <|cha" is a marker that was cut off
            self._emit(self._buffer[: len(self._buffer) - held])
            self._buffer = "" if last else self._buffer[len(self._buffer) - held :]
            return False
        self._emit(self._buffer[: found.start()])
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
            pass  # only the marker is dropped; the state stays
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
            # At the very beginning it is the head of the model's turn; later the model has begun somebody else's turn.
            begun = self._text.parts or self._thinking.parts or self._calls
            self._state = "ended" if begun else "role"
        elif marker == QUOTE:
            self._emit('"')
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
            # Cut off in the middle of the last call: only the calls before it are complete.
            calls, left_over = calls[:-1], ""
        for call in calls:
            self._calls.append(call)
            self._events.append(ChatEvent("tool_call", call=call))
        # Text that is no call is shown, without markers, rather than lost.
        self._emit(_IN_TEXT.sub(lambda found: '"' if found[0] == QUOTE else "", left_over))

    def _emit(self, text: str) -> None:
        if self._state == "thought":
            if shown := self._thinking.add(text):
                self._events.append(ChatEvent("thinking", text=shown))
        elif shown := self._text.add(text):
            self._events.append(ChatEvent("text", text=shown))


def _begins_with(text: str, word: str, last: bool) -> bool | None:
    """Whether `text` begins with `word`, as a whole word after white space; None while that is not decided."""
    text = text.lstrip()
    if text.startswith(word) and len(text) > len(word):
        return not (text[len(word)].isalnum() or text[len(word)] == "_")
    if not word.startswith(text):
        return False
    # At the end, a part of the word is a head that was cut off.
    return bool(text) if last else None


def parse_reply(text: str) -> Reply:
    """Parses a finished reply. Never raises.

    Args:
        text: what the model generated, with control tokens written out (`generate(special=True)`); it may contain the stop
            token and the head of the turn.

    Returns:
        A Reply, which unpacks as thinking, content, tool_calls. Common mistakes of models are understood; a call that
        cannot be understood stays in the content as text.
    """
    parser = ReplyParser()
    parser.feed(text)
    parser.finish()
    return parser.reply
