"""`transcribe`, `translate`, and sound in `run` and `chat`, as their users see them: files, pipes, signals and terminals.
The model has random weights, so what it says means nothing; what is tested is where it goes."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from support.paths import ROOT
from support.processes import read_output

DATA = ROOT / "tests" / "data"
MODEL, MMPROJ = str(DATA / "e2b-Q4_0.gguf"), str(DATA / "audio-e2b.gguf")
RATE = 16000
# Greedy, this model says line breaks; heat makes it say something, always the same.
HOT = ("--temperature", "3", "--seed", "5", "--max-tokens", "12")
OPTIONS = ("--vad", "energy", "--max-seconds", "5", *HOT)
PYTHON_OPTIONS = {
    "detector": "energy",
    "max_seconds": 5.0,
    "sampling": eg.Sampling(temperature=3.0, seed=5),
    "max_tokens": 12,
}
# In case the tests run in the background, where Ctrl-C is ignored.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from edge_gemma.cli import main; sys.exit(main())"
)


def environment(**changes: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_GEMMA")}
    models = {"EDGE_GEMMA_MODEL": MODEL, "EDGE_GEMMA_MMPROJ": MMPROJ}
    return env | models | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | changes


def cli(*args: Any, data: bytes | None = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `edge-gemma args` with `data` on its standard input."""
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    done = subprocess.run(command, input=data, capture_output=True, env=environment(**env), timeout=120, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def good(*args: Any, data: bytes = b"", **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = cli(*args, data=data, **env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def bad(status: int, *args: Any, data: bytes = b"", **env: str) -> str:
    """Standard error of a command that must fail in order."""
    done = cli(*args, data=data, **env)
    assert done.returncode == status and b"error: " in done.stderr, (done.stdout + done.stderr).decode()
    return done.stderr.decode()


def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Starts `edge-gemma args` with pipes at its ends."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, args)], env=environment(), **pipes)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm(samples))
    return path


def voices(count: int, seed: int = 0) -> np.ndarray:
    """`count` stretches of two seconds that sound a bit like vowels, with silence of two seconds before and after each."""
    rng = np.random.default_rng(seed)
    t = np.arange(2 * RATE) / RATE
    parts = [np.zeros(2 * RATE)]
    for _ in range(count):
        pitch = rng.uniform(100, 250)
        voice = sum(np.sin(2 * np.pi * pitch * k * t + k * k) for k in range(1, 25)) * (
            0.7 + 0.3 * np.sin(2 * np.pi * 4 * t)
        )
        parts += [0.05 * voice, np.zeros(2 * RATE)]
    samples = np.concatenate(parts)
    return (samples + rng.standard_normal(len(samples)) * 1e-3).astype(np.float32)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("sound") / "talk.wav", voices(3))


@pytest.fixture(scope="module")
def spoken(talk: Path) -> eg.Transcript:
    """What Python says about the same file."""
    transcript = eg.transcribe(talk, MODEL, "en", mmproj=MMPROJ, **PYTHON_OPTIONS)
    assert len([segment for segment in transcript if segment.text]) == 3
    return transcript


# ---- transcribe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["transcribe", "translate"])
def test_the_verbs_explain_themselves(verb: str) -> None:
    text = good(verb, "--help")
    assert f"usage: edge-gemma {verb}" in text and f"examples:\n  edge-gemma {verb}" in text
    assert "existing file" in text or verb == "transcribe"
    assert f"  {verb} " in good("--help")


@pytest.mark.slow
def test_transcribe_in_every_form_as_python_does(talk: Path, spoken: eg.Transcript, tmp_path: Path) -> None:
    command = ("transcribe", talk, "--language", "en", *OPTIONS)
    assert good(*command) == spoken.render("txt")
    for form in ("txt", "srt", "vtt"):
        assert good(*command, "--format", form) == spoken.render(form)
        assert good(*command, "--output", tmp_path / f"out.{form}") == ""
        assert (tmp_path / f"out.{form}").read_text(encoding="utf-8") == spoken.render(form)
    content = json.loads(good(*command, "--format", "json"))
    assert content["complete"] and content["duration"] == 14.0 and content["language"] == "English"
    assert [s["text"] for s in content["segments"]] == [s.text for s in spoken]
    assert [s["start"] for s in content["segments"]] == [round(s.start, 3) for s in spoken]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.srt", "out.txt", "out.vtt"]  # and nothing else


def test_options_reach_the_model(talk: Path, spoken: eg.Transcript) -> None:
    command = ("transcribe", talk, *OPTIONS)
    expected = eg.transcribe(talk, MODEL, mmproj=MMPROJ, order="audio-first", **PYTHON_OPTIONS)
    assert good(*command, "--order", "audio-first") == expected.render("txt") != spoken.render("txt")
    whole = eg.transcribe(talk, MODEL, mmproj=MMPROJ, **(PYTHON_OPTIONS | {"detector": "none"}))
    pieces = json.loads(good(*command, "--no-vad", "--format", "json"))["segments"]
    assert [s["text"] for s in pieces] == [s.text for s in whole] != [s.text for s in spoken]
    assert pieces[-1]["end"] == pytest.approx(14.0, abs=0.1)
    done = cli(*command, "--verbose", "--model", MODEL, "--mmproj", MMPROJ, EDGE_GEMMA_MODEL="", EDGE_GEMMA_MMPROJ="")
    assert done.returncode == 0 and b"14.0 s of sound" in done.stderr and b"doubtful at 0:0" in done.stderr


def test_times_of_words(talk: Path, tmp_path: Path) -> None:
    command = ("transcribe", talk, "--language", "en", *OPTIONS, "--word-times")
    expected = eg.transcribe(talk, MODEL, "en", mmproj=MMPROJ, word_times=True, **PYTHON_OPTIONS)
    assert expected.words and all(word.timed for word in expected.words)
    for form in ("srt", "vtt"):
        assert good(*command, "--output", tmp_path / f"out.{form}") == ""
        assert (tmp_path / f"out.{form}").read_text(encoding="utf-8") == expected.render(form)
    found = json.loads(good(*command, "--format", "json"))["segments"]
    words = [word for segment in found for word in segment.get("words", ())]
    assert [word["start"] for word in words] == [round(word.start or 0.0, 3) for word in expected.words]
    for form in ("txt", "tsv"):
        assert "json, jsonl, srt or vtt" in bad(2, *command, "--format", form, "--output", tmp_path / "new" / "x")
    assert not (tmp_path / "new").exists()


def test_details_of_segments(talk: Path) -> None:
    command = ("transcribe", talk, *OPTIONS, "--details")
    expected = eg.transcribe(talk, MODEL, mmproj=MMPROJ, detect_language="segments", no_speech=True, **PYTHON_OPTIONS)
    found = json.loads(good(*command, "--format", "json"))["segments"]
    assert [s["no_speech_prob"] for s in found] == [round(s.no_speech_prob or 0.0, 3) for s in expected if s.text]
    assert [s.get("language") for s in found] == [s.language for s in expected if s.text]
    assert "choose json or jsonl" in bad(2, *command, "--format", "srt")


@pytest.mark.slow
def test_transcribe_reads_pipes(talk: Path, spoken: eg.Transcript) -> None:
    raw = pcm(voices(3))
    command = ("transcribe", "-", "--language", "en", *OPTIONS)
    assert good(*command, data=raw) == spoken.render("txt")
    assert good(*command, data=talk.read_bytes()) == spoken.render("txt")  # a file, not raw samples
    stereo = np.repeat(np.frombuffer(raw, "<i2").astype("<f4") / 32768, 2).tobytes()
    assert good(*command, "--channels", "2", "--encoding", "f32le", data=stereo) == spoken.render("txt")
    with talk.open("rb") as file:
        assert subprocess.check_output(
            [sys.executable, "-c", PROGRAM, *command], stdin=file, env=environment()
        ).decode() == spoken.render("txt")
    assert "standard input" in bad(1, *command, data=b"")
    assert "only once" in bad(2, "transcribe", "-", "-")


def read_line(process: subprocess.Popen[bytes], seconds: float = 60) -> bytes:
    """The next line of the output, which must come before the process has all of its input."""
    assert process.stdout
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], seconds)[0], "nothing came"
        piece = os.read(process.stdout.fileno(), 1)
        assert piece, "the output ended"
        line += piece
    return line


@pytest.mark.skipif(os.name != "posix", reason="waits for a pipe")
def test_text_comes_while_the_sound_goes_on(spoken: eg.Transcript) -> None:
    process = start("transcribe", "-", "-l", "English", *OPTIONS, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    raw = pcm(voices(3))
    process.stdin.write(raw[: 6 * RATE * 2])  # up to the silence after the first
    process.stdin.flush()
    assert read_line(process).decode() == f"{spoken[0].text}\n"
    process.stdin.write(raw[6 * RATE * 2 :])
    process.stdin.close()
    assert process.stdout.read().decode() == f"{spoken[1].text}\n{spoken[2].text}\n"
    assert process.wait(60) == 0
    process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_waiting_for_sound(spoken: eg.Transcript) -> None:
    process = start("transcribe", "-", "-l", "en", "--format", "json", *OPTIONS, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(pcm(voices(3))[: 6 * RATE * 2])
    process.stdin.flush()
    text = read_output(process.stdout.fileno(), lambda output: spoken[0].text.encode() in json_text(output))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    text += process.stdout.read()
    assert process.stderr.read() == b""
    content = json.loads(text)  # whole, though it ended early
    assert content["complete"] is False and content["text"] == spoken[0].text
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def json_text(data: bytes) -> bytes:
    """What has been written so far, with its escapes undone."""
    return data.replace(b'\\"', b'"').replace(b"\\\\", b"\\")


def test_several_files_and_a_failing_one(talk: Path, spoken: eg.Transcript, tmp_path: Path) -> None:
    broken, empty, other = tmp_path / "broken.wav", tmp_path / "empty.wav", tmp_path / "other.wav"
    broken.write_text("this is no sound")
    empty.write_bytes(b"")
    shutil.copy(talk, other)
    files = (broken, talk, tmp_path / "missing.wav", empty, tmp_path, other)
    command = ("transcribe", *files, "-l", "en", *OPTIONS)
    done = cli(*command)
    assert done.returncode == 1
    text = spoken.render("txt")
    assert done.stdout.decode() == f"==> {talk} <==\n{text}==> {other} <==\n{text}"
    errors = done.stderr.decode().splitlines()
    assert errors.pop() == "edge-gemma: 2 of 6 recordings done, 4 failed."
    for line, file in zip(errors, (broken, tmp_path / "missing.wav", empty, tmp_path), strict=True):
        assert line.startswith("edge-gemma: error: ") and str(file) in line
    command = ("transcribe", *(file for file in files if file != tmp_path), "-l", "en", *OPTIONS)
    done = cli(*command, "--format", "srt", "--output", tmp_path / "new" / "texts")
    assert done.returncode == 1 and done.stdout == b""
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new" / "texts").iterdir()}
    assert written == {"talk.srt": spoken.render("srt"), "other.srt": spoken.render("srt")}


@pytest.mark.slow
def test_where_output_can_not_go(talk: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    file.write_text("precious")
    assert "give a directory" in bad(2, "transcribe", talk, talk, "--output", file)
    assert "is given twice" in bad(2, "transcribe", talk, talk, "--output", tmp_path / "texts")
    assert "both be written" in bad(2, "transcribe", talk, "other/talk.mp3", "--output", tmp_path / "texts")
    assert "one recording" in bad(2, "transcribe", talk, "x.wav", "--format", "srt")
    assert "--output" in bad(2, "transcribe", talk, "--resume")
    assert "input and output" in bad(2, "transcribe", talk, "--output", talk, "--format", "txt")
    assert "nowhere does not exist" in bad(2, "transcribe", talk, "--output", tmp_path / "nowhere" / "x.txt")
    assert file.read_text() == "precious"
    if os.path.exists("/dev/stdout"):
        assert good("transcribe", talk, "--output", "/dev/stdout", *OPTIONS)


def test_a_model_that_can_not_hear_or_has_no_room(talk: Path) -> None:
    message = bad(1, "transcribe", talk, *OPTIONS, EDGE_GEMMA_MMPROJ="")
    assert "--mmproj" in message and "EDGE_GEMMA_MMPROJ" in message
    message = bad(1, "transcribe", talk, "--context", "700")
    assert "700 tokens is too small" in message
    assert "--context N" in message and "--max-seconds" in message and "max_seconds" not in message
    assert good("transcribe", talk, "--context", "700", *OPTIONS)
    assert "between 2 and 30" in bad(2, "transcribe", talk, "--max-seconds", "45")


# ---- going on ---------------------------------------------------------------------------------------------------


def interrupt_after(count: int, output: Path, *command: Any) -> str:
    """Stops the command once its side file has so many segments; standard error."""
    part = output.with_name(output.name + ".part")
    process = start(*command, "--output", output)
    end = time.monotonic() + 60
    while not part.exists() or part.read_bytes().count(b"\n") < count + 1:
        assert process.poll() is None and time.monotonic() < end, "it did not come so far"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not output.exists()
    return err.decode()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "long.wav", voices(20))
    output = tmp_path / "long.json"
    part = tmp_path / "long.json.part"
    command = ("transcribe", sound, "-l", "en", *OPTIONS)
    whole = json.loads(good(*command, "--format", "json"))
    assert len(whole["segments"]) == 20
    message = interrupt_after(2, output, *command)
    kept = part.read_bytes()
    done = kept.count(b"\n") - 1
    assert f"{done} segments" in message and str(part) in message and "--resume" in message
    # Other options or another recording make no one piece of it.
    for change in (("--language", "de"), ("--order", "audio-first"), ("--seed", "6")):
        assert change[0][2:] in bad(1, *command, *change, "--output", output, "--resume")
    other = write_wav(tmp_path / "other.wav", voices(20, seed=1))
    assert "another recording" in bad(1, "transcribe", other, *command[2:], "--output", output, "--resume")
    assert part.read_bytes() == kept
    part.write_bytes(kept[:-9])  # as if the machine had stopped while the last line was written
    assert good(*command, "--output", output, "--resume") == "" and not part.exists()
    content = json.loads(output.read_text(encoding="utf-8"))
    assert [s["text"] for s in content["segments"][: done - 1]] == [s["text"] for s in whole["segments"][: done - 1]]
    assert len(content["segments"]) == 20 and content["complete"]
    assert content == whole  # the rest is found exactly as it would have been
    # Once more: there is nothing to do. With --force: from the beginning, whatever is there.
    before = output.stat().st_mtime_ns
    assert "exists already" in cli(*command, "--output", output, "--resume").stderr.decode()
    assert output.stat().st_mtime_ns == before
    part.write_bytes(kept)
    assert "exists already" in bad(2, *command, "--output", output)
    good(*command, "--output", output, "--force")
    assert json.loads(output.read_text(encoding="utf-8"))["segments"] == whole["segments"] and not part.exists()


# ---- translate --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_translate_speech(talk: Path, tmp_path: Path) -> None:
    expected = eg.translate(talk, "de", MODEL, "en", mmproj=MMPROJ, **PYTHON_OPTIONS)
    assert isinstance(expected, eg.Transcript)
    command = ("translate", talk, "--from", "English", "--to", "German", *OPTIONS)
    assert good(*command) == expected.render("txt")
    assert good(*command, "--bilingual", "--format", "srt") == expected.render("srt", bilingual=True)
    assert good(*command, "--output", tmp_path / "out.vtt") == ""
    assert (tmp_path / "out.vtt").read_text(encoding="utf-8") == expected.render("vtt")
    content = json.loads(good(*command, "--format", "json"))
    assert (content["language"], content["to"]) == ("English", "German")
    assert good("translate", "--from", "en", "--to", "de", *OPTIONS, data=talk.read_bytes()) == expected.render("txt")
    raw = ("translate", "-", "--as", "speech", "--from", "en", "--to", "de", *OPTIONS)
    assert good(*raw, data=pcm(voices(3))) == expected.render("txt")


@pytest.mark.slow
def test_translate_text(tmp_path: Path) -> None:
    expected = eg.translate(
        "Where is it?", "de", MODEL, "en", sampling=eg.Sampling(temperature=3.0, seed=5), max_tokens=12
    )
    command = ("translate", "--from", "en", "--to", "de", *HOT)
    file = tmp_path / "letter"
    file.write_text("Where is it?\n")
    assert good(*command, "Where is it?", EDGE_GEMMA_MMPROJ="") == f"{expected}\n"  # a text needs no ears
    assert good(*command, file) == good(*command, data=b"Where is it?") == f"{expected}\n"
    assert good(*command, "--as", "text", "talk.wav") != ""
    assert good(*command, "--bilingual", file) == f"Where is it?\n\n{expected}\n"
    assert good(*command, file, "--output", tmp_path / "out.txt") == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == f"{expected}\n"
    content = json.loads(good(*command, file, "--format", "json"))
    assert content == {"from": "English", "to": "German", "text": "Where is it?", "translation": expected}


@pytest.mark.slow
def test_translate_knows_what_it_can_not_do(talk: Path, tmp_path: Path) -> None:
    assert "missing.wav" in bad(1, "translate", "missing.wav", "--to", "de")
    assert "quotation marks" in bad(2, "translate", talk, "Hello", "--to", "de")
    assert "no times" in bad(2, "translate", "Hello", "--to", "de", "--format", "srt")
    assert "empty" in bad(2, "translate", "--to", "de")
    assert "--to" in bad(2, "translate", "Hello")
    assert "recordings" in bad(2, "translate", "Hello", "--to", "de", "--resume", "--output", tmp_path / "x.txt")


# ---- run and chat -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_hears(talk: Path) -> None:
    answer = good("run", "--audio", talk, "What is said?", *HOT)
    assert answer.strip() and answer != good("run", "What is said?", *HOT)
    assert good("run", "--audio", talk, *HOT) != answer
    assert "missing.wav" in bad(1, "run", "--audio", "missing.wav", "x")
    assert "--mmproj" in bad(1, "run", "--audio", talk, "x", EDGE_GEMMA_MMPROJ="")
    assert "--raw" in bad(2, "run", "--raw", "--audio", talk, "x")


@pytest.mark.slow
def test_chat_hears(talk: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "my talk.wav"
    shutil.copy(talk, spaced)
    answer = good("run", "--audio", talk, "What is said?", *HOT)
    assert good("chat", *HOT, data=f"/audio {talk} What is said?\n".encode()) == answer
    assert good("chat", *HOT, data=f"/audio {spaced} What is said?\n".encode()) == answer
    assert good("chat", *HOT, data=f"/audio {spaced}\n".encode()) == good("run", "--audio", talk, *HOT)
    done = cli("chat", *HOT, data=b"/audio\n/audio missing.wav Hm?\n/help\nHello\n")
    assert done.returncode == 1 and b"/audio FILE" in done.stderr and b"missing.wav" in done.stderr
    assert done.stdout.endswith(good("chat", *HOT, data=b"Hello\n").encode())


# ---- at a terminal ----------------------------------------------------------------------------------------------


class Terminal:
    """A process whose standard error, and also output if wanted, is a terminal."""

    def __init__(self, *args: Any, output: bool) -> None:
        import pty

        self.fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, args)],
            stdin=theirs,
            stderr=theirs,
            stdout=theirs if output else subprocess.PIPE,
            env=environment(TERM="xterm", COLUMNS="100"),
        )
        os.close(theirs)

    def read(self) -> str:
        """What it shows until it ends."""
        text = read_output(self.fd)
        os.close(self.fd)
        return text.decode("utf-8", "replace")


@pytest.fixture
def terminal() -> Iterator[Any]:
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")
    pytest.importorskip("rich")
    yield Terminal


def test_a_bar_at_the_terminal(terminal: Any, talk: Path, spoken: eg.Transcript, tmp_path: Path) -> None:
    command = ("transcribe", talk, "-l", "en", *OPTIONS)
    shown = terminal(*command, "--output", tmp_path / "out.txt", output=True).read()
    assert "talk.wav" in shown and "100%" in shown and "0:14 of 0:14" in shown
    piped = terminal(*command, output=False)
    assert piped.process.stdout.read().decode() == spoken.render("txt")  # nothing of the bar
    assert "talk.wav" in piped.read() and piped.process.wait(60) == 0
    piped.process.stdout.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal(*command, output=True).read())
    for segment in spoken:
        assert segment.text in shown.replace("\r\n", " ")


def test_sound_does_not_come_from_a_keyboard(terminal: Any) -> None:
    for verb in (("transcribe", "-"), ("translate", "--to", "de")):
        process = terminal(*verb, output=True)
        assert "standard input" in process.read() and process.process.wait(60) == 2
