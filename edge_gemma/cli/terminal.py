"""Writing to a terminal and being interrupted at one.

`Screen` writes text as it comes, styled where the stream is a terminal. `Interrupt` makes Ctrl-C stop the work at hand
instead of the program. Neither knows anything of models.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO, final

# A model's text must not steer the terminal: control characters but newline and tab are dropped there.
_HARMLESS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Screen:
    """Writes pieces of text to a stream at once; at a terminal, styled (if `rich` is installed) and harmless."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self._at_line_start = True
        self._console: Any = None

    def write(self, text: str, style: str = "") -> None:
        """Writes text as it is, without adding a newline; style as rich names it: "dim", "bold cyan"."""
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        if self.is_terminal:
            text = text.translate(_HARMLESS)
        if style and self.is_terminal and self._rich():
            from rich.text import Text

            self._console.print(Text(text, style=style), end="", soft_wrap=True)
        else:
            self.stream.write(text)
        self.stream.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """Writes a line of its own."""
        self.end_line()
        self.write(text, style)
        self.write("\n")

    def end_line(self) -> None:
        """Begins a new line unless already at the start of one."""
        if not self._at_line_start:
            self.write("\n")

    def _rich(self) -> bool:
        if self._console is None:
            try:
                from rich.console import Console
            except ImportError:
                self._console = False
            else:
                self._console = Console(file=self.stream, highlight=False)
        return bool(self._console)


@final
class Interrupt:
    """While active, Ctrl-C calls `cancel` and sets `hit`; a second Ctrl-C raises KeyboardInterrupt.

    Python runs signal handlers only between two steps of the main thread, which may be waiting for a prefill of many
    seconds. So a helper thread is woken by the signal itself and calls `cancel`, again and again until the block is
    left, since a cancel that comes just before a call begins has no effect.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.hit = False
        self._cancel = cancel
        self._left = threading.Event()
        self._active = False

    def __enter__(self) -> Interrupt:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job of a shell
        if ignored or threading.current_thread() is not threading.main_thread():
            return self
        self._active = True
        self._bell, self._clapper = socket.socketpair()
        self._clapper.setblocking(False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._old_handler = signal.signal(signal.SIGINT, self._handle)
        self._old_fd = signal.set_wakeup_fd(self._clapper.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        signal.set_wakeup_fd(self._old_fd)
        signal.signal(signal.SIGINT, self._old_handler)
        self._left.set()
        self._clapper.close()
        self._thread.join()
        self._bell.close()

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.hit:
            raise KeyboardInterrupt
        self.hit = True

    def _watch(self) -> None:
        while received := self._bell.recv(1):
            if received[0] == signal.SIGINT:
                while not self._left.is_set():
                    self._cancel()
                    self._left.wait(0.05)
