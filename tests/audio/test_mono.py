"""From several channels to one: nothing that is in a channel is lost, and ordinary recordings are their mean, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gemma.audio.mono import Mixer, mean
from edge_gemma.audio.source import SAMPLE_RATE, load_audio, to_mono
from support.sounds import tone

RNG = np.random.default_rng(5)
NOISE = RNG.normal(0, 0.1, (3 * SAMPLE_RATE, 8)).astype(np.float32)
SPEECH = (NOISE[:, 0] * np.repeat(RNG.uniform(0, 1, 30), SAMPLE_RATE // 10)).astype(np.float32)


def stack(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "frames",
    [
        stack(SPEECH, SPEECH),
        stack(SPEECH, 0.3 * SPEECH),
        stack(SPEECH, np.zeros_like(SPEECH)),  # 6 dB quieter, as ever
        stack(SPEECH, NOISE[:, 1]),
        stack(SPEECH, np.roll(SPEECH, 37)),
        stack(SPEECH, -0.1 * SPEECH),
        stack(SPEECH + 0.2, NOISE[:, 2] - 0.2),
        NOISE,
        np.zeros((1000, 2), np.float32),
    ],
)
def test_ordinary_recordings_are_their_mean(frames) -> None:
    assert np.array_equal(to_mono(frames), mean(frames))


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (3, 1)])
def test_channels_that_cancel_each_other(at) -> None:
    channels = [np.zeros_like(SPEECH)] * (max(at) + 1)
    channels[at[0]], channels[at[1]] = SPEECH, -SPEECH
    assert np.array_equal(np.abs(to_mono(stack(*channels))), np.abs(SPEECH))
    noisy = [channel + 0.05 * noise for channel, noise in zip(channels, NOISE.T, strict=False)]
    mono = to_mono(stack(*noisy))
    assert np.corrcoef(np.abs(mono), np.abs(SPEECH))[0, 1] > 0.9
    assert mono.std() > 0.8 * SPEECH.std()


def test_channels_of_different_loudness_and_opposite_sign() -> None:
    louder = to_mono(stack(0.8 * SPEECH, -SPEECH))
    assert np.array_equal(louder, -SPEECH)


@pytest.mark.parametrize("hertz", [0, 50, 60])
def test_an_offset_or_hum_does_not_hide_that_channels_cancel(hertz) -> None:
    common = 0.1 * np.cos(2 * np.pi * hertz * np.arange(SPEECH.size) / SAMPLE_RATE)
    for rate in (8000, 16000, 48000):
        mono = to_mono(stack(SPEECH + common, -SPEECH + common), rate)
        expected = to_mono((SPEECH + common).astype(np.float32), rate)
        other = to_mono((-SPEECH + common).astype(np.float32), rate)
        assert np.minimum(np.abs(mono - expected), np.abs(mono - other)).max() < 1e-6


def test_one_channel_of_many_with_sound() -> None:
    frames = np.zeros((SPEECH.size, 6), np.float32)
    frames[:, 2] = SPEECH
    assert np.array_equal(to_mono(frames), SPEECH)
    assert np.array_equal(load_audio((frames * 32768).round().astype(np.int16)), (SPEECH * 32768).round() / 32768)


def test_changes_make_no_click() -> None:
    """A recording whose second channel turns over, twice, and goes silent."""
    wave = tone(4, hertz=200)
    sign = np.repeat([1, -1, 1, 0], SAMPLE_RATE)
    mono = to_mono(stack(wave, sign * wave))
    steps = np.abs(np.diff(mono))
    assert steps.max() < 1.5 * np.abs(np.diff(wave)).max()
    for second in range(3):
        quiet = mono[second * SAMPLE_RATE + 8000 : (second + 1) * SAMPLE_RATE]
        assert quiet.std() > 0.9 * wave.std()
    lost = np.abs(mono[SAMPLE_RATE : 2 * SAMPLE_RATE]) < 0.1 * np.abs(wave[SAMPLE_RATE : 2 * SAMPLE_RATE])
    assert lost.sum() < 0.7 * SAMPLE_RATE


def test_silence_before_sound_that_cancels() -> None:
    frames = np.concatenate([np.zeros((SAMPLE_RATE, 2), np.float32), stack(SPEECH, -SPEECH)])
    assert np.array_equal(to_mono(frames)[SAMPLE_RATE:], SPEECH)


@settings(max_examples=30)
@given(
    rate=st.sampled_from([8000, 16000, 44100]),
    signs=st.lists(st.sampled_from([-1, 0, 1]), min_size=6, max_size=6),
    cuts=st.lists(st.integers(0, 24000), max_size=8),
)
def test_cutting_makes_no_difference(rate, signs, cuts) -> None:
    samples = RNG.integers(-9000, 9000, 24000).astype(np.int16)
    frames = (np.stack([samples, samples * np.repeat(signs, 4000)], axis=1) / 32768).astype(np.float32)
    whole, parts = Mixer(rate), Mixer(rate)
    expected = np.concatenate([whole.push(frames), whole.finish()])
    pieces = [parts.push(part) for part in np.split(frames, sorted(cuts))]
    found = np.concatenate([*pieces, parts.finish()])
    assert expected.size == 24000 and np.array_equal(found, expected)
