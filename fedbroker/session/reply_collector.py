"""Collects the replies of a client stage: grants upload turns and passes outputs on to be merged, in order."""

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
    """The replies of one client stage, between the requests that fetch their outputs and the function that merges them.

    Args:
        state: state of the stage.
        order: order of merging.
        take: merges a silo's outputs.
    """

    def __init__(self, state: StageState, order: MergeOrder, take: Take) -> None:
        self._state = state
        self._take = take
        self._scheduler = MergeScheduler(order, merge_scheduler.ROOM)
        self._turns: dict[str, asyncio.Future[None]] = {}
        self._outputs: dict[str, Sequence[Buffer]] = {}

    async def turn(self, silo: str, size: int) -> None:
        """Wait until room is left for large results of a silo; :meth:`here` or :meth:`gone` gives the room back."""
        turn = self._turns[silo] = asyncio.get_running_loop().create_future()
        self._scheduler.announced(silo, size)
        self._give_turns()
        try:
            await turn
        finally:
            del self._turns[silo]

    def here(self, silo: str, outputs: Sequence[Buffer]) -> None:
        """Accept the outputs of a silo whose reply counts."""
        self._outputs[silo] = outputs
        self._scheduler.here(silo, sum(map(len, outputs)))
        self.look()

    def gone(self, silo: str) -> None:
        """Record that a silo has ended without a reply that counts."""
        self._scheduler.gone(silo)
        self.look()

    def look(self) -> None:
        """Pass on the outputs that are due to be merged."""
        for silo in self._scheduler.due(self._state.advance()):
            self._take(silo, self._outputs.pop(silo), partial(self._merged, silo))
        self._give_turns()

    def merge_order(self) -> MergeOrder:
        """Return the order in which all outputs were merged in the end."""
        return self._scheduler.merge_order(self._state.participants)

    def _merged(self, silo: str) -> None:
        self._scheduler.merged(silo)
        self._give_turns()

    def _give_turns(self) -> None:
        for silo in self._scheduler.turns(self._state.slot_of):
            if (turn := self._turns.get(silo)) is not None and not turn.done():
                turn.set_result(None)
