"""`Box`: where something is in a picture, as the model tells it; reading its answer, and drawing it.

The model writes a JSON list of {"box_2d": [y0, x0, y1, x1], "label": text}, with numbers from 0 to 1000 for the height and the
width of the picture, whatever its size. It does not always keep to that, so the reader takes what can be understood.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

__all__ = ["Box", "draw_boxes", "parse_boxes"]

_SCALE = 1000  # the model's numbers for the whole height or width
_BOXES = ("box_2d", "bounding_box", "bbox_2d", "box", "bbox")
_POINTS = ("point_2d", "point")
_LABELS = ("label", "name", "text", "caption")
# Well apart from each other for most eyes, also for the colour-blind.
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")
_OPENING = re.compile(r'("\s*:\s*)?[\[{]')


@dataclass(frozen=True)
class Box:
    """A rectangle in a picture, in pixels of the picture as `load_image` opens it: turned as its EXIF orientation says.

    Attributes:
        label: what the model calls it.
        left, top: the first column and row, within 0 and the picture's size.
        right, bottom: the column and row behind the last. A point has right == left and bottom == top.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from left to right; 0 for a point."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from top to bottom; 0 for a point."""
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


def parse_boxes(answer: str, width: int, height: int, label: str = "") -> list[Box]:
    """The boxes in an answer of the model, in its order.

    Args:
        answer: a JSON list of objects, one object, or an object that holds the list, also in a fence of ``` and with other
            text around it. Of a list that is cut off, the entries before the cut count. An object has "box_2d": [y0, x0,
            y1, x1] or "point": [y, x], from 0 to 1000, and may have a "label". A bare list of four numbers is a box.
        width, height: of the picture in pixels.
        label: for entries that have none.

    Ends that are swapped are put in order, and numbers outside 0 to 1000 are moved to the border. What is no box is left out:
    an entry without four finite numbers (two for a point), and a box without any area after that.
    """
    boxes = []
    for entry in _entries(answer):
        numbers = next((entry[key] for key in (*_BOXES, *_POINTS) if key in entry), None)
        text = next((entry[key] for key in _LABELS if isinstance(entry.get(key), str)), "")
        box = _box(numbers, " ".join(text.split()) or label, width, height)
        if box is not None and box not in boxes:  # a model that repeats itself has not found more
            boxes.append(box)
    return boxes


def _box(numbers: Any, label: str, width: int, height: int) -> Box | None:
    """The box of four numbers, or two for a point; None for anything else."""
    if not isinstance(numbers, list) or len(numbers) not in (2, 4) or not all(map(_is_number, numbers)):
        return None
    y, x = ([min(max(float(n) / _SCALE, 0.0), 1.0) for n in numbers[start::2]] for start in (0, 1))
    box = Box(label, min(x) * width, min(y) * height, max(x) * width, max(y) * height)
    return box if len(numbers) == 2 or (box.width > 0 and box.height > 0) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _entries(answer: str) -> Iterator[dict[str, Any]]:
    """The objects of an answer, and bare lists of numbers as objects."""
    end = 0
    for found in _OPENING.finditer(answer):
        start = found.end() - 1
        if start < end or (found[1] and answer[start] == "["):  # the value of a key: its object was cut off
            continue
        try:
            # Of a list that was cut off, no bracket at its start fits: its entries are found one by one.
            value, end = json.JSONDecoder().raw_decode(answer, start)
        except ValueError:
            continue
        except RecursionError:
            return
        yield from _objects(value)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects with a box or a point in a JSON value, at any depth."""
    if isinstance(value, dict):
        if any(key in value for key in (*_BOXES, *_POINTS)):
            yield value
        else:
            for item in value.values():
                yield from _objects(item)
    elif isinstance(value, list):
        if len(value) == 4 and all(map(_is_number, value)):
            yield {"box_2d": value}
        else:
            for item in value:
                yield from _objects(item)


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[Box]) -> PIL.Image.Image:
    """A copy of a picture, (h, w, 3) uint8, with boxes, points and their labels drawn on it. Labels have a colour each."""
    image = PIL.Image.fromarray(pixels)
    draw = PIL.ImageDraw.Draw(image)
    longest = max(image.size)
    line = max(2, round(longest / 400))
    font: Any = PIL.ImageFont.load_default(max(12, round(longest / 50)))
    colours: dict[str, str] = {}
    for box in boxes:
        colour = colours.setdefault(box.label, _COLOURS[len(colours) % len(_COLOURS)])
        if box.width or box.height:
            right, bottom = max(box.left, box.right - 1), max(box.top, box.bottom - 1)
            draw.rectangle((box.left, box.top, right, bottom), outline=colour, width=line)
        else:
            radius = 2 * line
            draw.ellipse(
                (box.left - radius, box.top - radius, box.left + radius, box.top + radius), outline=colour, width=line
            )
        if box.label:
            _draw_label(draw, box, colour, font, image.size)
    return image


def _draw_label(draw: PIL.ImageDraw.ImageDraw, box: Box, colour: str, font: Any, size: tuple[int, int]) -> None:
    """Writes the label above the box, or inside where there is no room."""
    text = (
        box.label.encode("latin-1", "replace").decode("latin-1")
        if font.__class__ is PIL.ImageFont.ImageFont
        else box.label
    )
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(box.left, 0), max(size[0] - width, 0))
    y = box.top - height if box.top >= height else min(box.top, max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), text, fill="white", font=font)
