"""Merge scheduling: which reply is merged next and which silo may upload next, so that memory stays bounded.

A plain state machine without a clock or a broker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = ["ROOM", "MergeOrder", "MergeScheduler", "unasked"]

MergeOrder: TypeAlias = Literal["membership", "arrival"]
"""``membership``: the order in which silos are asked, so that equal replies give equal bits, unless the replies that
wait for their turn exceed :data:`ROOM`. ``arrival``: the order in which they arrive, which takes the least memory."""

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
    handed: list[str] = field(default_factory=list)
    _asking: dict[str, int] = field(default_factory=dict)  # silo: bytes that it announced
    _sending: dict[str, int] = field(default_factory=dict)
    _held: dict[str, int] = field(default_factory=dict)  # arrived, but not passed on
    _merging: dict[str, int] = field(default_factory=dict)  # passed on, but not merged

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
