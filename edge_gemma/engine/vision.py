"""The vision encoder: `ImageEncoder` makes soft tokens of pictures, which are (h, w, 3) uint8 arrays of RGB values.

Opening files and everything else that makes such arrays is the business of the folder `vision`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaError, EdgeGemmaValueError
from .native import Handle, check, ffi, lib, new_struct, pointer

__all__ = ["ImageEncoder", "image_tokens"]

Progress = Callable[[int, int], None]


def image_tokens(model: Any, width: int, height: int, max_tokens: int) -> int:
    """Soft tokens of a picture of so many pixels, for an `eg_model *`. Internal: use `Model.image_tokens`."""
    n, err = ffi.new("size_t *"), new_struct("eg_error")
    sides = (_unsigned(width, "width"), _unsigned(height, "height"))
    check(lib.eg_image_tokens(model, *sides, _unsigned(max_tokens, "max_tokens"), n, err), err)
    return int(n[0])


class ImageEncoder(Handle):
    """The encoder alone. Open with `Model.image_encoder`; one thread at a time, but for `cancel`."""

    kind = "image encoder"
    instead = "Model.image_encoder() opens another one"

    def __init__(self, model: Handle, hidden_size: int) -> None:
        """Internal: use `Model.image_encoder`."""
        out, self._err = ffi.new("eg_image_encoder **"), new_struct("eg_error")
        check(lib.eg_image_encoder_open(model.pointer, out, self._err), self._err)
        super().__init__(out[0], lib.eg_image_encoder_close, owner=model.pointer, cancel=lib.eg_image_encoder_cancel)
        self._model, self._hidden_size = model, hidden_size

    def run(
        self, pixels: NDArray[np.uint8], max_tokens: int = 280, *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Soft tokens of a picture: (h, w, 3) uint8 -> (n, hidden_size) float32.

        Args:
            pixels: RGB values, the top row first.
            max_tokens: the budget: 70, 140, 280, 560 or 1120.
            progress: called with the work that is done and all of it, while the picture is encoded. What it raises ends the
                encoding.

        Raises EdgeGemmaError: "argument" for another shape or budget, or a picture that is too long; "cancelled".
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise EdgeGemmaValueError("pixels must be an array (h, w, 3) of uint8.", "argument")
        height, width = pixels.shape[:2]
        out = np.empty((image_tokens(self._model.pointer, width, height, max_tokens), self._hidden_size), np.float32)
        rows = np.ascontiguousarray(pixels)
        watch = _Watch(progress, self.cancel)
        handle = ffi.new_handle(watch)
        image, written = new_struct("eg_image"), ffi.new("size_t *")
        image.width, image.height, image.max_tokens, image.rgb = width, height, max_tokens, pointer(rows, "uint8_t *")
        image.progress, image.progress_context = lib.edge_gemma_progress, handle
        try:
            with self.exclusive() as encoder:
                target = pointer(out, "float *")
                check(lib.eg_image_encoder_run(encoder, image, target, len(out), written, self._err), self._err)
        except EdgeGemmaError:
            if watch.raised is not None:
                raise watch.raised from None
            raise
        return out[: written[0]]

    def cancel(self) -> None:
        """Makes `run` raise `Cancelled`: the one that runs now, within one layer, or else the next one. Any thread."""
        lib.eg_image_encoder_cancel(self.pointer)


class _Watch:
    """Passes progress on, and lets Python handle signals meanwhile. The first exception cancels the encoding."""

    def __init__(self, report: Progress | None, cancel: Callable[[], None]) -> None:
        self.report, self.cancel = report, cancel
        self.raised: BaseException | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.report is not None and self.raised is None:
            self.report(done, total)

    def fail(self, error: BaseException) -> None:
        self.raised = self.raised or error
        self.cancel()


def _report_failure(kind: Any, error: BaseException, trace: Any) -> None:
    context = trace.tb_frame.f_locals["context"]
    ffi.from_handle(context).fail(error)


@ffi.def_extern(name="edge_gemma_progress", onerror=_report_failure)
def _progress(context: Any, done: int, total: int) -> None:
    ffi.from_handle(context)(done, total)


def _unsigned(value: int, name: str) -> int:
    if not 0 <= value < 2**32:
        raise EdgeGemmaValueError(f"{name} is {value}; it must be within 0 and {2**32 - 1}.", "argument")
    return int(value)
