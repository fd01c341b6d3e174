"""Applications compiled against an older or a newer header than the library: they work as the header promises."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.c_build import CSRC, DATA, run, sanitized

HEADER = (CSRC / "edge_gemma.h").read_text()
MODELS = [DATA / "e2b-Q4_0.gguf", DATA / "audio-e2b.gguf"]
pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
#: The last field that an older version had, of each struct that has grown since then.
LAST = {
    "eg_file_params": "path",
    "eg_file_metadata": "key_length",
    "eg_file_tensor": "name_length",
    "eg_model_params": "mmproj",
    "eg_model_info": "layers",
    "eg_memory": "mapped",
    "eg_session_params": "context",
    "eg_sampling": "top_k",
    "eg_token": "id",
    "eg_stats": "decode_tokens",
    "eg_audio_params": "left_context",
    "eg_image": "rgb",
}
STRUCT = re.compile(r"(typedef struct (\w+) \{\n    uint32_t struct_size;[^\n]*\n)(.*?)(^\} \w+;)", re.S | re.M)


def older(match: re.Match[str]) -> str:
    """The struct up to the field in LAST; the message of an error is shorter."""
    begin, name, fields, end = match.groups()
    fields = fields.replace("message[500]", "message[60]")
    if name in LAST:
        (line,) = re.findall(rf"^[^\n]*\b{LAST[name]};[^\n]*\n", fields, re.M)
        fields = fields[: fields.index(line)] + line
    return begin + fields + end


def newer(match: re.Match[str]) -> str:
    """The struct with one more field."""
    begin, _, fields, end = match.groups()
    return f"{begin}{fields}    uint64_t future;\n{end}"


@pytest.mark.parametrize(("change", "define"), [(older, ()), (newer, ("-DEG_TEST_FUTURE",))])
def test_other_header(change: Callable[[re.Match[str]], str], define: tuple[str, ...], tmp_path: Path) -> None:
    """The same tokens; nothing is read or written beyond the caller's structs; unknown fields are zero in results and refused
    in parameters."""
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir()
    other.mkdir()
    text, count = STRUCT.subn(change, HEADER)
    assert count == 15
    assert text != HEADER
    (other / "edge_gemma.h").write_text(text)
    # The folder comes before that of the library's own header.
    program = sanitized("use_version.c", other, "address,undefined", first=(f"-I{other}", *define))
    want = run(sanitized("use_version.c", same, "address,undefined"), *MODELS)
    assert run(program, *MODELS) == want
    assert want.startswith("tokens ")
