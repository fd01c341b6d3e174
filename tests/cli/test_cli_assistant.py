"""`edge-gemma assistant`: options, what it shows, its keys, its check, and its service. tests/assistant has the assistant."""

from __future__ import annotations

import json
import os
import pty
import shlex
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gemma.audio.source import Source
from edge_gemma.cli import main
from edge_gemma.cli.assistant import checkup, service
from edge_gemma.cli.assistant.keys import button, terminal_keys
from edge_gemma.cli.assistant.screen import Calm, JSONLines, Quiet
from edge_gemma.errors import EdgeGemmaOSError
from support.scripted import RATE

NEWS: list[tuple[str, dict[str, Any]]] = [
    ("state", {"state": "awake"}),
    ("partial", {"text": "Turn on", "agreed": "Turn"}),
    ("heard", {"text": "Turn on the light.", "confidence": 0.9}),
    ("reply", {"text": "It is", "final": False}),
    ("call", {"name": "switch", "arguments": {"on": True, "room": "kitchen"}}),
    ("result", {"name": "switch", "result": {"error": "no such room"}}),
    ("reply", {"text": "It is on.", "final": True}),
    ("announcement", {"text": "Tea!"}),
    ("problem", {"text": "the voice has failed."}),
    ("devices", {"text": ""}),
    ("turn", {"turn": 1}),
]


def test_the_calm_screen(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Calm("say something")
    for kind, values in NEWS:
        screen.show(kind, values)
    screen.close()
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "> Turn on the light.",
        "  switch(on=True, room=kitchen)",
        "  no such room",
        "It is on.",
        "Tea!",
    ]
    assert err.splitlines() == ["edge-gemma: warning: the voice has failed."]


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, values in NEWS:
        JSONLines().show(kind, values)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == {"event": "heard", "text": "Turn on the light.", "confidence": 0.9} and len(lines) == len(NEWS)


def test_quiet_shows_problems(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, values in NEWS:
        Quiet().show(kind, values)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wake-word", "okay_nabu", "--always-on"], "--always-on cannot be used with --wake-word"),
        (["--voice", "en", "--voice-command", "say"], "two voices"),
        (["--wake-threshold", "2"], "--wake-threshold"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["assistant", *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and message in capsys.readouterr().err


# ---- keys ----------------------------------------------------------------------------------------------------------------


def test_keys_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Enter; an arrow, which begins as Esc does, is none of them. Afterwards the terminal is as before."""
    import termios

    terminal, inside = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(inside, "r", closefd=False))
    before = termios.tcgetattr(inside)
    pressed: list[str] = []
    seen = threading.Semaphore(0)

    def key(name: str) -> Callable[[], None]:
        def note() -> None:
            pressed.append(name)
            seen.release()

        return note

    with terminal_keys(key("talk"), key("stop"), key("leave")) as there:
        assert there
        for typed, expected in (
            (b" ", "talk"),
            (b"\x1b[A", None),
            (b"\x1b", "stop"),
            (b"s", "stop"),
            (b"x", None),
            (b"q", "leave"),
        ):
            os.write(terminal, typed)
            if expected:
                assert seen.acquire(timeout=10)
            else:
                assert not seen.acquire(timeout=0.1)
    assert pressed == ["talk", "stop", "stop", "leave"]
    assert termios.tcgetattr(inside)[3] == before[3]
    os.close(terminal)


def test_no_terminal_has_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with terminal_keys(lambda: None, lambda: None, lambda: None) as there:
            assert not there


def test_a_button(monkeypatch: pytest.MonkeyPatch) -> None:
    """A press wakes; a button that was held ends the request when it is released."""
    made: list[Any] = []

    class Button:
        def __init__(self, pin: int | str, **options: Any) -> None:
            if pin == 99:
                raise ValueError("pin 99 is no pin")
            self.pin, self.closed = pin, False
            made.append(self)

        def close(self) -> None:
            self.closed = True

    monkeypatch.setitem(sys.modules, "gpiozero", types.SimpleNamespace(Button=Button))
    done: list[str] = []
    with button("17", lambda: done.append("press"), lambda: done.append("release")):
        (device,) = made
        assert device.pin == 17
        device.when_pressed()
        device.when_released()
        device.when_pressed()
        device.when_held()
        device.when_released()
    assert done == ["press", "press", "release"] and device.closed
    with pytest.raises(OSError, match="pin 99 cannot be used"), button("99", lambda: None, lambda: None):
        pass
    with button(None, lambda: None, lambda: None):
        pass
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    with pytest.raises(OSError, match="needs the package gpiozero"), button("17", lambda: None, lambda: None):
        pass


# ---- the service ---------------------------------------------------------------------------------------------------------


def test_the_unit_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GEMMA_MODEL", "/models/100% mine.gguf")
    text = service.unit(["/usr/bin/python3", "-m", "edge_gemma", "--name", 'The "one"', "--price", "5% of $HOME"])
    lines = text.splitlines()
    assert r'ExecStart=/usr/bin/python3 -m edge_gemma --name "The \"one\"" --price "5%% of $$HOME"' in lines
    assert 'Environment="EDGE_GEMMA_MODEL=/models/100%% mine.gguf"' in lines
    assert {"Restart=always", "WantedBy=default.target"} <= set(lines)


def test_tokens_are_in_a_file_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The service has no variables of the shell it was installed from, and its unit can be read by everybody."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "100%"))
    monkeypatch.setenv("HA_TOKEN", "hidden")
    monkeypatch.setenv("EDGE_GEMMA_VOICE_KEY", "hidden")
    command = ["python", "--mcp", "http://home:8123/api/mcp token-env=HA_TOKEN", "--mcp", "http://x token-env=OTHER"]
    said = "\n".join(service.install(command))
    file, unit = (
        tmp_path / "100%" / "edge-gemma" / "assistant.env",
        tmp_path / "100%" / "systemd" / "user" / service.NAME,
    )
    assert f"EnvironmentFile=-{str(file).replace('%', '%%')}" in unit.read_text().splitlines()
    assert "It lacks HA_TOKEN and OTHER and EDGE_GEMMA_VOICE_KEY: " in said and str(file) in said
    assert file.stat().st_mode & 0o077 == 0 and "hidden" not in file.read_text() + unit.read_text()
    file.write_text("HA_TOKEN=abc\n # OTHER\nEDGE_GEMMA_VOICE_KEY = x\n")
    assert "It lacks OTHER: " in "\n".join(service.install(command)) and "abc" in file.read_text()
    service.remove()
    assert file.exists() and not unit.exists()


def test_the_service_is_installed_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    for program in ("systemctl", "loginctl"):
        (folder / program).write_text(f'#!/bin/sh\necho "{program} $@" >> {shlex.quote(str(log))}\n')
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    options = ["assistant", "--install-service", "--model", "e2b", "--language", "de"]
    monkeypatch.setattr(sys, "argv", ["edge-gemma", *options])
    assert main(options) == 0
    unit = tmp_path / "config" / "systemd" / "user" / service.NAME
    line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert line.endswith(" -m edge_gemma assistant --model e2b --language de --quiet")
    assert "It runs now" in capsys.readouterr().out
    done = log.read_text()
    assert "daemon-reload" in done and f"enable {service.NAME}" in done and "enable-linger" in done
    assert main(["assistant", "--remove-service"]) == 0
    assert not unit.exists() and f"disable --now {service.NAME}" in log.read_text()
    capsys.readouterr()
    assert main(["assistant", "--remove-service"]) == 0
    assert capsys.readouterr().out == "There is no service.\n"


def test_a_machine_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said = service.install(["edge-gemma", "assistant"])
    assert "systemd does not answer here" in said[-1]


# ---- the check -----------------------------------------------------------------------------------------------------------


class Recorded(Source):
    """A microphone that gives what the test says."""

    live = True
    name = "mic"

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__()
        self._blocks = [samples, None]

    def next_block(self, timeout: float | None) -> np.ndarray | None:
        return self._blocks.pop(0)


@pytest.mark.parametrize(
    ("level", "noise", "grade", "advice"),
    [
        (0.2, 1e-3, "good", ""),
        (0.0, 0.0, "bad", "nothing but silence"),
        (5.0, 1e-3, "poor", "too loud"),
        (4e-4, 1e-5, "poor", "too quiet"),
        (0.2, 0.1, "poor", "noisy"),
    ],
)
def test_the_microphone_is_judged(level: float, noise: float, grade: str, advice: str) -> None:
    chance = np.random.default_rng(0)
    samples = chance.standard_normal(3 * RATE).astype(np.float32) * np.float32(noise)
    samples[RATE : 2 * RATE] += chance.standard_normal(RATE).astype(np.float32) * np.float32(level)
    found, heard = checkup.check_microphone(lambda: Recorded(np.clip(samples, -1, 1)))
    assert (found.grade, bool(found.advice)) == (grade, bool(advice)) and advice in found.advice
    assert len(heard) == len(samples)


def test_devices_that_do_not_open_are_findings() -> None:
    def fail() -> Any:
        raise EdgeGemmaOSError("there is none.", "file")

    assert checkup.check_microphone(fail)[0] == checkup.Finding("microphone", "bad", "there is none.")
    assert checkup.check_speaker(fail, None).grade == "bad"
    assert checkup.check_wake(fail, np.zeros(0, np.float32)).grade == "bad"
    assert checkup.check_echo(fail).grade == "bad"
    assert checkup.check_speaker(None, None).grade == "poor"
    assert checkup.check_wake(lambda: None, np.zeros(0, np.float32)).grade == "good"


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "available", lambda: 2 * 2**30)
    assert [checkup.check_memory(gigabytes * 2**28).grade for gigabytes in (4, 7, 9)] == ["good", "poor", "bad"]
    monkeypatch.setattr(checkup, "available", lambda: None)
    assert checkup.check_memory(2**40).grade == "good"
