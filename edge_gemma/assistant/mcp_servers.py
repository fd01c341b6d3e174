"""Tools of MCP servers (Model Context Protocol): programs that are started here, and addresses such as Home Assistant's.

The package mcp (extra `assistant`) speaks the protocol. Each server has a thread with an event loop that keeps the connection:
a program that ends is started again, and an address that cannot be reached is tried again, first after a second and at last
once a minute. A call waits no longer than its time, can be cancelled, and never raises: the model reads what went wrong.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import urllib.parse
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from ..chat.schemas import given_parameters
from ..chat.tools import Tool, tool_schema
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line
from ..shell import split_command
from .effects import Effect, effect_of_hints
from .state import read_text

__all__ = ["McpServer", "ServerAddress", "read_servers"]

_PATIENCE = 10.0  # seconds that a call may take
_START = 20.0  # seconds that a server may take to start, and to name its tools
_RETRY = (1.0, 60.0)  # seconds between attempts to connect, the first time and at most
_LONGEST_RESULT = 6000  # characters of a result that the model reads
_MOST_PAGES = 20  # of a list of tools
_UNWRITABLE = re.compile(r"[^\w.\-/]+")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclasses.dataclass(frozen=True)
class ServerAddress:
    """Where a server is.

    Attributes:
        name: what messages call it.
        command: the program and its arguments; empty for an address.
        url: the address; "" for a program.
        environment: variables of the program, beside those that every program needs.
        headers: that are sent to the address, such as a token. They are never shown.
    """

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)


def read_servers(description: str) -> list[McpServer]:
    """The servers that an option names. None of them is started.

    Args:
        description: a command; an address, http:// or https://, after which "token-env=NAME" or "token-file=PATH" may follow,
            the variable or file with a bearer token; or a file NAME.json with "mcpServers", as other programs have it, in whose
            texts ${NAME} stands for a variable of the environment.

    Raises:
        EdgeGemmaOSError: "file" for a file that cannot be read.
        EdgeGemmaValueError: "argument" for anything that cannot be understood, and a missing variable.
    """
    text = description.strip()
    if text.endswith(".json") and " " not in text:
        return [McpServer(address) for address in _from_file(os.path.expanduser(text))]
    try:
        words = split_command(text)
    except ValueError as error:
        raise EdgeGemmaValueError(f"The MCP server {text!r} cannot be read: {error}.", "argument") from error
    if not words:
        raise EdgeGemmaValueError("The MCP server is empty: give a command or an address.", "argument")
    if not words[0].startswith(("http://", "https://")):
        return [McpServer(ServerAddress(os.path.basename(words[0]), tuple(words)))]
    host = urllib.parse.urlsplit(words[0]).hostname
    if not host:
        raise EdgeGemmaValueError(f"{words[0]} is no address.", "argument")
    headers: dict[str, str] = {}
    for option in words[1:]:
        headers["Authorization"] = f"Bearer {_token(option)}"
    return [McpServer(ServerAddress(host, url=words[0], headers=headers))]


def _token(option: str) -> str:
    kind, _, value = option.partition("=")
    if kind == "token-env" and value:
        token = os.environ.get(value, "").strip()
        if not token:
            raise EdgeGemmaValueError(f"The variable {value}, which is to have a token, is empty.", "argument")
        return token
    if kind == "token-file" and value:
        path = os.path.expanduser(value)
        token = read_text(path).strip()
        if not token:
            raise EdgeGemmaOSError(f"{path}, which is to have a token, is missing or empty.", "file")
        return token
    raise EdgeGemmaValueError(
        f"An MCP server's address may be followed by token-env=NAME or token-file=PATH, not by {kind}.", "argument"
    )


def _from_file(path: str) -> list[ServerAddress]:
    if not os.path.exists(path):
        raise EdgeGemmaOSError(f"cannot read {path}: there is no such file.", "file")
    try:
        servers = json.loads(read_text(path))["mcpServers"]
        found = [_address(str(name), entry) for name, entry in servers.items()]
    except EdgeGemmaValueError as error:
        raise EdgeGemmaValueError(f"{path}: {error}", "argument") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgeGemmaValueError(
            f'{path} has no servers: it must be {{"mcpServers": {{NAME: {{"command" or "url": ...}}}}}}.', "argument"
        ) from error
    if not found:
        raise EdgeGemmaValueError(f"{path} names no servers.", "argument")
    return found


def _address(name: str, entry: Mapping[str, Any]) -> ServerAddress:
    if url := entry.get("url"):
        headers = {str(key): _expanded(str(value)) for key, value in (entry.get("headers") or {}).items()}
        return ServerAddress(name, url=_expanded(str(url)), headers=headers)
    if not entry.get("command"):
        raise EdgeGemmaValueError(f'the server {name} has neither "command" nor "url".', "argument")
    command = [entry["command"], *(entry.get("args") or ())]
    environment = {str(key): _expanded(str(value)) for key, value in (entry.get("env") or {}).items()}
    return ServerAddress(name, tuple(_expanded(str(word)) for word in command), environment=environment)


def _expanded(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        known = os.environ.get(found[1], found[2])
        if known is None:
            raise EdgeGemmaValueError(f"the variable {found[1]} is not set.", "argument")
        return known

    return _VARIABLE.sub(value, text)


@dataclasses.dataclass(frozen=True)
class _Known:
    """A tool of a server: what the model sees, what the server calls it, and what it does to the world."""

    tool: Tool
    original: str
    effect: Effect


class McpServer:
    """A connection to one server. A `ToolSource`.

    Attributes:
        name: what messages call the server.
        problem: why the server cannot be used at this moment, or some of its tools cannot; "" where all is well.
    """

    def __init__(self, address: ServerAddress, *, patience: float = _PATIENCE, start: float = _START) -> None:
        """Prepares the connection. `patience`: seconds that a call may take; `start`: that the server may take to start."""
        self.name, self.problem = address.name, ""
        self._address, self._patience, self._start = address, patience, start
        self._tools: dict[str, _Known] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._lost: asyncio.Event | None = None  # of this connection: set when it is of no use any more
        self._connected = threading.Event()  # while there is a connection
        self._tried = threading.Event()  # once there was an attempt to connect
        self._closed = False
        self._status = 0  # of the last answer of an address
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._lock = threading.Lock()

    # ---- any thread --------------------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Starts the server, or connects to it, and asks for its tools. False where that has not worked yet: `problem` says
        why, and it is tried again and again.

        Raises:
            EdgeGemmaValueError: "unsupported" without the package mcp, "argument" where there is no such program.
        """
        try:
            from mcp import Client  # noqa: F401
        except ImportError as error:
            raise EdgeGemmaValueError(
                f"MCP servers need the package mcp, version 2 or later: `{pip_line('edge-gemma[assistant]')}`.",
                "unsupported",
            ) from error
        command = self._address.command
        if command and shutil.which(os.path.expanduser(command[0])) is None:
            raise EdgeGemmaValueError(f"There is no program {command[0]}, which is to be an MCP server.", "argument")
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # else its warnings go to the screen
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"mcp-{self.name}", daemon=True)
            self._thread.start()
        self._tried.wait(self._start + 5)
        return self._connected.is_set()

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools that the server has named last. They stay known while it is away."""
        return [known.tool for known in self._tools.values()]

    def effect(self, name: str) -> Effect:
        """What a tool does to the world."""
        known = self._tools.get(name)
        return known.effect if known else "changes"

    def cancel(self) -> None:
        """Ends the calls that run: they return an error."""
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()

    def close(self) -> None:
        """Ends the connection, and the program. Further calls do nothing."""
        self._closed = True
        self.cancel()
        if self._loop:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._give_up)
        if self._thread:
            self._thread.join(self._start)

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Calls a tool. Returns its result, or {"error": message}."""
        known = self._tools.get(name)
        if known is None:
            return {"error": f"{self.name} has no tool {name} any more."}
        if not self._connected.wait(min(2.0, self._patience)):
            return {"error": self._unreachable()}
        result, again = self._attempt(known, arguments)
        if again and known.effect == "reads" and self._connected.wait(max(self._patience, self._start)):
            result, _ = self._attempt(known, arguments)
        return result

    def _attempt(self, known: _Known, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """The result of a call, and whether the connection was lost meanwhile."""
        assert self._loop
        future = asyncio.run_coroutine_threadsafe(self._ask(known.original, arguments), self._loop)
        with self._lock:
            self._running.add(future)
        try:
            return future.result(self._patience + 2), False
        except (concurrent.futures.TimeoutError, asyncio.TimeoutError, TimeoutError):
            future.cancel()
            return {"error": f"{self.name} has not answered within {self._patience:g} seconds."}, False
        except concurrent.futures.CancelledError:
            return {"error": "The call was cancelled."}, False
        except Exception as error:  # whatever the package and the server make of it
            if _is_lost(error):
                return {"error": f"{self.name} has stopped during the call, so it may not have been done."}, True
            return {"error": f"{self.name}: {_sentence(error)}"}, False
        finally:
            with self._lock:
                self._running.discard(future)

    def _unreachable(self) -> str:
        return self.problem if self._tried.is_set() and self.problem else f"{self.name} cannot be reached."

    # ---- the thread of the connection --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._keep_connected())

    async def _keep_connected(self) -> None:
        self._loop = asyncio.get_running_loop()
        pause = _RETRY[0]
        while not self._closed:
            self._lost = asyncio.Event()
            self._status = 0
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
                try:
                    async with self._connection(log) as client:
                        await asyncio.wait_for(self._read_tools(client), self._start)
                        self._client, pause = client, _RETRY[0]
                        self._connected.set()
                        self._tried.set()
                        await self._lost.wait()
                except Exception as error:
                    self.problem = f"{self.name} cannot be reached: {self._failure(error, log)}"
                finally:
                    was_connected = self._connected.is_set()
                    self._connected.clear()
                    self._client = None
                    self._tried.set()
            if self._closed:
                return
            if not was_connected:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), pause)
                pause = min(2 * pause, _RETRY[1])

    @contextlib.asynccontextmanager
    async def _connection(self, log: Any) -> AsyncIterator[Any]:
        """An open client. `log`: takes what the program writes to its standard error."""
        import httpx2
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        address, lost = self._address, self._lost
        assert lost
        async with contextlib.AsyncExitStack() as stack:
            if address.command:
                command = [os.path.expanduser(address.command[0]), *address.command[1:]]
                program = StdioServerParameters(command=command[0], args=command[1:], env=dict(address.environment))
                transport: Any = _watched(stdio_client(program, errlog=log), lost.set)
            else:
                http = await stack.enter_async_context(
                    httpx2.AsyncClient(
                        headers=dict(address.headers),
                        timeout=self._start,
                        event_hooks={"response": [self._note_status]},
                    )
                )
                transport = streamable_http_client(address.url, http_client=http)
            client = Client(transport, read_timeout_seconds=self._patience, cache=None)
            yield await stack.enter_async_context(client)

    async def _note_status(self, response: Any) -> None:
        self._status = int(response.status_code)

    def _failure(self, error: Exception, log: Any) -> str:
        """Why the connection has failed, as a sentence."""
        if self._address.command:
            return _last_line(log) or _sentence(error)
        if self._status in (401, 403):
            return f"it does not accept the token (status {self._status})."
        return f"it answered with status {self._status}." if self._status >= 300 else _sentence(error)

    async def _read_tools(self, client: Any) -> None:
        """Asks for the tools. One of which the model would see something wrong is left out, and `problem` says so."""
        found: dict[str, _Known] = {}
        left_out, cursor = [], None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for described in page.tools:
                data = described.model_dump(by_alias=True, exclude_none=True)
                name = _UNWRITABLE.sub("_", described.name)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        schema = tool_schema({**data, "name": name})
                except EdgeGemmaValueError as error:
                    left_out.append(f"{described.name} ({error})")
                    continue
                hints = described.annotations
                effect = effect_of_hints(described.name, getattr(hints, "read_only_hint", None))
                tool = Tool(schema, self._function(name), {}, declared=given_parameters(data))
                found[name] = _Known(tool, described.name, effect)
            cursor = page.next_cursor
            if not cursor:
                break
        self.problem = f"{self.name} has tools that cannot be used: {'; '.join(left_out)}" if left_out else ""
        self._tools = found

    def _function(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self._call(name, arguments)

    async def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        client, lost = self._client, self._lost
        if client is None:
            return {"error": self._unreachable()}
        try:
            call = client.call_tool(name, arguments, read_timeout_seconds=self._patience)
            result = await asyncio.wait_for(call, self._patience)
        except Exception as error:
            # The next connection may stand already, and must not be given up for this one.
            if _is_lost(error) and lost is self._lost:
                self._give_up()
            raise
        return _as_data(result)

    def _give_up(self) -> None:
        """Ends this connection: the thread makes the next one, unless the server is closed."""
        self._connected.clear()
        if self._lost:
            self._lost.set()


@contextlib.asynccontextmanager
async def _watched(transport: Any, on_end: Callable[[], None]) -> AsyncIterator[Any]:
    """The streams of a transport; `on_end` is called when the server has closed its own, as it does when it dies."""
    async with transport as (reader, writer):
        yield _Watched(reader, on_end), writer


class _Watched:
    """A stream of messages that tells its end."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream, self._on_end = stream, on_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._on_end()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)


def _as_data(result: Any) -> Any:
    """What a tool has returned, as the model reads it."""
    texts = [part.text for part in result.content if getattr(part, "type", "") == "text"]
    others = [f"[{part.type}]" for part in result.content if getattr(part, "type", "") != "text"]
    text = "\n".join([*texts, *others]).strip()
    if result.is_error:
        return {"error": _shortened(text) or "the tool has failed"}
    structured = result.structured_content
    data: Any = text
    if not texts and structured is not None:
        data = structured
    else:
        with contextlib.suppress(ValueError):
            data = json.loads(text)
    written = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    if len(written) > _LONGEST_RESULT:
        return _shortened(written)
    return data if data != "" else "done"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_RESULT else f"{text[:_LONGEST_RESULT]} ... (cut)"


def _is_lost(error: BaseException) -> bool:
    """Whether an error means that the connection is of no use any more."""
    from mcp_types import CONNECTION_CLOSED

    code = getattr(getattr(error, "error", None), "code", None)
    # 404: the server was started again, and does not know the session of before.
    return (
        code == CONNECTION_CLOSED
        or isinstance(error, (ConnectionError, RuntimeError))
        or type(error).__name__ in ("ConnectError", "ReadError", "RemoteProtocolError", "ClosedResourceError")
        or "Session terminated" in str(error)
    )


def _sentence(error: BaseException) -> str:
    """An error as a sentence: of a group of errors the first one."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "it does not answer."
    text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return f"{text}."


def _last_line(log: Any) -> str:
    """The last line that a program has written to its standard error."""
    with contextlib.suppress(OSError, ValueError):
        log.seek(0)
        lines = [line.strip() for line in log.read().splitlines() if line.strip()]
        return f"{lines[-1][:200].rstrip('.')}." if lines else ""
    return ""
