"""Models whose weights do not fit their memory limit; what is given back; pressure by others; disks that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.cli.bench.process import MemoryGroup
from edge_gemma.engine.memory import memory_need
from support.paths import DATA, ROOT

PROMPT = [20 + 7 * i % 200 for i in range(300)]
GREEDY = eg.Sampling(temperature=0)


def answer(model: eg.Model, pieces: tuple[int, ...] = (300,), tokens: int = 12) -> tuple[np.ndarray, dict[str, Any]]:
    """The logits after the prompt, fed in pieces, and some drawn tokens; and the session's stats."""
    with model.session(context=400) as session:
        at = 0
        for piece in pieces:
            session.feed_tokens(PROMPT[at : at + piece])
            at += piece
        for _ in range(tokens):
            session.next(GREEDY)
        return session.logits(), session.stats


@pytest.mark.parametrize("shape", ["moe", "dense", "e2b", "e4b"])
def test_the_same_bits(shape: str) -> None:
    path = DATA / f"{shape}-Q4_0.gguf"
    with eg.Model.load(path, threads=2) as whole, eg.Model.load(path, threads=2, memory_limit=1) as limited:
        assert whole.weight_budget == 0 < limited.weight_budget
        right, stats = answer(whole)
        assert stats["weight_bytes"] == stats["expert_hits"] == stats["expert_misses"] == 0
        for pieces in ((300,), (1, 130, 169), (128, 172)):
            found, stats = answer(limited, pieces)
            assert np.array_equal(found, right)
        assert stats["weight_bytes"] > 0
        assert (stats["expert_misses"] > 0) == (limited.config.experts > 0)


def test_sessions_within_the_limit_of_a_dense_model() -> None:
    """Its weights do not count in full, since they are read when they are needed; what that costs is told."""
    path = DATA / "dense-Q4_0.gguf"
    with eg.Model.load(path, threads=2) as whole, eg.Model.load(path, threads=2, memory_limit=1) as limited:
        need, least = (memory_need(model, 256) for model in (whole, limited))
        assert least.weights == limited.weight_least < need.weights
        assert memory_need(limited, 256, fresh=True).weights == need.weights  # a new process is planned to hold all
        with pytest.warns(
            UserWarning, match=r"dense-Q4_0.gguf: 895 kB of weights .* are read from the disk for every token"
        ):
            session = limited.session(256, memory_limit="10GB")
        session.feed_tokens([2, 5, 7])
        assert session.next(GREEDY).id >= 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole.session(256, memory_limit="10GB").close()


def test_a_batch_counts_what_it_reads() -> None:
    with eg.Model.load(DATA / "moe-Q4_0.gguf", threads=2, memory_limit=1) as model:
        sessions = [model.session(context=200) for _ in range(2)]
        for session in sessions:
            session.feed_tokens(PROMPT[:20])
        before = [session.stats["weight_bytes"] for session in sessions]
        eg.next_tokens(sessions, GREEDY)
        read = [session.stats["weight_bytes"] - b for session, b in zip(sessions, before, strict=True)]
        assert read[0] == read[1] > 0


def test_wrong_limits() -> None:
    for limit in (-1, 0, "much"):
        with pytest.raises(eg.EdgeGemmaError) as caught:
            eg.Model.load(DATA / "moe-Q4_0.gguf", memory_limit=limit)
        assert caught.value.code == "argument"


FORKED = """
import os, sys
import numpy as np
import edge_gemma as eg
model = eg.Model.load(sys.argv[1], threads=2, memory_limit=1)
def logits():
    with model.session(context=200) as session:
        session.feed_tokens(list(range(20, 180)))
        return session.logits()
right = logits()
child = os.fork()
if not child:
    same = np.array_equal(logits(), right)
    model.close()
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and np.array_equal(logits(), right)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_by_itself() -> None:
    run(FORKED, str(DATA / "moe-Q4_0.gguf"))


def run(code: str, *arguments: str, group: MemoryGroup | None = None) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(
        group.command(command) if group else command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- giving back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("shape", ["moe", "e2b"])
def test_trim_gives_back_and_changes_nothing(shape: str, limit: int | None) -> None:
    encoders = DATA / f"vision-{shape}.gguf"
    with eg.Model.load(DATA / f"{shape}-Q4_0.gguf", mmproj=encoders, threads=2, memory_limit=limit) as model:
        picture = np.random.default_rng(1).integers(0, 256, (96, 144, 3), np.uint8)
        right, _ = answer(model)
        soft = model.encode_image(picture, 70)
        before = model.memory()
        model.trim()
        after = model.memory()
        assert after["workspace"] == 0 < before["workspace"]
        if sys.platform == "linux":
            assert after["resident"] < 0.2 * before["resident"]
        assert np.array_equal(answer(model)[0], right)
        assert np.array_equal(model.encode_image(picture, 70), soft)


@pytest.mark.parametrize("limit", [None, 1])
def test_trim_while_calls_are_running(limit: int | None) -> None:
    with eg.Model.load(DATA / "moe-Q4_0.gguf", threads=2, memory_limit=limit) as model:
        right, _ = answer(model)
        ended = threading.Event()

        def trim() -> None:
            while not ended.is_set():
                model.trim()

        trimmer = threading.Thread(target=trim)
        trimmer.start()
        try:
            found = [answer(model)[0] for _ in range(5)]
        finally:
            ended.set()
            trimmer.join()
        assert all(np.array_equal(right, each) for each in found)


PRESSED = """
import resource, subprocess, sys
import numpy as np
import edge_gemma as eg
path, limit = sys.argv[1], int(sys.argv[2]) or None
def logits(model):
    with model.session(context=400) as session:
        session.feed_tokens([20 + 7 * i % 200 for i in range(300)])
        for _ in range(5):
            session.next(eg.Sampling(temperature=0))
        return session.logits()
model = eg.Model.load(path, threads=2, memory_limit=limit)
right = logits(model)
press = 'kept = [b"x" * 1_000_000 for _ in range(1000)]'   # until it is killed
evicted = 0
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    other = subprocess.Popen([sys.executable, "-c", press])
    while other.poll() is None:
        assert np.array_equal(logits(model), right)
    assert other.returncode == -9
    assert np.array_equal(logits(model), right)
    evicted += resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    model.close()
    model = eg.Model.load(path, threads=2, memory_limit=limit)   # reopened under whatever is left
    assert np.array_equal(logits(model), right)
print(evicted)
"""


@pytest.mark.parametrize("limit", [0, 1])
def test_another_process_presses_memory(limit: int, tmp_path: Any) -> None:
    """Another process of the same memory cgroup takes all of it, again and again: pages of the model are evicted, the model is
    reopened, and the results stay equal."""
    copy = tmp_path / "model.gguf"
    copy.write_bytes((DATA / "moe-Q4_0.gguf").read_bytes())
    with open(copy, "rb") as file:  # its pages must be those of the group
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        group = MemoryGroup(200_000_000)
    except OSError as error:
        pytest.skip(f"no memory cgroup: {error}")
    with group:
        evicted = int(run(PRESSED, str(copy), str(limit), group=group))
        assert evicted > 0 or limit  # by faults, where the store does not read it
        assert (group.hits() or 0) > 0


# ---- a disk that fails ------------------------------------------------------------------------------------------

CUT = """
import os, sys
import edge_gemma as eg
path, limit, threads = sys.argv[1], int(sys.argv[2]) or None, int(sys.argv[3])
model = eg.Model.load(path, threads=threads, memory_limit=limit)
session = model.session(context=400)
session.feed_tokens([20 + 7 * i % 200 for i in range(100)])
for i, _ in enumerate(range(3)):
    session.next(eg.Sampling(temperature=0))
os.truncate(path, os.path.getsize(path) // 2)
for _ in range(2):   # and it stays an error
    try:
        session.forward([30] * 100)
    except eg.EdgeGemmaError as error:
        assert error.code == "file" and isinstance(error, OSError) and path in str(error), error
    else:
        raise SystemExit("no error")
model.close()
print("closed")
"""


@pytest.mark.skipif(os.name != "posix", reason="files that are mapped cannot be cut elsewhere")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("shape", ["moe", "dense"])
def test_a_file_that_is_cut_while_it_is_read(shape: str, limit: int, threads: int, tmp_path: Any) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes((DATA / f"{shape}-Q4_0.gguf").read_bytes())
    assert run(CUT, str(copy), str(limit), str(threads)) == "closed\n"


@pytest.mark.skipif(os.name != "posix", reason="files that are mapped cannot be cut elsewhere")
def test_encoders_that_are_cut(tmp_path: Any) -> None:
    copies = []
    for name in ("audio-e2b.gguf", "vision-e2b.gguf"):
        copies.append(tmp_path / name)
        copies[-1].write_bytes((DATA / name).read_bytes())
    code = """
import os, sys
import numpy as np
import edge_gemma as eg
text, sound, picture = sys.argv[1:]
with eg.Model.load(text, mmproj=sound, threads=2) as model:
    os.truncate(sound, os.path.getsize(sound) // 2)
    try:
        model.encode_audio(np.full(16000, 0.1))
    except eg.EdgeGemmaError as error:
        assert error.code == "file" and sound in str(error)
    else:
        raise SystemExit("no error")
    model.session().feed_tokens([5, 6])
with eg.Model.load(text, mmproj=picture, threads=2) as model:
    os.truncate(picture, os.path.getsize(picture) // 2)
    try:
        model.encode_image(np.zeros((96, 96, 3), np.uint8), 70)
    except eg.EdgeGemmaError as error:
        assert error.code == "file" and picture in str(error)
    else:
        raise SystemExit("no error")
"""
    run(code, str(DATA / "e2b-Q4_0.gguf"), *map(str, copies))


FOREIGN = """
import mmap, os, signal, sys
import edge_gemma as eg
model = eg.Model.load(sys.argv[1], threads=2)
model.session().feed_tokens([5, 6, 7])
if sys.argv[2] == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
elif sys.argv[2] == "ignored":
    signal.signal(signal.SIGBUS, signal.SIG_IGN)   # above the engine's
    os.kill(os.getpid(), signal.SIGBUS)
else:
    with open(sys.argv[3], "wb+") as file:
        file.truncate(8192)
        pages = mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ)
        file.truncate(0)
        pages[5000]
print("alive")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("how", "dies"), [("sent", True), ("ignored", False), ("fault", True)])
def test_signals_that_are_not_the_engines(how: str, dies: bool, tmp_path: Any) -> None:
    """They do what they would have done without an open model."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        FOREIGN,
        str(DATA / "dense-Q4_0.gguf"),
        how,
        str(tmp_path / "file"),
    ]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == ((-signal.SIGBUS, "") if dies else (0, "alive\n")), done.stderr
