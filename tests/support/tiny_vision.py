"""Random vision encoders of any small shape, as GGUF files (mmproj): for the shapes and types that no fixture has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from support.gguf_writer import TENSOR_F32, Writer


@dataclass
class VisionShape:
    """Hyperparameters; names as in GGUF metadata where there is one."""

    hidden: int = 64
    layers: int = 2
    width: int = 32
    heads: int = 2
    ffn: int = 64
    patch: int = 16
    positions: int = 64
    clip: float = 1.5  # about where matrices clip; 0: no bounds in the file
    standardized: bool = False
    unified: bool = False  # the kind of the 12B, which has no layers
    type: str = "F32"  # of the matrices
    seed: int = 0


def vision_writer(s: VisionShape) -> Writer:
    """The encoder as a writer, for tests that damage it first."""
    rng, w, d = np.random.default_rng(s.seed), Writer(), s.width
    kind = gguf.GGMLQuantizationType[s.type]
    pixels = 3 * (s.patch * 3) ** 2 if s.unified else 3 * s.patch**2

    def plain(name: str, dims: list[int], values: np.ndarray) -> None:
        w.tensor(name, dims, TENSOR_F32, values.astype(np.float32).tobytes())

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(shape[-1])

    def matrix(name: str, out: int, cols: int, clipped: bool = True) -> None:
        values = random(out, cols).astype(np.float32)
        w.tensor(f"{name}.weight", [cols, out], kind.value, gguf.quants.quantize(values, kind).tobytes())
        if s.clip and clipped:
            for bound, sign in (("input_min", -1), ("input_max", 1), ("output_min", -1), ("output_max", 1)):
                plain(f"{name}.{bound}", [1], sign * s.clip * rng.uniform(1, 2, 1))

    def norm(name: str, n: int, bias: bool = False) -> None:
        plain(f"{name}.weight", [n], 1 + rng.standard_normal(n) / 8)
        if bias:
            plain(f"{name}.bias", [n], rng.standard_normal(n) / 8)

    w.entry("general.architecture", "clip").entry("clip.has_vision_encoder", True)
    w.entry("clip.vision.projector_type", "gemma4uv" if s.unified else "gemma4v").entry(
        "clip.vision.patch_size", s.patch
    )
    w.entry("clip.vision.embedding_length", d).entry("clip.vision.block_count", 0 if s.unified else s.layers)
    w.entry("clip.vision.feed_forward_length", s.ffn).entry("clip.vision.attention.head_count", s.heads)
    w.entry("clip.vision.projection_dim", s.hidden)
    plain("v.patch_embd.weight", [pixels, d] if s.unified else [s.patch, s.patch, 3, d], random(d, pixels))
    plain("v.position_embd.weight", [d, s.positions, 2], rng.standard_normal((2, s.positions, d)) / 4)
    if s.unified:
        plain("v.patch_embd.bias", [d], random(d))
        for number, n in enumerate((pixels, d, d), 1):
            norm(f"v.patch_norm.{number}", n, bias=True)
    else:
        for layer in range(s.layers):
            _layer(f"v.blk.{layer}", s, norm, matrix)
    if s.standardized:
        plain("v.std_bias", [d], random(d))
        plain("v.std_scale", [d], 1 + rng.standard_normal(d) / 8)
    matrix("mm.input_projection", s.hidden, d, clipped=False)
    return w


def _layer(prefix, s: VisionShape, norm, matrix) -> None:  # type: ignore[no-untyped-def]
    d, head = s.width, s.width // s.heads
    for name in ("ln1", "attn_post_norm", "ln2", "ffn_post_norm"):
        norm(f"{prefix}.{name}", d)
    for name in ("attn_q_norm", "attn_k_norm"):
        norm(f"{prefix}.{name}", head)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        matrix(f"{prefix}.{name}", d, d)
    matrix(f"{prefix}.ffn_gate", s.ffn, d)
    matrix(f"{prefix}.ffn_up", s.ffn, d)
    matrix(f"{prefix}.ffn_down", d, s.ffn)


def write_vision(path: Path, s: VisionShape) -> Path:
    """The encoder as a file."""
    path.write_bytes(vision_writer(s).build())
    return path
