"""Speech recognition over Wyoming: sound is heard while it comes, and the words are sent when the speaker has stopped.

    transcribe, audio-start, audio-chunk ..., audio-stop       from the client
    transcript-start, transcript-chunk ..., transcript, transcript-stop

The transcript does not wait for `audio-stop` where the sound comes at the speed of speech: the end of speech is found here, and
clients that learn this from `requires_external_vad` take it and go on. A recording that is sent faster than that has an
end of its own, so all of its utterances become one transcript.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart
from wyoming.event import Event

from ..hub.resolve import is_embedded
from ..speech.listener import ListenerEvent
from .core import Core
from .failures import RequestError
from .live_sound import LiveSound, samples_of

__all__ = ["Hearing"]

_SILENCE = {"default": 0.7, "relaxed": 1.25, "aggressive": 0.4}  # seconds that end a turn
_PATIENCE = 15.0  # seconds without a word after which a turn is over
_HINTS = 200  # names and terms that are read at most

Send = Callable[[Event], Awaitable[None]]
Fail = Callable[[RequestError], Awaitable[None]]


class Hearing:
    """One turn of a speaker. `chunk` for each piece of sound, `stop` at the end; `close` in any case."""

    def __init__(self, core: Core, transcribe: Transcribe, send: Send, fail: Fail) -> None:
        """`transcribe`: what the client asked for; `fail` ends the connection with an error. Raises RequestError."""
        self._core, self._send, self._fail = core, send, fail
        self._language = transcribe.language
        self._options = _options(core, transcribe)
        self._sound: LiveSound | None = None
        self._rate = 0
        self._task: asyncio.Task[None] | None = None
        self._texts: list[str] = []
        self._streamed = ""  # of the words, what was sent in chunks; "" until the first one
        self._started, self._finals = False, 0
        self.done = False  #: whether the transcript was sent

    def start(self, start: AudioStart | AudioChunk) -> None:
        """Sound of this format will come. Raises RequestError."""
        if self._sound is None:
            self._rate, self._sound = start.rate, LiveSound(start.rate)
            self._task = asyncio.create_task(self._hear(self._sound))

    async def chunk(self, chunk: AudioChunk) -> None:
        """A piece of sound. Raises RequestError."""
        if self.done:
            return
        self.start(chunk)
        assert self._sound is not None
        if chunk.rate != self._rate:
            raise RequestError(400, "The sound must not change its rate.")
        await self._sound.push(samples_of(chunk.audio, chunk.width, chunk.channels))
        if not self._texts and not self._started and self._sound.paced and self._sound.pushed > _PATIENCE:
            self._sound.finish()

    async def stop(self) -> None:
        """The sound has ended: waits until the transcript is sent."""
        if self._sound is None:
            await self._finish()
            return
        self._sound.finish()
        assert self._task is not None
        await self._task

    async def close(self) -> None:
        """Ends everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _hear(self, sound: LiveSound) -> None:
        try:
            async with self._core.ears.listener(**self._options) as listener, self._core.heard.beside(listener) as turn:
                events = self._core.ears.drawn(listener.listen(sound), listener)
                async with contextlib.aclosing(events):
                    async for event in events:
                        await self._take(event)
                        if event.kind == "final" and self._texts and sound.paced:
                            break
                one = self._finals == 1  # the turn has heard the first utterance alone
                await self._core.heard.remember(" ".join(self._texts), turn if one else None)
            await self._finish()
        except RequestError as error:
            self.done = True
            await self._fail(error)
        finally:
            sound.close()

    async def _take(self, event: ListenerEvent) -> None:
        self._started = self._started or event.kind == "start"
        if event.kind == "partial":
            await self._stream(event.agreed)
        elif event.kind == "final":
            self._finals += 1
            if event.text:
                self._texts.append(event.text)
                await self._stream("")
            else:
                self._started = False

    async def _stream(self, agreed: str) -> None:
        """Sends what is new of the words: they cannot be taken back, so only those that hardly change."""
        words = " ".join(filter(None, [*self._texts, agreed]))
        if words.startswith(self._streamed) and len(words) > len(self._streamed):
            if not self._streamed:
                await self._send(TranscriptStart(language=self._language).event())
            await self._send(TranscriptChunk(text=words[len(self._streamed) :]).event())
            self._streamed = words

    async def _finish(self) -> None:
        self.done = True
        await self._send(Transcript(text=" ".join(self._texts), language=self._language).event())
        if self._streamed:
            await self._send(TranscriptStop().event())


def _options(core: Core, transcribe: Transcribe) -> dict[str, Any]:
    """What a listener is asked."""
    wanted = getattr(transcribe.vad_sensitivity, "value", transcribe.vad_sensitivity)
    silence = _SILENCE.get(wanted, _SILENCE["default"]) if isinstance(wanted, str) else _SILENCE["default"]
    options: dict[str, Any] = {"partials": True, "silence": silence}
    if transcribe.language is not None:
        options["language"] = transcribe.language
    names = [*(transcribe.transcript_names or ()), *(transcribe.transcript_terms or ())][:_HINTS]
    if not all(isinstance(name, str) for name in names):
        raise RequestError(400, "The names must be a list of texts.")
    if names and not is_embedded(core.model.path):  # the toy knows no hints
        options["hotwords"] = ", ".join(names)
    return options
