"""`AssistantLoop`: a voice assistant, from the microphone to the loudspeaker.

Joins the parts, each of which has one task, and carries their news to the machine (machine.py), which decides. Everything that
decides runs in the thread of `run`. The others are: the ears (ears.py), the listener, which writes down what is said
(speech/listener.py), the mind (mind.py), and the mouth (mouth.py). Only what must not wait for anything is done where it is
noticed: an interruption silences the loudspeaker in the thread that hears it.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE
from ..audio.vad import Detector, detector
from ..engine.interface import ModelLike
from ..engine.sampling import Sampling
from ..errors import Cancelled
from ..speech.listener import Listener, ListenerEvent
from .asking import confidence_of
from .devices import SoundDevices
from .earcons import earcon
from .ears import Ears, SilenceAware
from .echo import EchoFilter
from .interface import AssistantToolbox, Persona, Voice
from .machine import Announcement, Machine, Settings, State
from .mind import Mind, MindEvent, Thought
from .mouth import Mouth, resampled
from .record import TurnRecord
from .wake import WakeDetector

__all__ = ["AssistantLoop"]

_TICK = 0.05  # seconds between looks at the clock
_AHEAD = 20.0  # seconds of a reply that may wait to be heard; no more of it is made then


class AssistantLoop:
    """A voice assistant. `run` runs it; everything else may come from any thread.

    with AssistantLoop(model, devices, voice, tools, persona, wake=wake_detector()) as assistant:
        assistant.run()
    """

    def __init__(
        self,
        model: ModelLike,
        devices: SoundDevices,
        voice: Voice | None,
        tools: AssistantToolbox,
        persona: Persona,
        *,
        wake: WakeDetector | None = None,
        echo: EchoFilter | None = None,
        settings: Settings | None = None,
        show: Callable[[str, dict[str, Any]], None] = lambda kind, values: None,
        record: Callable[[str], None] | None = None,
        earcons: bool = True,
        language_of: Callable[[str], str | None] | None = None,
        detector_kind: str | Callable[[], Detector] = "auto",
        silence: float = 0.7,
        pause: float = 0.25,
        max_seconds: float = 15.0,
        partials: float = 0.4,
        context: int | None = None,
        kv: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 400,
        remembers: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now().astimezone(),
    ) -> None:
        """Opens the sessions and reads the instructions. All of `devices`, `voice` and `tools` belong to the loop from now on.

        Args:
            model: an open model with an audio encoder.
            devices: microphone and loudspeaker.
            voice: speaks; None for an assistant that only shows its replies.
            tools: what the model may call.
            persona: who it is.
            wake: the wake word; None for a key, or for none, as `settings` say.
            echo: removes the assistant's own voice from the microphone's sound.
            settings: how it behaves; None for the defaults.
            show: called in the thread of `run` with what happens: a kind and its values.
            record: called with a line of JSON for each turn: when what happened.
            earcons: whether short sounds tell what it does.
            language_of: the language of a text that is spoken; None for that of the persona.
            detector_kind: the detector of speech, as `audio.vad.detector` takes it, or a function that makes one.
            silence, pause, max_seconds, partials: as in `Listener`.
            context, kv, sampling, max_tokens, remembers: as in `Mind`.
            clock: seconds.
            now: the time of day.

        Raises:
            EdgeGemmaError: as `Listener` and `Mind` do.
        """
        self._settings = settings or Settings()
        self._devices, self._tools, self._persona, self._show, self._record = devices, tools, persona, show, record
        self._earcons, self._silence, self._clock = earcons, silence, clock
        self._wake_word = _beginning(wake.words) if wake else None
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._cancelled = self._ended = False
        self._turns = 0
        self._turn: TurnRecord | None = None
        self._confidence: float | None = None
        self._lock = threading.Lock()  # guards the thought, which other threads stop
        self._thought: Thought | None = None
        self._reply = ""
        language_of = language_of or (lambda text: persona.language)

        def make_detector() -> Detector:
            return detector(detector_kind) if isinstance(detector_kind, str) else detector_kind()

        with contextlib.ExitStack() as stack:
            stack.callback(devices.close)
            self._machine = Machine(self, self._settings, clock)
            self._mouth = Mouth(
                devices,
                voice,
                language_of=language_of,
                on_sound=lambda: self._post(self._sound_began, clock()),
                on_silence=lambda: self._post(self._sound_ended),
                on_failure=lambda message: self._post(self._tell, "problem", text=message),
                clock=clock,
            )
            stack.callback(self._mouth.close)
            stack.callback(tools.close)
            self._mind = Mind(
                model,
                lambda: persona.system_prompt(now()),
                tools,
                on_event=self._mind_event,
                context=context,
                kv=kv,
                sampling=sampling,
                max_tokens=max_tokens,
                remembers=remembers,
                wait_while=lambda: self._mouth.waiting > _AHEAD,
                language=persona.language,
            )
            stack.callback(self._mind.close)
            self._ears = Ears(
                devices,
                wake=wake,
                echo=echo,
                interruption=make_detector() if self._settings.interruption == "speech" else None,
                on_wake=self._wake_word_heard,
                on_interruption=self._interruption_heard,
            )
            self._listener = Listener(
                model,
                persona.language,
                partials=partials,
                pauses=True,
                confidence=True,
                clock=clock,
                silence=silence,
                pause=pause,
                detector=SilenceAware(make_detector(), lambda: self._ears.before_request),
                max_seconds=max_seconds,
            )
            stack.callback(self._listener.close)
            self._resources = stack.pop_all()

    # ---- any thread ----

    @property
    def state(self) -> State:
        """What it does now."""
        return self._machine.state

    def press(self) -> None:
        """The key to talk is pressed."""
        self._post(self._machine.pressed)

    def release(self) -> None:
        """The key that was held is released."""
        self._post(self._machine.released)

    def stop(self) -> None:
        """The key to stop is pressed."""
        self._stop_now()
        self._post(self._machine.stopped)

    def announce_from_tool(self, text: str, sound: NDArray[np.int16] | None = None) -> None:
        """An `Announcer`: says something between two turns."""
        self._post(self._machine.announced, Announcement(text, sound))

    def devices_changed(self, problem: str) -> None:
        """Tells that the sound devices have gone, and why, or with "" that they can be used again."""
        self._post(self._devices_changed, problem)

    def cancel(self) -> None:
        """Ends `run`."""
        self._cancelled = True
        self._post(lambda: None)

    def close(self) -> None:
        """Frees everything. Further calls do nothing."""
        self._resources.close()

    def __enter__(self) -> AssistantLoop:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _post(self, action: Callable[..., None], *args: Any, **values: Any) -> None:
        self._queue.put(functools.partial(action, *args, **values))

    # ---- the thread of run ----

    def run(self) -> None:
        """Listens, answers and announces, until `cancel`, or until a recording has ended and everything was answered.

        Raises EdgeGemmaError where listening fails for another reason than a device that is gone.
        """
        threads = [
            threading.Thread(target=self._ears.run, name="edge_gemma-ears", daemon=True),
            threading.Thread(target=self._listen, name="edge_gemma-listener", daemon=True),
        ]
        self._tools.start(self.announce_from_tool)
        self._machine.start()
        self._show("state", {"state": self._machine.state})
        for thread in threads:
            thread.start()
        try:
            while not (self._cancelled or (self._ended and self._is_done())):
                with contextlib.suppress(queue.Empty):
                    self._queue.get(timeout=_TICK)()
                self._machine.tick()
        finally:
            self._ears.stop()
            self._listener.cancel()
            self._stop_now()
            for thread in threads:
                thread.join()

    def _is_done(self) -> bool:
        return self._queue.empty() and self._machine.state in ("asleep", "awake") and self._mind.idle

    def _tell(self, kind: str, **values: Any) -> None:
        self._show(kind, values)

    def _devices_changed(self, problem: str) -> None:
        self._tell("devices", text=problem)
        self._machine.devices_changed(not problem)

    # ---- the listener's thread ----

    def _listen(self) -> None:
        failure: BaseException | None = None
        try:
            for event in self._listener.listen(self._ears):
                self._post(self._listener_event, event, self._clock())
        except Cancelled:
            pass
        except BaseException as error:  # it is raised where the assistant runs
            failure = error
        self._post(self._listener_ended, failure)

    def _listener_ended(self, failure: BaseException | None) -> None:
        self._ended = True
        if failure:
            raise failure

    def _listener_event(self, event: ListenerEvent, at: float) -> None:
        if event.kind == "start":
            self._machine.speech_began()
        elif event.kind == "partial":
            if self._machine.state == "hearing":
                agreed = self._request(event.agreed)
                self._tell("partial", text=self._request(event.text), agreed=agreed)
                if agreed:
                    self._mind.read_ahead(agreed)
        elif event.kind == "early":
            self._machine.paused(self._request(event.text))
        elif event.kind == "resume":
            self._machine.resumed()
        elif event.kind == "overrun":
            self._tell("overrun", lost=event.lost)
        else:
            text = self._request(event.text)
            if self._machine.state == "hearing" and event.latency:
                decided = at - event.latency.last_token
                turn = self._turn = self._turn or TurnRecord()
                turn.spoken, turn.decided, turn.transcript = decided - event.latency.decision, decided, at
                self._confidence = confidence_of(event.segment.words, text) if event.segment else None
                self._tell("heard", text=text, confidence=self._confidence)
            self._machine.heard(text)

    def _request(self, text: str) -> str:
        """What was said, without the wake word before it."""
        return self._wake_word.sub("", text, 1).strip() if self._wake_word else text

    # ---- the thread that hears ----

    def _wake_word_heard(self, word: str, since: int) -> None:
        with self._lock:
            answers = self._thought is None or self._thought.sure
        if answers:
            self._stop_now()
        self._post(self._tell, "wake", word=word)
        self._post(self._machine.woken, since)

    def _interruption_heard(self) -> None:
        self._stop_now()
        self._post(self._machine.interrupted)

    def _stop_now(self) -> None:
        """Silences the loudspeaker and stops the model; any thread."""
        heard = self._mouth.stop()
        with self._lock:
            thought, self._thought = self._thought, None
        if thought:
            self._mind.stop(thought, heard)
            self._post(self._turn_over, True)

    # ---- the mind's and the mouth's threads ----

    def _mind_event(self, event: MindEvent) -> None:
        at = self._clock()
        with self._lock:
            if event.thought is not self._thought:
                return  # it was dropped or stopped
            if event.kind in ("text", "question"):
                self._mouth.add(event.text)
            self._post(self._thought_news, event, at)
            if event.kind in ("done", "failed"):
                self._mouth.finish()

    def _thought_news(self, event: MindEvent, at: float) -> None:
        if event.thought is not self._thought:
            return
        turn = self._turn
        if event.kind == "token" and turn:
            turn.first_token = at
        elif event.kind in ("text", "question"):
            self._reply += event.text
            if event.thought.sure:
                self._tell("reply", text=self._reply, final=False)
        elif event.kind == "call" and event.call:
            if turn:
                turn.tools += 1
            self._tell("call", name=event.call.name, arguments=event.call.arguments)
        elif event.kind == "result" and event.call:
            self._tell("result", name=event.call.name, result=event.result)
        elif event.kind in ("done", "failed"):
            if event.kind == "failed":
                self._tell("problem", text=event.text)
                self.earcon("problem")
            if turn:
                turn.answered = at
            self._tell("reply", text=self._reply, final=True)
            self._machine.answer_ended()

    def _sound_began(self, at: float) -> None:
        if self._turn and self._turn.first_sound is None and self._machine.state == "thinking":
            self._turn.first_sound = at + self._devices.latency
        self._machine.sound_began()

    def _sound_ended(self) -> None:
        if self._machine.state in ("thinking", "speaking") and self._turn and self._turn.answered is not None:
            with self._lock:
                self._thought = None
            self._turn_over(False)
        self._machine.sound_ended()

    def _turn_over(self, interrupted: bool) -> None:
        turn, self._turn, self._reply = self._turn, None, ""
        if turn and turn.decided is not None:
            self._turns += 1
            turn.interrupted = interrupted
            self._tell("turn", **turn.as_dict(self._turns))
            if self._record:
                self._record(turn.as_line(self._turns))

    # ---- what the machine does ----

    def listen(self, since: int | None) -> None:
        """As `Actions.listen`."""
        self._ears.open(since)

    def ignore(self) -> None:
        """As `Actions.ignore`."""
        self._ears.shut()

    def finish_utterance(self) -> None:
        """As `Actions.finish_utterance`."""
        self._ears.finish(self._silence + 0.1)

    def watch(self, watching: bool) -> None:
        """As `Actions.watch`."""
        self._ears.watch(watching)

    def earcon(self, name: str) -> None:
        """As `Actions.earcon`. Where an answer is ready to be heard, it needs no sound before it."""
        if self._earcons and not (name == "heard" and self._mouth.prepared):
            self._mouth.play(earcon(name, self._devices.rate))

    def begin(self, text: str) -> None:
        """As `Actions.begin`."""
        self.drop()
        self._turn = TurnRecord()
        self._reply = ""
        with self._lock:
            self._mouth.begin(held=True)
            self._thought = self._mind.begin(text)

    def drop(self) -> None:
        """As `Actions.drop`."""
        with self._lock:
            thought = self._thought
            if thought is None or thought.sure:
                return
            self._thought = None
        self._mouth.stop()
        self._mind.drop(thought)

    def answer(self, text: str) -> None:
        """As `Actions.answer`."""
        begun = self._thought
        if begun is None or begun.text != text:
            spoken = self._turn
            self.begin(text)
            if spoken and self._turn:
                self._turn.spoken, self._turn.decided = spoken.spoken, spoken.decided
                self._turn.transcript = spoken.transcript
        elif self._turn:
            self._turn.early = True
        if self._reply:
            self._tell("reply", text=self._reply, final=False)
        if self._thought:
            self._mind.commit(self._thought, self._confidence)
        self._mouth.release()

    def interrupt(self) -> None:
        """As `Actions.interrupt`."""
        self._stop_now()

    def announce(self, announcement: Announcement) -> None:
        """As `Actions.announce`."""
        self._tell("announcement", text=announcement.text)
        self._mouth.begin()
        if announcement.sound is not None:
            self._mouth.play(resampled(announcement.sound, SAMPLE_RATE, self._devices.rate))
        self._mouth.add(announcement.text)
        self._mouth.finish()

    def hush(self) -> None:
        """As `Actions.hush`."""
        self._mouth.stop()

    def forget(self) -> None:
        """As `Actions.forget`."""
        self._mind.forget()
        self._tell("forgotten")

    def changed(self, state: State) -> None:
        """As `Actions.changed`."""
        self._tell("state", state=state)


def _beginning(words: tuple[str, ...]) -> re.Pattern[str]:
    """A wake word, or its last word, at the beginning of a text."""
    phrases = [r"\W+".join(map(re.escape, word.split())) for word in words]
    phrases += [re.escape(word.split()[-1]) for word in words]
    return re.compile(rf"^\W*(?:{'|'.join(phrases)})\b[\s,.:;!?]*", re.IGNORECASE)
