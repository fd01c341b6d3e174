"""Loads a server that it starts, and checks that nothing but the intended errors comes, and that its memory stays flat.

    python tools/clients/load.py [--seconds 600] [--clients 8] [OPTION OF serve ...]

Beside clients that ask one question after the other, streamed and not, in three interfaces, there are readers that take a piece
of an answer every half second, and a thousand connections that are dropped in the middle of an answer or of their own request.
The server's cache fills until --cache-memory, which is 64 MB here, so that it is full in the first third. Then the memory must
stay as it is.
Needs httpx. Ends with 1 if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

QUESTION = [{"role": "user", "content": "Turn on the light in the kitchen, and tell me a long story about it."}]
DROPPED = 1000
GROWTH = 1.15  # that the memory may have between the first third and the end


class Load:
    """What is counted."""

    def __init__(self, base: str, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.base, self.process = base, process
        self.end = time.monotonic() + seconds
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.memory: list[int] = []  # MB of the process
        self.kept: list[int] = []  # MB of these, in the cache
        self.tokens = 0

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.end

    def note(self, kind: str, good: bool, what: object = "") -> None:
        """Counts something that happened."""
        self.counts[kind if good else f"{kind}, WRONG"] += 1
        if not good and len(self.wrong) < 20:
            self.wrong.append(f"{kind}: {what}"[:300])

    async def client(self, number: int, http: httpx.AsyncClient) -> None:
        """One question after the other."""
        for turn in itertools.count(number):
            if self.over:
                return
            most, streamed = random.randint(8, 64), bool(turn % 2)
            asked: dict[str, Any] = {"model": "any", "messages": QUESTION, "max_tokens": most, "stream": streamed}
            path = ("/v1/chat/completions", "/v1/messages", "/v1/responses")[turn % 3]
            if path == "/v1/responses":
                asked = {"model": "any", "input": f"Question {turn}", "max_output_tokens": most, "stream": streamed}
            answer = await http.post(path, json=asked)
            good = answer.status_code == 200 and ('"usage"' in answer.text or "[DONE]" in answer.text)
            self.note(f"{path} {'streamed' if streamed else 'whole'}", good, f"{answer.status_code} {answer.text}")

    async def slow_reader(self, http: httpx.AsyncClient) -> None:
        """Takes its answers slowly, and all of them."""
        while not self.over:
            asked = {"messages": QUESTION, "max_tokens": 40, "stream": True}
            async with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
                lines = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    await asyncio.sleep(0.5 if len(lines) % 8 == 0 else 0)
            self.note("read slowly", "data: [DONE]" in lines, lines[-3:])

    async def dropper(self, http: httpx.AsyncClient, places: list[int]) -> None:
        """Opens a connection, and leaves in the middle of the answer, or of its own request."""
        port = int(self.base.rpartition(":")[2])
        while places and not self.over:
            number = places.pop()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps({"messages": QUESTION, "max_tokens": 4000, "stream": True}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            sent = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
            writer.write(sent if number % 3 else sent[: -len(body) // 2])
            try:
                await writer.drain()
                if number % 3 == 1:
                    await asyncio.wait_for(reader.read(random.randint(1, 2000)), 60)
            except (OSError, TimeoutError, asyncio.TimeoutError) as error:
                self.note("dropped", False, repr(error))
            else:
                self.note("dropped", True)
            writer.transport.abort()
            await asyncio.sleep(0.05)

    async def watcher(self, http: httpx.AsyncClient) -> None:
        """Asks for health, and measures the memory."""
        while not self.over:
            answer = await http.get("/health")
            self.note("/health", answer.status_code == 200, answer.text)
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            self.memory.append(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
            page = (await http.get("/metrics")).text
            self.kept.append(int(float(page.partition("\nedge_gemma_cache_bytes ")[2].split()[0])) >> 20)
            await asyncio.sleep(1.0)


async def loaded(load: Load, clients: int) -> None:
    """The whole load, until its time is over and everything is answered."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=load.base, timeout=120, limits=limits) as http:
        places = list(range(DROPPED))
        works: list[Awaitable[None]] = [load.client(number, http) for number in range(clients)]
        works += [load.slow_reader(http), load.slow_reader(http), load.watcher(http)]
        works += [load.dropper(http, places) for _ in range(4)]
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            if outcome is not None:
                load.note("a client", False, repr(outcome))
        await asyncio.sleep(2)
        active = [line for line in (await http.get("/metrics")).text.splitlines() if line.startswith("edge_gemma_")]
    left = {
        name: value
        for name, value in (line.rsplit(" ", 1) for line in active)
        if name.endswith(("active_answers", "queued_requests"))
    }
    load.note("nothing is left", len(left) == 2 and all(float(value) == 0 for value in left.values()), left)


def check_memory(load: Load) -> None:
    """The memory does not grow after the first third, in which the cache fills."""
    third = max(len(load.memory) // 3, 1)
    early, late = max(load.memory[:third]), max(load.memory[-third:])
    print(f"memory: {load.memory[0]} MB at first, {early} MB at most in the first third, {late} MB in the last")
    print(f"the cache counts {max(load.kept)} MB at most")
    load.note("memory", late <= GROWTH * early, (early, late))


@contextlib.contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with these options: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "edge_gemma", "serve", "--port", str(port), *options])
    base = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: httpx.get(base + "/health", timeout=5).status_code == 200)
        yield base, process
    finally:
        process.terminate()
        process.wait(60)


def main() -> int:
    """Starts the server, loads it, and stops it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="that ask one question after the other (default: 8)")
    args, options = parser.parse_known_args()
    with serving(["--cache-memory", "64MB", *options]) as (base, process):
        load = Load(base, process, args.seconds)
        asyncio.run(loaded(load, args.clients))
        check_memory(load)
    code = process.returncode
    load.note("the end", code == 0, code)
    for kind, count in sorted(load.counts.items()):
        print(f"{count:7} {kind}")
    print("\n".join(load.wrong) or "good")
    return int(bool(load.wrong))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("The server does not come up.")


if __name__ == "__main__":
    sys.exit(main())
