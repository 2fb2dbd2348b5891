"""State of a cohort's silos, derived from their announcements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from fedbroker.session.roster import Roster
from fedbroker.wire.messages import Announce, Leave

__all__ = ["Row", "SiloTable", "State", "news"]

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
        said = self.announce
        seen = datetime.now(UTC) - timedelta(seconds=self.ago)
        sources = {
            name: {
                "columns": {column.name: column.dtype for column in source.columns},
                "rows": source.rows,
                "clients": source.clients,
            }
            for name, source in said.sources.items()
        }
        return {
            "silo": said.silo,
            "state": self.state,
            "incarnation": said.incarnation,
            "version": said.version,
            "sources": sources,
            "in_flight": said.in_flight,
            "heartbeat": said.heartbeat,
            "last_seen": seen.isoformat(timespec="milliseconds"),
        }

    @property
    def told(self) -> tuple[object, ...]:
        """Values whose change is worth a new line."""
        said = self.announce
        names = tuple((name, source.rows, source.clients) for name, source in said.sources.items())
        return self.state, said.incarnation, said.version, said.in_flight, names


class SiloTable:
    """The present and past silos of one cohort, by the coordinator's own rules. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._roster = Roster()
        self._latest: dict[str, tuple[Announce, float]] = {}
        self._left: set[str] = set()

    def hear(self, word: Announce | Leave, now: float) -> None:
        """Process a silo's message."""
        if isinstance(word, Announce):
            self._roster.announced(word, now)
            self._latest[word.silo] = word, now
            self._left.discard(word.silo)
        elif self._roster.left(word):
            self._latest[word.silo] = self._latest[word.silo][0], now
            self._left.add(word.silo)

    def rows(self, now: float) -> list[Row]:
        """Return a row for every silo heard so far, by name."""
        present = {member.name for member in self._roster.present(now)}
        return [Row(said, self._state(name, present), now - at) for name, (said, at) in sorted(self._latest.items())]

    def _state(self, name: str, present: set[str]) -> State:
        if name in present:
            return "present"
        return "left" if name in self._left else "gone"


def news(before: Mapping[str, Row], now: Mapping[str, Row]) -> list[Row]:
    """Return the rows whose told values have changed."""
    return [row for name, row in now.items() if name not in before or before[name].told != row.told]
