"""Events of a cohort and its sessions: written to the structured log and passed to listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypedDict

from fedbroker.log import get_logger
from fedbroker.session.stage_state import OutcomeName

__all__ = ["Event", "EventDetails", "EventName", "Listener", "Origin", "emit"]

_log = get_logger(__name__)

EventName: TypeAlias = Literal[
    "run_started",
    "round_finished",
    "run_finished",
    "waiting_for_silos",
    "silo_joined",
    "silo_left",
    "silo_rejected",
    "session_started",
    "session_resumed",
    "stage_started",
    "silo_answered",
    "silo_dropped",
    "late_joiner_added",
    "masking_failed",
    "masks_removed",
    "stage_finished",
    "stage_failed",
    "late_reply",
    "message_forged",
    "invocation_retried",
    "session_finished",
]
"""The names of all events; ``docs/events.md`` describes them."""

WARNINGS: Final[frozenset[EventName]] = frozenset(
    ("silo_dropped", "silo_rejected", "masking_failed", "stage_failed", "message_forged", "invocation_retried")
)
"""Events that are logged as warnings, because an operator may have to act on them."""


class EventDetails(TypedDict, total=False):
    """The details of an event; ``docs/events.md`` lists the keys of each event.

    Times are in seconds, sizes in bytes.
    """

    attempt: int
    bytes_in: int
    bytes_out: int
    code: str
    cohort: str
    computation: str
    compute: float
    error: str
    in_place_of: str
    incarnation: str
    masked: bool
    masked_silos: int
    members: list[str]
    metrics: dict[str, float]
    needed: int
    of: int
    outcome: OutcomeName | Literal["ok", "cancelled"]
    participants: int
    present: list[str]
    program: str
    queue: float
    reason: str
    round: int
    rounds: int
    run: str
    seconds: float
    silos: int
    sources: list[str]
    threshold: int
    transfer: float
    wanted: int
    why: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a cohort or a session, with the same content as its line in the structured log.

    Attributes:
        name: its name in the log, such as ``silo_joined`` or ``stage_finished``.
        session: the session's id; empty for an event of the cohort.
        stage: the client stage's number, or None.
        silo: the silo's name, or empty.
        details: the other fields of the log line.
    """

    name: EventName
    session: str = ""
    stage: int | None = None
    silo: str = ""
    details: EventDetails = field(default_factory=EventDetails)


@dataclass(frozen=True, slots=True)
class Origin:
    """The computation of a session, and its place in a program.

    Attributes:
        computation: name of the computation, or empty.
        run: id of the program's run, or empty.
        program: name of the program, or empty.
        round: number of the round, from 1; 0 outside of a run.
    """

    computation: str = ""
    run: str = ""
    program: str = ""
    round: int = 0

    def details(self) -> EventDetails:
        """Return the fields that are set, as details of an event."""
        details = EventDetails()
        if self.computation:
            details["computation"] = self.computation
        if self.run:
            details |= {"run": self.run, "program": self.program, "round": self.round}
        return details


Listener: TypeAlias = Callable[[Event], None]
"""Function that is called for each event, on the event loop: it must not block."""


def emit(listeners: Iterable[Listener], event: Event) -> None:
    """Log an event and pass it to the listeners. An exception of a listener is logged and has no other effect."""
    position = {"session": event.session, "stage": event.stage, "silo": event.silo}
    fields: dict[str, Any] = {  # times in milliseconds, which is as precise as a reader of the log needs
        key: round(value, 3) if isinstance(value, float) else value for key, value in event.details.items()
    }
    fields |= {key: value for key, value in position.items() if value not in ("", None)}
    log = _log.warning if event.name in WARNINGS else _log.info
    log(event.name, **fields)
    for listener in listeners:
        try:
            listener(event)
        except Exception:
            _log.exception("on_event_failed", event_name=event.name)
