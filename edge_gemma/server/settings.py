"""`Settings`: everything about the server that can be set, with the defaults of the command."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOOPBACK", "Settings", "is_loopback"]

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the server. Times are seconds, sizes bytes.

    Attributes:
        host, port: the address that is listened at.
        api_key: what clients must send; None for no key.
        allowed_hosts: further names by which clients may call this machine.
        allowed_origins: web pages of other servers that may send requests, such as "http://localhost:3000".
        name: what the model is called; None for the name of its file.
        thinking: whether the model thinks where a request says nothing about it.
        moves_times: whether a line of the instructions that states the time moves to the user's last message.
        parallel: how many answers are made at the same time.
        queue: how many more requests may wait.
        queue_seconds: how long a request may wait for its turn.
        request_seconds: how long an answer may take from its turn on.
        recordings: how many recordings are transcribed at the same time.
        listeners: how many speakers are listened to at the same time.
        stall_seconds: how long a client may take nothing of its answer, or send nothing of its request.
        max_body: the largest request.
        max_bodies: the size of all requests that are read at the same time.
        max_pixels: the largest picture.
        max_responses: bytes of conversations that are kept for `previous_response_id`.
        context: the tokens of a timeline; None for 16,384, or what the model and the memory limit allow.
        kv: the type of the KV cache; None for f16, or what fits the memory limit.
        memory_limit: bytes that the process stays within; None for no limit.
        cache_bytes: of timelines that are kept for later requests.
        cache_dir: the folder in which prefixes outlive the process; None for none.
        cache_dir_bytes: of that folder.
        ping_seconds: how often a stream without news tells that it is alive.
        stop_seconds: how long answers may go on when the server is stopped.
    """

    host: str = LOOPBACK
    port: int = 8080
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    name: str | None = None
    thinking: bool = False
    moves_times: bool = True
    parallel: int = 4
    queue: int = 32
    queue_seconds: float = 120.0
    request_seconds: float = 1800.0
    recordings: int = 2
    listeners: int = 8
    stall_seconds: float = 60.0
    max_body: int = 48 << 20
    max_bodies: int = 128 << 20
    max_pixels: int = 25_000_000
    max_responses: int = 16 << 20
    context: int | None = None
    kv: str | None = None
    memory_limit: int | None = None
    cache_bytes: int = 256_000_000
    cache_dir: str | None = None
    cache_dir_bytes: int = 2_000_000_000
    ping_seconds: float = 15.0
    stop_seconds: float = 20.0
