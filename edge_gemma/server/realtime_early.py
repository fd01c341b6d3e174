"""An answer that is begun in a pause, before it is known whether the turn is over: nothing of it is told before that.

early = EarlyAnswer(core, timeline, request)        # somebody pauses
answer = await early.taken(request)                 # the turn is over: the answer, if the prompts are equal
early.drop()                                        # the speaker goes on
"""

from __future__ import annotations

import asyncio

from ..chat.timeline import Timeline
from .core import Answer, Core
from .failures import RequestError
from .requests import ChatRequest, Prepared

__all__ = ["EarlyAnswer"]


class EarlyAnswer:
    """Of the event loop's thread."""

    def __init__(self, core: Core, timeline: Timeline, request: ChatRequest) -> None:
        """Begins to answer. `timeline` has heard the turn, and is given away; `request` is what it asks if it is over."""
        self._core = core
        self._prepared: Prepared | None = None
        self._answer: Answer | None = None
        self._dropped = False
        self._task = asyncio.create_task(self._begin(timeline, request))

    async def _begin(self, timeline: Timeline, request: ChatRequest) -> None:
        try:
            self._core.scheduler.keep(timeline, request.hint)  # is done before the answer begins
            prepared = await self._core.work(self._core.preparer.prepare, request)
            if not self._dropped:
                self._answer, self._prepared = self._core.begin(prepared)[0], prepared
        except RequestError:  # the turn is answered when it is over
            pass

    async def taken(self, request: ChatRequest) -> Answer | None:
        """The answer, if it is the one to this request; else it is dropped. Raises RequestError."""
        await asyncio.wait([self._task])
        answer, begun = self._answer, self._prepared
        if answer is not None and begun is not None and not self._dropped:
            prepared = await self._core.work(self._core.preparer.prepare, request)
            if _equal(begun, prepared):
                self._answer = None
                return answer
        self.drop()
        return None

    def drop(self) -> None:
        """Ends it."""
        self._dropped = True
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.cancel()


def _equal(one: Prepared, other: Prepared) -> bool:
    """Whether the same is asked in the same way."""
    ways = [(each.sampling, each.max_tokens, each.request.tools, each.request.tool_choice) for each in (one, other)]
    return list(one.units) == list(other.units) and ways[0] == ways[1]
