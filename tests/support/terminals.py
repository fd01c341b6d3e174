"""The command line as processes: pipes and pseudo-terminals."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

from support.paths import ROOT
from support.processes import read_output


def environment(**changes: str) -> dict[str, str]:
    """That of this process without a chosen model, and with UTF-8."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_GEMMA_M")}
    return env | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | changes


def edge_gemma(*args: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `edge-gemma args` with `text` on its standard input."""
    command = [sys.executable, "-m", "edge_gemma", *args]
    options: dict[str, Any] = {"input": text, "capture_output": True, "encoding": "utf-8", "timeout": 60}
    return subprocess.run(command, env=environment(**env), check=False, **options)


class Terminal:
    """A process at the other end of a pseudo-terminal of 80 columns; `screen` has all that it wrote."""

    def __init__(self, *args: str, term: str = "dumb", **env: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            variables = environment(TERM=term, **env)
            variables.pop("COLUMNS", None)
            os.execve(sys.executable, [sys.executable, "-m", "edge_gemma", *args], variables)
        self.text = self.screen = ""

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, seconds: float = 20) -> str:
        """Reads until the output since the last match has the pattern; what matched."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self.text[-500:]!r}"
            piece = os.read(self.fd, 65536).decode("utf-8", "replace")
            if "\x1b[6n" in piece:  # a request for the position of the cursor
                os.write(self.fd, b"\x1b[1;1R")
            self.text, self.screen = self.text + piece, self.screen + piece
        self.text = self.text[found.end() :]
        return found[0]

    def wait(self) -> int:
        """The exit status, once the process ends by itself."""
        self.screen += read_output(self.fd).decode("utf-8", "replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Ends the process."""
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)
