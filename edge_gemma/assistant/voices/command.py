"""Any program as a voice: it reads a text from its standard input and writes wav or raw samples to its standard output."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

from ...shell import split_command
from ..interface import EdgeGemmaVoiceError
from .process import SpeakingProcess, text_pieces
from .sound import Pcm, pieces

__all__ = ["CommandVoice"]


class CommandVoice:
    """Runs a command for each text. A `Voice`.

    Attributes:
        sample_rate: of the sound that comes out; wav with another rate is converted.
    """

    def __init__(self, command: str, sample_rate: int = 22050) -> None:
        """Splits the command as a shell would, but no shell runs it.

        Args:
            command: the program and its arguments. "{language}" in an argument becomes the code of the text's language, ""
                where it is not known; the variable EDGE_GEMMA_LANGUAGE has it too.
            sample_rate: samples a second of raw sound: 16 bits, little endian, mono.

        Raises:
            EdgeGemmaVoiceError: the command is empty or damaged, or there is no such program.
        """
        try:
            self._command = split_command(command)
        except ValueError as error:
            raise EdgeGemmaVoiceError(f"The command of the voice, {command!r}, cannot be read: {error}.") from error
        if not self._command:
            raise EdgeGemmaVoiceError("The command of the voice is empty.")
        self._command[0] = os.path.expanduser(self._command[0])
        if shutil.which(self._command[0]) is None:
            raise EdgeGemmaVoiceError(f"There is no program {self._command[0]}, which the voice is to run.")
        if sample_rate < 4000 or sample_rate > 192_000:
            raise EdgeGemmaVoiceError(f"A voice has 4000 to 192000 samples a second, not {sample_rate}.")
        self.sample_rate = sample_rate

    def speak(self, text: str, language: str | None = None) -> Generator[Pcm, None, None]:
        """As `Voice.speak`."""
        command = [self._command[0], *(part.replace("{language}", language or "") for part in self._command[1:])]
        for part in text_pieces(text):
            with SpeakingProcess(command, part, {"EDGE_GEMMA_LANGUAGE": language or ""}) as process:
                yield from pieces(process, process.name, self.sample_rate, self.sample_rate)

    def close(self) -> None:
        """Does nothing: a process lives no longer than its text."""
