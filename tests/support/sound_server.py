"""A sound server for tests: PulseAudio with a room and a mouth, two devices that are no hardware and run in real time.

What is played into the room is what a microphone hears; what goes to the mouth can be recorded. PortAudio reaches both
through ALSA's plug-in for PulseAudio, as programs of a desktop do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 16000
_ALSA = """
</usr/share/alsa/alsa.conf>
pcm.earside {{ type pulse  server "{server}"  device "room.monitor" }}
pcm.mouthside {{ type pulse  server "{server}"  device "mouth" }}
pcm.!default {{ type asym  capture.pcm earside  playback.pcm mouthside }}
"""
_PLUGINS = (
    "/usr/lib/x86_64-linux-gnu/alsa-lib",
    "/usr/lib/aarch64-linux-gnu/alsa-lib",
    "/usr/lib64/alsa-lib",
    "/usr/lib/alsa-lib",
)


def need_sound_server() -> None:
    """Skips the test where PulseAudio, its tools or ALSA's plug-in are missing."""
    for program in ("pulseaudio", "pactl", "pacat", "parec"):
        if not shutil.which(program):
            pytest.skip(f"needs {program} (Debian: pulseaudio, pulseaudio-utils)")
    folders = [os.environ.get("ALSA_PLUGIN_DIR", ""), *_PLUGINS]
    if not any(folder and Path(folder, "libasound_module_pcm_pulse.so").exists() for folder in folders):
        pytest.skip("needs ALSA's plug-in for PulseAudio (Debian: libasound2-plugins)")


class SoundServer:
    """The server, from `start` on. Close it with `close` or a `with` block."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where its files are."""
        self.folder = folder
        self.address = f"unix:{folder / 'socket'}"
        config = folder / "asound.conf"
        config.write_text(_ALSA.format(server=self.address))
        #: The environment of programs that use it.
        self.env = {
            **os.environ,
            "PULSE_SERVER": self.address,
            "ALSA_CONFIG_PATH": str(config),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_STATE_PATH": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_DATA_HOME": str(folder),
            "XDG_STATE_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._recording: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Runs the server, and its two devices."""
        socket = self.folder / "socket"
        socket.unlink(missing_ok=True)
        sinks = [f"module-null-sink sink_name={name} rate={RATE} channels=1" for name in ("room", "mouth")]
        modules = [f"module-native-protocol-unix socket={socket} auth-anonymous=1", *sinks]
        loads = [part for module in modules for part in ("-L", module)]
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", *loads]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        late = time.monotonic() + 10
        while "mouth" not in self._control("list", "short", "sinks"):
            assert time.monotonic() < late, (self.folder / "log").read_text()
            time.sleep(0.1)

    def _control(self, *arguments: str) -> str:
        return subprocess.run(["pactl", *arguments], env=self.env, capture_output=True, text=True, check=False).stdout

    def stop(self) -> None:
        """Ends the server: to programs its devices are gone."""
        self.end_recording()
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def play(self, samples: NDArray[np.float32]) -> None:
        """Plays (n,) samples at 16 kHz into the room, and returns when they are over."""
        command = [
            "pacat",
            "--playback",
            "--device=room",
            "--format=s16le",
            f"--rate={RATE}",
            "--channels=1",
            "--latency-msec=50",
        ]
        data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        subprocess.run(command, input=data, env=self.env, check=True, timeout=60)

    def record(self) -> None:
        """Records what comes out of the mouth, until `end_recording`."""
        command = [
            "parec",
            "--device=mouth.monitor",
            "--format=s16le",
            f"--rate={RATE}",
            "--channels=1",
            "--latency-msec=20",
        ]
        with open(self.folder / "mouth.raw", "wb") as file:
            self._recording = subprocess.Popen(command, env=self.env, stdout=file)

    def recorded(self) -> NDArray[np.int16]:
        """(n,): what has come out of the mouth so far."""
        path = self.folder / "mouth.raw"
        return np.fromfile(path, "<i2", path.stat().st_size // 2)

    def end_recording(self) -> None:
        """Ends the recording."""
        if self._recording:
            self._recording.terminate()
            self._recording.wait(10)
            self._recording = None

    def close(self) -> None:
        """Ends everything."""
        self.stop()

    def __enter__(self) -> SoundServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spoken(text: str, folder: Path, voice: str = "en-us+m3", speed: int = 150) -> NDArray[np.float32]:
    """(n,) samples at 16 kHz of a sentence that espeak-ng speaks."""
    from edge_gemma.audio.source import to_mono

    path = folder / "spoken.wav"
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), text], check=True)
    with wave.open(str(path)) as file:
        return to_mono(np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate())
