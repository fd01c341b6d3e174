"""Writes docs/c-api.md from the public headers: comments as text, declarations as code. Run it after a change of the header."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "edge_gemma.h"
CHAT_HEADER = ROOT / "csrc" / "edge_gemma_chat.h"
PAGE = ROOT / "docs" / "c-api.md"
TITLE = """# C interface

Made by `tools/c_api_doc.py` from `csrc/edge_gemma.h` and `csrc/edge_gemma_chat.h`; change it there.

## Build and link

The library needs a C11 compiler, the C library and threads. CMake (3.16 or later) builds and installs it, static and shared:

```sh
cmake -S csrc -B build
cmake --build build --parallel
cmake --install build --prefix $HOME/.local
```

pkg-config links the shared library. `-rpath` is for a folder that the system does not search when a program starts.

```sh
export PKG_CONFIG_PATH=$HOME/.local/lib/pkgconfig     # lib64 on Fedora and openSUSE
cc examples/simple.c $(pkg-config --cflags --libs edge_gemma) -Wl,-rpath,$HOME/.local/lib -o simple
```

The static library is named by its path, and needs `-lm -pthread`:

```sh
cc examples/simple.c -I$HOME/.local/include $HOME/.local/lib/libedge_gemma.a -lm -pthread -o simple
```

Without CMake, one command compiles a program and the library together:

```sh
cc examples/simple.c -Icsrc $(sed s,^,csrc/, csrc/sources.txt) -std=c11 -O3 -ffp-contract=off -pthread -lm -o simple
```

A CMake project finds the installed library, with `-DCMAKE_PREFIX_PATH=$HOME/.local` where it is not in the system's folders:

```cmake
find_package(edge_gemma REQUIRED)
target_link_libraries(app PRIVATE edge_gemma::static)     # or edge_gemma::shared
```

Or it builds the library as a part of itself:

```cmake
add_subdirectory(edge_gemma/csrc)
target_link_libraries(app PRIVATE edge_gemma::static)
```

The library is optimized also in a project that is built for debugging, since it would be too slow otherwise.
`-DEDGE_GEMMA_UNOPTIMIZED=ON` is for debugging the library itself.

[examples/simple.c](../examples/simple.c) is a chat, [examples/transcribe.c](../examples/transcribe.c) a live transcription, and
[tests/c/use_voice.c](../tests/c/use_voice.c) a voice assistant with tools.
Both are C++ as well: `EG_STRUCT` declares structs without warnings in both languages.

### Android

A Gradle project names its `CMakeLists.txt` under `externalNativeBuild`; there, `add_subdirectory` is as above. On its own, the
library is built by the NDK like this, for Android 10 (API 29) or later:

```sh
cmake -S csrc -B build-android -DCMAKE_TOOLCHAIN_FILE=$ANDROID_NDK/build/cmake/android.toolchain.cmake \\
    -DANDROID_ABI=arm64-v8a -DANDROID_PLATFORM=android-29
cmake --build build-android --parallel --target edge_gemma_static
```

A model in an asset or behind a content URI is opened by its descriptor (`fd` of `eg_model_params`). So is its sidecar, the
leaner head that `edge-gemma prepare` makes on another machine (`sidecar_fd`); beside a model that has a path it is found.

### iOS and macOS

On macOS the commands above are the same. For iOS 13 or later, Xcode's generator makes a library to add to an application:

```sh
cmake -S csrc -B build-ios -G Xcode -DCMAKE_SYSTEM_NAME=iOS
cmake --build build-ios --config Release --target edge_gemma_static
```

[The Swift package](ios.md) has classes over the interface, and its module `CEdgeGemma` is the interface itself.

The commands for Android and iOS have not been run where the project is tested: neither NDK nor Xcode was at hand.

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


#: What is meant for other languages, with the space that separates it.
MACROS = re.compile(r"EG_(?:API|ENUM|FLAGS|NULLABLE) | EG_NAMED\(\w+\)")


def sections(header: str) -> list[str]:
    """What a header declares, section by section."""
    body = header[header.index("/* ---- ") : header.rindex("EG_NONNULL_END")]
    parts = []
    # A chunk lies between empty lines. It is the line of a section, or a comment with its declarations.
    for chunk in re.split(r"\n{2,}", body.strip()):
        if section := re.match(r"/\* ---- (.*?) -+ \*/", chunk):
            parts.append(f"## {section[1].capitalize()}\n")
            continue
        if comment := re.match(r"/\*.*?\*/\n", chunk, flags=re.S):
            parts.append(plain(comment.group()) + "\n")
            chunk = chunk[comment.end() :]
        if chunk:
            parts.append(f"```c\n{MACROS.sub('', chunk)}\n```\n")
    return parts


def page(header: str) -> str:
    """The page for the text of the header of the engine; that for applications follows."""
    opening, second = (re.match(r"/\*.*?\*/", text, flags=re.S).group() for text in (header, CHAT_HEADER.read_text()))
    parts = [TITLE, introduction(opening) + "\n", *sections(header)]
    parts += ["# The interface for applications\n", introduction(second) + "\n", *sections(CHAT_HEADER.read_text())]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(HEADER.read_text()), encoding="utf-8")
