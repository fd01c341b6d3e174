"""What the parts of the assistant need of each other: voices, tools that announce something, the persona.

Owns protocols only. voices, toolbox.py and persona.py implement them; the loop (loop.py) uses them and knows nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..chat.calls import ToolCall
from ..chat.tools import Tool
from ..errors import EdgeGemmaError

__all__ = ["Announcer", "AssistantToolbox", "EdgeGemmaVoiceError", "Persona", "Voice"]


class EdgeGemmaVoiceError(EdgeGemmaError):
    """A voice could not speak. Its code is "voice"."""

    def __init__(self, message: str, code: str = "voice") -> None:
        """`message` is a sentence for people."""
        super().__init__(message, code)


class Voice(Protocol):
    """Makes speech of text.

    Attributes:
        sample_rate: samples a second of what `speak` yields.
    """

    sample_rate: int

    def speak(self, text: str, language: str | None) -> Iterator[NDArray[np.int16]]:
        """Yields (n,) mono samples of the spoken text, in pieces of any length, each as soon as it is known.

        Closing the iterator stops the work. One thread at a time uses a voice, and one iterator at a time is open.

        Args:
            text: one sentence or a few.
            language: the code of its language, such as "de"; None for that of the voice.

        Raises:
            EdgeGemmaVoiceError: the voice failed. The voice stays usable: the next call tries again.
        """
        ...

    def close(self) -> None:
        """Ends its processes and connections. Further calls do nothing."""
        ...


class Announcer(Protocol):
    """Takes what a tool wants to say by itself, such as that a timer has ended. Any thread may call it; it returns at once."""

    def __call__(self, text: str, sound: NDArray[np.int16] | None = None) -> None:
        """Has it said between two turns.

        Args:
            text: what is said.
            sound: (n,) mono samples at 16 kHz that ring before the text, again and again until somebody stops them; None to
                say the text once.
        """
        ...


class AssistantToolbox(Protocol):
    """The tools of the assistant.

    Attributes:
        tools: what the model may call.
    """

    tools: Sequence[Tool]

    def needs_asking(self, call: ToolCall, confidence: float | None, words: str | None = None) -> str | None:
        """The question to ask before this call is made; None where it is made at once.

        Args:
            call: the call.
            confidence: the probability of what was heard, 0 to 1; None when it was not measured.
            words: what was heard.
        """
        ...

    def start(self, announce: Announcer) -> None:
        """Begins to watch timers and such, which speak through `announce`."""
        ...

    def cancel(self) -> None:
        """Ends the calls that run and can be ended, from any thread: they return an error."""
        ...

    def close(self) -> None:
        """Ends that, and closes connections. Further calls do nothing."""
        ...


class Persona(Protocol):
    """Who the assistant is.

    Attributes:
        name: what it calls itself.
        language: the code of the language that it hears and speaks; None for any.
        forget_after: seconds of silence after which a conversation is forgotten.
    """

    name: str
    language: str | None
    forget_after: float

    def system_prompt(self, now: datetime.datetime) -> str:
        """What the model is told before a conversation that begins at this moment."""
        ...
