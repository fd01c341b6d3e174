"""GET /v1/models: the one model. Any name of a model is accepted in requests: clients have names of their own for what they
use."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .core import Core
from .failures import RequestError
from .streams import endpoint

__all__ = ["routes"]


def routes(core: Core) -> list[Route]:
    """The list, and its one entry."""

    def entry() -> dict[str, Any]:
        model = core.model
        modalities = ["text", *(["image"] if model.has_vision else []), *(["audio"] if model.has_audio else [])]
        return {
            "id": core.name,
            "object": "model",
            "created": core.created,
            "owned_by": "edge-gemma",
            "context_length": core.context,
            "max_model_len": core.context,
            "input_modalities": modalities,
            "output_modalities": ["text"],
        }

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [entry()]})

    async def one(request: Request) -> Response:
        if request.path_params["name"] != core.name:
            raise RequestError(404, f"There is no model of this name; the model is {core.name}.", param="model")
        return JSONResponse(entry())

    return [endpoint(core, "/v1/models", models, "GET"), endpoint(core, "/v1/models/{name:path}", one, "GET")]
