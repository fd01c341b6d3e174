"""The C engine's chat turns against the built-in Jinja template: the two must not drift apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_gemma.chat.template import render_chat
from edge_gemma.engine.native import check, ffi, lib, new_struct
from edge_gemma.errors import EdgeGemmaValueError

STRIDE = ffi.sizeof("eg_chat_message")
SPACES = "".join(chr(c) for c in range(0x110000) if chr(c).isspace())


def render(messages: list[tuple[str, bytes]], flags: int = 0, capacity: int | None = None) -> tuple[bytes, int]:
    """The text written, and the length told. Without `capacity`, asks for the length first, as callers do."""
    kept = [(ffi.new("char[]", role.encode()), ffi.new("char[]", content)) for role, content in messages]
    array = ffi.new(
        "eg_chat_message[]", [{"struct_size": STRIDE, "role": role, "content": content} for role, content in kept]
    )
    length, err = ffi.new("size_t *"), new_struct("eg_error")
    if capacity is None:
        check(lib.eg_chat_render(array, len(kept), flags, ffi.NULL, 0, length, err), err)
        capacity = length[0] + 1
    text = ffi.new("char[]", b"\x7f" * (capacity + 8))
    check(lib.eg_chat_render(array, len(kept), flags, text, capacity, length, err), err)
    assert ffi.buffer(text)[capacity : capacity + 8] == b"\x7f" * 8, "wrote beyond its buffer"
    return ffi.buffer(text, capacity)[:], length[0]


PIECES = [
    "a",
    "ü",
    "word ",
    "\n",
    " ",
    "<|channel>",
    "<channel|>",
    "thought\n",
    "<turn|>",
    *SPACES,
    "\u200b",
    "\u180e",
    "𝕏",
]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "model"])


@settings(max_examples=300)
@given(st.lists(st.tuples(ROLES, CONTENT), max_size=5), st.booleans(), st.booleans(), st.booleans())
@example([("assistant", f"{SPACES}a{SPACES}<|channel>x<channel|>{SPACES}")], False, False, False)
@example([("user", SPACES)], True, True, True)
def test_equal_to_the_template(messages: list[Any], generation: bool, thinking: bool, empty: bool) -> None:
    flags = generation * lib.EG_CHAT_GENERATION | thinking * lib.EG_CHAT_THINKING | empty * lib.EG_CHAT_EMPTY_THOUGHT
    text, length = render([(role, content.encode()) for role, content in messages], flags)
    expected = render_chat(
        [{"role": role, "content": content} for role, content in messages],
        None,
        add_generation_prompt=generation,
        enable_thinking=thinking,
        empty_thought=empty,
    )
    assert text == expected.encode() + b"\0"
    assert length == len(text) - 1


@pytest.mark.parametrize("capacity", range(60))
def test_never_writes_more_than_fits(capacity: int) -> None:
    whole = b"<bos><|turn>user\nHello<turn|>\n<|turn>model\n"
    text, length = render([("user", b" Hello ")], lib.EG_CHAT_GENERATION, capacity)
    assert length == len(whole)
    assert text[: len(whole)] == whole[:capacity]
    assert capacity <= length or text[length] == 0


def test_broken_utf8_passes_through() -> None:
    content = b" \xff\xc2\xe2\x80 \xf0 "
    text, _ = render([("user", content)])
    assert text == b"<bos><|turn>user\n" + content.strip() + b"<turn|>\n\0"


@pytest.mark.parametrize(("messages", "flags"), [([("tool", b"x")], 0), ([("", b"x")], 0), ([("user", b"x")], 8)])
def test_wrong_arguments(messages: list[tuple[str, bytes]], flags: int) -> None:
    with pytest.raises(EdgeGemmaValueError):
        render(messages, flags)


def test_null_pointers() -> None:
    length, err = ffi.new("size_t *"), new_struct("eg_error")
    message = new_struct("eg_chat_message")
    for arguments in [
        (ffi.NULL, 1, 0, ffi.NULL, 0, length),
        (message, 1, 0, ffi.NULL, 0, length),
        (message, 0, 0, ffi.NULL, 1, length),
        (message, 0, 0, ffi.NULL, 0, ffi.NULL),
    ]:
        assert lib.eg_chat_render(*arguments, err) == lib.EG_ERROR_ARGUMENT
    assert lib.eg_chat_render(ffi.NULL, 0, 0, ffi.NULL, 0, length, ffi.NULL) == lib.EG_OK
    assert length[0] == len("<bos>")
