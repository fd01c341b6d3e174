"""From a conversation to what a session is fed: token ids, with recordings and pictures in their places.

Owns two guarantees.

1. Text from outside cannot become control tokens. Before the template is rendered, every character with which a marker
   begins, such as "<", is replaced in such text by a character that the conversation does not use. A marker in the rendered
   text is then the template's own: it is encoded as a control token, and everything else as plain text. The markers are
   Gemma's and those that the file itself types as control or user-defined tokens.
2. A model's turn with tool calls is written as it was generated: calls, responses and text in one turn. Templates write such
   turns in different ways, so the template only places the turn, and its body is inserted afterwards.

Does not know sessions, nor what their caches hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..engine.interface import TokenizerLike
from ..errors import EdgeGemmaValueError
from ..vision.budgets import FRAME_BUDGET, choose_budget
from ..vision.cache import picture_key
from ..vision.sampling import time_text
from ..vision.video import Clip
from .calls import MARKERS, ToolCall, format_call, format_tool_response
from .reply import MODEL_STOPS, ReplyParser
from .schemas import shown_schema
from .template import render_chat

__all__ = ["Media", "Prompt", "Unit", "around_media", "ends_in_thought"]


@dataclasses.dataclass(frozen=True)
class Media:
    """A recording or a picture in a prompt; equal to another with the same content.

    Attributes:
        kind: "audio" or "image". A frame of a video is an image.
        key: digest of the content.
        data: float32 samples (n,), or a picture (h, w, 3) uint8.
        budget: the most soft tokens of a picture; 0 for a recording.
    """

    kind: str
    key: bytes
    data: Any = dataclasses.field(compare=False, repr=False)
    budget: int = 0

    @classmethod
    def of(cls, kind: str, array: NDArray[Any], budget: int | str | None = None) -> Media:
        """Makes it of its samples or pixels; `budget` of a picture as `choose_budget` takes it."""
        if kind == "image":
            return cls(kind, picture_key(array), array, choose_budget(budget, array.shape[0], array.shape[1]))
        digest = hashlib.blake2b(array.tobytes(), digest_size=16, person=repr(array.shape).encode()[:16])
        return cls(kind, digest.digest(), array)


Unit = int | Media
"""One element of a prompt: a token id, or media that becomes many soft tokens."""


def around_media(units: Sequence[Unit]) -> tuple[list[int], list[int]]:
    """The token ids before and after the only recording or picture of a prompt."""
    at = next(number for number, unit in enumerate(units) if isinstance(unit, Media))
    before, after = ([unit for unit in part if isinstance(unit, int)] for part in (units[:at], units[at + 1 :]))
    return before, after


def ends_in_thought(tokenizer: TokenizerLike, units: Sequence[Unit]) -> bool:
    """Whether a prompt, or the end of one, ends inside a thought."""
    opening = tokenizer.find("<|channel>")
    markers = (opening, tokenizer.find("<channel|>"), tokenizer.find("<|turn>"))
    last = next((unit for unit in reversed(units) if unit in markers), None)
    return last is not None and last == opening


_HEAD = re.compile(r"(?:\w+\n+)?")
_THOUGHT = re.compile(r"<\|channel>.*?(?:<channel\|>|\Z)", re.DOTALL)
_OPEN_THOUGHT = re.compile(r"<\|channel>(?:\w+\n*)?\Z")
_PRIVATE = [chr(code) for code in range(0x10FF00, 0x10FFFE)]  # characters for private use, which text hardly ever has
_PLACES = re.compile(r"<\|(audio|image|video)\|>")
_KEYWORDS = ("description", "type", "properties", "required", "nullable")
_MODEL_ROLES = ("assistant", "model", "tool")


def _placed(text: str, media: Sequence[Media | Clip]) -> tuple[str, list[Media]]:
    """A rendered text, and the recordings and pictures for its places "<|audio|>" and "<|image|>" in their order.

    The place of a video becomes a place for each frame, behind its time, and one for the sound. So the times are encoded
    together with the text around them, as the models were trained. Raises EdgeGemmaValueError "template" where places and media
    do not fit each other.
    """
    left = list(media)
    placed: list[Media] = []

    def place(found: re.Match[str]) -> str:
        item = left.pop(0) if left else None
        if isinstance(item, Clip) and found[1] == "video":
            placed.extend(Media.of("image", frame.pixels, FRAME_BUDGET) for frame in item.frames)
            times = " ".join(f"{time_text(frame.seconds)} <|image|>" for frame in item.frames)
            if item.sound is None:
                return times
            placed.append(Media.of("audio", item.sound))
            return f"{times}<|audio|>"
        if not isinstance(item, Media) or item.kind != found[1]:
            raise EdgeGemmaValueError(f"The chat template prints {found[0]} in the wrong place.", code="template")
        placed.append(item)
        return found[0]

    text = _PLACES.sub(place, text)
    if left:
        raise EdgeGemmaValueError("The chat template has no place for audio, images or video.", code="template")
    return text, placed


def _from_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


class _Escape:
    """Replaces `firsts`, the characters with which markers begin, in all text of a conversation by characters that the
    conversation does not use. `place` and `guard` are two more such characters; `show` takes `guard` away."""

    def __init__(self, firsts: str, *values: Any) -> None:
        used: set[str] = set()
        for value in values:
            self._collect(value, used)
        free = [char for char in _PRIVATE if char not in used][: len(firsts) + 2]
        if len(free) < len(firsts) + 2:
            raise EdgeGemmaValueError("The conversation uses every private character of Unicode.", code="argument")
        self.place, self.guard = free.pop(), free.pop()
        self._hide = dict(zip(map(ord, firsts), free, strict=True))
        self._show: dict[int, str | None] = {**dict(zip(map(ord, free), firsts, strict=True)), ord(self.guard): None}

    def _collect(self, value: Any, used: set[str]) -> None:
        if isinstance(value, str):
            if not value.isascii():
                used.update(value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._collect(key, used)
                self._collect(item, used)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._collect(item, used)

    def hide(self, value: Any) -> Any:
        """`value` with these characters replaced, in keys too."""
        if isinstance(value, str):
            return value.translate(self._hide)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def guarded(self, schema: Any) -> Any:
        """A JSON schema in which arguments with the names of its keywords, such as "type", are written so that templates do
        not take them for keywords, which they leave out."""
        if isinstance(schema, (list, tuple)):
            return [self.guarded(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        found = {key: self.guarded(item) for key, item in schema.items() if key != "properties"}
        if isinstance(properties := schema.get("properties"), Mapping):
            found["properties"] = {
                name + self.guard * (name in _KEYWORDS): self.guarded(item) for name, item in properties.items()
            }
        return found

    def show(self, text: str) -> str:
        """The reverse of `hide` for a text."""
        return text.translate(self._show)


class Prompt:
    """Writes conversations as the tokens that one model reads.

    Args:
        tokenizer: the model's; `encode(special=False)` must make no control tokens.
        template: the file's Jinja text; None for the built-in one.
        tools: schemas to declare.
        options: variables of the template, such as enable_thinking.
    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        template: str | None,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.template, self.tools = tokenizer, template, [shown_schema(tool) for tool in tools]
        self._ids: dict[str, list[int]] = {}  # by control token
        self.options = {**self._special_texts(), **(options or {})}
        special = tokenizer.special_tokens
        # Markers begin with a sign. Words and white space that a file types as user-defined are no markers of turns.
        found = [
            text for text in special if text and not (text[0].isalnum() or text[0].isspace() or text[0] == "\u2581")
        ]
        markers = sorted({*MARKERS, *found}, key=len, reverse=True)
        self._any_marker = re.compile("|".join(map(re.escape, markers)))
        self._firsts = "".join(sorted({marker[0] for marker in markers}))
        self._marker_ids: set[int | None] = {special[text] for text in found}
        self._marker_ids.update(map(self.token, MARKERS))
        self._resumed: str | None = None
        self._reply_markers: tuple[list[str], list[str]] | None = None
        self._has_tools: bool | None = None  # whether the template has a place for tools
        self._has_system: bool | None = None
        self._spellings: dict[str, list[int]] = {}  # by text: the tokens that the model itself chose for it

    # ---- conversations -----------------------------------------------------------------------------------------------

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[Unit]:
        """The whole prompt, up to the place where the model goes on.

        Args:
            messages: roles system, developer, user, assistant (or model) and tool. The last is the user's, or a tool's
                result, after which the model's turn stays open. Parts of a user's content are {"type": "text", "text"},
                {"type": "audio", "audio": samples}, {"type": "image", "image": pixels}, also with "max_tokens" or
                "detail", the budget of its soft tokens, and {"type": "video", "video": a `Clip`}.

        Raises:
            EdgeGemmaValueError: "template" when the template fails or leaves out a turn or media; "argument" for messages
                with another role or content.
        """
        escape = _Escape(
            self._firsts, [m.get("content") for m in messages], [m.get("tool_calls") for m in messages], self.tools
        )
        media: list[Media | Clip] = []
        bodies: list[str] = []
        turns: list[dict[str, Any]] = []
        tail = ""
        at = 0
        while at < len(messages):
            end = at
            while end < len(messages) and messages[end].get("role") in _MODEL_ROLES:
                end += 1
            if end == at:
                turns.append(self._other_turn(messages[at], escape, media))
                at += 1
            elif end == len(messages):
                tail = self._body(messages[at:], escape, keep_thoughts=True)
                if messages[-1]["role"] == "tool":
                    tail += self._resumption()
                at = end
            else:
                body = self._body(messages[at:end], escape, keep_thoughts=False)
                if body:  # an answer that was interrupted in its thoughts has no body
                    # The body is inserted afterwards: templates strip, reorder or reject what a model's turn may contain.
                    mark = f"{escape.place}{len(bodies)}{escape.place}"
                    bodies.append(body)
                    turns.append({"role": "assistant", "content": mark})
                at = end
        self._check_place(bool(turns) and turns[0]["role"] in ("system", "developer"))
        text = self._render(turns, escape.guarded(escape.hide(self.tools)))
        for number, body in enumerate(bodies):
            mark = f"{escape.place}{number}{escape.place}"
            if text.count(mark) != 1:
                raise EdgeGemmaValueError("The chat template does not print the model's turns.", code="template")
            text = text.replace(mark, body)
        return self._encode(text + tail, escape, media)

    def _check_place(self, has_system: bool) -> None:
        """Raises EdgeGemmaValueError "template" for a template that leaves out the tools or the instructions. A template that
        fails on the trial conversation is left to fail on the real one."""
        turn = {"role": "user", "content": "x"}
        if self.tools and self._has_tools is None:
            with contextlib.suppress(EdgeGemmaValueError):
                self._has_tools = self._render([turn], self.tools) != self._render([turn], None)
        if has_system and self._has_system is None:
            with contextlib.suppress(EdgeGemmaValueError):
                self._has_system = _PRIVATE[0] in self._render([{"role": "system", "content": _PRIVATE[0]}, turn], None)
        if self.tools and self._has_tools is False:
            raise EdgeGemmaValueError(
                "The model's chat template has no place for tools: chat without tools, or give another template.",
                code="template",
            )
        if has_system and self._has_system is False:
            raise EdgeGemmaValueError(
                "The model's chat template has no place for instructions: put them into the first message.",
                code="template",
            )

    def _other_turn(self, message: Mapping[str, Any], escape: _Escape, media: list[Media | Clip]) -> dict[str, Any]:
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "developer", "user"):
            raise EdgeGemmaValueError(f"A message has the role {role!r}.", code="argument")
        if isinstance(content, str):
            return {"role": role, "content": escape.hide(content)}
        parts: list[dict[str, Any]] = []
        for part in content or ():
            kind = part.get("type")
            if kind == "text":
                parts.append({"type": "text", "text": escape.hide(part["text"])})
            elif kind == "video":
                media.append(part[kind])
                parts.append({"type": kind})
            elif kind in ("audio", "image"):
                media.append(Media.of(kind, part[kind], part.get("max_tokens", part.get("detail"))))
                parts.append({"type": kind})
            else:
                raise EdgeGemmaValueError(f"A message has a part of type {kind!r}.", code="argument")
        return {"role": role, "content": parts}

    def _body(self, messages: Sequence[Mapping[str, Any]], escape: _Escape, keep_thoughts: bool) -> str:
        """The text between the head of a model's turn and its end."""
        written = []
        names: dict[str, str] = {}
        for message in messages:
            content = message.get("content")
            if message["role"] == "tool":
                name = message.get("name") or names.get(message.get("tool_call_id", ""), "unknown")
                written.append(format_tool_response(escape.hide(name), escape.hide(content)))
                continue
            calls = message.get("tool_calls") or ()
            thought = message.get("reasoning_content")
            if keep_thoughts and calls and thought:
                written.append(f"<|channel>thought\n{escape.hide(thought.strip())}\n<channel|>")
            if not isinstance(content, str):
                content = "".join(part.get("text", "") for part in content or ())
            written.append(escape.hide(_THOUGHT.sub("", content).strip()))
            for call in calls:
                function = call.get("function", call)
                arguments = function.get("arguments") or {}
                names[call.get("id", "")] = function["name"]
                if isinstance(arguments, str):
                    arguments = _from_json(arguments)
                written.append(format_call(escape.hide(function["name"]), escape.hide(arguments)))
        return "".join(written)

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def responses(self, results: Sequence[tuple[str, Any]]) -> list[int]:
        """The tokens of tool responses, which follow the calls in the model's turn.

        Args:
            results: the name of the tool and its result, as plain data, for each call.
        """
        escape = _Escape(self._firsts, list(results))
        text = "".join(format_tool_response(escape.hide(name), escape.hide(result)) for name, result in results)
        text += self._resumption()
        return [unit for unit in self._encode(text, escape, []) if isinstance(unit, int)]

    def in_thought(self, units: Sequence[Unit]) -> bool:
        """Whether a prompt ends inside a thought, so that the reply begins in it."""
        return ends_in_thought(self.tokenizer, units)

    def _resumption(self) -> str:
        """What the template writes between the results of tools and the place where the model goes on: the beginning of a
        thought, or nothing."""
        if self._resumed is None:
            call = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": {}}}
            turns: list[dict[str, Any]] = [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "name": "f", "tool_call_id": "call_0", "content": "x"},
            ]
            try:
                text = self._render(turns, self.tools)
            except EdgeGemmaValueError:
                text = ""  # a template that knows no tools
            found = _OPEN_THOUGHT.search(text)
            self._resumed = found[0] if found else ""
        return self._resumed

    def parser(
        self, units: Sequence[Unit], check_call: Callable[[ToolCall], ToolCall] = lambda call: call
    ) -> ReplyParser:
        """What reads the reply to a prompt. `check_call`: as in `ReplyParser`."""
        markers, ends = self._markers_of_replies()
        return ReplyParser(in_thought=self.in_thought(units), markers=markers, ends=ends, check_call=check_call)

    def stop_tokens(self) -> set[int]:
        """The ids with which the model itself ends a reply."""
        texts = (*MODEL_STOPS.values(), *self._markers_of_replies()[1])
        ids = {*map(self.token, texts), self.tokenizer.eos}
        return {token for token in ids if token is not None}

    def _markers_of_replies(self) -> tuple[list[str], list[str]]:
        """The file's own markers that are no text of a reply, and those of them that end the model's turn."""
        if self._reply_markers is None:
            control, source = set(self.tokenizer.control_tokens), self.template or ""
            own = [
                text
                for text in self.tokenizer.special_tokens
                if text not in MARKERS and (text in control or text in source)
            ]
            ends = [self.tokenizer.decode([self.tokenizer.eos], special=True)] if self.tokenizer.eos is not None else []
            place = _PRIVATE[0]
            turns = [("user", "x"), ("assistant", place), ("user", "x")]
            try:
                text = self._render([{"role": role, "content": content} for role, content in turns], None)
            except EdgeGemmaValueError:
                text = ""
            behind = text.partition(place)[2].lstrip()
            ends += [marker for marker in own if behind.startswith(marker)]
            self._reply_markers = own, [end for end in dict.fromkeys(ends) if end in own]
        return self._reply_markers

    def _special_texts(self) -> dict[str, str]:
        """The texts of the file's own tokens for templates that name them."""
        texts = {}
        with contextlib.suppress(EdgeGemmaValueError):  # a vocabulary without <bos>
            texts["bos_token"] = self.tokenizer.decode(self.tokenizer.encode("", bos=True), special=True)
        if self.tokenizer.eos is not None:
            texts["eos_token"] = self.tokenizer.decode([self.tokenizer.eos], special=True)
        return {name: text for name, text in texts.items() if text}

    def _render(self, turns: Sequence[Mapping[str, Any]], tools: Any) -> str:
        return render_chat(turns, self.template, tools=tools or None, **self.options)

    def token(self, marker: str) -> int | None:
        """The id of a control token; None when the vocabulary does not have it."""
        ids = self._marker(marker)
        return ids[0] if len(ids) == 1 else None

    def _marker(self, marker: str) -> list[int]:
        if marker not in self._ids:
            self._ids[marker] = self.tokenizer.encode(marker, special=True)
        return self._ids[marker]

    def _encode(self, text: str, escape: _Escape, media: Sequence[Media | Clip]) -> list[Unit]:
        text, waiting = _placed(text, media)
        units: list[Unit] = []
        at = 0
        for found in [*self._any_marker.finditer(text), None]:
            plain = escape.show(text[at : found.start() if found else len(text)])
            # The head of a turn is encoded by itself, so that the words after it are found among the known spellings. This
            # changes no token: no token has both a newline and another character.
            head = _HEAD.match(plain).end()  # type: ignore[union-attr]
            for part in (plain[:head], plain[head:]):
                if part:
                    units.extend(self._spellings.get(part) or self.tokenizer.encode(part, special=False))
            if found is None:
                break
            at = found.end()
            units.extend([waiting.pop(0)] if _PLACES.fullmatch(found[0]) else self._marker(found[0]))
        return units

    def learn(self, ids: Sequence[int], generated: int) -> None:
        """Remembers which tokens the model itself chose for its words, so that `conversation` writes the same tokens later.

        A text can be divided into tokens in several ways, and a model may choose another way than the tokenizer. Tokens
        that were encoded anew would differ from those in the session's cache.

        Args:
            ids: the timeline; soft tokens are -1.
            generated: the position at which the generated part begins.
        """
        markers = self._marker_ids | {-1}
        run: list[int] = []
        for number in [*ids[generated:], -1]:
            if number not in markers:
                run.append(number)
            elif run:
                self._spellings[self.tokenizer.decode(run)] = run
                run = []
        while len(self._spellings) > 256:
            del self._spellings[next(iter(self._spellings))]
