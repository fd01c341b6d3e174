"""`edge-gemma assistant`: a voice assistant, from the wake word to the spoken answer.

Owns the options, and opens what they name. `edge_gemma.assistant` is the assistant itself. screen.py shows it, keys.py reads
its keys, checkup.py tries its parts, and service.py runs it from the start of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Any

from ..common import (
    DEFAULT_CONTEXT,
    DONE,
    FAILED,
    INTERRUPTED,
    UsageError,
    add_model_options,
    add_session_options,
    add_verb,
    amount,
    announce_toy,
    count,
    fraction,
    is_toy,
    open_model,
    print_json,
    spoken_language,
    typed_command,
)
from ..parsing import file_path
from ..terminal import Interrupt, Screen

EXAMPLES = """
edge-gemma assistant --check
edge-gemma assistant --model e2b
edge-gemma assistant --model e2b --wake-word "hey jarvis" --echo-cancellation --microphone usb --loudspeaker usb
edge-gemma assistant --model e2b --push-to-talk --button 17
edge-gemma assistant --model e2b --tools home.py --mcp http://homeassistant.local:8123/api/mcp/assist
edge-gemma assistant --model e2b --language de --install-service
"""

_SPEAKER_RATE = 22050  # samples a second, which is that of most voices


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "assistant", "talk with a voice assistant that uses tools", EXAMPLES)
    parser.add_argument("--check", action="store_true", help="try all that is needed, and say what to mend")
    parser.add_argument(
        "--install-service",
        action="store_true",
        help="run it with these options as a service of systemd, from the start of the machine",
    )
    parser.add_argument("--remove-service", action="store_true", help="stop that service and remove it")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each event")
    parser.add_argument("--quiet", "-q", action="store_true", help="show problems only")
    parser.add_argument(
        "--latency",
        type=file_path,
        metavar="FILE",
        help="append a line of JSON for each turn, when its parts happened, without any words; - is standard error",
    )
    _add_waking(parser)
    _add_sound(parser)
    _add_voice(parser)
    _add_abilities(parser)
    add_session_options(parser)
    add_model_options(parser)
    return parser


def _add_waking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("when it listens")
    way = group.add_mutually_exclusive_group()
    way.add_argument(
        "--wake-word",
        action="append",
        metavar="W",
        help="a word of pymicro-wakeword, such as okay_nabu or hey_jarvis; open:W of pyopen-wakeword; or a model's file; may be"
        " given several times (default: okay_nabu)",
    )
    way.add_argument("--push-to-talk", action="store_true", help="listen when a key is pressed, without a wake word")
    way.add_argument("--always-on", action="store_true", help="answer everything that is said")
    group.add_argument(
        "--list-wake-words", action="store_true", help="list the wake words that are known by name, and exit"
    )
    group.add_argument(
        "--wake-threshold",
        type=fraction,
        metavar="P",
        help="the least probability of a wake word (default: its model's)",
    )
    group.add_argument("--button", metavar="PIN", help="a button at this pin of a Raspberry Pi talks, too")
    group.add_argument(
        "--follow-up",
        type=amount,
        default=6.0,
        metavar="S",
        help="seconds after an answer in which no wake word is needed (default: 6; 0 for none)",
    )
    group.add_argument(
        "--silence", type=amount, default=0.7, metavar="S", help="seconds of silence that end a request (default: 0.7)"
    )


def _add_sound(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sound")
    group.add_argument("--microphone", metavar="X", help="its number or a part of its name (default: the system's)")
    group.add_argument(
        "--loudspeaker", metavar="X", help="its number or a part of its name; none for no sound (default: the system's)"
    )
    group.add_argument("--list-devices", action="store_true", help="list microphones and loudspeakers, and exit")
    group.add_argument(
        "--echo-cancellation",
        nargs="?",
        const="livekit",
        choices=("livekit", "webrtc"),
        metavar="KIND",
        help="remove the assistant's voice from what the microphone hears, so that speech can interrupt it; livekit"
        " (the default kind) or webrtc, a smaller package",
    )
    group.add_argument(
        "--interruption",
        choices=("speech", "wake", "none"),
        help="what stops an answer: speech, the wake word, or only a key (default: speech with echo cancellation, else wake)",
    )
    group.add_argument(
        "--headphones", action="store_true", help="the microphone does not hear the loudspeaker: speech can interrupt"
    )
    group.add_argument("--no-earcons", action="store_true", help="no short sounds that tell what it does")
    group.add_argument(
        "--vad",
        choices=("auto", "silero", "energy"),
        default="auto",
        help="voice activity detector (default: auto, the best one installed)",
    )


def _add_voice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("voice")
    group.add_argument(
        "--voice",
        metavar="V",
        help="a voice of espeak-ng; files of Piper, NAME.onnx, separated by commas; http://HOST:PORT of a speech server;"
        " none for no voice (default: espeak-ng in the language of the answer)",
    )
    group.add_argument("--voice-command", metavar="COMMAND", help="a program that speaks its standard input")
    group.add_argument(
        "--voice-rate", type=count, metavar="HZ", help="samples a second of the raw sound of that program"
    )
    group.add_argument("--words-per-minute", type=count, metavar="N", help="how fast espeak-ng speaks")
    group.add_argument("--language", "-l", type=spoken_language, metavar="L", help="spoken language (default: any)")


def _add_abilities(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it is and can do")
    group.add_argument(
        "--tools", action="append", default=[], type=file_path, metavar="FILE", help="Python functions that it may call"
    )
    group.add_argument(
        "--mcp",
        action="append",
        default=[],
        metavar="X",
        help="an MCP server: a command, an address, or a file of servers",
    )
    group.add_argument("--no-built-in", action="store_true", help="no clock, timers, alarms and notes")
    group.add_argument("--name", default="Gemma", metavar="NAME", help="what it is called (default: Gemma)")
    group.add_argument("--system", type=file_path, metavar="FILE", help="instructions that take the place of its own")
    group.add_argument(
        "--facts", type=file_path, metavar="FILE", help="what it knows, and what it may add to when asked"
    )
    group.add_argument(
        "--forget-after",
        type=count,
        default=300,
        metavar="S",
        help="seconds after which a conversation is forgotten (default: 300)",
    )


def run(args: argparse.Namespace) -> int:
    """Talks until Ctrl-C."""
    if args.list_devices:
        return _list_devices(args)
    if args.list_wake_words:
        return _list_wake_words(args)
    if args.install_service or args.remove_service:
        return _service(args)
    if args.voice is not None and args.voice_command is not None:
        raise UsageError("--voice and --voice-command are two voices: give one of them.")
    return _check(args) if args.check else _talk(args)


# ---- talking ------------------------------------------------------------------------------------------------------------


def _talk(args: argparse.Namespace) -> int:
    from ...assistant.loop import AssistantLoop
    from ...assistant.machine import Settings
    from ...audio.portaudio import refresh
    from .keys import button, terminal_keys

    echo = _echo(args)
    wake = _wake(args)
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(_latency(args))
        model = stack.enter_context(open_model(args))
        voice = _voice(args)
        tools, persona = _abilities(args)
        from ...assistant.devices import SoundDevices

        loop: AssistantLoop | None = None
        devices = SoundDevices(
            _microphone(args),
            _speaker(args, echo, _SPEAKER_RATE if echo is None else 16000),
            rate=_SPEAKER_RATE if echo is None else 16000,
            refresh=refresh,
            on_change=lambda problem: loop.devices_changed(problem) if loop else None,
        )
        settings = Settings(
            needs_waking=not args.always_on,
            names=(persona.name, *(wake.words if wake else ())),
            interruption=args.interruption or ("speech" if echo or args.headphones else "wake"),
            hears_itself=not (echo or args.headphones),
            follow_up=args.follow_up,
            forget_after=persona.forget_after,
        )
        output = _output(args, wake)
        loop = stack.enter_context(
            AssistantLoop(
                model,
                devices,
                voice,
                tools,
                persona,
                wake=wake,
                echo=echo,
                settings=settings,
                show=output.show,
                record=record,
                earcons=not args.no_earcons,
                language_of=_language_of(args, persona),
                detector_kind=args.vad,
                silence=args.silence,
                pause=min(0.25, args.silence),
                context=args.context,
                kv=args.kv,
                sampling=_sampling(args),
                remembers=not is_toy(args),
            )
        )
        stack.callback(output.close)
        for problem in tools.problems:
            output.show("problem", {"text": problem})
        interrupt = stack.enter_context(Interrupt(loop.cancel))
        stack.enter_context(button(args.button, loop.press, loop.release))
        if not args.json:
            stack.enter_context(terminal_keys(loop.press, loop.stop, loop.cancel))
        loop.run()
    return INTERRUPTED if interrupt.hit else DONE


def _sampling(args: argparse.Namespace) -> Any:
    from ... import Sampling

    return Sampling(temperature=0.0) if is_toy(args) else Sampling()


def _output(args: argparse.Namespace, wake: Any) -> Any:
    from .keys import HELP
    from .screen import Calm, JSONLines, Quiet

    if args.json:
        return JSONLines()
    if args.quiet:
        return Quiet()
    asleep = f'say "{" or ".join(wake.words)}"' if wake else "press space to talk"
    return Calm(f"{asleep} ({HELP})")


@contextlib.contextmanager
def _latency(args: argparse.Namespace) -> Any:
    """What appends a line to the file of --latency; None without it."""
    if args.latency is None:
        yield None
        return
    if args.latency == "-":
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    with open(args.latency, "a", encoding="utf-8") as file:
        yield lambda line: print(line, file=file, flush=True)


def _microphone(args: argparse.Namespace) -> Callable[[], Any]:
    from ...audio.microphone import Microphone

    return lambda: Microphone(args.microphone)


def _speaker(args: argparse.Namespace, echo: Any, rate: int) -> Callable[[], Any] | None:
    if args.loudspeaker == "none":
        return None
    from ...assistant.mouth import resampled
    from ...audio.loudspeaker import Loudspeaker
    from ...audio.source import SAMPLE_RATE

    def opened() -> Any:
        speaker = Loudspeaker(args.loudspeaker, rate)
        if echo:
            played = round(speaker.played_rate)
            speaker.tap = lambda samples: echo.played(resampled(samples, played, SAMPLE_RATE))
        return speaker

    return opened


def _echo(args: argparse.Namespace) -> Any:
    if args.echo_cancellation is None:
        return None
    from ...assistant.echo import EchoFilter, canceller

    return EchoFilter(canceller(args.echo_cancellation))


def _wake(args: argparse.Namespace) -> Any:
    if args.push_to_talk or args.always_on:
        return None
    from ...assistant.wake import DEFAULT, wake_detector

    return wake_detector(args.wake_word or [DEFAULT], args.wake_threshold)


def _voice(args: argparse.Namespace) -> Any:
    if args.voice == "none" or args.loudspeaker == "none":
        return None
    from ...assistant.voices.opening import open_voice

    return open_voice(
        args.voice, command=args.voice_command, rate=args.voice_rate, words_per_minute=args.words_per_minute
    )


def _abilities(args: argparse.Namespace) -> tuple[Any, Any]:
    """The tools and the persona. The toy model knows its own home, and no other instructions."""
    from ...assistant.persona import Facts, SpokenPersona
    from ...assistant.toolbox import Toolbox, open_toolbox

    facts = Facts(args.facts) if args.facts else None
    persona = SpokenPersona(args.name, args.language, args.system, facts, args.forget_after)
    if is_toy(args):
        from ...demo.home import INSTRUCTIONS, Home

        persona.system_prompt = lambda now: INSTRUCTIONS  # type: ignore[method-assign]
        if not (args.tools or args.mcp):
            return Toolbox(Home().tools, ask_below=0), persona
    tools = open_toolbox(
        args.tools, args.mcp, facts=facts, built_in=not args.no_built_in, language=args.language and persona.language
    )
    return tools, persona


def _language_of(args: argparse.Namespace, persona: Any) -> Callable[[str], str | None]:
    """The language in which a sentence is spoken: that of the persona, or that of the words."""
    if args.language:
        return lambda text: persona.language
    from ...assistant.text_language import SPOKEN, LanguageGuess

    return LanguageGuess(SPOKEN)


# ---- other things that it does ------------------------------------------------------------------------------------------


def _service(args: argparse.Namespace) -> int:
    from . import service

    if args.remove_service:
        lines = service.remove()
    else:
        given = [argument for argument in sys.argv[1:] if argument != "--install-service"]
        quiet = [] if args.json or args.quiet else ["--quiet"]
        lines = service.install([sys.executable, "-m", "edge_gemma", *given, *quiet])
    print("\n".join(lines))
    return DONE


def _list_wake_words(args: argparse.Namespace) -> int:
    from ...assistant.wake import wake_words

    found = wake_words()
    print_json(found) if args.json else print("\n".join(found or ["There are none: install edge-gemma[assistant]."]))
    return DONE


def _list_devices(args: argparse.Namespace) -> int:
    import dataclasses

    from ...audio.loudspeaker import loudspeakers
    from ...audio.microphone import devices

    found = {"microphones": devices(), "loudspeakers": loudspeakers()}
    if args.json:
        print_json({kind: [dataclasses.asdict(device) for device in listed] for kind, listed in found.items()})
        return DONE
    for kind, listed in found.items():
        print(f"{kind}:")
        for device in listed:
            print(f"{device.index:3}: {device.name}{' (default)' if device.default else ''}")
        if not listed:
            print("  none")
    return DONE


def _check(args: argparse.Namespace) -> int:
    """Tries everything. Returns FAILED if something does not work."""
    from ...assistant.interface import EdgeGemmaVoiceError
    from ...errors import EdgeGemmaError
    from . import checkup

    screen = Screen(sys.stdout)
    found: list[checkup.Finding] = []

    def tell(finding: checkup.Finding) -> None:
        found.append(finding)
        if not args.json:
            mark = {"good": "ok", "poor": "poor", "bad": "BAD"}[finding.grade]
            screen.line(f"{mark:5}{finding.name}: {finding.text}", "bold" if finding.grade == "bad" else "")
            if finding.advice:
                screen.line(f"     -> {finding.advice}")

    for finding in checkup.check_machine():
        tell(finding)
    if not args.json:
        screen.line("Say something now.", "dim")
    finding, samples = checkup.check_microphone(_microphone(args))
    tell(finding)
    tell(checkup.check_wake(lambda: _wake(args), samples))
    tell(checkup.check_echo(lambda: _echo(args)))
    voice = None
    try:
        voice = _voice(args)
    except EdgeGemmaVoiceError as error:
        tell(checkup.Finding("voice", "bad", str(error)))
    tell(checkup.check_speaker(_speaker(args, None, _SPEAKER_RATE), voice))
    if voice:
        voice.close()
    for finding in checkup.check_tools(lambda: _abilities(args)[0]):
        tell(finding)
    try:
        announce_toy(args)
        with open_model(args, notice=False) as model:
            tell(checkup.check_model(model, is_toy(args)))
            sizes = model.weight_sizes()
            sessions = sum(model.estimate(args.context or DEFAULT_CONTEXT, args.kv or "f16").values())
            tell(checkup.check_memory(sizes["weights"] + sizes["encoder"] + sizes["vocabulary"] + sessions))
    except EdgeGemmaError as error:
        tell(checkup.Finding("model", "bad", str(error)))
    bad = any(finding.grade == "bad" for finding in found)
    if args.json:
        print_json([vars(finding) for finding in found])
    elif not bad:
        screen.line(f"All of it works: `{typed_command()} assistant` talks.")
    return FAILED if bad else DONE
