"""Who is in a cohort, from what its silos announce.

Plain state with the time passed in; imports wire only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbroker.wire.messages import Announce, Leave, Source

__all__ = ["Member", "Roster"]

HEARTBEATS_OF_GRACE = 2
LEAST_GRACE = 2.0
"""Seconds that an announcement may be late, where heartbeats are shorter than that."""


@dataclass(frozen=True, slots=True)
class Member:
    """A silo as it announced itself: what a rule for ``eligible`` or ``select`` goes by.

    Attributes:
        name: unique in the cohort.
        incarnation: differs for each start of the silo's process.
        sources: its data sources by name.
        version: of its software.
        capabilities: what it understands beyond the first version of the protocol.
    """

    name: str
    incarnation: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    version: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    member: Member
    until: float
    left: bool = False


@dataclass(slots=True)
class Roster:
    """The silos of one cohort, present and past. Times are seconds on any one monotonic clock."""

    _seen: dict[str, _Seen] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many are known, present or past."""
        return len(self._seen)

    def announced(self, message: Announce, now: float) -> bool:
        """A silo said that it is there; it counts as gone two heartbeats after its last word.

        Returns:
            Whether it is new here: never seen, or another incarnation, or back after it was gone.
        """
        seen = self._seen.get(message.silo)
        until = now + max(HEARTBEATS_OF_GRACE * message.heartbeat, message.heartbeat + LEAST_GRACE)
        member = Member(message.silo, message.incarnation, message.sources, message.version, message.capabilities)
        self._seen[message.silo] = _Seen(member, until)
        return seen is None or seen.left or seen.until < now or seen.member.incarnation != message.incarnation

    def knows(self, message: Announce) -> bool:
        """Whether this very incarnation has been heard before."""
        seen = self._seen.get(message.silo)
        return seen is not None and seen.member.incarnation == message.incarnation

    def left(self, message: Leave) -> bool:
        """A silo said that it goes; a word from an earlier incarnation changes nothing, and gives False."""
        seen = self._seen.get(message.silo)
        if seen is None or seen.left or seen.member.incarnation != message.incarnation:
            return False
        seen.left = True
        return True

    def present(self, now: float) -> tuple[Member, ...]:
        """Who is there, by name."""
        there = [seen.member for seen in self._all() if not seen.left and seen.until >= now]
        return tuple(sorted(there, key=lambda member: member.name))

    def missing(self, now: float) -> tuple[str, ...]:
        """Names of those who were there once and are not now."""
        return tuple(sorted(seen.member.name for seen in self._all() if seen.left or seen.until < now))

    def _all(self) -> list[_Seen]:
        """A copy, made in one step: whoever serves metrics reads from another thread."""
        return list(self._seen.values())

    def forget_longest_gone(self, now: float) -> bool:
        """Make room: forget whoever is gone for the longest time; False if all are there."""
        gone = [(seen.until, name) for name, seen in self._seen.items() if seen.left or seen.until < now]
        if not gone:
            return False
        del self._seen[min(gone)[1]]
        return True
