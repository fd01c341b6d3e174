"""The keys of the assistant: those of a terminal, and a button at a pin of a Raspberry Pi."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import EdgeGemmaOSError
from ...installation import pip_line

__all__ = ["HELP", "button", "terminal_keys"]

HELP = "space or Enter: talk; s or Esc: stop; q: quit"


@contextlib.contextmanager
def terminal_keys(press: Callable[[], None], stop: Callable[[], None], leave: Callable[[], None]) -> Iterator[bool]:
    """Inside the `with` block, keys of the terminal are read without Enter. Yields whether there is a terminal.

    Args:
        press, stop, leave: called, in a thread, for the keys that `HELP` names.
    """
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, termios.error):
        yield False
        return
    actions = {b" ": press, b"\r": press, b"\n": press, b"s": stop, b"\x1b": stop, b"q": leave}
    ended, end = os.pipe()

    def read() -> None:
        while ended not in (ready := select.select([descriptor, ended], [], [])[0]):
            # An arrow is several bytes that begin as the escape key does, so all bytes are looked at together.
            typed = os.read(descriptor, 16) if ready else b""
            if not typed:
                return
            actions.get(typed, lambda: None)()

    thread = threading.Thread(target=read, name="edge_gemma-keys", daemon=True)
    try:
        tty.setcbreak(descriptor)
        thread.start()
        yield True
    finally:
        os.write(end, b"x")
        thread.join(1)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        os.close(ended)
        os.close(end)


@contextlib.contextmanager
def button(pin: str | None, press: Callable[[], None], release: Callable[[], None]) -> Iterator[None]:
    """Inside the `with` block, a button between that pin and ground is watched.

    Args:
        pin: as gpiozero names it: 17, "GPIO17", "BOARD11"; None for no button.
        press: called, in a thread, when the button is pressed.
        release: called when it is released after it was held for half a second: whoever holds it while speaking has finished.

    Raises EdgeGemmaOSError: "unsupported" without gpiozero, "file" when the pin cannot be used.
    """
    if pin is None:
        yield
        return
    try:
        gpiozero = importlib.import_module("gpiozero")
    except ImportError as error:
        raise EdgeGemmaOSError(
            f"a button needs the package gpiozero: `{pip_line('gpiozero', 'lgpio')}`.", "unsupported"
        ) from error
    try:
        device: Any = gpiozero.Button(int(pin) if pin.isdecimal() else pin, hold_time=0.5, bounce_time=0.03)
    except Exception as error:  # gpiozero raises errors of its pins, of lgpio and of the system
        raise EdgeGemmaOSError(f"the pin {pin} cannot be used: {error}.", "file") from error
    held = False

    def hold() -> None:
        nonlocal held
        held = True

    def let_go() -> None:
        nonlocal held
        if held:
            release()
        held = False

    device.when_pressed, device.when_held, device.when_released = press, hold, let_go
    try:
        yield
    finally:
        device.close()
