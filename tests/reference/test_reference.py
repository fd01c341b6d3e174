"""The NumPy specification: block formats, the GGUF reader and the text decoder.

Two kinds of evidence: rules that any implementation must obey, on small data made here; and equality with independent
programs (the gguf package, Hugging Face transformers) where they or their recorded outputs are at hand.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma.reference import quants
from edge_gemma.reference.gguf import Gguf, GgufError, Tensor
from edge_gemma.reference.text import TextModel
from support.paths import SHARED

FIXTURES = SHARED / "fixtures"
VARIANTS = ("e2b", "e4b", "moe", "dense")
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no fixtures at {FIXTURES}")


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


# ---- block formats -------------------------------------------------------------------------------------------------

HALF_OFFSETS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "IQ2_XXS": [0],
    "IQ2_XS": [0],
    "IQ2_S": [0],
    "IQ3_XXS": [0],
    "IQ3_S": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "MXFP4": [],
    "F32": [],
    "F16": [0],
    "BF16": [],
}


def random_blocks(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bytes [count, block bytes] with finite scales."""
    rng = np.random.default_rng(seed)
    kind = quants.block_type(name)
    raw = rng.integers(0, 256, (count, kind.bytes), np.uint8)
    for at in HALF_OFFSETS.get(name, []):
        raw[:, at : at + 2] = rng.normal(0, 0.05, (count, 1)).astype(np.float16).view(np.uint8)
    if name == "MXFP4":
        raw[:, 0] = np.concatenate([np.arange(4), rng.integers(0, 200, count - 4)])
    if name in ("F32", "BF16"):
        raw = rng.normal(size=(count, 1)).astype(np.float32).view(np.uint8)[:, -kind.bytes :].copy()
    return raw


@pytest.mark.parametrize("name", HALF_OFFSETS)
def test_dequantize_is_bit_equal_to_the_gguf_package(name: str) -> None:
    library = pytest.importorskip("gguf", reason="the gguf package is not installed")
    kind = quants.block_type(name)
    type_id = library.GGMLQuantizationType[name]
    assert (kind.id, kind.elements, kind.bytes) == (type_id.value, *library.GGML_QUANT_SIZES[type_id])
    raw = random_blocks(name, 400)
    expected = library.quants.dequantize(raw, type_id).ravel()
    value = quants.dequantize(raw, name)
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(quants.dequantize(raw.tobytes(), kind.id), value)


@pytest.mark.parametrize("name", [t.name for t in quants.TYPES if t.unpack])
def test_unpacked_codes_are_the_value_in_groups(name: str) -> None:
    raw = random_blocks(name, 50)
    q, scale, minimum = quants.unpack(raw, name)
    group = q.size // scale.size
    assert (q.dtype, scale.dtype, q.size) == (np.int8, np.float32, 50 * quants.block_type(name).elements)
    assert group in (16, 32)
    assert (minimum is not None) == (name in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"))
    value = scale.repeat(group) * q - (0 if minimum is None else minimum.repeat(group))
    np.testing.assert_array_equal(value.astype(np.float32), quants.dequantize(raw, name))


def test_unpack_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="unknown"):
        quants.dequantize(b"", "Q9_9")
    with pytest.raises(ValueError, match="whole number"):
        quants.dequantize(bytes(17), "Q4_0")
    with pytest.raises(ValueError, match="no integer codes"):
        quants.unpack(bytes(4), "F32")


def test_quantize_q8() -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=32 * 50) * np.exp(rng.normal(0, 5, 50)).repeat(32)).astype(np.float32)
    x[:32], x[32:64] = 0, 1e-38
    x[64:96] = np.arange(32, dtype=np.float32) - 127.0 + 31 * (np.arange(32) > 16)
    x[70:72] = 2.5, 3.5  # amax is 127: codes are the values, ties to even
    q, d = quants.quantize_q8(x)
    assert (q.dtype, d.dtype, q.shape, d.shape) == (np.int8, np.float32, (1600,), (50,))
    assert not q[:64].any() and d[0] == 0 and q[64] == -127 and list(q[70:72]) == [2, 4]
    assert np.abs(q[64:].reshape(-1, 32)).max(axis=1).tolist() == [127] * 48
    assert (np.abs(q * d.repeat(32) - x) <= 0.5001 * d.repeat(32))[64:].all()
    with pytest.raises(ValueError):
        quants.quantize_q8(x[:33])


# ---- GGUF ----------------------------------------------------------------------------------------------------------

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
PAIRS: dict[str, tuple[int, Any]] = {
    "a.u8": (0, 255),
    "a.i8": (1, -128),
    "a.u16": (2, 65535),
    "a.i16": (3, -32768),
    "a.u32": (4, 2**32 - 1),
    "a.i32": (5, -(2**31)),
    "a.f32": (6, 0.5),
    "a.bool": (7, True),
    "a.text": (8, "h\u00e9 \u2581"),
    "a.u64": (10, 2**64 - 1),
    "a.i64": (11, -(2**63)),
    "a.f64": (12, 0.1),
    "a.ints": (9, (5, [1, -2, 3])),
    "a.bools": (9, (7, [True, False])),
    "a.texts": (9, (8, ["", "x"])),
    "a.nested": (9, (9, [(4, [1]), (4, [])])),
}


def plain(kind: int, value: Any) -> Any:
    return [plain(value[0], v) for v in value[1]] if kind == 9 else value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def encode(kind: int, value: Any) -> bytes:
    if kind == 8:
        return text(value)
    if kind == 9:
        return struct.pack("<IQ", value[0], len(value[1])) + b"".join(encode(value[0], v) for v in value[1])
    return struct.pack("<" + CODES[kind], value)


def gguf_bytes(pairs: dict, tensors: dict[str, tuple[str, tuple[int, ...], bytes]], version: int = 3) -> bytes:
    """A GGUF file; tensors: name -> (type, row-major shape, raw blocks)."""
    alignment = pairs.get("general.alignment", (4, 32))[1]
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    head += b"".join(text(key) + struct.pack("<I", kind) + encode(kind, value) for key, (kind, value) in pairs.items())
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", quants.block_type(kind).id, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 8, 256])
def test_gguf_reads_every_metadata_type_and_tensors(tmp_path: Path, version: int, alignment: int | None) -> None:
    pairs = PAIRS | ({} if alignment is None else {"general.alignment": (4, alignment)})
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    blocks = random_blocks("Q8_0", 6)
    tensors = {"v": ("F32", (2, 3), matrix.tobytes()), "w": ("Q8_0", (3, 64), blocks.tobytes())}
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes(pairs, tensors, version))
    file = Gguf(path)
    assert {key: file.metadata[key] for key in PAIRS} == {key: plain(*pair) for key, pair in PAIRS.items()}
    np.testing.assert_array_equal(file["v"].array(), matrix)
    w = quants.dequantize(blocks, "Q8_0").reshape(3, 64)
    np.testing.assert_array_equal(file["w"].array(), w)
    np.testing.assert_array_equal(file["w"].rows([2, 0]), w[[2, 0]])
    assert "v" in file and "x" not in file
    with pytest.raises(GgufError, match="no tensor x"):
        file["x"]


def test_gguf_opens_all_parts_of_a_split_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-{i + 1:05d}-of-00002.gguf" for i in range(2)]
    for i, path in enumerate(paths):
        pairs = {"split.count": (2, 2), "split.no": (2, i), "part": (4, i)}
        path.write_bytes(gguf_bytes(pairs, {f"t{i}": ("F32", (1,), struct.pack("<f", i))}))
    for path in paths:
        file = Gguf(path)
        assert [float(file[f"t{i}"].array()[0]) for i in range(2)] == [0, 1] and file.metadata["part"] == 0
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(GgufError, match="part 0"):
        Gguf(paths[0])
    paths[1].unlink()
    with pytest.raises(FileNotFoundError):
        Gguf(paths[0])


@pytest.mark.slow
def test_gguf_names_the_fault_of_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    whole = gguf_bytes(PAIRS, {"v": ("F32", (2, 3), bytes(24)), "w": ("Q8_0", (3, 32), bytes(102))})
    rng = np.random.default_rng(2)
    end = len(whole) - (-102 % 32)  # what follows the last tensor is padding
    for size in (*range(0, end, 7), end - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(GgufError):
            Gguf(path)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            Gguf(path)
        except GgufError:
            pass
    for change, message in ((b"GGUX", "not a GGUF"), (b"GGUF\x01", "version 1")):
        path.write_bytes(change + whole[len(change) :])
        with pytest.raises(GgufError, match=message):
            Gguf(path)


# ---- text decoder: rules -------------------------------------------------------------------------------------------


def random_model(ple: bool, experts: int = 0, seed: int = 0) -> Gguf:
    """Random weights, six layers (two globals); with PLE the last three share K/V, without it globals have no W_v."""
    rng = np.random.default_rng(seed)
    d, layers, vocab, heads, ffn, width = 32, 6, 40, 4, 48, 8 if ple else 0
    local = [True, True, False, True, True, False]
    kv_heads = [2 if is_local else 1 for is_local in local]
    shared = 3 if ple else 0
    file = object.__new__(Gguf)
    file.tensors = {}
    keys = {
        "block_count": layers,
        "context_length": 64,
        "embedding_length": d,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": 16,
        "attention.key_length_swa": 8,
        "attention.sliding_window": 5,
        "attention.sliding_window_pattern": local,
        "attention.shared_kv_layers": shared,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "final_logit_softcapping": 30.0,
        "embedding_length_per_layer_input": width,
        "expert_count": experts,
        "expert_used_count": experts // 2,
    }
    file.metadata = {"general.architecture": "gemma4"} | {"gemma4." + key: value for key, value in keys.items()}

    def put(name: str, *shape: int, low: float = 0.0) -> None:
        value = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.normal(0, shape[-1] ** -0.5, shape)
        put_array(file, name, value + low)

    put("token_embd.weight", vocab, d)
    put("output_norm.weight", d)
    put_array(file, "rope_freqs.weight", np.array([1, 1, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30]))
    if ple:
        put("per_layer_token_embd.weight", vocab, layers * width)
        put("per_layer_model_proj.weight", layers * width, d)
        put("per_layer_proj_norm.weight", width)
    for n in range(layers):
        size, b = 8 if local[n] else 16, f"blk.{n}."
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            put(f"{b}{norm}.weight", d)
        put(b + "attn_q.weight", heads * size, d)
        put(b + "attn_q_norm.weight", size)
        put(b + "attn_output.weight", d, heads * size)
        if n < layers - shared:
            put(b + "attn_k.weight", kv_heads[n] * size, d)
            put(b + "attn_k_norm.weight", size)
            if ple or local[n]:
                put(b + "attn_v.weight", kv_heads[n] * size, d)
        put(b + "ffn_gate.weight", ffn, d)
        put(b + "ffn_up.weight", ffn, d)
        put(b + "ffn_down.weight", d, ffn)
        put(b + "layer_output_scale.weight", 1)
        if ple:
            put(b + "inp_gate.weight", width, d)
            put(b + "proj.weight", d, width)
            put(b + "post_norm.weight", d)
        if experts:
            put(b + "ffn_gate_inp.weight", experts, d)
            put(b + "ffn_gate_inp.scale", d)
            put(b + "ffn_gate_up_exps.weight", experts, 2 * 16, d)
            put(b + "ffn_down_exps.weight", experts, d, 16)
            put(b + "ffn_down_exps.scale", experts)
            for norm in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
                put(f"{b}{norm}.weight", d)
    return file


def put_array(file: Gguf, name: str, value: np.ndarray) -> None:
    file.tensors[name] = Tensor(value.shape, "F32", np.ascontiguousarray(value, "<f4").view(np.uint8).ravel())


SHAPES = pytest.mark.parametrize("shape", [{"ple": True}, {"ple": False}, {"ple": False, "experts": 6}], ids=str)
IDS = np.random.default_rng(3).integers(1, 40, 23)


@SHAPES
def test_decoder_is_causal_and_the_prefill_shortcut_is_exact(shape: dict) -> None:
    model = TextModel(random_model(**shape))
    full, hidden = model.forward(IDS, hidden=True)
    assert full.shape == (23, 40) and hidden.shape == (7, 23, 32)
    assert (np.abs(full) <= 30).all() and rms(full) > 0.1
    np.testing.assert_allclose(model.forward(IDS[:11]), full[:11], atol=1e-12)
    np.testing.assert_allclose(model.forward(IDS, last=3), full[-3:], atol=1e-12)
    np.testing.assert_allclose(TextModel(model.file, np.float32, keep=False).forward(IDS), full, atol=2e-4)


@SHAPES
def test_layouts_and_scalar_metadata_of_other_converters_mean_the_same(shape: dict) -> None:
    expected = TextModel(random_model(**shape)).forward(IDS)
    file = random_model(**shape)
    w = {name: tensor.array() for name, tensor in file.tensors.items()}
    for n in range(6):
        b = f"blk.{n}."
        parts = [b + f"attn_{part}.weight" for part in "qkv" if b + f"attn_{part}.weight" in w]
        put_array(file, b + "attn_qkv.weight", np.concatenate([w[part] for part in parts]))
        for part in parts:
            del file.tensors[part]
        if "experts" in shape:
            gate, up = np.split(w[b + "ffn_gate_up_exps.weight"], 2, axis=1)
            put_array(file, b + "ffn_gate_exps.weight", gate)
            put_array(file, b + "ffn_up_exps.weight", up)
            del file.tensors[b + "ffn_gate_up_exps.weight"]
    put_array(file, "output.weight", w["token_embd.weight"])
    del file.tensors["rope_freqs.weight"]
    file.metadata["gemma4.attention.head_count"] = [4] * 6
    file.metadata["gemma4.attention.key_length"] = [16] * 6
    file.metadata["gemma4.attention.sliding_window_pattern"] = 3
    np.testing.assert_allclose(TextModel(file).forward(IDS), expected, atol=1e-12)
    put_array(file, "output.weight", np.zeros((40, 32)))
    assert not TextModel(file).forward(IDS).any()


def test_unused_kv_weights_of_shared_layers_are_ignored() -> None:
    file = random_model(ple=True)
    expected = TextModel(file).forward(IDS)
    for part in ("k", "v"):
        put_array(file, f"blk.5.attn_{part}.weight", np.full((16, 32), np.nan))
    np.testing.assert_array_equal(TextModel(file).forward(IDS), expected)
    assert [TextModel(file).config.kv_source(n) for n in range(6)] == [0, 1, 2, 1, 1, 2]


def test_soft_tokens_replace_the_embedding_and_take_the_pad_row_of_ple() -> None:
    model = TextModel(random_model(ple=True))
    soft = {5: np.linspace(-1, 1, 32), 6: np.ones(32)}
    logits, hidden = model.forward(IDS, hidden=True, soft=soft)
    np.testing.assert_array_equal(hidden[0, 5:7], list(soft.values()))
    other = np.where(np.isin(np.arange(23), list(soft)), -1, IDS)
    np.testing.assert_array_equal(model.forward(other, soft=soft), logits)
    pad = scaled_row(model, 0)
    np.testing.assert_allclose(model.forward(IDS, soft={5: pad}), model.forward(np.where(np.arange(23) == 5, 0, IDS)))


def scaled_row(model: TextModel, token: int) -> np.ndarray:
    return np.sqrt(model.config.width) * model.file["token_embd.weight"].rows([token])[0].astype(np.float64)


def test_an_image_sees_itself_both_ways_in_local_layers_without_ple() -> None:
    for ple in (True, False):
        model = TextModel(random_model(ple=ple))
        changed = IDS.copy()
        changed[8] = 0
        image = [6, 7, 8, 10]  # two runs: 6-8 and 10
        a, b = model.forward(IDS, image=image), model.forward(changed, image=image)
        differs = (a != b).any(axis=1)
        assert differs[8:].all() and not differs[:6].any()
        assert differs[6:8].tolist() == [not ple] * 2


def test_decoder_refuses_bad_input() -> None:
    file = random_model(ple=True)
    model = TextModel(file)
    with pytest.raises(ValueError):
        model.forward([])
    for bad in (-1, 40):
        with pytest.raises(IndexError):
            model.forward([1, bad])
    with pytest.raises(ValueError, match="last is 3"):
        model.forward([1, 2], last=3)
    del file.tensors["blk.1.ffn_up.weight"]
    with pytest.raises(GgufError, match="ffn_up"):
        TextModel(file).forward([1])
    file.metadata["general.architecture"] = "llama"
    with pytest.raises(GgufError, match="llama"):
        TextModel(file)


def test_reference_imports_nothing_else_of_the_package() -> None:
    folder = Path(quants.__file__).parent
    code = (
        "import sys, types; package = types.ModuleType('edge_gemma'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['edge_gemma'] = package; import edge_gemma.reference.text, edge_gemma.reference.audio\n"
        "print([m for m in sys.modules if m.startswith('edge_gemma.') and not m.startswith('edge_gemma.reference')])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder.parent)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- text decoder: recorded outputs of Hugging Face transformers ---------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_text_equals_transformers(variant: str, dtype: type) -> None:
    model = TextModel(FIXTURES / variant / "model-BF16.gguf", dtype)
    z = np.load(FIXTURES / variant / "reference.npz")
    logits, hidden = model.forward(z["text_ids"], hidden=True)
    assert rms(logits - z["text_logits"]) < 2e-5
    assert hidden.shape == z["text_hidden"].shape
    for state, expected in zip(hidden, z["text_hidden"], strict=True):
        assert rms(state - expected) < 2e-5 * rms(expected)
    greedy = z["greedy_ids"]
    np.testing.assert_array_equal(model.forward(greedy[:-1])[19:].argmax(axis=1), greedy[20:])


@pytest.mark.slow
@needs_fixtures
@pytest.mark.parametrize("variant", VARIANTS)
def test_long_text_equals_transformers(variant: str) -> None:
    z = np.load(FIXTURES / variant / "reference.npz")
    logits = TextModel(FIXTURES / variant / "model-BF16.gguf").forward(z["long_ids"], last=4)
    assert rms(logits - z["long_last_logits"]) < 2e-4


@needs_fixtures
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("prompt", "token", "soft"), [("image", 19, "image_soft"), ("audio", 22, "audio_a_soft")])
def test_soft_tokens_equal_transformers(variant: str, prompt: str, token: int, soft: str) -> None:
    z = np.load(FIXTURES / variant / "reference.npz")
    if soft not in z:
        pytest.skip(f"{variant} takes no {prompt}")
    ids = z[prompt + "_prompt_ids"]
    at = np.flatnonzero(ids == token).tolist()
    embeddings = dict(zip(at, z[soft], strict=True))
    model = TextModel(FIXTURES / variant / "model-BF16.gguf")
    logits = model.forward(ids, soft=embeddings, image=at if prompt == "image" else ())
    assert rms(logits - z[prompt + "_prompt_logits"]) < 2e-5


QUANTIZED = [
    (variant, path.stem.removeprefix("model-"))
    for variant in VARIANTS
    for path in sorted((FIXTURES / variant).glob("model-*.gguf"))
]


@needs_fixtures
@pytest.mark.parametrize(("variant", "name"), QUANTIZED)
def test_quantized_files_equal_transformers_on_the_same_weights(variant: str, name: str) -> None:
    folder = FIXTURES / variant
    ids = np.load(folder / "reference.npz")["text_ids"]
    logits = TextModel(folder / f"model-{name}.gguf").forward(ids)
    assert rms(logits - np.load(folder / "reference-quantized.npz")[name]) < 2e-5
