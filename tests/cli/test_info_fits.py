"""`edge-gemma info`: what fits within a memory limit, with and without a sidecar and encoders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import edge_gemma as eg
from edge_gemma.cli import main
from edge_gemma.engine.memory import MemoryLimit, fit, memory_need
from edge_gemma.errors import EdgeGemmaMemoryError
from edge_gemma.files.prepare import prepare, saving
from support.gguf_writer import BF16
from support.paths import DATA
from support.tiny_model import Shape, write_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "e2b-Q4_0.gguf", tmp_path / "m.gguf"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose head is large beside everything else, in 16 bits."""
    return write_model(tmp_path / "large.gguf", Shape([True, False], hidden=256, unused=8192, type=BF16))


def report(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["info", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_way_to_use_a_model(model: Path, capsys: Capture) -> None:
    encoders = str(DATA / "audio-e2b.gguf")
    fits = report(capsys, "-m", str(model), "--mmproj", encoders)["fits"]
    ways = {(entry["sidecar"], entry["encoders"]) for entry in fits}
    assert ways == {("prepare", False), ("prepare", True), (False, False), (False, True)}
    with eg.Model.load(model) as opened:
        length = opened.config.context_length
    assert [entry["context"] for entry in fits if entry["limit"] == fits[-1]["limit"]] == [length] * 4
    prepare(model)
    fits = report(capsys, "-m", str(model))["fits"]
    assert {(entry["sidecar"], entry["encoders"]) for entry in fits} == {(True, False), (False, False)}
    assert {
        entry["sidecar"] for entry in report(capsys, "-m", str(DATA / "unified-mmproj.gguf")).get("fits", [])
    } == set()


def test_a_limit_at_the_edge(large: Path, capsys: Capture) -> None:
    """The limit that the model with a sidecar just keeps, and without one exceeds, whether or not it exists by now."""
    model = large
    saved = saving(model)
    with eg.Model.load(model) as plain:
        whole = memory_need(plain, plain.config.context_length, "q8", fresh=True).total
        limit = whole - saved // 2
        for expected in ("prepare", True):
            fits = report(capsys, "-m", str(model), "--memory-limit", str(limit))["fits"]
            assert [entry["sidecar"] for entry in fits] == [expected, False]
            lean, own = fits
            assert lean["context"] == plain.config.context_length and lean["bytes"] <= limit < whole
            assert own["context"] is None or own["context"] < plain.config.context_length
            prepare(model)
    with eg.Model.load(model) as lean_model:
        assert fit(lean_model, MemoryLimit(limit, fresh=True)).context == lean_model.config.context_length
        with pytest.raises(EdgeGemmaMemoryError):
            fit(lean_model, MemoryLimit(1_000_000, fresh=True))


def test_the_text(model: Path, capsys: Capture) -> None:
    assert main(["info", "-m", str(model), "--memory-limit", "1GB"]) == 0
    out = capsys.readouterr().out
    assert "prepared, text" in out and "without sidecar, text" in out and "prepare`, which makes a leaner head" in out
    (row,) = (line for line in out.splitlines() if line.startswith("  1 GB"))
    with eg.Model.load(model) as opened:
        assert row.split() == ["1", "GB", *[str(opened.config.context_length), "f16"] * 2]
    assert main(["info", "-m", str(model), "--memory-limit", "1MB"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  1 MB"))
    assert row.split() == ["1", "MB", "-", "-"]


def test_the_sidecar_counts(large: Path, capsys: Capture) -> None:
    plain = report(capsys, "-m", str(large))
    made = prepare(large)
    lean = report(capsys, "-m", str(large))
    assert lean["sidecar"] == {
        "file": str(made.path),
        "file_bytes": made.bytes,
        "decode_bytes": plain["decode_bytes"] - made.saved,
    }
    # The work space is larger by the rows of the head that are read exactly.
    for before, after in zip(plain["memory"], lean["memory"], strict=True):
        assert 0 < after["total"] - (before["total"] - made.saved) < 300_000
    assert "sidecar" not in report(capsys, "-m", str(large), "--no-sidecar")
    assert main(["info", "-m", str(large)]) == 0
    assert re.search(rf"^  sidecar +{re.escape(str(made.path))}, ", capsys.readouterr().out, re.MULTILINE)


def test_a_limit_that_is_too_small_tells_what_preparing_saves(model: Path, capsys: Capture) -> None:
    """Only of a model that should be prepared, and as long as it is not."""

    def refusal(*options: str) -> str:
        assert main(["run", "-m", str(model), "--memory-limit", "1MB", *options, "Hello"]) == 1
        return capsys.readouterr().err

    advice = f" prepare {model}` saves "
    assert advice in refusal() and "prepare" not in refusal("--no-sidecar")
    prepare(model)
    assert "prepare" not in refusal()
