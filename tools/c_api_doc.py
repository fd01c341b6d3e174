"""Writes docs/c-api.md from csrc/edge_gemma.h: comments as text, declarations as code. Run it after a change."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "edge_gemma.h"
PAGE = ROOT / "docs" / "c-api.md"
TITLE = """# C interface

Made by `tools/c_api_doc.py` from `csrc/edge_gemma.h`; change it there.
"""


def plain(comment: str) -> str:
    """The text of a comment without its stars; lines that are indented in it stay code."""
    lines = [re.sub(r"^ ?\* ?", "", line).rstrip() for line in comment.strip()[2:-2].strip().splitlines()]
    return re.sub(r"(?<!`)\b(eg_\w+|EG_\w+|SIZE_MAX|NULL)\b(?!`)", r"`\1`", "\n".join(lines))


def introduction(comment: str) -> str:
    """The opening comment; there a deeper indent marks code, which Markdown also takes for code."""
    blocks = re.split(r"\n\s*\*?\s*\n", comment.strip()[2:-2].strip())
    return "\n\n".join(
        "\n".join(re.sub(r"^ ?\* ?", "", line) for line in block.splitlines())
        if re.match(r" \*     ", block)
        else plain(f"/*{block}*/")
        for block in blocks
    )


def page(header: str) -> str:
    """The whole page for the text of the header."""
    opening = re.match(r"/\*.*?\*/", header, flags=re.S).group()
    body = header[header.index("/* ---- ") : header.rindex("#ifdef __cplusplus")]
    parts = [TITLE, introduction(opening) + "\n"]
    # A chunk is what stands between empty lines: a section's line, or a comment and the declarations that share it.
    for chunk in re.split(r"\n{2,}", body.strip()):
        if section := re.match(r"/\* ---- (.*?) -+ \*/", chunk):
            parts.append(f"## {section[1].capitalize()}\n")
            continue
        if comment := re.match(r"/\*.*?\*/\n", chunk, flags=re.S):
            parts.append(plain(comment.group()) + "\n")
            chunk = chunk[comment.end() :]
        parts.append(f"```c\n{chunk.replace('EG_API ', '')}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(HEADER.read_text()), encoding="utf-8")
