"""A Wyoming server beside the one for HTTP: speech recognition and a conversation agent, as Home Assistant uses them.

    create_app(core, companions=[wyoming("127.0.0.1", 10300)])

Home Assistant opens a connection for every turn, and asks every 30 seconds what there is: the answer is made once, and costs
nothing. The protocol knows no keys, so whoever reaches the port may use it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, HandleModel, HandleProgram, Info
from wyoming.intent import Recognize
from wyoming.ping import Ping, Pong

from .._version import __version__
from ..hub.resolve import is_embedded
from ..speech.languages import LANGUAGES
from .announcing import announced, check_announcing
from .core import Core
from .failures import RequestError, request_error
from .running import listen
from .wyoming_agent import Agent
from .wyoming_frames import LINE, read_event
from .wyoming_hearing import Hearing

__all__ = ["info", "wyoming"]

_CONNECTIONS = 64
_IDLE = 600.0  # seconds without an event
_TOY_LANGUAGES = ["de", "en", "es"]


def info(core: Core) -> Event:
    """What there is: names stay as they are, because Home Assistant knows its devices by them."""
    about: dict[str, Any] = {
        "attribution": Attribution(name="Gemma", url="https://ai.google.dev/gemma"),
        "installed": True,
        "version": __version__,
    }
    toy = is_embedded(core.model.path)
    languages = _TOY_LANGUAGES if toy else sorted(code for code in LANGUAGES if len(code) == 2)
    hearing = AsrProgram(
        name="edge-gemma",
        description="Speech recognition by Gemma",
        models=[AsrModel(name=core.name, description=core.name, languages=languages, **about)],
        supports_transcript_streaming=True,
        requires_external_vad=False,
        prefers_auto_gain_enabled=False,
        prefers_noise_reduction_enabled=False,
        **about,
    )
    agent = HandleProgram(
        name="edge-gemma",
        description="Conversation with Gemma",
        models=[HandleModel(name=core.name, description=core.name, languages=languages, **about)],
        supports_home_control=True,
        **about,
    )
    return Info(asr=[hearing] if core.model.has_audio else [], handle=[agent]).event()


class _Server:
    """All connections."""

    def __init__(self, core: Core, agent: Agent) -> None:
        self.core, self.agent = core, agent
        self._info: Event | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> Event:
        if self._info is None:
            self._info = info(self.core)
        return self._info

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        connection = _Connection(self, reader, writer)
        try:
            if len(self.tasks) > _CONNECTIONS:
                await connection.fail(RequestError(503, "Too many programs are connected. Try again later."))
            else:
                await connection.serve()
        finally:
            self.tasks.discard(task)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


class _Connection:
    """One client."""

    def __init__(self, server: _Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._settings = server.core.settings
        self._transcribe = Transcribe()
        self._hearing: Hearing | None = None
        self._sending = asyncio.Lock()

    async def send(self, event: Event) -> None:
        """Sends an event. A client that takes nothing is disconnected."""
        async with self._sending:
            try:
                await asyncio.wait_for(async_write_event(event, self._writer), self._settings.stall_seconds)
            except (TimeoutError, asyncio.TimeoutError, OSError):
                self._writer.transport.abort()

    async def fail(self, error: RequestError) -> None:
        """Sends an error, and closes the connection."""
        await self.send(Error(text=error.message, code=error.code).event())
        self._writer.close()

    async def serve(self) -> None:
        """Until the client leaves."""
        status = 200
        try:
            while (event := await read_event(self._reader, _IDLE, self._settings.stall_seconds)) is not None:
                await self._take(event)
        except Exception as error:
            failure = request_error(error)
            if failure.status == 500:
                self._server.core.metrics.count_failure(error)
            status = failure.status
            await self.fail(failure)
        finally:
            if self._hearing is not None:
                await self._hearing.close()
            self._server.core.metrics.count_request("wyoming", status)

    async def _take(self, event: Event) -> None:
        kind = event.type
        if kind == "describe":
            await self.send(self._server.info)
        elif kind == "ping":
            await self.send(Pong(text=_read(Ping, event).text).event())
        elif kind == "transcribe":
            self._transcribe = _read(Transcribe, event)
            if not isinstance(self._transcribe.language, (str, type(None))):
                raise RequestError(400, "The language must be a text.")
            await self._end_turn()
        elif kind == "audio-start":
            await self._end_turn()
            self._turn().start(_read(AudioStart, event))
        elif kind == "audio-chunk":
            if event.payload is None:
                event.payload = b""
            await self._turn().chunk(_read(AudioChunk, event))
        elif kind == "audio-stop":
            turn = self._turn()
            await turn.stop()
        elif kind in ("transcript", "recognize"):
            said = _read(Transcript if kind == "transcript" else Recognize, event)
            await self._answer(said.text, said.context)
        # Others are left out, as the protocol asks.

    def _turn(self) -> Hearing:
        if self._hearing is None:
            self._server.core.ears.check()
            self._hearing = Hearing(self._server.core, self._transcribe, self.send, self.fail)
        return self._hearing

    async def _end_turn(self) -> None:
        if self._hearing is not None:
            await self._hearing.close()
            self._hearing = None

    async def _answer(self, text: Any, context: Any) -> None:
        if not isinstance(text, str) or not isinstance(context, (dict, type(None))):
            raise RequestError(400, "The words are damaged.")
        answering = asyncio.ensure_future(self._server.agent.answer(text, context))
        leaving = asyncio.ensure_future(self._reader.read(1))  # nothing comes before the answer but the end
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                if leaving.result():
                    raise RequestError(400, "One question at a time.")
                return
            for event in answering.result():
                await self.send(event)
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


def _read(kind: Any, event: Event) -> Any:
    """The event as an object of its class. Raises RequestError."""
    try:
        found = kind.from_event(event)
        for name in ("rate", "width", "channels"):
            value = getattr(found, name, 1)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(name)
        return found
    except Exception as error:
        raise RequestError(400, f"The event {event.type[:40]} is damaged.") from error


def wyoming(
    host: str,
    port: int,
    agent: Callable[[Core], Agent] = Agent,
    *,
    announce: bool = False,
    bound: Callable[[int], None] | None = None,
) -> Callable[[Core], contextlib.AbstractAsyncContextManager[None]]:
    """A companion of the application that listens at an address.

    Args:
        host, port: the address; port 0 takes a free one.
        agent: makes the conversation agent.
        announce: whether the network is told.
        bound: is called with the port.

    Raises:
        EdgeGemmaError: where that cannot be done.
    """
    if announce:
        check_announcing(host)
    listener = listen(host, port, "--wyoming")
    number = listener.getsockname()[1]

    @contextlib.asynccontextmanager
    async def companion(core: Core) -> AsyncIterator[None]:
        server = _Server(core, agent(core))
        tcp = await asyncio.start_server(server.connected, sock=listener, limit=LINE)
        try:
            async with announced(host, number) if announce else contextlib.nullcontext():
                yield
        finally:
            tcp.close()
            for task in list(server.tasks):
                task.cancel()
            await asyncio.gather(*server.tasks, return_exceptions=True)

    if bound is not None:
        bound(number)
    return companion
