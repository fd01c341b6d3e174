"""Measures when an assistant's first sound comes, on a model of the true shape whose weights may be random.

    python tools/first_sound.py MODEL.gguf MMPROJ.gguf [--turns N]

A recorded command is spoken in real time, the loop of the assistant hears it, and a voice that speaks at once answers. Models
with random weights say nothing sensible, so the tokens are given: each is still drawn from the whole computation, with a mask
that allows no other one. Everything else is as it is: endpointing, partial transcripts, the early answer, and the conversation.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_gemma import Model
from edge_gemma.assistant.devices import SoundDevices
from edge_gemma.assistant.interface import Announcer
from edge_gemma.assistant.loop import AssistantLoop
from edge_gemma.assistant.machine import Settings
from edge_gemma.assistant.persona import SpokenPersona
from edge_gemma.audio.source import SAMPLE_RATE, Paced, Source, load_audio, open_audio
from edge_gemma.chat.calls import ToolCall
from edge_gemma.chat.tools import Tool
from edge_gemma.demo.utterances import bundled
from edge_gemma.engine.generation import Token
from edge_gemma.engine.session import Session

HEARD = "Turn on the light in the kitchen please."
SAID = "The light in the kitchen is on now. Is there anything else that I can do?"


class GivenSession(Session):
    """A session whose answers are given. It takes as long as one whose answers are its own."""

    def _given(self) -> list[int]:
        """The tokens of the answer from the end of the timeline on, the one that ends the turn among them."""
        tokenizer, ids = self.model.tokenizer, self.tokens
        opening = tokenizer.encode("<|turn>model\n", special=True)
        start = next(at for at in range(len(ids), 0, -1) if ids[at - len(opening) : at] == opening)
        text = HEARD if -1 in ids else SAID
        answer = [*tokenizer.encode(text, special=False), *tokenizer.encode("<turn|>", special=True)]
        return answer[len(ids) - start :]

    def next(self, *args: Any, mask: Any = None, constraint: Any = None, **options: Any) -> Token:
        """As `Session.next`."""
        given = self._given()
        allowed = np.zeros(self.model.tokenizer.vocab_size, bool)
        allowed[given[0] if given else self.model.tokenizer.eos or 0] = True
        return super().next(*args, mask=allowed, **options)

    def verify(self, ids: Any, sampling: Any = None, *, logprobs: list[float] | None = None) -> int:
        """As `Session.verify`, with the tokens that are given."""
        given = self._given()
        kept = next((n for n, (a, b) in enumerate(zip(ids, given, strict=False)) if a != b), min(len(ids), len(given)))
        if kept:
            self.forward(ids[:kept])  # all of it is evaluated, as a draft is
            if logprobs is not None:
                logprobs += [0.0] * kept
        return kept


class Microphone(Source):
    """Silence, and a recording when it is asked for, in real time."""

    live = True
    name = "recording"

    def __init__(self) -> None:
        super().__init__()
        self._sound = Paced(open_audio(np.zeros(SAMPLE_RATE * 3600, np.float32)))
        self._lock = threading.Lock()
        self._waiting = np.zeros(0, np.float32)
        self._noise = np.random.default_rng(0)

    def say(self, samples: NDArray[np.float32]) -> None:
        with self._lock:
            self._waiting = np.concatenate([self._waiting, samples])

    def next_block(self, timeout: float | None) -> NDArray[np.float32] | None:
        block = self._sound.next_block(timeout)
        if block is None or not len(block):
            return block
        with self._lock:
            given, self._waiting = self._waiting[: len(block)], self._waiting[len(block) :]
        noise = self._noise.standard_normal(len(block)).astype(np.float32) * np.float32(5e-4)
        noise[: len(given)] += given
        return noise


class Speaker:
    """Plays on the clock."""

    rate, latency, gone = SAMPLE_RATE, 0.0, False

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def pending(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def write(self, samples: NDArray[np.int16]) -> None:
        self._until = max(self._until, time.monotonic()) + len(samples) / self.rate

    def stop(self) -> None:
        self._until = 0.0

    def close(self) -> None:
        pass


class Voice:
    """Speaks at once: half a second for a sentence."""

    sample_rate = SAMPLE_RATE

    def speak(self, text: str, language: str | None) -> Iterator[NDArray[np.int16]]:
        yield np.zeros(SAMPLE_RATE // 2, np.int16)

    def close(self) -> None:
        pass


class NoTools:
    """A toolbox without tools."""

    tools: Sequence[Tool] = ()

    def needs_asking(self, call: ToolCall, confidence: float | None, words: str | None = None) -> str | None:
        return None

    def start(self, announce: Announcer) -> None:
        pass

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def main() -> None:
    """Prints the record of each turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("--turns", type=int, default=4)
    args = parser.parse_args()
    sound = load_audio(bundled("en")[0].path)
    microphone = Microphone()
    done = threading.Semaphore(0)

    def record(line: str) -> None:
        print(line, flush=True)
        done.release()

    with Model.load(args.model, mmproj=args.mmproj) as model:
        opened = model.session

        def session(*positional: Any, **options: Any) -> Session:
            found = opened(*positional, **options)
            found.__class__ = GivenSession
            return found

        fork = Session.fork

        def forked(self: Session) -> Session:
            found = fork(self)
            found.__class__ = type(self)
            return found

        model.session = session  # type: ignore[method-assign]
        Session.fork = forked  # type: ignore[method-assign]
        loop = AssistantLoop(
            model,
            SoundDevices(lambda: microphone, Speaker, rate=SAMPLE_RATE),
            Voice(),
            NoTools(),
            SpokenPersona(language="en"),
            settings=Settings(needs_waking=False),
            record=record,
            earcons=False,
        )
        with loop:
            thread = threading.Thread(target=loop.run)
            thread.start()
            try:
                time.sleep(3)
                for _ in range(args.turns):
                    microphone.say(sound)
                    if not done.acquire(timeout=60):
                        print("no answer within a minute")
                        break
                    time.sleep(1)
            finally:
                loop.cancel()
                thread.join()


if __name__ == "__main__":
    main()
