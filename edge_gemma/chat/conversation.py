"""`Chat`: a conversation with a model, its tools, and its memory of what was said.

Owns the history, the loop of calls and results, and the economy of the session: before every answer the whole prompt is
written (prompt.py), compared with the tokens that the session holds, and only the difference is fed. That one comparison
serves a next turn, a history whose thoughts were dropped, an edited history, an interrupted answer and a tool's result.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from ..hub.resolve import no_encoder
from .calls import ToolCall, plain_data
from .prompt import Media, Prompt, Unit
from .reply import ChatEvent, Reply, ReplyParser
from .tools import Tool, Toolbox

__all__ = ["Chat", "ChatEvent"]

_OWN_STOPS = ("eos", "turn", "tool_response")
_FORMAT = "edge-gemma-chat"


class _Turn:
    """What has been said since the user's message, over all rounds of calls."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {"thinking": [], "text": []}
        self.calls: list[ToolCall] = []
        self.spoke: set[str] = set()  # the kinds of text that this round has brought
        self.stats: dict[str, Any] = {
            "stop": "",
            "rounds": 0,
            "prompt_tokens": 0,
            "reused_tokens": 0,
            "generated_tokens": 0,
            "first_token_s": None,
            "seconds": 0.0,
        }

    def take(self, event: ChatEvent) -> ChatEvent:
        """Keeps what `event` brings; text of a later round is parted from the earlier by an empty line."""
        if event.kind == "tool_call" and event.call is not None:
            self.calls.append(event.call)
            return event
        parts = self.said[event.kind]
        if parts and event.kind not in self.spoke:
            event = ChatEvent(event.kind, text="\n\n" + event.text)
        self.spoke.add(event.kind)
        parts.append(event.text)
        return event

    def reply(self) -> Reply:
        return Reply("".join(self.said["thinking"]), "".join(self.said["text"]), list(self.calls))


class Chat:
    """A conversation. Open with `Model.chat`.

    Args:
        model: opens the session and has the tokenizer.
        system: instructions; None for none.
        tools: functions, JSON schemas or `Tool`s that the model may call. A tool that is only a schema is not run:
            the answer then ends with stop "tool_call"; append {"role": "tool", "name": ..., "content": result} messages
            to `history` and `send()` nothing to go on.
        thinking: let the model think before it answers.
        context: tokens that the session can hold; None for the session's own default.
        kv: type of the KV cache, f32, f16 or q8; None for f16, or what fits `memory_limit`.
        memory_limit: bytes, or a size such as "1.5GB", that the process stays within: `Model.session` tells how.
        template: Jinja text to use instead of the file's.
        template_options: further variables for the template.
        max_rounds: how often in one answer the model may call tools.
        sampling: options of `Session.generate` for every answer: temperature, top_p, top_k, seed, stop, max_tokens (per
            round; all the room there is when not given), ...

    Attributes:
        history: the messages, oldest first, without the instructions: dicts with "role" (user, assistant, tool) and
            "content"; also "reasoning_content", "tool_calls", "name". A plain list: it may be edited between answers.
        session: the session behind it.

    Raises:
        EdgeGemmaValueError: with code "tool" for an unusable tool, and what opening a session raises.
    """

    def __init__(
        self,
        model: Any,
        system: str | None = None,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any] | Tool] | None = None,
        thinking: bool = False,
        context: int | None = 4096,
        kv: str | None = None,
        *,
        memory_limit: Any = None,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_rounds: int = 8,
        **sampling: Any,
    ) -> None:
        self.tools = Toolbox(tools or ())
        self.history: list[dict[str, Any]] = []
        self.max_rounds = max_rounds
        self.sampling = sampling
        self._system = system
        self._model = model
        self._prompt = Prompt(
            model.tokenizer,
            model.tokenizer.chat_template if template is None else template,
            self.tools.schemas,
            {"enable_thinking": thinking, **(template_options or {})},
        )
        limit = {} if memory_limit is None else {"memory_limit": memory_limit}
        self.session = model.session(context=context, kv=kv, **limit)
        self._spans: dict[
            int, tuple[int, Media]
        ] = {}  # where media begin in the session, where they end, what they are
        self._cancelled = False
        self._active: weakref.ref[Generator[ChatEvent, None, None]] | None = None

    @property
    def system(self) -> str | None:
        """The instructions. Setting them takes effect with the next answer, which then reads the conversation anew."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._system = text

    # ---- answers -----------------------------------------------------------------------------------------------------

    def send(
        self, text: str | None = None, audio: Any = None, images: Any = None, **sampling: Any
    ) -> Iterator[ChatEvent]:
        """Sends a user's message and yields the answer as it comes.

        Args:
            text: what the user says. Markers such as "<|turn>" in it are mere text. Nothing at all (no text, audio or
                images) answers the history as it stands: the last message must be the user's or a tool's.
            audio: 16 kHz mono samples in [-1, 1], (n,), or a list of such arrays. It goes after the text.
            images: a PIL image or (h, w, 3) uint8 array, or a list of them. They go before the text.
            sampling: options of `Session.generate` for this answer alone.

        Yields:
            Events: "thinking" and "text" with `text`; "tool_call" with `call`, before the tool runs; "tool_result" with
            `call` and `result`; at last "done" with `reply`, all that was said, and `stats`: stop (eos, turn, length,
            stop, cancelled, tool_call, tool_limit), rounds, prompt_tokens (fed), reused_tokens (found in the cache),
            generated_tokens, first_token_s, seconds.

            Closing the iterator, or leaving its loop, stops the answer; the history keeps what was said until then. A
            new `send` closes an iterator that is still open.

        Raises:
            EdgeGemmaError: "argument" for unusable input; "template" when the template refuses the conversation (the
                message is then not in the history); "context" when the session is full; "state" while an
                answer runs in another thread. With "context" the user's message
                and what was said of the answer are in the history: shorten it, or `reset()`, and go on.
        """
        if audio is not None and not getattr(self._model, "has_audio", True):
            raise no_encoder(self._model, "audio")
        if images is not None and not hasattr(self.session, "feed_image"):
            raise EdgeGemmaValueError("images: this version hears, but does not see yet.", "unsupported")
        message = _user_message(text, audio, images)
        self._close_open_answer()
        self._cancelled = False
        answer = self._answer(message, {**self.sampling, **sampling})
        self._active = weakref.ref(answer)
        return answer

    def cancel(self) -> None:
        """Stops the answer that runs, from any thread: within one layer while computing, or when the tool returns.

        Its iterator ends with a "done" event whose stop is "cancelled".
        """
        self._cancelled = True
        self.session.cancel()

    def reset(self) -> None:
        """Forgets the conversation; instructions and tools stay. Raises as `send` while an answer runs elsewhere."""
        self._close_open_answer()
        self.history = []
        self._rewind(0)

    def _close_open_answer(self) -> None:
        if self._active is not None and (answer := self._active()) is not None:
            try:
                answer.close()
            except ValueError as error:  # it is running this moment
                raise EdgeGemmaError("an answer of this chat is running: cancel() it first", "state") from error

    def _answer(self, message: dict[str, Any] | None, options: dict[str, Any]) -> Generator[ChatEvent, None, None]:
        began = time.perf_counter()
        messages = [*self.history, *([message] if message else [])]
        if not messages or messages[-1].get("role") not in ("user", "tool"):
            raise EdgeGemmaValueError("there is no message to answer", code="argument")
        system = [{"role": "system", "content": self._system}] if self._system else []
        target = self._prompt.conversation([*system, *messages])
        if message:
            self.history.append(message)
        turn = _Turn()
        try:
            yield from self._rounds(turn, target, options, began)
        except EdgeGemmaError as error:
            if error.code != "cancelled":
                raise
            turn.stats["stop"] = "cancelled"
        finally:
            last = self.history[-1] if self.history else {}
            if last.get("role") == "assistant" and not any(
                map(last.get, ("content", "reasoning_content", "tool_calls"))
            ):
                self.history.pop()  # nothing but calls that were never answered
        turn.stats["seconds"] = time.perf_counter() - began
        yield ChatEvent("done", reply=turn.reply(), stats=turn.stats)

    def _rounds(
        self, turn: _Turn, target: list[Unit], options: dict[str, Any], began: float
    ) -> Generator[ChatEvent, None, None]:
        while True:
            turn.stats["rounds"] += 1
            self._feed(target, turn.stats)
            start = self.session.position
            reply = yield from self._round(turn, options, began)
            if not reply.tool_calls or turn.stats["stop"] == "cancelled":
                return
            if turn.stats["rounds"] > self.max_rounds + 1:
                turn.stats["stop"] = "tool_limit"
                return
            if not all(self.tools.can_call(call.name) for call in reply.tool_calls):
                self.history[-1]["tool_calls"] = _written_calls(reply.tool_calls)
                turn.stats["stop"] = "tool_call"
                return
            results = yield from self._run_tools(reply.tool_calls, turn)
            if self._cancelled:
                turn.stats["stop"] = "cancelled"
                return
            target = [*target, *self._own_words(start, reply), *self._prompt.responses(results)]

    def _round(self, turn: _Turn, options: dict[str, Any], began: float) -> Generator[ChatEvent, None, Reply]:
        """One stretch of generation. Its text is in the history at the end, however it ends; its calls are not yet."""
        options = dict(options)
        if options.get("max_tokens") is None:
            # Up to the last place, so that a full session ends the answer as "length" and loses nothing.
            room = getattr(self.session, "context", 1 << 20) - self.session.position
            options["max_tokens"] = max(1, room)
        start = self.session.position
        parser = ReplyParser()
        turn.spoke = set()
        pieces = self.session.generate(special=True, **options)
        # Whatever ends this block before its last line, an exception or the closing of the iterator, has cut the reply.
        try:
            for piece in pieces:
                if turn.stats["first_token_s"] is None:
                    turn.stats["first_token_s"] = time.perf_counter() - began
                for event in parser.feed(piece):
                    yield turn.take(event)
                if self._cancelled:
                    break
            stop = "cancelled" if self._cancelled else self.session.last_stop
            for event in parser.finish(complete=stop in _OWN_STOPS):
                yield turn.take(event)
            turn.stats["stop"] = stop
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
            parser.finish(complete=False)
            self._remember(parser.reply)
            turn.stats["generated_tokens"] += self.session.position - start
            self._prompt.learn(self.session.tokens, start)
        return parser.reply

    def _remember(self, reply: Reply) -> None:
        if reply.content or reply.thinking or reply.tool_calls:
            message: dict[str, Any] = {"role": "assistant", "content": reply.content}
            if reply.thinking:
                message["reasoning_content"] = reply.thinking
            self.history.append(message)

    def _run_tools(self, calls: Sequence[ToolCall], turn: _Turn) -> Generator[ChatEvent, None, list[tuple[str, Any]]]:
        """Runs the calls in order; the history gets each call together with its result, never a call without one."""
        asked = self.history[-1]
        asked["tool_calls"] = []
        results = []
        try:
            for number, call in enumerate(calls):
                if turn.stats["rounds"] > self.max_rounds:
                    result: Any = {"error": "too many tool calls in one answer: answer with what is known"}
                else:
                    result = plain_data(self.tools.call(call.name, call.arguments))
                written = _written_calls([call], first=len(self.history) + number)[0]
                asked["tool_calls"].append(written)
                message = {"role": "tool", "name": call.name, "tool_call_id": written["id"], "content": result}
                self.history.append(message)
                results.append((call.name, result))
                yield ChatEvent("tool_result", call=call, result=result)
                if self._cancelled:
                    break
        finally:
            if not results:
                del asked["tool_calls"]
        return results

    def _own_words(self, start: int, reply: Reply) -> list[Unit]:
        """What the model generated from `start` on, without the token that stopped it."""
        words: list[Unit] = list(self.session.tokens[start:])
        stops = {self._prompt.token(marker) for marker in ("<eos>", "<turn|>", "<|tool_response>")}
        while words and words[-1] in stops:
            words.pop()
        opening, closing = self._prompt.token("<|tool_call>"), self._prompt.token("<tool_call|>")
        markers = [word for word in words if word in (opening, closing)]
        if markers and markers[-1] == opening and closing is not None:
            words.append(closing)  # the model left its last call open
        return words

    # ---- the session -------------------------------------------------------------------------------------------------

    def _feed(self, target: list[Unit], stats: dict[str, Any]) -> None:
        """Makes the session hold exactly `target`, feeding what differs from what it holds."""
        held = self.session.tokens
        same, at = self._common(target, held)
        if same == len(target) and at < len(held) and isinstance(target[-1], int):
            # All is there and more: the last token is fed again, for the logits after it.
            same, at = same - 1, at - 1
        if at < len(held) and not self._rewind(at):
            same = at = 0
        stats["reused_tokens"] += at
        before = self.session.position
        try:
            self._append(target[same:])
        finally:
            stats["prompt_tokens"] += self.session.position - before

    def _common(self, target: Sequence[Unit], held: Sequence[int]) -> tuple[int, int]:
        """How many units of `target` the session holds from its start, and how many tokens they are there."""
        at = 0
        for number, unit in enumerate(target):
            if isinstance(unit, Media):
                end, media = self._spans.get(at, (0, None))
                if media != unit or end > len(held):
                    return number, at
                at = end
            elif at >= len(held) or held[at] != unit:
                return number, at
            else:
                at += 1
        return len(target), at

    def _rewind(self, position: int) -> bool:
        """Goes back to `position`, or to the start and returns False where the session can not go back so far."""
        reached = True
        if self.session.position > position:
            try:
                self.session.rewind(self.session.position - position)
            except EdgeGemmaError as error:
                if error.code == "cancelled" or position == 0:
                    raise
                self.session.rewind(self.session.position)
                reached = False
        now = self.session.position
        self._spans = {start: span for start, span in self._spans.items() if span[0] <= now}
        return reached

    def _append(self, units: Iterable[Unit]) -> None:
        run: list[int] = []
        for unit in units:
            if isinstance(unit, int):
                run.append(unit)
                continue
            if run:
                self.session.feed_tokens(run)
                run = []
            start = self.session.position
            feed = self.session.feed_audio if unit.kind == "audio" else self.session.feed_image
            feed(unit.data)
            self._spans[start] = (self.session.position, unit)
        if run:
            self.session.feed_tokens(run)

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes instructions and history to a JSON file, sounds and pictures included. Raises EdgeGemmaOSError."""
        content = {"format": _FORMAT, "version": 1, "system": self._system, "messages": _packed(self.history)}
        path = os.fspath(path)
        try:
            # Beside its place first: a crash never leaves half a conversation where there was a whole one.
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, ensure_ascii=False, indent=1)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise EdgeGemmaOSError(f"{path}: {error.strerror or error}", "file") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replaces instructions and history by those of a file that `save` wrote.

        Raises EdgeGemmaOSError, or EdgeGemmaValueError with code "format" for another kind of file; then nothing changes.
        """
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as error:
            raise EdgeGemmaOSError(f"{os.fspath(path)}: {error.strerror or error}", "file") from error
        except (ValueError, RecursionError) as error:
            raise EdgeGemmaValueError(f"{os.fspath(path)}: not a saved conversation: {error}", "format") from error
        try:
            if content["format"] != _FORMAT or content["version"] != 1:
                raise ValueError("it is of another format or version")
            system, messages = content["system"], _unpacked(content["messages"])
            if not isinstance(system, (str, type(None))):
                raise ValueError("its instructions are no text")
            if not all(m["role"] in ("user", "assistant", "tool") and "content" in m for m in messages):
                raise ValueError("a message has another role, or no content")
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeGemmaValueError(f"{os.fspath(path)}: not a saved conversation: {error}", "format") from error
        self._system, self.history = system, messages


def _written_calls(calls: Sequence[ToolCall], first: int = 0) -> list[dict[str, Any]]:
    """Calls in the form that messages have them."""
    return [
        {"id": f"call_{first + n}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for n, call in enumerate(calls)
    ]


def _user_message(text: str | None, audio: Any, images: Any) -> dict[str, Any] | None:
    """The message; None when there is nothing in it. Raises EdgeGemmaValueError with code "argument"."""
    if text is not None and not isinstance(text, str):
        raise EdgeGemmaValueError(f"text is {type(text).__name__}, not str", code="argument")
    pictures = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    sounds = [] if audio is None else [audio]
    if isinstance(audio, (list, tuple)) and not all(isinstance(sample, (int, float)) for sample in audio):
        sounds = list(audio)
    parts: list[dict[str, Any]] = [{"type": "image", "image": _pixels(picture)} for picture in pictures]
    if text is not None and (parts or sounds):
        parts.append({"type": "text", "text": text})
    parts += [{"type": "audio", "audio": _samples(sound)} for sound in sounds]
    if not parts and text is None:
        return None
    return {"role": "user", "content": parts or text}


def _pixels(picture: Any) -> np.ndarray:
    """(h, w, 3) uint8."""
    array = np.array(picture.convert("RGB") if hasattr(picture, "convert") else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        wanted = "a PIL image or an (h, w, 3) uint8 array"
        raise EdgeGemmaValueError(f"an image is {wanted}, not {array.dtype} {array.shape}", code="argument")
    return array


def _samples(sound: Any) -> np.ndarray:
    """(n,) float32."""
    array = np.array(sound)
    if array.ndim != 1 or array.dtype.kind != "f":
        wanted = "16 kHz mono samples, a 1-D array of floats in [-1, 1]"
        raise EdgeGemmaValueError(f"audio is {wanted}, not {array.dtype} {array.shape}", code="argument")
    return array.astype(np.float32)


def _packed(value: Any) -> Any:
    """`value` for JSON: arrays as base64 with their type and shape."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"array": data, "dtype": value.dtype.newbyteorder("<").str, "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(item) for item in value]
    return value


def _unpacked(messages: Any) -> list[dict[str, Any]]:
    """The reverse for the parts of messages. Raises ValueError, KeyError or TypeError."""
    unpacked = []
    for message in messages:
        if isinstance(message["content"], list) and message["role"] == "user":
            parts = []
            for part in message["content"]:
                kind = part["type"]
                if kind in ("audio", "image"):
                    packed = part[kind]
                    dtype = np.dtype({"<f4": "<f4", "|u1": "|u1"}[packed["dtype"]])
                    array = np.frombuffer(base64.b64decode(packed["array"]), dtype).reshape(packed["shape"])
                    part = {"type": kind, kind: (_samples if kind == "audio" else _pixels)(array)}
                parts.append(part)
            message = {**message, "content": parts}
        unpacked.append(dict(message))
    return unpacked
