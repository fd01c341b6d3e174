"""What the engine asks of the operating system: processors and quotas, mappings, fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge_gemma as eg
from support.c_build import DATA, build, run
from support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

MODEL = DATA / "dense-Q4_0.gguf"
HEARING = DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("gcc", "processors_check.c", tmp_path_factory.mktemp("processors"))


def test_no_page_has_a_guard_where_none_is_wanted(tmp_path: Path) -> None:
    """Guards, which install the handler of SIGBUS, neither while a model is opened nor afterwards."""
    program = build("gcc", "use_guard.c", tmp_path, first=("-Wl,--wrap=eg_guard_add",))
    usual, kept = map(int, run(program, *HEARING).split())
    assert usual > 0 and kept == 0


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


CPU = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"proc/self/cgroup": "0::/"}, 0),
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "max 100000"}, 0),
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "50000 100000"}, 1),  # half a processor: one thread
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "399999 100000"}, 3),
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "nonsense"}, 0),
        ({"proc/self/cgroup": "0::/", f"{CPU}/cpu.max": "-1 100000"}, 0),
        # The least of a service and the slices that it is in.
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.service",
                f"{CPU}/a.slice/cpu.max": "200000 100000",
                f"{CPU}/a.slice/b.service/cpu.max": "800000 100000",
            },
            2,
        ),
        # A container that sees the path which its group has outside, and where groups are mounted only its own group.
        ({"proc/self/cgroup": "0::/system.slice/docker-1.scope", f"{CPU}/cpu.max": "300000 100000"}, 3),
        # Version 1, alone and beside version 2.
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n0::/",
                f"{CPU}/cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                f"{CPU}/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/x/y",
                f"{CPU}/cpu/x/y/cpu.cfs_quota_us": "-1",
                f"{CPU}/cpu/x/y/cpu.cfs_period_us": "100000",
                f"{CPU}/cpu/x/cpu.cfs_quota_us": "400000",
                f"{CPU}/cpu/x/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ({"proc/self/cgroup": "3:cpuset:/x", f"{CPU}/cpu.cfs_quota_us": "100000"}, 0),
        ({"proc/self/cgroup": "no colons\n0:\n::\n0::relative"}, 0),
    ],
)
def test_quotas(processors, tmp_path, files, expected):
    quota, threads = map(int, run(processors, make(tmp_path, files)).split())
    assert quota == expected and 1 <= threads <= os.cpu_count()


MEMORY = f"{CPU}/memory"
PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 0


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, PHYSICAL),
        ({"proc/self/cgroup": "0::/a/b", f"{CPU}/a/b/memory.max": "max", f"{CPU}/a/memory.max": "8000000"}, 8_000_000),
        ({"proc/self/cgroup": "0::/a", f"{CPU}/a/memory.max": "9000000", f"{CPU}/a/memory.high": "7000000"}, 7_000_000),
        ({"proc/self/cgroup": "0::/a", f"{CPU}/unified/a/memory.max": "6000000"}, 6_000_000),
        ({"proc/self/cgroup": "4:memory:/x", f"{MEMORY}/x/memory.limit_in_bytes": "5000000"}, 5_000_000),
        # No limit, as version 1 writes it, within a group that has one; and the limit of another controller.
        (
            {
                "proc/self/cgroup": "4:memory:/x/y\n3:cpu:/x",
                f"{MEMORY}/x/y/memory.limit_in_bytes": "9223372036854771712",
                f"{MEMORY}/x/memory.limit_in_bytes": "4000000",
                f"{CPU}/cpu/x/memory.limit_in_bytes": "1000",
            },
            4_000_000,
        ),
        ({"proc/self/cgroup": "0::/a", f"{CPU}/a/memory.max": "nonsense"}, PHYSICAL),
        ({"proc/self/cgroup": "0::/a", f"{CPU}/a/memory.max": str(10**18)}, PHYSICAL),
    ],
)
def test_memory_that_is_allowed(memory, tmp_path, files, expected):
    allowed, resident = map(int, run(memory, make(tmp_path, files)).split())
    assert allowed == expected and 0 < resident < PHYSICAL


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("gcc", "memory_check.c", tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def no_shared_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("map") / "private_map.so"
    run("gcc", "-shared", "-fPIC", "-O1", ROOT / "tests" / "c" / "private_map.c", "-o", library, "-ldl")
    return library


def load(**env: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, edge_gemma as eg\nwith eg.Model.load(sys.argv[1]) as m: print(m.session().context)"
    command = [sys.executable, "-c", code, str(DATA / "e2b-Q4_0.gguf")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_file_systems_that_share_no_mappings(no_shared_maps):
    done = load(LD_PRELOAD=str(no_shared_maps))
    assert done.returncode == 0, done.stderr


def test_file_systems_that_map_nothing(no_shared_maps):
    done = load(LD_PRELOAD=str(no_shared_maps), EG_NO_MAP="1")
    assert done.returncode == 1 and "copy it to a local disk" in done.stderr


# ---- fork -------------------------------------------------------------------------------------------------------

FORK = """
import os, sys
import edge_gemma as eg

import numpy as np

model = eg.Model.load(sys.argv[1], mmproj=sys.argv[2], threads=3)
sound = np.random.default_rng(0).normal(0, 0.1, 20000)
rows = model.encode_audio(sound)
session = model.session()
session.feed_text("hello world")
here = session.generate(max_tokens=8, temperature=0, special=True).text
if sys.argv[3] != "grandchild":
    child = os.fork()
else:  # the grandchild of a process that has used the model itself
    child = os.fork()
    if not child:
        model.session().feed_text("hello")
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if not child:
    if sys.argv[3] == "sound":
        assert np.array_equal(model.encode_audio(sound), rows) and len(os.listdir("/proc/self/task")) == 3
    with model.session() as mine:
        mine.feed_text("hello world")
        same = mine.generate(max_tokens=8, temperature=0, special=True).text == here
        alive = len(os.listdir("/proc/self/task"))
    model.close()
    print(same, alive, flush=True)
    sys.exit(0 if same and alive == 3 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
session.feed_text("hello")
"""


@pytest.mark.parametrize("how", ["fork", "grandchild", "sound"])
def test_a_forked_process_uses_and_closes_the_model(how):
    """It has workers of its own, the same results, and it ends."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK, *map(str, HEARING), how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output


def test_a_fork_while_another_thread_computes():
    """The child finds the pool in use by a thread that it has not."""
    import threading

    with eg.Model.load(MODEL, threads=2) as model, model.session() as session:
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                session.rewind_to(0)
                session.feed_tokens([5] * 200)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(20):
                child = os.fork()
                if not child:
                    try:
                        with model.session() as mine:
                            mine.feed_tokens([5] * 100)
                        model.close()
                    finally:
                        os._exit(0)
                end = time.monotonic() + 30
                while not (status := os.waitpid(child, os.WNOHANG))[0]:
                    if time.monotonic() > end:
                        os.kill(child, signal.SIGKILL)
                        os.waitpid(child, 0)
                        pytest.fail("the child hangs")
                    time.sleep(0.005)
                assert status[1] == 0
        finally:
            ended.set()
            thread.join()
