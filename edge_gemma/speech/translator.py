"""Text into another language, part by part: `Translator`; and `translate`, which takes speech as well as text.

Owns how a text is cut into parts, and how `translate` tells speech, text files and texts apart.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ..audio.folders import SOUND_ENDINGS
from ..audio.vad import Detector
from ..engine.generation import stop_texts
from ..engine.interface import ModelLike
from ..engine.memory import MemoryLimit, fit
from ..engine.opening import ModelOrPath, opened_model
from ..engine.sampling import GREEDY, Sampling
from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .answer import Answer
from .languages import language_names
from .prompts import Order, text_translation_prompt, text_turn
from .request import SPARE_TOKENS, Cancellable, hints
from .transcriber import Progress, transcribe
from .transcript import Transcript

__all__ = ["Translator", "input_kind", "is_text", "read_text", "translate"]

# Tokens of a part at most, and tokens of its translation for each of them: scripts differ in how much a token holds.
_PART, _GROWTH = 600, 3


class Translator(Cancellable):
    """Translates texts of any length, in parts that fit the context, cut between paragraphs or sentences.

    Close it with `close()` or a `with` block. One thread at a time may use it; only `cancel()` may come from others.

    Attributes:
        model: the model that translates.
        to, source_language: English names; `source_language` may be None.
    """

    def __init__(
        self,
        model: ModelLike,
        to: str,
        source_language: str | None = None,
        *,
        initial_prompt: str | None = None,
        hotwords: str | Sequence[str] | None = None,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> None:
        """Chooses the size of the session that each part is translated in.

        Args:
            model: an open model. It must stay open.
            to: the language to translate into, a name or a code.
            source_language: that of the text; None leaves it to the model.
            initial_prompt, hotwords: context, and words with their spelling, as in `Transcriber`.
            context: tokens of the session; None for 4096, less if the model or `memory_limit` has room for less.
            kv: type of the KV cache, f32, f16 or q8; None for f16, or for what fits `memory_limit`.
            memory_limit: bytes, or a size such as "1.5GB", that the process stays within, weights included.
            max_tokens: the most tokens of the translation of a part; None for a limit that grows with its length.
            sampling: how tokens are drawn; None for the most likely token always.
            stop: a text, or several, that ends the translation of a part and is left out of it.

        Raises:
            EdgeGemmaValueError: "context" when the context has no room for a sentence; "argument" for an option out of
                range or an unknown language; "unsupported" as `Transcriber`.
            EdgeGemmaMemoryError: "memory" when nothing fits the memory limit.
        """
        super().__init__()
        source, target = language_names(model, source_language, to)
        assert target
        self.model, self.source_language, self.to = model, source, target
        self._context, self._kv = context or min(4096, model.config.context_length), kv
        if memory_limit is not None:
            plan = fit(model, MemoryLimit.of(memory_limit, audio=False, vision=False), self._context, kv)
            self._context, self._kv = plan.context, plan.kv
        self._max_tokens, self._sampling, self._stop = max_tokens, sampling or GREEDY, stop_texts(stop)
        self._hints = hints(model, initial_prompt, hotwords)
        self._closed = False
        request = len(self._tokens(self._request("")))
        self._part = min(_PART, (self._context - request - SPARE_TOKENS) // (1 + _GROWTH))
        if self._part < 16:
            raise EdgeGemmaValueError(
                f"A context of {self._context} tokens is too small to translate in: the request alone takes {request}.",
                "context",
            )

    def close(self) -> None:
        """Ends its use: `pieces` raises from now on. Sessions are open only while `pieces` runs."""
        self._closed = True

    def __enter__(self) -> Translator:
        """The translator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def pieces(self, text: str) -> Iterator[str]:
        """Yields the translation as it is drawn.

        Raises:
            Cancelled: after `cancel()`; what came before is valid.
            EdgeGemmaValueError: "state" after `close()`.
        """
        if self._closed:
            raise EdgeGemmaValueError("The translator is closed.", "state")
        for part in _parts(text.strip(), lambda part: len(self._tokens(part)) <= self._part):
            words = part.strip()
            if words:
                yield from self._translate(words)
            yield part[len(part.rstrip()) :] if words else part

    def _translate(self, text: str) -> Iterator[str]:
        """The translation of a text that fits."""
        limit = self._max_tokens or SPARE_TOKENS + _GROWTH * len(self._tokens(text))
        with self.working(self.model.session(context=self._context, kv=self._kv)) as session:
            answer = Answer(session, self._tokens(self._request(text)), limit, sampling=self._sampling, stop=self._stop)
            for piece in answer.pieces():
                yield piece
                self.check_cancelled()

    def _request(self, text: str) -> str:
        return text_translation_prompt(text, self.source_language, self.to, self._hints)

    def _tokens(self, text: str) -> list[int]:
        return text_turn(self.model.tokenizer, text)


# Where a text may be cut, the best places first. White space at a cut is kept.
_BREAKS = (r"(\n\s*\n)", r"(\n)", r"((?<=[.!?…])\s+|(?<=[。！？]))", r"(\s+)")


def _parts(text: str, fits: Callable[[str], bool], level: int = 0) -> Iterator[str]:
    """Parts of the text that fit, and the white space between them. Joined they are the text again."""
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
    model: ModelOrPath | None = None,
    source_language: str | None = None,
    *,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] | None = None,
    batch: int | None = None,
    start: float = 0.0,
    progress: Progress | None = None,
    detect_language: bool | Literal["segments"] = False,
    no_speech: bool = False,
    word_times: bool = False,
    initial_prompt: str | None = None,
    hotwords: str | Sequence[str] | None = None,
    order: Order = "instruction-first",
    max_seconds: float = 28.0,
    detector: str | Detector = "auto",
    silence: float = 0.7,
    pause: float = 0.25,
    whole: bool = False,
) -> Transcript | str:
    """Translates speech or text.

    Args:
        audio_or_text: a text, the path of a text or a recording (`input_kind` tells which), or sound in another form that
            `transcribe` takes.
        to: the language to translate into, a name or a code.
        model, mmproj, threads: as in `transcribe`; a text needs no audio encoder.
        source_language: the language of the speech or text; None leaves it to the model.
        initial_prompt, hotwords, context, kv, memory_limit, max_tokens, sampling, stop: as in `Transcriber` for speech, as in
            `Translator` for text.
        start, progress, detect_language, no_speech, word_times, order, max_seconds, detector, silence, pause, whole, batch: as
            in `transcribe`, for speech. They have no effect on a text.

    Returns:
        For a text its translation, a str; for speech a Transcript whose segments have `text` and `translation`.

    Raises:
        EdgeGemmaError: as `transcribe` or `Translator` does, and "file" for a text file that cannot be read. To be able to
            cancel, use a `Transcriber` or a `Translator`.
    """
    kind = input_kind(audio_or_text)
    if kind == "speech":
        return transcribe(
            audio_or_text,
            model,
            source_language,
            to=to,
            mmproj=mmproj,
            threads=threads,
            start=start,
            progress=progress,
            detect_language=detect_language,
            no_speech=no_speech,
            word_times=word_times,
            initial_prompt=initial_prompt,
            hotwords=hotwords,
            order=order,
            max_seconds=max_seconds,
            detector=detector,
            silence=silence,
            pause=pause,
            whole=whole,
            context=context,
            kv=kv,
            memory_limit=memory_limit,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            batch=batch,
        )
    text = read_text(audio_or_text) if kind == "document" else audio_or_text
    with (
        opened_model(model, mmproj, threads) as opened,
        Translator(
            opened,
            to,
            source_language,
            initial_prompt=initial_prompt,
            hotwords=hotwords,
            context=context,
            kv=kv,
            memory_limit=memory_limit,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
        ) as translator,
    ):
        return "".join(translator.pieces(text))


#: The name of a text file, or a path: ./x ../x ~/x /x/y.
_FILE_NAME = re.compile(
    r"\.(txt|text|md|rst|srt|vtt|csv|tsv|jsonl?|ya?ml|xml|html?|tex|rtf|pdf|docx?|odt|epub|log)$|^(\.{1,2}|~)?/.*\w",
    re.IGNORECASE,
)


def input_kind(value: Any) -> Literal["speech", "document", "text"]:
    """How `translate` takes its input.

    A path object, or a str that is the path of an existing file, is a file: "speech" if its name ends like that of a sound
    file or if its content is not UTF-8 text, otherwise "document". Any other str is a "text" itself, except for a single
    word that ends like the name of a file, or begins like a path: that is a file that is missing, "speech" or "document".
    Every other object is "speech".
    """
    if not isinstance(value, (str, os.PathLike)):
        return "speech"
    name = os.fspath(value)
    sounds = str(name).lower().endswith(SOUND_ENDINGS)
    if isinstance(value, str) and not os.path.isfile(value):
        if re.search(r"\s", value):
            return "text"
        return "speech" if sounds else "document" if _FILE_NAME.search(value) else "text"
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
    """The text of a UTF-8 file; bytes that are not UTF-8 become U+FFFD. Raises EdgeGemmaOSError with code "file"."""
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise EdgeGemmaOSError(f"{os.fspath(path)}: {error.strerror or error}.", "file") from error
