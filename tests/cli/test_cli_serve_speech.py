"""The options of `edge-gemma serve` for speech: Wyoming, its announcement, the voice."""

from __future__ import annotations

import argparse
import socket

import pytest

pytest.importorskip("uvicorn", reason="needs the extra server")
pytest.importorskip("starlette", reason="needs the extra server")
pytest.importorskip("prometheus_client", reason="needs the extra server")
pytest.importorskip("wyoming", reason="needs the extra server")

from edge_gemma.cli import main
from edge_gemma.cli.serve import address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10300", ("127.0.0.1", 10300)),
        ("0.0.0.0:10300", ("0.0.0.0", 10300)),
        ("[::1]:5", ("::1", 5)),
        ("house.local:0", ("house.local", 0)),
    ],
)
def test_addresses(text, found):
    assert address(text) == found


@pytest.mark.parametrize("text", ["", "house", "1:", "1:70000", ":x"])
def test_what_is_no_address(text):
    with pytest.raises(argparse.ArgumentTypeError):
        address(text)


def test_announcing_needs_something_to_announce(capsys):
    assert main(["serve", "--model", "toy", "--port", "0", "--announce"]) == 2
    assert "--wyoming" in capsys.readouterr().err
    pytest.importorskip("zeroconf", reason="needs zeroconf")
    assert main(["serve", "--model", "toy", "--port", "0", "--wyoming", "0", "--announce"]) == 1
    assert "0.0.0.0:10300" in capsys.readouterr().err


def test_a_port_of_wyoming_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        assert main(["serve", "--model", "toy", "--port", "0", "--wyoming", number]) == 1
    assert "--wyoming" in capsys.readouterr().err


def test_a_voice_that_there_is_not(capsys):
    assert main(["serve", "--model", "toy", "--port", "0", "--voice", "no/such/voice"]) == 1
    assert "voice" in capsys.readouterr().err
