"""Has aider, a coding assistant for the terminal, answer over a running server, with and without streaming.

    python -m venv ~/aider && ~/aider/bin/pip install aider-chat            (0.5 GB)
    edge-gemma serve &
    python tools/clients/aider_edit.py ~/aider/bin/aider [--base URL]

aider works in an empty folder with a home of its own. It must end without an error, show an answer, and the server must have
answered everything that it was asked. Whether the file is edited depends on the model, and is told. Ends with 1 if something
was wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

PROGRAM = "def greet(name):\n    print('Hello')\n"


def counted(base: str) -> dict[str, float]:
    """The chat requests that the server has had, by their status."""
    with urllib.request.urlopen(base + "/metrics", timeout=30) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^edge_gemma_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE)
    found: dict[str, float] = {}
    for labels, value in lines:
        if "/v1/chat/completions" in labels:
            status = re.search(r'status="(\d+)"', labels)
            found[status[1] if status else labels] = float(value)
    return found


def edit(aider: Path, base: str, model: str, streamed: bool) -> None:
    """One edit. Raises AssertionError."""
    before = counted(base)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "greet.py")
        program.write_text(PROGRAM)
        options = "--no-git --yes-always --no-check-update --no-show-model-warnings --analytics-disable --no-pretty"
        options += " --no-show-release-notes --no-detect-urls" + ("" if streamed else " --no-stream")
        done = subprocess.run(
            [
                *(str(aider.absolute()), "--model", f"openai/{model}", "--openai-api-base", base + "/v1"),
                *("--openai-api-key", "none", *options.split(), "--message", "Greet by the name.", program.name),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "HOME": folder, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        changed = program.read_text() != PROGRAM
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tokens:" in done.stdout, done.stdout
    new = {status: number - before.get(status, 0) for status, number in counted(base).items()}
    assert new.get("200", 0) >= 1 and not any(number for status, number in new.items() if status != "200"), new
    version = subprocess.run([aider, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    how = "streamed" if streamed else "whole"
    print(f"{version}, {how}: good, {new['200']:.0f} answers, file {'changed' if changed else 'as it was'}")


def main() -> int:
    """Both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("aider", type=Path, help="the program")
    parser.add_argument(
        "--base", default="http://127.0.0.1:8080", metavar="URL", help="the server (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="any", metavar="NAME", help="what the model is called (default: %(default)s)"
    )
    args = parser.parse_args()
    failed = 0
    for streamed in (True, False):
        try:
            edit(args.aider, args.base, args.model, streamed)
        except AssertionError as error:
            failed += 1
            print(f"{'streamed' if streamed else 'whole'}: WRONG\n{error}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
