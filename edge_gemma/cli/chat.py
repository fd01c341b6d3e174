"""`edge-gemma chat`: a conversation at the terminal, or line by line from a pipe.

Owns the commands that begin with a slash, and the display of answers. chat_input.py reads the lines. The conversation itself
is `edge_gemma.chat.conversation`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.memory import format_bytes
from .chat_input import LineReader, open_reader
from .common import (
    DEBUG_VARIABLE,
    DONE,
    FAILED,
    add_model_options,
    add_sampling_options,
    add_session_options,
    add_verb,
    explain,
    format_stats,
    home_of_toy,
    open_model,
    sampling,
    session_options,
    warn_if_long,
)
from .outputs import check_output
from .parsing import file_path, plain_text, suggestion
from .pictures import EncodingBar, add_budget_options, add_media_options, media_options
from .terminal import Interrupt, Screen

LEAVING = ("/quit", "/exit", "/bye", "/q")
LEAVING_ALONE = ("quit", "exit", "bye")
WITH_FILE = ("/tools", "/audio", "/image", "/video", "/save", "/load")

EXAMPLES = """
edge-gemma chat -m e2b
edge-gemma chat --system "Answer in one sentence." --thinking --verbose
edge-gemma chat --image photo.jpg
edge-gemma chat --tools my_functions.py --context 16K
printf 'My name is Ada.\\nWhat is my name?\\n' | edge-gemma chat
"""

HELP = """\
/help               this list
/system [TEXT]      show the instructions, or set them for the next answers
/tools [FILE]       list the tools, or use the functions of a Python file; /tools off removes all tools
/audio FILE [TEXT]  send a recording of up to 30 seconds, after the text if there is one
/image FILE [TEXT]  send a picture, before the text; without a text, with the next message
/video FILE [TEXT]  the same with a video
/reset              begin a new conversation
/save FILE          write the conversation to a file
/load FILE          go on with a saved conversation
/stats              tokens, speed and memory
/multi              several lines as one message, up to a line with only /end
/quit               leave; so do /bye, /exit, the word quit or exit alone, and Ctrl-D
A line that ends with a backslash continues in the next line. //text sends a message that begins with a slash.
Ctrl-C stops an answer, or clears the line. Tab completes commands and file names."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "chat", "hold a conversation", EXAMPLES)
    parser.epilog = f"{parser.epilog}\n\ncommands in the conversation:\n{textwrap.indent(HELP, '  ')}"
    parser.add_argument(
        "--system", "-s", type=plain_text, metavar="TEXT", help="instructions for the whole conversation"
    )
    parser.add_argument(
        "--tools", type=file_path, metavar="FILE", help="Python file whose functions the model may call"
    )
    parser.add_argument("--thinking", action="store_true", help="let the model think before it answers")
    parser.add_argument("--no-show-thinking", action="store_true", help="do not print thoughts")
    parser.add_argument("--load", type=file_path, metavar="FILE", help="continue a conversation that /save wrote")
    add_media_options(parser, "with the first message")
    parser.add_argument("--verbose", "-v", action="store_true", help="print the speed after each answer")
    add_budget_options(parser)
    add_sampling_options(parser, max_tokens=None)
    parser.set_defaults(temperature=None)  # see sampling()
    add_session_options(parser)
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Holds the conversation until the input ends."""
    tools = load_tools(args.tools) if args.tools else []
    media_options(args)
    with open_model(args) as model:
        conversation = Conversation(model, args, tools)
        if args.load:
            conversation.load(args.load)
        for kind in ("image", "video"):
            for file in getattr(args, kind) or ():
                conversation.attach(kind, file)
        reader = open_reader(conversation.commands, WITH_FILE)
        if reader.is_terminal:
            conversation.introduce()
        return conversation.hold(reader)


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


class Conversation:
    """The loop of a chat: reads messages and commands, and shows the answers."""

    def __init__(self, model: Any, args: argparse.Namespace, tools: list[Callable[..., Any]]) -> None:
        self.model, self.args, self.tools = model, args, tools
        self.screen, self.errors = Screen(sys.stdout), Screen(sys.stderr)
        self.failed = False
        # The toy was trained on single commands to a home: it gets the tools of one, and each message stands alone.
        system, home = home_of_toy(args) if args.system is None and not tools and not args.load else (None, [])
        self._single = bool(home)
        self.tools = tools or home
        self._waiting: dict[str, list[Any]] = {"image": [], "video": []}  # what the next message shows
        self.chat = self._open(args.system if system is None else system, self.tools)
        self._commands = {
            "help": self._help,
            "system": self._system,
            "tools": self._tools,
            "audio": self._audio,
            "image": lambda text: self._look("image", text),
            "video": lambda text: self._look("video", text),
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
        }

    @property
    def commands(self) -> list[str]:
        """The words that are commands, for completion."""
        return [*(f"/{name}" for name in self._commands), "/multi", *LEAVING[:3]]

    def introduce(self) -> None:
        """Says who talks and how to leave."""
        name = self.model.config.name or Path(self.model.path).name
        what = "the toy model, in a simulated home" if self._single else name
        self.screen.line(
            f"Chat with {what}. Type a message and press Enter. /help lists the commands, /quit or Ctrl-D leaves.",
            "dim",
        )

    def load(self, path: str) -> None:
        """Goes on with a saved conversation."""
        self.chat.load(path)
        self._single = False

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
                if leaves(message):
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
        """Runs a command or sends a message. Shows an error instead of raising it: no error costs the conversation."""
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
                        f"there is no command /{name}{suggestion(f'/{name}', self.commands)} /help lists the commands, "
                        f"//{name} sends the text as a message."
                    )
                command(argument.strip())
            else:
                self._turn(text)
        except BrokenPipeError:
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
                raise
            self.failed = True
            self.screen.end_line()
            hint = " /reset begins a new conversation." if getattr(error, "code", "") == "context" else ""
            self.errors.line(f"edge-gemma: error: {explain(error)}{hint}", "red")

    # ---- turns ------------------------------------------------------------------------------------------------

    def _turn(self, text: str | None, audio: Any = None) -> None:
        """Sends the text, the sound and what waits to be shown, and shows the answer. Ctrl-C stops the answer."""
        from ..errors import EdgeGemmaError

        if self._single:
            self.chat.reset()
        before = dict(self.chat.session.stats)
        media = {"images": self._waiting["image"] or None, "video": self._waiting["video"] or None}
        try:
            with Interrupt(self.chat.cancel) as interrupt, EncodingBar("pictures") as bar:
                try:
                    events = self.chat.send(text, audio=audio, **media, **media_options(self.args), progress=bar)
                    self._waiting = {"image": [], "video": []}
                    for event in events:
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
        elif event.kind == "tool_result":
            self.screen.line(f"[= {readable(event.result)}]", "cyan")
        elif event.kind == "broken_call":
            self._note("[the model wrote a call that cannot be read: nothing was run]")
        elif event.kind == "done" and event.stop == "length":
            self._note("[the answer is cut off: --max-tokens or --context allows no more]")

    def _note(self, text: str) -> None:
        """A line about an answer that is no part of it."""
        self.screen.end_line()
        self.errors.line(text, "dim")

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
        self._waiting = {"image": [], "video": []}
        self.screen.line("(new conversation)", "dim")

    def _system(self, text: str) -> None:
        if not text:
            self.screen.line(self.chat.system or "(no instructions)")
            return
        self.chat.system = text
        self._single = False
        self.screen.line("(instructions set)", "dim")

    def _tools(self, text: str) -> None:
        if text:
            tools = [] if text == "off" else load_tools(text)
            system = self.args.system if self._single else self.chat.system
            self._single = False
            old, self.chat = self.chat, self._open(system, tools)
            self.chat.history, self.tools = old.history, tools
            old.close()
        for tool in self.tools:
            summary = (tool.__doc__ or "").strip().split("\n")[0]
            self.screen.line(f"{tool.__name__}  {summary}".rstrip())
        if not self.tools:
            self.screen.line("(no tools: /tools FILE uses the functions of a Python file)")

    def _audio(self, text: str) -> None:
        from ..audio.source import load_audio

        path, message = self._file_and_text(text, "/audio FILE [TEXT]")
        samples = load_audio(path)
        warn_if_long(path, len(samples))
        self._turn(message, audio=[samples])

    def _file_and_text(self, text: str, usage: str) -> tuple[str, str | None]:
        """The file and the text of a command. File names may have spaces: the longest beginning that is a file is the name."""
        words = text.split(" ")
        ends = (end for end in range(len(words), 1, -1) if Path(" ".join(words[:end])).expanduser().is_file())
        end = next(ends, 1)
        return self._path(" ".join(words[:end]), usage), " ".join(words[end:]).strip() or None

    def attach(self, kind: str, file: str) -> None:
        """Keeps a picture or a video for the next message, and tells how large it is. Raises EdgeGemmaError."""
        from ..chat.attachments import check_senses

        part = {"type": kind, kind: file}
        check_senses(self.model, [{"role": "user", "content": [part]}])
        options = media_options(self.args)
        if kind == "image":
            from ..vision.budgets import choose_budget
            from ..vision.images import load_image

            opened: Any = load_image(file)
            height, width = opened.shape[:2]
            tokens = self.model.image_tokens(width, height, choose_budget(options["image_tokens"], height, width))
            size = f"{width} x {height}, {tokens} tokens"
        else:
            from ..vision.video import load_video

            room = self.chat.session.context
            opened = load_video(file, options["frames"], options["fps"], sound=self.model.has_audio, room=room)
            sizes = [frame.pixels.shape for frame in opened.frames]
            tokens = sum(self.model.image_tokens(width, height, 70) for height, width, _ in sizes)
            size = f"{len(sizes)} frames, {tokens} tokens"
        self._waiting[kind].append(opened)
        self._single = False
        self.screen.line(f"({os.path.basename(file)}: {size})", "dim")

    def _look(self, kind: str, text: str) -> None:
        path, message = self._file_and_text(text, f"/{kind} FILE [TEXT]")
        self.attach(kind, path)
        if message:
            self._turn(message)

    def _save(self, text: str) -> None:
        path = self._path(text, "/save FILE")
        check_output(Path(path), force=_is_conversation(Path(path)) or None)
        self.chat.save(path)
        self.screen.line(f"(saved to {path})", "dim")

    def _load(self, text: str) -> None:
        path = self._path(text, "/load FILE")
        self.load(path)
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
        memory = session.memory()
        parts = {
            "model": memory["resident"] + memory["tables"],
            "cache": memory["kv"],
            "work space": memory["scratch"] + memory["workspace"],
        }
        sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
        self.screen.line(
            f"memory: {format_bytes(sum(parts.values()))} ({sizes}); file: {format_bytes(memory['mapped'])}"
        )


def leaves(message: str) -> bool:
    """Whether a message ends the chat: /quit, whatever follows it, or the word quit alone."""
    words = message.lower().split()
    return bool(words) and (words[0] in LEAVING or words in [[word] for word in LEAVING_ALONE])


def readable(result: Any) -> str:
    """The result of a tool on one line: values of a mapping by name, everything else as JSON writes it."""
    if isinstance(result, str):
        return " ".join(result.split())
    if isinstance(result, dict) and result:
        return ", ".join(f"{name}: {_value(value)}" for name, value in result.items())
    return _value(result)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_conversation(path: Path) -> bool:
    """Whether a file is a conversation that /save wrote, which it may replace."""
    from ..chat.conversation import FORMAT

    try:
        with path.open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False
