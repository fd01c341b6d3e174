"""The demo's network: a small model of Gemma 4's architecture, and its initialization.

It has everything that E2B has: per-layer embeddings, shared K/V and double-wide FFNs in the last layers, sliding windows and
global layers with larger heads, a causal conformer after two strided convolutions, and a vision encoder.
"""

from __future__ import annotations

import math
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from vocabulary import Pieces

WIDTH, HEADS, LOCAL_HEAD, GLOBAL_HEAD = 256, 4, 64, 128
LAYERS = [
    "sliding_attention",
    "sliding_attention",
    "sliding_attention",
    "full_attention",
    "sliding_attention",
    "full_attention",
]
SHARED = 2
FFN, PER_LAYER, WINDOW = 384, 32, 256
BRANCH = 0.2  # initial scale of the encoder's residual branches
VISION_WIDTH, VISION_HEADS, VISION_LAYERS, VISION_FFN = 128, 4, 5, 384
VISION_SIDE = 256  # rows of the table of positions: the longest side of a picture in patches
AUDIO_WIDTH, AUDIO_HEADS, AUDIO_LAYERS, AUDIO_CHANNELS = 160, 5, 6, [128, 16]


def config(pieces: Pieces) -> Gemma4Config:
    """The configuration for a vocabulary."""
    text = {
        "vocab_size": pieces.vocab_size,
        "vocab_size_per_layer_input": pieces.vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": FFN,
        "num_hidden_layers": len(LAYERS),
        "num_kv_shared_layers": SHARED,
        "use_double_wide_mlp": True,
        "layer_types": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": LOCAL_HEAD,
        "per_layer_config": {
            str(at): {"head_dim": GLOBAL_HEAD} for at, kind in enumerate(LAYERS) if kind == "full_attention"
        },
        "hidden_size_per_layer_input": PER_LAYER,
        "sliding_window": WINDOW,
        "max_position_embeddings": 4096,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "bos_token_id": pieces.find("<bos>"),
        "eos_token_id": pieces.find("<eos>"),
        "pad_token_id": pieces.find("<pad>"),
    }
    audio = {
        "hidden_size": AUDIO_WIDTH,
        "num_attention_heads": AUDIO_HEADS,
        "num_hidden_layers": AUDIO_LAYERS,
        "subsampling_conv_channels": AUDIO_CHANNELS,
        "output_proj_dims": WIDTH,
        "use_clipped_linears": False,
    }
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": VISION_FFN,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "num_key_value_heads": VISION_HEADS,
        "head_dim": VISION_WIDTH // VISION_HEADS,
        "position_embedding_size": VISION_SIDE,
        "use_clipped_linears": False,
    }
    return Gemma4Config(
        text_config=text,
        audio_config=audio,
        vision_config=vision,
        audio_token_id=pieces.find("<|audio|>"),
        boa_token_id=pieces.find("<|audio>"),
        eoa_token_index=pieces.find("<audio|>"),
        image_token_id=pieces.find("<|image|>"),
        boi_token_id=pieces.find("<|image>"),
        eoi_token_id=pieces.find("<image|>"),
        video_token_id=pieces.find("<|video|>"),
        tie_word_embeddings=True,
    )


def build(pieces: Pieces, seed: int = 1) -> Gemma4ForConditionalGeneration:
    """The network before training, float32.

    The library initializes all matrices with a standard deviation of 0.02, with which narrow networks do not learn. Here the
    scale is such that every matrix keeps the magnitude of its input. Attention does not divide by sqrt(D), so the initial
    weights of the norms of queries and keys do.
    """
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(config(pieces))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter.shape[1:].numel()
                nn.init.normal_(parameter, std=1 / math.sqrt(fan_in))
            if "embed_tokens_per_layer" in name:
                nn.init.normal_(parameter, std=1 / math.sqrt(PER_LAYER))
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.fill_(parameter.numel() ** -0.25)
            # The residual branches of the encoder begin small. At first, attention and convolutions average over half a
            # second. Six layers of them at full scale would keep only 3% of the differences between frames, instead of 90%.
            if name.endswith(("norm_post_attn.weight", "post_layer_norm.weight")):
                parameter.fill_(BRANCH)
            if "lconv1d.linear_end" in name:
                parameter.mul_(BRANCH)
            if "vision_tower" in name and name.endswith(
                ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
            ):
                parameter.fill_(BRANCH)
            if "position_embedding_table" in name:
                parameter.copy_(_waves())
    return model


def _waves() -> Tensor:
    """(2, rows, width) initial positions: waves of 3 to 300 patches, the columns' in one half and the rows' in the other.

    Neighbors are alike from the beginning, and so are the rows that training seldom sees.
    """
    quarter = VISION_WIDTH // 4
    lengths = 3 * 100 ** (torch.arange(quarter) / (quarter - 1))
    angle = 2 * math.pi * torch.arange(VISION_SIDE)[:, None] / lengths
    table = torch.zeros(2, VISION_SIDE, VISION_WIDTH)
    for axis in range(2):
        table[axis, :, axis * 2 * quarter : (axis + 1) * 2 * quarter] = 0.5 * torch.cat([angle.sin(), angle.cos()], 1)
    return table


def see(model: Gemma4ForConditionalGeneration, patches: Tensor, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """What the vision encoder makes of pictures of one size.

    These are the library's values. Its own code pads pictures to one length, which needs masks and twice the time.

    Args:
        patches: (n, 9 * rows * columns, 768) uint8.
        columns, rows: the soft tokens of a picture.

    Returns:
        The last layer's output for each patch (n, 9 * rows * columns, width), and the soft tokens (n, rows * columns, width of
        the decoder).
    """
    tower = model.model.vision_tower
    embedder, theta = tower.patch_embedder, 100.0
    across, down = columns * 3, rows * 3
    x, y = torch.arange(across).repeat(down), torch.arange(down).repeat_interleave(across)
    table = embedder.position_embedding_table
    states = embedder.input_proj(patches.float() / 127.5 - 1) + (table[0, x] + table[1, y])
    size = VISION_WIDTH // VISION_HEADS
    frequencies = theta ** (-torch.arange(0, size // 2, 2) / (size // 2))
    angles = torch.stack([x, y], 1)[:, None, :, None] * frequencies  # (patches, 1, axis, frequency)
    cos, sin = angles.cos(), angles.sin()

    def turned(parts: Tensor) -> Tensor:
        parts = parts.unflatten(-1, (2, 2, -1))
        a, b = parts[..., 0, :], parts[..., 1, :]
        kind = parts.dtype
        c, s = cos.to(kind), sin.to(kind)
        return torch.stack([a * c - b * s, b * c + a * s], -2).flatten(-3).transpose(1, 2)

    for layer in tower.encoder.layers:
        attention, inputs = layer.self_attn, layer.input_layernorm(states)
        q, k, v = (
            part(inputs).unflatten(-1, (VISION_HEADS, size))
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = turned(attention.q_norm(q)), turned(attention.k_norm(k))
        v = attention.v_norm(v).transpose(1, 2)
        # On a CPU, this kernel takes a third of the time in float32 at 200 patches, and as long as in bfloat16 at 2,000.
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=1.0)
        states = states + layer.post_attention_layernorm(attention.o_proj(mixed.transpose(1, 2).flatten(2)))
        states = states + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(states)))
    pooled = states.unflatten(1, (rows, 3, columns, 3)).float().mean((2, 4)).flatten(1, 2) * math.sqrt(VISION_WIDTH)
    return states, model.model.embed_vision(pooled)


class _Norm(torch.autograd.Function):
    """RMS norm with few passes over memory. The output is bfloat16 under autocast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(size * size / x.shape[-1] + eps)
        kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        unit = torch.mul(x, scale, out=torch.empty(x.shape, dtype=kind))
        ctx.save_for_backward(unit, scale, weight)
        ctx.kind = x.dtype
        return unit if weight is None else unit * weight.to(kind)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        unit, scale, weight = ctx.saved_tensors
        along = None
        if weight is not None:
            along = (gradient * unit).reshape(-1, unit.shape[-1]).sum(0, dtype=torch.float32)
            gradient = gradient * weight.to(gradient.dtype)
        mean = torch.linalg.vecdot(gradient.float(), unit.float()).unsqueeze(-1) / unit.shape[-1]
        return ((gradient - unit * mean.to(unit.dtype)) * scale).to(ctx.kind), along, None


def speed_up(model: Gemma4ForConditionalGeneration) -> None:
    """Makes training steps two to three times as fast on a CPU, with the same values.

    Norms need fewer passes over memory, and so do the first convolutions.
    """

    def norm(self: nn.Module, x: Tensor) -> Tensor:
        return _Norm.apply(x, self.weight if self.with_scale else None, self.eps)

    for module in model.modules():
        if type(module).__name__ == "Gemma4RMSNorm":
            module.forward = types.MethodType(norm, module)

    projection = model.model.audio_tower.subsample_conv_projection
    projection.forward = types.MethodType(_subsampled, projection)


_READERS = ((1,), (0, 2))  # which rows of a kernel of 3 with stride 2 read the even places, and which the odd ones


def _subsampled(self: nn.Module, mel: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The two strided convolutions of the audio encoder and their projection.

    The first one's outputs (100 MB a batch) are made in four parts, by the parity of their places in time and frequency. Each
    place of the second one's kernel reads one part, at all its positions, so that products suffice and nothing is transposed.
    """
    kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    first, second = self.layer0, self.layer1
    with torch.autocast("cpu", enabled=False):
        if mask is not None:
            mel = mel * mask[..., None]
            mask = mask[:, ::2]
        windows = F.pad(mel.to(kind), (1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)
        taps = first.conv.weight.to(kind).flatten(1).t()
        steps, rows = (windows.shape[1] + 1) // 2, (windows.shape[2] + 1) // 2
        out = mel.new_zeros(len(mel), steps, rows, len(second.conv.weight), dtype=kind)
        for odd_time in (0, 1):
            for odd_row in (0, 1):
                part = windows[:, odd_time::2, odd_row::2].flatten(3) @ taps
                part = F.layer_norm(part, part.shape[-1:], first.norm.weight.to(kind), eps=first.norm.eps).relu()
                places = [(down, across) for down in _READERS[odd_time] for across in _READERS[odd_row]]
                kernel = torch.cat([second.conv.weight[:, :, down, across] for down, across in places])
                products = part @ kernel.to(kind).t()
                if mask is not None:
                    products = products * mask[:, odd_time::2, None, None].to(kind)
                for (down, across), product in zip(places, products.chunk(len(places), -1), strict=True):
                    early, low = int(down == 0), int(across == 0)  # read one place before
                    late, high = steps - early - product.shape[1], rows - low - product.shape[2]
                    out = out + F.pad(product, (0, 0, low, high, early, late))
        out = F.layer_norm(out, out.shape[-1:], second.norm.weight.to(kind), eps=second.norm.eps).relu()
    return self.input_proj_linear(out.flatten(2)), None if mask is None else mask[:, ::2]


def parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
