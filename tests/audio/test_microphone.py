"""Microphones: real PortAudio on a device that plays a file, and a stand-in for what real ones seldom do."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from edge_gemma.audio.microphone import Device, Microphone, devices
from edge_gemma.audio.source import to_mono
from edge_gemma.errors import EdgeGemmaError
from support.paths import ROOT

# ---- PortAudio itself ------------------------------------------------------------------------------------------------

# A sound card made of files: ALSA reads the samples of "recording" instead of those that its null device would give.
ALSA = """
</usr/share/alsa/alsa.conf>
pcm.nothing {{ type null }}
pcm.recording {{ type file  slave.pcm nothing  file /dev/null  infile "{file}"  format raw }}
"""

RECORD = """
import json, sys, time
import numpy as np
from edge_gemma.audio.microphone import Microphone, devices
there = [(device.name, device.default) for device in devices()]
with Microphone("RECORD", buffer=float(sys.argv[2])) as microphone:
    wanted, parts = int(sys.argv[3]), []
    while sum(part.size for part in parts) < wanted:
        parts.append(microphone.read(1))
    late = time.monotonic() + 20
    while sys.argv[2] == "0.01" and not microphone.overruns and time.monotonic() < late:
        time.sleep(0.01)  # a reader who has something else to do
    result = {"there": there, "name": microphone.name, "overruns": microphone.overruns, "lost": microphone.lost}
try:
    Microphone("no such one")
except ValueError as error:
    result["error"] = str(error)
result["ended"] = microphone.read(1) is None
np.save(sys.argv[1], np.concatenate(parts)[:wanted])
print(json.dumps(result))
"""


@pytest.fixture
def record(tmp_path):
    """Records so many samples from a device that plays `samples`, in a process of its own."""
    if not Path("/usr/share/alsa/alsa.conf").is_file():
        pytest.skip("needs ALSA (libasound2)")
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"needs PortAudio (libportaudio2): {error}")

    def run(samples: np.ndarray, wanted: int, buffer: float) -> tuple[dict, np.ndarray]:
        samples.astype("<i2").tofile(tmp_path / "samples")
        (tmp_path / "alsa.conf").write_text(ALSA.format(file=tmp_path / "samples"))
        done = subprocess.run(
            [sys.executable, "-c", RECORD, str(tmp_path / "heard.npy"), str(buffer), str(wanted)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            env={**os.environ, "ALSA_CONFIG_PATH": str(tmp_path / "alsa.conf")},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), np.load(tmp_path / "heard.npy")

    return run


def test_recording(record) -> None:
    samples = np.random.default_rng(0).integers(-20000, 20000, 160000, np.int16)
    result, heard = record(samples, 32000, 60)
    assert ["recording", False] in result["there"] and sum(default for _, default in result["there"]) == 1
    assert result["name"] == "recording" and result["ended"]
    assert result["overruns"] == result["lost"] == 0
    assert "nothing" in result["error"] and "recording" in result["error"]
    assert np.array_equal(heard, to_mono(samples)[:32000])


def test_a_reader_that_is_too_slow(record) -> None:
    """The device delivers as fast as it can; a ring of 10 ms overruns, and says so, and goes on."""
    result, heard = record(np.full(160000, 1000, np.int16), 1000, 0.01)
    assert result["overruns"] > 0 and result["lost"] > 0
    assert np.array_equal(heard, np.full(1000, 1000 / 32768, np.float32))


# ---- a stand-in ------------------------------------------------------------------------------------------------------


class PortAudioError(Exception):
    """As sounddevice has it."""


class Stream:
    """A RawInputStream whose samples come from the test."""

    def __init__(self, card: Card, samplerate, channels, dtype, device, callback, finished_callback) -> None:
        assert dtype == "int16"
        card.asked.append((device, samplerate, channels))
        if (samplerate, channels) not in card.formats:
            raise PortAudioError(f"Invalid sample rate {samplerate:g} or channels {channels}")
        self.card, self.callback, self.finished = card, callback, finished_callback
        self.calls: list[str] = []
        card.stream = self

    def start(self) -> None:
        if self.card.busy:
            raise PortAudioError("Error starting stream: Device unavailable [PaErrorCode -9985]")
        self.calls.append("start")

    def abort(self, ignore_errors: bool) -> None:
        self.calls.append("abort")

    def close(self, ignore_errors: bool) -> None:
        self.calls.append("close")

    def give(self, samples, overflow: bool = False, recorded: float = 0.0) -> None:
        """What PortAudio would call. `recorded`: when the first sample was recorded."""
        samples = np.asarray(samples, np.int16)
        times = types.SimpleNamespace(inputBufferAdcTime=recorded)
        self.callback(samples.tobytes(), len(samples), times, types.SimpleNamespace(input_overflow=overflow))


class Card(types.ModuleType):
    """Stands in for sounddevice."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.formats = {(16000, 1)}
        self.busy = self.broken = False
        self.asked: list[tuple] = []
        self.stream: Stream | None = None
        self.default = types.SimpleNamespace(device=[-1, -1])
        self.main: int | None = 2
        self.there = [
            {"name": "Speakers", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB Audio: Webcam (hw:1,0)", "max_input_channels": 2, "default_samplerate": 48000.0},
            {"name": "Built-in Microphone", "max_input_channels": 1, "default_samplerate": 44100.0},
            {"name": "USB Audio", "max_input_channels": 4, "default_samplerate": 48000.0},
        ]

    def query_devices(self, kind=None):
        if kind is None:
            if self.broken:
                raise PortAudioError("Error querying device -1")
            return self.there
        if self.main is None:
            raise PortAudioError("Error querying device -1")
        return {**self.there[self.main], "index": self.main}

    def RawInputStream(self, **arguments) -> Stream:
        return Stream(self, **arguments)


@pytest.fixture
def card(monkeypatch) -> Card:
    card = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    return card


def code_of(action) -> tuple[str, str]:
    with pytest.raises(EdgeGemmaError) as caught:
        action()
    assert caught.value.code != "argument" or isinstance(caught.value, ValueError)
    return caught.value.code, str(caught.value)


def test_devices(card) -> None:
    assert devices() == [
        Device(1, "USB Audio: Webcam (hw:1,0)", 2, 48000.0, False),
        Device(2, "Built-in Microphone", 1, 44100.0, True),
        Device(3, "USB Audio", 4, 48000.0, False),
    ]
    card.default.device = [3, 0]  # as the program set it
    assert [device.index for device in devices() if device.default] == [3]
    card.default.device, card.main = [-1, -1], None
    assert len(devices()) == 3 and not any(device.default for device in devices())


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(None, 2), (1, 1), ("1", 1), (" 3 ", 3), ("webcam", 1), ("usb audio", 3), ("usb", 1), ("BUILT", 2)],
)
def test_choosing(card, wanted, index) -> None:
    card.formats = {(16000, 1)}
    microphone = Microphone(wanted)
    assert (microphone.device.index, card.asked) == (index, [(index, 16000, 1)])
    assert microphone.live and microphone.duration is None and microphone.name == card.there[index]["name"]


def test_of_several_that_fit_the_default_is_chosen(card) -> None:
    card.main, card.there[3]["name"] = 3, "USB Audio 2"
    assert Microphone("usb").device.index == 3


def test_no_such_device(card) -> None:
    for wanted in ("headset", 0, 7, "9"):
        code, message = code_of(lambda wanted=wanted: Microphone(wanted))
        assert code == "argument" and "1: USB Audio: Webcam (hw:1,0), 2: Built-in Microphone, 3: USB Audio" in message
    card.main, card.there = None, card.there[:1]
    assert devices() == []
    code, message = code_of(Microphone)
    assert code == "file" and "no microphone was found" in message


def test_a_device_with_a_rate_of_its_own(card) -> None:
    pytest.importorskip("soxr")
    card.formats = {(48000, 2)}
    with Microphone("webcam") as microphone:
        assert card.asked == [(1, 16000, 1), (1, 16000, 2), (1, 48000, 1), (1, 48000, 2)]
        sound = (9000 * np.sin(np.arange(48000) / 20)).astype(np.int16)
        parts = []
        for start in range(0, 48000, 480):
            card.stream.give(np.stack([sound, sound], axis=1)[start : start + 480])
            parts.append(microphone.read(1, timeout=0))
        heard = np.concatenate(parts)
        assert 15000 < heard.size <= 16000  # the rest waits in the filter
        assert np.array_equal(heard, to_mono(sound, 48000)[: heard.size])


def test_devices_that_cannot_be_opened(card) -> None:
    card.formats = set()
    code, message = code_of(lambda: Microphone("built"))
    assert code == "file" and "Built-in Microphone" in message and "16000" in message
    assert card.asked == [(2, 16000, 1), (2, 44100, 1)]
    card.formats, card.busy = {(16000, 1)}, True
    code, message = code_of(Microphone)
    assert code == "file" and "cannot be opened: Device unavailable. Check" in message
    assert card.stream.calls == ["close"]


def test_reading(card) -> None:
    with Microphone(buffer=0.1) as microphone:
        sound = np.arange(3000)
        assert microphone.read(1, timeout=0).size == 0
        assert microphone.read(1, timeout=0.001).size == 0
        heard = []
        for start in range(0, 3000, 500):  # twice around the ring of 1600
            card.stream.give(sound[start : start + 500])
            heard += [microphone.read(0.025, timeout=0), microphone.read(1, timeout=0)]
        assert [part.size for part in heard] == [400, 100] * 6
        assert np.array_equal(np.concatenate(heard), to_mono(sound.astype(np.int16)))
        assert microphone.position == 3000 / 16000
        waiting = threading.Thread(target=lambda: heard.append(microphone.read(1)))
        waiting.start()
        card.stream.give([5, 6])
        waiting.join(20)
        assert np.array_equal(heard[-1], np.array([5, 6], np.float32) / 32768)
        assert microphone.overruns == microphone.lost == 0
    assert card.stream.calls == ["start", "abort", "close"]
    microphone.close()
    assert len(card.stream.calls) == 3
    assert microphone.read(1) is None


def test_the_ring_does_not_grow(card) -> None:
    with Microphone(buffer=0.1) as microphone:
        card.stream.give(np.full(1000, 1))
        card.stream.give(np.full(1000, 2))  # 400 too many
        assert (microphone.overruns, microphone.lost) == (1, 0.025)
        card.stream.give(np.full(800, 3))
        assert (microphone.overruns, microphone.lost) == (2, 0.075)
        heard = microphone.read(1)
        assert np.array_equal(heard * 32768, [1] * 1000 + [2] * 600)
        card.stream.give(np.full(100, 4), overflow=True)  # PortAudio itself had lost some
        assert (microphone.overruns, microphone.lost) == (3, 0.075)
        assert np.array_equal(microphone.read(1) * 32768, [4] * 100)


def test_what_portaudio_has_lost_is_counted_by_its_clock(card) -> None:
    with Microphone(buffer=1) as microphone:
        card.stream.give(np.full(160, 1), recorded=100.0)
        card.stream.give(np.full(160, 1), recorded=100.01)
        card.stream.give(np.full(160, 1), recorded=100.27, overflow=True)
        assert (microphone.overruns, microphone.lost) == (1, 0.25)
        card.stream.give(np.full(160, 1), recorded=0.0, overflow=True)  # a device without a clock
        card.stream.give(np.full(160, 1), recorded=200.0)
        card.stream.give(np.full(160, 1), recorded=9999.0, overflow=True)  # the machine was asleep
        assert (microphone.overruns, microphone.lost) == (3, 0.25)


def test_a_microphone_that_gives_only_silence(card) -> None:
    """So do systems where a program may not record."""
    with Microphone(buffer=2) as microphone:
        card.stream.give(np.zeros(15000))
        assert microphone.read(1).size == 15000 and microphone.warning is None
        card.stream.give(np.zeros(1000))
        assert microphone.read(1).size == 1000
        assert "nothing but silence" in microphone.warning and "may record" in microphone.warning
        card.stream.give([0, 1, 0])
        assert microphone.read(1).size == 3 and microphone.warning is None


def test_a_sound_system_that_fails(card) -> None:
    card.broken = True
    for action in (devices, Microphone):
        code, message = code_of(action)
        assert code == "file" and message == "the sound devices cannot be listed: there is no such device."


def test_a_device_that_vanishes(card) -> None:
    with Microphone(patience=1000) as microphone:
        card.stream.give([1, 2, 3])
        card.stream.finished()
        assert microphone.read(1).size == 3
        code, message = code_of(lambda: microphone.read(1, timeout=20))
        assert code == "file" and "Built-in Microphone has stopped" in message
        assert microphone.read(1) is None
    with Microphone(patience=1000) as microphone:
        result = []
        waiting = threading.Thread(target=lambda: result.append(code_of(lambda: microphone.read(1))))
        waiting.start()
        card.stream.finished()
        waiting.join(20)
        assert result[0][0] == "file"


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_device_that_falls_silent(card, timeout) -> None:
    """No callbacks come any more, and nobody says why."""
    with Microphone(patience=0.01) as microphone:
        card.stream.give([1, 2, 3])
        assert microphone.read(1).size == 3
        assert code_of(lambda: microphone.read(1, timeout))[0] == "file"
        assert microphone.read(1, timeout) is None


def test_closing_wakes_the_reader(card) -> None:
    microphone, result = Microphone(patience=1000), []
    waiting = threading.Thread(target=lambda: result.append(microphone.read(1)))
    waiting.start()
    microphone.close()
    waiting.join(20)
    assert result == [None]


def test_missing_libraries(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, message = code_of(devices)
    assert code == "unsupported" and "pip install sounddevice" in message
    # The package is there and does what it does without its library.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("sounddevice").origin == str(tmp_path / "sounddevice.py")
    for platform, says in (("linux", "apt install libportaudio2"), ("darwin", "brew install portaudio")):
        monkeypatch.setattr(sys, "platform", platform)
        code, message = code_of(Microphone)
        assert code == "unsupported" and says in message
    with pytest.raises(OSError, match="PortAudio"):
        Microphone()
