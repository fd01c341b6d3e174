"""A spoken turn, and its answer, begun before it is certain that the speaker has finished.

`Turn` hears: sound goes into a session while it is spoken, and at a pause a copy of that session begins to answer, which is
kept when the pause was the end and dropped without a trace when it was not. `Answer` is such an answer in the making, in
steps as short as a token, so that whoever drives it can look after the sound in between.

Where sound comes from, what a pause is, when there is time for a step and what becomes of the words are matters of the
driver (listener.py for one). There are no clocks and no threads here.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.source import SAMPLE_RATE
from ..chat.reply import ReplyParser
from ..engine.audio import audio_tokens
from ..errors import Cancelled, EdgeGemmaError
from .prompts import loop_start

__all__ = ["Answer", "Turn"]

_BATCH = (
    8  # tokens of a draft that are checked at once: little longer than one token takes, since both read all weights
)
_PIECE = 8000  # samples that are heard in a step
_OWN_STOPS = ("eos", "turn", "tool_response")
_NO_MATTER = {"temperature", "top_k", "top_p", "min_p", "seed"}  # options that do not change a greedy answer

Samples = NDArray[np.float32]


class Answer:
    """What a session says next, step by step.

    A draft makes it quick: tokens that the answer may consist of, because an earlier attempt did. They are checked several
    at a time and kept as far as the model itself would choose them, so a draft never changes the answer. It is used for
    greedy answers only.

    Attributes:
        session: the timeline; it belongs to the answer until somebody takes it over.
        ids: the tokens so far, without a stop token.
        text: the words so far, without thoughts and markers.
        stop: why it ended: eos, turn, tool_response, length, loop (it ran in circles, `loop_start` tells where to cut it),
            line (see `line`); "" until then.
    """

    def __init__(
        self,
        session: Any,
        closing: Sequence[int],
        max_tokens: int,
        *,
        sound: Samples | None = None,
        draft: Sequence[int] = (),
        trusted: int = 0,
        line: bool = False,
        **sampling: Any,
    ) -> None:
        """Does nothing yet.

        Args:
            session: taken over. Audio that is being fed is finished in the first step.
            closing: tokens between the sound and the answer.
            max_tokens: its longest length.
            sound: (n,) samples to be heard first.
            draft: see above.
            trusted: so many tokens of the draft are not checked.
            line: end at the first line break.
            sampling: options of `Session.generate`; greedy if not given.
        """
        self.session, self.ids, self.text, self.stop = session, [], "", ""
        self._closing, self._max_tokens, self._line = list(closing), max_tokens, line
        self._sampling = {"temperature": 0.0, **sampling}
        greedy = self._sampling["temperature"] == 0 and self._sampling.keys() <= _NO_MATTER
        self._draft = list(draft) if greedy else []
        self._letters, self._parser = _Letters(session.model.tokenizer), ReplyParser()
        self._work = self._steps(sound, trusted)

    def step(self) -> bool:
        """Goes on for about as long as a token takes; False when there is nothing left to do. Raises `Cancelled` and
        EdgeGemmaError as the session does."""
        return next(self._work, False)

    def finish(self) -> None:
        """Does all that is left."""
        while self.step():
            pass

    def close(self) -> None:
        """Closes the session."""
        self._work.close()
        self.session.close()

    def _steps(self, sound: Samples | None, trusted: int) -> Iterator[bool]:
        if sound is not None:
            audio = self.session.stream_audio()
            for at in range(0, len(sound), _PIECE):
                audio.push(sound[at : at + _PIECE])
                yield True
        if self.session.audio is not None:
            self.session.audio.finish()
        taken, self._draft = self._draft[:trusted], self._draft[trusted:]
        self.session.feed_tokens([*self._closing, *taken])
        for token in taken:
            self._take(token)
        yield True
        yield from self._check()
        while not self.stop:
            self._draw()
            yield True

    def _check(self) -> Iterator[bool]:
        """Keeps as much of the draft as a greedy answer would consist of."""
        if not self._draft or self.stop:
            return
        best = int(self.session.logits().argmax())
        yield True
        while self._draft and not self.stop:
            piece, self._draft = self._draft[:_BATCH], self._draft[_BATCH:]
            if piece[0] != best:
                return
            bests = [best, *self.session.forward(piece).argmax(axis=1).tolist()]
            kept = 0
            while kept < len(piece) and piece[kept] == bests[kept] and not self.stop:
                self._take(piece[kept])
                kept += 1
            best = bests[kept]
            if kept < len(piece):
                self.session.rewind(len(piece) - kept)
                return
            yield True

    def _draw(self) -> None:
        for _ in self.session.generate(max_tokens=1, **self._sampling):
            pass
        self._sampling.pop("seed", None)  # it begins the random sequence, and each token goes on with it
        if self.session.last_stop == "cancelled":
            raise Cancelled
        if self.session.last_stop in _OWN_STOPS:
            self._add(self._parser.feed(self._letters.finish()))
            self._end(self.session.last_stop)
        else:
            self._take(self.session.tokens[-1])

    def _take(self, token: int) -> None:
        self.ids.append(token)
        self._add(self._parser.feed(self._letters.feed(token)))
        if loop_start(self.text) is not None:
            self.stop = "loop"
        elif self._line and "\n" in self.text.lstrip():
            self._end("line")
        elif len(self.ids) >= self._max_tokens:
            self._end("length")

    def _end(self, stop: str) -> None:
        self._add(self._parser.finish())
        self.stop = stop

    def _add(self, events: Any) -> None:
        self.text += "".join(event.text for event in events if event.kind == "text")


class _Letters:
    """Tokens to text as `Session.generate` gives it: bytes of a character that is not complete yet are held back."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._decoder = tokenizer, codecs.getincrementaldecoder("utf-8")("replace")
        self._bytes: dict[int | None, int] = {}

    def feed(self, token: int) -> str:
        text = self._tokenizer.decode([token], special=True)
        if text == "\ufffd":  # a byte that is no text by itself
            self._bytes = self._bytes or {self._tokenizer.find(f"<0x{byte:02X}>"): byte for byte in range(128, 256)}
            if token in self._bytes:
                return self._decoder.decode(bytes([self._bytes[token]]))
        return self._decoder.decode(text.encode())

    def finish(self) -> str:
        """What stands for a character that the answer has left half, when it ends by itself."""
        return self._decoder.decode(b"", final=True)


class Turn:
    """One turn of a speaker: heard while it is spoken, answered from its last pause on.

        turn = Turn(session, closing, limit)        # `session` is where the sound belongs; it stays as it is
        turn.push(samples)                          # as they come
        turn.pause()                                # perhaps the end: an answer is begun
        turn.early.step()                           # when there is time
        turn.resume()                               # it was not the end; or
        answer = turn.finish()                      # it was: the answer as far as it is, to be driven on

    A conversation goes on in `answer.session`; a transcription closes it and goes back to the same beginning.

    Attributes:
        heard: samples so far.
        kept: how many of them the answer is about, from a pause or the end on.
        early: the answer that a pause began; None when there is none.
    """

    early: Answer | None

    def __init__(self, base: Any, closing: Sequence[int], limit: Callable[[float], int], **sampling: Any) -> None:
        """Opens the turn.

        Args:
            base: a session that ends where the sound belongs. The turn goes on in copies of it.
            closing: tokens between the sound and the answer.
            limit: the most tokens of an answer to so many seconds.
            sampling: options of `Session.generate`; greedy if not given.
        """
        self.heard, self.kept, self.early = 0, 0, None
        self._base, self._closing, self._limit, self._sampling = base, closing, limit, sampling
        self._blocks: list[Samples] = []
        self._taken = 0  # of these, by the session
        self._draft: list[int] = []
        self._session = base.fork()
        self._audio = self._session.stream_audio()

    def push(self, samples: Samples) -> None:
        """Hears (n,) samples at 16 kHz. Raises EdgeGemmaError "context" when they do not fit."""
        self._blocks.append(np.array(samples, np.float32))
        self.heard += len(samples)
        if not self.early:  # the silence of a pause can wait, and the answer can not
            self._listen()

    def suggest(self, ids: Sequence[int]) -> None:
        """Names tokens that the answer may begin with. They can make it quicker, but not another."""
        if len(ids) > len(self._draft):
            self._draft = list(ids)

    def guess(self, **options: Any) -> Answer:
        """An answer to what has been heard so far, in a copy of the session; `options` as in `Answer`."""
        return self._answer(self._session.fork(), self.heard, **options)

    def pause(self) -> Answer:
        """Begins the answer, which is about what has been heard until now. What comes from now on is kept until `resume`."""
        self.resume()
        self.kept = self.heard
        self.early = self.guess(draft=self._draft, **self._sampling)
        return self.early

    def resume(self) -> None:
        """Drops the answer that a pause began; what it has found is suggested for the next."""
        if self.early:
            self.suggest(self.early.ids)
            self.early.close()
            self.early = None
            self._listen()

    def _listen(self) -> None:
        new, self._taken = self._blocks[self._taken :], len(self._blocks)
        if new:
            self._audio.push(np.concatenate(new))

    def finish(self, keep: int | None = None) -> Answer:
        """The turn is over. Its answer belongs to the caller, and with it the session.

        It is the one that the last pause began, unless that has heard more than `keep` samples. Otherwise it is about these,
        or all, to the soft token, of which the last may know 30 ms more. Where the memory of the sliding windows does not
        reach back that far, they are heard anew.
        """
        keep = self.heard if keep is None else min(keep, self.heard)
        if self.early and self.kept <= keep:
            answer, self.early = self.early, None
            self._session.close()
            return answer
        self.resume()
        self.kept = keep
        session, sound = self._session, None
        surplus = audio_tokens(self.heard) - audio_tokens(keep)
        if surplus:
            self._audio.finish()
            end = session.tokens[-1]
            try:
                session.rewind(surplus + 1)
                session.feed_tokens([end])
            except EdgeGemmaError as error:
                if error.code != "state":
                    raise
                session.close()
                session, sound = self._base.fork(), self._kept_samples()
        return self._answer(session, keep, sound=sound, draft=self._draft, **self._sampling)

    def again(self, **sampling: Any) -> Answer:
        """Another answer, drawn differently, for which the sound is heard anew. It belongs to the caller."""
        return self._answer(self._base.fork(), self.kept, sound=self._kept_samples(), **sampling)

    def close(self) -> None:
        """Closes the sessions, but for those of the caller. Further calls do nothing."""
        if self.early:
            self.early.close()
            self.early = None
        self._session.close()

    def _kept_samples(self) -> Samples:
        return np.concatenate(self._blocks)[: self.kept]

    def _answer(self, session: Any, samples: int, **options: Any) -> Answer:
        return Answer(session, self._closing, self._limit(samples / SAMPLE_RATE), **options)
