"""The board's state machine: announcements, events and time in, views and their changes out. No clock, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fedbroker.board.curves import Curves
from fedbroker.board.invocations import Invocations
from fedbroker.board.sessions import Session
from fedbroker.board.silos import SiloStates
from fedbroker.board.stages import text
from fedbroker.board.views import (
    Changes,
    CohortView,
    CurveView,
    NoticeKind,
    NoticeView,
    Removed,
    SessionDetails,
    SessionView,
    SiloView,
    State,
)
from fedbroker.lru import LruMap
from fedbroker.wire.events import CohortEvent
from fedbroker.wire.messages import Announce, Leave

__all__ = ["BoardState"]

MAX_SESSIONS: Final = 200
MAX_TOTAL_BARS: Final = 50_000
"""Bars of all sessions; those that ended first are forgotten first."""
MAX_SHOWN_BARS: Final = 5_000
"""Bars that are part of the state: running sessions first, then the newest."""
MAX_NOTICES: Final = 200
MAX_COHORTS: Final = 1_000
MAX_COORDINATORS: Final = 1_000
HEARTBEAT_SECONDS: Final = 1.0
"""Seconds between two changes with nothing but the times of announcements."""


class BoardState:
    """The whole content of a board.

    Args:
        cohorts: names of cohorts that are shown even without a silo.
    """

    def __init__(self, cohorts: Sequence[str] = ()) -> None:
        self._silos = SiloStates()
        self._sessions: dict[str, Session] = {}
        self._invocations = Invocations()
        self._curves = Curves()
        self._notices: list[NoticeView] = []
        self._new_notices: list[NoticeView] = []
        self._cohorts: dict[str, int | None] = dict.fromkeys(cohorts)  # with the number of dead letters
        self._cohort_views: dict[str, CohortView] = {}  # as they were sent
        self._sequences: LruMap[str, int] = LruMap(MAX_COORDINATORS)
        self._removed_sessions: list[str] = []
        self._removed_bars: list[str] = []
        self._broker, self._sent_broker = "", ""
        self._missed, self._sent_missed = 0, 0
        self._heartbeats_at = 0.0

    @property
    def cohorts(self) -> list[str]:
        """Names of the cohorts."""
        return sorted(self._cohorts)

    def on_silo(self, message: Announce | Leave, now: float) -> None:
        """Apply an announcement or a departure."""
        if not self._known(message.cohort):
            return
        if isinstance(message, Announce):
            self._silos.announced(message, now)
        else:
            self._silos.left(message)

    def on_events(self, events: Sequence[CohortEvent], now: float) -> None:
        """Apply events of one coordinator."""
        for event in events:
            if self._known(event.cohort):
                self._count(event)
                self._apply(event, now)

    def on_dead_letters(self, counts: Mapping[str, int | None], now: float) -> None:
        """Apply the numbers of dead letters."""
        for cohort, count in counts.items():
            before = self._cohorts.get(cohort)
            if cohort in self._cohorts:
                self._cohorts[cohort] = count
                if count is not None and count > (before or 0) and before is not None:
                    more = count - before
                    self._note(now, cohort, "", "", "dead letter", f"{more:,} new, {count:,} in all")

    def on_broker(self, lost: str, now: float) -> None:
        """Apply the state of the broker's connection: why it is lost, or empty."""
        if self._broker and not lost:
            self._silos.reconnected(now)
        self._broker = lost

    def tick(self, now: float) -> None:
        """Let time pass."""
        renewed = not self._broker and self._silos.tick(now)  # without a broker, silence tells nothing about silos
        for session in self._sessions.values():
            session.tick(now, renewed=renewed)
        self._invocations.tick(now)

    def snapshot(self, now: float) -> State:
        """Return the whole state."""
        shown = [session for session in self._sessions.values() if not session.hidden]
        return State(
            cohorts=self._cohorts_now(),
            silos=[silo.view for silo in self._silos],
            sessions=self.session_views(now),
            stages=[stage for session in shown for stage in session.stage_views()],
            bars=[bar for session in shown for bar in session.bar_views()],
            curves=self._curves.views(),
            notices=list(self._notices),
            broker=self._broker,
            missed=self._missed,
            at=now,
        )

    def changes(self, now: float) -> Changes | None:
        """Return the changes since the last call; None if nothing has changed."""
        silos, self._silos.changed = self._silos.changed, {}
        if self._silos.seen and now - self._heartbeats_at >= HEARTBEAT_SECONDS:
            silos, self._silos.seen, self._heartbeats_at = {**silos, **self._silos.seen}, {}, now
        cohorts = self._cohorts_now()
        new_cohorts = [view for view in cohorts if self._cohort_views.get(view.name) != view]
        self._cohort_views = {view.name: view for view in cohorts}
        sessions = [session for session in self._sessions.values() if session.changed]
        parts = [(session.hidden, *session.take_changes()) for session in sessions]
        notices, self._new_notices = self._new_notices, []
        changes = Changes(
            at=now,
            cohorts=new_cohorts,
            silos=self._silos.views(silos),
            sessions=[session.view(now) for session in sessions] + self._invocations.take_changes(),
            stages=[stage for hidden, stages, _ in parts if not hidden for stage in stages],
            bars=[bar for hidden, _, bars in parts if not hidden for bar in bars],
            curves=self._curves.take_new(),
            notices=notices,
            broker=None if self._broker == self._sent_broker else self._broker,
            missed=None if self._missed == self._sent_missed else self._missed,
            removed=self._take_removed(),
        )
        self._sent_broker, self._sent_missed = self._broker, self._missed
        return None if changes == Changes(at=now) else changes

    def session_views(self, now: float) -> list[SessionView]:
        """Return all sessions, the newest first."""
        return self._invocations.views() + [session.view(now) for session in reversed(self._sessions.values())]

    def cohort_views(self) -> list[CohortView]:
        """Return all cohorts."""
        return self._cohorts_now()

    def silo_views(self, cohort: str) -> list[SiloView]:
        """Return the silos of a cohort."""
        return [silo.view for silo in self._silos if silo.message.cohort == cohort]

    def curve_views(self) -> list[CurveView]:
        """Return all curves."""
        return self._curves.views()

    def notices(self) -> list[NoticeView]:
        """Return the newest notices, the oldest of them first."""
        return list(self._notices)

    def details(self, session_id: str, now: float) -> SessionDetails | None:
        """Return a session with its stages and bars; None if it is not known."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        return SessionDetails(session=session.view(now), stages=session.stage_views(), bars=session.bar_views())

    def _known(self, cohort: str) -> bool:
        """Return whether a cohort is shown; a new one is, up to a bound."""
        if cohort not in self._cohorts and len(self._cohorts) < MAX_COHORTS:
            self._cohorts[cohort] = None
        return cohort in self._cohorts

    def _count(self, event: CohortEvent) -> None:
        """Count the events that were lost before this one."""
        expected = self._sequences.get(event.coordinator)
        if expected is not None and event.sequence > expected:
            self._missed += event.sequence - expected
        self._sequences[event.coordinator] = event.sequence + 1

    def _apply(self, event: CohortEvent, now: float) -> None:
        details = event.details
        match event.name:
            case "round_finished":
                self._curves.round_finished(event)
            case "waiting_for_silos":
                self._invocations.waits(event, now)
            case "run_finished":
                self._invocations.started(event.coordinator)
            case "silo_rejected":
                self._note(now, event.cohort, "", event.silo, "rejected", text(details, "reason"))
            case "message_forged":
                self._note(now, event.cohort, event.session, event.silo, "forged", text(details, "why"))
            case "silo_dropped":
                dropped = f"{text(details, 'outcome')}: {text(details, 'why')}".strip(": ")
                self._note(now, event.cohort, event.session, event.silo, "dropped", dropped)
            case "session_started":
                self._invocations.started(event.coordinator)
            case _:
                pass
        if event.session:
            self._apply_to_session(event, now)

    def _apply_to_session(self, event: CohortEvent, now: float) -> None:
        session = self._sessions.get(event.session)
        if session is None:
            if event.name in ("late_reply", "session_finished", "message_forged"):
                return  # of a session that was forgotten, or of which nothing else is known
            session = self._sessions[event.session] = Session(event, now, self._silos)
            self._bound()
        if session.coordinator == event.coordinator and session.cohort == event.cohort and session.running:
            session.on_event(event, now)
            if event.name in ("stage_started", "session_finished"):
                self._bound()

    def _note(self, now: float, cohort: str, session: str, silo: str, kind: NoticeKind, words: str) -> None:
        notice = NoticeView(time=now, cohort=cohort, session=session, silo=silo, kind=kind, text=words)
        for notices in (self._notices, self._new_notices):
            notices.append(notice)
            del notices[:-MAX_NOTICES]

    def _bound(self) -> None:
        """Forget the sessions that ended first, and hide bars, until what is left is within bounds."""
        ended = [session for session in self._sessions.values() if not session.running]
        total = sum(session.bars for session in self._sessions.values())
        oldest = [*ended, *(session for session in self._sessions.values() if session.running)]
        while len(oldest) > 1 and (len(self._sessions) > MAX_SESSIONS or total > MAX_TOTAL_BARS):
            session = oldest.pop(0)
            session.close()
            total -= session.bars
            del self._sessions[session.id]
            self._removed_sessions.append(session.id)
        shown = 0
        for at, session in enumerate(reversed(oldest)):
            shown += session.bars
            if not session.hidden and at and shown > MAX_SHOWN_BARS:
                session.hidden = True
                self._removed_bars.append(session.id)

    def _cohorts_now(self) -> list[CohortView]:
        counts = {name: self._silos.count(name) for name in sorted(self._cohorts)}
        return [
            CohortView(name=name, silos=silos, present=present, dead_letters=self._cohorts[name])
            for name, (silos, present) in counts.items()
        ]

    def _take_removed(self) -> Removed | None:
        silos, self._silos.removed = list(self._silos.removed), {}
        sessions, self._removed_sessions = self._removed_sessions + self._invocations.removed, []
        self._invocations.removed = []
        bars, self._removed_bars = self._removed_bars, []
        curves, self._curves.removed = self._curves.removed, []
        removed = Removed(silos=silos, sessions=sessions, bars=bars, curves=curves)
        return None if removed == Removed() else removed
