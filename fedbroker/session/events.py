"""Events of a cohort and its sessions: written to the structured log, a listener and the session's report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from fedbroker.errors import FedbrokerError
from fedbroker.log import get_logger
from fedbroker.session.merge_scheduler import MergeOrder
from fedbroker.session.outcomes import Outcome, ending, why
from fedbroker.session.report import Event, SessionReport, SiloReport, StageReport
from fedbroker.wire.messages import Done

__all__ = ["Listener", "Recorder", "RequestTimings", "both", "tell"]

_log = get_logger(__name__)

Listener: TypeAlias = Callable[[Event], None]
"""Function that is called for each event, on the event loop: it must not block."""

MOST_FORGED: Final = 256
"""Largest number of forged messages listed in a report: more would tell its reader nothing new."""

WARNINGS: Final = ("silo dropped", "silo sent away", "stage failed", "message forged", "invocation retried")


def tell(listener: Listener | None, event: Event) -> None:
    """Log an event and pass it to the listener. An exception of the listener is logged and has no other effect."""
    where = {"session": event.session, "stage": event.stage, "silo": event.silo}
    facts: dict[str, Any] = {key: _short(value) for key, value in event.details.items()}
    facts |= {key: value for key, value in where.items() if value not in ("", None)}
    say = _log.warning if event.name in WARNINGS else _log.info
    say(event.name, **facts)
    _hand(listener, event)


def both(one: Listener | None, other: Listener | None) -> Listener | None:
    """Return a listener that passes each event to both, even if one of them raises."""
    if one is None or other is None:
        return one or other

    def listen(event: Event) -> None:
        _hand(one, event)
        _hand(other, event)

    return listen


def _hand(listener: Listener | None, event: Event) -> None:
    if listener is None:
        return
    try:
        listener(event)
    except Exception:
        _log.exception("on_event failed", event_name=event.name)


def _short(value: object) -> object:
    """Round times to milliseconds, which is as precise as a reader of the log needs."""
    return round(value, 3) if isinstance(value, float) else value


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
            ending=ending(outcome),
            why=why(outcome),
            in_place_of=self.in_place_of,
            at=now - began,
            bytes_out=self.bytes_out,
            asked=self.asked,
        )
        if not isinstance(outcome, Done):
            return common
        fetching = max(0.0, self.fetched - self.replied)
        return replace(
            common,
            queue=max(0.0, self.replied - self.started - outcome.seconds),
            transfer=min(outcome.waited, outcome.seconds) + fetching,
            compute=max(0.0, outcome.seconds - outcome.waited),
            bytes_in=sum(size for _, size in outcome.outputs),
        )


@dataclass
class Recorder:
    """The record of one session.

    Attributes:
        report: the report so far.
        listener: called for each event, too.
        over: True once the session has ended.
    """

    report: SessionReport
    listener: Listener | None = None
    over: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic)
    _level: int | None = None
    _stage_began: float = 0.0
    _silos: dict[str, SiloReport] = field(default_factory=dict)

    def say(self, name: str, silo: str = "", **details: object) -> None:
        """Emit an event of this session."""
        tell(self.listener, Event(name, self.report.session, self._level, silo, details))

    def session_started(self) -> None:
        """Record the start of the session, with its frozen membership."""
        self.say("session started", silos=list(self.report.members))

    def stage_started(self, level: int, silos: Sequence[str], seconds: float) -> None:
        """Record the start of a stage, before its silos are asked."""
        self._level, self._stage_began, self._silos = level, time.monotonic(), {}
        self.say("stage started", silos=len(silos), seconds=seconds)

    def ended(self, talk: RequestTimings, outcome: Outcome) -> None:
        """Record that a silo answered or was dropped."""
        one = self._silos[talk.silo] = talk.report(outcome, self._stage_began, time.monotonic())
        if isinstance(outcome, Done):
            facts = {name: getattr(one, name) for name in ("queue", "transfer", "compute", "bytes_out", "bytes_in")}
            self.say("silo answered", talk.silo, seconds=one.at, **facts)
        else:
            self.say("silo dropped", talk.silo, ending=one.ending, why=one.why, seconds=one.at)

    def stage_finished(
        self, asked: Sequence[str], needed: int, merged: MergeOrder, error: Exception | None = None
    ) -> None:
        """Record the end of a stage; ``asked`` are all silos that were asked, in membership order."""
        seconds = time.monotonic() - self._stage_began
        silos = tuple(self._silos[silo] for silo in asked if silo in self._silos)
        stage = StageReport(level=self._level or 0, needed=needed, seconds=seconds, silos=silos, merge_order=merged)
        self.report = replace(self.report, stages=(*self.report.stages, stage), seconds=time.monotonic() - self._began)
        if error is None:
            self.say("stage finished", participants=len(stage.participants), seconds=seconds)
        else:
            self.say("stage failed", error=str(error), seconds=seconds)
        self._level = None

    def late(self, silo: str, stage: int) -> None:
        """Record a reply that came after its stage had closed."""
        self.report = replace(self.report, late=self.report.late + 1)
        tell(self.listener, Event("late answer", self.report.session, stage, silo))

    def forged(self, silo: str, why: str) -> None:
        """Record a forged message."""
        if len(self.report.forged) < MOST_FORGED:
            self.report = replace(self.report, forged=(*self.report.forged, (silo, why)))
        self.say("message forged", silo, why=why)

    def finished(self, error: BaseException | None = None) -> None:
        """Record the end of the session."""
        self.over = True
        words = "" if error is None else str(error) or type(error).__name__
        self.report = replace(self.report, seconds=time.monotonic() - self._began, error=words)
        outcome: Literal["ok", "cancelled", "failed"] = "ok"
        if error is not None:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        code = error.code if isinstance(error, FedbrokerError) else ""
        self.say("session finished", seconds=self.report.seconds, outcome=outcome, code=code, error=words)
