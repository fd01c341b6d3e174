"""Videos: which frames are taken and at what time, all containers, hostile files; and the camera."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma.errors import EdgeGemmaError
from edge_gemma.vision.camera import take_picture
from edge_gemma.vision.sampling import frame_indices, time_text
from edge_gemma.vision.video import SOUND_SECONDS, Clip, Frame, Video, load_video
from support.videos import make_video, picture, turned_right

av = pytest.importorskip("av", reason="needs PyAV")

KINDS = [
    ("libx264", "mp4"),
    ("libx264", "matroska"),
    ("libx264", "mpegts"),
    ("libx264", "h264"),
    ("libvpx", "webm"),
    ("mpeg4", "avi"),
    ("mpeg2video", "mpeg"),
    ("mjpeg", "mov"),
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    """FFmpeg's own messages about damaged files stay out of the output."""
    av.logging.set_level(av.logging.PANIC)


def encoder(codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")


def refused(video: Any, code: str = "format", match: str = r"\.$", **options: Any) -> str:
    with pytest.raises(EdgeGemmaError, match=match) as caught:
        load_video(video, **options)
    assert caught.value.code == code
    return str(caught.value)


# ---- choice of frames ------------------------------------------------------------------------------------------------


def test_the_processors_choice(shared: Path) -> None:
    """Indices and times of Hugging Face's processor. Where it refuses a video with fewer frames, all of them are taken."""
    for row in json.loads((shared / "fixtures" / "video" / "sampling.json").read_text()):
        rate = row.get("target_fps")
        found = frame_indices(row["total"], None if rate else row["num_frames"], rate, row["fps"])
        if row["indices"] is None:
            assert found == list(range(row["total"])) and row["total"] < row["num_frames"]
            continue
        assert found == row["indices"]
        fps = row["fps"] or 24
        text = " ".join(f"{time_text(i / fps)} <|image><|video|><|video|><image|>" for i in found)
        assert text == row["text_with_2_soft_tokens"]


def test_choices() -> None:
    assert frame_indices(300) == [i * 300 // 32 for i in range(32)]
    assert frame_indices(0) == [] and frame_indices(1) == [0] and frame_indices(5, 9) == [0, 1, 2, 3, 4]
    assert frame_indices(300, fps=1, video_fps=30) == list(range(0, 300, 30))
    assert frame_indices(10, fps=0.001, video_fps=30) == [0] and len(frame_indices(10, fps=1e300)) == 10
    for wrong in ({"frames": 0}, {"frames": 1.5}, {"frames": True}, {"fps": 0}, {"fps": -1}, {"fps": float("nan")}):
        with pytest.raises(EdgeGemmaError, match="must be"):
            frame_indices(100, **wrong)
    with pytest.raises(EdgeGemmaError, match="cannot be given both"):
        frame_indices(100, 3, 3)
    with pytest.raises(EdgeGemmaError, match="too many"):
        frame_indices(10**6, 10**5)


def test_times() -> None:
    assert [time_text(t) for t in (0, 59.99, 60, 65.4, 4500)] == ["00:00", "00:59", "01:00", "01:05", "75:00"]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "form"), KINDS)
@pytest.mark.parametrize(("total", "keys"), [(50, 6), (40, 250), (3, 1)])
def test_frames_are_the_right_ones(codec: str, form: str, total: int, keys: int) -> None:
    """With and without key frames in between, in containers with and without the number of frames and their times."""
    encoder(codec)
    data = make_video(total, codec=codec, form=form, keys=keys)
    with Video(io.BytesIO(data)) as video:
        assert video.total == total and video.size == (48, 64)
        indices = frame_indices(total, 8)
        found = list(video.frames(indices))
        fps = video.fps or 0
    for index, frame in zip(indices, found, strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert abs(frame.pixels[40, 50].astype(int) - picture(index, total)[40, 50]).max() < 12
        assert frame.pixels[5, 5, 1] > 200
        assert abs(frame.seconds - index / fps) < 0.002


def test_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(make_video(90, 10, sound=2.0))
    clip = load_video(path)
    assert (
        len(clip.frames) == 32 and clip.sound is None and clip.name == str(path) and clip.duration == pytest.approx(9)
    )
    assert repr(clip) == f"<Clip of {path}: 32 frames>" and load_video(clip) is clip
    assert [time_text(frame.seconds) for frame in load_video(path, fps=1).frames] == [f"00:0{n}" for n in range(9)]
    heard = load_video(path.as_uri(), 2, sound=True)
    assert heard.sound is not None and abs(len(heard.sound) / 16000 - 2) < 0.2 and np.abs(heard.sound).max() > 0.2
    with path.open("rb") as file:
        assert len(load_video(file, 3, sound=True).frames) == 3 and not file.closed
    path.write_bytes(make_video(10, sound=0))
    assert load_video(path, sound=True).sound is None


def test_long_sound_is_cut() -> None:
    clip = load_video(io.BytesIO(make_video(10, 1, sound=SOUND_SECONDS + 5)), 1, sound=True)
    assert clip.sound is not None and len(clip.sound) == SOUND_SECONDS * 16000
    assert clip.sound_seconds is not None and clip.sound_seconds > SOUND_SECONDS + 4


def test_large_frames_are_kept_small() -> None:
    """As small as the encoder makes them, and so that it leaves them as they are."""
    clip = load_video(io.BytesIO(make_video(4, size=(1280, 720))), 2)
    assert clip.frames[0].pixels.shape == (288, 528, 3) and clip.size == (720, 1280)


def test_rotation() -> None:
    frame = load_video(io.BytesIO(turned_right(make_video(5))), 1).frames[0].pixels
    assert frame.shape == (64, 48, 3) and frame[5, -5, 1] > 200 and frame[5, 5, 1] < 50


def test_frames_that_change_their_size() -> None:
    """Each has a size of its own, as when a phone is turned in a call: two streams of MPEG-TS, one after the other."""
    data = make_video(10, form="mpegts") + make_video(10, form="mpegts", size=(48, 64))
    with Video(io.BytesIO(data)) as video:
        shapes = [frame.pixels.shape for frame in video.frames(range(video.total))]
    assert shapes[0] == (48, 64, 3) and shapes[-1] == (64, 48, 3)


def test_lists_of_frames() -> None:
    pixels = picture(1, 2)
    clip = load_video([(0, pixels), (1.5, pixels)])
    assert clip.frames[1].seconds == 1.5 and np.array_equal(clip.frames[1].pixels, pixels)
    for wrong in ([], [pixels], [(1, 2, 3)], [(-1, pixels)], [("0", pixels)], [(float("nan"), pixels)]):
        refused(wrong, "argument")
    refused([(0, "none.png")], "file")


def test_room_is_asked_for_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_video(40)
    monkeypatch.setattr(Video, "frames", lambda self, indices: pytest.fail("it decodes"))
    assert "32 frames" in refused(io.BytesIO(data), "context", "there is room for 500: at most 7 frames fit", room=500)
    refused([(0, picture(0, 1))] * 10, "context", "at most 7 frames", room=500)


# ---- hostile files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "form"), [kind for kind in KINDS if kind[1] in ("mp4", "matroska", "webm", "avi", "mov")]
)
def test_a_file_that_is_cut_short(codec: str, form: str) -> None:
    encoder(codec)
    data = make_video(60, codec=codec, form=form, keys=10, size=(160, 120))
    assert len(load_video(io.BytesIO(data)).frames) == 32
    for part in (0.0, 0.05, 0.3, 0.5, 0.7):
        refused(io.BytesIO(data[: int(len(data) * part)]))


def test_random_damage_never_breaks_the_reader() -> None:
    """The frames, or one error: nothing else."""
    rng = np.random.default_rng(11)
    for form in ("mp4", "matroska", "mpegts"):
        data = make_video(20, form=form)
        for _ in range(25):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 20):
                damaged[at] = rng.integers(0, 256)
            try:
                clip = load_video(io.BytesIO(bytes(damaged)), 4)
                assert 1 <= len(clip.frames) <= 4
            except EdgeGemmaError as error:
                assert error.code == "format"


def test_what_is_no_video(tmp_path: Path) -> None:
    refused(tmp_path, "file", "directory")
    refused(tmp_path / "none.mp4", "file", r"cannot open .*none\.mp4")
    refused("https://example.org/a.mp4", "file", "download it first")
    refused("/dev/zero", "file", "no regular file")
    refused(3, "argument", "cannot come from a int")
    path = tmp_path / "notes.mp4"
    for content in (b"", b"These are notes.\n" * 50, bytes(5000)):
        path.write_bytes(content)
        assert "notes.mp4" in refused(path)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(buffer.getvalue())
    refused(path, match="has no pictures: it has no video track")


def test_playlists_open_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(make_video(5))
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    refused(path)
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    refused(path)


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    refused(io.BytesIO(b"x"), "unsupported", r"pip install.*edge-gemma\[video\]")
    with pytest.raises(EdgeGemmaError, match="cameras need the package PyAV"):
        take_picture()
    assert isinstance(load_video([(0, picture(0, 1))]), Clip), "a list of pictures needs no package"


def test_a_frame_is_a_pair() -> None:
    seconds, pixels = Frame(1.0, picture(0, 1))
    assert seconds == 1.0 and pixels.shape == (48, 64, 3)


# ---- camera ----------------------------------------------------------------------------------------------------------


class FakeCamera:
    """What PyAV makes of a device: it is not ready at first, as AVFoundation's, and then gives pictures without end."""

    opened: list[tuple[str, str | None]] = []

    def __init__(self, name: str, mode: str, format: str | None, options: dict[str, str], timeout: float) -> None:
        self.opened.append((name, format))
        self.streams = self
        self.video = ["stream"]
        self._calls = 0

    def __enter__(self) -> FakeCamera:
        return self

    def __exit__(self, *_: object) -> None: ...

    def decode(self, stream: str) -> Any:
        self._calls += 1
        if self._calls == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        for number in range(10**6):
            yield av.VideoFrame.from_ndarray(np.full((8, 8, 3), min(number, 200), np.uint8), format="rgb24")


@pytest.mark.parametrize(
    ("platform", "device", "opened"),
    [
        ("linux", None, ("/dev/video0", "v4l2")),
        ("linux", 2, ("/dev/video2", "v4l2")),
        ("linux", "/dev/video1", ("/dev/video1", "v4l2")),
        ("darwin", None, ("0", "avfoundation")),
        ("darwin", "FaceTime", ("FaceTime", "avfoundation")),
        ("win32", "Webcam", ("video=Webcam", "dshow")),
    ],
)
def test_a_picture_after_the_warm_up(
    platform: str, device: Any, opened: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", FakeCamera)
    pixels = take_picture(device, warm_up=0.05)
    assert FakeCamera.opened[-1] == opened
    assert pixels.shape == (8, 8, 3) and pixels[0, 0, 0] > 0, "the first picture was dropped"
    assert take_picture(device, warm_up=0)[0, 0, 0] == 0


def test_cameras_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeGemmaError, match=r"the camera /dev/video97 cannot be opened: ") as caught:
        take_picture(97)
    assert caught.value.code == "file"
    path = tmp_path / "film.mp4"
    path.write_bytes(make_video(5))
    assert take_picture(str(path)).shape == (48, 64, 3)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EdgeGemmaError, match="has to be named"):
        take_picture()
