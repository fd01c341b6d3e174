"""Measures the demo model on a long recording: sentences in many voices, with pauses, music and noise between them.

    python hour.py CLIPS MODEL.gguf MMPROJ.gguf [--minutes 60] [--split known] [--batch 1 8] [--guarded]

The recording is made of the clips of a split, which training does not contain. It is transcribed once for every batch size, and
the words must be the same. The program prints the word error rate of the recording and that of its sentences alone, without
case and punctuation, and how many words were written where nobody speaks.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import clips
import edge_gemma as eg
from edge_gemma.audio.source import SAMPLE_RATE, Source
from evaluate import distance, normal, padded

Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Spoken:
    """A clip of the recording, and when it is heard, in seconds."""

    clip: clips.Clip
    start: float
    end: float


def noise(rng: np.random.Generator, seconds: float, loudness: float) -> Sound:
    """Noise whose spectrum falls by 3 dB an octave."""
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))
    sound = np.fft.irfft(spectrum, count)
    return (sound * (loudness / sound.std())).astype(np.float32)


def music(rng: np.random.Generator, seconds: float, loudness: float) -> Sound:
    """A melody over chords: plucked notes with overtones, two to five a second."""
    sound = np.zeros(round(seconds * SAMPLE_RATE))
    beat = rng.uniform(0.2, 0.5)
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)
    for number in range(int(seconds / beat)):
        notes = [rng.choice(scale)] if number % 4 else [*rng.choice(scale[:5], 3, replace=False) / 2, rng.choice(scale)]
        at = round(number * beat * SAMPLE_RATE)
        t = np.arange(min(SAMPLE_RATE, len(sound) - at)) / SAMPLE_RATE
        for note in notes:
            tone = sum(np.sin(2 * np.pi * note * harmonic * t) / harmonic**1.5 for harmonic in (1, 2, 3, 4))
            sound[at : at + len(t)] += tone * np.exp(-4 * t)
    return (sound * (loudness / max(1e-9, sound.std()))).astype(np.float32)


def between(rng: np.random.Generator) -> Sound:
    """What is heard between two sentences: silence with a little noise, loud noise, or music, for 1 to 8 seconds."""
    kind = rng.choice(["pause", "noise", "music"], p=[0.8, 0.1, 0.1])
    pause = noise(rng, float(rng.uniform(1.0, 2.0)), 3e-4)
    if kind == "pause":
        return pause
    made = (noise if kind == "noise" else music)(rng, float(rng.uniform(2, 6)), float(rng.uniform(0.01, 0.05)))
    return np.concatenate([pause, made, pause])


class Recording(Source):
    """The clips one after the other, with what is between them. Made while it is read.

    Attributes:
        clips, samples: those of the split.
        spoken: what has been heard so far.
    """

    def __init__(self, folder: Path, split: str, minutes: float, seed: int = 1) -> None:
        super().__init__()
        self.duration = 60 * minutes
        self.spoken: list[Spoken] = []
        self.clips, self.samples = clips.load(folder, split)
        self._pieces = self._make(seed)

    def _make(self, seed: int) -> Iterator[Sound]:
        order, rng = random.Random(seed), np.random.default_rng(seed)
        made = 0
        while made < self.duration * SAMPLE_RATE:
            for clip in order.sample(self.clips, len(self.clips)):
                gap = between(rng)
                yield gap
                sound = (self.samples[clip.begin : clip.end] / 32768).astype(np.float32)
                begin = made + len(gap)
                made = begin + len(sound)
                self.spoken.append(Spoken(clip, begin / SAMPLE_RATE, made / SAMPLE_RATE))
                yield sound
                if made >= self.duration * SAMPLE_RATE:
                    break
        yield noise(rng, 1.0, 3e-4)

    def next_block(self, timeout: float | None) -> Sound | None:
        return next(self._pieces, None)


def errors(spoken: Sequence[Spoken], segments: Sequence[eg.Segment]) -> tuple[int, int]:
    """Edits of the words of sentences, and words of segments in which nobody speaks.

    A segment belongs to the sentences that it overlaps: sentences that share a segment are compared together.
    """
    taken = [[s for s in segments if min(s.end, one.end) - max(s.start, one.start) > 0.1] for one in spoken]
    claimed = {id(segment) for found in taken for segment in found}
    nobody = sum(len(normal(segment.text)) for segment in segments if id(segment) not in claimed)
    edits, right, said = 0, list[str](), list[str]()
    for at, (one, found) in enumerate(zip(spoken, taken, strict=True)):
        right += normal(one.clip.sentence.text)
        shared = at and found and taken[at - 1] and found[0] is taken[at - 1][-1]
        said += [word for segment in found[bool(shared) :] for word in normal(segment.text)]
        following = taken[at + 1] if at + 1 < len(taken) else []
        if not (found and following and found[-1] is following[0]):
            edits += distance(right, said)
            right, said = [], []
    return edits, nobody


def alone_errors(model: eg.Model, recording: Recording) -> Iterator[int]:
    """Edits of each sentence of a recording, heard by itself."""
    with eg.Transcriber(model, batch=1, detector="none") as transcriber:
        for one in recording.spoken:
            said, _ = transcriber.recognize(padded(recording.samples[one.clip.begin : one.clip.end]))
            yield distance(normal(said), normal(one.clip.sentence.text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--split", default="known", choices=["known", "unknown"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8], help="sizes to compare (default: 1 2 8)")
    parser.add_argument("--guarded", action="store_true", help="with the guards of archives")
    parser.add_argument("--detector", default="auto")
    options = parser.parse_args()
    texts = set()
    with eg.Model.load(options.model, mmproj=options.mmproj) as model:
        for batch in options.batch:
            recording = Recording(options.recordings, options.split, options.minutes)
            with eg.Transcriber(model, batch=batch, guarded=options.guarded, detector=options.detector) as transcriber:
                segments = list(transcriber.segments(recording))
            texts.add("\n".join(segment.text for segment in segments))
            words = sum(len(normal(one.clip.sentence.text)) for one in recording.spoken)
            edits, nobody = errors(recording.spoken, segments)
            print(
                f"batch {batch}: {len(recording.spoken)} sentences, {len(segments)} segments, "
                f"WER {100 * edits / words:.2f}, {nobody} words where nobody speaks",
                flush=True,
            )
        alone = sum(alone_errors(model, recording))
        print(f"the sentences alone: WER {100 * alone / words:.2f}")
    print(f"the words {'are the same' if len(texts) == 1 else 'DIFFER'}")
    raise SystemExit(len(texts) != 1)


if __name__ == "__main__":
    main()
