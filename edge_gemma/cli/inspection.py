"""What a GGUF file contains, as plain data: the arithmetic behind `edge-gemma info`.

Works on the metadata and the list of tensors of any GGUF file. Where the file lacks a key, the result lacks it too. This
module opens no files and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metadata = Mapping[str, Any]

MAX_LAYERS = 10_000  # a larger number comes from a damaged file
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8": 36 / 32}  # bytes of a value in the cache; q8: blocks of 32 with a float scale
TOKEN_TYPES = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}
NAMED_TOKENS = ("bos", "eos", "unknown", "padding", "mask")
ENCODER_KEYS = (
    "projector_type",
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "projection_dim",
    "patch_size",
    "num_mel_bins",
)
BUDGETS = (70, 140, 280, 560, 1120)  # soft tokens of a picture, at most
TURN_TOKENS = ("<|turn>", "<turn|>", "<|tool_response>", "<|channel>", "<|think|>", "<|image>", "<|audio>")
ENCODERS = ("audio encoder", "image encoder")  # parts of a model
TEMPLATE_FEATURES = {  # feature -> a word in every template that has it
    "system": "system",
    "tools": "tools",
    "thinking": "enable_thinking",
    "images": "image",
    "audio": "audio",
    "video": "video",
}


@dataclass(frozen=True)
class TensorRow:
    """One tensor. `dims` has the fastest axis first, as in the file. `bytes` is 0 for an unknown type."""

    name: str
    type: str
    dims: tuple[int, ...]
    bytes: int

    @property
    def count(self) -> int:
        """Number of values."""
        product = 1
        for dim in self.dims:
            product *= dim
        return product


def part_of_model(name: str) -> str:
    """The part of the model that a tensor belongs to, such as "attention"."""
    if name.startswith(("a.", "mm.a.")):
        return ENCODERS[0]
    if name.startswith(("v.", "mm.")):
        return ENCODERS[1]
    if name.startswith("per_layer_token_embd"):
        return "per-layer embeddings"
    if name.startswith(("token_embd.", "output.")):
        return "embeddings"
    leaf = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 3 else name.split(".")[0]
    if "norm" in leaf or leaf in ("layer_output_scale", "rope_freqs"):
        return "norms and scalars"
    if leaf in ("inp_gate", "proj", "per_layer_model_proj"):
        return "per-layer projections"
    if leaf.endswith("_exps") or leaf == "ffn_gate_inp":
        return "experts"
    if leaf.startswith("attn_"):
        return "attention"
    return "ffn" if leaf.startswith("ffn_") else "other"


def totals(rows: Iterable[TensorRow], group: str) -> list[dict[str, Any]]:
    """Number of tensors, parameters and bytes, and share of the bytes, by `group` ("part" or "type"), largest first."""
    sums: dict[str, list[int]] = {}
    for row in rows:
        entry = sums.setdefault(part_of_model(row.name) if group == "part" else row.type, [0, 0, 0])
        for i, value in enumerate((1, row.count, row.bytes)):
            entry[i] += value
    whole = sum(entry[2] for entry in sums.values()) or 1
    ordered = sorted(sums.items(), key=lambda item: -item[1][2])
    return [
        {group: name, "tensors": n, "parameters": count, "bytes": size, "share": size / whole}
        for name, (n, count, size) in ordered
    ]


def main_type(rows: Sequence[TensorRow]) -> str | None:
    """The type of most of the layers' parameters, after which people name the file; of encoders alone theirs."""
    layers = [row for row in rows if row.name.startswith("blk.")]
    layers = layers or [row for row in rows if row.name.startswith(("v.", "a."))]
    by_type = totals(layers, "type")
    return max(by_type, key=lambda entry: entry["parameters"])["type"] if by_type else None


class _Keys:
    """The keys of the file's architecture. A value of the wrong type counts as absent, since files are not trusted."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._prefix = f"{metadata.get('general.architecture')}."

    def number(self, name: str, default: int = 0) -> int:
        """A whole number; `default` if it is absent."""
        value = self._metadata.get(self._prefix + name)
        return int(value) if isinstance(value, (int, float)) and abs(value) < 2**53 else default

    def per_layer(self, name: str, layers: int, default: int = 0) -> list[int]:
        """A number for each layer. The file has one number for all layers, or an array."""
        value = self._metadata.get(self._prefix + name)
        if value is None or isinstance(value, (str, int, float)):
            return [self.number(name, default)] * layers
        try:
            values = [int(v) for v in value[:layers]]
        except (TypeError, ValueError):
            values = []
        return values if len(values) == layers else [default] * layers


@dataclass(frozen=True)
class Layer:
    """A decoder layer. A layer that does not own K/V reads the cache of an earlier layer."""

    local: bool
    owns_kv: bool
    kv_heads: int
    key_length: int
    value_length: int
    ffn: int


def layers_of(metadata: Metadata) -> list[Layer]:
    """The decoder's layers; empty when the file does not describe a decoder."""
    keys = _Keys(metadata)
    n, width = keys.number("block_count"), keys.number("embedding_length")
    if not 0 < n <= MAX_LAYERS or width < 1:
        return []
    heads = keys.per_layer("attention.head_count", n, 1)
    kv_heads = keys.per_layer("attention.head_count_kv", n, heads[0])
    local = keys.per_layer("attention.sliding_window_pattern", n)
    if local[0] > 1:  # a period p instead of an array: every p-th layer is global
        local = [(i + 1) % local[0] for i in range(n)]
    ffn = keys.per_layer("feed_forward_length", n)
    own = n - keys.number("attention.shared_kv_layers")
    key, value = (keys.number(f"attention.{side}_length", width // max(heads[0], 1)) for side in ("key", "value"))
    key_local, value_local = (
        keys.number("attention.key_length_swa", key),
        keys.number("attention.value_length_swa", value),
    )
    return [
        Layer(
            local=bool(local[i]),
            owns_kv=i < own,
            kv_heads=kv_heads[i],
            key_length=key_local if local[i] else key,
            value_length=value_local if local[i] else value,
            ffn=ffn[i],
        )
        for i in range(n)
    ]


def shape(metadata: Metadata) -> dict[str, Any]:
    """The dimensions of the decoder or of the encoders, as far as the file has them."""
    if metadata.get("general.architecture") == "clip":
        return {side: found for side in ("vision", "audio") if (found := _encoder(metadata, side))}
    layers = layers_of(metadata)
    if not layers:
        return {}

    keys = _Keys(metadata)
    kinds = {"local": [x for x in layers if x.local], "global": [x for x in layers if not x.local]}
    result = {
        "layers": len(layers),
        "global_layers": [i for i, layer in enumerate(layers) if not layer.local] if kinds["local"] else None,
        "kv_layers": sum(layer.owns_kv for layer in layers),
        "hidden_size": keys.number("embedding_length"),
        "heads": keys.per_layer("attention.head_count", len(layers))[0],
        "kv_heads": {kind: members[0].kv_heads for kind, members in kinds.items() if members},
        "head_dim": {kind: members[0].key_length for kind, members in kinds.items() if members},
        "ffn": [{"width": width, "layers": n} for width, n in _runs([layer.ffn for layer in layers])],
        "sliding_window": keys.number("attention.sliding_window") if kinds["local"] else None,
        "context_length": keys.number("context_length"),
        "per_layer_input": keys.number("embedding_length_per_layer_input"),
        "experts": keys.number("expert_count"),
        "experts_used": keys.number("expert_used_count"),
        "expert_ffn": keys.number("expert_feed_forward_length"),
    }
    always = ("layers", "kv_layers", "hidden_size", "heads")
    return {name: value for name, value in result.items() if value or name in always}


def _encoder(metadata: Metadata, side: str) -> dict[str, Any]:
    """The dimensions of an encoder, "vision" or "audio"; empty if the file lacks it.

    The 12B model has no encoders: its keys are 0, or mean nothing, but for the width. A soft token of it is a patch of 48 x 48
    pixels or a frame of samples.
    """
    if not metadata.get(f"clip.has_{side}_encoder"):
        return {}
    found = {name.split(".")[-1]: metadata.get(f"clip.{side}.{name}") for name in ENCODER_KEYS}
    if found["projector_type"] == "gemma4uv":
        found["patch_size"] = _number(metadata, "clip.vision.patch_size") * _pool(metadata)
    if found["projector_type"] == "gemma4ua":
        found |= {"num_mel_bins": None, "samples_per_token": found.pop("embedding_length")}
    return {name: value for name, value in found.items() if value not in (None, 0)}


def _number(metadata: Metadata, key: str, default: int = 0) -> int:
    """A whole number under a full key; `default` if it is absent or no whole number of a sensible size."""
    value = metadata.get(key)
    return value if isinstance(value, int) and 0 <= value < 2**31 else default


def _pool(metadata: Metadata) -> int:
    return _number(metadata, "clip.vision.projector.scale_factor", 3)


def picture_costs(metadata: Metadata, rows: Iterable[TensorRow]) -> list[dict[str, int]]:
    """What the largest picture of each budget costs: soft tokens, patches, and multiply-adds; empty without a vision encoder.

    Every patch multiplies the matrices of all layers once. In the attention of a layer each of n patches meets all of them,
    once as a key and once as a value: 2 n^2 width. The projection to the model's width comes after patches have become tokens.
    """
    if not metadata.get("clip.has_vision_encoder"):
        return []
    unified = metadata.get("clip.vision.projector_type") == "gemma4uv"
    layers, width = (_number(metadata, f"clip.vision.{key}") for key in ("block_count", "embedding_length"))
    matrices = [row for row in rows if row.name.endswith(".weight") and len(row.dims) > 1]
    patch = sum(row.count for row in matrices if row.name.startswith(("v.blk.", "v.patch_embd.")))
    token = sum(row.count for row in matrices if row.name.startswith("mm.") and not row.name.startswith("mm.a."))
    costs = []
    for budget in BUDGETS:
        n = budget if unified else budget * _pool(metadata) ** 2
        work = n * patch + 2 * n**2 * width * layers + budget * token
        costs.append({"budget": budget, "patches": n, "multiply_adds": work})
    return costs


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """Run lengths: (value, number of consecutive layers with it)."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return runs


def decode_bytes(metadata: Metadata, rows: Iterable[TensorRow]) -> int:
    """Bytes of weights that one decoded token reads; 0 if the file is not a decoder.

    Counted are the matrices of all layers, the output head (the embedding table if they are tied), and one row of each
    embedding table. Of the experts, only those in use count. K/V matrices of layers that share a cache do not count, nor
    do vectors, nor encoders that are in the same file.
    """
    rows = list(rows)
    layers = layers_of(metadata)
    names = {row.name for row in rows}
    if not layers or "token_embd.weight" not in names:
        return 0
    keys = _Keys(metadata)
    experts, used = keys.number("expert_count"), keys.number("expert_used_count")
    total = 0.0
    for row in rows:
        fields = row.name.split(".")
        size: float = row.bytes
        if len(row.dims) < 2 or part_of_model(row.name) in ENCODERS:
            continue
        if row.name.startswith(("per_layer_token_embd.", "token_embd.")):
            is_head = row.name.startswith("token_embd.") and "output.weight" not in names
            size = row.bytes / max(row.dims[-1], 1) + (row.bytes if is_head else 0)
        elif fields[0] == "blk" and len(fields) >= 3:
            shares = fields[1].isdigit() and int(fields[1]) < len(layers) and not layers[int(fields[1])].owns_kv
            if shares and fields[2] in ("attn_k", "attn_v"):
                size = 0
            elif fields[2].endswith("_exps") and experts and fields[-1] == "weight":
                size = row.bytes * used / experts
        total += size
    return round(total)


def kv_bytes(metadata: Metadata, context: int, kv: str) -> int:
    """Bytes of K/V cache for `context` tokens. Local layers keep a window; layers that share a cache keep nothing."""
    window = _Keys(metadata).number("attention.sliding_window") or context
    numbers = sum(
        layer.kv_heads * (layer.key_length + layer.value_length) * (min(window, context) if layer.local else context)
        for layer in layers_of(metadata)
        if layer.owns_kv
    )
    return round(numbers * KV_BYTES[kv])


def vocabulary(metadata: Metadata) -> dict[str, Any]:
    """Size, number of tokens by kind, and special tokens by name; empty without a vocabulary."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None or len(tokens) == 0:
        return {}
    result: dict[str, Any] = {"model": metadata.get("tokenizer.ggml.model"), "size": len(tokens)}
    types = metadata.get("tokenizer.ggml.token_type")
    if types is not None:
        counts: dict[int, int] = {}
        for kind in types:
            counts[int(kind)] = counts.get(int(kind), 0) + 1
        result["types"] = {TOKEN_TYPES.get(kind, str(kind)): n for kind, n in sorted(counts.items())}
    merges = metadata.get("tokenizer.ggml.merges")
    result["merges"] = 0 if merges is None else len(merges)
    special = {}
    for name in NAMED_TOKENS:
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            special[name] = {"id": index, "text": tokens[index]}
    wanted = set(TURN_TOKENS)
    for index, text in enumerate(tokens):
        if text in wanted:
            special.setdefault(text, {"id": index, "text": text})
    result["special"] = special
    return result


def context_limit(metadata: Metadata) -> int:
    """The context length in the metadata; 0 if it is absent."""
    return max(_Keys(metadata).number("context_length"), 0)


def template_features(template: Any) -> dict[str, Any] | None:
    """Length and features of a chat template; None without one."""
    if not template or not isinstance(template, str):
        return None
    features = [name for name, mark in TEMPLATE_FEATURES.items() if mark in template]
    return {"characters": len(template), "features": features}
