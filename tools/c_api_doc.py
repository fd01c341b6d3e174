"""Writes docs/c-api.md from csrc/edge_gemma.h: comments as text, declarations as code. Run it after a change of the header."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "edge_gemma.h"
PAGE = ROOT / "docs" / "c-api.md"
TITLE = """# C interface

Made by `tools/c_api_doc.py` from `csrc/edge_gemma.h`; change it there.

## Build and link

The library needs a C11 compiler, the C library and threads. CMake (3.16 or later) builds it static and shared:

```sh
cmake -S csrc -B build
cmake --build build --parallel
cmake --install build --prefix $HOME/.local
```

A program finds it through pkg-config, through CMake, or by its path. The static library also wants `-lm -pthread`.

```sh
export PKG_CONFIG_PATH=$HOME/.local/lib/pkgconfig
cc chat.c $(pkg-config --cflags --libs edge_gemma) -o chat
cc chat.c -I$HOME/.local/include $HOME/.local/lib/libedge_gemma.a -lm -pthread -o chat
```

```cmake
find_package(edge_gemma REQUIRED)
target_link_libraries(app PRIVATE edge_gemma::static)     # or edge_gemma::shared
```

- **Without installing:** `add_subdirectory(csrc)` in a CMake project, an NDK or Xcode project too; link `edge_gemma::static`.
- **Without CMake:** compile the files that `csrc/sources.txt` lists with `-std=c11 -O3 -ffp-contract=off -pthread`.
- **C++:** the header is C++ too; `EG_STRUCT` declares its structs without a warning.
- [examples/simple.c](../examples/simple.c) is a chat, [examples/transcribe.c](../examples/transcribe.c) a live transcription.

## The interface
"""


def plain(comment: str) -> str:
    """The text of a comment without its stars. Indented lines stay indented, as code."""
    lines = [re.sub(r"^ ?\* ?", "", line).rstrip() for line in comment.strip()[2:-2].strip().splitlines()]
    return re.sub(r"(?<!`)\b(eg_\w+|EG_\w+|SIZE_MAX|NULL)\b(?!`)", r"`\1`", "\n".join(lines))


def introduction(comment: str) -> str:
    """The opening comment. Its code blocks have a deeper indent, which marks code in Markdown, too."""
    blocks = re.split(r"\n\s*\*?\s*\n", comment.strip()[2:-2].strip())
    return "\n\n".join(
        "\n".join(re.sub(r"^ ?\* ?", "", line) for line in block.splitlines())
        if re.match(r" \*     ", block)
        else plain(f"/*{block}*/")
        for block in blocks
    )


def page(header: str) -> str:
    """The page for the text of a header."""
    opening = re.match(r"/\*.*?\*/", header, flags=re.S).group()
    body = header[header.index("/* ---- ") : header.rindex("#ifdef __cplusplus")]
    parts = [TITLE, introduction(opening) + "\n"]
    # A chunk lies between empty lines. It is the line of a section, or a comment with its declarations.
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
