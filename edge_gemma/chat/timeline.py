"""`Timeline`: a session, and what its soft tokens stand for, so that it can be compared with a prompt.

Owns the one comparison that finds how much of a prompt a session holds already, and the way back to there. Token ids are
compared as they are; recordings and pictures by the digests of their content. What is fed afterwards is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..engine.interface import SessionLike
from ..errors import EdgeGemmaError
from .prompt import Media, Unit

__all__ = ["Spans", "Timeline", "common_prefix"]

Spans = Mapping[int, tuple[int, Media]]
"""By the position at which media begin, markers included: the position behind them, and what they are."""


def common_prefix(target: Sequence[Unit], held: Sequence[int], spans: Spans) -> tuple[int, int]:
    """How many units from the start of `target` a timeline holds, and how many tokens these take.

    Args:
        target: a prompt.
        held: the tokens of the timeline; soft tokens are -1.
        spans: its media.
    """
    at = 0
    for number, unit in enumerate(target):
        if isinstance(unit, Media):
            end, media = spans.get(at, (0, None))
            if media != unit or end > len(held):
                return number, at
            at = end
        elif at >= len(held) or held[at] != unit:
            return number, at
        else:
            at += 1
    return len(target), at


class Timeline:
    """A session whose tokens are known as the units of a prompt.

    Attributes:
        session: the session.
        spans: its media.
    """

    def __init__(self, session: SessionLike) -> None:
        """`session`: an empty one, or one whose tokens are no soft tokens."""
        self.session = session
        self.spans: dict[int, tuple[int, Media]] = {}

    def common(self, target: Sequence[Unit], held: Sequence[int] | None = None) -> tuple[int, int]:
        """As `common_prefix`; `held`: the session's tokens, if the caller has them."""
        return common_prefix(target, self.session.tokens if held is None else held, self.spans)

    def rewind(self, position: int) -> bool:
        """Goes back to `position`. Where the session cannot go back that far, it goes to the start and returns False."""
        reached = True
        if self.session.position > position:
            try:
                self.session.rewind_to(position)
            except EdgeGemmaError as error:
                if error.code == "cancelled" or position == 0:
                    raise
                self.session.rewind_to(0)
                reached = False
        now = self.session.position
        self.spans = {start: span for start, span in self.spans.items() if span[0] <= now}
        return reached

    def note(self, start: int, media: Media) -> None:
        """What was fed from `start` to the end of the session is this."""
        self.spans[start] = (self.session.position, media)

    def fork(self) -> Timeline:
        """A second one with the same content, independent from now on."""
        copy = Timeline(self.session.fork())
        copy.spans = dict(self.spans)
        return copy
