"""POST /v1/chat/completions: OpenAI's chat interface.

    choices[0].delta    role first, then content or reasoning_content, then one call a chunk, its arguments whole
    finish_reason       in a chunk of its own, the last one with choices; usage follows in a chunk without, if it was asked for

Some clients stop reading at the first finish_reason, look at the first call of a chunk only, and fail on empty arguments: so a
chunk has one call, its arguments are "{}" at least, and nothing follows the reason but usage.

Fields that change nothing here (store, metadata, service_tier, ...) are ignored. `options_of` reads what OpenAI's
interfaces share.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..chat.calls import ToolCall
from ..engine.generation import Token
from ..engine.interface import TokenizerLike
from ..engine.sampling import Sampling
from ..vision.budgets import BUDGETS
from .bodies import Fields
from .core import Answer, Core
from .failures import RequestError, error_body
from .job import Began, Ended, Failed, Said, Usage
from .media import data_url, decoded, picture, recording
from .requests import ChatRequest
from .streams import EventStream, endpoint, opened, server_sent, unless_gone

__all__ = [
    "called",
    "content_parts",
    "hint_of",
    "image_part",
    "logprob_of",
    "options_of",
    "routes",
    "sound_part",
    "text_form",
    "usage_of",
    "wants_thought",
]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_REASONS = {"length": "length", "cancelled": "length"}  # all others are "stop"
_MOST_ANSWERS = 8
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


def routes(core: Core) -> list[Route]:
    """The route of the chat."""

    async def chat(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        asked = await core.work(_read, core, fields, hint_of(request, fields))
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": fields.text("model") or core.name,
            "system_fingerprint": f"edge-gemma-{core.name}",
        }
        options = fields.object("stream_options")
        with_usage = options is not None and options.flag("include_usage")
        answers = await unless_gone(request, core.answers(asked))
        if not asked.streamed:
            ended = await unless_gone(request, core.complete(answers))
            return JSONResponse(_completion(head, ended, asked, core.tokenizer))
        await opened(request, answers)
        return EventStream(_chunks(head, answers, asked, core.tokenizer, with_usage), answers, core)

    return [endpoint(core, "/v1/chat/completions", chat, "POST")]


# ---- requests --------------------------------------------------------------------------------------------------------


def hint_of(request: Request, fields: Fields) -> str:
    """What tells the conversation: a header, or one of the fields that clients use for that."""
    for name in ("x-session-id", "session_id", "x-conversation-id", "conversation_id", "x-openwebui-chat-id"):
        if value := request.headers.get(name):
            return value[:200]
    for name in ("prompt_cache_key", "user", "safety_identifier"):
        value = fields.raw(name)
        if isinstance(value, str) and value:
            return value[:200]
    return ""


def _read(core: Core, fields: Fields, hint: str) -> ChatRequest:
    messages = [_message(core, message) for message in fields.objects("messages")]
    if not messages:
        raise RequestError(400, "There is no message to answer.", param="messages")
    asked = options_of(core, fields)
    asked.messages, asked.hint = messages, hint
    asked.tools = [tool.values for tool in fields.objects("tools")]
    asked.tools = [tool for tool in asked.tools if tool.get("type", "function") == "function"]
    asked.tools += [{"type": "function", "function": tool.values} for tool in fields.objects("functions")]
    asked.tool_choice = _tool_choice(fields)
    asked.parallel_calls = fields.flag("parallel_tool_calls", True)
    asked.schema = _response_format(fields)
    if fields.flag("logprobs"):
        asked.logprobs = fields.whole("top_logprobs", 0, 20, 0)
    asked.n = fields.whole("n", 1, _MOST_ANSWERS, 1) or 1
    return asked


def options_of(core: Core, fields: Fields) -> ChatRequest:
    """A request with what OpenAI's interfaces have in common: sampling, limits, thinking."""
    given: dict[str, Any] = {}
    for name, low, high in (
        *(("temperature", 0, 2), ("top_p", 0, 1), ("min_p", 0, 1)),
        *(("presence_penalty", -2, 2), ("frequency_penalty", -2, 2), ("repetition_penalty", 1e-3, 10)),
    ):
        if (number := fields.number(name, low, high)) is not None:
            given[name] = number
    if (top_k := fields.whole("top_k", -1, 2**31 - 1)) is not None:
        given["top_k"] = max(top_k, 0)
    biases = fields.object("logit_bias")
    if biases is not None and biases.values:
        try:
            given["logit_bias"] = {int(token): float(bias) for token, bias in biases.values.items()}
        except (TypeError, ValueError):
            raise fields.wrong("logit_bias", "an object of token ids and numbers") from None
        if not all(0 <= token < core.model.config.vocab_size for token in given["logit_bias"]):
            raise fields.wrong("logit_bias", "about tokens of the vocabulary")
    stop = fields.texts("stop")
    if not all(stop) or len(stop) > 16 or sum(map(len, stop)) > 4096:
        raise fields.wrong("stop", "up to 16 short texts, none of them empty")
    limit = fields.whole("max_completion_tokens", 0, 2**31)
    limit = fields.whole("max_tokens", -1, 2**31) if limit is None else limit
    return ChatRequest(
        sampling=Sampling(**given),
        seed=fields.whole("seed", -(2**63), 2**64 - 1),
        max_tokens=None if limit in (None, -1) else max(limit or 0, 1),
        stop=stop,
        thinking=wants_thought(core, fields),
        streamed=fields.flag("stream"),
    )


def wants_thought(core: Core, fields: Fields) -> bool:
    """Whether the model is to think: off unless the request or the server's settings ask for it."""
    effort = fields.text("reasoning_effort", choices=_EFFORTS)
    inner = fields.object("reasoning")
    if effort is None and inner is not None:
        effort = inner.text("effort", choices=_EFFORTS)
    if effort is not None:
        return effort not in ("none", "minimal")
    template = fields.object("chat_template_kwargs")
    if template is not None and "enable_thinking" in template:
        return template.flag("enable_thinking")
    return core.settings.thinking


def _message(core: Core, fields: Fields) -> dict[str, Any]:
    role = fields.text("role", choices=_ROLES)
    if role is None:
        raise fields.wrong("role", f"one of {', '.join(_ROLES)}")
    content = fields.raw("content")
    if content is None:
        content = ""
    if not isinstance(content, str):
        content = content_parts(core, fields, "content")
    message: dict[str, Any] = {"role": "tool" if role == "function" else role, "content": content}
    if calls := fields.objects("tool_calls"):
        message["tool_calls"] = [_given_call(call) for call in calls]
    elif old := fields.object("function_call"):
        message["tool_calls"] = [_given_call(Fields({"function": old.values}, fields.where))]
    for name in ("tool_call_id", "name", "reasoning_content"):
        if value := fields.text(name):
            message[name] = value
    return message


def _given_call(fields: Fields) -> dict[str, Any]:
    """A call of the model that a client sends back."""
    function = fields.object("function")
    name = function.text("name") if function else None
    if function is None or not name:
        raise fields.wrong("function", "an object with a name")
    return called(fields, name, function.raw("arguments"), fields.text("id"))


def called(fields: Fields, name: str, arguments: Any, number: str | None) -> dict[str, Any]:
    """A call as chat/ has it; its arguments may be JSON text or an object."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = {}  # the model's own fault, which must not end the conversation
    if arguments is None or not isinstance(arguments, dict):
        arguments = {}
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def content_parts(core: Core, fields: Fields, name: str) -> list[dict[str, Any]]:
    """The parts of a content: texts, pictures, recordings."""
    found: list[dict[str, Any]] = []
    for part in fields.objects(name):
        kind = part.text("type", "text")
        if kind in ("text", "input_text", "output_text", "refusal"):
            found.append({"type": "text", "text": part.text("refusal" if kind == "refusal" else "text", "") or ""})
        elif kind in ("image_url", "input_image"):
            found.append(image_part(core, part))
        elif kind == "input_audio":
            found.append(sound_part(core, part))
        else:
            raise RequestError(
                400,
                f"The server does not know content of type {kind!r}. It takes text, pictures and recordings.",
                param=f"{part.where}type",
            )
    return found


def image_part(core: Core, part: Fields) -> dict[str, Any]:
    """{"type": "image_url", "image_url": {"url", "detail", "max_soft_tokens"}}, or the flat form of the Responses interface."""
    inner = part if isinstance(part.raw("image_url"), str) else part.object("image_url")
    url = (inner.text("image_url" if inner is part else "url") if inner else None) or ""
    assert inner is not None or not url
    if inner is None or not url:
        raise part.wrong("image_url", "a picture in a data URL")
    where = f"{part.where}image_url"
    pixels = picture(data_url(url, where, "Pictures"), core.settings.max_pixels, where)
    budget: int | str | None = inner.whole("max_soft_tokens", 1, 1120) or part.whole("max_soft_tokens", 1, 1120)
    if budget is not None and budget not in BUDGETS:
        raise inner.wrong("max_soft_tokens", f"one of {', '.join(map(str, BUDGETS))}")
    detail = inner.text("detail", choices=("low", "auto", "high", "original"))
    # "auto" is what clients send who do not care: the budget of the published checkpoints.
    budget = budget or {"low": "low", "high": "high", "original": "high"}.get(detail or "")
    return {"type": "image", "image": pixels, **({"max_tokens": budget} if budget else {})}


def sound_part(core: Core, part: Fields) -> dict[str, Any]:
    """{"type": "input_audio", "input_audio": {"data", "format"}}"""
    inner = part.object("input_audio")
    data = inner.text("data") if inner else None
    if not data:
        raise part.wrong("input_audio", "a recording in base64")
    where = f"{part.where}input_audio"
    content = data_url(data, where, "Recordings") if data.startswith("data:") else decoded(data, where)
    return {"type": "audio", "audio": recording(content, core.context * 0.04, where)}


def _tool_choice(fields: Fields) -> str:
    choice = fields.raw("tool_choice")
    if choice is None or isinstance(choice, str):
        if choice not in (None, "auto", "none", "required", "any"):
            raise fields.wrong("tool_choice", "auto, none, required or a function")
        return "required" if choice == "any" else choice or "auto"
    inner = fields.object("tool_choice")
    assert inner is not None
    function = inner.object("function") or inner
    if inner.text("type") == "allowed_tools":
        return (inner.object("allowed_tools") or inner).text("mode", "auto", ("auto", "required")) or "auto"
    name = function.text("name")
    if not name:
        raise fields.wrong("tool_choice", "auto, none, required or a function")
    return name


def _response_format(fields: Fields) -> Mapping[str, Any] | bool | None:
    form = fields.object("response_format")
    return None if form is None else text_form(form)


def text_form(form: Fields) -> Mapping[str, Any] | bool | None:
    """The schema of {"type": text, json_object or json_schema, "json_schema": {"schema"}}, also without the inner object;
    None for free text."""
    kind = form.text("type", "text", ("text", "json_object", "json_schema"))
    if kind == "text":
        return None
    schema = (form.object("json_schema") or form).raw("schema")
    if kind == "json_object" and schema is None:
        return {"type": "object"}
    if not isinstance(schema, (dict, bool)):
        raise form.wrong("json_schema", "an object with a schema")
    return schema


# ---- answers ---------------------------------------------------------------------------------------------------------


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """Usage in OpenAI's form; the prompt counts once."""
    prompt, generated = usages[0].prompt, sum(usage.generated for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.thinking for usage in usages)},
    }


def _written(call: ToolCall) -> dict[str, Any]:
    """A call as clients get it."""
    arguments = json.dumps(call.arguments or {}, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _reason(ended: Ended) -> str:
    if ended.stop in _REASONS:
        return _REASONS[ended.stop]
    return "tool_calls" if ended.reply.tool_calls else "stop"


def _completion(
    head: Mapping[str, Any], ended: Sequence[Ended], asked: ChatRequest, tokenizer: TokenizerLike
) -> dict[str, Any]:
    choices = []
    for index, end in enumerate(ended):
        message: dict[str, Any] = {"role": "assistant", "content": end.reply.content or None, "refusal": None}
        if end.reply.thinking:
            message["reasoning_content"] = end.reply.thinking
        if end.reply.tool_calls:
            message["tool_calls"] = [_written(call) for call in end.reply.tool_calls]
        else:
            message["content"] = end.reply.content
        choice = {"index": index, "message": message, "finish_reason": _reason(end), "logprobs": None}
        if asked.logprobs is not None:
            choice["logprobs"] = {"content": [logprob_of(token, tokenizer) for token in end.tokens], "refusal": None}
        choices.append(choice)
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage_of([end.usage for end in ended])}


def logprob_of(token: Token, tokenizer: TokenizerLike) -> dict[str, Any]:
    """A token of an answer, and the likeliest ones at its place."""
    return {
        **_spelled(token.id, token.logprob or 0.0, tokenizer),
        "top_logprobs": [_spelled(number, value, tokenizer) for number, value in token.top_logprobs],
    }


def _spelled(number: int, value: float, tokenizer: TokenizerLike) -> dict[str, Any]:
    text = tokenizer.decode([number], special=True)
    return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode())}


async def _chunks(
    head: Mapping[str, Any], answers: Sequence[Answer], asked: ChatRequest, tokenizer: TokenizerLike, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream. Several answers come one after the other."""
    usages = []

    def chunk(index: int, delta: Mapping[str, Any], reason: str | None = None, tokens: Sequence[Token] = ()) -> bytes:
        logprobs = {"content": [logprob_of(token, tokenizer) for token in tokens], "refusal": None} if tokens else None
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        usage = {"usage": None} if with_usage else {}
        return server_sent({**head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    try:
        for index, answer in enumerate(answers):
            calls = 0
            async for event in answer:
                if isinstance(event, Began):
                    yield chunk(index, {"role": "assistant", "content": ""})
                elif isinstance(event, Said):
                    said = event.event
                    if said.kind == "text":
                        yield chunk(index, {"content": said.text}, tokens=event.tokens)
                    elif said.kind == "thinking":
                        yield chunk(index, {"reasoning_content": said.text})
                    elif said.kind == "tool_call" and said.call is not None:
                        yield chunk(index, {"tool_calls": [{"index": calls, **_written(said.call)}]})
                        calls += 1
                elif isinstance(event, Ended):
                    usages.append(event.usage)
                    yield chunk(index, {}, _reason(event))
                elif isinstance(event, Failed):
                    yield server_sent(error_body("/v1/", event.error))
                    return
        if with_usage:
            yield server_sent({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(usages)})
        yield b"data: [DONE]\n\n"
    finally:
        for answer in answers:
            answer.cancel()
