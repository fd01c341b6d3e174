"""What the verbs share: exit statuses, the usage error, argument types, common options, opening a model, output formats.

Owns the options and defaults that must be the same for every verb. NumPy and the engine are imported only when a model is
opened, so that help and usage errors appear at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..engine.memory import MemoryLimit, parse_size
from ..hub.resolve import MMPROJ_VARIABLE, MODEL_VARIABLE, is_embedded, model_files
from ..shell import quoted
from .parsing import Parser, file_path, plain_text
from .terminal import Screen, format_clock, print_warning

if TYPE_CHECKING:
    from .. import Model, Sampling

# Exit statuses of the command. BROKEN_PIPE: the program that read the output has ended, as `head` does.
DONE, FAILED, INTERRUPTED, BROKEN_PIPE = 0, 1, 130, 141

DEBUG_VARIABLE = "EDGE_GEMMA_DEBUG"
DEFAULT_CONTEXT = 4096
SEPARATE = "separate"  # channels that are heard one by one
HEARD_SECONDS = 30  # of a recording at a time: Gemma 4 was trained on recordings up to this length
SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")

# Sentences of the library whose advice is for programs, by the code of the error: the command line has its own.
_ADVICE_OF_LIBRARY = re.compile(r" (Open a session|Take a larger|Start a new) [^.]*\.$")
_IN_PYTHON = re.compile(r" \(in Python: [^)]*\)", re.IGNORECASE)
_ARGUMENTS = re.compile(r"\b(max_seconds|max_tokens|memory_limit|max_words|initial_prompt|translate_to)\b=?")
_NO_ROOM = re.compile(r"(\d+) more tokens do not fit: (\d+) of the session's (\d+)")
_ROOM_FOR_ANSWER = 512
_SMALLER = {"--max-seconds": "shorter segments", "--max-tokens": "shorter answers"}


class UsageError(Exception):
    """The command line asks for something impossible; shown as one message, with the exit status WRONG_USAGE."""


def error_text(error: Exception) -> str:
    """The message of an expected failure, on one line and in the words of the command line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    text = " ".join(text.split()) or type(error).__name__
    return in_options(text, getattr(error, "code", ""))


def in_options(text: str, code: str) -> str:
    """A message of the library with options instead of its arguments, and with what a command can do in place of its advice.

    `code` is the `EdgeGemmaError.code` of the error: "context" is about room for tokens.
    """
    text = _ARGUMENTS.sub(lambda found: "--" + found[1].replace("_", "-"), _IN_PYTHON.sub("", text))
    if code != "context":
        return text
    if room := _NO_ROOM.search(text):
        needed = int(room[1]) + int(room[2]) + _ROOM_FOR_ANSWER
        fact = f"the context of {room[3]} tokens is full: {room[2]} are in use, and {room[1]} more do not fit."
        return f"{fact} Give a longer one, such as --context {-(-needed // 1024)}K, or a shorter input."
    fact = _ADVICE_OF_LIBRARY.sub("", text)
    if fact == text:
        return text
    others = [f"{change} with {name}" for name, change in _SMALLER.items() if name in text]
    return f"{fact} {' or '.join(['Give a longer context with --context N', *others])}."


def explain(error: Exception) -> str:
    """One line for an exception: the message of an expected failure; for a bug of this program the class, too."""
    from ..errors import EdgeGemmaError
    from ..installation import missing_package

    if isinstance(error, ImportError):
        error = missing_package(error)
    if isinstance(error, (EdgeGemmaError, OSError, ImportError, MemoryError, UsageError)):
        return error_text(error)
    return f"internal error: {type(error).__name__}: {error_text(error)} ({DEBUG_VARIABLE}=1 shows where)."


def preparation(error: Exception, args: argparse.Namespace) -> str:
    """What preparing the model saves, as a sentence behind the error of a memory limit that is too small; "" where preparing
    it is of no use, and for other errors."""
    from ..errors import EdgeGemmaError, EdgeGemmaMemoryError

    limited = getattr(args, "memory_limit", None) is not None and not getattr(args, "no_sidecar", False)
    if not isinstance(error, EdgeGemmaMemoryError) or not limited:
        return ""
    from ..engine.memory import format_bytes
    from ..files.prepare import is_worthwhile, saving
    from ..hub.sidecar import sidecar_path

    try:
        path = model_path(args)
        if sidecar_path(path).exists() or not is_worthwhile(path):
            return ""
        return f" `edge-gemma prepare {quoted(path)}` saves {format_bytes(saving(path))}."
    except (EdgeGemmaError, OSError, UsageError):  # the file cannot be read any more
        return ""


def typed_command() -> str:
    """This command as it can be typed in the current folder: with its path where the shell would not find this one."""
    program = sys.argv[0]
    if os.path.basename(program) != "edge-gemma":  # python -m edge_gemma
        return f"{typed_python()} -m edge_gemma"
    found = shutil.which("edge-gemma")
    return "edge-gemma" if found and os.path.samefile(found, program) else _short_path(program)


def typed_python() -> str:
    """The interpreter that runs this, as it can be typed in the current folder."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and os.path.abspath(found) == os.path.abspath(sys.executable):
            return name
    return _short_path(sys.executable)


def _short_path(program: str) -> str:
    """The path of a program, relative to the current folder if it lies below."""
    path = os.path.abspath(program)
    below = os.path.relpath(path) if path.startswith(os.path.join(os.getcwd(), "")) else path
    return quoted(below if os.sep in below else os.path.join(os.curdir, below))


# ---- argument types ---------------------------------------------------------------------------------------------


def count(text: str) -> int:
    """A whole number above zero; K and M stand for 1024 and 1024^2, as in `--context 8K`."""
    if (value := whole(text)) == 0:
        raise argparse.ArgumentTypeError("0 is out of range")
    return value


def whole(text: str) -> int:
    """Like `count`, but zero is allowed."""
    scale = {"k": 1024, "m": 1024 * 1024}.get(text[-1:].lower(), 1)
    try:
        value = int(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is out of range")
    return value


def channels(text: str) -> int | str:
    """A number of channels, or "separate"."""
    return text if text == SEPARATE else count(text)


def counts(text: str) -> list[int]:
    """Whole numbers above zero, separated by commas."""
    return [count(part) for part in text.split(",")]


def wholes(text: str) -> list[int]:
    """Like `counts`, but zero is allowed."""
    return [whole(part) for part in text.split(",")]


def size(text: str) -> int:
    """A size such as 1.5GB, in bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


def _number(low: float, high: float, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not low <= value <= high:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
    return value


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    return _number(0.0, 1.0, text)


def amount(text: str) -> float:
    """A number from 0 to 100."""
    return _number(0.0, 100.0, text)


def penalty(text: str) -> float:
    """A repetition penalty: above 0; 1 turns it off."""
    return _number(0.01, 100.0, text)


def seconds(text: str) -> float:
    """The length of the longest segment. The model hears at most 30 seconds at a time."""
    return _number(2.0, 30.0, text)


def watch_seconds(text: str) -> float:
    """How often folders are looked through."""
    return _number(0.1, 86400.0, text)


def niceness(text: str) -> int:
    """By how much a process gives way to others."""
    return int(_number(1, 19, text))


def language(text: str) -> str:
    """A language to translate into: a name or a code."""
    from ..errors import EdgeGemmaValueError
    from ..speech.languages import language_name

    try:
        return language_name(text)
    except EdgeGemmaValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def spoken_language(text: str) -> str | None:
    """Like `language`; "auto" leaves the language to the model."""
    from ..speech.languages import leaves_open

    return None if leaves_open(text) else language(text)


# ---- options ----------------------------------------------------------------------------------------------------


def add_verb(subparsers: Any, name: str, summary: str, examples: str) -> Parser:
    """Adds the parser of a verb, with examples at the end of its help."""
    parser: Parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join("  " + line for line in examples.strip().splitlines()),
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser, several_threads: bool = False) -> None:
    """Adds --model, --mmproj and --threads; with `several_threads`, --threads takes a list of numbers."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        "-m",
        type=file_path,
        metavar="FILE",
        help="GGUF file of the model, or the name of a model that was downloaded with `edge-gemma pull`, such as e2b"
        f" (default: environment variable {MODEL_VARIABLE}, else the embedded toy model)",
    )
    group.add_argument(
        "--mmproj",
        type=file_path,
        metavar="FILE",
        help=f"GGUF file of the model's audio and image encoders (default: environment variable {MMPROJ_VARIABLE})",
    )
    group.add_argument(
        "--no-sidecar",
        action="store_true",
        help="leave out the leaner head beside FILE that `edge-gemma prepare` has made",
    )
    kind, metavar = (counts, "N,...") if several_threads else (count, "N")
    group.add_argument("--threads", "-t", type=kind, metavar=metavar, help="worker threads (default: the fast cores)")


def add_session_options(parser: argparse.ArgumentParser, default: str = str(DEFAULT_CONTEXT)) -> None:
    """Adds --context, --kv and --memory-limit; `default` is what the help says of a missing --context."""
    group = parser.add_argument_group("session")
    group.add_argument(
        "--context",
        "-c",
        type=count,
        metavar="N",
        help=f"length of the context in tokens, prompts and answers together; 8K means 8192 (default: {default})",
    )
    group.add_argument("--kv", choices=("f16", "f32", "q8"), help="type of the KV cache (default: f16)")
    group.add_argument(
        "--memory-limit",
        type=size,
        metavar="SIZE",
        help="stay within this much memory in all, such as 1.5GB, with a q8 cache or a smaller context if necessary;"
        " without --context, the longest context that fits",
    )


def add_hint_options(parser: argparse.ArgumentParser) -> None:
    """Adds --initial-prompt and --hotwords, which help a model that hears to find the right words."""
    group = parser.add_argument_group("hints")
    group.add_argument(
        "--initial-prompt",
        "--prompt",
        type=plain_text,
        metavar="TEXT",
        help="what the speech is about, or what was said before it; it is not in the output",
    )
    group.add_argument(
        "--hotwords", type=plain_text, metavar="WORDS", help='words and names to spell like this, such as "Kyiv, Ngozi"'
    )


def add_sampling_options(
    parser: argparse.ArgumentParser,
    max_tokens: int | None,
    temperature: float = 1.0,
    unlimited: str = "as long as there is room",
) -> None:
    """Adds the options of the sampler and of an answer's end; `unlimited` is what the help says of no `max_tokens`."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens",
        "-n",
        type=count,
        default=max_tokens,
        metavar="N",
        help=f"longest answer in tokens (default: {max_tokens or unlimited})",
    )
    group.add_argument(
        "--temperature",
        type=amount,
        default=temperature,
        metavar="X",
        help=f"0 is greedy (default: {temperature})",
    )
    group.add_argument(
        "--top-k", type=whole, default=64, metavar="N", help="keep the N most probable tokens (default: 64; 0 is off)"
    )
    group.add_argument(
        "--top-p",
        type=fraction,
        default=0.95,
        metavar="X",
        help="keep the most probable tokens that together have this probability (default: 0.95; 1 is off)",
    )
    group.add_argument(
        "--min-p",
        type=fraction,
        default=0.0,
        metavar="X",
        help="drop tokens that have less than X times the highest probability (default: 0, off)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=penalty,
        default=1.0,
        metavar="X",
        help="a number above 1 makes repetition less probable (default: 1, off)",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new seed each time)"
    )
    group.add_argument(
        "--stop",
        action="append",
        type=plain_text,
        metavar="TEXT",
        help="end the answer before this text; may be given several times",
    )


def sampling(args: argparse.Namespace) -> Sampling:
    """How tokens are drawn, from the options. A temperature of None is the default of verbs that talk: 1, for the toy 0."""
    from .. import Sampling

    chosen = {name: getattr(args, name) for name in SAMPLING_OPTIONS}
    if args.temperature is None:
        chosen["temperature"] = 0.0 if is_toy(args) else 1.0
    return Sampling(**chosen)


# ---- model ------------------------------------------------------------------------------------------------------


def model_path(args: argparse.Namespace) -> str:
    """The file of the model that --model or the environment names, else of the embedded one. Raises UsageError without."""
    return model_paths(args)[0]


def open_model(args: argparse.Namespace, notice: bool = True) -> Model:
    """Opens the model that the common options name. With `notice`, a line on standard error says when nobody named one, so
    that the embedded toy answers: its sentences look like those of a model."""
    path, mmproj = model_paths(args)
    if notice:
        announce_toy(args)
    from .. import Model

    limit = getattr(args, "memory_limit", None)
    return Model.load(path, mmproj=mmproj, threads=args.threads, sidecar=not args.no_sidecar, memory_limit=limit)


def announce_toy(args: argparse.Namespace) -> None:
    """Says once on standard error that nobody named a model, so that it is the embedded toy; nothing for other models."""
    if not unnamed_toy(args) or getattr(args, "toy_announced", False):
        return
    args.toy_announced = True
    Screen(sys.stderr).line(f"[{' '.join([_TOY, *_toy_examples(args), _real_model()])}]", "dim")


_TOY = (
    "No model was named, so the embedded toy model answers. It knows commands to a home in English, Spanish and German, and "
    "takes everything for one."
)


def _toy_examples(args: argparse.Namespace) -> list[str]:
    """What to say to the toy, for the verbs that talk with a model."""
    if getattr(args, "verb", None) not in ("run", "chat"):
        return []
    return ['Try "Turn on the kitchen lights.", "Play jazz in the office." or "What is the weather in Rome tomorrow?".']


def _real_model() -> str:
    return f"`{typed_command()} pull e2b` gets a real one, and `--model toy` silences this line."


def unnamed_toy(args: argparse.Namespace) -> bool:
    """Whether neither --model nor the environment names a model, so that it is the embedded toy."""
    return not args.model and not os.environ.get(MODEL_VARIABLE) and is_embedded(model_paths(args)[0])


def home_of_toy(args: argparse.Namespace) -> tuple[str | None, list[Any]]:
    """The instructions and the tools that the embedded toy was trained on: those of a home. (None, []) for other models."""
    if not is_toy(args):
        return None, []
    from ..demo.home import INSTRUCTIONS, Home

    return INSTRUCTIONS, Home().tools


def is_toy(args: argparse.Namespace) -> bool:
    """Whether the model is the embedded toy, named or not."""
    return is_embedded(model_paths(args)[0])


def model_paths(args: argparse.Namespace) -> tuple[str, str | None]:
    """The files of the model and of its encoders (None without). Raises UsageError where there is no model."""
    try:
        path, mmproj = model_files(args.model, args.mmproj)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return str(path), None if mmproj is None else str(mmproj)


def context_length(args: argparse.Namespace, model: Model) -> int:
    """--context. The default is 4096, or the model's own context length if that is shorter."""
    return args.context or min(DEFAULT_CONTEXT, model.config.context_length)


def session_options(
    args: argparse.Namespace, model: Model, audio: bool | None = None, vision: bool | None = None, form: bool = False
) -> dict[str, Any]:
    """The session options as keyword arguments of `Model.session` and `Model.chat`.

    `audio`, `vision`: whether the session will hear sound, and see pictures; None if that is not known yet. `form`: whether
    its answers will have one.
    """
    if args.memory_limit is None:
        return {"context": context_length(args, model), "kv": args.kv}
    grammar = 0
    if form:
        from ..chat.vocabulary import view_bytes

        grammar = view_bytes(model.tokenizer)
    limit = MemoryLimit(args.memory_limit, audio=audio, vision=vision, grammar=grammar)
    return {"context": args.context, "kv": args.kv, "memory_limit": limit}


def warn_if_long(file: str, samples: int) -> None:
    """Warns when a recording of so many samples at 16 kHz is longer than what the model hears at a time."""
    if (seconds := samples / 16000) > HEARD_SECONDS + 0.5:
        print_warning(
            f"{file} lasts {format_clock(seconds)}, and the model hears {HEARD_SECONDS} seconds at a time: it may miss the "
            f"rest. {transcribe_instead(file)}"
        )


def transcribe_instead(file: str) -> str:
    """What to do with a recording that is too long for one question."""
    return f"`{typed_command()} transcribe {quoted(file)}` writes down recordings of any length."


# ---- output -----------------------------------------------------------------------------------------------------


def print_json(value: Any, one_line: bool = False) -> None:
    """Prints one JSON document on standard output: indented, or with `one_line` as one of several (JSON Lines)."""
    json.dump(value, sys.stdout, indent=None if one_line else 2, ensure_ascii=False)
    print()


def format_threads(n: int) -> str:
    """A number of threads in words: 1 thread, 2 threads."""
    return f"{n} thread{'s' * (n != 1)}"


def format_count(n: float) -> str:
    """A number of parameters as models are named by it: 4628600000 -> '4.63 B'."""
    for unit in ("", " K", " M"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} B"


def print_table(rows: list[tuple[str, ...]], indent: int = 2) -> None:
    """Prints a table whose columns are as wide as their widest cell. The first column is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))]
    for row in rows:
        cells = [cell.rjust(widths[i]) if i else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        print((" " * indent + "  ".join(cells)).rstrip())


def timings(stats: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Token counts and times of a session, for JSON output."""
    tokens: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for name, label in (("prefill", "prompt"), ("decode", "answer")):
        tokens[label], seconds = stats[f"{name}_tokens"], stats[f"{name}_seconds"]
        times[f"{label}_s"] = seconds
        times[f"{label}_tok_s"] = tokens[label] / seconds if seconds > 0 else None
    return {"tokens": tokens, "timings": rounded(times)}


def rounded(value: Any) -> Any:
    """Plain data with measured numbers as far as they mean something: five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def format_stats(stats: dict[str, Any]) -> str:
    """Token counts and speeds of a session in one line."""
    parts = []
    for name, label in (("prefill", "prompt"), ("decode", "answer")):
        tokens, seconds = stats[f"{name}_tokens"], stats[f"{name}_seconds"]
        speed = f" ({tokens / seconds:.1f} tok/s)" if seconds > 0 and tokens else ""
        parts.append(f"{label} {tokens} tokens in {seconds:.2f} s{speed}")
    return ", ".join(parts)
