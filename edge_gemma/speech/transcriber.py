"""Speech to text: recordings, segment by segment.

Owns the sessions behind it: the request is read once, and every segment goes on from a copy of that state. Where
sound comes from is audio/source.py's matter, where speech begins and ends audio/endpointing.py's, the wording prompts.py's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import Endpointer, segments
from ..audio.source import SAMPLE_RATE, Source, open_audio
from ..chat.reply import ReplyParser
from ..engine.audio import audio_tokens
from ..engine.memory import MemoryLimit, fit
from ..engine.model import Model
from ..errors import Cancelled, EdgeGemmaValueError
from ..hub.resolve import model_files, no_encoder, warn_if_toy
from .languages import language_name
from .prompts import (
    Order,
    asr_prompt,
    loop_start,
    one_line,
    speech_turn,
    split_translation,
    translation_prompt,
)
from .transcript import Segment, Transcript

__all__ = [
    "SECOND_ATTEMPT",
    "SPARE_TOKENS",
    "Cancellable",
    "Transcriber",
    "answer_limit",
    "answer_pieces",
    "opened_model",
    "transcribe",
    "transcribe_segments",
]

Progress = Callable[[float, float | None], None]
"""Called with the seconds that are done and the seconds in all, None where they are not known."""

MIN_CLIP, MAX_CLIP = 2.0, 30.0
"""Seconds of the longest segment: fewer would hold no sentence, and more the model can not hear at a time."""

SECOND_ATTEMPT = {"temperature": 0.5, "top_k": 64, "top_p": 0.95, "seed": 0}
"""How an answer is drawn when the greedy one runs in circles: enough chance to leave them, the same chance every time."""

# A fast speaker has four words a second; few languages and few words take more than four tokens for one.
_TOKENS_PER_SECOND, SPARE_TOKENS = 16, 32


def answer_limit(seconds: float, translated: bool = False) -> int:
    """The most tokens that an answer about so much speech is given."""
    return (SPARE_TOKENS + int(seconds * _TOKENS_PER_SECOND)) * (2 if translated else 1)


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


class Cancellable:
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
    def working(self, session: Any) -> Iterator[Any]:
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


class Transcriber(Cancellable):
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
            audio: what `open_audio` takes: a path, samples, (samples, rate), an open `Source`, ... A source that was
                given open stays open.
            start: seconds to skip, where an earlier run has ended.
            progress: told after each segment.

        Raises:
            Cancelled: after `cancel()`; what came before is valid.
            EdgeGemmaError: for unusable sound.
        """
        self._cancelled = False
        source = open_audio(audio)
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
        with self.working(self._base.fork()) as session:
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

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
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


# ---- one call for all of it -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_model(model: Any, mmproj: Any, threads: int | None) -> Iterator[Any]:
    """The model itself, or the one of a path or of the environment, closed afterwards."""
    if model is not None and not isinstance(model, (str, os.PathLike)):
        yield model
        return
    path, encoders = model_files(model, mmproj)
    if model is None:
        warn_if_toy(path)
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
        EdgeGemmaError: as `Transcriber`, `open_audio` and `Model.load` do. To be able to cancel, use `Transcriber`.
    """
    found = transcribe_segments(audio, model, language, **options)
    names = {name: language_name(value) for name, value in (("language", language), ("to", options.get("to"))) if value}
    return Transcript(found, **names)
