"""espeak-ng, the voice that is always at hand: small, at home in a hundred languages, and in every Linux distribution.

Each text is spoken by a process of its own, which starts within a few milliseconds.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Generator

from ..interface import EdgeGemmaVoiceError
from ..text_language import LanguageGuess
from .process import SpeakingProcess, text_pieces
from .sound import Pcm, pieces

__all__ = ["EspeakVoice"]

_PROGRAM = "espeak-ng"
_RATE = 22050  # of all voices of its own; those of MBROLA are converted
_OTHER = re.compile(r"\(([\w-]+) (\d+)\)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # such as \x01, which begins a command


class EspeakVoice:
    """Speaks with the program espeak-ng. A `Voice`."""

    sample_rate = _RATE

    def __init__(self, voice: str | None = None, words_per_minute: int | None = None, program: str = _PROGRAM) -> None:
        """Finds the program.

        Args:
            voice: a voice of espeak-ng, such as "en-us" or "de+f3", for texts of its own language or of one that espeak-ng does
                not have; None for English.
            words_per_minute: 80 to 450; None for 175.
            program: its name or path.

        Raises:
            EdgeGemmaVoiceError: the program or the voice is missing, or the speed is out of range.
        """
        if words_per_minute is not None and not 80 <= words_per_minute <= 450:
            raise EdgeGemmaVoiceError(f"A voice speaks 80 to 450 words a minute, not {words_per_minute}.")
        found = shutil.which(program)
        if found is None:
            command = "brew install espeak-ng" if sys.platform == "darwin" else "sudo apt install espeak-ng"
            raise EdgeGemmaVoiceError(f"The voice needs the program {program}: `{command}`.")
        self._command = [found, "--stdin", "--stdout", "-b", "1"]
        if words_per_minute:
            self._command += ["-s", str(words_per_minute)]
        self._voices = _voices(found)
        self._guess = LanguageGuess(set(self._voices))
        self._voice = voice or "en"
        self._own = self._voice.partition("+")[0].lower()
        if voice:
            with contextlib.closing(self._run("a", self._voice)) as heard:
                next(heard, None)

    def speak(self, text: str, language: str | None = None) -> Generator[Pcm, None, None]:
        """As `Voice.speak`. A language that espeak-ng does not have is spoken as that of the voice."""
        voice = self._voice_of(language or self._guess(text))
        for part in text_pieces(_plain(text)):
            yield from self._run(part, voice)

    def close(self) -> None:
        """Does nothing: a process lives no longer than its text."""

    def _voice_of(self, language: str | None) -> str:
        tag = (language or self._own).lower().replace("_", "-")
        if tag.partition("-")[0] == self._own.partition("-")[0]:
            return self._voice
        return self._voices.get(tag) or self._voices.get(tag.partition("-")[0]) or self._voice

    def _run(self, text: str, voice: str) -> Generator[Pcm, None, None]:
        with SpeakingProcess([*self._command, "-v", voice], text) as process:
            yield from pieces(process, "espeak-ng", _RATE, self.sample_rate)


def _plain(text: str) -> str:
    """The text without what espeak-ng takes for commands: control characters, and phonemes in double brackets."""
    return _CONTROL.sub(" ", text).replace("[[", "[ [")


def _voices(program: str) -> dict[str, str]:
    """The voice of each language code, the best one of several."""
    try:
        listed = subprocess.run([program, "--voices"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EdgeGemmaVoiceError(f"The voice {program} does not work: {error}.") from error
    ranked: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 2 or not columns[0].isdecimal() or "/mb-" in line:  # voices of MBROLA need more packages
            continue
        name = columns[1]
        others = [(code.lower(), int(rank)) for code, rank in _OTHER.findall(line)]
        for code, rank in [(name.lower(), 0), *others]:
            if code not in ranked or rank < ranked[code][0]:
                ranked[code] = rank, name
    return {code: name for code, (_, name) in ranked.items()}
