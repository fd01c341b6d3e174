"""Drawn pictures with their descriptions, questions about them, and boxes around what they show.

A picture has one to five things on a plain, shaded, striped or noisy ground. A thing is a shape, a number or a word. Some
pictures are held out for the tests: one in twenty of the pairs of things, and one in twenty of the numbers.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLORS = {
    "red": (214, 36, 32),
    "green": (38, 156, 58),
    "blue": (36, 72, 214),
    "yellow": (246, 214, 30),
    "orange": (246, 134, 20),
    "purple": (140, 44, 176),
    "black": (20, 20, 22),
    "white": (246, 246, 244),
}
WORDS = (
    "STOP GO OPEN EXIT YES NO HELLO HOME MILK BREAD EGGS RICE TAXI BUS HOTEL CAFE SALE FREE PUSH PULL ON OFF UP DOWN LEFT "
    "RIGHT NORTH SOUTH EAST WEST RED BLUE"
).split()
NUMBERS = ("none", "one", "two", "three", "four", "five")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
PATCH, POOL = 16, 3
CELL = PATCH * POOL  # pixels of a soft token's side

Point = tuple[float, float]


def _star(turn: float) -> list[Point]:
    radii = (1.0, 0.42)
    return [
        (radii[at % 2] * math.sin(math.pi * at / 5 + turn), -radii[at % 2] * math.cos(math.pi * at / 5 + turn))
        for at in range(10)
    ]


def _heart(turn: float) -> list[Point]:
    points = []
    for at in range(40):
        t = 2 * math.pi * at / 40
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((x / 17, (y - 2.5) / 17))
    return _turned(points, turn)


def _polygon(*points: Point) -> Callable[[float], list[Point]]:
    return lambda turn: _turned(list(points), turn)


def _turned(points: list[Point], turn: float) -> list[Point]:
    c, s = math.cos(turn), math.sin(turn)
    return [(x * c - y * s, x * s + y * c) for x, y in points]


_A = 0.34  # half of the width of the cross's arms
SHAPES: dict[str, Callable[[float], list[Point]]] = {
    "circle": lambda turn: [(math.sin(2 * math.pi * at / 48), math.cos(2 * math.pi * at / 48)) for at in range(48)],
    "square": _polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": _polygon((0, -0.9), (0.95, 0.75), (-0.95, 0.75)),
    "star": _star,
    "heart": _heart,
    "cross": _polygon(
        *[(-_A, -0.9), (_A, -0.9), (_A, -_A), (0.9, -_A), (0.9, _A), (_A, _A)],
        *[(_A, 0.9), (-_A, 0.9), (-_A, _A), (-0.9, _A), (-0.9, -_A), (-_A, -_A)],
    ),
}


def _noun(kind: str, color: str, text: str) -> str:
    return f"{kind} {text}" if text else f"{color} {kind}"


Plan = list[tuple[str, str, str]]  # kind, color and text of each thing


def _held_out(plan: Plan, relation: str) -> bool:
    keys = [text for kind, _, text in plan if kind == "number"]
    if relation:
        keys.append(" ".join(_noun(*thing) for thing in plan))
    return any(int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 20 == 0 for key in keys)


@dataclass(frozen=True)
class Thing:
    """What a picture shows.

    Attributes:
        kind: a shape, "number" or "word".
        color: a name of `COLORS`.
        text: what is written; "" for a shape.
        box: left, top, right, bottom in pixels.
        marks: the left sides of the characters of the text, and the right side of the last one.
    """

    kind: str
    color: str
    text: str
    box: tuple[float, float, float, float]
    marks: tuple[float, ...] = ()

    @property
    def middle(self) -> Point:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def noun(self) -> str:
        """Color and shape, or the kind of text with the text."""
        return _noun(self.kind, self.color, self.text)

    @property
    def phrase(self) -> str:
        """The noun with its article."""
        article = "the" if self.text else "an" if self.noun[0] in "aeiou" else "a"
        return f"{article} {self.noun}"


@dataclass(frozen=True)
class Scene:
    """A picture.

    Attributes:
        pixels: (h, w, 3) uint8.
        things: what it shows: all equal, or all different and ordered from left to right, or from top to bottom.
        relation: "left of" or "above" if that is the place of the first of two things; "" otherwise.
    """

    pixels: NDArray[np.uint8]
    things: tuple[Thing, ...]
    relation: str

    @property
    def alike(self) -> bool:
        """Whether all things are of the same kind and color."""
        return len({(thing.kind, thing.color, thing.text) for thing in self.things}) == 1

    @property
    def held_out(self) -> bool:
        return _held_out([(thing.kind, thing.color, thing.text) for thing in self.things], self.relation)

    def box(self, thing: Thing) -> list[int]:
        """Top, left, bottom, right in thousandths of the picture's height and width, to the hundredth: patches have no more."""
        height, width = self.pixels.shape[:2]
        left, top, right, bottom = thing.box
        return [10 * round(100 * value) for value in (top / height, left / width, bottom / height, right / width)]


# ---- drawing ---------------------------------------------------------------------------------------------------------


def target_size(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Width and height in soft tokens to which Gemma 4 resizes a picture, if neither becomes 0."""
    factor = math.sqrt(max_tokens * CELL * CELL / (width * height))
    return int(factor * width / CELL), int(factor * height / CELL)


def patches(pixels: NDArray[np.uint8], columns: int, rows: int) -> NDArray[np.uint8]:
    """The (9 * columns * rows, 768) patches of a picture that is resized to so many soft tokens."""
    size = (columns * CELL, rows * CELL)
    picture = Image.fromarray(pixels)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    parts = np.asarray(picture).reshape(rows * POOL, PATCH, columns * POOL, PATCH, 3)
    return parts.transpose(0, 2, 1, 3, 4).reshape(-1, PATCH * PATCH * 3)


def draw(rng: random.Random, width: int, height: int, held_out: bool | None = None) -> Scene:
    """A picture of a size. With `held_out`, one that is held out for the tests, or one that is not."""
    while True:
        scene = _Canvas(rng, width, height).paint(_plan(rng), held_out)
        if scene:
            return scene


def _plan(rng: random.Random) -> Plan:
    def shape() -> tuple[str, str, str]:
        return rng.choice(list(SHAPES)), rng.choice(list(COLORS)), ""

    def text() -> tuple[str, str, str]:
        color = rng.choice(list(COLORS))
        if rng.random() < 0.35:
            return "word", color, rng.choice(WORDS)
        return "number", color, str(rng.randrange(10 ** rng.choice((1, 2, 2))))

    kind = rng.choices(("one", "two", "many", "text", "shape and text", "three"), (16, 28, 20, 18, 10, 8))[0]
    if kind == "one":
        return [shape()]
    if kind == "text":
        return [text()]
    if kind == "many":
        return [shape()] * rng.randint(2, 5)
    if kind == "shape and text":
        return rng.sample([shape(), text()], 2)
    found: Plan = []
    while len(found) < (2 if kind == "two" else 3):
        one = shape()
        if one not in found:
            found.append(one)
    return found


class _Canvas:
    """A picture that is being drawn."""

    def __init__(self, rng: random.Random, width: int, height: int) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.scale = math.sqrt(width * height)

    def paint(self, plan: Plan, held_out: bool | None) -> Scene | None:
        """The picture, or None if the things found no place, or if it is held out or not and should not be so."""
        alike = len(set(plan)) == 1
        places = self._places(plan, alike)
        if places is None:
            return None
        boxes, relation = places
        if held_out not in (None, _held_out(plan, relation)):
            return None
        ground = self._ground({color for _, color, _ in plan})
        image = Image.fromarray(ground)
        pen = ImageDraw.Draw(image)
        things = []
        for (kind, color, text), box in zip(plan, boxes, strict=True):
            fill = tuple(min(255, max(0, part + self.rng.randint(-14, 14))) for part in COLORS[color])
            if text:
                things.append(Thing(kind, color, text, *self._write(pen, text, box, fill)))
            else:
                things.append(Thing(kind, color, text, self._shape(pen, kind, box, fill)))
        return Scene(np.asarray(image), tuple(things), relation)

    # Places: boxes into which the things are drawn.

    def _places(self, plan: Plan, alike: bool) -> tuple[list[tuple[float, ...]], str] | None:
        count = len(plan)
        smallest, largest = {1: (0.3, 0.8), 2: (0.24, 0.5), 3: (0.22, 0.38), 4: (0.2, 0.34), 5: (0.18, 0.3)}[count]
        size = self.rng.uniform(smallest, largest) * self.scale
        for _ in range(60):
            boxes = [self._place(text, size, alike) for _, _, text in plan]
            if any(box is None for box in boxes):
                size *= 0.9
                continue
            found = [box for box in boxes if box]
            if all(_apart(a, b, 0.02 * self.scale) for at, a in enumerate(found) for b in found[:at]):
                if count == 1 or alike:
                    return found, ""
                if order := self._order(found):
                    return order
            size *= 0.99
        return None

    def _place(self, text: str, size: float, alike: bool) -> tuple[float, ...] | None:
        """A random box for a thing, or None if it is too large for the picture."""
        size *= self.rng.uniform(0.9, 1.1) if alike else self.rng.uniform(0.7, 1.3)
        width, height = size, size
        if text:
            height = min(size, 0.4 * self.scale) * 0.8
            width = height * (0.75 * len(text) + 0.1)
        margin = 0.01 * self.scale
        if width > self.width - 2 * margin or height > self.height - 2 * margin:
            return None
        left = self.rng.uniform(margin, self.width - margin - width)
        top = self.rng.uniform(margin, self.height - margin - height)
        return left, top, left + width, top + height

    def _order(self, boxes: list[tuple[float, ...]]) -> tuple[list[tuple[float, ...]], str] | None:
        """The boxes from left to right or from top to bottom, and the relation of two; None unless it is clear."""
        for axis, relation in self.rng.sample([(0, "left of"), (1, "above")], 2):
            row = sorted(boxes, key=lambda box: box[axis] + box[axis + 2])
            clear = all(a[axis + 2] < b[axis] for a, b in itertools.pairwise(row))
            if len(row) == 2:
                along, across = (abs(sum(row[0][k::2]) - sum(row[1][k::2])) for k in (axis, 1 - axis))
                if clear and along > 1.5 * across:
                    return row, relation
            elif clear and axis == 0:
                return row, ""
        return None

    # Pixels.

    def _ground(self, used: set[str]) -> NDArray[np.uint8]:
        """A ground whose color differs from those of all things."""
        rng, (w, h) = self.rng, (self.width, self.height)
        while True:
            base = np.array([rng.randrange(256) for _ in range(3)] if rng.random() < 0.6 else [rng.randrange(256)] * 3)
            if rng.random() < 0.4:
                base = 255 - base // 5
            if min(float(np.abs(base - np.array(COLORS[name])).max()) for name in used) > 90:
                break
        ground = np.empty((h, w, 3), np.float32)
        ground[:] = base
        strength = rng.uniform(8, 30)
        kind = rng.random()
        y, x = np.mgrid[:h, :w].astype(np.float32)
        angle, period = rng.uniform(0, 2 * math.pi), self.scale * rng.uniform(0.04, 0.3)
        along = (x * math.cos(angle) + y * math.sin(angle)) / period
        if kind < 0.25:
            ground += strength * 2 * (along / max(1.0, float(np.abs(along).max())))[..., None]
        elif kind < 0.4:
            ground += strength * np.sign(np.sin(2 * math.pi * along))[..., None] / 2
        elif kind < 0.55:
            noise = np.random.default_rng(rng.randrange(1 << 30))
            ground += noise.normal(0, strength / 2, (h, w, 1)).astype(np.float32)
        return np.clip(ground, 0, 255).astype(np.uint8)

    def _shape(self, pen: ImageDraw.ImageDraw, kind: str, box: tuple[float, ...], fill: tuple[int, ...]) -> tuple:
        turn = 0.0 if self.rng.random() < 0.5 else self.rng.uniform(-0.2, 0.2)
        points = np.array(SHAPES[kind](turn))
        low, high = points.min(0), points.max(0)
        scale = min((box[2] - box[0]) / (high[0] - low[0]), (box[3] - box[1]) / (high[1] - low[1]))
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        points = (points - (low + high) / 2) * scale + middle
        pen.polygon([tuple(point) for point in points], fill=fill)
        return (*points.min(0).tolist(), *points.max(0).tolist())

    def _write(self, pen: ImageDraw.ImageDraw, text: str, box: tuple[float, ...], fill: tuple[int, ...]) -> tuple:
        name = self.rng.choice((None, *FONTS))
        width, height = box[2] - box[0], box[3] - box[1]
        size = height * 1.3
        left, top, right, bottom = pen.textbbox((0, 0), text, font=_font(name, 100))
        size = int(min(100 * width / (right - left), 100 * height / (bottom - top)))
        font = _font(name, max(8, size))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x, y = (box[0] + box[2] - left - right) / 2, (box[1] + box[3] - top - bottom) / 2
        pen.text((x, y), text, fill=fill, font=font)
        marks = tuple(x + font.getlength(text[:at]) for at in range(len(text) + 1))
        ink, offset = font.getmask2(text)
        left, top, right, bottom = ink.getbbox()
        x, y = x + offset[0], y + offset[1]
        return (x + left, y + top, x + right, y + bottom), marks


def _apart(a: tuple[float, ...], b: tuple[float, ...], gap: float) -> bool:
    return a[2] + gap < b[0] or b[2] + gap < a[0] or a[3] + gap < b[1] or b[3] + gap < a[1]


@functools.lru_cache(2000)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    """A font of Pillow (None) or of DejaVu."""
    if name is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(f"{name}.ttf", size)


# ---- words -----------------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def description(scene: Scene) -> str:
    """What the picture shows, in a sentence. The noun of each thing is in it, unless they are alike."""
    first = scene.things[0]
    if len(scene.things) == 1:
        return _sentence(first.phrase)
    if scene.alike:
        return _sentence(f"{NUMBERS[len(scene.things)]} {_plural(first)}")
    phrases = [thing.phrase for thing in scene.things]
    if scene.relation:
        return _sentence(f"{phrases[0]} {scene.relation} {phrases[1]}")
    return _sentence(", ".join(phrases[:-1]) + " and " + phrases[-1])


def _plural(thing: Thing) -> str:
    return thing.noun + ("es" if thing.kind == "cross" else "s")


OPPOSITE = {"left of": "right of", "above": "below"}


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        about: what is asked: shape, color, number, text or place.
        text, answer: the question and its answer.
        thing: the thing that must be looked at for the answer, if it is one.
    """

    about: str
    text: str
    answer: str
    thing: Thing | None = None


def questions(scene: Scene) -> list[Question]:
    """Questions about a picture."""
    things, found = scene.things, list[Question]()
    single = things[0] if len(things) == 1 else None
    shapes = [thing for thing in things if not thing.text]
    if scene.alike and shapes:
        answer = _sentence(shapes[0].phrase if len(things) == 1 else _plural(shapes[0]))
        found += [
            Question("shape", question, answer, single) for question in ("Which shape is this?", "What shape is it?")
        ]
    for thing in things if not scene.alike else things[:1]:
        if [other.kind for other in things].count(thing.kind) == 1 or scene.alike:
            many = len(things) > 1 and scene.alike
            noun = (_plural(thing).split()[-1] if many else thing.kind).strip()
            verb = "are" if many else "is"
            found += [
                Question("color", f"{what} color {verb} the {noun}?", _sentence(thing.color), None if many else thing)
                for what in ("What", "Which")
            ]
        if thing.text:
            answer = _sentence(thing.text)
            asked = ["What is written here?", "What does it say?"]
            if thing.kind == "number":
                asked.append("Which number is this?")
            found += [Question("text", question, answer, thing) for question in asked]
    for kind in {thing.kind for thing in shapes}:
        count = sum(thing.kind == kind for thing in things)
        plural = kind + ("es" if kind == "cross" else "s")
        found.append(Question("number", f"How many {plural} are there?", _sentence(NUMBERS[count])))
    if shapes:
        found.append(Question("number", "How many shapes are there?", _sentence(NUMBERS[len(shapes)])))
    if scene.relation:
        one, two = things
        opposite = OPPOSITE[scene.relation]
        found += [
            Question("place", f"Where is the {one.noun}?", _sentence(f"{scene.relation} the {two.noun}")),
            Question("place", f"Where is the {two.noun}?", _sentence(f"{opposite} the {one.noun}")),
            Question("place", f"What is {scene.relation} the {two.noun}?", _sentence(one.phrase), one),
            Question("place", f"What is {opposite} the {one.noun}?", _sentence(two.phrase), two),
        ]
    return found


def labels(scene: Scene) -> dict[str, list[Thing]]:
    """Labels to locate, with their things from left to right."""
    found: dict[str, list[Thing]] = {}
    for thing in sorted(scene.things, key=lambda thing: thing.box):
        for label in (thing.kind,) if thing.text else (thing.kind, f"{thing.color} {thing.kind}"):
            found.setdefault(label, []).append(thing)
    return found
