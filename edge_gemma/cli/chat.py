"""`edge-gemma chat`: a conversation at the terminal, or line by line from a pipe.

Owns the input, the commands that begin with a slash, and the display of answers. The conversation itself is
`edge_gemma.chat.conversation`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from .common import (
    DONE,
    FAILED,
    add_model_options,
    add_sampling_options,
    add_session_options,
    add_verb,
    error_text,
    format_stats,
    open_model,
    sampling,
    session_options,
)
from .terminal import Interrupt, Screen

HISTORY_LENGTH = 1000

EXAMPLES = """
edge-gemma chat -m gemma-4-E2B-it-Q4_0.gguf
edge-gemma chat --system "Answer in one sentence." --thinking --verbose
edge-gemma chat --tools my_functions.py --context 16K
printf 'My name is Ada.\\nWhat is my name?\\n' | edge-gemma chat
"""

HELP = """\
/help           this list
/system [TEXT]  show the instructions, or set them for the next answers
/tools [FILE]   list the tools, or use the functions of a Python file as tools; /tools off removes all tools
/audio FILE [TEXT]  send a recording, after the text if there is one
/reset          begin a new conversation
/save FILE      write the conversation to a file
/load FILE      go on with a saved conversation
/stats          tokens, speed and memory
/multi          several lines as one message, up to a line with only /end
/quit           leave (so does Ctrl-D)
A line that ends with a backslash continues in the next line. //text sends a message that begins with a slash.
Ctrl-C stops an answer."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "chat", "hold a conversation", EXAMPLES)
    parser.epilog = f"{parser.epilog}\n\ncommands in the conversation:\n{HELP}"
    parser.add_argument("--system", "-s", metavar="TEXT", help="instructions for the whole conversation")
    parser.add_argument("--tools", metavar="FILE", help="Python file whose functions the model may call")
    parser.add_argument("--thinking", action="store_true", help="let the model think before it answers")
    parser.add_argument("--no-show-thinking", action="store_true", help="do not print thoughts")
    parser.add_argument("--load", metavar="FILE", help="continue a conversation that /save wrote")
    parser.add_argument("--verbose", "-v", action="store_true", help="print the speed after each answer")
    add_sampling_options(parser, max_tokens=None)
    add_session_options(parser)
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Holds the conversation until the input ends."""
    tools = load_tools(args.tools) if args.tools else []
    with open_model(args) as model:
        conversation = Conversation(model, args, tools)
        if args.load:
            conversation.chat.load(args.load)
        if sys.stdin.isatty():
            conversation.screen.line(f"{model.config.name or model.path}. /help lists the commands.", "dim")
        return conversation.hold(LineReader())


def load_tools(path: str) -> list[Callable[..., Any]]:
    """The public functions that a Python file defines, in the order of their definition; the file is executed."""
    import inspect
    import types

    from ..errors import EdgeGemmaError

    file = Path(path).expanduser()
    source = file.read_bytes()
    module = types.ModuleType(f"tools_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses and type hints look up the module by its name
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # the user has asked to run this file
    except Exception as error:
        raise EdgeGemmaError(f"{path}: {type(error).__name__}: {error}") from error
    functions: list[Callable[..., Any]] = [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not functions:
        raise EdgeGemmaError(f"{path} defines no public function.")
    return functions


class LineReader:
    """Reads lines of standard input. At a terminal they can be edited, and a file keeps their history.

    Reading raises EOFError at the end of the input and KeyboardInterrupt for Ctrl-C at the prompt.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()
        self._readline: Any = None
        if self.is_terminal:
            with contextlib.suppress(ImportError):  # absent on Windows
                import readline

                self._readline = readline
                readline.set_history_length(HISTORY_LENGTH)
                with contextlib.suppress(OSError):
                    readline.read_history_file(self._history_file())

    def read(self, prompt: str) -> str:
        """One line without its newline; the prompt is shown at a terminal only."""
        if self.is_terminal:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def close(self) -> None:
        """Writes the history to its file."""
        if self._readline:
            with contextlib.suppress(OSError):
                file = self._history_file()
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._readline.write_history_file(file)

    @staticmethod
    def _history_file() -> Path:
        state = os.environ.get("XDG_STATE_HOME")
        return (Path(state) if state else Path.home() / ".local" / "state") / "edge-gemma" / "chat_history"


class Conversation:
    """The loop of a chat: reads messages and commands, and shows the answers."""

    def __init__(self, model: Any, args: argparse.Namespace, tools: list[Callable[..., Any]]) -> None:
        self.model, self.args, self.tools = model, args, tools
        self.screen, self.errors = Screen(sys.stdout), Screen(sys.stderr)
        self.failed = False
        self.chat = self._open(args.system, tools)
        self._commands = {
            "help": self._help,
            "system": self._system,
            "tools": self._tools,
            "audio": self._audio,
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
        }

    def hold(self, reader: LineReader) -> int:
        """Reads until the input ends or /quit. From a pipe, FAILED if a turn or a command failed."""
        try:
            while True:
                try:
                    message = self._message(reader)
                except EOFError:
                    if reader.is_terminal:
                        self.screen.line()
                    break
                except KeyboardInterrupt:
                    if not reader.is_terminal:
                        raise
                    self.screen.line("\n(Ctrl-D or /quit to leave)", "dim")
                    continue
                if message.split() in (["/quit"], ["/exit"]):
                    break
                self._handle(message)
        finally:
            reader.close()
        return FAILED if self.failed and not reader.is_terminal else DONE

    def _message(self, reader: LineReader) -> str:
        """The next message. It may have several lines: with backslashes, or between /multi and /end."""
        line = reader.read("> ")
        if line.strip() == "/multi":
            lines = []
            with contextlib.suppress(EOFError):
                while (line := reader.read("| ")).strip() != "/end":
                    lines.append(line)
            return "\n".join(lines)
        message = ""
        while line.endswith("\\"):
            message += line[:-1] + "\n"
            try:
                line = reader.read("| ")
            except EOFError:
                return message
        return message + line

    def _handle(self, message: str) -> None:
        """Runs a command or sends a message. Shows an error instead of raising it."""
        from ..errors import EdgeGemmaError

        text = message.strip()
        if not text:
            return
        try:
            if text.startswith("//"):
                self._turn(text[1:])
            elif text.startswith("/"):
                name, _, argument = text[1:].partition(" ")
                command = self._commands.get(name)
                if command is None:
                    raise EdgeGemmaError(
                        f"there is no command /{name}: /help lists the commands, //{name} sends the text as a message."
                    )
                command(argument.strip())
            else:
                self._turn(text)
        except (EdgeGemmaError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.failed = True
            self.screen.end_line()
            self.errors.line(f"edge-gemma: error: {error_text(error)}", "red")

    # ---- turns ------------------------------------------------------------------------------------------------

    def _turn(self, text: str | None, audio: Any = None) -> None:
        """Sends the text and the sound and shows the answer. Ctrl-C stops the answer."""
        from ..errors import EdgeGemmaError

        before = dict(self.chat.session.stats)
        try:
            with Interrupt(self.chat.cancel) as interrupt:
                try:
                    for event in self.chat.send(text, audio=audio):
                        self._show(event)
                        if interrupt.hit:
                            break
                except EdgeGemmaError:
                    if not interrupt.hit:
                        raise
                stopped = interrupt.hit
        except KeyboardInterrupt:  # the second Ctrl-C, needed when a tool does not return
            stopped = True
        self.screen.end_line()
        if stopped:
            self.screen.line("[stopped]", "dim")
        if self.args.verbose:
            after = self.chat.session.stats
            used = {key: after[key] - before[key] for key in after if isinstance(after[key], (int, float))}
            self.errors.line(f"[{format_stats(used)}]", "dim")

    def _show(self, event: Any) -> None:
        if event.kind == "text":
            self.screen.write(event.text)
        elif event.kind == "thinking":
            if not self.args.no_show_thinking:
                self.screen.write(event.text, "dim")
        elif event.kind == "tool_call":
            arguments = ", ".join(f"{name}={value!r}" for name, value in event.call.arguments.items())
            self.screen.line(f"[{event.call.name}({arguments})]", "cyan")
        elif event.kind == "broken_call":
            self.screen.line(f"[a call of {event.call.name or 'a tool'} was not run: {event.call.problem}]", "cyan")
        elif event.kind == "tool_result":
            self.screen.line(f"[= {event.result}]", "cyan")

    # ---- commands ---------------------------------------------------------------------------------------------

    def _open(self, system: str | None, tools: list[Callable[..., Any]]) -> Any:
        """Begins a new conversation."""
        return self.model.chat(
            system=system,
            tools=tools or None,
            thinking=self.args.thinking,
            sampling=sampling(self.args),
            max_tokens=self.args.max_tokens,
            stop=self.args.stop,
            **session_options(self.args, self.model),
        )

    def _help(self, _: str) -> None:
        self.screen.line(HELP)

    def _reset(self, _: str) -> None:
        self.chat.reset()
        self.screen.line("(new conversation)", "dim")

    def _system(self, text: str) -> None:
        if not text:
            self.screen.line(self.chat.system or "(no instructions)")
            return
        self.chat.system = text
        self.screen.line("(instructions set)", "dim")

    def _tools(self, text: str) -> None:
        if text:
            tools = [] if text == "off" else load_tools(text)
            old, self.chat = self.chat, self._open(self.chat.system, tools)
            self.chat.history, self.tools = old.history, tools
            old.close()
        for tool in self.tools:
            summary = (tool.__doc__ or "").strip().split("\n")[0]
            self.screen.line(f"{tool.__name__}  {summary}".rstrip())
        if not self.tools:
            self.screen.line("(no tools)")

    def _audio(self, text: str) -> None:
        from ..audio.source import load_audio

        words = text.split(" ")
        # File names may have spaces: the longest prefix that is a file is the name.
        ends = (end for end in range(len(words), 1, -1) if Path(" ".join(words[:end])).expanduser().is_file())
        end = next(ends, 1)
        path = self._path(" ".join(words[:end]), "/audio FILE [TEXT]")
        self._turn(" ".join(words[end:]).strip() or None, audio=[load_audio(path)])

    def _save(self, text: str) -> None:
        path = self._path(text, "/save FILE")
        self.chat.save(path)
        self.screen.line(f"(saved to {path})", "dim")

    def _load(self, text: str) -> None:
        path = self._path(text, "/load FILE")
        self.chat.load(path)
        turns = sum(message.get("role") == "user" for message in self.chat.history)
        self.screen.line(f"(loaded {path}: {turns} turn{'s' * (turns != 1)})", "dim")

    @staticmethod
    def _path(text: str, usage: str) -> str:
        from ..errors import EdgeGemmaError

        if not text:
            raise EdgeGemmaError(f"the file is missing: {usage}.")
        return str(Path(text).expanduser())

    def _stats(self, _: str) -> None:
        session = self.chat.session
        self.screen.line(format_stats(session.stats))
        self.screen.line(f"context: {session.position} of {session.context} tokens")
        memory = {**self.model.memory(), **session.memory()}
        self.screen.line("memory: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.items()))
