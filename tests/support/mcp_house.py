"""An MCP server of the official SDK, for tests: `mcp_house.py` speaks over its standard streams, `mcp_house.py PORT` over
HTTP, where it asks for a token if TOKEN is set."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvicorn
from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("house")
_state = {"on": False}


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def temperature(room: str) -> float:
    """Tells the temperature of a room"""
    return {"kitchen": 20.5}[room]


@server.tool(name="light.turn-on", annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True))
def turn_on(name: str, colors: list[str] | None = None) -> str:
    """Turns a light on"""
    _state["on"] = True
    return f"{name} is on{' in ' + ' and '.join(colors) if colors else ''}"


@server.tool()
def get_context() -> dict[str, object]:
    """Tells everything"""
    return {"on": _state["on"], "secret": os.environ.get("SECRET"), "process": os.getpid()}


@server.tool()
def long() -> str:
    """Tells more than anybody wants to know"""
    return "word " * 5000


@server.tool()
async def slow(path: str) -> str:
    """Takes a while, and tells in a file whether it was cancelled"""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        Path(path).write_text("cancelled")
        raise
    return "late"


@server.tool()
def die() -> str:
    """Ends the server"""
    os._exit(3)


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def die_once(path: str) -> str:
    """Ends the server, the first time"""
    if not os.path.exists(path):
        Path(path).write_text("")
        os._exit(3)
    return "alive"


class WithToken:
    """Lets nobody in without the token."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        wanted = os.environ.get("TOKEN")
        given = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        if scope["type"] == "http" and wanted and given != f"Bearer {wanted}":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope, receive, send)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app = WithToken(server.streamable_http_app())
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
    else:
        server.run("stdio")
