"""`edge-gemma demo`: spoken commands to a simulated home, which are transcribed, translated and carried out on the screen, and
pictures that are described.

Owns the options, the source of the sound, and the summary at the end. `edge_gemma.demo.demo` runs the demonstration and
`edge_gemma.demo.screen` shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from ..engine.memory import format_bytes
from .common import (
    DONE,
    INTERRUPTED,
    UsageError,
    add_model_options,
    add_verb,
    format_count,
    language,
    model_paths,
    open_model,
    spoken_language,
    typed_command,
    typed_python,
)
from .parsing import file_path
from .terminal import Interrupt, print_warning

EXAMPLES = """
edge-gemma demo
edge-gemma demo --language de --to en --play
edge-gemma demo --microphone --talk
edge-gemma demo --audio command.wav
edge-gemma demo --fast --json | jq -r 'select(.event == "call")'
edge-gemma demo --model e2b
"""


_LONGEST_REPLY = 15.0  # seconds that the last reply may take to be spoken


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(
        subparsers, "demo", "command a simulated home by voice and see on the screen what happens", EXAMPLES
    )
    parser.add_argument(
        "--language",
        "-l",
        type=spoken_language,
        metavar="L",
        help="spoken language; without --audio and --microphone: only the bundled commands in this language (default: any)",
    )
    parser.add_argument(
        "--to", type=language, metavar="L", help="translate into this language (default: one that is not spoken)"
    )
    parser.add_argument("--fast", action="store_true", help="run as fast as possible instead of in real time")
    parser.add_argument("--play", action="store_true", help="play the commands through the loudspeaker")
    parser.add_argument("--talk", action="store_true", help="let the home speak its replies, with espeak-ng")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each event")
    group = parser.add_argument_group("sound (default: the bundled commands)")
    group.add_argument("--audio", type=file_path, metavar="FILE", help="a recording of commands")
    group.add_argument(
        "--microphone",
        nargs="?",
        const="",
        metavar="X",
        help="speak yourself; X is the microphone's number or a part of its name",
    )
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Shows the demonstration until it ends or Ctrl-C is pressed."""
    if args.microphone is not None and (args.audio is not None or args.fast or args.play):
        raise UsageError("--microphone cannot be used with --audio, --fast or --play.")
    if args.play and args.audio == "-":
        raise UsageError("--play needs a file: standard input can be read only once.")
    if args.talk and args.fast:
        raise UsageError("--talk needs the time of speech: it cannot be used with --fast.")
    paths = model_paths(args)
    bundled = args.microphone is None and args.audio is None
    from ..demo.demo import Demo, summary
    from ..demo.pictures import bundled_pictures
    from ..errors import Cancelled

    utterances = _utterances(args.language) if bundled else []
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(args, notice=False))
        play = stack.enter_context(_loudspeaker()) if args.play else None
        reader, speaks = stack.enter_context(_reader()) if args.talk else (None, lambda: False)
        demo = stack.enter_context(
            # The bundled recordings are free of noise, and the detector energy is the same on every machine.
            Demo(model, None if bundled else args.language, args.to, detector="energy" if bundled else "auto")
        )
        source = None if bundled else stack.enter_context(_source(args, play))
        interrupt = stack.enter_context(Interrupt(demo.cancel))
        screen = _screen(args, demo.home, len(utterances) or None, _title(model, paths))
        done = []
        try:
            events = (
                demo.run(source)
                if source
                else demo.perform(utterances, live=not args.fast, on_begin=play, wait_while=speaks)
            )
            for event in events:
                screen.show(event)
                if reader:
                    reader.show(event)
                if event.kind == "done" and event.exchange:
                    done.append(event.exchange)
            for seen in demo.look(bundled_pictures() if bundled else ()):
                screen.look(seen)
        except Cancelled:
            if not interrupt.hit:
                raise
        finally:
            figures = summary(done, len(utterances) if bundled else None)
            screen.close(figures)
        if source and source.warning:
            print_warning(source.warning)
        if not args.json:
            notice = [] if interrupt.hit else _toy_notice(model, paths)
            print(*_closing_words(figures, demo), *notice, sep="\n")
    return INTERRUPTED if interrupt.hit else DONE


def _utterances(language: str | None) -> list[Any]:
    """The bundled commands. Raises UsageError where there are none, or none in this language."""
    from ..demo.utterances import FOLDER, bundled

    if not (FOLDER / "utterances.json").is_file():
        raise UsageError("this installation has no recorded commands: speak with --microphone, or give --audio FILE.")
    try:
        return bundled(language)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _source(args: argparse.Namespace, play: Callable[[Any], None] | None) -> Any:
    """The microphone, or the recording, which is also given to `play`."""
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
    """Yields a function that plays samples (n,) at 16 kHz and returns at once."""
    from ..audio.source import SAMPLE_RATE
    from ..errors import EdgeGemmaOSError

    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise EdgeGemmaOSError("--play needs the PortAudio library: apt install libportaudio2.", "file") from error
    try:
        sounddevice.query_devices(kind="output")
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError where there are devices, but none to play
        raise EdgeGemmaOSError(
            "--play needs a loudspeaker, and no sound device of this machine can play. Leave out --play.", "file"
        ) from error

    def play(samples: Any) -> None:
        try:
            sounddevice.play(samples, SAMPLE_RATE)
        except sounddevice.PortAudioError as error:
            raise EdgeGemmaOSError(f"the loudspeaker cannot be used ({error}). Leave out --play.", "file") from error

    try:
        yield play
    finally:
        sounddevice.stop()


@contextlib.contextmanager
def _reader() -> Iterator[tuple[Any, Callable[[], bool]]]:
    """Yields what speaks replies, and a function that tells whether it speaks."""
    from ..assistant.mouth import Mouth
    from ..assistant.reading import ReplyReader
    from ..assistant.voices.opening import open_voice
    from ..audio.loudspeaker import Loudspeaker
    from ..demo.demo import Demo

    with contextlib.ExitStack() as stack:
        voice = open_voice()
        stack.callback(voice.close)
        speaker = Loudspeaker(rate=voice.sample_rate)
        stack.callback(speaker.close)
        mouth = Mouth(speaker, voice, language_of=Demo.language_of)
        stack.callback(mouth.close)
        yield ReplyReader(mouth), lambda: mouth.waiting > 0
        late = time.monotonic() + _LONGEST_REPLY
        while mouth.waiting > 0 and time.monotonic() < late:
            time.sleep(0.05)


def _screen(args: argparse.Namespace, home: Any, total: int | None, title: str) -> Any:
    """The output that fits the options and the terminal."""
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
    """Number of parameters and size of the files, including the encoders."""
    from ..engine.gguf import GGUFFile

    parameters, files = model.config.parameters, [path for path in paths if path]
    for path in files[1:]:
        with GGUFFile(path) as file:
            parameters += sum(math.prod(tensor.shape) for tensor in file.tensors)
    return f"{format_count(parameters)} parameters in {format_bytes(sum(map(os.path.getsize, files)))}"


def _toy_notice(model: Any, paths: tuple[str, str | None]) -> list[str]:
    """What the embedded toy model is, and the commands that get and use the real one; [] for any other model."""
    from ..hub.resolve import is_embedded

    if not is_embedded(paths[0]):
        return []
    command = typed_command()
    first = [] if find_spec("huggingface_hub") else [f"{typed_python()} -m pip install huggingface_hub"]
    drawn = " and on drawn shapes" if model.has_vision else ""
    verbs = ["pull e2b", *["listen --model e2b --partials"] * _can_record(), "chat --model e2b"]
    return [
        "",
        *_wrapped(
            f"This was a toy model: {_size(model, paths)}, trained on synthetic commands to a home in English, Spanish and "
            f"German{drawn}. It knows nothing else. The real Gemma 4 runs in the same engine:"
        ),
        "",
        *("  " + line for line in [*first, *(f"{command} {verb}" for verb in verbs)]),
    ]


def _can_record() -> bool:
    """Whether there is a microphone."""
    from ..audio.microphone import devices
    from ..errors import EdgeGemmaError

    try:
        return bool(devices())
    except (EdgeGemmaError, OSError, ImportError):
        return False


def _closing_words(figures: dict[str, Any], demo: Any) -> list[str]:
    """The summary: the figures of all exchanges."""
    lines = []
    exchanges, utterances = figures["exchanges"], figures["utterances"]
    if exchanges:
        count = exchanges if utterances is None else f"{exchanges} of {utterances}"
        lines.append(f"{count} command{'s' * ((utterances or exchanges) != 1)} heard.")
        if figures["right"]:
            right = ", ".join(f"{name} {correct} of {total}" for name, (correct, total) in figures["right"].items())
            lines += _wrapped(f"Correct: {right}.")
        if figures["acted_s"] is not None:
            lines += _wrapped(
                f"Action {figures['acted_s']:.2f} s after the end of speech (median), {demo.silence:g} s of it the silence "
                "that ends a command."
            )
    return lines


def _wrapped(text: str) -> list[str]:
    """The lines of a text, broken at words, of the terminal's width but at most 80 columns."""
    return textwrap.wrap(
        text, min(80, shutil.get_terminal_size().columns), break_long_words=False, break_on_hyphens=False
    )
