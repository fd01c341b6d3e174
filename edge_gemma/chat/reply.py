"""Parsing of replies into thoughts, text and tool calls, all at once or while the reply is generated.

Owns the markers of a model turn and the states between them. calls.py owns the notation inside a call. A reply is read
with its control tokens written out:

    [<|channel>thought\\n THOUGHT <channel|>] TEXT {<|tool_call>call:NAME{...}<tool_call|>} [<|tool_response>] [<turn|>]

Models make mistakes: they close a thought that was never opened, open a channel without a name, think inside a call, leave a
call open, or end with <eos> after a call. Markers never become text. What precedes the lone end of a thought is a thought: text
that was shown cannot be taken back, so the events of a stream may have shown it as text, but the `Reply` tells it apart. A call
that was broken off is told as broken, and never as a call.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator
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


# The names of channels that hold the answer itself. Every other channel holds thoughts.
_ANSWERS = ("final", "answer", "response", "message", "text")
_HEAD = re.compile(r"\s*(\w+)[ \t]*\n")  # of a channel
_NO_HEAD_YET = re.compile(r"\s*\w*[ \t]*\Z")  # a head that may still become complete
_BARE_HEAD = re.compile(r"\s*thought[ \t]*(?:\n|\Z)")


def _any_of(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


_CALL_ENDS = (*_CALL_CLOSES, *_CALL_OPENS, *_RESPONSE_OPENS, *_ENDS, _TURN)
# Markers without a meaning in a reply are dropped. "<unk>" and "<mask>" are kept: a text may be about these words.
_DROPPED = tuple(marker for marker in MARKERS if marker not in ("<unk>", "<mask>"))


class _Markers:
    """What a parser looks for; `others` and `ends` are those of the file."""

    def __init__(self, others: Iterable[str], ends: Iterable[str]) -> None:
        self.ends = (*_ENDS, *ends)
        call_ends = (*_CALL_ENDS, *ends)
        known = (*call_ends, *_RESPONSE_CLOSES, _OPEN_THOUGHT, _CLOSE_THOUGHT)
        every = dict.fromkeys((*known, *_DROPPED, *(other for other in others if other not in MARKERS)))
        self.in_text = _any_of(*every)
        self.in_call = _any_of(*call_ends, _OPEN_THOUGHT, _CLOSE_THOUGHT)
        self.in_response = _any_of(*_RESPONSE_CLOSES, *self.ends)
        self.prefixes = frozenset(marker[:n] for marker in every for n in range(1, len(marker)))
        self.longest = max(map(len, every))

    def possible(self, text: str) -> int:
        """The length of the end of `text` that may be the beginning of a marker."""
        for length in range(min(len(text), self.longest - 1), 0, -1):
            if text[-length:] in self.prefixes:
                return length
        return 0


@functools.lru_cache(maxsize=16)
def _markers(others: tuple[str, ...], ends: tuple[str, ...]) -> _Markers:
    return _Markers(others, ends)


@dataclasses.dataclass
class _Passage:
    """A stretch of one kind, untrimmed, between two markers."""

    kind: Literal["text", "thinking"]
    parts: list[str] = dataclasses.field(default_factory=list)
    opened: bool = False  # it follows the beginning of a channel without a name

    def whole(self) -> str:
        return "".join(self.parts)


@dataclasses.dataclass
class _Undecided:
    """What follows a call inside a thought: if the thought ends after it, the model only thought of calling."""

    calls: list[ToolCall] = dataclasses.field(default_factory=list)
    words: list[str] = dataclasses.field(default_factory=list)  # everything, for the thought
    text: list[str] = dataclasses.field(default_factory=list)  # without the calls
    goes_on: bool = False  # words follow the last call, so the thought has not ended with it


class ReplyParser:
    """Parses a reply while it is generated.

    Feed it pieces of any size, with control tokens written out; the result does not depend on where they are cut. No part
    of a marker is ever returned as text: what may become a marker is held back until that is decided.

        parser = ReplyParser()
        for piece in session.generate(special=True):
            for event in parser.feed(piece): ...
        for event in parser.finish(): ...
        reply = parser.reply

    Attributes:
        ended: whether a marker has ended the model's turn. Text after it is ignored.
    """

    def __init__(
        self,
        *,
        in_thought: bool = False,
        markers: Iterable[str] = (),
        ends: Iterable[str] = (),
        check: Callable[[ToolCall], ToolCall] = lambda call: call,
    ) -> None:
        """Begins a reply.

        Args:
            in_thought: the prompt ended inside a thought, so the reply begins in it.
            markers: texts of further control tokens, which are dropped.
            ends: those of them that end the model's turn.
            check: called with each whole call before it is told; what it returns, with a `problem` for one that must not be
                run, takes the place of the call.
        """
        self._check = check
        self._markers = _markers(tuple(markers), tuple(ends))
        self._buffer = ""
        self._searched = 0  # offset in the buffer: the end of a call is not before it
        self._state: Literal["text", "thought", "call", "call_thought", "response", "role", "ended"] = "text"
        self._call_start = ""  # what of a call precedes the thought inside it
        self._call_problem = ""
        self._begun = False  # whether anything but white space and the head of the turn has come
        self._text, self._thinking = _TrimmedText(), _TrimmedText()
        self._passages: list[_Passage] = []
        self._closed: _Passage | None = None  # a passage that the lone end of a thought follows
        self._undecided: _Undecided | None = None
        self._calls: list[ToolCall] = []
        self._broken: list[ToolCall] = []
        self._events: list[ChatEvent] = []
        self._finished = False
        if in_thought:
            self._begin("thought")

    @property
    def ended(self) -> bool:
        """Whether a marker has ended the model's turn. Text after it is ignored."""
        return self._state == "ended"

    @property
    def reply(self) -> Reply:
        """The reply as far as it has been returned in events."""
        texts = {"text": _TrimmedText(), "thinking": _TrimmedText()}
        for passage in self._passages:
            if passage.kind == "thinking":
                texts["thinking"].fresh = True
            texts[passage.kind].add(passage.whole())
        return Reply(texts["thinking"].whole(), texts["text"].whole(), list(self._calls), list(self._broken))

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
            complete: the model ended the reply itself. False when the reply was cut off: what precedes the lone end of a
                thought is then a thought even though nothing follows it.
        """
        if not self._finished:
            self._finished = True
            while self._step(True):
                pass
            if self._state in ("call", "call_thought"):
                self._end_call(self._buffer, False)
            self._decide(cut="" if complete else "the answer was cut off before the thought around it ended")
            if self._closed and not complete:
                self._closed.kind = "thinking"
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
        if self._state == "call_thought":
            return self._step_call_thought()
        if self._state == "response":
            found = self._markers.in_response.search(self._buffer)
            if found is None:
                self._buffer = "" if last else self._buffer[-self._markers.longest :]
                return False
            self._buffer = self._buffer[found.start() if found[0] in self._markers.ends else found.end() :]
            self._begin("text")
            return True
        if self._state == "role":
            _, newline, rest = self._buffer.partition("\n")
            if newline:
                self._buffer, self._state = rest, "text"
            return bool(newline)
        self._buffer = ""
        return False

    def _step_text(self, last: bool) -> bool:
        if not self._begun and not self._step_head(last):
            return False
        found = self._markers.in_text.search(self._buffer)
        if found is None:
            held = self._markers.possible(self._buffer)
            if last and (held <= 2 or "|" not in self._buffer[-held:]):
                held = 0  # "a <" and "a <t" end a text; "a <|cha" is a marker that was cut off
            self._emit(self._buffer[: len(self._buffer) - held])
            self._buffer = "" if last else self._buffer[len(self._buffer) - held :]
            return False
        self._emit(self._buffer[: found.start()])
        self._buffer = self._buffer[found.start() :]
        marker, rest = found[0], self._buffer[len(found[0]) :]
        if marker == _OPEN_THOUGHT:
            return self._open_channel(rest, last)
        if marker in _RESPONSE_OPENS:
            decided = _begins_with(rest, "response", last)
            if decided is None:
                return False
            self._decide(made=True)  # the model waits for the results
            if decided:  # otherwise only the marker is dropped
                rest = rest.lstrip()[len("response") :]
                self._state = "response"
        elif marker == _CLOSE_THOUGHT:
            self._close_channel()
        elif marker in _CALL_OPENS:
            self._begin_call()
        elif marker in self._markers.ends:
            self._decide()
            self._state = "ended"
        elif marker == _TURN:
            # At the very beginning it is the head of the model's turn; later the model has begun somebody else's turn.
            begun = self._text.parts or self._thinking.parts or self._calls or self._broken or self._undecided
            self._decide()
            self._state = "ended" if begun else "role"
        elif marker == QUOTE:
            self._emit('"')
        self._buffer = rest
        return True

    def _step_head(self, last: bool) -> bool:
        """Looks for the head of a thought without its marker, where the reply begins. False while it may be one."""
        start = self._buffer.lstrip()
        if not last and "thought".startswith(start):
            return False
        head = re.match(r"\s*thought[ \t]*(?=\n|<)", self._buffer)
        if head is None and not last and re.fullmatch(r"thought[ \t]*", start):
            return False
        if head and self._state == "thought":
            self._buffer = self._buffer[head.end() :]
        elif head:
            following = self._markers.in_text.search(self._buffer)
            if following is None and not last:
                return False
            if following and following[0] == _CLOSE_THOUGHT:
                self._buffer = self._buffer[head.end() :]
                self._begin("thought")
        self._begun = bool(start) and not start.startswith("<")
        return True

    def _open_channel(self, rest: str, last: bool) -> bool:
        """Takes the marker that begins a channel, and its name. False while the name is not complete."""
        thought = _begins_with(rest, "thought", last)
        if thought is None or (not thought and not last and _NO_HEAD_YET.match(rest)):
            return False
        head = _HEAD.match(rest)
        self._decide()
        self._buffer, self._begun = rest, True
        if thought:
            self._buffer = rest.lstrip()[len("thought") :]
            self._begin("thought")
        elif head:
            self._buffer = rest[head.end() :]
            self._begin("text" if head[1] in _ANSWERS else "thought")
        elif self._state == "text":
            self._begin("text")
            self._passages[-1].opened = True
        return True

    def _close_channel(self) -> None:
        """Takes the marker that ends a thought."""
        if self._undecided:
            self._decide(made=False)
        elif self._state == "text" and self._passages:
            passage = self._passages[-1]
            written = passage.whole()
            if passage.kind == "text" and written.strip():
                if passage.opened or _BARE_HEAD.match(written):
                    passage.kind = "thinking"
                    passage.parts = [_BARE_HEAD.sub("", written)]
                else:
                    self._closed = passage
        self._begin("text")

    # ---- calls ----

    def _in_words(self, text: str) -> str:
        """The text of a call without markers."""
        return self._markers.in_text.sub(lambda found: '"' if found[0] == QUOTE else "", text)

    def _begin_call(self) -> None:
        if self._state == "thought" and self._undecided is None:
            self._undecided = _Undecided()
        self._state, self._searched, self._begun = "call", 0, True

    def _step_call(self) -> bool:
        found = self._markers.in_call.search(self._buffer, self._searched)
        if found is None:
            self._searched = max(0, len(self._buffer) - self._markers.longest)
            return False
        body, rest = self._buffer[: found.start()], self._buffer[found.end() :]
        if found[0] in (_OPEN_THOUGHT, _CLOSE_THOUGHT) and not _is_whole(body):
            # A thought inside the call is taken out; where only its end is there, nobody knows where it began.
            if found[0] == _OPEN_THOUGHT:
                self._call_start, self._buffer, self._state = body, rest, "call_thought"
            else:
                self._call_problem = "a thought ends inside it"
                self._buffer, self._searched = body + rest, len(body)
            return True
        closed = found[0] in _CALL_CLOSES
        self._buffer = rest if closed else self._buffer[found.start() :]
        self._end_call(body, closed)
        return True

    def _step_call_thought(self) -> bool:
        found = self._markers.in_call.search(self._buffer)
        if found is None:
            return False
        thought, rest = self._buffer[: found.start()], self._buffer[found.end() :]
        if found[0] == _OPEN_THOUGHT:
            self._buffer = thought + rest
        elif found[0] == _CLOSE_THOUGHT:
            self._think(thought)
            self._buffer, self._searched, self._state = self._call_start + rest, len(self._call_start), "call"
            self._call_start = ""
        else:
            self._buffer = rest if found[0] in _CALL_CLOSES else self._buffer[found.start() :]
            self._end_call(thought, False)
        return True

    def _think(self, thought: str) -> None:
        """Adds a thought from inside a call."""
        state, self._state = self._state, "thought"
        undecided, self._undecided = self._undecided, None
        self._begin("thought")
        self._emit(_BARE_HEAD.sub("", self._in_words(thought)))
        self._state, self._undecided = state, undecided

    def _end_call(self, body: str, closed: bool) -> None:
        """Takes the text of a call. `closed`: its end marker followed; otherwise another marker, or nothing."""
        problem, self._call_problem = self._call_problem, ""
        if self._state == "call_thought":
            self._think(body)
            body, self._call_start = self._call_start, ""
            closed, problem = False, "a thought inside it does not end"
        calls, left_over, whole = parse_calls(body)
        if problem or not (whole or closed):
            last = calls.pop() if calls else ToolCall("", {})
            calls.append(
                dataclasses.replace(last, problem=problem or last.problem or "it was broken off before its end")
            )
            left_over = ""
        if self._undecided is None:
            self._begin("text")
        self._state = "text"
        written = self._in_words(body)
        if self._undecided:
            self._undecided.calls.extend(calls)
            self._undecided.words.append(written)
            self._undecided.text.append(self._in_words(left_over))
            self._undecided.goes_on = bool(left_over.strip())
            return
        for call in calls:
            self._tell_call(call, written)
        # Text that is no call is shown, without markers, rather than lost.
        self._emit(self._in_words(left_over))

    def _tell_call(self, call: ToolCall, written: str) -> None:
        self._settle()
        call = call if call.problem else self._check(call)
        if call.problem:
            self._broken.append(call)
            self._events.append(ChatEvent("broken_call", text=written, call=call))
        else:
            self._calls.append(call)
            self._events.append(ChatEvent("tool_call", call=call))

    def _decide(self, made: bool | None = None, cut: str = "") -> None:
        """Decides about calls inside a thought: they were made, or the model only thought of them.

        Args:
            made: None when it depends on whether the thought went on behind them.
            cut: the problem of these calls when the reply was cut off.
        """
        undecided, self._undecided = self._undecided, None
        if undecided is None:
            return
        if made is None:
            made = not undecided.goes_on
        calls = [dataclasses.replace(call, problem=call.problem or cut) for call in undecided.calls] if made else []
        if made and not cut:
            self._begin("text")
        else:
            self._state = "thought"
            self._emit("".join(undecided.words))
        for call in calls:
            self._tell_call(call, "".join(undecided.words))
        if self._state == "text":
            self._emit("".join(undecided.text))

    # ---- text ----

    def _begin(self, state: Literal["text", "thought"]) -> None:
        """Begins a passage."""
        self._state = state
        if state == "thought":
            self._thinking.fresh = True
        self._passages.append(_Passage("thinking" if state == "thought" else "text"))

    def _settle(self) -> None:
        """Something follows the lone end of a thought: what precedes it was the thought."""
        if self._closed:
            self._closed.kind, self._closed = "thinking", None

    def _emit(self, text: str) -> None:
        if not text:
            return
        if self._undecided:
            self._undecided.words.append(text)
            self._undecided.text.append(text)
            self._undecided.goes_on = self._undecided.goes_on or bool(text.strip())
            return
        self._begun = self._begun or bool(text.strip())
        if not self._passages:
            self._begin("text")
        self._passages[-1].parts.append(text)
        if self._state == "thought":
            if shown := self._thinking.add(text):
                self._events.append(ChatEvent("thinking", text=shown))
        elif shown := self._text.add(text):
            self._settle()
            self._events.append(ChatEvent("text", text=shown))


def _is_whole(body: str) -> bool:
    """Whether the text of a call is complete, so that nothing of it can follow."""
    calls, left_over, whole = parse_calls(body)
    return whole and bool(calls) and not left_over and not calls[-1].problem


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
        A Reply, which unpacks as thinking, content, tool_calls. Common mistakes of models are understood. What precedes the
        lone end of a thought is thinking. A call that cannot be read as a whole is among `broken_calls`.
    """
    parser = ReplyParser()
    parser.feed(text)
    parser.finish()
    return parser.reply
