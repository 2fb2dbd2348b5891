"""In which order answers are handed on to be merged, and who may send large results next: so that few are held at once.

A plain state machine without a clock or a broker. Imports nothing of fedbroker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = ["ROOM", "MergeOrder", "MergeScheduler", "unasked"]

MergeOrder: TypeAlias = Literal["membership", "arrival"]
"""``membership``: the order in which silos are asked, so that the same answers give the same bits, as far as there is
room for those that come out of turn. ``arrival``: as they come, with the least memory."""

ROOM: Final = 128 << 20
"""Bytes of answers beyond which no further silo is told to send; what is under way by then still comes."""

AT_ONCE: Final = 2
"""Silos that send large results at the same time: the next one's first bytes come behind the last one's last."""


def unasked(silos: int, least: int) -> int:
    """Bytes of results that each of so many silos may send without being told to; 0 for any number.

    Together they fit into :data:`ROOM`, or are ``least`` each. To be told costs a round trip, so those that are few
    enough to be told at once in any case need not be.
    """
    return 0 if silos <= AT_ONCE else max(least, ROOM // silos)


@dataclass(slots=True)
class MergeScheduler:
    """The answers of one client stage.

    Attributes:
        order: in which they are to be merged.
        room: see :data:`ROOM`.
        handed: whose were handed on, in that order.
    """

    order: MergeOrder = "membership"
    room: int = ROOM
    handed: list[str] = field(default_factory=list)
    _asking: dict[str, int] = field(default_factory=dict)  # silo: bytes; has announced them
    _sending: dict[str, int] = field(default_factory=dict)
    _held: dict[str, int] = field(default_factory=dict)  # here, and not handed on
    _merging: dict[str, int] = field(default_factory=dict)  # handed on, and not merged

    def announced(self, silo: str, size: int) -> None:
        """A silo has results that are large, and sends them when it is told to; what it sent of them before is lost."""
        self._sending.pop(silo, None)
        self._asking[silo] = size

    def turns(self, slot: Callable[[str], int]) -> list[str]:
        """Who is to send now: those who come first in the order, as long as there is room."""
        chosen: list[str] = []
        while self._asking and len(self._sending) < AT_ONCE and self._outstanding < self.room:
            first = next(iter(self._asking)) if self.order == "arrival" else min(self._asking, key=slot)
            self._sending[first] = self._asking.pop(first)
            chosen.append(first)
        return chosen

    def here(self, silo: str, size: int) -> None:
        """All results of a silo are here."""
        self._sending.pop(silo, None)
        self._held[silo] = size

    def gone(self, silo: str) -> None:
        """Nothing comes of a silo any more."""
        self._asking.pop(silo, None)
        self._sending.pop(silo, None)

    def merged(self, silo: str) -> None:
        """What was handed on of a silo is not held any more."""
        self._merging.pop(silo, None)

    def due(self, settled: Sequence[str]) -> list[str]:
        """Whose answers are to be handed on now, in this order; they count as handed on.

        Args:
            settled: whose turn it is in membership order: they have ended, and so has everybody before them.
        """
        due = [silo for silo in (self._held if self.order == "arrival" else settled) if silo in self._held]
        for silo in due:
            self._hand(silo)
        while sum(self._held.values()) >= self.room:
            due.append(next(iter(self._held)))
            self._hand(due[-1])
        return due

    def merge_order(self, participants: Sequence[str]) -> MergeOrder:
        """In which order all were merged in the end."""
        return "membership" if list(participants) == self.handed else "arrival"

    def _hand(self, silo: str) -> None:
        self._merging[silo] = self._held.pop(silo)
        self.handed.append(silo)

    @property
    def _outstanding(self) -> int:
        return sum(map(sum, (self._sending.values(), self._held.values(), self._merging.values())))
