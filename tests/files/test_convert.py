"""Checkpoints become GGUF files: equal to those of an independent converter, complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.gguf import GGUFFile
from edge_gemma.errors import EdgeGemmaError
from edge_gemma.files import safetensors
from edge_gemma.files.convert import convert
from edge_gemma.reference.audio import AudioEncoder
from edge_gemma.reference.gguf import Gguf
from edge_gemma.reference.vision import VisionEncoder
from support import tiny_checkpoint
from support.tiny_checkpoint import GLOBAL, LOCAL, Shape, write_checkpoint

MOE = Shape(
    kinds=[LOCAL, LOCAL, GLOBAL], keys_local=2, keys_global=1, shared=0, ple=0, experts=4, k_eq_v=True, audio=False
)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def metadata(path: Path) -> dict[str, tuple[Any, Any]]:
    """Keys with the types and values that the `gguf` package finds."""
    gguf = pytest.importorskip("gguf")
    return {
        key: (field.types, field.contents())
        for key, field in gguf.GGUFReader(path).fields.items()
        if key[:5] != "GGUF."
    }


def assert_same(ours: Path, theirs: Path) -> None:
    """The same keys and tensors, but for what is known to differ."""
    mine, other = metadata(ours), metadata(theirs)
    assert mine.keys() == other.keys()
    different = {key for key in mine if mine[key] != other[key]}
    # The name is the directory's. The other converter takes only tokens that tokenizer_config.json names for control tokens,
    # and so leaves <|turn> a piece of text; the published files have them as we do.
    assert different <= {"general.name", "tokenizer.ggml.token_type"}
    if "tokenizer.ggml.token_type" in different:
        pairs = zip(*(file["tokenizer.ggml.token_type"][1] for file in (mine, other)), strict=True)
        assert {pair for pair in pairs if pair[0] != pair[1]} == {(3, 1)}
    a, b = Gguf(ours).tensors, Gguf(theirs).tensors
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor.type, tensor.shape) == (b[name].type, b[name].shape), name
        if "per_dim_scale" in name:  # softplus: one of the two rounds the last bit another way
            np.testing.assert_allclose(tensor.array(), b[name].array(), rtol=3e-7)
        else:
            assert tensor.raw.tobytes() == b[name].raw.tobytes(), name


@pytest.mark.parametrize("variant", ["e2b", "moe"])
def test_equals_llama_cpp(shared, tmp_path, variant):
    folder = shared / "fixtures" / variant
    written = convert(folder / "hf", tmp_path / "model.gguf")
    assert written.mmproj == tmp_path / "mmproj-model.gguf"
    assert_same(written.model, folder / "model-BF16.gguf")
    assert_same(written.mmproj, folder / "mmproj-BF16.gguf")


@pytest.mark.parametrize(("variant", "shards"), [("e4b", 1), ("dense", 3), ("e2b", 2), ("moe", 1), ("unified", 2)])
def test_there_and_back(shared, tmp_path, variant, shards):
    """A checkpoint made of another converter's files becomes these files again."""
    folder = shared / "fixtures" / variant
    inputs = [folder / "model-BF16.gguf", folder / "mmproj-BF16.gguf"]
    write_checkpoint(
        tmp_path / "hf", config=_config(*map(Gguf, inputs)), tensors=_unconvert(*map(Gguf, inputs)), shards=shards
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "fixtures" / "e2b" / "hf" / name, tmp_path / "hf" / name)
    (tmp_path / "hf" / "chat_template.jinja").unlink()
    if variant == "unified":
        (tmp_path / "hf" / "generation_config.json").write_text('{"suppress_tokens": [7, 8]}')
    written = convert(tmp_path / "hf", tmp_path / "model.gguf")
    assert_same(written.model, inputs[0])
    assert_same(written.mmproj, inputs[1])


def _unconvert(model: Gguf, encoders: Gguf) -> dict[str, np.ndarray]:
    """Checkpoint tensors by their names, from GGUF files in BF16."""
    files = model.tensors | encoders.tensors
    unified = encoders.metadata["clip.vision.projector_type"] == "gemma4uv"
    found: dict[str, np.ndarray] = {}
    for row, theirs, ours in tiny_checkpoint.rows(*(_layers(files, prefix) for prefix in ("blk.", "v.blk.", "a.blk."))):
        suffixes = {".weight": ".linear.weight"} | {f".{b}": f".{b}" for b in tiny_checkpoint.names.CLIP_BOUNDS}
        for ending, their_ending in suffixes.items() if row.kind == "clipped" else [("", "")]:
            if not (tensor := files.get(ours + row.ours + ending)):
                continue
            values = tensor.raw.view(np.uint16 if tensor.type == "BF16" else np.float32).reshape(tensor.shape)
            if row in tiny_checkpoint.names.UNIFIED_VISION and not unified:
                continue
            if row in tiny_checkpoint.names.VISION and unified:
                continue
            if row.kind in ("patch", "planes"):
                side = 16 if row.kind == "patch" else 48
                shape = (*values.shape[: values.ndim - (3 if row.kind == "patch" else 1)], -1)
                values = np.moveaxis(values.reshape(-1, 3, side, side), 1, -1).reshape(shape)
            elif row.kind == "axes":
                values = values.swapaxes(0, 1)
            elif row.kind == "depthwise":
                values = values[:, None, :]
            elif row.kind == "softplus":
                values = np.log(np.expm1(values.astype(np.float64))).astype(np.float32)
            elif ending[1:] in tiny_checkpoint.names.CLIP_BOUNDS:
                values = values.reshape(())
            found[theirs + row.theirs + their_ending] = values.copy()
    # What was BF16 before comes back as such; softplus does not, and needs all bits.
    return {
        name: tiny_checkpoint.bf16(values) if values.dtype == np.float32 and "per_dim_scale" not in name else values
        for name, values in found.items()
    }


def _layers(files: dict[str, Any], prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in files if name.startswith(prefix)), default=-1)


def _config(model: Gguf, encoders: Gguf) -> dict[str, Any]:
    """config.json, from the metadata of GGUF files."""
    get = lambda key: model.metadata.get(f"gemma4.{key}")  # noqa: E731
    kinds = [LOCAL if local else GLOBAL for local in get("attention.sliding_window_pattern")]
    text = {
        "attention_k_eq_v": any(
            f"blk.{i}.attn_k.weight" in model and f"blk.{i}.attn_v.weight" not in model for i in range(99)
        ),
        "enable_moe_block": bool(get("expert_count")),
        "num_experts": get("expert_count"),
        "top_k_experts": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "final_logit_softcapping": 30.0,
        "hidden_size": get("embedding_length"),
        "layer_types": kinds,
        "hidden_size_per_layer_input": get("embedding_length_per_layer_input"),
        "num_hidden_layers": len(kinds),
        "max_position_embeddings": get("context_length"),
        "num_attention_heads": get("attention.head_count"),
        "num_kv_shared_layers": get("attention.shared_kv_layers"),
        "sliding_window": get("attention.sliding_window"),
        "rope_parameters": Shape().config()["text_config"]["rope_parameters"],
    }

    unified = encoders.metadata["clip.vision.projector_type"] == "gemma4uv"

    def encoder(prefix: str) -> dict[str, Any] | None:
        values = {key[len(prefix) :]: value for key, value in encoders.metadata.items() if key.startswith(prefix)}
        if unified:
            return {"mm_embed_dim" if "vision" in prefix else "audio_embed_dim": values["embedding_length"]}
        return values and {
            "hidden_size": values["embedding_length"],
            "num_hidden_layers": values["block_count"],
            "num_attention_heads": values["attention.head_count"],
            "standardize": "v.std_bias" in encoders,
        }

    return {
        "model_type": "gemma4_unified" if unified else "gemma4",
        "text_config": text,
        "vision_config": encoder("clip.vision."),
        "audio_config": encoder("clip.audio."),
    }


# ---- without other programs' files ------------------------------------------------------------------------------


SEEING = Shape(shared=0, ple=0, k_eq_v=True, unified=True)


@pytest.mark.parametrize(
    "shape", [Shape(), MOE, Shape(shared=0, ple=0, k_eq_v=True, keys_local=2, vision=False), SEEING]
)
def test_engine_runs_it(tmp_path, shape):
    checkpoint = write_checkpoint(tmp_path / "hf", shape)
    written = convert(checkpoint, tmp_path / "model.gguf")
    with eg.Model.load(written.model, mmproj=written.mmproj, threads=1) as model:
        assert model.tokenizer.encode("<|turn>hello world", special=True)[:1] == [5]
        assert np.isfinite(model.session().forward([2, 5, 270, 271])).all()
        if shape.audio:
            assert len(model.encode_audio(np.zeros(16000, np.float32))) == 25
        if shape.vision:
            pixels = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
            expected = VisionEncoder(written.mmproj).encode(pixels, 70)
            np.testing.assert_allclose(model.encode_image(pixels, 70), expected, atol=5e-3 * float(np.std(expected)))


def test_values_arrive(tmp_path):
    shape = Shape()
    checkpoint = write_checkpoint(tmp_path / "hf", shape)
    source = shape.tensors()
    written = convert(checkpoint, tmp_path / "model.gguf")
    model, encoders = Gguf(written.model), Gguf(written.mmproj)

    def stored(name: str) -> np.ndarray:
        return (tiny_checkpoint.bf16(source[name]).astype(np.uint32) << 16).view(np.float32)

    gate = "model.language_model.layers.1.mlp.gate_proj.weight"
    np.testing.assert_array_equal(model["blk.1.ffn_gate.weight"].array(), stored(gate))
    patches = stored("model.vision_tower.patch_embedder.input_proj.weight").reshape(32, 16, 16, 3)
    np.testing.assert_array_equal(encoders["v.patch_embd.weight"].array(), patches.transpose(0, 3, 1, 2))
    scale = stored("model.audio_tower.layers.1.self_attn.per_dim_scale")
    np.testing.assert_allclose(encoders["a.blk.1.per_dim_scale.weight"].array(), np.log1p(np.exp(scale)), rtol=1e-6)
    np.testing.assert_array_equal(model["rope_freqs.weight"].array(), [1] * 4 + [np.float32(1e30)] * 12)


@pytest.mark.parametrize("type", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_types(tmp_path, type, dtype):
    shape = Shape(dtype=dtype)
    written = convert(write_checkpoint(tmp_path / "hf", shape), tmp_path / "m.gguf", type=type)
    model, encoders = Gguf(written.model), Gguf(written.mmproj)
    assert model["blk.0.attn_q.weight"].type == type
    assert model["blk.0.attn_norm.weight"].type == encoders["a.input_projection.weight"].type == "F32"
    assert encoders["v.patch_embd.weight"].type == ("F16" if type == "F16" else "F32")
    assert encoders["mm.a.input_projection.weight"].type == ("F16" if type == "Q8_0" else type)  # rows of 48
    assert model["per_layer_model_proj.weight"].type == ("BF16" if type == "Q8_0" else type)
    wanted = shape.tensors()["model.language_model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_allclose(model["blk.0.attn_q.weight"].array(), wanted, atol=5e-3)
    assert model.metadata["general.file_type"] == {"F32": 0, "F16": 1, "Q8_0": 7}[type]


def test_the_12b_model(tmp_path):
    """Projections in place of encoders: a picture and sound, computed with the checkpoint's tensors and the file's."""
    shape = Shape(shared=0, ple=0, k_eq_v=True, unified=True, dtype="F32")
    source = shape.tensors()
    written = convert(write_checkpoint(tmp_path / "hf", shape), tmp_path / "model.gguf", type="F32")
    get = lambda name: source[f"model.{name}"].astype(np.float64)  # noqa: E731
    rms = lambda x: x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)  # noqa: E731

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * get(f"vision_embedder.{name}.weight") + get(f"vision_embedder.{name}.bias")

    pixels = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    patches = np.stack([pixels[:, :48], pixels[:, 48:]]).reshape(2, -1) / 255  # colour is the fastest axis
    x = norm("patch_ln1", patches) @ get("vision_embedder.patch_dense.weight").T + get(
        "vision_embedder.patch_dense.bias"
    )
    table = get("vision_embedder.pos_embedding")
    x = norm("pos_norm", norm("patch_ln2", x) + table[[0, 1], 0] + table[[0, 0], 1])
    expected = rms(x) @ get("embed_vision.embedding_projection.weight").T
    np.testing.assert_allclose(VisionEncoder(written.mmproj).soft_tokens(pixels), expected, atol=1e-5)

    samples = np.random.default_rng(1).normal(size=1280)
    expected = rms(samples.reshape(2, 640)) @ get("embed_audio.embedding_projection.weight").T
    np.testing.assert_allclose(AudioEncoder(written.mmproj).encode(samples), expected, atol=1e-5)
    with eg.Model.load(str(written.model), threads=1) as model:
        assert np.isfinite(model.session().forward([2, 5, 270, 271])).all()


def test_names_of_the_12b_model(tmp_path):
    """Published files and the modules of transformers have different names for the same tensors."""
    shape = Shape(shared=0, ple=0, unified=True)
    first = convert(write_checkpoint(tmp_path / "a", shape), tmp_path / "a.gguf").mmproj
    swaps = {
        "model.embed_vision.": "embed_vision.multimodal_embedder.",
        "model.vision_embedder.": "embed_vision.",
        "model.embed_audio.": "embed_audio.",
    }
    tensors = {}
    for name, values in shape.tensors().items():
        old = next((old for old in swaps if name.startswith(old)), "")
        tensors[swaps.get(old, "") + name[len(old) :]] = values
    second = convert(write_checkpoint(tmp_path / "b", shape, tensors=tensors), tmp_path / "b.gguf").mmproj
    assert {n: t.raw.tobytes() for n, t in Gguf(first).tensors.items()} == {
        n: t.raw.tobytes() for n, t in Gguf(second).tensors.items()
    }
    assert Gguf(first)["v.patch_embd.weight"].type == Gguf(first)["v.patch_norm.1.bias"].type == "F32"
    half = Gguf(convert(tmp_path / "a", tmp_path / "c.gguf", type="F16").mmproj)
    assert half["v.patch_embd.weight"].type == "F16" and half["v.patch_norm.1.bias"].type == "F32"


def test_other_patches_are_refused(tmp_path):
    shape = Shape(shared=0, ple=0, unified=True)
    config = shape.config()
    config["vision_config"]["pooling_kernel_size"] = 2
    with pytest.raises(ValueError, match="patch_size times pooling_kernel_size is 32, not 48"):
        convert(write_checkpoint(tmp_path / "hf", shape, config=config), tmp_path / "m.gguf")


def test_sound_alone(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "hf", Shape(vision=False))
    written = convert(checkpoint, tmp_path)
    assert written.model.name == "hf-BF16.gguf"
    with GGUFFile(written.mmproj) as file:
        assert file.metadata["clip.has_audio_encoder"] and "clip.has_vision_encoder" not in file.metadata
        assert not [tensor.name for tensor in file.tensors if tensor.name.startswith(("v.", "mm.i"))]


def test_text_alone(tmp_path):
    """A checkpoint of the text model only, with other names for the same things and tensors that nobody needs."""
    shape = Shape(vision=False, audio=False)
    tensors = {name.replace("model.language_model.", "model."): value for name, value in shape.tensors().items()}
    for part, size in {"k_proj": 16, "v_proj": 16}.items():
        tensors[f"model.layers.2.self_attn.{part}.weight"] = np.zeros((size, shape.width), np.float32)
    tensors["model.layers.2.self_attn.k_norm.weight"] = np.zeros(16, np.float32)
    tensors["model.rotary_emb.full_attention_inv_freq"] = np.zeros(8, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    config = {**shape.config()["text_config"], "tie_word_embeddings": True}
    written = convert(write_checkpoint(tmp_path / "hf", shape, config=config, tensors=tensors), tmp_path / "m.gguf")
    assert written.mmproj is None and left(tmp_path) == ["hf", "m.gguf"]
    names = set(Gguf(written.model).tensors)
    assert names == set(Gguf(convert(write_checkpoint(tmp_path / "b", shape), tmp_path / "b.gguf").model).tensors)

    config["tie_word_embeddings"] = False
    untied = convert(write_checkpoint(tmp_path / "c", shape, config=config, tensors=tensors), tmp_path / "c.gguf")
    assert set(Gguf(untied.model).tensors) - names == {"output.weight"}
    with pytest.raises(ValueError, match="no encoders"):
        convert(tmp_path / "hf", tmp_path / "d.gguf", mmproj=tmp_path / "e.gguf")


def test_without_clip_bounds(tmp_path):
    shape = Shape()
    tensors = {name: v for name, v in shape.tensors().items() if not name.endswith(("_min", "_max"))}
    written = convert(write_checkpoint(tmp_path / "hf", shape, tensors=tensors), tmp_path / "m.gguf")
    with eg.Model.load(str(written.model), mmproj=str(written.mmproj), threads=1) as model:
        assert len(model.encode_audio(np.zeros(3200, np.float32)))


def test_tokenizer(tmp_path):
    folder = write_checkpoint(tmp_path / "hf", Shape(vision=False, audio=False))
    (folder / "generation_config.json").write_text('{"suppress_tokens": [8, 9]}')
    value = tiny_checkpoint.tokenizer()
    del value["model"]["vocab"]["日"]  # a row of the embeddings without a token
    value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(value))
    tokens = Gguf(convert(folder, tmp_path / "m.gguf").model).metadata
    hole = tiny_checkpoint.TOKENS.index("日")
    assert tokens["tokenizer.ggml.tokens"][hole] == f"[PAD{hole}]" and tokens["tokenizer.ggml.token_type"][hole] == 5
    assert tokens["tokenizer.ggml.token_type"][:12] == [3] * 7 + [4] + [3] * 2 + [6] * 2
    assert tokens["tokenizer.ggml.merges"][:2] == ["h e", "l l"]
    assert [tokens[f"tokenizer.ggml.{name}_token_id"] for name in ("padding", "eos", "bos", "unknown", "mask")] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokens["tokenizer.ggml.suppress_tokens"] == [8, 9]
    assert tokens["tokenizer.chat_template"] == "{{ messages }}"


# ---- what goes wrong --------------------------------------------------------------------------------------------


def _drop(tensors: dict[str, np.ndarray], name: str) -> None:
    del tensors[name]


BROKEN = {
    "missing": (
        lambda t, c: _drop(t, "model.language_model.layers.3.mlp.up_proj.weight"),
        "layers.3.mlp.up_proj.weight",
    ),
    "missing in the encoder": (lambda t, c: _drop(t, "model.audio_tower.output_proj.bias"), "output_proj.bias"),
    "extra": (
        lambda t, c: t.update({"model.language_model.layers.9.x": np.ones(3)}),
        r"no Gemma 4 has: .*layers\.9\.x",
    ),
    "shape": (
        lambda t, c: t.update({"model.language_model.layers.1.mlp.down_proj.weight": np.ones((64, 95))}),
        r"layers\.1\.mlp\.down_proj\.weight of shape \[64, 95\] where \[64, 96\]",
    ),
    "width": (lambda t, c: c["text_config"].update(hidden_size=128), r"embed_tokens.weight of shape .* where .*128"),
    "heads": (lambda t, c: c["text_config"].update(num_attention_heads=3), "not 3 heads"),
    "layers": (lambda t, c: c["text_config"].update(num_hidden_layers=5), "layer_types"),
    "number": (lambda t, c: c["text_config"].update(sliding_window=None), "sliding_window is None"),
    "rope": (lambda t, c: c["text_config"].pop("rope_parameters"), "rope_parameters.full_attention.rope_theta"),
    "other model": (lambda t, c: c.update(model_type="gemma3"), "gemma3"),
    "packed": (lambda t, c: c.update(quantization_config={"quant_method": "awq"}), "packed .*awq"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_refuses(tmp_path, case):
    shape = Shape()
    tensors, config = shape.tensors(), shape.config()
    change, message = BROKEN[case]
    change(tensors, config)
    folder = write_checkpoint(tmp_path / "hf", shape, tensors=tensors, config=config)
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "m.gguf")
    assert left(tmp_path) == ["hf"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(normalizer={"type": "NFKC"}), "NFKC"),
        (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), "ByteLevel"),
        (lambda t: t["model"].update(byte_fallback=False), "byte_fallback"),
        (lambda t: t["model"]["vocab"].update(new=5000), "5000"),
        (lambda t: t["model"]["merges"].append(["a b", "c"]), "space"),
    ],
)
def test_refuses_other_tokenizers(tmp_path, change, message):
    folder = write_checkpoint(tmp_path / "hf")
    value = tiny_checkpoint.tokenizer()
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "m.gguf")


def test_refuses_incomplete_downloads(tmp_path):
    folder = write_checkpoint(tmp_path / "hf", shards=2)
    part = folder / "model-00002-of-00002.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"00002-of-00002.*outside the file"):
        convert(folder, tmp_path / "m.gguf")
    part.write_bytes(whole[:6])
    with pytest.raises(ValueError, match=r"00002-of-00002.*beginning"):
        convert(folder, tmp_path / "m.gguf")
    part.unlink()
    with pytest.raises(OSError, match=r"00002-of-00002.*completely"):
        convert(folder, tmp_path / "m.gguf")
    with pytest.raises(OSError, match=r"config\.json"):
        convert(tmp_path / "nowhere", tmp_path / "m.gguf")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: it is not JSON"):
        convert(folder, tmp_path / "m.gguf")
    assert left(tmp_path) == ["hf"]


def test_values_beyond_f16(tmp_path):
    tensors = Shape().tensors()
    tensors["model.language_model.layers.1.mlp.up_proj.weight"][3, 4] = 1e5
    folder = write_checkpoint(tmp_path / "hf", tensors=tensors)
    with pytest.raises(ValueError, match=r"blk\.1\.ffn_up\.weight.*F16 cannot"):
        convert(folder, tmp_path / "m.gguf", type="F16")
    assert left(tmp_path) == ["hf"]
    convert(folder, tmp_path / "m.gguf", type="BF16")


def test_nothing_half_written(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "hf")
    out = tmp_path / "m.gguf"
    real = safetensors.StoredTensor.read
    failures = {"layers.2.mlp.up": OSError(28, "No space left on device"), "vision_tower": KeyboardInterrupt()}
    for part, failure in failures.items():

        def read(self, *arguments, part=part, failure=failure):
            if part in self.name:
                raise failure
            return real(self, *arguments)

        monkeypatch.setattr(safetensors.StoredTensor, "read", read)
        with pytest.raises(type(failure)):
            convert(folder, out)
        assert left(tmp_path) == ["hf"]
    monkeypatch.setattr(safetensors.StoredTensor, "read", real)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(EdgeGemmaError, match="left"):
        convert(folder, out)
    monkeypatch.undo()
    assert left(tmp_path) == ["hf"]

    convert(folder, out)
    before = out.read_bytes()
    with pytest.raises(OSError, match="exists already"):
        convert(folder, out)
    out.write_bytes(b"GGUF old")
    convert(folder, out, force=True)
    assert out.read_bytes() == before and left(tmp_path) == ["hf", "m.gguf", "mmproj-m.gguf"]
    if hasattr(os, "geteuid") and os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(OSError, match="cannot write"):
            convert(folder, tmp_path / "closed" / "m.gguf")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(tmp_path, monkeypatch):
    """The operating system's own failure on writing, not one that a test made up."""
    folder = write_checkpoint(tmp_path / "hf")
    real = open

    def full(path, mode="r", *rest, **more):
        return real("/dev/full" if str(path).endswith(".part") else path, mode, *rest, **more)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="No space left"):
        convert(folder, tmp_path / "m.gguf")
    monkeypatch.undo()
    assert left(tmp_path) == ["hf"]


def test_progress(tmp_path):
    seen: list[tuple[int, int, str]] = []
    convert(write_checkpoint(tmp_path / "hf"), tmp_path / "m.gguf", progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done) and len(seen) > 100 and 0.9 < done[-1] / seen[-1][1] <= 1


def test_command(tmp_path, run_cli):
    folder = write_checkpoint(tmp_path / "hf")
    done = run_cli("convert", str(folder), str(tmp_path), "--type", "q8_0")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "hf-Q8_0.gguf"),
        str(tmp_path / "mmproj-hf-Q8_0.gguf"),
    ]
    again = run_cli("convert", str(folder), str(tmp_path), "--type", "q8_0")
    assert again.returncode == 1 and "--force" in again.stderr
    assert run_cli("convert", str(folder), str(tmp_path), "--type", "q8_0", "--force").returncode == 0
    alone = run_cli("convert", str(folder), str(tmp_path / "alone.gguf"), "--no-mmproj")
    assert alone.returncode == 0 and not (tmp_path / "mmproj-alone.gguf").exists()
    assert run_cli("convert", str(folder), str(tmp_path / "x.gguf"), "--type", "Q9").returncode == 1
    assert run_cli("convert", str(folder), "x", "--no-mmproj", "--mmproj", "y").returncode == 2
