"""Writes down what happens: into the structured log, to whoever listens, and into a session's report.

Imports the session's outcomes and report, and the base.
"""

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
"""Called for each event, on the event loop: it must not block."""

MOST_FORGED: Final = 256
"""In a report: whoever sees that many need not see more."""

WARNINGS: Final = ("silo dropped", "silo sent away", "stage failed", "message forged", "invocation retried")


def tell(listener: Listener | None, event: Event) -> None:
    """Log an event and hand it to whoever listens; what a listener raises is logged and changes nothing."""
    where = {"session": event.session, "stage": event.stage, "silo": event.silo}
    facts: dict[str, Any] = {key: _short(value) for key, value in event.details.items()}
    facts |= {key: value for key, value in where.items() if value not in ("", None)}
    say = _log.warning if event.name in WARNINGS else _log.info
    say(event.name, **facts)
    _hand(listener, event)


def both(one: Listener | None, other: Listener | None) -> Listener | None:
    """A listener that hands each event to both, whatever either of them raises."""
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
    """For people: nobody reads more than milliseconds in a log."""
    return round(value, 3) if isinstance(value, float) else value


@dataclass(slots=True)
class RequestTimings:
    """What was sent to one silo in a stage, and what came back; filled in as it goes on.

    Attributes:
        silo: its name.
        incarnation: of its process.
        in_place_of: the straggler whose work it got, or empty.
        started: when it was first asked, on the monotonic clock.
        replied: when its last reply came.
        fetched: when all of its results were there.
        bytes_out: of the blobs sent for it.
        asked: how often.
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
        """What there is to say of it, once it has ended."""
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
        report: what is known by now.
        listener: who hears of each event, too.
        over: the session is.
    """

    report: SessionReport
    listener: Listener | None = None
    over: bool = field(default=False, init=False)
    _began: float = field(default_factory=time.monotonic)
    _level: int | None = None
    _stage_began: float = 0.0
    _silos: dict[str, SiloReport] = field(default_factory=dict)

    def say(self, name: str, silo: str = "", **details: object) -> None:
        """An event of this session."""
        tell(self.listener, Event(name, self.report.session, self._level, silo, details))

    def session_started(self) -> None:
        """The membership is frozen."""
        self.say("session started", silos=list(self.report.members))

    def stage_started(self, level: int, silos: Sequence[str], seconds: float) -> None:
        """All silos of a stage are about to be asked."""
        self._level, self._stage_began, self._silos = level, time.monotonic(), {}
        self.say("stage started", silos=len(silos), seconds=seconds)

    def ended(self, talk: RequestTimings, outcome: Outcome) -> None:
        """A silo answered, or was dropped."""
        one = self._silos[talk.silo] = talk.report(outcome, self._stage_began, time.monotonic())
        if isinstance(outcome, Done):
            facts = {name: getattr(one, name) for name in ("queue", "transfer", "compute", "bytes_out", "bytes_in")}
            self.say("silo answered", talk.silo, seconds=one.at, **facts)
        else:
            self.say("silo dropped", talk.silo, ending=one.ending, why=one.why, seconds=one.at)

    def stage_finished(
        self, asked: Sequence[str], needed: int, merged: MergeOrder, error: Exception | None = None
    ) -> None:
        """The stage is over; ``asked`` are all that were asked, in membership order."""
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
        """An answer came that nobody waits for any more."""
        self.report = replace(self.report, late=self.report.late + 1)
        tell(self.listener, Event("late answer", self.report.session, stage, silo))

    def forged(self, silo: str, why: str) -> None:
        """A message was not what it claimed to be."""
        if len(self.report.forged) < MOST_FORGED:
            self.report = replace(self.report, forged=(*self.report.forged, (silo, why)))
        self.say("message forged", silo, why=why)

    def finished(self, error: BaseException | None = None) -> None:
        """The session is over."""
        self.over = True
        words = "" if error is None else str(error) or type(error).__name__
        self.report = replace(self.report, seconds=time.monotonic() - self._began, error=words)
        outcome: Literal["ok", "cancelled", "failed"] = "ok"
        if error is not None:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        code = error.code if isinstance(error, FedbrokerError) else ""
        self.say("session finished", seconds=self.report.seconds, outcome=outcome, code=code, error=words)
