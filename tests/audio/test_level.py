"""Quiet utterances are made louder, others are left alone, and what is likely to be heard badly is said."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest

from edge_gemma.audio.endpointing import Endpointer, segments
from edge_gemma.audio.level import raised
from edge_gemma.audio.source import SAMPLE_RATE, open_audio
from support.sounds import Trickle, pcm, tone, wav_bytes

RNG = np.random.default_rng(11)
# Like speech: half a second of sound, half a second of a quiet room.
SPEECH = (tone(4) / 0.3 * np.repeat([1, 0.01] * 4, SAMPLE_RATE // 2)).astype(np.float32)


def warning_of(samples: np.ndarray, stream: bool = False) -> str:
    data = wav_bytes(samples.astype("<f4").tobytes(), bits=32, tag=3)
    with open_audio(Trickle(data, 4000) if stream else io.BytesIO(data)) as source:
        assert source.read(0.2).size and source.warning is None  # it is not known yet
        for _ in source:
            pass
        return source.warning or ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (SPEECH * 0.3, ""),
        (SPEECH * 0.05, ""),
        (SPEECH * 0.0126, "very quiet (peak -38 dB)"),
        (SPEECH * 1e-5, "is silent"),
        (np.zeros(SAMPLE_RATE), "is silent"),
        (np.clip(SPEECH * 5, -1, 1), "is clipped (4"),
        (np.where(np.arange(SAMPLE_RATE) % 500, 0.2, 1.0), ""),  # single samples at full scale are no clipping
        (np.zeros(SAMPLE_RATE // 4), ""),  # too short to say anything
    ],
)
def test_what_is_said_of_a_level(samples, says, stream) -> None:
    warning = warning_of(samples, stream)
    assert bool(warning) == bool(says) and says in warning


def test_a_stream_that_was_read_ahead_says_nothing_before_its_end() -> None:
    data = wav_bytes(np.zeros(SAMPLE_RATE, np.int16).tobytes())
    before = set(threading.enumerate())
    with open_audio(Trickle(data, 4000)) as source:
        for reader in set(threading.enumerate()) - before:
            reader.join(30)
            assert not reader.is_alive()
        assert source.read(0.2).size and source.warning is None
        assert sum(block.size for block in source) and "silent" in source.warning


def test_nothing_is_said_of_a_part() -> None:
    with open_audio(np.concatenate([pcm(2), np.zeros(2 * SAMPLE_RATE, np.int16)])) as source:
        source.seek(2)
        assert source.read(10).size == 2 * SAMPLE_RATE and source.read(1) is None and source.warning is None
        source.seek(0)
        assert source.read(10).size == 4 * SAMPLE_RATE and source.read(1) is None and source.warning is None
    with open_audio(np.zeros(SAMPLE_RATE)) as source:
        source.seek(0.1)
        source.seek(0)
        assert source.read(10).size == SAMPLE_RATE and source.read(1) is None and "silent" in source.warning


@pytest.mark.parametrize("peak", [1.0, 0.5, 0.2, 0.101])
def test_ordinary_utterances_are_left_alone(peak) -> None:
    samples = SPEECH * np.float32(peak)
    assert raised(samples) is samples


@pytest.mark.parametrize("peak", [0.099, 0.05, 0.02, 0.01])
def test_quiet_utterances_become_louder(peak) -> None:
    samples = SPEECH * np.float32(peak)
    louder = raised(samples)
    factor = np.abs(louder).max() / np.abs(samples).max()
    assert np.log2(factor) == round(np.log2(factor)) and np.array_equal(louder / np.float32(factor), samples)
    assert 0.25 <= np.abs(louder).max() <= 0.5


@pytest.mark.parametrize(
    "samples",
    [
        RNG.normal(0, 0.01, 5 * SAMPLE_RATE),
        tone(5, hertz=50) / 20,
        SPEECH * 1e-5,
        np.zeros(3 * SAMPLE_RATE),
        np.zeros(0),
    ],
    ids=["noise", "hum", "almost nothing", "silence", "no samples"],
)
def test_noise_and_silence_stay_quiet(samples) -> None:
    samples = samples.astype(np.float32)
    assert raised(samples) is samples


class AnySound:
    """A detector that takes everything for speech but silence."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        return (np.abs(samples.reshape(-1, 512)).max(axis=1) > 1e-3).astype(np.float32)

    def reset(self) -> None:
        pass


@pytest.mark.parametrize("whole", [False, True])
def test_each_utterance_has_its_own_level(whole) -> None:
    """A speaker far away, after one who is near."""
    far = 0.02
    quiet = np.zeros(2 * SAMPLE_RATE, np.float32)
    sound = np.concatenate([quiet, SPEECH, quiet, SPEECH * np.float32(far), quiet])
    clips = list(segments(sound, Endpointer(detector=AnySound(), silence=1.0, pause=0.6), whole=whole))
    if whole:
        (clip,) = clips
        assert np.array_equal(clip.samples, sound[round(clip.start * SAMPLE_RATE) :][: clip.samples.size])
        return
    near, distant = clips
    assert np.abs(near.samples).max() == np.abs(SPEECH).max()
    assert 0.25 <= np.abs(distant.samples).max() <= 0.5
    assert round((distant.end - distant.start) * SAMPLE_RATE) == distant.samples.size
