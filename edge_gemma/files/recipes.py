"""Chooses the type of each tensor when a file is quantized.

Owns the named mixes and the list of tensors that must not be quantized. It works on names and shapes alone. A mix has a base
type for most matrices. Matrices whose errors matter most get more bits: the embeddings (which are also the output head), the
value projections of attention, and the down projections of feed-forward layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..errors import EdgeGemmaValueError
from ..kernels import type_info
from .gguf_source import SourceTensor

__all__ = ["MIXES", "choose_types", "is_float"]

FLOATS = ("F32", "F16", "BF16")

# (index of the layer, number of layers, query heads per key head) -> type of a kind of tensor; None is the base type.
Rule = Callable[[int, int, int], str | None]


def _more_bits(index: int, count: int) -> bool:
    """Whether a layer gets more bits: the first and the last eighth of the layers do, and every third between them."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _always(type: str) -> Rule:
    return lambda index, count, heads: type


def _some(type: str) -> Rule:
    return lambda index, count, heads: type if _more_bits(index, count) else None


def _first_share(share: int, type: str, otherwise: str | None = None) -> Rule:
    """`type` for the first count / share layers."""
    return lambda index, count, heads: type if index < count // share else otherwise


def _first_few(few: int, type: str, otherwise: str | None = None) -> Rule:
    """`type` for the first `few` layers."""
    return lambda index, count, heads: type if index < few else otherwise


def _shared_keys(type: str, otherwise: str | None = None) -> Rule:
    """`type` if four or more query heads share a value head: its errors then affect all of them."""
    return lambda index, count, heads: type if heads >= 4 else otherwise


class Mix(NamedTuple):
    """A named choice of types for the tensors of a file."""

    base: str
    file_type: int  #: its number in general.file_type
    rules: dict[str, Rule]  #: by kind of tensor: attn_v, attn_output, ffn_down
    embedding: str = "Q6_K"


MIXES: dict[str, Mix] = {
    "F32": Mix("F32", 0, {}, "F32"),
    "F16": Mix("F16", 1, {}, "F16"),
    "BF16": Mix("BF16", 32, {}, "BF16"),
    "Q8_0": Mix("Q8_0", 7, {}, "Q8_0"),
    "Q4_0": Mix("Q4_0", 2, {}),
    "Q4_1": Mix("Q4_1", 3, {}),
    "Q5_0": Mix("Q5_0", 8, {}),
    "Q5_1": Mix("Q5_1", 9, {}),
    "Q2_K": Mix(
        "Q2_K",
        10,
        {"attn_v": _shared_keys("Q4_K", "Q3_K"), "attn_output": _always("Q3_K"), "ffn_down": _always("Q3_K")},
    ),
    "Q3_K": Mix("Q3_K", 11, {}),
    "Q3_K_M": Mix(
        "Q3_K",
        12,
        {
            "attn_v": _first_few(2, "Q5_K", "Q4_K"),
            "attn_output": _always("Q4_K"),
            "ffn_down": _first_share(16, "Q5_K", "Q4_K"),
        },
    ),
    "Q4_K": Mix("Q4_K", 14, {}),
    "Q4_K_S": Mix("Q4_K", 14, {"attn_v": _first_few(4, "Q5_K"), "ffn_down": _first_share(8, "Q5_K")}),
    "Q4_K_M": Mix("Q4_K", 15, {"attn_v": _some("Q6_K"), "ffn_down": _some("Q6_K")}),
    "Q5_K": Mix("Q5_K", 16, {}),
    "Q5_K_S": Mix("Q5_K", 16, {}),
    "Q5_K_M": Mix("Q5_K", 17, {"attn_v": _some("Q6_K"), "ffn_down": _some("Q6_K")}),
    "Q6_K": Mix("Q6_K", 18, {}),
    "IQ4_NL": Mix("IQ4_NL", 25, {"attn_v": _shared_keys("Q5_K"), "ffn_down": _first_share(8, "Q5_K")}),
    "IQ4_XS": Mix("IQ4_XS", 30, {"attn_v": _shared_keys("Q5_K"), "ffn_down": _first_share(8, "Q5_K")}),
}

# For rows whose length is not a multiple of 256: the next larger type with blocks of 32.
_SMALLER_BLOCKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight$")
# Small tensors that the engine reads as floats: norms, the router, and the encoders' layers before their first block.
_KEPT = re.compile(
    r"norm|ffn_gate_inp|rope_freqs|per_dim_scale|position_embd|patch_embd|^a\.input_projection|conv1d|conv_dw"
)


def is_float(type: str) -> bool:
    """Whether a type stores floats instead of quantized blocks."""
    return type in FLOATS


def choose_types(
    tensors: Sequence[SourceTensor],
    mix_name: str,
    *,
    encoders: bool = False,
    heads_per_key: int = 1,
    overrides: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """The type of each tensor by name, for a mix of `MIXES`.

    `encoders` is true for an mmproj file, whose matrices all get the base type, but for the projections that end in the
    model's width: they are small, all soft tokens go through them, and in the 12B model there is nothing else, so they get
    eight bits at least. `overrides` are pairs (pattern, type): the
    last one whose shell pattern matches the name decides. Raises ValueError for a pattern that matches no tensor that may
    be quantized.
    """
    mix = MIXES[mix_name]
    layers = 1 + max((int(match[1]) for tensor in tensors if (match := _LAYER.match(tensor.name))), default=0)
    values = sorted(int(m[1]) for t in tensors if (m := _LAYER.match(t.name)) and m[2] == "attn_v")
    chosen: dict[str, str] = {}
    used: set[str] = set()
    for tensor in tensors:
        if not _may_change(tensor):
            chosen[tensor.name] = tensor.type
            continue
        wanted = mix.base if encoders else _by_rule(mix, tensor.name, layers, values, heads_per_key)
        if tensor.name.startswith("mm.") and not is_float(wanted):
            wanted = "Q8_0"
        if tensor.name == "per_layer_model_proj.weight" and not is_float(wanted):
            wanted = tensor.type if is_float(tensor.type) else "F16"  # small, and its errors affect every layer
        for pattern, type in overrides:
            if fnmatchcase(tensor.name, pattern):
                used.add(pattern)
                wanted = type
        chosen[tensor.name] = _fitting(wanted, tensor.shape[0])
    if unused := [pattern for pattern, _ in overrides if pattern not in used]:
        raise EdgeGemmaValueError(f"no tensor that can be quantized has a name like {unused[0]}.", "argument")
    return chosen


def _may_change(tensor: SourceTensor) -> bool:
    return len(tensor.shape) > 1 and tensor.name.endswith(".weight") and not _KEPT.search(tensor.name)


def _by_rule(mix: Mix, name: str, layers: int, values: Sequence[int], heads_per_key: int) -> str:
    """The type that a mix has for a tensor. `values` are the layers that have a value projection."""
    if name in _EMBEDDINGS:
        return mix.embedding
    if not (match := _LAYER.match(name)):
        return mix.base
    layer, kind = int(match[1]), match[2].removesuffix("_exps")
    if not (rule := mix.rules.get(kind)):
        return mix.base
    place = (values.index(layer), len(values)) if kind == "attn_v" else (layer, layers)
    return rule(*place, heads_per_key) or mix.base


def _fitting(type: str, row: int) -> str:
    """The type itself, or a similar one if rows of `row` values are not whole blocks of the type."""
    if row % type_info(type).block:
        type = _SMALLER_BLOCKS.get(type, type)
    return "F16" if row % type_info(type).block else type
