"""Batches of pictures, and a head that teaches the vision encoder what is where before the decoder reads it.

The decoder alone tells the encoder little: a few words for a whole picture. The head asks every patch for the shape and the
character that it belongs to, and every soft token for the kind, the color and the box of its thing, and for the characters in
its columns of patches. It is not part of the model.
"""

from __future__ import annotations

import dataclasses
import math
import random
import string
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import network
import scenes

PARTS = (*scenes.SHAPES, *string.digits, *string.ascii_uppercase)  # of patches; 0 is the ground
KINDS = (*scenes.SHAPES, "number", "word")  # of soft tokens; 0 is the ground
COLORS = tuple(scenes.COLORS)
BINS = 26  # of a side of a box, 40 thousandths apart
PRECISION = (
    10  # the weight of the mean distance of a side, as a share of the picture, beside the cross entropy of its bins
)
IGNORED = -100
SMALLEST = 200  # pixels of the side of the smallest square pictures
WIDEST = 3.6  # the ratio of the sides of the widest pictures; places beyond theirs are not learned
TALL = 0.4  # the share of pictures that are made taller than wide, beside those that happen to be: they are harder


@dataclasses.dataclass
class Pictures:
    """Pictures of one size.

    Attributes:
        patches: (n, patches, 768) uint8.
        columns, rows: soft tokens of a picture.
        parts: (n, patches) index into PARTS + 1.
        written: (n, soft tokens, 3) the character in each column of patches of a soft token: index into PARTS + 1.
        kinds, colors: (n, soft tokens) index into KINDS + 1 and COLORS.
        boxes: (n, soft tokens, 4) top, left, bottom, right from 0 to 1; only where there is a thing.
        scenes: the pictures. Their pixels are left out.
    """

    patches: Tensor
    columns: int
    rows: int
    parts: Tensor
    written: Tensor
    kinds: Tensor
    colors: Tensor
    boxes: Tensor
    scenes: list[scenes.Scene]


class Drawings(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """An endless stream of batches.

    Args:
        seed: of the random numbers.
        tokens: the budgets of soft tokens, of which each batch has one.
        patches: patches of a batch, which determine its size.
        held_out: whether the pictures are those for tests.
        rank: the number of the process. Processes with the same seed get pictures of the same size at the same time, since
            all wait for the last one.
    """

    def __init__(self, seed: int, tokens: tuple[int, ...], patches: int, held_out: bool = False, rank: int = 0) -> None:
        self.seed, self.tokens, self.patches, self.held_out, self.rank = seed, tokens, patches, held_out, rank

    def __iter__(self) -> Iterator[Pictures]:
        torch.set_num_threads(1)
        sizes, drawn = random.Random(self.seed), random.Random(f"{self.seed} {self.rank}")
        while True:
            budget = sizes.choice(self.tokens)
            columns, rows = grid(sizes, budget)
            yield batch(drawn, columns, rows, max(2, self.patches // (9 * columns * rows)), self.held_out)


def grid(rng: random.Random, budget: int) -> tuple[int, int]:
    """Columns and rows of soft tokens of pictures whose sides have a random ratio, at most that of the widest ones."""
    exponent = rng.uniform(-1, 1)
    ratio = WIDEST ** (-abs(exponent) if rng.random() < TALL else exponent)
    return scenes.target_size(max(1, round(1000 * ratio)), 1000, budget)


def batch(rng: random.Random, columns: int, rows: int, size: int, held_out: bool) -> Pictures:
    """Pictures of random sizes that are resized to the same one, which many of them are smaller than: small pictures are asked
    about, too. Their sides' ratio changes by up to a tenth, as it does when Gemma 4 resizes."""
    patches, parts, written, kinds, colors, boxes, drawn = [], [], [], [], [], [], []
    smallest = min(0.8, SMALLEST / (scenes.CELL * math.sqrt(columns * rows)))
    for _ in range(size):
        scale = scenes.CELL * (1.0 if rng.random() < 0.2 else smallest * (1.8 / smallest) ** rng.random())
        width = round(columns * scale * rng.uniform(1, 1.1))
        height = round(rows * scale * rng.uniform(1, 1.1))
        scene = scenes.draw(rng, width, height, held_out)
        patches.append(scenes.patches(scene.pixels, columns, rows))
        parts.append(_parts(scene, columns * 3, rows * 3))
        written.append(_written(parts[-1], columns, rows))
        for list_, value in zip((kinds, colors, boxes), _cells(scene, columns, rows), strict=True):
            list_.append(value)
        drawn.append(dataclasses.replace(scene, pixels=np.empty((height, width, 0), np.uint8)))
    arrays = (torch.from_numpy(np.stack(values)) for values in (patches, parts, written, kinds, colors, boxes))
    first, *labels = arrays
    return Pictures(first, columns, rows, *labels, drawn)


def _centers(scene: scenes.Scene, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The middles of a grid's cells in pixels of the picture."""
    height, width = scene.pixels.shape[:2]
    y, x = np.mgrid[:rows, :columns] + 0.5
    return x * width / columns, y * height / rows


def _parts(scene: scenes.Scene, columns: int, rows: int) -> np.ndarray:
    x, y = _centers(scene, columns, rows)
    found = np.zeros((rows, columns), np.int64)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        inside = (y > top) & (y < bottom)
        if not thing.text:
            found[inside & (x > left) & (x < right)] = 1 + PARTS.index(thing.kind)
        for char, begin, end in zip(thing.text, thing.marks, thing.marks[1:], strict=False):
            found[inside & (x > begin) & (x < end)] = 1 + PARTS.index(char)
    return found.reshape(-1)


def _written(parts: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """The characters in the three columns of each soft token; 0 where there is none."""
    grid = np.where(parts > len(scenes.SHAPES), parts, 0).reshape(rows, 3, columns, 3)
    return grid.max(1).reshape(-1, 3)


def cells(scene: scenes.Scene, thing: scenes.Thing, columns: int, rows: int) -> np.ndarray:
    """(rows, columns) which soft tokens belong to a thing: those whose middle it covers, and that of its own middle."""
    (left, top, right, bottom), (across, down) = thing.box, thing.middle
    height, width = scene.pixels.shape[:2]
    x, y = _centers(scene, columns, rows)
    inside = (y > top) & (y < bottom) & (x > left) & (x < right)
    inside[int(down / height * rows), int(across / width * columns)] = True
    return inside


def _cells(scene: scenes.Scene, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = scene.pixels.shape[:2]
    kinds, colors = np.zeros((rows, columns), np.int64), np.full((rows, columns), IGNORED)
    boxes = np.zeros((rows, columns, 4), np.float32)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        inside = cells(scene, thing, columns, rows)
        kinds[inside], colors[inside] = 1 + KINDS.index(thing.kind), COLORS.index(thing.color)
        boxes[inside] = (top / height, left / width, bottom / height, right / width)
    return kinds.reshape(-1), colors.reshape(-1), boxes.reshape(-1, 4)


class Head(nn.Module):
    """What patches and soft tokens are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Linear(network.VISION_WIDTH, 1 + len(PARTS))
        self.things = nn.Linear(network.WIDTH, 1 + len(KINDS) + len(COLORS) + 4 * BINS)
        self.columns = nn.Linear(network.WIDTH, 3 * (1 + len(PARTS)))

    def losses(self, states: Tensor, soft: Tensor, pictures: Pictures) -> dict[str, Tensor]:
        """The cross entropies, and (with "=") the shares of right answers and the mean distance of a box's sides."""
        parts = self.parts(states).flatten(0, 1).float()
        sizes = (1 + len(KINDS), len(COLORS), 4 * BINS)
        kinds, colors, sides = self.things(soft).flatten(0, 1).float().split(sizes, -1)
        wanted = pictures.parts.flatten(), pictures.kinds.flatten(), pictures.colors.flatten()
        things = wanted[1] > 0
        # A side of a box lies between two bins, with weights by its distances from them.
        places = pictures.boxes.flatten(0, 1)[things].clamp(0, 1) * (BINS - 1)
        low = places.floor().clamp(max=BINS - 2).long()
        weight = places - low
        scores = F.log_softmax(sides[things].unflatten(-1, (4, BINS)), -1)
        near = scores.gather(-1, low[..., None]).squeeze(-1) * (1 - weight)
        guess = (scores.exp() * torch.arange(BINS)).sum(-1)
        missed = (guess - places).abs().mean() / (BINS - 1)
        box = PRECISION * missed - (near + scores.gather(-1, low[..., None] + 1).squeeze(-1) * weight).mean()
        columns = self.columns(soft).unflatten(-1, (3, -1)).flatten(0, 2).float()
        characters = pictures.written.flatten()
        return {
            "part": _balanced(parts, wanted[0]),
            "kind": _balanced(kinds, wanted[1]),
            "hue": F.cross_entropy(colors, wanted[2], ignore_index=IGNORED),
            "box": box,
            "column": _balanced(columns, characters),
            "part=": (parts.argmax(-1) == wanted[0])[wanted[0] > 0].float().mean(),
            "kind=": (kinds.argmax(-1) == wanted[1])[things].float().mean(),
            "hue=": (colors.argmax(-1) == wanted[2])[things].float().mean(),
            "column=": _share(columns.argmax(-1) == characters, characters > 0),
            "side~": missed,
        }


def _balanced(scores: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy in which the ground and the things have the same weight."""
    each = F.cross_entropy(scores, wanted, reduction="none")
    there = wanted > 0
    return (each * there).sum() / there.sum().clamp(min=1) + 0.5 * (each * ~there).sum() / (~there).sum().clamp(min=1)


def _share(right: Tensor, where: Tensor) -> Tensor:
    """The share of right ones among those; 1 if there are none."""
    return (right & where).sum() / where.sum() if where.any() else torch.tensor(1.0)
