"""Pictures and videos in words: `Describer`, and `describe` and `locate` for one picture in one call."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.interface import ModelLike
from ..engine.memory import MemoryLimit
from ..engine.opening import ModelOrPath, opened_model
from ..engine.sampling import GREEDY, Sampling
from ..errors import Cancelled, EdgeGemmaValueError
from ..hub.resolve import no_encoder
from .boxes import Box, parse_boxes
from .budgets import choose_budget
from .feeding import Progress
from .images import load_image
from .video import load_video

__all__ = ["PICTURE_QUESTION", "VIDEO_QUESTION", "Answer", "Describer", "describe", "locate", "location_request"]

PICTURE_QUESTION = "Describe this picture."
VIDEO_QUESTION = "Describe what happens in this video."

ANSWER_TOKENS = 512
"""The longest answer where nothing else is asked for."""


@dataclass(frozen=True)
class Answer:
    """What a model says about a picture or a video.

    Attributes:
        text: its words.
        stop: why it ended: "length" means that it was cut off.
        stats: those of the chat's "done" event.
    """

    text: str
    stop: str
    stats: dict[str, Any]


class Describer:
    """Answers questions about pictures and videos, each by itself. Close it with `close()` or a `with` block.

    One thread at a time may use it; only `cancel()` may come from others.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        context: int | None = None,
        kv: str | None = None,
        memory_limit: int | str | MemoryLimit | None = None,
        max_tokens: int = ANSWER_TOKENS,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> None:
        """Opens a conversation.

        Args:
            model: an open model with a vision encoder. It must stay open.
            context, kv, memory_limit: of its session; see `Model.session`.
            max_tokens: the most tokens of an answer.
            sampling: how tokens are drawn; None for the most likely token always.
            stop: a text, or several, that ends an answer and is left out of it.

        Raises EdgeGemmaError: "unsupported" for a model without vision encoder, and what opening a session raises.
        """
        if not model.has_vision:
            raise no_encoder(model, "image")
        opened: Any = model  # a chat stands above this folder: only the model knows how to open one
        self._chat = opened.chat(
            context=context,
            kv=kv,
            memory_limit=memory_limit,
            max_tokens=max_tokens,
            sampling=sampling or GREEDY,
            stop=stop,
        )

    def close(self) -> None:
        """Frees the session. Further calls do nothing."""
        self._chat.close()

    def __enter__(self) -> Describer:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def cancel(self) -> None:
        """Ends the answer that runs, from any thread: it raises `Cancelled`."""
        self._chat.cancel()

    @property
    def context(self) -> int:
        """Tokens that there is room for."""
        return int(self._chat.session.context)

    @property
    def hears(self) -> bool:
        """Whether the model has an audio encoder."""
        return bool(self._chat.session.model.has_audio)

    @property
    def stats(self) -> dict[str, float]:
        """Those of the session: tokens that were read and drawn, and the seconds that this took."""
        return dict(self._chat.session.stats)

    def describe(
        self,
        image: Any,
        question: str | None = None,
        max_tokens: int | str | None = None,
        progress: Progress | None = None,
    ) -> Answer:
        """Answers a question about a picture, or describes it; arguments and errors as those of `describe`."""
        return self._ask(question, PICTURE_QUESTION, {"images": [image], "image_tokens": max_tokens}, progress)

    def describe_video(
        self,
        video: Any,
        question: str | None = None,
        frames: int | None = None,
        fps: float | None = None,
        sound: bool = True,
        progress: Progress | None = None,
    ) -> Answer:
        """Answers a question about a video, or describes it; `video`, `frames` and `fps` as in `Chat.send`.

        `sound`: it is heard too, if the file has sound and the model an audio encoder.
        """
        heard = sound and self.hears
        clip = load_video(video, frames, fps, sound=heard, room=self.context)
        return self._ask(question, VIDEO_QUESTION, {"video": clip}, progress)

    def locate(
        self,
        image: Any,
        label: str | Sequence[str],
        max_tokens: int | str | None = None,
        progress: Progress | None = None,
    ) -> list[Box]:
        """Where something is in a picture; arguments and errors as those of `locate`."""
        request = location_request(label)
        pixels = load_image(image)
        answer = self.describe(pixels, request, max_tokens, progress)
        return parse_boxes(answer.text, pixels.shape[1], pixels.shape[0], label if isinstance(label, str) else "")

    def _ask(self, question: str | None, default: str, media: dict[str, Any], progress: Progress | None) -> Answer:
        if question is not None and not question.strip():
            raise EdgeGemmaValueError("the question is empty.", "argument")
        self._chat.reset()
        done: Any = None
        for event in self._chat.send(question or default, **media, progress=progress):
            if event.kind == "done":
                done = event
        if done.stop == "cancelled":
            raise Cancelled()
        return Answer(done.reply.content.strip(), done.stop, done.stats)


def location_request(label: str | Sequence[str]) -> str:
    """What a model is asked to find things. Raises EdgeGemmaValueError "argument" for an empty label."""
    labels = [" ".join(text.split()) for text in ([label] if isinstance(label, str) else label)]
    if not labels or not all(labels):
        raise EdgeGemmaValueError("the label of what is to be located is empty.", "argument")
    form = f'{{"box_2d": [y0, x0, y1, x1], "label": {json.dumps(labels[0], ensure_ascii=False)}}}'
    return (
        f"Find every {' and every '.join(labels)} in this picture. Answer with a JSON list of their bounding boxes and nothing "
        f"else: [{form}, ...], with coordinates from 0 to 1000. If there is none, answer []."
    )


def _limit(memory_limit: int | str | MemoryLimit | None) -> MemoryLimit | None:
    """The limit of a session that sees a picture and hears nothing."""
    return None if memory_limit is None else MemoryLimit.of(memory_limit, audio=False, vision=True)


@contextlib.contextmanager
def _describer(
    model: ModelOrPath | None,
    mmproj: str | os.PathLike[str] | None,
    threads: int | None,
    options: dict[str, Any],
) -> Iterator[Describer]:
    with opened_model(model, mmproj, threads) as opened, Describer(opened, **options) as describer:
        yield describer


def _checked(image: Any, max_tokens: int | str | None) -> NDArray[np.uint8]:
    """The picture, opened before a model is: what cannot be read should fail at once."""
    pixels = load_image(image)
    choose_budget(max_tokens, pixels.shape[0], pixels.shape[1])
    return pixels


def describe(
    image: Any,
    model: ModelOrPath | None = None,
    question: str | None = None,
    max_tokens: int | str = 280,
    *,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    answer_tokens: int = ANSWER_TOKENS,
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Says what is in a picture, or answers a question about it.

    Args:
        image: a path, `bytes`, a file object, a PIL image, or an array (h, w, 3) uint8; see `load_image`.
        model: a `Model` with a vision encoder, or the path or name of one; None for the file that EDGE_GEMMA_MODEL names.
        question: None to describe the picture.
        max_tokens: the budget of the picture: 70, 140, 280, 560 or 1120 soft tokens, "low" (70), "high" (1120) or "auto"
            (as many as the picture's own resolution takes). More of them show more detail, and take longer.
        mmproj: the file of the encoders, if `model` is a path; None for that of EDGE_GEMMA_MMPROJ.
        threads: of the model, if `model` is a path; None for the fast cores.
        answer_tokens: the most tokens of the answer.
        context, kv, memory_limit, sampling, stop: as in `Describer`.
        progress: called while the picture is encoded, with the soft tokens that are done and all of them.

    Raises:
        EdgeGemmaError: for a picture that cannot be read; as `Model.load` does; "unsupported" for a model without vision
            encoder.
    """
    pixels = _checked(image, max_tokens)
    options = {"context": context, "kv": kv, "memory_limit": _limit(memory_limit), "sampling": sampling, "stop": stop}
    with _describer(model, mmproj, threads, {**options, "max_tokens": answer_tokens}) as describer:
        return describer.describe(pixels, question, max_tokens, progress).text


def locate(
    image: Any,
    label: str | Sequence[str],
    model: ModelOrPath | None = None,
    max_tokens: int | str = 280,
    *,
    mmproj: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    answer_tokens: int = 1024,
    context: int | None = None,
    kv: str | None = None,
    memory_limit: int | str | MemoryLimit | None = None,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> list[Box]:
    """Finds things in a picture.

    Args:
        label: what to find, such as "cat"; or several of them.
        image, model, max_tokens, mmproj, threads, answer_tokens, context, kv, memory_limit, sampling, progress: as in
            `describe`.

    Returns:
        The boxes in the order in which the model names them, in pixels of the picture as its EXIF orientation turns it; []
        where the model finds nothing, or gives no usable answer.

    Raises:
        EdgeGemmaError: as `describe`.
    """
    location_request(label)
    pixels = _checked(image, max_tokens)
    options = {"context": context, "kv": kv, "memory_limit": _limit(memory_limit), "sampling": sampling}
    with _describer(model, mmproj, threads, {**options, "max_tokens": answer_tokens}) as describer:
        return describer.locate(pixels, label, max_tokens, progress)
