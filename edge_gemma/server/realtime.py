"""WebSocket /v1/realtime: OpenAI's interface for speech, with the names of its general availability.

A session hears while the sound comes. Where it ends turns itself (`turn_detection`), `speech_started` has the id of the item
that the speech will become. An answer is drawn from the sound, and from its words where `transcription` is on: the timeline of
the conversation has heard the sound when the turn ends, so only the end of the turn is left to read. Where the client asks for
the answer itself (`create_response: false`), a turn with words is read as words.

Two session types: "realtime" with answers in text, or in speech where the server has a voice; "transcription" without. As an
extension, `include: ["item.input_audio_transcription.partials"]` tells the words while they are spoken, in events
`conversation.item.input_audio_transcription.partial` with `text`, all that seems to be said, and `agreed`, its certain part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..audio.pcm import ENCODINGS
from ..hub.resolve import is_embedded
from .bodies import Fields
from .core import Answer, Core
from .failures import RequestError, error_body, request_error
from .heard import HeardTurn
from .live_sound import samples_of
from .media import decoded
from .realtime_config import Config, response_options
from .realtime_ear import Ear, Heard
from .realtime_early import EarlyAnswer
from .realtime_items import Conversation, Item, new_id, read_item
from .realtime_response import Response, chat_request
from .realtime_voice import SessionVoice

__all__ = ["routes"]

PARTIALS = "item.input_audio_transcription.partials"
_PLACE = np.zeros(1, np.float32)
_MOST_ERRORS = 32  # after which a client is disconnected
_LONGEST_ID = 200


def routes(core: Core) -> list[WebSocketRoute]:
    """The route."""

    async def realtime(socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        session = _Session(core, socket)
        status = 200
        try:
            await session.run()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            failure = request_error(error)
            status = failure.status
            if status == 500:
                core.metrics.count_failure(error)
            await session.fail(failure)
        finally:
            await session.close()
            core.metrics.count_request("/v1/realtime", status)

    return [WebSocketRoute("/v1/realtime", realtime)]


class _Damaged(RequestError):
    """A message that is no event: the connection is closed."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message, code="invalid_event")


class _Session:
    """One connection."""

    def __init__(self, core: Core, socket: WebSocket) -> None:
        self._core, self._socket = core, socket
        query = socket.query_params
        kind = "transcription" if query.get("intent") == "transcription" else "realtime"
        model = (query.get("model") or core.name)[:_LONGEST_ID]
        self._config = Config(new_id("sess"), model, kind, core.open_voice is not None)
        self._conversation = Conversation()
        self._sending, self._count, self._errors = asyncio.Lock(), 0, 0
        self._ear: Ear | None = None
        self._voice: SessionVoice | None = None
        self._speaking = ""  # the id of the item that the speech will become
        self._awaiting: list[Item] = []  # whose words are still written down
        self._streamed = 0  # characters of the words of a transcription session that were sent
        self._pause: Heard | None = None  # whose words are to come
        self._early: EarlyAnswer | None = None
        self._waiting: asyncio.TimerHandle | None = None  # for somebody to speak
        self._responses: dict[Response, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Callable[[Fields], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "output_audio_buffer.clear": self._clear_output,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.truncate": self._truncate_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
        }

    # ---- the connection ----

    async def run(self) -> None:
        """Until the client leaves. Raises RequestError for what ends the session."""
        self._core.check_ready()
        await self._send("session.created", session=self._config.values)
        while True:
            fields = _event(await self._socket.receive())
            kind = fields.text("type") or ""
            handler = self._handlers.get(kind)
            try:
                if handler is None:
                    raise RequestError(400, "The server does not know events of this type.", param="type")
                await handler(fields)
            except _Damaged:
                raise
            except RequestError as error:
                await self._tell_error(error, fields)

    async def _tell_error(self, error: RequestError, fields: Fields | None = None) -> None:
        number = fields.raw("event_id") if fields is not None else None
        body = error_body("", error)["error"] | {"event_id": number if isinstance(number, str) else None}
        await self._send("error", error=body)
        self._errors += 1
        if self._errors >= _MOST_ERRORS:
            raise _Damaged("There were too many errors.")

    async def fail(self, error: RequestError) -> None:
        """Tells an error, and closes the connection."""
        with contextlib.suppress(Exception):
            await self._send("error", error=error_body("", error)["error"] | {"event_id": None})
            code = 1013 if error.status in (429, 503) else 1011 if error.status == 500 else 1008
            await self._socket.close(code, error.message[:120])

    async def close(self) -> None:
        """Ends everything that works for the session."""
        self._stop_waiting()
        self._drop_early()
        for response in list(self._responses):
            response.cancel("client_cancelled")
        for task in [*self._responses.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._responses.values(), *self._tasks, return_exceptions=True)
        if self._ear is not None:
            await self._ear.close()
        if self._voice is not None:
            self._voice.close()
        with contextlib.suppress(Exception):
            if self._socket.application_state == WebSocketState.CONNECTED:
                await self._socket.close()

    async def _send(self, kind: str, **fields: Any) -> None:
        async with self._sending:
            self._count += 1
            event = {"type": kind, "event_id": f"event_{self._count}", **fields}
            try:
                text = json.dumps(event, ensure_ascii=False)
                await asyncio.wait_for(self._socket.send_text(text), self._core.settings.stall_seconds)
            except (TimeoutError, asyncio.TimeoutError, RuntimeError):
                raise WebSocketDisconnect(1006) from None

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        async def guarded() -> None:
            try:
                await work(*args)
            except WebSocketDisconnect:
                pass
            except Exception as error:
                failure = request_error(error)
                if failure.status == 500:
                    self._core.metrics.count_failure(error)
                with contextlib.suppress(Exception):
                    await self._tell_error(failure)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the session ----

    async def _update(self, fields: Fields) -> None:
        given = fields.object("session")
        if given is None:
            raise fields.wrong("session", "an object")
        changed = self._config.update(given)
        hearing = changed.hearing != self._config.hearing or changed.answers != self._config.answers
        if self._voice is not None and changed.values["audio"] != self._config.values["audio"]:
            self._voice.close()
            self._voice = None
        self._config = changed
        ear, self._ear = (self._ear, None) if hearing else (None, self._ear)
        await self._send("session.updated", session=self._config.values)
        if ear is not None:
            await ear.close()
        if changed.answers and any(given.raw(name) for name in ("instructions", "tools")):
            self._spawn(self._read_ahead)

    async def _read_ahead(self) -> None:
        """Reads the instructions and tools before anybody has said anything."""
        options = self._config.values | {"tool_choice": "none", "max_output_tokens": 1}
        messages = [*self._messages(), {"role": "user", "content": ""}]
        with contextlib.suppress(RequestError):
            await self._core.complete(await self._core.answers(chat_request(options, messages, "")))

    @property
    def _rate(self) -> int:
        return int(self._config.hearing["format"].get("rate", 8000))

    def _samples(self, data: bytes) -> NDArray[Any]:
        kind = self._config.hearing["format"]["type"]
        if kind == "audio/pcm":
            return samples_of(data)
        return ENCODINGS["mulaw" if kind == "audio/pcmu" else "alaw"].decode(data).reshape(-1, 1)

    def _listening(self) -> Ear:
        if self._ear is None:
            self._core.ears.check()
            wanted = self._config.hearing["transcription"]
            options: dict[str, Any] | None = None
            if wanted is not None:
                options = {}
                if wanted.get("language"):
                    options["language"] = wanted["language"]
                if wanted.get("prompt") and not is_embedded(self._core.model.path):  # the toy knows no hints
                    options["initial_prompt"] = wanted["prompt"]
            manual = self._config.detection is None
            self._ear = Ear(
                self._core,
                rate=self._rate,
                detection=self._config.detection,
                transcription=options,
                feeds=self._config.answers and wanted is None if manual else self._config.detects("create_response"),
                tell=self._heard,
            )
        return self._ear

    # ---- sound ----

    async def _append(self, fields: Fields) -> None:
        text = fields.text("audio")
        if text is None:
            raise _Damaged("The sound is missing.")
        try:
            samples = self._samples(decoded(text, "audio"))
        except RequestError as error:
            raise _Damaged(error.message) from None
        ear = self._listening()
        if await ear.append(samples) and ear.feeds:
            self._spawn(self._feed, ear.giving)

    async def _commit(self, fields: Fields) -> None:
        ear = self._ear
        if ear is None or not ear.begun:
            raise RequestError(
                400, "There is no sound to commit, or less than 100 ms.", code="input_audio_buffer_commit_empty"
            )
        turn = await ear.commit()
        if turn is not None:
            await self._add_turn(turn, new_id())

    async def _clear(self, fields: Fields) -> None:
        if self._ear is not None:
            await self._ear.clear()
        self._speaking = ""
        await self._send("input_audio_buffer.cleared")

    async def _clear_output(self, fields: Fields) -> None:
        for response in self._responses:
            response.cancel("client_cancelled")
        await self._send("output_audio_buffer.cleared", response_id="")

    async def _heard(self, heard: Heard) -> None:
        """Takes what the ear tells."""
        try:
            if heard.kind == "started":
                await self._speech_started(heard)
            elif heard.kind == "stopped":
                await self._speech_stopped(heard)
            elif heard.kind == "paused":
                await self._paused(heard)
            elif heard.kind == "early":
                self._answer_early(heard.text)
            elif heard.kind == "resumed":
                self._drop_early()
            elif heard.kind == "partial":
                await self._partial(heard)
            elif heard.kind == "final":
                await self._final(heard)
            elif heard.error is not None:
                if self._awaiting:
                    await self._end_words(self._awaiting.pop(0), heard.error)
                else:
                    await self._tell_error(heard.error)
        except (WebSocketDisconnect, RequestError):
            with contextlib.suppress(Exception):
                await self._socket.close(1011)

    async def _speech_started(self, heard: Heard) -> None:
        self._drop_early()
        self._stop_waiting()
        self._speaking, self._streamed = new_id(), 0
        at = round(heard.time * 1000)
        await self._send("input_audio_buffer.speech_started", audio_start_ms=at, item_id=self._speaking)
        if self._config.detects("interrupt_response"):
            for response in self._responses:
                if response.default:
                    response.cancel("turn_detected")
        if self._ear is not None and self._ear.feeds:
            self._spawn(self._feed, self._ear.giving)

    async def _feed(self, give: Callable[[HeardTurn | None], None]) -> None:
        """Has the timeline of the conversation hear what is being said."""
        await self._settled()
        place = [*self._messages(), {"role": "user", "content": [{"type": "audio", "audio": _PLACE}]}]
        turn: HeardTurn | None = None
        try:
            with contextlib.suppress(RequestError):
                asked = chat_request(self._config.values, place, self._config.values["id"])
                turn = await self._core.heard.turn_of(asked)
        finally:
            give(turn)

    async def _settled(self) -> None:
        """Waits until the answers that were cancelled have ended."""
        cancelled = [task for response, task in self._responses.items() if response.default and response.cancelled]
        if cancelled:
            await asyncio.wait(cancelled)

    async def _paused(self, heard: Heard) -> None:
        """The turn may be over: its answer is begun, as soon as its words are known if there will be words."""
        self._drop_early()
        self._pause = heard
        if self._config.hearing["transcription"] is None:
            self._answer_early("")

    def _answer_early(self, words: str) -> None:
        heard, self._pause = self._pause, None
        timeline = None if heard is None else heard.timeline
        if heard is None or timeline is None:
            return
        busy = any(response.default and not response.cancelled for response in self._responses)
        waits = any(item.written is not None and not item.written.done() for item in self._conversation.items)
        unheard = self._config.hearing["transcription"] is not None and not words
        if busy or waits or unheard or not self._config.detects("create_response"):
            timeline.session.close()
            return
        item = Item(_spoken_item(self._speaking), samples=heard.samples, fed=True)
        item.values["content"][0]["transcript"] = words
        values = self._config.values
        messages = self._messages(items=[*self._conversation.items, item])
        self._early = EarlyAnswer(self._core, timeline, chat_request(values, messages, values["id"]))

    def _drop_early(self) -> None:
        if self._pause is not None and self._pause.timeline is not None:
            self._pause.timeline.session.close()
        if self._early is not None:
            self._early.drop()
        self._pause = self._early = None

    async def _speech_stopped(self, heard: Heard) -> None:
        number, self._speaking = self._speaking or new_id(), ""
        await self._send("input_audio_buffer.speech_stopped", audio_end_ms=round(heard.time * 1000), item_id=number)
        await self._add_turn(heard, number)

    async def _add_turn(self, heard: Heard, number: str) -> None:
        """The speech becomes an item."""
        item = Item(_spoken_item(number))
        if self._config.answers and heard.samples.size:
            item.samples = heard.samples
        item.fed = await self._take(heard.turn, item)
        previous = self._conversation.add(item)
        await self._send("input_audio_buffer.committed", item_id=number, previous_item_id=previous)
        await self._send("conversation.item.added", previous_item_id=previous, item=item.values)
        await self._send("conversation.item.done", previous_item_id=previous, item=item.values)
        if self._config.hearing["transcription"] is not None:
            item.written = asyncio.get_running_loop().create_future()
            self._awaiting.append(item)
        elif self._config.detects("create_response"):
            await self._respond(None)

    async def _take(self, turn: HeardTurn | None, item: Item) -> bool:
        """Keeps the timeline that has heard an item for its answer."""
        timeline = None if turn is None else turn.take()
        if turn is not None and timeline is not None:
            item.samples = turn.samples  # exactly those that the timeline has heard
            self._core.scheduler.keep(timeline, self._config.values["id"])  # is done before the next answer begins
        if turn is not None:
            turn.close()
        return timeline is not None

    async def _partial(self, heard: Heard) -> None:
        number = self._speaking or (self._awaiting[0].id if self._awaiting else "")
        if PARTIALS in (self._config.values["include"] or ()):
            name = "conversation.item.input_audio_transcription.partial"
            await self._send(name, item_id=number, content_index=0, text=heard.text, agreed=heard.agreed)
        if not self._config.answers and len(heard.agreed) > self._streamed:
            await self._delta(number, heard.agreed)

    async def _delta(self, number: str, words: str) -> None:
        delta, self._streamed = words[self._streamed :], len(words)
        name = "conversation.item.input_audio_transcription.delta"
        await self._send(name, item_id=number, content_index=0, delta=delta)

    async def _final(self, heard: Heard) -> None:
        if not self._awaiting:
            return
        item = self._awaiting.pop(0)
        if len(heard.text) > self._streamed:
            await self._delta(item.id, heard.text)
        self._streamed = 0
        item.values["content"][0]["transcript"] = heard.text
        seconds = 0.0 if item.samples is None else item.samples.size / 16000
        await self._send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item.id,
            content_index=0,
            transcript=heard.text,
            usage={"type": "duration", "seconds": round(seconds, 2)},
        )
        await self._end_words(item)
        if heard.text and self._config.detects("create_response"):
            await self._respond(None)

    async def _end_words(self, item: Item, error: RequestError | None = None) -> None:
        if item.written is not None and not item.written.done():
            item.written.set_result("")
        if error is not None:
            name = "conversation.item.input_audio_transcription.failed"
            await self._send(name, item_id=item.id, content_index=0, error=error_body("", error)["error"])

    # ---- items ----

    def _messages(self, instructions: str | None = None, items: list[Item] | None = None) -> list[dict[str, Any]]:
        words = self._config.values["instructions"] if instructions is None else instructions
        return self._conversation.messages(words, items)

    async def _create_item(self, fields: Fields) -> None:
        given = fields.object("item")
        if given is None:
            raise fields.wrong("item", "an object")
        item = await self._core.work(read_item, self._core, given, self._rate)
        previous = self._conversation.add(item, fields.text("previous_item_id"))
        await self._send("conversation.item.added", previous_item_id=previous, item=item.values)
        await self._send("conversation.item.done", previous_item_id=previous, item=item.values)

    async def _retrieve_item(self, fields: Fields) -> None:
        await self._send("conversation.item.retrieved", item=self._conversation.find(fields.text("item_id")).values)

    async def _delete_item(self, fields: Fields) -> None:
        number = fields.text("item_id")
        self._conversation.delete(number)
        await self._send("conversation.item.deleted", item_id=number)

    async def _truncate_item(self, fields: Fields) -> None:
        """The client has played only a part of a message: the conversation has that part alone."""
        item = self._conversation.find(fields.text("item_id"))
        end = fields.whole("audio_end_ms", 0, 1 << 31)
        index = fields.whole("content_index", 0, 1 << 31, 0)
        content = item.values.get("content") or ()
        if end is None or item.values.get("role") != "assistant" or index != 0 or len(content) > 1:
            raise fields.wrong("audio_end_ms", "a place in a message of the assistant")
        if content and "transcript" in content[0]:
            content[0]["transcript"] = _played(item, content[0]["transcript"], end)
        await self._send("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=end)

    # ---- answers ----

    async def _create_response(self, fields: Fields) -> None:
        if not self._config.answers:
            raise RequestError(400, "A session for transcription gives no answers.")
        await self._respond(fields.object("response") or Fields({}, "response."))

    async def _respond(self, given: Fields | None) -> None:
        """Begins an answer. `given`: what a client asks for it; None after a turn that was heard."""
        options = dict(self._config.values)
        fields = given or Fields({})
        options |= response_options(fields, self._core.open_voice is not None)
        apart = fields.raw("conversation") == "none"
        items: list[Item] | None = None
        if fields.raw("input") is not None:
            items = [self._input(item) for item in fields.objects("input")]
        if not apart and any(response.default and not response.cancelled for response in self._responses):
            if given is None:
                return
            raise RequestError(
                400, "There is an answer under way already.", code="conversation_already_has_active_response"
            )
        metadata = fields.raw("metadata")
        response = Response(
            self._core,
            self._send,
            conversation=None if apart else self._conversation,
            options=options,
            metadata=metadata if isinstance(metadata, dict) else None,
            speaker=self._speaker() if options["output_modalities"] == ["audio"] else None,
        )

        early: EarlyAnswer | None = None
        if not apart:
            early, self._early = self._early, None
            self._stop_waiting()

        async def begin() -> Answer:
            waiting = [item.written for item in self._conversation.items if item.written is not None]
            if items is None and waiting:
                await asyncio.wait(waiting)
            messages = self._messages(options["instructions"], items)
            if messages and messages[-1]["role"] == "assistant":  # the model speaks once more
                messages.append({"role": "user", "content": ""})
            asked = chat_request(options, messages, self._config.values["id"])
            begun = None if early is None else await early.taken(asked)
            return begun or (await self._core.answers(asked))[0]

        async def run() -> None:
            try:
                await self._settled()
                await response.run(begin)
            finally:
                if early is not None:
                    early.drop()
                self._responses.pop(response, None)
            if not apart and response.seconds is not None:
                self._wait_for_speech(response.seconds)

        async def guarded() -> None:
            with contextlib.suppress(WebSocketDisconnect):
                await run()

        self._responses[response] = asyncio.create_task(guarded())

    def _wait_for_speech(self, seconds: float) -> None:
        """Where the client wants that, the model speaks again if nobody does so. `seconds`: that the last answer is heard."""
        self._stop_waiting()
        if (idle := self._config.idle) is not None and not any(response.default for response in self._responses):
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(seconds + idle, self._spawn, self._nobody_spoke)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    async def _nobody_spoke(self) -> None:
        self._waiting = None
        if self._speaking or self._ear is None:
            return
        end = round(self._ear.heard * 1000)
        start = max(end - round(1000 * (self._config.idle or 0.0)), 0)
        item = Item(_spoken_item(new_id()))
        await self._send(
            "input_audio_buffer.timeout_triggered", audio_start_ms=start, audio_end_ms=end, item_id=item.id
        )
        previous = self._conversation.add(item)
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        await self._send("conversation.item.added", previous_item_id=previous, item=item.values)
        await self._send("conversation.item.done", previous_item_id=previous, item=item.values)
        await self._respond(None)

    def _input(self, fields: Fields) -> Item:
        if fields.raw("type") == "item_reference":
            return self._conversation.find(fields.text("id"))
        return read_item(self._core, fields, self._rate)

    def _speaker(self) -> SessionVoice:
        if self._voice is None:
            assert self._core.open_voice is not None
            self._voice = SessionVoice(self._core.open_voice, self._config.values["audio"]["output"]["format"]["rate"])
        return self._voice

    async def _cancel_response(self, fields: Fields) -> None:
        number = fields.text("response_id")
        found = [
            response
            for response in self._responses
            if not response.cancelled and (response.id == number or (number is None and response.default))
        ]
        if not found:
            raise RequestError(400, "There is no answer under way.", code="response_cancel_not_active")
        for response in found:
            response.cancel("client_cancelled")


def _spoken_item(number: str) -> dict[str, Any]:
    """An item of what was said."""
    content = {"type": "input_audio", "transcript": None}
    values = {"id": number, "object": "realtime.item", "type": "message", "status": "completed", "role": "user"}
    return {**values, "content": [content]}


def _event(message: Mapping[str, Any]) -> Fields:
    """A message of a client as an object. Raises WebSocketDisconnect and _Damaged."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1005)
    text = message.get("text")
    if text is None:
        raise _Damaged("Events are text, not bytes.")
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _Damaged("The event is not JSON.") from None
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _Damaged("The event must be a JSON object with a type.")
    return Fields(value)


def _played(item: Item, text: str, end: float) -> str:
    """The part of a spoken text that was played until so many milliseconds."""
    begin, words = 0.0, ""
    for until, sentence in item.spoken:
        if until <= end:
            words = f"{words} {sentence}".strip()
        else:
            parts = sentence.split()
            share = (end - begin) / max(until - begin, 1.0)
            return " ".join([words, *parts[: round(len(parts) * max(share, 0.0))]]).strip()
        begin = until
    return text if not item.spoken or words == text.strip() else words
