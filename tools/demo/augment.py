"""Data augmentation for speech: speed, other voices, echo, noise, level, clipping, and narrow frequency bands; and sounds in
which nobody speaks."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import scipy.signal
import soxr
from numpy.typing import NDArray

RATE = 16000
Floats = NDArray[np.float32]

_BINS = 128  # of the log-mel frames
_MELS = np.linspace(0, 2840.0, _BINS + 2)[1:-1]
_HERTZ = 700 * (10 ** (_MELS / 2595) - 1)
_BANDS = np.linspace(0, 2840.0, 8)


def plain(sound: Floats, rng: np.random.Generator) -> Floats:
    """The sound with silence before and after it, as in the tests."""
    return np.concatenate(
        [np.zeros(int(RATE * rng.uniform(0.1, 0.4))), sound, np.zeros(int(RATE * rng.uniform(0.2, 0.6)))]
    ).astype(np.float32)


def augmented(sound: Floats, other: Floats, rng: np.random.Generator) -> Floats:
    """The sound (n,) in [-1, 1] with random changes. `other` is another speaker, for background speech."""
    if rng.random() < 0.7:
        sound = soxr.resample(sound, rng.uniform(0.88, 1.14), 1.0, quality="LQ")
    before, after = int(RATE * rng.uniform(0.02, 0.6)), int(RATE * rng.uniform(0.1, 0.9))
    sound = np.concatenate([np.zeros(before, np.float32), sound, np.zeros(after, np.float32)])
    if rng.random() < 0.6:
        sound = _colored(sound, rng)
    if rng.random() < 0.35:
        sound = _in_room(sound, rng)
    loudness = float(np.sqrt(np.mean(sound[before : len(sound) - after] ** 2))) + 1e-6
    if rng.random() < 0.65:
        noise = _noise(len(sound), other, rng)
        sound = sound + noise * (
            loudness * 10 ** (-rng.uniform(5, 35) / 20) / (float(np.sqrt(np.mean(noise**2))) + 1e-9)
        )
    sound = sound * (10 ** (-rng.uniform(10, 40) / 20) / loudness)
    if rng.random() < 0.1:
        limit = np.quantile(np.abs(sound), rng.uniform(0.93, 0.995))
        sound = np.clip(sound, -limit, limit) * rng.uniform(1, 2)
    return np.clip(sound, -1, 1).astype(np.float32)


def _colored(sound: Floats, rng: np.random.Generator) -> Floats:
    """The sound with a random smooth frequency response; sometimes also without frequencies above 3 to 7 kHz, or below 100 to
    400 Hz."""
    size = scipy.fft.next_fast_len(len(sound), real=True)
    spectrum = scipy.fft.rfft(sound, size)
    frequencies = np.linspace(0, RATE / 2, len(spectrum))
    points = np.array([0, 150, 400, 900, 1800, 3200, 5000, 8000])
    gains = np.cumsum(rng.normal(0, 3.0, len(points)))
    response = 10 ** (np.interp(frequencies, points, gains - gains.mean()) / 20)
    if rng.random() < 0.25:
        response /= 1 + (frequencies / rng.uniform(3000, 7000)) ** 12
    if rng.random() < 0.25:
        edge = rng.uniform(100, 400)
        response *= (frequencies / edge) ** 4 / (1 + (frequencies / edge) ** 4)
    return scipy.fft.irfft(spectrum * response, size)[: len(sound)].astype(np.float32)


def _in_room(sound: Floats, rng: np.random.Generator) -> Floats:
    """The sound with an exponentially fading echo of 0.1 to 0.5 seconds."""
    seconds = rng.uniform(0.1, 0.5)
    length = int(RATE * seconds)
    echo = rng.standard_normal(length).astype(np.float32) * np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    echo[: int(RATE * rng.uniform(0.001, 0.01))] = 0
    echo *= rng.uniform(0.1, 0.7) / (np.sqrt(np.sum(echo**2)) + 1e-9)
    return sound + scipy.signal.fftconvolve(sound, echo)[: len(sound)].astype(np.float32)


def _noise(length: int, other: Floats, rng: np.random.Generator) -> Floats:
    """Noise with a random spectrum; sometimes a hum, or another speaker in the background."""
    kind = rng.random()
    if kind < 0.15:
        return np.resize(np.roll(other, int(rng.integers(max(len(other), 1)))), length).astype(np.float32)
    if kind < 0.25:
        time = np.arange(length) / RATE
        base = rng.uniform(45, 400)
        return sum(
            rng.uniform(0, 1) * np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) for k in (1, 2, 3, 5)
        ).astype(np.float32)
    size = scipy.fft.next_fast_len(length, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size).astype(np.float32))
    color = rng.uniform(0, 1.2)
    spectrum *= (np.arange(1, len(spectrum) + 1) / len(spectrum)) ** -color
    return scipy.fft.irfft(spectrum, size)[:length].astype(np.float32)


def nobody(length: int, rng: np.random.Generator) -> Floats:
    """A sound of `length` samples in which nobody speaks: one or two of noise with a spectrum of its own, tones, and knocks,
    steady or in gusts, of any level down to silence."""
    sound = np.zeros(length)
    for _ in range(int(rng.integers(1, 3))):
        kind = rng.choice(["noise", "tones", "knocks"], p=(0.6, 0.25, 0.15))
        if kind == "noise":
            spectrum = scipy.fft.rfft(rng.standard_normal(length))
            part = scipy.fft.irfft(
                spectrum * np.arange(1, len(spectrum) + 1) ** -rng.choice([0, rng.uniform(0, 1.5)]), length
            )
        elif kind == "tones":
            time, pitches = np.arange(length) / RATE, np.exp(rng.uniform(np.log(50), np.log(5000), rng.integers(1, 6)))
            part = sum(rng.uniform(0.1, 1) * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)) for pitch in pitches)
        else:
            part = np.zeros(length)
            part[rng.integers(0, length, int(rng.integers(1, 12)))] = rng.uniform(-1, 1)
            fading = np.exp(-np.arange(1600) / RATE / rng.uniform(0.001, 0.02)) * rng.standard_normal(1600)
            part = scipy.signal.fftconvolve(part, fading)[:length]
        if rng.random() < 0.4:
            moments = np.linspace(0, 1, max(2, int(length / RATE * rng.uniform(1, 25))))
            part = part * np.interp(
                np.linspace(0, 1, length), moments, rng.uniform(0, 1, len(moments)) ** rng.uniform(0, 4)
            )
        sound += rng.uniform(0.1, 1) * part / (float(np.abs(part).max()) + 1e-9)
    level = 0.0 if rng.random() < 0.05 else 10 ** (-rng.uniform(3, 75) / 20)
    return np.clip(sound / (float(np.abs(sound).max()) + 1e-9) * level, -1, 1).astype(np.float32)


def other_voice(mel: Floats, rng: np.random.Generator) -> Floats:
    """The log-mel frames (t, bins) as of another mouth: frequencies are scaled by up to 12%, as by a longer or shorter vocal
    tract, and by some percent more or less from band to band; peaks are sharper or wider."""
    factor = np.exp(rng.uniform(-0.12, 0.12) + np.interp(_MELS, _BANDS, rng.normal(0, 0.04, len(_BANDS))))
    source = 2595 * np.log10(1 + np.minimum(_HERTZ * factor, 7900) / 700)
    at = np.interp(source, _MELS, np.arange(_BINS))
    low = np.clip(at.astype(int), 0, _BINS - 2)
    weight = (at - low).astype(np.float32)
    warped = mel[:, low] * (1 - weight) + mel[:, low + 1] * weight
    if rng.random() < 0.5:
        smooth = scipy.ndimage.uniform_filter1d(warped, int(rng.integers(3, 10)), axis=1, mode="nearest")
        warped += np.float32(rng.uniform(-0.7, 0.5)) * (warped - smooth)
    warped[:, 0] = mel[:, 0]  # the lowest filter is always empty
    return warped


def masked(mel: Floats, rng: np.random.Generator) -> Floats:
    """The frames with some bands and some times replaced by the mean."""
    mel = mel.copy()
    mean = float(mel.mean())
    for _ in range(int(rng.integers(0, 3))):
        width = int(rng.integers(1, 18))
        at = int(rng.integers(0, mel.shape[1] - width))
        mel[:, at : at + width] = mean
    for _ in range(int(rng.integers(0, 3))):
        width = int(rng.integers(1, 10))
        at = int(rng.integers(0, max(1, len(mel) - width)))
        mel[at : at + width] = mean
    return mel
