"""The weight types in C: table, unpacking, floats, halves. Oracles: the `gguf` package, and vectors made with it."""

import numpy as np
import pytest

from edge_gemma.engine.native import ffi, lib
from support.paths import DATA

VECTORS = dict(np.load(DATA / "types.npz"))

# Name -> (id, values per block, bytes per block, values per scale, has a min), by hand from the format.
TABLE = {
    "F32": (0, 1, 4, 0, False),
    "F16": (1, 1, 2, 0, False),
    "BF16": (30, 1, 2, 0, False),
    "Q4_0": (2, 32, 18, 32, False),
    "Q4_1": (3, 32, 20, 32, True),
    "Q5_0": (6, 32, 22, 32, False),
    "Q5_1": (7, 32, 24, 32, True),
    "Q8_0": (8, 32, 34, 32, False),
    "Q2_K": (10, 256, 84, 16, True),
    "Q3_K": (11, 256, 110, 16, False),
    "Q4_K": (12, 256, 144, 32, True),
    "Q5_K": (13, 256, 176, 32, True),
    "Q6_K": (14, 256, 210, 16, False),
    "IQ4_NL": (20, 32, 18, 32, False),
    "IQ4_XS": (23, 256, 136, 32, False),
    "IQ2_XXS": (16, 256, 66, 32, False),
    "IQ2_XS": (17, 256, 74, 16, False),
    "IQ2_S": (22, 256, 82, 16, False),
    "IQ3_XXS": (18, 256, 98, 32, False),
    "IQ3_S": (21, 256, 110, 32, False),
    "TQ1_0": (34, 256, 54, 32, False),
    "TQ2_0": (35, 256, 66, 32, False),
    "MXFP4": (39, 32, 17, 32, False),
}
# Of this engine alone; their scales lie elsewhere, so an unpacked number is its own value.
OWN = {
    "QC2": (0x45470002, 256, 64, 32, False),
    "QC4": (0x45470004, 128, 64, 32, False),
    "QC8": (0x45470008, 32, 32, 32, False),
}
QUANTIZED = [name for name, row in TABLE.items() if row[3]]

# Byte offsets of the halves in a block.
HALVES = {
    **dict.fromkeys(["F16", "Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"], (0,)),
    **dict.fromkeys(["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"], (0,)),
    **dict.fromkeys(["Q4_1", "Q5_1", "Q4_K", "Q5_K"], (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
SCALES = {
    "finite": None,
    "zero": [0x0000, 0x8000],
    "denormal": [0x0001, 0x8001, 0x03FF, 0x0200],
    "edge": [0x0400, 0x83FF, 0x7BFF, 0xFBFF],
    "infinite": [0x7C00, 0xFC00],
    "nan": [0x7E00, 0xFE01, 0x7C01],
}


def info(name):
    return lib.eg_type_find(TABLE[name][0])


def random_blocks(name, n, scales="finite", seed=0):
    """n random blocks uint8 [n, bytes] whose halves are finite, or taken from SCALES[scales]."""
    rng = np.random.default_rng([seed, n, TABLE[name][0]])
    blocks = rng.integers(0, 256, (n, TABLE[name][2]), dtype=np.uint8)
    for offset in HALVES.get(name, ()):
        if SCALES[scales] is None:
            half = rng.integers(0, 0x7C00, n) | rng.integers(0, 2, n) << 15
        else:
            half = rng.choice(SCALES[scales], n)
        blocks[:, offset : offset + 2] = half.astype("<u2").view(np.uint8).reshape(n, 2)
    return blocks


def to_float(name, blocks, offset=0, guard=64):
    """Values float32 [n, values per block]; the bytes start at an offset, the output is guarded."""
    n = len(blocks) * TABLE[name][1]
    raw = np.zeros(blocks.nbytes + offset, np.uint8)
    raw[offset:] = blocks.ravel()
    out = np.full(n + 2 * guard, 0x7FA5A5A5, np.uint32)
    pointer = ffi.cast("float *", ffi.from_buffer(out)) + guard
    lib.eg_type_to_float(info(name), ffi.from_buffer(raw) + offset, n, pointer)
    assert (out[:guard] == 0x7FA5A5A5).all()
    assert (out[n + guard :] == 0x7FA5A5A5).all()
    return out[guard : n + guard].view(np.float32).reshape(len(blocks), TABLE[name][1])


def unpack(name, blocks, offset=0, guard=64):
    """q int8 [n], scale and min float32 [n / group] (min None if the type has none), all guarded."""
    _, block, _, group, has_min = TABLE[name]
    n = len(blocks) * block
    raw = np.zeros(blocks.nbytes + offset, np.uint8)
    raw[offset:] = blocks.ravel()
    q = np.full(n + 2 * guard, 0x5A, np.int8)
    scale = np.full(n // group + 2 * guard, 12345, np.float32)
    minimum = scale.copy()
    info(name).unpack(
        ffi.from_buffer(raw) + offset,
        n,
        ffi.cast("int8_t *", ffi.from_buffer(q)) + guard,
        ffi.cast("float *", ffi.from_buffer(scale)) + guard,
        ffi.cast("float *", ffi.from_buffer(minimum)) + guard if has_min else ffi.NULL,
    )
    for array, value in ((q, 0x5A), (scale, 12345), (minimum, 12345)):
        assert (array[:guard] == value).all()
        assert (array[len(array) - guard :] == value).all()
    return q[guard:-guard], scale[guard:-guard], minimum[guard:-guard] if has_min else None


def assert_same(actual, expected):
    """Equal bit by bit, signs of zeros included; a NaN equals any NaN."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.float32
    nan = np.isnan(expected)
    assert (np.isnan(actual) == nan).all()
    assert (actual.view(np.uint32)[~nan] == expected.view(np.uint32)[~nan]).all()


def test_table():
    rows = []
    while (row := lib.eg_type_at(len(rows))) != ffi.NULL:
        rows.append(row)
    names = [ffi.string(row.name).decode() for row in rows]
    assert sorted(names) == sorted(TABLE | OWN)
    for name, row in zip(names, rows, strict=True):
        assert (row.id, row.block, row.bytes, row.group, row.has_min) == (TABLE | OWN)[name]
        assert lib.eg_type_per_channel(row) == (name in OWN)
        assert (row.unpack == ffi.NULL) == (row.group == 0)
        assert lib.eg_type_find(row.id) == row
    assert lib.eg_type_at(2**63) == ffi.NULL


@pytest.mark.parametrize("number", [4, 5, 9, 15, 19, 24, 29, 31, 40, 255, 2**31, 2**32 - 1])
def test_unknown_type(number):
    assert lib.eg_type_find(number) == ffi.NULL


def test_table_agrees_with_gguf():
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    for name, (number, block, size, _, _) in TABLE.items():
        kind = gguf.GGMLQuantizationType[name]
        assert kind.value == number
        assert gguf.GGML_QUANT_SIZES[kind] == (block, size)


@pytest.mark.parametrize("name", TABLE)
def test_values_of_vectors(name):
    assert_same(to_float(name, VECTORS[f"{name}.blocks"]), VECTORS[f"{name}.values"])


@pytest.mark.parametrize(("name", "scales"), [(n, s) for n in TABLE for s in SCALES if s == "finite" or n in HALVES])
def test_values_agree_with_gguf(name, scales):
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    blocks = random_blocks(name, 301, scales)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])
    assert_same(to_float(name, blocks), expected)


def test_every_mxfp4_scale():
    blocks = random_blocks("MXFP4", 256)
    blocks[:, 0] = np.arange(256)
    blocks[:, 1:] = np.arange(16, dtype=np.uint8) * 17  # all codes, twice
    _, scale, _ = unpack("MXFP4", blocks)
    assert_same(scale, np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32))
    codes = np.tile(np.float32([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]), 2)
    with np.errstate(over="ignore"):
        assert_same(to_float("MXFP4", blocks), scale[:, None] * codes)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_every_codebook_row(name):
    """Blocks enough that each row and each sign pattern occurs; then all magnitudes do, and none is zero."""
    q, _, _ = unpack(name, random_blocks(name, 600))
    levels = [8, 25, 43] if name < "IQ3" else [4, 12, 20, 28, 36, 44, 52, 62] if name == "IQ3_XXS" else range(1, 16, 2)
    assert sorted(set(np.abs(q))) == list(levels)
    width = 8 if name < "IQ3" else 4
    rows = {"IQ2_XXS": 256, "IQ2_XS": 512, "IQ2_S": 1024, "IQ3_XXS": 256, "IQ3_S": 512}[name]
    assert len(np.unique(np.abs(q.reshape(-1, width)), axis=0)) == rows
    signs = np.unique(q.reshape(-1, 8) < 0, axis=0)
    assert len(signs) == (256 if name.endswith("_S") else 128)
    if not name.endswith("_S"):
        assert (signs.sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize("scales", ["finite", "denormal", "infinite"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_value_is_scale_times_q_minus_min(name, scales):
    blocks = random_blocks(name, 9, scales, seed=1)
    q, scale, minimum = unpack(name, blocks)
    with np.errstate(all="ignore"):
        values = scale[:, None] * q.reshape(len(scale), -1).astype(np.float32)
        if minimum is not None:
            values -= minimum[:, None]
    assert_same(to_float(name, blocks), values.reshape(len(blocks), TABLE[name][1]))


@pytest.mark.parametrize("name", TABLE)
def test_number_of_blocks_and_alignment_do_not_matter(name):
    """Any number of blocks from any address gives the same blocks, and nothing is written beside them."""
    blocks = random_blocks(name, 19, seed=2)
    values = to_float(name, blocks)
    for n in (0, 1, 2, 3, 7, 8, 9, 15, 16, 17):
        for offset in (0, 1, 2, 3, 5):
            assert_same(to_float(name, blocks[:n], offset), values[:n])
    if name not in QUANTIZED:
        return
    everything = unpack(name, blocks)
    for n in (0, 1, 3, 8, 13):
        for part, whole in zip(unpack(name, blocks[:n], offset=n % 4 + 1), everything, strict=True):
            assert (part is None) == (whole is None)
            if part is not None:
                assert (part == whole[: len(whole) * n // 19]).all()


@pytest.mark.parametrize("name", [name for name in QUANTIZED if not TABLE[name][4]])
def test_min_is_left_alone_without_a_min(name):
    _, block, _, group, _ = TABLE[name]
    blocks = random_blocks(name, 2)
    q, scale, minimum = np.zeros(2 * block, np.int8), np.zeros(2 * block // group, np.float32), np.float32([7] * 64)
    pointer = [ffi.cast(kind, ffi.from_buffer(a)) for kind, a in (("int8_t *", q), ("float *", scale))]
    info(name).unpack(ffi.from_buffer(blocks), 2 * block, *pointer, ffi.cast("float *", ffi.from_buffer(minimum)))
    assert (minimum == 7).all()


def test_every_half_to_float():
    bits = np.arange(65536, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    assert_same(to_float("F16", bits.astype("<u2").view(np.uint8).reshape(-1, 2)).ravel(), expected)


def test_every_bf16_to_float():
    bits = np.arange(65536, dtype=np.uint32)
    values = to_float("BF16", bits.astype("<u2").view(np.uint8).reshape(-1, 2)).ravel()
    assert (values.view(np.uint32) == bits << 16).all()


def to_half(x):
    """float32 as the bits of half floats, infinities and NaN too: an f16 row of the KV cache, written by the scalar kernels."""
    x, out = np.float32(x), np.empty(len(x), np.uint16)
    pointers = ffi.cast("void *", ffi.from_buffer(out)), ffi.cast("float *", ffi.from_buffer(x))
    lib.eg_kernels_at(0, ffi.new("bool *")).kv_store(lib.EG_KV_F16, *pointers, len(x))
    return out


def test_float_to_half():
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-2] + halves[1:-1]) / 2  # exact
    edges = np.concatenate([halves, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))])
    limit = np.float32([65504, 65519.996, 65520, 65536, 3e38, 2**-24, 2**-25, 2**-26, 1e-38, 1e-45, 0, np.inf, np.nan])
    noise = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    small = np.random.default_rng(1).normal(0, 1e-5, 50_000).astype(np.float32)
    x = np.concatenate([edges, np.nextafter(limit, np.float32(0)), limit, small, noise])
    x = np.concatenate([x, -x])
    with np.errstate(all="ignore"):
        expected = x.astype(np.float16)
    actual = to_half(x)
    nan = np.isnan(x)
    assert (actual[~nan] == expected.view(np.uint16)[~nan]).all()
    assert np.isnan(actual.view(np.float16)[nan]).all()


def test_half_there_and_back():
    bits = np.arange(65536, dtype=np.uint16)
    back = to_half(to_float("F16", bits.astype("<u2").view(np.uint8).reshape(-1, 2)).ravel())
    assert ((back == bits) | ((bits & 0x7FFF) > 0x7C00) & ((back & 0x7FFF) > 0x7C00)).all()
