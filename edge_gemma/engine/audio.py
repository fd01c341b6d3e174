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

__all__ = ["AudioEncoder", "AudioFeed", "audio_params", "audio_tokens", "sound_array"]


def audio_tokens(samples: int) -> int:
    """Soft tokens of a recording of so many samples: one for every 40 ms begun, none below 161 samples."""
    return int(lib.eg_audio_token_count(max(samples, 0)))


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
        super().__init__(out[0], lib.eg_audio_stream_close)
        self._hidden_size = hidden_size

    def push(self, samples: ArrayLike) -> NDArray[np.float32]:
        """Takes samples (n,) and returns the soft tokens that are final now, (k, hidden_size) float32; k may be 0. Raises
        EdgeGemmaError: "argument" for a sample that is not finite (nothing was taken), "cancelled"."""
        sound = sound_array(samples)
        room = lib.eg_audio_stream_token_count(self.pointer, sound.size)
        return self._run(lib.eg_audio_stream_push, room, pointer(sound, "float *"), sound.size)

    def finish(self) -> NDArray[np.float32]:
        """Ends the recording and returns what is left, at most one token. The stream is then ready for another one."""
        return self._run(lib.eg_audio_stream_finish, 1)

    def _run(self, function: Any, room: int, *sound: Any) -> NDArray[np.float32]:
        rows, written = np.empty((room, self._hidden_size), np.float32), ffi.new("size_t *")
        check(function(self.pointer, *sound, pointer(rows, "float *"), room, written, self._err), self._err)
        return rows[: written[0]]

    def reset(self) -> None:
        """Forgets the recording and begins another."""
        lib.eg_audio_stream_reset(self.pointer)

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
        sound = sound_array(samples)
        check(
            lib.eg_session_audio_push(self.session.pointer, pointer(sound, "float *"), sound.size, self._err), self._err
        )

    def finish(self) -> None:
        """Encodes the rest and appends it and the end marker; they are evaluated with what is fed next. Raises
        EdgeGemmaError "argument" when there were less than 161 samples in all (the session is then as before the audio),
        "state" when the audio is over already."""
        check(lib.eg_session_audio_end(self.session.pointer, self._err), self._err)

    def abandon(self) -> None:
        """Drops the audio: the session goes back to where it was before. Nothing if the audio is over already. Raises
        EdgeGemmaError "state" where the session cannot go back so far: then what was heard stays, without end marker."""
        if not self.session.closed and lib.eg_session_audio_is_open(self.session.pointer):
            check(lib.eg_session_audio_abort(self.session.pointer, self._err), self._err)

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
