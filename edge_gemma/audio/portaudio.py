"""What microphone.py and loudspeaker.py share of PortAudio, the library behind the package sounddevice."""

from __future__ import annotations

import re
import sys
from typing import Any

from ..errors import EdgeGemmaOSError
from ..installation import pip_line

__all__ = ["load_sounddevice", "reason", "refresh"]


def load_sounddevice(what: str) -> Any:
    """The package sounddevice. Raises EdgeGemmaOSError "unsupported", which says what to install for `what`."""
    try:
        import sounddevice
    except ImportError as error:
        raise EdgeGemmaOSError(
            f"{what} need the package sounddevice: `{pip_line('sounddevice')}`.", "unsupported"
        ) from error
    except OSError as error:
        install = (
            "install libportaudio2 (Debian, Ubuntu, Raspberry Pi OS: apt install libportaudio2; Fedora: dnf install "
            "portaudio; Arch: pacman -S portaudio)"
            if sys.platform.startswith("linux")
            else "install it (Homebrew: brew install portaudio), or reinstall sounddevice "
            f"(`{pip_line('--force-reinstall', 'sounddevice')}`)"
        )
        raise EdgeGemmaOSError(f"{what} need the library PortAudio: {install}.", "unsupported") from error
    return sounddevice


def reason(error: Exception | None) -> str:
    """What PortAudio says, without its function names and numbers."""
    said = re.sub(r"^Error (opening|starting) \w*: | \[PaErrorCode -?\d+\]", "", str(error)).strip().rstrip(".")
    return (
        "there is no such device" if said.startswith("Error querying device") else said or "PortAudio gives no reason"
    )


def refresh() -> None:
    """Lists the devices anew, since PortAudio lists them once a process. All streams must be closed.

    Raises EdgeGemmaOSError "unsupported" when PortAudio is missing, "file" when it does not start again.
    """
    sounddevice = load_sounddevice("sound devices")
    try:
        sounddevice._terminate()
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise EdgeGemmaOSError(f"the sound devices cannot be listed: {reason(error)}.", "file") from error
