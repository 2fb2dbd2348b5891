"""Answers on their way in: whose turn it is to send, and whose are handed on, by the scheduler's word.

Imports the session's own parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from fedbroker.session import merge_scheduler
from fedbroker.session.merge_scheduler import MergeOrder, MergeScheduler
from fedbroker.session.ports import Take
from fedbroker.session.stage_state import StageState
from fedbroker.wire.codec import Buffer

__all__ = ["ReplyCollector"]


class ReplyCollector:
    """The answers of one client stage, between the requests that fetch them and whoever merges them.

    Args:
        state: of the stage.
        order: in which they are to be merged.
        take: merges them.
    """

    def __init__(self, state: StageState, order: MergeOrder, take: Take) -> None:
        self._state = state
        self._take = take
        self._scheduler = MergeScheduler(order, merge_scheduler.ROOM)
        self._turns: dict[str, asyncio.Future[None]] = {}
        self._outputs: dict[str, Sequence[Buffer]] = {}

    async def turn(self, silo: str, size: int) -> None:
        """Wait until there is room for large results of a silo; :meth:`here` or :meth:`gone` gives the room back."""
        turn = self._turns[silo] = asyncio.get_running_loop().create_future()
        self._scheduler.announced(silo, size)
        self._give_turns()
        try:
            await turn
        finally:
            del self._turns[silo]

    def here(self, silo: str, outputs: Sequence[Buffer]) -> None:
        """A silo has answered, and its answer counts."""
        self._outputs[silo] = outputs
        self._scheduler.here(silo, sum(map(len, outputs)))
        self.look()

    def gone(self, silo: str) -> None:
        """A silo has ended without an answer that counts."""
        self._scheduler.gone(silo)
        self.look()

    def look(self) -> None:
        """Hand on what is due by now."""
        for silo in self._scheduler.due(self._state.advance()):
            self._take(silo, self._outputs.pop(silo), partial(self._merged, silo))
        self._give_turns()

    def merge_order(self) -> MergeOrder:
        """In which order all were merged in the end."""
        return self._scheduler.merge_order(self._state.participants)

    def _merged(self, silo: str) -> None:
        self._scheduler.merged(silo)
        self._give_turns()

    def _give_turns(self) -> None:
        for silo in self._scheduler.turns(self._state.slot_of):
            if (turn := self._turns.get(silo)) is not None and not turn.done():
                turn.set_result(None)
