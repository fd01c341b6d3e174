"""`Answer`: what a session says about speech, one token at a time. The only loop over tokens in this folder.

Each step takes about as long as one token, so a live program can read sound between two steps. What the answer is about, and
what becomes of its text, is decided elsewhere (request.py, turn.py).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..chat.prompt import ends_in_thought
from ..chat.reply import ChatEvent, ReplyParser
from ..engine.generation import Token, possible_stop
from ..engine.interface import SessionLike
from ..engine.sampling import GREEDY, Sampling
from ..engine.tokenizer import StreamingDetokenizer
from .prompts import loop_start

__all__ = ["Answer", "Samples"]

Samples = NDArray[np.float32]
"""(n,) samples at 16 kHz."""

# Tokens of a draft that are verified in one batch. The batch takes little longer than one token: both read all weights.
_BATCH = 8
_BEST = 64  # likeliest tokens among which the end of an empty answer is looked for; below them it is improbable
_PIECE = 8000  # samples that are fed in one step


class Answer:
    """What a session says next, step by step.

    A draft makes the answer faster (speculative decoding): it is a guess at the tokens of the answer, mostly those of an
    earlier attempt. The draft is verified several tokens at a time and kept as far as the model itself would draw the same
    tokens, so a draft never changes the answer.

    Attributes:
        session: the timeline. `close` closes it, unless somebody goes on with it first.
        sampling: how its tokens are drawn.
        ids: the tokens so far, without the one that stopped the answer.
        text: the words so far, without thoughts and control tokens. Where a thought ends that the model never opened, the
            words before it are taken away, so a text that was shown may be replaced by another.
        in_thought: whether the answer begins in a thought, because `closing` ends in one.
        stop: why the answer ended; "" until then. "eos", "turn", "tool_response": the model ended it. "length": it has
            `max_tokens`. "stop": a stop text follows. "loop": it repeats itself; `loop_start` tells where to cut it. "line":
            a line is complete.
        logprobs: of a measured answer, the natural logarithms of the probabilities of its tokens so far, with the one that
            stopped it and without trusted ones.
        empty_probability: of a measured answer, the probability that its first drawn token would have ended it.
    """

    def __init__(
        self,
        session: SessionLike,
        closing: Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        sound: Samples | None = None,
        draft: Sequence[int] = (),
        trusted: int = 0,
        line: bool = False,
        measured: bool = False,
    ) -> None:
        """Prepares the answer; the first `step` begins to work.

        Args:
            session: belongs to the answer from now on. If audio is being fed to it, the first step finishes that audio.
            closing: tokens that are fed before the answer begins, such as those that end the user's turn.
            max_tokens: the most tokens of the answer.
            sampling: how tokens are drawn. Its seed begins the random sequence, once.
            stop: texts that end the answer; they are left out of it.
            sound: (n,) samples at 16 kHz that are fed before `closing`.
            draft: a guess at the tokens of the answer.
            trusted: so many tokens at the beginning of the draft are taken over without verification.
            line: the answer ends with the first line that has words.
            measured: the probabilities of the tokens are noted.
        """
        self.session, self.sampling = session, sampling
        self.ids: list[int] = []
        self.text = self.stop = ""
        self._closing, self._max_tokens, self._stops, self._line = list(closing), max_tokens, tuple(stop), line
        self._measured, self._drawing = measured, False
        self.logprobs: list[float] = []
        self.empty_probability = 0.0
        self._held = ""  # text that may be the beginning of a stop text
        self._draft = list(draft)
        # One detokenizer for drafted and drawn tokens: a character may begin in the draft and end behind it.
        tokenizer = session.model.tokenizer
        self.in_thought = ends_in_thought(tokenizer, self._closing)
        self._detokenizer, self._parser = (
            StreamingDetokenizer(tokenizer),
            ReplyParser(in_thought=self.in_thought, markers=tokenizer.control_tokens),
        )
        self._steps = self._work(sound, trusted)

    @property
    def avg_logprob(self) -> float | None:
        """The mean of `logprobs`; None when nothing was measured."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None

    def step(self) -> bool:
        """Works for about as long as one token takes. Returns False when the answer is complete.

        Raises `Cancelled`, and EdgeGemmaError as the session does.
        """
        return next(self._steps, False)

    def finish(self) -> None:
        """Does all remaining steps. Raises as `step`."""
        while self.step():
            pass

    def pieces(self) -> Iterator[str]:
        """Does all remaining steps and yields the text as it grows. Raises as `step`.

        Text that turns out to be a thought cannot be taken back: the answer then follows on a line of its own.
        """
        shown, unfinished = "", True
        while unfinished:
            unfinished = self.step()
            if not self.text.startswith(shown):
                yield "\n"
                shown = ""
            if len(self.text) > len(shown):
                yield self.text[len(shown) :]
                shown = self.text

    @property
    def drawing(self) -> bool:
        """Whether everything is fed, and the next step draws a token; then `take` may do that step."""
        return self._drawing and not self.stop

    @property
    def logprobs_wanted(self) -> int | None:
        """How many of the likeliest tokens the next token is to be drawn with, as `Session.next` has it."""
        return (0 if self.ids else _BEST) if self._measured else None

    def take(self, token: Token) -> bool:
        """Does a step with a token that was drawn for this answer, by its session, `sampling` and `logprobs_wanted`. So several
        answers can draw in one pass through the weights. Returns as `step`; call it only while `drawing`."""
        first = not self.ids
        if token.logprob is not None:
            self.logprobs.append(token.logprob)
            if first:
                ends = {self.session.model.tokenizer.find("<turn|>"), self.session.model.tokenizer.eos}
                best = dict([*token.top_logprobs, (token.id, token.logprob)])
                self.empty_probability = sum(math.exp(best[end]) for end in ends if end in best)
        if token.stop:
            self._add_text(self._detokenizer.finish())
            self._end(self.stop or token.stop)
        else:
            self._append(token.id)
        return not self.stop

    def close(self) -> None:
        """Ends the work and closes the session. Further calls do nothing."""
        self._steps.close()
        self.session.close()

    def _work(self, sound: Samples | None, trusted: int) -> Generator[bool, None, None]:
        """All steps; yields True after each."""
        if sound is not None:
            audio = self.session.stream_audio()
            for at in range(0, len(sound), _PIECE):
                audio.push(sound[at : at + _PIECE])
                yield True
        if self.session.audio is not None:
            self.session.audio.finish()
        known, self._draft = self._draft[:trusted], self._draft[trusted:]
        self.session.feed_tokens([*self._closing, *known])
        for token in known:
            self._append(token)
        yield True
        if self.sampling.seed is not None:
            self.session.seed(self.sampling.seed)
        while self._draft and not self.stop:
            self._verify()
            yield True
        self._drawing = True
        while not self.stop:
            self.take(self.session.next(self.sampling, logprobs=self.logprobs_wanted))
            yield True

    def _verify(self) -> None:
        """Keeps the beginning of the draft that the answer has too."""
        batch, self._draft = self._draft[:_BATCH], self._draft[_BATCH:]
        kept = self.session.verify(batch, self.sampling, logprobs=self.logprobs if self._measured else None)
        if kept < len(batch):
            self._draft = []
        for number, token in enumerate(batch[:kept], start=1):
            self._append(token)
            if self.stop and number < kept:  # the answer ends within the draft
                self.session.rewind(kept - number)
                del self.logprobs[len(self.logprobs) - (kept - number if self._measured else 0) :]
                return

    def _append(self, token: int) -> None:
        """Takes a token that the session has, and ends the answer where it has to end."""
        self.ids.append(token)
        self._add_text(self._detokenizer.feed(token))
        if self.stop:
            self._end(self.stop)
        elif loop_start(self.text) is not None:
            self.stop = "loop"
        elif self._line and "\n" in self.text.lstrip():
            self._end("line")
        elif len(self.ids) >= self._max_tokens:
            self._end("length")

    def _add_text(self, piece: str) -> None:
        """Adds what the next token says, as far as it cannot belong to a stop text. Sets `stop` at a stop text."""
        self._held += piece
        if found := [at for at in map(self._held.find, self._stops) if at >= 0]:
            self._held = self._held[: min(found)]
            self.stop = "stop"
        ready = len(self._held) - (0 if self.stop else possible_stop(self._held, self._stops))
        self._add_words(self._parser.feed(self._held[:ready]))
        self._held = self._held[ready:]

    def _end(self, stop: str) -> None:
        self._add_words([*self._parser.feed(self._held), *self._parser.finish()])
        self.stop = stop

    def _add_words(self, events: Sequence[ChatEvent]) -> None:
        if events:
            self.text = self._parser.reply.content
