"""`edge-gemma demo`: spoken commands to a simulated home are transcribed, translated and carried out.

Owns the options, where the sound comes from, and the summary at the end; demo/screen.py shows what happens in between.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .common import (
    UsageError,
    add_model_options,
    add_verb,
    format_bytes,
    format_count,
    model_paths,
    open_model,
)
from .terminal import Interrupt

INTERRUPTED = 130

EXAMPLES = """
edge-gemma demo
edge-gemma demo --language de --to en --play
edge-gemma demo --microphone
edge-gemma demo --audio command.wav
edge-gemma demo --fast --json | jq -r 'select(.event == "call")'
edge-gemma demo --model e2b
"""

REAL = """\
The real Gemma 4 runs in the same engine:

  edge-gemma pull e2b
  edge-gemma listen --model e2b --partials
  edge-gemma chat --model e2b"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "demo", "command a simulated home by voice and watch what happens", EXAMPLES)
    parser.add_argument(
        "--language",
        "-l",
        metavar="L",
        help="of the bundled commands those in this language; otherwise, what is spoken (default: any)",
    )
    parser.add_argument("--to", metavar="L", help="translate into this language (default: another than the one spoken)")
    parser.add_argument("--fast", action="store_true", help="as fast as it can be, not at the speed of speech")
    parser.add_argument("--play", action="store_true", help="let the commands be heard")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each event")
    group = parser.add_argument_group("sound (default: the bundled commands)")
    group.add_argument("--audio", metavar="FILE", help="a recording of commands")
    group.add_argument(
        "--microphone", nargs="?", const="", metavar="X", help="speak yourself; X: its number or a part of its name"
    )
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Shows the demonstration, to its end or to Ctrl-C."""
    if args.microphone is not None and (args.audio is not None or args.fast or args.play):
        raise UsageError("--microphone does not go with --audio, --fast and --play")
    if args.play and args.audio == "-":
        raise UsageError("--play needs a file: what comes on standard input can be read only once")
    paths = model_paths(args)
    bundled = args.microphone is None and args.audio is None
    from ..demo.demo import Demo, summary
    from ..errors import Cancelled

    utterances = _utterances(args.language) if bundled else []
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(args, notice=False))
        play = stack.enter_context(_loudspeaker()) if args.play else None
        demo = stack.enter_context(
            # The bundled recordings have no noise, and the result must not depend on which detectors are installed.
            Demo(model, None if bundled else args.language, args.to, detector="energy" if bundled else "auto")
        )
        source = None if bundled else stack.enter_context(_source(args, play))
        interrupt = stack.enter_context(Interrupt(demo.cancel))
        screen = _screen(args, demo.home, len(utterances) or None, _title(model, paths))
        done = []
        try:
            events = demo.run(source) if source else demo.perform(utterances, live=not args.fast, on_begin=play)
            for event in events:
                screen.show(event)
                if event.kind == "done":
                    done.append(event.exchange)
        except Cancelled:
            if not interrupt.hit:
                raise
        finally:
            found = summary(done, len(utterances) if bundled else None)
            screen.close(found)
        if source and source.warning:
            print(f"edge-gemma: warning: {source.warning}", file=sys.stderr)
        if not args.json:
            print(_closing_words(found, demo, _toy(model, paths)))
    return INTERRUPTED if interrupt.hit else 0


def _utterances(language: str | None) -> list[Any]:
    from ..demo.utterances import FOLDER, bundled

    if not (FOLDER / "utterances.json").is_file():
        raise UsageError("this installation has no recorded commands: speak with --microphone, or give --audio FILE")
    try:
        return bundled(language)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _source(args: argparse.Namespace, play: Callable[[Any], None] | None) -> Any:
    if args.microphone is not None:
        from ..audio.microphone import Microphone

        return Microphone(args.microphone or None)
    from ..audio.source import Paced, load_audio, open_audio

    source = open_audio(args.audio)
    if play:
        play(load_audio(args.audio))
    return source if args.fast or source.live else Paced(source)


@contextlib.contextmanager
def _loudspeaker() -> Iterator[Callable[[Any], None]]:
    """A function that starts to play samples, (n,) at 16 kHz, and returns at once."""
    from ..audio.source import SAMPLE_RATE
    from ..errors import EdgeGemmaOSError

    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise EdgeGemmaOSError("--play needs the PortAudio library: apt install libportaudio2", "file") from error

    def play(samples: Any) -> None:
        try:
            sounddevice.play(samples, SAMPLE_RATE)
        except sounddevice.PortAudioError as error:
            raise EdgeGemmaOSError(f"nothing can be played: {error}", "file") from error

    try:
        yield play
    finally:
        sounddevice.stop()


def _screen(args: argparse.Namespace, home: Any, total: int | None, title: str) -> Any:
    from ..demo.screen import JSONLines, Lines, LiveScreen

    if args.json:
        return JSONLines(home)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with contextlib.suppress(ImportError):
            return LiveScreen(home, total, title)
    print(title)
    return Lines(total)


def _title(model: Any, paths: tuple[str, str | None]) -> str:
    return f"edge_gemma: {model.config.name or model.path.name}, {_size(model, paths)}"


def _size(model: Any, paths: tuple[str, str | None]) -> str:
    """Parameters and bytes, the encoders' included."""
    from ..engine.gguf import GGUFFile

    parameters, files = model.config.parameters, [path for path in paths if path]
    for path in files[1:]:
        with GGUFFile(path) as file:
            parameters += sum(math.prod(tensor.shape) for tensor in file.tensors)
    return f"{format_count(parameters)} parameters in {format_bytes(sum(map(os.path.getsize, files)))}"


def _toy(model: Any, paths: tuple[str, str | None]) -> str:
    """What the embedded toy model can do; "" for any other model."""
    from ..hub.resolve import is_embedded

    return is_embedded(paths[0]) * (
        f"This was a toy: {_size(model, paths)}, trained on synthetic commands to a home in English, Spanish and German. It "
        f"knows nothing else. {REAL}"
    )


def _closing_words(found: dict[str, Any], demo: Any, toy: str) -> str:
    """The figures of all exchanges, and `toy`."""
    lines = []
    if found["exchanges"]:
        count = found["exchanges"] if found["utterances"] is None else f"{found['exchanges']} of {found['utterances']}"
        lines.append(f"{count} command{'s' * (found['exchanges'] != 1)} heard.")
        if found["right"]:
            right = ", ".join(f"{name} {fine} of {all_}" for name, (fine, all_) in found["right"].items())
            lines.append(f"As it should be: {right}.")
        if found["first_token_s"] is not None:
            lines.append(
                f"After the end of speech: first token {found['first_token_s']:.2f} s, act {found['acted_s']:.2f} s (medians). "
                f"An answer is begun after {demo.pause:g} s of silence, and carried out after {demo.silence:g} s, when it is "
                "certain that the speaker has finished."
            )
    return "\n".join([*lines, *(["", toy] if toy else [])])
