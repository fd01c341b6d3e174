"""What microphone.py and loudspeaker.py share of PortAudio, the library behind the package sounddevice: lists of devices, the
choice of one by its name, and streams at the rate and with the channels that a device can."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line

__all__ = ["LOUDSPEAKER", "MICROPHONE", "Device", "Kind", "load_sounddevice", "refresh"]


@dataclass(frozen=True)
class Device:
    """A device that can record, or one that can play."""

    index: int  #: PortAudio's number
    name: str
    channels: int
    rate: float  #: samples a second that the device uses by itself
    default: bool  #: whether this device is used when no device is named


@dataclass(frozen=True)
class Kind:
    """Microphones or loudspeakers.

    Attributes:
        noun: what one is called in messages.
        way: what PortAudio calls the direction.
    """

    noun: str
    way: Literal["input", "output"]

    def devices(self) -> list[Device]:
        """All of them. PortAudio lists them once a process, when it is first used.

        Raises EdgeGemmaOSError "unsupported" when PortAudio is missing, "file" when it fails.
        """
        sounddevice = load_sounddevice(self.noun + "s")
        channels = f"max_{self.way}_channels"
        found: list[dict[str, Any]] = []
        try:
            found = list(sounddevice.query_devices())
            default = sounddevice.default.device[self.way == "output"]
            if default == -1 and any(info[channels] for info in found):
                default = sounddevice.query_devices(kind=self.way)["index"]
        except sounddevice.PortAudioError as error:
            if not any(info[channels] for info in found):
                raise EdgeGemmaOSError(f"the sound devices cannot be listed: {_reason(error)}.", "file") from error
            default = -1
        return [
            Device(index, info["name"], info[channels], info["default_samplerate"], index == default)
            for index, info in enumerate(found)
            if info[channels] > 0
        ]

    def choose(self, wanted: str | int | None) -> Device:
        """The device that `wanted` means: a number, a part of a name, or None for the default.

        Raises EdgeGemmaValueError "argument" when none fits, EdgeGemmaOSError "file" when there is none.
        """
        found = self.devices()
        if not found:
            raise EdgeGemmaOSError(
                f"no {self.noun} was found. Is one connected, and may this program use it? (A container or a remote machine "
                f"has no {self.noun} of its own.)",
                "file",
            )
        if wanted is None:
            return next((device for device in found if device.default), found[0])
        if isinstance(wanted, str) and not wanted.strip().isdecimal():
            name = wanted.strip().lower()
            fitting = [device for device in found if name in device.name.lower()]
            fitting.sort(key=lambda device: (device.name.lower() != name, not device.default))
        else:
            fitting = [device for device in found if device.index == int(wanted)]
        if not fitting:
            listing = ", ".join(f"{device.index}: {device.name}" for device in found)
            raise EdgeGemmaValueError(f"there is no {self.noun} {wanted!r}; choose one of {listing}.", "argument")
        return fitting[0]

    def open(self, device: Device, rate: float, **options: Any) -> tuple[Any, float, int]:
        """A stream of 16-bit samples at this rate if the device can, else at its own; with one channel if it can.

        Args:
            options: others of sounddevice's raw streams, such as the callback.

        Returns:
            The stream, which has not been started, its rate and its channels.
        """
        sounddevice = load_sounddevice(self.noun + "s")
        stream = sounddevice.RawInputStream if self.way == "input" else sounddevice.RawOutputStream
        failure: Exception | None = None
        for samplerate in dict.fromkeys((float(rate), device.rate)):
            for channels in dict.fromkeys((1, min(2, device.channels), device.channels)):
                try:
                    opened = stream(
                        samplerate=samplerate, channels=channels, dtype="int16", device=device.index, **options
                    )
                    return opened, samplerate, channels
                except sounddevice.PortAudioError as error:
                    failure = failure or error
        raise self._refused(device, failure) from failure

    def start(self, device: Device, stream: Any) -> None:
        """Starts a stream, or closes it and raises EdgeGemmaOSError."""
        try:
            stream.start()
        except load_sounddevice(self.noun + "s").PortAudioError as error:
            stream.close(ignore_errors=True)
            raise self._refused(device, error) from error

    def _refused(self, device: Device, error: Exception | None) -> EdgeGemmaOSError:
        return EdgeGemmaOSError(
            f"the {self.noun} {device.name} cannot be opened: {_reason(error)}. Check that it is connected and that no other "
            "program uses it, or choose another one.",
            "file",
        )


MICROPHONE, LOUDSPEAKER = Kind("microphone", "input"), Kind("loudspeaker", "output")


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


def _reason(error: Exception | None) -> str:
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
        raise EdgeGemmaOSError(f"the sound devices cannot be listed: {_reason(error)}.", "file") from error
