"""What the folders above need of a model, a session and a tokenizer, as protocols.

The engine's own classes satisfy them; so does the scripted model of the tests, which a test compares with the real signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constraint import Constraint
from .generation import Generation, Token
from .sampling import Sampling

__all__ = ["AudioFeedLike", "ConfigLike", "Form", "ModelLike", "SessionLike", "TokenizerLike"]


class TokenizerLike(Protocol):
    """Text to tokens and back; see `Tokenizer`."""

    def encode(self, text: str, special: bool = False, bos: bool = False) -> list[int]:
        """The token ids of a text."""
        ...

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of token ids."""
        ...

    def pieces(self, special: bool = False) -> tuple[bytes, NDArray[np.uint64]]:
        """The bytes of all tokens one behind the other, and where each begins and the last ends."""
        ...

    def find(self, text: str) -> int | None:
        """The id of the token written exactly so."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of control and user-defined tokens by their texts."""
        ...

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts of the control tokens."""
        ...

    @property
    def eos(self) -> int | None:
        """The id of the token that ends an answer as <eos> does."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template of the file."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens; ids are below it."""
        ...


class Form(Protocol):
    """What answers are limited to, such as a `Grammar`."""

    def start(self, tokenizer: TokenizerLike) -> Constraint:
        """A constraint at the beginning of an answer."""
        ...


class ConfigLike(Protocol):
    """What is asked of a model's shape; see `ModelConfig`."""

    @property
    def context_length(self) -> int:
        """Tokens of the longest timeline."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        ...


class AudioFeedLike(Protocol):
    """Audio on its way into a session; see `AudioFeed`."""

    def push(self, samples: ArrayLike) -> None:
        """Adds (n,) samples at 16 kHz."""
        ...

    def finish(self) -> None:
        """Ends the audio."""
        ...

    def abandon(self) -> None:
        """Drops the audio."""
        ...


class SessionLike(Protocol):
    """One timeline of tokens; see `Session`."""

    @property
    def model(self) -> ModelLike:
        """The model that it belongs to."""
        ...

    @property
    def position(self) -> int:
        """How many tokens the timeline has."""
        ...

    @property
    def context(self) -> int:
        """How many tokens it can have."""
        ...

    @property
    def tokens(self) -> list[int]:
        """The ids of the timeline; soft tokens are -1."""
        ...

    @property
    def audio(self) -> AudioFeedLike | None:
        """The audio that is being fed."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    @property
    def stats(self) -> dict[str, float]:
        """Tokens that were fed and drawn, and the seconds that this took."""
        ...

    def feed_tokens(self, ids: ArrayLike) -> None:
        """Appends token ids."""
        ...

    def feed_embeddings(self, embeddings: ArrayLike, picture: bool = False) -> None:
        """Appends soft tokens."""
        ...

    def feed_audio(self, samples: ArrayLike, markers: bool = True, left_context: int = 12) -> None:
        """Appends a recording."""
        ...

    def stream_audio(self, markers: bool = True, left_context: int = 12) -> AudioFeedLike:
        """Begins audio that is fed while it comes."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """(vocab,): the logits that follow the last token."""
        ...

    def forward(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Appends ids; (n, vocab): the logits of every position."""
        ...

    def next(
        self,
        sampling: Sampling | None = None,
        *,
        special: bool = False,
        mask: ArrayLike | None = None,
        logprobs: int | None = None,
        constraint: Constraint | None = None,
        prefix: ArrayLike | None = None,
    ) -> Token:
        """Draws a token and appends it."""
        ...

    def verify(self, ids: ArrayLike, sampling: Sampling | None = None, *, logprobs: list[float] | None = None) -> int:
        """Keeps of a draft what would have been drawn."""
        ...

    def seed(self, seed: int) -> None:
        """Begins the random sequence anew."""
        ...

    def generate(
        self,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        *,
        sampling: Sampling | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        penalty_window: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        suppress: Sequence[int] | None = None,
        special: bool = False,
        logprobs: int | None = None,
        schema: Mapping[str, Any] | bool | str | None = None,
        regex: str | None = None,
        grammar: str | Form | None = None,
    ) -> Generation:
        """Continues the timeline."""
        ...

    def rewind(self, n: int) -> None:
        """Goes back by n tokens."""
        ...

    def rewind_to(self, position: int) -> None:
        """Goes back to a position."""
        ...

    def sync(self, ids: ArrayLike) -> int:
        """Makes the timeline equal to ids."""
        ...

    @property
    def priority(self) -> int:
        """Whose calls go first."""
        ...

    @priority.setter
    def priority(self, priority: int) -> None: ...

    def fork(self) -> SessionLike:
        """A second session with the same timeline."""
        ...

    def cancel(self) -> None:
        """Ends the call that runs in another thread, or the next one."""
        ...

    @property
    def cancel_requests(self) -> int:
        """How often `cancel` was called."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class ModelLike(Protocol):
    """An open model; see `Model`."""

    @property
    def path(self) -> Path:
        """The model's file."""
        ...

    @property
    def tokenizer(self) -> TokenizerLike:
        """Its tokenizer."""
        ...

    @property
    def config(self) -> ConfigLike:
        """Its shape."""
        ...

    @property
    def has_audio(self) -> bool:
        """Whether it has an audio encoder."""
        ...

    @property
    def has_vision(self) -> bool:
        """Whether it has a vision encoder."""
        ...

    def audio_tokens(self, samples: int) -> int:
        """Soft tokens of a recording of so many samples."""
        ...

    def image_tokens(self, width: int, height: int, max_tokens: int = 280) -> int:
        """Soft tokens of a picture of so many pixels."""
        ...

    def encode_image(
        self, image: Any, max_tokens: int = 280, *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Soft tokens of a picture: (n, hidden_size)."""
        ...

    def session(
        self, context: int | None = None, kv: str | None = None, restore: Any = None, memory_limit: Any = None
    ) -> SessionLike:
        """Opens a session."""
        ...
