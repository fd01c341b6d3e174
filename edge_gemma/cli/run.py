"""`edge-gemma run`: one prompt, one answer.

The answer goes to standard output as it comes. Thoughts and the speed go to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .common import (
    DONE,
    HEARD_SECONDS,
    INTERRUPTED,
    UsageError,
    add_model_options,
    add_sampling_options,
    add_session_options,
    add_verb,
    error_text,
    format_stats,
    home_of_toy,
    open_model,
    print_json,
    sampling,
    session_options,
    timings,
    transcribe_instead,
    warn_if_long,
)
from .parsing import file_path, plain_text
from .pictures import EncodingBar, add_budget_options, add_media_options, media_options
from .terminal import Interrupt, Screen

STDIN = "-"

EXAMPLES = """
edge-gemma run -m e2b "Why is the sky blue?"
edge-gemma run Why is the sky blue
edge-gemma run "Summarize this text:" --file notes.txt
git diff | edge-gemma run "Write a commit message for this diff:" --file -
edge-gemma run --audio question.wav
edge-gemma run --audio question.wav "Who speaks, and about what?"
edge-gemma run --image photo.jpg "What is the woman on the left holding?"
edge-gemma run --thinking --temperature 0 "What is 17 * 23?"
edge-gemma run --raw --max-tokens 40 "Once upon a time"
edge-gemma run --json "Name three colours." | jq -r .text
edge-gemma run "Which city is this about, and how many live there?" --schema city.json
edge-gemma run "Is the sky green?" --regex "yes|no"
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "run", "answer one prompt", EXAMPLES)
    parser.add_argument(
        "prompt",
        nargs="*",
        type=plain_text,
        metavar="PROMPT",
        help="the prompt, in quotes or as several words (default, and -: standard input); with --file, the text before the"
        " file's",
    )
    parser.add_argument(
        "--file",
        "-f",
        type=file_path,
        metavar="FILE",
        help="file with the prompt, or with its end; - is standard input",
    )
    parser.add_argument(
        "--audio",
        "-a",
        action="append",
        type=file_path,
        metavar="FILE",
        help=f"a recording of up to {HEARD_SECONDS} seconds, which the model hears after the prompt; may be given several"
        " times, and without a prompt",
    )
    add_media_options(parser, "before the prompt")
    parser.add_argument(
        "--system", "-s", type=plain_text, metavar="TEXT", help="instructions for the whole conversation"
    )
    parser.add_argument(
        "--raw", action="store_true", help="continue the text instead of answering it as a chat turn; markers count"
    )
    parser.add_argument("--thinking", action="store_true", help="let the model think before it answers")
    parser.add_argument("--no-show-thinking", action="store_true", help="do not print the thought on standard error")
    parser.add_argument("--json", action="store_true", help="one JSON object, when the answer is complete")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--schema",
        type=plain_text,
        metavar="FILE|JSON",
        help="the answer is JSON that this JSON schema allows; the schema in a file, or itself",
    )
    form.add_argument(
        "--regex", type=plain_text, metavar="PATTERN", help="the whole answer matches this regular expression"
    )
    parser.add_argument("--verbose", "-v", action="store_true", help="print speed on standard error")
    add_budget_options(parser)
    add_sampling_options(parser, max_tokens=1024)
    parser.set_defaults(temperature=None)  # see sampling()
    add_session_options(parser)
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Answers the prompt."""
    if args.raw and (args.system is not None or args.thinking or _media(args)):
        raise UsageError(
            "--raw continues the text itself: it cannot be used with --system, --thinking, --audio, --image or --video."
        )
    media_options(args)
    args.prompt = " ".join(args.prompt) if args.prompt else None
    prompt, form = _prompt(args), _form(args)
    with open_model(args) as model:
        answer = _raw(model, args, prompt or "", form) if args.raw else _turn(model, args, prompt, form)
        stats = answer.pop("stats")
        if args.json:
            print_json({**answer, **timings(stats)})
        if args.verbose:
            print(f"[{answer['stop']}; {format_stats(stats)}]", file=sys.stderr)
    return INTERRUPTED if answer["stop"] == "interrupted" else DONE


def _form(args: argparse.Namespace) -> Any:
    """The `Grammar` of --schema or --regex; None without."""
    if args.schema is None and args.regex is None:
        return None
    from .. import Grammar

    if args.regex is not None:
        return Grammar.regex(args.regex)
    return Grammar.json_schema(args.schema if args.schema.lstrip().startswith("{") else _read(args.schema))


def _media(args: argparse.Namespace) -> bool:
    """Whether the model is to hear or see something."""
    return bool(args.audio or args.image or args.video)


def _prompt(args: argparse.Namespace) -> str | None:
    """The text to answer, from the argument, the file and standard input; None if there is only sound.

    Pictures and videos alone are to be described.
    """
    parts = []
    if _media(args) and args.prompt is None and args.file is None:
        from ..vision.describe import PICTURE_QUESTION, VIDEO_QUESTION

        return None if args.audio else PICTURE_QUESTION if args.image else VIDEO_QUESTION
    if args.prompt not in (None, STDIN):
        parts.append(args.prompt)
    elif args.prompt == STDIN or args.file is None:
        if args.prompt is None and sys.stdin.isatty():
            raise UsageError("there is no prompt: give it as an argument, with --file, or on standard input.")
        if args.file == STDIN:
            raise UsageError("standard input can be read only once: give - as the prompt or with --file.")
        parts.append(_read(STDIN))
    if args.file is not None:
        parts.append(_read(args.file))
    text = "\n\n".join(parts)
    if not text.strip():
        if args.prompt is None and args.file is None:
            raise UsageError("there is no prompt: standard input is empty. Give it as an argument or with --file.")
        raise UsageError("the prompt is empty.")
    return text


def _read(name: str) -> str:
    """The text of a file; "-" is standard input."""
    if name == STDIN:
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    with open(name, "rb") as file:
        return file.read().decode("utf-8", "replace")


class _Output:
    """Collects the pieces of an answer, and prints them as they come unless --json was given."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.text: list[str] = []
        self.thinking: list[str] = []
        self._out = None if args.json else Screen(sys.stdout)
        self._err = None if args.json or args.no_show_thinking else Screen(sys.stderr)

    def add_text(self, piece: str) -> None:
        if self._err:
            self._err.end_line()
        self.text.append(piece)
        if self._out:
            self._out.write(piece)

    def add_thinking(self, piece: str) -> None:
        self.thinking.append(piece)
        if self._err:
            self._err.write(piece, "dim")

    def close(self) -> None:
        """Ends the line of text and of thoughts. Further calls do nothing."""
        for screen in filter(None, (self._err, self._out)):
            screen.end_line()

    def result(self, stop: str, stats: dict[str, Any]) -> dict[str, Any]:
        """Ends the output. `stop`: why the answer ended; `stats`: those of the session."""
        self.close()
        return {
            "text": "".join(self.text),
            "thinking": "".join(self.thinking) or None,
            "stop": stop,
            "stats": dict(stats),
        }


def _raw(model: Any, args: argparse.Namespace, prompt: str, form: Any) -> dict[str, Any]:
    """Continues the text, for --raw."""
    from ..errors import EdgeGemmaError

    output = _Output(args)
    with (
        contextlib.closing(
            model.session(**session_options(args, model, audio=False, vision=False, form=bool(form)))
        ) as session,
        contextlib.closing(output),
    ):
        stop = ""
        with Interrupt(session.cancel) as interrupt:
            try:
                if form:
                    form.prepare(model.tokenizer)  # while the prompt is read
                session.feed_text(prompt, special=True, bos=True)
                pieces = session.generate(args.max_tokens, stop=args.stop, sampling=sampling(args), grammar=form)
                for piece in _until(interrupt, pieces):
                    output.add_text(piece)
                if not interrupt.hit:
                    stop = pieces.stop
            except EdgeGemmaError:
                if not interrupt.hit:
                    raise
        return output.result("interrupted" if interrupt.hit else stop, session.stats)


def _turn(model: Any, args: argparse.Namespace, prompt: str | None, form: Any) -> dict[str, Any]:
    """Answers the text and the sound as a turn of the user."""
    from ..errors import EdgeGemmaError

    output = _Output(args)
    audio = _recordings(args.audio or ())
    media = {"audio": audio, "images": args.image, "video": args.video, **media_options(args)}
    system, tools = home_of_toy(args) if args.system is None else (args.system, [])
    stop = ""
    with (
        _explained(args.audio or ()),
        model.chat(
            system=system,
            tools=tools or None,
            thinking=args.thinking,
            sampling=sampling(args),
            max_tokens=args.max_tokens,
            stop=args.stop,
            **session_options(args, model, bool(audio or args.video), bool(args.image or args.video), bool(form)),
        ) as chat,
        contextlib.closing(output),
        EncodingBar("pictures") as bar,
    ):
        with Interrupt(chat.cancel) as interrupt:
            try:
                for event in _until(interrupt, chat.send(prompt, **media, grammar=form, progress=bar)):
                    if event.kind == "text":
                        output.add_text(event.text)
                    elif event.kind == "thinking":
                        output.add_thinking(event.text)
                    elif event.kind == "done":
                        stop = event.stop
            except EdgeGemmaError:
                if not interrupt.hit:
                    raise
        return output.result("interrupted" if interrupt.hit else stop, chat.session.stats)


def _recordings(files: Iterable[str]) -> list[Any] | None:
    """The samples of the files; None without any."""
    from ..audio.source import load_audio

    loaded = []
    for file in files:
        samples = load_audio(file)
        warn_if_long(file, len(samples))
        loaded.append(samples)
    return loaded or None


@contextlib.contextmanager
def _explained(files: Iterable[str]) -> Iterator[None]:
    """Adds to an error about the context what else can be done with long recordings."""
    from ..errors import EdgeGemmaError

    try:
        yield
    except EdgeGemmaError as error:
        if error.code != "context" or not files:
            raise
        raise EdgeGemmaError(f"{error_text(error)} {' '.join(map(transcribe_instead, files))}", "argument") from error


def _until(interrupt: Interrupt, items: Iterable[Any]) -> Iterable[Any]:
    """The items until Ctrl-C is pressed."""
    if interrupt.hit:
        return
    for item in items:
        yield item
        if interrupt.hit:
            break
