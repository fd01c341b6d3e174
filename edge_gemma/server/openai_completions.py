"""POST /v1/completions: a text that is continued as it is, without turns. Markers in it are plain text."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..engine.generation import Token
from ..engine.interface import TokenizerLike
from .bodies import Fields
from .core import Answer, Core
from .failures import RequestError, error_body
from .job import Ended, Failed, Said
from .openai_chat import hint_of, options_of, usage_of
from .requests import ChatRequest
from .streams import EventStream, endpoint, opened, server_sent, unless_gone

__all__ = ["routes"]

_MOST_PROMPTS, _TOKENS = 8, 16


def routes(core: Core) -> list[Route]:
    """The route of completions."""

    async def complete(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        asked = [_read(core, fields, prompt, hint_of(request, fields)) for prompt in _prompts(fields)]
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": fields.text("model") or core.name,
        }
        shown = fields.flag("echo")
        echoes = [(one.text or "") if shown else "" for one in asked for _ in range(one.n)]
        options = fields.object("stream_options")
        with_usage = options is not None and options.flag("include_usage")
        answers: list[Answer] = []
        try:
            for one in asked:
                answers += await unless_gone(request, core.answers(one))
        except BaseException:
            for answer in answers:
                answer.cancel()
            raise
        if asked[0].streamed:
            await opened(request, answers)
            return EventStream(_chunks(head, answers, echoes, core.tokenizer, with_usage), answers, core)
        ended = await unless_gone(request, core.complete(answers))
        choices = [
            _choice(index, echo + end.reply.content, end.tokens, core.tokenizer, _reason(end))
            for index, (end, echo) in enumerate(zip(ended, echoes, strict=True))
        ]
        return JSONResponse({**head, "choices": choices, "usage": usage_of([end.usage for end in ended])})

    return [endpoint(core, "/v1/completions", complete, "POST")]


def _prompts(fields: Fields) -> list[str]:
    prompts = fields.texts("prompt")
    if not 1 <= len(prompts) <= _MOST_PROMPTS or not all(prompts):
        raise fields.wrong("prompt", f"a text, or up to {_MOST_PROMPTS} of them")
    return prompts


def _read(core: Core, fields: Fields, prompt: str, hint: str) -> ChatRequest:
    asked = options_of(core, fields)
    asked.text, asked.hint, asked.thinking = prompt, hint, False
    if asked.max_tokens is None:
        asked.max_tokens = _TOKENS
    asked.logprobs = fields.whole("logprobs", 0, 5)
    asked.n = fields.whole("n", 1, _MOST_PROMPTS, 1) or 1
    if fields.text("suffix"):
        raise RequestError(
            400, "A text cannot be filled in between two others: the model only continues.", param="suffix"
        )
    return asked


def _reason(ended: Ended) -> str:
    return "length" if ended.stop in ("length", "cancelled") else "stop"


def _choice(
    index: int, text: str, tokens: Sequence[Token], tokenizer: TokenizerLike, reason: str | None
) -> dict[str, Any]:
    logprobs = None
    if tokens:
        spelled = [tokenizer.decode([token.id]) for token in tokens]
        best = [{tokenizer.decode([number]): value for number, value in token.top_logprobs} for token in tokens]
        logprobs = {
            "tokens": spelled,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": best,
            "text_offset": [sum(map(len, spelled[:at])) for at in range(len(spelled))],
        }
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def _chunks(
    head: Mapping[str, Any],
    answers: Sequence[Answer],
    echoes: Sequence[str],
    tokenizer: TokenizerLike,
    with_usage: bool,
) -> AsyncGenerator[bytes, None]:
    usages = []
    try:
        for index, (answer, echo) in enumerate(zip(answers, echoes, strict=True)):
            if echo:
                yield server_sent({**head, "choices": [_choice(index, echo, (), tokenizer, None)]})
            async for event in answer:
                if isinstance(event, Said) and event.event.kind == "text":
                    choice = _choice(index, event.event.text, event.tokens, tokenizer, None)
                    yield server_sent({**head, "choices": [choice]})
                elif isinstance(event, Ended):
                    usages.append(event.usage)
                    yield server_sent({**head, "choices": [_choice(index, "", (), tokenizer, _reason(event))]})
                elif isinstance(event, Failed):
                    yield server_sent(error_body("/v1/", event.error))
                    return
        if with_usage:
            yield server_sent({**head, "choices": [], "usage": usage_of(usages)})
        yield b"data: [DONE]\n\n"
    finally:
        for answer in answers:
            answer.cancel()
