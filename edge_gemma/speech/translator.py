"""Text and speech into another language; a text goes piece by piece, cut between paragraphs or sentences."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ..engine.memory import MemoryLimit, fit
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .languages import language_name
from .prompts import text_translation_prompt, text_turn
from .transcriber import SPARE_TOKENS, Cancellable, answer_pieces, opened_model, transcribe
from .transcript import Transcript

__all__ = ["Translator", "input_kind", "is_text", "read_text", "translate"]

# Tokens of a text that are translated at once, and of an answer for each of them: scripts differ in what a token holds.
_PART, _GROWTH = 600, 3


class Translator(Cancellable):
    """Translates texts of any length, in parts that fit, cut between paragraphs or sentences.

    Args:
        model: an open model.
        to: the language to translate into, a name or a code.
        source_language: that of the text; None leaves it to the model.
        context: tokens of a session; None for 4096, or the model's own length if that is shorter.
        kv, memory_limit: as in `Transcriber`, with room for one session.
        max_tokens: longest answer about a part; None bounds it by the part's length.
        sampling: options of `Session.generate`; greedy if not given.

    Raises:
        EdgeGemmaValueError: "context" when the context has no room for a sentence.
    """

    def __init__(
        self,
        model: Any,
        to: str,
        source_language: str | None = None,
        *,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__()
        self.model, self.to, self.source_language = (
            model,
            language_name(to),
            language_name(source_language) if source_language else None,
        )
        self._context, self._kv = context or min(4096, model.config.context_length), kv
        if memory_limit is not None:
            plan = fit(model, MemoryLimit.of(memory_limit, audio=False), self._context, kv)
            self._context, self._kv = plan.context, plan.kv
        self._max_tokens, self._sampling = max_tokens, {"temperature": 0.0, **sampling}
        request = len(self._tokens(self._request("")))
        self._part = min(_PART, (self._context - request - SPARE_TOKENS) // (1 + _GROWTH))
        if self._part < 16:
            raise EdgeGemmaValueError(
                f"a context of {self._context} tokens is too small to translate in: {request} are the request alone.",
                "context",
            )

    def pieces(self, text: str) -> Iterator[str]:
        """The translation as it comes. Raises `Cancelled` after `cancel()`; what came before is valid."""
        self._cancelled = False
        for part in _parts(text.strip(), lambda part: len(self._tokens(part)) <= self._part):
            words = part.strip()
            if words:
                limit = self._max_tokens or SPARE_TOKENS + _GROWTH * len(self._tokens(words))
                with self.working(self.model.session(context=self._context, kv=self._kv)) as session:
                    session.feed_tokens(self._tokens(self._request(words)))
                    yield from answer_pieces(session, limit, **self._sampling)
            yield part[len(part.rstrip()) :] if words else part

    def _request(self, text: str) -> str:
        return text_translation_prompt(text, self.source_language, self.to)

    def _tokens(self, text: str) -> list[int]:
        return text_turn(self.model.tokenizer, text)


# Where a text may be cut, the best places first; the white space there is kept.
_BREAKS = (r"(\n\s*\n)", r"(\n)", r"((?<=[.!?…])\s+|(?<=[。！？]))", r"(\s+)")


def _parts(text: str, fits: Callable[[str], bool], level: int = 0) -> Iterator[str]:
    """Parts of the text that fit, and the white space between them: all together, the text."""
    if fits(text):
        yield text
    elif level == len(_BREAKS):
        for half in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield from _parts(half, fits, level)
    else:
        first, *rest = re.split(_BREAKS[level], text)
        for gap, piece in zip(rest[::2], rest[1::2], strict=True):
            if fits(first + gap + piece):
                first += gap + piece
            else:
                yield from _parts(first, fits, level + 1)
                yield gap
                first = piece
        yield from _parts(first, fits, level + 1)


def translate(
    audio_or_text: Any,
    to: str,
    model: Any = None,
    source_language: str | None = None,
    *,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    **options: Any,
) -> Transcript | str:
    """Translates speech or text.

    Args:
        audio_or_text: a text, or the path of a text or a recording (`input_kind` tells how they are told apart), or sound
            in another form that `transcribe` takes.
        to: the language to translate into, a name or a code.
        model, mmproj, threads: as in `transcribe`; a text needs no audio encoder.
        source_language: the language of the speech or text; None leaves it to the model.
        options: of `Transcriber` and `transcribe` for speech, of `Translator` for text.

    Returns:
        For a text its translation, a str; for speech a Transcript whose segments have `text` and `translation`.
    """
    kind = input_kind(audio_or_text)
    if kind == "speech":
        return transcribe(audio_or_text, model, source_language, to=to, mmproj=mmproj, threads=threads, **options)
    text = read_text(audio_or_text) if kind == "document" else audio_or_text
    with opened_model(model, mmproj, threads) as opened:
        return "".join(Translator(opened, to, source_language, **options).pieces(text))


_SOUND_ENDINGS = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".mp2",
    ".m4a",
    ".aac",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".w64",
    ".rf64",
    ".wma",
    ".amr",
    ".webm",
    ".mp4",
)


def input_kind(value: Any) -> Literal["speech", "document", "text"]:
    """What `translate` takes its input for.

    A path object, or a str that is the path of an existing file, is a file: "speech" if its name ends as those of sound
    files do or its content is no UTF-8 text, else "document". Any other str is a "text" itself, except that a single word
    which ends like the name of a sound file is taken for one that is missing. All else is "speech".
    """
    if not isinstance(value, (str, os.PathLike)):
        return "speech"
    name = os.fspath(value)
    sounds = str(name).lower().endswith(_SOUND_ENDINGS)
    if isinstance(value, str) and not os.path.isfile(value):
        return "speech" if sounds and not re.search(r"\s", value) else "text"
    if sounds or not os.path.isfile(name):
        return "speech" if sounds else "document"
    with open(name, "rb") as file:
        return "document" if is_text(file.read(4096)) else "speech"


def is_text(data: bytes) -> bool:
    """Whether the beginning of a file, which may end within a character, is UTF-8 text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file. Raises EdgeGemmaOSError with code "file"."""
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise EdgeGemmaOSError(f"{os.fspath(path)}: {error.strerror or error}", "file") from error
