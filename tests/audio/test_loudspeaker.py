"""Loudspeakers, on a stand-in for PortAudio that plays when the test says so."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from edge_gemma.audio.loudspeaker import Loudspeaker, loudspeakers
from edge_gemma.audio.portaudio import refresh
from edge_gemma.errors import EdgeGemmaError


class PortAudioError(Exception):
    """As sounddevice has it."""


class Stream:
    """A RawOutputStream that asks for samples when the test says so."""

    latency = 0.05

    def __init__(self, card: Card, **options: Any) -> None:
        if options["samplerate"] not in card.rates or options["channels"] < card.channels:
            raise PortAudioError("Error opening RawOutputStream: Invalid sample rate [PaErrorCode -9997]")
        self.options, self.started, self.closed = options, False, False

    def start(self) -> None:
        self.started = True

    def play(self, count: int) -> np.ndarray:
        """What the device plays next: (count, channels)."""
        data = bytearray(count * self.options["channels"] * 2)
        self.options["callback"](data, count, None, None)
        return np.frombuffer(data, np.int16).reshape(count, -1)

    def abort(self, ignore_errors: bool = True) -> None: ...

    def close(self, ignore_errors: bool = True) -> None:
        self.closed = True


class Card(types.ModuleType):
    """Stands in for sounddevice."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.rates, self.channels = {22050.0, 48000.0}, 1
        self.streams: list[Stream] = []
        self.names = ["USB Speaker", "HDMI", "microphone"]
        self.default = types.SimpleNamespace(device=(2, 1))
        self.restarted = 0

    def query_devices(self, kind: str | None = None) -> Any:
        found = [
            {
                "name": name,
                "max_output_channels": 0 if name == "microphone" else 2,
                "default_samplerate": 48000.0,
                "index": index,
            }
            for index, name in enumerate(self.names)
        ]
        return next(info for info in found if info["max_output_channels"]) if kind else found

    def RawOutputStream(self, **options: Any) -> Stream:
        self.streams.append(Stream(self, **options))
        return self.streams[-1]

    def _terminate(self) -> None:
        self.restarted += 1

    def _initialize(self) -> None:
        pass


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    return card


def test_what_is_written_is_played_in_order(card: Card) -> None:
    speaker, played = Loudspeaker(), []
    speaker.tap = played.append
    assert speaker.name == "HDMI" and speaker.rate == 22050 and speaker.pending == 0
    speaker.write(np.arange(1, 4, dtype=np.int16))
    speaker.write(np.arange(4, 7, dtype=np.int16))
    assert speaker.pending == pytest.approx(6 / 22050 + 0.05)
    (stream,) = card.streams
    assert stream.play(4)[:, 0].tolist() == [1, 2, 3, 4]
    assert stream.play(4)[:, 0].tolist() == [5, 6, 0, 0]
    assert stream.play(2)[:, 0].tolist() == [0, 0]
    assert np.concatenate(played).tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0, 0]
    assert 0 < speaker.pending <= 0.06  # on its way to the ear
    speaker.close()
    assert stream.closed


def test_stop_is_heard_with_the_next_samples(card: Card) -> None:
    speaker = Loudspeaker("usb")
    assert speaker.name == "USB Speaker"
    speaker.write(np.ones(1000, np.int16))
    card.streams[0].play(10)
    speaker.stop()
    assert not card.streams[0].play(10).any() and speaker.pending <= 0.05


def test_a_device_with_another_rate_and_two_channels(card: Card) -> None:
    card.rates, card.channels = {48000.0}, 2
    speaker = Loudspeaker(0, 24000)
    speaker.write(np.array([0, 100, 200, 300], np.int16))
    assert speaker.played_rate == 48000
    played = card.streams[0].play(8)
    assert played.shape == (8, 2) and (played[:, 0] == played[:, 1]).all()
    assert played[:7, 0].tolist() == [0, 50, 100, 150, 200, 250, 300]


def test_a_device_that_stops_is_gone(card: Card) -> None:
    speaker = Loudspeaker()
    assert not speaker.gone
    card.streams[0].options["finished_callback"]()
    assert speaker.gone


def test_errors(card: Card) -> None:
    with pytest.raises(ValueError, match="no loudspeaker 'kitchen'; choose one of 0: USB Speaker, 1: HDMI"):
        Loudspeaker("kitchen")
    card.rates = set()
    with pytest.raises(OSError, match=r"HDMI cannot be opened: Invalid sample rate\."):
        Loudspeaker()
    card.names = ["microphone"]
    assert loudspeakers() == []
    with pytest.raises(EdgeGemmaError, match="no loudspeaker was found"):
        Loudspeaker()


def test_devices_are_listed_anew(card: Card) -> None:
    refresh()
    assert card.restarted == 1


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(EdgeGemmaError, match="loudspeakers need the package sounddevice"):
        loudspeakers()
