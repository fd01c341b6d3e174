"""The fenced code blocks of the project's pages, and a folder in which they can run as a reader would run them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from edge_gemma.engine.gguf import GGUFFile
from support.paths import ROOT
from support.tiny_checkpoint import Shape, write_checkpoint
from support.videos import make_video

MODEL, MMPROJ = "gemma-4-E2B-it-Q4_0.gguf", "mmproj-gemma-4-E2B-it-Q8_0.gguf"

_DEMO = ROOT / "edge_gemma" / "demo" / "data"

# Stands in for the package sounddevice: a microphone that hears one recording, and then the user's Ctrl-C.
_SOUNDDEVICE = """
import os, signal, threading, time, wave


class PortAudioError(Exception):
    pass


class default:
    device = (0, 0)


class Status:
    input_overflow = False


def query_devices(device=None, kind=None):
    info = {"name": "Microphone", "index": 0, "max_input_channels": 1, "max_output_channels": 0, "default_samplerate": 16000.0}
    return [info] if device is None and kind is None else info


class RawInputStream:
    def __init__(self, callback, finished_callback, **options):
        self.callback = callback
        self.open = False

    def start(self):
        self.open = True
        threading.Thread(target=self._speak, daemon=True).start()

    def _speak(self):
        with wave.open(os.environ["DOCS_SPEECH"]) as sound:
            data = sound.readframes(sound.getnframes()) + bytes(2 * 16000 * 2)
        for start in range(0, len(data), 640):
            if not self.open:
                return
            block = data[start : start + 640]
            self.callback(block, len(block) // 2, None, Status)
            time.sleep(0.01)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    def stop(self, ignore_errors=True):
        self.open = False

    abort = close = stop
"""

_ARECORD = '#!/bin/sh\n# Stands in for a recorder: raw samples of one recording.\ntail -c +45 "$DOCS_SPEECH"\n'


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` is the first word behind its fence, `line` that of its first line of text.

    `vision`: whether "vision" is another word there: the block needs a model that sees.
    """

    page: str
    line: int
    language: str
    text: str
    vision: bool = False


def blocks(page: str) -> list[Block]:
    """The blocks of a page, which is named from the project's folder."""
    found: list[Block] = []
    lines: list[str] = []
    start, language, vision = 0, "", False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```") and not start:
            words = [*line[3:].split(), ""]
            start, language, vision, lines = number + 1, words[0], "vision" in words, []
        elif line.startswith("```"):
            found.append(Block(page, start, language, "".join(f"{text}\n" for text in lines), vision))
            start = 0
        else:
            lines.append(line)
    assert not start, f"{page}:{start - 1}: the block has no end"
    return found


def model_sees() -> bool:
    """Whether the embedded model, which stands for the real one, has a vision encoder."""
    with GGUFFile(_DEMO / "demo-mmproj.gguf") as file:
        return bool(file.metadata.get("clip.has_vision_encoder"))


def _write_pictures(folder: Path) -> None:
    """Two pictures, and a video where PyAV is installed."""
    (folder / "photos").mkdir()
    for path, seed in ((folder / "photo.jpg", 1), (folder / "photos" / "second.png", 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).resize((320, 240)).save(path)
    with contextlib.suppress(ImportError):
        (folder / "holiday.mp4").write_bytes(make_video(40, 10))


def furnish(folder: Path) -> dict[str, str]:
    """Puts the files that the pages name into a folder; returns the environment in which a reader's commands run.

    Model and encoders are two files, as a reader has them: the embedded model's, under the names of the real one.
    """
    import soundfile

    shutil.copy(_DEMO / "demo.gguf", folder / MODEL)
    shutil.copy(_DEMO / "demo-mmproj.gguf", folder / MMPROJ)
    spoken = [soundfile.read(path)[0] for path in sorted((_DEMO / "utterances").glob("*.wav"))[:2]]
    pause = np.zeros(16000)
    talk = np.concatenate([part for sound in spoken for part in (sound, pause)])
    for name in ("talk.mp3", "talk.wav", "monday.wav", "tuesday.wav"):
        soundfile.write(folder / name, talk, 16000)
    (folder / "interviews").mkdir()
    soundfile.write(folder / "interviews" / "anna.wav", talk, 16000)
    (folder / "talk.txt").write_text("Turn on the kitchen lights.\n")
    write_checkpoint(folder / "gemma-4-E2B-it", Shape())
    _write_pictures(folder)
    programs, modules = folder / "programs", folder / "modules"
    programs.mkdir()
    modules.mkdir()
    (programs / "arecord").write_text(_ARECORD)
    (programs / "arecord").chmod(0o755 | stat.S_IXUSR)
    (modules / "sounddevice.py").write_text(textwrap.dedent(_SOUNDDEVICE))
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(modules),
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "DOCS_SPEECH": str(_DEMO / "utterances" / "1-en.wav"),
    }
