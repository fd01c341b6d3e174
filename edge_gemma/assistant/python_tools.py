"""Tools that a user has written: the functions of a Python file, whose type hints and docstrings are their descriptions."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..chat.tools import Tool
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError

__all__ = ["load_tools"]


def load_tools(path: str) -> list[Tool]:
    """Runs a Python file, and makes tools of its functions.

    Args:
        path: the file. Its list `tools`, if it has one, says which functions are tools, and may hold `Tool`s and bound methods.
            Otherwise the functions that the file itself defines are tools, without those whose names begin with "_". It may
            import modules that lie beside it.

    Raises:
        EdgeGemmaOSError: "file" when it cannot be read.
        EdgeGemmaValueError: "tool" when running it fails, for a function that cannot be described, for a file without
            tools.
    """
    path = os.path.abspath(os.path.expanduser(path))
    found: list[Tool] = []
    module = _run(path)
    for candidate in _candidates(module):
        try:
            found.append(Tool.of(candidate))
        except EdgeGemmaValueError as error:
            raise EdgeGemmaValueError(f"{path}: {error}", "tool") from error
    if not found:
        raise EdgeGemmaValueError(f"{path} has no tools: it defines no functions.", "tool")
    return found


def _run(path: str) -> ModuleType:
    folder, file = os.path.split(path)
    name = f"edge_gemma_tools_{os.path.splitext(file)[0]}"
    try:
        with open(path, "rb") as source:
            code = compile(source.read(), path, "exec")
    except OSError as error:
        raise EdgeGemmaOSError(f"cannot read {path}: {error.strerror or error}.", "file") from error
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise EdgeGemmaValueError(f"{path}{line}: {reason}.", "tool") from error
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses and type hints look for the module of a class there
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        exec(code, module.__dict__)
    except Exception as error:
        line = next((f", line {at.lineno}" for at in reversed(_frames(error)) if at.filename == path), "")
        raise EdgeGemmaValueError(f"{path}{line}: {type(error).__name__}: {error}.", "tool") from error
    return module


def _frames(error: Exception) -> list[inspect.FrameInfo]:
    return inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []


def _candidates(module: ModuleType) -> list[Callable[..., Any] | Tool]:
    chosen = getattr(module, "tools", None)
    if isinstance(chosen, (list, tuple)):
        return list(chosen)
    return [
        item
        for name, item in vars(module).items()
        if inspect.isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_")
    ]
