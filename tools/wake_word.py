"""Measures wake words: how often a call is missed, and how often other sound is taken for one.

    python tools/wake_word.py --speech SPEECH.wav [--hours 1] [--calls 100] [WORD ...]

Calls are spoken by espeak-ng, mbrola, flite and pico2wave, as far as they are installed, in voices, speeds and pitches that
vary, with noise at three levels. Real voices are heard better than synthetic ones.
Other sound is the given recordings, again and again until half of the time is over, with noise at a level that varies, and then
noise, tones, clicks and a babble of several recordings at once. A file that ends in .i16 has raw samples at 16 kHz.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_gemma.assistant.wake import wake_detector
from edge_gemma.audio.source import SAMPLE_RATE, to_mono

Samples = NDArray[np.float32]
NOISES = (30, 15, 5)  # decibels by which the call is louder than the noise
# The program, and its voice. Those of mbrola are spoken by espeak-ng.
VOICES = [
    *(("espeak-ng", voice) for voice in ("en-us", "en-us+f4", "en-us+m3", "en-gb", "en-gb+f2", "en-gb-scotland+m1")),
    *(("mbrola", f"mb-{voice}") for voice in ("us1", "us2", "us3", "en1")),
    *(("flite", voice) for voice in ("slt", "rms", "awb", "kal16")),
    *(("pico2wave", voice) for voice in ("en-US", "en-GB")),
]
BLOCK = SAMPLE_RATE // 50


def say(text: str, voice: str, speed: int, pitch: int, program: str = "espeak-ng") -> Samples:
    """(n,) samples of a sentence that a synthesizer speaks, with so many words a minute and a pitch from 0 to 99."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/spoken.wav"
        stretch, tone = 160 / speed, 0.6 + pitch / 125
        commands = {
            "flite": ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", "-t", text, "-o", path],
            "pico2wave": [
                "pico2wave",
                "-l",
                voice,
                "-w",
                path,
                f'<speed level="{round(100 / stretch)}"><pitch level="{round(100 * tone)}">{text}</pitch></speed>',
            ],
        }
        espeak = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", path, text]
        subprocess.run(commands.get(program, espeak), capture_output=True, check=True)
        with wave.open(path) as file:
            rate, frames = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return to_mono(frames, rate)


def voices() -> list[tuple[str, str]]:
    """Those of VOICES that are installed."""
    found = [voice for voice in VOICES if shutil.which(voice[0])]
    working = []
    for program, voice in found:
        with contextlib.suppress(subprocess.CalledProcessError, wave.Error, EOFError):
            if say("hello", voice, 150, 50, program).size:
                working.append((program, voice))
    return working


def noise(count: int, chance: np.random.Generator) -> Samples:
    """(n,) samples of noise as a room has it, louder at low frequencies; root mean square 1."""
    spectrum = np.fft.rfft(chance.standard_normal(count))
    spectrum *= 1 / np.sqrt(np.maximum(np.arange(len(spectrum)), count / SAMPLE_RATE * 50))
    samples = np.fft.irfft(spectrum, count)
    return (samples / np.sqrt(np.mean(np.square(samples)) + 1e-12)).astype(np.float32)


def loudness(samples: Samples) -> float:
    """The root mean square of the louder half of the samples."""
    squares = np.sort(np.square(samples))
    return float(np.sqrt(np.mean(squares[len(squares) // 2 :]) + 1e-12))


def misses(word: str, calls: int, threshold: float | None) -> tuple[dict[int, int], float]:
    """How many calls are missed, by the noise in decibels; and the mean delay of the others after the end of the call."""
    choose, chance, installed = random.Random(1), np.random.default_rng(1), voices()
    text = word.rpartition(":")[2].replace("_", " ")
    missed, delays = dict.fromkeys(NOISES, 0), []
    for _ in range(calls):
        program, voice = choose.choice(installed)
        spoken = say(text, voice, choose.randrange(130, 180), choose.randrange(35, 65), program)
        spoken = spoken * (0.1 / loudness(spoken))
        end = int(np.flatnonzero(np.abs(spoken) > 0.005)[-1])
        for level in NOISES:
            sound = np.concatenate(
                [np.zeros(3 * SAMPLE_RATE, np.float32), spoken[:end], np.zeros(SAMPLE_RATE, np.float32)]
            )
            sound += noise(len(sound), chance) * np.float32(0.1 * 10 ** (-level / 20))
            detector, heard = wake_detector([word], threshold), None
            for at in range(0, len(sound), BLOCK):
                if detector.push(sound[at : at + BLOCK]):
                    heard = at + BLOCK
                    break
            if heard is None:
                missed[level] += 1
            else:
                delays.append(heard / SAMPLE_RATE - (3 + end / SAMPLE_RATE))
    return missed, float(np.mean(delays)) if delays else 0.0


def other_sound(speech: list[Samples], hours: float) -> Iterator[Samples]:
    """Pieces of sound, so many hours together, in which nobody calls."""
    choose, chance = random.Random(2), np.random.default_rng(2)
    total, given = round(hours * 3600 * SAMPLE_RATE), 0
    recordings = np.concatenate(speech)
    length = 20 * SAMPLE_RATE
    at = 0
    while given < total:
        background = noise(length, chance)
        if given < total / 2:
            piece = np.resize(recordings[at : at + length], length)
            at = (at + length) % len(recordings)
            piece = piece + background * np.float32(loudness(piece) * 10 ** (-choose.uniform(5, 40) / 20))
        else:
            kind = choose.choice(("noise", "babble", "clicks", "tones"))
            piece = background * np.float32(10 ** (-choose.uniform(15, 50) / 20))
            if kind == "babble":
                for _ in range(4):
                    start = choose.randrange(max(1, len(recordings) - length))
                    piece = piece + np.resize(recordings[start : start + length], length) * np.float32(0.5)
            elif kind == "clicks":
                piece[chance.integers(0, length, 60)] += 0.8
            elif kind == "tones":
                phase = 2 * np.pi * np.arange(length) / SAMPLE_RATE
                for frequency in chance.uniform(100, 3000, 3):
                    piece = piece + 0.1 * np.sin(frequency * phase).astype(np.float32)
        yield np.clip(piece, -1, 1).astype(np.float32)
        given += length


def false_accepts(
    words: list[str], speech: list[Samples], hours: float, threshold: float | None
) -> dict[str, tuple[int, float]]:
    """For each word how often it was heard, and the share of a core that hearing takes."""
    detectors = {word: wake_detector([word], threshold) for word in words}
    heard, seconds = dict.fromkeys(words, 0), dict.fromkeys(words, 0.0)
    for piece in other_sound(speech, hours):
        for word, detector in detectors.items():
            began = time.thread_time()
            for at in range(0, len(piece), BLOCK):
                heard[word] += detector.push(piece[at : at + BLOCK]) is not None
            seconds[word] += time.thread_time() - began
    return {word: (heard[word], seconds[word] / (hours * 3600)) for word in words}


def load(path: str, hours: float) -> Samples:
    """The beginning of a recording: as much as is needed."""
    if path.endswith(".i16"):
        return to_mono(np.fromfile(path, np.int16, round(hours * 3600 * SAMPLE_RATE)))
    from edge_gemma.audio.source import load_audio

    return load_audio(path)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=["okay_nabu", "hey_jarvis", "open:okay_nabu", "open:hey_jarvis"])
    parser.add_argument(
        "--speech", action="append", default=[], metavar="FILE", help="other speech; without it, no false accepts"
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--threshold", type=float, help="the least probability of a word (default: its model's)")
    parser.add_argument("--calls", type=int, default=100)
    args = parser.parse_args()
    speech = [load(path, args.hours / 2) for path in args.speech]
    accepted = false_accepts(args.words, speech, args.hours, args.threshold) if speech else {}
    print(f"| word | {' | '.join(f'missed at {level} dB' for level in NOISES)} | delay | false accepts | of a core |")
    print("| --- | " + "--- | " * (len(NOISES) + 3))
    for word in args.words:
        missed, delay = misses(word, args.calls, args.threshold)
        columns = [f"{missed[level]} of {args.calls}" for level in NOISES]
        count, share = accepted.get(word, (None, 0.0))
        columns += [
            f"{1000 * delay:.0f} ms",
            "-" if count is None else f"{count} in {args.hours:g} h",
            f"{100 * share:.2f}%",
        ]
        print(f"| {word} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
