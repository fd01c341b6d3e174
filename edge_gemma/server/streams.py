"""Answers that are sent while they are made, and requests whose sender may leave.

`EventStream` sends pieces as they come. It ends its source when the client leaves or takes nothing for too long, and sends
a ping when there is no news, so that nobody takes a long prompt for a dead server. `unless_gone` waits for something as
long as the client is there. `endpoint` makes a route of a function that raises RequestError.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .core import Answer, Core
from .failures import RequestError, error_response, request_error

__all__ = ["EventStream", "compact", "endpoint", "opened", "server_sent", "unless_gone"]

_T = TypeVar("_T")
PING = b": ping\n\n"


def compact(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def server_sent(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {compact(value)}\n\n".encode()


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _awaited(waited: Awaitable[_T]) -> _T:
    return await waited


async def unless_gone(request: Request, waited: Coroutine[Any, Any, _T]) -> _T:
    """The result of `waited`, which is cancelled when the client leaves: then ClientDisconnect is raised."""
    task: asyncio.Future[Any] = asyncio.ensure_future(waited)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect()
        result: _T = task.result()
        return result
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def opened(request: Request, answers: Sequence[Answer]) -> None:
    """Waits until it is the turn of the first answer: what fails before that is an error and no stream. Raises
    RequestError, and ClientDisconnect when the client leaves; the answers are ended then."""
    try:
        await unless_gone(request, answers[0].opened())
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise


class EventStream(Response):
    """A response whose pieces come from a generator."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        answers: Sequence[Answer],
        core: Core,
        media_type: str = "text/event-stream",
        ping: bytes | None = PING,
        resources: contextlib.AsyncExitStack | None = None,
    ) -> None:
        """`answers` end with the response; `ping`: what is sent when there is no news, None for nothing; `resources` are
        closed afterwards."""
        super().__init__(None, 200, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type)
        del self.headers["content-length"]
        self._pieces, self._answers, self._settings, self._ping = pieces, answers, core.settings, ping
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything, or as much as the client takes."""
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(receive))
        following: asyncio.Future[Any] | None = None
        try:
            await self._send(send, gone, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not gone.done():
                if following is None:
                    following = asyncio.ensure_future(anext(self._pieces))
                ping = self._settings.ping_seconds if self._ping else None
                await asyncio.wait({following, gone}, timeout=ping, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    piece = self._ping or b""
                else:
                    try:
                        piece = following.result()
                    except StopAsyncIteration:
                        await self._send(send, gone, {"type": "http.response.body", "body": b"", "more_body": False})
                        return
                    following = None
                if not await self._send(send, gone, {"type": "http.response.body", "body": piece, "more_body": True}):
                    return
        finally:
            for pending in (following, gone):
                if pending is not None:
                    pending.cancel()
            await asyncio.gather(*(task for task in (following, gone) if task is not None), return_exceptions=True)
            await self._pieces.aclose()
            for answer in self._answers:  # the generator may not have begun
                answer.cancel()
            if self._resources is not None:
                await self._resources.aclose()

    async def _send(self, send: Send, gone: asyncio.Future[Any], message: dict[str, Any]) -> bool:
        """Sends a message. False when the client has left, or takes nothing."""
        task: asyncio.Future[Any] = asyncio.ensure_future(_awaited(send(message)))
        done, _ = await asyncio.wait(
            {task, gone}, timeout=self._settings.stall_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if task not in done:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        return task.exception() is None


Handler = Callable[[Request], Awaitable[Response]]


def endpoint(core: Core, path: str, handler: Handler, *methods: str) -> Route:
    """A route. What the handler raises becomes an error in the form of its interface."""

    async def handle(request: Request) -> Response:
        status = 499
        try:
            response = await handler(request)
            status = response.status_code
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            failure = request_error(error)
            if failure.status == 500 and not isinstance(error, RequestError):
                core.metrics.count_failure(error)
            status = failure.status
            response = error_response(request.url.path, failure)
        core.metrics.count_request(path, status)
        return response

    return Route(path, handle, methods=list(methods) or ["GET"])
