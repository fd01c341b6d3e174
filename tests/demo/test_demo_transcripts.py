"""What transcripts of the embedded model tell about themselves, on its own recordings: nothing here depends on its words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.hub.resolve import EMBEDDED, EMBEDDED_MMPROJ

RECORDINGS = sorted((Path(eg.__file__).parent / "demo" / "data" / "utterances").glob("*.wav"))


@pytest.fixture(scope="module")
def transcriber() -> Iterator[eg.Transcriber]:
    with (
        eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ) as model,
        eg.Transcriber(model, detector="none", word_times=True) as opened,
    ):
        yield opened


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_words_lie_where_there_is_sound(path: Path, transcriber: eg.Transcriber) -> None:
    with eg.open_audio(path) as source:
        samples = np.concatenate(list(source))
    samples = np.concatenate([np.zeros(16000, np.float32), samples, np.zeros(8000, np.float32)])
    (segment,) = transcriber.segments((samples, 16000))
    assert " ".join(word.word for word in segment.words) == segment.text
    times = [(word.start or 0.0, word.end or 0.0) for word in segment.words]
    assert all(a < b for a, b in times) and all(before[1] <= after[0] for before, after in pairwise(times))
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max()) / 16000
    assert times[0][0] == pytest.approx(loud[0], abs=0.2) and times[-1][1] == pytest.approx(loud[-1], abs=0.25)
    longest = max(segment.words, key=lambda word: len(word.word))
    assert (longest.end or 0.0) - (longest.start or 0.0) > 0.12


@pytest.mark.parametrize(("less", "more"), [(0.0, 0.03), (0.0, 0.1), (0.03, 0.1), (0.1, 0.3)])
def test_noise_makes_words_less_certain(transcriber: eg.Transcriber, less: float, more: float) -> None:
    """The louder the noise, the lower the mean log-probability of what is made of it."""
    sure = []
    for level in (less, more):
        found = []
        for number, path in enumerate(RECORDINGS):
            with eg.open_audio(path) as source:
                samples = np.concatenate(list(source))
            noise = level * np.random.default_rng(number).standard_normal(len(samples))
            (segment,) = transcriber.segments(((samples + noise).astype(np.float32), 16000))
            assert segment.avg_logprob is not None
            found.append(segment.avg_logprob)
        sure.append(np.mean(found))
    assert sure[0] > sure[1]


def test_speech_is_told_from_noise_and_languages_from_each_other() -> None:
    languages = {"en": "English", "es": "Spanish", "de": "German"}
    with (
        eg.Model.load(EMBEDDED, mmproj=EMBEDDED_MMPROJ) as model,
        eg.Transcriber(model, detector="none", detect_language="segments", no_speech=True) as transcriber,
    ):
        right = 0
        for path in RECORDINGS:
            (segment,) = transcriber.segments(path)
            assert segment.no_speech_prob is not None and segment.no_speech_prob < 0.1
            assert 0.0 < (segment.language_probability or 0.0) <= 1
            right += segment.language == languages[path.stem.partition("-")[2]]
        assert right == len(RECORDINGS)
        for seed in range(3):
            noise = 0.05 * np.random.default_rng(seed).standard_normal(32000)
            (segment,) = transcriber.segments((noise.astype(np.float32), 16000))
            assert segment.no_speech_prob is not None and segment.no_speech_prob > 0.3
