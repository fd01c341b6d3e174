"""The input of a chat: what can be typed, completed, pasted and found again, with and without prompt_toolkit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gemma.cli.chat import leaves, readable
from edge_gemma.cli.chat_input import HISTORY_LENGTH, History, completions
from support.terminals import Terminal, edge_gemma

# prompt_toolkit moves the cursor behind the prompt.
PROMPT = "(?m:^|[\\r\\n]|\x1b\\[0m)>(?: |\x08|\x1b\\[)"
COMMANDS = ["/tools", "/stats", "/system", "/quit"]


@given(st.lists(st.text(alphabet="a \\\nn日"), max_size=5))
def test_history_keeps_every_message(tmp_path_factory: pytest.TempPathFactory, messages: list[str]) -> None:
    file = tmp_path_factory.mktemp("state") / "new" / "history"
    history = History(file)
    for message in messages:
        history.add(message)
    assert History(file).entries() == [message for message in messages if message.strip()]
    if file.exists():
        assert file.stat().st_mode & 0o777 == 0o600


def test_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for i in range(2 * HISTORY_LENGTH + 5):
        history.add(f"message {i}")
    history.shorten()
    assert len((tmp_path / "history").read_text().splitlines()) == HISTORY_LENGTH
    assert history.entries()[-1] == f"message {2 * HISTORY_LENGTH + 4}"
    History(tmp_path / "history" / "below a file").add("is not kept, and no error")


def test_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my tools").mkdir()
    (tmp_path / "my tools" / "lamp.py").touch()
    (tmp_path / ".hidden").touch()
    assert completions("/st", COMMANDS, ["/tools"]) == [("/st", "/stats")]
    assert [text for _, text in completions("/s", COMMANDS, ["/tools"])] == ["/stats", "/system"]
    assert completions("/tools my", COMMANDS, ["/tools"]) == [("my", "my tools/")]
    assert completions("/tools ~/my tools/l", COMMANDS, ["/tools"]) == [("~/my tools/l", "~/my tools/lamp.py")]
    assert completions("/tools ", COMMANDS, ["/tools"]) == [("", "my tools/")]
    assert completions("/tools .h", COMMANDS, ["/tools"]) == [(".h", ".hidden")]
    assert not completions("/system my", COMMANDS, ["/tools"]) and not completions("hello /st", COMMANDS, [])


@pytest.mark.parametrize("words", ["/quit", "/quit now", "/bye", "/exit please", " /Quit ", "quit", "EXIT", "/q"])
def test_all_ways_to_leave(words: str) -> None:
    assert leaves(words)
    done = edge_gemma("chat", "--model", "toy", text=f"{words}\nTurn on the kitchen lights.\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", ["quit smoking", "how do I exit vim", "/quitter", "//quit", "", "exit the house"])
def test_what_does_not_leave(words: str) -> None:
    assert not leaves(words)


def test_results_of_tools_are_readable() -> None:
    assert readable({"error": "room is 'attic'"}) == "error: room is 'attic'"
    assert readable({"sky": "sunny", "degrees": 7, "tags": ["a"]}) == 'sky: sunny, degrees: 7, tags: ["a"]'
    assert readable("two\nlines") == "two lines"
    assert (readable(None), readable(True), readable([]), readable({})) == ("null", "true", "[]", "{}")


@pytest.fixture(params=["prompt_toolkit", "readline"])
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A chat with the toy at a terminal, once for each way to read its lines."""
    if os.name != "posix":
        pytest.skip("needs a pseudo-terminal")
    pytest.importorskip(request.param, reason="needs pip install 'edge-gemma[cli]'")
    term = "xterm" if request.param == "prompt_toolkit" else "dumb"
    opened: list[Terminal] = []

    def start() -> Terminal:
        state = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
        opened.append(Terminal("chat", "--model", "toy", term=term, **state))
        opened[-1].expect("/quit or Ctrl-D")
        opened[-1].expect(PROMPT)
        return opened[-1]

    start.way = request.param  # type: ignore[attr-defined]
    yield start
    for process in opened:
        process.close()


def test_a_chat_at_a_terminal(chat: Any, tmp_path: Path) -> None:
    talk = chat()
    talk.type("/sta\t")
    talk.expect("/stats|ts(?: ?$|\x1b)")  # the rest of the word alone, or the line drawn anew
    talk.type("\r")
    talk.expect(r"context: ")
    talk.expect(r"memory: [\d.]+ .?B \(model ")
    talk.expect(PROMPT)
    talk.type("Turn on the kitchen lights.\r")
    talk.expect(r"\[switch\(")
    talk.expect("lights are on")
    talk.expect(PROMPT)
    talk.type("\x04")
    assert talk.wait() == 0
    assert "Turn on the kitchen lights.\n" in (tmp_path / "edge-gemma" / "chat_history").read_text()
    talk = chat()
    talk.type("\x1b[A" if chat.way == "prompt_toolkit" else "\x10")  # the message before: Up, Ctrl-P
    talk.expect("Turn on the kitchen lights")
    talk.type("\r")
    talk.expect("lights are on")
    talk.expect(PROMPT)
    talk.type("/bye\r")
    assert talk.wait() == 0


def test_pasted_lines_and_ctrl_c_with_prompt_toolkit(chat: Any, tmp_path: Path) -> None:
    if chat.way != "prompt_toolkit":
        pytest.skip("readline has neither")
    talk = chat()
    talk.type("\x1b[200~Turn on\nthe kitchen lights.\x1b[201~")
    talk.expect("kitchen lights")
    talk.type("\r")
    talk.expect(r"\[\w+\(")
    talk.expect(PROMPT)
    talk.type("a line that is cleared")
    talk.expect("cleared")
    talk.type("\x03")
    talk.type("/system\r")
    talk.expect("voice of a home")
    talk.expect(PROMPT)
    talk.type("\x03")
    talk.expect("/quit to leave")
    talk.expect(PROMPT)
    talk.type("\x04")
    assert talk.wait() == 0
    history = History(tmp_path / "edge-gemma" / "chat_history").entries()
    assert history == ["Turn on\nthe kitchen lights.", "/system"]


def test_sigterm_ends_a_chat_that_waits_for_a_message(chat: Any) -> None:
    talk = chat()
    time.sleep(0.2)  # the prompt is written just before it listens
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.wait() == 143 and "Traceback" not in talk.screen
