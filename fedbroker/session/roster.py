"""Who is in a cohort, from what its silos announce.

Plain state with the time passed in; imports wire only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbroker.wire.messages import Announce, Leave, Source

__all__ = ["Member", "Roster"]

HEARTBEATS_OF_GRACE = 2
SECONDS_OF_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Member:
    """A silo as it announced itself.

    Attributes:
        name: unique in the cohort.
        incarnation: differs for each start of the silo's process.
        sources: its data sources by name.
    """

    name: str
    incarnation: str
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(slots=True)
class _Seen:
    member: Member
    until: float
    left: bool = False


@dataclass(slots=True)
class Roster:
    """The silos of one cohort, present and past. Times are seconds on any one monotonic clock."""

    _seen: dict[str, _Seen] = field(default_factory=dict)

    def announced(self, message: Announce, now: float) -> None:
        """A silo said that it is there; it counts as gone two heartbeats and a second after its last word."""
        until = now + HEARTBEATS_OF_GRACE * message.heartbeat + SECONDS_OF_GRACE
        self._seen[message.silo] = _Seen(Member(message.silo, message.incarnation, message.sources), until)

    def left(self, message: Leave) -> None:
        """A silo said that it goes; a word from an earlier incarnation changes nothing."""
        seen = self._seen.get(message.silo)
        if seen is not None and seen.member.incarnation == message.incarnation:
            seen.left = True

    def present(self, now: float) -> tuple[Member, ...]:
        """Who is there, by name."""
        there = [seen.member for seen in self._seen.values() if not seen.left and seen.until >= now]
        return tuple(sorted(there, key=lambda member: member.name))

    def missing(self, now: float) -> tuple[str, ...]:
        """Names of those who were there once and are not now."""
        return tuple(sorted(name for name, seen in self._seen.items() if seen.left or seen.until < now))
