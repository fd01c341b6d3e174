"""GET /health and GET /metrics: whether the server can answer, and its counters."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .core import Core
from .streams import endpoint

__all__ = ["routes"]


def routes(core: Core) -> list[Route]:
    """Health, under the names that services look for, and metrics."""

    async def health(request: Request) -> Response:
        if core.ready:
            return JSONResponse({"status": "ok"})
        status = "error" if core.failure else "loading model"
        return JSONResponse({"status": status}, 503, {"Retry-After": "5"})

    async def metrics(request: Request) -> Response:
        return Response(core.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return [
        endpoint(core, "/health", health, "GET"),
        endpoint(core, "/v1/health", health, "GET"),
        endpoint(core, "/metrics", metrics, "GET"),
    ]
