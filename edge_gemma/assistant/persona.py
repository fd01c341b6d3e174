"""Who the assistant is: what the model is told, and the facts that it knows of its people and its house.

Facts are a text file of the user, who can read and edit it at any time. It is read when a conversation begins. Without such a
file the assistant remembers nothing.
"""

from __future__ import annotations

import datetime
import os

from ..errors import EdgeGemmaOSError, EdgeGemmaValueError
from ..speech.languages import language_name
from .state import read_text, write_text

__all__ = ["Facts", "SpokenPersona"]

_PROMPT = (
    "You are {name}, a voice assistant at home. What you hear was spoken, and what you answer is spoken: answer with one or "
    "two short sentences of plain words, without lists, markup or emoji. Use your tools for all that they can do. Never say "
    "that something is done before its tool has returned. If a tool reports an error, say in a few words what did not work. "
    "{language} Today is {date}."
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_LONGEST_PROMPT, _LONGEST_FACTS, _LONGEST_FACT = 8000, 4000, 300  # characters


class Facts:
    """A file of facts, and the tool that appends to it."""

    def __init__(self, path: str) -> None:
        """`path`: a text file, which is made with the first fact.

        Raises EdgeGemmaOSError, EdgeGemmaValueError as `text`.
        """
        self.path = os.path.expanduser(path)
        self.text()

    def text(self) -> str:
        """What the file says now.

        Raises EdgeGemmaOSError "file" when it cannot be read, EdgeGemmaValueError "argument" when it is too long: the model
        would read all of it before every conversation.
        """
        text = read_text(self.path).strip()
        if len(text) > _LONGEST_FACTS:
            raise EdgeGemmaValueError(
                f"{self.path} has {len(text)} characters; facts may have {_LONGEST_FACTS} together.", "argument"
            )
        return text

    def remember(self, fact: str) -> str:
        """Remembers a fact for later conversations. Only for what the user asks to be remembered.

        Args:
            fact: one sentence
        """
        fact = " ".join(fact.split())
        if not fact or len(fact) > _LONGEST_FACT:
            raise EdgeGemmaValueError(f"A fact has 1 to {_LONGEST_FACT} characters.", "tool")
        before = read_text(self.path)
        if len(before) + len(fact) + 3 > _LONGEST_FACTS:
            raise EdgeGemmaValueError("The file of facts is full: its owner has to shorten it.", "tool")
        write_text(self.path, f"{before.rstrip()}\n- {fact}\n" if before.strip() else f"- {fact}\n")
        return f"remembered: {fact}"


class SpokenPersona:
    """A name, a language, and what the model is told. A `Persona`.

    Attributes:
        name: what the assistant is called.
        language: the code of the language that it hears and speaks; None for any.
        forget_after: seconds of silence after which a conversation is forgotten.
        facts: what it knows; None for nothing.
    """

    def __init__(
        self,
        name: str = "Gemma",
        language: str | None = None,
        prompt_file: str | None = None,
        facts: Facts | None = None,
        forget_after: float = 300.0,
    ) -> None:
        """Reads the prompt.

        Args:
            name, language, facts, forget_after: as the attributes.
            prompt_file: a text that takes the place of the prompt; "{name}", "{language}" and "{date}" in it are replaced.

        Raises:
            EdgeGemmaOSError: "file" when the prompt cannot be read.
            EdgeGemmaValueError: "argument" for an empty or very long prompt, an unknown language, an empty name, a time
                below 0.
        """
        self.name = " ".join(name.split())
        if not self.name:
            raise EdgeGemmaValueError("The name of the assistant is empty.", "argument")
        if not forget_after >= 0:
            raise EdgeGemmaValueError(f"A conversation cannot be forgotten after {forget_after:g} seconds.", "argument")
        self.language, self.facts, self.forget_after = language, facts, forget_after
        self._language = language and language_name(language)
        self._prompt = _PROMPT if prompt_file is None else _read_prompt(os.path.expanduser(prompt_file))

    def system_prompt(self, now: datetime.datetime) -> str:
        """What the model is told before a conversation that begins at this moment.

        It has the date and not the time, which a tool tells: so it stays the same for a day, and the model keeps what it has
        read of it. Raises as `Facts.text`.
        """
        language = (
            f"Answer in {self._language}." if self._language else "Answer in the language that you are spoken to in."
        )
        date = f"{_DAYS[now.weekday()]}, {now.day} {_MONTHS[now.month - 1]} {now.year}"
        text = self._prompt
        for name, value in (("name", self.name), ("language", language), ("date", date)):
            text = text.replace(f"{{{name}}}", value)
        facts = self.facts.text() if self.facts else ""
        return f"{text}\n\nWhat you know of the people and of the house:\n{facts}" if facts else text


def _read_prompt(path: str) -> str:
    if not os.path.exists(path):
        raise EdgeGemmaOSError(f"cannot read {path}: there is no such file.", "file")
    text = read_text(path).strip()
    if not text or len(text) > _LONGEST_PROMPT:
        size = f"{len(text)} characters" if text else "no words"
        raise EdgeGemmaValueError(f"{path} has {size}; a system prompt has 1 to {_LONGEST_PROMPT}.", "argument")
    return text
