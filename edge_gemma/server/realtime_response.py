"""One answer of a realtime session: its events, in OpenAI's order, as text or as speech with its text.

response.created
    response.output_item.added, conversation.item.added, response.content_part.added
        response.output_text.delta ... done      or      response.output_audio_transcript.delta and output_audio.delta ... done
    response.content_part.done, conversation.item.done, response.output_item.done
    the same for each call, with response.function_call_arguments.delta and done
response.done
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..assistant.sentences import Sentences
from ..chat.calls import ToolCall
from ..engine.sampling import Sampling
from .core import Answer, Core
from .failures import RequestError, request_error
from .job import Ended, Failed, Said, Usage
from .realtime_items import Conversation, Item, encoded, new_id
from .requests import ChatRequest

__all__ = ["Response", "Speaker", "chat_request"]

_PIECE = 0.1  # seconds of sound in a message


class Speaker(Protocol):
    """What speaks for a session."""

    def speak(self, text: str) -> AsyncGenerator[NDArray[np.int16], None]:
        """Sound of what the model has written at the session's rate, piece by piece. Raises RequestError."""
        ...

    @property
    def rate(self) -> int:
        """Samples a second."""
        ...


Send = Callable[..., Awaitable[None]]


def chat_request(
    options: dict[str, Any], messages: Sequence[dict[str, Any]], hint: str, parallel: bool = True
) -> ChatRequest:
    """The neutral request. `options`: those of the session, or of a response."""
    choice, most = options["tool_choice"], options["max_output_tokens"]
    temperature = options.get("temperature")
    return ChatRequest(
        messages=list(messages),
        tools=[{"type": "function", "function": _declaration(tool)} for tool in options["tools"]],
        tool_choice=choice if isinstance(choice, str) else choice["name"],
        parallel_calls=parallel,
        sampling=Sampling() if temperature is None else Sampling(temperature=temperature),
        max_tokens=None if most == "inf" else most,
        streamed=True,
        hint=hint,
    )


def _declaration(tool: dict[str, Any]) -> dict[str, Any]:
    return {name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None}


class Response:
    """An answer under way."""

    def __init__(
        self,
        core: Core,
        send: Send,
        *,
        conversation: Conversation | None,
        options: dict[str, Any],
        metadata: Any,
        speaker: Speaker | None,
    ) -> None:
        """`conversation`: where its items go, None for nowhere; `speaker`: None for text."""
        self.id = new_id("resp")
        self._core, self._send = core, send
        self._conversation, self._options, self._speaker = conversation, options, speaker
        self._metadata = metadata
        self._answer: Answer | None = None
        self._reason = ""  # why it was cancelled
        self._output: list[Item] = []
        self._message: _Message | None = None

    @property
    def default(self) -> bool:
        """Whether it belongs to the conversation."""
        return self._conversation is not None

    @property
    def cancelled(self) -> bool:
        """Whether it was told to end."""
        return bool(self._reason)

    @property
    def seconds(self) -> float | None:
        """How long its speech is; None for an answer that ends in a call, or was cancelled."""
        if self._reason or not self._output or self._output[-1].values["type"] != "message":
            return None
        return sum(item.spoken[-1][0] for item in self._output if item.spoken) / 1000

    def cancel(self, reason: str) -> None:
        """Ends it: "turn_detected" or "client_cancelled"."""
        self._reason = self._reason or reason
        if self._answer is not None:
            self._answer.cancel()
        if self._message is not None:
            self._message.cancel()

    async def run(self, begin: Callable[[], Awaitable[Answer]]) -> None:
        """Tells an answer, which `begin` begins."""
        await self._send("response.created", response=self._shown("in_progress", None, None))
        status, usage = "completed", None
        details: dict[str, Any] | None = None
        try:
            ended = await self._draw(await begin())
            usage = ended.usage
            if self._reason:
                status, details = "cancelled", {"type": "cancelled", "reason": self._reason}
            elif ended.stop in ("length", "cancelled"):
                status, details = "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}
        except RequestError as error:
            status = "cancelled" if self._reason else "failed"
            failure = {"type": "server_error", "code": error.code, "message": error.message}
            details = {"type": status} | ({"reason": self._reason} if self._reason else {"error": failure})
        if self._message is not None:
            await self._end_message(status)
        await self._send("response.done", response=self._shown(status, details, usage))

    async def _draw(self, answer: Answer) -> Ended:
        self._answer = answer
        if self._reason:
            answer.cancel()
        async with contextlib.aclosing(answer.__aiter__()) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Ended):
                    return event
                if not isinstance(event, Said) or self._reason:
                    continue
                if event.event.kind == "text" and event.event.text:
                    await self._say(event.event.text)
                elif event.event.kind == "tool_call" and event.event.call is not None:
                    if self._message is not None:
                        await self._end_message("completed")
                    await self._call(event.event.call)
        raise RequestError(500, "The answer did not come to its end.")

    async def _say(self, text: str) -> None:
        if self._message is None:
            values = {"type": "message", "role": "assistant", "content": []}
            item = await self._begin(values)
            self._message = _Message(self._send, self._at(item), item, self._speaker)
            await self._message.begin()
        await self._message.add(text)

    async def _end_message(self, status: str) -> None:
        message, self._message = self._message, None
        assert message is not None
        await message.end()
        await self._finish(message.item, "completed" if status == "completed" and not self._reason else "incomplete")

    async def _call(self, call: ToolCall) -> None:
        arguments = json.dumps(call.arguments or {}, ensure_ascii=False)
        number = new_id("call")
        item = await self._begin({"type": "function_call", "call_id": number, "name": call.name, "arguments": ""})
        at = {**self._at(item), "call_id": number}
        del at["content_index"]
        await self._send("response.function_call_arguments.delta", **at, delta=arguments)
        await self._send("response.function_call_arguments.done", **at, name=call.name, arguments=arguments)
        item.values["arguments"] = arguments
        await self._finish(item, "completed")

    def _at(self, item: Item) -> dict[str, Any]:
        return {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": self._output.index(item),
            "content_index": 0,
        }

    async def _begin(self, values: dict[str, Any]) -> Item:
        item = Item({"id": new_id(), "object": "realtime.item", "status": "in_progress", **values})
        self._output.append(item)
        index = len(self._output) - 1
        await self._send("response.output_item.added", response_id=self.id, output_index=index, item=dict(item.values))
        if self._conversation is not None:
            previous = self._conversation.add(item)
            await self._send("conversation.item.added", previous_item_id=previous, item=dict(item.values))
        return item

    async def _finish(self, item: Item, status: str) -> None:
        item.values["status"] = status
        if self._conversation is not None:
            with contextlib.suppress(RequestError, ValueError):  # the client may have deleted it
                at = self._conversation.items.index(item)
                previous = self._conversation.items[at - 1].id if at else None
                await self._send("conversation.item.done", previous_item_id=previous, item=item.values)
        index = self._output.index(item)
        await self._send("response.output_item.done", response_id=self.id, output_index=index, item=item.values)

    def _shown(self, status: str, details: dict[str, Any] | None, usage: Usage | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [item.values for item in self._output],
            "conversation_id": "conv_default" if self.default else None,
            "output_modalities": ["text"] if self._speaker is None else ["audio"],
            "max_output_tokens": self._options["max_output_tokens"],
            "metadata": self._metadata,
            "usage": usage and _usage(usage),
        }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "total_tokens": usage.prompt + usage.generated,
        "input_tokens": usage.prompt,
        "output_tokens": usage.generated,
        "input_token_details": {"cached_tokens": usage.cached, "text_tokens": usage.prompt, "audio_tokens": 0},
        "output_token_details": {"text_tokens": usage.generated, "audio_tokens": 0},
    }


class _Message:
    """A message of an answer: text, or text that is spoken sentence by sentence while the next one is made."""

    def __init__(self, send: Send, at: dict[str, Any], item: Item, speaker: Speaker | None) -> None:
        self.item = item
        self._send, self._at, self._speaker = send, at, speaker
        self._text = ""
        self._sentences = Sentences()
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._failure: RequestError | None = None
        self._field = "text" if speaker is None else "transcript"
        self._event = "response.output_text" if speaker is None else "response.output_audio_transcript"

    def _part(self, kind: str) -> dict[str, Any]:
        return {"type": kind, self._field: self._text}

    async def begin(self) -> None:
        """Tells that it begins."""
        kind = "text" if self._speaker is None else "audio"
        await self._send("response.content_part.added", **self._at, part=self._part(kind))
        if self._speaker is not None:
            self._task = asyncio.create_task(self._speak(self._speaker))

    async def add(self, text: str) -> None:
        """More of it."""
        self._text += text
        await self._send(self._event + ".delta", **self._at, delta=text)
        if self._task is not None:
            for sentence in self._sentences.feed(text):
                self._waiting.put_nowait(sentence)

    def cancel(self) -> None:
        """Nothing more is spoken."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        """Waits until it is spoken, and tells that it is complete. Raises RequestError where the voice has failed."""
        if self._task is not None:
            for sentence in self._sentences.finish():
                self._waiting.put_nowait(sentence)
            self._waiting.put_nowait(None)
            await asyncio.gather(self._task, return_exceptions=True)
            await self._send("response.output_audio.done", **self._at)
        await self._send(self._event + ".done", **self._at, **{self._field: self._text})
        kind = "text" if self._speaker is None else "audio"
        await self._send("response.content_part.done", **self._at, part=self._part(kind))
        self.item.values["content"] = [self._part(f"output_{kind}")]
        if self._failure is not None:
            raise self._failure

    async def _speak(self, speaker: Speaker) -> None:
        sent = 0
        try:
            while (sentence := await self._waiting.get()) is not None:
                async with contextlib.aclosing(speaker.speak(sentence)) as pieces:
                    async for piece in pieces:
                        for at in range(0, piece.size, size := round(_PIECE * speaker.rate)):
                            part = piece[at : at + size]
                            sent += part.size
                            await self._send("response.output_audio.delta", **self._at, delta=encoded(part))
                self.item.spoken.append((1000 * sent / speaker.rate, sentence))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._failure = request_error(error)
