"""`edge-gemma assistant --install-service`: a service of systemd that runs the assistant from the start of the machine.

The unit runs the command with the options that it was installed with. It waits for nothing: the assistant itself waits for
the sound devices, and opens them when they come. Tokens are in a file that its owner alone can read: everybody sees a unit.
"""

from __future__ import annotations

import getpass
import os
import re
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
_VOICE_KEY = "EDGE_GEMMA_VOICE_KEY"
_SECRETS = """\
# Variables of the voice assistant, such as tokens: a line NAME=value each. It reads them when it starts.
"""

_UNIT = """\
[Unit]
Description=edge_gemma voice assistant
Documentation=man:edge-gemma(1)
After=pipewire.service pulseaudio.service wireplumber.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
EnvironmentFile=-{secrets}
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
    return _UNIT.format(command=quoted, environment=environment, secrets=str(_secrets()).replace("%", "%%"))


def _quoted(text: str) -> str:
    if text and all(char.isalnum() or char in "-_./:=,+@%$" for char in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _configuration() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config"))


def _path() -> Path:
    return _configuration() / "systemd" / "user" / NAME


def _secrets() -> Path:
    return _configuration() / "edge-gemma" / "assistant.env"


def _missing(command: Sequence[str]) -> list[str]:
    """The variables with tokens that the command wants, and the service does not have. Makes the file for them."""
    path = _secrets()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
        path.write_text(_SECRETS, encoding="utf-8")
    wanted = [name for argument in command for name in re.findall(r"\btoken-env=(\w+)", argument)]
    wanted += [_VOICE_KEY] if os.environ.get(_VOICE_KEY) else []
    given = re.findall(r"^\s*(\w+)\s*=", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return [name for name in dict.fromkeys(wanted) if name not in given]


def install(command: Sequence[str]) -> list[str]:
    """Writes the unit, and starts it where systemd runs. Returns sentences about what was done and what is left to do.

    Raises EdgeGemmaOSError "file" when the unit cannot be written.
    """
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(command), encoding="utf-8")
        missing = _missing(command)
    except OSError as error:
        raise EdgeGemmaOSError(f"{error.filename or path}: {error.strerror or error}.", "file") from error
    said = [f"The service is in {path}, and variables with tokens are read from {_secrets()}."]
    if missing:
        said.append(f"It lacks {' and '.join(missing)}: write a line NAME=value for each into that file.")
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
