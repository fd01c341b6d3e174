"""What the headers tell Swift and Objective-C, and that C, C++ and cffi see nothing of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_gemma._build import declarations
from support.c_build import CSRC

HEADERS = ("edge_gemma.h", "edge_gemma_chat.h")
WORDS = re.compile(r"_Nullable|assume_nonnull|enum_extensibility|flag_enum|swift_name")
CHECK = '#include "edge_gemma_chat.h"\nint main(void) { return (int)EG_EVENT_NONE; }\n'


def preprocessed(compiler: str, *flags: str) -> str:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    done = subprocess.run(
        [compiler, *flags, "-E", f"-I{CSRC}", "-"], input=CHECK, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("flags", [("-xc", "-std=c11"), ("-xc++", "-std=c++11")])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_c_sees_nothing(compiler: str, flags: tuple[str, ...]) -> None:
    assert not WORDS.search(preprocessed(compiler, *flags))


def test_cffi_sees_nothing() -> None:
    assert not re.search(r"EG_(API|ENUM|FLAGS|N\w+\()|EG_NULLABLE|EG_NONNULL", declarations())


def test_objective_c_is_told_and_warns_of_nothing(tmp_path: Path) -> None:
    """With every warning that clang has. NULL for a pointer that must be given is one."""
    text = preprocessed("clang", "-xobjective-c")
    assert set(WORDS.findall(text)) == {"_Nullable", "assume_nonnull", "enum_extensibility", "flag_enum", "swift_name"}
    source = tmp_path / "main.m"
    source.write_text(CHECK.replace("return", "eg_session_close(NULL);\n    return"))
    command = ["clang", "-xobjective-c", "-Weverything", "-Werror", f"-I{CSRC}", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    source.write_text(CHECK.replace("return", "eg_session_seed(NULL, 1);\n    return"))
    assert "nonnull" in subprocess.run(command, capture_output=True, text=True).stderr


def test_every_pointer_of_a_struct_may_be_null() -> None:
    """So that Swift makes structs of zeros."""
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", (CSRC / header).read_text(), flags=re.S)
        for body in re.findall(r"^typedef struct \w+ \{\n(.*?)^\}", text, re.S | re.M):
            fields = [line for line in body.splitlines() if "*" in line]
            assert not [line for line in fields if not re.search(r"\*EG_NULLABLE \w+\)?[;(]", line)]


def test_every_constant_of_a_named_enum_has_a_name() -> None:
    enums = 0
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", (CSRC / header).read_text(), flags=re.S)
        for kind, body in re.findall(r"^typedef enum (\w+) eg_\w+ \{(.*?)\}", text, re.S | re.M):
            enums += 1
            assert kind in ("EG_ENUM", "EG_FLAGS")
            names = [re.fullmatch(r"EG_\w+ EG_NAMED\((\w+)\) = \d+", part.strip()) for part in body.split(",")]
            assert all(names)
            assert len({name[1] for name in names if name}) == len(names)
    assert enums >= 10
