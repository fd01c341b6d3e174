"""The tensors of a Gemma 4 checkpoint: their names there and in GGUF, their shapes, and how they are stored.

Owns tables only. Files and configuration are in convert.py. A dimension is a number or a letter. A letter that the
configuration does not define gets its value from the first tensor that has it.

    V  vocabulary            P  width of a per-layer embedding (PLE)    E  experts
    d  width of the model    L  layers                                  I  width of an expert
    D  size of a head        q, k  rows of the query, key projection    S  rows of the PLE table
    F  width of the feed-forward layer                                  L*P, 2*I  products
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "AUDIO",
    "AUDIO_LAYER",
    "AUDIO_PROJECTION",
    "CLIP_BOUNDS",
    "EXPERTS",
    "LAYER",
    "LAYER_KV",
    "LAYER_PLE",
    "LAYER_VALUES",
    "TEXT",
    "TEXT_PLE",
    "UNIFIED_VISION",
    "UNIFIED_VISION_PREFIXES",
    "UNUSED",
    "VISION",
    "VISION_LAYER",
    "VISION_PROJECTION",
    "VISION_STANDARDIZE",
    "Row",
]


class Row(NamedTuple):
    """One tensor: its name in the checkpoint, its name in GGUF, its shape (slowest axis first), and how it is stored.

    `kind` is "matrix" (in the type of the file), "clipped" (the same, with four clipping bounds as tensors of their own),
    "f32", or the name of a change of the values before they are stored as F32: "softplus", "depthwise", "axes" (the first two
    change places), "planes" (the values of a patch: colours are the fastest axis in the checkpoint and the slowest in GGUF),
    "patch" (as planes, and the three axes of a patch are axes of the tensor).
    """

    theirs: str
    ours: str
    shape: tuple[str | int, ...]
    kind: str


def _f32(theirs: str, ours: str, *shape: str | int) -> Row:
    return Row(theirs, ours, shape, "f32")


def _matrix(theirs: str, ours: str, *shape: str | int) -> Row:
    return Row(theirs, ours, shape, "matrix")


def _clipped(theirs: str, ours: str, *shape: str | int) -> Row:
    return Row(theirs, ours, shape, "clipped")


# ---- text -------------------------------------------------------------------------------------------------------

TEXT = (_matrix("embed_tokens.weight", "token_embd.weight", "V", "d"), _f32("norm.weight", "output_norm.weight", "d"))
TEXT_PLE = (
    _matrix("embed_tokens_per_layer.weight", "per_layer_token_embd.weight", "S", "L*P"),
    _matrix("per_layer_model_projection.weight", "per_layer_model_proj.weight", "L*P", "d"),
    _f32("per_layer_projection_norm.weight", "per_layer_proj_norm.weight", "P"),
)
LAYER = (
    _f32("input_layernorm.weight", "attn_norm.weight", "d"),
    _f32("self_attn.q_norm.weight", "attn_q_norm.weight", "D"),
    _matrix("self_attn.q_proj.weight", "attn_q.weight", "q", "d"),
    _matrix("self_attn.o_proj.weight", "attn_output.weight", "d", "q"),
    _f32("post_attention_layernorm.weight", "post_attention_norm.weight", "d"),
    _f32("pre_feedforward_layernorm.weight", "ffn_norm.weight", "d"),
    _matrix("mlp.gate_proj.weight", "ffn_gate.weight", "F", "d"),
    _matrix("mlp.up_proj.weight", "ffn_up.weight", "F", "d"),
    _matrix("mlp.down_proj.weight", "ffn_down.weight", "d", "F"),
    _f32("post_feedforward_layernorm.weight", "post_ffw_norm.weight", "d"),
    _f32("layer_scalar", "layer_output_scale.weight", 1),
)
LAYER_KV = (
    _f32("self_attn.k_norm.weight", "attn_k_norm.weight", "D"),
    _matrix("self_attn.k_proj.weight", "attn_k.weight", "k", "d"),
)
LAYER_VALUES = (_matrix("self_attn.v_proj.weight", "attn_v.weight", "k", "d"),)
LAYER_PLE = (
    _matrix("per_layer_input_gate.weight", "inp_gate.weight", "P", "d"),
    _matrix("per_layer_projection.weight", "proj.weight", "d", "P"),
    _f32("post_per_layer_input_norm.weight", "post_norm.weight", "d"),
)
EXPERTS = (
    _f32("router.proj.weight", "ffn_gate_inp.weight", "E", "d"),
    _f32("router.scale", "ffn_gate_inp.scale", "d"),
    _f32("router.per_expert_scale", "ffn_down_exps.scale", "E"),
    _f32("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", "d"),
    _matrix("experts.gate_up_proj", "ffn_gate_up_exps.weight", "E", "2*I", "d"),
    _matrix("experts.down_proj", "ffn_down_exps.weight", "E", "d", "I"),
    _f32("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", "d"),
    _f32("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", "d"),
)
# Ends of the names of tensors that are not needed: tables that the engine computes, and scales for a quantized cache.
UNUSED = (
    "inv_freq",
    "inv_timescales",
    "embed_scale",
    "softcap",
    "k_cache_scale",
    "v_cache_scale",
)

# ---- encoders ---------------------------------------------------------------------------------------------------

CLIP_BOUNDS = ("input_min", "input_max", "output_min", "output_max")

VISION = (
    Row("patch_embedder.input_proj.weight", "v.patch_embd.weight", ("d", 768), "patch"),
    _f32("patch_embedder.position_embedding_table", "v.position_embd.weight", 2, "N", "d"),
)
VISION_STANDARDIZE = (_f32("std_bias", "v.std_bias", "d"), _f32("std_scale", "v.std_scale", "d"))
VISION_LAYER = (
    _f32("input_layernorm.weight", "ln1.weight", "d"),
    _clipped("self_attn.q_proj", "attn_q", "q", "d"),
    _clipped("self_attn.k_proj", "attn_k", "q", "d"),
    _clipped("self_attn.v_proj", "attn_v", "q", "d"),
    _f32("self_attn.q_norm.weight", "attn_q_norm.weight", "D"),
    _f32("self_attn.k_norm.weight", "attn_k_norm.weight", "D"),
    _clipped("self_attn.o_proj", "attn_out", "d", "q"),
    _f32("post_attention_layernorm.weight", "attn_post_norm.weight", "d"),
    _f32("pre_feedforward_layernorm.weight", "ln2.weight", "d"),
    _clipped("mlp.gate_proj", "ffn_gate", "F", "d"),
    _clipped("mlp.up_proj", "ffn_up", "F", "d"),
    _clipped("mlp.down_proj", "ffn_down", "d", "F"),
    _f32("post_feedforward_layernorm.weight", "ffn_post_norm.weight", "d"),
)
VISION_PROJECTION = (_matrix("embed_vision.embedding_projection.weight", "mm.input_projection.weight", "B", "d"),)

# The 12B model has no encoders. These come before the projection, whose name depends on the first part of theirs.
UNIFIED_VISION = (
    Row("patch_ln1.weight", "v.patch_norm.1.weight", (6912,), "planes"),
    Row("patch_ln1.bias", "v.patch_norm.1.bias", (6912,), "planes"),
    Row("patch_dense.weight", "v.patch_embd.weight", ("d", 6912), "planes"),
    _f32("patch_dense.bias", "v.patch_embd.bias", "d"),
    _f32("patch_ln2.weight", "v.patch_norm.2.weight", "d"),
    _f32("patch_ln2.bias", "v.patch_norm.2.bias", "d"),
    Row("pos_embedding", "v.position_embd.weight", ("N", 2, "d"), "axes"),
    _f32("pos_norm.weight", "v.patch_norm.3.weight", "d"),
    _f32("pos_norm.bias", "v.patch_norm.3.bias", "d"),
)
UNIFIED_VISION_PREFIXES = {  # of these tensors -> of the projection, in the published files and in the modules of transformers
    "vision_embedder.": "embed_vision.",
    "embed_vision.": "embed_vision.multimodal_embedder.",
}

AUDIO = (
    _f32("subsample_conv_projection.layer0.conv.weight", "a.conv1d.0.weight", "C0", 1, 3, 3),
    _f32("subsample_conv_projection.layer0.norm.weight", "a.conv1d.0.norm.weight", "C0"),
    _f32("subsample_conv_projection.layer1.conv.weight", "a.conv1d.1.weight", "C1", "C0", 3, 3),
    _f32("subsample_conv_projection.layer1.norm.weight", "a.conv1d.1.norm.weight", "C1"),
    _f32("subsample_conv_projection.input_proj_linear.weight", "a.input_projection.weight", "d", "W"),
    _matrix("output_proj.weight", "a.pre_encode.out.weight", "O", "d"),
    _f32("output_proj.bias", "a.pre_encode.out.bias", "O"),
)
AUDIO_LAYER = (
    _f32("feed_forward1.pre_layer_norm.weight", "ffn_norm.weight", "d"),
    _clipped("feed_forward1.ffw_layer_1", "ffn_up", "F", "d"),
    _clipped("feed_forward1.ffw_layer_2", "ffn_down", "d", "F"),
    _f32("feed_forward1.post_layer_norm.weight", "ffn_post_norm.weight", "d"),
    _f32("norm_pre_attn.weight", "attn_pre_norm.weight", "d"),
    _clipped("self_attn.q_proj", "attn_q", "d", "d"),
    _clipped("self_attn.k_proj", "attn_k", "d", "d"),
    _clipped("self_attn.v_proj", "attn_v", "d", "d"),
    _matrix("self_attn.relative_k_proj.weight", "attn_k_rel.weight", "d", "d"),
    Row("self_attn.per_dim_scale", "per_dim_scale.weight", ("D",), "softplus"),
    _clipped("self_attn.post", "attn_out", "d", "d"),
    _f32("norm_post_attn.weight", "attn_post_norm.weight", "d"),
    _f32("lconv1d.pre_layer_norm.weight", "conv_norm.weight", "d"),  # not swapped: lconv1d.conv_norm is norm_conv
    _clipped("lconv1d.linear_start", "conv_pw1", "2*d", "d"),
    Row("lconv1d.depthwise_conv1d.weight", "conv_dw.weight", ("d", 1, "K"), "depthwise"),
    _f32("lconv1d.conv_norm.weight", "norm_conv.weight", "d"),
    _clipped("lconv1d.linear_end", "conv_pw2", "d", "d"),
    _f32("feed_forward2.pre_layer_norm.weight", "ffn_norm_1.weight", "d"),
    _clipped("feed_forward2.ffw_layer_1", "ffn_up_1", "F", "d"),
    _clipped("feed_forward2.ffw_layer_2", "ffn_down_1", "d", "F"),
    _f32("feed_forward2.post_layer_norm.weight", "ffn_post_norm_1.weight", "d"),
    _f32("norm_out.weight", "ln2.weight", "d"),
)
AUDIO_PROJECTION = (_matrix("embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", "B", "O"),)
