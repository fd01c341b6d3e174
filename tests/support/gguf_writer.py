"""Writes GGUF files byte by byte, valid ones and broken ones, independently of the engine and of other GGUF libraries.

    data = Writer().entry("general.name", "x").tensor("t", [32, 2], Q4_0, bytes(36)).build()

Value types are given as GGUF numbers (`U8` ... `F64`) or inferred: bool -> BOOL, int -> U32 (I32 if negative), float ->
F32, str/bytes -> STRING; a list is an array of the type of its first element.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TENSOR_F32, TENSOR_F16, Q4_0, Q8_0, Q6_K, BF16 = 0, 1, 2, 8, 14, 30
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


def string(text: str | bytes) -> bytes:
    """Length and bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def infer(value: Any) -> int:
    """The type that `entry` takes for a value without one."""
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if value >= 0 else I32
    if isinstance(value, float):
        return F32
    if isinstance(value, (str, bytes)):
        return STRING
    if isinstance(value, list):
        return ARRAY
    raise TypeError(type(value).__name__)


def payload(value: Any, kind: int) -> bytes:
    """The bytes of one value; arrays in arrays are inferred."""
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        inner = infer(value[0]) if value else U32
        return array(value, inner)
    return struct.pack("<" + CODES[kind], value)


def array(values: list[Any], kind: int, count: int | None = None) -> bytes:
    """Element type, count and elements; `count` lies about them."""
    head = struct.pack("<IQ", kind, len(values) if count is None else count)
    return head + b"".join(payload(value, kind) for value in values)


@dataclass
class Writer:
    """Collects keys and tensors. Everything that a test may want to be wrong has an argument."""

    version: int = 3
    alignment: int = 32  # a key is written when it is not 32
    alignment_kind: int = U32  # the type of that key
    entries: list[bytes] = field(default_factory=list)
    tensors: list[tuple[bytes, list[int], int, bytes, int | None]] = field(default_factory=list)

    def entry(self, key: str | bytes, value: Any, kind: int | None = None) -> Writer:
        """A scalar of type `kind`, or an array of elements of that type."""
        if isinstance(value, list):
            element = kind if kind is not None else infer(value[0]) if value else U32
            return self.raw_entry(key, ARRAY, array(value, element))
        kind = infer(value) if kind is None else kind
        return self.raw_entry(key, kind, payload(value, kind))

    def raw_entry(self, key: str | bytes, kind: int, data: bytes) -> Writer:
        """A key of any type number with any bytes behind it."""
        self.entries.append(string(key) + struct.pack("<I", kind) + data)
        return self

    def tensor(self, name: str | bytes, dims: list[int], kind: int, data: bytes, offset: int | None = None) -> Writer:
        """A tensor with its raw blocks, dims fastest first; `offset` overrides its place in the data section."""
        raw = name.encode() if isinstance(name, str) else name
        self.tensors.append((raw, dims, kind, data, offset))
        return self

    def build(self, n_entries: int | None = None, n_tensors: int | None = None) -> bytes:
        """The file; the counts of the header can be made to lie."""
        entries = list(self.entries)
        if self.alignment != 32:
            key = string("general.alignment") + struct.pack("<I", self.alignment_kind)
            entries.append(key + payload(self.alignment, self.alignment_kind))
        head = b"GGUF" + struct.pack(
            "<IQQ",
            self.version,
            len(self.tensors) if n_tensors is None else n_tensors,
            len(entries) if n_entries is None else n_entries,
        )
        head += b"".join(entries)
        step, data = max(self.alignment, 1), b""
        for name, dims, kind, raw, offset in self.tensors:
            data += bytes(-len(data) % step)
            head += string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
            head += struct.pack("<IQ", kind, len(data) if offset is None else offset)
            data += raw
        return head + (bytes(-len(head) % step) + data if self.tensors else b"")


def write_split(directory: Path, stem: str, parts: list[Writer], total: int | None = None) -> list[Path]:
    """Writes `parts` as a split file with its keys and names; returns the paths, the first to be opened."""
    total = sum(len(part.tensors) for part in parts) if total is None else total
    paths = []
    for number, part in enumerate(parts):
        for key, value, kind in zip(SPLIT_KEYS, (number, len(parts), total), (U16, U16, I32), strict=True):
            part.entry(key, value, kind)
        paths.append(directory / f"{stem}-{number + 1:05d}-of-{len(parts):05d}.gguf")
        paths[-1].write_bytes(part.build())
    return paths


def tiny_vocabulary(more: int = 0) -> Writer:
    """A Gemma 4 vocabulary of about 300 tokens: control tokens, bytes, letters, a few merges, and `more` that nothing uses."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|tool_response>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = [*"▁helowrdab\n", "é", "日", "🎉"]
    merges = ["h e", "l l", "he ll", "hell o", "▁ w", "o r", "▁w or", "l d", "▁wor ld", "▁ ▁", "\n \n", "a b"]
    merged = [merge.replace(" ", "") for merge in merges]
    unused = [f"<unused{i}>" for i in range(more)]
    tokens = control + bytes_ + letters + merged + unused
    types = [3] * (len(control) - 1) + [4] + [6] * len(bytes_) + [1] * (len(letters) + len(merged)) + [5] * more
    writer = Writer()
    writer.entry("general.architecture", "gemma4").entry("tokenizer.ggml.model", "gemma4")
    writer.entry("tokenizer.ggml.tokens", tokens).entry("tokenizer.ggml.scores", [-1000.0] * len(tokens))
    writer.entry("tokenizer.ggml.token_type", types, I32).entry("tokenizer.ggml.merges", merges)
    for name, value in [("bos", 2), ("eos", 1), ("unknown", 3), ("padding", 0), ("mask", 4)]:
        writer.entry(f"tokenizer.ggml.{name}_token_id", value)
    writer.entry("tokenizer.ggml.add_space_prefix", False).entry("tokenizer.ggml.add_bos_token", True)
    return writer.entry("tokenizer.chat_template", "{{ messages }}")
