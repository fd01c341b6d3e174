"""Random Gemma 4 checkpoints as Hugging Face directories, of any small shape, and the same made of GGUF files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gemma.files import checkpoint_names as names

LOCAL, GLOBAL = "sliding_attention", "full_attention"
CONTROL = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<|turn>",
    "<turn|>",
    "<|tool_response>",
    "<|image>",
    "<|audio>",
]
LETTERS = [*"▁helowrdab\n", "é", "日"]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "w"), ("o", "r"), ("▁w", "or")]
TOKENS = [*CONTROL, *(f"<0x{i:02X}>" for i in range(256)), *LETTERS, *("".join(pair) for pair in MERGES)]

Tensors = dict[str, NDArray[Any]]


@dataclass
class Shape:
    """A checkpoint with small numbers; defaults are of the E2B kind with both encoders."""

    kinds: list[str] = field(default_factory=lambda: [LOCAL, GLOBAL, LOCAL, GLOBAL])
    width: int = 64
    heads: int = 4
    keys_local: int = 1
    keys_global: int = 1
    head_local: int = 16
    head_global: int = 32
    ffn: int = 96
    shared: int = 2
    ple: int = 32
    experts: int = 0
    k_eq_v: bool = False
    vision: bool = True
    audio: bool = True
    unified: bool = False  # projections as in the 12B model in place of the encoders
    dtype: str = "BF16"
    seed: int = 0

    def config(self) -> dict[str, Any]:
        """config.json."""
        rope = {
            LOCAL: {"rope_theta": 10000.0, "rope_type": "default"},
            GLOBAL: {"rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.25},
        }
        text = {
            "attention_k_eq_v": self.k_eq_v,
            "enable_moe_block": self.experts > 0,
            "final_logit_softcapping": 30.0,
            "head_dim": self.head_local,
            "hidden_size": self.width,
            "hidden_size_per_layer_input": self.ple,
            "intermediate_size": self.ffn,
            "layer_types": self.kinds,
            "max_position_embeddings": 512,
            "model_type": "gemma4_text",
            "moe_intermediate_size": 32 if self.experts else None,
            "num_attention_heads": self.heads,
            "num_experts": self.experts or None,
            "num_hidden_layers": len(self.kinds),
            "num_key_value_heads": self.keys_local,
            "num_kv_shared_layers": self.shared,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "sliding_window": 9,
            "top_k_experts": 2 if self.experts else None,
            "vocab_size": len(TOKENS),
        }
        encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "rms_norm_eps": 1e-6}
        vision = {**encoder, "patch_size": 16, "pooling_kernel_size": 3, "standardize": self.experts > 0}
        audio: dict[str, Any] = encoder
        if self.unified:
            vision = {"patch_size": 16, "pooling_kernel_size": 3, "mm_embed_dim": 48, "rms_norm_eps": 1e-6}
            audio = {"audio_embed_dim": 640, "rms_norm_eps": 1e-6}
        return {
            "model_type": "gemma4_unified" if self.unified else "gemma4",
            "tie_word_embeddings": True,
            "text_config": text,
            "vision_config": vision if self.vision else None,
            "audio_config": audio if self.audio else None,
        }

    def tensors(self) -> Tensors:
        """Names and float32 values."""
        rng = np.random.default_rng(self.seed)
        found: Tensors = {}
        layers, owners = len(self.kinds), len(self.kinds) - self.shared
        dims = {
            "V": len(TOKENS),
            "S": len(TOKENS),
            "d": self.width,
            "P": self.ple,
            "L*P": layers * self.ple,
            "F": self.ffn,
            "E": self.experts,
            "I": 32,
            "2*I": 64,
        }

        def add(rows: Any, prefix: str, sizes: Mapping[str, int]) -> None:
            for row in rows:
                shape = [sizes[dim] if isinstance(dim, str) else dim for dim in row.shape]
                clipped = row.kind == "clipped"
                scale = 1.0 if row.kind in ("f32", "softplus") else shape[-1] ** -0.5
                values = rng.standard_normal(shape, np.float32) * scale + (row.kind == "f32")
                found[prefix + row.theirs + (".linear.weight" if clipped else "")] = values
                for bound in names.CLIP_BOUNDS if clipped else ():
                    value = np.float32(-6 if "min" in bound else 6)
                    found[f"{prefix}{row.theirs}.{bound}"] = np.full((), value)

        text = "model.language_model."
        add(names.TEXT, text, dims)
        add(names.TEXT_PLE if self.ple else (), text, dims)
        for layer, kind in enumerate(self.kinds):
            head, keys = (self.head_local, self.keys_local) if kind == LOCAL else (self.head_global, self.keys_global)
            sizes = {**dims, "D": head, "q": head * self.heads, "k": head * keys}
            where = f"{text}layers.{layer}."
            add(names.LAYER, where, sizes)
            if layer < owners:
                add(names.LAYER_KV, where, sizes)
                add(() if self.k_eq_v and kind == GLOBAL else names.LAYER_VALUES, where, sizes)
            add(names.LAYER_PLE if self.ple else (), where, sizes)
            add(names.EXPERTS if self.experts else (), where, sizes)
        if self.unified:
            sizes = {"d": 48, "N": 40, "B": self.width, "O": 640}
            add(names.UNIFIED_VISION if self.vision else (), "model.vision_embedder.", sizes)
            add(names.VISION_PROJECTION if self.vision else (), "model.", sizes)
            add(names.AUDIO_PROJECTION if self.audio else (), "model.", sizes)
            return found
        if self.vision:
            sizes = {"d": 32, "N": 40, "q": 32, "D": 16, "F": 64, "B": self.width}
            add(names.VISION, "model.vision_tower.", sizes)
            add(names.VISION_STANDARDIZE if self.experts else (), "model.vision_tower.", sizes)
            for layer in range(2):
                add(names.VISION_LAYER, f"model.vision_tower.encoder.layers.{layer}.", sizes)
            add(names.VISION_PROJECTION, "model.", sizes)
        if self.audio:
            sizes = {
                "d": 32,
                "2*d": 64,
                "F": 128,
                "D": 16,
                "C0": 128,
                "C1": 32,
                "W": 1024,
                "O": 48,
                "K": 5,
                "B": self.width,
            }
            add(names.AUDIO, "model.audio_tower.", sizes)
            for layer in range(2):
                add(names.AUDIO_LAYER, f"model.audio_tower.layers.{layer}.", sizes)
            add(names.AUDIO_PROJECTION, "model.", sizes)
        return found


def tokenizer() -> dict[str, Any]:
    """tokenizer.json."""
    return {
        "added_tokens": [{"id": i, "content": token, "special": True} for i, token in enumerate(CONTROL)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {token: i for i, token in enumerate(TOKENS)},
            "merges": [list(pair) for pair in MERGES],
        },
    }


def write_checkpoint(folder: Path, shape: Shape | None = None, shards: int = 1, **changes: Any) -> Path:
    """Writes a checkpoint; `changes` replace `config` or `tensors`."""
    shape = shape or Shape()
    tensors = changes.get("tensors") or shape.tensors()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(changes.get("config") or shape.config()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    special = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors, shape.dtype))
        return folder
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: tensors[name] for name, where in places.items() if where == file}
        (folder / file).write_bytes(safetensors(part, shape.dtype))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def safetensors(tensors: Tensors, dtype: str = "BF16") -> bytes:
    """The file's bytes; floats are stored as `dtype`, other arrays (uint16) as the bits of BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = []
    at = 0
    for name, values in tensors.items():
        stored, raw = _stored(values, dtype)
        header[name] = {"dtype": stored, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def _stored(values: NDArray[Any], dtype: str) -> tuple[str, bytes]:
    if values.dtype in (np.uint16, np.uint8, np.int8):
        return {2: "BF16", 1: "U8" if values.dtype == np.uint8 else "I8"}[values.dtype.itemsize], values.tobytes()
    if dtype == "BF16":
        return "BF16", bf16(values).tobytes()
    return dtype, values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of BF16, rounded to the nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(values.shape)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rows(text_layers: int, vision_layers: int, audio_layers: int) -> Iterator[tuple[names.Row, str, str]]:
    """Every row of the tables with the prefixes of its names, theirs and ours, for that many layers."""
    text = "model.language_model."
    for row in (*names.TEXT, *names.TEXT_PLE):
        yield row, text, ""
    tables = (*names.LAYER, *names.LAYER_KV, *names.LAYER_VALUES, *names.LAYER_PLE, *names.EXPERTS)
    for layer in range(text_layers):
        for row in tables:
            yield row, f"{text}layers.{layer}.", f"blk.{layer}."
    for row in names.UNIFIED_VISION:
        yield row, "model.vision_embedder.", ""
    for row in (*names.VISION, *names.VISION_STANDARDIZE):
        yield row, "model.vision_tower.", ""
    for layer in range(vision_layers):
        for row in names.VISION_LAYER:
            yield row, f"model.vision_tower.encoder.layers.{layer}.", f"v.blk.{layer}."
    for row in names.AUDIO:
        yield row, "model.audio_tower.", ""
    for layer in range(audio_layers):
        for row in names.AUDIO_LAYER:
            yield row, f"model.audio_tower.layers.{layer}.", f"a.blk.{layer}."
    for row in (*names.VISION_PROJECTION, *names.AUDIO_PROJECTION):
        yield row, "model.", ""
