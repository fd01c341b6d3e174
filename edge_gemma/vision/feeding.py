"""Pictures and videos into a session: begin marker, soft tokens, end marker; for a video with the time before each frame.

Soft tokens come from the cache of this process (cache.py), so what was seen before is not encoded again. Everything is opened,
encoded and measured before the first token is fed: what fails leaves the session as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.interface import SessionLike
from ..engine.vision import ImageEncoder
from ..errors import Cancelled, EdgeGemmaError, EdgeGemmaValueError
from ..hub.resolve import no_encoder
from .budgets import FRAME_BUDGET, choose_budget
from .cache import picture_key, shared_cache
from .images import load_image
from .sampling import time_text
from .video import load_video

__all__ = ["Progress", "encode_picture", "feed_picture", "feed_pixels", "feed_video", "soft_tokens"]

Progress = Callable[[int, int], None]
"""Called while a picture is encoded, with the work that is done and all of it, in units of the encoder."""


def soft_tokens(
    session: SessionLike,
    pixels: NDArray[np.uint8],
    budget: int,
    *,
    key: bytes | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The soft tokens (n, hidden) of a picture, read-only, from the cache or the encoder.

    Args:
        session: for whose model they are. `cancel` of it ends the encoding, with `Cancelled`.
        pixels: (h, w, 3) uint8.
        budget: the most tokens.
        key: `picture_key(pixels)`, if it is known.
        progress: called while the picture is encoded.
    """
    model, key = session.model, picture_key(pixels) if key is None else key
    session.feed_tokens([])  # a request to cancel that is there already
    requests = session.cancel_requests

    def check() -> None:
        if session.cancel_requests != requests:
            raise Cancelled()

    def report(done: int, total: int) -> None:
        check()
        if progress is not None:
            progress(done, total)

    try:
        return shared_cache.get(model, key, budget, lambda: model.encode_image(pixels, budget, progress=report), check)
    except Cancelled:
        session.feed_tokens([])  # uses up the request, and raises
        raise


def encode_picture(
    encoder: ImageEncoder, image: Any, max_tokens: int | str, progress: Progress | None
) -> NDArray[np.float32]:
    """The soft tokens (n, hidden) of any picture, not from the cache; see `Model.encode_image`."""
    pixels = load_image(image)
    return encoder.run(pixels, choose_budget(max_tokens, pixels.shape[0], pixels.shape[1]), progress=progress)


def feed_picture(session: SessionLike, image: Any, max_tokens: int | str | None = None, markers: bool = True) -> None:
    """Appends a picture; see `Session.feed_image`."""
    pixels = load_image(image)
    budget = choose_budget(max_tokens, pixels.shape[0], pixels.shape[1])
    feed_pixels(session, pixels, budget, markers=markers)


def feed_pixels(
    session: SessionLike,
    pixels: NDArray[np.uint8],
    budget: int,
    *,
    markers: bool = True,
    key: bytes | None = None,
    progress: Progress | None = None,
) -> None:
    """Appends a picture that is opened already; arguments as in `soft_tokens`, errors as in `Session.feed_image`."""
    model = session.model
    if not model.has_vision:
        raise no_encoder(model, "image")
    around = _markers(session) if markers else ([], [])
    count = model.image_tokens(pixels.shape[1], pixels.shape[0], budget)
    _check_room(session, count + 2 * markers, "the picture")
    rows = soft_tokens(session, pixels, budget, key=key, progress=progress)
    with _whole(session):
        _feed_rows(session, rows, around)


def feed_video(
    session: SessionLike,
    video: Any,
    frames: int | None = None,
    fps: float | None = None,
    sound: bool | None = None,
) -> None:
    """Appends a video; see `Session.feed_video`."""
    model = session.model
    if not model.has_vision:
        raise no_encoder(model, "image")
    if sound and not model.has_audio:
        raise no_encoder(model, "audio")
    heard = model.has_audio if sound is None else sound
    clip = load_video(video, frames, fps, sound=heard, room=session.context - session.position)
    around = _markers(session)
    parts = []
    for number, frame in enumerate(clip.frames):
        time = f"{' ' if number else ''}{time_text(frame.seconds)} "
        parts.append((model.tokenizer.encode(time), soft_tokens(session, frame.pixels, FRAME_BUDGET)))
    samples = clip.sound if heard else None
    needed = sum(len(text) + len(rows) + 2 for text, rows in parts)
    needed += 0 if samples is None else model.audio_tokens(len(samples)) + 2
    _check_room(session, needed, clip.name)
    with _whole(session):
        for text, rows in parts:
            session.feed_tokens(text)
            _feed_rows(session, rows, around)
        if samples is not None:
            session.feed_audio(samples)


def _feed_rows(session: SessionLike, rows: NDArray[np.float32], around: tuple[list[int], list[int]]) -> None:
    before, after = around
    if before:
        session.feed_tokens(before)
    session.feed_embeddings(rows, picture=True)
    if after:
        session.feed_tokens(after)


def _markers(session: SessionLike) -> tuple[list[int], list[int]]:
    """The tokens before and after the soft tokens of a picture."""
    find = session.model.tokenizer.find
    found = [find("<|image>"), find("<image|>")]
    if None in found:
        raise EdgeGemmaValueError("the model's vocabulary has no markers for pictures.", "unsupported")
    before, after = ([token] for token in found if token is not None)
    return before, after


def _check_room(session: SessionLike, needed: int, name: str) -> None:
    room = session.context - session.position
    if needed > room:
        raise EdgeGemmaValueError(
            f"{needed} more tokens do not fit: {session.position} of the session's {session.context} are in use. {name} takes "
            "that many. Open a session with a larger context, or take a smaller budget for pictures.",
            "context",
        )


@contextlib.contextmanager
def _whole(session: SessionLike) -> Iterator[None]:
    """After a failure inside, the session goes back to where it was, if it can."""
    start = session.position
    try:
        yield
    except BaseException:
        with contextlib.suppress(EdgeGemmaError):
            if not session.closed:
                session.rewind_to(start)
        raise
