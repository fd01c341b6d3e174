"""A loss that teaches the decoder to look at the thing that it is asked for.

Without it, the decoder does not find this thing within tens of thousands of answers: it gives the color of the first thing, and
the same box for all. Nothing is gained by looking at the right soft tokens before what is read there is used, and the reverse.
With it, the right thing gets most of the weight within some hundred steps. It is not part of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.gemma4.modeling_gemma4 import apply_rotary_pos_emb

import scenes
import sight

LAYER = 3  # the first layer that sees all of a picture, and whose K/V the last ones share
WEIGHT = 0.3


class Inputs:
    """Notes the inputs of an attention while it is entered.

    Attributes:
        hidden: (n, tokens, width).
        cos, sin: of the positions.
    """

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention
        self.hidden = self.cos = self.sin = torch.empty(0)

    def __enter__(self) -> Inputs:
        self._hook = self.attention.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.hidden = named["hidden_states"] if "hidden_states" in named else positional[0]
        self.cos, self.sin = named["position_embeddings"]


def goals(
    pictures: list[scenes.Scene], things: list[tuple[scenes.Thing | None, ...]], columns: int, rows: int
) -> Tensor:
    """Which soft tokens show what each token of an answer is about.

    Args:
        pictures: one for each answer.
        things: the thing that each token of each answer is about, or None.
        columns, rows: soft tokens of a picture.

    Returns:
        (n, tokens of the longest answer, columns * rows) bool. The answers end together.
    """
    found = np.zeros((len(pictures), max(map(len, things)), columns * rows), bool)
    for at, (scene, row) in enumerate(zip(pictures, things, strict=True)):
        for place, thing in enumerate(row, found.shape[1] - len(row)):
            if thing:
                found[at, place] = sight.cells(scene, thing, columns, rows).reshape(-1)
    return torch.from_numpy(found)


def loss(attention: nn.Module, seen: Inputs, keys: Tensor, wanted: Tensor) -> Tensor:
    """The mean of -log of the weight that the right soft tokens have among all of the picture, in the mean of the heads.

    Args:
        attention: that of `LAYER`.
        seen: its inputs.
        keys: (n, soft tokens, D) of the picture.
        wanted: (n, tokens, soft tokens) from `goals`; the tokens are the last ones of the inputs.
    """
    kept = wanted.shape[1]
    query = attention.q_norm(attention.q_proj(seen.hidden[:, -kept:]).unflatten(-1, (-1, attention.head_dim)))
    query = apply_rotary_pos_emb(query, seen.cos[:, -kept:], seen.sin[:, -kept:], unsqueeze_dim=2)
    weights = torch.einsum("nthd,nsd->nths", query.float(), keys.float()).softmax(-1).mean(2)
    about = wanted.any(-1)
    if not about.any():
        return weights.sum() * 0
    return -(weights * wanted).sum(-1)[about].clamp(min=1e-6).log().mean()
