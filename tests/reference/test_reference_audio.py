"""The NumPy specification of the audio encoder.

Two kinds of evidence, as for the decoder: rules that any implementation must obey, and equality with recorded outputs of
Hugging Face transformers. A small encoder and two recordings are part of the project, more are compared where the
fixtures are at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_gemma.reference.audio import AudioEncoder, frame_count, log_mel, mel_filters, token_count
from edge_gemma.reference.gguf import Gguf, GgufError, Tensor
from edge_gemma.reference.text import Config, TextModel
from support.paths import DATA
from support.paths import SHARED as shared_folder

FILE, NUMBERS = DATA / "audio-e2b.gguf", DATA / "audio-reference.npz"
SHARED = shared_folder / "fixtures"
needs_fixtures = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of fixtures is not here")
PAIRS = [
    pytest.param(FILE, NUMBERS, "bc", id="data"),
    *(
        pytest.param(SHARED / v / "mmproj-BF16.gguf", SHARED / v / "reference.npz", "abc", id=v, marks=needs_fixtures)
        for v in ("e2b", "e4b")
    ),
]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return AudioEncoder(FILE)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Two seconds."""
    return np.load(NUMBERS)["audio_c_samples"]


def without(file: Gguf, *endings: str) -> Gguf:
    """The file less the tensors whose names end so."""
    copy = Gguf(FILE)
    copy.tensors = {name: tensor for name, tensor in file.tensors.items() if not name.endswith(endings)}
    return copy


# ---- log mel -------------------------------------------------------------------------------------------------------


def test_mel_filters() -> None:
    b = mel_filters()
    assert b.shape == (257, 128)
    assert abs(b.sum() - 252.785137) < 1e-6
    assert np.flatnonzero(b.sum(axis=0) == 0).tolist() == [0]
    np.testing.assert_allclose(b[1:248].sum(axis=1), 1)  # between the outer corners neighbours add up to one


def test_log_mel_follows_its_formula() -> None:
    """Frame 5 of noise, by sums over samples and frequencies."""
    x = np.random.default_rng(0).normal(0, 0.1, 2000)
    n, k = np.arange(320), np.arange(257)
    w = 0.5 - 0.5 * np.cos(2 * np.pi * n / 320)
    magnitude = np.abs(np.exp(-2j * np.pi * np.outer(k, n) / 512) @ (w * x[160 * 5 - 160 : 160 * 5 + 160]))
    edges = 700 * (10 ** (np.arange(130) * 2840.0230467083 / 129 / 2595) - 1)
    for m in range(128):
        low, middle, high = edges[m : m + 3]
        triangle = np.interp(31.25 * k, [low, middle, high], [0, 1, 0], left=0, right=0)
        assert log_mel(x)[5, m] == pytest.approx(np.log(magnitude @ triangle + 0.001), abs=1e-9)


def test_log_mel_of_silence_and_scale() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(1000)), np.log(0.001))
    x = np.random.default_rng(0).normal(0, 0.1, 1000)
    loud = np.exp(log_mel(2 * x)) - 0.001
    np.testing.assert_allclose(loud, 2 * (np.exp(log_mel(x)) - 0.001), atol=1e-12)  # no gain control, no power


def test_a_frame_looks_at_20_ms() -> None:
    x = np.random.default_rng(1).normal(0, 0.1, 1700)
    for at, frames in {0: [0], 1: [0, 1], 159: [0, 1], 160: [1], 161: [1, 2], 1599: [9], 1600: []}.items():
        changed = x.copy()
        changed[at] += 1
        assert np.flatnonzero((log_mel(x) != log_mel(changed)).any(axis=1)).tolist() == frames


LENGTHS = {0: 0, 1: 0, 160: 0, 161: 1, 320: 1, 321: 2, 480: 2, 481: 3, 640: 3, 641: 4, 800: 4, 801: 5, 1281: 8, 1441: 9}


@pytest.mark.parametrize(("samples", "frames"), LENGTHS.items())
def test_lengths(encoder: AudioEncoder, samples: int, frames: int) -> None:
    x = np.random.default_rng(samples).normal(0, 0.1, samples)
    tokens = (frames + 3) // 4
    assert (frame_count(samples), token_count(samples)) == (frames, tokens)
    assert log_mel(x).shape == (frames, 128)
    assert encoder.tower(x).shape == (tokens, 96)
    assert encoder.encode(x).shape == (tokens, 256)
    stream = encoder.stream()
    assert len(stream.push(x)) == frames // 4 and len(stream.finish()) == tokens - frames // 4


def test_thirty_seconds_are_750_tokens() -> None:
    assert token_count(480000) == 750 and AudioEncoder(FILE, np.float32).encode(np.zeros(480000)).shape == (750, 256)


# ---- encoder: rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", range(1, 10))
def test_subsampling_follows_its_formula(encoder: AudioEncoder, frames: int) -> None:
    """Every output by the sum over its 3 x 3 neighbourhood; what lies outside is zero, of either input."""
    file = encoder.file
    x = np.random.default_rng(frames).normal(size=(frames, 128))
    u = x[:, :, None]
    for n in range(2):
        w = file[f"a.conv1d.{n}.weight"].array().astype(np.float64)
        time, frequency = (u.shape[0] + 1) // 2, u.shape[1] // 2
        y = np.zeros((time, frequency, len(w)))
        for s in range(time):
            for k in range(frequency):
                for a in range(max(0, 1 - 2 * s), min(3, len(u) - 2 * s + 1)):
                    for b in range(max(0, 1 - 2 * k), min(3, u.shape[1] - 2 * k + 1)):
                        y[s, k] += w[:, :, a, b] @ u[2 * s - 1 + a, 2 * k - 1 + b]
        y = (y - y.mean(2, keepdims=True)) / np.sqrt(y.var(2, keepdims=True) + 1e-6)
        u = np.maximum(y * file[f"a.conv1d.{n}.norm.weight"].array(), 0)
    expected = u.reshape(len(u), -1) @ file["a.input_projection.weight"].array().T
    assert u.shape == ((frames + 3) // 4, 32, 32)
    np.testing.assert_allclose(encoder._subsample(x, {}), expected, atol=1e-9)


def test_a_token_sees_its_own_40_ms_and_what_came_before(encoder: AudioEncoder, speech: np.ndarray) -> None:
    whole = encoder.encode(speech)
    for token in (0, 1, 17):
        end = 640 * token + 640
        changed = speech.copy()
        changed[end:] = 0
        np.testing.assert_array_equal(encoder.encode(changed)[: token + 1], whole[: token + 1])
        np.testing.assert_allclose(encoder.encode(speech[: end + 1]), whole[: token + 1], atol=1e-12)
        changed[end - 100 : end] += 0.1
        assert (encoder.encode(changed)[token] != whole[token]).any()


def test_memory_is_as_long_as_attention_and_convolution(speech: np.ndarray) -> None:
    """One layer reaches back left_context - 1 + 4 tokens, so two layers twice that."""
    for left_context in (1, 4, 12):
        encoder = AudioEncoder(FILE, left_context=left_context)
        changed = speech.copy()
        changed[640:1280] += 0.1  # tokens 1 and 2
        differs = (encoder.encode(speech) != encoder.encode(changed)).any(axis=1)
        last = 2 + encoder.layers * (left_context - 1 + 4)
        assert np.flatnonzero(differs).tolist() == list(range(1, last + 1))


@pytest.mark.slow
@pytest.mark.parametrize("left_context", [1, 12, 13])
def test_a_stream_equals_the_whole(left_context: int, speech: np.ndarray) -> None:
    encoder = AudioEncoder(FILE, left_context=left_context)
    stream = encoder.stream()
    rng = np.random.default_rng(left_context)
    for samples in (0, 1, 160, *(161 + 160 * rest for rest in range(9)), 7777, 14401):  # every rest of frames
        expected = encoder.encode(speech[:samples])
        for largest in (7, 50, 700, 5000):
            tokens, at = [], 0
            while at < samples:
                size = min(samples - at, int(rng.integers(0, largest + 1)))
                tokens.append(stream.push(speech[at : at + size]))
                at += size
                assert sum(map(len, tokens)) == max(0, at - 1) // 640  # none earlier, none later
                assert len(stream.samples) <= 800
            tokens.append(stream.finish())
            np.testing.assert_allclose(np.concatenate(tokens), expected, atol=1e-12)


def test_a_stream_keeps_a_fixed_state(encoder: AudioEncoder, speech: np.ndarray) -> None:
    stream = encoder.stream()
    stream.push(speech)
    layer = {"key": (11, 4, 32), "value": (11, 4, 32), "gated": (4, 128)}
    expected = {"conv.0": (1, 128, 1), "conv.1": (1, 64, 128)}
    expected |= {f"{name}.{n}": shape for n in range(2) for name, shape in layer.items()}
    assert {name: rows.shape for name, rows in stream.state.items()} == expected
    stream.push(speech)
    assert {name: rows.shape for name, rows in stream.state.items()} == expected
    stream.reset()
    np.testing.assert_allclose(stream.push(speech), encoder.encode(speech)[:49], atol=1e-12)


def test_missing_bounds_do_not_clip(encoder: AudioEncoder, speech: np.ndarray) -> None:
    speech = speech[:7777]
    clipped, free = (e.encode(speech) for e in (encoder, AudioEncoder(without(encoder.file, "_min", "_max"))))
    wide = Gguf(FILE)
    for name in wide.tensors:
        if name.endswith(("_min", "_max")):
            bound = -1e30 if name.endswith("_min") else 1e30
            wide.tensors[name] = Tensor((1,), "F32", np.array([bound], np.float32).view(np.uint8))
    np.testing.assert_array_equal(AudioEncoder(wide).encode(speech), free)
    for side in ("input_min", "input_max", "output_min", "output_max"):  # in the file, each does something
        assert rms(AudioEncoder(without(encoder.file, side)).encode(speech) - clipped) > 1e-6, side


def test_the_encoder_refuses_bad_input(encoder: AudioEncoder) -> None:
    for bad in (np.zeros((2, 800)), 0.5):
        with pytest.raises(ValueError, match="must be a vector"):
            encoder.encode(bad)
        with pytest.raises(ValueError, match="must be a vector"):
            encoder.stream().push(bad)
    with pytest.raises(ValueError, match="left_context is 0"):
        AudioEncoder(FILE, left_context=0)
    with pytest.raises(GgufError, match="attn_k_rel"):
        AudioEncoder(without(encoder.file, "1.attn_k_rel.weight"))
    with pytest.raises(GgufError, match="no audio encoder"):
        AudioEncoder(DATA / "e2b-Q4_0.gguf")
    file = Gguf(FILE)
    del file.metadata["clip.audio.block_count"]
    with pytest.raises(GgufError, match="block_count"):
        AudioEncoder(file)


def test_the_decoder_of_the_data_takes_these_tokens(encoder: AudioEncoder, speech: np.ndarray) -> None:
    decoder = TextModel(DATA / "e2b-Q4_0.gguf")
    soft = encoder.encode(speech[:7777])
    assert soft.shape == (12, decoder.config.width)
    assert np.isfinite(decoder.forward([2, *[22] * 12, 5], soft=dict(enumerate(soft, 1)), last=1)).all()
    assert Config.from_gguf(decoder.file).width == encoder.file.metadata["clip.audio.projection_dim"]


# ---- encoder: recorded outputs of Hugging Face transformers --------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("file", "numbers", "clips"), PAIRS)
def test_audio_equals_transformers(file: Path, numbers: Path, clips: str, dtype: type) -> None:
    encoder, z = AudioEncoder(file, dtype), np.load(numbers)
    for clip in clips:
        samples = z[f"audio_{clip}_samples"]
        if f"audio_{clip}_mel" in z:
            mel = z[f"audio_{clip}_mel"]
            assert log_mel(samples).shape == mel.shape
            assert np.abs(log_mel(samples) - mel).max() < 1e-4
        if f"audio_{clip}_tower" in z:
            tower = z[f"audio_{clip}_tower"]
            assert rms(encoder.tower(samples) - tower) < 5e-6 * rms(tower)
        soft, expected = encoder.encode(samples), z[f"audio_{clip}_soft"]
        assert (soft.dtype, soft.shape) == (dtype, expected.shape)
        assert rms(soft - expected) < 5e-6 * rms(expected)


def test_twelve_keys_not_thirteen(speech: np.ndarray) -> None:
    expected = np.load(NUMBERS)["audio_c_soft"]
    for left_context in (11, 13):
        assert rms(AudioEncoder(FILE, left_context=left_context).encode(speech) - expected) > 0.01 * rms(expected)


@needs_fixtures
@pytest.mark.parametrize("variant", ["e2b", "e4b"])
def test_sound_to_logits_equals_transformers(variant: str) -> None:
    """Recording, encoder, decoder: nothing of the reference but the samples and the ids."""
    z = np.load(SHARED / variant / "reference.npz")
    ids = z["audio_prompt_ids"]
    values, counts = np.unique(ids, return_counts=True)
    at = np.flatnonzero(ids == values[counts.argmax()])  # the placeholder
    soft = AudioEncoder(SHARED / variant / "mmproj-BF16.gguf").encode(z["audio_a_samples"])
    logits = TextModel(SHARED / variant / "model-BF16.gguf").forward(
        ids, soft=dict(zip(at.tolist(), soft, strict=True))
    )
    assert rms(logits - z["audio_prompt_logits"]) < 2e-5
