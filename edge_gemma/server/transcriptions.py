"""POST /v1/audio/transcriptions and /v1/audio/translations: OpenAI's interface for recordings.

    json            {"text"}                        text, srt, vtt      as the formats of speech/transcript.py
    verbose_json    with segments, and with words and their times if `timestamp_granularities[]` has "word"
    stream          events transcript.text.delta and transcript.text.done

The kind of a recording is told by its bytes: clients call them what they like. Its sound is decoded while it is heard, so a
long recording takes no more memory than a short one. Nothing is thought, and nothing but the words is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..audio.source import SAMPLE_RATE, Source
from ..engine.sampling import Sampling
from ..errors import EdgeGemmaError
from ..speech.languages import language_name
from ..speech.transcriber import Transcriber
from ..speech.transcript import Segment, Transcript
from .core import Core
from .failures import RequestError, error_body, request_error
from .growing import LONGEST
from .media import sound_source
from .streams import EventStream, endpoint, server_sent, unless_gone
from .uploads import Upload, uploaded

__all__ = ["routes"]

_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def routes(core: Core) -> list[Route]:
    """Both routes."""

    def route(path: str, to: str | None) -> Route:
        async def hear(request: Request) -> Response:
            core.check_ready()
            async with contextlib.AsyncExitStack() as stack:
                upload = await stack.enter_async_context(uploaded(core.bodies, request))
                asked = _Asked(upload, to)
                core.ears.check()
                if asked.streamed:
                    recording = await stack.enter_async_context(_Recording.opened(core, asked))
                    return EventStream(_events(recording), [], core, resources=stack.pop_all())
                if asked.may_grow and (grown := await _grown(core, asked)) is not None:
                    return grown
                async with _Recording.opened(core, asked) as recording:
                    transcript = await unless_gone(request, recording.complete())
                    return asked.response(transcript, core, recording.seconds)

        return endpoint(core, path, hear, "POST")

    return [route("/v1/audio/transcriptions", None), route("/v1/audio/translations", "English")]


class _Asked:
    """What a form asks for."""

    def __init__(self, upload: Upload, to: str | None) -> None:
        fields = upload.fields
        self.file, self.to = upload.file, to
        self.format = fields.text("response_format", "json", _FORMATS) or "json"
        self.streamed = upload.flag("stream")
        self.temperature = upload.number("temperature", 0, 2) or 0.0
        granularities = fields.texts("timestamp_granularities")
        if not set(granularities) <= {"word", "segment"}:
            raise fields.wrong("timestamp_granularities", "word or segment")
        verbose = self.format == "verbose_json"
        self.words = verbose and "word" in granularities
        self.segments = verbose and (not self.words or "segment" in granularities)
        self.options: dict[str, Any] = {"to": to, "word_times": self.words, "detect_language": verbose}
        if language := fields.text("language"):
            try:
                self.options["language"] = language_name(language)
            except EdgeGemmaError as error:
                failure = request_error(error)
                failure.param = "language"
                raise failure from None
        if prompt := fields.text("prompt"):
            self.options["initial_prompt"] = prompt
        if hotwords := fields.texts("hotwords"):
            self.options["hotwords"] = ", ".join(hotwords)
        if self.temperature:
            self.options["sampling"] = Sampling(temperature=self.temperature)

    @property
    def may_grow(self) -> bool:
        """Whether this may be a part of a recording that goes on: only the words are wanted."""
        return self.format in ("json", "text") and not self.streamed and self.to is None and not self.temperature

    def said(self, segment: Segment) -> str:
        """The words of a segment that are wanted."""
        return segment.text if self.to is None else segment.translation or ""

    def response(self, transcript: Transcript, core: Core, seconds: float) -> Response:
        """The answer of the format."""
        if self.format in _TYPES:
            text = transcript.render("txt" if self.format == "text" else self.format)
            return PlainTextResponse(text, media_type=_TYPES[self.format])
        text = " ".join(filter(None, map(self.said, transcript)))
        usage = {"type": "duration", "seconds": round(seconds, 2)}
        if self.format == "json":
            return JSONResponse({"text": text, "usage": usage})
        body: dict[str, Any] = {
            "task": "transcribe" if self.to is None else "translate",
            "language": (transcript.language or "unknown").lower(),
            "duration": round(seconds, 3),
            "text": text,
            "usage": usage,
        }
        if self.segments:
            spoken = [segment for segment in transcript if self.said(segment)]
            body["segments"] = [self._segment(number, segment, core) for number, segment in enumerate(spoken)]
        if self.words:
            body["words"] = [
                {"word": word.word, "start": round(word.start or 0.0, 3), "end": round(word.end or 0.0, 3)}
                | ({} if word.probability is None else {"probability": round(word.probability, 3)})
                for word in transcript.words
            ]
        return JSONResponse(body)

    def _segment(self, number: int, segment: Segment, core: Core) -> dict[str, Any]:
        text = self.said(segment)
        data = text.encode()
        return {
            "id": number,
            "seek": round(segment.start * 100),
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": text,
            "tokens": core.model.tokenizer.encode(text, special=False),
            "temperature": self.temperature,
            "avg_logprob": round(segment.avg_logprob or 0.0, 4),
            "compression_ratio": round(len(data) / len(zlib.compress(data)), 3),
            "no_speech_prob": round(segment.no_speech_prob or 0.0, 4),
        }


async def _grown(core: Core, asked: _Asked) -> Response | None:
    """The answer about a recording that has grown out of the last one; None for another."""

    def short() -> NDArray[np.float32] | None:
        with sound_source(asked.file, "file") as source:
            if source.duration is None or source.duration > LONGEST:
                return None
            return source.read(LONGEST)

    samples = await core.work(short)
    options = {name: value for name, value in asked.options.items() if value}
    words = None if samples is None else await core.ears.growing.words(samples, options)
    if samples is None or words is None:
        return None
    if asked.format == "text":
        return PlainTextResponse(words + "\n" * bool(words))
    return JSONResponse({"text": words, "usage": {"type": "duration", "seconds": round(samples.size / SAMPLE_RATE, 2)}})


class _Recording:
    """A recording while it is transcribed.

    Attributes:
        asked: what is wanted.
        seconds: of sound that were heard.
    """

    def __init__(self, core: Core, asked: _Asked, transcriber: Transcriber, source: Source) -> None:
        self.asked, self.seconds = asked, 0.0
        self._core, self._transcriber, self._source = core, transcriber, source
        self._events: asyncio.Queue[str | Segment | RequestError | None] = asyncio.Queue()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, core: Core, asked: _Asked) -> AsyncIterator[_Recording]:
        """Opens it, so that what is no recording is refused before anything is answered. Raises RequestError."""
        with await core.work(sound_source, asked.file, "file") as source:
            async with core.ears.transcriber(**asked.options) as transcriber:
                yield cls(core, asked, transcriber, source)

    async def _segments(self, **options: Any) -> AsyncGenerator[Segment, None]:
        found = self._transcriber.segments(self._source, **options)
        async with contextlib.aclosing(self._core.ears.drawn(found, self._transcriber)) as drawn:
            async for segment in drawn:
                yield segment
        self.seconds = self._source.position

    async def complete(self) -> Transcript:
        """All of it. Raises RequestError."""
        async with contextlib.aclosing(self._segments()) as found:
            segments = [segment async for segment in found]
        language = self._transcriber.language or self._transcriber.detected_language
        return Transcript(segments, language=language)

    async def pieces(self) -> AsyncGenerator[str | Segment, None]:
        """The text of the segment that is being written, whenever it has grown, and each segment. Raises RequestError."""
        loop = asyncio.get_running_loop()

        def growing(text: str) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, text)

        async def hear() -> None:
            try:
                async with contextlib.aclosing(self._segments(growing=growing)) as found:
                    async for segment in found:
                        self._events.put_nowait(segment)
                self._events.put_nowait(None)
            except RequestError as error:
                self._events.put_nowait(error)

        task = asyncio.create_task(hear())
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, RequestError):
                    raise event
                yield event
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _events(recording: _Recording) -> AsyncGenerator[bytes, None]:
    """The events of a streamed transcription. Words are told once the next one has begun: then they hardly change."""
    asked, told, shown = recording.asked, "", ""
    async with contextlib.aclosing(recording.pieces()) as pieces:
        try:
            async for piece in pieces:
                if isinstance(piece, Segment):
                    words = asked.said(piece)
                    whole = f"{told} {words}".strip() if words else told
                elif asked.to is None:
                    whole = f"{told} {piece.split(chr(10))[0].rpartition(' ')[0]}".strip()
                else:
                    continue  # the words in the other language come behind those that were said
                before = f"{told} {shown}".strip()
                if whole.startswith(before) and len(whole) > len(before):
                    yield server_sent({"type": "transcript.text.delta", "delta": whole[len(before) :]})
                    shown = whole[len(told) :].strip()
                if isinstance(piece, Segment):
                    told, shown = whole, ""
        except RequestError as error:
            yield server_sent(error_body("", error) | {"type": "error"})
            return
    done = {"type": "transcript.text.done", "text": told}
    yield server_sent(done | {"usage": {"type": "duration", "seconds": round(recording.seconds, 2)}})
    yield b"data: [DONE]\n\n"
