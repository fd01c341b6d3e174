"""The services as systemd reads them: `systemd-analyze`, which needs no running systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra server")

from edge_gemma.cli.assistant.service import unit
from edge_gemma.server.service import unit_text

if shutil.which("systemd-analyze") is None:
    pytest.skip("needs systemd-analyze, of systemd", allow_module_level=True)

COMMAND = [sys.executable, "-m", "edge_gemma", "serve", "--allow-host", '50% of "$HOME"']
EXPOSURE = 2.0  # of 10, the most that the server's unit of the system may have

Analyze = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def analyze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Analyze:
    """Runs it on a unit's text."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "edge-gemma.service"
        file.write_text(text)
        found = subprocess.run(["systemd-analyze", *arguments, str(file)], capture_output=True, text=True, timeout=120)
        if "initialize manager" in found.stderr:
            pytest.skip(f"systemd-analyze cannot work here: {found.stderr.strip()}")
        return found

    return run


@pytest.mark.parametrize(
    "text, options",
    [
        (unit_text(COMMAND, system=True, writable=["/var/lib/edge-gemma"]), []),
        (unit_text(COMMAND, system=False, writable=["/tmp"]), ["--user"]),
        (unit(COMMAND), ["--user"]),
    ],
    ids=["server of the system", "server of a user", "assistant"],
)
def test_a_unit_is_understood(analyze: Analyze, text: str, options: list[str]) -> None:
    found = analyze(text, "verify", "--man=no", *options)  # the page of the manual is not installed everywhere
    mine = [line for line in found.stderr.splitlines() if "edge-gemma" in line]
    assert found.returncode == 0 and mine == [], found.stderr
    wrong = analyze(text.replace("Restart=", "Rstart="), "verify", *options)
    assert "Rstart" in wrong.stderr


def test_the_server_has_few_rights(analyze: Analyze) -> None:
    text = unit_text(COMMAND, system=True)
    most = ["security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}"]
    found = analyze(text, *most)
    if "unrecognized option" in found.stderr:
        pytest.skip("needs systemd 250")
    assert found.returncode == 0, found.stdout[-300:]
    assert analyze(text.replace("CapabilityBoundingSet=", "#"), *most).returncode != 0


def test_a_users_unit_asks_for_nothing_that_a_user_lacks() -> None:
    """The systemd of a user cannot drop capabilities or mount, and on some versions does not start a unit that wants it."""
    refused = ("CapabilityBoundingSet", "DynamicUser", "Private", "Protect", "ReadWritePaths")
    mine = unit_text(COMMAND, system=False, writable=["/tmp"])
    assert [line for line in mine.splitlines() if line.startswith(refused)] == []
    whole = unit_text(COMMAND, system=True, writable=["/tmp"])
    assert {line for line in mine.splitlines() if line.startswith("Restrict")} <= set(whole.splitlines())
    assert all(option in whole for option in refused)
