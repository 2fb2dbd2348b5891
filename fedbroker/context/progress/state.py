"""What is known of invocations under way, from what is told of them; and how that reads in a line.

Plain state with the time passed in; imports the session's events and reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fedbroker.quantities import bytes_text, count_text
from fedbroker.session.report import Event, SessionReport

__all__ = ["Invocation", "names_text", "time_text"]

Phase: TypeAlias = Literal["connecting", "waiting", "clients", "server"]

MOST_NAMES = 4


@dataclass(slots=True)
class Invocation:
    """One invocation.

    Attributes:
        name: of its computation.
        cohort: whose silos it asks.
        stages: how many client stages there are.
        began: on the monotonic clock.
        phase: what it is at: waiting for silos, asking them (``clients``), or computing here.
        present: silos that are there, while it waits for more.
        wanted: how many must be there.
        session: of its latest attempt.
        attempts: how many there were.
        stage: the number of the client stage that is under way, from 1.
        stage_began: on the monotonic clock.
        asked: who is asked.
        answered: who has answered that stage.
        dropped: who was dropped, and how it ended.
        bytes_in: of the answers so far.
    """

    name: str
    cohort: str
    stages: int
    began: float
    phase: Phase = "connecting"
    present: tuple[str, ...] = ()
    wanted: int = 0
    session: str = ""
    attempts: int = 0
    stage: int = 0
    stage_began: float = 0.0
    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    bytes_in: int = 0

    def hear(self, event: Event, now: float) -> None:
        """Something happened in its session."""
        details = event.details
        match event.name:
            case "stage started":
                self.phase, self.stage_began = "clients", now
                self.stage += 1
                self.answered = []
            case "silo answered":
                self.answered.append(event.silo)
                self.bytes_in += int(details.get("bytes_in", 0))
            case "silo dropped":
                self.dropped[event.silo] = str(details.get("ending", "dropped"))
                self.asked = [silo for silo in self.asked if silo != event.silo]
            case "late joiner taken in":
                self.asked.append(event.silo)
            case "stage finished" | "stage failed":
                self.phase = "server"
            case _:
                pass

    @property
    def awaited(self) -> list[str]:
        """Who was asked and has not answered."""
        return [silo for silo in self.asked if silo not in self.answered]

    def waiting_text(self) -> str:
        """For whom it waits before it starts."""
        there = names_text(self.present) if self.present else "none"
        return f"waiting for silos, {len(self.present)} of {self.wanted} are there: {there}"

    def stage_text(self, now: float) -> str:
        """A client stage that is over."""
        asked = len(self.answered) + len(self.dropped)
        seconds = time_text(now - self.stage_began)
        return f"stage {self.stage} of {self.stages}: {len(self.answered)} of {count_text(asked, 'silo')}, {seconds}"

    def summary(self, report: SessionReport | None, error: str, now: float) -> str:
        """The invocation, now that it is over; ``error`` is its code, or a word, or empty."""
        words = [f"{'failed' if error else 'done'} in {time_text(now - self.began)}"]
        if error:
            words[0] += f" ({error})"
        if report is not None:
            silos = [silo for stage in report.stages for silo in stage.silos]
            stages = len(report.stages)
            words.append(f"{count_text(len(report.participants), 'silo')}, {count_text(stages, 'stage')}")
            out, into = sum(one.bytes_out for one in silos), sum(one.bytes_in for one in silos)
            words.append(f"{bytes_text(out)} out, {bytes_text(into)} in")
            if report.dropped:
                words.append("dropped: " + names_text(f"{silo} ({end})" for silo, end in report.dropped.items()))
        if self.attempts > 1:
            words.append(f"{self.attempts} attempts")
        return ", ".join(words)

    def attempt(self, session: str, members: Iterable[str]) -> None:
        """A session has begun."""
        self.session, self.attempts = session, self.attempts + 1
        self.phase, self.stage, self.bytes_in = "server", 0, 0
        self.asked, self.answered, self.dropped = list(members), [], {}


def names_text(names: Iterable[str]) -> str:
    """The first few of them."""
    all_ = list(names)
    more = f" and {len(all_) - MOST_NAMES} more" if len(all_) > MOST_NAMES else ""
    return ", ".join(all_[:MOST_NAMES]) + more


def time_text(seconds: float) -> str:
    """A span of time, for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
