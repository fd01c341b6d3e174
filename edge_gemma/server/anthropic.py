"""/v1/messages and /v1/messages/count_tokens: Anthropic's interface.

    message_start, {content_block_start, content_block_delta ..., content_block_stop} ..., message_delta, message_stop

Blocks are text, thinking and tool_use. A tool's result is a block of a user's message, before the user's words. Marks for
the cache are not needed here: whatever a request has in common with earlier ones is found. Agents begin their instructions
with a line that changes with every request and means nothing to the model; that block is left out (requests.py), or no
request would find another.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..chat.calls import ToolCall
from ..engine.sampling import Sampling
from .bodies import Fields
from .core import Answer, Core
from .failures import RequestError, error_body
from .job import Began, Ended, Failed, Said, Usage
from .media import decoded, picture
from .openai_chat import called
from .requests import ChatRequest
from .streams import EventStream, endpoint, opened, server_sent, unless_gone

__all__ = ["routes"]

_REASONS = {"length": "max_tokens", "cancelled": "max_tokens", "stop": "stop_sequence"}
_PING = server_sent({"type": "ping"}, "ping")


def routes(core: Core) -> list[Route]:
    """Messages, and the count of their tokens."""

    async def create(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        asked = await core.work(_read, core, fields)
        if fields.whole("max_tokens", 1, 2**31) is None:
            raise fields.wrong("max_tokens", "a whole number above 0")
        head = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": fields.text("model") or core.name,
        }
        answers = await unless_gone(request, core.answers(asked))
        if not asked.streamed:
            ended = (await unless_gone(request, core.complete(answers)))[0]
            return JSONResponse(
                {
                    **head,
                    "content": _blocks(ended),
                    "stop_reason": _reason(ended),
                    "stop_sequence": ended.stop_text or None,
                    "usage": _usage(ended.usage),
                }
            )
        await opened(request, answers)
        return EventStream(_events(head, answers[0]), answers, core, ping=_PING)

    async def count(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        asked = await core.work(_read, core, fields)
        return JSONResponse({"input_tokens": await core.work(core.preparer.count, asked)})

    return [
        endpoint(core, "/v1/messages", create, "POST"),
        endpoint(core, "/v1/messages/count_tokens", count, "POST"),
    ]


# ---- requests --------------------------------------------------------------------------------------------------------


def _read(core: Core, fields: Fields) -> ChatRequest:
    given: dict[str, Any] = {}
    for name, high in (("temperature", 2), ("top_p", 1)):
        if (number := fields.number(name, 0, high)) is not None:
            given[name] = number
    if (top_k := fields.whole("top_k", 0, 2**31 - 1)) is not None:
        given["top_k"] = top_k
    thinking = fields.object("thinking")
    kind = thinking.text("type") if thinking else None
    metadata = fields.object("metadata")
    choice = fields.object("tool_choice")
    stop = fields.texts("stop_sequences")
    if not all(stop) or len(stop) > 16:
        raise fields.wrong("stop_sequences", "up to 16 texts, none of them empty")
    asked = ChatRequest(
        tools=[tool.values for tool in fields.objects("tools") if "input_schema" in tool],
        sampling=Sampling(**given),
        max_tokens=fields.whole("max_tokens", 1, 2**31),
        stop=stop,
        thinking=core.settings.thinking if kind is None else kind == "enabled",
        streamed=fields.flag("stream"),
        hint=((metadata.text("user_id") if metadata else None) or "")[:200],
    )
    asked.messages = [*_system(fields), *(part for item in fields.objects("messages") for part in _message(core, item))]
    if not any(message["role"] != "system" for message in asked.messages):
        raise RequestError(400, "There is no message to answer.", param="messages")
    if choice is not None:
        how = choice.text("type", "auto", ("auto", "any", "none", "tool"))
        asked.tool_choice = {"any": "required", "tool": choice.text("name") or "required"}.get(how or "", how or "auto")
        asked.parallel_calls = not choice.flag("disable_parallel_tool_use")
    return asked


def _system(fields: Fields) -> list[dict[str, Any]]:
    given = fields.raw("system")
    if given is None or isinstance(given, str):
        return [{"role": "system", "content": given}] if given else []
    return [{"role": "system", "content": block.text("text", "") or ""} for block in fields.objects("system")]


def _message(core: Core, fields: Fields) -> list[dict[str, Any]]:
    """The messages of chat/ for one of Anthropic's: results of tools are messages of their own."""
    role = fields.text("role", choices=("user", "assistant", "system"))
    if role is None:
        raise fields.wrong("role", "user or assistant")
    content = fields.raw("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in fields.objects("content"):
        kind = block.text("type")
        if kind == "text":
            parts.append({"type": "text", "text": block.text("text", "") or ""})
        elif kind == "image":
            parts.append(_picture(core, block))
        elif kind == "tool_use":
            name = block.text("name")
            if not name:
                raise block.wrong("name", "the name of a tool")
            calls.append(called(block, name, block.raw("input"), block.text("id")))
        elif kind == "tool_result":
            texts, pictures = _result(core, block)
            results.append({"role": "tool", "tool_call_id": block.text("tool_use_id"), "content": texts})
            parts += pictures
        elif kind not in ("thinking", "redacted_thinking"):
            raise RequestError(400, f"The server does not know blocks of type {kind!r}.", param=f"{block.where}type")
    if role == "assistant":
        text = "".join(part.get("text", "") for part in parts)
        return [{"role": role, "content": text, **({"tool_calls": calls} if calls else {})}]
    plain = "\n\n".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts
    return [*results, *([{"role": role, "content": plain}] if parts else [])]


def _picture(core: Core, block: Fields) -> dict[str, Any]:
    source = block.object("source")
    where = f"{block.where}source"
    if source is None or source.text("type") != "base64":
        raise RequestError(
            400,
            "Pictures must be sent inside the request, in base64: this server fetches nothing.",
            param=where,
            code="no_fetching",
        )
    data = decoded(source.text("data", "") or "", where)
    return {"type": "image", "image": picture(data, core.settings.max_pixels, where)}


def _result(core: Core, block: Fields) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tool's result, and its pictures."""
    content = block.raw("content")
    if content is None or isinstance(content, str):
        return content or "", []
    texts, pictures = [], []
    for part in block.objects("content"):
        if part.text("type") == "image":
            pictures.append(_picture(core, part))
        else:
            texts.append(part.text("text", "") or "")
    return "\n".join(texts), pictures


# ---- answers ---------------------------------------------------------------------------------------------------------


def _usage(usage: Usage) -> dict[str, Any]:
    """What was read anew counts as input; all of it is kept for the next request."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.generated,
    }


def _reason(ended: Ended) -> str:
    return _REASONS.get(ended.stop) or ("tool_use" if ended.reply.tool_calls else "end_turn")


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{uuid.uuid4().hex[:24]}",
        "name": call.name,
        "input": call.arguments or {},
    }


def _blocks(ended: Ended) -> list[dict[str, Any]]:
    reply, blocks = ended.reply, list[dict[str, Any]]()
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": ""})
    if reply.content:
        blocks.append({"type": "text", "text": reply.content})
    return [*blocks, *map(_call, reply.tool_calls)]


async def _events(head: Mapping[str, Any], answer: Answer) -> AsyncGenerator[bytes, None]:
    index, kind = -1, ""  # of the block that is open

    def sent(name: str, **fields: Any) -> bytes:
        return server_sent({"type": name, **fields}, name)

    def end_block() -> list[bytes]:
        return [sent("content_block_stop", index=index)] if kind else []

    try:
        async for event in answer:
            if isinstance(event, Began):
                message = {
                    **head,
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": _usage(event.usage),
                }
                yield sent("message_start", message=message)
            elif isinstance(event, Said):
                said = event.event
                if said.kind in ("text", "thinking"):
                    if kind != said.kind:
                        for piece in end_block():
                            yield piece
                        index, kind = index + 1, said.kind
                        empty = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
                        yield sent("content_block_start", index=index, content_block={"type": kind, **empty})
                    delta = {"type": f"{kind}_delta", kind: said.text}
                    yield sent("content_block_delta", index=index, delta=delta)
                elif said.kind == "tool_call" and said.call is not None:
                    for piece in end_block():
                        yield piece
                    index, kind, block = index + 1, "", _call(said.call)
                    arguments = json.dumps(block["input"], ensure_ascii=False)
                    yield sent("content_block_start", index=index, content_block={**block, "input": {}})
                    delta = {"type": "input_json_delta", "partial_json": arguments}
                    yield sent("content_block_delta", index=index, delta=delta)
                    yield sent("content_block_stop", index=index)
            elif isinstance(event, Ended):
                for piece in end_block():
                    yield piece
                ending = {"stop_reason": _reason(event), "stop_sequence": event.stop_text or None}
                yield sent("message_delta", delta=ending, usage=_usage(event.usage))
                yield sent("message_stop")
            elif isinstance(event, Failed):
                yield server_sent(error_body("/v1/messages", event.error), "error")
    finally:
        answer.cancel()
