"""/v1/responses: OpenAI's newer interface. Output is a list of items: reasoning, a message, calls of functions.

Clients drop events that lack a field, so each has what the published types demand: `sequence_number` from 0 on, `output_index`,
`item_id` and `content_index` where they belong, and a whole response object in created, in_progress and completed. Tools
that only their maker's service can run (search in the web, a shell) are left out and not refused; so are items of kinds
that are not known.

With `store` (the default) a response is kept in memory, so that the next request can go on from it by `previous_response_id`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..chat.calls import ToolCall
from ..engine.generation import Token
from ..engine.interface import TokenizerLike
from .bodies import Fields
from .conversation_store import ConversationStore, Kept
from .core import Answer, Core
from .failures import RequestError, error_body
from .job import Ended, Failed, Said, Usage
from .openai_chat import called, content_parts, hint_of, logprob_of, options_of, text_form
from .requests import ChatRequest
from .streams import EventStream, endpoint, opened, server_sent, unless_gone

__all__ = ["routes"]


def routes(core: Core) -> list[Route]:
    """Create, get, delete, and count."""
    store = ConversationStore(core.settings.max_responses)

    async def create(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        previous = _previous(fields, store)
        hint = hint_of(request, fields) or (previous.hint if previous else "")
        asked, said = await core.work(_read, core, fields, previous, hint)
        writer = _Writer(core.name, fields, asked, core.tokenizer)
        stores = fields.flag("store", True)
        answers = await unless_gone(request, core.answers(asked))

        def keep(response: Mapping[str, Any]) -> None:
            if stores:
                messages = [*said, writer.message()]
                store.add(response["id"], Kept(messages, response, hint or response["id"]))

        if not asked.streamed:
            ended = await unless_gone(request, core.complete(answers))
            response = writer.whole(ended[0])
            keep(response)
            return JSONResponse(response)
        await opened(request, answers)
        return EventStream(_events(writer, answers[0], keep), answers, core)

    async def get(request: Request) -> Response:
        kept = store.get(request.path_params["name"])
        if kept is None:
            raise _unknown(request.path_params["name"])
        return JSONResponse(kept.response)

    async def delete(request: Request) -> Response:
        name = request.path_params["name"]
        if not store.remove(name):
            raise _unknown(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    async def count(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        asked, _ = await core.work(_read, core, fields, _previous(fields, store), "")
        number = await core.work(core.preparer.count, asked)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": number})

    return [
        endpoint(core, "/v1/responses", create, "POST"),
        endpoint(core, "/v1/responses/input_tokens", count, "POST"),
        endpoint(core, "/v1/responses/{name}", get, "GET"),
        endpoint(core, "/v1/responses/{name}", delete, "DELETE"),
    ]


# ---- requests --------------------------------------------------------------------------------------------------------


def _unknown(name: str) -> RequestError:
    return RequestError(404, "There is no such response, or no longer.", param="id", code="response_not_found")


def _previous(fields: Fields, store: ConversationStore) -> Kept | None:
    name = fields.text("previous_response_id")
    if name is None:
        return None
    if (kept := store.get(name)) is None:
        raise RequestError(
            400,
            "The earlier part of this conversation is not known, or no longer: send it again.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return kept


def _read(core: Core, fields: Fields, previous: Kept | None, hint: str) -> tuple[ChatRequest, list[dict[str, Any]]]:
    """The request, and its messages without the instructions."""
    asked = options_of(core, fields)
    if (limit := fields.whole("max_output_tokens", 1, 2**31)) is not None:
        asked.max_tokens = limit
    said = [*(previous.messages if previous else ()), *_input(core, fields)]
    if not said:
        raise RequestError(400, "There is no message to answer.", param="input")
    instructions = fields.text("instructions")
    asked.messages = [*([{"role": "system", "content": instructions}] if instructions else []), *said]
    asked.tools = [tool.values for tool in fields.objects("tools") if tool.raw("type") == "function"]
    asked.tool_choice = _tool_choice(fields, asked.tools)
    asked.parallel_calls = fields.flag("parallel_tool_calls", True)
    text = fields.object("text")
    form = text.object("format") if text else None
    asked.schema = None if form is None else text_form(form)
    if "message.output_text.logprobs" in fields.texts("include"):
        asked.logprobs = fields.whole("top_logprobs", 0, 20, 0)
    asked.hint = hint
    return asked, said


def _input(core: Core, fields: Fields) -> list[dict[str, Any]]:
    given = fields.raw("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for item in fields.objects("input"):
        kind = item.text("type", "message")
        if kind == "message":
            messages.append(_message(core, item))
        elif kind == "function_call":
            name = item.text("name")
            if not name:
                raise item.wrong("name", "the name of a function")
            call = called(item, name, item.raw("arguments"), item.text("call_id"))
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item.raw("output")
            content = output if isinstance(output, str) else content_parts(core, item, "output")
            messages.append({"role": "tool", "tool_call_id": item.text("call_id"), "content": content})
        elif kind == "item_reference":
            raise RequestError(400, "Items cannot be named by their ids: send them.", param=f"{item.where}type")
    return messages


def _message(core: Core, item: Fields) -> dict[str, Any]:
    role = item.text("role", choices=("system", "developer", "user", "assistant"))
    if role is None:
        raise item.wrong("role", "system, developer, user or assistant")
    content = item.raw("content")
    return {"role": role, "content": content if isinstance(content, str) else content_parts(core, item, "content")}


def _tool_choice(fields: Fields, tools: Sequence[Mapping[str, Any]]) -> str:
    choice = fields.raw("tool_choice")
    if isinstance(choice, dict):
        inner = Fields(choice, "tool_choice.")
        if choice.get("type") == "function":
            return inner.text("name") or "auto"
        if choice.get("type") == "allowed_tools":
            return inner.text("mode", "auto", ("auto", "required")) or "auto"
        return "auto"  # a tool that is left out
    text = fields.text("tool_choice", "auto", ("auto", "none", "required")) or "auto"
    return text if tools or text != "required" else "auto"


# ---- answers ---------------------------------------------------------------------------------------------------------


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.generated,
        "output_tokens_details": {"reasoning_tokens": usage.thinking},
        "total_tokens": usage.prompt + usage.generated,
    }


class _Writer:
    """Writes one response: its items while they come, and the whole object."""

    def __init__(self, model: str, fields: Fields, asked: ChatRequest, tokenizer: TokenizerLike) -> None:
        self._tokenizer, self._logprobs = tokenizer, asked.logprobs is not None
        self.output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the item that grows
        self._words: list[str] = []
        self._tokens: list[dict[str, Any]] = []
        text, reasoning = fields.raw("text"), fields.raw("reasoning")
        self._base = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": fields.raw("instructions"),
            "max_output_tokens": asked.max_tokens,
            "max_tool_calls": None,
            "metadata": fields.raw("metadata") or {},
            "model": fields.text("model") or model,
            "output": [],
            "parallel_tool_calls": asked.parallel_calls,
            "previous_response_id": fields.raw("previous_response_id"),
            "prompt_cache_key": fields.raw("prompt_cache_key"),
            "reasoning": {"effort": None, "summary": None, **(reasoning if isinstance(reasoning, dict) else {})},
            "safety_identifier": fields.raw("safety_identifier"),
            "service_tier": "default",
            "store": fields.flag("store", True),
            "temperature": asked.sampling.temperature,
            "text": {"format": {"type": "text"}, **(text if isinstance(text, dict) else {})},
            "tool_choice": fields.raw("tool_choice") or "auto",
            "tools": fields.raw("tools") or [],
            "top_logprobs": asked.logprobs or 0,
            "top_p": asked.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": fields.raw("user"),
        }

    @property
    def is_empty(self) -> bool:
        """Whether no item has begun."""
        return not self.output and self._open is None

    def response(self, status: str = "in_progress", **changes: Any) -> dict[str, Any]:
        """The response object as it is now."""
        return {**self._base, "output": list(self.output), "status": status, **changes}

    def message(self) -> dict[str, Any]:
        """What the model said, as a message of the conversation."""
        texts = [part["text"] for item in self.output if item["type"] == "message" for part in item["content"]]
        calls = [
            {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": item["name"], "arguments": json.loads(item["arguments"])},
            }
            for item in self.output
            if item["type"] == "function_call"
        ]
        return {"role": "assistant", "content": "".join(texts), **({"tool_calls": calls} if calls else {})}

    def whole(self, ended: Ended) -> dict[str, Any]:
        """The response object of an answer that was not streamed."""
        reply = ended.reply
        if reply.thinking:
            list(self.piece("reasoning", reply.thinking, ()))
        if reply.content or not (reply.tool_calls or reply.thinking):
            list(self.piece("message", reply.content, ended.tokens))
        for call in reply.tool_calls:
            list(self.call(call))
        list(self.close())
        return self.completed(ended)[1]

    def completed(self, ended: Ended) -> tuple[str, dict[str, Any]]:
        """The last event's name, and the response object."""
        if ended.stop in ("length", "cancelled"):
            details = {"reason": "max_output_tokens"}
            response = self.response("incomplete", incomplete_details=details, usage=_usage(ended.usage))
            return "response.incomplete", response
        return "response.completed", self.response(
            "completed", completed_at=int(time.time()), usage=_usage(ended.usage)
        )

    # Each yields events without their sequence numbers.

    def piece(self, kind: str, text: str, tokens: Sequence[Token]) -> Iterator[dict[str, Any]]:
        """A piece of a message or of a thought."""
        if self._open is None or self._open["type"] != kind:
            yield from self.close()
            yield from self._begin(kind)
        assert self._open is not None
        if not text:
            return
        self._words.append(text)
        at = {"item_id": self._open["id"], "output_index": len(self.output), "content_index": 0}
        if kind == "reasoning":
            yield {"type": "response.reasoning_text.delta", **at, "delta": text}
        else:
            logprobs = [logprob_of(token, self._tokenizer) for token in tokens] if self._logprobs else []
            self._tokens += logprobs
            yield {"type": "response.output_text.delta", **at, "delta": text, "logprobs": logprobs}

    def _begin(self, kind: str) -> Iterator[dict[str, Any]]:
        item: dict[str, Any] = {"id": f"{'rs' if kind == 'reasoning' else 'msg'}_{uuid.uuid4().hex}", "type": kind}
        if kind == "reasoning":
            item["summary"] = []
        else:
            item["role"] = "assistant"
        self._open = {**item, "status": "in_progress", "content": []}
        self._words, self._tokens = [], []
        index = len(self.output)
        yield {"type": "response.output_item.added", "output_index": index, "item": dict(self._open)}
        yield {
            "type": "response.content_part.added",
            "item_id": item["id"],
            "output_index": index,
            "content_index": 0,
            "part": self._part(""),
        }

    def _part(self, text: str) -> dict[str, Any]:
        assert self._open is not None
        if self._open["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._tokens)}

    def close(self) -> Iterator[dict[str, Any]]:
        """Ends the item that grows, if there is one."""
        if self._open is None:
            return
        text, part = "".join(self._words), self._part("".join(self._words))
        at = {"item_id": self._open["id"], "output_index": len(self.output), "content_index": 0}
        if self._open["type"] == "reasoning":
            yield {"type": "response.reasoning_text.done", **at, "text": text}
        else:
            yield {"type": "response.output_text.done", **at, "text": text, "logprobs": list(self._tokens)}
        yield {"type": "response.content_part.done", **at, "part": part}
        item = {**self._open, "status": "completed", "content": [part]}
        yield {"type": "response.output_item.done", "output_index": len(self.output), "item": item}
        self.output.append(item)
        self._open = None

    def call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        """A call of a function, as a whole."""
        yield from self.close()
        arguments = json.dumps(call.arguments or {}, ensure_ascii=False)
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{uuid.uuid4().hex[:24]}",
            "name": call.name,
            "arguments": arguments,
        }
        index = len(self.output)
        at = {"item_id": item["id"], "output_index": index}
        begun = {**item, "status": "in_progress", "arguments": ""}
        yield {"type": "response.output_item.added", "output_index": index, "item": begun}
        yield {"type": "response.function_call_arguments.delta", **at, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **at, "name": call.name, "arguments": arguments}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
        self.output.append(item)


async def _events(writer: _Writer, answer: Answer, keep: Any) -> AsyncGenerator[bytes, None]:
    """The events of a stream."""
    number = 0

    def sent(event: Mapping[str, Any]) -> bytes:
        nonlocal number
        number += 1
        return server_sent({"type": event["type"], "sequence_number": number - 1, **event}, event["type"])

    try:
        yield sent({"type": "response.created", "response": writer.response()})
        yield sent({"type": "response.in_progress", "response": writer.response()})
        async for event in answer:
            if isinstance(event, Said):
                said = event.event
                if said.kind in ("text", "thinking"):
                    kind = "message" if said.kind == "text" else "reasoning"
                    for part in writer.piece(kind, said.text, event.tokens):
                        yield sent(part)
                elif said.kind == "tool_call" and said.call is not None:
                    for part in writer.call(said.call):
                        yield sent(part)
            elif isinstance(event, Ended):
                for part in writer.piece("message", "", ()) if writer.is_empty else ():
                    yield sent(part)
                for part in writer.close():
                    yield sent(part)
                name, response = writer.completed(event)
                keep(response)
                yield sent({"type": name, "response": response})
            elif isinstance(event, Failed):
                error = error_body("/v1/", event.error)["error"]
                details = {"code": "server_error", "message": error["message"]}
                yield sent({"type": "response.failed", "response": writer.response("failed", error=details)})
    finally:
        answer.cancel()
