"""Reading what a process writes, without waiting for ever when it ends early or hangs."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable


def read_output(fd: int, enough: Callable[[bytes], bool] | None = None, seconds: float = 60) -> bytes:
    """What comes from a pipe or pseudo-terminal, until that is `enough`; None for all up to its end.

    Fails when it ends before, and when it takes longer than `seconds`.
    """
    output, deadline = b"", time.monotonic() + seconds
    while not (enough and enough(output)):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more came; the process has written {output[-500:]!r}"
        try:
            piece = os.read(fd, 65536)
        except OSError:  # how Linux reports the end of a pseudo-terminal
            piece = b""
        if not piece:
            assert enough is None, f"the output ended; the process has written {output[-500:]!r}"
            return output
        output += piece
    return output
