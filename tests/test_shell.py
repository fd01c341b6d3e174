"""Commands that users type, and those that messages tell them to."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from edge_gemma.shell import quoted, split_command

WORDS = ["piper", "--model", "a b.onnx", "it's", 'say "hi"', "C:\\voices\\de.onnx", "#5", ""]


def test_a_command_comes_back_from_its_words() -> None:
    assert split_command(" ".join(map(quoted, WORDS))) == WORDS
    assert split_command("cat  -n # 'no comment'") == ["cat", "-n", "#", "no comment"]
    assert split_command(r"a\ b \"c") == shlex.split(r"a\ b \"c") == ["a b", '"c']


def test_windows_has_backslashes_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    assert split_command(r'C:\piper\piper.exe -m "C:\my voices\de.onnx"') == [
        r"C:\piper\piper.exe",
        "-m",
        r"C:\my voices\de.onnx",
    ]
    assert (
        quoted(r"C:\my voices\de.onnx")
        == subprocess.list2cmdline([r"C:\my voices\de.onnx"])
        == '"C:\\my voices\\de.onnx"'
    )
    assert quoted(r"C:\piper\piper.exe") == r"C:\piper\piper.exe"


def test_a_quote_that_stays_open_is_an_error() -> None:
    with pytest.raises(ValueError, match="No closing quotation"):
        split_command("say 'hello")
