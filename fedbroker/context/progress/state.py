"""Progress of running invocations, built from events, and its one-line rendering.

Plain state with the time passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fedbroker.session.events import Event
from fedbroker.session.report import SessionReport
from fedbroker.text import bytes_text, count_text

__all__ = ["Cell", "Invocation", "Reply", "RunState", "names_text", "time_text"]

Phase: TypeAlias = Literal["connecting", "waiting", "clients", "server"]

MAX_NAMES = 4
"""Number of silo names in a line, so that it stays short with many silos."""


MAX_METRICS = 3
"""Number of a round's metrics in a line, those that the program names first."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The notebook's cell that called a computation.

    Attributes:
        id: id of the request that runs it.
        context: context variables of the call, by which a kernel finds the cell's output.
    """

    id: str
    context: Context


@dataclass(frozen=True, slots=True)
class Reply:
    """Seconds of a silo's part in a stage, and in its phases."""

    total: float
    queue: float
    transfer: float
    compute: float


@dataclass(slots=True)
class RunState:
    """A program's run.

    Attributes:
        id: its id.
        program: name of the program.
        rounds: number of its rounds; None if that is not known.
        began: start time on the monotonic clock.
        finished: number of the last finished round.
        round_began: time at which that one ended, or the start.
        metrics: the metrics of that round.
        total: number of finished rounds.
    """

    id: str
    program: str
    rounds: int | None
    began: float
    finished: int = 0
    round_began: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    total: int = 0

    def title(self) -> str:
        """Return the program's name and the round that runs."""
        number = self.finished + 1 if self.rounds is None else min(self.finished + 1, self.rounds)
        return f"{self.program}: round {number}{self._of()}"

    def round_line(self, number: int, metrics: dict[str, float], now: float) -> str:
        """Take in the end of a round; return a line on it."""
        seconds, self.round_began = time_text(now - (self.round_began or self.began)), now
        self.finished, self.metrics, self.total = number, metrics, self.total + 1
        return ", ".join(
            filter(None, (f"{self.program}: round {number}{self._of()} in {seconds}", self.metrics_text()))
        )

    def last_line(self, outcome: str, now: float) -> str:
        """Return a line on the finished run."""
        ending = "" if outcome == "ok" else f" ({outcome})"
        seconds = time_text(now - self.began)
        parts = (f"{self.program}: {count_text(self.total, 'round')} in {seconds}{ending}", self.metrics_text())
        return ", ".join(filter(None, parts))

    def metrics_text(self) -> str:
        """Return the first metrics of the last round, by the last part of their names."""
        shown = list(self.metrics.items())[:MAX_METRICS]
        return ", ".join(f"{name.rpartition('/')[2]} {value:.4g}" for name, value in shown)

    def _of(self) -> str:
        return "" if self.rounds is None else f" of {self.rounds}"


@dataclass(slots=True)
class Invocation:
    """One invocation.

    Attributes:
        name: name of its computation.
        cohort: name of the cohort.
        stages: number of its client stages.
        began: start time on the monotonic clock.
        phase: connecting to the broker, waiting for silos, waiting for replies (``clients``), or computing here
            (``server``).
        present: names of the present silos, while it waits for more.
        needed: number of silos that must be present.
        session: session_id of its latest attempt.
        attempts: number of attempts so far.
        stage: number of the running client stage, from 1.
        stage_began: start time of that stage on the monotonic clock.
        asked: silos that are asked.
        answered: silos that have answered that stage.
        dropped: dropped silos, with their outcomes.
        bytes_in: size of the outputs so far.
        replies: times of the silos that have answered the running stage.
        run: id of the program's run that it is part of, or empty.
        cell: the notebook's cell that called it; None outside of a notebook.
        over: True once it has ended.
    """

    name: str
    cohort: str
    stages: int
    began: float
    phase: Phase = "connecting"
    present: tuple[str, ...] = ()
    needed: int = 0
    session: str = ""
    attempts: int = 0
    stage: int = 0
    stage_began: float = 0.0
    asked: list[str] = field(default_factory=list[str])
    answered: list[str] = field(default_factory=list[str])
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    bytes_in: int = 0
    replies: dict[str, Reply] = field(default_factory=dict[str, Reply])
    run: str = ""
    cell: Cell | None = None
    over: bool = False

    def on_event(self, event: Event, now: float) -> None:
        """Update the state from an event of its session."""
        details = event.details
        match event.name:
            case "stage_started":
                self.phase, self.stage_began = "clients", now
                self.stage += 1
                self.answered, self.replies = [], {}
            case "silo_answered":
                self.answered.append(event.silo)
                phases = details.get("queue", 0.0), details.get("transfer", 0.0), details.get("compute", 0.0)
                self.replies[event.silo] = Reply(details.get("seconds", 0.0), *phases)
                self.bytes_in += details.get("bytes_in", 0)
            case "silo_dropped":
                self.dropped[event.silo] = details.get("outcome", "dropped")
                self.asked = [silo for silo in self.asked if silo != event.silo]
            case "late_joiner_added":
                self.asked.append(event.silo)
            case "stage_finished" | "stage_failed":
                self.phase = "server"
            case _:
                pass

    @property
    def awaited(self) -> list[str]:
        """The silos that were asked and have not answered."""
        return [silo for silo in self.asked if silo not in self.answered]

    def waiting_text(self) -> str:
        """Return a line on the silos that it waits for before it starts."""
        present = names_text(self.present) if self.present else "none"
        return f"waiting for silos, {len(self.present)} of {self.needed} are present: {present}"

    def stage_line(self) -> str:
        """Return a line on what it does now."""
        if self.over:
            return "is over"
        if self.phase == "connecting":
            return "connecting"
        if self.phase == "waiting":
            return self.waiting_text() if self.needed else "waiting for silos"
        if self.phase == "server":
            return f"stage {self.stage} of {self.stages} is over" if self.stage else "starting"
        answered = f"{len(self.answered)}/{count_text(len(self.asked), 'silo')}"
        parts = [f"stage {self.stage} of {self.stages}", answered]
        if self.bytes_in:
            parts.append(f"{bytes_text(self.bytes_in)} in")
        if self.awaited:
            parts.append(f"waiting for {names_text(self.awaited)}")
        if self.dropped:
            parts.append(f"dropped {names_text(self.dropped)}")
        return ", ".join(parts)

    def stage_text(self, now: float) -> str:
        """Return a line on a finished client stage."""
        asked = len(self.answered) + len(self.dropped)
        seconds = time_text(now - self.stage_began)
        return f"stage {self.stage} of {self.stages}: {len(self.answered)} of {count_text(asked, 'silo')}, {seconds}"

    def summary(self, report: SessionReport | None, error: str, now: float) -> str:
        """Return a line on the finished invocation; ``error`` is an error's code, a word, or empty."""
        parts = [f"{'failed' if error else 'done'} in {time_text(now - self.began)}"]
        if error:
            parts[0] += f" ({error})"
        if report is not None:
            silos = [silo for stage in report.stages for silo in stage.silos]
            stages = len(report.stages)
            parts.append(f"{count_text(len(report.participants), 'silo')}, {count_text(stages, 'stage')}")
            out, into = sum(silo.bytes_out for silo in silos), sum(silo.bytes_in for silo in silos)
            parts.append(f"{bytes_text(out)} out, {bytes_text(into)} in")
            if report.dropped:
                parts.append("dropped: " + names_text(f"{silo} ({end})" for silo, end in report.dropped.items()))
        if self.attempts > 1:
            parts.append(f"{self.attempts} attempts")
        return ", ".join(parts)

    def attempt(self, session: str, members: Iterable[str]) -> None:
        """Update the state for a new attempt, whose session has started."""
        self.session, self.attempts = session, self.attempts + 1
        self.phase, self.stage, self.bytes_in = "server", 0, 0
        self.asked, self.answered, self.dropped, self.replies = list(members), [], {}, {}


def names_text(names: Iterable[str]) -> str:
    """Return the first few names, and the number of others."""
    all_names = list(names)
    more = f" and {len(all_names) - MAX_NAMES} more" if len(all_names) > MAX_NAMES else ""
    return ", ".join(all_names[:MAX_NAMES]) + more


def time_text(seconds: float) -> str:
    """Return a duration in readable units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
