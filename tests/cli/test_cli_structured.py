"""`run` with a form of the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

pytest.importorskip("llguidance", reason="needs llguidance")

Run = Callable[..., CompletedProcess[str]]
SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}


def test_a_schema(run_cli: Run, tmp_path: Path) -> None:
    """From a file or as an argument; the answer is JSON that it allows."""
    (tmp_path / "on.json").write_text(json.dumps(SCHEMA))
    for given in (str(tmp_path / "on.json"), json.dumps(SCHEMA)):
        done = run_cli("run", "-m", "toy", "--schema", given, "--seed", "1", "Turn on the light.")
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)) == {"on"}


def test_a_regular_expression(run_cli: Run) -> None:
    for raw in ([], ["--raw"]):
        done = run_cli("run", "-m", "toy", *raw, "--regex", "[0-9]{2}:[0-9]{2}", "What time is it?")
        assert re.fullmatch(r"\d\d:\d\d\n", done.stdout), done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--schema", '{"type": "strin"}'], "strin"),
        (["--schema", "missing.json"], "missing.json"),
        (["--regex", "["], "regular expression cannot be used"),
        (["--regex", "a", "--schema", "{}"], "cannot be used with"),
    ],
)
def test_unusable_forms(run_cli: Run, options: list[str], words: str) -> None:
    done = run_cli("run", "-m", "toy", *options, "Hello.")
    assert done.returncode != 0 and words in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr
