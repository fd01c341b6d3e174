"""`edge-gemma serve`: a server that other programs' clients use: OpenAI, Ollama, Anthropic."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from .common import (
    DONE,
    UsageError,
    add_model_options,
    add_session_options,
    add_verb,
    amount,
    announce_toy,
    count,
    model_paths,
    size,
    whole,
)
from .parsing import file_path, plain_text

if TYPE_CHECKING:
    from ..server.settings import Settings

KEY_VARIABLE = "EDGE_GEMMA_API_KEY"

EXAMPLES = """
edge-gemma serve -m e2b
edge-gemma serve -m e2b --host 0.0.0.0
edge-gemma serve -m e2b --host 0.0.0.0 --api-key-file /etc/edge-gemma/key
edge-gemma serve -m e2b --cache-dir ~/.cache/edge-gemma/prefixes
edge-gemma serve -m e2b --allow-origin http://localhost:3000
edge-gemma serve -m e2b --wyoming 0.0.0.0:10300 --announce
"""


def port(text: str) -> int:
    """A number of a port; 0 takes a free one."""
    if (value := whole(text)) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is out of range")
    return value


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "serve", "answer other programs over HTTP", EXAMPLES)
    place = parser.add_argument_group("address")
    place.add_argument(
        "--host",
        type=plain_text,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 is every network, and then a key is made if none is given (default: 127.0.0.1, this"
        " machine alone)",
    )
    place.add_argument("--port", "-p", type=port, default=8080, metavar="N", help="the port (default: 8080)")
    place.add_argument(
        "--name", type=plain_text, metavar="NAME", help="what the model is called (default: the name of its file)"
    )
    parser.add_argument(
        "--voice",
        type=plain_text,
        metavar="VOICE",
        help="answer in speech where a client of /v1/realtime asks for it, and read texts aloud: espeak-ng, espeak-ng:NAME,"
        " a file of Piper (NAME.onnx), or the address of a speech server (default: text alone)",
    )
    speech = parser.add_argument_group("Home Assistant")
    speech.add_argument(
        "--wyoming",
        type=address,
        metavar="[ADDRESS:]PORT",
        help="also speak Home Assistant's Wyoming protocol there: speech recognition and a conversation agent. It knows no"
        " keys, so without an address this machine alone can use it; the usual port is 10300",
    )
    speech.add_argument(
        "--announce",
        action="store_true",
        help="tell the local network of it, so that Home Assistant finds it by itself",
    )
    access = parser.add_argument_group("access")
    key = access.add_mutually_exclusive_group()
    key.add_argument(
        "--api-key",
        type=plain_text,
        metavar="KEY",
        help=f"what clients must send (default: environment variable {KEY_VARIABLE}); other users of this machine can read"
        " options",
    )
    key.add_argument("--api-key-file", type=file_path, metavar="FILE", help="file with the key")
    access.add_argument(
        "--allow-host",
        action="append",
        type=plain_text,
        metavar="NAME",
        help="a further name by which clients call this machine; may be given several times",
    )
    access.add_argument(
        "--allow-origin",
        action="append",
        type=plain_text,
        metavar="ORIGIN",
        help="pages of another server that may use this one, such as http://localhost:3000; may be given several times",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--parallel", type=count, default=4, metavar="N", help="answers that are made at the same time (default: 4)"
    )
    limits.add_argument(
        "--queue", type=whole, default=32, metavar="N", help="further requests that may wait (default: 32)"
    )
    limits.add_argument(
        "--max-body", type=size, default=48 << 20, metavar="SIZE", help="the largest request (default: 48MiB)"
    )
    cache = parser.add_argument_group("cache")
    cache.add_argument(
        "--cache-memory",
        type=_cache_size,
        default=256_000_000,
        metavar="SIZE",
        help="memory for conversations and prompts that later requests may begin with (default: 256MB; 0 is off)",
    )
    cache.add_argument(
        "--cache-dir", type=file_path, metavar="FOLDER", help="folder in which they outlive the server (default: none)"
    )
    cache.add_argument(
        "--cache-disk", type=size, default=2_000_000_000, metavar="SIZE", help="size of that folder (default: 2GB)"
    )
    cache.add_argument(
        "--keep-times",
        action="store_true",
        help="leave a line of the instructions that states the time where it is; otherwise it moves to the user's last"
        " message, so that what follows it is found in the cache",
    )
    parser.add_argument(
        "--thinking", action="store_true", help="let the model think where a request does not say whether it may"
    )
    service = parser.add_argument_group("service")
    service.add_argument(
        "--install-service",
        action="store_true",
        help="write a systemd unit that starts this command with the machine, and tell how to switch it on",
    )
    service.add_argument(
        "--stop-seconds",
        type=amount,
        default=20.0,
        metavar="S",
        help="how long answers may go on when the server is stopped (default: 20)",
    )
    add_session_options(parser, default="16K, or what the model has")
    add_model_options(parser)
    return parser


def address(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, or PORT for this machine alone; brackets stand around an address with colons."""
    host, _, number = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", port(number)


def _cache_size(text: str) -> int:
    return 0 if text.strip() == "0" else size(text)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    from ..server.running import check_packages, listen, serve, with_key
    from ..server.service import install, notify

    check_packages()
    settings = _settings(args)
    model, mmproj = model_paths(args)
    name = settings.name or os.path.splitext(os.path.basename(model))[0]
    if args.install_service:
        files = [model, *([mmproj] if mmproj else [])]
        print("\n".join(install(_options_of_service(args, model, mmproj), settings, files=files)))
        return DONE
    from ..hub.resolve import is_embedded
    from ..server.core import Core

    companions, open_voice = _companions(args, is_embedded(model)), _voice(args)
    announce_toy(args)
    settings, made = with_key(settings)
    if settings.cache_dir is not None:
        os.makedirs(settings.cache_dir, exist_ok=True)

    def open_model() -> Any:
        from .. import Model

        return Model.load(model, mmproj, args.threads, not args.no_sidecar, memory_limit=args.memory_limit)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def ready() -> None:
        say("The server answers. Ctrl-C stops it.")
        notify("READY=1")

    listener = listen(settings.host, settings.port)
    address, number = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    say(f"{name} is being loaded. Clients use http://{shown}:{number}/v1")
    if made:
        say(f"Key for clients: {settings.api_key}")
    if args.wyoming is not None:
        say(f"Home Assistant's Wyoming integration uses {args.wyoming[0]}, port {args.wyoming[1]}.")
    core = Core(open_model, settings, name, open_voice)
    if is_embedded(model):
        core.page = _page_of_toy()
    serve(core, listener, companions, ready=ready)
    notify("STOPPING=1")
    return DONE


def _settings(args: argparse.Namespace) -> Settings:
    """What the options mean."""
    from ..server.settings import Settings

    return Settings(
        host=args.host,
        port=args.port,
        api_key=_key(args),
        allowed_hosts=tuple(args.allow_host or ()),
        allowed_origins=tuple(args.allow_origin or ()),
        name=args.name,
        thinking=args.thinking,
        moves_times=not args.keep_times,
        parallel=args.parallel,
        queue=args.queue,
        max_body=args.max_body,
        max_bodies=max(128 << 20, args.max_body),
        context=args.context,
        kv=args.kv,
        memory_limit=args.memory_limit,
        cache_bytes=args.cache_memory,
        cache_dir=None if args.cache_dir is None else os.path.abspath(os.path.expanduser(args.cache_dir)),
        cache_dir_bytes=args.cache_disk,
        stop_seconds=args.stop_seconds,
    )


def _companions(args: argparse.Namespace, toy: bool) -> list[Any]:
    """The other servers that were asked for; `toy`: for the model of the demo."""
    if args.wyoming is None:
        if args.announce:
            raise UsageError("--announce tells of the Wyoming server: give --wyoming, too.")
        return []
    from ..installation import pip_line

    try:
        from ..server.wyoming_server import wyoming
    except ImportError:
        raise UsageError(f"--wyoming needs the package wyoming: `{pip_line('edge-gemma[server]')}` gets it.") from None
    if not toy:
        return [wyoming(*args.wyoming, announce=args.announce)]
    from ..server.wyoming_agent import Agent

    instructions, tools = _home_of_toy()
    return [wyoming(*args.wyoming, lambda core: Agent(core, instructions, tools), announce=args.announce)]


def _home_of_toy() -> tuple[str, list[dict[str, Any]]]:
    """The instructions and tools that the toy was trained on: it knows no others."""
    from ..chat.tools import Toolbox
    from ..demo.home import INSTRUCTIONS, Home

    return INSTRUCTIONS, Toolbox(Home().tools).schemas


def _page_of_toy() -> dict[str, Any]:
    """What the web page begins with, without a home behind it."""
    instructions, tools = _home_of_toy()
    return {"defaults": {"instructions": instructions}, "tools": [schema["function"] for schema in tools]}


def _voice(args: argparse.Namespace) -> Any:
    """Opens the voice that was asked for; None for none. It is opened once here, so that a wrong name is told at once."""
    if args.voice is None:
        return None
    from ..assistant.voices.opening import open_voice

    def opened() -> Any:
        return open_voice(args.voice)

    opened().close()
    return opened


def _options_of_service(args: argparse.Namespace, model: str, mmproj: str | None) -> list[str]:
    """The options of this command as the service gets them: files by their whole paths, and no key."""
    files = {"model": model, "mmproj": mmproj, "cache_dir": args.cache_dir}
    left_out = {"verb", "run", "install_service", "api_key", "api_key_file", "toy_announced"}
    defaults = vars(_defaults())
    options: list[str] = []
    for name, value in vars(args).items():
        option = f"--{name.replace('_', '-')}"
        if name in files:
            given = files[name]
            options += [] if given is None else [option, os.path.abspath(os.path.expanduser(given))]
        elif name in left_out or value == defaults.get(name):
            continue
        elif value is True:
            options.append(option)
        elif isinstance(value, tuple):
            options += [option, ":".join(map(str, value))]
        else:
            for item in value if isinstance(value, list) else [value]:
                options += [option, str(item)]
    return options


def _defaults() -> argparse.Namespace:
    """The options of a command without any."""
    root = argparse.ArgumentParser()
    return add_parser(root.add_subparsers()).parse_args([])


def _key(args: argparse.Namespace) -> str | None:
    """The key that was given; None for none."""
    if args.api_key_file is not None:
        try:
            with open(args.api_key_file, encoding="utf-8") as file:
                key = file.read().strip()
        except (OSError, UnicodeError) as error:
            raise UsageError(f"{args.api_key_file} cannot be read: {getattr(error, 'strerror', error)}.") from None
    else:
        key = os.environ.get(KEY_VARIABLE, "") if args.api_key is None else args.api_key
        if args.api_key is None and not key:
            return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError("the key must have letters, digits and signs of ASCII, without blanks.")
    return key
