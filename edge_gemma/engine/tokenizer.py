"""Text to tokens and back, over the vocabulary in a GGUF file.

Owns the Python view of the C tokenizer: string conversion, lists, lifetimes. The algorithm is in csrc/text.
"""

from __future__ import annotations

import codecs
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeGemmaValueError
from .descriptor import FileSource
from .interface import TokenizerLike
from .native import Uncopyable, check, ffi, file_params, lib, new_struct, pointer, text_of


class Tokenizer(Uncopyable):
    """Gemma 4's tokenizer. Immutable, and safe to share between threads.

    From a file of its own with `Tokenizer.load(path)`, or a model's: `model.tokenizer`.
    """

    kind = "tokenizer"
    instead = "threads may share it; other processes call Tokenizer.load()"

    def __init__(self, pointer: Any, close: Callable[[Any], object] | None = None, owner: Any = None) -> None:
        """Wraps an `eg_tokenizer *` that `close` frees, or that lives as long as the pointer `owner`. Internal: use `load`."""

        def free(pointer: Any, owner: Any = owner) -> None:
            if close:
                close(pointer)

        # A call that is inside holds a reference to this pointer, and so keeps the owner alive.
        self._pointer: Any = ffi.gc(pointer, free)
        self._special_tokens: dict[str, int] | None = None
        self._control_tokens: tuple[str, ...] | None = None

    @property
    def pointer(self) -> Any:
        """The `const eg_tokenizer *`. Raises ValueError once its model is closed."""
        found = self._pointer
        if found is None:
            raise EdgeGemmaValueError("The tokenizer's model is closed.", "state")
        return found

    def detach(self) -> None:
        """Forgets the engine's tokenizer, whose owner is about to free it."""
        self._pointer = None

    @classmethod
    def load(cls, path: FileSource) -> Tokenizer:
        """Opens the tokenizer of any Gemma 4 GGUF file, with or without weights: a path or a `FileDescriptor`.

        Takes some tens of milliseconds. Raises EdgeGemmaError (an OSError or a ValueError) for a file that is missing,
        damaged, or has another kind of vocabulary.
        """
        out, err = ffi.new("eg_tokenizer **"), new_struct("eg_error")
        check(lib.eg_tokenizer_open(file_params(path), out, err), err)
        return cls(out[0], lib.eg_tokenizer_close)

    def encode(self, text: str, special: bool = False, bos: bool = False) -> list[int]:
        """The token ids of `text`.

        `special`: texts of control tokens, such as "<|turn>", become these tokens; never pass True for text that came from
        outside, or somebody can write a turn marker into a prompt. `bos`: put <bos> first unless it is there.
        Raises ValueError for a lone surrogate (which is no text: decode with errors="replace" where it arose).
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            where = f"U+{ord(text[error.start]):04X}, at {error.start}"
            raise EdgeGemmaValueError(f"The text has a lone surrogate, {where}.", "argument") from None
        flags = (lib.EG_TEXT_SPECIAL if special else 0) | (lib.EG_TEXT_BOS if bos else 0)
        n, err = ffi.new("size_t *"), new_struct("eg_error")
        capacity = len(data) + 1
        while True:
            ids = ffi.new("int32_t[]", capacity)
            check(lib.eg_tokenizer_encode(self.pointer, data, len(data), flags, ids, capacity, n, err), err)
            if n[0] <= capacity:
                found: list[int] = ffi.unpack(ids, n[0])
                return found
            capacity = n[0]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`; bytes that form no character become U+FFFD.

        `special`: control tokens are written out instead of skipped. Raises ValueError for an id that is not below
        `vocab_size`.
        """
        numbers = [int(i) for i in ids]
        size = len(self)
        for number in numbers:
            if not 0 <= number < size:
                raise EdgeGemmaValueError(f"Token id {number} is outside the vocabulary of {size} tokens.", "argument")
        tokens = ffi.new("int32_t[]", numbers)
        flags = lib.EG_TEXT_SPECIAL if special else 0
        length, err = ffi.new("size_t *"), new_struct("eg_error")
        capacity = 8 * len(numbers) + 64
        while True:
            text = ffi.new("char[]", capacity)
            status = lib.eg_tokenizer_decode(self.pointer, tokens, len(numbers), flags, text, capacity, length, err)
            check(status, err)
            if length[0] <= capacity:
                return text_of(text, length[0])
            capacity = length[0]

    def pieces(self, special: bool = False) -> tuple[bytes, NDArray[np.uint64]]:
        """The bytes of all tokens one behind the other, and (vocab_size + 1,) offsets: those of token i are
        text[offsets[i] : offsets[i + 1]], as `decode` writes it alone, but for bytes that form no character.

        `special`: control tokens are written out; else they have no bytes. Takes some milliseconds.
        """
        flags = lib.EG_TEXT_SPECIAL if special else 0
        offsets, length, err = np.empty(self.vocab_size + 1, np.uint64), ffi.new("size_t *"), new_struct("eg_error")
        at = pointer(offsets, "uint64_t *")
        check(lib.eg_tokenizer_get_pieces(self.pointer, flags, ffi.NULL, 0, at, length, err), err)
        text = bytearray(length[0])
        check(
            lib.eg_tokenizer_get_pieces(
                self.pointer, flags, ffi.from_buffer("uint8_t[]", text), len(text), ffi.NULL, length, err
            ),
            err,
        )
        return bytes(text), offsets

    def find(self, text: str) -> int | None:
        """The id of the token written exactly so, such as "<|turn>" or "▁the"; None if there is none."""
        data = text.encode("utf-8", "surrogatepass")
        found = lib.eg_tokenizer_find(self.pointer, data, len(data))
        return None if found < 0 else found

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of the control and user-defined tokens by their texts: what `encode(special=True)` finds in a text."""
        if self._special_tokens is None:
            capacity = lib.eg_tokenizer_special_ids(self.pointer, ffi.NULL, 0)
            ids = ffi.new("int32_t[]", capacity)
            lib.eg_tokenizer_special_ids(self.pointer, ids, capacity)
            found: dict[str, int] = {}
            for number in ffi.unpack(ids, capacity) if capacity else ():
                found.setdefault(self.decode([number], special=True), number)
            self._special_tokens = found
        return types.MappingProxyType(self._special_tokens)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts of the control tokens, which `decode` leaves out unless it is asked for them."""
        if self._control_tokens is None:
            self._control_tokens = tuple(
                text for text, number in self.special_tokens.items() if not self.decode([number])
            )
        return self._control_tokens

    @property
    def eos(self) -> int | None:
        """The id of the token that ends an answer as <eos> does; the file may name another token for that."""
        found = int(lib.eg_tokenizer_eos(self.pointer))
        return None if found < 0 else found

    @property
    def chat_template(self) -> str | None:
        """The file's Jinja chat template, if it has one."""
        length = ffi.new("size_t *")
        tokenizer = self.pointer  # what the text is a part of
        text = lib.eg_tokenizer_chat_template(tokenizer, length)
        return None if text == ffi.NULL else text_of(text, length[0])

    @property
    def vocab_size(self) -> int:
        """The number of tokens; ids are below it."""
        return int(lib.eg_tokenizer_vocab_size(self.pointer))

    def __len__(self) -> int:
        """The number of tokens."""
        return self.vocab_size

    def __repr__(self) -> str:
        """Tells the size."""
        return f"<Tokenizer of {self.vocab_size:,} tokens>"


class StreamingDetokenizer:
    """Tokens to text, one by one: bytes of a character that is not complete yet are held back, as `Session.next` does.

    For tokens that were not drawn, such as those of a verified draft.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        """`tokenizer`: whose tokens they are."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._byte_tokens: dict[int, int] = {}  # token id -> the byte that it stands for

    def feed(self, token: int) -> str:
        """What the token adds, control tokens written out; "" while a character is incomplete."""
        text = self._tokenizer.decode([token], special=True)
        if text == "\ufffd" and (byte := self._byte(token)) is not None:
            return self._decoder.decode(bytes([byte]))
        return self._decoder.decode(text.encode())

    def finish(self) -> str:
        """U+FFFD for a character that was left incomplete, else ""."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def _byte(self, token: int) -> int | None:
        """The byte of a token that is no text by itself; None for a token whose text is U+FFFD."""
        if not self._byte_tokens:
            found = {self._tokenizer.find(f"<0x{byte:02X}>"): byte for byte in range(128, 256)}
            self._byte_tokens = {number: byte for number, byte in found.items() if number is not None}
        return self._byte_tokens.get(token)
