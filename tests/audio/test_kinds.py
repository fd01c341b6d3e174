"""What holds no sound is refused by name, on standard input too; samples without a header are taken for what they are."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from edge_gemma.audio.kinds import identify
from edge_gemma.audio.source import SAMPLE_RATE, load_audio, open_audio, to_mono
from edge_gemma.errors import EdgeGemmaError
from support.sounds import Trickle, code_of, pcm, tone

RNG = np.random.default_rng(7)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    else:
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("a.txt", "a")
    return file.getvalue()


NO_SOUND = [
    (gzip.compress(bytes(1000)), "gzip archive"),
    (archive("tar"), "tar archive"),
    (archive("zip"), "zip archive"),
    (b"\xfd7zXZ\0" + bytes(50), "xz archive"),
    (b"  \r\n<!DOCTYPE html><html><body>Not found</body></html>", "HTML page"),
    (b"\xef\xbb\xbf<HTML>\n" + b"<p>Not found</p>" * 90, "HTML page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML document"),
    (b'{"error": "not found"}\n', "a text in JSON"),
    ("Grüße aus Köln, 你好, здравствуйте\n".encode() * 20, "a text"),
    ("Hello, this is a text".encode("utf-16"), "a text"),
    (b"#EXTM3U\nhttp://example.com/stream.mp3\n", "playlist"),
    (b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n", "a text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 9\n", "git lfs pull"),
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100), "PDF document"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), "an image"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(100), "an image"),
    (b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(100), "an image"),
    (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(100), "an image"),
    (b"RIFF\x10\0\0\0ACON" + bytes(100), "another kind than wav"),
    (b"MThd\0\0\0\6\0\1" + bytes(100), "MIDI"),
    (b"\x7fELF\2\1\1" + bytes(100), "a program"),
    (b"GGUF\3\0\0\0" + bytes(100), "a model file"),
    ((b"\xd5" + bytes(range(32))) * 20, "a GSM file"),
]


@pytest.mark.parametrize(("content", "says"), NO_SOUND, ids=[says for _, says in NO_SOUND])
def test_what_holds_no_sound(tmp_path, content, says) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for source in (path, io.BytesIO(content), Trickle(content, 1 << 16), Trickle(content, 7)):
        code, message = code_of(lambda source=source: load_audio(source))
        assert code == "format" and says in message and message.endswith("."), message


SAMPLES = pcm(2)
FLOATS = tone(2)


@pytest.mark.parametrize(
    "content",
    [
        SAMPLES.astype(">i2").tobytes(),
        FLOATS.astype("<f4").tobytes(),
        FLOATS.astype("<f8").tobytes(),
        np.round(FLOATS * 127 + 128).astype("u1").tobytes(),
        np.round(FLOATS * 3 + 128).astype("u1").tobytes(),
        zlib.compress(RNG.bytes(50000)),
        RNG.bytes(50000),
        bytes(10000) + RNG.bytes(50000),
        bytes([0xFF, 0x7F]) * 20000,  # silence of a telephone, in mu-law
    ],
    ids=["big-endian", "float", "double", "8 bits", "8 bits, quiet", "compressed", "random", "after silence", "mu-law"],
)
def test_streams_that_are_evidently_no_16_bit_samples(content) -> None:
    code, message = code_of(lambda: load_audio(Trickle(content, 999)))
    assert code == "format" and "state its rate and encoding" in message
    assert (
        load_audio(Trickle(content, 999), rate=SAMPLE_RATE).size == len(content) // 2
    )  # a caller who says so is believed


@pytest.mark.parametrize(
    "samples",
    [
        SAMPLES,
        SAMPLES // 1000,
        np.zeros(40000, "<i2"),
        np.clip(SAMPLES.astype(np.int32) * 9, -32768, 32767).astype("<i2"),
        RNG.normal(0, 3000, 40000).astype("<i2"),
        np.concatenate([np.full(5000, 300, "<i2"), SAMPLES]),
        RNG.integers(-3, 4, 40000).astype("<i2"),
    ],
    ids=["tone", "quiet", "silence", "clipped", "noise", "offset", "a quiet room"],
)
@pytest.mark.parametrize("portion", [50, 1 << 16])
def test_streams_of_16_bit_samples(samples, portion) -> None:
    with open_audio(Trickle(samples.tobytes(), portion)) as source:
        assert np.array_equal(np.concatenate(list(source)), to_mono(samples))
        assert "no header" in source.assumption
    for given in ({"rate": 16000}, {"channels": 1}):
        with open_audio(Trickle(samples.tobytes(), portion), **given) as source:
            assert np.array_equal(np.concatenate(list(source)), to_mono(samples))
            assert source.assumption is None


def test_quiet_samples_are_never_taken_for_a_format() -> None:
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        samples = np.cumsum(rng.normal(0, 2 + seed % 40, 3000)).astype("<i2").tobytes()
        assert identify(lambda n, samples=samples: samples[:n]) is None


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg", "aiff", "caf", "w64", "au", "voc", "rf64"])
def test_formats_in_streams(kind) -> None:
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, SAMPLE_RATE, format=kind.upper())
    expected = load_audio(io.BytesIO(file.getvalue()))
    assert expected.size == SAMPLES.size
    for given in ({}, {"rate": 16000} if kind != "mp3" else {}):  # a header counts for more than what the caller says
        with open_audio(Trickle(file.getvalue(), 5000), **given) as source:
            assert np.array_equal(np.concatenate(list(source)), expected)
            assert source.assumption is None and source.warning is None


@pytest.mark.parametrize("size", [1, 2, 3, 11, 12, 44, 100, 263, 265])
def test_files_of_a_few_bytes(size) -> None:
    for content in (
        bytes(size),
        RNG.bytes(size),
        b"\xff\xfb\x90\x64" * size,
        b"RIFF" + bytes(size),
        b"ID3\3" + bytes(size),
    ):
        for source in (io.BytesIO(content[:size]), Trickle(content[:size], 9)):
            try:
                load_audio(source)
            except EdgeGemmaError as error:
                assert error.code == "format"
