"""Roster of a cohort: its present and missing silos, by their announcements. Plain state with the time passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbroker.wire.messages import Announce, Leave, Source

__all__ = ["Member", "Roster"]

HEARTBEATS_OF_GRACE = 2
"""Heartbeats after its last announcement for which a silo counts as present."""
LEAST_GRACE = 2.0
"""Seconds by which an announcement may be late, if heartbeats are shorter than that."""


@dataclass(frozen=True, slots=True)
class Member:
    """A silo as it announced itself; the argument of ``eligible`` and ``select`` rules.

    Attributes:
        name: its name, unique in the cohort.
        incarnation: id that differs for each start of the silo's process.
        sources: its data sources by name.
        version: version of its software.
        capabilities: features that it supports beyond the first version of the protocol.
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
    """The silos of one cohort, present and missing. Times are seconds on any one monotonic clock."""

    _seen: dict[str, _Seen] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of known silos, present or missing."""
        return len(self._seen)

    def announced(self, message: Announce, now: float) -> bool:
        """Record an announcement. The silo counts as missing two heartbeats after its last one.

        Returns:
            True if the silo is new here: never seen, another incarnation, or present again after it was missing.
        """
        seen = self._seen.get(message.silo)
        until = now + max(HEARTBEATS_OF_GRACE * message.heartbeat, message.heartbeat + LEAST_GRACE)
        member = Member(message.silo, message.incarnation, message.sources, message.version, message.capabilities)
        self._seen[message.silo] = _Seen(member, until)
        return seen is None or seen.left or seen.until < now or seen.member.incarnation != message.incarnation

    def knows(self, message: Announce) -> bool:
        """Return whether this incarnation has announced itself before."""
        seen = self._seen.get(message.silo)
        return seen is not None and seen.member.incarnation == message.incarnation

    def left(self, message: Leave) -> bool:
        """Record that a silo leaves. Returns False, without effect, for a message of an earlier incarnation."""
        seen = self._seen.get(message.silo)
        if seen is None or seen.left or seen.member.incarnation != message.incarnation:
            return False
        seen.left = True
        return True

    def present(self, now: float) -> tuple[Member, ...]:
        """Return the present silos, sorted by name."""
        there = [seen.member for seen in self._all() if not seen.left and seen.until >= now]
        return tuple(sorted(there, key=lambda member: member.name))

    def missing(self, now: float) -> tuple[str, ...]:
        """Return the names of the silos that were present once and are not now."""
        return tuple(sorted(seen.member.name for seen in self._all() if seen.left or seen.until < now))

    def _all(self) -> list[_Seen]:
        """Return a copy, made in one step, because metrics are read from another thread."""
        return list(self._seen.values())

    def forget_longest_gone(self, now: float) -> bool:
        """Forget the silo that has been missing for the longest time; return False if all are present."""
        gone = [(seen.until, name) for name, seen in self._seen.items() if seen.left or seen.until < now]
        if not gone:
            return False
        del self._seen[min(gone)[1]]
        return True
