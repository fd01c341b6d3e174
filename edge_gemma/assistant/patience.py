"""Calls of a user's functions that may hang: a bulb that does not answer, an address that is away.

The functions run in a thread of their own, one at a time, so that what they keep for their thread stays usable. A call waits no
longer than its time. Nothing can end a thread of Python from outside: one that hangs is left behind, what it returns at last is
dropped, and the next call gets a new thread. A function that still hangs is not called again, so there are never more such
threads than functions. They do not keep the program from ending.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from ..chat.signatures import callable_hints
from ..chat.tools import Tool

__all__ = ["PATIENCE", "PatientCalls"]

PATIENCE = 10.0
"""Seconds that a call may take."""


class _Call:
    """One call on its way."""

    def __init__(self, name: str, function: Callable[[], Any]) -> None:
        self.name, self._function = name, function
        self.over, self.wake = False, threading.Event()
        self.cancelled = False
        self._result: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            result = self._function()
            self._result = asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
        except Exception as error:
            self._error = error
        except BaseException as error:  # such as SystemExit: the function's, not the assistant's
            self._error = RuntimeError(f"it ended with {type(error).__name__}")
        self.over = True
        self.wake.set()

    def result(self) -> Any:
        if self._error:
            raise self._error
        return self._result


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


class PatientCalls:
    """Runs tools, each call for so many seconds at most. Any thread may use it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        """`patience`: seconds that a call may take."""
        self._patience = patience
        self._lock = threading.Lock()  # guards what follows
        self._calls: queue.SimpleQueue[_Call | None] | None = None  # of the thread that is of use
        self._running: list[_Call] = []
        self._left: dict[str, _Call] = {}  # calls that hang, by the name of their tool

    def of(self, tool: Tool) -> Tool:
        """The tool whose function runs here. It returns {"error": sentence} for a call that takes too long."""
        function = tool.function
        assert function is not None
        hints = callable_hints(function)[0] if tool.hints is None else tool.hints

        @functools.wraps(function)
        def patient(**arguments: Any) -> Any:
            return self._call(tool.name, functools.partial(function, **arguments))

        return dataclasses.replace(tool, function=patient, hints=hints)

    def cancel(self) -> None:
        """Ends the waiting for calls that run: they return an error."""
        with self._lock:
            for call in self._running:
                call.cancelled = True
                call.wake.set()

    def close(self) -> None:
        """Ends the thread, after the call that it is in. Further calls do nothing."""
        self.cancel()
        with self._lock:
            self._dismiss()

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        spoken, call = " ".join(name.replace("_", " ").split()), _Call(name, function)
        with self._lock:
            if name in self._left and not self._left[name].over:
                return {"error": f"{spoken} is still busy with the call before."}
            self._left.pop(name, None)
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                threading.Thread(target=_work, args=(self._calls,), name="edge_gemma-tools", daemon=True).start()
            self._calls.put(call)
            self._running.append(call)
        call.wake.wait(self._patience)
        with self._lock:
            self._running.remove(call)
            if not call.over:
                self._left[name] = call
                self._dismiss()
        if call.over:
            return call.result()
        if call.cancelled:
            return {"error": "The call was cancelled, so it may not have been done."}
        return {"error": f"{spoken} has not answered within {self._patience:g} seconds, so it may not have been done."}

    def _dismiss(self) -> None:
        """The thread ends after its call; the next call gets a new one."""
        if self._calls:
            self._calls.put(None)
        self._calls = None


def _work(calls: queue.SimpleQueue[_Call | None]) -> None:
    while call := calls.get():
        call.run()
