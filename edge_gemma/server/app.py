"""The application: all routes behind the guard, and what happens at start and stop.

    core = Core(lambda: Model.load("e2b"), Settings(), "e2b")
    app = create_app(core)                              # an ASGI application; its lifespan starts and stops the core

A further interface is a module with `routes(core) -> list[BaseRoute]` (WebSocket routes too), named in `_INTERFACES`. What
needs a start and an end of its own, such as a listener on another port, is a context manager given as `companions`:
`companion(core)` is entered when the server starts, before the model is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from . import (
    anthropic,
    models,
    ollama,
    openai_chat,
    openai_completions,
    openai_responses,
    openapi,
    page,
    realtime,
    speech,
    status,
    transcriptions,
)
from .core import Core
from .failures import RequestError, error_response
from .security import Guard

__all__ = ["Companion", "create_app"]

Companion = Callable[[Core], contextlib.AbstractAsyncContextManager[None]]

_INTERFACES = (
    status,
    models,
    openai_chat,
    openai_responses,
    openai_completions,
    ollama,
    anthropic,
    transcriptions,
    realtime,
    speech,
    openapi,
    page,
)


def create_app(core: Core, companions: Sequence[Companion] = ()) -> Starlette:
    """The application of a core."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for companion in companions:
                await stack.enter_async_context(companion(core))
            core.start()
            try:
                yield
            finally:
                await asyncio.to_thread(core.stop)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {404: "There is nothing at this address.", 405: "This address does not take requests of this kind."}
        refusal = RequestError(error.status_code, texts.get(error.status_code, "The request cannot be answered."))
        response = error_response(request.url.path, refusal)
        response.headers.update(error.headers or {})
        return response

    app = Starlette(
        routes=[route for interface in _INTERFACES for route in interface.routes(core)],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=core.settings)],
        exception_handlers={HTTPException: unknown},
    )
    app.state.core = core
    return app
