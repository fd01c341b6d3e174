"""`Demo`: spoken commands to a simulated home, transcribed while they are spoken, carried out and translated.

Owns the home, the choice of the language to translate into, and the comparison with the right answers to bundled utterances.
assistant/spoken.py answers and speech/listener.py transcribes, in one loop. `Demo.run` yields events, and screen.py shows them.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..assistant.exchange import AssistantEvent, Exchange
from ..assistant.spoken import SpokenAssistant
from ..assistant.target_language import TargetLanguage
from ..audio.source import Paced, Source
from ..engine.interface import ModelLike
from ..hub.resolve import is_embedded
from ..speech.languages import language_name
from ..speech.listener import Listener
from ..vision.describe import Describer
from .home import DONE, INSTRUCTIONS, Home, changes
from .pictures import Look, Picture, look
from .utterances import Playlist, Utterance

__all__ = ["LONGEST", "Demo", "DemoEvent", "DemoExchange", "summary"]

# The embedded model takes everything for a command. Its transcripts of commands have an average log-probability of -0.02 as a
# median, and in 99 of 100 cases more than -0.1; of other sentences, nine in ten have less. Of the calls that do not fit their
# words, most have a probability of less than 0.3, and one in a hundred of all others has.
_TOY_LOGPROB, _TOY_PROBABILITY = -0.1, 0.3

LONGEST = 15.0
"""Seconds of the longest utterance. Commands are short, and a short limit keeps the sessions small."""

# The most common words of commands in the languages of the embedded model, and what it translates each language into.
_COMMON_WORDS = {
    "en": "the in to on my is what turn set please for it you good thank",
    "es": "el la los las en de del un una por favor qué para pon hay mi buenos buenas gracias",
    "de": "der die das den ein eine auf im bitte stelle mach schalte wie ist mir guten gute danke",
}
_PARTNERS = {"en": "de", "de": "es", "es": "en"}


@dataclass(eq=False)
class DemoExchange(Exchange):
    """An exchange that may be about a bundled utterance.

    Attributes:
        utterance: the bundled utterance; None if it is none of them.
    """

    utterance: Utterance | None = None

    def verdict(self) -> dict[str, bool]:
        """Whether "text", "translation", "call" and "reply" are right; empty without a bundled utterance.

        Words are compared without regard to capitals and punctuation. There is no verdict on a translation into a language
        that the utterance has no translation for, nor on a reply about the time or the weather.
        """
        right = self.utterance
        if right is None:
            return {}
        expected = [] if right.call is None else [(right.call["name"], right.call["arguments"])]
        found = {"text": _words(self.text or "") == _words(right.text)}
        translations: dict[str, str] = {language_name(code): text for code, text in right.translations.items()}
        wanted = translations.get(self.target or "")
        if wanted is not None:
            found["translation"] = _words(self.translation or "") == _words(wanted)
        found["call"] = [(call.name, call.arguments) for call in self.calls] == expected
        if all(result == DONE for result in self.results):
            found["reply"] = _words(self.reply) == _words(right.reply)
        return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@dataclass(frozen=True)
class DemoEvent(AssistantEvent):
    """Something to show: an event of the assistant, with what it means for the home and for the bundled utterances.

    Attributes:
        exchange: the exchange that the event belongs to; None for an overrun.
        number: of a start, which of the bundled utterances it is, counted from 0; None if it is none of them.
        changes: of a result, what has changed at home, as in `home.changes`.
    """

    exchange: DemoExchange | None = None
    number: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)


class Demo:
    """Listens, acts and translates. Close it with `close()` or a `with` block.

    One thread at a time may use it; only `cancel()` may come from others.
    """

    def __init__(
        self,
        model: ModelLike,
        language: str | None = None,
        to: str | None = None,
        *,
        home: Home | None = None,
        partials: float = 0.4,
        silence: float = 0.5,
        pause: float = 0.2,
        detector: Any = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the sessions and reads the instructions.

        Args:
            model: an open model with an audio encoder.
            language: what is spoken, a name or a code; None leaves it to the model.
            to: the language to translate into; None for another one than the one that seems to be spoken.
            home: the home that is commanded; None for a new one.
            partials, silence, pause, detector, clock: as in `Listener`.

        Raises:
            EdgeGemmaValueError: as `Listener`; "context" when the model has no room for the tools.
        """
        self.home, self.silence, self.pause = home or Home(), silence, pause
        self._model = model
        self._describer: Describer | None = None  # while pictures are looked at
        toy = is_embedded(model.path)
        self._assistant = SpokenAssistant(
            model,
            INSTRUCTIONS,
            self.home.tools,
            language=language,
            translation=TargetLanguage(to, _COMMON_WORDS, _PARTNERS),
            least_logprob=_TOY_LOGPROB if toy else None,
            least_probability=_TOY_PROBABILITY if toy else 0.0,
            max_seconds=LONGEST,
            clock=clock,
            new_exchange=DemoExchange,
        )
        try:
            self._listener = Listener(
                model,
                language,
                partials=partials,
                step_task=self._assistant,
                confidence=toy,
                pauses=True,
                clock=clock,
                silence=silence,
                pause=pause,
                detector=detector,
                max_seconds=LONGEST,
            )
        except BaseException:
            self._assistant.close()
            raise

    def close(self) -> None:
        """Frees the sessions. Further calls do nothing."""
        self._assistant.close()
        self._listener.close()

    def __enter__(self) -> Demo:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def cancel(self) -> None:
        """Stops, from any thread: the iterator that runs raises `Cancelled`."""
        self._listener.cancel()
        if describer := self._describer:
            describer.cancel()

    def perform(
        self,
        utterances: Sequence[Utterance],
        *,
        live: bool = True,
        rest: float = 1.5,
        on_begin: Callable[[NDArray[np.float32]], object] | None = None,
        wait_while: Callable[[], bool] = lambda: False,
    ) -> Iterator[DemoEvent]:
        """Yields what happens while utterances are spoken, each after the answer to the one before it.

        Args:
            utterances: see `utterances.bundled`.
            live: at the speed of speech; False for as fast as possible, without partials.
            rest: if live, seconds between an answer and the next utterance, to look at what has happened.
            on_begin: as in `Playlist`.
            wait_while: while it is true, as while a reply is spoken, the next utterance waits.

        Raises as `run`.
        """
        playlist = Playlist(
            utterances,
            rest=rest if live else 0.0,
            wait_while=lambda: self._assistant.busy or wait_while(),
            on_begin=on_begin,
        )
        return self._run(Paced(playlist) if live else playlist, playlist, utterances)

    def run(self, source: Source) -> Iterator[DemoEvent]:
        """Yields what happens while a source is heard, until it ends. The source stays open.

        Raises Cancelled after `cancel()`, EdgeGemmaError for unusable sound.
        """
        return self._run(source, None, ())

    def look(self, pictures: Sequence[Picture]) -> Iterator[Look]:
        """Yields what the model says about each picture; nothing for a model without vision encoder.

        Raises Cancelled after `cancel()`.
        """
        if not (pictures and self._model.has_vision):
            return
        with Describer(self._model) as self._describer:
            for picture in pictures:
                yield look(self._describer, picture)
        self._describer = None

    @staticmethod
    def language_of(text: str) -> str | None:
        """The code of the language of a reply, by its most common words; None when it has none of them."""
        return TargetLanguage(common_words=_COMMON_WORDS).guess(text)

    def _run(self, source: Source, playlist: Playlist | None, utterances: Sequence[Utterance]) -> Iterator[DemoEvent]:
        before: dict[str, Any] = {}
        for event in self._assistant.listen(self._listener, source):
            number, changed = None, {}
            if event.kind == "start":
                number = playlist.at(event.time) if playlist else None
                if number is not None and isinstance(event.exchange, DemoExchange):
                    event.exchange.utterance = utterances[number]
                    event.exchange.language = utterances[number].language
            elif event.kind == "call":
                before = self.home.state()
            elif event.kind == "result":
                changed = changes(before, self.home.state())
            yield DemoEvent(**vars(event), number=number, changes=changed)


def summary(exchanges: Sequence[DemoExchange], utterances: int | None = None) -> dict[str, Any]:
    """Statistics of exchanges that are over.

    Args:
        exchanges: the exchanges.
        utterances: how many there should have been; None when that is unknown.

    Returns:
        "exchanges" and "utterances"; "right": for each part of `DemoExchange.verdict` [how many were right, of how many];
        medians of "first_token_s", "decision_s", "acted_s" and "tokens_per_second"; the greatest "resident". A value is None
        when there is nothing to compute it from.
    """
    timings = [exchange.timing for exchange in exchanges if exchange.timing]

    def median(name: str) -> float | None:
        values = [value for item in timings if (value := getattr(item, name)) is not None]
        return round(statistics.median(values), 4) if values else None

    right: dict[str, list[int]] = {}
    for exchange in exchanges:
        for name, fine in exchange.verdict().items():
            counts = right.setdefault(name, [0, 0])
            counts[0] += fine
            counts[1] += 1
    return {
        "exchanges": len(exchanges),
        "utterances": utterances,
        "right": right,
        "first_token_s": median("first_token"),
        "decision_s": median("decision"),
        "acted_s": median("acted"),
        "tokens_per_second": median("tokens_per_second"),
        "resident": max((item.resident for item in timings if item.resident), default=None),
    }
