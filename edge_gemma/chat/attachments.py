"""What a user's message carries beside text: recordings, pictures and videos.

Owns the opening of what was given as a file, the parts of a message's content, and the form in which a saved conversation keeps
them. Does not encode or feed anything.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..audio.source import load_audio
from ..engine.interface import ModelLike
from ..errors import EdgeGemmaValueError
from ..hub.resolve import no_encoder
from ..vision.budgets import choose_budget
from ..vision.images import load_image
from ..vision.video import Clip, Frame, load_video

__all__ = ["check_senses", "open_attachments", "packed", "unpacked", "user_message"]


def user_message(
    text: str | None,
    audio: Any,
    images: Any,
    video: Any,
    image_tokens: int | str | None = None,
    frames: int | None = None,
    fps: float | None = None,
) -> dict[str, Any] | None:
    """The message of `Chat.send`, whose attachments are not opened yet; None when it would be empty.

    Raises EdgeGemmaValueError "argument".
    """
    if text is not None and not isinstance(text, str):
        raise EdgeGemmaValueError(f"text is {type(text).__name__}, not str.", "argument")
    if image_tokens is not None:
        choose_budget(image_tokens, 1, 1)
    pictures = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    budget = {} if image_tokens is None else {"max_tokens": image_tokens}
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture, **budget} for picture in pictures]
    choice = {name: value for name, value in (("frames", frames), ("fps", fps)) if value is not None}
    parts += [{"type": "video", "video": item, **choice} for item in _videos(video)]
    if text is not None and (parts or audio is not None):
        parts.append({"type": "text", "text": text})
    parts += [{"type": "audio", "audio": sound} for sound in _sounds(audio)]
    if not parts and text is None:
        return None
    return {"role": "user", "content": parts or text}


def _sounds(audio: Any) -> list[Any]:
    """The recordings: one, or a list of them. A list of numbers is one recording."""
    if audio is None:
        return []
    several = isinstance(audio, (list, tuple)) and not all(isinstance(sample, (int, float)) for sample in audio)
    return list(audio) if several else [audio]


def _videos(video: Any) -> list[Any]:
    """The videos: one, or a list of them. A list of (seconds, picture) is one video."""
    if video is None:
        return []
    several = isinstance(video, (list, tuple)) and not any(isinstance(item, (list, tuple)) for item in video)
    return list(video) if several and video else [video]


def check_senses(model: ModelLike, messages: Iterable[Mapping[str, Any]]) -> None:
    """Raises EdgeGemmaValueError "unsupported" for a message with sound or pictures that the model has no encoder for."""
    kinds = {part.get("type") for part in _parts(messages)}
    if "audio" in kinds and not model.has_audio:
        raise no_encoder(model, "audio")
    if kinds & {"image", "video"} and not model.has_vision:
        raise no_encoder(model, "image")


def open_attachments(model: ModelLike, messages: Iterable[Mapping[str, Any]], room: int) -> None:
    """Opens what the messages have as files, bytes or objects. The parts hold arrays and `Clip`s afterwards, so each is opened
    once.

    Args:
        model: decides whether the sound of videos is wanted.
        messages: are changed in place.
        room: tokens that a video may take.

    Raises EdgeGemmaError for what cannot be opened.
    """
    for part in _parts(messages):
        kind = part.get("type")
        if kind == "image":
            part[kind] = _pixels(part[kind])
        elif kind == "audio":
            part[kind] = _samples(part[kind])
        elif kind == "video":
            wanted = {name: part[name] for name in ("frames", "fps") if name in part}
            clip = load_video(part[kind], **wanted, sound=model.has_audio and part.get("sound", True), room=room)
            part[kind] = clip if model.has_audio or clip.sound is None else dataclasses.replace(clip, sound=None)


def _parts(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of all users' messages."""
    contents = (message.get("content") for message in messages if message.get("role") == "user")
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]


def _pixels(picture: Any) -> NDArray[np.uint8]:
    """(h, w, 3) uint8, read-only. An array of this kind is taken as it is."""
    ready = (
        isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    )
    return picture if ready and picture.size and not picture.flags.writeable else _fixed(load_image(picture))


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """The array, which nobody else has, made read-only: so it is known as opened."""
    array.flags.writeable = False
    return array


def _samples(sound: Any) -> NDArray[np.float32]:
    """(n,) float32, read-only. An array of this kind is taken as it is."""
    if isinstance(sound, (str, os.PathLike)):
        return _fixed(load_audio(sound))
    array = np.asarray(sound)
    if array.ndim == 1 and array.dtype == np.float32 and not array.flags.writeable:
        return array
    if array.ndim != 1 or array.dtype.kind != "f":
        wanted = "16 kHz mono samples, a 1-D array of floats in [-1, 1]"
        raise EdgeGemmaValueError(f"audio is {wanted}, not {array.dtype} {array.shape}.", "argument")
    return _fixed(array.astype(np.float32))


# ---- saved conversations ---------------------------------------------------------------------------------------------


def packed(value: Any) -> Any:
    """`value` for JSON: pictures become PNG in base64, other arrays base64 texts with their type and shape."""
    if isinstance(value, Clip):
        frames = [{"seconds": frame.seconds, **packed(frame.pixels)} for frame in value.frames]
        told = {"name": value.name, "duration": value.duration, "sound_seconds": value.sound_seconds}
        return {"frames": frames, "sound": packed(value.sound), **told}
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3 and value.size:
            buffer = io.BytesIO()
            PIL.Image.fromarray(value).save(buffer, "PNG", compress_level=3)
            return {"png": base64.b64encode(buffer.getvalue()).decode("ascii")}
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"array": data, "dtype": value.dtype.newbyteorder("<").str, "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: packed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(item) for item in value]
    return value


def unpacked(messages: Any) -> list[dict[str, Any]]:
    """Messages from what `packed` made of them. Raises ValueError, KeyError or TypeError."""
    found = []
    for message in messages:
        if isinstance(message["content"], list) and message["role"] == "user":
            parts = []
            for part in message["content"]:
                kind = part["type"]
                if kind in ("audio", "image", "video"):
                    read = {"audio": _unpacked_sound, "image": _unpacked_picture, "video": _unpacked_clip}[kind]
                    part = {**part, kind: read(part[kind])}
                parts.append(part)
            message = {**message, "content": parts}
        found.append(dict(message))
    return found


def _unpacked_array(value: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype({"<f4": "<f4", "|u1": "|u1"}[value["dtype"]])
    return np.frombuffer(base64.b64decode(value["array"]), dtype).reshape(value["shape"])


def _unpacked_sound(value: Mapping[str, Any]) -> NDArray[np.float32]:
    return _samples(_unpacked_array(value))


def _unpacked_picture(value: Mapping[str, Any]) -> NDArray[np.uint8]:
    return _fixed(load_image(base64.b64decode(value["png"]) if "png" in value else _unpacked_array(value)))


def _unpacked_clip(value: Mapping[str, Any]) -> Clip:
    frames: Sequence[Mapping[str, Any]] = value["frames"]
    if not frames:
        raise ValueError("a video has no frames")
    sound = None if value["sound"] is None else _unpacked_sound(value["sound"])
    taken = tuple(Frame(float(frame["seconds"]), _unpacked_picture(frame)) for frame in frames)
    return Clip(taken, sound, str(value["name"]), value["duration"], value["sound_seconds"])
