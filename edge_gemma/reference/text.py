"""Text decoder: token ids, or soft tokens of the encoders, to logits.

Owns the decoder of all models: dense ones, those with per-layer embeddings (PLE), shared K/V and a wider FFN in the last
layers, those with a mixture of experts (MoE), and layers whose V is their K projection. It does not own files (gguf.py), the
tokenizer, encoders (audio.py) or sampling. It has no KV cache: every call computes the whole sequence. Source: Gemma 4
specification, text decoder.

    x = sqrt(d) E[t]
    for every layer:   x = x + rms( W_o attention(q, k, v) ; post_attention_norm )      q, k, v from rms(x ; attn_norm)
                       x = x + rms( FFN( rms(x ; ffn_norm) ) ; post_ffw_norm )
                       x = x + rms( W_pl ( gelu(W_g x) * ple ) ; post_norm )            only with PLE
                       x = s x
    logits = 30 tanh( E rms(x ; output_norm) / 30 )

Letters in shapes: T tokens, S keys, d width, L layers, H query heads, K key/value heads, D head size, P PLE width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .gguf import Gguf, GgufError
from .quants import snap

Array = NDArray[Any]
Soft = Mapping[int, ArrayLike] | None
Image = Sequence[int]


@dataclass(frozen=True)
class Config:
    """Hyperparameters; tuples hold one entry per layer. Source: Gemma 4 specification, text metadata."""

    layers: int
    width: int
    vocab: int
    context: int
    local: tuple[bool, ...]
    """Sliding-window layer (True) or global layer."""
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: tuple[int, ...]
    rope_theta: tuple[float, ...]
    window: int
    """Keys that a local layer sees, the query's own included."""
    kv_owners: int
    """Layers 0 .. kv_owners - 1 compute K and V, the others reuse theirs."""
    ple_width: int
    experts: int
    experts_used: int
    softcap: float
    """Final logit softcap, 0 = none."""
    eps: float

    @classmethod
    def from_gguf(cls, file: Gguf) -> Config:
        """Reads the keys `gemma4.*`, each a scalar or an array over layers. Raises GgufError if one is missing or short."""

        def get(key: str, default: Any = None) -> Any:
            value = file.metadata.get("gemma4." + key, default)
            if value is None:
                raise GgufError(f"the file has no metadata gemma4.{key}.")
            return value

        def per_layer(key: str) -> tuple[Any, ...]:
            value = get(key)
            if not isinstance(value, list):
                return (value,) * layers
            if len(value) < layers:
                raise GgufError(f"gemma4.{key} has {len(value)} entries for {layers} layers.")
            return tuple(value[:layers])

        if file.metadata.get("general.architecture") != "gemma4":
            raise GgufError(f"the architecture is {file.metadata.get('general.architecture')!r}, not gemma4.")
        layers = get("block_count")
        pattern = get("attention.sliding_window_pattern")
        if isinstance(pattern, int) and not isinstance(pattern, bool):  # a period: every pattern-th layer is global
            local = tuple((n + 1) % pattern != 0 for n in range(layers))
        else:
            local = tuple(map(bool, per_layer("attention.sliding_window_pattern")))
        size, size_local = per_layer("attention.key_length"), per_layer("attention.key_length_swa")
        theta, theta_local = get("rope.freq_base"), get("rope.freq_base_swa")
        return cls(
            layers=layers,
            width=get("embedding_length"),
            vocab=file["token_embd.weight"].shape[0],
            context=get("context_length"),
            local=local,
            heads=per_layer("attention.head_count"),
            kv_heads=per_layer("attention.head_count_kv"),
            head_dim=tuple(size_local[n] if local[n] else size[n] for n in range(layers)),
            rope_theta=tuple(theta_local if is_local else theta for is_local in local),
            window=get("attention.sliding_window"),
            kv_owners=layers - get("attention.shared_kv_layers", 0),
            ple_width=get("embedding_length_per_layer_input", 0),
            experts=get("expert_count", 0),
            experts_used=get("expert_used_count", 0),
            softcap=get("final_logit_softcapping", 0.0),
            eps=get("attention.layer_norm_rms_epsilon"),
        )

    def kv_source(self, layer: int) -> int:
        """The layer whose K and V `layer` reads: itself, or the last owner of the same kind (local or global)."""
        if layer < self.kv_owners:
            return layer
        return max(n for n in range(self.kv_owners) if self.local[n] == self.local[layer])


def gelu(x: Array) -> Array:
    """GELU in its tanh form: 0.5 x (1 + tanh( sqrt(2/pi) (x + 0.044715 x^3) ))."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Array) -> Array:
    """Softmax over the last axis. Entries of -inf get probability 0."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope(x: Array, p: NDArray[np.int64], f: NDArray[np.float64]) -> Array:
    """Rotates pair (i, i + D/2) of every head of x [T, heads, D] by p * f_i: positions p [T], frequencies f [D/2].

    Source: Gemma 4 specification, RoPE.
    """
    phi = (p[:, None] * f)[:, None, :]  # [T, 1, D/2], in float64 because p may be large
    cos, sin = np.cos(phi).astype(x.dtype), np.sin(phi).astype(x.dtype)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, visible: NDArray[np.bool_]) -> Array:
    """q [T, H, D], k and v [S, K, D], visible [T, S] -> [T, H * D]. Scale 1; head h reads KV head h // (H / K).

    Source: Gemma 4 specification, attention.
    """
    group = q.shape[1] // k.shape[1]
    o = np.empty_like(q)
    for h in range(q.shape[1]):
        s = np.where(visible, q[:, h] @ k[:, h // group].T, -np.inf)  # [T, S]
        o[:, h] = softmax(s) @ v[:, h // group]
    return o.reshape(len(q), -1)


class TextModel:
    """The decoder of one GGUF file.

    source: a path, or an open `Gguf`. dtype: float64 (default) or float32, the type of all computation.
    keep: keep dequantized matrices in memory; False dequantizes them at every use, for files larger than memory.
    Raises OSError or GgufError (a ValueError) when the file is opened, or when a tensor is missing or has a wrong shape.
    """

    def __init__(self, source: str | Path | Gguf, dtype: DTypeLike = np.float64, keep: bool = True) -> None:
        self.file = source if isinstance(source, Gguf) else Gguf(source)
        self.config = Config.from_gguf(self.file)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._kept: dict[str, Array] | None = {} if keep else None

    @overload
    def forward(
        self,
        ids: ArrayLike,
        hidden: Literal[False] = ...,
        *,
        soft: Soft = ...,
        image: Image = ...,
        last: int | None = ...,
    ) -> Array: ...
    @overload
    def forward(
        self, ids: ArrayLike, hidden: Literal[True], *, soft: Soft = ..., image: Image = ...
    ) -> tuple[Array, Array]: ...
    def forward(
        self, ids: ArrayLike, hidden: bool = False, *, soft: Soft = None, image: Image = (), last: int | None = None
    ) -> Array | tuple[Array, Array]:
        """Logits [T, V] of every position of ids [T], positions counted from 0.

        hidden: also return the residual stream [L + 1, T, d]: the scaled embedding, the outputs of layers 0 .. L - 2,
            and the output of the last layer after output_norm.
        soft: position -> embedding [d] of an encoder, which replaces the token at that position (its id is ignored).
        image: positions of image or video soft tokens. In models without PLE, the tokens of one image see each other in
            local layers, also the later ones.
        last: return the logits of the last positions only, [last, V]. Layers that own no K/V then skip all others.

        Raises ValueError for ids that are not a non-empty vector, IndexError for an id outside the vocabulary.
        Source: Gemma 4 specification, text decoder and prefill shortcut.
        """
        c = self.config
        ids = np.array(ids, np.int64)
        if ids.ndim != 1 or not ids.size:
            raise ValueError(f"ids have the shape {ids.shape}; they must be a vector with at least one entry.")
        if last is not None and (hidden or not 1 <= last <= len(ids)):
            raise ValueError(f"last is {last} for {len(ids)} ids{' with hidden states' * hidden}.")
        soft = soft or {}
        ids[list(soft)] = 0  # the token part of PLE at soft positions is row 0, <pad>
        if ids.min() < 0 or ids.max() >= c.vocab:
            raise IndexError(f"token ids are from {ids.min()} to {ids.max()}, but the vocabulary has {c.vocab}.")

        p = np.arange(len(ids))
        block = self._image_blocks(len(ids), image)
        x = math.sqrt(c.width) * self._rows("token_embd", ids)
        for position, vector in soft.items():
            x[position] = vector
        ple = self._per_layer_embeddings(ids, x) if c.ple_width else None
        states = [x]
        kv: dict[int, tuple[Array, Array]] = {}
        for n in range(c.layers):
            if last is not None and n == c.kv_owners:  # from here on, no layer computes keys and values
                p, x, ple = p[-last:], x[-last:], ple if ple is None else ple[-last:]
            x = self._layer(n, x, p, block, kv, None if ple is None else ple[:, n])
            states.append(x)
        x = states[-1] = self._rms(x, self._w("output_norm"))
        x = x if last is None else x[-last:]
        head = "output" if "output.weight" in self.file else "token_embd"
        logits = self._linear(head, x)
        if c.softcap:
            logits = c.softcap * np.tanh(logits / c.softcap)
        return (logits, np.stack(states)) if hidden else logits

    def _w(self, name: str, suffix: str = ".weight") -> Array:
        """A tensor in the computation's dtype, row-major."""
        name += suffix
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        w = self.file.values(name).astype(self.dtype)
        if self._kept is not None:
            self._kept[name] = w
        return w

    def _rows(self, name: str, ids: NDArray[np.int64]) -> Array:
        return self.file.rows(name + ".weight", ids).astype(self.dtype)

    def _linear(self, name: str, x: Array) -> Array:
        """W x. Where the matrix has quantization steps for input and output, both are rounded to 8-bit multiples of them."""
        in_step, out_step = self.file.steps(name + ".weight")
        return snap(snap(x, in_step) @ self._w(name).T, out_step)

    def _rms(self, x: Array, w: Array | None = None) -> Array:
        y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.config.eps)
        return y if w is None else y * w

    def _per_layer_embeddings(self, ids: NDArray[np.int64], x: Array) -> Array:
        """PLE [T, L, P] from ids [T] and the scaled embedding x [T, d]: (context part + token part) / sqrt(2)."""
        c = self.config
        shape = (len(ids), c.layers, c.ple_width)
        a = math.sqrt(c.ple_width) * self._rows("per_layer_token_embd", ids).reshape(shape)
        context = self._linear("per_layer_model_proj", x) / math.sqrt(c.width)
        return (self._rms(context.reshape(shape), self._w("per_layer_proj_norm")) + a) / math.sqrt(2)

    def _image_blocks(self, count: int, image: Image) -> NDArray[np.int64]:
        """[T]: the number of the image that a position belongs to (a maximal run of image positions), or -1. In models with
        PLE all are -1."""
        inside = np.zeros(count, bool)
        inside[list(image)] = self.config.ple_width == 0
        starts = inside & ~np.concatenate([[False], inside[:-1]])
        return np.where(inside, np.cumsum(starts), -1)

    def _visible(self, n: int, p: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the queries at p [T] see each of the S positions in layer n, [T, S]. Source: specification, masks."""
        i, j = p[:, None], np.arange(len(block))[None, :]
        if not self.config.local[n]:
            return j <= i
        same_block = (block[i] == block[j]) & (block[i] >= 0)
        return ((j <= i) | same_block) & (i - j < self.config.window)

    def _qkv(self, n: int, h: Array) -> tuple[Array, Array, Array]:
        """Projections of h [T, d]: q [T, H * D], k and v [T, K * D] (empty on layers without K/V of their own)."""
        c, b = self.config, f"blk.{n}."
        if b + "attn_qkv.weight" in self.file:
            nq, nk = c.heads[n] * c.head_dim[n], c.kv_heads[n] * c.head_dim[n]
            q, k, v = np.split(self._linear(b + "attn_qkv", h), [nq, nq + nk], axis=1)
            return q, k, v if v.size else k
        q = self._linear(b + "attn_q", h)
        if n >= c.kv_owners:
            return q, q[:, :0], q[:, :0]
        k = self._linear(b + "attn_k", h)
        return q, k, self._linear(b + "attn_v", h) if b + "attn_v.weight" in self.file else k

    def _rope_frequencies(self, n: int) -> NDArray[np.float64]:
        """[D / 2]: theta^(-2i/D); in global layers divided by `rope_freqs` (1, or 1e30 for a pair that does not rotate)."""
        c = self.config
        pairs = c.head_dim[n] // 2
        f = c.rope_theta[n] ** (-np.arange(pairs) / pairs)
        if c.local[n]:
            return f
        if "rope_freqs.weight" in self.file:
            return f / self._w("rope_freqs").astype(np.float64)
        return np.where(np.arange(pairs) < pairs // 4, f, 0)  # "proportional", factor 0.25

    def _layer(
        self,
        n: int,
        x: Array,
        p: NDArray[np.int64],
        block: NDArray[np.int64],
        kv: dict[int, tuple[Array, Array]],
        ple: Array | None,
    ) -> Array:
        """Decoder layer n: x [T, d] at positions p [T] -> [T, d]; kv: K, V [S, K, D] by layer; ple [T, P].

        Source: Gemma 4 specification, decoder layer.
        """
        c, b = self.config, f"blk.{n}."
        f = self._rope_frequencies(n)
        q, k, v = self._qkv(n, self._rms(x, self._w(b + "attn_norm")))
        q = q.reshape(len(x), c.heads[n], c.head_dim[n])
        q = rope(self._rms(q, self._w(b + "attn_q_norm")), p, f)
        if n < c.kv_owners:
            k, v = (y.reshape(len(x), c.kv_heads[n], c.head_dim[n]) for y in (k, v))
            kv[n] = rope(self._rms(k, self._w(b + "attn_k_norm")), p, f), self._rms(v)
        o = attention(q, *kv[c.kv_source(n)], self._visible(n, p, block))
        x = x + self._rms(self._linear(b + "attn_output", o), self._w(b + "post_attention_norm"))

        ffn = self._ffn(b, self._rms(x, self._w(b + "ffn_norm")))
        if c.experts:
            ffn = self._rms(ffn, self._w(b + "post_ffw_norm_1")) + self._moe(b, x)
        x = x + self._rms(ffn, self._w(b + "post_ffw_norm"))

        if ple is not None:
            u = self._linear(b + "proj", gelu(self._linear(b + "inp_gate", x)) * ple)
            x = x + self._rms(u, self._w(b + "post_norm"))
        return x * self._w(b + "layer_output_scale") if b + "layer_output_scale.weight" in self.file else x

    def _ffn(self, b: str, h: Array) -> Array:
        """W_down( gelu(W_gate h) * (W_up h) )."""
        return self._linear(b + "ffn_down", gelu(self._linear(b + "ffn_gate", h)) * self._linear(b + "ffn_up", h))

    def _moe(self, b: str, x: Array) -> Array:
        """m2 [T, d] of the residual stream x [T, d]: the weighted sum of the chosen experts, normalized.

        Source: Gemma 4 specification, MoE layer.
        """
        c = self.config
        r = self._rms(x) * self._w(b + "ffn_gate_inp", ".scale") / math.sqrt(c.width)
        z = self._linear(b + "ffn_gate_inp", r)  # [T, experts]
        chosen = np.argsort(-z, axis=1, kind="stable")[:, : c.experts_used]  # S, the lower index first on a tie
        weight = softmax(np.take_along_axis(z, chosen, axis=1))
        e_in = self._rms(x, self._w(b + "pre_ffw_norm_2"))
        down = self._w(b + "ffn_down_exps")  # [experts, d, F]
        scale = np.ones(c.experts, x.dtype)
        if b + "ffn_down_exps.scale" in self.file:
            scale = self._w(b + "ffn_down_exps", ".scale")
        if b + "ffn_gate_up_exps.weight" in self.file:  # [experts, 2F, d], gate rows first
            gate, up = np.split(self._w(b + "ffn_gate_up_exps"), 2, axis=1)
        else:
            gate, up = self._w(b + "ffn_gate_exps"), self._w(b + "ffn_up_exps")
        m2 = np.zeros_like(x)
        for e in range(c.experts):
            t, rank = np.nonzero(chosen == e)  # the tokens that chose e
            h = gelu(e_in[t] @ gate[e].T) * (e_in[t] @ up[e].T)
            m2[t] += (weight[t, rank] * scale[e])[:, None] * (h @ down[e].T)
        return self._rms(m2, self._w(b + "post_ffw_norm_2"))
