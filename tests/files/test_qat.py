"""Checkpoints that come packed into 2, 4 and 8 bits, with fixed steps of activations: the bits, the kernels, the conversion,
and whole models against Hugging Face transformers and the reference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma import kernels
from edge_gemma.engine.gguf import GGUFFile
from edge_gemma.engine.native import ffi
from edge_gemma.files.convert import convert
from edge_gemma.files.gguf_source import GGUFSource
from edge_gemma.files.gguf_writer import GGUFWriter, OutputTensor
from edge_gemma.files.qat import repack
from edge_gemma.files.quantize import quantize
from edge_gemma.reference import quants
from edge_gemma.reference.audio import AudioEncoder
from edge_gemma.reference.gguf import Gguf
from edge_gemma.reference.text import TextModel
from edge_gemma.reference.vision import VisionEncoder
from support.paths import ROOT
from support.tiny_checkpoint import TOKENS, Shape, write_checkpoint

F = np.float32
BITS = (2, 4, 8)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def pack(q: np.ndarray, bits: int) -> np.ndarray:
    """Codes [rows, cols] as a checkpoint has them, value by value from the lowest bits up."""
    if bits == 8:
        return q.astype(np.int8)
    packed = np.zeros((len(q), q.shape[1] * bits // 8), np.uint8)
    for i in range(q.shape[1]):
        packed[:, i * bits // 8] |= ((q[:, i] + (1 << bits - 1)) << i * bits % 8).astype(np.uint8)
    return packed


def codes(rng: np.random.Generator, rows: int, cols: int, bits: int) -> np.ndarray:
    return rng.integers(-(1 << bits - 1), 1 << bits - 1, (rows, cols))


# ---- bits and kernels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_repacked_codes_keep_their_places(bits):
    q = codes(np.random.default_rng(bits), 3, 512, bits)
    raw = repack(pack(q, bits).view(np.uint8), bits)
    assert np.array_equal(kernels.dequantize(raw, f"QC{bits}").reshape(q.shape), q)
    assert np.array_equal(quants.dequantize(raw, f"QC{bits}").reshape(q.shape), q)


@pytest.fixture(params=list(kernels.targets))
def target(request: pytest.FixtureRequest) -> kernels.Target:
    """One instruction set."""
    found = kernels.targets[request.param]
    if found is None:
        pytest.skip(f"this processor lacks {request.param}")
    return found


def steps(x: np.ndarray, step: float) -> np.ndarray:
    return np.clip(np.rint(x / F(step)), -128, 127)


@pytest.mark.parametrize("bits", BITS)
def test_matmul_i8(target, bits):
    """Every set equals the contract bit for bit: whole rows of integers, then one multiplication."""
    rng = np.random.default_rng(bits)
    odd = [(1, 17, 96), (2, 16, 32), (3, 16, 160)] if bits == 8 else []  # rows that are no multiple of a register
    for n, rows, cols in [
        (1, 16, 256),
        (1, 37, 2304),
        (2, 1, 512),
        (2, 19, 768),
        (3, 17, 768),
        (9, 33, 2304),
        (17, 50, 1280),
        *((n, 57, 1280) for n in (*range(1, 18), 31, 32, 33)),
        *odd,
    ]:
        q, x = codes(rng, rows, cols, bits), rng.normal(0, 40, (n, cols)).astype(F)
        q[0], x[0] = -(1 << bits - 1), -1e6  # the largest sums
        scale = rng.normal(0, 0.01, rows).astype(F)
        raw = repack(pack(q, bits).view(np.uint8), bits)
        xq = steps(x, 0.7).astype(np.int64)
        want = (xq @ q.T.astype(np.int64)).astype(F) * (scale * F(0.7))
        got = target.matmul_steps(x, raw, f"QC{bits}", scale, (0.7, 0))
        assert got.dtype == want.dtype
        assert np.array_equal(got, want), (n, rows, cols)
        snapped = target.matmul_steps(x, raw, f"QC{bits}", scale, (0.7, 0.3))
        assert np.array_equal(snapped, (steps(want, 0.3) * F(0.3)).astype(F))


def test_steps_of_activations(target):
    """Ties go to even, numbers beyond 8 bits to their ends; a value that is not finite spoils its row, visibly."""
    x = np.zeros(64, F)
    x[:10] = [0.5, 1.5, 2.5, -0.5, -1.5, 127.4, 500, -128.4, -500, 3e38]
    q, total = np.full(96, 77, np.int8), ffi.new("int32_t *")
    cast = lambda a, kind: ffi.cast(kind, a.ctypes.data)  # noqa: E731
    assert target.table.quantize_i8(cast(x, "float *"), 64, 1.0, cast(q, "int8_t *"), total) == 1
    assert q[:10].tolist() == [0, 2, 2, 0, -2, 127, 127, -128, -128, 127]
    assert (q[64:] == 77).all()
    assert total[0] == q[:64].sum(dtype=int)
    snapped = x[:21].copy()
    target.table.fake_quant_i8(cast(snapped, "float *"), 19, 1.0)
    assert np.array_equal(snapped[:19], q[:19])
    for bad in (np.nan, np.inf):
        x[40] = bad
        assert np.isnan(target.table.quantize_i8(cast(x, "float *"), 64, 1.0, cast(q, "int8_t *"), total))
        assert not q[:64].any()
        assert total[0] == 0
    values = np.array([np.nan, np.inf, -np.inf], F)
    target.table.fake_quant_i8(cast(values, "float *"), 3, 0.5)
    assert np.array_equal(values, np.array([np.nan, 63.5, -64], F), equal_nan=True)


# ---- Google's format, against transformers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobile(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The fixture as GGUF, and its reference."""
    folder = shared / "fixtures" / "e2b-qat-mobile"
    out = tmp_path_factory.mktemp("qat")
    written = convert(folder / "hf", out)
    assert written.model.name == "hf-QAT.gguf"
    assert written.mmproj
    return written.model, dict(np.load(folder / "reference.npz"))


def test_reference_equals_transformers(mobile):
    """The same roundings in the same places: not one of 300,000 numbers a layer falls to another step."""
    path, expected = mobile
    logits, hidden = TextModel(path, F).forward(expected["text_ids"], hidden=True)
    assert rms(logits - expected["text_logits"]) < 1e-5 * rms(expected["text_logits"])
    assert rms(hidden - expected["text_hidden"]) < 1e-5 * rms(expected["text_hidden"])


def test_engine_against_transformers(mobile):
    """A number that lies on the border between two steps falls to either with the last bit of a float, and with random
    weights one such step changes all tokens behind it, as it does between float32 and float64 of one program. So: equality
    up to the first such number, and beyond it the distance that these two have."""
    path, expected = mobile
    ids, want = expected["text_ids"], expected["text_logits"]
    model = eg.Model.load(path, threads=1)
    with model.session(context=128, kv="f32") as session:
        logits = session.forward(ids)
    with model.session(context=128, kv="f32") as session:
        hidden = session.hidden_states(ids)
    error = np.sqrt(np.mean((hidden - expected["text_hidden"]) ** 2, axis=2))  # [layers + 1, tokens]
    size = np.sqrt(np.mean(expected["text_hidden"] ** 2, axis=(1, 2)))[:, None]
    assert (error[:2] < 1e-6 * size[:2]).all()
    equal = np.abs(logits - want).max(1) < 1e-4
    assert equal[:16].sum() >= 15
    assert (logits.argmax(1) == want.argmax(1))[equal].all()
    double = TextModel(path, np.float64).forward(ids)
    assert rms(logits - want) < 1.3 * rms(double - want)


def test_engine_equals_reference_on_short_prompts(mobile):
    """Where nothing lies on a border, all layers agree to the rounding of floats; most short prompts have no such number."""
    path, expected = mobile
    model, reference = eg.Model.load(path, threads=1), TextModel(path, F)
    equal = 0
    for ids in expected["text_ids"][:60].reshape(-1, 2):
        with model.session(context=32, kv="f32") as session:
            logits = session.forward(ids)
        want = reference.forward(ids)
        if np.abs(logits - want).max() < 1e-4:
            equal += 1
            assert np.array_equal(logits.argmax(1), want.argmax(1))
    assert equal >= 20


def test_greedy_ids_equal_the_reference(mobile):
    path, expected = mobile
    model, reference = eg.Model.load(path, threads=1), TextModel(path, F)
    for start in (0, 28):
        ours = theirs = [int(i) for i in expected["text_ids"][start : start + 4]]
        with model.session(context=64, kv="f32") as session:
            session.feed_tokens(ours)
            for _ in range(8):
                ours = [*ours, int(session.logits().argmax())]
                session.feed_tokens(ours[-1:])
        for _ in range(8):
            theirs = [*theirs, int(reference.forward(theirs, last=1)[0].argmax())]
        assert ours == theirs


def test_info(mobile, run_cli):
    done = run_cli("info", str(mobile[0]))
    assert done.returncode == 0
    for name in ("QC2", "QC4", "QC8"):
        assert name in done.stdout


def test_quantizing_again_is_refused(mobile, tmp_path):
    with pytest.raises(ValueError, match=r"has type QC\d, which cannot be quantized again"):
        quantize(mobile[0], tmp_path / "q.gguf", "Q4_0")
    with pytest.raises(ValueError, match="QC4"):
        quantize(mobile[0], tmp_path / "q.gguf", "QC4")
    with pytest.raises(ValueError, match="QC4 can be read, but not written"):
        quantize(mobile[0], tmp_path / "q.gguf", "Q4_0", tensor_types={"*": "QC4"})


# ---- small checkpoints of our own ---------------------------------------------------------------------------------

SHAPE = Shape(width=256, heads=4, head_local=32, head_global=64, ffn=256, ple=64, audio=False, vision=False)
TEXT, WORDS = "model.language_model.", len(TOKENS)


def packed_checkpoint(
    folder: Path, step: float = 0.03, change: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """A packed checkpoint; `step` of all activations, 0 for none, and then the embeddings are the output too. The rows of the
    PLE table have a scale for each layer."""
    rng, found = np.random.default_rng(1), SHAPE.tensors()
    if step:
        found["lm_head.weight"] = found[f"{TEXT}embed_tokens.weight"]
    for name in [name for name, value in found.items() if value.ndim == 2 and name.endswith(".weight")]:
        rows, cols = found[name].shape
        embedding = "embed_tokens" in name
        bits = 8 if "per_layer_" in name and not embedding else 2 if "layers.2.mlp" in name else 4
        stem = name.removesuffix("weight")
        del found[name]
        several = 4 if "embed_tokens_per_layer" in name else 1
        scale = rng.uniform(0.5, 1.5, (rows, several)) * cols**-0.5 / (1 << bits - 1) * 2
        found[stem + ("embedding_quantized" if embedding else "weight")] = pack(codes(rng, rows, cols, bits), bits)
        found[stem + ("embedding_scale" if embedding else "weight_scale")] = scale.astype(F)
        if not embedding:
            found[stem + "input_activation_scale"] = np.full((), step, F)
            found[stem + "output_activation_scale"] = np.full((), step, F)
    found[f"{TEXT}layers.0.self_attn.k_cache_scale"] = np.ones((), F)
    if change:
        change(found)
    quantization = {"quant_method": "gemma", "num_bits": 4, "quantize_embeddings": True}
    config = SHAPE.config() | {"quantization_config": quantization, "tie_word_embeddings": not step}
    shape = Shape(**{**vars(SHAPE), "dtype": "F32"})
    return write_checkpoint(folder, shape, tensors=found, config=config)


@pytest.mark.parametrize(("step", "limit"), [(0.03, 1e-4), (0.0, 0.05)])
def test_a_model_of_our_own(tmp_path, step, limit):
    """With fixed steps: the reference's logits; without: those up to the rounding of activations to 8 bits."""
    path = convert(packed_checkpoint(tmp_path / "hf", step), tmp_path / "m.gguf").model
    with GGUFFile(path) as file:
        rows = {tensor.name: tensor for tensor in file.tensors}
    assert rows["blk.2.ffn_up.weight"].type_name == "QC2"
    assert rows["blk.0.attn_q.weight"].type_name == "QC4"
    assert rows["per_layer_model_proj.weight"].type_name == "QC8"
    assert rows["per_layer_token_embd.scale"].shape == (4, WORDS)
    assert not [name for name in rows if "cache_scale" in name]
    model, reference = eg.Model.load(path, threads=1), TextModel(path, F)
    errors = []
    for ids in np.random.default_rng(0).integers(0, WORDS, (12, 2)):
        with model.session(context=32, kv="f32") as session:
            logits = session.forward(ids)
        errors.append(rms(logits - reference.forward(ids)) / rms(logits))
    assert np.median(errors) < limit


def test_packed_encoder(tmp_path):
    """Matrices of the audio encoder may come packed too; bounds and steps are both kept."""
    shape, rng = Shape(**{**vars(SHAPE), "audio": True, "dtype": "F32"}), np.random.default_rng(3)
    tensors = shape.tensors()
    for name in [name for name in tensors if "audio_tower.layers" in name and name.endswith(".linear.weight")]:
        rows, cols = tensors[name].shape
        tensors[name] = codes(rng, rows, cols, 8).astype(np.int8)
        tensors[f"{name}_scale"] = np.full((rows, 1), cols**-0.5 / 64, F)
        for side in ("input", "output"):
            tensors[f"{name.removesuffix('weight')}{side}_activation_scale"] = np.full((), 0.05, F)
    config = shape.config() | {"quantization_config": {"quant_method": "gemma"}}
    written = convert(write_checkpoint(tmp_path / "hf", shape, tensors=tensors, config=config), tmp_path / "m.gguf")
    sound = rng.normal(0, 0.1, 4000).astype(F)
    got = eg.Model.load(written.model, mmproj=written.mmproj, threads=1).encode_audio(sound)
    want = AudioEncoder(written.mmproj, dtype=F).encode(sound)
    with GGUFFile(written.mmproj) as file:
        assert sum(tensor.type_name == "QC8" for tensor in file.tensors) == 20
    assert rms(got - want) < 0.05 * rms(want)  # a number on a border changes tokens behind it
    coarse = AudioEncoder(written.mmproj, dtype=F)
    coarse.file.steps = lambda name: (0.0, 0.0)
    assert rms(got - want) < 0.5 * rms(got - coarse.encode(sound)), "the steps must show"


def test_packed_vision_encoder(tmp_path):
    """As sound, pictures: eight bits, bounds and steps."""
    shape, rng = Shape(**{**vars(SHAPE), "vision": True, "dtype": "F32"}), np.random.default_rng(3)
    tensors = shape.tensors()
    for name in [name for name in tensors if "vision_tower.encoder" in name and name.endswith(".linear.weight")]:
        rows, cols = tensors[name].shape
        tensors[name] = codes(rng, rows, cols, 8).astype(np.int8)
        tensors[f"{name}_scale"] = np.full((rows, 1), cols**-0.5 / 64, F)
        for side in ("input", "output"):
            tensors[f"{name.removesuffix('weight')}{side}_activation_scale"] = np.full((), 0.02, F)
    config = shape.config() | {"quantization_config": {"quant_method": "gemma"}}
    written = convert(write_checkpoint(tmp_path / "hf", shape, tensors=tensors, config=config), tmp_path / "m.gguf")
    pixels = rng.integers(0, 256, (96, 144, 3), np.uint8)
    with eg.Model.load(written.model, mmproj=written.mmproj, threads=1) as model:
        got = model.encode_image(pixels, 70)
    encoder = VisionEncoder(written.mmproj, F)
    assert sum(tensor.type == "QC8" for tensor in encoder.file.tensors.values()) == 14
    want = encoder.encode(pixels, 70)
    assert rms(got - want) < 0.05 * rms(want)  # a number on a border changes tokens behind it
    encoder.file.steps = lambda name: (0.0, 0.0)
    assert rms(got - want) < 0.5 * rms(got - encoder.encode(pixels, 70)), "the steps must show"


def test_encoders_of_the_mobile_checkpoint(shared, tmp_path):
    """They are not packed, and both come into one file, like those of the large checkpoint."""
    folder = shared / "fixtures" / "e2b-qat-mobile" / "hf"
    written = convert(folder, tmp_path / "m.gguf")
    ours, theirs = Gguf(written.mmproj).tensors, Gguf(shared / "fixtures" / "e2b" / "mmproj-BF16.gguf").tensors
    assert {(n, t.shape, t.type) for n, t in ours.items()} == {(n, t.shape, t.type) for n, t in theirs.items()}
    pixels = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
    with eg.Model.load(written.model, mmproj=written.mmproj, threads=1) as model:
        got, want = model.encode_image(pixels, 70), VisionEncoder(written.mmproj).encode(pixels, 70)
        assert len(model.encode_audio(np.zeros(16000, F))) == 25
    assert rms(got - want) < 1e-3 * rms(want)


CHECKPOINT_FAULTS = {
    "no scale": (
        lambda t: t.pop(f"{TEXT}layers.1.mlp.up_proj.weight_scale"),
        r"lacks .*layers\.1\.mlp\.up_proj\.weight_scale",
    ),
    "scale": (
        lambda t: t.update({f"{TEXT}layers.1.mlp.up_proj.weight_scale": np.ones((3, 1), F)}),
        r"up_proj\.weight_scale of shape \[3, 1\] for 256 rows",
    ),
    "width": (
        lambda t: t.update({f"{TEXT}layers.1.mlp.up_proj.weight": np.zeros((256, 100), np.uint8)}),
        "up_proj.weight with rows of 100 bytes for 256 values",
    ),
    "rows": (
        lambda t: t.update({f"{TEXT}layers.1.mlp.up_proj.weight": np.zeros((255, 128), np.uint8)}),
        r"up_proj.weight of shape \[255, 256\] where",
    ),
    "norm": (
        lambda t: t.update({f"{TEXT}norm.weight": np.zeros(256, np.int8)}),
        "norm.weight packed, but only matrices",
    ),
    "step": (
        lambda t: t.update({f"{TEXT}layers.1.mlp.up_proj.input_activation_scale": np.ones(2, F)}),
        "input_activation_scale of shape",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINT_FAULTS)
def test_convert_refuses(tmp_path, case):
    change, message = CHECKPOINT_FAULTS[case]
    folder = packed_checkpoint(tmp_path / "hf", change=change)
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return convert(packed_checkpoint(folder / "hf"), folder / "m.gguf").model


def scalar(value: float) -> Callable[[np.ndarray], tuple[str, tuple[int, ...], np.ndarray]]:
    return lambda raw: ("F32", (1,), np.array([value], F).view(np.uint8))


FILE_FAULTS = {
    "no scale": ("blk.0.attn_q.scale", lambda raw: None, "'blk.0.attn_q.scale' is missing"),
    "short scale": (
        "blk.0.attn_q.scale",
        lambda raw: ("F32", (64,), raw[:256]),
        r"'blk.0.attn_q.scale' has shape \[64",
    ),
    "scale of a matrix for each column": (
        "blk.0.attn_q.scale",
        lambda raw: ("F32", (2, 64), raw),
        r"'blk.0.attn_q.scale' has shape \[2, 64",
    ),
    "scales of a table that do not divide it": (
        "per_layer_token_embd.scale",
        lambda raw: ("F32", (3, WORDS), raw[: 3 * WORDS * 4]),
        "'per_layer_token_embd.scale' has shape",
    ),
    "packed scale": (
        "blk.0.attn_q.scale",
        lambda raw: ("QC8", (128,), raw[:128]),
        "type QC8, which only single matrices",
    ),
    "packed norm": (
        "blk.0.attn_norm.weight",
        lambda raw: ("QC8", (256,), raw[:256]),
        "type QC8, which only single matrices",
    ),
    "step below 0": ("blk.1.ffn_up.input_scale", scalar(-1), "'blk.1.ffn_up.input_scale' is -1"),
    "step without end": ("blk.1.ffn_up.output_scale", scalar(np.inf), "'blk.1.ffn_up.output_scale' is inf"),
    "step that is no number": ("blk.1.ffn_up.output_scale", scalar(np.nan), "'blk.1.ffn_up.output_scale' is"),
    "two steps": (
        "blk.1.ffn_up.input_scale",
        lambda raw: ("F32", (2,), np.tile(raw, 2)),
        r"'blk.1.ffn_up.input_scale' has shape \[2",
    ),
}


@pytest.mark.parametrize("case", FILE_FAULTS)
def test_damaged_files_are_refused(good, tmp_path, case):
    name, change, message = FILE_FAULTS[case]
    source, tensors = GGUFSource(good), []
    for tensor in source.tensors:
        raw = tensor.read(0, tensor.bytes)
        new = change(raw) if tensor.name == name else (tensor.type, tensor.shape, raw)
        if new:
            tensors.append((OutputTensor(tensor.name, new[0], new[1]), new[2]))
    path = tmp_path / "bad.gguf"
    with GGUFWriter(path, source.metadata, [row for row, _ in tensors]) as writer:
        for row, raw in tensors:
            writer.tensor(row.name, [np.ascontiguousarray(raw)])
    with pytest.raises(ValueError, match=message):
        eg.Model.load(path)


def test_a_shape_for_measurements(shared: Path, tmp_path: Path) -> None:
    """tools/mobile_shape.py: every matrix gets the bits that Google gives it, and the file runs."""
    sys.path.insert(0, str(ROOT / "tools"))
    import mobile_shape

    out = tmp_path / "mobile.gguf"
    assert mobile_shape.write(str(shared / "fixtures/e2b/model-Q4_0.gguf"), str(out)) == out.stat().st_size
    with GGUFFile(out) as file:
        types = {tensor.name: tensor.type_name for tensor in file.tensors}
    assert types["token_embd.weight"] == types["blk.7.ffn_down.weight"] == "QC2"
    assert (
        types["blk.0.ffn_down.weight"] == types["blk.7.attn_q.weight"] == types["per_layer_token_embd.weight"] == "QC4"
    )
    assert types["blk.0.proj.weight"] == types["per_layer_model_proj.weight"] == "QC8"
    assert {"blk.0.attn_q.input_scale", "token_embd.scale"} < set(types) and "token_embd.input_scale" not in types
    with eg.Model.load(out) as model:
        session = model.session(context=32)
        session.feed_tokens([2, 5, 6, 7])
        assert np.isfinite(session.logits()).all() and np.ptp(session.logits()) > 0
