"""Pictures through the engine's C interface: resizing, counting, the encoder alone, sessions, frames, and what is refused.
Soft tokens are compared with other programs' in tests/reference and tests/vision."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

import edge_gemma as eg
from edge_gemma import kernels
from edge_gemma.engine.native import check, ffi, lib, new_struct, pointer
from edge_gemma.reference.images import target_size
from edge_gemma.reference.vision import VisionEncoder
from support.paths import DATA
from support.tiny_model import Shape, write_model
from support.tiny_vision import VisionShape, vision_writer, write_vision

RULES = json.loads((DATA / "vision-rules.json").read_text())
needs_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="before Pillow 13 some pictures were resized in another order"
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=["e2b", "moe"])
def model(request: pytest.FixtureRequest) -> Iterator[eg.Model]:
    """The small encoders, with clipped matrices and standardized."""
    name = request.param
    with eg.Model.load(DATA / f"{name}-Q4_0.gguf", mmproj=DATA / f"vision-{name}.gguf", threads=2) as opened:
        yield opened


def image_of(pixels: np.ndarray, max_tokens: int = 70, stride: int = 0) -> Any:
    image = new_struct("eg_image")
    image.height, image.width = pixels.shape[:2]
    image.rgb, image.max_tokens, image.stride = pointer(pixels, "uint8_t *"), max_tokens, stride
    return image


# ---- resizing ----------------------------------------------------------------------------------------------------------


@needs_pillow_13
@pytest.mark.parametrize("seed", range(8))
def test_resize_equals_pillow(seed: int) -> None:
    """Any size to any size: enlarged, shrunk, one side each, unchanged; columns first for tall pictures."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        height, width, to_height, to_width = (int(2 ** rng.uniform(0, 8.5)) for _ in range(4))
        if rng.random() < 0.2:
            to_width = width
        if rng.random() < 0.2:
            to_height = height
        picture = noise(height, width, seed)
        want = np.asarray(Image.fromarray(picture).resize((to_width, to_height), Image.Resampling.BICUBIC))
        assert np.array_equal(kernels.resize(picture, to_width, to_height), want), (height, width, to_height, to_width)


@needs_pillow_13
@pytest.mark.parametrize(
    ("size", "to"),
    [((2400, 1080), (1152, 528)), ((1, 20000), (48, 960)), ((20000, 1), (960, 48)), ((3000, 4000), (48, 48))],
)
def test_resize_of_photographs_and_slivers(size: tuple[int, int], to: tuple[int, int]) -> None:
    picture = noise(*size)
    picture[size[0] // 3 :, size[1] // 2 :] = 255  # edges, at which the filter overshoots
    want = np.asarray(Image.fromarray(picture).resize((to[1], to[0]), Image.Resampling.BICUBIC))
    assert np.array_equal(kernels.resize(picture, to[1], to[0]), want)


def test_resize_refuses() -> None:
    for pixels, width in ((noise(3, 3), 0), (noise(3, 3), 2**20 + 1), (np.zeros((0, 3, 3), np.uint8), 3)):
        with pytest.raises(ValueError, match="1 to 1048576"):
            kernels.resize(pixels, width, 3)
    with pytest.raises(ValueError, match="uint8"):
        kernels.resize(np.zeros((3, 3, 3), np.float32), 3, 3)


# ---- counting ----------------------------------------------------------------------------------------------------------


def test_tokens_of_every_size(model: eg.Model) -> None:
    """The target sizes that transformers computes."""
    counted = 0
    for height, width, budget, (target_height, target_width) in RULES["sizes"]:
        tokens = target_height * target_width // 48**2
        try:
            assert model.image_tokens(width, height, budget) == tokens
            counted += 1
        except eg.EdgeGemmaError as error:  # the small encoders have few positions
            assert error.code == "argument"
            assert "positions" in str(error)
    assert counted > 100


@pytest.mark.parametrize(
    ("width", "height", "budget", "words"),
    [
        (0, 5, 280, "0 x 5"),
        (5, 0, 280, "5 x 0"),
        (2**20 + 1, 5, 280, "1048576"),
        (9, 9, 100, "70, 140"),
        (9, 9, 1, "70, 140"),
    ],
)
def test_sizes_that_are_refused(model: eg.Model, width: int, height: int, budget: int, words: str) -> None:
    with pytest.raises(eg.EdgeGemmaError, match=words) as caught:
        model.image_tokens(width, height, budget)
    assert caught.value.code == "argument"


# ---- the encoder -------------------------------------------------------------------------------------------------------


def test_same_bits_with_any_threads_stride_and_set(model: eg.Model) -> None:
    picture, wide = noise(90, 120), noise(90, 200, 9)
    wide[:, :120] = picture
    want = model.encode_image(picture, 140)
    err, out, encoder, written = (
        new_struct("eg_error"),
        np.empty_like(want),
        ffi.new("eg_image_encoder **"),
        ffi.new("size_t *"),
    )
    for threads in (1, 3):
        with eg.Model.load(model.path, mmproj=model.mmproj, threads=threads) as other:
            check(lib.eg_image_encoder_open(other.pointer, encoder, err), err)
            image = image_of(wide, 140, 600)
            image.width = 120
            target = pointer(out, "float *")
            for _ in range(2):
                out[:] = 0
                check(lib.eg_image_encoder_run(encoder[0], image, target, len(out), written, err), err)
                assert written[0] == len(want)
                assert np.array_equal(out, want)
            assert (
                lib.eg_image_encoder_run(encoder[0], image, target, len(out) - 1, written, err) == lib.EG_ERROR_ARGUMENT
            )
            image.stride = 359
            assert lib.eg_image_encoder_run(encoder[0], image, target, len(out), written, err) == lib.EG_ERROR_ARGUMENT
            lib.eg_image_encoder_close(encoder[0])


def test_mirrored_and_turned_pictures_differ(model: eg.Model) -> None:
    picture = noise(96, 96)
    tokens = model.encode_image(picture)
    for other in (picture[:, ::-1], picture[::-1], picture.transpose(1, 0, 2), picture[..., ::-1]):
        assert not np.allclose(model.encode_image(np.ascontiguousarray(other)), tokens, atol=0.05)


def test_progress_and_what_it_raises(model: eg.Model) -> None:
    seen: list[tuple[int, int]] = []
    model.encode_image(noise(50, 50), 140, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with model.image_encoder() as encoder:
        with pytest.raises(KeyboardInterrupt):
            encoder.run(noise(50, 50), 70, progress=stop)
        assert encoder.run(noise(50, 50), 70).shape[1] == model.config.hidden_size  # nothing of it is left


def test_cancelled_encoder(model: eg.Model) -> None:
    """The request ends the call that runs, or else the next one, once."""
    with model.image_encoder() as encoder:
        encoder.cancel()
        with pytest.raises(eg.Cancelled):
            encoder.run(noise(9, 9))
        encoder.run(noise(9, 9))
        with pytest.raises(eg.Cancelled):
            encoder.run(noise(9, 9), 1120, progress=lambda done, total: encoder.cancel() if done == 2 else None)


def test_two_threads_encode(model: eg.Model) -> None:
    pictures = [noise(60, 80, seed) for seed in range(4)]
    alone = [model.encode_image(picture, 70) for picture in pictures]
    together: dict[int, np.ndarray] = {}

    def encode(number: int) -> None:
        together[number] = model.encode_image(pictures[number], 70)

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(together[number], alone[number]) for number in range(4))


# ---- sessions ----------------------------------------------------------------------------------------------------------


def by_hand(session: eg.Session, rows: np.ndarray, text: str = "") -> None:
    """What a picture is made of."""
    tokenizer = session.model.tokenizer
    session.feed_tokens(tokenizer.encode(text))
    session.feed_tokens([tokenizer.find("<|image>")])
    session.feed_embeddings(rows, picture=True)
    session.feed_tokens([tokenizer.find("<image|>")])


def test_picture_in_a_session(model: eg.Model) -> None:
    """eg_session_feed_image is markers and soft tokens; two pictures with text between them and behind."""
    pictures, err = [noise(70, 90), noise(90, 70, 1)], new_struct("eg_error")
    whole, parts = model.session(1024), model.session(1024)
    for picture in pictures:
        check(lib.eg_session_feed_image(whole.pointer, image_of(picture), err), err)
        by_hand(parts, model.encode_image(picture, 70))
        for session in (whole, parts):
            session.feed_tokens([5, 6, 7])
    assert whole.tokens == parts.tokens
    assert np.array_equal(whole.logits(), parts.logits())
    stats = new_struct("eg_stats")
    check(lib.eg_session_get_stats(whole.pointer, stats, err), err)
    assert stats.image_tokens == whole.tokens.count(-1) > 100
    assert stats.image_seconds > 0
    bare = model.session(1024)
    image = image_of(pictures[0])
    image.no_markers = True
    check(lib.eg_session_feed_image(bare.pointer, image, err), err)
    assert set(bare.tokens) == {-1}


def test_frames_in_a_session(model: eg.Model) -> None:
    """MM:SS, a space, and the picture; a space between frames; minutes do not wrap."""
    whole, parts, err = model.session(1024), model.session(1024), new_struct("eg_error")
    times = [(0.0, "00:00 "), (7.99, " 00:07 "), (3725.0, " 62:05 ")]
    for number, (seconds, text) in enumerate(times):
        frame = noise(48, 64, number)
        image = image_of(frame, 0)
        check(lib.eg_session_feed_frame(whole.pointer, image, seconds, number > 0, err), err)
        by_hand(parts, model.encode_image(frame, 70), text)
    assert whole.tokens == parts.tokens
    assert np.array_equal(whole.logits(), parts.logits())
    for seconds in (-1.0, float("nan"), 1e10):
        assert lib.eg_session_feed_frame(whole.pointer, image, seconds, False, err) == lib.EG_ERROR_ARGUMENT


def test_refused_pictures_change_nothing(model: eg.Model) -> None:
    picture, err = noise(60, 60), new_struct("eg_error")
    session = model.session(100)
    session.feed_tokens([2, 5])
    logits = session.logits()
    image = image_of(picture, 280)
    assert lib.eg_session_feed_image(session.pointer, image, err) == lib.EG_ERROR_CONTEXT
    for field, value in (("width", 0), ("rgb", ffi.NULL), ("max_tokens", 99), ("stride", 5), ("stride", 2**64 - 1)):
        wrong = image_of(picture)
        setattr(wrong, field, value)
        assert lib.eg_session_feed_image(session.pointer, wrong, err) == lib.EG_ERROR_ARGUMENT, field
    session.cancel()
    assert lib.eg_session_feed_image(session.pointer, image_of(picture), err) == lib.EG_CANCELLED
    assert session.position == 2
    assert np.array_equal(session.logits(), logits)
    check(lib.eg_session_feed_image(session.pointer, image_of(picture), err), err)


def test_cancelled_while_encoding(model: eg.Model) -> None:
    """A request that comes while the encoder runs: nothing was added."""
    session, err = model.session(2048), new_struct("eg_error")
    session.feed_tokens([2, 5])
    picture = noise(200, 200)
    image = image_of(picture, 1120)
    done = []

    @ffi.callback("void(void *, uint32_t, uint32_t)")
    def progress(context: Any, at: int, total: int) -> None:
        done.append(at)
        if at == 3:
            session.cancel()

    image.progress = progress
    assert lib.eg_session_feed_image(session.pointer, image, err) == lib.EG_CANCELLED
    assert done == [1, 2, 3]
    assert session.position == 2
    image.progress = ffi.NULL
    check(lib.eg_session_feed_image(session.pointer, image, err), err)


SHAPES = {
    "heads of 72": VisionShape(width=144, heads=2, ffn=100, standardized=True, clip=0),
    "one wide head": VisionShape(width=128, heads=1, layers=1),
    "heads of 4": VisionShape(width=32, heads=8, ffn=33),
    "BF16": VisionShape(width=64, type="BF16"),
    "F16 rows of 6": VisionShape(width=12, heads=1, ffn=6, type="F16"),
    "Q8_0": VisionShape(width=64, ffn=96, type="Q8_0"),
    "Q4_0": VisionShape(width=64, ffn=96, type="Q4_0", standardized=True),
    "unified": VisionShape(unified=True, width=32),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_types(name: str, tmp_path: Path) -> None:
    """Encoders of other shapes and types, against the reference. One picture fills several blocks of patches."""
    mmproj = write_vision(tmp_path / "mmproj.gguf", SHAPES[name])
    path = write_model(tmp_path / "m.gguf", Shape([True, False]))
    reference = VisionEncoder(mmproj)
    with eg.Model.load(path, mmproj=mmproj, threads=3) as model:
        for picture, budget in ((noise(70, 130), 70), (noise(300, 100, 1), 140)):
            want = reference.soft_tokens(kernels.resize(picture, *target(picture, budget)))
            got = model.encode_image(picture, budget)
            assert got.shape == want.shape
            assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 3e-3


def target(picture: np.ndarray, budget: int) -> tuple[int, int]:
    """Width and height of the resized picture."""
    height, width = target_size(*picture.shape[:2], budget)
    return width, height


def test_damaged_encoders(tmp_path: Path) -> None:
    """The file and the tensor or key are named."""
    path = write_model(tmp_path / "m.gguf", Shape([True, False]))
    good = VisionShape()
    for shape, words in (
        (replace(good, hidden=32), "encoders are of another model: their image tokens are 32 wide"),
        (replace(good, heads=16), "'clip.vision.embedding_length' does not fit the number of heads"),
        (replace(good, width=30, heads=1), "a multiple of 4"),
        (replace(good, width=256, heads=1), "128 at most"),
        (replace(good, layers=0), "'clip.vision.block_count' is 0"),
    ):
        mmproj = write_vision(tmp_path / "mmproj.gguf", shape)
        with pytest.raises(eg.EdgeGemmaError, match=words) as caught:
            eg.Model.load(path, mmproj=mmproj)
        assert "mmproj.gguf" in str(caught.value)
    whole = vision_writer(good)
    for missing in (
        "v.position_embd.weight",
        "v.blk.1.ffn_down.weight",
        "mm.input_projection.weight",
        "v.blk.0.ln2.weight",
    ):
        writer = vision_writer(good)
        writer.tensors = [tensor for tensor in whole.tensors if tensor[0] != missing.encode()]
        (tmp_path / "mmproj.gguf").write_bytes(writer.build())
        with pytest.raises(eg.EdgeGemmaError, match=f"'{missing}' is missing"):
            eg.Model.load(path, mmproj=tmp_path / "mmproj.gguf")
    writer = vision_writer(good)
    writer.entries = [entry for entry in writer.entries if b"projector_type" not in entry]
    writer.entry("clip.vision.projector_type", "llava")
    (tmp_path / "mmproj.gguf").write_bytes(writer.build())
    with pytest.raises(eg.EdgeGemmaError, match="'llava'"):
        eg.Model.load(path, mmproj=tmp_path / "mmproj.gguf")


def test_models_without_eyes(tmp_path: Path) -> None:
    for mmproj, words in ((None, "opened without a vision encoder"), (DATA / "audio-e2b.gguf", "none for pictures")):
        with eg.Model.load(DATA / "e2b-Q4_0.gguf", mmproj=mmproj, threads=1) as blind:
            assert not blind.has_vision
            for call in (lambda: blind.image_tokens(9, 9), lambda: blind.encode_image(noise(9, 9))):
                with pytest.raises(eg.EdgeGemmaError, match=words) as caught:
                    call()
                assert caught.value.code == "unsupported"
