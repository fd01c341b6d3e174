"""Files that are well-formed GGUF but no good model: each is refused with a sentence that names what is wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import edge_gemma as eg
from support.gguf_writer import F32, STRING, Writer, string
from support.tiny_model import Shape, model_writer

SHAPE = Shape([True, False, True, False], shared=2, ple=16, experts=3, kv_heads=[2, 1, 2, 1])


def without(w: Writer, key: str) -> Writer:
    """Drops a key."""
    w.entries = [e for e in w.entries if not e.startswith(string(key))]
    return w


def refused(w: Writer, folder: Path) -> str:
    """The message with which the model is refused."""
    path = folder / "bad.gguf"
    path.write_bytes(w.build())
    with pytest.raises(eg.EdgeGemmaError) as caught:
        eg.Model.load(path)
    assert "bad.gguf" in str(caught.value)
    return str(caught.value)


def test_the_undamaged_model_loads(tmp_path: Path) -> None:
    """What the other tests damage."""
    path = tmp_path / "good.gguf"
    path.write_bytes(model_writer(SHAPE).build())
    eg.Model.load(path).close()


def test_every_tensor_is_needed(tmp_path: Path) -> None:
    """Missing, of another shape, of an unknown type, transposed: the message names the tensor; two may be missing."""
    names = [t[0].decode() for t in model_writer(SHAPE).tensors]
    assert len(names) > 80
    for i, name in enumerate(names):
        w = model_writer(SHAPE)
        tensor = w.tensors.pop(i)
        if name.endswith("attn_v.weight") or name == "rope_freqs.weight" or "layer_output_scale" in name:
            (tmp_path / "fine.gguf").write_bytes(w.build())
            eg.Model.load(tmp_path / "fine.gguf").close()
        else:
            assert f"'{name}' is missing" in refused(w, tmp_path).replace("ffn_gate_exps", "ffn_gate_up_exps")
        raw_name, dims, kind, raw, offset = tensor
        w = model_writer(SHAPE)
        w.tensors[i] = (raw_name, [*dims[:-1], dims[-1] + 1], kind, raw + bytes(len(raw)), offset)
        assert f"'{name}' has shape" in refused(w, tmp_path) or name == "token_embd.weight"
        w.tensors[i] = (raw_name, dims, 77, raw, offset)
        message = refused(w, tmp_path)
        assert f"'{name}' has type number 77" in message
    w.tensors[3] = (w.tensors[3][0], [256, 16], 40, bytes(144 * 16), w.tensors[3][4])
    message = refused(w, tmp_path)
    assert "has type NVFP4" in message and "another quantization" in message


@pytest.mark.parametrize(
    "key",
    [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "rope.freq_base",
        "expert_used_count",
    ],
)
def test_missing_keys(key: str, tmp_path: Path) -> None:
    """The message names the key."""
    assert f"'gemma4.{key}'" in refused(without(model_writer(SHAPE), f"gemma4.{key}"), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("block_count", 0, None),
        ("block_count", 100000, None),
        ("block_count", 2**31, None),
        ("block_count", "4", None),
        ("block_count", 3.5, F32),
        ("embedding_length", 0, None),
        ("embedding_length", 2**31, None),
        ("attention.head_count", 0, None),
        ("attention.head_count", 3, None),
        ("attention.head_count_kv", [2, 1], None),
        ("attention.head_count_kv", [2, 1, 2, 0], None),
        ("attention.key_length", 33, None),
        ("attention.value_length", 16, None),
        ("rope.dimension_count", 8, None),
        ("attention.shared_kv_layers", 4, None),
        ("attention.shared_kv_layers", 3, None),
        ("feed_forward_length", [96, 96], None),
        ("expert_used_count", 4, None),
        ("expert_count", 2**30, None),
        ("rope.freq_base", float("nan"), F32),
        ("rope.freq_base", 0.0, F32),
        ("attention.layer_norm_rms_epsilon", -1.0, F32),
        ("context_length", 0, None),
        ("attention.sliding_window_pattern", [True], None),
        ("attention.sliding_window", 0, None),
    ],
)
def test_bad_values(key: str, value: object, kind: int | None, tmp_path: Path) -> None:
    """Numbers out of range, of the wrong kind or count: refused, never a crash."""
    w = without(model_writer(SHAPE), f"gemma4.{key}")
    refused(w.entry(f"gemma4.{key}", value, kind), tmp_path)


def test_other_files(tmp_path: Path) -> None:
    """Encoders, other architectures, a vocabulary of another size."""
    w = without(model_writer(SHAPE), "general.architecture").entry("general.architecture", "clip", STRING)
    assert "mmproj" in refused(w, tmp_path)
    w = without(model_writer(SHAPE), "general.architecture").entry("general.architecture", "llama", STRING)
    assert "'llama'" in refused(w, tmp_path)
    w = without(model_writer(SHAPE), "general.architecture")
    assert "general.architecture" in refused(w, tmp_path)
    w = model_writer(SHAPE)
    at = next(i for i, t in enumerate(w.tensors) if t[0] == b"token_embd.weight")
    name, dims, kind, raw, offset = w.tensors[at]
    w.tensors[at] = (name, [dims[0], dims[1] - 1], kind, raw[: -4 * dims[0]], offset)
    w.tensors = [
        t if t[0] != b"per_layer_token_embd.weight" else (t[0], [t[1][0], t[1][1] - 1], *t[2:]) for t in w.tensors
    ]
    assert "'tokenizer.ggml.tokens' has 290 tokens, but 'token_embd.weight' has 289" in refused(w, tmp_path)
    with pytest.raises(OSError, match=r"absent\.gguf"):
        eg.Model.load(tmp_path / "absent.gguf")
    with pytest.raises(OSError, match="directory"):
        eg.Model.load(tmp_path)


def test_hostile_numbers_in_weights(tmp_path: Path) -> None:
    """NaN and infinity in weights give NaN logits at worst: tokens are still drawn, and nothing crashes."""
    w = model_writer(SHAPE)
    for i, (name, dims, kind, raw, offset) in enumerate(w.tensors):
        if b"attn" in name or b"gate_inp" in name:
            w.tensors[i] = (name, dims, kind, struct.pack("<f", float("nan")) * (len(raw) // 4), offset)
    path = tmp_path / "nan.gguf"
    path.write_bytes(w.build())
    with eg.Model.load(path) as m:
        s = m.session(context=64)
        s.feed_tokens([2, 9, 10])
        list(s.generate(5, seed=1))
        list(s.generate(5, temperature=0))
        assert s.position > 3
