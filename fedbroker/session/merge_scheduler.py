"""Merge scheduling: which reply is merged next and which silo may upload next, so that memory stays bounded.

A plain state machine without a clock or a broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from fedbroker.session.ports import Take
from fedbroker.session.stage_state import MergeOrder, StageState
from fedbroker.wire.codec import Buffer

__all__ = ["ROOM", "MergeScheduler", "ReplyCollector", "unasked"]


ROOM: Final = 128 << 20
"""Bytes of outstanding replies from which no further silo is told to upload; running uploads still finish."""

AT_ONCE: Final = 2
"""Number of silos that upload large results at the same time: two, so that one upload follows another without a gap."""


def unasked(silos: int, least: int) -> int:
    """Return the bytes of results that each of so many silos may upload without being told to; 0 for any number.

    Together they fit into :data:`ROOM`, or are ``least`` each. Being told costs a round trip. It is saved if the silos
    are few enough to upload at the same time.
    """
    return 0 if silos <= AT_ONCE else max(least, ROOM // silos)


@dataclass(slots=True)
class MergeScheduler:
    """The merge order and upload turns of one client stage.

    Attributes:
        order: requested order of merging.
        room: see :data:`ROOM`.
        handed: silos whose outputs were passed on to be merged, in that order.
    """

    order: MergeOrder = "membership"
    room: int = ROOM
    handed: list[str] = field(default_factory=list[str])
    _asking: dict[str, int] = field(default_factory=dict[str, int])  # silo: bytes that it announced
    _sending: dict[str, int] = field(default_factory=dict[str, int])
    _held: dict[str, int] = field(default_factory=dict[str, int])  # arrived, but not passed on
    _merging: dict[str, int] = field(default_factory=dict[str, int])  # passed on, but not merged

    def announced(self, silo: str, size: int) -> None:
        """Record that a silo has large results and waits to be told to upload them. An earlier upload of it is lost."""
        self._sending.pop(silo, None)
        self._asking[silo] = size

    def turns(self, slot: Callable[[str], int]) -> list[str]:
        """Choose the silos that upload now: the first in the order, while room is left."""
        chosen: list[str] = []
        while self._asking and len(self._sending) < AT_ONCE and self._outstanding < self.room:
            first = next(iter(self._asking)) if self.order == "arrival" else min(self._asking, key=slot)
            self._sending[first] = self._asking.pop(first)
            chosen.append(first)
        return chosen

    def here(self, silo: str, size: int) -> None:
        """Record that all results of a silo have arrived."""
        self._sending.pop(silo, None)
        self._held[silo] = size

    def gone(self, silo: str) -> None:
        """Record that a silo sends nothing more."""
        self._asking.pop(silo, None)
        self._sending.pop(silo, None)

    def merged(self, silo: str) -> None:
        """Record that a silo's outputs were merged and take no memory any more."""
        self._merging.pop(silo, None)

    def due(self, settled: Sequence[str]) -> list[str]:
        """Return the silos whose outputs are merged next, in this order, and record them as passed on.

        Args:
            settled: silos whose turn it is in membership order: they and all silos before them have ended.
        """
        due = [silo for silo in (self._held if self.order == "arrival" else settled) if silo in self._held]
        for silo in due:
            self._hand(silo)
        while sum(self._held.values()) >= self.room:
            due.append(next(iter(self._held)))
            self._hand(due[-1])
        return due

    def merge_order(self, participants: Sequence[str]) -> MergeOrder:
        """Return the order in which all outputs were merged in the end."""
        return "membership" if list(participants) == self.handed else "arrival"

    def _hand(self, silo: str) -> None:
        self._merging[silo] = self._held.pop(silo)
        self.handed.append(silo)

    @property
    def _outstanding(self) -> int:
        return sum(map(sum, (self._sending.values(), self._held.values(), self._merging.values())))


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
        self._scheduler = MergeScheduler(order, ROOM)
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
