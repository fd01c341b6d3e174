"""Every code block of README.md and docs/ runs as it is written, and every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_hub import FakeHub
from support.pages import MMPROJ, MODEL, Block, blocks, furnish, model_sees
from support.paths import ROOT

pytest.importorskip("soundfile", reason="needs soundfile to make the recordings that the pages name")

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
# Pages whose blocks are no programs: declarations that tools/c_api_doc.py takes from the header, drawings, and usage.
NOT_RUN = {"docs/c-api.md", "docs/cli.md", "docs/architecture.md", "docs/benchmarks.md"}
RUNNABLE = {"python", "sh", "c", "swift", "kotlin"}  # tests/bindings compiles Swift and Kotlin
# Lines that set up an environment. tests/test_newcomer.py types them in a copy of the tree.
SETUP = re.compile(r"(make|pip|pipx|python3 -m venv|\. \S+/activate|git clone|sudo|apt)\b")


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """A Hub with the embedded model in the place of E2B."""
    demo = ROOT / "edge_gemma" / "demo" / "data"
    files = {MODEL: (demo / "demo.gguf").read_bytes(), MMPROJ: (demo / "demo-mmproj.gguf").read_bytes()}
    files[MODEL.replace("Q4_0", "Q8_0")] = files[MODEL]
    with FakeHub() as server:
        server.add("ggml-org/gemma-4-E2B-it-GGUF", files)
        yield server


@pytest.fixture
def reader(tmp_path: Path, hub: FakeHub) -> tuple[Path, dict[str, str]]:
    """The folder that a reader works in, and the environment."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder, {**furnish(folder), "HF_ENDPOINT": hub.url}


def run(reader: tuple[Path, dict[str, str]], *command: str) -> None:
    """Runs what a reader would run, without input; it must succeed."""
    done = subprocess.run(
        command,
        cwd=reader[0],
        env=reader[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def of(page: str, language: str) -> list[Block]:
    """The blocks that run here: those that need a model with eyes do where the embedded model has them."""
    sees = model_sees()
    return [block for block in blocks(page) if block.language == language and (sees or not block.vision)]


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if page not in NOT_RUN and of(page, language)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN])
def test_languages_are_known(page):
    """A block of another language than these would never run. `text` is for what is no program."""
    assert {block.language for block in blocks(page)} <= RUNNABLE | {"text"}


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_python(page, reader):
    """The blocks of a page in their order, in one namespace; errors name the page and the line."""
    if "hub" in (ROOT / page).read_text(encoding="utf-8"):
        pytest.importorskip("huggingface_hub", reason="needs pip install 'edge-gemma[hub]'")
    program = "import sys\nnames = {'__name__': '__main__'}\n"
    for block in of(page, "python"):
        source = "\n" * (block.line - 1) + block.text
        program += f"exec(compile({source!r}, {page!r}, 'exec'), names)\n"
    run(reader, sys.executable, "-W", "error", "-c", program)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_commands(page, reader):
    """The command lines of a page in their order, in one shell that stops at the first failure."""
    pytest.importorskip("huggingface_hub", reason="needs pip install 'edge-gemma[hub]'")
    lines = []
    for block in of(page, "sh"):
        for number, line in enumerate(block.text.splitlines(), block.line):
            if not SETUP.match(line):
                lines += [f"echo '>>> {page}:{number}' >&2", line]
    # Standard input is empty, so `chat` ends at once. A Ctrl-C ends `listen`, as its reader would end it.
    script = "set -e -o pipefail\n" + "\n".join(
        f"{line} || test $? = 130" if line.startswith("edge-gemma listen") else line for line in lines
    )
    run(reader, "bash", "-c", script)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("c"))
def test_c(page, reader):
    """Each block is a program that compiles without a warning and runs."""
    from support.c_build import FLAGS, objects_of

    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    folder, _ = reader
    for block in of(page, "c"):
        (folder / "program.c").write_text(block.text)
        objects = objects_of("gcc", ())
        command = ["gcc", *FLAGS, "-Wpedantic", "program.c", *objects, "-o", "program", "-lm"]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, f"{page}:{block.line}: {done.stderr}"
        run(reader, "./program")


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            other = (ROOT / page).parent / name if name else ROOT / page
            assert other.exists(), f"{page} links to {target}"
            titles = re.findall(r"^#+ (.*)", other.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not anchor or anchor in anchors, f"{page} links to {target}"
