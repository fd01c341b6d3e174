"""The audio encoder: `AudioEncoder` makes soft tokens of sound as it comes, `AudioFeed` feeds sound to a session.

Sound is 16 kHz mono, float32 in [-1, 1] (or whole numbers of 8, 16 or 32 bits), in pieces of any length; results do not depend
on how it was cut. Where it comes from is the business of the folder `audio`.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaError
from .native import Handle, check, ffi, float_array, lib, new_struct, pointer

__all__ = ["AUDIO_PIECE", "AudioEncoder", "AudioFeed", "audio_params", "audio_tokens", "sound_array"]


AUDIO_PIECE = 40960
"""Samples: 2.56 s, EG_AUDIO_BLOCK tokens, which the engine encodes together. Longer sound goes to the engine in such pieces, so
that Python sees Ctrl-C in between."""


def audio_tokens(samples: int) -> int:
    """Soft tokens of a recording of so many samples: one for every 40 ms begun, none below 161 samples. So it is for E2B and E4B;
    `Model.audio_tokens` counts those of any model."""
    return int(lib.eg_audio_token_count(ffi.NULL, max(samples, 0)))


_WAITING = 66  # tokens that may wait in open audio: EG_AUDIO_BLOCK and the markers


def audio_params(left_context: int = 12, markers: bool = True) -> Any:
    """The engine's options. Internal."""
    params = new_struct("eg_audio_params")
    params.left_context = max(left_context, 1)
    params.no_markers = not markers
    return params


def sound_array(samples: ArrayLike) -> NDArray[np.float32]:
    """(n,) samples for the engine; integers are scaled by their type. Internal. Raises EdgeGemmaError "argument"."""
    array = np.asarray(samples)
    if array.ndim == 1 and array.size and array.dtype.kind in "iu":
        from ..audio.source import to_mono

        return to_mono(array)
    return float_array(array, (None,), "samples")


class AudioEncoder(Handle):
    """The encoder alone. Open with `Model.audio_encoder`; one thread at a time, but for `cancel`."""

    kind = "audio encoder"
    instead = "Model.audio_encoder() opens another one"

    def __init__(self, model: Handle, hidden_size: int, left_context: int = 12) -> None:
        """Internal: use `Model.audio_encoder`."""
        out, self._err = ffi.new("eg_audio_stream **"), new_struct("eg_error")
        check(lib.eg_audio_stream_open(model.pointer, audio_params(left_context), out, self._err), self._err)
        super().__init__(out[0], lib.eg_audio_stream_close, owner=model.pointer, cancel=lib.eg_audio_stream_cancel)
        self._hidden_size = hidden_size

    def push(self, samples: ArrayLike) -> NDArray[np.float32]:
        """Takes samples (n,) and returns the soft tokens that are final now, (k, hidden_size) float32; k may be 0. Raises
        EdgeGemmaError: "argument" for a sample that is not finite (nothing was taken), "cancelled"."""
        sound, step = sound_array(samples), AUDIO_PIECE
        if sound.size > step and not np.isfinite(sound).all():
            step = sound.size  # is refused as a whole
        rows = [np.empty((0, self._hidden_size), np.float32)]
        for start in range(0, sound.size, step) or (0,):
            part = sound[start : start + step]
            room = lib.eg_audio_stream_token_count(self.pointer, part.size)
            rows.append(self._run(lib.eg_audio_stream_push, room, pointer(part, "float *"), part.size))
        return np.concatenate(rows)

    def finish(self) -> NDArray[np.float32]:
        """Ends the recording and returns what is left, at most one token. The stream is then ready for another one."""
        return self._run(lib.eg_audio_stream_finish, 1)

    def _run(self, function: Any, room: int, *sound: Any) -> NDArray[np.float32]:
        rows, written = np.empty((room, self._hidden_size), np.float32), ffi.new("size_t *")
        with self.exclusive() as stream:
            check(function(stream, *sound, pointer(rows, "float *"), room, written, self._err), self._err)
        return rows[: written[0]]

    def reset(self) -> None:
        """Forgets the recording and begins another."""
        with self.exclusive() as stream:
            lib.eg_audio_stream_reset(stream)

    def cancel(self) -> None:
        """Stops the call that runs in another thread within one layer, or else the next one: it raises `Cancelled`, and the
        recording is lost: `reset()` before the next."""
        lib.eg_audio_stream_cancel(self.pointer)


class AudioFeed:
    """Audio on its way into a session; from `Session.stream_audio`, or `Session.audio` of a fork.

    A `with` block finishes it at its end, and abandons it when an exception leaves it.
    """

    def __init__(self, session: Handle) -> None:
        """Internal: use `Session.stream_audio`."""
        self.session = session
        self._err = new_struct("eg_error")

    def push(self, samples: ArrayLike) -> None:
        """Adds samples (n,). They gather for 160 to 480 ms, then they are encoded and prefilled. Raises EdgeGemmaError:
        "argument" for a sample that is not finite and "context" when the session is full (these samples were not taken),
        "state" when the audio is over, "cancelled" (it is over)."""
        sound, step = sound_array(samples), AUDIO_PIECE
        if sound.size > step:
            owner = self.session.pointer
            room = lib.eg_session_context(owner) - lib.eg_session_position(owner)
            # What waits for the encoder and the markers take a few tokens more.
            if audio_tokens(sound.size) + 1 + _WAITING > room or not np.isfinite(sound).all():
                step = sound.size  # may be refused, and then as a whole
        for start in range(0, sound.size, step) or (0,):
            part = sound[start : start + step]
            with self.session.exclusive() as session:
                check(lib.eg_session_audio_push(session, pointer(part, "float *"), part.size, self._err), self._err)

    def finish(self) -> None:
        """Encodes the rest and appends it and the end marker; they are evaluated with what is fed next. Raises
        EdgeGemmaError "argument" when there were less than 161 samples in all (the session is then as before the audio),
        "state" when the audio is over already."""
        with self.session.exclusive() as session:
            check(lib.eg_session_audio_end(session, self._err), self._err)

    def abandon(self) -> None:
        """Drops the audio: the session goes back to where it was before. Nothing if the audio is over already. Raises
        EdgeGemmaError "state" where the session cannot go back so far: then what was heard stays, without end marker."""
        if self.session.closed:
            return
        with self.session.exclusive() as session:
            if lib.eg_session_audio_is_open(session):
                check(lib.eg_session_audio_abort(session, self._err), self._err)

    def __enter__(self) -> AudioFeed:
        """The audio itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finishes it, or abandons it after an exception."""
        if error is not None:
            with contextlib.suppress(EdgeGemmaError):  # the audio is over in any case, and the exception goes on
                self.abandon()
        elif lib.eg_session_audio_is_open(self.session.pointer):
            self.finish()
