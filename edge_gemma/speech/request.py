"""What a model is asked about speech: `SpeechRequest`, and what everything that makes or answers one shares.

Owns the session that has read the instruction, the limits of clips and answers, the second attempt after an answer that
repeats itself, and cancelling.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import Endpointer
from ..audio.source import SAMPLE_RATE
from ..audio.vad import BLOCK, Detector
from ..engine.generation import stop_texts
from ..engine.interface import ModelLike, SessionLike
from ..engine.memory import MemoryLimit, fit
from ..engine.sampling import GREEDY, Sampling
from ..errors import Cancelled, EdgeGemmaValueError
from ..hub.resolve import is_embedded, no_encoder
from .answer import Answer, Samples
from .prompts import (
    Order,
    asr_prompt,
    context_hints,
    loop_start,
    one_line,
    speech_turn,
    split_translation,
    translation_prompt,
)
from .transcript import Segment
from .words import TokenWord, mean_logprob, plain_words, token_words

__all__ = [
    "MAX_CLIP",
    "MIN_CLIP",
    "SPARE_TOKENS",
    "Cancellable",
    "SpeechRequest",
    "answer_limit",
    "hints",
    "open_endpointer",
    "open_request",
    "second_attempt",
]

MIN_CLIP, MAX_CLIP = 2.0, 30.0
"""Least and greatest `max_seconds`. A shorter clip holds no sentence; the audio encoder takes no longer one."""

# A fast speaker says four words a second; in few languages does a word take more than four tokens.
_TOKENS_PER_SECOND, SPARE_TOKENS = 16, 32


def answer_limit(seconds: float, translated: bool = False) -> int:
    """The most tokens of an answer about so many seconds of speech; `translated`: it has a translation too."""
    return (SPARE_TOKENS + int(seconds * _TOKENS_PER_SECOND)) * (2 if translated else 1)


def second_attempt(text: str, sampling: Sampling) -> Sampling | None:
    """How to draw an answer again whose `text` ends in a loop, when `sampling` was greedy; None if it stays as it is.

    The second attempt has enough chance in it to leave the loop, and a fixed seed, so it is the same each time.
    """
    if not sampling.greedy or loop_start(text) is None:
        return None
    return replace(sampling, temperature=0.5, top_k=64, top_p=0.95, seed=0)


def _plain(text: str) -> tuple[str, None]:
    return one_line(text), None


@dataclass(frozen=True)
class SpeechRequest:
    """A question about speech, which any number of recordings can be put to.

    Attributes:
        session: has read the instruction and ends where the sound belongs. It stays as it is: each recording goes into a
            fork of it. It belongs to whoever opened it.
        closing: tokens between the sound and the answer.
        limit: seconds of sound -> the most tokens of an answer about it.
        sampling: how answers are drawn.
        parse: text of an answer -> (what was said, its translation or None).
        stop: texts that end an answer.
        measured: whether the probabilities of answers are noted, except for guesses, which end with their line.
        kv: type of the cache of its sessions.
        spare: bytes of the memory limit that its sessions leave; None without a limit.
    """

    session: SessionLike
    closing: Sequence[int]
    limit: Callable[[float], int]
    sampling: Sampling = GREEDY
    parse: Callable[[str], tuple[str, str | None]] = _plain
    stop: Sequence[str] = ()
    measured: bool = False
    kv: str = "f16"
    spare: int | None = None

    def answer(
        self,
        session: SessionLike,
        seconds: float,
        *,
        sampling: Sampling | None = None,
        sound: Samples | None = None,
        draft: Sequence[int] = (),
        trusted: int = 0,
        line: bool = False,
    ) -> Answer:
        """An answer about `seconds` of sound, which `session`, a fork of this request's, has heard.

        `sampling`: None for the request's. The other options are those of `Answer`.
        """
        return Answer(
            session,
            self.closing,
            self.limit(seconds),
            sampling=sampling or self.sampling,
            stop=self.stop,
            sound=sound,
            draft=draft,
            trusted=trusted,
            line=line,
            measured=self.measured and not line,
        )

    def read(self, text: str) -> tuple[str, str | None]:
        """What was said, and its translation or None, from the text of an answer. A loop at its end is cut."""
        return self.parse(text[: loop_start(text)])

    def words(self, answer: Answer) -> list[TokenWord]:
        """The words of what was said, and which tokens of a complete answer say them."""
        return token_words(self.read(answer.text)[0], answer.ids, self.session.model.tokenizer)

    def segment(self, answer: Answer, start: float, end: float, language: str | None) -> Segment:
        """What a complete answer tells of the speech from `start` to `end` seconds, and how sure the model was, if that was
        measured."""
        text, translation = self.read(answer.text)
        words, logprobs = self.words(answer), answer.logprobs
        # A translation follows the tokens of the transcript.
        sure = mean_logprob(logprobs[words[0].first : words[-1].end + 1]) if words else answer.avg_logprob
        known = plain_words(words, logprobs) if logprobs else ()
        return Segment(start, end, text, translation, language, avg_logprob=sure, words=known)


def hints(model: ModelLike, initial_prompt: str | None, hotwords: str | Sequence[str] | None) -> str:
    """What a request says of context and spelling, to stand behind its instruction; "" without. Arguments as in `Transcriber`.

    Raises EdgeGemmaValueError "unsupported" for the embedded toy model, which knows its own requests alone.
    """
    text = context_hints(initial_prompt, hotwords)
    if text and is_embedded(model.path):
        raise EdgeGemmaValueError(
            "The embedded toy model understands no initial prompt and no hotwords: it knows only the requests that it was "
            "trained on. Take a real model, such as the one that `edge-gemma pull e2b` downloads.",
            "unsupported",
        )
    return text


def open_request(
    model: ModelLike,
    language: str | None,
    to: str | None,
    *,
    initial_prompt: str | None,
    hotwords: str | Sequence[str] | None,
    order: Order,
    max_seconds: float,
    context: int | None,
    kv: str | None,
    memory_limit: int | str | MemoryLimit | None,
    max_tokens: int | None,
    sampling: Sampling | None,
    stop: str | Sequence[str] | None,
    sessions: int,
) -> SpeechRequest:
    """The request to transcribe speech, and to translate it if there is `to`. Whoever calls this closes its session.

    Args:
        model, initial_prompt, hotwords, order, max_seconds, context, kv, memory_limit, max_tokens, sampling, stop: as in
            `Transcriber`.
        language, to: English names, or None.
        sessions: how many sessions are open at the same time, the request's included; a memory limit is for all of them.

    Raises:
        EdgeGemmaError: as `Transcriber`.
    """
    stops = stop_texts(stop)
    instruction = translation_prompt(language, to) if to else asr_prompt(language)
    instruction += hints(model, initial_prompt, hotwords)
    before, closing = speech_turn(model.tokenizer, instruction, order)

    def limit(seconds: float) -> int:
        return max_tokens or answer_limit(seconds, translated=to is not None)

    def parse(text: str) -> tuple[str, str | None]:
        return split_translation(text, to, language) if to else _plain(text)

    sound = model.audio_tokens(round(max_seconds * SAMPLE_RATE)) + 2
    prompt, answer = len(before) + len(closing), limit(max_seconds)
    needed = prompt + sound + answer
    room = context or model.config.context_length
    if needed > room:
        raise EdgeGemmaValueError(
            f"A context of {room} tokens is too small for segments of {max_seconds:g} seconds: the request takes "
            f"{prompt} tokens, the sound {sound} and the answer up to {answer}, together {needed}. Take "
            f"{'a larger context or ' if context else ''}shorter segments (max_seconds) or answers (max_tokens).",
            "context",
        )
    context, spare = context or needed, None
    if memory_limit is not None:
        bound = MemoryLimit.of(memory_limit, least=needed, sessions=sessions, audio=True, vision=False)
        plan = fit(model, bound, context, kv)
        context, kv, spare = plan.context, plan.kv, bound.bytes - plan.need.total
    session = model.session(context=context, kv=kv)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(session.close)
        session.feed_tokens(before)
        on_failure.pop_all()
    return SpeechRequest(
        session,
        tuple(closing),
        limit,
        sampling or GREEDY,
        parse,
        stops,
        measured=True,
        kv=kv or "f16",
        spare=spare,
    )


def open_endpointer(
    model: ModelLike, detector: str | Detector, silence: float, pause: float, max_seconds: float, **options: float
) -> Endpointer:
    """Finds utterances for a model that hears; arguments as in `Transcriber`, `options` as in `Endpointer`.

    Raises EdgeGemmaValueError: "unsupported" for a model without audio encoder, "argument" for an option out of range.
    """
    if not model.has_audio:
        raise no_encoder(model, "audio")
    if not MIN_CLIP <= max_seconds <= MAX_CLIP:
        raise EdgeGemmaValueError(
            f"max_seconds is {max_seconds}; it must be within {MIN_CLIP:g} and {MAX_CLIP:g}.", "argument"
        )
    found = _Everything() if detector == "none" else detector
    return Endpointer(found, silence=silence, pause=pause, max_seconds=max_seconds, **options)


class _Everything:
    """A detector for which all sound is speech."""

    def __init__(self) -> None:
        self._rest = 0  # samples of a block that is not complete

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) samples -> (k,) ones, one for each complete block."""
        blocks, self._rest = divmod(self._rest + len(samples), BLOCK)
        return np.ones(blocks, np.float32)

    def reset(self) -> None:
        """New sound follows."""
        self._rest = 0


class Cancellable:
    """Work that another thread can cancel, whichever session is at work then. A base class."""

    def __init__(self) -> None:
        """Nothing is cancelled."""
        self._cancelled = False
        self._busy: list[SessionLike] = []
        self._lock = threading.Lock()  # so that no session is closed while it is being cancelled

    def cancel(self) -> None:
        """Stops the work that runs, or the next one, from any thread: its iterator raises `Cancelled`, once."""
        self._cancelled = True
        with self._lock:
            for session in self._busy:
                session.cancel()

    def check_cancelled(self) -> None:
        """Raises `Cancelled` after `cancel`, which is used up by that. For subclasses."""
        if self._cancelled:
            self._cancelled = False
            raise Cancelled

    @contextlib.contextmanager
    def working(self, session: SessionLike) -> Iterator[SessionLike]:
        """Makes `cancel` reach this session, and closes it afterwards. Raises `Cancelled` if the work was cancelled. For
        subclasses. Several sessions may be at work."""
        with self._lock:
            self._busy.append(session)
        try:
            self.check_cancelled()
            yield session
            self.check_cancelled()
        except Cancelled:  # perhaps raised by the session
            self._cancelled = False
            raise
        finally:
            with self._lock:
                self._busy = [other for other in self._busy if other is not session]
            session.close()
