"""Commands without a model of their own: what they say, and the toy that answers instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.hub import resolve
from support.listening import MMPROJ, MODEL


@pytest.fixture
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGE_GEMMA_MODEL", "EDGE_GEMMA_MMPROJ"):
        monkeypatch.delenv(name, raising=False)


def embed(monkeypatch: pytest.MonkeyPatch, model: Any, mmproj: Any) -> None:
    monkeypatch.setattr(resolve, "EMBEDDED", str(model))
    monkeypatch.setattr(resolve, "EMBEDDED_MMPROJ", str(mmproj))


VERBS = [
    ["run", "x"],
    ["chat"],
    ["info"],
    ["bench"],
    ["transcribe", "x.wav"],
    ["translate", "--to=de", "x"],
    ["listen"],
    ["demo"],
]


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command[0])
def test_no_model_at_all(
    command: list[str], nothing_named: None, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    embed(monkeypatch, tmp_path / "none.gguf", tmp_path / "none.gguf")
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "--model FILE" in message and "EDGE_GEMMA_MODEL" in message and "Hugging Face" in message


@pytest.mark.filterwarnings("ignore:no model was named")
def test_the_embedded_model_is_the_default(nothing_named: None, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    embed(monkeypatch, tmp_path / "none.gguf", tmp_path / "none.gguf")
    with pytest.raises(ValueError, match="pull e2b"):
        eg.Model.load()
    embed(monkeypatch, MODEL, MMPROJ)
    with eg.Model.load() as model:
        assert model.path == MODEL and model.has_audio
    assert resolve.model_files() == (str(MODEL), str(MMPROJ)) and resolve.is_embedded(str(MODEL))
    assert resolve.model_files(None, "ears") == (str(MODEL), "ears")
    monkeypatch.setenv("EDGE_GEMMA_MMPROJ", "ears")  # of a model that nobody names
    assert resolve.model_files() == (str(MODEL), str(MMPROJ))
    monkeypatch.setenv("EDGE_GEMMA_MODEL", str(MODEL.parent / "dense-Q4_0.gguf"))
    assert not resolve.is_embedded(resolve.model_files()[0])
    with eg.Model.load(MODEL) as model:
        assert not model.has_audio  # a path means what it says
    embed(monkeypatch, MODEL, tmp_path / "none.gguf")
    monkeypatch.delenv("EDGE_GEMMA_MODEL")
    assert resolve.model_files() == (str(MODEL), None)


@pytest.mark.parametrize("options", [(), ("--json",), ("--verbose",)])
def test_the_toy_is_announced(options: Any, nothing_named: None, monkeypatch: Any, capsys: Any) -> None:
    """On standard error, terminal or not, but not to whoever asks for it by name."""
    embed(monkeypatch, MODEL, MMPROJ)
    command = ["run", "--temperature", "0", "--max-tokens", "1", "x", *options]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert (
        shown.err.count("toy model answers") == 1 and "pull e2b" in shown.err and "toy model answers" not in shown.out
    )
    assert main([*command, "--model", "toy"]) == 0 and "toy model" not in capsys.readouterr().err
    monkeypatch.setenv("EDGE_GEMMA_MODEL", str(MODEL))
    assert main(command) == 0 and "toy model" not in capsys.readouterr().err
