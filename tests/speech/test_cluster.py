"""Archives on a Ray cluster of two nodes on this machine: each recording once and whole, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.demo.utterances import FOLDER
from edge_gemma.hub.resolve import EMBEDDED
from edge_gemma.speech.cluster import transcribe_on_ray
from edge_gemma.speech.results import Results

ray = pytest.importorskip("ray", reason="needs Ray: the extra `ray`, which is too large for the tests of every change")
pytest.importorskip("ray.data", reason="needs Ray Data")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model"),
]
COUNT = 48
OPTIONS: dict[str, Any] = {"detector": "energy", "guarded": True, "batch": 4}
NAMES = sorted(path.name for path in FOLDER.glob("*.wav"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors, and two nodes of one processor."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        made.second = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)][1]
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    inside.mkdir()
    for number in range(COUNT):
        shutil.copy(FOLDER / NAMES[number % len(NAMES)], inside / f"{number:03}.wav")
    (inside / "broken.wav").write_text("no sound")
    return inside


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.read_bytes().splitlines()]


def check(out: Path, folder: Path) -> None:
    """Each recording has one record, and its text."""
    found = records(out)
    assert Counter(Path(each["path"]).name for each in found) == {f"{number:03}.wav": 1 for number in range(COUNT)}
    with eg.Model.load("toy") as model:
        said = {name: eg.transcribe(FOLDER / name, model, **OPTIONS).text for name in NAMES}
    for each in found:
        assert each["text"] == said[NAMES[int(Path(each["path"]).stem) % len(NAMES)]] and each["segments"]
    (failure,) = map(json.loads, (out / "failed-recordings.jsonl").read_text().splitlines())
    assert failure["path"] == str(folder / "broken.wav") and "no sound" in failure["error"]


def run(cluster: Any, names: list[str], out: Path | str, **options: Any) -> Any:
    return transcribe_on_ray(cluster.address, names, str(out), model="toy", options=OPTIONS, **options)


def test_the_driver_is_killed_and_started_again(cluster: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import sys; from edge_gemma.cli import main; sys.exit(main())"
    options = ["--vad", "energy", "--batch", "4", "--model", "toy", "--ray", cluster.address]
    command = [sys.executable, "-c", program, "transcribe", str(folder), "-o", str(out), *options]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    end = time.monotonic() + 120
    while not list(out.glob("part-*")) and running.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = len(records(out))
    done = subprocess.run(
        command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False
    )
    assert done.returncode == 1 and b"failed        1" in done.stderr, done.stderr.decode()
    assert before == 0 or b"skipped" in done.stderr
    check(out, folder)


def test_urls_and_parquet(cluster: Any, folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    names = tmp_path / "names.txt"
    names.write_text(f"file://{folder}/000.wav\nin/001.wav\nfile://{folder}/missing.wav\n")
    out = tmp_path / "out"
    summary = run(cluster, [str(names)], f"file://{out}", format="parquet")
    assert summary.done == 2 and len(summary.failures) == 1
    (part,) = out.glob("part-*.parquet")
    table = pyarrow.parquet.read_table(part).to_pylist()
    assert {Path(row["path"]).name for row in table} == {"000.wav", "001.wav"}
    assert all(row["segments"][0]["text"] in row["text"] for row in table)
    assert set(Results(str(out), "parquet").done) == {row["path"] for row in table}


def test_a_node_is_killed_in_the_middle(cluster: Any, folder: Path, tmp_path: Path) -> None:
    killed = threading.Event()

    def progress(record: dict[str, Any], done: int, all: int) -> None:
        assert all == COUNT + 1
        if done == 3:
            cluster.remove_node(cluster.second, allow_graceful=False)
            killed.set()

    out = tmp_path / "out"
    summary = run(cluster, [str(folder)], out, progress=progress)
    assert killed.is_set() and summary.done == COUNT and len(summary.failures) == 1
    check(out, folder)
    again = run(cluster, [str(folder)], out)
    assert again.done == 0 and again.skipped == COUNT and len(again.failures) == 1
    # Another content under a name that is known: its record is replaced.
    shutil.copy(FOLDER / NAMES[1], folder / "000.wav")
    assert run(cluster, [f"file://{folder}"], out).skipped == 0  # other names
    assert run(cluster, [str(folder)], out).done == 1
