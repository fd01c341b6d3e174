"""`edge-gemma serve --install-service`: a unit of systemd that starts the server with the machine.

Root installs a unit of the system, which runs as a user of its own that systemd makes. It may write nowhere but into the
cache's folder, sees no devices, and has no rights to lose. Everybody else installs a unit of their own, which has the rights of
its user but may gain none. The key goes into a file that its owner alone can read: everybody sees the options of a command.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import EdgeGemmaOSError
from .settings import Settings, is_loopback

__all__ = ["install", "notify", "unit_text"]

_NAME = "edge-gemma.service"
_CONFINED = """\
NoNewPrivileges=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""
# These need rights that the systemd of a user does not have: there, a unit with them does not start (218/CAPABILITIES).
_OF_SYSTEM = """\
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
CapabilityBoundingSet=
"""


def unit_text(command: Sequence[str], *, system: bool, writable: Sequence[str] = ()) -> str:
    """The unit.

    Args:
        command: program and arguments; paths are absolute.
        system: a unit of the system and not of a user.
        writable: folders that a unit of the system may write into.
    """
    rights = ""
    if system:
        paths = "".join(f"ReadWritePaths={_quoted(path)}\n" for path in writable)
        rights = f"DynamicUser=yes\nStateDirectory=edge-gemma\n{paths}{_OF_SYSTEM}"
    return f"""\
[Unit]
Description=edge_gemma: Gemma for other programs
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart={" ".join(map(_quoted, command))}
TimeoutStartSec=600
TimeoutStopSec=60
Restart=on-failure
RestartSec=5
{rights}{_CONFINED}
[Install]
WantedBy={"multi-user" if system else "default"}.target
"""


def _quoted(text: str) -> str:
    """A word of a unit's command line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != shlex.quote(escaped) else escaped


def install(options: Sequence[str], settings: Settings, *, files: Sequence[str] = ()) -> list[str]:
    """Writes the unit, and tells in lines what was written and how to go on. Raises EdgeGemmaOSError "file".

    Args:
        options: of `edge-gemma serve`, without those about keys; paths are absolute.
        settings: what they mean.
        files: that the server must be able to read.
    """
    system = hasattr(os, "geteuid") and os.geteuid() == 0
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    folder = Path("/etc/systemd/system") if system else config / "systemd" / "user"
    keys = Path("/etc/edge-gemma") if system else config / "edge-gemma"
    command, lines = [sys.executable, "-m", "edge_gemma", "serve", *options], []
    key = settings.api_key
    if key is None and not is_loopback(settings.host):
        key = _key_of(keys / "key") or secrets.token_urlsafe(24)
    try:
        extra = ""
        if key is not None:
            keys.mkdir(parents=True, exist_ok=True)
            path = keys / "key"
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(f"{key}\n")
            os.chmod(path, 0o600)
            if system:  # systemd hands it to the server's own user
                extra = f"LoadCredential=key:{path}\n"
                command += ["--api-key-file", "%d/key"]
            else:
                command += ["--api-key-file", str(path)]
            lines.append(f"The key for clients is in {path}.")
        text = unit_text(command, system=system, writable=[settings.cache_dir] if settings.cache_dir else [])
        text = text.replace("%%d/key", "%d/key").replace("TimeoutStartSec=", f"{extra}TimeoutStartSec=", 1)
        folder.mkdir(parents=True, exist_ok=True)
        unit = folder / _NAME
        unit.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EdgeGemmaOSError(f"{error.filename or folder} cannot be written: {error.strerror}.", "file") from error
    user = "" if system else "--user "
    lines = [f"{unit} is written.", *lines]
    hidden = [file for file in files if system and Path(file).is_relative_to(home)]
    if hidden:
        lines.append(
            f"The service runs as a user of its own, which cannot read {hidden[0]}: move it to /var/lib, for one."
        )
    lines.append(f"Switch it on: systemctl {user}daemon-reload && systemctl {user}enable --now {_NAME}")
    lines.append(f"See what it says: journalctl {user}-u {_NAME}")
    if not system:
        lines.append("It runs while you are logged in. To let it run always: loginctl enable-linger")
    return lines


def _key_of(path: Path) -> str:
    """The key of an earlier installation; "" if there was none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return ""


def notify(state: str) -> None:
    """Tells systemd, if that has started this process: "READY=1" or "STOPPING=1"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(state.encode())
        except OSError:
            pass
