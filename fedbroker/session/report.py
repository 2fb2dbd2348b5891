"""What became of a session: per stage, who answered when, who was dropped and why, bytes, and where the time went.

Plain, immutable data; imports the session's outcomes only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fedbroker.printable import one_line_repr, printable
from fedbroker.quantities import bytes_text, count_text, seconds_text
from fedbroker.session.merge_scheduler import MergeOrder
from fedbroker.session.outcomes import Ending

__all__ = ["Event", "SessionReport", "SiloReport", "StageReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloReport:
    """One silo in one client stage. Times are in seconds, sizes in bytes.

    Attributes:
        silo: its name.
        incarnation: of its process.
        ending: in one word, see :data:`fedbroker.session.outcomes.Ending`.
        why: for a silo that was dropped, in a line.
        in_place_of: the straggler whose work item it got as a late joiner, or empty.
        at: after the stage's start, when it ended.
        queue: from sending the work item to the silo's receipt of it, and the reply's way back.
        transfer: the silo waiting for blobs, and the coordinator for its results.
        compute: the silo reading data and computing.
        bytes_out: of blobs sent for it, a broadcast counted for each.
        bytes_in: of its outputs.
        asked: how often its work item was sent: again with blobs that it lacked.
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
        level: its number.
        needed: how many had to answer.
        seconds: how long it took.
        silos: all that were asked, in membership order.
        merge_order: in which their answers were merged; ``arrival`` also where ``membership`` was asked for, and too
            much would have had to be held for it.
    """

    level: int
    needed: int
    seconds: float
    silos: tuple[SiloReport, ...]
    merge_order: MergeOrder = "membership"

    @property
    def participants(self) -> tuple[str, ...]:
        """Whose answers are in the aggregates."""
        return tuple(one.silo for one in self.silos if one.ending == "answered")

    @property
    def dropped(self) -> Mapping[str, Ending]:
        """Who was asked and is not in them, and why."""
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
        session: its id.
        cohort: the cohort's name.
        members: the membership that it started with.
        stages: its client stages so far.
        late: answers that came after their stage had closed: counted, never aggregated.
        forged: messages in a silo's name, or in the coordinator's, that were not theirs, or changed, or copies: none
            of them got into a result. Each with the silo's name and the reason; somebody at the broker is at work.
        seconds: how long it took, or has taken so far.
        error: what ended it, in a line; empty while it runs, and when it ended well.
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
        """Who answered every stage: those of the last."""
        return self.stages[-1].participants if self.stages else ()

    @property
    def dropped(self) -> Mapping[str, Ending]:
        """Who was dropped in any stage, and why."""
        return {silo: end for stage in self.stages for silo, end in stage.dropped.items()}

    def as_dict(self) -> dict[str, Any]:
        """The same in plain containers, for JSON."""
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
    """Something that happened in a cohort or a session; the same as the structured log says.

    Attributes:
        name: what, in the words of the log, such as ``silo joined`` or ``stage finished``; ``docs/events.md`` lists
            them all.
        session: the session's id; empty for what concerns the cohort.
        stage: the client stage's number, or None.
        silo: its name, or empty.
        details: whatever else the log says; times in seconds, sizes in bytes.
    """

    name: str
    session: str = ""
    stage: int | None = None
    silo: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
