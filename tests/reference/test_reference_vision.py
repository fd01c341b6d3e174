"""The NumPy specification of pictures and video.

Rules that any implementation must obey, equality with Pillow, and equality with recorded outputs of Hugging Face transformers.
Small encoders and some outputs are part of the project, more are compared where the fixtures are at hand.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from edge_gemma.reference.audio import AudioEncoder
from edge_gemma.reference.gguf import Gguf, GgufError
from edge_gemma.reference.images import patches, positions, resize, target_size, token_count, weights
from edge_gemma.reference.text import TextModel
from edge_gemma.reference.video import frame_count, frame_indices, prompt, time_stamp
from edge_gemma.reference.vision import VisionEncoder, rope_2d
from support.paths import DATA
from support.paths import SHARED as shared_folder

SHARED = shared_folder / "fixtures"
needs_fixtures = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of fixtures is not here")
E2B, MOE, UNIFIED = DATA / "vision-e2b.gguf", DATA / "vision-moe.gguf", DATA / "unified-mmproj.gguf"
SOFT_IMAGE, SOFT_AUDIO, SOFT_VIDEO = 19, 22, 23


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "vision-reference.npz"))


@pytest.fixture(scope="module")
def rules() -> dict[str, list]:
    return json.loads((DATA / "vision-rules.json").read_text())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels of black, white and all between: many of them leave 0 .. 255 when they are resampled."""
    x = np.random.default_rng(seed).normal(128, 200, (height, width, 3))
    return np.clip(x, 0, 255).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    """As the recorded outputs have them: turned as the camera was held, on white."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_target_sizes(rules: dict[str, list]) -> None:
    assert len(rules["sizes"]) > 200
    for height, width, budget, size in rules["sizes"]:
        assert target_size(height, width, budget) == tuple(size)


@pytest.mark.parametrize(
    ("size", "budget", "target", "tokens"),
    [
        ((480, 640), 70, (336, 432), 63),
        ((480, 640), 280, (672, 912), 266),
        ((1080, 1920), 1120, (1200, 2112), 1100),
        ((224, 224), 280, (768, 768), 256),
        ((100, 10000), 70, (48, 3360), 70),
        ((10000, 100), 70, (3360, 48), 70),
        ((1, 1), 70, (384, 384), 64),
        ((480, 672), 140, (480, 672), 140),  # as it is
    ],
)
def test_target_size_and_tokens(size: tuple[int, int], budget: int, target: tuple[int, int], tokens: int) -> None:
    assert target_size(*size, budget) == target and token_count(*size, budget) == tokens


def test_a_target_never_exceeds_its_budget() -> None:
    random = np.random.default_rng(0)
    for _ in range(2000):
        height, width = (int(x) for x in np.exp(random.uniform(0, np.log(30000), 2)))
        for budget in (70, 140, 280, 560, 1120):
            h, w = target_size(height, width, budget)
            assert h % 48 == w % 48 == 0 and 1 <= token_count(height, width, budget) <= budget


def test_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="one of 70, 140, 280, 560, 1120"):
        target_size(100, 100, 256)
    with pytest.raises(ValueError, match="5 x 0 pixels"):
        target_size(0, 5)


# ---- resampling ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="before version 13 Pillow resampled in another order"
)
def test_resampling_is_pillows_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    for seed in range(300):
        h, w, height, width = (int(x) for x in np.exp(random.uniform(0, np.log(200), 4)))
        if seed % 5 == 0:
            height = h
        elif seed % 5 == 1:
            width = w
        elif seed % 5 == 2:  # about where the order of the passes changes
            height = max(1, h - 2 * (w - width) + seed % 3 - 1)
        x = noise(h, w, seed)
        np.testing.assert_array_equal(
            resize(x, height, width),
            np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC)),
            f"{h} x {w} to {height} x {width}",
        )


def test_the_order_of_the_passes() -> None:
    """Columns first, if the height shrinks by more than twice as many pixels as the width. Either pass rounds and clips."""
    x = noise(60, 40)
    rows_first = resize(resize(x, 60, 30), 40, 30)
    columns_first = resize(resize(x, 39, 40), 39, 30)
    assert (resize(x, 40, 30) == rows_first).all() and (resize(x, 39, 30) == columns_first).all()
    assert (resize(resize(x, 40, 40), 40, 30) != rows_first).any()


def test_weights() -> None:
    for old, new in ((7, 20), (20, 7), (1, 5), (5, 1), (300, 48)):
        for at in range(new):
            first, taps = weights(old, new, at)
            assert first >= 0 and first + len(taps) <= old
            assert abs(taps.sum() - 2**22) <= len(taps) / 2  # each of them is rounded


def test_recorded_pixels(numbers: dict[str, np.ndarray]) -> None:
    for name in ("small", "rgba"):
        resized = resize(numbers[name], *target_size(*numbers[name].shape[:2], 70))
        assert hashlib.sha256(resized.tobytes()).hexdigest() == str(numbers[f"{name}_70_sha256"])


@pytest.mark.slow
@needs_fixtures
def test_all_recorded_pixels() -> None:
    recorded = np.load(SHARED / "vision" / "pixels.npz")
    seen = 0
    for key in recorded:
        if not key.endswith("_resized_sha256"):
            continue
        name, budget = key.removesuffix("_resized_sha256").rsplit("_", 1)
        (path,) = (SHARED / "vision" / "images").glob(f"{name}.*")
        x = pixels(path)
        assert hashlib.sha256(x.tobytes()).hexdigest() == str(recorded[f"{name}_rgb_sha256"])
        size = target_size(*x.shape[:2], int(budget))
        assert size == tuple(recorded[f"{name}_{budget}_size"])
        assert hashlib.sha256(resize(x, *size).tobytes()).hexdigest() == str(recorded[key]), key
        seen += 1
    assert seen == 17
    sliver = recorded["sliver_rgb"]
    np.testing.assert_array_equal(resize(sliver, *target_size(2, 300, 70)), recorded["sliver_70_resized"])


# ---- patches -------------------------------------------------------------------------------------------------------


def test_patches_and_positions() -> None:
    x = noise(96, 144)
    p, at = patches(x, 48), positions(x, 48)
    assert p.shape == (6, 6912) and at.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    for colour, y, column in ((0, 0, 0), (1, 5, 7), (2, 47, 47)):
        assert p[4, colour * 48 * 48 + y * 48 + column] == x[48 + y, 48 + column, colour] / 255


def test_wrong_pixels() -> None:
    for x in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match=r"uint8 \[h, w, 3\]"):
            resize(x, 8, 8)


# ---- encoders: rules -----------------------------------------------------------------------------------------------


def test_every_layer_follows_its_formula() -> None:
    """The soft tokens of two cells, patch by patch and head by head."""
    encoder = VisionEncoder(E2B)
    get = lambda name: encoder.file.values(name).astype(np.float64)  # noqa: E731
    rms = lambda x, w=1.0: x / np.sqrt(np.mean(x * x) + 1e-6) * w  # noqa: E731
    picture = noise(48, 96)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        x = np.clip(x, get(name + ".input_min"), get(name + ".input_max"))
        return np.clip(get(name + ".weight") @ x, get(name + ".output_min"), get(name + ".output_max"))

    def turn(x: np.ndarray, column: int, row: int) -> np.ndarray:
        """A head of 16 values: 8 turn by the column, 8 by the row, in pairs (i, i + 4)."""
        y = x.copy()
        for start, place in ((0, column), (8, row)):
            for i in range(4):
                a, phi = start + i, place * 100.0 ** (-2 * i / 8)
                y[a] = x[a] * np.cos(phi) - x[a + 4] * np.sin(phi)
                y[a + 4] = x[a + 4] * np.cos(phi) + x[a] * np.sin(phi)
        return y

    at = [(n % 6, n // 6) for n in range(18)]
    x = []
    for column, row in at:
        part = picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].transpose(2, 0, 1) / 255.0
        embedded = np.einsum("dcyx,cyx->d", get("v.patch_embd.weight"), 2 * part - 1)
        table = get("v.position_embd.weight")
        x.append(embedded + table[0, column] + table[1, row])
    for n in range(2):
        b = f"v.blk.{n}."
        h = [rms(row, get(b + "ln1.weight")) for row in x]
        q, k, v = ([linear(b + name, row).reshape(4, 16) for row in h] for name in ("attn_q", "attn_k", "attn_v"))
        q = [[turn(rms(q[i][a], get(b + "attn_q_norm.weight")), *at[i]) for a in range(4)] for i in range(18)]
        k = [[turn(rms(k[i][a], get(b + "attn_k_norm.weight")), *at[i]) for a in range(4)] for i in range(18)]
        for i in range(18):
            heads = []
            for a in range(4):
                z = np.array([q[i][a] @ k[j][a] for j in range(18)])
                p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
                heads.append(sum(p[j] * rms(v[j][a]) for j in range(18)))
            y = x[i] + rms(linear(b + "attn_out", np.concatenate(heads)), get(b + "attn_post_norm.weight"))
            f = rms(y, get(b + "ln2.weight"))
            gate = linear(b + "ffn_gate", f)
            gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
            f = linear(b + "ffn_down", gate * linear(b + "ffn_up", f))
            x[i] = y + rms(f, get(b + "ffn_post_norm.weight"))
    cells = [np.mean([x[n] for n in range(18) if at[n][0] // 3 == cell], axis=0) * 8 for cell in range(2)]
    expected = [get("mm.input_projection.weight") @ rms(cell) for cell in cells]
    np.testing.assert_allclose(encoder.soft_tokens(picture), expected, atol=1e-10)


def test_positions_turn_by_differences() -> None:
    """A product of two heads depends on how far apart the patches are, in both directions."""
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 16))
    product = lambda a, b: float((rope_2d(q, np.array([a])) * rope_2d(k, np.array([b]))).sum())  # noqa: E731
    assert product((3, 5), (9, 1)) == pytest.approx(product((103, 25), (109, 21)))
    assert abs(product((3, 5), (9, 1)) - product((5, 3), (1, 9))) > 1e-3  # columns and rows are not the same


def test_a_missing_bound_does_not_clip() -> None:
    x = noise(96, 96)
    whole = VisionEncoder(E2B).soft_tokens(x)
    file = Gguf(E2B)
    file.tensors = {n: t for n, t in file.tensors.items() if not n.endswith(("_min", "_max"))}
    assert np.abs(VisionEncoder(file).soft_tokens(x) - whole).max() > 1e-3


def test_the_large_encoder_is_standardized() -> None:
    x = noise(96, 96)
    file = Gguf(MOE)
    file.tensors = {n: t for n, t in file.tensors.items() if not n.startswith("v.std_")}
    assert np.abs(VisionEncoder(file).soft_tokens(x) - VisionEncoder(MOE).soft_tokens(x)).max() > 0.1


def test_errors(tmp_path: Path) -> None:
    encoder = VisionEncoder(E2B)
    with pytest.raises(ValueError, match="multiples of 48"):
        encoder.soft_tokens(noise(48, 50))
    with pytest.raises(ValueError, match="129 patches in a line; the encoder knows 128 positions"):
        encoder.soft_tokens(np.zeros((48, 43 * 48, 3), np.uint8))
    with pytest.raises(GgufError, match="no vision encoder of type gemma4v or gemma4uv"):
        VisionEncoder(DATA / "audio-e2b.gguf")
    with pytest.raises(GgufError, match="no audio encoder of type gemma4a or gemma4ua"):
        AudioEncoder(E2B)
    file = Gguf(E2B)
    del file.metadata["clip.vision.block_count"]
    with pytest.raises(GgufError, match=r"no metadata clip\.vision\.block_count"):
        VisionEncoder(file)


# ---- encoders: recorded outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "name"), [(E2B, "e2b_small"), (MOE, "moe_rgba")], ids=["e2b", "moe"])
def test_recorded_soft_tokens(numbers: dict[str, np.ndarray], file: Path, name: str) -> None:
    soft = VisionEncoder(file).encode(numbers[name.split("_")[1]], 70)
    np.testing.assert_allclose(soft, numbers[f"{name}_70"], atol=1e-5)
    single = VisionEncoder(file, np.float32).encode(numbers[name.split("_")[1]], 70)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, soft, atol=3e-5)


@pytest.mark.slow
@needs_fixtures
@pytest.mark.parametrize("variant", ["e2b", "moe", "dense"])
def test_all_recorded_soft_tokens(variant: str) -> None:
    encoder = VisionEncoder(SHARED / variant / "mmproj-BF16.gguf")
    recorded = np.load(SHARED / "vision" / f"{variant}.npz")
    for key in recorded:
        if not key.endswith("_count"):
            continue
        name, budget = key.removesuffix("_count").rsplit("_", 1)
        (path,) = (SHARED / "vision" / "images").glob(f"{name}.*")
        x = pixels(path)
        if int(budget) > 280:  # minutes of computation, for nothing that a smaller budget does not show
            assert token_count(*x.shape[:2], int(budget)) == recorded[key]
            continue
        soft = encoder.encode(x, int(budget))
        assert len(soft) == recorded[key]
        np.testing.assert_allclose(
            soft[recorded[f"{name}_{budget}_soft_rows"]], recorded[f"{name}_{budget}_soft"], atol=2e-5, err_msg=key
        )


@pytest.mark.slow
@needs_fixtures
@pytest.mark.parametrize("variant", ["e2b", "moe", "dense"])
def test_recorded_prompts(variant: str) -> None:
    """Pixels to logits: two pictures, with text between them or not; a picture and sound."""
    model, file = TextModel(SHARED / variant / "model-BF16.gguf"), Gguf(SHARED / variant / "mmproj-BF16.gguf")
    encoder, recorded = VisionEncoder(file), np.load(SHARED / "vision" / f"{variant}.npz")
    for name in ("two", "adjacent", "image_audio"):
        if f"prompt_{name}_ids" not in recorded:
            continue
        ids = recorded[f"prompt_{name}_ids"]
        paths = [next((SHARED / "vision" / "images").glob(f"{i}.*")) for i in recorded[f"prompt_{name}_images"]]
        image = np.flatnonzero(ids == SOFT_IMAGE)
        soft = dict(zip(image, np.concatenate([encoder.encode(pixels(path), 70) for path in paths]), strict=True))
        if name == "image_audio":
            tokens = AudioEncoder(file).encode(recorded["prompt_audio_samples"])
            soft |= dict(zip(np.flatnonzero(ids == SOFT_AUDIO), tokens, strict=True))
        logits = model.forward(ids, soft=soft, image=image)
        np.testing.assert_allclose(
            logits[recorded[f"prompt_{name}_at"]], recorded[f"prompt_{name}_logits"], atol=1e-4, err_msg=name
        )


# ---- the 12B model -------------------------------------------------------------------------------------------------


def test_unified_projections(numbers: dict[str, np.ndarray]) -> None:
    soft = VisionEncoder(UNIFIED).soft_tokens(numbers["unified"])  # the upper cells of a picture that was 10 cells high
    np.testing.assert_allclose(soft, numbers["unified_soft"], atol=5e-6)
    sound = AudioEncoder(UNIFIED)
    np.testing.assert_allclose(sound.encode(numbers["unified_samples"]), numbers["unified_sound"], atol=5e-6)


def test_unified_sound_in_pieces(numbers: dict[str, np.ndarray]) -> None:
    encoder, samples = AudioEncoder(UNIFIED), numbers["unified_samples"][:3000]
    stream, random, at, tokens = encoder.stream(), np.random.default_rng(0), 0, []
    while at < len(samples):
        step = int(random.integers(1, 1500))
        tokens.append(stream.push(samples[at : at + step]))
        at += step
        assert sum(map(len, tokens)) == min(at, len(samples)) // 640
    tokens.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(tokens), encoder.encode(samples), atol=1e-12)
    assert encoder.encode(samples[:0]).shape == (0, 32) and encoder.encode(samples[:641]).shape == (2, 32)
    assert not encoder.encode(np.zeros(640)).any()


@needs_fixtures
def test_unified_text_and_prompts() -> None:
    recorded, model = np.load(SHARED / "unified" / "reference.npz"), TextModel(SHARED / "unified" / "model-BF16.gguf")
    np.testing.assert_allclose(model.forward(recorded["text_ids"]), recorded["text_logits"], atol=2e-5)
    assert int(model.forward(recorded["greedy_ids"][:20], last=1).argmax()) == recorded["greedy_ids"][20]

    ids, picture = recorded["image_prompt_ids"], VisionEncoder(SHARED / "unified" / "mmproj-BF16.gguf")
    image = np.flatnonzero(ids == SOFT_IMAGE)
    soft = dict(zip(image, picture.soft_tokens(recorded["image_resized"]), strict=True))
    logits = model.forward(ids, soft=soft, image=image)[recorded["image_prompt_at"]]
    np.testing.assert_allclose(logits, recorded["image_prompt_logits_local"], atol=5e-5)
    assert np.abs(logits - recorded["image_prompt_logits"]).max() > 1  # where a picture sees itself in all layers

    ids, sound = recorded["audio_prompt_ids"], AudioEncoder(SHARED / "unified" / "mmproj-BF16.gguf")
    tokens = sound.encode(recorded["audio_samples"])
    soft = dict(zip(np.flatnonzero(ids == SOFT_AUDIO), tokens, strict=True))
    logits = model.forward(ids, soft=soft)[recorded["audio_prompt_at"]]
    np.testing.assert_allclose(logits, recorded["audio_prompt_logits"], atol=5e-5)


# ---- video ---------------------------------------------------------------------------------------------------------


def test_frames_and_their_text(rules: dict[str, list]) -> None:
    assert len(rules["video"]) > 8
    for rule in rules["video"]:
        _check(rule)


@needs_fixtures
def test_all_frames_and_their_text() -> None:
    for rule in json.loads((SHARED / "video" / "sampling.json").read_text()):
        _check(rule)


def _check(rule: dict) -> None:
    count = rule.get("num_frames") or frame_count(rule["total"], rule["fps"], rule["target_fps"])
    if rule["indices"] is None:
        with pytest.raises(ValueError, match=f"{count} frames are wanted of a video that has {rule['total']}"):
            frame_indices(rule["total"], count)
        return
    assert frame_indices(rule["total"], count) == rule["indices"]
    assert prompt(rule["indices"], 2, rule["fps"]) == rule["text_with_2_soft_tokens"]


def test_time_stamps() -> None:
    assert [time_stamp(s) for s in (0, 59.99, 60, 3599, 3600, 6000)] == [
        "00:00",
        "00:59",
        "01:00",
        "59:59",
        "60:00",
        "100:00",
    ]


@pytest.mark.slow
@needs_fixtures
@pytest.mark.parametrize("variant", ["e2b", "moe"])
def test_recorded_video(variant: str) -> None:
    """Frames to logits. The frames were resampled by a library whose pixels differ, so the logits take its soft tokens."""
    clip, recorded = np.load(SHARED / "video" / "e2b.npz"), np.load(SHARED / "video" / f"{variant}.npz")
    assert frame_indices(int(clip["total"]), 6) == clip["indices"].tolist()
    assert prompt(clip["indices"], 60, float(clip["fps"])) == str(clip["text"])
    encoder = VisionEncoder(SHARED / variant / "mmproj-BF16.gguf")
    np.testing.assert_allclose(encoder.encode(clip["frames"][0], 70), recorded["soft_pillow_first"], atol=2e-5)
    first = list(recorded["soft_frames"]).index(0)
    np.testing.assert_allclose(encoder.soft_tokens(clip["resized_first"]), recorded["soft"][first], atol=2e-5)
    if variant != "e2b":
        return
    ids = recorded["prompt_ids"]
    image = np.flatnonzero(ids == SOFT_VIDEO)
    soft = dict(zip(image, np.concatenate(recorded["soft"]), strict=True))
    logits = TextModel(SHARED / variant / "model-BF16.gguf").forward(ids, soft=soft, image=image)
    np.testing.assert_allclose(logits[recorded["prompt_at"]], recorded["prompt_logits"], atol=1e-4)
