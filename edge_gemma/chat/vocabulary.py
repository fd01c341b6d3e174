"""llguidance's view of a vocabulary, which every grammar of a model shares.

Making it takes half a second and some tens of megabytes for Gemma's 262,144 tokens. So it is made once for each tokenizer, in a
thread of its own while a chat opens, and `view_bytes` tells memory plans about it.
"""

from __future__ import annotations

import importlib.util
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.interface import TokenizerLike
from ..engine.native import lib
from ..errors import EdgeGemmaValueError
from .calls import MARKERS

__all__ = ["can_constrain", "end_tokens", "library", "prepare", "view_bytes", "view_of"]

_ENDS = ("<turn|>",)  # besides <eos>
# Bytes for each token, measured with Gemma's vocabulary, and for the library itself.
_TOKEN_BYTES, _LIBRARY_BYTES = 120, 5_000_000
_CHECK_BYTES = 9_000_000  # of jsonschema-rs, which checks what is complete


def library() -> Any:
    """The module llguidance. Raises EdgeGemmaError "unsupported" without it."""
    try:
        import llguidance
    except ImportError:
        raise EdgeGemmaValueError(
            "Structured output needs llguidance: pip install 'edge_gemma[structured]'.", "unsupported"
        ) from None
    return llguidance


def can_constrain() -> bool:
    """Whether llguidance is installed."""
    return importlib.util.find_spec("llguidance") is not None


def end_tokens(tokenizer: TokenizerLike) -> list[int]:
    """The ids of the tokens with which an answer can end: <eos> and <turn|>, as far as the vocabulary has them."""
    found = [tokenizer.eos, *map(tokenizer.find, _ENDS)]
    return list(dict.fromkeys(number for number in found if number is not None))


_views: weakref.WeakKeyDictionary[Any, Future[Any]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def prepare(tokenizer: TokenizerLike) -> Future[Any]:
    """Begins to make the view in a thread, unless there is one. Raises EdgeGemmaError "unsupported" without llguidance."""
    with _lock:
        if (found := _views.get(tokenizer)) is None:
            module, vocabulary = library(), _Vocabulary(tokenizer)
            found = _views[tokenizer] = Future()
            # No daemon: the end of the interpreter waits for a thread that is inside llguidance.
            threading.Thread(target=_make, args=(found, module, vocabulary), name="edge-gemma-grammar").start()
    return found


def view_of(tokenizer: TokenizerLike) -> Any:
    """llguidance's tokenizer, kept for as long as ours. Waits until it is made. Raises as `prepare`."""
    return prepare(tokenizer).result()


def view_bytes(tokenizer: TokenizerLike) -> int:
    """Bytes that making the view adds to the process, and checking what is complete; 0 if there is a view, or llguidance is not
    installed."""
    with _lock:
        made = (found := _views.get(tokenizer)) is not None and found.done()
    if made or not can_constrain():
        return 0
    checks = _CHECK_BYTES if importlib.util.find_spec("jsonschema_rs") is not None else 0
    return _LIBRARY_BYTES + checks + _TOKEN_BYTES * tokenizer.vocab_size


def _make(made: Future[Any], module: Any, vocabulary: _Vocabulary) -> None:
    try:
        wrapper = module.TokenizerWrapper(vocabulary)
        # Without slices, which are tries of what strings usually hold. They would double memory and time, to save 2 ms for a
        # token that is refused inside a free string, where hardly any token is.
        view = module.LLTokenizer(wrapper, n_vocab=len(vocabulary.tokens), eos_token=vocabulary.ends, slices=[])
        wrapper.tokens = vocabulary.tokens = ()  # llguidance has copied them
        lib.eg_memory_trim()  # 15 MB, which were the tokens one by one
    except BaseException as error:
        made.set_exception(error)
    else:
        made.set_result(view)


class _Vocabulary:
    """A tokenizer as llguidance reads it. llguidance keeps it, so it must not keep the tokenizer, by which its view is found
    and dropped."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = weakref.ref(tokenizer)
        control = {*tokenizer.control_tokens, *MARKERS}
        special = [number for text, number in tokenizer.special_tokens.items() if text in control]
        self.tokens: Sequence[bytes] = _Pieces(*tokenizer.pieces(special=True), frozenset(special))
        self.special_token_ids = special
        self.ends = end_tokens(tokenizer)
        self.eos_token_id = self.ends[0]
        self.bos_token_id = tokenizer.find("<bos>")

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text."""
        tokenizer = self._tokenizer()
        assert tokenizer is not None, "llguidance's view of a vocabulary has outlived it"
        return tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class _Pieces(Sequence[bytes]):
    """The bytes of every token, made when they are asked for: as objects all at once they would take 17 MB. Those of control
    tokens begin with 0xFF, so that no text matches them."""

    def __init__(self, text: bytes, offsets: NDArray[np.uint64], control: frozenset[int]) -> None:
        self._text, self._offsets, self._control = text, offsets, control

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self._offsets) - 1

    def __getitem__(self, number: Any) -> Any:
        """The bytes of one token."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._piece(number, int(self._offsets[number]), int(self._offsets[number + 1]))

    def __iter__(self) -> Iterator[bytes]:
        """The bytes of every token."""
        bounds = memoryview(self._offsets)  # whose elements are numbers of Python at once
        return map(self._piece, range(len(self)), bounds, bounds[1:])

    def _piece(self, number: int, begin: int, end: int) -> bytes:
        piece = self._text[begin:end]
        return b"\xff" + piece if number in self._control else piece
