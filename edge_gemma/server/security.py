"""Who may send requests. A middleware in front of everything else.

1. Host: a web page can point its own name at this machine (DNS rebinding), and then reads answers as its own. So the
   request must call the machine by a number, by localhost, by a name of this machine, or by one that was allowed.
2. Origin: browsers tell which page sends a request. Pages of this server may, and those that were allowed; no other.
3. Key: if there is one, every request but those for the page, its files and /health must have it.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .failures import RequestError, error_response
from .settings import Settings

__all__ = ["Guard", "host_name"]

_PUBLIC = ("/", "/health", "/v1/health", "/favicon.ico")
_PUBLIC_FOLDER = "/page/"
_KEY_PROTOCOL = "openai-insecure-api-key."  # how browsers send a key with a WebSocket


def host_name(host: str) -> str:
    """The name or number in a Host header, without the port; "" for what is neither."""
    try:
        return (urlsplit("//" + host).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


class Guard:
    """Refuses what may not pass."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own.partition('.')[0]}.local", *map(str.lower, settings.allowed_hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}
        self._key = None if settings.api_key is None else settings.api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it with an error."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._check_host(headers)
            self._check_origin(headers)
        except RequestError as error:
            await self._refuse(scope, receive, send, error)
            return
        crosses = origin is not None and origin.lower() in self._origins
        if crosses and scope["type"] == "http":
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204, headers=self._permission(headers))(scope, receive, send)
                return
            send = _with_headers(send, self._permission(headers))
        try:
            self._check_key(scope, headers)
        except RequestError as error:
            await self._refuse(scope, receive, send, error)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else ""
        if _is_number(name) or name in self._hosts or name.endswith(".localhost"):
            return
        raise RequestError(
            403,
            f"This server does not answer to the name {name!r}. Start it with --allow-host {name} to allow that."
            if name and name.isprintable()
            else "The request does not name the server that it is for.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            return
        host = headers.get("host", "").lower()
        if origin.lower() in (f"http://{host}", f"https://{host}") or origin.lower() in self._origins:
            return
        shown = origin if origin.isprintable() and len(origin) < 200 else "this page"
        raise RequestError(
            403,
            f"Pages of {shown} may not use this server. Start it with --allow-origin {shown} to allow that.",
            code="origin_not_allowed",
        )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        path = scope["path"]
        if self._key is None or path in _PUBLIC or path.startswith(_PUBLIC_FOLDER):
            return
        # Every candidate is compared, so that the time tells nothing.
        good = [hmac.compare_digest(given.encode("utf-8", "replace"), self._key) for given in _keys(headers)]
        if not any(good):
            text = "The key is wrong." if good else "This server wants a key."
            raise RequestError(401, f"{text} It was printed when the server was started.", code="invalid_api_key")

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, error: RequestError) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
        await error_response(scope["path"], error)(scope, receive, send)

    def _permission(self, headers: Headers) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": headers["origin"],
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": headers.get(
                "access-control-request-headers", "authorization, content-type"
            ),
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }


def _keys(headers: Headers) -> list[str]:
    """All keys that a request has, wherever clients put them."""
    found = [headers[name] for name in ("x-api-key", "api-key") if name in headers]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip())
    elif scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
        except ValueError:
            pass
    protocols = headers.get("sec-websocket-protocol", "").split(",")
    found += [item.strip()[len(_KEY_PROTOCOL) :] for item in protocols if item.strip().startswith(_KEY_PROTOCOL)]
    return found


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()),
            ]
        await send(message)

    return sending
