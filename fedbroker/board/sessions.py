"""The sessions that a board shows, built from events. Plain state with the time passed in, bounded in memory.

Times within a session are differences of its coordinator's clock, which need not agree with the board's.
"""

from __future__ import annotations

from typing import Any, Final, cast, get_args

from fedbroker.board.silos import SiloStates
from fedbroker.board.stages import DEFAULT_STAGE_SECONDS, Stage, number, text
from fedbroker.board.views import BarOutcome, BarView, SessionOutcome, SessionView, StageView
from fedbroker.board.waiting import waits_for_replies
from fedbroker.wire.events import CohortEvent

__all__ = ["Session"]

MAX_BARS: Final = 10_000
"""Bars of one session: the oldest stages lose theirs first."""
MAX_MEMBERS: Final = 20_000
SILENT_SECONDS: Final = 120.0
"""Seconds beyond a stage's time limit without any event, after which a session counts as lost with its coordinator."""
SENTENCE_SECONDS: Final = 1.0
"""Seconds for which a sentence stays as it is: it looks at every silo."""


class Session:
    """One session.

    Args:
        event: the first event of it that was seen.
        now: the time.
        silos: the silos; told which of them a stage waits for.

    Attributes:
        hidden: its stages and bars are no longer part of the state.
        changed: the session itself has changed, until taken.
        stages_changed: numbers of its changed stages, and of those with changed bars, until taken.
    """

    def __init__(self, event: CohortEvent, now: float, silos: SiloStates) -> None:
        details = event.details
        self.id = event.session
        self.cohort = event.cohort
        self.coordinator = event.coordinator
        self.computation, self.run, self.program = (text(details, name) for name in ("computation", "run", "program"))
        self.round = int(number(details, "round")) or None
        self.hidden = False
        self.changed = True
        self.stages_changed: dict[int, None] = {}
        self._silos = silos
        self._began = now
        self._clock = event.time  # the coordinator's clock at the start
        members: object = details.get("members")
        names = cast("list[object]", members)[:MAX_MEMBERS] if isinstance(members, list) else []
        self._members = {name: None for name in names if isinstance(name, str)}
        self._dropped: set[str] = set()
        self._forged = 0
        self._stages: dict[int, Stage] = {}
        self._running: Stage | None = None
        self._ended: float | None = None
        self._outcome: SessionOutcome = "running"
        self._error = ""
        self._heard = now
        self._sentence = ""
        self._sentence_at = 0.0

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self._outcome == "running"

    @property
    def bars(self) -> int:
        """Number of its bars."""
        return sum(len(stage.bars) for stage in self._stages.values())

    def view(self, now: float) -> SessionView:
        """Return the session as it is shown."""
        return SessionView(
            id=self.id,
            cohort=self.cohort,
            coordinator=self.coordinator,
            computation=self.computation,
            program=self.program,
            run=self.run,
            round=self.round,
            began=self._began,
            ended=self._ended,
            outcome=self._outcome,
            error=self._error,
            members=len(self._members),
            stage=max(self._stages, default=None),
            waits=self._waits(now) if self.running else "",
            dropped=len(self._dropped),
            forged=self._forged,
        )

    def stage_views(self) -> list[StageView]:
        """Return its stages as they are shown."""
        return [stage.view for stage in self._stages.values()]

    def bar_views(self) -> list[BarView]:
        """Return its bars."""
        return [bar for stage in self._stages.values() for bar in stage.bars.values()]

    def take_changes(self) -> tuple[list[StageView], list[BarView]]:
        """Return the stages and bars that have changed since the last call; the session then counts as unchanged."""
        stages = [self._stages[stage] for stage in self.stages_changed if stage in self._stages]
        bars = [stage.bars[silo] for stage in stages for silo in stage.changed]
        for stage in stages:
            stage.changed = {}
        self.changed, self.stages_changed = False, {}
        return [stage.view for stage in stages], bars

    def on_event(self, event: CohortEvent, now: float) -> None:
        """Apply an event of this session."""
        self._heard, self.changed = now, True
        details, at = event.details, max(0.0, event.time - self._clock)
        match event.name:
            case "stage_started":
                self._stage_started(event.stage or 0, details, at)
            case "late_joiner_added":
                self._members[event.silo] = None
                self._ask(self._stage(event.stage, at), event.silo, at)
            case "silo_answered":
                self._reply(event, "answered", at)
            case "silo_dropped":
                outcome = text(details, "outcome")
                self._dropped.add(event.silo)
                self._reply(event, cast("BarOutcome", outcome if outcome in get_args(BarOutcome) else "failed"), at)
            case "stage_finished":
                self._stage_ended(at, "late")
            case "stage_failed":
                self._stage_ended(at, "cancelled")
            case "message_forged":
                self._forged += 1
            case "session_finished":
                outcome = text(details, "outcome")
                self._end(at, cast("SessionOutcome", outcome if outcome in ("ok", "cancelled") else "failed"))
                self._error = text(details, "error")
            case _:
                pass

    def tick(self, now: float, *, renewed: bool = False) -> None:
        """Renew the sentence, at once if silos are ``renewed``; end a session whose coordinator has fallen silent."""
        if not self.running:
            return
        if renewed:
            self._sentence_at = 0.0
        limit = DEFAULT_STAGE_SECONDS if self._running is None else self._running.seconds
        if now - self._heard > limit + SILENT_SECONDS:
            self._end(self._heard - self._began, "failed")
            self._error = "its coordinator has not been heard of since"
            self.changed = True
        elif self._waits(now, renew=False) != self._waits(now):
            self.changed = True

    def close(self) -> None:
        """Wait for no silo any more."""
        if self._running is not None:
            self._release(self._running)

    def _stage_started(self, stage_number: int, details: dict[str, Any], at: float) -> None:
        self.close()
        stage = Stage(self.id, stage_number, at, int(number(details, "needed")), details.get("masked") is True)
        stage.seconds = number(details, "seconds", DEFAULT_STAGE_SECONDS)
        self._stages[stage_number] = self._running = stage
        self.stages_changed[stage_number] = None
        self._sentence_at = 0.0
        for silo in self._members:
            if silo not in self._dropped:
                self._ask(stage, silo, at)
        while self.bars > MAX_BARS and len(self._stages) > 1:
            del self._stages[min(self._stages)]

    def _stage(self, stage_number: int | None, at: float) -> Stage:
        """Return a stage; make it if its start was not seen."""
        stage = self._stages.get(stage_number or 0)
        if stage is None:
            stage = self._stages[stage_number or 0] = Stage(self.id, stage_number or 0, at)
            self._running = stage
        self.stages_changed[stage.number] = None
        return stage

    def _ask(self, stage: Stage, silo: str, at: float) -> None:
        stage.ask(silo, at)
        if silo not in stage.waiting:
            stage.waiting[silo] = None
            self._silos.awaits(self.cohort, silo, 1)

    def _reply(self, event: CohortEvent, outcome: BarOutcome, at: float) -> None:
        stage = self._stage(event.stage, at)
        self._members.setdefault(event.silo)
        stage.reply(event.silo, outcome, event.details)
        self._waits_no_more(stage, event.silo)

    def _waits_no_more(self, stage: Stage, silo: str) -> None:
        if silo in stage.waiting:
            del stage.waiting[silo]
            self._silos.awaits(self.cohort, silo, -1)

    def _release(self, stage: Stage) -> None:
        for silo in list(stage.waiting):
            self._waits_no_more(stage, silo)

    def _stage_ended(self, at: float, rest: BarOutcome) -> None:
        stage, self._running = self._running, None
        if stage is None:
            return
        stage.end(at, rest)
        self.stages_changed[stage.number] = None
        self._release(stage)

    def _end(self, at: float, outcome: SessionOutcome) -> None:
        self._stage_ended(at, "cancelled")
        self._ended, self._outcome = self._began + at, outcome

    def _waits(self, now: float, *, renew: bool = True) -> str:
        """Return why it waits, as of a second ago at most."""
        if renew and now - self._sentence_at >= SENTENCE_SECONDS:
            self._sentence, self._sentence_at = self._why(now), now
        return self._sentence

    def _why(self, now: float) -> str:
        stage = self._running
        if stage is None:
            return "the coordinator is computing"
        if not stage.waiting:
            return "the coordinator is removing the masks" if stage.masked else "the coordinator is merging the replies"
        waiting = [
            (silo, self._began + stage.bars[silo].began, self._silos.get(self.cohort, silo)) for silo in stage.waiting
        ]
        return waits_for_replies(waiting, stage.missing, now)
