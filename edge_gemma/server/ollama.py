"""The interface of Ollama: /api/chat, /api/generate, /api/tags, /api/show, /api/ps, /api/version.

Answers are lines of JSON, streamed unless "stream" is false; the last one has "done", a reason and times in nanoseconds.
Arguments of calls are objects. `think` lets the model think, `format` is "json" or a schema. The model is always in memory:
`keep_alive` is understood and changes nothing, but 0 in a request without words gives back what can be read again.

Names of models are those of /api/tags, with or without ":latest". For another one the answer is 404, at which clients offer to
pull it: that is refused.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._version import __version__
from ..chat.calls import ToolCall
from ..engine.gguf import GGUFFile
from ..engine.sampling import Sampling
from .bodies import Fields
from .core import Answer, Core
from .failures import RequestError, error_body
from .job import Ended, Failed, Said
from .media import decoded, picture
from .openai_chat import called, hint_of
from .requests import ChatRequest
from .streams import EventStream, compact, endpoint, opened, unless_gone

__all__ = ["routes"]

_LATEST = ":latest"
_VERSION = "0.14.0"  # whose fields these are; some clients refuse versions that are too old
_LINES = "application/x-ndjson"
_MOST = 2**31 - 1


def routes(core: Core) -> list[Route]:
    """All of them."""

    async def answer(request: Request, fields: Fields, asked: ChatRequest, kind: str) -> Response:
        began = time.monotonic()
        answers = await unless_gone(request, core.answers(asked))
        writer = _Writer(fields.text("model") or core.name, kind, began)
        if not asked.streamed:
            ended = await unless_gone(request, core.complete(answers))
            return JSONResponse(writer.whole(ended[0]))
        await opened(request, answers)
        return EventStream(_lines(writer, answers[0]), answers, core, _LINES, ping=None)

    async def chat(request: Request) -> Response:
        fields = await core.bodies.json(request)
        _check_name(core, fields)
        messages = fields.objects("messages")
        if not messages:
            return await loaded(fields, "chat")
        asked = await core.work(_read_chat, core, fields, messages, hint_of(request, fields))
        return await answer(request, fields, asked, "chat")

    async def generate(request: Request) -> Response:
        fields = await core.bodies.json(request)
        _check_name(core, fields)
        if not fields.text("prompt") and not fields.raw("images"):
            return await loaded(fields, "generate")
        asked = await core.work(_read_generate, core, fields, hint_of(request, fields))
        return await answer(request, fields, asked, "generate")

    async def loaded(fields: Fields, kind: str) -> Response:
        """A request without words loads or unloads the model elsewhere."""
        unload = _seconds(fields.raw("keep_alive")) == 0
        if unload:
            await core.work(core.model.trim)
        return JSONResponse(
            {
                **_Writer(core.name, kind, time.monotonic()).line(""),
                "done": True,
                "done_reason": "unload" if unload else "load",
            }
        )

    async def tags(request: Request) -> Response:
        return JSONResponse({"models": [await core.work(_entry, core)]})

    async def running(request: Request) -> Response:
        entry = await core.work(_entry, core)
        forever = {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0, "context_length": core.context}
        return JSONResponse({"models": [{**entry, **forever}]})

    async def show(request: Request) -> Response:
        fields = await core.bodies.json(request)
        _check_name(core, fields)
        return JSONResponse(await core.work(_shown, core))

    async def version(request: Request) -> Response:
        return JSONResponse({"version": _VERSION, "edge_gemma": __version__})

    async def refused(request: Request) -> Response:
        raise RequestError(403, "This server has one model, and gets no others.")

    return [
        endpoint(core, "/api/chat", chat, "POST"),
        endpoint(core, "/api/generate", generate, "POST"),
        endpoint(core, "/api/tags", tags, "GET"),
        endpoint(core, "/api/ps", running, "GET"),
        endpoint(core, "/api/show", show, "POST"),
        endpoint(core, "/api/version", version, "GET"),
        *(endpoint(core, f"/api/{name}", refused, "POST") for name in ("pull", "push", "create", "copy")),
        endpoint(core, "/api/delete", refused, "DELETE"),
    ]


def _check_name(core: Core, fields: Fields) -> None:
    core.check_ready()
    name = fields.text("model") or fields.text("name") or ""
    if name.removesuffix(_LATEST) != core.name.removesuffix(_LATEST):
        shown = name if name.isprintable() and len(name) < 100 else "of this name"
        raise RequestError(404, f"model {shown!r} not found, this server has {core.name}{_LATEST}.")


def _seconds(value: Any) -> float | None:
    """A time such as 300, -1.0, "5m" or "300s", as far as it is one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
        unit = next((unit for unit in units if value.endswith(unit)), "")
        try:
            return float(value.removesuffix(unit)) * units.get(unit, 1.0)
        except ValueError:
            return None
    return None


# ---- requests --------------------------------------------------------------------------------------------------------


def _options(core: Core, fields: Fields, hint: str) -> ChatRequest:
    options = fields.object("options") or Fields({})
    given: dict[str, Any] = {}
    for name, ours, low, high in (
        ("temperature", "temperature", 0, 100),
        ("top_p", "top_p", 0, 1),
        ("min_p", "min_p", 0, 1),
        ("repeat_penalty", "repetition_penalty", 1e-3, 100),
        ("presence_penalty", "presence_penalty", -100, 100),
        ("frequency_penalty", "frequency_penalty", -100, 100),
    ):
        if (number := options.number(name, low, high)) is not None:
            given[ours] = number
    if (top_k := options.whole("top_k", -1, _MOST)) is not None:
        given["top_k"] = max(top_k, 0)
    if (last := options.whole("repeat_last_n", -1, _MOST)) is not None:
        given["penalty_window"] = core.context if last < 0 else last
    options.whole("num_ctx", 1, _MOST)  # the timelines of the server have their own length
    limit = options.whole("num_predict", -2, _MOST)
    form = fields.raw("format")
    if form not in (None, "", "json") and not isinstance(form, dict):
        raise fields.wrong("format", "json or a schema")
    think = fields.raw("think")
    if think is not None and not isinstance(think, (bool, str)):
        raise fields.wrong("think", "true, false, low, medium or high")
    stop = options.texts("stop")
    if not all(stop) or len(stop) > 16:
        raise options.wrong("stop", "up to 16 texts, none of them empty")
    return ChatRequest(
        sampling=Sampling(**given),
        seed=options.whole("seed", -(2**63), 2**64 - 1),
        max_tokens=None if limit is None or limit < 0 else max(limit, 1),
        stop=stop,
        thinking=core.settings.thinking if think is None else think not in (False, "none", "false"),
        schema=None if not form else {"type": "object"} if form == "json" else form,
        streamed=fields.flag("stream", True),
        hint=hint,
    )


def _read_chat(core: Core, fields: Fields, messages: list[Fields], hint: str) -> ChatRequest:
    asked = _options(core, fields, hint)
    asked.messages = [_message(core, message) for message in messages]
    asked.tools = [tool.values for tool in fields.objects("tools")]
    return asked


def _read_generate(core: Core, fields: Fields, hint: str) -> ChatRequest:
    asked = _options(core, fields, hint)
    prompt = fields.text("prompt", "") or ""
    if fields.flag("raw"):
        asked.text = prompt
        return asked
    system = fields.text("system")
    content = [*_pictures(core, fields), {"type": "text", "text": prompt}]
    asked.messages = [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": content},
    ]
    return asked


def _message(core: Core, fields: Fields) -> dict[str, Any]:
    role = fields.text("role", choices=("system", "user", "assistant", "tool"))
    if role is None:
        raise fields.wrong("role", "system, user, assistant or tool")
    text = fields.text("content", "") or ""
    pictures = _pictures(core, fields)
    message: dict[str, Any] = {
        "role": role,
        "content": [*pictures, {"type": "text", "text": text}] if pictures else text,
    }
    calls = []
    for call in fields.objects("tool_calls"):
        function = call.object("function")
        name = function.text("name") if function else None
        if function is None or not name:
            raise call.wrong("function", "an object with a name")
        calls.append(called(call, name, function.raw("arguments"), call.text("id")))
    if calls:
        message["tool_calls"] = calls
    if name := fields.text("tool_name") or fields.text("name"):
        message["name"] = name
    if number := fields.text("tool_call_id"):
        message["tool_call_id"] = number
    return message


def _pictures(core: Core, fields: Fields) -> list[dict[str, Any]]:
    where, found = f"{fields.where}images", []
    for image in fields.texts("images"):
        data = decoded(image.partition(",")[2] if image.startswith("data:") else image, where)
        found.append({"type": "image", "image": picture(data, core.settings.max_pixels, where)})
    return found


# ---- answers ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the lines of one answer; `kind` is chat or generate."""

    def __init__(self, model: str, kind: str, began: float) -> None:
        self._model, self._kind, self._began = model, kind, began

    def line(self, text: str, thinking: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """A line that is not the last one."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        head: dict[str, Any] = {"model": self._model, "created_at": now}
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if self._kind == "generate":
            return {**head, "response": text, **more, "done": False}
        more |= {"tool_calls": calls} if calls else {}
        return {**head, "message": {"role": "assistant", "content": text, **more}, "done": False}

    def last(self, ended: Ended) -> dict[str, Any]:
        """What the last line has besides."""
        total = time.monotonic() - self._began
        return {
            "done": True,
            "done_reason": "length" if ended.stop in ("length", "cancelled") else "stop",
            "total_duration": int(total * 1e9),
            "load_duration": 0,
            "prompt_eval_count": ended.usage.prompt,
            "prompt_eval_cached_count": ended.usage.cached,
            "prompt_eval_duration": int(ended.prompt_seconds * 1e9),
            "eval_count": ended.usage.generated,
            "eval_duration": int(max(ended.seconds - ended.prompt_seconds, 0) * 1e9),
        }

    def whole(self, ended: Ended) -> dict[str, Any]:
        """An answer that is not streamed."""
        reply = ended.reply
        calls = [_written(call) for call in reply.tool_calls]
        return {**self.line(reply.content, reply.thinking, calls), **self.last(ended)}


def _written(call: ToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments or {}}}


async def _lines(writer: _Writer, answer: Answer) -> AsyncGenerator[bytes, None]:
    def sent(value: Mapping[str, Any]) -> bytes:
        return f"{compact(value)}\n".encode()

    try:
        async for event in answer:
            if isinstance(event, Said):
                said = event.event
                if said.kind == "text":
                    yield sent(writer.line(said.text))
                elif said.kind == "thinking":
                    yield sent(writer.line("", said.text))
                elif said.kind == "tool_call" and said.call is not None:
                    yield sent(writer.line("", calls=[_written(said.call)]))
            elif isinstance(event, Ended):
                yield sent({**writer.line(""), **writer.last(event)})
            elif isinstance(event, Failed):
                yield sent(error_body("/api/", event.error))
    finally:
        answer.cancel()


# ---- the model -------------------------------------------------------------------------------------------------------


def _details(core: Core) -> dict[str, Any]:
    model = core.model
    with GGUFFile(model.path) as file:
        kinds = [tensor.type_name for tensor in file.tensors if tensor.type_name]
    common = max(set(kinds), key=kinds.count) if kinds else "unknown"
    weights = [kind for kind in kinds if kind not in ("F32", "F16", "BF16")]
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "gemma4",
        "families": ["gemma4"],
        "parameter_size": f"{model.config.parameters / 1e9:.1f}B",
        "quantization_level": max(set(weights), key=weights.count) if weights else common,
    }


def _entry(core: Core) -> dict[str, Any]:
    """The model as /api/tags lists it."""
    model = core.model
    stat = model.path.stat()
    changed = datetime.datetime.fromtimestamp(stat.st_mtime, datetime.timezone.utc)
    name = core.name.removesuffix(_LATEST) + _LATEST
    return {
        "name": name,
        "model": name,
        "modified_at": changed.isoformat().replace("+00:00", "Z"),
        "size": stat.st_size,
        "digest": hashlib.sha256(f"{core.name} {stat.st_size}".encode()).hexdigest(),
        "details": _details(core),
    }


def _shown(core: Core) -> dict[str, Any]:
    model = core.model
    senses = [*(["vision"] if model.has_vision else []), *(["audio"] if model.has_audio else [])]
    config = model.config
    return {
        "modelfile": "",
        "parameters": "",
        "template": model.tokenizer.chat_template or "",
        "details": _details(core),
        "model_info": {
            "general.architecture": "gemma4",
            "general.parameter_count": config.parameters,
            "gemma4.context_length": core.context,
            "gemma4.block_count": config.layers,
            "gemma4.embedding_length": config.hidden_size,
            "gemma4.attention.head_count": config.heads,
        },
        "capabilities": ["completion", "tools", "thinking", *senses],
        "modified_at": _entry(core)["modified_at"],
    }
