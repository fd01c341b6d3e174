"""Wav and AU files: all samples are read, however little of the length their headers tell."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from edge_gemma.audio.source import SAMPLE_RATE, load_audio, open_audio, to_mono
from support.sounds import Trickle, code_of, pcm, tone, wav_bytes

SAMPLES = pcm(1)
DATA = SAMPLES.tobytes()
EXPECTED = to_mono(SAMPLES)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def read_both(data: bytes) -> list[tuple[np.ndarray, str]]:
    """Samples and warning of a file and of a stream."""
    results = []
    for source in (open_audio(io.BytesIO(data)), open_audio(Trickle(data, 999))):
        mono = np.concatenate([np.zeros(0, np.float32), *source])
        results.append((mono, source.warning or ""))
        assert source.duration in (None, mono.size / SAMPLE_RATE)
    return results


@pytest.mark.parametrize(
    ("changes", "cut", "expected", "warns"),
    [
        ({}, 0, 16000, ""),
        ({}, 8001, 11999, "cut short: 0.3 s"),
        ({}, 1000, 15500, ""),  # less than a tenth of a second
        ({"size": 32044}, 0, 16000, ""),
        ({"size": 64000}, 0, 16000, "cut short: 1.0 s"),
        ({"size": 0xFFFFFFFF, "riff": 0xFFFFFFFF}, 0, 16000, ""),  # written to a pipe
        ({"size": 0x7FFFF000, "riff": 0x7FFFF024}, 0, 16000, ""),
        ({"size": 0, "riff": 0}, 0, 16000, ""),  # a recorder that was killed
        ({"size": 0, "riff": 36}, 0, 16000, ""),
        ({"size": 0}, 0, 16000, ""),
        ({"size": 20000, "riff": 20036}, 0, 16000, "outdated header: it tells of 0.6 s, and 1.0 s were found"),
        ({"size": 20000}, 0, 16000, "outdated header"),
        ({"size": 20001}, 0, 16000, "outdated header"),
        ({"size": 31000}, 0, 16000, ""),
    ],
)
def test_headers_that_do_not_tell_the_length(changes, cut, expected, warns) -> None:
    data = wav_bytes(DATA, **changes)
    for mono, warning in read_both(data[: len(data) - cut]):
        assert np.array_equal(mono, EXPECTED[:expected])
        assert bool(warning) == bool(warns) and warns in warning


@pytest.mark.parametrize(
    "after",
    [
        chunk(b"LIST", b"INFOx" * 999),
        chunk(b"abcd", bytes(100)) + chunk(b"id3 ", b"x"),
        b"id3 " + struct.pack("<I", 9999) + bytes(50),  # cut short itself
        b"TAG" + bytes(125),
        chunk(b"bext", b"odd")[:-1] + chunk(b"cue ", bytes(28)),  # without the byte that makes it even
    ],
)
@pytest.mark.parametrize("odd", [False, True])
def test_what_follows_the_samples_is_no_sound(after, odd) -> None:
    data, expected = (DATA, EXPECTED) if not odd else (DATA + b"\0", EXPECTED)
    for mono, warning in read_both(wav_bytes(data, after=b"\0" * odd + after)):
        assert np.array_equal(mono, expected) and not warning


def test_an_empty_recording_with_chunks_behind_it() -> None:
    for mono, warning in read_both(wav_bytes(b"", after=chunk(b"LIST", bytes(1000)))):
        assert not mono.size and not warning


@pytest.mark.parametrize("before", [b"", chunk(b"LIST", b"INFO")])
def test_a_second_recording_is_reported(before) -> None:
    for mono, warning in read_both(wav_bytes(DATA) + before + wav_bytes(DATA * 2)):
        assert np.array_equal(mono, EXPECTED)
        assert "another recording" in warning and "2.0 s were not read" in warning


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"LIST", b"INFOISFT\5\0\0\0a b c\0"),
        chunk(b"JUNK", bytes(4096)),
        chunk(b"junk", bytes(3)),
        chunk(b"junk", bytes(3))[:-1],  # an odd length without the byte that makes it even
        b"ID3\3\0\0" + bytes([0, 0, 1, 2]) + bytes(130),
    ],
)
def test_what_comes_before_the_samples(before) -> None:
    data = before + wav_bytes(DATA) if before.startswith(b"ID3") else wav_bytes(DATA, before=before)
    for mono, warning in read_both(data):
        assert np.array_equal(mono, EXPECTED) and not warning


@pytest.mark.parametrize("kind", [b"RF64", b"BW64"])
@pytest.mark.parametrize(
    ("stated", "expected", "warns"),
    [
        (len(DATA), 16000, ""),
        (3 * len(DATA), 16000, "cut short: 2.0 s"),
        (0, 16000, ""),
        ((1 << 64) - 1, 16000, ""),
        (8000, 16000, "outdated"),
    ],
)
def test_lengths_of_64_bits(kind, stated, expected, warns) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", stated, stated, stated // 2, 0))
    data = kind + wav_bytes(DATA, before=ds64, size=0xFFFFFFFF, riff=0xFFFFFFFF)[4:]
    for mono, warning in read_both(data):
        assert mono.size == expected and np.array_equal(mono, EXPECTED[:expected])
        assert bool(warning) == bool(warns) and warns in warning


class Huge(io.RawIOBase):
    """A wav file of more than 4 GiB that takes no memory: ones at its end, zeros before them."""

    def __init__(self, header: bytes, samples: int, after: bytes) -> None:
        self.header, self.after, self.samples = header, after, samples
        self.size, self.at = len(header) + samples + len(after), 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, n: int = -1) -> bytes:
        n = min(n, self.size - self.at)
        behind = self.at - len(self.header) - self.samples
        if self.at < len(self.header):
            data = self.header[self.at : self.at + n]
        elif behind >= 0:
            data = self.after[behind : behind + n]
        else:
            data = b"\1" * min(n, -behind)
        self.at += len(data)
        return data


@pytest.mark.parametrize("rest", [0, 5000])
@pytest.mark.parametrize("after", [b"", chunk(b"LIST", b"INFO1234")])
@pytest.mark.parametrize("stated", [None, 0, 0xFFFFFFFF, 70000])
def test_lengths_that_have_wrapped_around(rest, after, stated) -> None:
    samples = 2 * (1 << 32) + rest
    size = samples % (1 << 32) if stated is None else stated
    source = open_audio(Huge(wav_bytes(b"", size=size, riff=36), samples, after))
    extra = 0 if size == samples % (1 << 32) else len(after)  # chunks after an unknown length count as samples
    assert source.duration == (samples + extra) // 2 / SAMPLE_RATE
    assert ("outdated" in (source.warning or "")) == (stated == 70000)
    source.seek(samples / 2 / SAMPLE_RATE - 0.001)
    assert source.read(1).size == 16 + extra // 2


@pytest.mark.parametrize(
    ("bits", "tag", "kind"), [(16, 1, ">i2"), (24, 1, None), (32, 1, ">i4"), (32, 3, ">f4"), (64, 3, ">f8")]
)
def test_big_endian_files(bits, tag, kind) -> None:
    samples = np.random.default_rng(bits).integers(-(2**23), 2**23, (5000, 2), np.int32)
    if tag == 3:
        samples = (samples / 2**23).astype(kind)
        data = samples.tobytes()
    elif kind == ">i2":
        samples = (samples >> 8).astype("<i2")
        data = samples.astype(kind).tobytes()
    else:
        samples = samples * 256
        data = samples.astype(">i4").tobytes()
        data = data if kind else np.frombuffer(data, np.uint8).reshape(-1, 4)[:, :3].tobytes()
    form = struct.pack(">HHIIHH", tag, 2, SAMPLE_RATE, 0, bits // 4, bits)
    body = b"WAVEfmt " + struct.pack(">I", 16) + form + b"data" + struct.pack(">I", len(data)) + data
    for mono, warning in read_both(b"RIFX" + struct.pack(">I", len(body)) + body):
        assert np.array_equal(mono, to_mono(samples)) and not warning


@pytest.mark.parametrize(("tag", "subtype"), [(6, "ALAW"), (7, "ULAW")])
def test_files_of_telephones(tag, subtype) -> None:
    soundfile = pytest.importorskip("soundfile")
    codes = bytes(range(256)) * 20
    samples, _ = soundfile.read(io.BytesIO(codes), samplerate=16000, channels=1, format="RAW", subtype=subtype)
    for mono, warning in read_both(wav_bytes(codes, bits=8, tag=tag)):
        assert np.array_equal(mono, samples.astype(np.float32)) and "clipped" not in warning
    name = {"ALAW": "alaw", "ULAW": "mulaw"}[subtype]
    assert np.array_equal(load_audio(Trickle(codes, 77), encoding=name), samples.astype(np.float32))


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_compressed_wav_in_files_and_streams(subtype) -> None:
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, tone(1), SAMPLE_RATE, format="WAV", subtype=subtype)
    for mono, warning in read_both(file.getvalue()):
        assert SAMPLE_RATE <= mono.size < SAMPLE_RATE * 1.1 and not warning
        assert np.abs(mono[:SAMPLE_RATE] - tone(1)).mean() < 0.02


@pytest.mark.parametrize(("number", "bits"), [(3, 16), (1, 8)])
@pytest.mark.parametrize("stated", [None, 100, 0, 0xFFFFFFFF])
def test_au_files(number, bits, stated) -> None:
    data = DATA if bits == 8 else SAMPLES.astype(">i2").tobytes()
    size = len(data) if stated is None else stated
    header = b".snd" + struct.pack(">5I", 28, size, number, SAMPLE_RATE, 1) + b"note"
    for mono, warning in read_both(header + data):
        assert mono.size == len(data) * 8 // bits and not warning
        assert bits == 8 or np.array_equal(mono, EXPECTED)
    with open_audio(io.BytesIO(header + data[:-8000])) as source:
        assert sum(block.size for block in source) == (len(data) - 8000) * 8 // bits
        assert ("cut short" in (source.warning or "")) == (stated is None)


def test_samples_that_are_no_numbers_are_silence_and_reported() -> None:
    samples = tone(1)
    samples[100:5000] = np.nan
    samples[6000] = np.inf
    data = wav_bytes(np.stack([samples, tone(1)], axis=1).astype("<f4").tobytes(), channels=2, tag=3, bits=32)
    for mono, warning in read_both(data):
        assert np.isfinite(mono).all() and np.array_equal(mono[7000:], tone(1)[7000:])
        assert "0.3 s of it are no numbers" in warning
    assert "1 samples" in read_both(wav_bytes(np.array([0, np.nan] * 1, "<f4").tobytes(), tag=3, bits=32))[0][1]


def test_headers_that_say_nonsense() -> None:
    for data in (
        wav_bytes(DATA, channels=0),
        wav_bytes(DATA)[:30],
        b"RF64\xff\xff\xff\xffWAVE",
        b"RIFX" + wav_bytes(DATA)[4:],
    ):
        assert code_of(lambda data=data: load_audio(io.BytesIO(data)))[0] == "format"
        assert code_of(lambda data=data: load_audio(Trickle(data, 99)))[0] == "format"
