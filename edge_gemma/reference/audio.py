"""Audio encoder: sound at 16 kHz to soft tokens, one every 40 ms.

Owns the log-mel front end, the conformer, and the state with which both work on sound as it arrives; also the projection of
samples that the 12B model has in place of them. It does not own files (gguf.py), the decoder that reads the soft tokens
(text.py), resampling, or the segmentation of long recordings. Source: Gemma 4 specification, audio and unified variant.

    u = log mel frames, one every 10 ms
    x = W_in conv1( conv0( u ) )                           each conv: 3 x 3, stride 2, LayerNorm, ReLU
    for every layer:   x = ffw_1(x)                        ffw(x) = x + rms( W_down silu( W_up rms(x) ) ) / 2
                       x = x + rms( W_o attention( rms(x) ) )
                       x = x + W_2 silu( rms( depthwise( glu( W_1 rms(x) ) ) ) )
                       x = rms( ffw_2(x) )
    soft tokens = W_emb rms( W_out x + b )

Without an encoder (gemma4ua):   soft tokens = W_emb rms( 640 samples )          the last ones are followed by zeros

A token depends on its own frames and on earlier tokens, never on later ones. So there is one computation, which takes the
next frames and a state with the part of the past that it needs. A whole recording is a single step from an empty state.

Letters in shapes: N samples, F frames, n tokens, K frequencies, C channels, w width of the conformer, H heads, D head
size, L tokens that attention sees (`left_context`), d width of the decoder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .encoder import EPS, Encoder, rms
from .gguf import Gguf
from .text import softmax

Array = NDArray[Any]
State = dict[str, Array]
"""Name of a stage -> the last rows of its input. A stage without an entry has had no input yet."""

RATE, WINDOW, HOP, FFT = 16000, 320, 160, 512
LOGIT_CAP = 50.0


# ---- log mel -------------------------------------------------------------------------------------------------------


def frame_count(samples: int) -> int:
    """Number of frames of a recording. Frame i needs samples up to 160 i + 160, of which it does not use the last one."""
    return max(0, (samples - 1) // HOP)


def token_count(samples: int) -> int:
    """Number of soft tokens of a recording: one for every four frames, and one for one to three remaining frames."""
    return -(-frame_count(samples) // 4)


def mel_filters(bins: int = 128) -> Array:
    """Triangular filters [FFT / 2 + 1, bins] with corners at equal distances in mel. All have the height 1.

    The lowest filter is so narrow that it lies between two frequencies of the transform, so its column is zero.
    """
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    e = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)  # corners in Hz
    f = np.arange(FFT // 2 + 1)[:, None] * (RATE / FFT)
    return np.maximum(0, np.minimum((f - e[:-2]) / (e[1:-1] - e[:-2]), (e[2:] - f) / (e[2:] - e[1:-1])))


def log_mel(samples: ArrayLike, bins: int = 128) -> Array:
    """Features, float64 [F, bins], of mono samples [N] in -1 .. 1 at 16 kHz; frame i is the 20 ms that end at 10 (i + 1) ms.

    Raises ValueError if samples are not a vector.
    """
    return _features(np.concatenate([np.zeros(HOP), _vector(samples)]), bins)


def _features(sound: Array, bins: int) -> Array:
    """As `log_mel`, but the first 160 samples lie before the first frame's hop: zeros, or the last samples before it."""
    count = frame_count(len(sound) - HOP)
    if not count:
        return np.zeros((0, bins))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    frames = sliding_window_view(sound, WINDOW)[::HOP][:count]
    magnitude = np.abs(np.fft.rfft(frames * window, FFT))
    return np.log(magnitude @ mel_filters(bins) + 0.001)


def _vector(samples: ArrayLike) -> Array:
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1:
        raise ValueError(f"samples have the shape {samples.shape}; they must be a vector.")
    return samples


# ---- arithmetic ----------------------------------------------------------------------------------------------------


def layer_norm(x: Array, weight: Array, eps: float = EPS) -> Array:
    """(x - mean) / sqrt(variance + eps) over the last axis, times weight."""
    return rms(x - x.mean(-1, keepdims=True), weight, eps)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that nothing overflows."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def convolve(x: Array, w: Array) -> Array:
    """3 x 3 with stride 2: x [2 T + 1, K, C] -> [T, ceil(K / 2), C'], w [C', C, 3, 3] over (time, frequency).

    Frequency is padded with one zero on either side. Time is not padded: x contains the neighbouring rows.
    """
    t, k = len(x) // 2, (x.shape[1] + 1) // 2
    x = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    y = np.zeros((t, k, len(w)), x.dtype)
    for a in range(3):
        for b in range(3):
            y += x[a : a + 2 * t - 1 : 2, b : b + 2 * k - 1 : 2] @ w[:, :, a, b].T
    return y


def after_past(x: Array, state: State, stage: str, count: int, start: int = 0) -> Array:
    """The last `count` rows of this stage's earlier input, followed by x. Updates the state.

    Without earlier input, the rows before x are `start` rows of zeros.
    """
    past = state.get(stage)
    if past is None:
        past = np.zeros((start, *x.shape[1:]), x.dtype)
    x = np.concatenate([past, x])
    state[stage] = x[max(0, len(x) - count) :]
    return x


# ---- encoder -------------------------------------------------------------------------------------------------------


class AudioEncoder(Encoder):
    """The audio part of one mmproj file: an encoder (gemma4a), or a projection of samples (gemma4ua).

    source: a path, or an open `Gguf`. dtype: float64 (default) or float32, the type of all computation after the mel
    frames. left_context: number of tokens that a token attends to, itself included.
    Raises OSError or GgufError (a ValueError) when the file is opened, or when a tensor is missing.
    """

    def __init__(self, source: str | Path | Gguf, dtype: DTypeLike = np.float64, left_context: int = 12) -> None:
        super().__init__(source, "audio", ("gemma4a", "gemma4ua"), dtype)
        if left_context < 1:
            raise ValueError(f"left_context is {left_context}; it must be at least 1, since a token attends to itself.")
        self.layers: int = self.number("block_count")
        self.heads: int = self.number("attention.head_count")
        self.width: int = self.number("embedding_length")
        self.bins: int = self.number("num_mel_bins")
        self.raw = self.kind == "gemma4ua"  # the features are the samples themselves, in rows of `width`
        self.past: int = 0 if self.raw else HOP  # samples before the first feature's hop
        self.hop: int = self.width if self.raw else HOP
        self.rows: int = 1 if self.raw else 4  # features of a token
        self.left_context = left_context
        self._relative = [self._relative_keys(f"a.blk.{n}.") for n in range(self.layers)]

    def encode(self, samples: ArrayLike) -> Array:
        """Soft tokens [n, d] of a recording [N] of any length. The decoder takes at most 750 tokens (30 s).

        Raises ValueError if samples are not a vector.
        """
        return self._embed(self.tower(samples))

    def tower(self, samples: ArrayLike) -> Array:
        """What is projected to the decoder's width: the conformer's output [n, width of a.pre_encode.out], or samples."""
        return self._tower(self._features(self._opening(samples), last=True), {})

    def stream(self) -> AudioStream:
        """Encode sound as it arrives."""
        return AudioStream(self)

    def _opening(self, samples: ArrayLike) -> Array:
        """Samples with the silence that lies before the first feature's hop."""
        return np.concatenate([np.zeros(self.past), _vector(samples)])

    def _features(self, sound: Array, last: bool = False) -> Array:
        """Features [F, bins], or rows of samples [F, width], of sound that begins `past` samples before the first one's hop.

        At the end of a recording, an incomplete row of samples is filled up with zeros; an incomplete mel frame is dropped.
        """
        if not self.raw:
            return _features(sound, self.bins)
        if last:
            sound = np.pad(sound, (0, -len(sound) % self.width))
        return sound[: len(sound) // self.width * self.width].reshape(-1, self.width)

    def _tower(self, mel: Array, state: State) -> Array:
        """The next frames [F, bins] -> their tokens [n, width]. F is a multiple of 4 unless these are the last frames."""
        if self.raw:
            return mel.astype(self.dtype)
        if not len(mel):
            return np.zeros((0, *self.file["a.pre_encode.out.bias"].shape), self.dtype)
        x = self._subsample(mel.astype(self.dtype), state)
        for n in range(self.layers):
            x = self._layer(n, x, state)
        return self.linear("a.pre_encode.out", x) + self.weight("a.pre_encode.out.bias")

    def _embed(self, y: Array) -> Array:
        return self.linear("mm.a.input_projection", rms(y))

    def _subsample(self, mel: Array, state: State) -> Array:
        """Frames [F, bins] -> [ceil(F / 4), w]. Source: Gemma 4 specification, subsampling.

        Output s of a convolution depends on rows 2 s - 1, 2 s, 2 s + 1 of its input. For s = 0 the first of them comes from
        the state. Beyond the end, the input of either convolution is a row of zeros.
        """
        x = mel[:, :, None]
        for n in range(2):
            x = after_past(x, state, f"conv.{n}", 1, start=1)
            if len(x) % 2 == 0:
                x = np.concatenate([x, np.zeros_like(x[:1])])
            x = convolve(x, self.weight(f"a.conv1d.{n}.weight"))
            x = np.maximum(0, layer_norm(x, self.weight(f"a.conv1d.{n}.norm.weight")))
        return self.linear("a.input_projection", x.reshape(len(x), -1))

    def _layer(self, n: int, x: Array, state: State) -> Array:
        """Conformer layer n: x [n, w] -> [n, w]. Source: Gemma 4 specification, conformer layer."""
        b = f"a.blk.{n}."
        x = self._ffw(b, "", x)
        o = self._attention(n, self.norm(b + "attn_pre_norm", x), state)
        x = x + self.norm(b + "attn_post_norm", self.linear(b + "attn_out", o))
        x = x + self._convolution(n, self.norm(b + "conv_norm", x), state)
        x = self._ffw(b, "_1", x)
        return self.norm(b + "ln2", x)

    def _ffw(self, b: str, which: str, x: Array) -> Array:
        h = silu(self.linear(b + "ffn_up" + which, self.norm(b + "ffn_norm" + which, x)))
        return x + 0.5 * self.norm(b + "ffn_post_norm" + which, self.linear(b + "ffn_down" + which, h))

    def _attention(self, n: int, h: Array, state: State) -> Array:
        """h [n, w] -> concatenated heads [n, w]. A token attends to itself and the left_context - 1 tokens before it.

        z[t, back] = q_t . (k_{t - back} + R_back), capped smoothly; p = softmax(z); o_t = sum p[t, back] v_{t - back}.
        """
        b, past = f"a.blk.{n}.", self.left_context - 1
        size = self.width // self.heads
        q, k, v = (self.linear(b + name, h).reshape(-1, self.heads, size) for name in ("attn_q", "attn_k", "attn_v"))
        q = q * (size**-0.5 / math.log(2)) * self.weight(b + "per_dim_scale.weight")
        k = after_past(k * (math.log(1 + math.e) / math.log(2)), state, f"key.{n}", past)
        v = after_past(v, state, f"value.{n}", past)
        at = np.arange(len(k) - len(q), len(k))[:, None] - np.arange(self.left_context)  # [n, L]: index of the key
        visible, at = (at >= 0)[:, None, :], np.maximum(at, 0)
        z = np.einsum("thd,tlhd->thl", q, k[at] + self._relative[n])
        z = np.where(visible, LOGIT_CAP * np.tanh(z / LOGIT_CAP), -np.inf)
        return np.einsum("thl,tlhd->thd", softmax(z), v[at]).reshape(len(q), -1)

    def _relative_keys(self, b: str) -> Array:
        """R [L, H, D]: the vectors that are added to keys at a distance of 0 .. L - 1 tokens.

        They are a projection of the sines and cosines of the distance.
        """
        half = self.width // 2
        phi = np.arange(self.left_context)[:, None] * 10000.0 ** (-np.arange(half) / max(half - 1, 1))
        code = np.concatenate([np.sin(phi), np.cos(phi)], axis=1).astype(self.dtype)
        return self.linear(b + "attn_k_rel", code).reshape(self.left_context, self.heads, -1)

    def _convolution(self, n: int, h: Array, state: State) -> Array:
        """The light convolution, h [n, w] -> [n, w]: a gated linear unit, then a causal depthwise convolution over tokens.

        The names `conv_norm` (before this function) and `norm_conv` (within it) are two different norms.
        """
        b = f"a.blk.{n}."
        a, gate = np.split(self.linear(b + "conv_pw1", h), 2, axis=1)
        w = self.weight(b + "conv_dw.weight")  # [w, taps]
        taps = w.shape[1]
        g = after_past(a * sigmoid(gate), state, f"gated.{n}", taps - 1, start=taps - 1)
        z = np.einsum("tci,ci->tc", sliding_window_view(g, taps, axis=0), w)
        return self.linear(b + "conv_pw2", silu(self.norm(b + "norm_conv", z)))


class AudioStream:
    """Encodes sound in pieces of any size. The tokens are those of `AudioEncoder.encode` for the whole recording.

    Between two pieces it holds the samples of an incomplete token, at most 800 (160 of them before the next frame), and
    `state`: the last input row of either convolution, and for every layer the last left_context - 1 keys and values and
    the last taps - 1 input rows of the depthwise convolution. A projection of samples has no state.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next piece begins a new recording."""
        self.samples, self.state = np.zeros(self.encoder.past), State()

    def push(self, samples: ArrayLike) -> Array:
        """The tokens [n, d] that these samples [N] complete. Token t is complete once sample 640 t + 640 has been pushed.

        A projection of samples needs one sample less.
        """
        self.samples = np.concatenate([self.samples, _vector(samples)])
        rows = self.encoder._features(self.samples)
        rows = rows[: len(rows) // self.encoder.rows * self.encoder.rows]
        self.samples = self.samples[len(rows) * self.encoder.hop :]
        return self._encode(rows)

    def finish(self) -> Array:
        """The token [0 or 1, d] of what is left: the last one to three frames, or the last samples. Resets."""
        last = self._encode(self.encoder._features(self.samples, last=True))
        self.reset()
        return last

    def _encode(self, rows: Array) -> Array:
        return self.encoder._embed(self.encoder._tower(rows, self.state))
