"""`TurnRecord`: when the parts of a turn happened. Times only: no words are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["TurnRecord"]


@dataclass
class TurnRecord:
    """Times of one turn on the clock of the assistant; None for what has not happened.

    Attributes:
        spoken: the end of speech.
        decided: when it was decided that the turn is over.
        transcript: when its words were known.
        first_token: when the first token of the answer was known.
        first_sound: when the first sound of the answer went to the ear.
        answered: when the answer was complete.
        early: whether the answer was begun before the decision, and kept.
        tools: how many tools ran.
        interrupted: whether the answer was interrupted.
    """

    spoken: float | None = None
    decided: float | None = None
    transcript: float | None = None
    first_token: float | None = None
    first_sound: float | None = None
    answered: float | None = None
    early: bool = False
    tools: int = 0
    interrupted: bool = False

    def as_dict(self, number: int) -> dict[str, Any]:
        """The record of turn `number`: seconds after the end of speech, and from the decision to the first sound."""

        def after(moment: float | None, start: float | None) -> float | None:
            return None if moment is None or start is None else round(moment - start, 4)

        return {
            "turn": number,
            "decision_s": after(self.decided, self.spoken),
            "transcript_s": after(self.transcript, self.spoken),
            "first_token_s": after(self.first_token, self.spoken),
            "first_sound_s": after(self.first_sound, self.spoken),
            "answer_s": after(self.answered, self.spoken),
            "decision_to_sound_s": after(self.first_sound, self.decided),
            "begun_early": self.early,
            "tools": self.tools,
            "interrupted": self.interrupted,
        }

    def as_line(self, number: int) -> str:
        """The same as one line of JSON."""
        return json.dumps(self.as_dict(number))
