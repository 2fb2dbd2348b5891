"""Reports on a session: for each stage and silo, its outcome, times and bytes. Plain, immutable data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fedbroker.session.merge_scheduler import MergeOrder
from fedbroker.session.outcomes import Ending
from fedbroker.text import bytes_text, count_text, one_line_repr, printable, seconds_text
from fedbroker.transport.amqp.counters import TrafficCounters
from fedbroker.transport.coordinator.requests import Reason

__all__ = ["Event", "SessionReport", "SiloReport", "StageReport", "Statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloReport:
    """One silo in one client stage. Times are in seconds, sizes in bytes.

    Attributes:
        silo: the silo's name.
        incarnation: incarnation of its process.
        ending: its outcome in one word, see :data:`fedbroker.session.outcomes.Ending`.
        why: the reason for dropping it, in a line; empty if it answered.
        in_place_of: the straggler whose work item it got as a late joiner, or empty.
        at: time from the stage's start to the silo's outcome.
        queue: time from sending the work item to its receipt, and of the reply's way back.
        transfer: time in which the silo waited for blobs, and the coordinator for its results.
        compute: time in which the silo read data and computed.
        bytes_out: size of the blobs sent for it; a broadcast counts for each silo.
        bytes_in: size of its outputs.
        asked: number of times that its work item was sent: more than once if it lacked blobs or results were lost.
    """

    silo: str
    incarnation: str
    ending: Ending
    why: str = ""
    in_place_of: str = ""
    at: float = 0.0
    queue: float = 0.0
    transfer: float = 0.0
    compute: float = 0.0
    bytes_out: int = 0
    bytes_in: int = 0
    asked: int = 1

    def __repr__(self) -> str:
        return one_line_repr("SiloReport", repr(self.silo), self.ending, f"after {seconds_text(self.at)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One client stage.

    Attributes:
        level: the stage's number.
        needed: number of silos that had to answer.
        seconds: duration of the stage.
        silos: all silos that were asked, in membership order.
        merge_order: order in which their outputs were merged. ``arrival`` also if ``membership`` was requested, but
            would have held too much in memory.
    """

    level: int
    needed: int
    seconds: float
    silos: tuple[SiloReport, ...]
    merge_order: MergeOrder = "membership"

    @property
    def participants(self) -> tuple[str, ...]:
        """The silos whose outputs are in the aggregates."""
        return tuple(one.silo for one in self.silos if one.ending == "answered")

    @property
    def dropped(self) -> Mapping[str, Ending]:
        """The silos that were asked and are not in the aggregates, with their outcomes."""
        return {one.silo: one.ending for one in self.silos if one.ending != "answered"}

    def __repr__(self) -> str:
        answered = f"{len(self.participants)} of {count_text(len(self.silos), 'silo')} answered"
        return one_line_repr("StageReport", f"client stage {self.level}", answered, seconds_text(self.seconds))

    def __str__(self) -> str:
        return _table([self])


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """One session.

    Attributes:
        session: the session's id.
        cohort: the cohort's name.
        members: the membership at its start.
        stages: its client stages so far.
        late: number of replies that came after their stage had closed: counted, never aggregated.
        forged: rejected messages that claimed to be from a silo or the coordinator, but were forged, changed or copied;
            none of them got into a result. Each with the silo's name and the reason. They indicate an attack by a user
            of the broker.
        seconds: duration of the session so far.
        error: the error that ended it, in a line; empty while it runs and if it ended well.
    """

    session: str
    cohort: str
    members: tuple[str, ...]
    stages: tuple[StageReport, ...] = ()
    late: int = 0
    forged: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def participants(self) -> tuple[str, ...]:
        """The silos that answered every stage: the participants of the last one."""
        return self.stages[-1].participants if self.stages else ()

    @property
    def dropped(self) -> Mapping[str, Ending]:
        """The silos that were dropped in any stage, with their outcomes."""
        return {silo: end for stage in self.stages for silo, end in stage.dropped.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain containers, for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return one_line_repr(
            "SessionReport",
            repr(self.session),
            f"cohort={self.cohort!r}",
            count_text(len(self.members), "silo"),
            count_text(len(self.stages), "client stage"),
            seconds_text(self.seconds),
            *([f"error={self.error!r}"] if self.error else []),
        )

    def __str__(self) -> str:
        silos, stages = count_text(len(self.members), "silo"), count_text(len(self.stages), "client stage")
        took = seconds_text(self.seconds)
        line = f"session {self.session} in cohort {self.cohort}: {silos}, {stages}, {took}"
        notes = [f"late replies: {self.late}"] if self.late else []
        notes += [f"forged messages: {len(self.forged)}"] if self.forged else []
        notes += [f"error: {self.error}"] if self.error else []
        return "\n".join([printable(line), _table(self.stages), *map(printable, notes)])


_COLUMNS: Final = ("stage", "silo", "ending", "after", "queue", "transfer", "compute", "out", "in")
_MOST_ROWS: Final = 20
"""Rows of the table of a report: it stays small with a thousand silos."""


def _table(stages: Sequence[StageReport]) -> str:
    rows = [
        (
            str(stage.level),
            printable(one.silo),
            one.ending,
            *map(seconds_text, (one.at, one.queue, one.transfer, one.compute)),
            *map(bytes_text, (one.bytes_out, one.bytes_in)),
        )
        for stage in stages
        for one in stage.silos
    ]
    shown = [_COLUMNS, *rows[:_MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if at in (1, 2) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    more = len(rows) - _MOST_ROWS
    return "\n".join([*lines, f"and {more:,} more"] if more > 0 else lines)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a cohort or a session, with the same content as its line in the structured log.

    Attributes:
        name: what, in the words of the log, such as ``silo joined`` or ``stage finished``; ``docs/events.md`` lists
            them all.
        session: the session's id; empty for an event of the cohort.
        stage: the client stage's number, or None.
        silo: the silo's name, or empty.
        details: the other fields of the log line; times in seconds, sizes in bytes.
    """

    name: str
    session: str = ""
    stage: int | None = None
    silo: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A cohort as one coordinator sees it.

    Attributes:
        present: names of the present silos.
        gone: names of the silos that were present once and are not now.
        traffic: live counters of the connections to the broker, by lane.
        late: number of replies and dead letters that no request waited for.
        dead: live counters of the work items that the broker gave back, by reason.
    """

    present: tuple[str, ...]
    gone: tuple[str, ...]
    traffic: Mapping[str, TrafficCounters]
    late: int
    dead: Mapping[Reason, int]
