"""State of a cohort's silos, derived from their announcements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from fedbroker.session.roster import Roster
from fedbroker.wire.messages import Announce, Leave

__all__ = ["Row", "SiloTable", "State", "changed_rows"]

State: TypeAlias = Literal["present", "left", "gone"]


@dataclass(frozen=True, slots=True)
class Row:
    """One silo.

    Attributes:
        announce: its latest announcement.
        state: ``present``; ``left``: it said goodbye; ``gone``: it missed two heartbeats.
        ago: seconds since its last message.
    """

    announce: Announce
    state: State
    ago: float

    def as_json(self) -> dict[str, object]:
        """Return the row for programs; of each source only the announced facts."""
        silo = self.announce
        seen = datetime.now(UTC) - timedelta(seconds=self.ago)
        sources = {
            name: {
                "columns": {column.name: column.dtype for column in source.columns},
                "rows": source.rows,
                "clients": source.clients,
            }
            for name, source in silo.sources.items()
        }
        return {
            "silo": silo.silo,
            "state": self.state,
            "incarnation": silo.incarnation,
            "version": silo.version,
            "sources": sources,
            "in_flight": silo.in_flight,
            "masked_sums": bool(silo.mask_key),
            "heartbeat": silo.heartbeat,
            "last_seen": seen.isoformat(timespec="milliseconds"),
        }

    @property
    def shown(self) -> tuple[object, ...]:
        """Values whose change is worth a new line: all but the time of the last message."""
        silo = self.announce
        sources = tuple((name, source.rows, source.clients) for name, source in silo.sources.items())
        return self.state, silo.incarnation, silo.version, silo.in_flight, bool(silo.mask_key), sources


class SiloTable:
    """The present and past silos of one cohort, by the coordinator's own rules. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._roster = Roster()
        self._latest: dict[str, tuple[Announce, float]] = {}
        self._left: set[str] = set()

    def update(self, message: Announce | Leave, now: float) -> None:
        """Process a silo's message."""
        if isinstance(message, Announce):
            self._roster.announced(message, now)
            self._latest[message.silo] = message, now
            self._left.discard(message.silo)
        elif self._roster.left(message):
            self._latest[message.silo] = self._latest[message.silo][0], now
            self._left.add(message.silo)

    def rows(self, now: float) -> list[Row]:
        """Return a row for every silo that has sent a message, sorted by name."""
        present = {member.name for member in self._roster.present(now)}
        return [
            Row(announce, self._state(name, present), now - at) for name, (announce, at) in sorted(self._latest.items())
        ]

    def _state(self, name: str, present: set[str]) -> State:
        if name in present:
            return "present"
        return "left" if name in self._left else "gone"


def changed_rows(before: Mapping[str, Row], now: Mapping[str, Row]) -> list[Row]:
    """Return the rows whose shown values have changed."""
    return [row for name, row in now.items() if name not in before or before[name].shown != row.shown]
