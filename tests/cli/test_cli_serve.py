"""`edge-gemma serve` as a process: what it prints, how it ends, its key, its service."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="needs httpx")
pytest.importorskip("uvicorn", reason="needs the extra server")
pytest.importorskip("starlette", reason="needs the extra server")
pytest.importorskip("prometheus_client", reason="needs the extra server")

import httpx

from edge_gemma.cli import main
from edge_gemma.server.service import unit_text


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The process, its address and the lines that it has printed when it answers."""
    command = [sys.executable, "-m", "edge_gemma", "serve", "--model", "toy", "--port", "0", *options]
    env = {**os.environ, **environment}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if "answers" in line:
                break
        found = re.search(r"http://\S+:(\d+)/v1", lines[0]) if lines else None
        assert found and len(lines) > 1, lines
        yield process, f"http://127.0.0.1:{found[1]}", lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_in_order(number):
    with serving() as (process, url, lines):
        assert not any("Key" in line for line in lines)
        assert httpx.get(url + "/v1/models").json()["data"][0]["id"] == "demo"
        body = {"messages": [{"role": "user", "content": "a secret word"}], "max_tokens": 2}
        assert httpx.post(url + "/v1/chat/completions?secret=word", json=body, timeout=30).status_code == 200
        httpx.get(url + "/secret-word")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out == "" and err == "", "nothing of a request is written"


def test_a_key_is_made_for_other_machines():
    with serving("--host", "0.0.0.0") as (_, url, lines):
        key = next(line.removeprefix("Key for clients: ") for line in lines if line.startswith("Key for clients: "))
        assert httpx.get(url + "/v1/models").status_code == 401
        assert httpx.get(url + "/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_key_that_is_given_is_not_printed(tmp_path):
    (tmp_path / "key").write_text("from-a-file\n")
    for options, environment, key in (
        (["--api-key-file", str(tmp_path / "key")], {}, "from-a-file"),
        ([], {"EDGE_GEMMA_API_KEY": "from-outside"}, "from-outside"),
    ):
        with serving(*options, **environment) as (_, url, lines):
            assert not any(key in line for line in lines)
            assert httpx.get(url + "/v1/models").status_code == 401
            assert httpx.get(url + "/v1/models", headers={"x-api-key": key}).status_code == 200


def test_a_port_that_is_taken(capsys):
    with serving() as (_, url, _):
        assert main(["serve", "--model", "toy", "--port", url.rpartition(":")[2]]) == 1
    assert "give another --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--api-key", ""],
        ["--api-key", "two words"],
        ["--api-key-file", "none"],
        ["--port", "70000"],
        ["--parallel", "0"],
    ],
)
def test_wrong_usage(options, capsys):
    assert main(["serve", "--model", "toy", *options]) == 2
    assert capsys.readouterr().err


def test_a_model_that_cannot_be_opened(tmp_path, capsys):
    (tmp_path / "x.gguf").write_bytes(b"no model")
    assert main(["serve", "--model", str(tmp_path / "x.gguf"), "--port", "0"]) == 1
    assert "x.gguf" in capsys.readouterr().err


def test_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", "toy"]) == 1
    assert "edge-gemma[server]" in capsys.readouterr().err


def test_a_service_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ["--model", "toy", "--host", "0.0.0.0", "--api-key", "k3y", "--cache-dir", "kept", "--parallel", "2"]
    assert main(["serve", *options, "--allow-host", "50% $HOME", "--install-service"]) == 0
    unit = (tmp_path / "systemd" / "user" / "edge-gemma.service").read_text()
    assert "k3y" not in unit + capsys.readouterr().out
    key = tmp_path / "edge-gemma" / "key"
    assert key.read_text() == "k3y\n" and key.stat().st_mode & 0o777 == 0o600
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert "--parallel 2" in command and str(tmp_path / "kept") in command and "--install-service" not in command
    assert '--allow-host "50%% $$HOME"' in command and f"--api-key-file {key}" in command


def test_the_unit_gives_no_rights():
    unit = unit_text(["/usr/bin/python3", "-m", "edge_gemma", "serve"], system=True, writable=["/var/cache/kept"])
    lines = set(unit.splitlines())
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "CapabilityBoundingSet="} <= lines
    assert "ReadWritePaths=/var/cache/kept" in lines
    assert "[Install]" in lines and "Type=notify" in lines


def test_systemd_is_told(tmp_path, monkeypatch):
    import socket

    from edge_gemma.server.service import notify

    path: Path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1")
        assert channel.recv(100) == b"READY=1"
    notify("STOPPING=1")  # nobody listens any more
