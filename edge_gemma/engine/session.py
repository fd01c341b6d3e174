"""`Session`: one timeline of tokens, fed and continued."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from .audio import AUDIO_PIECE, AudioFeed, audio_params, audio_tokens, sound_array
from .config import ModelConfig
from .constrained import Constrained
from .constraint import Constraint, TokenCheck
from .generation import Generation, Token, stop_texts
from .interface import Form, ModelLike
from .native import KV_TYPES, Handle, check, ffi, float_array, int_array, lib, new_struct, pointer
from .sampling import NativeSampling, Sampling, mask_words
from .tokens import token_of

_DEFAULT = Sampling()
# A prompt goes to the engine in pieces, so that Python sees Ctrl-C in between; results do not depend on the cut.
_PIECE = 128


def kv_type(name: str) -> int:
    """The engine's number of a KV cache type. Raises ValueError."""
    if name not in KV_TYPES:
        raise EdgeGemmaValueError(f"kv is {name!r}; choose f32, f16 or q8.", "argument")
    return KV_TYPES[name]


class Session(Handle):
    """One timeline: what was fed and generated, its KV cache, and the random sequence. Open with `Model.session`.

    Use a session from one thread at a time; `cancel()` alone may come from another.
    """

    kind = "session"
    instead = "fork() makes a second one"

    def __init__(
        self, model: ModelLike, config: ModelConfig, session: Any, adopt: Callable[[Any], Session], owner: Any = None
    ) -> None:
        """Takes over an `eg_session *`; `adopt` makes a session of a fork's, `owner` is the model's pointer. Internal: use
        `Model.session`."""
        super().__init__(session, lib.eg_session_close, owner=owner, cancel=lib.eg_session_cancel)
        self.model = model
        self._config, self._adopt = config, adopt
        self._err = new_struct("eg_error")
        self._native: NativeSampling | None = None  # that of the last token
        self._priority, self._cancel_requests = 0, 0

    def __repr__(self) -> str:
        """Tells the position."""
        return "<Session, closed>" if self.closed else f"<Session at position {self.position}>"

    # ---- feeding ----

    def feed_tokens(self, ids: ArrayLike) -> None:
        """Appends token ids. Raises EdgeGemmaError: code "context" when they do not fit (nothing was added), "argument"
        for an id outside the vocabulary, "cancelled" (the position tells what was kept)."""
        tokens = int_array(ids, "ids")
        if tokens.size <= _PIECE:
            return self._feed(tokens)
        # What could fail is checked before the first piece, so that a failure adds nothing.
        size = self._config.vocab_size
        if tokens.min() < 0 or tokens.max() >= size:
            raise EdgeGemmaValueError(f"ids has a number outside the vocabulary of {size} tokens.", "argument")
        room = self.context - self.position
        if tokens.size > room:
            raise EdgeGemmaValueError(
                f"{tokens.size} more tokens do not fit: {self.position} of the session's {self.context} are in use. "
                "Open a session with a larger context, rewind, or start a new one.",
                "context",
            )
        for start in range(0, tokens.size, _PIECE):
            self._feed(tokens[start : start + _PIECE])

    def _feed(self, tokens: NDArray[np.int32]) -> None:
        with self.exclusive() as session:
            check(lib.eg_session_feed_tokens(session, pointer(tokens, "int32_t *"), tokens.size, self._err), self._err)

    def feed_text(self, text: str, special: bool = False, bos: bool = False) -> None:
        """Appends text. `special` and `bos` as in `Tokenizer.encode`; errors as in `feed_tokens`."""
        self.feed_tokens(self.model.tokenizer.encode(text, special=special, bos=bos))

    def feed_embeddings(self, embeddings: ArrayLike, picture: bool = False) -> None:
        """Appends soft tokens: (n, hidden_size) float32, as an encoder makes them.

        `picture`: they are those of one picture, which see each other in the local layers of the models that have no
        per-layer embeddings (26B-A4B, 31B); for other models that changes nothing. Errors as in `feed_tokens`; "argument"
        for more tokens of a picture than 1,120.
        """
        rows = float_array(embeddings, (None, self._config.hidden_size), "embeddings")
        room = self.context - self.position
        whole = picture or len(rows) > room  # what does not fit is refused as a whole
        step = max(len(rows), 1) if whole else _PIECE
        flags = lib.EG_EMBEDDINGS_PICTURE if picture else 0
        for start in range(0, len(rows), step) or (0,):
            part = rows[start : start + step]
            with self.exclusive() as session:
                check(
                    lib.eg_session_feed_embeddings(session, pointer(part, "float *"), len(part), flags, self._err),
                    self._err,
                )

    def feed_image(self, image: Any, max_tokens: int | str | None = None, markers: bool = True) -> None:
        """Appends a picture, between <|image> and <image|> unless `markers` is False.

        Args:
            image: a path, `bytes`, a file object, a PIL image or an (h, w, 3) array of RGB values.
            max_tokens: its budget: 70, 140, 280, 560 or 1120 soft tokens, "low" (70), "high" (1120), "auto" (as many as the
                picture's own resolution takes); None for 280.

        The same picture is encoded once in a process. Raises EdgeGemmaError, and nothing was added: "file" and "format" for
        a picture that cannot be read, "unsupported" without a vision encoder, "context" when it does not fit, "cancelled".
        """
        from ..vision.feeding import feed_picture

        feed_picture(self, image, max_tokens, markers)

    def feed_video(
        self, video: Any, frames: int | None = None, fps: float | None = None, sound: bool | None = None
    ) -> None:
        """Appends a video: for each frame its time, such as "00:07", and its picture of up to 70 soft tokens; then the sound.

        Args:
            video: a path, a file object, or a list of (seconds, picture).
            frames: how many frames, evenly from the beginning; None for 32. A video with fewer gives all of them.
            fps: frames for each second of the video, instead of their number.
            sound: whether the first 30 seconds of the sound are heard, too; None for whether the model hears.

        Raises EdgeGemmaError as `feed_image`; "unsupported" also without PyAV (the extra `video`).
        """
        from ..vision.feeding import feed_video

        feed_video(self, video, frames, fps, sound)

    def feed_audio(self, samples: ArrayLike, markers: bool = True, left_context: int = 12) -> None:
        """Appends a whole recording: 16 kHz mono samples (n,) in [-1, 1], between <|audio> and <audio|> unless `markers` is
        False. Raises EdgeGemmaError: "unsupported" without an audio encoder; "argument" for less than 161 samples or one
        that is not finite, "context" when it does not fit (then nothing was added); "cancelled"."""
        sound, params = sound_array(samples), audio_params(left_context, markers)
        room = self.context - self.position
        if sound.size <= AUDIO_PIECE or audio_tokens(sound.size) + 3 > room or not np.isfinite(sound).all():
            with self.exclusive() as session:  # refuses what cannot be fed, as a whole
                check(
                    lib.eg_session_feed_audio(session, pointer(sound, "float *"), sound.size, params, self._err),
                    self._err,
                )
            return
        with self.stream_audio(markers, left_context) as audio:
            audio.push(sound)

    def stream_audio(self, markers: bool = True, left_context: int = 12) -> AudioFeed:
        """Begins audio that is encoded and fed while it comes:

            with session.stream_audio() as audio:
                for samples in microphone:
                    audio.push(samples)

        Options and errors as in `feed_audio`. Until it is finished nothing else can be fed; `fork` copies it too.
        """
        with self.exclusive() as session:
            check(lib.eg_session_audio_begin(session, audio_params(left_context, markers), self._err), self._err)
        return AudioFeed(self)

    @property
    def audio(self) -> AudioFeed | None:
        """The audio that is being fed; None when there is none."""
        return AudioFeed(self) if lib.eg_session_audio_is_open(self.pointer) else None

    # ---- results ----

    def logits(self) -> NDArray[np.float32]:
        """(vocab,) float32: the logits that follow the last token. Raises EdgeGemmaError "state" when nothing was fed."""
        out = np.empty(self._config.vocab_size, np.float32)
        with self.exclusive() as session:
            check(lib.eg_session_logits(session, pointer(out, "float *"), self._err), self._err)
        return out

    def forward(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Appends ids and returns the logits of every position: (n, vocab) float32."""
        return self._forward(ids, logits=True, hidden=False)[0]

    def hidden_states(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Appends ids and returns (layers + 1, n, hidden_size) float32: the scaled embeddings, then the output of each
        layer, the last one after the final norm (the convention of Hugging Face)."""
        return self._forward(ids, logits=False, hidden=True)[1]

    def _forward(self, ids: ArrayLike, logits: bool, hidden: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens, config = int_array(ids, "ids"), self._config
        n = tokens.size
        out = np.empty((n if logits else 0, config.vocab_size), np.float32)
        states = np.empty((config.layers + 1, n if hidden else 0, config.hidden_size), np.float32)
        # In pieces as `feed_tokens`; what cannot be fed is refused as a whole.
        fits = n <= self.context - self.position and (not n or (tokens.min() >= 0 and tokens.max() < config.vocab_size))
        step = _PIECE if fits else n
        for start in range(0, n, step) if n else (0,):
            part = tokens[start : start + step]
            rows = np.empty((config.layers + 1, part.size if hidden else 0, config.hidden_size), np.float32)
            with self.exclusive() as session:
                status = lib.eg_session_forward(
                    session,
                    pointer(part, "int32_t *"),
                    part.size,
                    pointer(out[start:], "float *") if logits else ffi.NULL,
                    pointer(rows, "float *") if hidden else ffi.NULL,
                    self._err,
                )
                check(status, self._err)
            if hidden:
                states[:, start : start + step] = rows
        return out, states

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
        """Draws a token and appends it.

        Args:
            sampling: None for the defaults; its seed is not used here, `seed` begins the sequence.
            special: the texts of control tokens are written out.
            mask: which tokens may be drawn: (vocab_size,) bools, or a bit for each token in 32-bit words, as grammar
                engines make them.
            logprobs: the token tells its log-probability, and those of so many of the likeliest ones, 64 at most.
            constraint: is asked whether the token that was drawn may stand here, and for a mask only if not. The caller
                tells it which token it became.
            prefix: ids that are appended first, in the same pass through the weights.

        Raises:
            EdgeGemmaError: "context" when the session is full; "state" when nothing was fed, or no token can be drawn;
                `Cancelled`. What the constraint raises. Then nothing was drawn.
        """
        words = mask_words(mask, self._config.vocab_size)
        asked = None if constraint is None else TokenCheck(constraint, self._config.vocab_size)
        options = self._sampling(sampling or _DEFAULT, special).require(words, logprobs, asked)
        item, token = new_struct("eg_batch_item"), new_struct("eg_token")
        if prefix is not None:
            ids = int_array(prefix, "prefix")
            item.ids, item.n = pointer(ids, "int32_t *"), ids.size
        item.draw, item.sampling, item.token = True, options, token
        with self.exclusive() as session:
            item.session = session
            status = lib.eg_batch_run(item, 1, self._err)
            if asked is not None and asked.raised is not None:
                raise asked.raised
            check(status, self._err)
            return token_of(token, logprobs)

    def _sampling(self, options: Sampling, special: bool) -> NativeSampling:
        if self._native is None or self._native.sampling is not options or self._native.special != special:
            self._native = NativeSampling(options, special)
        return self._native

    def verify(self, ids: ArrayLike, sampling: Sampling | None = None, *, logprobs: list[float] | None = None) -> int:
        """Checks a draft, a guess at the next tokens, several in one pass. Keeps and appends its beginning as far as `next`
        with these options would have drawn the same tokens, and returns their number.

        The session is then as if they had been drawn, and `next` goes on with the first token that differs. So a good draft
        makes an answer faster, and no draft changes it. `logprobs` receives the log-probabilities of the kept tokens.
        Errors as in `next`.
        """
        tokens = int_array(ids, "ids")
        options = self._sampling(sampling or _DEFAULT, False).require(None, None)
        kept, measured = ffi.new("size_t *"), np.empty(tokens.size if logprobs is not None else 0, np.float32)
        with self.exclusive() as session:
            status = lib.eg_session_verify(
                session,
                pointer(tokens, "int32_t *"),
                tokens.size,
                options,
                ffi.NULL if logprobs is None else pointer(measured, "float *"),
                kept,
                self._err,
            )
            if logprobs is not None:
                logprobs += measured[: kept[0]].tolist()
            check(status, self._err)
        return int(kept[0])

    def seed(self, seed: int) -> None:
        """Begins the random sequence anew: the same seed, tokens and options give the same text on every machine."""
        lib.eg_session_seed(self.pointer, operator.index(seed) & (2**64 - 1))

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
        """Continues the timeline. The result yields pieces of text as they are drawn, whole characters only.

        It ends at <eos>, <turn|> or <|tool_response> (which is appended, but has no text), at a text of `stop` (which is
        left out), after `max_tokens`, or by `cancel()`; `Generation.stop` tells which.

        Args:
            max_tokens: the most tokens to draw.
            stop: a text, or several, that ends it.
            sampling: how tokens are drawn; `temperature`, `top_p`, `top_k`, `seed` and the others change single options
                of it. None for the defaults of `Sampling`.
            special: the texts of control tokens are written out.
            logprobs: as in `next`; see `Generation.logprobs` and `Generation.tokens`.
            schema: a JSON schema, as a mapping or as JSON text: the answer is JSON that it allows.
            regex: a regular expression that the whole answer matches.
            grammar: a grammar that the answer follows, in the Lark notation of llguidance; or a `Grammar`, which several
                answers can share. One of `schema`, `regex` and `grammar` can be given. Tokens that it leaves no choice for
                are not drawn but fed, all in one pass, unless `logprobs` asks about each.

        Raises:
            EdgeGemmaError: "argument" for an option out of range or an unusable form, at once; "unsupported" without llguidance
                (the extra `structured`); "context" while it is iterated over, when the session is full; "grammar" when
                following the form takes more work than is allowed.
        """
        changes = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "penalty_window": penalty_window,
            "logit_bias": logit_bias,
            "suppress": suppress,
        }
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        options = replace(sampling or _DEFAULT, **given)
        stops = stop_texts(stop)

        form: Any = grammar
        if schema is not None or regex is not None or isinstance(grammar, str):
            from ..chat.structured import form_of

            form = form_of(schema, regex, grammar)
        constrained = form and Constrained(self, form.start(self.model.tokenizer), options, special, logprobs)

        def draw(left: int) -> Sequence[Token]:
            return constrained.draw(left) if constrained else (self.next(options, special=special, logprobs=logprobs),)

        if options.seed is not None:
            self.seed(options.seed)
        return Generation(draw, max_tokens, stops)

    # ---- timeline ----

    @property
    def position(self) -> int:
        """How many tokens the timeline has."""
        return int(lib.eg_session_position(self.pointer))

    @property
    def context(self) -> int:
        """How many tokens it can have."""
        return int(lib.eg_session_context(self.pointer))

    @property
    def tokens(self) -> list[int]:
        """The ids of the timeline; soft tokens are -1."""
        n = self.position
        ids = ffi.new("int32_t[]", n or 1)
        return ffi.unpack(ids, lib.eg_session_get_tokens(self.pointer, 0, ids, n)) if n else []

    def rewind(self, n: int) -> None:
        """Goes back by n tokens; errors as in `rewind_to`."""
        if n < 0:
            raise EdgeGemmaValueError("n must not be negative.", "argument")
        position = self.position
        if n > position:
            raise EdgeGemmaValueError(f"cannot go back by {n} tokens: the session has {position}.", "argument")
        self.rewind_to(position - n)

    def rewind_to(self, position: int) -> None:
        """Goes back to where the timeline had `position` tokens. Raises EdgeGemmaError: "argument" when it has fewer,
        "state" when soft tokens would have to be evaluated again or audio is open (then nothing changes)."""
        if position < 0:
            raise EdgeGemmaValueError("position must not be negative.", "argument")
        with self.exclusive() as session:
            check(lib.eg_session_rewind_to(session, position, self._err), self._err)

    def sync(self, ids: ArrayLike) -> int:
        """Makes the timeline equal to `ids` with the least work: goes back to where they differ, and feeds the rest. Returns
        how many tokens need not be evaluated again.

        -1 stands for a soft token that the timeline has at this place. Raises EdgeGemmaError, and nothing changes:
        "argument" when a soft token would have to be fed, "context" when the ids do not fit, "state" as in `rewind_to`.
        """
        tokens, kept = int_array(ids, "ids"), ffi.new("size_t *")
        with self.exclusive() as session:
            check(lib.eg_session_sync(session, pointer(tokens, "int32_t *"), tokens.size, kept, self._err), self._err)
        return int(kept[0])

    @property
    def priority(self) -> int:
        """Whose calls go first when several sessions of a model compute at the same time: the higher. Those of equal
        priority share the threads evenly. 0 at first, within -1000 and 1000; a fork has that of its original."""
        return self._priority

    @priority.setter
    def priority(self, priority: int) -> None:
        with self.exclusive() as session:
            check(lib.eg_session_set_priority(session, priority, self._err), self._err)
        self._priority = priority

    def fork(self) -> Session:
        """A second session with the same timeline, independent from now on. Raises MemoryError."""
        out = ffi.new("eg_session **")
        with self.exclusive() as session:
            check(lib.eg_session_fork(session, out, self._err), self._err)
        copy = self._adopt(out[0])
        copy._priority = self._priority
        return copy

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the timeline to a file for `Model.session(restore=path)`. Raises OSError, also for a pipe or a device."""
        target = os.path.realpath(path) if os.path.islink(path) else path  # a symbolic link stays one
        if os.path.exists(path) and not os.path.isfile(path):  # which the new file would replace
            raise EdgeGemmaOSError(f"{os.fsdecode(path)} is no regular file: give the name of a file.", "file")
        with self.exclusive() as session:
            check(lib.eg_session_save(session, os.fsencode(target), self._err), self._err)

    def cancel(self) -> None:
        """Stops the call that runs in another thread within one layer, or else the next one that computes: it raises
        `Cancelled`. Feeding no tokens uses up a request that came too late."""
        lib.eg_session_cancel(self.pointer)
        self._cancel_requests += 1  # after the request is there: who sees the number finds the request

    @property
    def cancel_requests(self) -> int:
        """How often `cancel` was called. Work for the session that is not done by the engine, or not on its timeline, ends when
        this number changes."""
        return self._cancel_requests

    # ---- reports ----

    @property
    def stats(self) -> dict[str, float]:
        """prefill_tokens and decode_tokens; audio_tokens, those that the audio encoder made; the seconds spent in each.

        Of a model larger than its memory limit also expert_hits and expert_misses, the experts of a layer that were in memory
        when they were chosen and that were not, and weight_bytes, those that were read. Otherwise these are 0.
        """
        out = new_struct("eg_stats")
        check(lib.eg_session_get_stats(self.pointer, out, self._err), self._err)
        return {
            "prefill_tokens": out.prefill_tokens,
            "decode_tokens": out.decode_tokens,
            "prefill_seconds": out.prefill_seconds,
            "decode_seconds": out.decode_seconds,
            "audio_tokens": out.audio_tokens,
            "audio_seconds": out.audio_seconds,
            "expert_hits": out.expert_hits,
            "expert_misses": out.expert_misses,
            "weight_bytes": out.weight_bytes,
        }

    def memory(self) -> dict[str, int]:
        """Bytes: those of `Model.memory`, the session's `kv` cache, and its `scratch`."""
        out = new_struct("eg_memory")
        check(lib.eg_session_get_memory(self.pointer, out, self._err), self._err)
        return {key: getattr(out, key) for key in ("mapped", "resident", "tables", "workspace", "kv", "scratch")}
