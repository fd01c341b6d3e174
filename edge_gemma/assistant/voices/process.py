"""A voice that is another program: it reads a text from its standard input and writes sound to its standard output.

Owns the process: no shell stands between, it is killed with all that it has started when nobody wants its sound any more, and
a program that falls silent does not hold up the assistant.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from ..interface import EdgeGemmaVoiceError

__all__ = ["SpeakingProcess", "text_pieces"]

# A pipe holds more bytes than this, so writing the whole text before any sound is read cannot wait for ever.
_MOST_BYTES = 12_000
_PATIENCE = 30.0  # seconds without a byte after which the program has failed


class SpeakingProcess:
    """One run of a program that speaks one text. Use it in a `with` block, whose end kills the program.

    Attributes:
        name: what errors call the program.
    """

    def __init__(
        self,
        command: Sequence[str],
        text: str,
        environment: Mapping[str, str] | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        """Starts the program.

        Args:
            command: the program and its arguments.
            text: what it reads, in UTF-8; see `text_pieces`.
            environment: variables beside those of this process.
            patience: seconds that the program may take for its next byte.

        Raises:
            EdgeGemmaVoiceError: it cannot be started.
        """
        self.name, self._patience = command[0], patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as the program runs)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # so that what it starts can be killed with it, and Ctrl-C reaches it through us
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise EdgeGemmaVoiceError(f"The voice {self.name} cannot be started: {reason}.") from error
        assert self._process.stdin and self._process.stdout
        self._output = self._process.stdout
        with contextlib.suppress(BrokenPipeError), self._process.stdin as words:
            words.write(text.encode("utf-8", "ignore"))

    def read1(self, n: int, /) -> bytes:
        """Sound. Raises EdgeGemmaVoiceError when the program falls silent, or ends with an error."""
        ready, _, _ = select.select([self._output], [], [], self._patience)
        if not ready:
            raise EdgeGemmaVoiceError(f"The voice {self.name} has given no sound for {self._patience:g} seconds.")
        data = os.read(self._output.fileno(), n)
        if not data:
            self._check()
        return data

    def _check(self) -> None:
        try:
            code = self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            return  # it has said all that it says; `close` ends it
        if code:
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1].strip().rstrip(".") if lines else f"status {code}"
            raise EdgeGemmaVoiceError(f"The voice {self.name} has failed: {reason}.")

    def close(self) -> None:
        """Kills the program, if it runs, and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        self._errors.close()

    def __enter__(self) -> SpeakingProcess:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()


def text_pieces(text: str) -> Iterator[str]:
    """Cuts a text that is too long for one run of a program, at white space where there is some."""
    while len(text.encode("utf-8", "ignore")) > _MOST_BYTES:
        most = _MOST_BYTES // 4  # characters, of four bytes at most
        cut = max(text.rfind(" ", 1, most), text.rfind("\n", 1, most))
        cut = cut if cut > 0 else most
        yield text[:cut]
        text = text[cut:]
    yield text
