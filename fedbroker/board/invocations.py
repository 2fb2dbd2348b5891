"""Invocations that wait for silos and have no session yet: shown as sessions without members. Plain state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from fedbroker.board.stages import number, text
from fedbroker.board.views import SessionView
from fedbroker.board.waiting import waits_for_silos
from fedbroker.wire.events import CohortEvent

__all__ = ["Invocations"]

MAX_INVOCATIONS: Final = 200
WAIT_MARGIN: Final = 5.0
"""Seconds beyond its time limit after which an invocation without silos is taken for ended."""


@dataclass(slots=True)
class _Invocation:
    view: SessionView
    until: float


class Invocations:
    """At most one waiting invocation of each coordinator.

    Attributes:
        removed: ids that are no longer shown, until taken.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Invocation] = {}  # by coordinator
        self._changed: dict[str, None] = {}
        self.removed: list[str] = []

    def views(self) -> list[SessionView]:
        """Return all of them."""
        return [one.view for one in self._waiting.values()]

    def take_changes(self) -> list[SessionView]:
        """Return those that have changed since the last call."""
        changed, self._changed = self._changed, {}
        return [self._waiting[coordinator].view for coordinator in changed]

    def waits(self, event: CohortEvent, now: float) -> None:
        """Apply that an invocation waits for silos."""
        present: object = event.details.get("present")
        names = list(map(str, cast("list[object]", present))) if isinstance(present, list) else []
        earlier = self._waiting.get(event.coordinator)
        if earlier is None and len(self._waiting) >= MAX_INVOCATIONS:
            return
        view = SessionView(
            id=f"waiting-{event.coordinator}",
            cohort=event.cohort,
            coordinator=event.coordinator,
            computation=text(event.details, "computation"),
            program=text(event.details, "program"),
            run=text(event.details, "run"),
            round=None,
            began=now if earlier is None else earlier.view.began,
            ended=None,
            outcome="running",
            error="",
            members=0,
            stage=None,
            waits=waits_for_silos(names, int(number(event.details, "wanted"))),
            dropped=0,
            forged=0,
        )
        self._waiting[event.coordinator] = _Invocation(view, now + number(event.details, "seconds", 60.0) + WAIT_MARGIN)
        self._changed[event.coordinator] = None

    def started(self, coordinator: str) -> None:
        """Show an invocation no longer: it has a session now, or has ended without one."""
        waiting = self._waiting.pop(coordinator, None)
        if waiting is not None:
            self._changed.pop(coordinator, None)
            self.removed.append(waiting.view.id)

    def tick(self, now: float) -> None:
        """Take those whose time is over for ended."""
        for coordinator in [name for name, one in self._waiting.items() if now > one.until]:
            self.started(coordinator)
