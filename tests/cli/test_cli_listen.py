"""`listen` and `bench --audio` as their users see them. The model has random weights, so what it says means nothing; what is
tested is where it goes, and that it is what `transcribe` says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_speech import MMPROJ, MODEL, PROGRAM, RATE, bad, cli, environment, good, start, voices, write_wav

import edge_gemma as eg
from edge_gemma.cli import main
from support.processes import read_output

TALK = (voices(3, seed=2) * 32767).astype(np.int16)
STREAM = ("listen", "--input", "-", "--vad", "energy", "--language", "en")


@pytest.fixture(scope="module")
def spoken() -> eg.Transcript:
    """What Python says about the same sound."""
    transcript = eg.transcribe(TALK, MODEL, "en", mmproj=MMPROJ, detector="energy")
    assert len([segment for segment in transcript if segment.text]) == 3
    return transcript


# ---- listen -----------------------------------------------------------------------------------------------------


def test_listen_explains_itself() -> None:
    text = good("listen", "--help")
    assert "usage: edge-gemma listen" in text and "examples:\n  edge-gemma listen" in text
    assert "  listen " in good("--help")


def test_lines_for_pipes(spoken: eg.Transcript) -> None:
    done = cli(*STREAM, data=TALK.tobytes())
    assert done.returncode == 0
    assert done.stdout.decode() == spoken.render("txt")
    listening, assumed = done.stderr.decode().splitlines()
    assert listening == "[listening to standard input; Ctrl-C ends]"
    assert "16 kHz are assumed" in assumed
    done = cli(*STREAM, "--verbose", "--once", data=TALK.tobytes())
    assert done.stdout.decode().splitlines() == [spoken[0].text]
    (latency,) = re.findall(
        r"end noticed at ([\d.]+) s, text begun at ([\d.]+) s, text complete at ([\d.]+) s", done.stderr.decode()
    )
    assert sorted(latency, key=float) == list(latency)


def test_raw_sound_of_another_kind(spoken: eg.Transcript) -> None:
    stereo = (TALK / np.float32(32768)).repeat(2).tobytes()
    text = good(*STREAM, "--channels", "2", "--encoding", "f32le", "--rate", str(RATE), data=stereo)
    assert text == spoken.render("txt")


def test_lines_of_json(spoken: eg.Transcript) -> None:
    lines = [json.loads(line) for line in good(*STREAM, "--json", data=TALK.tobytes()).splitlines()]
    assert [line["event"] for line in lines].count("start") == 3 and len(lines) == 6
    for line, segment in zip([line for line in lines if line["event"] == "final"], spoken, strict=True):
        assert line["text"] == segment.text and line["language"] == "English" and line["translation"] is None
        assert (line["start"], line["end"]) == (round(segment.start, 3), round(segment.end, 3))
        latency = line["latency"]
        assert latency["tokens"] >= latency["ready_tokens"] >= 0
        assert 0 <= latency["first_token_s"] <= latency["last_token_s"] <= latency["speech_to_last_token_s"]


def test_silence_ends_utterances() -> None:
    def ends(*options: Any) -> int:
        return good(*STREAM, "--json", *options, data=TALK.tobytes()).count('"final"')

    assert ends() == 3
    assert ends("--silence", "4") == 1
    assert "between" in bad(2, *STREAM, "--silence", "-1")


def test_translations(spoken: eg.Transcript) -> None:
    expected = eg.translate((TALK, RATE), "de", MODEL, "en", mmproj=MMPROJ, detector="energy")
    assert isinstance(expected, eg.Transcript)
    done = cli(*STREAM, "--translate-to", "de", data=TALK.tobytes())
    assert done.returncode == 0 and done.stdout.decode() == expected.render("txt")
    for segment in expected:
        assert not segment.translation or segment.text in done.stderr.decode()


@pytest.mark.slow
def test_a_file_at_the_speed_of_speech(tmp_path: Path) -> None:
    """A short one, for it takes its time."""
    file = write_wav(tmp_path / "talk.wav", voices(1)[RATE : RATE * 9 // 2])
    done = cli("listen", "--input", file, "--vad", "energy", "--partials", "100", "-l", "en")
    expected = eg.transcribe(file, MODEL, "en", mmproj=MMPROJ, detector="energy")
    assert done.returncode == 0 and done.stdout.decode() == expected.render("txt")
    assert done.stderr.decode().startswith(f"[listening to {file}; Ctrl-C ends]\n")


@pytest.mark.slow
def test_at_a_terminal_what_is_not_final_is_replaced(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")
    pytest.importorskip("rich")
    import pty

    file = write_wav(tmp_path / "talk.wav", voices(1)[RATE : RATE * 9 // 2])
    fd, theirs = pty.openpty()
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "listen",
        "--input",
        str(file),
        "--vad",
        "energy",
        "-l",
        "en",
        "--partials",
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="60"),
    )
    os.close(theirs)
    shown = read_output(fd)
    os.close(fd)
    assert process.stdout and process.wait(60) == 0
    text = process.stdout.read().decode()
    process.stdout.close()
    assert text == eg.transcribe(file, MODEL, "en", mmproj=MMPROJ, detector="energy").render("txt")
    after = shown.split(b"Ctrl-C ends]", 1)[1]
    assert b"\x1b[2K" in after and b"\x1b[2m" in after  # lines are erased, and what is not agreed is dim


def shown(events: list[eg.ListenerEvent], monkeypatch: pytest.MonkeyPatch, capsys: Any, *options: str) -> Any:
    """What `listen` prints of these events."""

    class Scripted(eg.Listener):
        def listen(self, source: Any = None, *, once: bool = False) -> Any:
            yield from events

    monkeypatch.setattr(eg, "Listener", Scripted)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 -- monkeypatch puts the old one back
    for name, file in (("EDGE_GEMMA_MODEL", MODEL), ("EDGE_GEMMA_MMPROJ", MMPROJ)):
        monkeypatch.setenv(name, str(file))
    assert main(["listen", "--input", "-", "-l", "en", *options]) == 0
    return capsys.readouterr()


def test_only_what_is_agreed_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Guesses at the first syllable say whole sentences. Programs get them, marked as what they are."""
    events = [
        eg.ListenerEvent("start", 0.5),
        eg.ListenerEvent("partial", 0.9, "Stop the music."),
        eg.ListenerEvent("partial", 2.2, "Stow the boat here.", "Stow the boat"),
        eg.ListenerEvent("partial", 2.6, "Stow the boat in there.", "Stow the boat"),
        eg.ListenerEvent("partial", 2.9, "Stow the boats on deck.", "Stow the"),
    ]
    notes = shown(events, monkeypatch, capsys, "--partials").err.splitlines()
    assert notes[1:] == ["Stow the boat ...", "Stow the ..."]
    lines = [json.loads(line) for line in shown(events, monkeypatch, capsys, "--json").out.splitlines()]
    assert [(line.get("text"), line.get("agreed")) for line in lines[:3]] == [
        (None, None),
        ("Stop the music.", ""),
        ("Stow the boat here.", "Stow the boat"),
    ]
    assert shown(events, monkeypatch, capsys, "--format", "json").out.count("\n") == 5


def test_lost_sound_is_counted_calmly(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    events = [eg.ListenerEvent("overrun", float(at), lost=9.25) for at in range(100)]
    notes = shown(events, monkeypatch, capsys).err.splitlines()[1:]
    assert len(notes) < 10 and all("faster than this machine could hear" in note for note in notes)
    amounts = [float(re.findall(r"([\d.]+) s of sound", note)[0]) for note in notes]
    assert amounts[0] == 9.2 and amounts == sorted(amounts) and amounts[-1] == 925.0
    assert "in all" in notes[-1] and "so far" in notes[0]
    once = shown(events[:1], monkeypatch, capsys).err.splitlines()[1:]
    assert len(once) == 1
    unknown = shown([eg.ListenerEvent("overrun", 1.0)], monkeypatch, capsys).err
    assert "some sound lost so far" in unknown


def test_control_c_ends_it() -> None:
    process = start(*STREAM, stdin=subprocess.PIPE)
    assert process.stderr and process.stdin and process.stdout
    process.stdin.write(TALK[: 3 * RATE].tobytes())
    process.stdin.flush()
    assert b"listening" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert b"are assumed.\n" in process.stderr.read() and process.stdout.read() == b""
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_nobody_reads_any_more() -> None:
    process = start(*STREAM, stdin=subprocess.PIPE)
    assert process.stderr and process.stdin and process.stdout
    process.stdout.close()
    _, message = process.communicate(TALK.tobytes(), timeout=60)
    assert process.returncode == 141 and b"Traceback" not in message


@pytest.mark.slow
def test_what_can_not_be_heard(tmp_path: Path) -> None:
    assert "missing.wav" in bad(1, "listen", "--input", "missing.wav")
    assert "--mmproj" in bad(1, *STREAM, EDGE_GEMMA_MMPROJ="")
    assert "--device" in bad(2, "listen", "--input", "x.wav", "--device", "0")
    assert "0 is out of range" in bad(2, *STREAM, "--partials", "0")
    assert "700 tokens is too small" in bad(1, *STREAM, "--context", "700")
    assert "standard input is empty" in bad(1, *STREAM)
    assert bad(1, "listen", "--device", "no such microphone")  # without PortAudio, without microphones, and with others


def test_devices() -> None:
    done = cli("listen", "--list-devices", "--json", EDGE_GEMMA_MODEL="")  # no model is needed
    if done.returncode and b"PortAudio" in done.stderr:
        pytest.skip("needs PortAudio")
    found = json.loads(done.stdout)
    lines = good("listen", "--list-devices", EDGE_GEMMA_MODEL="").splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [str(device["index"]) for device in found]
    assert all(set(device) == {"index", "name", "channels", "rate", "default"} for device in found)


def test_microphones_are_left_alone_unless_asked_for() -> None:
    script = (
        "import sys; from edge_gemma.cli import main; status = main(sys.argv[1:]);"
        "sys.exit('loaded' if 'sounddevice' in sys.modules else status)"
    )
    command = [sys.executable, "-c", script, *STREAM]
    done = subprocess.run(
        command, input=TALK.tobytes(), capture_output=True, env=environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


# ---- bench ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_hears(tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", voices(1)[2 * RATE : 5 * RATE // 2])
    command = ("bench", "--audio", file, "--repeats", "3", "--prompt-tokens", "16", "--tokens", "4")
    report = json.loads(good(*command, "--json"))
    assert report["audio_s"] == 0.5
    for name in ("encoder_rtf", "end_to_first_token_s", "end_to_first_token_offline_s"):
        assert len(report["values"][name]) == 3 and report[name] == sorted(report["values"][name])[1] > 0
    assert {"load_s", "prefill_tok_s", "decode_tok_s", "first_token_s", "peak_rss_mb", "bytes_per_token"} <= set(report)
    table = good(*command, "-r", "1")
    assert "real time, 0.5 s of sound" in table and "after the end of speech" in table
    assert "audio_s" not in json.loads(good(*command[:1], *command[3:], "--json"))


def test_bench_without_ears_or_sound(tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", voices(1)[:RATE])
    short = write_wav(tmp_path / "short.wav", voices(1)[:100])
    assert "audio encoder" in bad(1, "bench", "--audio", file, "-p", "16", "-n", "4", EDGE_GEMMA_MMPROJ="")
    assert "too short" in bad(1, "bench", "--audio", short, "-p", "16", "-n", "4")
    assert "missing.wav" in bad(1, "bench", "--audio", "missing.wav", "-p", "16", "-n", "4")
