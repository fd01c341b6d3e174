"""Folders, lists and patterns of recordings: what is found, done, skipped, gone on with, and told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from test_cli_speech import PROGRAM, environment

import edge_gemma as eg
from edge_gemma.audio.folders import find_recordings, is_collection
from edge_gemma.audio.source import load_audio
from edge_gemma.cli import main
from edge_gemma.demo.utterances import FOLDER, bundled
from edge_gemma.hub.resolve import EMBEDDED

pytestmark = pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
OPTIONS = ["--model", "toy", "--vad", "energy"]
TOY = {"EDGE_GEMMA_MODEL": "toy", "EDGE_GEMMA_MMPROJ": ""}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two recordings in a tree, and one that is none."""
    inside = tmp_path / "in" / "deep" / "er"
    inside.mkdir(parents=True)
    shutil.copy(FOLDER / "1-en.wav", inside / "one.wav")
    shutil.copy(FOLDER / "5-en.wav", tmp_path / "in" / "five.wav")
    (tmp_path / "in" / "broken.mp3").write_text("no sound")
    (tmp_path / "in" / "notes.md").write_text("no recording")
    (tmp_path / "in" / ".hidden.wav").write_text("no recording")
    return tmp_path / "in"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """The numbers of the table."""
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    return {line[0]: int(line[1]) for line in lines if line and line[0] in ("done", "skipped", "failed")}


def test_a_folder_is_done_once(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["transcribe", str(archive), "-o", str(out), *OPTIONS]
    assert main(command) == 1
    shown = capsys.readouterr().err
    assert shown.count("broken.mp3 holds no sound") == 2 and "times real time" in shown
    with eg.Model.load("toy") as model:
        names = ("1-en.wav", "5-en.wav", "8-en.wav")
        said = {name: eg.transcribe(FOLDER / name, model, detector="energy").text for name in names}
    assert (out / "deep" / "er" / "one.txt").read_text() == said["1-en.wav"] + "\n"
    assert (out / "five.txt").read_text() == said["5-en.wav"] + "\n"
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4  # with the records

    (archive / "broken.mp3").unlink()
    os.utime(archive / "five.wav")  # another time, the same content
    assert main(command) == 0 and told(capsys) == {"done": 0, "skipped": 2}
    shutil.copy(FOLDER / "8-en.wav", archive / "five.wav")  # the same name, another content
    assert main(command) == 0 and told(capsys) == {"done": 1, "skipped": 1}
    assert (out / "five.txt").read_text() == said["8-en.wav"] + "\n"
    assert main([*command, "--max-seconds", "20"]) == 0 and told(capsys) == {"done": 2}  # other options
    assert main([*command, "--max-seconds", "20", "--batch", "2"]) == 0 and told(capsys) == {"done": 0, "skipped": 2}


def test_what_somebody_has_written_is_kept(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["transcribe", str(archive / "*.wav"), "-o", str(out), *OPTIONS]
    out.mkdir()
    (out / "five.txt").write_text("mine")
    assert main(command) == 1 and (out / "five.txt").read_text() == "mine"
    assert "five.txt has no record" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and told(capsys) == {"done": 1}
    assert main(command) == 0 and told(capsys) == {"done": 0, "skipped": 1}
    with (out / "five.txt").open("a") as file:
        file.write("corrected\n")
    assert main(command) == 1 and "was changed since it was written" in capsys.readouterr().err
    (out / "five.txt").unlink()
    (out / "five.txt.part").write_text("mine, too")
    assert main(command) == 1 and (out / "five.txt.part").read_text() == "mine, too"
    (out / "five.txt.part").unlink()
    assert "is in the way" in capsys.readouterr().err
    assert main(command) == 0 and told(capsys) == {"done": 1}


def test_each_channel_of_a_call_is_a_speaker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [load_audio(FOLDER / f"{name}.wav") for name in ("1-en", "5-en", "8-en")]
    both = np.random.default_rng(0).standard_normal((16000 * 16, 2)).astype(np.float32) * 5e-4
    for part, channel, second in zip(parts, (0, 1, 0), (1, 5, 10), strict=True):
        both[16000 * second : 16000 * second + len(part), channel] += part
    call, out = tmp_path / "call.wav", tmp_path / "out"
    with wave.open(str(call), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes((both * 32767).astype("<i2").tobytes())
    shutil.copy(FOLDER / "1-en.wav", tmp_path / "mono.wav")
    command = ["transcribe", str(call), str(tmp_path / "mono.wav"), "-o", str(out), "--channels", "separate", *OPTIONS]
    assert main(command) == 0 and told(capsys) == {"done": 2}
    with eg.Model.load("toy") as model:
        said = [eg.transcribe(both[:, channel], model, detector="energy", guarded=True).segments for channel in (0, 1)]
    expected = [f"1: {said[0][0].text}", f"2: {said[1][0].text}", f"1: {said[0][1].text}"]
    assert (out / "call.txt").read_text().splitlines() == expected and all(len(line) > 10 for line in expected)
    assert not (out / "mono.txt").read_text().startswith("1:")
    assert main([*command, "--format", "json"]) == 0
    segments = json.loads((out / "call.json").read_text())["segments"]
    assert [segment["speaker"] for segment in segments] == ["1", "2", "1"]
    assert main(["transcribe", str(call), "--channels", "separate", *OPTIONS]) == 2


def test_recordings_that_differ_in_their_endings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(FOLDER / "1-en.wav", folder / "talk.wave.wav")
    shutil.copy(FOLDER / "1-en.wav", folder / "talk.wav")
    shutil.copy(FOLDER / "5-en.wav", folder / "talk.flac")  # named wrongly, which does not matter
    for expected in ({"done": 3}, {"done": 0, "skipped": 3}):
        assert main(["transcribe", str(folder), "-o", str(out), *OPTIONS]) == 0 and told(capsys) == expected
        assert sorted(path.name for path in out.glob("*.txt")) == ["talk.txt", "talk.wav.txt", "talk.wave.txt"]


def test_what_names_mean(archive: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.m3u"
    names.write_text(f"# comment\nin/five.wav\n\n{archive / 'deep' / 'er' / 'one.wav'}\nin/five.wav\n")
    tree = [("five.wav", "five.wav"), ("one.wav", "deep/er/one.wav")]

    def found(*given: Path | str, **options: Path) -> list[tuple[str, str]]:
        each = find_recordings([str(name) for name in given], **options)
        return [(one.path.name, one.place.as_posix()) for one in each if one.path.suffix == ".wav"]

    assert found(archive) == tree == sorted(found(archive / "**" / "*.wav")) == found(archive, archive)
    assert found(names) == [("five.wav", "in/five.wav"), ("one.wav", "in/deep/er/one.wav")]
    assert found(archive, leave_out=archive / "deep") == tree[:1]
    assert found(archive / "five.wav") == tree[:1]
    collections = [str(archive), str(names), str(archive / "*.wav")]
    assert all(map(is_collection, collections)) and not is_collection(str(archive / "five.wav"))
    with pytest.raises(eg.EdgeGemmaError, match="cannot be read"):
        names.chmod(0o200)
        if os.access(names, os.R_OK):
            raise eg.EdgeGemmaError("root reads everything: cannot be read.", "file")
        found(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give a folder"),
        (["-o", "{}/in/notes.md"], "give a folder"),
        (["-o", "{}/out", "--word-times"], "no effect"),
    ],
)
def test_what_cannot_be(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    options = [option.format(tmp_path) for option in options]
    assert main(["transcribe", str(archive), *OPTIONS, *options]) == 2 and message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["transcribe", str(tmp_path / "empty"), *OPTIONS, "-o", str(tmp_path / "out")]) == 2
    assert "there is no recording in" in capsys.readouterr().err
    assert main(["transcribe", str(archive / "five.wav"), *OPTIONS, "--watch"]) == 2


def test_a_folder_is_translated(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["translate", "--to", "de", str(archive), "-o", str(out), "--format", "json", *OPTIONS]) == 1
    assert told(capsys) == {"done": 2, "failed": 1}
    assert json.loads((out / "five.json").read_text())["translation"]
    assert main(["translate", "--to", "de", str(archive), "Hello there", "-o", str(out)]) == 2


def start(*command: object) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-c", PROGRAM, *map(str, command)]
    return subprocess.Popen(line, env=environment(**TOY), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_archive_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends it: no result is half, and what was found is not looked for again."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sound = [load_audio(utterance.path) for utterance in bundled()]
    for name in range(4):
        joined = np.concatenate([part for each in sound * 4 for part in (each, np.zeros(16000, np.float32))])
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((joined * 32767).astype("<i2").tobytes())
    command = ("transcribe", folder, "-o", out, "--nice", *OPTIONS[2:])
    running = start(*command)
    part = out / "1.txt.part"
    wait_for(lambda: part.exists() and part.read_bytes().count(b"\n") > 5)
    running.send_signal(number)
    _, shown = running.communicate(timeout=60)
    if number == signal.SIGINT:
        assert running.returncode == 130 and b"interrupted" in shown
    assert (out / "0.txt").exists() and not (out / "1.txt").exists()
    kept = part.read_bytes()[: part.read_bytes().rfind(b"\n") + 1]
    assert kept.count(b"\n") > 5
    again = start(*command)
    _, shown = again.communicate(timeout=120)
    assert again.returncode == 0 and b"done          3" in shown and b"skipped       1" in shown, shown.decode()
    texts = {(out / f"{name}.txt").read_text() for name in range(4)}
    assert len(texts) == 1 and texts.pop().count("\n") >= 30
    assert not list(out.glob("*.part"))


@pytest.mark.slow
def test_what_arrives_is_picked_up(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = start("transcribe", archive, "-o", out, "--watch", "0.2", *OPTIONS[2:])
    wait_for((out / "five.txt.record").exists)
    shutil.copy(FOLDER / "3-es.wav", archive / "late.wav")
    wait_for((out / "late.txt.record").exists)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, shown = running.communicate(timeout=60)
    assert running.returncode == 1 and b"done          3" in shown and b"failed        1" in shown, shown.decode()
