"""Where sound comes from: arrays, files, pipes. All of it becomes 16 kHz mono float32, block by block.

Owns the conversion (`to_mono`, `Converter`) and `Source`, the one interface through which recordings, streams and
microphones are read. It does not own file formats (formats.py), the way from several channels to one (mono.py), microphones
(microphone.py), or the search for speech in the sound (vad.py, endpointing.py).
"""

from __future__ import annotations

import abc
import math
import os
import queue
import re
import stat
import sys
import threading
import time
import urllib.parse
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaError, EdgeGemmaOSError, EdgeGemmaValueError
from ..installation import pip_line
from .formats import ArrayDecoder, Decoder, Raw, open_decoder
from .level import Level
from .mono import Mixer
from .pcm import TOLERANCE, AssumedDecoder

#: Samples a second of all sound that leaves this module.
SAMPLE_RATE = 16000

_BLOCK = 8192  # frames that are decoded and converted at a time
_LOUDEST = 64.0  # larger floats cannot be samples of full scale 1; lossy formats such as mp3 exceed 1 by far less
_NOTHING = np.zeros(0, np.float32)


# ---- conversion ------------------------------------------------------------------------------------------------------


def to_mono(samples: ArrayLike, rate: float = SAMPLE_RATE) -> NDArray[np.float32]:
    """Converts samples of any usual type, rate and number of channels to 16 kHz mono.

    Args:
        samples: (n,), (n, channels), or (channels, n) where the first axis is at most 8 and the second larger. Floats are
            in [-1, 1]. int8, int16 and int32 are divided by 2^7, 2^15, 2^31. Unsigned integers are shifted first, so that
            the middle of their range is silence.
        rate: samples a second, per channel.

    Returns:
        (round(n * 16000 / rate),) float32; it may be `samples` itself. Several channels become their mean, or the loudest
        channel where they cancel each other (mono.py).

    Raises:
        EdgeGemmaValueError: "argument" for another shape or type, or a sample that is not finite (the message has its
            index); "unsupported" when the rate is to be changed and soxr is missing (extra `voice`).
    """
    converter = Converter(rate)
    head = converter.push(_frames(samples))
    tail = converter.finish()
    return np.concatenate([head, tail]) if tail.size else head


class Converter:
    """Converts a stream of blocks to 16 kHz mono. The result does not depend on how the stream is cut into blocks."""

    def __init__(self, rate: float, name: str = "the sound", code: str = "argument", lenient: bool = False) -> None:
        """Blocks have `rate` samples a second. Errors call the sound `name` and have the code `code`. Raises as `to_mono`.

        `lenient`: samples that are not finite become silence and are counted in `broken`.
        """
        if not (isinstance(rate, (int, float, np.integer, np.floating)) and 0 < rate < math.inf):
            raise EdgeGemmaValueError(f"rate is {rate!r}; it must be samples a second, such as 16000.", "argument")
        self._name, self._code, self._at, self._rate = name, code, 0, rate
        self._lenient, self.broken = lenient, 0  #: frames with samples that were not finite
        self._mixer = Mixer(rate)
        self._stream = None
        if rate == SAMPLE_RATE:
            return
        try:
            import soxr
        except ImportError as error:
            raise EdgeGemmaValueError(
                f"{name} has {rate:g} samples a second; converting it to 16000 needs soxr: "
                f"`{pip_line('edge-gemma[voice]')}`.",
                "unsupported",
            ) from error
        try:
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1)
        except (RuntimeError, ValueError) as error:
            raise EdgeGemmaValueError(f"{name}: a rate of {rate:g} Hz cannot be converted.", "argument") from error

    def push(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """(n, channels) or (n,) samples as `to_mono` takes them -> (k,) converted samples. Raises as `to_mono`."""
        scaled = _scaled(frames)
        if frames.dtype.kind == "f" and frames.size:
            scaled = self._checked(scaled)
        self._at += len(scaled)
        mono = np.ascontiguousarray(scaled) if scaled.ndim == 1 else self._mixer.push(scaled)
        return mono if self._stream is None else self._stream.resample_chunk(mono)

    def _checked(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Floats whose size is that of samples. Raises EdgeGemmaValueError, or replaces what is not finite if lenient."""
        rows = frames.reshape(len(frames), -1)
        valid = np.abs(rows) <= _LOUDEST  # false for NaN, too
        if valid.all():
            return frames
        finite = np.isfinite(rows)
        if self._lenient and (valid | ~finite).all():
            self.broken += int((~finite.all(axis=1)).sum())
            return np.where(finite, rows, np.float32(0)).reshape(frames.shape)
        at, channel = (int(index) for index in np.argwhere(~valid)[0])
        raise EdgeGemmaValueError(
            f"sample {self._at + at} of {self._name} ({(self._at + at) / self._rate:.3f} s) is {rows[at, channel]:g}; "
            "samples must be finite and in [-1, 1] (give 16-bit values as int16, or divide them by 32768).",
            self._code,
        )

    def finish(self) -> NDArray[np.float32]:
        """Ends the sound: returns the (k,) samples that are still held back. `push` must not be called again."""
        mono = self._mixer.finish()
        return mono if self._stream is None else self._stream.resample_chunk(mono, last=True)


def _frames(samples: ArrayLike) -> NDArray[Any]:
    """`samples` as (n, channels) or (n,). Raises EdgeGemmaValueError "argument"."""
    array = np.asarray(samples)
    if array.ndim == 2 and array.shape[0] <= 8 < array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 0 < array.shape[1] <= 64):
        raise EdgeGemmaValueError(
            f"samples have the shape {array.shape}; it must be (n,) or (n, channels).", "argument"
        )
    if not (array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize <= 4)):
        raise EdgeGemmaValueError(
            f"samples are {array.dtype}; give floats in [-1, 1], or integers of 8, 16 or 32 bits.",
            "argument",
        )
    return array


def _scaled(frames: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of any type that `_frames` accepts, as float32 with full scale 1."""
    kind, bits = frames.dtype.kind, frames.dtype.itemsize * 8
    with np.errstate(over="ignore"):  # a float64 out of range becomes inf, which is refused
        scaled = frames.astype(np.float32 if bits < 32 or kind == "f" else np.float64, copy=False)
    if kind == "f":
        return scaled
    half = 2.0 ** (bits - 1)
    return ((scaled - half if kind == "u" else scaled) / half).astype(np.float32, copy=False)


# ---- sources ---------------------------------------------------------------------------------------------------------


class Source(abc.ABC):
    """Sound that is read once, from the beginning to the end. Iterating gives blocks of about half a second.

    A source is a context manager: leaving the block closes it. Only one thread at a time may read.

    A subclass defines `next_block`. It may override `seek` and `close`.

    Attributes:
        name: what messages call the source.
        duration: seconds; None when unknown.
        live: whether the sound may still be coming in, so that `read` may have to wait.
        overruns: how often samples of a live source were lost.
        warning: sentences about what may have been missed: damage, parts that were left out, a level that is too low or too
            high; None if there is nothing to say. Final once the sound has ended.
        assumption: a sentence about the format, where samples without a header were taken for 16 kHz mono because nobody
            stated their format; None otherwise. Known once the first samples were read.
    """

    name: str = "sound"
    duration: float | None = None
    live: bool = False
    overruns: int = 0
    warning: str | None = None
    assumption: str | None = None

    def __init__(self) -> None:
        """Makes an empty buffer. Subclasses call this first."""
        self._held: deque[NDArray[np.float32]] = deque()
        self._held_size = 0
        self._ended = False
        self._failure: EdgeGemmaError | None = None
        self._at = 0

    def __repr__(self) -> str:
        """Shows the name and the position."""
        return f"<{type(self).__name__} {self.name}, {self.position:.2f} s read>"

    @property
    def position(self) -> float:
        """Seconds from the beginning of the sound to the sample that is read next."""
        return self._at / SAMPLE_RATE

    @property
    def lost(self) -> float:
        """Seconds of sound of a live source that were lost."""
        return 0.0

    def read(self, seconds: float, timeout: float | None = None) -> NDArray[np.float32] | None:
        """The next samples, as soon as there are any.

        Args:
            seconds: the most to return. A recording returns exactly this much until its end, a live source what is there.
            timeout: seconds to wait for the first sample; None waits until there is one.

        Returns:
            (n,) float32 at 16 kHz, n > 0. (0,) when no sample came in time. None at the end, and once the source is closed.

        Raises:
            EdgeGemmaError: "argument" unless seconds > 0; "file" or "format" when reading fails. All samples from before
                the failure are returned first. After the error the source has ended.
        """
        if not seconds > 0:
            raise EdgeGemmaValueError(f"cannot read {seconds} seconds: it must be more than 0.", "argument")
        want = max(1, round(seconds * SAMPLE_RATE))
        while self._held_size < want and not self._ended:
            try:
                block = self.next_block(0 if self._held else timeout)
            except EdgeGemmaError as error:
                block, self._failure = None, error
            if block is None:
                self._ended = True
            elif not block.size:
                break
            else:
                self._held.append(block)
                self._held_size += block.size
        if self._held:
            return self._pop(want)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return None if self._ended else _NOTHING

    def _pop(self, count: int) -> NDArray[np.float32]:
        """Removes up to `count` samples from the front of the buffer and returns them."""
        blocks: list[NDArray[np.float32]] = []
        while count and self._held:
            block = self._held.popleft()
            if block.size > count:
                self._held.appendleft(block[count:])
                block = block[:count]
            blocks.append(block)
            count -= block.size
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        self._held_size -= samples.size
        self._at += samples.size
        return samples

    @abc.abstractmethod
    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        """The next samples, a block of any size: what a subclass defines. `read` calls it, and nobody else.

        Returns (n,) float32 at 16 kHz; (0,) when there is no sample within `timeout` seconds (None waits until there is
        one); None at the end. Raises EdgeGemmaError; `read` then ends the source.
        """

    def seek(self, seconds: float) -> None:
        """Moves to the position `seconds`, where the next `read` begins. A position beyond the end is the end.

        Works for recordings in files and arrays. Raises EdgeGemmaValueError: "unsupported" for streams and microphones,
        "argument" for a negative position.
        """
        raise EdgeGemmaValueError(f"{self.name} is a stream: its position cannot be changed.", "unsupported")

    def _restart(self, seconds: float) -> None:
        """Empties the buffer and sets the position."""
        if not 0 <= seconds < math.inf:
            raise EdgeGemmaValueError(f"cannot go to {seconds} s: a position is at least 0.", "argument")
        self._forget()
        self._ended, self._at = False, round(seconds * SAMPLE_RATE)

    def _forget(self) -> None:
        """Empties the buffer."""
        self._held.clear()
        self._held_size, self._failure = 0, None

    def close(self) -> None:
        """Releases files and devices. Samples that were not read are lost. May be called more than once."""
        self._forget()
        self._ended = True

    def __enter__(self) -> Source:
        """Returns the source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yields (n,) samples until the end."""
        while (block := self.read(0.5)) is not None:
            yield block


class _Recording(Source):
    """The samples of a decoder, converted to 16 kHz mono. Reading waits for the decoder, whatever the timeout."""

    def __init__(
        self,
        decoder: Decoder,
        name: str,
        file: IO[bytes] | None = None,
        code: str = "format",
        channel: int | None = None,
    ) -> None:
        """`file` is closed with the recording. `code` is the code of errors about samples. `channel`: the one that is read."""
        super().__init__()
        self.name, self._channel = name, channel
        self._decoder, self._file, self._code = decoder, file, code
        self._converter: Converter | None = self._new_converter()
        self._level: Level | None = Level()  # None where the recording was not read from its beginning on
        self._broken = 0
        if decoder.frames is not None:
            self.duration = decoder.frames / decoder.rate
        if isinstance(decoder, AssumedDecoder):
            self.assumption = f"{name} has no header that is known: 16-bit mono samples at 16 kHz are assumed."

    def _new_converter(self) -> Converter:
        return Converter(self._decoder.rate, self.name, self._code, lenient=self._code == "format")

    @property
    def warning(self) -> str | None:  # type: ignore[override]
        """The decoder's warning, and those about the samples."""
        sentences = [self._decoder.warning]
        broken = self._broken / self._decoder.rate
        if broken:
            length = f"{broken:.1f} s" if broken >= TOLERANCE else f"{self._broken} samples"
            sentences.append(f"{self.name} is damaged: {length} of it are no numbers, and were read as silence.")
        if self._level is not None and self._converter is None:
            sentences.append(self._level.warning(self.name, SAMPLE_RATE))
        return " ".join(filter(None, sentences)) or None

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        while (converter := self._converter) is not None:
            frames = self._decoder.read(_BLOCK)
            if len(frames):
                block = converter.push(self._chosen(frames))
            else:
                block, self._converter = converter.finish(), None
                self._broken += converter.broken
            if block.size:
                if self._level is not None:
                    self._level.push(block)
                return block
        return None

    def count_channels(self) -> int:
        """How many channels the sound has; 1 where none is left. Reads the next frame, which is lost."""
        frames = self._decoder.read(1)
        return frames.shape[1] if frames.ndim == 2 and len(frames) else 1

    def _chosen(self, frames: NDArray[Any]) -> NDArray[Any]:
        """The frames, or the one channel of them that is read."""
        if self._channel is None:
            return frames
        columns = frames if frames.ndim == 2 else frames[:, None]
        if not 0 <= self._channel < columns.shape[1]:
            raise EdgeGemmaValueError(
                f"{self.name} has no channel {self._channel}: it has {columns.shape[1]}, counted from 0.", "argument"
            )
        return columns[:, self._channel]

    def seek(self, seconds: float) -> None:
        """Moves to the position `seconds`."""
        if self._file is not None and self._file.closed:
            raise EdgeGemmaValueError(f"{self.name} is closed.", "state")
        self._restart(seconds)
        self._decoder.seek(round(seconds * self._decoder.rate))
        self._converter, self._broken = self._new_converter(), 0
        self._level = None if seconds else Level()

    def close(self) -> None:
        """Closes the decoder, and the file that was given with it."""
        super().close()
        self._decoder.close()
        if self._file is not None:
            self._file.close()


class _Pipe(Source):
    """A stream whose reads may block. A thread reads and converts it, so that `read` can return when its timeout ends."""

    live = True

    def __init__(self, opening: Callable[[], _Recording], name: str) -> None:
        """The thread calls `opening` and reads the recording that it returns."""
        super().__init__()
        self.name = name
        # Bounded, so that the writer of the pipe has to wait for its reader, as it would without the thread.
        self._queue: queue.Queue[NDArray[np.float32] | EdgeGemmaError | None] = queue.Queue(maxsize=16)
        self._closed = False
        self._final_warning: str | None = None  # what the thread knows at the end, to be said once the reader is there
        threading.Thread(target=self._run, args=(opening,), name="edge_gemma-sound", daemon=True).start()

    def _run(self, opening: Callable[[], _Recording]) -> None:
        try:
            with opening() as recording:
                self.assumption = recording.assumption
                while not self._closed and (block := recording.next_block(None)) is not None:
                    self._queue.put(block)
                self._final_warning = recording.warning
            self._queue.put(None)
        except EdgeGemmaError as error:
            self._queue.put(error)
        except Exception as error:  # file objects of the caller may raise anything
            failure = EdgeGemmaOSError(f"cannot read {self.name}: {error}.", "file")
            failure.__cause__ = error
            self._queue.put(failure)

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        try:
            item = self._queue.get(block=timeout is None or timeout > 0, timeout=timeout)
        except queue.Empty:
            return _NOTHING
        if isinstance(item, EdgeGemmaError):
            raise item
        if item is None:
            self.warning = self._final_warning
        return item

    def close(self) -> None:
        """Stops reading. The thread ends when the stream gives its next bytes; it closes a stream that was opened here."""
        super().close()
        self._closed = True
        while True:  # the thread may be waiting for room in the queue
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)  # wakes a reader that waits in another thread


class Paced(Source):
    """Plays back another source in real time, as if it were spoken now. For demonstrations and measurements."""

    live = True

    def __init__(
        self,
        source: Source,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Gives `speed` seconds of sound a second, from the first `read` on. Closing this source closes `source`."""
        super().__init__()
        if not speed > 0:
            raise EdgeGemmaValueError(f"speed is {speed}; it must be more than 0.", "argument")
        self.name, self.duration, self._source = source.name, source.duration, source
        self._clock, self._sleep, self._speed = clock, sleep, speed
        self._began: float | None = None
        self._given = 0

    @property
    def warning(self) -> str | None:  # type: ignore[override]
        """The warning of the source within."""
        return self._source.warning

    @property
    def assumption(self) -> str | None:  # type: ignore[override]
        """The assumption of the source within."""
        return self._source.assumption

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        if self._began is None:
            self._began = self._clock()
        per_second = SAMPLE_RATE * self._speed
        portion = SAMPLE_RATE // 50  # 20 ms at a time, as a sound device delivers them
        wait = self._began + (self._given + portion) / per_second - self._clock()
        if timeout is not None and timeout < wait:
            if timeout > 0:
                self._sleep(timeout)
            return _NOTHING
        if wait > 0:
            self._sleep(wait)
        due = int((self._clock() - self._began) * per_second) - self._given
        block = self._source.read(max(due, portion) / SAMPLE_RATE, timeout)
        self._given += 0 if block is None else block.size
        return block

    def seek(self, seconds: float) -> None:
        """Moves to the position `seconds`. Time runs anew from the next `read`."""
        self._source.seek(seconds)
        self._restart(seconds)
        self._began, self._given = None, 0

    def close(self) -> None:
        """Closes the source within."""
        super().close()
        self._source.close()


# ---- opening ---------------------------------------------------------------------------------------------------------


def count_channels(path: str | os.PathLike[str]) -> int:
    """How many channels the sound of a file has; 1 where there is no sound in it. Raises as `open_audio`."""
    with open_audio(path) as source:
        return source.count_channels() if isinstance(source, _Recording) else 1


def open_audio(
    source: Any,
    rate: float | None = None,
    channels: int | None = None,
    encoding: str = "s16le",
    *,
    channel: int | None = None,
) -> Source:
    """Opens a file, a pipe, a file object or an array as a `Source`.

    Args:
        source: a path or a file:// URL (wav; flac, ogg, mp3, m4a, mp4, webm and more with the extra `voice`); "-" for
            standard input; a binary file object, which stays open; an array as `to_mono` takes it, alone or as (array,
            rate); a `Source`, which is returned as it is.
        rate: samples a second of an array (default 16000) or of raw samples. A pipe holds raw samples if it does not
            begin with the header of a known file format. A file holds them if `rate`, `channels` or another `encoding` is
            given, too.
        channels: channels of raw samples, default 1.
        encoding: type of raw samples: u8, s8, s16le, s24le, s32le, f32le, f64le, their big-endian forms such as s16be,
            alaw or mulaw.
        channel: the one channel that is read, counted from 0; None for the mean of all. Sound with fewer is an error
            ("argument") when it is read.

    Files are read while they are used, in constant memory. A recording without samples is no error: it ends at once. A
    recording that is cut short gives the samples that are there and sets `warning`. Samples that are not finite are read as
    silence, which is reported there, too.

    Raises:
        EdgeGemmaOSError: "file" for what cannot be opened or read, such as addresses of the web.
        EdgeGemmaValueError: "format" for an empty file, a damaged one, or one without sound; "unsupported" when an extra
            is missing; "argument" for unusable arguments.
        For a pipe, these errors come from `read`.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, tuple) and len(source) == 2:
        source, rate = source
    if isinstance(source, np.ndarray):
        frames = _frames(source)
        decoder = ArrayDecoder(frames, SAMPLE_RATE if rate is None else rate)
        return _Recording(decoder, "the array", code="argument", channel=channel)
    file: IO[bytes] | None = None
    if isinstance(source, str) and source == "-":
        file, name = _standard_input(), "standard input"
        seekable = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    elif isinstance(source, (str, os.PathLike)):
        name = local_path(source, "sound file")
        seekable = (
            os.path.isfile(name) or os.path.isdir(name) or not os.path.exists(name)
        )  # False: a named pipe or a device
    elif hasattr(source, "read"):
        file, name = source, getattr(source, "name", None)
        name = name if isinstance(name, str) else "the file object"
        seekable = hasattr(source, "seekable") and source.seekable()
    else:
        raise EdgeGemmaValueError(
            f"sound cannot come from a {type(source).__name__}: give a path, an array or a file object.", "argument"
        )

    stated = rate is not None or channels is not None or encoding != "s16le"
    raw = Raw(SAMPLE_RATE if rate is None else rate, 1 if channels is None else channels, encoding, stated)
    guess = not seekable or source == "-"  # raw samples may come without a header, but a named file must have one

    def opening() -> _Recording:
        opened = _open_path(name) if file is None else file
        try:
            decoder = open_decoder(opened, name, raw if stated or guess else None, seekable)
            return _Recording(decoder, name, opened if file is None else None, channel=channel)
        except BaseException:
            if file is None:
                opened.close()
            raise

    return opening() if seekable else _Pipe(opening, name)


def _standard_input() -> IO[bytes]:
    """Standard input in binary, unbuffered. Raises EdgeGemmaOSError "file" where it is missing or a terminal."""
    try:
        number = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise EdgeGemmaOSError("there is no standard input to read sound from.", "file") from error
    if os.isatty(number):
        raise EdgeGemmaOSError(
            "standard input is a terminal: pipe a sound file or 16-bit samples at 16 kHz into it.", "file"
        )
    return open(number, "rb", buffering=0, closefd=False)


def local_path(source: str | os.PathLike[str], kind: str) -> str:
    """The path that a path or a file:// URL means. `kind`: what errors call the file, such as "picture".

    Raises EdgeGemmaOSError, EdgeGemmaValueError.
    """
    path = os.fsdecode(source)
    if not path:
        raise EdgeGemmaValueError(f"the name of the {kind} is empty.", "argument")
    url = re.match(r"([a-z][a-z0-9+.-]+):(//[^/]*)?/", path, re.IGNORECASE)
    if url is None or os.path.exists(path):
        return path
    if url[1].lower() != "file":
        raise EdgeGemmaOSError(f"{path} is an address of the web: download it first, and give the file.", "file")
    if url[2] not in (None, "//", "//localhost"):
        raise EdgeGemmaOSError(f"{path} names no file on this machine: a file URL begins with file:///.", "file")
    return os.fsdecode(urllib.parse.unquote_to_bytes(path[url.end() - 1 :]))


def _open_path(path: str) -> IO[bytes]:
    if os.path.isdir(path):
        raise EdgeGemmaOSError(f"{path} is a directory: give a sound file.", "file")
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise EdgeGemmaOSError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}.", "file") from error


def load_audio(
    source: Any, rate: float | None = None, channels: int | None = None, encoding: str = "s16le"
) -> NDArray[np.float32]:
    """Reads a whole recording: (n,) float32, 16 kHz mono. Arguments and errors are those of `open_audio`.

    What `Source.assumption` and `Source.warning` say is reported by Python warnings.
    """
    opened = open_audio(source, rate, channels, encoding)
    try:
        blocks = list(opened)
        for sentence in filter(None, (opened.assumption, opened.warning)):
            warnings.warn(sentence, stacklevel=2)
    finally:
        if opened is not source:
            opened.close()
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
