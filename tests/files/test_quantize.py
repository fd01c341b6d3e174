"""Quantizers and quantized files: bits where they are defined, errors not above another program's where they are not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma import kernels
from edge_gemma.files.convert import convert
from edge_gemma.files.gguf_source import SourceTensor
from edge_gemma.files.quantize import output_path, quantize
from edge_gemma.files.recipes import MIXES, choose_types
from edge_gemma.reference.gguf import Gguf
from edge_gemma.reference.vision import VisionEncoder
from support.c_build import CSRC, FLAGS
from support.gguf_writer import Writer, write_split
from support.paths import DATA, TESTS
from support.tiny_checkpoint import GLOBAL, LOCAL, Shape, write_checkpoint
from support.weights import CHOOSING, errors, weights

PEER = json.loads((DATA / "quantizer-errors.json").read_text())
WRITABLE = ("F32", "F16", "BF16", "Q8_0", *CHOOSING)
CHECKSUM = "ac69e7a6"  # of what tests/c/quantize_check.c writes, on every machine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in BF16 with rows of 256, 96 and 32, and its encoders beside it."""
    folder = tmp_path_factory.mktemp("model")
    shape = Shape(kinds=[LOCAL, GLOBAL] * 4, width=256, heads=4, shared=2)
    return convert(write_checkpoint(folder / "hf", shape), folder / "tiny-BF16.gguf").model


# ---- blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0"])
def test_defined_types(type):
    """Equal to an independent quantizer, ties and subnormals included."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(3)
    x = np.concatenate([*weights().values(), rng.integers(-127, 128, 4096) * 0.5, rng.standard_normal(4096) * 1e-7])
    x = x.astype(np.float32)
    x[-32:] = np.arange(-16, 16) * (127 / 16) + 0.5  # halves exactly between two steps
    x[-1] = 127
    wanted = gguf.quantize(x, gguf.GGMLQuantizationType[type])
    assert kernels.quantize(x, type).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("type", CHOOSING)
def test_errors_are_not_above_llama_cpp(type):
    for kind, x in weights().items():
        plain, weighted = errors(x, kernels.dequantize(kernels.quantize(x, type), type))
        assert plain <= PEER[type][kind][0], kind
        assert weighted <= PEER[type][kind][1] * 1.001, kind


@pytest.mark.parametrize("type", CHOOSING)
def test_blocks_as_others_read_them(type):
    gguf = pytest.importorskip("gguf")
    x = weights()["of many sizes"]
    blocks = kernels.quantize(x, type)
    wanted = gguf.dequantize(blocks, gguf.GGMLQuantizationType[type])
    np.testing.assert_allclose(kernels.dequantize(blocks, type), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("type", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"])
def test_quantized_weights_stay_as_they_are(type):
    """Weights that lie on a type's levels already, as after training for that type, lose nothing."""
    once = kernels.dequantize(kernels.quantize(weights()["normal"], type), type)
    np.testing.assert_array_equal(kernels.dequantize(kernels.quantize(once, type), type), once)


@pytest.mark.parametrize("type", WRITABLE)
def test_blocks_do_not_depend_on_each_other(type):
    x = weights()["laplace"][:2048]
    whole = kernels.quantize(x, type)
    parts = [kernels.quantize(x[i : i + 256], type) for i in range(0, x.size, 256)]
    assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_refused_values():
    x = np.zeros(512, np.float32)
    for bad in (np.nan, np.inf, -np.inf, 7e4):
        x[300] = bad
        with pytest.raises(ValueError, match=r"value 300 .*Q4_K cannot express"):
            kernels.quantize(x, "Q4_K")
    assert kernels.quantize(x, "F32").tobytes() == x.tobytes()
    with pytest.raises(ValueError, match="read, but not written"):
        kernels.quantize(x, "IQ2_XS")
    with pytest.raises(ValueError, match="no_such"):
        kernels.quantize(x, "no_such")
    with pytest.raises(ValueError, match="blocks of Q4_K have 256"):
        kernels.quantize(x[:300], "Q4_K")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
        ("gcc", ["-O3"]),
        ("clang", ["-O3"]),
    ],
)
def test_same_bits_everywhere(tmp_path, compiler, flags):
    """Values that invite trouble, under sanitizers and with different compilers."""
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    names = ("fit", "pack", "pack_k", "quantize", "types", "unpack", "unpack_iq", "iq_grids")
    sources = [str(CSRC / "format" / f"{name}.c") for name in names]
    program = str(TESTS / "c" / "quantize_check.c")
    command = [compiler, *FLAGS, *flags, program, *sources, "-o", str(tmp_path / "check"), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True)
    if "-fsanitize" in str(flags) and built.returncode and "san" in built.stderr:
        pytest.skip(f"{compiler} has no sanitizers here")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, CHECKSUM), done.stderr


# ---- which type a tensor gets -----------------------------------------------------------------------------------


def _types(path: Path) -> dict[str, str]:
    return {name: tensor.type for name, tensor in Gguf(path).tensors.items()}


def _files(shared: Path) -> list[Path]:
    paths = sorted((shared / "fixtures").glob("*/model-*.gguf"))
    return [path for path in paths if path.stem[6:] in MIXES and path.stem != "model-BF16"]


def test_mixes_are_llama_cpps(shared):
    """Tensor by tensor, for all its files."""
    files = _files(shared)
    assert len(files) > 12
    for path in files:
        source = Gguf(path.with_name("model-BF16.gguf"))
        tensors = [SourceTensor(n, t.type, t.shape[::-1], t.raw.size, path, 0) for n, t in source.tensors.items()]
        heads, keys = (source.metadata[f"gemma4.attention.head_count{kind}"] for kind in ("", "_kv"))
        per_key = heads // (keys[0] if isinstance(keys, list) else keys)
        assert choose_types(tensors, path.stem[6:], heads_per_key=per_key) == _types(path), path


def test_files_are_llama_cpps_where_bits_are_defined(shared, tmp_path):
    for variant in ("e2b", "e4b", "moe", "dense"):
        folder = shared / "fixtures" / variant
        written = quantize(folder / "model-BF16.gguf", tmp_path, "Q8_0", force=True).path
        ours, theirs = Gguf(written), Gguf(folder / "model-Q8_0.gguf")
        assert ours.metadata == theirs.metadata
        assert {n: t.raw.tobytes() for n, t in ours.tensors.items()} == {
            n: t.raw.tobytes() for n, t in theirs.tensors.items()
        }


def _named(name: str, *shape: int) -> SourceTensor:
    return SourceTensor(name, "BF16", shape, 0, Path(), 0)


def test_mix_of_layers():
    tensors = [
        _named(f"blk.{i}.{kind}.weight", 512, 256) for i in range(16) for kind in ("attn_v", "ffn_down", "ffn_up")
    ]
    types = choose_types(tensors, "Q4_K_M")
    wanted = "Q6_K Q6_K" + " Q4_K Q4_K Q6_K" * 4 + " Q6_K Q6_K"
    assert [types[f"blk.{i}.ffn_down.weight"] for i in range(16)] == wanted.split()
    assert {types[f"blk.{i}.ffn_up.weight"] for i in range(16)} == {"Q4_K"}
    few = [tensor for tensor in tensors if "attn_v" not in tensor.name or tensor.name.startswith(("blk.8.", "blk.9."))]
    assert choose_types(few, "Q3_K_M")["blk.9.attn_v.weight"] == "Q5_K"  # the second of those that there are
    assert set(choose_types(tensors, "Q4_K").values()) == {"Q4_K"}


def test_rows_that_do_not_divide():
    """The experts of the 26B-A4B, and encoders' rows."""
    tensors = [_named("blk.0.ffn_down_exps.weight", 704, 2816, 128), _named("blk.0.ffn_up.weight", 2816, 2112)]
    tensors += [_named("blk.0.ffn_down.weight", 4304, 1152), _named("blk.0.ffn_down_exps.scale", 128)]
    fallback = {"Q2_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q4_0": "Q4_0", "IQ4_XS": "IQ4_NL"}
    for mix, type in fallback.items():
        types = choose_types(tensors, mix, encoders=True)
        assert [*types.values()] == [type, mix, "F16", "BF16"]


def test_parts_of_the_vision_encoders():
    """What is small, or comes before the first layer, stays as it is; the 12B model has no layers."""
    names = {
        "v.patch_embd.weight": ((16, 16, 3, 1152), None),
        "v.position_embd.weight": ((1152, 10240, 2), None),
        "v.blk.0.attn_q.weight": ((1152, 1152), "Q4_0"),
        "v.blk.0.attn_q_norm.weight": ((72,), None),
        "v.blk.0.ffn_up.weight": ((1152, 4304), "Q4_0"),
        "v.blk.0.ffn_down.weight": ((4304, 1152), "F16"),
        "v.std_bias": ((1152,), None),
        "mm.input_projection.weight": ((1152, 2816), "Q8_0"),
        "v.patch_norm.1.weight": ((6912,), None),
        "v.patch_embd.bias": ((3840,), None),
        "mm.a.input_projection.weight": ((640, 3840), "Q8_0"),
    }
    types = choose_types([_named(name, *shape) for name, (shape, _) in names.items()], "Q4_0", encoders=True)
    assert types == {name: type or "BF16" for name, (_, type) in names.items()}
    types = choose_types([_named("mm.input_projection.weight", 768, 1536)], "F16", encoders=True)
    assert types == {"mm.input_projection.weight": "F16"}


@pytest.mark.parametrize(("encoder", "picture"), [("vision-e2b", "small"), ("vision-moe", "rgba")])
@pytest.mark.parametrize(("mix", "error"), [("Q8_0", 0.02), ("Q6_K", 0.02), ("Q4_0", 0.25), ("Q4_K_M", 0.12)])
def test_vision(tmp_path, encoder, picture, mix, error):
    """Soft tokens of quantized encoders: near those of the encoder, and the specification's of the same file."""
    pixels = np.load(DATA / "vision-reference.npz")[picture]
    written = quantize(DATA / f"{encoder}.gguf", tmp_path / "m.gguf", mix, threads=1).path
    with eg.Model.load(DATA / f"{encoder[7:]}-Q4_0.gguf", mmproj=written, threads=1) as model:
        found = model.encode_image(pixels, 70)
    wanted, plain = (VisionEncoder(path, np.float32).encode(pixels, 70) for path in (written, DATA / f"{encoder}.gguf"))
    rms = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
    assert rms(found - wanted) < 1e-3 * rms(wanted)
    assert error / 20 < rms(found - plain) / rms(plain) < error


def test_overrides():
    tensors = [
        _named("blk.0.attn_v.weight", 256, 256),
        _named("blk.0.attn_norm.weight", 256),
        _named("x.weight", 256, 8),
    ]
    pairs = [("blk.*", "Q8_0"), ("*.attn_v.*", "Q6_K")]
    assert choose_types(tensors, "Q4_0", overrides=pairs)["blk.0.attn_v.weight"] == "Q6_K"
    with pytest.raises(ValueError, match="attn_norm"):
        choose_types(tensors, "Q4_0", overrides=[("*attn_norm*", "Q8_0")])


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", MIXES)
def test_engine_runs_it(model, tmp_path, mix):
    written = quantize(model, tmp_path / "q.gguf", mix, threads=1)
    assert sum(written.types.values()) == len(Gguf(model).tensors) and not written.notes
    ids = [2, 5, 270, 271, 280, 6]
    with eg.Model.load(str(model), threads=1) as plain, eg.Model.load(str(written.path), threads=1) as small:
        wanted, found = plain.session().forward(ids), small.session().forward(ids)
    bits = {"F32": 0.01, "BF16": 0.01, "F16": 0.01, "Q8_0": 0.2, "Q6_K": 0.3, "Q2_K": 2.5}.get(mix, 1.5)
    assert np.sqrt(((wanted - found) ** 2).mean()) < bits * wanted.std()


def test_encoders(model, tmp_path):
    source = model.with_name(f"mmproj-{model.name}")
    written = quantize(source, tmp_path / "m.gguf", "Q8_0", threads=1).path
    before, after = Gguf(source), Gguf(written)
    kept = (
        "a.input_projection.weight a.conv1d.0.weight a.blk.0.conv_dw.weight v.patch_embd.weight v.position_embd.weight"
    )
    for name in (*kept.split(), "a.blk.1.attn_q.input_max", "a.blk.1.per_dim_scale.weight", "a.pre_encode.out.bias"):
        assert after[name].type == "F32" and after[name].raw.tobytes() == before[name].raw.tobytes()
    assert after["a.blk.0.conv_pw1.weight"].type == after["v.blk.1.ffn_down.weight"].type == "Q8_0"
    assert after["mm.a.input_projection.weight"].type == "F16"  # rows of 48
    assert before.metadata | {"general.file_type": 7} == after.metadata
    samples = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    sounds = []
    for encoder in (source, written):
        with eg.Model.load(str(model), mmproj=str(encoder), threads=1) as hearing:
            sounds.append(hearing.encode_audio(samples))
    np.testing.assert_allclose(sounds[0], sounds[1], atol=0.1 * float(sounds[0].std()))


def test_threads_do_not_matter(model, tmp_path, monkeypatch):
    files = []
    monkeypatch.setattr("edge_gemma.files.quantize.PIECE", 1024)  # many pieces
    for threads in (1, 3):
        files.append(quantize(model, tmp_path / f"{threads}.gguf", "Q4_K_M", threads=threads).path.read_bytes())
    assert files[0] == files[1]


def test_metadata_stays(tmp_path):
    """Keys of every type, odd strings included; a split file becomes whole; the alignment is ours."""
    first = Writer(alignment=128).entry("general.architecture", "gemma4").entry("a.list", [1.5, 2.5])
    first.entry("a.bytes", b"\xff\xfe").entry("general.file_type", 32).entry("a.wide", 2**63 + 5, 10)
    first.entry("a.texts", ["x", "y"]).entry("a.flag", True)
    first.tensor("x.weight", [32, 2], 0, np.arange(64, dtype="<f4").tobytes())
    second = Writer(alignment=128).tensor("y.weight", [32, 1], 0, np.arange(32, dtype="<f4").tobytes())
    paths = write_split(tmp_path, "s", [first, second])
    written = Gguf(quantize(paths[0], tmp_path / "q.gguf", "Q8_0").path)
    assert [*written.tensors] == ["x.weight", "y.weight"]
    np.testing.assert_allclose(written["y.weight"].array()[0], np.arange(32), atol=0.13)
    source = Gguf(paths[0]).metadata
    gone = {"split.no", "split.count", "split.tensors.count", "general.alignment"}
    assert {key: written.metadata.get(key) for key in source.keys() - gone} == {
        **{key: value for key, value in source.items() if key not in gone},
        "general.file_type": 7,
    }
    assert written.metadata["general.quantization_version"] == 2 and not gone & written.metadata.keys()


def test_quantized_before(model, tmp_path):
    small = quantize(model, tmp_path / "a.gguf", "Q4_0").path
    again = quantize(small, tmp_path / "b.gguf", "Q8_0")
    assert "quantized before (Q4_0)" in again.notes[0]
    assert not quantize(small, tmp_path / "c.gguf", "Q4_0").notes
    assert (tmp_path / "c.gguf").read_bytes() == small.read_bytes()
    back = Gguf(quantize(small, tmp_path / "d.gguf", "F32").path)
    np.testing.assert_array_equal(back["blk.0.attn_q.weight"].array(), Gguf(small)["blk.0.attn_q.weight"].array())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_none(tmp_path, bad):
    values = np.zeros(4096, "<f4")
    values[100] = bad
    writer = Writer().entry("general.architecture", "gemma4").tensor("fine.weight", [64, 64], 0, bytes(4 * 4096))
    (tmp_path / "a.gguf").write_bytes(writer.tensor("blk.7.bad.weight", [64, 64], 0, values.tobytes()).build())
    with pytest.raises(ValueError, match=r"blk\.7\.bad\.weight: value 100"):
        quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_refuses(model, tmp_path):
    with pytest.raises(ValueError, match="Q4_K_M"):
        quantize(model, tmp_path / "a.gguf", "Q9_9")
    with pytest.raises(ValueError, match="IQ2_XS can be read"):
        quantize(model, tmp_path / "a.gguf", "Q4_0", tensor_types={"*": "IQ2_XS"})
    with pytest.raises(OSError, match="nothing"):
        quantize(tmp_path / "nothing.gguf", tmp_path / "a.gguf", "Q4_0")
    with pytest.raises(OSError, match="exists already"):
        quantize(model, model, "Q4_0")
    (tmp_path / "b.gguf").write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"b\.gguf"):
        quantize(tmp_path / "b.gguf", tmp_path / "a.gguf", "Q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["b.gguf"]


def test_in_place(model, tmp_path):
    """A file may replace itself: it is read to its end before."""
    copy = tmp_path / "x.gguf"
    copy.write_bytes(model.read_bytes())
    quantize(copy, copy, "Q4_0", force=True)
    assert copy.read_bytes() == quantize(model, tmp_path / "y.gguf", "Q4_0").path.read_bytes()


def test_names(tmp_path):
    for name, stem in {"m-BF16": "m", "m": "m", "a-b": "a-b", "BF16": "BF16"}.items():
        assert output_path(f"dir/{name}.gguf", tmp_path, "q4_k_m") == tmp_path / f"{stem}-Q4_K_M.gguf"
    assert output_path("m.gguf", tmp_path / "new.gguf", "Q4_0") == tmp_path / "new.gguf"


def test_command(model, tmp_path, run_cli):
    done = run_cli("quantize", str(model), str(tmp_path), "--type", "q4_0", "--tensor-type", "*.attn_v.weight=q8_0")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "tiny-Q4_0.gguf"
    assert done.stdout.startswith(str(out)) and "Q4_0" in done.stdout and not done.stderr
    assert Gguf(out)["blk.0.attn_v.weight"].type == "Q8_0"
    again = run_cli("quantize", str(out), str(tmp_path / "b.gguf"), "--type", "Q5_0", "--threads", "1")
    assert again.returncode == 0 and again.stderr.startswith("note: ")
    assert run_cli("quantize", str(model), str(out), "--type", "Q4_0").returncode == 1
    wrong = run_cli("quantize", str(model), str(tmp_path / "c.gguf"), "--type", "Q4_0", "--tensor-type", "attn_v")
    assert wrong.returncode == 2 and "PATTERN=TYPE" in wrong.stderr
    assert run_cli("quantize", str(model), str(tmp_path / "c.gguf"), "--type", "Q9").returncode == 1


def test_llama_cpp_opens_them(model, tmp_path):
    llama = pytest.importorskip("llama_cpp")
    for mix in ("Q4_0", "Q4_K_M", "IQ4_XS"):
        path = str(quantize(model, tmp_path / f"{mix}.gguf", mix).path)
        other = llama.Llama(path, n_ctx=64, n_threads=1, logits_all=True, verbose=False)
        other.eval([2, 270, 271, 280])
        with eg.Model.load(path, threads=1) as ours:
            wanted = ours.session().forward([2, 270, 271, 280])
        difference = np.array(other.eval_logits) - wanted
        assert np.sqrt((difference**2).mean()) < 0.25 * wanted.std()  # its activations are coarser
