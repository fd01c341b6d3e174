"""The pictures that come with the package, and what a model says about them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..vision.boxes import Box
from ..vision.describe import Describer
from ..vision.images import load_image

__all__ = ["BUDGET", "FOLDER", "Look", "Picture", "blocks", "bundled_pictures", "look"]

FOLDER = Path(__file__).parent / "data" / "pictures"
"""The folder of the pictures and of `pictures.json`, which tells what they show."""

BUDGET = 140
"""Soft tokens of a picture. With this size the embedded model is right most often."""

_OVERLAP = 0.7  # intersection over union from which a box is right


@dataclass(frozen=True)
class Picture:
    """A picture, and the right answers about it.

    Attributes:
        path: the file.
        description: what it shows.
        question, answer: a question about it, and its answer.
        label: what is to be found in it.
        boxes: left, top, right, bottom of what has that label, in pixels.
    """

    path: Path
    description: str
    question: str
    answer: str
    label: str
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Look:
    """What a model says about a picture.

    Attributes:
        picture: the picture.
        description, answer: its words.
        boxes: what it has found.
        seconds: the time until the description was complete.
    """

    picture: Picture
    description: str
    answer: str
    boxes: tuple[Box, ...]
    seconds: float

    def verdict(self) -> dict[str, bool]:
        """Whether "description", "answer" and "boxes" are right. Capitals and punctuation do not count. Boxes are right if each
        covers one of the right ones well, and none is left over."""
        found = [(box.left, box.top, box.right, box.bottom) for box in self.boxes]
        matched = all(
            max((overlap(right, box) for box in found), default=0) >= _OVERLAP for right in self.picture.boxes
        )
        return {
            "description": _words(self.description) == _words(self.picture.description),
            "answer": _words(self.answer) == _words(self.picture.answer),
            "boxes": matched and len(found) == len(self.picture.boxes),
        }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def bundled_pictures(folder: str | os.PathLike[str] | None = None) -> list[Picture]:
    """The pictures of a folder, in order; None for that of the package. [] where there is no list of pictures.

    Raises:
        EdgeGemmaOSError: "file" when a picture is missing.
        EdgeGemmaValueError: "format" for a list that cannot be read.
    """
    listing = Path(folder or FOLDER) / "pictures.json"
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
        found = [
            Picture(
                listing.parent / entry["file"],
                entry["description"],
                entry["question"],
                entry["answer"],
                entry["label"],
                tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in entry["boxes"]),
            )
            for entry in entries
        ]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeGemmaValueError(f"{listing}: not a list of pictures: {error}.", "format") from error
    if missing := next((item.path for item in found if not item.path.is_file()), None):
        raise EdgeGemmaOSError(f"{missing}: missing, although {listing.name} names it.", "file")
    return found


def look(describer: Describer, picture: Picture) -> Look:
    """Has a picture described, its question answered, and its label located. Raises as `Describer.describe`."""
    pixels = load_image(picture.path)
    begun = time.monotonic()
    description = describer.describe(pixels, None, BUDGET).text
    seconds = time.monotonic() - begun
    answer = describer.describe(pixels, picture.question, BUDGET).text
    return Look(picture, description, answer, tuple(describer.locate(pixels, picture.label, BUDGET)), seconds)


def blocks(pixels: NDArray[np.uint8], boxes: Sequence[Any], columns: int) -> list[str]:
    """The lines of a picture for a terminal with true colors, two pixels to a character, with boxes in the opposite color."""
    height, width = pixels.shape[:2]
    rows = max(2, round(columns * height / width / 2) * 2)
    small = np.array(PIL.Image.fromarray(pixels).resize((columns, rows), PIL.Image.Resampling.BOX))
    for box in boxes:
        left, right = (min(columns - 1, int(x * columns / width)) for x in (box.left, box.right))
        top, bottom = (min(rows - 1, int(y * rows / height)) for y in (box.top, box.bottom))
        edge = np.zeros((rows, columns), bool)
        edge[[top, bottom], left : right + 1] = edge[top : bottom + 1, [left, right]] = True
        small[edge] = 255 - small[edge]
    lines = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀" for (a, b, c), (d, e, f) in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return lines
