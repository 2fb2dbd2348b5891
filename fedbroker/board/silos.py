"""The silos that a board knows of, by their announcements. Plain state with the time passed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fedbroker.board.views import SiloState, SiloView
from fedbroker.session.roster import MIN_GRACE_SECONDS, MISSED_HEARTBEATS
from fedbroker.wire.messages import Announce, Leave

__all__ = ["Silo", "SiloStates"]

LATE_AFTER: Final = 1.5
"""Heartbeats after its latest announcement from which a silo is late: so it is named within two."""
MIN_LATE_SECONDS: Final = 0.25
"""Seconds by which an announcement may be overdue: messages take a while, and heartbeats may be short."""
FORGET_SECONDS: Final = 3600.0
"""Seconds after which a silo that is gone is no longer shown."""
MAX_SILOS: Final = 20_000
"""Silos of all cohorts: as many announcements as one lobby holds."""


@dataclass(slots=True)
class Silo:
    """A silo: its latest announcement, and how many running sessions wait for it.

    Attributes:
        due: the time at which its state may change, so that most looks at the clock are one comparison.
    """

    message: Announce
    since: float
    seen: float
    state: SiloState = "present"
    left: bool = False
    awaited: int = 0
    due: float = 0.0

    @property
    def view(self) -> SiloView:
        """The silo as it is shown."""
        message = self.message
        return SiloView(
            cohort=message.cohort,
            name=message.silo,
            state=self.state,
            since=self.since,
            seen=self.seen,
            heartbeat=message.heartbeat,
            version=message.version,
            sources=sorted(message.sources),
            in_flight=message.in_flight,
            working=self.awaited > 0,
        )

    def renew(self, now: float, heard_since: float = 0.0) -> None:
        """Find its state at a time, and when to look again.

        Args:
            now: the time.
            heard_since: time before which none of its announcements could have arrived.
        """
        heartbeat, heard = self.message.heartbeat, max(self.seen, heard_since)
        late = heard + max(LATE_AFTER * heartbeat, heartbeat + MIN_LATE_SECONDS)
        gone = heard + max(MISSED_HEARTBEATS * heartbeat, heartbeat + MIN_GRACE_SECONDS)
        if self.left or now > gone:
            self.state, self.due = "gone", self.seen + FORGET_SECONDS
        elif now > late:
            self.state, self.due = "late", gone
        else:
            self.state, self.due = "present", late


class SiloStates:
    """The silos of all cohorts.

    Attributes:
        changed: silos whose view has changed in more than the time of its latest announcement, until taken.
        seen: silos that announced themselves without another change, until taken.
        removed: silos that are no longer shown, until taken.
    """

    def __init__(self) -> None:
        self._silos: dict[tuple[str, str], Silo] = {}
        self._awaited: dict[tuple[str, str], int] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._heard_since = 0.0
        self.changed: dict[tuple[str, str], None] = {}
        self.seen: dict[tuple[str, str], None] = {}
        self.removed: dict[tuple[str, str], None] = {}

    def __iter__(self) -> Iterator[Silo]:
        return iter(self._silos.values())

    def get(self, cohort: str, name: str) -> Silo | None:
        """Return a silo; None if it is not known."""
        return self._silos.get((cohort, name))

    def count(self, cohort: str) -> tuple[int, int]:
        """Return the numbers of a cohort's silos, and of those that are present or late."""
        return self._counts.get(cohort, (0, 0))

    def views(self, keys: Iterable[tuple[str, str]]) -> list[SiloView]:
        """Return the views of those of the silos that are known."""
        return [self._silos[key].view for key in keys if key in self._silos]

    def announced(self, message: Announce, now: float) -> None:
        """Record an announcement."""
        key = message.cohort, message.silo
        known = self._silos.get(key)
        if known is None:
            if len(self._silos) >= MAX_SILOS and not self._forget_one():
                return
            known = self._silos[key] = Silo(message, now, now, awaited=self._awaited.get(key, 0))
            known.renew(now)
            self._add(message.cohort, 1, 1)
            self.removed.pop(key, None)
            self.changed[key] = None
            return
        before, state = known.message, known.state
        if before.incarnation != message.incarnation or state == "gone":
            known.since = now
        known.message, known.seen, known.left = message, now, False
        known.renew(now)
        self._add(message.cohort, 0, state == "gone")
        same = state == "present" and before.in_flight == message.in_flight and before.sources == message.sources
        if same and (before.incarnation, before.version) == (message.incarnation, message.version):
            self.seen[key] = None
        else:
            self.changed[key] = None

    def left(self, message: Leave) -> None:
        """Record a departure; without effect for a message of an earlier incarnation."""
        key = message.cohort, message.silo
        known = self._silos.get(key)
        if known is not None and known.message.incarnation == message.incarnation:
            self._add(message.cohort, 0, -(known.state != "gone"))
            known.left = True
            known.renew(known.seen)
            self.changed[key] = None

    def awaits(self, cohort: str, name: str, sessions: int) -> None:
        """Record that so many more running sessions (or fewer) wait for a silo."""
        key = cohort, name
        count = self._awaited.get(key, 0) + sessions
        if count > 0:
            self._awaited[key] = count
        else:
            self._awaited.pop(key, None)
        if (known := self._silos.get(key)) is not None:
            was, known.awaited = known.awaited, max(0, count)
            if (was > 0) != (count > 0):
                self.changed[key] = None

    def reconnected(self, now: float) -> None:
        """Excuse the silence of all silos until now: the broker was away."""
        self._heard_since = now
        for silo in self._silos.values():
            silo.due = min(silo.due, now)

    def tick(self, now: float) -> bool:
        """Find the silos that are late or gone by now; return whether a state has changed."""
        new, forgotten = False, list[tuple[str, str]]()
        for key, silo in self._silos.items():
            if now <= silo.due:
                continue
            before = silo.state
            silo.renew(now, self._heard_since)
            if silo.state != before:
                new = True
                self.changed[key] = None
                self._add(key[0], 0, (silo.state != "gone") - (before != "gone"))
            elif silo.state == "gone" and now > silo.due and not silo.awaited:
                forgotten.append(key)
        for key in forgotten:
            self._forget(key)
        return new

    def _forget_one(self) -> bool:
        """Forget the silo that has been gone for the longest time; return False if none is."""
        gone = [(silo.seen, key) for key, silo in self._silos.items() if silo.state == "gone"]
        if gone:
            self._forget(min(gone)[1])
        return bool(gone)

    def _add(self, cohort: str, silos: int, present: int) -> None:
        """Count more silos in a cohort, or fewer."""
        before = self.count(cohort)
        self._counts[cohort] = before[0] + silos, before[1] + present

    def _forget(self, key: tuple[str, str]) -> None:
        silo = self._silos.pop(key)
        self._add(key[0], -1, -(silo.state != "gone"))
        self.changed.pop(key, None)
        self.seen.pop(key, None)
        self.removed[key] = None
