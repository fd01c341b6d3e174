"""The voice of a realtime session: speech of one of the assistant's voices, at the rate that the client wants."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..assistant.interface import Voice
from ..assistant.speakable import spoken
from ..assistant.text_language import SPOKEN, LanguageGuess
from ..errors import EdgeGemmaError
from .failures import RequestError

__all__ = ["SessionVoice"]

_END: Any = object()


class SessionVoice:
    """A voice that is opened when it first speaks, and works in a thread of its own."""

    def __init__(self, open_voice: Callable[[], Voice], rate: int) -> None:
        """`rate`: samples a second."""
        self._open, self._rate = open_voice, rate
        self._voice: Voice | None = None
        self._language_of: LanguageGuess | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "edge-gemma-voice")

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self._rate

    async def speak(self, text: str) -> AsyncGenerator[NDArray[np.int16], None]:
        """The sound of what the model has written, piece by piece, in the language of its words; none where nothing of it can
        be said. Raises RequestError."""
        loop = asyncio.get_running_loop()
        pieces = self._pieces(text)
        try:
            while (piece := await asyncio.shield(loop.run_in_executor(self._thread, next, pieces, _END))) is not _END:
                yield piece
        except EdgeGemmaError as error:
            raise RequestError(500, f"The voice failed. {error}", code="voice") from error
        finally:
            self._thread.submit(pieces.close)

    def _pieces(self, text: str) -> Generator[NDArray[np.int16], None, None]:
        if not (plain := spoken(text)):
            return
        if self._language_of is None:
            self._language_of = LanguageGuess(SPOKEN)
        language = self._language_of(plain)
        if self._voice is None:
            self._voice = self._open()
        convert = _converter(self._voice.sample_rate, self._rate)
        with contextlib.closing(_generator(self._voice.speak(spoken(text, language), language))) as found:
            for piece in found:
                if (converted := convert(piece, False)).size:
                    yield converted
        if (rest := convert(np.zeros(0, np.int16), True)).size:
            yield rest

    def close(self) -> None:
        """Ends the voice. Returns at once."""

        def end() -> None:
            if self._voice is not None:
                self._voice.close()

        self._thread.submit(end)
        self._thread.shutdown(wait=False)


def _generator(pieces: Iterator[NDArray[np.int16]]) -> Generator[NDArray[np.int16], None, None]:
    """The same, which can be closed."""
    try:
        yield from pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def _converter(rate: int, wanted: int) -> Callable[[NDArray[np.int16], bool], NDArray[np.int16]]:
    """Converts pieces of sound to another rate. Raises EdgeGemmaError without soxr."""
    if rate == wanted:
        return lambda piece, last: piece
    try:
        import soxr
    except ImportError:
        raise EdgeGemmaError(
            f"The voice has {rate} samples a second, and {wanted} are wanted: that needs the extra voice.",
            "unsupported",
        ) from None
    stream = soxr.ResampleStream(rate, wanted, 1, "int16")
    return lambda piece, last: np.asarray(stream.resample_chunk(piece, last=last), np.int16)
