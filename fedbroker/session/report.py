"""Reports on a session, and the recorder that builds them: for each stage and silo, its outcome, times and bytes."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Unpack

from fedbroker.errors import FedbrokerError
from fedbroker.session.events import Event, EventDetails, EventName, Listener, Origin, emit
from fedbroker.session.html import report_html, stage_html
from fedbroker.session.stage_state import MergeOrder, Outcome, OutcomeName, outcome_name, why
from fedbroker.text import bytes_text, count_text, one_line_repr, printable, seconds_text
from fedbroker.transport.amqp.connection import TrafficCounters
from fedbroker.transport.coordinator.requests import Reason
from fedbroker.wire.messages import Done

__all__ = ["MaskingReport", "Recorder", "RequestTimings", "SessionReport", "SiloReport", "StageReport", "Statistics"]

MAX_FORGED: Final = 256
"""Largest number of forged messages listed in a report: a reader learns nothing new from more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloReport:
    """One silo in one client stage. Times are in seconds, sizes in bytes.

    Attributes:
        silo: the silo's name.
        incarnation: incarnation of its process.
        outcome: how its part in the stage ended, see :data:`fedbroker.OutcomeName`.
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
    outcome: OutcomeName
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
        return one_line_repr("SiloReport", repr(self.silo), self.outcome, f"after {seconds_text(self.at)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingReport:
    """The masked sums of one client stage.

    Attributes:
        members: the silos over which they were to be formed. The stage's participants are those over which they were.
        threshold: the fewest silos over which they could have been formed.
        seconds: time that the removal of the masks took after the last reply; 0.0 where masks cancel by themselves.
    """

    members: tuple[str, ...]
    threshold: int
    seconds: float = 0.0

    def __repr__(self) -> str:
        return one_line_repr("MaskingReport", str(self))

    def __str__(self) -> str:
        removed = f", masks removed in {seconds_text(self.seconds)}" if self.seconds else ""
        return f"{self.threshold} of {count_text(len(self.members), 'silo')} needed{removed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One client stage.

    Attributes:
        stage: the stage's number.
        needed: number of silos that had to answer.
        seconds: duration of the stage.
        silos: all silos that were asked, in membership order.
        merge_order: order in which their outputs were merged. ``arrival`` also if ``membership`` was requested, but
            would have held too much in memory.
        masking: its masked sums; None if it has none.
    """

    stage: int
    needed: int
    seconds: float
    silos: tuple[SiloReport, ...]
    merge_order: MergeOrder = "membership"
    masking: MaskingReport | None = None

    @property
    def participants(self) -> tuple[str, ...]:
        """The silos whose outputs are in the aggregates."""
        return tuple(silo.silo for silo in self.silos if silo.outcome == "answered")

    @property
    def dropped(self) -> Mapping[str, OutcomeName]:
        """The silos that were asked and are not in the aggregates, with their outcomes."""
        return {silo.silo: silo.outcome for silo in self.silos if silo.outcome != "answered"}

    def __repr__(self) -> str:
        answered = f"{len(self.participants)} of {count_text(len(self.silos), 'silo')} answered"
        return one_line_repr("StageReport", f"client stage {self.stage}", answered, seconds_text(self.seconds))

    def _repr_html_(self) -> str:
        return stage_html(self)

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
        origin: the computation, and the program's run and round.
    """

    session: str
    cohort: str
    members: tuple[str, ...]
    stages: tuple[StageReport, ...] = ()
    late: int = 0
    forged: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    error: str = ""
    origin: Origin = field(default_factory=Origin)

    @property
    def participants(self) -> tuple[str, ...]:
        """The silos that answered every stage: the participants of the last one."""
        return self.stages[-1].participants if self.stages else ()

    @property
    def dropped(self) -> Mapping[str, OutcomeName]:
        """The silos that were dropped in any stage, with their outcomes."""
        return {silo: outcome for stage in self.stages for silo, outcome in stage.dropped.items()}

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

    def _repr_html_(self) -> str:
        return report_html(self)

    def __str__(self) -> str:
        silos, stages = count_text(len(self.members), "silo"), count_text(len(self.stages), "client stage")
        took = seconds_text(self.seconds)
        line = f"session {self.session} in cohort {self.cohort}: {silos}, {stages}, {took}"
        notes = [f"late replies: {self.late}"] if self.late else []
        notes += [f"forged messages: {len(self.forged)}"] if self.forged else []
        notes += [f"masked sums in client stage {one.stage}: {one.masking}" for one in self.stages if one.masking]
        notes += [f"error: {self.error}"] if self.error else []
        return "\n".join([printable(line), _table(self.stages), *map(printable, notes)])


_COLUMNS: Final = ("stage", "silo", "outcome", "after", "queue", "transfer", "compute", "out", "in")
_MAX_ROWS: Final = 20
"""Rows of the table of a report: a screen, even with a thousand silos."""


def _table(stages: Sequence[StageReport]) -> str:
    rows = [
        (
            str(stage.stage),
            printable(silo.silo),
            silo.outcome,
            *map(seconds_text, (silo.at, silo.queue, silo.transfer, silo.compute)),
            *map(bytes_text, (silo.bytes_out, silo.bytes_in)),
        )
        for stage in stages
        for silo in stage.silos
    ]
    shown = [_COLUMNS, *rows[:_MAX_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if at in (1, 2) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    more = len(rows) - _MAX_ROWS
    return "\n".join([*lines, f"and {more:,} more"] if more > 0 else lines)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A cohort as one coordinator sees it.

    Attributes:
        present: names of the present silos.
        missing: names of the silos that were present once and are not now.
        traffic: live counters of the connections to the broker, by lane.
        late: number of replies and dead letters that no request waited for.
        dead: live counters of the work items that the broker gave back, by reason.
    """

    present: tuple[str, ...]
    missing: tuple[str, ...]
    traffic: Mapping[str, TrafficCounters]
    late: int
    dead: Mapping[Reason, int]


@dataclass(slots=True)
class RequestTimings:
    """Times and sizes of the request to one silo in a stage; filled in while the request runs.

    Attributes:
        silo: the silo's name.
        incarnation: incarnation of its process.
        in_place_of: the straggler whose work it got, or empty.
        started: time of the first work item, on the monotonic clock.
        replied: time of its last reply.
        fetched: time at which all of its results had arrived.
        bytes_out: size of the blobs sent for it.
        asked: number of times that the work item was sent.
    """

    silo: str
    incarnation: str
    in_place_of: str = ""
    started: float = 0.0
    replied: float = 0.0
    fetched: float = 0.0
    bytes_out: int = 0
    asked: int = 0

    def report(self, outcome: Outcome, began: float, now: float) -> SiloReport:
        """Return the report on the request, once it has ended."""
        common = SiloReport(
            silo=self.silo,
            incarnation=self.incarnation,
            outcome=outcome_name(outcome),
            in_place_of=self.in_place_of,
            at=now - began,
            bytes_out=self.bytes_out,
            asked=self.asked,
        )
        if not isinstance(outcome, Done):
            return replace(common, why=why(outcome))
        fetching = max(0.0, self.fetched - self.replied)
        return replace(
            common,
            queue=max(0.0, self.replied - self.started - outcome.duration),
            transfer=min(outcome.blob_wait, outcome.duration) + fetching,
            compute=max(0.0, outcome.duration - outcome.blob_wait),
            bytes_in=sum(size for _, size in outcome.outputs),
        )


@dataclass
class Recorder:
    """The record of one session.

    Attributes:
        report: the report so far.
        listeners: called for each event, too.
        ended: True once the session has ended.
    """

    report: SessionReport
    listeners: Sequence[Listener] = ()
    ended: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic)
    _stage: int | None = None
    _stage_began: float = 0.0
    _silos: dict[str, SiloReport] = field(default_factory=dict[str, SiloReport])

    def emit(self, name: EventName, silo: str = "", **details: Unpack[EventDetails]) -> None:
        """Emit an event of this session."""
        emit(self.listeners, Event(name, self.report.session, self._stage, silo, details))

    def stage_started(
        self, stage: int, silos: Sequence[str], seconds: float, needed: int = 0, *, masked: bool = False
    ) -> None:
        """Record the start of a stage, before its silos are asked."""
        self._stage, self._stage_began, self._silos = stage, time.monotonic(), {}
        self.emit("stage_started", silos=len(silos), seconds=seconds, needed=needed, masked=masked)

    def silo_ended(self, timings: RequestTimings, outcome: Outcome) -> None:
        """Record that a silo answered or was dropped."""
        silo = self._silos[timings.silo] = timings.report(outcome, self._stage_began, time.monotonic())
        if isinstance(outcome, Done):
            self.emit(
                "silo_answered",
                silo.silo,
                seconds=silo.at,
                queue=silo.queue,
                transfer=silo.transfer,
                compute=silo.compute,
                bytes_out=silo.bytes_out,
                bytes_in=silo.bytes_in,
            )
        else:
            self.emit("silo_dropped", silo.silo, outcome=silo.outcome, why=silo.why, seconds=silo.at)

    def stage_finished(
        self,
        asked: Sequence[str],
        needed: int,
        merged: MergeOrder,
        error: Exception | None = None,
        masking: MaskingReport | None = None,
    ) -> None:
        """Record the end of a stage; ``asked`` are all silos that were asked, in membership order."""
        seconds = time.monotonic() - self._stage_began
        silos = tuple(self._silos[silo] for silo in asked if silo in self._silos)
        stage = StageReport(
            stage=self._stage or 0, needed=needed, seconds=seconds, silos=silos, merge_order=merged, masking=masking
        )
        self.report = replace(self.report, stages=(*self.report.stages, stage), seconds=time.monotonic() - self._began)
        details = (
            EventDetails(participants=len(stage.participants)) if error is None else EventDetails(error=str(error))
        )
        details["seconds"] = seconds
        if masking is not None:
            details["masked_silos"] = len(masking.members)
        if error is None:
            self.emit("stage_finished", **details)
        else:
            self.emit("stage_failed", **details)
        self._stage = None

    def late(self, silo: str, stage: int) -> None:
        """Record a reply that came after its stage had closed; no effect for a silo that was cancelled in time."""
        if any(
            one.silo == silo and one.outcome == "cancelled"
            for report in self.report.stages
            if report.stage == stage
            for one in report.silos
        ):
            return
        self.report = replace(self.report, late=self.report.late + 1)
        emit(self.listeners, Event("late_reply", self.report.session, stage, silo))

    def forged(self, silo: str, why: str) -> None:
        """Record a forged message."""
        if len(self.report.forged) < MAX_FORGED:
            self.report = replace(self.report, forged=(*self.report.forged, (silo, why)))
        self.emit("message_forged", silo, why=why)

    def finished(self, error: BaseException | None = None) -> None:
        """Record the end of the session."""
        self.ended = True
        text = "" if error is None else str(error) or type(error).__name__
        self.report = replace(self.report, seconds=time.monotonic() - self._began, error=text)
        outcome: Literal["ok", "cancelled", "failed"] = "ok"
        if error is not None:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        code = error.code if isinstance(error, FedbrokerError) else ""
        self.emit("session_finished", seconds=self.report.seconds, outcome=outcome, code=code, error=text)
