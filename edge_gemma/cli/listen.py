"""`edge-gemma listen`: transcribes live speech, and translates it if asked to.

Final text goes to standard output, one line for each utterance. Everything else goes to standard error. With --json, all
events go to standard output, one line of JSON for each. The listening itself is in `edge_gemma.speech.listener`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from .common import (
    DONE,
    INTERRUPTED,
    UsageError,
    add_hint_options,
    add_model_options,
    add_session_options,
    add_verb,
    amount,
    count,
    language,
    open_model,
    print_json,
    spoken_language,
)
from .parsing import file_path
from .terminal import Interrupt, Screen, TransientLine, print_warning

STDIN = "-"
PAUSE = 0.25  # seconds of silence after which the transcript is begun, in case the utterance has ended

EXAMPLES = """
edge-gemma listen -m gemma-4-E2B-it-Q4_0.gguf --mmproj mmproj.gguf
edge-gemma listen --language de --partials
edge-gemma listen --language es --translate-to en --once
edge-gemma listen --list-devices
edge-gemma listen --device usb --json | jq --unbuffered -r 'select(.event == "final").text'
edge-gemma listen --input talk.wav --partials 300 --verbose
arecord -f S16_LE -r 16000 -t raw | edge-gemma listen --input -
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "listen", "write down what is being said", EXAMPLES)
    parser.add_argument(
        "--language", "-l", type=spoken_language, metavar="L", help="spoken language, a name or a code (default: any)"
    )
    parser.add_argument("--translate-to", type=language, metavar="L", help="print a translation into this language")
    parser.add_argument(
        "--partials",
        nargs="?",
        type=count,
        const=400,
        metavar="MS",
        help="show text before it is final, updated after every MS milliseconds of speech (default: 400; more on a slow"
        " machine), from when several guesses agree on the first words. Those words are bright, the others dim; all of"
        " them may still change",
    )
    parser.add_argument("--once", action="store_true", help="end after the first utterance")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each event, with times and latencies")
    parser.add_argument("--format", choices=("txt", "json"), help="json is the same as --json (default: txt)")
    parser.add_argument("--verbose", "-v", action="store_true", help="print latencies on standard error")
    group = parser.add_argument_group("sound")
    group.add_argument(
        "--device", metavar="X", help="microphone: its number or a part of its name (default: the system's)"
    )
    group.add_argument("--list-devices", action="store_true", help="list the microphones and exit")
    group.add_argument(
        "--input",
        type=file_path,
        metavar="FILE",
        help="a recording instead of a microphone, played in real time; - is standard input",
    )
    group.add_argument("--rate", type=count, metavar="HZ", help="samples a second of raw sound (default: 16000)")
    group.add_argument("--channels", type=count, metavar="N", help="channels of raw sound (default: 1)")
    group.add_argument("--encoding", default="s16le", metavar="NAME", help="type of raw samples (default: s16le)")
    group.add_argument(
        "--silence",
        type=amount,
        default=0.7,
        metavar="S",
        help="seconds of silence that end an utterance (default: 0.7)",
    )
    group.add_argument(
        "--vad",
        choices=("auto", "silero", "energy"),
        default="auto",
        help="voice activity detector (default: auto, the best one installed)",
    )
    add_hint_options(parser)
    add_session_options(parser, default="what the longest utterance needs")
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Listens until the sound ends, or Ctrl-C."""
    args.json = args.json or args.format == "json"
    if args.input is not None and (args.device is not None or args.list_devices):
        raise UsageError("--input takes the place of a microphone: it cannot be used with --device or --list-devices.")
    if args.list_devices:
        return _list_devices(args)
    if args.input == STDIN and sys.stdin.isatty():
        raise UsageError("--input - reads sound from standard input, but that is the terminal: pipe sound into it.")
    from .. import Listener
    from ..errors import Cancelled

    output = _JSONLines() if args.json else _Lines(args)
    with (
        open_model(args) as model,
        Listener(
            model,
            args.language,
            args.translate_to,
            initial_prompt=args.initial_prompt,
            hotwords=args.hotwords,
            partials=args.partials and args.partials / 1000,
            silence=args.silence,
            pause=min(PAUSE, args.silence),
            detector=args.vad,
            context=args.context,
            kv=args.kv,
            memory_limit=args.memory_limit,
        ) as listener,
        _source(args) as source,
        Interrupt(listener.cancel) as interrupt,
    ):
        print(f"[listening to {source.name}; Ctrl-C ends]", file=sys.stderr)
        try:
            for event in listener.listen(source, once=args.once):
                output.show(event)
        except Cancelled:
            if not interrupt.hit:
                raise
        finally:
            output.close()
        if source.assumption:
            print(f"edge-gemma: {source.assumption}", file=sys.stderr)
        if source.warning:
            print_warning(source.warning)
    return INTERRUPTED if interrupt.hit else DONE


def _source(args: argparse.Namespace) -> Any:
    """The microphone or the recording that the options name."""
    if args.input is None:
        from ..audio.microphone import Microphone

        return Microphone(args.device)
    from ..audio.source import Paced, open_audio

    source = open_audio(args.input, rate=args.rate, channels=args.channels, encoding=args.encoding)
    return source if source.live else Paced(source)


def _list_devices(args: argparse.Namespace) -> int:
    from ..audio.microphone import devices

    found = devices()
    if args.json:
        print_json([dataclasses.asdict(device) for device in found])
        return DONE
    for device in found:
        channels = f"{device.channels} channel{'s' * (device.channels != 1)}"
        default = ", default" if device.default else ""
        print(f"{device.index:3}: {device.name} ({channels}, {device.rate:g} Hz{default})")
    if not found:
        print("edge-gemma: there is no microphone.", file=sys.stderr)
    return DONE


class _Lines:
    """Output for people and pipes: final text, and at a terminal the text so far of the current utterance below it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._verbose = args.verbose
        self._out, self._notes, self._transient = Screen(sys.stdout), Screen(sys.stderr), TransientLine()
        self._agreed = ""  # of the last partial
        self._overruns, self._lost = 0, 0.0  # so far
        self._warned: tuple[int, float] | None = None  # overruns and lost seconds of the last warning

    def show(self, event: Any) -> None:
        """Prints an event."""
        if event.kind == "partial":
            self._show_partial(event)
            return
        self._transient.clear()
        if event.kind == "overrun":
            self._overruns, self._lost = self._overruns + 1, self._lost + event.lost
            # The losses of a machine that is too slow go on: each warning comes after twice as many as the one before.
            if self._warned is None or (self._overruns >= 2 * self._warned[0] and self._lost >= 2 * self._warned[1]):
                self._warn("so far")
        elif event.kind == "final" and event.text:
            self._print(event.segment)
            if self._verbose:
                self._notes.line(f"[{_describe(event.latency)}]", "dim")

    def _show_partial(self, event: Any) -> None:
        """Shows what was guessed. Guesses at an utterance that has only begun may say anything, so they are not shown.

        Where dim text cannot be told from other text, only what is agreed is shown.
        """
        if not self._notes.is_terminal:
            if event.agreed and event.agreed != self._agreed:
                self._transient.show((f"{event.agreed} ...", ""))
            self._agreed = event.agreed
        elif event.agreed:
            self._transient.show((event.agreed, "bold"), (event.text[len(event.agreed) :], "dim"))
        else:
            self._transient.show(("...", "dim"))

    def _print(self, segment: Any) -> None:
        if segment.translation:
            self._notes.line(segment.text, "dim")
        self._out.line(segment.translation or segment.text)

    def _warn(self, when: str) -> None:
        self._warned = self._overruns, self._lost
        amount = f"{self._lost:.1f} s of sound" if self._lost >= 0.05 else "some sound"
        self._notes.line(f"edge-gemma: warning: {amount} lost {when}: it came faster than this machine could hear it.")

    def close(self) -> None:
        """Removes text that is not final from the terminal, and tells how much sound was lost in all."""
        self._transient.clear()
        if self._warned not in (None, (self._overruns, self._lost)):
            self._warn("in all")


def _describe(latency: Any) -> str:
    """The latencies of an utterance in words."""
    first, last = latency.speech_to_first_token, latency.speech_to_last_token
    return (
        f"after the last word: end noticed at {latency.decision:.2f} s, text begun at {first:.2f} s, text complete at "
        f"{last:.2f} s"
    )


class _JSONLines:
    """Output for programs: one line of JSON for each event."""

    def show(self, event: Any) -> None:
        """Prints an event."""
        values: dict[str, Any] = {"event": event.kind, "time": round(event.time, 3)}
        if event.kind == "partial":
            values |= {"text": event.text, "agreed": event.agreed}
        elif event.kind == "overrun":
            values |= {"lost_s": round(event.lost, 3)}
        elif event.kind == "final":
            values |= dataclasses.asdict(event.segment)
            values |= {name: round(values[name], 3) for name in ("start", "end")}
            latency = event.latency
            values["latency"] = {
                "decision_s": round(latency.decision, 4),
                "first_token_s": round(latency.first_token, 4),
                "last_token_s": round(latency.last_token, 4),
                "speech_to_first_token_s": round(latency.speech_to_first_token, 4),
                "speech_to_last_token_s": round(latency.speech_to_last_token, 4),
                "tokens": latency.tokens,
                "ready_tokens": latency.ready,
            }
        print(json.dumps(values, ensure_ascii=False), flush=True)

    def close(self) -> None:
        """Does nothing: every line was printed at once."""
