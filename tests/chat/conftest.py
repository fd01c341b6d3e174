"""Fixtures of the tests of chats."""

from __future__ import annotations

import struct

import pytest

from support.paths import SHARED


@pytest.fixture(scope="session")
def file_template() -> str:
    """The chat template of a published file."""
    path = SHARED / "vocab" / "ggml-vocab-gemma-4.gguf"
    if not path.is_file():
        pytest.skip("needs the real vocabulary: set EDGE_GEMMA_SHARED")
    data = path.read_bytes()
    key = b"tokenizer.chat_template"
    at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    kind, length = struct.unpack_from("<IQ", data, at)
    assert kind == 8
    return data[at + 12 : at + 12 + length].decode()
