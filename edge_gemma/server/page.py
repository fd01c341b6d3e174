"""The web page at `/`: talk, text and pictures over /v1/realtime. Its files are part of the package.

The policy allows a browser nothing but these files and this server. The page and its files need no key; what they do then needs
one, if the server has any.
"""

from __future__ import annotations

import importlib.resources

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from .core import Core
from .failures import RequestError
from .streams import endpoint

__all__ = ["routes"]

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def routes(core: Core) -> list[BaseRoute]:
    """The page, its files, and what it must know of the server."""
    folder = importlib.resources.files("edge_gemma.server").joinpath("page_files")
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}

    def answered(name: str) -> Response:
        return Response(files[name], headers=_HEADERS, media_type=_TYPES[name.rpartition(".")[2]])

    async def page(request: Request) -> Response:
        return answered("index.html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise RequestError(404, "There is nothing at this address.")
        return answered(name)

    async def icon(request: Request) -> Response:
        return RedirectResponse("/page/icon.svg", 308)

    async def about(request: Request) -> Response:
        model = core.model
        known = {
            "name": core.name,
            "hears": model.has_audio,
            "sees": model.has_vision,
            "speaks": core.open_voice is not None,
            "key": core.settings.api_key is not None,
            **core.page,
        }
        return JSONResponse(known, headers=_HEADERS)

    return [
        endpoint(core, "/", page, "GET"),
        endpoint(core, "/page/about.json", about, "GET"),
        endpoint(core, "/page/{name}", file, "GET"),
        endpoint(core, "/favicon.ico", icon, "GET"),
    ]
