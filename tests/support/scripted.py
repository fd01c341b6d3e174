"""A model whose answers are written down: it stands for `Model`, `Session`, `Tokenizer` and `AudioFeed` where a test is about
what is fed and what becomes of the answer.

    model = ScriptedModel(["Hello!", "Fine."])                              # the answers, in their order
    model = ScriptedModel("Yes.")                                           # always the same answer
    model = ScriptedModel(lambda session: f"{session.seconds:.1f} seconds")  # an answer that depends on the timeline

An answer is a text (its markers become control tokens), a list of tokens, or an exception, which is raised in place of the
first token. A list may hold token ids, texts that are one token each, and exceptions that are raised at their place. After
its last token an answer ends with <turn|>.

An answer stands at a place of the timeline, as that of a real model does: after the last "<|turn>model\\n" or
<tool_response|> that was fed, else after the last token that was fed. So drafts can be checked,
and forks and rewound sessions go on with the same answer. Feeding ends it; the first token that is asked for after that
begins the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_gemma.chat.calls import MARKERS
from edge_gemma.chat.conversation import Chat
from edge_gemma.engine.audio import audio_tokens
from edge_gemma.engine.constraint import Constraint
from edge_gemma.engine.generation import Generation, Token
from edge_gemma.engine.interface import Form, TokenizerLike
from edge_gemma.engine.sampling import Sampling
from edge_gemma.engine.session import Session
from edge_gemma.engine.tokenizer import StreamingDetokenizer
from edge_gemma.errors import Cancelled, EdgeGemmaError, EdgeGemmaValueError
from edge_gemma.vision.budgets import target_size

RATE = 16000
SAMPLES_OF_TOKEN = 640
STOPS = {"<eos>": "eos", "<turn|>": "turn", "<|tool_response>": "tool_response"}
OPENINGS = ("<|turn>model\n", "<tool_response|>")

Answer: TypeAlias = "str | Exception | Sequence[int | str | Exception]"
AnswerFunction: TypeAlias = "Callable[[ScriptedSession], Answer]"
Script: TypeAlias = "str | AnswerFunction | Sequence[Answer | AnswerFunction]"


class ScriptedTokenizer:
    """One token for each marker and each character, and for each text that `word` was called with."""

    _FIRST_CHARACTER = 1000
    _FIRST_WORD = _FIRST_CHARACTER + 0x10000

    def __init__(self, chat_template: str | None = None, markers: Sequence[str] = (), eos: str = "<eos>") -> None:
        """The markers have the ids from 1 on, `markers` after those of Gemma."""
        self._eos = eos
        self.chat_template, self.vocab_size = chat_template, self._FIRST_WORD + 0x4000
        self._markers = {marker: number for number, marker in enumerate((*MARKERS, *markers), start=1)}
        self._names = {number: marker for marker, number in self._markers.items()}
        self._words: dict[str, int] = {}
        self._spellings: dict[int, str] = {}

    def word(self, text: str) -> int:
        """The id of a token with this text, which `encode` writes with a token for each character."""
        if text in self._markers:
            return self._markers[text]
        if len(text) == 1 and ord(text) < 0x10000:
            return self._FIRST_CHARACTER + ord(text)
        number = self._words.setdefault(text, self._FIRST_WORD + len(self._words))
        assert number < self.vocab_size, "the test has too many words"
        self._spellings[number] = text
        return number

    def encode(self, text: str, special: bool = False, bos: bool = False) -> list[int]:
        """As `Tokenizer.encode`."""
        ids: list[int] = []
        while text:
            marker = next((marker for marker in self._markers if special and text.startswith(marker)), text[0])
            ids.append(self.word(marker))
            text = text[len(marker) :]
        start = self._markers["<bos>"]
        return [start, *ids] if bos and ids[:1] != [start] else ids

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """As `Tokenizer.decode`."""
        return "".join(self._text(number, special) for number in ids)

    def pieces(self, special: bool = False) -> tuple[bytes, NDArray[np.uint64]]:
        """As `Tokenizer.pieces`; numbers that are no token are empty."""
        every = [self._bytes(number, special) for number in range(self.vocab_size)]
        return b"".join(every), np.cumsum([0, *map(len, every)]).astype(np.uint64)

    def _bytes(self, number: int, special: bool) -> bytes:
        try:
            return self._text(number, special).encode("utf-8", "surrogatepass")
        except EdgeGemmaValueError:
            return b""

    def _text(self, number: int, special: bool) -> str:
        if number in self._names:
            return self._names[number] if special else ""
        if number in self._spellings:
            return self._spellings[number]
        if not self._FIRST_CHARACTER <= number < self._FIRST_WORD:
            raise EdgeGemmaValueError(f"Token id {number} is outside the vocabulary.", "argument")
        return chr(number - self._FIRST_CHARACTER)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """As `Tokenizer.special_tokens`."""
        return self._markers

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """As `Tokenizer.control_tokens`."""
        return tuple(self._markers)

    @property
    def eos(self) -> int | None:
        """As `Tokenizer.eos`."""
        return self._markers[self._eos]

    def find(self, text: str) -> int | None:
        """As `Tokenizer.find`."""
        known = text in self._markers or text in self._words or (len(text) == 1 and ord(text) < 0x10000)
        return self.word(text) if known else None


@dataclass
class ScriptedConfig:
    """The shape of a scripted model, which a test may change."""

    context_length: int
    vocab_size: int
    audio: bool = True
    name: str = "Scripted"
    parameters: int = 1000
    per_layer_input: int = 256


@dataclass(frozen=True)
class Request:
    """What an answer was asked for with.

    Attributes:
        tokens: the timeline before the answer.
        sampling, special: those of the call that drew its first token.
        max_tokens: that of `generate`; None when the token was drawn with `next`.
    """

    tokens: list[int]
    sampling: Sampling
    special: bool
    max_tokens: int | None


class ScriptedModel:
    """The model. `script` tells what it says; see above.

    Attributes:
        script: the answers that are left, or what each answer is.
        on_call: called as `on_call(session, name, value)` when a call of a session begins, with the ids or samples that are
            fed, or None. It may wait, cancel the session, or raise.
        on_encode: called with each picture before it is encoded.
        sessions: all that were opened or forked, in their order.
        opened: the options of each `session()`.
        requests: one for each answer, added when its first token is drawn.
        heard: the samples of each recording that was fed to its end.
        encoded: the pictures that were encoded, (h, w, 3) uint8, and their budgets.
        certainty: the logit of the token that follows; those of all others are 0.
        drawn, checked: tokens that were drawn by `next`, and that were evaluated by `verify` or `forward`.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        tokenizer: TokenizerLike | None = None,
        context_length: int = 4096,
        has_audio: bool = True,
        has_vision: bool = True,
    ) -> None:
        """`tokenizer`: a real one may take the place of `ScriptedTokenizer`."""
        self.tokenizer: TokenizerLike = tokenizer or ScriptedTokenizer()
        self.script: str | AnswerFunction | list[Answer | AnswerFunction] = (
            script if isinstance(script, str) or callable(script) else list(script)
        )
        self.path, self.mmproj, self.threads = Path("scripted.gguf"), None, 1
        self.has_audio, self.has_vision, self.closed = has_audio, has_vision, False
        self.config = ScriptedConfig(context_length, self.tokenizer.vocab_size, has_audio)
        self.on_call: Callable[[ScriptedSession, str, Any], None] | None = None
        self.on_encode: Callable[[Any], None] | None = None
        self.sessions: list[ScriptedSession] = []
        self.opened: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.heard: list[NDArray[np.float32]] = []
        self.encoded: list[tuple[NDArray[np.uint8], int]] = []
        self.drawn = self.checked = 0
        self.certainty = 1.0

    @property
    def logprob(self) -> float:
        """The log-probability of the token that follows."""
        return float(self.certainty - np.log(self.config.vocab_size - 1 + np.exp(self.certainty)))

    def session(
        self, context: int | None = None, kv: str | None = None, restore: Any = None, memory_limit: Any = None
    ) -> ScriptedSession:
        """As `Model.session`."""
        self.opened.append({"context": context, "kv": kv, "restore": restore, "memory_limit": memory_limit})
        return ScriptedSession(self, min(4096, self.config.context_length) if context is None else context)

    def chat(self, **options: Any) -> Chat:
        """As `Model.chat`."""
        return Chat(self, **options)

    def audio_tokens(self, samples: int) -> int:
        """As `Model.audio_tokens`."""
        return audio_tokens(samples)

    def image_tokens(self, width: int, height: int, max_tokens: int = 280) -> int:
        """As `Model.image_tokens`."""
        rows, columns = target_size(height, width, max_tokens)
        return rows * columns // 48**2

    def encode_image(
        self, image: Any, max_tokens: int = 280, *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """As `Model.encode_image`, with eight numbers a token, the mean of the pixels among them."""
        if self.on_encode:
            self.on_encode(image)
        self.encoded.append((image, max_tokens))
        if progress:
            progress(1, 2)
            progress(2, 2)
        count = self.image_tokens(image.shape[1], image.shape[0], max_tokens)
        return np.full((count, 8), image.mean(), np.float32)

    def take_answer(self, session: ScriptedSession) -> Answer:
        """The answer that the session begins now."""
        if isinstance(self.script, list):
            assert self.script, "the script has no answer left"
            entry = self.script.pop(0)
        else:
            entry = self.script
        return entry(session) if callable(entry) else entry

    def close(self) -> None:
        """Closes its sessions as well."""
        for session in self.sessions:
            session.close()
        self.closed = True

    def __enter__(self) -> ScriptedModel:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()


@dataclass(frozen=True)
class _Recording:
    """A recording in the timeline: its soft tokens begin at `start`."""

    start: int
    blocks: tuple[NDArray[np.float32], ...] = ()
    length: int = 0

    @property
    def end(self) -> int:
        return self.start + audio_tokens(self.length)

    def add(self, samples: NDArray[np.float32]) -> _Recording:
        return _Recording(self.start, (*self.blocks, samples), self.length + len(samples))

    def cut(self, position: int) -> _Recording:
        """What is left of it in a timeline of `position` tokens."""
        if position >= self.end:
            return self
        samples = self.samples()[: max(0, position - self.start) * SAMPLES_OF_TOKEN]
        return _Recording(self.start, (samples,), len(samples))

    def samples(self) -> NDArray[np.float32]:
        return np.concatenate([np.zeros(0, np.float32), *self.blocks])


class ScriptedFeed:
    """Audio on its way into a scripted session; as `AudioFeed`."""

    def __init__(self, session: ScriptedSession) -> None:
        """`session`: which is fed."""
        self.session = session

    def push(self, samples: ArrayLike) -> None:
        """As `AudioFeed.push`; soft tokens are there at once."""
        self.session.push(samples)

    def finish(self) -> None:
        """As `AudioFeed.finish`."""
        self.session.finish()

    def abandon(self) -> None:
        """As `AudioFeed.abandon`."""
        if not self.session.closed and self.session.audio is not None:
            self.session.abandon()

    def __enter__(self) -> ScriptedFeed:
        """Itself."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Finishes the audio, or abandons it after an exception."""
        if error is not None:
            self.abandon()
        elif self.session.audio is not None:
            self.finish()


class ScriptedSession:
    """A session; from `ScriptedModel.session`, or `fork`.

    Attributes:
        model, context: as those of `Session`.
        parent: the session that it was forked from.
        fed: what this session was fed, in its order: lists of ids, and pairs such as ("audio", samples).
        seeds: what `seed` was called with.
        rewind_limit: by how many tokens it can go back, unless it is to the beginning; None for any number. It raises
            "state" where it cannot.
        drawn: tokens that were drawn by `next`.
    """

    def __init__(self, model: ScriptedModel, context: int, parent: ScriptedSession | None = None) -> None:
        """Internal: use `ScriptedModel.session`, or `fork`."""
        self.priority: int = parent.priority if parent else 0
        self.model, self.context, self.parent = model, context, parent
        self.fed: list[list[int] | tuple[str, Any]] = []
        self.seeds: list[int] = []
        self.closed, self.drawn = False, 0
        self.rewind_limit: int | None = None
        self._cancelled = False
        self.cancel_requests = 0
        self._max_tokens: int | None = None  # of the `generate` that draws next
        self._ids: list[int] = list(parent._ids) if parent else []
        self._recordings: list[_Recording] = list(parent._recordings) if parent else []
        self._streaming: bool | None = (
            parent._streaming if parent else None
        )  # with an end marker or without; None: no audio
        self._answer: list[int | Exception] | None = None
        self._answer_start: int = parent._answer_start if parent else 0
        self._drawn_until: int = parent._drawn_until if parent else 0
        self._requested: bool = parent._requested if parent else False  # whether model.requests has the answer
        self._incomplete: list[int] = []  # tokens of a character that is not complete
        self._letters = StreamingDetokenizer(model.tokenizer)
        if parent and parent._answer is not None:
            self._answer = list(parent._answer)
            for token in parent._incomplete:
                self._detokenize(token)
        self._stops = {model.tokenizer.find(marker): stop for marker, stop in STOPS.items()}
        self._stops[model.tokenizer.eos] = "eos"
        model.sessions.append(self)

    # ---- what a test or a script looks at ----

    @property
    def text(self) -> str:
        """The timeline as text, control tokens written out, soft tokens left out."""
        return self.model.tokenizer.decode([token for token in self._ids if token >= 0], special=True)

    @property
    def heard(self) -> NDArray[np.float32]:
        """(n,): the samples of the last recording in the timeline."""
        return self._recordings[-1].samples() if self._recordings else np.zeros(0, np.float32)

    @property
    def seconds(self) -> float:
        """The length of the last recording in the timeline."""
        return self._recordings[-1].length / RATE if self._recordings else 0.0

    @property
    def sampling(self) -> Sampling:
        """That of the answer whose first token was drawn last, in any session of the model."""
        return self.model.requests[-1].sampling

    # ---- as `Session` ----

    @property
    def position(self) -> int:
        """As `Session.position`."""
        return len(self._ids)

    @property
    def tokens(self) -> list[int]:
        """As `Session.tokens`."""
        return list(self._ids)

    @property
    def audio(self) -> ScriptedFeed | None:
        """As `Session.audio`."""
        return None if self._streaming is None else ScriptedFeed(self)

    @property
    def stats(self) -> dict[str, float]:
        """As `Session.stats`, of a machine that draws 50 tokens a second."""
        heard = sum(recording.end - recording.start for recording in self._recordings)
        return {
            "prefill_tokens": sum(len(fed) for fed in self.fed if isinstance(fed, list)),
            "decode_tokens": self.drawn,
            "prefill_seconds": 0.0,
            "decode_seconds": self.drawn / 50,
            "audio_tokens": heard,
            "audio_seconds": 0.0,
        }

    def feed_tokens(self, ids: ArrayLike) -> None:
        """As `Session.feed_tokens`; half of the tokens are kept when it is cancelled."""
        tokens = self._checked(ids)
        self._begin("feed_tokens", tokens, room=len(tokens), kept=tokens[: len(tokens) // 2])
        self.fed.append(tokens)
        self._append(tokens)

    def feed_embeddings(self, embeddings: ArrayLike, picture: bool = False) -> None:
        """As `Session.feed_embeddings`."""
        rows = np.asarray(embeddings, np.float32)
        self._begin("feed_embeddings", rows, room=len(rows))
        self.fed.append(("picture" if picture else "rows", rows))
        self._append([-1] * len(rows))

    def feed_audio(self, samples: ArrayLike, markers: bool = True, left_context: int = 12) -> None:
        """As `Session.feed_audio`."""
        sound = np.asarray(samples, np.float32)
        self._check_audio(len(sound))
        self._begin("feed_audio", sound, room=audio_tokens(len(sound)) + 2 * markers)
        self.fed.append(("audio", samples))
        self._open_recording(markers)
        self._hear(sound)
        self._end_recording(markers)

    def stream_audio(self, markers: bool = True, left_context: int = 12) -> ScriptedFeed:
        """As `Session.stream_audio`."""
        self._begin("stream_audio", None, room=int(markers))
        self._open_recording(markers)
        self._streaming = markers
        return ScriptedFeed(self)

    def push(self, samples: ArrayLike) -> None:
        """`AudioFeed.push`."""
        sound = np.array(samples, np.float32)
        self._check_streaming()
        recording = self._recordings[-1]
        self._begin("push", sound, recording.add(sound).end - recording.end, streaming=True)
        self._hear(sound)

    def abandon(self) -> None:
        """`AudioFeed.abandon`: the timeline goes back to where the audio began."""
        markers, self._streaming = bool(self._streaming), None
        self.rewind_to(self._recordings[-1].start - markers)

    def finish(self) -> None:
        """`AudioFeed.finish`."""
        self._check_streaming()
        if self._recordings[-1].end == self._recordings[-1].start:
            length = self._recordings[-1].length
            self.abandon()
            self._check_audio(length)
        self._begin("finish", None, room=int(bool(self._streaming)), streaming=True)
        markers, self._streaming = bool(self._streaming), None
        self.fed.append(("audio", self.heard))
        self._end_recording(markers)

    def logits(self) -> NDArray[np.float32]:
        """As `Session.logits`: `certainty` for the token that follows, 0 for all others."""
        self._begin("logits")
        if not self._ids:
            raise EdgeGemmaError("nothing was fed.", "state")
        row: NDArray[np.float32] = self._rows([len(self._ids)])[0]
        return row

    def forward(self, ids: ArrayLike) -> NDArray[np.float32]:
        """As `Session.forward`, with rows as those of `logits`."""
        tokens = self._checked(ids)
        self._begin("forward", tokens, room=len(tokens))
        self.model.checked += len(tokens)
        start = len(self._ids)
        self._ids += tokens
        self._begin_answer(start)
        return self._rows([start + n + 1 for n in range(len(tokens))])

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
        """As `Session.next`: what the script says, with certainty, whatever the mask and the constraint."""
        if prefix is not None:
            self.feed_tokens(prefix)
        self._begin("next", room=1)
        if not self._ids:
            raise EdgeGemmaError("nothing was fed.", "state")
        if not self._requested:
            self.model.requests.append(Request(self.tokens, sampling or Sampling(), special, self._max_tokens))
        self._requested, self._max_tokens = True, None
        self._begin_answer()
        self._check_cancelled()  # by the script
        number = self._token_at(len(self._ids))
        stop = self._stops.get(number, "")
        text = self._letters.finish() if stop else self._detokenize(number)
        if not stop and not special and not self.model.tokenizer.decode([number]):
            text = ""  # a control token
        self._ids.append(number)
        self._drawn_until = len(self._ids)
        self.drawn += 1
        self.model.drawn += 1
        return Token(number, text, stop, None if logprobs is None else self.model.logprob)

    def verify(self, ids: ArrayLike, sampling: Sampling | None = None, *, logprobs: list[float] | None = None) -> int:
        """As `Session.verify`: what the script says too."""
        tokens = self._checked(ids)
        self._begin("verify", tokens)
        if not self._ids:
            raise EdgeGemmaError("nothing was fed.", "state")
        self.model.checked += len(tokens)
        self._begin_answer()
        kept = 0
        for token in tokens[: self.context - len(self._ids)]:
            if self._token_at(len(self._ids)) != token:
                break
            self._ids.append(token)
            self._drawn_until = len(self._ids)
            kept += 1
        if logprobs is not None:
            logprobs += [self.model.logprob] * kept
        return kept

    def seed(self, seed: int) -> None:
        """As `Session.seed`; it is written down."""
        self.seeds.append(seed)

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
        """That of `Session` itself, over `next`, without a form: the script says what comes."""
        self._check_open()
        self._max_tokens = max_tokens
        return Session.generate(
            cast(Session, self),
            max_tokens,
            temperature,
            top_p,
            top_k,
            seed,
            stop,
            sampling=sampling,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            penalty_window=penalty_window,
            logit_bias=logit_bias,
            suppress=suppress,
            special=special,
            logprobs=logprobs,
        )

    def rewind(self, n: int) -> None:
        """As `Session.rewind`."""
        self._check_open()
        if not 0 <= n <= len(self._ids):
            raise EdgeGemmaValueError(f"cannot go back by {n} tokens: the session has {len(self._ids)}.", "argument")
        if self.rewind_limit is not None and self.rewind_limit < n < len(self._ids):
            raise EdgeGemmaError("going back would evaluate soft tokens again.", "state")
        if self._streaming is not None:
            raise EdgeGemmaError("audio is being fed: finish or abandon it first.", "state")
        position = len(self._ids) - n
        del self._ids[position:]
        if position < self._answer_start:
            self._end_answer()
        self._drawn_until = min(self._drawn_until, position)
        self._recordings = [part for r in self._recordings if (part := r.cut(position)).length]

    def rewind_to(self, position: int) -> None:
        """As `Session.rewind_to`."""
        self.rewind(len(self._ids) - position)

    def sync(self, ids: ArrayLike) -> int:
        """As `Session.sync`."""
        tokens, same = [int(number) for number in np.asarray(ids).reshape(-1)], 0
        while same < min(len(tokens), len(self._ids)) and tokens[same] == self._ids[same]:
            same += 1
        rest = self._checked(tokens[same:])
        self.rewind_to(same)
        self.feed_tokens(rest)
        return same

    def fork(self) -> ScriptedSession:
        """As `Session.fork`."""
        self._check_open()
        return ScriptedSession(self.model, self.context, self)

    def cancel(self) -> None:
        """As `Session.cancel`: ends the call that runs in another thread, or the next one."""
        self._check_open()
        self._cancelled = True
        self.cancel_requests += 1

    def close(self) -> None:
        """As `Session.close`."""
        self.closed = True

    def __enter__(self) -> ScriptedSession:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    # ---- calls ----

    def _begin(
        self, name: str, value: Any = None, room: int = 0, streaming: bool = False, kept: Sequence[int] = ()
    ) -> None:
        """Checks what every call checks. `room`: tokens that it adds; `kept`: those that stay when it is cancelled."""
        self._check_open()
        if self._streaming is not None and not streaming:
            raise EdgeGemmaError("the session is being fed audio: finish it first.", "state")
        if self.model.on_call:
            self.model.on_call(self, name, value)
        if len(self._ids) + room > self.context:
            raise EdgeGemmaValueError(
                f"{room} more tokens do not fit: {len(self._ids)} of the session's {self.context} are in use.",
                "context",
            )
        if self._cancelled:
            self._append(kept)
            if streaming:
                self._streaming = None
        self._check_cancelled()

    def _check_open(self) -> None:
        if self.closed:
            raise EdgeGemmaValueError("The session is closed.", "state")

    def _check_cancelled(self) -> None:
        if self._cancelled:
            self._cancelled = False
            raise Cancelled

    def _check_streaming(self) -> None:
        self._check_open()
        if self._streaming is None:
            raise EdgeGemmaError("no audio is being fed.", "state")

    def _check_audio(self, samples: int) -> None:
        if not self.model.has_audio:
            raise EdgeGemmaValueError("the model has no audio encoder.", "unsupported")
        if not audio_tokens(samples):
            raise EdgeGemmaValueError(
                f"the recording has {samples} samples: it takes 161 (10 ms) at least.", "argument"
            )

    def _checked(self, ids: ArrayLike) -> list[int]:
        tokens, size = [int(number) for number in np.asarray(ids).reshape(-1)], self.model.config.vocab_size
        if not all(0 <= number < size for number in tokens):
            raise EdgeGemmaValueError(f"ids has a number outside the vocabulary of {size} tokens.", "argument")
        return tokens

    # ---- timeline ----

    def _append(self, tokens: Sequence[int]) -> None:
        """Adds tokens that were fed, which ends the answer."""
        if tokens:
            self._ids += tokens
            self._end_answer()

    def _end_answer(self) -> None:
        self._answer, self._requested, self._incomplete = None, False, []
        self._letters.finish()

    def _detokenize(self, token: int) -> str:
        text = self._letters.feed(token)
        self._incomplete = [] if text else [*self._incomplete, token]
        return text

    def _marker(self, text: str) -> int:
        number = self.model.tokenizer.find(text)
        assert number is not None, text
        return number

    def _open_recording(self, markers: bool) -> None:
        self._append([self._marker("<|audio>")] if markers else [])
        self._recordings.append(_Recording(len(self._ids)))

    def _hear(self, samples: NDArray[np.float32]) -> None:
        before, after = self._recordings[-1], self._recordings[-1].add(samples)
        self._append([-1] * (after.end - before.end))
        self._recordings[-1] = after

    def _end_recording(self, markers: bool) -> None:
        self._append([self._marker("<audio|>")] if markers else [])
        self.model.heard.append(self.heard)

    # ---- the answer ----

    def _begin_answer(self, start: int | None = None) -> None:
        """Takes an answer from the script where there is none. `start`: where it stands without an opening; None for here."""
        if self._answer is not None:
            return
        answer = self.model.take_answer(self)
        if isinstance(answer, Exception):
            self._requested = False
            raise answer
        self._answer = list(self._tokens_of(answer))
        self._answer_start = self._find_start(len(self._ids) if start is None else start)

    def _tokens_of(self, answer: str | Sequence[int | str | Exception]) -> Iterable[int | Exception]:
        encode = self.model.tokenizer.encode
        if isinstance(answer, str):
            yield from encode(answer, special=True)
            return
        word = getattr(self.model.tokenizer, "word", None)
        for item in answer:
            if not isinstance(item, str):
                yield item
            elif word:
                yield word(item)
            else:
                yield from encode(item, special=True)

    def _find_start(self, default: int) -> int:
        """Where the answer stands; see the beginning of this file."""
        openings = [self.model.tokenizer.encode(text, special=True) for text in OPENINGS]
        for end in range(len(self._ids), self._drawn_until, -1):
            if any(self._ids[max(0, end - len(opening)) : end] == opening for opening in openings):
                return end
        return default

    def _token_at(self, position: int) -> int:
        assert self._answer is not None
        at = position - self._answer_start
        if at >= len(self._answer):
            return self._marker("<turn|>")
        token = self._answer[at]
        if isinstance(token, Exception):
            del self._answer[at]
            raise token
        return token

    def _rows(self, positions: Sequence[int]) -> NDArray[np.float32]:
        self._begin_answer()
        rows = np.zeros((len(positions), self.model.config.vocab_size), np.float32)
        for row, position in zip(rows, positions, strict=True):
            row[self._token_at(position)] = self.model.certainty
        return rows
