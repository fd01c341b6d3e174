"""Running the server: the socket, uvicorn, signals, the key that is made.

uvicorn's own log of requests is off: an address may hold words of a user. What is printed is where the server listens, its
key if it has made one, and when it can answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import importlib
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line
from .settings import Settings, is_loopback

if TYPE_CHECKING:
    from .app import Companion
    from .core import Core

__all__ = ["Running", "check_packages", "listen", "serve", "with_key"]

_CONNECTIONS = 512  # open at the same time
_BACKLOG = 128
_UNREAD = 128 << 10  # bytes of an answer


def check_packages() -> None:
    """Raises EdgeGemmaValueError "unsupported" without the packages of the extra `server`."""
    for name in ("starlette", "uvicorn", "prometheus_client", "python_multipart", "websockets"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise EdgeGemmaValueError(
                f"The server needs the package {name.replace('_', '-')}: `{pip_line('edge-gemma[server]')}` gets it.",
                "unsupported",
            ) from None


def with_key(settings: Settings) -> tuple[Settings, bool]:
    """The settings with a key if other machines can reach the server, and whether it was made here."""
    if settings.api_key is not None or is_loopback(settings.host):
        return settings, False
    return dataclasses.replace(settings, api_key=secrets.token_urlsafe(24)), True


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens at an address. Raises EdgeGemmaOSError "file"; `option` is what sets the port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        with contextlib.ExitStack() as failed:
            failed.callback(listener.close)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What a client does not take waits here, and beyond that no more is drawn for it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
            listener.bind(address)
            listener.listen(_BACKLOG)
            failed.pop_all()
        return listener
    except OSError as error:
        reason = (
            f"something else listens there: give another {option}"
            if error.errno == errno.EADDRINUSE
            else error.strerror
        )
        raise EdgeGemmaOSError(f"The server cannot listen at {host}, port {port}: {reason}.", "file") from error


def serve(
    core: Core, listener: socket.socket, companions: Sequence[Companion] = (), ready: Callable[[], None] | None = None
) -> None:
    """Runs the server until it is told to stop by Ctrl-C or SIGTERM. `ready` is called when the model is loaded.

    Raises EdgeGemmaError when the model cannot be loaded.
    """
    server = _server(core, companions)

    def watch() -> None:
        while not server.should_exit and not core.ready and not core.failure:
            stopped.wait(0.05)
        if core.failure:
            server.should_exit = True
        elif core.ready and ready is not None:
            ready()

    stopped = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        server.run([listener])
    finally:
        stopped.set()
        listener.close()
    core.raise_failure()


class Running:
    """A server in a thread, for tests and for programs that have one beside other work.

    with Running(core) as running:
        requests to running.url
    """

    def __init__(self, core: Core, host: str = "127.0.0.1", companions: Sequence[Companion] = ()) -> None:
        """Listens at a free port."""
        self.core = core
        self._listener = listen(host, 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._server = _server(core, companions)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def __enter__(self) -> Running:
        """Waits until requests can be answered. Raises EdgeGemmaError when the model cannot be loaded."""
        self.start()
        self.core.wait()
        return self

    def start(self) -> None:
        """Begins to listen and to load the model."""
        self._thread.start()
        while not self.core.started.wait(0.1) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Tells the server to stop; answers under way come to their end first."""
        self._server.should_exit = True

    def __exit__(self, *_: object) -> None:
        """Stops, and waits for that."""
        self.stop()
        self._thread.join()
        self._listener.close()


def _server(core: Core, companions: Sequence[Companion]) -> Any:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from .app import create_app

    class Server(uvicorn.Server):
        """uvicorn waits for open requests before the application's own end, which is what lets them end: so that is told
        first."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            core.begin_stop()
            await super().shutdown(sockets)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """A signal is an order to stop, and no failure: it is not raised once more afterwards, as uvicorn does."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            old = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in old.items():
                    signal.signal(number, handler)

    class Protocol(H11Protocol):
        """uvicorn waits without end for the rest of a request's head; here a client has as long as for a piece of a body."""

        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.late is not None:
                self.late.cancel()

        def waits(self) -> bool:
            """Whether the head of a request is to come, or a part of it."""
            return self.cycle is None or self.cycle.response_complete

        def watch(self) -> None:
            if not self.waits() and self.late is not None:
                self.late.cancel()
                self.late = None
            elif self.waits() and self.late is None:
                self.late = self.loop.call_later(core.settings.stall_seconds, self.give_up)

        def give_up(self) -> None:
            self.late = None
            if self.waits() and self.transport.get_protocol() is self:  # else it has become a WebSocket
                self.transport.close()

    config = uvicorn.Config(
        create_app(core, companions),
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(core.settings.stop_seconds) + 5,
        h11_max_incomplete_event_size=64 << 10,
        ws_max_size=2 << 20,
        ws="auto",
        http=Protocol,
    )
    return Server(config)
