"""Recordings to text, segment by segment: `Transcriber`, and `transcribe` for all of it in one call.

The request is read once, and each segment is put to a fork of the session that has read it (request.py). audio/source.py reads
the sound, audio/endpointing.py finds the speech in it, and prompts.py has the wording.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..audio.endpointing import Clip, clips_and_gaps
from ..audio.source import SAMPLE_RATE, Source, open_audio
from ..audio.vad import Detector
from ..engine.interface import ModelLike
from ..engine.memory import MemoryLimit
from ..engine.opening import ModelOrPath, opened_model
from ..engine.sampling import Sampling
from ..errors import Cancelled
from .answer import Samples
from .batching import Together, batch_size, check_batch
from .hearing import Heard, Hearing, Part, hear_clip
from .language_detection import LanguageDetection, segment_language
from .languages import language_names
from .many import Event, Recording
from .prompts import Order
from .quality import NOBODY, has_words
from .request import Cancellable, SpeechRequest, open_endpointer, open_request
from .scoring import Unheard, no_speech_prob
from .transcript import Segment, Transcript, Word, joined
from .word_times import hear_word_times

__all__ = [
    "Progress",
    "Transcriber",
    "transcribe",
    "transcribe_segments",
    "yield_and_close",
]

Progress = Callable[[float, float | None], None]
"""Called with the seconds that are done, and the seconds of the whole recording or None if they are not known."""

_Item = TypeVar("_Item")
_SESSIONS = 2  # that are open at the same time: the request, and a fork of it


class Transcriber(Cancellable):
    """Writes down what is said in recordings, one after the other; with `to`, also in another language.

    Close it with `close()` or a `with` block. One thread at a time may use it; only `cancel()` may come from others.

    Attributes:
        language, to: English names, or None.
        detected_language: with `detect_language`, the English name of the language of the recording that `segments` was called
            for last. None before it is known, and if the model gave no usable answer.
        batch: how many segments of a recording are heard together.
        request: what the model is asked; its session belongs to the transcriber.
    """

    def __init__(
        self,
        model: ModelLike,
        language: str | None = None,
        to: str | None = None,
        *,
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
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] | None = None,
        batch: int | None = None,
        guarded: bool = False,
    ) -> None:
        """Opens a session and reads the request.

        Args:
            model: an open model with an audio encoder. It must stay open.
            language: what is spoken, a name or a code ("German", "de"; see `language_name`); None or "auto" leaves it to the
                model.
            to: the language to translate into.
            detect_language: if no language is given, asks the model once in each recording in which language its first words
                are, for `detected_language`. This is a short question in a session of its own. The embedded toy model cannot
                answer it, so nothing is detected with it. "segments" also asks about each segment, for `Segment.language`
                and its probability; there the toy compares how probable the words are in each language that it knows.
            no_speech: finds how probable it is that nobody speaks in a segment, for `Segment.no_speech_prob`: whether the model
                would have written the same words without the sound.
            word_times: finds when each word was said, for the start and end of `Segment.words`. The sound is heard once more
                for that, which about doubles the time.
            initial_prompt: text that tells the model what the recording is about, or what was said before it, so that it
                chooses the right words and spelling. It is part of the request, and not of any answer.
            hotwords: words and names that may be spoken, as they are to be spelled: a text such as "Kyiv, Ngozi", or a list.
            order: what the model reads first, "instruction-first" or "audio-first"; see `speech_turn`.
            max_seconds: the longest segment, 2 to 30. Longer speech is cut at its quietest place.
            detector: what tells speech from silence: "silero", "energy", "auto" (the best one installed), "none" (all
                sound is speech), or an object like `audio.vad.Detector`.
            silence: seconds of silence that end a segment.
            pause: how many of these seconds belong to the segment.
            whole: a recording that is not longer than `max_seconds` is one segment, with its pauses.
            context: tokens of the session; None for as many as the longest segment needs.
            kv: type of the KV cache, f32, f16 or q8; None for f16, or for what fits `memory_limit`.
            memory_limit: bytes, or a size such as "1.5GB", that the process stays within, weights and encoder included.
            max_tokens: the most tokens of an answer about a segment; None for a limit that grows with its length.
            sampling: how tokens are drawn; None for the most likely token always. An answer that is drawn so and repeats
                itself is drawn once more, with some chance.
            stop: a text, or several, that ends an answer and is left out of it.
            batch: how many segments of a recording are heard together, 1 to 64. The weights are read once for all of them, so
                a long recording takes less time; the segments are the same for every number. None for a number that suits
                the model's threads and the memory, 16 at most; `segments` then reaches it step by step, so that the first
                one does not wait for others.
            guarded: for recordings that nobody listens to. A segment whose answer repeats itself, has more words than anybody
                says, or is improbable, is heard once more with other boundaries, and marked if that does not help
                (`Segment.retried`, `Segment.problem`). Where nobody speaks, by `no_speech_prob`, because there is no sound at
                all, or because the model wrote neither a letter nor a digit, what it says is dropped. An answer that is drawn
                with chance is marked and not heard again.

        Raises:
            EdgeGemmaValueError: "unsupported" for a model without audio encoder, and for languages, an initial prompt or
                hotwords that the embedded toy model was not trained on; "context" when the longest segment does not fit;
                "argument" for an option out of range or an unknown language.
            EdgeGemmaMemoryError: "memory" when nothing fits the memory limit.
        """
        super().__init__()
        check_batch(batch)
        self.language, self.to = language_names(model, language, to)
        self._endpointer = open_endpointer(model, detector, silence, pause, max_seconds)
        self._whole, self._word_times = whole, word_times
        self._model, self._kv = model, kv
        self._detect_language = bool(detect_language) and self.language is None
        self._each_language = self._detect_language and detect_language == "segments"
        self._guarded = guarded
        self._no_speech = no_speech = no_speech or guarded
        self._unheard: Unheard | None = None
        self._detection: LanguageDetection | None = None
        self.request: SpeechRequest = open_request(
            model,
            self.language,
            self.to,
            initial_prompt=initial_prompt,
            hotwords=hotwords,
            order=order,
            max_seconds=max_seconds,
            context=context,
            kv=kv,
            memory_limit=memory_limit,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            # For the times of words the fork is forked; to compare with silence, another fork hears it, and is forked.
            sessions=_SESSIONS + (word_times or no_speech) + no_speech + (batch or 1) - 1,
        )
        # What the memory limit leaves beside the sessions of a batch of one: so the type of the cache, which may change the
        # words, does not depend on the batch.
        self.batch: int = batch or batch_size(model, self.request.session.context, self.request.kv, self.request.spare)
        self._soon = batch is None  # somebody may be reading along
        self._together = Together(self.request, self.batch, self.working, self.check_cancelled)

    def close(self) -> None:
        """Frees the sessions. Further calls do nothing."""
        self.request.session.close()
        if self._unheard:
            self._unheard.close()

    @property
    def detected_language(self) -> str | None:
        """See the attribute."""
        return self._detection.language if self._detection else None

    def __enter__(self) -> Transcriber:
        """The transcriber itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def segments(
        self,
        audio: Any,
        *,
        start: float = 0.0,
        done: Sequence[Segment] = (),
        progress: Progress | None = None,
        growing: Callable[[str], None] | None = None,
    ) -> Iterator[Segment]:
        """Yields the segments of a recording as soon as each is done. Memory does not grow with the recording.

        Args:
            audio: what `open_audio` takes: a path, samples, (samples, rate), an open `Source`, ... A source that was
                given open stays open.
            start: seconds to skip. Where the next segments begin and end depends a little on where the reading began.
            done: the first segments, which an earlier run with the same settings has found. The others follow exactly as
                they would have. The sound is searched for speech from its beginning, but what is done is not heard again.
            progress: called after each segment.
            growing: called with the text of the answer about the next segment while it is written. Another attempt may take
                its place.

        Raises:
            Cancelled: after `cancel()`; what came before is valid.
            EdgeGemmaError: for unusable sound.
        """
        detection = self._detection = LanguageDetection(self._model, self._kv) if self._detect_language else None
        source = open_audio(audio)
        try:
            if start > 0:
                source.seek(start)
            for segment in done:
                self._detect(detection, segment.text)
            sound = _Stoppable(source, self.check_cancelled)
            found = self._together.run(
                _after(clips_and_gaps(sound, self._endpointer, self._whole), done[-1].end if done else None),
                self._hearing,
                waiting=lambda: sound.waiting,
                patient=sound.wait,
                growing=growing,
                soon=self._soon,
            )
            with contextlib.closing(found):
                for clip, heard in found:
                    segment = self._segment(clip, heard)
                    self._detect(detection, segment.text)
                    if progress:
                        progress(clip.end, source.duration)
                    yield segment
            self._detect(detection, "", last=True)
            if progress and source.duration is not None:
                progress(source.duration, source.duration)
        finally:
            if source is not audio:
                source.close()

    def many(self, recordings: Iterable[Recording]) -> Generator[Event, None, None]:
        """Yields what becomes of many recordings: their segments, in their order, and then the end of each.

        Segments of several recordings are heard together, so short ones fill a batch, too. A recording that fails, when it is
        opened, read or heard, gives a "failed" event with the reason, and the others go on.

        Args:
            recordings: are asked for one by one, a few ahead of the events. What the iterator raises comes after the events of
                the recordings before it.

        Raises:
            Cancelled: after `cancel()`; what came before is valid.
        """
        failed: Recording | None = None
        begun: Recording | None = None
        detection: LanguageDetection | None = None
        with contextlib.closing(self._together.run(self._clips_of(recordings), self._hearing)) as found:
            for item, heard in found:
                recording: Recording = item.recording
                if recording is failed:
                    continue
                try:
                    if recording is not begun:
                        begun, detection = recording, None
                        if self._detect_language:
                            detection = LanguageDetection(self._model, self._kv)
                        self._detection = detection
                        for segment in recording.done:
                            self._detect(detection, segment.text)
                    if isinstance(item, _End):
                        if item.error:
                            raise item.error
                        self._detect(detection, "", last=True)
                        event = Event("end", recording, duration=item.duration, language=self.detected_language)
                        event = replace(event, warning=item.warning, assumption=item.assumption)
                    else:
                        segment = self._segment(item, heard)
                        self._detect(detection, segment.text)
                        event = Event("segment", recording, segment, duration=item.duration)
                except Cancelled:
                    raise
                except Exception as error:
                    failed, event = recording, Event("failed", recording, error=error)
                yield event

    def _clips_of(self, recordings: Iterable[Recording]) -> Iterator[_PartOf | _End | None]:
        """The clips of each recording, and then its end."""
        for recording in recordings:
            try:
                with contextlib.ExitStack() as stack:
                    source = recording.open()
                    stack.callback(source.close)
                    sound = _Stoppable(source, self.check_cancelled)
                    clips = clips_and_gaps(sound, self._endpointer, self._whole)
                    for clip in _after(clips, recording.done[-1].end if recording.done else None):
                        if clip is None:
                            yield None
                        else:
                            yield _PartOf(clip.start, clip.end, clip.samples, recording, source.duration)
                    end = _End(recording, None, source.position, source.warning, source.assumption)
            except Cancelled:
                raise
            except Exception as error:
                end = _End(recording, error)
            yield end

    def _detect(self, detection: LanguageDetection | None, text: str, last: bool = False) -> None:
        """Asks for the language of the recording when its words are enough, or are all that there are."""
        if detection and (asked := detection.hear(text, last)):
            session, question = asked
            with self.working(session):
                detection.ask(session, question)

    def recognize(self, samples: Samples) -> tuple[str, str | None]:
        """What is said in (n,) samples at 16 kHz, at most `max_seconds` of them, and the translation if there is `to`.

        Raises as `segments`.
        """
        clip = Clip(0.0, len(samples) / SAMPLE_RATE, samples)
        with contextlib.closing(self._together.run(iter([clip]), self._hearing)) as found:
            ((_, heard),) = found
        said = self._text(clip, _of(heard))
        return said.text, said.translation

    def _hearing(self, clip: Clip) -> Hearing:
        return hear_clip(self.request, clip.samples, self._guarded)

    def _text(self, clip: Clip, heard: Heard) -> Segment:
        """What a clip has come to, as far as its answers tell."""
        parts = [self.request.segment(part.answer, clip.start, clip.end, self.language) for part in heard.parts]
        return replace(joined(parts, clip.start, clip.end, self.language), retried=heard.retried, problem=heard.problem)

    def _segment(self, clip: Clip, heard: Heard | Exception | None) -> Segment:
        """What is said in a clip. Raises what has ended its answer."""
        heard = _of(heard)
        segment = self._text(clip, heard)
        if not heard.parts:
            return segment
        if self._no_speech:
            self.check_cancelled()
            self._unheard = self._unheard or Unheard(self.request.session, self.request.closing)
            nobody = min(no_speech_prob(part.answer, self._unheard) for part in heard.parts)
            segment = replace(segment, no_speech_prob=nobody)
            if self._guarded and (nobody >= NOBODY or (segment.text and not has_words(segment.text))):
                segment = replace(segment, text="", translation=None, words=(), problem="silence")
        if self._each_language and segment.text:
            language, probability = segment_language(self._model, segment.text, self.working, self._kv)
            segment = replace(segment, language=language, language_probability=probability)
        if self._word_times and segment.words:
            segment = replace(segment, words=tuple(word for part in heard.parts for word in self._timed(clip, part)))
        return segment

    def _timed(self, clip: Clip, part: Part) -> list[Word]:
        """The words of a part of a clip, with their times."""
        request, answer = self.request, part.answer
        words = request.words(answer)
        if not words:
            return []
        with self.working(request.session.fork()) as session:
            times = hear_word_times(
                session, part.samples, request.closing, answer.ids, words, answer.logprobs, self.check_cancelled
            )
        began, plain = clip.start + part.at / SAMPLE_RATE, request.segment(answer, clip.start, clip.end, None).words
        timed = zip(plain, times, strict=True)
        return [replace(word, start=max(began + start, clip.start), end=began + end) for word, (start, end) in timed]


def _of(heard: Heard | Exception | None) -> Heard:
    """What a clip has come to. Raises the error that has ended it."""
    if isinstance(heard, Exception):
        raise heard
    assert heard is not None
    return heard


def _after(clips: Iterator[Clip | None], end: float | None) -> Iterator[Clip | None]:
    """The clips that end later than `end` seconds, or all of them."""
    for clip in clips:
        yield clip if clip is None or end is None or clip.end > end else None


@dataclass(eq=False)
class _PartOf(Clip):
    """A clip of one of several recordings, which has `duration` seconds if that is known."""

    recording: Recording
    duration: float | None


@dataclass(frozen=True, eq=False)
class _End:
    """The end of one of several recordings, after `duration` seconds."""

    recording: Recording
    error: Exception | None
    duration: float | None = None
    warning: str | None = None
    assumption: str | None = None


class _Stoppable(Source):
    """A source that asks, while it waits for sound, whether the work was cancelled, and that waits only if it is told to.

    Attributes:
        waiting: whether the last read found nothing, and did not wait.
    """

    def __init__(self, source: Source, check: Callable[[], None]) -> None:
        super().__init__()
        self.name, self.duration, self.live = source.name, source.duration, source.live
        self.waiting = False
        self._source, self._check, self._waits = source, check, True
        self._at = round(source.position * SAMPLE_RATE)

    def wait(self, waits: bool) -> None:
        """Whether reading waits for sound from now on."""
        self._waits = waits

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        while True:
            self._check()
            waits = self._waits and timeout is None
            block = self._source.read(0.5, 0.1 if waits else timeout or 0.0)
            self.waiting = block is not None and not block.size and not self._waits
            if block is None or block.size or not waits:
                return block


# ---- one call for all of it -----------------------------------------------------------------------------------------


def transcribe_segments(
    audio: Any,
    model: ModelOrPath | None = None,
    language: str | None = None,
    *,
    to: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
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
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] | None = None,
    batch: int | None = None,
    guarded: bool = False,
) -> Iterator[Segment]:
    """Yields the segments of a recording, each as soon as it is done.

    Arguments as in `transcribe`. They are checked, and the model is opened, at once; the sound is opened with the first
    segment.

    Raises:
        EdgeGemmaError: as `transcribe`.
    """
    with contextlib.ExitStack() as stack:
        transcriber = stack.enter_context(
            Transcriber(
                stack.enter_context(opened_model(model, mmproj, threads)),
                language,
                to,
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
                guarded=guarded,
            )
        )
        resources = stack.pop_all()
    return yield_and_close(transcriber.segments(audio, start=start, progress=progress), resources)


def yield_and_close(found: Iterator[_Item], resources: contextlib.ExitStack) -> Iterator[_Item]:
    """Yields what `found` yields, and frees the resources afterwards."""
    with resources:
        yield from found


def transcribe(
    audio: Any,
    model: ModelOrPath | None = None,
    language: str | None = None,
    *,
    to: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
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
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] | None = None,
    batch: int | None = None,
    guarded: bool = False,
) -> Transcript:
    """Writes down what is said in a recording.

    Args:
        audio: a path, samples (n,) at 16 kHz, (samples, rate), or an open `Source`.
        model: a `Model`, or the path of one; None for the file that EDGE_GEMMA_MODEL names, else the embedded toy.
        language: what is spoken, a name or a code; None leaves it to the model.
        to: a language to translate into as well.
        mmproj: the file of the audio encoder, if `model` is a path; None for that of EDGE_GEMMA_MMPROJ.
        threads: of the model, if `model` is a path; None for the fast cores.
        start: seconds to skip.
        progress: called after each segment with the seconds done and in all.
        detect_language: if no language is given, asks the model which language it is, once. The transcript's `language` is
            the answer then, and its info has `language_detected`. "segments" as in `Transcriber`.
        no_speech, word_times, initial_prompt, hotwords, order, max_seconds, detector, silence, pause, whole, context, kv,
            memory_limit, max_tokens, sampling, stop, batch, guarded: as in `Transcriber`.

    Returns:
        A Transcript: a sequence of segments with start, end and text.

    Raises:
        EdgeGemmaError: as `Transcriber`, `open_audio` and `Model.load` do. To be able to cancel, use `Transcriber`.
    """
    with (
        opened_model(model, mmproj, threads) as opened,
        Transcriber(
            opened,
            language,
            to,
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
            guarded=guarded,
        ) as transcriber,
    ):
        found = list(transcriber.segments(audio, start=start, progress=progress))
        detected = transcriber.detected_language
        named = {"language": transcriber.language or detected, "to": transcriber.to}
    info: dict[str, Any] = {key: name for key, name in named.items() if name is not None}
    if detect_language:
        info["language_detected"] = detected is not None
    return Transcript(found, **info)
