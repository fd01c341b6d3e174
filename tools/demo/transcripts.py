"""Measures what transcripts of the demo model tell about themselves: probabilities and times of words, the language of a
segment, and whether anybody speaks in it.

    python transcripts.py CLIPS MODEL.gguf MMPROJ.gguf [--count 300] [--seed 1]

Probabilities: sentences of both splits that training does not contain. A word of the transcript is wrong if it replaces another
or was not said; a word that is missing counts as an error of the word behind it. The program prints which share of the errors
lies in words that are called doubtful, and which share of the right words is called so.

Times: such sentences are spoken by espeak-ng, with its own voices and those of mbrola, and it tells when each word began
and ended. The program prints medians and 90th percentiles of the errors in seconds, beside those of an alignment that knows
only the length of words and where the sound is quiet ("by length alone"). "noise" is white noise, 15 dB below the speech.

Languages: how many sentences are given the right one, among all and among those whose language has a probability above 0.8.
Speech: of sentences, of other speech and of noises, how many have a probability above 0.5 that nobody speaks.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import clips
import edge_gemma as eg
from contradictions import OTHER
from edge_gemma.speech.alignment import align, quietness
from edge_gemma.speech.transcript import DOUBTFUL
from edge_gemma.speech.word_times import STEP
from timed_speech import RATE, VOICES, Espeak, TimedWord, draw
from words import LANGUAGES

NAMES = {"en": "English", "es": "Spanish", "de": "German"}
BEFORE, AFTER = 0.3, 0.5  # seconds of silence around a sentence


def padded(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sound with silence around it."""
    return np.pad(sound, (round(BEFORE * RATE), round(AFTER * RATE)))


def normal(word: str) -> str:
    """A word without case and punctuation."""
    return "".join(re.findall(r"[\w:]+", word.casefold()))


class Writer:
    """Writes down sentences, each as one segment."""

    def __init__(self, model: eg.Model, word_times: bool) -> None:
        self._transcribers = {
            name: eg.Transcriber(model, NAMES[name], detector="none", word_times=word_times) for name in LANGUAGES
        }

    def segment(self, sound: NDArray[np.float32], language: str) -> eg.Segment:
        """What is said in (n,) samples."""
        (segment,) = self._transcribers[language].segments((sound, RATE))
        return segment


# ---- probabilities ---------------------------------------------------------------------------------------------------


def wrong_words(words: Sequence[eg.Word], said: str) -> list[int]:
    """How many errors each word of a transcript has."""
    found, wanted = [normal(word.word) for word in words], [normal(word) for word in said.split()]
    errors = [0] * len(found)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, found, wanted, autojunk=False).get_opcodes():
        if kind == "equal" or not found:
            continue
        for i in range(a, b):
            errors[i] += 1
        errors[min(b, len(found) - 1)] += max(0, (d - c) - (b - a))
    return errors


def probabilities(model: eg.Model, folder: Path, split: str, count: int, seed: int) -> str:
    """Which share of the errors, and of the right words, is doubtful."""
    entries, samples = clips.load(folder, split)
    writer, measured = Writer(model, word_times=False), []
    for clip in random.Random(seed).sample(entries, min(count, len(entries))):
        sound = padded(samples[clip.begin : clip.end].astype(np.float32) / 32768)
        words = writer.segment(sound, clip.sentence.language).words
        for word, errors in zip(words, wrong_words(words, clip.sentence.text), strict=True):
            measured.append((word.probability or 0.0, errors))
    errors = sum(n for _, n in measured)
    right = [p for p, n in measured if not n]
    lines = [f"{split}: {len(measured)} words, {errors} errors"]
    for threshold in (0.5, 0.7, 0.8, DOUBTFUL, 0.95):
        held = sum(n for p, n in measured if p < threshold)
        flagged = sum(p < threshold for p in right)
        lines.append(
            f"  below {threshold}: {100 * held / max(errors, 1):.0f}% of the errors, "
            f"{100 * flagged / max(len(right), 1):.1f}% of the right words"
            + ("  (doubtful)" if threshold == DOUBTFUL else "")
        )
    return "\n".join(lines)


# ---- times -----------------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int) -> Iterator[tuple[str, clips.domain.Sentence]]:
    """Sentences that training does not contain, in turn for each synthesizer."""
    for number in range(count):
        engine = ("espeak", "mbrola")[number % 2]
        rng = random.Random(f"times {seed} {number}")
        language = rng.choice(sorted(VOICES[engine]))
        yield engine, clips.sentence(f"times {seed} {number}", language, True)


def errors_of(found: Sequence[tuple[str, float, float]], said: Sequence[TimedWord]) -> Iterator[tuple[str, float]]:
    """("start" or "end", error in seconds) of the words that are both in a transcript and in what was said."""
    a, b = [normal(word) for word, _, _ in found], [normal(word.word) for word in said]
    for same in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        for i in range(same.size):
            (_, start, end), word = found[same.a + i], said[same.b + i]
            if word.start is not None:
                yield "start", start - (word.start + BEFORE)
            if word.end is not None:
                yield "end", end - (word.end + BEFORE)


def times(model: eg.Model, count: int, seed: int) -> str:
    """The errors of starts and ends."""
    espeak, writer = Espeak(), Writer(model, word_times=True)
    errors: dict[tuple[str, str], list[float]] = {}

    def note(group: str, found: Sequence[tuple[str, float, float]], said: Sequence[TimedWord]) -> None:
        for kind, error in errors_of(found, said):
            errors.setdefault((group, kind), []).append(error)

    for number, (engine, what) in enumerate(sentences(count, seed)):
        speech, said = espeak.speak(what.text, *draw(engine, what.language, random.Random(f"voice {seed} {number}")))
        sound = padded(speech)
        level = float(np.sqrt(np.mean(np.square(speech)))) * 10 ** (-15 / 20)
        noise = level * np.random.default_rng(number).standard_normal(len(sound))
        for condition, heard in (("quiet", sound), ("noise", sound + noise.astype(np.float32))):
            segment = writer.segment(heard, what.language)
            timed = [(word.word, word.start or 0.0, word.end or 0.0) for word in segment.words]
            note(f"{engine}, {condition}", timed, said)
            names = [word.word for word in segment.words]
            plain = align(names, [None] * len(names), quietness(heard), STEP)
            note(f"{engine}, {condition}, by length alone", [(n, *t) for n, t in zip(names, plain, strict=True)], said)
    lines = []
    for (group, kind), found in sorted(errors.items()):
        sizes = np.abs(found)
        lines.append(
            f"{group}, {kind}: median {np.median(sizes):.3f} s, 90% below {np.percentile(sizes, 90):.3f} s, "
            f"bias {np.median(found):+.3f} s, {len(found)} words"
        )
    return "\n".join(lines)


# ---- languages and speech ---------------------------------------------------------------------------------------------


def noises(count: int, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Sounds of 1 to 4 s in which nobody speaks, and what they are."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = ("white", "brown", "tones", "gusts", "faint")[number % 5]
        size = int(rng.uniform(1, 4) * RATE)
        sound = rng.standard_normal(size)
        if kind == "brown":
            sound = np.cumsum(sound)
            sound -= np.convolve(sound, np.ones(400) / 400, "same")
        elif kind == "tones":
            at = np.arange(size) / RATE
            sound = np.sum([np.sin(2 * np.pi * pitch * at) for pitch in rng.uniform(80, 2000, 4)], axis=0)
        elif kind == "gusts":
            sound *= np.repeat(rng.uniform(0, 1, size // 800 + 1) ** 3, 800)[:size]
        loudest = 1e-3 if kind == "faint" else rng.uniform(0.01, 0.5)
        yield kind, (loudest * sound / np.abs(sound).max()).astype(np.float32)


def details(model: eg.Model, folder: Path, count: int, seed: int) -> str:
    """Which languages are right, and in which sounds nobody seems to speak."""
    lines: list[str] = []
    silent: dict[str, list[float]] = {}
    with eg.Transcriber(model, detector="none", detect_language="segments", no_speech=True) as transcriber:

        def tell(group: str, sound: NDArray[np.float32]) -> eg.Segment:
            (segment,) = transcriber.segments((sound, RATE))
            silent.setdefault(group, []).append(segment.no_speech_prob or 0.0)
            return segment

        for split in ("known", "unknown"):
            entries, samples = clips.load(folder, split)
            found: list[tuple[bool, float]] = []
            for clip in random.Random(seed).sample(entries, min(count, len(entries))):
                segment = tell(split, padded(samples[clip.begin : clip.end].astype(np.float32) / 32768))
                right = segment.language == NAMES[clip.sentence.language]
                found.append((right, segment.language_probability or 0.0))
            sure = [right for right, probability in found if probability > 0.8]
            lines.append(
                f"{split}: {100 * np.mean([right for right, _ in found]):.1f}% of {len(found)} languages right; "
                f"{100 * np.mean(sure):.1f}% of the {len(sure)} above 0.8"
            )
        espeak = Espeak()
        for language, texts in OTHER.items():
            for number, text in enumerate(texts.split(" | ")):
                voice = draw("espeak", language, random.Random(f"other {seed} {number}"))
                tell("other speech", padded(espeak.speak(text, *voice)[0]))
        for kind, sound in noises(count, seed):
            tell(kind, sound)
    for group, values in silent.items():
        above = 100 * np.mean(np.array(values) > 0.5)
        lines.append(f"nobody speaks: {above:.0f}% of {len(values)} {group}, median {np.median(values):.2g}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with eg.Model.load(options.model, mmproj=options.mmproj, threads=options.threads) as model:
        for split in ("known", "unknown"):
            print(probabilities(model, options.recordings, split, options.count, options.seed), flush=True)
        print(times(model, options.count, options.seed), flush=True)
        print(details(model, options.recordings, options.count, options.seed))


if __name__ == "__main__":
    main()
