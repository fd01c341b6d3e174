"""Sound that FFmpeg decodes, by PyAV and by the program: m4a, webm, videos, and what libsndfile leaves out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edge_gemma.audio.source import SAMPLE_RATE, load_audio, open_audio
from edge_gemma.errors import EdgeGemmaError
from support.sounds import Trickle, code_of, tone, wav_bytes

pytest.importorskip("soxr")
av = pytest.importorskip("av", reason="makes the files")
LENGTH = 4.0
# Format of the file -> codec, rate
FILES = {
    "m4a": ("ipod", "aac", 44100),
    "mp4": ("mp4", "aac", 48000),
    "mov": ("mov", "pcm_s16le", 44100),
    "webm": ("webm", "libopus", 48000),
    "mka": ("matroska", "flac", 16000),
    "aac": ("adts", "aac", 16000),
    "wma": ("asf", "wmav2", 44100),
    "ac3": ("ac3", "ac3", 48000),
    "3gp": ("3gp", "aac", 16000),
    "ts": ("mpegts", "aac", 48000),
    "flv": ("flv", "aac", 44100),
    "caf": ("caf", "alac", 44100),
}


def make(path: Path, kind: str, seconds: float = LENGTH, tracks: int = 1, video: bool = False, **options: str) -> Path:
    """Writes a file with a tone of 440 Hz in the first track, of 880 Hz in the next one, and so on."""
    container_format, codec, rate = FILES[kind]
    with av.open(str(path), "w", format=container_format, options=options) as container:
        packets = []
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
            for number in range(round(10 * seconds)):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
                packets += pictures.encode(picture)
            packets += pictures.encode(None)
        streams = [container.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        for number, stream in enumerate(streams):
            if codec == "wmav2":
                stream.bit_rate = 96000
            sound = tone(seconds, rate, 440.0 * (number + 1))
            kind_of_samples = stream.codec_context.format.name if stream.codec_context.format else "fltp"
            resampler = av.AudioResampler(kind_of_samples, "mono", rate)
            for at in range(0, sound.size, 1024):
                part = np.ascontiguousarray(sound[None, at : at + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate, at
                for converted in resampler.resample(frame):
                    packets += stream.encode(converted)
            packets += stream.encode(None)
        container.mux(packets)  # only now, since the first one writes the header, which describes all tracks
    return path


@pytest.fixture(scope="module")
def all_of_pyav(tmp_path_factory: pytest.TempPathFactory) -> None:
    """PyAV imports its parts when they are first used, which must not be while it is hidden."""
    make(tmp_path_factory.mktemp("pyav") / "all.mp4", "mp4", 0.2, video=True)


@pytest.fixture(params=["pyav", "ffmpeg"])
def way(request, monkeypatch, all_of_pyav) -> str:
    """Both ways to decode."""
    if request.param == "ffmpeg":
        if not shutil.which("ffmpeg"):
            pytest.skip("needs the program ffmpeg")
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


def loudness(samples: np.ndarray, hertz: float) -> float:
    """The amplitude of a tone in samples."""
    time = np.arange(samples.size) / SAMPLE_RATE
    return 2 * abs(np.mean(samples * np.exp(-2j * np.pi * hertz * time)))


@pytest.mark.parametrize("kind", FILES)
def test_every_kind(tmp_path, monkeypatch, way, kind) -> None:
    path = make(tmp_path / f"-concat: a.{kind}", kind)  # a name that a command line could misunderstand
    data = path.read_bytes()
    with open_audio(path) as source:
        mono = np.concatenate(list(source))
        assert source.duration is None or source.duration == pytest.approx(LENGTH, abs=0.1)
        assert source.warning is None and not source.live
    assert mono.size / SAMPLE_RATE == pytest.approx(LENGTH, abs=0.2)
    assert loudness(mono[8000:-8000], 440) == pytest.approx(0.3, abs=0.03)
    for other in (io.BytesIO(data), Trickle(data, 5000)):
        assert np.array_equal(load_audio(other), mono)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load_audio(path.name), mono)


@pytest.mark.parametrize("kind", ["m4a", "webm", "aac", "wma"])
def test_going_to_a_position(tmp_path, way, kind) -> None:
    path = make(tmp_path / f"a.{kind}", kind)
    whole = load_audio(path)
    with open_audio(path) as source:
        rate = FILES[kind][2]
        for at in (2.5, 0, 1, 3, 0.5):
            source.seek(at)
            found = source.read(0.5)
            expected = whole[round(at * SAMPLE_RATE) :][: found.size]
            assert found.size == 8000
            if rate == SAMPLE_RATE:
                assert np.array_equal(found, expected)
            else:  # the resampler begins anew
                assert np.abs(found - expected)[400:-400].max() < 1e-3
        source.seek(100)
        assert source.read(1) is None
        source.seek(3.5)
        assert source.read(0.1).size == 1600


def test_both_ways_give_the_same(tmp_path, monkeypatch) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the program ffmpeg")
    paths = [make(tmp_path / f"a.{kind}", kind) for kind in ("m4a", "mka", "mov", "caf")]
    one = [load_audio(path) for path in paths]
    monkeypatch.setitem(sys.modules, "av", None)
    for path, mono in zip(paths, one, strict=True):
        other = load_audio(path)
        assert other.size == mono.size and np.abs(other - mono).max() < 1e-4


def test_the_first_of_several_tracks(tmp_path, way) -> None:
    with open_audio(make(tmp_path / "a.mp4", "mp4", tracks=2, video=True)) as source:
        mono = np.concatenate(list(source))
        assert "2 audio tracks" in source.warning
    assert loudness(mono[8000:-8000], 440) > 0.25 and loudness(mono[8000:-8000], 880) < 0.01


def test_a_video_without_sound(tmp_path, way) -> None:
    code, message = code_of(lambda: open_audio(make(tmp_path / "a.mp4", "mp4", tracks=0, video=True)))
    assert code == "format" and "an MP4 file without sound" in message


@pytest.mark.parametrize("kind", ["m4a", "webm", "mka"])
def test_files_that_are_cut_short(tmp_path, way, kind) -> None:
    path = make(tmp_path / f"a.{kind}", kind, 8, **({"movflags": "faststart"} if kind == "m4a" else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_audio(path) as source:
        mono = np.concatenate(list(source))
        assert "cut short" in source.warning and " s of it could not be read" in source.warning
    assert 1 < mono.size / SAMPLE_RATE < 6


def test_an_m4a_that_was_not_finished(tmp_path, way) -> None:
    path = make(tmp_path / "a.m4a", "m4a")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, message = code_of(lambda: open_audio(path))
    assert code == "format" and "the recording was not finished" in message


def test_damage_in_the_middle(tmp_path, way) -> None:
    path = make(tmp_path / "a.m4a", "m4a", 8)
    data = bytearray(path.read_bytes())
    hole = data.find(b"mdat") + len(data) // 2
    data[hole : hole + 6000] = np.random.default_rng(0).bytes(6000)
    path.write_bytes(data)
    with open_audio(path) as source:
        mono = np.concatenate(list(source))
        assert "damaged" in source.warning
    if way == "pyav":  # silence stands for what is lost, so the rest is where it was
        assert mono.size == pytest.approx(8 * SAMPLE_RATE, abs=2000)
    assert loudness(mono[-16000:-8000], 440) > 0.25


def test_without_either_way(tmp_path, monkeypatch) -> None:
    path = make(tmp_path / "a.m4a", "m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for source in (path, io.BytesIO(path.read_bytes()), Trickle(path.read_bytes(), 999)):
        code, message = code_of(lambda source=source: load_audio(source))
        assert code == "unsupported" and "an M4A file" in message
        assert "edge-gemma[voice]" in message and "apt install ffmpeg" in message


FAKE = """
#!{python}
import os, sys
arguments = sys.argv[1:]
with open(os.environ["LOG"], "w") as log:
    log.write("\\n".join(arguments))
place = arguments[arguments.index("-i") + 1]
with open(place.removeprefix("file:"), "rb") as file:
    content = file.read()
print("Input #0, matroska,webm, from 'x':\\n  Duration: 00:00:02.00, start: 0.0\\n  Stream #0:0: Audio: opus", file=sys.stderr)
sys.stdout.buffer.write({header!r} + content[-16000:])
sys.stdout.buffer.flush()
print("x" * 500000, file=sys.stderr)
"""


def test_how_ffmpeg_is_called(tmp_path, monkeypatch) -> None:
    """A program of that name gets no name that it could take for an option, an address or a list, and may say a lot."""
    header = wav_bytes(b"", SAMPLE_RATE, size=0xFFFFFFFF, riff=0xFFFFFFFF)
    program = tmp_path / "ffmpeg"
    program.write_text(textwrap.dedent(FAKE).lstrip().format(python=sys.executable, header=header))
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    path = tmp_path / "concat:http:-a.webm"
    samples = np.arange(8000, dtype="<i2")
    path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(50) + samples.tobytes())
    with open_audio(path) as source:
        assert source.duration == 2
        assert np.array_equal(np.concatenate(list(source)), samples / np.float32(32768))
        assert "1.2 s of it could not be read" in source.warning
        source.seek(0.25)
        assert source.read(1).size == 4000
    arguments = (tmp_path / "log").read_text().split("\n")
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    assert not any("webm" in argument for argument in arguments if "," not in argument)


def test_ffmpeg_ends_with_the_source(tmp_path, monkeypatch) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs the program ffmpeg")
    path = make(tmp_path / "a.mka", "mka", 60)
    monkeypatch.setitem(sys.modules, "av", None)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **options: started.append(popen(*args, **options)) or started[-1]
    )
    with open_audio(path) as source:
        source.read(0.1)
        assert started[0].poll() is None
    assert started[0].poll() is not None


# ---- what libsndfile leaves out --------------------------------------------------------------------------------------


def written(kind: str, seconds: float = 8) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    rng = np.random.default_rng(4)
    soundfile.write(file, rng.normal(0, 0.1, round(seconds * SAMPLE_RATE)), SAMPLE_RATE, format=kind.upper())
    return file.getvalue()


def seconds_and_warning(data: bytes) -> tuple[float, str]:
    with open_audio(io.BytesIO(data)) as source:
        return sum(block.size for block in source) / SAMPLE_RATE, source.warning or ""


@pytest.mark.parametrize("total", [0, 16000, 8 * SAMPLE_RATE - 1, 9999999])
def test_flac_with_a_wrong_length(total) -> None:
    data = bytearray(written("flac"))
    whole = load_audio(io.BytesIO(bytes(data)))
    fields = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    data[18:26] = fields.to_bytes(8, "big")
    source = open_audio(io.BytesIO(bytes(data)))
    mono = np.concatenate(list(source))
    assert np.array_equal(mono, whole)
    assert ("cut short" in (source.warning or "")) == (total > whole.size)
    for at in (7.5, 2, 0):
        source.seek(at)
        assert np.array_equal(source.read(0.25), whole[round(at * SAMPLE_RATE) :][:4000])


@pytest.mark.parametrize("frames", [20, 200, 100000])
def test_mp3_with_a_wrong_length(way, frames) -> None:
    data = bytearray(written("mp3"))
    at = max(data.find(b"Xing"), data.find(b"Info"))
    data[at + 8 : at + 12] = struct.pack(">I", frames)
    seconds, warning = seconds_and_warning(bytes(data))
    assert seconds == pytest.approx(8, abs=0.2)
    assert bool(warning) == (frames == 100000)


@pytest.mark.parametrize("quality", [0.0, 0.9])
def test_mp3_without_a_length(way, quality) -> None:
    """The bit rate varies, and the first frame, of silence, has a low one: it says nothing of the length."""
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    noise = np.random.default_rng(4).normal(0, 0.1, 8 * SAMPLE_RATE)
    noise[:SAMPLE_RATE] = 0
    form = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": quality}
    soundfile.write(file, noise, SAMPLE_RATE, **form)
    data = bytearray(file.getvalue())
    at = max(data.find(b"Xing"), data.find(b"Info"))
    data[at : at + 4] = bytes(4)
    source = open_audio(io.BytesIO(bytes(data)))
    assert source.duration == pytest.approx(8, abs=0.2)
    assert sum(block.size for block in source) / SAMPLE_RATE == pytest.approx(8, abs=0.2)
    assert source.warning is None


@pytest.mark.parametrize("kind", ["mp3", "ogg", "flac"])
def test_recordings_that_are_joined(way, kind) -> None:
    """`cat a.mp3 b.mp3` is what some recorders do with the parts of a recording."""
    data = written(kind)
    seconds, warning = seconds_and_warning(data + data)
    assert kind != "mp3" or open_audio(io.BytesIO(data + data)).duration == pytest.approx(16, abs=0.4)
    assert seconds == pytest.approx(16, abs=0.7)
    assert seconds == pytest.approx(16, abs=0.2) or warning or way == "ffmpeg"


def test_recordings_of_different_kinds_that_are_joined(way) -> None:
    soundfile = pytest.importorskip("soundfile")
    parts = []
    for rate, channels in ((16000, 1), (44100, 2), (16000, 1), (48000, 1)):
        file = io.BytesIO()
        soundfile.write(file, np.stack([tone(4, rate)] * channels, axis=1), rate, format="MP3")
        parts.append(file.getvalue())
    mono = load_audio(io.BytesIO(b"".join(parts)))
    assert mono.size / SAMPLE_RATE == pytest.approx(16, abs=0.5)
    for second in (2, 6, 10, 14):
        assert 0.25 < loudness(mono[second * SAMPLE_RATE :][:8000], 440) < 0.45  # FFmpeg adds the channels up


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_positions_behind_the_stated_length(way, kind) -> None:
    data = written(kind)
    source = open_audio(io.BytesIO(data + data))
    whole = np.concatenate(list(source))
    for at in (12.0, 2.0, 9.0, 13.5, 0.0):
        source.seek(at)
        assert np.allclose(source.read(0.5), whole[round(at * SAMPLE_RATE) :][:8000], atol=1e-4), at
    source.seek(100)
    assert source.read(1) is None


@pytest.mark.parametrize("seed", range(40))
def test_files_with_bytes_changed(seed, capfd) -> None:
    """Whatever a file holds, it is read or refused: with an error of ours, and without a word from the libraries."""
    rng = np.random.default_rng(seed)
    kind = ["mp3", "ogg", "flac", "aiff", "caf", "w64", "au", "voc"][seed % 8]
    data = bytearray(written(kind, 2))
    for at in rng.integers(0, [64, 600, len(data)][seed % 3], 8):
        data[at] = rng.integers(256)
    with contextlib.suppress(EdgeGemmaError):
        source = open_audio(io.BytesIO(bytes(data)))
        source.read(3)
        source.seek(1)
        source.read(3)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["mp3", "ogg", "flac"])
def test_a_hole_in_the_middle(way, kind) -> None:
    data = bytearray(written(kind, 20))
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    seconds, warning = seconds_and_warning(bytes(data))
    assert seconds > 17 and "damaged" in warning


def test_what_cannot_be_read_without_ffmpeg_is_reported(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    data = written("mp3", 20)
    seconds, warning = seconds_and_warning(data + data)
    assert seconds == pytest.approx(20, abs=0.2)
    assert "50% of the file was not read" in warning and "edge-gemma[voice]" in warning


@pytest.mark.parametrize("kind", ["aiff", "caf", "w64"])
def test_files_of_samples_that_are_cut_short(kind) -> None:
    data = written(kind)
    seconds, warning = seconds_and_warning(data[: len(data) // 2])
    assert seconds == pytest.approx(4, abs=0.2)
    assert "cut short" in warning


def test_nothing_heavy_is_imported_for_wav() -> None:
    program = (
        "import io, sys; from edge_gemma.audio.source import load_audio\n"
        f"load_audio(io.BytesIO({wav_bytes(bytes(100))!r})); print('av' in sys.modules, 'soundfile' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n", done.stderr
    assert importlib.util.find_spec("av")
