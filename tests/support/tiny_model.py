"""Random Gemma 4 models of any small shape, as GGUF files: for the shapes that no fixture has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.gguf_writer import BF16, BOOL, F32, I32, Q8_0, TENSOR_F32, U32, Writer, tiny_vocabulary

VOCAB = 8 + 256 + 14 + 12  # what tiny_vocabulary has


@dataclass
class Shape:
    """Hyperparameters; names as in GGUF metadata where there is one."""

    local: list[bool]
    hidden: int = 64
    heads: int | list[int] = 4
    kv_heads: list[int] = field(default_factory=list)  # empty: 1 everywhere
    dim_local: int = 16
    dim_global: int = 32
    ffn: list[int] = field(default_factory=list)  # empty: 96 everywhere
    window: int = 9
    shared: int = 0
    ple: int = 0
    experts: int = 0
    experts_used: int = 2
    expert_ffn: int = 32
    k_eq_v: bool = False
    context: int = 512
    softcap: float = 30.0
    fused_qkv: bool = False
    split_experts: bool = False
    own_output: bool = False
    unused: int = 0  # tokens beyond VOCAB
    scalars: bool = False  # write per-layer numbers as scalars where they are all equal
    period: int = 0  # write the pattern of layers as a period
    bare: bool = False  # leave out what may be missing: rope_freqs, layer scales
    type: int = TENSOR_F32
    seed: int = 0


def _raw(values: np.ndarray, kind: int) -> bytes:
    values = np.ascontiguousarray(values, np.float32)
    if kind == TENSOR_F32:
        return values.tobytes()
    if kind == BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    blocks = values.reshape(-1, 32)
    d = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    q = np.rint(blocks / np.maximum(d.astype(np.float32), 1e-12)).clip(-127, 127).astype(np.int8)
    return np.concatenate([d.view(np.uint8), q.view(np.uint8)], 1).tobytes()


def write_model(path: Path, s: Shape) -> Path:
    """Writes the model and returns the path."""
    path.write_bytes(model_writer(s).build())
    return path


def model_writer(s: Shape) -> Writer:
    """The model as a writer, for tests that damage it first."""
    rng, w, layers = np.random.default_rng(s.seed), tiny_vocabulary(s.unused), len(s.local)
    vocab = VOCAB + s.unused
    d, owners = s.hidden, layers - s.shared
    kv = s.kv_heads or [1] * layers
    ffn = s.ffn or [96] * layers
    heads = s.heads if isinstance(s.heads, list) else [s.heads] * layers

    def number(key: str, value: float | list, kind: int = U32) -> None:
        if isinstance(value, list) and s.scalars and len(set(value)) == 1:
            value = value[0]
        w.entry("gemma4." + key, value, kind)

    number("block_count", layers)
    number("context_length", s.context)
    number("embedding_length", d)
    number("feed_forward_length", ffn, I32)
    number("attention.head_count", s.heads, U32)
    number("attention.head_count_kv", kv, I32)
    number("attention.key_length", s.dim_global)
    number("attention.value_length", s.dim_global)
    number("attention.key_length_swa", s.dim_local)
    number("attention.value_length_swa", s.dim_local)
    number("attention.sliding_window", s.window)
    if s.period:
        number("attention.sliding_window_pattern", s.period)
    else:
        number("attention.sliding_window_pattern", s.local, BOOL)
    number("attention.shared_kv_layers", s.shared)
    number("attention.layer_norm_rms_epsilon", 1e-6, F32)
    number("embedding_length_per_layer_input", s.ple)
    number("rope.freq_base", 1e6, F32)
    number("rope.freq_base_swa", 1e4, F32)
    number("rope.dimension_count", s.dim_global)
    number("rope.dimension_count_swa", s.dim_local)
    number("final_logit_softcapping", s.softcap, F32)
    if s.experts:
        number("expert_count", s.experts)
        number("expert_used_count", s.experts_used)
        number("expert_feed_forward_length", s.expert_ffn)

    def matrix(name: str, rows: int, cols: int, *more: int, kind: int | None = None) -> None:
        kind = s.type if kind is None else kind
        if kind == Q8_0 and cols % 32:
            kind = TENSOR_F32
        values = rng.standard_normal((*more, rows, cols)) / np.sqrt(cols)
        w.tensor(name + ".weight", [cols, rows, *more], kind, _raw(values, kind))

    def vector(name: str, n: int, mean: float = 1.0, spread: float = 0.2) -> None:
        w.tensor(name, [n], TENSOR_F32, _raw(mean + spread * rng.standard_normal(n), TENSOR_F32))

    matrix("token_embd", vocab, d)
    if s.own_output:
        matrix("output", vocab, d)
    vector("output_norm.weight", d)
    half = s.dim_global // 2
    freqs = np.where(np.arange(half) < s.dim_global // 8, 1.0, 1e30)
    if not s.bare:
        w.tensor("rope_freqs.weight", [half], TENSOR_F32, _raw(freqs, TENSOR_F32))
    if s.ple:
        matrix("per_layer_token_embd", vocab, layers * s.ple)
        matrix("per_layer_model_proj", layers * s.ple, d)
        vector("per_layer_proj_norm.weight", s.ple)
    for i, local in enumerate(s.local):
        b, dim = f"blk.{i}.", s.dim_local if local else s.dim_global
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            vector(b + name + ".weight", d)
        vector(b + "attn_q_norm.weight", dim)
        if i < owners:
            vector(b + "attn_k_norm.weight", dim)
        if s.fused_qkv:
            matrix(b + "attn_qkv", heads[i] * dim + (2 * kv[i] * dim if i < owners else 0), d)
        else:
            matrix(b + "attn_q", heads[i] * dim, d)
            if i < owners:
                matrix(b + "attn_k", kv[i] * dim, d)
                if not (s.k_eq_v and not local):
                    matrix(b + "attn_v", kv[i] * dim, d)
        matrix(b + "attn_output", d, heads[i] * dim)
        matrix(b + "ffn_gate", ffn[i], d)
        matrix(b + "ffn_up", ffn[i], d)
        matrix(b + "ffn_down", d, ffn[i])
        if not s.bare:
            vector(b + "layer_output_scale.weight", 1, 0.8, 0.1)
        if s.ple:
            matrix(b + "inp_gate", s.ple, d)
            matrix(b + "proj", d, s.ple)
            vector(b + "post_norm.weight", d)
        if s.experts:
            matrix(b + "ffn_gate_inp", s.experts, d, kind=TENSOR_F32)
            vector(b + "ffn_gate_inp.scale", d, 3.0)
            for name in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
                vector(b + name + ".weight", d)
            if s.split_experts:
                matrix(b + "ffn_gate_exps", s.expert_ffn, d, s.experts)
                matrix(b + "ffn_up_exps", s.expert_ffn, d, s.experts)
            else:
                matrix(b + "ffn_gate_up_exps", 2 * s.expert_ffn, d, s.experts)
            matrix(b + "ffn_down_exps", d, s.expert_ffn, s.experts)
            vector(b + "ffn_down_exps.scale", s.experts)
    return w


SHAPES = {
    "plain": Shape([True, True, False]),
    "window 33, odd heads": Shape(
        [True, False, True, False], heads=3, window=33, hidden=48, dim_local=24, dim_global=40
    ),
    "ple and shared in the middle": Shape(
        [True, False, True, True, False, True, False],
        shared=4,
        ple=16,
        ffn=[64] * 3 + [128] * 4,
        heads=6,
        kv_heads=[2] * 7,
    ),
    "shared, source far back": Shape([False, True, True, True, False, False], shared=2, ple=8, window=5),
    "one owner": Shape([False, False, False], shared=2, ple=16),
    "experts": Shape(
        [True, True, False], heads=8, kv_heads=[4, 4, 2], experts=8, experts_used=3, k_eq_v=True, split_experts=True
    ),
    "experts fused, heads by layer": Shape(
        [True, False], heads=[4, 6], kv_heads=[2, 3], experts=5, experts_used=5, expert_ffn=64
    ),
    "fused qkv, own output, scalars": Shape(
        [False, False], fused_qkv=True, own_output=True, scalars=True, softcap=0.0, window=1
    ),
    "window of one": Shape([True, False], window=1),
    "period, nothing optional": Shape([True, True, False] * 2, period=3, bare=True),
}
