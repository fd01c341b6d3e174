"""Speech synthesis: espeak-ng, pico, flite and festival (English), and mbrola, which is used in tests only.

The voices for training have licences that allow any use: docs/demo-model.md lists them. The recorded diphones of mbrola, which
espeak-ng drives, do not.

Every synthesizer makes 16 kHz samples of a text. It is run once for each sentence, except festival: that takes a second to
start, so it gets a list of sentences.
"""

from __future__ import annotations

import io
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16000

_ACCENTS = {
    "en": ("en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan"),
    "es": ("es", "es-419"),
    "de": ("de",),
}
_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 klatt5 klatt6 adam Alex Alicia Andrea Andy Annie "
    "antonio aunty belinda benjamin boris caleb david Denis Diogo ed edward Gene grandma grandpa Henrique Hugo iven2 Jacky "
    "john kaukovalta Lee linda marcelo marco mario max michael miguel mike norbert pablo paul pedro quincy rob robert sandro "
    "shelby steph steph2 travis victor Zac"
).split()
# Variants that training does not contain, for tests.
_OTHER_VARIANTS = (
    "AnxiousAndy Gene2 Nguyen RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky anika edward2 gustave iven iven3 iven4 "
    "michel steph3"
).split()
_FLITE = {"en": ("kal16", "slt", "slt", "rms", "rms", "awb")}
_FESTIVAL = {
    "en": ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts"),
}
_MBROLA = {
    "en": ("us1", "us2", "us3", "en1"),
    "es": ("es1", "es2", "mx1", "mx2", "vz1"),
    "de": ("de1", "de2", "de3", "de4", "de5", "de6", "de7"),
}
ENGINES = {
    "en": ("espeak", "espeak", "espeak", "flite", "flite", "festival", "pico"),
    "es": ("espeak", "espeak", "pico"),
    "de": ("espeak", "espeak", "pico"),
}
"""The synthesizers for training. One that is listed twice is used twice as often."""
HELD_OUT, OTHERS = "mbrola", "other variants"
_PICO = {"en": ("en-US", "en-GB"), "es": ("es-ES",), "de": ("de-DE",)}


@dataclass(frozen=True)
class Voice:
    """A voice. `speed` and `pitch` are factors of the voice's own speed and pitch."""

    engine: str
    name: str
    speed: float
    pitch: float


def draw(language: str, rng: random.Random, engine: str | None = None) -> Voice:
    """A random voice for a language. With the engine `OTHERS` it is one of the variants of espeak-ng that do not train."""
    engine = engine or rng.choice(ENGINES[language])
    speed, pitch = rng.uniform(0.8, 1.25), rng.uniform(0.7, 1.3)
    if engine in ("espeak", OTHERS):
        variants = _OTHER_VARIANTS if engine == OTHERS else _VARIANTS
        engine, name = "espeak", f"{rng.choice(_ACCENTS[language])}+{rng.choice(variants)}"
    else:
        named = {"flite": _FLITE, "festival": _FESTIVAL, "mbrola": _MBROLA, "pico": _PICO}
        name = rng.choice(named[engine][language])
    return Voice(engine, name, speed, pitch)


def speak(texts: Sequence[str], voices: Sequence[Voice]) -> list[NDArray[np.int16]]:
    """(n,) samples at 16 kHz of each text. Raises CalledProcessError or OSError if a synthesizer fails."""
    sounds: list[NDArray[np.int16] | None] = [None] * len(texts)
    for at, (text, voice) in enumerate(zip(texts, voices, strict=True)):
        if voice.engine != "festival":
            sounds[at] = _ONE[voice.engine](text, voice)
    waiting = [at for at, voice in enumerate(voices) if voice.engine == "festival"]
    for at, sound in zip(waiting, _festival([texts[i] for i in waiting], [voices[i] for i in waiting]), strict=True):
        sounds[at] = sound
    return sounds  # type: ignore[return-value]


def _espeak(text: str, voice: Voice) -> NDArray[np.int16]:
    return _samples(_run("espeak-ng", *_manner(voice.name, voice), "--stdout", text))


# Phonemes that espeak-ng writes and a voice lacks, with the nearest one that it has. mbrola says nothing in place of others.
_SPANISH = {"e/": "e", "o/": "o"}
_REPLACED = {"us3": {"O2": "O"}, "mx1": {"l^": "jj"}, "vz1": {"l^": "L"}}


def phonemes(text: str, voice: Voice) -> str:
    """What espeak-ng writes for a voice of mbrola: a phoneme in each line, with its length and pitch."""
    replaced = _REPLACED.get(voice.name, {}) | (_SPANISH if voice.name in _MBROLA["es"] else {})
    written = _run("espeak-ng", *_manner("mb-" + voice.name, voice), "-q", "--pho", text).decode()
    lines = [line.partition("\t") for line in written.split("\n")]
    return "\n".join(replaced.get(name, name) + tab + rest for name, tab, rest in lines)


def _mbrola(text: str, voice: Voice) -> NDArray[np.int16]:
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "speech.pho"), Path(folder, "speech.wav")
        source.write_text(phonemes(text, voice))
        _run("mbrola", "-e", f"/usr/share/mbrola/{voice.name}/{voice.name}", str(source), str(path))
        return _samples(path.read_bytes())


def _manner(name: str, voice: Voice) -> tuple[str, ...]:
    return "-v", name, "-s", str(round(165 * voice.speed)), "-p", str(round(50 + 130 * (voice.pitch - 1)))


def _flite(text: str, voice: Voice) -> NDArray[np.int16]:
    base = {"slt": 170, "rms": 105, "awb": 130}.get(voice.name, 105)
    pitch = ("--setf", f"int_f0_target_mean={base * voice.pitch:.0f}")
    return _from_file(
        "flite", "-voice", voice.name, "--setf", f"duration_stretch={1 / voice.speed:.2f}", *pitch, "-t", text, "-o"
    )


def _pico(text: str, voice: Voice) -> NDArray[np.int16]:
    marked = f'<pitch level="{100 * voice.pitch:.0f}"><speed level="{100 * voice.speed:.0f}">{text}</speed></pitch>'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        _run("pico2wave", "-l", voice.name, "-w", str(path), marked)
        return _samples(path.read_bytes())


_ONE = {"espeak": _espeak, "mbrola": _mbrola, "flite": _flite, "pico": _pico}


def _festival(texts: Sequence[str], voices: Sequence[Voice]) -> list[NDArray[np.int16]]:
    if not texts:
        return []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{at}.wav") for at in range(len(texts))]
        script = []
        for text, voice, path in zip(texts, voices, paths, strict=True):
            quoted = text.replace("\\", " ").replace('"', " ")
            script.append(
                f"(voice_{voice.name}) (Parameter.set 'Duration_Stretch {1 / voice.speed:.2f})"
                f'(let ((u (utt.synth (Utterance Text "{quoted}")))) (utt.wave.resample u {RATE})'
                f'(utt.save.wave u "{path}" \'riff))'
            )
        Path(folder, "script.scm").write_text("\n".join(script), encoding="latin-1", errors="replace")
        _run("festival", "-b", str(Path(folder, "script.scm")))
        # Festival has no setting for pitch that works for all voices, so resampling changes pitch and speed together.
        return [
            _resampled(_samples(path.read_bytes()), 0.9 + 0.2 * (voice.pitch - 0.7) / 0.6)
            for path, voice in zip(paths, voices, strict=True)
        ]


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def _from_file(*command: str) -> NDArray[np.int16]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        _run(*command, file.name)
        return _samples(Path(file.name).read_bytes())


def _samples(data: bytes) -> NDArray[np.int16]:
    if data[:4] == b"RIFF" and data[36:40] == b"data":  # in a wav from a pipe, the sizes in the header are wrong
        rate = int.from_bytes(data[24:28], "little")
        sound = np.frombuffer(data[44 : len(data) - len(data) % 2], "<i2")
    else:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    return _resampled(sound, rate / RATE)


def _resampled(sound: NDArray[np.int16], ratio: float) -> NDArray[np.int16]:
    """The sound resampled: `ratio` samples become one."""
    if abs(ratio - 1) < 1e-3 or not len(sound):
        return np.array(sound, np.int16)
    high = soxr.resample(sound.astype(np.float32), ratio, 1.0)
    return np.clip(np.rint(high), -32768, 32767).astype(np.int16)
