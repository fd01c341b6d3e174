"""Measures what a second node of a Ray cluster saves: nodes of one processor each, on this machine.

    python tools/cluster_speed.py [MODEL [MMPROJ]] [--recordings 200] [--seconds 30] [--nodes 1 2] [--rounds 2]

The recordings are the demo's commands, one after the other, with pauses. Each run has a cluster of its own, whose head does no
work. The clock runs from the call of `transcribe_on_ray` to its end, so that the start of the actors counts. The records are
checked: one for each recording. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from edge_gemma.audio.source import SAMPLE_RATE, load_audio
from edge_gemma.demo.utterances import bundled
from edge_gemma.speech.cluster import transcribe_on_ray


def write(folder: Path, count: int, seconds: float) -> None:
    """Writes the recordings."""
    random, sounds = np.random.default_rng(0), [load_audio(utterance.path) for utterance in bundled()]
    for number in range(count):
        parts, size = list[np.ndarray](), round(seconds * SAMPLE_RATE)
        while sum(map(len, parts)) < size:
            pause = 5e-4 * random.standard_normal(round(random.uniform(0.3, 2.0) * SAMPLE_RATE))
            parts += [sounds[random.integers(len(sounds))], pause.astype(np.float32)]
        with wave.open(str(folder / f"{number:04}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((np.concatenate(parts)[:size] * 32767).astype("<i2").tobytes())


def run(nodes: int, folder: Path, options: argparse.Namespace) -> float:
    """Transcribes the recordings with so many nodes. Returns the seconds that it took."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with tempfile.TemporaryDirectory() as out:
            began = time.perf_counter()
            transcribe_on_ray(
                cluster.address,
                [str(folder)],
                out,
                model=options.model,
                mmproj=options.mmproj,
                threads=1,
                options={"detector": "energy", "guarded": True},
            )
            took = time.perf_counter() - began
            lines = [line for part in Path(out).glob("part-*.jsonl") for line in part.read_text().splitlines()]
        found = sorted(Path(json.loads(line)["path"]).name for line in lines)
        if found != sorted(path.name for path in folder.iterdir()):
            raise SystemExit(f"{len(found)} records of {len(set(found))} of {options.recordings} recordings.")
        return took
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="toy")
    parser.add_argument("mmproj", nargs="?")
    parser.add_argument("--recordings", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each recording")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    took: dict[int, list[float]] = {nodes: [] for nodes in options.nodes}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.recordings, options.seconds)
        for number in range(options.rounds):
            for nodes in options.nodes[:: 1 - 2 * (number % 2)]:
                took[nodes].append(run(nodes, Path(folder), options))
                print(f"{nodes} nodes: {took[nodes][-1]:.1f} s", flush=True)
    base = statistics.median(took[options.nodes[0]])
    for nodes, found in took.items():
        median = statistics.median(found)
        rate = options.recordings * options.seconds / median
        print(f"{nodes} nodes: {rate:.0f} times real time, {base / median:.2f} times as fast")


if __name__ == "__main__":
    main()
