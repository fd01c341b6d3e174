"""`Chat`: a conversation with a model that may call tools, and the history of what was said.

Owns the history and what the session holds of it. Before every answer the whole prompt is written (prompt.py) and compared with
the tokens in the session, and only the difference is fed. This one comparison covers a next turn, a history whose thoughts were
dropped, an edited history, an interrupted answer and the results of tools. tool_loop.py runs the calls.
"""

from __future__ import annotations

import contextlib
import json
import numbers
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engine.generation import stop_texts
from ..engine.interface import Form, ModelLike, SessionLike
from ..engine.memory import MemoryLimit
from ..engine.sampling import Sampling
from ..errors import Cancelled, EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from ..vision.feeding import Progress, feed_pixels
from .attachments import check_senses, open_attachments, packed, unpacked, user_message
from .call_grammar import call_grammar
from .calls import ToolCall
from .prompt import Media, Prompt, Unit
from .reply import MODEL_STOPS, ChatEvent, Reply
from .reply_grammar import ReplyForm
from .schemas import warn_caller
from .structured import Grammar, form_of
from .timeline import Timeline
from .tool_loop import ToolLoop
from .tools import Tool, Toolbox
from .vocabulary import can_constrain, prepare, view_bytes

__all__ = ["Chat", "ChatEvent"]

FORMAT = "edge-gemma-chat"
"""What a saved conversation calls its format."""


class _Answer:
    """Everything that was said since the user's message, over all rounds of tool calls, and how long it took."""

    def __init__(
        self,
        max_tokens: int | None,
        stop: Sequence[str],
        sampling: Sampling | None,
        form: Form | None,
        progress: Progress | None,
        hold: Callable[[ToolCall], bool] | None,
    ) -> None:
        self.hold = hold
        self.max_tokens, self.stop_texts, self.sampling = max_tokens, stop, sampling
        self.form, self.progress = form, progress
        self.began = 0.0  # on the clock
        self.stop = ""
        self.rounds = self.prompt_tokens = self.reused_tokens = self.image_tokens = self.generated_tokens = 0
        self.first_token_s: float | None = None
        self._replies: list[Reply] = []  # one for each round
        self._told: set[str] = set()  # the kinds of text that earlier rounds have brought
        self._begun: set[str] = set()  # the kinds of text that this round has brought

    def begin_round(self) -> None:
        """Counts a reply of the model."""
        self.rounds += 1
        self._told |= self._begun
        self._begun = set()

    def record(self, event: ChatEvent) -> ChatEvent:
        """The event as it is told. An empty line separates the text of a later round from the text before."""
        if event.kind in ("text", "thinking"):
            if event.kind in self._told and event.kind not in self._begun:
                event = ChatEvent(event.kind, text="\n\n" + event.text)
            self._begun.add(event.kind)
        return event

    def end_round(self, reply: Reply) -> None:
        """Keeps what was said."""
        self._replies.append(reply)

    def time_first_token(self) -> None:
        """Notes the time, unless there was a token before."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self.began

    def done(self) -> ChatEvent:
        """The last event."""
        reply = Reply(
            "\n\n".join(reply.thinking for reply in self._replies if reply.thinking),
            "\n\n".join(reply.content for reply in self._replies if reply.content),
            [call for reply in self._replies for call in reply.tool_calls],
            [call for reply in self._replies for call in reply.broken_calls],
        )
        stats = {
            "stop": self.stop,
            "rounds": self.rounds,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "image_tokens": self.image_tokens,
            "generated_tokens": self.generated_tokens,
            "first_token_s": self.first_token_s,
            "seconds": time.perf_counter() - self.began,
        }
        return ChatEvent("done", reply=reply, stats=stats)


class Chat:
    """A conversation. Open it with `Model.chat`; close it with `close()` or a `with` block.

    Args:
        model: opens the session and has the tokenizer.
        system: the instructions; None for no instructions.
        tools: functions, JSON schemas or `Tool`s that the model may call. A tool that is only a schema is not run: the
            answer then ends with stop "tool_call". To go on, append messages {"role": "tool", "name": ..., "content":
            result} to `history`, and call `send()` without arguments.
        thinking: let the model think before it answers.
        context: the tokens that the session can hold; None for as many as fit `memory_limit`, or 4096 without a limit.
        kv: type of the KV cache, f32, f16 or q8; None for f16, or what fits `memory_limit`.
        sampling: how tokens are drawn; None for the defaults of `Sampling`.
        max_tokens: the most tokens of a round (what the model generates up to its tool calls or its end); None for as
            many as the session has room for.
        stop: a text, or several, that ends an answer and is left out of it.
        memory_limit: bytes, or a size such as "1.5GB", that the process stays within: see `Model.session`. The plan has what
            the calls' grammar takes: 36 MB with Gemma's vocabulary, and 9 MB for checking calls.
        template: Jinja text to use instead of the file's.
        template_options: further variables for the template.
        max_rounds: how often in one answer the model may call tools.
        constrain: whether calls keep to the declarations of the tools while they are generated, which needs llguidance (the
            extra `structured`); None for where that is installed.

    Attributes:
        history: the messages, oldest first, without the instructions: dicts with "role" (user, assistant, tool) and
            "content"; also "reasoning_content", "tool_calls", "name". It is a plain list and may be edited between answers.
        session: the session behind it.
        sampling, max_tokens, stop, max_rounds: the options; changes take effect with the next answer.

    Raises:
        EdgeGemmaValueError: "tool" for an unusable tool, "argument" for an option of another kind or an empty text in `stop`,
            and what opening a session raises.
    """

    def __init__(
        self,
        model: ModelLike,
        system: str | None = None,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any] | Tool] | None = None,
        thinking: bool = False,
        context: int | None = None,
        kv: str | None = None,
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_rounds: int = 8,
        constrain: bool | None = None,
    ) -> None:
        if callable(tools) or isinstance(tools, (str, Mapping, Tool)):
            raise EdgeGemmaValueError("tools is one tool; it must be a list: tools=[...].", "argument")
        for name, value in (("system", system), ("template", template)):
            if value is not None and not isinstance(value, str):
                raise EdgeGemmaValueError(f"{name} is {type(value).__name__}; it must be a text.", "argument")
        _check_options(max_tokens, sampling, max_rounds)
        self.tools = Toolbox(tools or ())
        self.history: list[dict[str, Any]] = []
        self.sampling, self.max_tokens, self.max_rounds = sampling, max_tokens, max_rounds
        self.stop: str | Sequence[str] | None = stop_texts(stop)
        self._system = system
        self._model, self._thinking = model, thinking
        self._calls = self._call_grammar(constrain)
        self._prompt = Prompt(
            model.tokenizer,
            model.tokenizer.chat_template if template is None else template,
            self.tools.schemas,
            {"enable_thinking": thinking, **(template_options or {})},
        )
        self.session = model.session(context=context, kv=kv, memory_limit=self._limit(memory_limit))
        if self._calls is not None:
            prepare(model.tokenizer)  # for the first call; behind the plan, which measures the process
        self._timeline = Timeline(self.session)
        self._cancelled = False
        self._active: weakref.ref[Generator[ChatEvent, None, None]] | None = None

    def _call_grammar(self, constrain: bool | None) -> Form | None:
        """The grammar of calls; None for free calls."""
        if constrain is False or not len(self.tools) or (constrain is None and not can_constrain()):
            return None
        try:
            return call_grammar(self.tools.schemas, self._model.tokenizer)
        except EdgeGemmaError as error:
            if constrain:
                raise
            warn_caller(f"Calls are not limited to the declarations of the tools. {error}")
            return None

    def _limit(self, given: int | str | MemoryLimit | None) -> int | str | MemoryLimit | None:
        """The memory limit, with what the grammar of calls takes."""
        if given is None or self._calls is None:
            return given
        limit = MemoryLimit.of(given)
        return replace(limit, grammar=max(limit.grammar, view_bytes(self._model.tokenizer)))

    def close(self) -> None:
        """Frees the session; an answer that is not finished ends. Further calls do nothing. Raises as `send` while an answer
        runs in another thread."""
        self._close_open_answer()
        self.session.close()

    def adopt(self, session: SessionLike) -> None:
        """Goes on in another session of the model, such as a fork that was kept, which belongs to the chat from now on. The one
        before is closed. Raises as `send` while an answer runs in another thread."""
        self._close_open_answer()
        before, self.session = self.session, session
        self._timeline = Timeline(session)
        before.close()

    def __enter__(self) -> Chat:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    @property
    def system(self) -> str | None:
        """The instructions. A change takes effect with the next answer, which then reads the whole conversation again."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._system = text

    # ---- answers -----------------------------------------------------------------------------------------------------

    def send(
        self,
        text: str | None = None,
        audio: Any = None,
        images: Any = None,
        video: Any = None,
        *,
        image_tokens: int | str | None = None,
        frames: int | None = None,
        fps: float | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        schema: Mapping[str, Any] | bool | str | None = None,
        grammar: Form | None = None,
        progress: Progress | None = None,
        hold: Callable[[ToolCall], bool] | None = None,
    ) -> Iterator[ChatEvent]:
        """Sends a user's message and yields the answer as it is generated.

        Args:
            text: what the user says. Markers such as "<|turn>" in it are plain text. Without text, audio, images and video,
                the history is answered as it is: its last message must be the user's or a tool's.
            audio: 16 kHz mono samples in [-1, 1], (n,), or the path of a recording, or a list of these. It goes after the
                text.
            images: a picture, or a list of pictures: paths, bytes, PIL images, (h, w, 3) uint8 arrays. They go before the
                text.
            video: a path, a file object, or a list of (seconds, picture); or a list of paths. It goes between images and
                text, its sound, if the model hears, behind its frames: the first 30 seconds.
            image_tokens: the budget of each picture: 70, 140, 280, 560 or 1120 soft tokens; "low" (70), "auto" (as many as
                the picture's own resolution takes) or "high" (1120); None for 280. A frame of a video takes 70 at most.
            frames, fps: how many frames of the video, evenly from its beginning, 32 if neither is given; or how many for each
                of its seconds.
            sampling, max_tokens, stop: for this answer, instead of those of the chat.
            schema, grammar: the form of the answer: a JSON schema, or a `Grammar`. Thoughts and calls are free of it. It needs
                llguidance (the extra `structured`).
            progress: called while pictures are encoded, with the soft tokens that are done, and all that this answer needs.
            hold: called with each call of a reply before any of them runs. Those for which it is true are not run, and are not
                in the history; the others are, and the answer then ends with stop "tool_call". For calls that a person must
                allow: append the call and its result to `history`, and call `send()`.

        Yields:
            Events: "thinking" and "text" with `text`; "tool_call" with `call`, before the tool runs; "tool_result" with
            `call` and `result`; "broken_call" with `call` and `text`, for a call that was cut off, cannot be read or does not
            keep to its declaration: no tool runs, and the model is told so if it goes on; at last "done" with `reply`, all
            that was said, and `stats`: stop (eos, turn, length, stop, cancelled, tool_call, tool_limit), rounds,
            prompt_tokens (fed), reused_tokens (found in the cache), image_tokens (soft tokens of pictures among those fed),
            generated_tokens, first_token_s, seconds.

            A thought that the model never opened can only be told from the answer by what follows it: it has come as "text"
            by then, and `reply` and the history have it among the thoughts.

            Closing the iterator stops the answer, as leaving its loop does; the history keeps what was said until then. A
            new `send` closes an iterator that is still open.

        Raises:
            EdgeGemmaError: "argument" for unusable input; "file" and "format" for a picture, video or recording that cannot be
                read; "unsupported" for audio without an audio encoder, and for pictures without a vision encoder; "template"
                when the template refuses the conversation (the message is then not in the history); "context" when the
                session is full; "state" while an answer runs in another thread. After "context" the user's message and what
                was said of the answer are in the history: shorten it, or `reset()`, and go on.
        """
        message = user_message(text, audio, images, video, image_tokens, frames, fps)
        self._open_attachments([message] if message else [])
        stops = self.stop if stop is None else stop
        max_tokens = self.max_tokens if max_tokens is None else max_tokens
        sampling = self.sampling if sampling is None else sampling
        _check_options(max_tokens, sampling, self.max_rounds)
        answer = _Answer(max_tokens, stop_texts(stops), sampling, form_of(schema, None, grammar), progress, hold)
        if isinstance(answer.form, Grammar):
            answer.form.prepare(self._model.tokenizer)  # while the message is read
        self._close_open_answer()
        with contextlib.suppress(Cancelled):
            self.session.feed_tokens([])  # uses up a request to cancel that came after the end of the last answer
        self._cancelled = False
        events = self._events(message, answer)
        self._active = weakref.ref(events)
        return events

    def cancel(self) -> None:
        """Stops the answer that runs, from any thread: within one layer while computing, or when the tool returns.

        Its iterator ends with a "done" event whose stop is "cancelled".
        """
        self._cancelled = True
        self.session.cancel()

    def reset(self) -> None:
        """Forgets the conversation, but not the instructions and tools. Raises as `send` while an answer runs elsewhere."""
        self._close_open_answer()
        self.history = []
        self._timeline.rewind(0)

    def _close_open_answer(self) -> None:
        if self._active is not None and (events := self._active()) is not None:
            try:
                events.close()
            except ValueError as error:  # its code is being executed at this moment
                raise EdgeGemmaError("An answer of this chat is running: cancel() it first.", "state") from error

    def _events(self, message: dict[str, Any] | None, answer: _Answer) -> Generator[ChatEvent, None, None]:
        answer.began = time.perf_counter()
        messages = [*self.history, *([message] if message else [])]
        if not messages or messages[-1].get("role") not in ("user", "tool"):
            raise EdgeGemmaValueError("There is no message to answer.", "argument")
        self._open_attachments(messages)
        system = [{"role": "system", "content": self._system}] if self._system else []
        target = self._prompt.conversation([*system, *messages])
        if message:
            self.history.append(message)
        try:
            yield from self._rounds(answer, target)
        except Cancelled:
            answer.stop = "cancelled"
        finally:
            last = self.history[-1] if self.history else {}
            if last.get("role") == "assistant" and not any(
                map(last.get, ("content", "reasoning_content", "tool_calls"))
            ):
                self.history.pop()  # it had only calls that were not answered
        yield answer.done()

    def _rounds(self, answer: _Answer, target: list[Unit]) -> Generator[ChatEvent, None, None]:
        loop = ToolLoop(self.tools, self._prompt, self.max_rounds)
        while True:
            answer.begin_round()
            self._feed(target, answer)
            start = self.session.position
            reply = yield from self._generate(answer, target)
            calls = loop.calls(reply, answer.stop)
            if not calls or answer.stop == "cancelled":
                return
            if refusal := loop.refusal(calls):
                if refusal == "tool_call":
                    self.history[-1]["tool_calls"] = _written_calls(reply.tool_calls)
                answer.stop = refusal
                return
            held = [call for call in calls if answer.hold and not call.problem and answer.hold(call)]
            if free := [call for call in calls if not any(call is one for one in held)]:
                yield from self._run_tools(loop, free)
            if self._cancelled or held:
                answer.stop = "cancelled" if self._cancelled else "tool_call"
                return
            words = loop.own_words(self.session.tokens[start:])
            target = [*target, *words, *loop.continuation(words)]

    def _generate(self, answer: _Answer, target: list[Unit]) -> Generator[ChatEvent, None, Reply]:
        """One reply of the model. However it ends, its text is in the history afterwards; its calls are not yet."""
        start, form = self.session.position, None
        parser = self._prompt.parser(target) if self._calls is None else self._prompt.parser(target, self.tools.checked)
        if answer.form is not None or self._calls is not None:
            in_thought = self._prompt.in_thought(target)
            form = ReplyForm(self._calls, answer.form, thinking=self._thinking, in_thought=in_thought)
        # Up to the last place, so that a full session ends the answer as "length" and loses nothing.
        limit = max(1, self.session.context - start) if answer.max_tokens is None else answer.max_tokens
        pieces = self.session.generate(
            limit, stop=answer.stop_texts, sampling=answer.sampling, special=True, grammar=form
        )
        # An exception, or the closing of this iterator, leaves the block before its last line: the reply was then cut off.
        try:
            for piece in pieces:
                answer.time_first_token()
                for event in parser.feed(piece):
                    yield answer.record(event)
                if self._cancelled or parser.ended:
                    break
            # The engine does not know every token with which a file ends turns. `pieces.stop` would draw what follows.
            stop = "cancelled" if self._cancelled else "turn" if parser.ended else pieces.stop
            for event in parser.finish(complete=stop in MODEL_STOPS):
                yield answer.record(event)
            answer.stop = stop
        finally:
            parser.finish(complete=False)
            self._remember(parser.reply)
            answer.end_round(parser.reply)
            answer.generated_tokens += self.session.position - start
            self._prompt.learn(self.session.tokens, start)
        return parser.reply

    def _remember(self, reply: Reply) -> None:
        if reply.content or reply.thinking or reply.tool_calls or reply.broken_calls:
            message: dict[str, Any] = {"role": "assistant", "content": reply.content}
            if reply.thinking:
                message["reasoning_content"] = reply.thinking
            self.history.append(message)

    def _run_tools(self, loop: ToolLoop, calls: Sequence[ToolCall]) -> Generator[ChatEvent, None, None]:
        """Runs the calls. Each gets into the history together with its result, so there is never a call without a result."""
        asked = self.history[-1]
        asked["tool_calls"] = []
        try:
            for event in loop.run(calls):
                if event.kind != "tool_result" or event.call is None:
                    continue  # the parser of the reply has yielded the call already
                written = _written_calls([event.call], first=len(self.history) + len(loop.results) - 1)[0]
                asked["tool_calls"].append(written)
                message = {
                    "role": "tool",
                    "name": event.call.name or "unknown",
                    "tool_call_id": written["id"],
                    "content": event.result,
                }
                self.history.append(message)
                yield event
                if self._cancelled:
                    break
        finally:
            if not asked["tool_calls"]:
                del asked["tool_calls"]

    # ---- the session -------------------------------------------------------------------------------------------------

    def _feed(self, target: list[Unit], answer: _Answer) -> None:
        """Makes the session hold exactly `target`, by feeding only what it does not hold already."""
        held = self.session.tokens
        same, at = self._timeline.common(target, held)
        if same == len(target) and at < len(held) and isinstance(target[-1], int):
            # The session holds more than `target`: the last token is fed again, for the logits that follow it.
            same, at = same - 1, at - 1
        if at < len(held) and not self._timeline.rewind(at):
            same = at = 0
        answer.reused_tokens += at
        before = self.session.position
        try:
            self._append(target[same:], answer)
        finally:
            answer.prompt_tokens += self.session.position - before

    def _append(self, units: Sequence[Unit], answer: _Answer) -> None:
        run: list[int] = []
        sizes = [self._picture_tokens(unit) for unit in units if isinstance(unit, Media) and unit.kind == "image"]
        done, total = 0, sum(sizes)
        for unit in units:
            if isinstance(unit, int):
                run.append(unit)
                continue
            if run:
                self.session.feed_tokens(run)
                run = []
            start = self.session.position
            if unit.kind == "audio":
                self.session.feed_audio(unit.data)
            else:
                size = self._picture_tokens(unit)
                report = _share_of(answer.progress, done, size, total)
                feed_pixels(self.session, unit.data, unit.budget, key=unit.key, progress=report)
                done += size
                answer.image_tokens += size
                if answer.progress:
                    answer.progress(done, total)
            self._timeline.note(start, unit)
        if run:
            self.session.feed_tokens(run)

    def _picture_tokens(self, picture: Media) -> int:
        height, width = picture.data.shape[:2]
        return self._model.image_tokens(width, height, picture.budget)

    def _open_attachments(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Makes arrays of what the messages have as files. Raises EdgeGemmaError for what cannot be opened, seen or heard."""
        check_senses(self._model, messages)
        open_attachments(self._model, messages, self.session.context)

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes instructions and history, with all sounds, pictures and videos, to a JSON file, a pipe or a device.

        Raises EdgeGemmaError, also for what a message names and cannot be opened; then an older file is as it was.
        """
        open_attachments(self._model, self.history, self.session.context)
        content = {"format": FORMAT, "version": 1, "system": self._system, "messages": packed(self.history)}
        path = os.fspath(path)
        target = os.path.realpath(path)  # a symbolic link stays one
        try:
            if os.path.exists(path) and not os.path.isfile(path):  # a device must not be replaced by a file
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(content, file, ensure_ascii=False, indent=1)
                return
            # Written beside its place first, so that a crash never replaces a complete file by an incomplete one.
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, ensure_ascii=False, indent=1)
                os.replace(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise EdgeGemmaOSError(f"{path}: {error.strerror or error}", "file") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replaces instructions and history by those of a file that `save` wrote.

        Raises EdgeGemmaOSError, or EdgeGemmaValueError "format" for another kind of file; then nothing changes.
        """
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as error:
            raise EdgeGemmaOSError(f"{os.fspath(path)}: {error.strerror or error}", "file") from error
        except (ValueError, RecursionError) as error:
            raise EdgeGemmaValueError(f"{os.fspath(path)}: not a saved conversation: {error}.", "format") from error
        try:
            if content["format"] != FORMAT or content["version"] != 1:
                raise ValueError("it is of another format or version")
            system, messages = content["system"], unpacked(content["messages"])
            if not isinstance(system, (str, type(None))):
                raise ValueError("its instructions are not text")
            if not all(m["role"] in ("user", "assistant", "tool") and "content" in m for m in messages):
                raise ValueError("a message has another role, or no content")
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeGemmaValueError(f"{os.fspath(path)}: not a saved conversation: {error}.", "format") from error
        self._system, self.history = system, messages


def _check_options(max_tokens: Any, sampling: Any, max_rounds: Any) -> None:
    for name, number in (("max_tokens", max_tokens), ("max_rounds", max_rounds)):
        optional = name == "max_tokens" and number is None
        if not optional and (not isinstance(number, numbers.Integral) or isinstance(number, bool) or number < 0):
            raise EdgeGemmaValueError(
                f"{name} is {number!r}; it must be a whole number that is not negative.", "argument"
            )
    if sampling is not None and not isinstance(sampling, Sampling):
        raise EdgeGemmaValueError(
            f"sampling is {sampling!r}; it must be a Sampling, such as Sampling(temperature=0.7).", "argument"
        )


def _share_of(progress: Progress | None, before: int, size: int, total: int) -> Progress | None:
    """What reports the progress of one picture, of `size` of all `total` soft tokens, after `before` of them."""
    if progress is None:
        return None
    return lambda done, all_of_it: progress(before + size * done // max(all_of_it, 1), total)


def _written_calls(calls: Sequence[ToolCall], first: int = 0) -> list[dict[str, Any]]:
    """Calls in the form in which messages have them."""
    return [
        {
            "id": f"call_{first + n}",
            "type": "function",
            "function": {"name": call.name or "unknown", "arguments": call.arguments},
        }
        for n, call in enumerate(calls)
    ]
