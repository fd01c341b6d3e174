"""An assistant without hardware: a microphone whose sound is a script, a loudspeaker, a voice, and one clock for all of them.

The clock moves only with the microphone's sound, about twenty times as fast as a real one.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gemma.assistant.devices import SoundDevices
from edge_gemma.assistant.interface import Announcer, EdgeGemmaVoiceError
from edge_gemma.assistant.loop import AssistantLoop
from edge_gemma.assistant.machine import Settings
from edge_gemma.audio.source import Source
from edge_gemma.chat.calls import ToolCall
from edge_gemma.chat.tools import Tool
from edge_gemma.errors import EdgeGemmaOSError
from support.listening import LoudnessDetector
from support.scripted import RATE, ScriptedModel, ScriptedSession

BLOCK = RATE // 50
WAKE = 0.95  # the amplitude that the stand-in of a wake word detector takes for its word


def speech(seconds: float, seed: int = 1) -> NDArray[np.float32]:
    """(n,) samples that `LoudnessDetector` takes for speech."""
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * 0.1


def call() -> NDArray[np.float32]:
    """(n,) samples of the wake word."""
    return np.full(round(0.3 * RATE), WAKE, np.float32)


class LoudWord:
    """A detector for which full amplitude is the wake word. As real ones do, it tells the word 0.2 s after its end."""

    words = ("okay nabu",)

    def __init__(self) -> None:
        self._since = -1  # blocks since the end of the word; below 0 for none

    def push(self, samples: NDArray[np.float32]) -> str | None:
        if np.any(samples == np.float32(WAKE)):
            self._since = 0
        elif self._since >= 0:
            self._since += 1
        if self._since < 10:
            return None
        self._since = -1
        return self.words[0]


class ScriptedMicrophone(Source):
    """A microphone that gives silence, and in it what `say` brings. Everything else looks at its clock."""

    live = True
    name = "scripted"

    def __init__(self, clock: FastClock) -> None:
        super().__init__()
        self._clock = clock

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        if self._clock.unplugged:
            raise EdgeGemmaOSError("the microphone scripted has stopped.", "file")
        return self._clock.take()


class FastClock:
    """What is heard, and when it is."""

    def __init__(self, speed: float = 20.0) -> None:
        self._given, self._pause = 0, BLOCK / RATE / speed
        self._lock = threading.Lock()
        self._waiting = np.zeros(0, np.float32)
        self.unplugged = False
        self._quiet = np.random.default_rng(0).standard_normal(BLOCK).astype(np.float32) * 1e-3

    def __call__(self) -> float:
        return 100 + self._given / RATE

    def say(self, *sounds: NDArray[np.float32]) -> None:
        with self._lock:
            self._waiting = np.concatenate([self._waiting, *sounds])

    def take(self) -> NDArray[np.float32]:
        time.sleep(self._pause)
        with self._lock:
            block, self._waiting = self._waiting[:BLOCK], self._waiting[BLOCK:]
        self._given += BLOCK
        return np.concatenate([block, self._quiet[len(block) :]])

    def sleep(self, seconds: float) -> None:
        """Time goes on without a microphone, too."""
        time.sleep(self._pause)
        self._given += BLOCK


class Loudspeaker:
    """Plays on the clock, and keeps what was heard."""

    rate, latency, gone = RATE, 0.0, False

    def __init__(self, clock: FastClock) -> None:
        self._clock, self._until, self.closed = clock, 0.0, False
        self.written: list[tuple[float, NDArray[np.int16]]] = []
        self.stops: list[float] = []

    @property
    def pending(self) -> float:
        return max(0.0, self._until - self._clock())

    def write(self, samples: NDArray[np.int16]) -> None:
        start = max(self._until, self._clock())
        self.written.append((start, samples))
        self._until = start + len(samples) / self.rate

    def stop(self) -> None:
        if self.pending:
            self.stops.append(self._clock())
        self._until = min(self._until, self._clock())

    def close(self) -> None:
        self.closed = True


class Speaking:
    """A voice: 50 ms for each letter. It keeps what it has said."""

    sample_rate = RATE

    def __init__(self) -> None:
        self.said: list[tuple[str, str | None]] = []
        self.failing = self.closed = False

    def speak(self, text: str, language: str | None) -> Iterator[NDArray[np.int16]]:
        if self.failing:
            raise EdgeGemmaVoiceError("the voice has lost its breath.")
        self.said.append((text, language))
        for _ in text:
            yield np.full(RATE // 20, 1000, np.int16)

    def close(self) -> None:
        self.closed = True


class Tools:
    """A toolbox of functions."""

    def __init__(
        self, *functions: Callable[..., Any], asks: Callable[[ToolCall, float | None], str | None] | None = None
    ):
        self.tools: Sequence[Tool] = [Tool.of(function) for function in functions]
        self._asks = asks
        self.announce: Announcer | None = None
        self.closed = False

    def needs_asking(self, call: ToolCall, confidence: float | None, words: str | None = None) -> str | None:
        return self._asks(call, confidence) if self._asks else None

    def start(self, announce: Announcer) -> None:
        self.announce = announce

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.closed = True


class Someone:
    """A persona."""

    name, forget_after = "Nabu", 60.0

    def __init__(self, language: str | None = "en") -> None:
        self.language = language

    def system_prompt(self, now: datetime.datetime) -> str:
        return "You are Nabu."


class Room:
    """An assistant that runs, and everything around it. `until` waits for what it does."""

    def __init__(
        self, script: Callable[[ScriptedSession], Any] | Any, *functions: Callable[..., Any], **options: Any
    ) -> None:
        """`script`: of a `ScriptedModel`, or an open model; `speed`: of the clock; others as `AssistantLoop` has them."""
        self.clock = FastClock(options.pop("speed", 20.0))
        self.speaker, self.voice = Loudspeaker(self.clock), options.pop("voice", Speaking())
        self.tools = options.pop("tools", None) or Tools(*functions)
        self.model: Any = ScriptedModel(script) if callable(script) else script
        self.shown: list[tuple[str, dict[str, Any]]] = []
        self.records: list[str] = []
        settings = options.pop("settings", Settings(names=("Nabu",)))
        self.devices = SoundDevices(
            lambda: ScriptedMicrophone(self.clock),
            self._open_speaker,
            rate=RATE,
            on_change=lambda problem: self.loop.devices_changed(problem),
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.loop = AssistantLoop(
            self.model,
            self.devices,
            self.voice,
            self.tools,
            options.pop("persona", Someone()),
            wake=options.pop("wake", LoudWord()),
            settings=settings,
            show=lambda kind, values: self.shown.append((kind, values)),
            record=self.records.append,
            detector_kind=options.pop("detector_kind", LoudnessDetector),
            clock=self.clock,
            **options,
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _open_speaker(self) -> Loudspeaker:
        if self.clock.unplugged:
            raise EdgeGemmaOSError("there is no loudspeaker.", "file")
        return self.speaker

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:  # shown by the test that waits
            self._failure = error

    def __enter__(self) -> Room:
        self._thread.start()
        self.until(lambda: self.devices.ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.cancel()
        self._thread.join(20)
        self.loop.close()
        assert not self._thread.is_alive()
        if isinstance(self.model, ScriptedModel):
            assert all(session.closed for session in self.model.sessions)
        assert self.voice is None or self.voice.closed
        assert getattr(self.tools, "closed", True)

    def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Waits for something."""
        late = time.monotonic() + seconds
        while not (found := condition()):
            if self._failure:
                raise self._failure
            assert time.monotonic() < late, (self.loop.state, self.shown[-12:])
            time.sleep(0.002)
        return found

    def state(self, *states: str) -> None:
        """Waits until the assistant is in one of these states."""
        self.until(lambda: self.loop.state in states)

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """The values of everything of one kind that was shown."""
        return [values for shown, values in list(self.shown) if shown == kind]

    def turns(self, count: int) -> list[dict[str, Any]]:
        """Waits until so many turns are over; their records."""
        return self.until(lambda: len(self.kinds("turn")) >= count and self.kinds("turn"))

    def ask(self, seconds: float = 1.5) -> None:
        """The wake word, and an utterance."""
        self.clock.say(call(), np.zeros(RATE // 2, np.float32), speech(seconds))
