"""Pushes long audio through one audio encoder: its memory must not grow and its latency must not drift.

usage: python tools/soak_audio.py MODEL.gguf MMPROJ.gguf RECORDING [--minutes 60] [--chunk-ms 160] [--threads 2]

The recording is repeated as often as needed. For every tenth of the time, the program prints the median and the largest time
of a push, and the resident memory. At the end it compares the soft tokens with those of a fresh stream.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import edge_gemma as eg
from edge_gemma.audio.source import load_audio


def resident_kb() -> int:
    """Resident memory of this process that does not belong to files."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def main() -> None:
    """Pushes and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("recording")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--chunk-ms", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    sound = load_audio(arguments.recording)
    chunk = arguments.chunk_ms * 16
    sound = np.resize(sound, -(-sound.size // chunk) * chunk)  # a whole number of chunks, so that they repeat exactly
    per_round = sound.size // chunk
    pushes = int(arguments.minutes * 60000 / arguments.chunk_ms) // per_round * per_round
    with eg.Model.load(arguments.model, mmproj=arguments.mmproj, threads=arguments.threads) as model:
        with model.audio_encoder() as stream:
            times: list[float] = []
            print("minute  median ms  largest ms  resident MB")
            for number in range(pushes):
                at = number % per_round * chunk
                start = time.perf_counter()
                last = stream.push(sound[at : at + chunk])
                times.append(time.perf_counter() - start)
                if (number + 1) % max(pushes // 10, 1) == 0:
                    minute = (number + 1) * arguments.chunk_ms / 60000
                    median, largest = statistics.median(times) * 1e3, max(times) * 1e3
                    print(f"{minute:6.1f}  {median:9.2f}  {largest:10.2f}  {resident_kb() / 1024:11.2f}", flush=True)
                    times = []
        rounds = -(-20 * 16000 // sound.size)  # more than the encoder remembers
        with model.audio_encoder() as fresh:
            same = fresh.push(np.tile(sound, rounds))[-len(last) :]
        print("the last tokens equal those of a fresh stream:", np.array_equal(last, same))


if __name__ == "__main__":
    main()
