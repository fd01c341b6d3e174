"""What `transcribe` and `translate` share: recordings in, transcripts out.

Owns their options, the names of output files, and the side files from which --resume continues an interrupted run. The
work itself is in `edge_gemma.speech.transcriber`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .common import (
    DONE,
    FAILED,
    INTERRUPTED,
    SAMPLING_OPTIONS,
    UsageError,
    add_hint_options,
    add_model_options,
    add_sampling_options,
    add_session_options,
    channels,
    count,
    explain,
    niceness,
    open_model,
    sampling,
    seconds,
    watch_seconds,
)
from .outputs import STDOUT, check_output, is_stream, naming, open_text, replacing
from .terminal import Bar, Interrupt, Screen, format_clock, print_error, print_warning

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "jsonl")
PARQUET = "parquet"  # of clusters
STDIN = "-"
_LONGEST_NAME = 255  # bytes, in the usual file systems
_FORM = {"edge-gemma": "unfinished transcript", "version": 1}


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options about sound, output and model."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        type=str.lower,
        choices=(*FORMATS, PARQUET),
        help="format of the output; jsonl has one line a recording, and so has json on standard output for several"
        " recordings; parquet is for --ray (default: by the output file's name, else txt)",
    )
    group.add_argument(
        "--output",
        "-o",
        metavar="PATH",
        help="file, or directory for one file a recording; unfinished output is in FILE.part"
        " (default, and -: standard output)",
    )
    group.add_argument(
        "--force", "-f", action="store_true", help="with --output: replace text files that exist already"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="with --output: continue an interrupted run, and skip recordings whose output is complete",
    )
    group.add_argument(
        "--watch",
        type=watch_seconds,
        nargs="?",
        const=5.0,
        metavar="S",
        help="with folders, lists or patterns: look every S seconds for new recordings, until Ctrl-C (without S: 5)",
    )
    group.add_argument(
        "--nice",
        type=niceness,
        nargs="?",
        const=10,
        metavar="N",
        help="leave the cores to other programs that want them; 19 gives way most (default: not; without N: 10)",
    )
    group.add_argument("--verbose", "-v", action="store_true", help="print the speed on standard error")
    group.add_argument(
        "--word-times",
        action="store_true",
        help="find when each word was said: json has the times, vtt shows a word when it is said, and srt underlines it"
        " (takes about twice as long)",
    )
    group.add_argument(
        "--details",
        action="store_true",
        help="json tells of each segment also the language, if none is named, and how probable it is that nobody speaks",
    )
    group = parser.add_argument_group("sound")
    group.add_argument("--rate", type=count, metavar="HZ", help="samples a second of raw sound (default: 16000)")
    group.add_argument(
        "--channels",
        type=channels,
        metavar="N",
        help="channels of raw sound (default: 1); or separate, with --output FOLDER: each channel of a recording is a speaker"
        " of its own, as in calls",
    )
    group.add_argument("--encoding", default="s16le", metavar="NAME", help="type of raw samples (default: s16le)")
    group.add_argument(
        "--vad",
        choices=("auto", "silero", "energy", "none"),
        default="auto",
        help="voice activity detector; none treats everything as speech (default: auto, the best one installed)",
    )
    group.add_argument("--no-vad", dest="vad", action="store_const", const="none", help="the same as --vad none")
    group.add_argument(
        "--max-seconds", type=seconds, default=28.0, metavar="S", help="longest segment, 2 to 30 (default: 28)"
    )
    group.add_argument(
        "--whole",
        action="store_true",
        help="transcribe a recording that is not longer than --max-seconds as one segment, pauses included",
    )
    group.add_argument(
        "--guard",
        action=argparse.BooleanOptionalAction,
        help="hear a segment that cannot be right once more, with other boundaries, mark it if that does not help, and drop"
        " words where nobody speaks (default: for folders, lists and patterns)",
    )
    group.add_argument(
        "--batch",
        type=count,
        metavar="N",
        help="segments that are heard together, up to 64; more take less time and more memory, and the text is the same"
        " (default: by threads and memory)",
    )
    group.add_argument(
        "--order",
        choices=("instruction-first", "audio-first"),
        default="instruction-first",
        help="what the model reads first; instruction-first answers sooner (default)",
    )
    add_hint_options(parser)
    add_sampling_options(parser, max_tokens=None, temperature=0.0, unlimited="by the length of the input")
    add_session_options(parser, default="what the longest segment needs")
    add_model_options(parser)


def write_down(
    args: argparse.Namespace, files: list[str], language: str | None, to: str | None = None, stdin: Any = STDIN
) -> int:
    """Transcribes (and, with `to`, translates) the files one after the other. Returns the exit status.

    A file that fails is reported, and the next one is begun. Ctrl-C ends the run; finished segments are kept. `stdin` is
    the source that is read for the file "-".
    """
    if args.watch is not None:
        raise UsageError("--watch is for folders, lists and patterns of recordings.")
    give_way(args)
    format, outputs = plan(args, files)
    with opened(args, format, language, to) as (transcriber, names, identity):
        work = _Work(args, transcriber, format, names, identity, stdin)
        done = failed = skipped = 0
        with Interrupt(transcriber.cancel) as interrupt:
            for file, output in zip(files, outputs, strict=True):
                try:
                    if work.do(file, output, heading=len(files) > 1):
                        done += 1
                    else:
                        skipped += 1
                except BrokenPipeError:
                    raise
                except Exception as error:  # whatever it is, it is the trouble of this file alone
                    if not interrupt.hit:
                        failed += 1
                        print_error(named(file, explain(error)))
                        if output is None and isinstance(error, OSError) and STDOUT in str(error):
                            break  # nothing more can be written there
                if interrupt.hit:
                    break
    if done < len(files) > 1:
        left = len(files) - done - failed - skipped
        counts = {"failed": failed, "skipped": skipped, "not finished" if interrupt.hit else "not begun": left}
        rest = "".join(f", {number} {what}" for what, number in counts.items() if number)
        print(f"edge-gemma: {done} of {len(files)} recordings done{rest}.", file=sys.stderr)
    return INTERRUPTED if interrupt.hit else FAILED if failed else DONE


def give_way(args: argparse.Namespace) -> None:
    """Makes this process give way to others as --nice says. Raises UsageError where the system cannot."""
    if args.nice is not None:
        if not hasattr(os, "nice"):
            raise UsageError("--nice is not possible on this system.")
        os.nice(args.nice)


@contextlib.contextmanager
def opened(
    args: argparse.Namespace, format: str, language: str | None, to: str | None, guarded: bool = False
) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """A transcriber with the options of the command, what the JSON format tells of them, and all that the words depend on.

    `guarded`: where the command does not say whether."""
    from .. import Transcriber

    options = {name: getattr(args, name) for name in ("initial_prompt", "hotwords", "order", "max_seconds", "whole")}
    options |= {name: getattr(args, name) for name in ("max_tokens", "stop", "word_times")}
    options |= {"detector": args.vad, "guarded": guarded if args.guard is None else args.guard}
    detect_language = language is None and (format in ("json", "jsonl") or args.verbose)
    asked = {"detect_language": "segments" if args.details else detect_language, "no_speech": args.details}
    drawing = {name: getattr(args, name) for name in SAMPLING_OPTIONS}
    limits = {"context": args.context, "kv": args.kv, "memory_limit": args.memory_limit}
    raw = {name: getattr(args, name) for name in ("rate", "channels", "encoding")}
    with (
        open_model(args) as model,
        Transcriber(
            model, language, to, sampling=sampling(args), batch=args.batch, **asked, **limits, **options
        ) as transcriber,
    ):
        names = {"model": model.path.name, "language": transcriber.language, "to": transcriber.to}
        known = {"detector": _detector_kind(args.vad), "details": args.details}
        yield transcriber, names, {**names, **options, **drawing, **raw, **known}


def _detector_kind(vad: str) -> str:
    """Which detector "auto" stands for: with another one, an interrupted run would not go on as it began."""
    from ..audio.vad import detector

    return detector(vad).kind if vad == "auto" else vad


def named(file: str, message: str) -> str:
    """The message, preceded by the name of the file unless it names that file or an output."""
    name = "standard input" if file == STDIN else file
    names = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) or "cannot be written" in message
    return message if names else f"{name}: {message}"


def plan(args: argparse.Namespace, files: list[str]) -> tuple[str, list[Path | None]]:
    """The format, and the output file of each input (None for standard output).

    Raises UsageError for options that contradict each other, and where a file would be replaced that may not be.
    """
    if files.count(STDIN) > 1:
        raise UsageError("- is standard input, which can be read only once.")
    to_stdout = args.output in (None, STDIN)
    if args.resume and (to_stdout or STDIN in files):
        raise UsageError("--resume needs --output, and recordings that are files.")
    if to_stdout:
        return usable(_stdout_format(args.format or "txt", len(files)), args), [None] * len(files)
    if not args.output:
        raise UsageError("--output is empty.")
    output = Path(args.output).expanduser()
    several = len(files) > 1
    into = os.path.isdir(output) or args.output.endswith(("/", os.sep)) or (several and not output.suffix)
    into = into and not is_stream(output)
    if into:
        if os.path.exists(output) and not os.path.isdir(output):
            raise UsageError(f"--output {args.output} is a file, not a directory.")
        format = args.format or "txt"
        outputs = [output / f"{'stdin' if file == STDIN else Path(file).stem}.{format}" for file in files]
    elif several and not is_stream(output):
        raise UsageError(
            f"--output {args.output} is one file, and there are {len(files)} recordings: give a directory, such as "
            f"{output.with_suffix('')}/."
        )
    else:
        outputs = [output] * len(files)
        format = args.format or _format_of(output)
        format = _stdout_format(format, len(files)) if several else format
    usable(format, args)
    _check_different(files, outputs)
    if into:
        with naming(output):
            output.mkdir(parents=True, exist_ok=True)
    for path in outputs:
        _check(path, files, args)
    return format, list(outputs)


def usable(format: str, args: argparse.Namespace) -> str:
    """The format, if it has a place for all that is asked for; else raises UsageError."""
    if format == PARQUET:
        raise UsageError("--format parquet is for the records of a cluster, with --ray.")
    if args.word_times and format in ("txt", "tsv"):
        raise UsageError(f"--word-times has no effect on the format {format}: choose json, jsonl, srt or vtt.")
    if args.details and format not in ("json", "jsonl"):
        raise UsageError(f"--details has no effect on the format {format}: choose json or jsonl.")
    return format


def _check_different(files: list[str], outputs: list[Path]) -> None:
    """Raises UsageError if two recordings would be written to the same file."""
    found: dict[str, str] = {}
    for file, path in zip(files, outputs, strict=True):
        target = os.path.realpath(path)
        if is_stream(path) or target not in found:
            found[target] = file
        elif found[target] == file:
            raise UsageError(f"{file} is given twice.")
        else:
            raise UsageError(
                f"{found[target]} and {file} would both be written to {path}: transcribe them into two directories."
            )


def _stdout_format(format: str, files: int) -> str:
    """The format of what goes to one stream. Several documents of JSON are lines, as tools for JSON read them."""
    if files > 1 and format in ("srt", "vtt", "tsv"):
        raise UsageError(f"a file of format {format} holds one recording: give a directory with --output DIRECTORY.")
    return "jsonl" if files > 1 and format == "json" else format


def _format_of(output: Path) -> str:
    """The format that the name of an output file asks for; "txt" for a name without an ending."""
    ending = output.suffix[1:].lower()
    if not ending or is_stream(output):
        return "txt"
    if ending not in FORMATS:
        raise UsageError(f".{ending} is none of {', '.join(FORMATS)}: --format says which of them goes into {output}.")
    return ending


def _check(path: Path, files: list[str], args: argparse.Namespace) -> None:
    """Raises UsageError if this output, or its side file, would take the place of something that is to be kept."""
    inputs = [file for file in files if file != STDIN]
    if args.resume and _is_complete(path):
        return  # it is skipped
    check_output(path, inputs, force=args.force)
    part = part_of(path)
    if is_stream(path) or not os.path.lexists(part):
        return
    if not is_unfinished(part):
        raise UsageError(f"{part} is in the way, and not from an interrupted run: move it, or give another name.")
    if not (args.resume or args.force):
        raise UsageError(f"{part} has what an interrupted run has found: --resume continues it, --force begins anew.")


def _is_complete(output: Path) -> bool:
    """Whether an output file is there, and no interrupted run waits to replace it."""
    return os.path.isfile(output) and not is_unfinished(part_of(output))


def is_unfinished(part: Path) -> bool:
    """Whether a file is a side file of ours. One without content is, as a full disk or a power failure leaves it."""
    if not os.path.isfile(part):
        return False
    with part.open("rb") as file:
        beginning = file.readline(1 << 16)
    try:
        form = json.loads(beginning) if beginning.strip() else _FORM
    except ValueError:
        return False
    return isinstance(form, dict) and form.get("edge-gemma") == _FORM["edge-gemma"]


class _Work:
    """Transcribes recordings with the same options."""

    def __init__(
        self,
        args: argparse.Namespace,
        transcriber: Any,
        format: str,
        info: dict[str, Any],
        options: dict[str, Any],
        stdin: Any,
    ) -> None:
        self.args, self.transcriber, self.format, self.info, self.options = args, transcriber, format, info, options
        self.stdin = stdin

    def do(self, file: str, output: Path | None, heading: bool) -> bool:
        """Transcribes one file. Returns False if there was nothing to do."""
        from .. import TranscriptWriter, open_audio

        if self.args.resume and output and _is_complete(output):
            print(f"edge-gemma: {output} exists already: {file} is skipped.", file=sys.stderr)
            return False
        sound = self.stdin if file == STDIN else file
        with open_audio(sound, self.args.rate, self.args.channels, self.args.encoding) as source:
            duration = None if source.duration is None else round(source.duration, 3)
            info = {"file": file, "duration": duration, **self.info}
            info = {name: value for name, value in info.items() if value is not None}
            writer = TranscriptWriter(self.format, getattr(self.args, "bilingual", False), **info)
            target: _Stream | FileTarget
            if output is None or is_stream(output):  # which cannot be replaced
                target = _Stream(writer, output, f"==> {file} <==" if heading and self.format == "txt" else "")
            else:
                target = FileTarget(writer, output, {"recording": fingerprint(file), **self.options}, self.args.resume)
            began, start = time.perf_counter(), target.start
            with Bar(Path(file).name, start, source.duration) as bar, target:
                for segment in self.transcriber.segments(source, done=target.done, progress=bar.update):
                    with naming(output or STDOUT):
                        target.add(segment)
                    start = segment.end
                    if self.args.verbose and (unsure := doubtful(segment)):
                        print(f"[{file}: {unsure}]", file=sys.stderr)
                with naming(output or STDOUT):
                    target.complete(self._detected())
            if source.assumption:
                print(f"edge-gemma: {named(file, source.assumption)}", file=sys.stderr)
            if source.warning:
                print_warning(named(file, source.warning))
            if self.args.verbose:
                if language := self.transcriber.detected_language:
                    print(f"[{file}: the language is {language}, as far as the model can tell]", file=sys.stderr)
                done, took = (source.duration or start) - target.start, time.perf_counter() - began
                print(
                    f"[{file}: {done:.1f} s of sound in {took:.2f} s, {done / took:.1f} times real time]",
                    file=sys.stderr,
                )
        return True

    def _detected(self) -> dict[str, Any]:
        """What the JSON format tells of the language when none was given."""
        language = self.transcriber.detected_language
        return {} if self.transcriber.language else {"language": language, "language_detected": language is not None}


def doubtful(segment: Any) -> str:
    """The words of a segment that the model was not sure of, and their probabilities; "" for none."""
    words = ", ".join(f"{word.word!r} {word.probability:.2f}" for word in segment.words if word.doubtful)
    return f"doubtful at {format_clock(segment.start)}: {words}" if words else ""


def fingerprint(file: str) -> dict[str, Any] | None:
    """What identifies a recording: its size, and a digest of its beginning and end. None for pipes."""
    if not os.path.isfile(file):
        return None
    size, edge = os.path.getsize(file), 1 << 16
    with open(file, "rb") as data:
        digest = hashlib.blake2b(data.read(edge), digest_size=16)
        data.seek(max(0, size - edge))
        digest.update(data.read(edge))
    return {"bytes": size, "digest": digest.hexdigest()}


class _Stream:
    """Writes segments to standard output or a pipe as they come."""

    start, done = 0.0, ()

    def __init__(self, writer: Any, path: Path | None, heading: str) -> None:
        self._writer, self._path, self._heading = writer, path, heading
        self._done, self._info = False, dict[str, Any]()

    def __enter__(self) -> _Stream:
        with naming(self._path or STDOUT):
            file = open_text(self._path) if self._path else None
            self._file = file
            self._screen = Screen(file or sys.stdout)
            if self._heading:
                self._screen.line(self._heading, "bold")
            self._screen.write(self._writer.head())
        return self

    def add(self, segment: Any) -> None:
        self._screen.write(self._writer.segment(segment))

    def complete(self, info: dict[str, Any]) -> None:
        self._done, self._info = True, info

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None or not issubclass(kind, OSError):  # after which nothing more can be written
            with naming(self._path or STDOUT):
                self._screen.write(self._writer.tail(complete=self._done, **self._info))
        if self._file:
            with naming(self._path or STDOUT):
                self._file.close()


def part_of(output: Path) -> Path:
    """The side file of an output, which holds the finished segments until the output is complete."""
    name = output.name
    if len(os.fsencode(name)) > _LONGEST_NAME - len(".part"):
        name = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
    return output.with_name(name + ".part")


class FileTarget:
    """Writes the output file in one step at the end. Until then, finished segments are lines of JSON in a side file.

    The first line of the side file identifies the recording and the options. --resume continues only if they are the same.
    """

    def __init__(self, writer: Any, output: Path, identity: dict[str, Any], resume: bool, anew: bool = False) -> None:
        """`resume`: goes on with a side file. `anew`: begins anew where it is of another recording or of other options."""
        from .. import Segment

        self._writer, self._output, self._part = writer, output, part_of(output)
        self._segments: list[Any] = []
        self._lines = [{**_FORM, **identity}]
        if resume and self._part.exists():
            self._lines = self._read(self._lines[0], anew)
            self._segments = [Segment.from_dict(line) for line in self._lines[1:]]
        self.done = list(self._segments)
        self.start: float = self.done[-1].end if self.done else 0.0

    def _read(self, identity: dict[str, Any], anew: bool) -> list[dict[str, Any]]:
        """The complete lines of the side file; the last line may be cut off. Raises when its first is not `identity`."""
        from ..errors import EdgeGemmaError

        lines = []
        for line in self._part.read_bytes().split(b"\n")[:-1]:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        if not lines:
            return [identity]
        theirs = lines[0]
        different = [key for key in {**identity, **theirs} if identity.get(key) != theirs.get(key)]
        if different and anew:
            return [identity]
        if different:
            raise EdgeGemmaError(
                f"{self._part} is of a run with another {', '.join(different)}: give the same, or --force "
                "without --resume to begin anew."
            )
        return lines

    def __enter__(self) -> FileTarget:
        # A line that was cut off is dropped: the complete lines are written to a new file, which replaces the old one.
        with replacing(self._part, self._output) as file:
            file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in self._lines)
        with naming(self._output):
            self._file = open_text(self._part, "a")
        return self

    def add(self, segment: Any) -> None:
        self._file.write(f"{json.dumps(segment.as_dict(), ensure_ascii=False)}\n")
        self._file.flush()
        self._segments.append(segment)

    def complete(self, info: dict[str, Any], written: Callable[[], None] = lambda: None) -> None:
        """Writes the output. `written` is called when it is there, before the side file is removed."""
        self._segments.sort(key=lambda segment: segment.start)  # two channels come one after the other
        content = [self._writer.head(), *map(self._writer.segment, self._segments), self._writer.tail(**info)]
        with replacing(self._output) as file:
            file.writelines(content)
        written()
        self._file.close()
        self._part.unlink()

    def leave(self) -> None:
        """Closes the side file, and removes it where nothing was found."""
        with contextlib.suppress(OSError):  # what could not be written once, cannot be written now
            self._file.close()
        if not self._segments:
            self._part.unlink(missing_ok=True)

    def __exit__(self, kind: Any, *_: object) -> None:
        self.leave()
        if kind is None or not self._segments:
            return
        number, end = len(self._segments), format_clock(self._segments[-1].end)
        again = "--resume --force" if self._output.exists() and self._output.stat().st_size else "--resume"
        print(
            f"edge-gemma: {number} segment{'s' * (number != 1)}, up to {end}, "
            f"are kept in {self._part}; {again} continues from there.",
            file=sys.stderr,
        )
