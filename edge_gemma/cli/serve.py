"""`edge-gemma serve`: a server that other programs' clients use: OpenAI, Ollama, Anthropic."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

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

KEY_VARIABLE = "EDGE_GEMMA_API_KEY"

EXAMPLES = """
edge-gemma serve -m e2b
edge-gemma serve -m e2b --host 0.0.0.0
edge-gemma serve -m e2b --host 0.0.0.0 --api-key-file /etc/edge-gemma/key
edge-gemma serve -m e2b --cache-dir ~/.cache/edge-gemma/prefixes
edge-gemma serve -m e2b --allow-origin http://localhost:3000
"""


def port(text: str) -> int:
    """A number of a port; 0 takes a free one."""
    if (value := whole(text)) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is out of range")
    return value


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "serve", "answer other programs over HTTP", EXAMPLES)
    address = parser.add_argument_group("address")
    address.add_argument(
        "--host",
        type=plain_text,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 is every network, and then a key is made if none is given (default: 127.0.0.1, this"
        " machine alone)",
    )
    address.add_argument("--port", "-p", type=port, default=8080, metavar="N", help="the port (default: 8080)")
    address.add_argument(
        "--name", type=plain_text, metavar="NAME", help="what the model is called (default: the name of its file)"
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


def _cache_size(text: str) -> int:
    return 0 if text.strip() == "0" else size(text)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    from ..server.running import check_packages, listen, serve, with_key
    from ..server.settings import Settings

    check_packages()
    model, mmproj = model_paths(args)
    announce_toy(args)
    if args.install_service:
        from ..server.service import install

        install(sys.argv)
        return DONE

    from ..server.core import Core

    settings = Settings(
        host=args.host,
        port=args.port,
        api_key=_key(args),
        allowed_hosts=tuple(args.allow_host or ()),
        allowed_origins=tuple(args.allow_origin or ()),
        name=args.name,
        thinking=args.thinking,
        parallel=args.parallel,
        queue=args.queue,
        max_body=args.max_body,
        max_bodies=max(128 << 20, args.max_body),
        context=args.context,
        kv=args.kv,
        memory_limit=args.memory_limit,
        cache_bytes=args.cache_memory,
        cache_dir=args.cache_dir,
        cache_dir_bytes=args.cache_disk,
        stop_seconds=args.stop_seconds,
    )
    settings, made = with_key(settings)
    name = settings.name or os.path.splitext(os.path.basename(model))[0]

    def open_model() -> Any:
        from .. import Model

        return Model.load(model, mmproj, args.threads, not args.no_sidecar, memory_limit=args.memory_limit)

    listener = listen(settings.host, settings.port)
    address, number = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say(f"{name} is being loaded. Clients use http://{shown}:{number}/v1")
    if made:
        say(f"Key for clients: {settings.api_key}")
    serve(Core(open_model, settings, name), listener, ready=lambda: say("The server answers. Ctrl-C stops it."))
    return DONE


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
