"""POST /v1/audio/speech: OpenAI's interface for reading aloud, by the voice that the server was started with.

`pcm` and `wav` are sent while they are spoken, sentence by sentence; `flac`, `opus` and `mp3`, which clients get that ask for
nothing, when all of it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
from collections.abc import AsyncGenerator

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..assistant.sentences import whole_sentences
from ..installation import pip_line
from .core import Core
from .failures import RequestError
from .realtime_voice import SessionVoice
from .streams import EventStream, endpoint, unless_gone

__all__ = ["routes"]

_RATE = 24000
_LONGEST = 4096  # characters
_AT_ONCE = 2  # texts that are read
_TYPES = {"pcm": "audio/pcm", "wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg"}
_FILES = {"mp3": ("MP3", "MPEG_LAYER_III"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}


def routes(core: Core) -> list[Route]:
    """The route."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def speech(request: Request) -> Response:
        fields = await core.bodies.json(request)
        core.check_ready()
        text = fields.text("input") or ""
        form = fields.text("response_format", "mp3", tuple(_TYPES)) or "mp3"
        if not text.strip() or len(text) > _LONGEST:
            raise fields.wrong("input", f"a text of up to {_LONGEST} characters")
        if fields.text("stream_format", "audio", ("audio", "sse")) == "sse":
            raise fields.wrong("stream_format", "audio")
        if core.open_voice is None:
            raise RequestError(404, "This server has no voice. Start it with --voice to have texts read aloud.")
        voice = SessionVoice(core.open_voice, _RATE)
        if form in _FILES:
            try:
                samples = await unless_gone(request, _all(voice, text, places))
                return Response(await asyncio.to_thread(_encoded, samples, form), media_type=_TYPES[form])
            finally:
                voice.close()
        resources = contextlib.AsyncExitStack()
        resources.callback(voice.close)
        try:  # a voice that fails at its first sound is an error and no stream
            pieces = _pieces(voice, text, places)
            first = await unless_gone(request, _next(pieces))
        except BaseException:
            await resources.aclose()
            raise
        sent = _sent(first, pieces, _header() if form == "wav" else b"")
        return EventStream(sent, [], core, media_type=_TYPES[form], ping=None, resources=resources)

    return [endpoint(core, "/v1/audio/speech", speech, "POST")]


async def _pieces(voice: SessionVoice, text: str, places: asyncio.Semaphore) -> AsyncGenerator[NDArray[np.int16], None]:
    async with places:
        for sentence in whole_sentences(text):
            async with contextlib.aclosing(voice.speak(sentence)) as pieces:
                async for piece in pieces:
                    yield piece


async def _next(pieces: AsyncGenerator[NDArray[np.int16], None]) -> NDArray[np.int16]:
    async for piece in pieces:
        return piece
    return np.zeros(0, np.int16)


async def _all(voice: SessionVoice, text: str, places: asyncio.Semaphore) -> NDArray[np.int16]:
    async with contextlib.aclosing(_pieces(voice, text, places)) as pieces:
        return np.concatenate([np.zeros(0, np.int16), *[piece async for piece in pieces]])


async def _sent(
    first: NDArray[np.int16], pieces: AsyncGenerator[NDArray[np.int16], None], header: bytes
) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pieces):
        yield header + first.astype("<i2").tobytes()
        async for piece in pieces:
            yield piece.astype("<i2").tobytes()


def _header() -> bytes:
    """Of a wav file whose length is not known yet."""
    form = struct.pack("<HHIIHH", 1, 1, _RATE, 2 * _RATE, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data\xff\xff\xff\xff"


def _encoded(samples: NDArray[np.int16], form: str) -> bytes:
    try:
        import soundfile
    except ImportError:
        raise RequestError(
            400, f"Sound as {form} needs soundfile: `{pip_line('edge-gemma[voice]')}`. wav and pcm need nothing."
        ) from None
    kind, subtype = _FILES[form]
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, _RATE, format=kind, subtype=subtype)
    except (ValueError, RuntimeError) as error:
        raise RequestError(400, f"This server cannot write {form}; wav and pcm it can.") from error
    return file.getvalue()
