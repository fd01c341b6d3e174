"""Announcing the Wyoming server in the local network by zeroconf, so that Home Assistant finds it by itself."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator

from ..errors import EdgeGemmaValueError
from ..installation import pip_line
from .settings import is_loopback

__all__ = ["announced", "check_announcing"]

_SERVICE = "_wyoming._tcp.local."
_LONGEST = 63  # bytes of a name


def check_announcing(host: str) -> None:
    """Raises EdgeGemmaValueError for an address that other machines do not reach, and without the package."""
    if is_loopback(host):
        raise EdgeGemmaValueError(
            "Only this machine reaches the Wyoming server, so there is nothing to announce: give --wyoming an address of the "
            "network, such as 0.0.0.0:10300.",
            "argument",
        )
    try:
        import zeroconf  # noqa: F401
    except ImportError:
        raise EdgeGemmaValueError(
            f"Announcing needs the package zeroconf: `{pip_line('zeroconf')}` gets it.", "unsupported"
        ) from None


def service_name(machine: str) -> str:
    """The name by which Home Assistant knows the server: it stays the same as long as the machine has its name."""
    name = f"edge-gemma-{machine.partition('.')[0]}".lower()
    return name.encode()[:_LONGEST].decode(errors="ignore")


@contextlib.asynccontextmanager
async def announced(host: str, port: int, machine: str | None = None) -> AsyncIterator[None]:
    """Announces the server while the block runs. `machine`: None for the name of this one."""
    import ifaddr
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    given = ipaddress.ip_address(host) if _is_number(host) else None
    if given is None or given.is_unspecified:
        found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
        addresses = [address for address in found if not is_loopback(address)]
    else:
        addresses = [host]
    machine = socket.gethostname() if machine is None else machine
    service = AsyncServiceInfo(
        _SERVICE,
        f"{service_name(machine)}.{_SERVICE}",
        parsed_addresses=addresses,
        port=port,
        server=f"{machine.partition('.')[0]}.local.",
    )
    responder = AsyncZeroconf()
    try:
        await responder.async_register_service(service)
        yield
    finally:
        await responder.async_unregister_service(service)
        await responder.async_close()


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
