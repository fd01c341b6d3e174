"""Random audio encoders of any small shape, as GGUF files (mmproj): for the shapes and types that no fixture has."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np

from support.gguf_writer import TENSOR_F32, Writer

CLIPPED = (
    "ffn_up",
    "ffn_down",
    "ffn_up_1",
    "ffn_down_1",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_out",
    "conv_pw1",
    "conv_pw2",
)


@dataclass
class AudioShape:
    """Hyperparameters; names as in GGUF metadata where there is one."""

    hidden: int = 64
    layers: int = 2
    width: int = 32
    heads: int = 2
    ffn: int = 96
    output: int = 32
    features: int = 128
    channels: tuple[int, int] = (8, 4)
    clip: float = 1.5  # about where matrices clip; 0: no bounds in the file
    type: str = "F32"  # of the matrices
    seed: int = 0


def audio_writer(s: AudioShape) -> Writer:
    """The encoder as a writer, for tests that damage it first."""
    rng, w, d = np.random.default_rng(s.seed), Writer(), s.width
    rows = ((s.features - 1) // 2 // 2 + 1) * s.channels[1]
    kind = gguf.GGMLQuantizationType[s.type]

    def plain(name: str, dims: list[int], values: np.ndarray) -> None:
        w.tensor(name, dims, TENSOR_F32, values.astype(np.float32).tobytes())

    def matrix(name: str, out: int, cols: int) -> None:
        values = (rng.standard_normal((out, cols)) / np.sqrt(cols)).astype(np.float32)
        w.tensor(f"{name}.weight", [cols, out], kind.value, gguf.quants.quantize(values, kind).tobytes())
        if s.clip and name.rsplit(".", 1)[-1] in CLIPPED:
            for bound, sign in (("input_min", -1), ("input_max", 1), ("output_min", -1), ("output_max", 1)):
                plain(f"{name}.{bound}", [1], sign * s.clip * rng.uniform(1, 2, 1))

    def norm(name: str, n: int) -> None:
        plain(f"{name}.weight", [n], 1 + rng.standard_normal(n) / 8)

    w.entry("general.architecture", "clip").entry("clip.has_audio_encoder", True)
    w.entry("clip.audio.projector_type", "gemma4a")
    for key, value in (
        ("block_count", s.layers),
        ("embedding_length", d),
        ("feed_forward_length", s.ffn),
        ("projection_dim", s.hidden),
        ("attention.head_count", s.heads),
        ("num_mel_bins", s.features),
    ):
        w.entry(f"clip.audio.{key}", value)
    inputs = 1
    for i, channels in enumerate(s.channels):
        plain(f"a.conv1d.{i}.weight", [3, 3, inputs, channels], rng.standard_normal(9 * inputs * channels) / 3)
        norm(f"a.conv1d.{i}.norm", channels)
        inputs = channels
    plain("a.input_projection.weight", [rows, d], rng.standard_normal(rows * d) / np.sqrt(rows))
    for layer in range(s.layers):
        b = f"a.blk.{layer}."
        for end in ("", "_1"):
            norm(f"{b}ffn_norm{end}", d)
            norm(f"{b}ffn_post_norm{end}", d)
            matrix(f"{b}ffn_up{end}", s.ffn, d)
            matrix(f"{b}ffn_down{end}", d, s.ffn)
        for name in ("attn_pre_norm", "attn_post_norm", "conv_norm", "norm_conv", "ln2"):
            norm(b + name, d)
        plain(f"{b}per_dim_scale.weight", [d // s.heads], rng.uniform(0.5, 1.5, d // s.heads))
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "attn_k_rel", "conv_pw2"):
            matrix(b + name, d, d)
        matrix(b + "conv_pw1", 2 * d, d)
        plain(f"{b}conv_dw.weight", [5, d], rng.standard_normal(5 * d) / 2)
    matrix("a.pre_encode.out", s.output, d)
    plain("a.pre_encode.out.bias", [s.output], rng.standard_normal(s.output) / 4)
    matrix("mm.a.input_projection", s.hidden, s.output)
    return w
