"""Measuring in a separate process: running it, the CPU time that other processes take, and a limit on its memory.

`MemoryGroup` is a Linux memory cgroup, version 1 or 2, below or beside the cgroup of this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_OUR_ERROR = re.compile(r"edge-gemma(?: \w+)?: error: ")


def run_json(command: Sequence[str], text: str = "") -> dict[str, Any]:
    """Runs a command with `text` on its standard input. Returns the JSON object on the last line of its output.

    Raises EdgeGemmaError with the command's last error message when it fails, OSError when it cannot be started.
    """
    from ...errors import EdgeGemmaError

    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", errors="replace", check=False)
    lines = done.stdout.strip().splitlines()
    try:
        if done.returncode == 0 and lines:
            result: dict[str, Any] = json.loads(lines[-1])
            return result
    except ValueError:
        pass
    words = done.stderr.strip().splitlines()[-1:] or lines[-1:] or ["it printed no result."]
    if ours := _OUR_ERROR.match(words[0]):
        raise EdgeGemmaError(words[0][ours.end() :])
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with status {done.returncode}"
    raise EdgeGemmaError(f"the run of {os.path.basename(command[0])} {how}: {words[0]}", "invalid")


def cpu_of_others() -> float | None:
    """CPU seconds that processes other than this one and its children used since the system started; None if unknown."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - own.user - own.system - own.children_user - own.children_system


def summary(values: Sequence[float], form: str = ".3g") -> str:
    """Median and range: 26 (25 to 29)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


class MemoryGroup:
    """A limit on the memory of one command, page cache included. The `with` block must last until the command has ended."""

    def __init__(self, limit: int, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> None:
        """Makes the cgroup. Raises OSError where the system does not allow it."""
        self.path, self.version = _place(root, own)
        self.path.mkdir()
        try:
            (self.path / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")).write_text(str(limit))
            with contextlib.suppress(
                OSError
            ):  # no swapping: swap would hide the shortage; the file is absent without swap
                (self.path / ("memory.swappiness" if self.version == 1 else "memory.swap.max")).write_text("0")
        except OSError:
            self.remove()
            raise

    def __enter__(self) -> MemoryGroup:
        """Returns the group."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the group."""
        self.remove()

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that moves its process into the group and then runs the command."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    def peak(self) -> int | None:
        """Peak number of bytes charged to the group; None if the system does not report it."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")).read_text())
        return None

    def hits(self) -> int | None:
        """How often the limit was reached, so that pages had to be dropped; None if the system does not report it."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            if self.version == 1:
                return int((self.path / "memory.failcnt").read_text())
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            return int(events["max"])
        return None

    def remove(self) -> None:
        """Removes the group. A group that still contains a process stays."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _place(root: Path, own: Path) -> tuple[Path, int]:
    """The path at which a cgroup can be made, and the version of its interface."""
    groups = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines() if line.count(":") >= 2)
    name = f"edge-gemma-{os.getpid()}"
    for kinds, path in groups.items():
        if "memory" in kinds.split(","):
            return root / kinds / path.strip("/") / name, 1
    if "" not in groups:
        raise OSError("this process is in no memory cgroup")
    # A cgroup that contains processes cannot contain cgroups with limits, so the new one lies beside this process's.
    beside = (root / groups[""].strip("/")).parent if groups[""].strip("/") else root
    if "memory" not in (beside / "cgroup.subtree_control").read_text().split():
        raise OSError("memory limits are not delegated to this user's cgroups")
    return beside / name, 2
