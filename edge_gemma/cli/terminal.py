"""Terminal output, and Ctrl-C.

`Screen` writes text as it comes, with styles and unbroken words if the stream is a terminal. `Bar` is a progress bar.
`TransientLine` shows text that later text replaces. `Interrupt` makes Ctrl-C cancel the current work instead of ending the
program. This module knows nothing of models.
"""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO, final

from .wrapping import WordWrap

TERMINATED = 143  # the exit status of a program that SIGTERM has ended

# A model's text must not control the terminal, so control characters other than newline and tab are removed from it.
_WITHOUT_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Screen:
    """Writes pieces of text to a stream without delay.

    At a terminal it applies styles (if `rich` is installed), removes control characters, and breaks long lines between
    words. There the last word is written when it is complete.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self._at_line_start = True
        self._console: Any = None
        self._wrap = WordWrap(lambda: shutil.get_terminal_size().columns) if self.is_terminal else None
        self._style = ""  # of what the wrap holds back

    def write(self, text: str, style: str = "") -> None:
        """Writes text without adding a newline. `style` is a name that rich knows, such as "dim" or "bold cyan"."""
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        if self._wrap is None:
            self._put(text)
            return
        if style != self._style:
            self._flush()
            self._style = style
        self._put(self._wrap.feed(text.translate(_WITHOUT_CONTROLS)), style)

    def _flush(self) -> None:
        """Writes what was held back to see whether it fits the line."""
        if self._wrap:
            self._put(self._wrap.flush(), self._style)

    def _put(self, text: str, style: str = "") -> None:
        if style and text and self._rich():
            from rich.text import Text

            self._console.print(Text(text, style=style), end="", soft_wrap=True)
        else:
            self.stream.write(text)
        self.stream.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """Writes a line of its own."""
        self.end_line()
        self.write(text + "\n", style)

    def end_line(self) -> None:
        """Begins a new line unless the stream is at the start of one."""
        self._flush()
        if not self._at_line_start:
            self.write("\n", self._style)

    def _rich(self) -> bool:
        """Whether rich is installed. Makes its console at the first call."""
        if self._console is None:
            try:
                from rich.console import Console
            except ImportError:
                self._console = False
            else:
                self._console = Console(file=self.stream, highlight=False)
        return bool(self._console)


def print_error(message: str, program: str = "edge-gemma") -> None:
    """Prints an error on standard error: one line, which a terminal shows broken between words."""
    Screen(sys.stderr).line(f"{program}: error: {message}")


def print_warning(message: str) -> None:
    """Prints a warning on standard error, as `print_error` does."""
    Screen(sys.stderr).line(f"edge-gemma: warning: {message}")


def _bars() -> Any:
    """rich's display of progress bars on standard error; None if that is no terminal, or `rich` is not installed.

    What is written to standard output at the same terminal appears above the bars.
    """
    if not sys.stderr.isatty():
        return None
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[clock]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


class Bar:
    """A progress bar on standard error. It is shown only if that is a terminal and `rich` is installed.

    The progress is counted in seconds of a recording, or in a unit of which `label` makes text.
    """

    def __init__(
        self, name: str, start: float, duration: float | None, label: Callable[[float], str] | None = None
    ) -> None:
        self._name, self._start, self._duration, self._label = name, start, duration, label or format_clock
        self._progress: Any = None

    def __enter__(self) -> Bar:
        if self._duration and (bars := _bars()):
            self._progress = bars
            self._task = self._progress.add_task(self._name, total=self._duration, clock="")
            self.update(self._start, self._duration)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, done: float, duration: float | None) -> None:
        """Shows that `done` of `duration` seconds (or other units) are done."""
        if self._progress:
            clock = f"{self._label(done)} of {self._label(duration or 0)}"
            self._progress.update(self._task, completed=done, total=duration, clock=clock)


class ArchiveBar:
    """Two progress bars on standard error, for all recordings of an archive and for the current one; shown as `Bar` is.

    The first counts bytes of files, which are known before they are read.
    """

    def __init__(self, number: int, size: int) -> None:
        """`number` files of together `size` bytes."""
        self._number, self._size, self._finished, self._bytes = number, size, 0, 0
        self._progress: Any = None

    def __enter__(self) -> ArchiveBar:
        if bars := _bars():
            self._progress = bars
            self._all = self._progress.add_task("all recordings", total=max(self._size, 1), clock="")
            self._one = self._progress.add_task("", total=None, clock="", visible=False)
            self._show()
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, name: str, done: float, duration: float | None, size: int) -> None:
        """Shows that `done` of `duration` seconds of a file of `size` bytes are done."""
        if self._progress:
            clock = format_clock(done) + (f" of {format_clock(duration)}" if duration else "")
            self._progress.update(
                self._one, description=name, completed=done, total=duration, clock=clock, visible=True
            )
            self._show(size * min(done / duration, 1.0) if duration else 0.0)

    def finish(self, size: int) -> None:
        """A file of `size` bytes is done, or was skipped."""
        self._finished += 1
        self._bytes += size
        self._show()

    def count(self, done: int, number: int) -> None:
        """So many of all recordings are done, where bytes are not counted."""
        self._finished = self._bytes = done
        self._number = number
        if self._progress:
            self._progress.update(self._all, total=max(number, 1))
        self._show()

    def _show(self, part: float = 0.0) -> None:
        if self._progress:
            clock = f"{self._finished} of {self._number}"
            self._progress.update(self._all, completed=self._bytes + part, clock=clock)


class TransientLine:
    """Text on standard error that later text replaces. Without a terminal or without `rich`, each text is a new line."""

    def __init__(self) -> None:
        self._screen = Screen(sys.stderr)
        self._live: Any = None

    def show(self, *parts: tuple[str, str]) -> None:
        """Replaces the text that is shown by pieces of (text, style)."""
        live = self._live or (self._screen.is_terminal and self._open())
        if not live:
            self._screen.line("".join(text for text, _ in parts))
            return
        from rich.text import Text

        pieces = ((text.translate(_WITHOUT_CONTROLS), style) for text, style in parts)
        live.update(Text.assemble(*pieces), refresh=True)

    def clear(self) -> None:
        """Removes the text that is shown, so that other text can be written in its place."""
        if self._live:
            self._live.stop()
            self._live = None

    def _open(self) -> Any:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            return None
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()
        return self._live


def format_clock(seconds: float) -> str:
    """A time as minutes and seconds, from an hour on with hours: 3:07, 1:02:30."""
    minutes, remainder = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{remainder:02}" if minutes >= 60 else f"{minutes}:{remainder:02}"


@final
class Interrupt:
    """Inside the `with` block, Ctrl-C calls `cancel` and sets `hit`; a second Ctrl-C raises KeyboardInterrupt.

    SIGTERM does the same, and ends the program behind the block, with SystemExit.

    Python runs signal handlers only between bytecodes of the main thread, and that thread may be in a prefill of many
    seconds. So the signal also writes a byte to a socket, which wakes a helper thread that calls `cancel` once: a session
    that is between two calls keeps the request for the next one.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.hit = False
        self._cancel = cancel
        self._cancelled = False
        self._active = False
        self._terminated = False
        self._old_terminate: Any = None

    def __enter__(self) -> Interrupt:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job of a shell
        if ignored or threading.current_thread() is not threading.main_thread():
            return self
        self._active = True
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._old_handler = signal.signal(signal.SIGINT, self._handle)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            self._old_terminate = signal.signal(signal.SIGTERM, self._handle)
        self._old_fd = signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        signal.set_wakeup_fd(self._old_fd)
        signal.signal(signal.SIGINT, self._old_handler)
        if self._old_terminate is not None:
            signal.signal(signal.SIGTERM, self._old_terminate)
        self._wake_write.close()
        self._thread.join()
        self._wake_read.close()
        if self._terminated:
            raise SystemExit(TERMINATED)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._terminated |= number == signal.SIGTERM
        if self.hit:
            raise KeyboardInterrupt
        self.hit = True

    def _watch(self) -> None:
        while received := self._wake_read.recv(1):
            if received[0] in (signal.SIGINT, signal.SIGTERM) and not self._cancelled:
                self._cancelled = True
                self._cancel()
