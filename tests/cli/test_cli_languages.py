"""Languages, hints and the table of `transcribe`, `translate` and `listen` as their users meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_speech import OPTIONS, bad, good, voices, write_wav

from edge_gemma.hub.resolve import EMBEDDED

TOY = {"EDGE_GEMMA_MODEL": "toy", "EDGE_GEMMA_MMPROJ": ""}


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("sound") / "talk.wav", voices(1))


@pytest.mark.parametrize(
    "command",
    [
        ("transcribe", "-", "-l", "Germann"),
        ("translate", "--to", "Germann", "Hello"),
        ("translate", "--from", "Germann", "--to", "en", "Hello"),
        ("listen", "--input", "-", "-l", "Germann"),
        ("listen", "--input", "-", "--translate-to", "Germann"),
        ("demo", "--to", "Germann"),
        ("demo", "--language", "Germann"),
    ],
)
def test_a_misspelt_language_is_an_error(command: tuple[str, ...]) -> None:
    assert "'Germann' is not known. Did you mean German?" in bad(2, *command)


@pytest.mark.skipif(not Path(EMBEDDED).is_file(), reason="this checkout has no embedded model")
def test_the_toy_says_what_it_does_not_know() -> None:
    assert "does not know French: it was trained on English" in bad(1, "translate", "--to", "fr", "Hello", **TOY)
    assert "no hotwords" in bad(1, "transcribe", "-", "--hotwords", "Oslo", **TOY)
    assert "does not know Danish" in bad(1, "listen", "--input", "-", "-l", "da", **TOY)
    assert "does not know French" in bad(1, "demo", "--fast", "--to", "fr", **TOY)


def test_the_language_of_a_recording(talk: Path) -> None:
    """Random weights name no language, and JSON says so."""
    command = ("transcribe", *OPTIONS, talk, "--format", "json")
    given = json.loads(good(*command, "-l", "pt-BR"))
    assert given["language"] == "Brazilian Portuguese" and "language_detected" not in given
    asked = json.loads(good(*command))
    assert asked["language"] is None and asked["language_detected"] is False
    assert json.loads(good(*command, "-l", "auto")) == asked


def test_hints_reach_the_model(talk: Path, tmp_path: Path) -> None:
    """What is drawn from random weights depends on all that they read; --resume refuses to go on with other hints."""
    command = ("transcribe", *OPTIONS, talk, "-l", "en")
    texts = {good(*command, *hints) for hints in ((), ("--hotwords", "Oslo, Bergen"), ("--initial-prompt", "At sea."))}
    assert len(texts) == 3
    part = tmp_path / "talk.txt.part"
    part.write_text(json.dumps({"edge-gemma": "unfinished transcript", "version": 1, "hotwords": "Oslo"}) + "\n")
    message = bad(1, *command, "--hotwords", "Bergen", "--output", tmp_path / "talk.txt", "--resume")
    assert "hotwords" in message


def test_a_table(talk: Path, tmp_path: Path) -> None:
    text = good("transcribe", *OPTIONS, talk, "-l", "en")
    good("transcribe", *OPTIONS, talk, "-l", "en", "--output", tmp_path / "talk.tsv")
    head, row = (tmp_path / "talk.tsv").read_text(encoding="utf-8").splitlines()
    start, end, said = row.split("\t")
    assert head == "start\tend\ttext" and 1000 < int(start) < int(end) < 6000 and f"{said}\n" == text
    assert "holds one recording" in bad(2, "transcribe", *OPTIONS, talk, talk, "--format", "tsv")
