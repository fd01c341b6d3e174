"""What hears all the time: the ears, the wake words, the echo canceller, and devices that come and go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_gemma.assistant.devices import SoundDevices
from edge_gemma.assistant.earcons import earcon
from edge_gemma.assistant.ears import Ears, SilenceAware
from edge_gemma.assistant.echo import KINDS, EchoFilter, canceller
from edge_gemma.assistant.mouth import resampled
from edge_gemma.assistant.wake import wake_detector, wake_words
from edge_gemma.audio.source import Source
from edge_gemma.audio.vad import EnergyDetector, detector
from edge_gemma.errors import EdgeGemmaError, EdgeGemmaOSError
from support.assistants import LoudWord, call, speech
from support.listening import LoudnessDetector
from support.scripted import RATE
from support.sound_server import spoken

BLOCK = RATE // 50
QUIET = np.full(BLOCK, 1e-3, np.float32)


def ears(**options: Any) -> Ears:
    devices = SoundDevices(lambda: Nothing(), None)
    return Ears(devices, **options)


class Nothing(Source):
    """A microphone that ends at once."""

    name = "nothing"

    def next_block(self, timeout: float | None) -> None:
        return None


def heard(ears: Ears) -> NDArray[np.float32]:
    """What waits for the listener."""
    block = ears.read(60, 0)
    assert block is not None
    return block


def numbered(number: int) -> NDArray[np.float32]:
    return np.full(BLOCK, number / 1000, np.float32)


def test_shut_ears_give_silence_and_time_goes_on() -> None:
    found = ears()
    found.hear(numbered(1))
    found.open()
    found.hear(numbered(2))
    found.shut()
    found.hear(numbered(3))
    sound = heard(found).reshape(-1, BLOCK)
    assert np.round(1000 * sound[:, 0]).tolist() == [0, 2, 0]


def test_what_was_said_before_is_heard_afterwards_and_the_time_is_made_up_for() -> None:
    found = ears()
    for number in range(1, 6):
        found.hear(numbered(number))
    found.open(3 * BLOCK)
    found.hear(numbered(6))
    found.shut()
    for _ in range(4):
        found.hear(numbered(7))
    sound = heard(found).reshape(-1, BLOCK)
    assert np.round(1000 * sound[:, 0]).tolist() == [0, 0, 0, 0, 0, 4, 5, 6, 0, 0]  # ten blocks in all


def test_the_end_of_the_wake_word_begins_no_utterance() -> None:
    found = ears()
    aware = SilenceAware(LoudnessDetector(), lambda: found.before_request)
    loud = speech(0.4)
    for at in range(0, len(loud), BLOCK):
        found.hear(loud[at : at + BLOCK])
    found.open(len(loud) // 2)
    for at in range(0, len(loud), BLOCK):
        found.hear(loud[at : at + BLOCK])
    given = heard(found)
    rated = aware.push(given)
    said = len(loud) + len(loud) // 2  # silence for the first half, then what was said before, and then the request
    assert np.abs(given[len(loud) :]).min() >= 0 and len(given) == said + len(loud)
    assert not rated[: said // 512].any() and rated[said // 512 + 1 :].all()


def test_finish_ends_an_utterance_at_once() -> None:
    found = ears()
    found.open()
    found.hear(numbered(1))
    found.finish(0.1)
    for _ in range(7):
        found.hear(numbered(2))
    sound = heard(found).reshape(-1, BLOCK)
    assert np.round(1000 * sound[:, 0]).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_the_wake_word_is_told_with_the_place_where_the_request_begins() -> None:
    told: list[tuple[str, int]] = []
    found = ears(wake=LoudWord(), on_wake=lambda word, since: told.append((word, since)))
    sound = np.concatenate([np.zeros(RATE, np.float32), call(), np.zeros(RATE, np.float32)])
    for at in range(0, len(sound), BLOCK):
        found.hear(sound[at : at + BLOCK])
    ((word, since),) = told
    assert word == "okay nabu" and RATE + len(call()) - BLOCK <= since <= RATE + len(call()) + 3 * BLOCK


def test_speech_interrupts_within_100_ms_and_only_while_it_is_watched_for() -> None:
    times: list[int] = []
    found = ears(interruption=LoudnessDetector(), on_interruption=lambda: times.append(count))
    sound = speech(1.0)
    for watching in (False, True):
        found.watch(watching)
        for _ in range(20):
            count = -1
            found.hear(QUIET)
        for number, at in enumerate(range(0, len(sound), BLOCK)):
            count = number
            found.hear(sound[at : at + BLOCK])
    (blocks,) = times  # once, although the speech goes on
    assert 0.06 <= (blocks + 1) * BLOCK / RATE <= 0.12


def test_a_click_does_not_interrupt() -> None:
    times: list[int] = []
    found = ears(interruption=LoudnessDetector(), on_interruption=lambda: times.append(1))
    found.watch(True)
    for number in range(100):
        found.hear(speech(BLOCK / RATE) if number % 20 == 0 else QUIET)
    assert not times


def test_the_end_of_the_sound_is_the_end_of_the_source() -> None:
    found = ears()
    found.run()
    assert found.read(1, 1) is None


def test_silence_needs_no_detector() -> None:
    asked: list[int] = []

    class Counting(LoudnessDetector):
        def push(self, samples: np.ndarray) -> np.ndarray:
            asked.append(len(samples))
            return super().push(samples)

    aware, plain = SilenceAware(Counting()), LoudnessDetector()
    sound = np.concatenate([np.zeros(5120, np.float32), speech(0.5), np.zeros(5000, np.float32)])
    parts = [aware.push(sound[at : at + 700]) for at in range(0, len(sound), 700)]
    assert np.array_equal(np.concatenate(parts), plain.push(sound)) and sum(asked) < len(sound) / 1.5
    aware.reset()


@pytest.mark.parametrize("name", ["wake", "heard", "sleep", "problem"])
def test_earcons_are_no_speech(name: str) -> None:
    """They are shorter than what begins an utterance, and quiet."""
    sound = earcon(name, RATE).astype(np.float32) / 32768
    assert 0.01 < np.abs(sound).max() < 0.2 and abs(sound[0]) < 0.01 and abs(sound[-1]) < 0.01
    for rates in (EnergyDetector(), detector("auto")):
        rates.push(np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 1e-3)
        assert sum(rates.push(np.concatenate([sound, np.zeros(RATE // 2, np.float32)])) >= 0.5) < 5


# ---- packages ------------------------------------------------------------------------------------------------------------


def test_real_wake_words(tmp_path: Path) -> None:
    """Each of the two packages hears its word, once, and no other sentence. A voice of espeak-ng that both understand."""
    pytest.importorskip("pymicro_wakeword")
    pytest.importorskip("pyopen_wakeword")
    if not shutil.which("espeak-ng"):
        pytest.skip("needs espeak-ng")
    assert {"okay_nabu", "open:okay_nabu"} <= set(wake_words())
    quiet = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * 1e-3
    word = np.concatenate([quiet, 0.5 * spoken("okay nabu", tmp_path), quiet])
    other = np.concatenate([quiet, 0.5 * spoken("What will the weather be like tomorrow?", tmp_path), quiet])
    for name in ("okay_nabu", "okay nabu"):
        detector = wake_detector([name])
        assert detector.words == ("okay nabu",)
        for sound, count in ((word, 1), (other, 0), (word, 1)):
            found = [detector.push(sound[at : at + BLOCK]) for at in range(0, len(sound), BLOCK)]
            assert [item for item in found if item] == ["okay nabu"] * count
    detector = wake_detector(["open:okay_nabu"], 0.1)
    assert not any(detector.push(other[at : at + BLOCK]) for at in range(0, len(other), BLOCK))


def test_wake_words_that_are_unknown() -> None:
    pytest.importorskip("pymicro_wakeword")
    with pytest.raises(ValueError, match="no wake word 'hello'; choose one of okay_nabu"):
        wake_detector(["hello"])
    with pytest.raises(ValueError, match="two packages"):
        wake_detector(["okay_nabu", "open:alexa"])
    with pytest.raises(OSError, match="there is no such wake word file"):
        wake_detector(["nothing.json"])


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pymicro_wakeword", "pyopen_wakeword", "pywebrtc_audio", "livekit.rtc"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for opening in (lambda: wake_detector(), lambda: wake_detector(["open:alexa"]), lambda: canceller(KINDS[0])):
        with pytest.raises(EdgeGemmaError, match=r"edge-gemma\[assistant\]"):
            opening()
    assert wake_words() == []
    with pytest.raises(ValueError, match="choose livekit or webrtc"):
        canceller("loud")


@pytest.mark.parametrize("kind", KINDS)
def test_an_echo_is_removed(kind: str) -> None:
    pytest.importorskip({"webrtc": "pywebrtc_audio", "livekit": "livekit"}[kind])
    chance = np.random.default_rng(0)
    envelope = np.repeat(chance.uniform(0, 1, 200), RATE // 10)
    played = (np.convolve(chance.standard_normal(20 * RATE), np.ones(4) / 4, "same") * envelope * 0.1).astype(
        np.float32
    )
    echo = 0.5 * np.concatenate([np.zeros(RATE // 20, np.float32), played])[: len(played)]
    cleaner, left = EchoFilter(canceller(kind)), []
    for at in range(0, len(played), BLOCK):
        cleaner.played((played[at : at + BLOCK] * 32767).astype(np.int16))
        left.append(cleaner.push(echo[at : at + BLOCK]))
    cleaned = np.concatenate(left)
    assert len(cleaned) == len(echo)
    assert np.mean(cleaned[-5 * RATE :] ** 2) < 0.03 * np.mean(echo[-5 * RATE :] ** 2)


def test_frames_of_the_loudspeaker_meet_those_of_the_microphone() -> None:
    met: list[tuple[int, int]] = []

    class Noting:
        def process(self, near: NDArray[np.int16], far: NDArray[np.int16]) -> NDArray[np.int16]:
            assert near.shape == far.shape == (160,)
            met.append((int(near[0]), int(far[0])))
            return near

    cleaner = EchoFilter(Noting())
    cleaner.played(np.full(320, 7, np.int16))
    out = [cleaner.push(np.full(100, 5 / 32767, np.float32)) for _ in range(8)]
    assert met == [(5, 7), (5, 7), (5, 0), (5, 0), (5, 0)] and sum(map(len, out)) == 800
    cleaner.played(np.zeros(100000, np.int16))  # nobody has recorded for long: only the last of it may wait
    assert len(cleaner.push(np.zeros(16000, np.float32))) == 16000


def test_resampling_keeps_the_length_and_the_tone() -> None:
    tone = (np.sin(np.arange(22050) * 2 * np.pi * 440 / 22050) * 8000).astype(np.int16)
    found = resampled(tone, 22050, 16000)
    assert len(found) == 16000
    spectrum = np.abs(np.fft.rfft(found))
    assert int(spectrum.argmax()) == 440
    assert resampled(tone, 16000, 16000) is tone and len(resampled(tone[:0], 22050, 16000)) == 0


# ---- devices -------------------------------------------------------------------------------------------------------------


def test_devices_are_opened_again_when_it_is_time() -> None:
    now = [0.0]
    opened: list[float] = []
    told: list[str] = []
    refreshed: list[float] = []

    class Breaking(Source):
        live = True
        name = "mic"

        def next_block(self, timeout: float | None) -> NDArray[np.float32]:
            if len(opened) == 1:
                raise EdgeGemmaOSError("the microphone mic has stopped.", "file")
            return QUIET

    def microphone() -> Source:
        opened.append(now[0])
        if 1 < len(opened) < 4:
            raise EdgeGemmaOSError("there is no microphone.", "file")
        return Breaking()

    devices = SoundDevices(
        microphone,
        None,
        refresh=lambda: refreshed.append(now[0]),
        on_change=told.append,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    while not devices.ready or len(opened) < 4:
        assert now[0] < 60
        devices.read(0.02, 0.25)
    assert told == ["", "the microphone mic has stopped.", "there is no microphone.", ""]
    assert opened == pytest.approx([0, 2, 4, 6], abs=0.3) and len(refreshed) == 3 and devices.ready
    devices.write(np.zeros(10, np.int16))
    devices.stop()
    assert devices.pending == devices.latency == 0
    devices.close()
    assert devices.read(1, 0) is None
