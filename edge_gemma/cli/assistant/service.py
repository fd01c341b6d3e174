"""`edge-gemma assistant --install-service`: a service of systemd that runs the assistant from the start of the machine.

The unit runs the command with the options that it was installed with. It waits for nothing: the assistant itself waits for
the sound devices, and opens them when they come.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...errors import EdgeGemmaOSError

__all__ = ["NAME", "install", "remove", "unit"]

NAME = "edge-gemma-assistant.service"
# What finds a model; systemd gives a service an environment of its own.
_KEPT = (
    "EDGE_GEMMA_MODEL",
    "EDGE_GEMMA_MMPROJ",
    "HF_HOME",
    "HF_HUB_CACHE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)

_UNIT = """\
[Unit]
Description=edge_gemma voice assistant
Documentation=man:edge-gemma(1)
After=pipewire.service pulseaudio.service wireplumber.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}Restart=always
RestartSec=5
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""


def unit(command: Sequence[str]) -> str:
    """The text of the unit that runs a command: the program, which needs its path, and its arguments."""
    # In a unit, "%" begins a specifier and "$" a variable, and quotes are those of C.
    quoted = " ".join(_quoted(argument.replace("%", "%%").replace("$", "$$")) for argument in command)
    kept = [f"{name}={os.environ[name]}".replace("%", "%%") for name in _KEPT if os.environ.get(name)]
    environment = "".join(f"Environment={_quoted(setting)}\n" for setting in kept)
    return _UNIT.format(command=quoted, environment=environment)


def _quoted(text: str) -> str:
    if text and all(char.isalnum() or char in "-_./:=,+@%$" for char in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(home) / "systemd" / "user" / NAME


def install(command: Sequence[str]) -> list[str]:
    """Writes the unit, and starts it where systemd runs. Returns sentences about what was done and what is left to do.

    Raises EdgeGemmaOSError "file" when the unit cannot be written.
    """
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(command), encoding="utf-8")
    except OSError as error:
        raise EdgeGemmaOSError(f"{path}: {error.strerror or error}.", "file") from error
    said = [f"The service is in {path}."]
    if not _systemctl("daemon-reload"):
        return [*said, f"systemd does not answer here. Where it does: `systemctl --user enable --now {NAME}`."]
    if _systemctl("enable", NAME) and _systemctl("restart", NAME):
        said.append("It runs now, and whenever you are logged in.")
    else:
        said.append(f"It did not start; `journalctl --user -u {NAME}` tells why.")
    lingers = Path("/var/lib/systemd/linger") / getpass.getuser()
    if not lingers.exists() and not _run("loginctl", "enable-linger"):
        said.append("To have it run from the start of the machine: `sudo loginctl enable-linger $USER`.")
    said.append(f"What it says: `journalctl --user -fu {NAME}`.")
    return said


def remove() -> list[str]:
    """Stops the service and removes its unit. Returns sentences about what was done.

    Raises EdgeGemmaOSError "file" when the unit cannot be removed.
    """
    path = _path()
    _systemctl("disable", "--now", NAME)
    try:
        path.unlink()
    except FileNotFoundError:
        return ["There is no service."]
    except OSError as error:
        raise EdgeGemmaOSError(f"{path}: {error.strerror or error}.", "file") from error
    _systemctl("daemon-reload")
    return [f"The service was removed: {path}."]


def _systemctl(*arguments: str) -> bool:
    return _run("systemctl", "--user", *arguments)


def _run(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0
