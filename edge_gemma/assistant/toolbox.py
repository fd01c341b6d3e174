"""The assistant's tools: those that are built in, functions of a user's file, and those of MCP servers.

Owns which of them a model may call, and which calls are asked back. A call that changes something is asked back when the words
were heard badly; some calls, such as opening the door, always are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..chat.calls import ToolCall
from ..chat.tools import Tool
from ..errors import EdgeGemmaValueError
from .effects import Effect, effect_of_function
from .interface import Announcer
from .mcp_servers import read_servers
from .notes import Notes
from .patience import PATIENCE, PatientCalls
from .persona import Facts
from .phrases import language_of, phrase
from .python_tools import load_tools
from .state import state_folder
from .timers import Timers

__all__ = ["ASK_BELOW", "ToolSource", "Toolbox", "open_toolbox"]

ASK_BELOW = 0.7
"""Below this probability of the least probable word, a call that changes something is asked back."""

_BUILT_IN: dict[str, Effect] = {
    "get_time": "reads",
    "list_timers": "reads",
    "read_notes": "reads",
    "set_timer": "changes",
    "cancel_timer": "changes",
    "set_alarm": "changes",
    "cancel_alarm": "changes",
    "add_note": "changes",
    "remove_note": "changes",
    "remember": "changes",
}
_LONGEST_VALUE = 60  # characters of an argument in a question


class ToolSource(Protocol):
    """Tools that may come and go, such as those of a server. Any thread may use it.

    Attributes:
        name: what messages call it.
        problem: why it cannot be used at this moment, as a sentence; "" where all is well.
    """

    name: str
    problem: str

    @property
    def tools(self) -> Sequence[Tool]:
        """What the model may call now."""
        ...

    def effect(self, name: str) -> Effect:
        """What the tool with this name does to the world."""
        ...

    def cancel(self) -> None:
        """Ends the calls that run: they return an error."""
        ...

    def close(self) -> None:
        """Ends connections. Further calls do nothing."""
        ...


class Toolbox:
    """All tools of an assistant. An `AssistantToolbox`."""

    def __init__(
        self,
        functions: Iterable[Callable[..., Any] | Tool] = (),
        sources: Sequence[ToolSource] = (),
        *,
        timers: Timers | None = None,
        notes: Notes | None = None,
        facts: Facts | None = None,
        language: str | None = None,
        ask_below: float = ASK_BELOW,
        patience: float = PATIENCE,
    ) -> None:
        """Collects the tools.

        Args:
            functions: Python functions, or tools with functions.
            sources: servers. They belong to the toolbox.
            timers, notes, facts: what is built in; None for none of it. A function of the user's or a server's that has the
                name of one that is built in takes its place.
            language: the code of the language of questions; None for that of the words.
            ask_below: the probability of what was heard below which a call that changes something is asked back; 0 for never.
            patience: seconds that a call of `functions` may take; see `PatientCalls`.

        Raises:
            EdgeGemmaValueError: "tool" for a function that cannot be described, for a tool without a function, for two tools of
                one name; "argument" for a probability out of range.
        """
        if not 0 <= ask_below <= 1:
            raise EdgeGemmaValueError(f"A probability is between 0 and 1, not {ask_below:g}.", "argument")
        own = [Tool.of(function) for function in functions]
        for tool in own:
            if tool.function is None:
                raise EdgeGemmaValueError(
                    f"The tool {tool.name} has no function, so the assistant cannot run it.", "tool"
                )
        names = [tool.name for tool in own]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise EdgeGemmaValueError(f"Two tools are called {twice}.", "tool")
        self._patient = PatientCalls(patience)
        self._own = {
            tool.name: (self._patient.of(tool), effect_of_function(tool.function, tool.name))
            for tool in own
            if tool.function
        }
        self._sources, self._timers = list(sources), timers
        built_in = [
            *(timers.tools if timers else ()),
            *(notes.tools if notes else ()),
            *([facts.remember] if facts else ()),
        ]
        self._built_in = [Tool.of(function) for function in built_in]
        self._language, self._ask_below = language, ask_below

    @property
    def tools(self) -> list[Tool]:
        """What the model may call now. The tools of a server that has never been reached are missing; a later look may find
        them."""
        return [tool for tool, _ in self._by_name().values()]

    @property
    def problems(self) -> list[str]:
        """What is wrong, in sentences: servers that cannot be reached, a file of timers that is damaged."""
        told = [source.problem for source in self._sources] + [self._timers.problem if self._timers else ""]
        return [problem for problem in told if problem]

    def _by_name(self) -> dict[str, tuple[Tool, Effect]]:
        found: dict[str, tuple[Tool, Effect]] = dict(self._own)
        for source in self._sources:
            for tool in source.tools:
                # Where two have a tool of one name, the second one gets the name of its server too.
                seen = _renamed(tool, f"{source.name}.{tool.name}") if tool.name in found else tool
                found.setdefault(seen.name, (seen, source.effect(tool.name)))
        for tool in self._built_in:
            found.setdefault(tool.name, (tool, _BUILT_IN[tool.name]))
        return found

    def effect(self, name: str) -> Effect:
        """What the tool with this name does to the world."""
        found = self._by_name().get(name)
        return found[1] if found else "changes"

    def needs_asking(
        self, call: ToolCall, confidence: float | None, words: str | None = None, language: str | None = None
    ) -> str | None:
        """The question to ask before this call is made; None where it is made at once.

        Args:
            call: the call.
            confidence: the probability of what was heard, 0 to 1; None when it was not measured.
            words: what was heard, for the question; None to ask about the call.
            language: the code of the language of the question; None for that of the toolbox, or of the words.
        """
        effect = self.effect(call.name)
        badly_heard = confidence is not None and confidence < self._ask_below
        if effect == "reads" or (effect == "changes" and not badly_heard):
            return None
        language = language or self._language or (language_of(words) if words else None)
        if badly_heard and words:
            return phrase("did you say", language, words=words.strip().rstrip(".!?…"))
        return phrase("really", language, words=_in_words(call))

    def start(self, announce: Announcer) -> None:
        """Begins to watch timers and alarms."""
        if self._timers:
            self._timers.start(announce)

    def cancel(self) -> None:
        """Ends the calls that run, from any thread: they return an error. A function of the user goes on to its end."""
        self._patient.cancel()
        for source in self._sources:
            source.cancel()

    def close(self) -> None:
        """Ends timers and connections. Further calls do nothing."""
        if self._timers:
            self._timers.close()
        self._patient.close()
        threads = [threading.Thread(target=source.close) for source in self._sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _renamed(tool: Tool, name: str) -> Tool:
    name = re.sub(r"[^\w.\-/]+", "_", name).lstrip(".-/")
    schema = {**tool.schema, "function": {**tool.schema["function"], "name": name}}
    return dataclasses.replace(tool, schema=schema)


def _in_words(call: ToolCall) -> str:
    """A call as something that can be said: "light turn on, name: kitchen"."""
    name = " ".join(call.name.replace("__", " ").replace(".", " ").replace("_", " ").replace("-", " ").split())
    values = []
    for key, value in call.arguments.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        values.append(f"{key.replace('_', ' ')}: {text[:_LONGEST_VALUE]}")
    return ", ".join([name, *values])


def open_toolbox(
    files: Sequence[str] = (),
    servers: Sequence[str] = (),
    *,
    state: str | None = None,
    notes: str | None = None,
    facts: Facts | None = None,
    built_in: bool = True,
    language: str | None = None,
    ask_below: float = ASK_BELOW,
) -> Toolbox:
    """Opens the tools that options name.

    Args:
        files: Python files; see `load_tools`.
        servers: MCP servers: commands, addresses, or files of servers; see `read_servers`.
        state: the folder for timers and notes; None for `state_folder`.
        notes: the file of notes; None for notes.md in that folder.
        facts: the facts that `remember` appends to; None for no such tool.
        built_in: whether there are a clock, timers, alarms and notes.
        language, ask_below: as in `Toolbox`.

    Raises:
        EdgeGemmaError: for a file that cannot be read or run, a server that cannot be started, and as `Toolbox`.
    """
    folder = state or state_folder()
    with contextlib.ExitStack() as on_failure:
        opened = []
        for description in servers:
            for server in read_servers(description):
                on_failure.callback(server.close)
                opened.append(server)
        for server in opened:
            server.connect()
        toolbox = Toolbox(
            [tool for path in files for tool in load_tools(path)],
            opened,
            timers=Timers(os.path.join(folder, "timers.json"), language) if built_in else None,
            notes=Notes(notes or os.path.join(folder, "notes.md")) if built_in else None,
            facts=facts,
            language=language,
            ask_below=ask_below,
        )
        on_failure.pop_all()
    return toolbox
