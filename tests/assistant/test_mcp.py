"""Tools of MCP servers: a program of the official SDK, over its standard streams and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_gemma.assistant.mcp_servers import McpServer, ServerAddress, read_servers
from edge_gemma.assistant.toolbox import open_toolbox
from edge_gemma.chat.tools import Toolbox as Calls
from edge_gemma.errors import EdgeGemmaError
from support.paths import ROOT

HOUSE = ROOT / "tests" / "support" / "mcp_house.py"
COMMAND = (sys.executable, str(HOUSE))
pytestmark = pytest.mark.slow  # each program takes seconds to start

pytest.importorskip("mcp.client.client", reason="needs the package mcp, version 2 or later")


def eventually(condition: Callable[[], Any], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.fixture(scope="module")
def shared() -> Iterator[McpServer]:
    """One server for the tests that leave it as it is."""
    with contextlib.closing(McpServer(ServerAddress("house", COMMAND, environment={"SECRET": "s"}))) as server:
        assert server.connect(), server.problem
        yield server


@pytest.fixture
def opened() -> Iterator[Callable[..., McpServer]]:
    servers: list[McpServer] = []

    def start(**options: float) -> McpServer:
        servers.append(McpServer(ServerAddress("house", COMMAND), **options))
        assert servers[-1].connect(), servers[-1].problem
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def call(server: McpServer, tool: str, /, **arguments: Any) -> Any:
    return Calls(server.tools).call(tool, arguments)


def test_the_tools_of_a_program(shared: McpServer) -> None:
    schemas = {tool.name: tool.schema["function"] for tool in shared.tools}
    assert {"temperature", "light.turn-on", "slow"} <= set(schemas) and shared.problem == ""
    assert schemas["temperature"]["description"] == "Tells the temperature of a room"
    assert schemas["light.turn-on"]["parameters"]["required"] == ["name"]
    declared = {tool.name: tool.declared for tool in shared.tools}["light.turn-on"]
    assert (
        declared is not None and declared["type"] == "object" and declared["required"] == ["name"]
    )  # as the server has it
    effects = {name: shared.effect(name) for name in ("temperature", "light.turn-on", "get_context", "slow")}
    assert effects == {"temperature": "reads", "light.turn-on": "changes", "get_context": "reads", "slow": "changes"}


def test_calls_return_what_the_tool_returns(shared: McpServer) -> None:
    assert call(shared, "temperature", room="kitchen") == 20.5
    assert call(shared, "light.turn-on", name="hall", colors=["red", "blue"]) == "hall is on in red and blue"
    context = call(shared, "get_context")
    assert context["on"] is True and context["secret"] == "s"
    long = call(shared, "long")
    assert long.startswith("word word") and len(long) < 6100 and long.endswith("(cut)")


def test_calls_that_fail_return_an_error(shared: McpServer) -> None:
    assert "temperature" in call(shared, "temperature", room="cellar")["error"]
    assert "room" in call(shared, "temperature")["error"]
    assert "no tool" in call(shared, "nothing")["error"]


def test_a_slow_call_times_out_and_is_cancelled(opened: Any, tmp_path: Path) -> None:
    server, mark = opened(patience=0.5), tmp_path / "mark"
    began = time.monotonic()
    assert call(server, "slow", path=str(mark)) == {"error": "house has not answered within 0.5 seconds."}
    assert time.monotonic() - began < 20 and eventually(mark.exists)
    assert call(server, "temperature", room="kitchen") == 20.5


def test_a_call_can_be_cancelled_from_another_thread(opened: Any, tmp_path: Path) -> None:
    server, mark = opened(patience=60), tmp_path / "mark"
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(server, "slow", path=str(mark))))
    thread.start()
    assert eventually(lambda: server._running)
    time.sleep(0.2)
    server.cancel()
    thread.join(30)
    assert results == [{"error": "The call was cancelled."}] and eventually(mark.exists)
    assert call(server, "temperature", room="kitchen") == 20.5


def test_a_program_that_dies_in_a_call_is_started_again(opened: Any, tmp_path: Path) -> None:
    server = opened()
    died = call(server, "die")
    assert died == {"error": "house has stopped during the call, so it may not have been done."}
    assert eventually(lambda: call(server, "temperature", room="kitchen") == 20.5)
    # A call that only reads is made again.
    assert call(server, "die_once", path=str(tmp_path / "mark")) == "alive"


def test_a_call_that_learns_late_of_the_end_leaves_the_next_connection(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails only after the next connection stands: that one goes on, and the call is made again on it."""
    import mcp

    server, next_clients = opened(), []
    process, ask = call(server, "get_context")["process"], mcp.Client.call_tool

    async def late(client: Any, *arguments: Any, **options: Any) -> Any:
        if next_clients:
            return await ask(client, *arguments, **options)
        os.kill(process, signal.SIGKILL)
        while server._client in (None, client):
            await asyncio.sleep(0.01)
        next_clients.append(server._client)
        raise ConnectionError("the program has ended")

    monkeypatch.setattr(mcp.Client, "call_tool", late)
    assert call(server, "get_context")["process"] != process
    assert [server._client] == next_clients


def test_a_program_that_dies_between_calls_is_started_again(opened: Any) -> None:
    server = opened()
    first = call(server, "get_context")["process"]
    os.kill(first, signal.SIGKILL)
    assert eventually(
        lambda: isinstance(found := call(server, "get_context"), dict) and found.get("process") not in (None, first)
    )
    assert call(server, "light.turn-on", name="hall") == "hall is on"


def test_closing_ends_the_program(opened: Any) -> None:
    server = opened()
    process = call(server, "get_context")["process"]
    server.close()
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert "error" in call(server, "get_context")


# ---- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def http() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(port: int, token: str = "") -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen([*COMMAND, str(port)], env={**os.environ, "TOKEN": token}))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return processes[-1]
            time.sleep(0.05)
        raise AssertionError("the server does not start")

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_address_with_a_token(http: Any, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http(port, "secret")
    url = f"http://127.0.0.1:{port}/mcp"
    monkeypatch.setenv("HOUSE_TOKEN", "secret")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "servers.json").write_text(
        json.dumps({"mcpServers": {"home": {"url": url, "headers": {"Authorization": "Bearer ${HOUSE_TOKEN}"}}}})
    )
    for description in (
        f"{url} token-env=HOUSE_TOKEN", f"{url} token-file={tmp_path / 'token'}", str(tmp_path / "servers.json")
    ):  # fmt: skip
        (server,) = read_servers(description)
        with contextlib.closing(server):
            assert server.connect() and call(server, "temperature", room="kitchen") == 20.5
            assert "secret" not in repr(server._address)
    (server,) = read_servers(url)
    with contextlib.closing(server):
        assert not server.connect() and server.tools == []
        assert server.problem == "127.0.0.1 cannot be reached: it does not accept the token (status 401)."


def test_a_server_that_comes_and_goes(http: Any, port: int) -> None:
    box = open_toolbox(servers=[f"http://127.0.0.1:{port}/mcp"], built_in=False)
    with contextlib.closing(box):
        assert box.tools == [] and "127.0.0.1 cannot be reached" in box.problems[0]
        process = http(port)
        assert eventually(lambda: box.tools, 90) and box.problems == []  # it is tried again after 1, 2, 4 ... seconds
        calls = Calls(box.tools)
        assert calls.call("light.turn-on", {"name": "hall"}) == "hall is on"
        process.kill()
        process.wait()
        assert "error" in calls.call("light.turn-on", {"name": "hall"})
        http(port)
        assert eventually(lambda: calls.call("light.turn-on", {"name": "hall"}) == "hall is on", 90)


# ---- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description, message",
    [
        (" ", "is empty"),
        ("'a", "cannot be read"),
        ("http://", "is no address"),
        ("http://h/mcp token-env=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE, which is to have a token, is empty"),
        ("http://h/mcp token-file=/nowhere/x", "/nowhere/x, which is to have a token, is missing"),
        ("http://h/mcp secret", "token-env=NAME or token-file=PATH"),
        ("/nowhere/servers.json", "no such file"),
    ],
)
def test_descriptions_that_cannot_be_read(description: str, message: str) -> None:
    with pytest.raises(EdgeGemmaError, match=message):
        read_servers(description)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "has no servers"),
        ("{}", "has no servers"),
        ('{"mcpServers": {}}', "names no servers"),
        ('{"mcpServers": {"a": {}}}', 'a has neither "command" nor "url"'),
        ('{"mcpServers": {"a": {"url": "http://${NOT_SET_ANYWHERE}"}}}', "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "servers.json").write_text(text)
    with pytest.raises(EdgeGemmaError, match=message):
        read_servers(str(tmp_path / "servers.json"))


def test_a_file_of_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "x")
    entries = {
        "a": {"command": "python", "args": ["${NAME}.py", 1], "env": {"K": "${OTHER:-y}"}},
        "b": {"url": "http://h/"},
    }
    (tmp_path / "s.json").write_text(json.dumps({"mcpServers": entries}))
    first, second = (server._address for server in read_servers(str(tmp_path / "s.json")))
    assert first == ServerAddress("a", ("python", "x.py", "1"), environment={"K": "y"})
    assert second == ServerAddress("b", url="http://h/")


def test_programs_that_cannot_be_used() -> None:
    (missing,) = read_servers("no-such-program --x")
    with pytest.raises(EdgeGemmaError, match="no program no-such-program"):
        missing.connect()
    (broken,) = read_servers(f"{sys.executable} -c 'raise SystemExit(\"no lamp\")'")
    with contextlib.closing(broken):
        assert not broken.connect() and broken.problem.endswith("cannot be reached: no lamp.")


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(EdgeGemmaError, match=r"pip install 'edge-gemma\[assistant\]'") as caught:
        open_toolbox(servers=["python"], built_in=False)
    assert caught.value.code == "unsupported"
