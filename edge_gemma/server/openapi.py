"""GET /openapi.json: what the interfaces take and give, as OpenAPI 3.1 describes it, for programs that read such descriptions.

A request is described by the fields that the server reads. Every object may have others, which are ignored, and null counts as
an absent field. An answer is described by the fields that it always has. Descriptions of WebSockets do not exist in OpenAPI,
so /v1/realtime is not there, and the page is for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._version import __version__
from ..vision.budgets import BUDGETS
from .core import Core
from .streams import endpoint

__all__ = ["description", "routes"]

Schema = dict[str, Any]

_MOST = 2**31 - 1
_ANY: Schema = {}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_NULL: Schema = {"type": "null"}
_TEXTS = ("text/plain", "application/x-subrip", "text/vtt")
_JSON, _EVENTS, _LINES = "application/json", "text/event-stream", "application/x-ndjson"


def routes(core: Core) -> list[Route]:
    """The route of the description."""

    async def answered(request: Request) -> Response:
        return JSONResponse(description(core.name, core.settings.api_key is not None))

    return [endpoint(core, "/openapi.json", answered, "GET")]


# ---- schemas ---------------------------------------------------------------------------------------------------------


def _text(*choices: str, **more: Any) -> Schema:
    return {"type": "string", **({"enum": list(choices)} if choices else {}), **more}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _list(of: Schema, low: int = 0, high: int | None = None) -> Schema:
    return {"type": "array", "items": of, "minItems": low, **({} if high is None else {"maxItems": high})}


def _either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _given(optional: Mapping[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An object of a request."""
    fields = {name: _either(schema, _NULL) if schema else schema for name, schema in (optional or {}).items()}
    return {"type": "object", "properties": {**required, **fields}, "required": list(required)}


def _told(**fields: Schema) -> Schema:
    """An object of an answer."""
    return {"type": "object", "properties": fields, "required": list(fields)}


_COUNT = _whole(0, _MOST)
_WORDS = _text(maxLength=10_000)
_BASE64 = _text(contentEncoding="base64")
_STOP = _either(_text(minLength=1, maxLength=200), _list(_text(minLength=1, maxLength=200), 0, 16))
_SEED = {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}
_EFFORT = _text("none", "minimal", "low", "medium", "high", "xhigh")
_NAME = _text(pattern="^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$")
_FUNCTION = _given({"description": _text(), "parameters": _OBJECT, "strict": _FLAG}, name=_NAME)
_DETAIL: dict[str, Schema] = {
    "detail": _text("low", "auto", "high", "original"),
    "max_soft_tokens": {"type": "integer", "enum": list(BUDGETS)},
}
_DATA_URL = _text(pattern="^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]*={0,2}$")
_SAMPLING: dict[str, Schema] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "top_k": _whole(-1, _MOST),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(1e-3, 10),
    "logit_bias": {"type": "object", "patternProperties": {"^[0-9]{1,3}$": _number(-100, 100)}, "maxProperties": 300},
    "seed": _SEED,
    "stop": _STOP,
    "max_completion_tokens": _whole(0, _MOST),
    "max_tokens": _whole(-1, _MOST),
    "stream": _FLAG,
    "stream_options": _given({"include_usage": _FLAG}),
    "reasoning_effort": _EFFORT,
    "reasoning": _given({"effort": _EFFORT}),
    "chat_template_kwargs": _given({"enable_thinking": _FLAG}),
    "user": _text(),
    "prompt_cache_key": _text(),
}


def _schemas(name: str) -> dict[str, Schema]:
    """Those of requests and answers, by their names. `name`: of the model."""
    return {**_openai(), **_ollama(name), **_anthropic(), **_answers()}


def _openai() -> dict[str, Schema]:
    call = _given({"id": _text(), "type": _text("function")}, function=_given({"arguments": _text()}, name=_NAME))
    parts = _either(
        _given(type=_text("text"), text=_WORDS),
        _given(type=_text("image_url"), image_url=_given(_DETAIL, url=_DATA_URL)),
        _given(type=_text("input_audio"), input_audio=_given({"format": _text()}, data=_BASE64)),
    )
    said = _either(_WORDS, _list(parts))
    form = _either(
        _given(type=_text("text", "json_object")),
        _given(type=_text("json_schema"), json_schema=_given({"name": _text(), "strict": _FLAG}, schema=_OBJECT)),
    )
    message = _given(
        {"content": said, "tool_calls": _list(call), "tool_call_id": _text(), "name": _text()},
        role=_text("system", "developer", "user", "assistant", "tool", "function"),
    )
    choice = _either(_text("auto", "none", "required"), _given(type=_text("function"), function=_given(name=_NAME)))
    chat = {
        **_SAMPLING,
        "model": _text(),
        "tools": _list(_given(type=_text("function"), function=_FUNCTION)),
        "tool_choice": choice,
        "parallel_tool_calls": _FLAG,
        "response_format": form,
        "logprobs": _FLAG,
        "top_logprobs": _whole(0, 20),
        "n": _whole(1, 8),
    }
    text = {**_SAMPLING, "model": _text(), "echo": _FLAG, "logprobs": _whole(0, 5), "n": _whole(1, 8)}
    inputs = _either(
        _given(type=_text("input_text"), text=_WORDS),
        _given(_DETAIL, type=_text("input_image"), image_url=_DATA_URL),
    )
    items = _either(
        _given(
            {"type": _text("message")},
            role=_text("system", "developer", "user", "assistant"),
            content=_either(_WORDS, _list(inputs)),
        ),
        _given({"arguments": _text(), "call_id": _text()}, type=_text("function_call"), name=_NAME),
        _given({"call_id": _text()}, type=_text("function_call_output"), output=_WORDS),
    )
    structured = _given({"name": _text(), "strict": _FLAG}, type=_text("json_schema"), schema=_OBJECT)
    responses = {
        **_SAMPLING,
        "model": _text(),
        "instructions": _WORDS,
        "max_output_tokens": _whole(1, _MOST),
        "previous_response_id": _text(),
        "tools": _list(_given({"description": _text(), "parameters": _OBJECT}, type=_text("function"), name=_NAME)),
        "tool_choice": _either(_text("auto", "none", "required"), _given(type=_text("function"), name=_NAME)),
        "parallel_tool_calls": _FLAG,
        "text": _given({"format": _either(_given(type=_text("text", "json_object")), structured)}),
        "include": _list(_text()),
        "top_logprobs": _whole(0, 20),
        "store": _FLAG,
    }
    uploads = {
        "model": _text(),
        "response_format": _text("json", "text", "srt", "vtt", "verbose_json"),
        "language": _text("en", "de", "fr", "es", "it", "ja"),
        "prompt": _WORDS,
        "hotwords": _WORDS,
        "temperature": _number(0, 2),
        "timestamp_granularities[]": _list(_text("word", "segment")),
        "stream": _FLAG,
    }
    upload = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}, **uploads}}
    speech = {
        "model": _text(),
        "voice": _ANY,
        "response_format": _text("mp3", "wav", "pcm", "flac", "opus"),
        "stream_format": _text("audio"),
        "speed": _number(0.25, 4),
    }
    return {
        "ChatRequest": _given(chat, messages=_list(message, 1)),
        "CompletionRequest": _given(text, prompt=_either(_text(minLength=1), _list(_text(minLength=1), 1, 8))),
        "ResponsesRequest": _given(responses, input=_either(_WORDS, _list(items, 1))),
        "UploadRequest": {**upload, "required": ["file"]},
        "SpeechRequest": _given(speech, input=_text(minLength=1, maxLength=4096)),
    }


def _ollama(name: str) -> dict[str, Schema]:
    names = _text(name, f"{name.removesuffix(':latest')}:latest")
    options = {
        "temperature": _number(0, 100),
        "top_p": _number(0, 1),
        "min_p": _number(0, 1),
        "top_k": _whole(-1, _MOST),
        "repeat_penalty": _number(1e-3, 100),
        "repeat_last_n": _whole(-1, _MOST),
        "presence_penalty": _number(-100, 100),
        "frequency_penalty": _number(-100, 100),
        "seed": _SEED,
        "stop": _list(_text(minLength=1), 0, 16),
        "num_ctx": _whole(1, _MOST),
        "num_predict": _whole(-2, _MOST),
    }
    common = {
        "options": _given(options),
        "format": _either(_text("", "json"), _OBJECT),
        "think": _either(_FLAG, _text("low", "medium", "high")),
        "keep_alive": _either({"type": "number"}, _text()),
        "stream": _FLAG,
    }
    call = _given({"id": _text()}, function=_given({"arguments": _OBJECT}, name=_NAME))
    message = _given(
        {"content": _WORDS, "images": _list(_BASE64), "tool_calls": _list(call), "tool_name": _text()},
        role=_text("system", "user", "assistant", "tool"),
    )
    tools = _list(_given(type=_text("function"), function=_FUNCTION))
    generate = {"prompt": _WORDS, "system": _WORDS, "images": _list(_BASE64), "raw": _FLAG}
    return {
        "OllamaChatRequest": _given({**common, "messages": _list(message), "tools": tools}, model=names),
        "OllamaGenerateRequest": _given({**common, **generate}, model=names),
        "OllamaNameRequest": _given(model=names),
    }


def _anthropic() -> dict[str, Schema]:
    source = _given({"media_type": _text()}, type=_text("base64"), data=_BASE64)
    text = _given(type=_text("text"), text=_WORDS)
    block = _either(
        text,
        _given(type=_text("image"), source=source),
        _given({"id": _text()}, type=_text("tool_use"), name=_NAME, input=_OBJECT),
        _given({"content": _either(_WORDS, _list(text))}, type=_text("tool_result"), tool_use_id=_text()),
        _given({"thinking": _text(), "signature": _text()}, type=_text("thinking")),
    )
    choice = _given({"name": _text(), "disable_parallel_tool_use": _FLAG}, type=_text("auto", "any", "none", "tool"))
    fields = {
        "model": _text(),
        "system": _either(_WORDS, _list(text)),
        "temperature": _number(0, 2),
        "top_p": _number(0, 1),
        "top_k": _whole(0, _MOST),
        "stop_sequences": _list(_text(minLength=1), 0, 16),
        "stream": _FLAG,
        "thinking": _given({"type": _text("enabled", "disabled", "adaptive")}),
        "metadata": _given({"user_id": _text()}),
        "tools": _list(_given({"description": _text()}, name=_NAME, input_schema=_OBJECT)),
        "tool_choice": choice,
    }
    messages = _list(_given(role=_text("user", "assistant", "system"), content=_either(_WORDS, _list(block))), 1)
    return {
        "MessagesRequest": _given(fields, max_tokens=_whole(1, _MOST), messages=messages),
        "MessagesCountRequest": _given(fields, messages=messages),
    }


def _answers() -> dict[str, Schema]:
    usage = _told(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
    model = _told(id=_text(), object=_text("model"), created=_COUNT, owned_by=_text(), context_length=_COUNT)
    tagged = _told(
        name=_text(), model=_text(), modified_at=_text(), size=_whole(0, 2**63 - 1), digest=_text(), details=_OBJECT
    )
    done = {"model": _text(), "created_at": _text(), "done": _FLAG, "done_reason": _text()}
    reason = _text("stop", "length", "tool_calls")
    return {
        "Error": _told(error=_told(message=_text(), type=_text(), param=_ANY, code=_ANY)),
        "OllamaError": _told(error=_text()),
        "AnthropicError": _told(type=_text("error"), error=_told(type=_text(), message=_text())),
        "Health": _told(status=_text("ok", "error", "loading model")),
        "Model": model,
        "Models": _told(object=_text("list"), data=_list(model, 1)),
        "Chat": _told(
            id=_text(),
            object=_text("chat.completion"),
            created=_COUNT,
            model=_text(),
            choices=_list(_told(index=_COUNT, message=_told(role=_text("assistant")), finish_reason=reason), 1, 8),
            usage=usage,
        ),
        "Completion": _told(
            id=_text(),
            object=_text("text_completion"),
            created=_COUNT,
            model=_text(),
            choices=_list(_told(index=_COUNT, text=_text(), finish_reason=_text("stop", "length")), 1, 64),
            usage=usage,
        ),
        "Responses": _told(
            id=_text(),
            object=_text("response"),
            created_at={"type": "number"},
            status=_text("completed", "incomplete", "in_progress", "failed"),
            model=_text(),
            output=_list(_told(type=_text())),
        ),
        "ResponsesDeleted": _told(id=_text(), object=_text("response"), deleted=_FLAG),
        "ResponsesCount": _told(object=_text("response.input_tokens"), input_tokens=_COUNT),
        "Transcription": _told(text=_text(), usage=_told(type=_text("duration"), seconds=_number(0, _MOST))),
        "OllamaChat": _told(**done, message=_told(role=_text("assistant"), content=_text())),
        "OllamaGenerate": _told(**done, response=_text()),
        "OllamaModels": _told(models=_list(tagged, 1, 1)),
        "OllamaShown": _told(details=_OBJECT, model_info=_OBJECT, capabilities=_list(_text())),
        "OllamaVersion": _told(version=_text()),
        "Messages": _told(
            id=_text(),
            type=_text("message"),
            role=_text("assistant"),
            model=_text(),
            content=_list(_told(type=_text("text", "thinking", "tool_use"))),
            stop_reason=_text("end_turn", "max_tokens", "stop_sequence", "tool_use"),
            usage=_told(input_tokens=_COUNT, output_tokens=_COUNT),
        ),
        "MessagesCount": _told(input_tokens=_COUNT),
    }


# ---- paths -----------------------------------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    summary: str,
    answer: str = "",
    given: str = "",
    *,
    error: str = "Error",
    also: tuple[str, ...] = (),
    form: str = _JSON,
    named: str = "",
) -> dict[str, Any]:
    """One operation.

    Args:
        summary: what it does.
        answer: the schema of the answer as JSON; "" where there is none.
        given: the schema of the request; "" where there is none.
        error: the schema of errors.
        also: further types of the answer.
        form: the type of the request.
        named: the parameter of the path; "" where there is none.
    """
    content: dict[str, Any] = {_JSON: {"schema": _ref(answer)}} if answer else {}
    content |= {kind: {"schema": _text()} if kind in _TEXTS else {} for kind in also}
    failure = {"description": "An error.", "content": {_JSON: {"schema": _ref(error)}}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}} if content else {}
    operation: dict[str, Any] = {"summary": summary, "responses": {**responses, "4XX": failure, "503": failure}}
    if given:
        operation["requestBody"] = {"required": True, "content": {form: {"schema": _ref(given)}}}
    if named:
        operation["parameters"] = [{"name": named, "in": "path", "required": True, "schema": _text(minLength=1)}]
    return operation


def _paths() -> dict[str, dict[str, Any]]:
    written, upload = (*_TEXTS, _EVENTS), "multipart/form-data"
    sounds = ("audio/mpeg", "audio/wav", "audio/pcm", "audio/flac", "audio/ogg")
    health = _operation("Whether requests can be answered", "Health")
    health["responses"]["503"]["content"][_JSON]["schema"] = _ref("Health")
    ours: dict[str, Any] = {"error": "OllamaError", "also": (_LINES,)}
    theirs: dict[str, Any] = {"error": "AnthropicError"}
    refused = _operation("Refused: there is one model", error="OllamaError")
    return {
        "/health": {"get": health},
        "/v1/health": {"get": health},
        "/metrics": {"get": _operation("Counters for Prometheus", also=("text/plain",))},
        "/openapi.json": {"get": _operation("This description", "Description")},
        "/v1/models": {"get": _operation("The one model, in a list", "Models")},
        "/v1/models/{name}": {"get": _operation("The model of this name", "Model", named="name")},
        "/v1/chat/completions": {"post": _operation("Answers messages", "Chat", "ChatRequest", also=(_EVENTS,))},
        "/v1/completions": {"post": _operation("Continues a text", "Completion", "CompletionRequest", also=(_EVENTS,))},
        "/v1/responses": {"post": _operation("Answers items", "Responses", "ResponsesRequest", also=(_EVENTS,))},
        "/v1/responses/input_tokens": {"post": _operation("Counts tokens", "ResponsesCount", "ResponsesRequest")},
        "/v1/responses/{name}": {
            "get": _operation("A response that was stored", "Responses", named="name"),
            "delete": _operation("Forgets a response", "ResponsesDeleted", named="name"),
        },
        "/v1/audio/transcriptions": {
            "post": _operation("Writes a recording down", "Transcription", "UploadRequest", also=written, form=upload)
        },
        "/v1/audio/translations": {
            "post": _operation(
                "As transcriptions, in English", "Transcription", "UploadRequest", also=written, form=upload
            )
        },
        "/v1/audio/speech": {"post": _operation("Reads a text aloud", given="SpeechRequest", also=sounds)},
        "/api/chat": {"post": _operation("Answers messages", "OllamaChat", "OllamaChatRequest", **ours)},
        "/api/generate": {"post": _operation("Continues a prompt", "OllamaGenerate", "OllamaGenerateRequest", **ours)},
        "/api/tags": {"get": _operation("The one model, in a list", "OllamaModels", error="OllamaError")},
        "/api/ps": {"get": _operation("Models in memory", "OllamaModels", error="OllamaError")},
        "/api/show": {"post": _operation("The model", "OllamaShown", "OllamaNameRequest", error="OllamaError")},
        "/api/version": {"get": _operation("The version of the interface", "OllamaVersion", error="OllamaError")},
        **{f"/api/{verb}": {"post": refused} for verb in ("pull", "push", "create", "copy")},
        "/api/delete": {"delete": refused},
        "/v1/messages": {
            "post": _operation("Answers messages", "Messages", "MessagesRequest", also=(_EVENTS,), **theirs)
        },
        "/v1/messages/count_tokens": {
            "post": _operation("Counts tokens", "MessagesCount", "MessagesCountRequest", **theirs)
        },
    }


def description(name: str, keyed: bool = False) -> dict[str, Any]:
    """The whole description. `name`: of the model; `keyed`: whether requests need a key."""
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-gemma serve",
            "version": __version__,
            "description": "Interfaces of OpenAI, Ollama and Anthropic to one model. /v1/realtime is a WebSocket.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {**_schemas(name), "Description": _told(openapi=_text(), info=_OBJECT, paths=_OBJECT)},
            **({"securitySchemes": schemes} if keyed else {}),
        },
        **({"security": [{"bearer": []}]} if keyed else {}),
    }
