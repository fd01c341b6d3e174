"""Speech to text, and from one language into another: recordings segment by segment, texts piece by piece.

Owns the sessions behind it: the request is read once, and every segment goes on from a copy of that state. Where
sound comes from is sound.py's matter, where speech begins and ends activity.py's, the wording speech_prompts.py's.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .activity import Endpointer, segments
from .audio import audio_tokens
from .errors import Cancelled, EdgeGemmaOSError, EdgeGemmaValueError
from .memory import MemoryLimit, fit
from .model import Model
from .model_files import model_files, no_encoder
from .reply import ReplyParser
from .sound import SAMPLE_RATE, Source, open_source
from .speech_prompts import (
    Order,
    asr_prompt,
    language_name,
    loop_start,
    one_line,
    speech_turn,
    split_translation,
    text_translation_prompt,
    text_turn,
    translation_prompt,
)
from .transcript import Segment, Transcript

__all__ = [
    "SECOND_ATTEMPT",
    "Transcriber",
    "Translator",
    "answer_limit",
    "answer_pieces",
    "input_kind",
    "is_text",
    "opened_model",
    "read_text",
    "transcribe",
    "transcribe_segments",
    "translate",
]

Progress = Callable[[float, float | None], None]
"""Called with the seconds that are done and the seconds in all, None where they are not known."""

MIN_CLIP, MAX_CLIP = 2.0, 30.0
"""Seconds of the longest segment: fewer would hold no sentence, and more the model can not hear at a time."""

SECOND_ATTEMPT = {"temperature": 0.5, "top_k": 64, "top_p": 0.95, "seed": 0}
"""How an answer is drawn when the greedy one runs in circles: enough chance to leave them, the same chance every time."""

# A fast speaker has four words a second; few languages and few words take more than four tokens for one.
_TOKENS_PER_SECOND, _SPARE_TOKENS = 16, 32
# Tokens of a text that are translated at once, and of an answer for each of them: scripts differ in what a token holds.
_PART, _GROWTH = 600, 3


def answer_limit(seconds: float, translated: bool = False) -> int:
    """The most tokens that an answer about so much speech is given."""
    return (_SPARE_TOKENS + int(seconds * _TOKENS_PER_SECOND)) * (2 if translated else 1)


def answer_pieces(session: Any, max_tokens: int, **sampling: Any) -> Iterator[str]:
    """The words of the answer that a session gives now, as they come.

    Thoughts and stray markers are left out. An answer that runs in circles is ended; `loop_start` tells where to cut it.
    """
    parser, said = ReplyParser(), ""
    for piece in session.generate(max_tokens=max_tokens, special=True, **sampling):
        for event in parser.feed(piece):
            if event.kind == "text":
                said += event.text
                yield event.text
        if loop_start(said) is not None:
            return
    for event in parser.finish():
        if event.kind == "text":
            yield event.text


class _Worker:
    """Work that another thread may cancel, whichever of its sessions is busy at that moment."""

    def __init__(self) -> None:
        self._cancelled = False
        self._busy: Any = None
        self._lock = threading.Lock()  # so that no session is closed while it is being cancelled

    def cancel(self) -> None:
        """Stops the work at hand, from any thread: its iterator raises `Cancelled`."""
        self._cancelled = True
        with self._lock:
            if self._busy is not None:
                self._busy.cancel()

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled

    @contextlib.contextmanager
    def _working(self, session: Any) -> Iterator[Any]:
        """Lends the session and closes it afterwards; raises `Cancelled` at the end of work that was cut short."""
        self._busy = session
        try:
            self._check()
            yield session
            self._check()
        finally:
            with self._lock:
                self._busy = None
            session.close()


class Transcriber(_Worker):
    """Writes down what is said in recordings, one after the other; with `to`, also in another language.

    Close it with `close()` or a `with` block. One thread at a time may use it; only `cancel()` may come from others.

    Args:
        model: an open model with an audio encoder.
        language: what is spoken, a name or a code ("German", "de"); None leaves it to the model.
        to: the language to translate into.
        order: see `speech_turn`.
        max_seconds: the longest segment; longer speech is cut at its quietest place. At most 30.
        detector: how speech is told from silence: "silero", "energy", "auto", or "none" to take everything as speech.
        silence: seconds of it that end a segment.
        pause: seconds of this silence that belong to the segment.
        whole: take a recording that is not longer than `max_seconds` in one piece, with its pauses.
        context: tokens of the session; None for what the longest segment needs.
        kv: type of the KV cache, f32, f16 or q8; None for f16, or what fits `memory_limit`.
        memory_limit: bytes, or a size such as "1.5GB", that the process stays within, encoder included.
        max_tokens: longest answer about a segment; None bounds it by the length of the sound.
        sampling: options of `Session.generate`; greedy if not given.

    Raises:
        EdgeGemmaValueError: "unsupported" for a model without audio encoder, "context" when the longest segment does not
            fit, "argument" for an option out of range.
        EdgeGemmaMemoryError: "memory" when it does not fit the memory limit.
    """

    _sessions = 2  # the request, and a fork of it for each segment

    def __init__(
        self,
        model: Any,
        language: str | None = None,
        to: str | None = None,
        *,
        order: Order = "instruction-first",
        max_seconds: float = 28.0,
        detector: str = "auto",
        silence: float = 0.7,
        pause: float = 0.25,
        whole: bool = False,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__()
        if not model.has_audio:
            raise no_encoder(model, "audio")
        if not MIN_CLIP <= max_seconds <= MAX_CLIP:
            raise EdgeGemmaValueError(
                f"max_seconds is {max_seconds}; it must be within {MIN_CLIP:g} and {MAX_CLIP:g}.", "argument"
            )
        self.language = language_name(language) if language else None
        self.to = language_name(to) if to else None
        found = _Everything() if detector == "none" else detector
        self._endpointer = Endpointer(found, silence=silence, pause=pause, max_seconds=max_seconds)
        self._whole = whole
        self._max_tokens, self._sampling = max_tokens, {"temperature": 0.0, **sampling}
        instruction = translation_prompt(self.language, self.to) if self.to else asr_prompt(self.language)
        before, self._after = speech_turn(model.tokenizer, instruction, order)
        sound = audio_tokens(round(max_seconds * SAMPLE_RATE)) + 2
        prompt, answer = len(before) + len(self._after), self._limit(max_seconds)
        needed = prompt + sound + answer
        room = context or model.config.context_length
        if needed > room:
            raise EdgeGemmaValueError(
                f"a context of {room} tokens is too small for segments of {max_seconds:g} seconds: the request takes "
                f"{prompt} tokens, the sound {sound} and the answer up to {answer}, together {needed}. Take "
                f"{'a larger context or ' if context else ''}shorter segments (max_seconds) or answers (max_tokens).",
                "context",
            )
        context = context or needed
        if memory_limit is not None:
            limit = MemoryLimit.of(memory_limit, least=needed, sessions=self._sessions, audio=True)
            plan = fit(model, limit, context, kv)
            context, kv = plan.context, plan.kv
        self._base = model.session(context=context, kv=kv)
        self._base.feed_tokens(before)

    def close(self) -> None:
        """Frees the session. Further calls do nothing."""
        self._base.close()

    def __enter__(self) -> Transcriber:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def segments(self, audio: Any, *, start: float = 0.0, progress: Progress | None = None) -> Iterator[Segment]:
        """The segments of a recording as they are done, in constant memory.

        Args:
            audio: what `open_source` takes: a path, samples, (samples, rate), an open `Source`, ... A source that was
                given open stays open.
            start: seconds to skip, where an earlier run has ended.
            progress: told after each segment.

        Raises:
            Cancelled: after `cancel()`; what came before is valid.
            EdgeGemmaError: for unusable sound.
        """
        self._cancelled = False
        source = open_source(audio)
        try:
            if start > 0:
                source.seek(start)
            for clip in segments(_Stoppable(source, self._check), self._endpointer, self._whole):
                text, translation = self.recognize(clip.samples)
                if progress:
                    progress(clip.end, source.duration)
                yield Segment(clip.start, clip.end, text, translation, self.language)
            if progress and source.duration is not None:
                progress(source.duration, source.duration)
        finally:
            if source is not audio:
                source.close()

    def recognize(self, samples: NDArray[np.float32]) -> tuple[str, str | None]:
        """What is said in (n,) samples at 16 kHz, at most `max_seconds`, and its translation if there is to be one."""
        if audio_tokens(len(samples)) == 0:
            return "", None
        text = self._answer(samples, self._sampling)
        cut = loop_start(text)
        if cut is not None and self._sampling["temperature"] == 0:
            text = self._answer(samples, {**self._sampling, **SECOND_ATTEMPT})
            cut = loop_start(text)
        return self._parted(text[:cut])

    def _parted(self, text: str) -> tuple[str, str | None]:
        """Transcription and translation of an answer."""
        return split_translation(text, self.to, self.language) if self.to else (one_line(text), None)

    def _answer(self, samples: NDArray[np.float32], sampling: dict[str, Any]) -> str:
        with self._working(self._base.fork()) as session:
            session.feed_audio(samples)
            session.feed_tokens(self._after)
            return "".join(answer_pieces(session, self._limit(len(samples) / SAMPLE_RATE), **sampling))

    def _limit(self, seconds: float) -> int:
        return self._max_tokens or answer_limit(seconds, translated=self.to is not None)


class _Stoppable(Source):
    """A source whose waiting can be cancelled."""

    def __init__(self, source: Source, check: Callable[[], None]) -> None:
        super().__init__()
        self.name, self.duration, self.live = source.name, source.duration, source.live
        self._source, self._check = source, check
        self._at = round(source.position * SAMPLE_RATE)

    def _more(self, timeout: float | None) -> NDArray[np.float32] | None:
        while True:
            self._check()
            block = self._source.read(0.5, 0.1 if timeout is None else timeout)
            if block is None or block.size or timeout is not None:
                return block


class _Everything:
    """A detector for which all sound is speech."""

    def __init__(self) -> None:
        self._rest = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        frames, self._rest = divmod(self._rest + len(samples), 512)
        return np.ones(frames, np.float32)

    def reset(self) -> None:
        self._rest = 0


class Translator(_Worker):
    """Translates texts of any length, in parts that fit, cut between paragraphs or sentences.

    Args:
        model: an open model.
        to: the language to translate into, a name or a code.
        source: that of the text; None leaves it to the model.
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
        source: str | None = None,
        *,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__()
        self.model, self.to, self.source = model, language_name(to), language_name(source) if source else None
        self._context, self._kv = context or min(4096, model.config.context_length), kv
        if memory_limit is not None:
            plan = fit(model, MemoryLimit.of(memory_limit, audio=False), self._context, kv)
            self._context, self._kv = plan.context, plan.kv
        self._max_tokens, self._sampling = max_tokens, {"temperature": 0.0, **sampling}
        request = len(self._tokens(self._request("")))
        self._part = min(_PART, (self._context - request - _SPARE_TOKENS) // (1 + _GROWTH))
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
                limit = self._max_tokens or _SPARE_TOKENS + _GROWTH * len(self._tokens(words))
                with self._working(self.model.session(context=self._context, kv=self._kv)) as session:
                    session.feed_tokens(self._tokens(self._request(words)))
                    yield from answer_pieces(session, limit, **self._sampling)
            yield part[len(part.rstrip()) :] if words else part

    def _request(self, text: str) -> str:
        return text_translation_prompt(text, self.source, self.to)

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


# ---- one call for all of it -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_model(model: Any, mmproj: Any, threads: int | None) -> Iterator[Any]:
    """The model itself, or the one of a path or of the environment, closed afterwards."""
    if model is not None and not isinstance(model, (str, os.PathLike)):
        yield model
        return
    path, encoders = model_files(model, mmproj)
    with Model.load(path, mmproj=encoders, threads=threads) as opened:
        yield opened


def transcribe_segments(
    audio: Any,
    model: Any = None,
    language: str | None = None,
    *,
    to: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    start: float = 0.0,
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[Segment]:
    """The segments of a recording, each as soon as it is done; arguments as in `transcribe`."""
    with opened_model(model, mmproj, threads) as opened, Transcriber(opened, language, to, **options) as transcriber:
        yield from transcriber.segments(audio, start=start, progress=progress)


def transcribe(audio: Any, model: Any = None, language: str | None = None, **options: Any) -> Transcript:
    """Writes down what is said in a recording.

    Args:
        audio: a path, samples (n,) at 16 kHz, (samples, rate), or an open `Source`.
        model: a `Model`, or the path of one; None for the file that EDGE_GEMMA_MODEL names, else the embedded toy.
        language: what is spoken, a name or a code; None leaves it to the model.
        options: to, a language to translate into as well; mmproj, the file of the audio encoder (None for that of
            EDGE_GEMMA_MMPROJ); threads; start, seconds to skip; progress, a function of the seconds done and in all; and
            all of `Transcriber`.

    Returns:
        A Transcript: a sequence of segments with start, end and text.

    Raises:
        EdgeGemmaError: as `Transcriber`, `open_source` and `Model.load` do. To be able to cancel, use `Transcriber`.
    """
    found = transcribe_segments(audio, model, language, **options)
    names = {name: language_name(value) for name, value in (("language", language), ("to", options.get("to"))) if value}
    return Transcript(found, **names)


def translate(
    audio_or_text: Any,
    to: str,
    model: Any = None,
    source: str | None = None,
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
        source: the language of the speech or text; None leaves it to the model.
        options: of `Transcriber` and `transcribe` for speech, of `Translator` for text.

    Returns:
        For a text its translation, a str; for speech a Transcript whose segments have `text` and `translation`.
    """
    kind = input_kind(audio_or_text)
    if kind == "speech":
        return transcribe(audio_or_text, model, source, to=to, mmproj=mmproj, threads=threads, **options)
    text = read_text(audio_or_text) if kind == "document" else audio_or_text
    with opened_model(model, mmproj, threads) as opened:
        return "".join(Translator(opened, to, source, **options).pieces(text))


_SOUND_ENDINGS = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a", ".aac", ".aif", ".aiff", ".aifc", ".au", ".snd",
    ".caf", ".w64", ".rf64", ".wma", ".amr", ".webm", ".mp4",
)  # fmt: skip


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
