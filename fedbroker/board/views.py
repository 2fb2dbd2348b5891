"""Views of the board: immutable structs, the same in the page and in its JSON.

Every text in them has come from a broker's users: the page shows it as text, never as HTML.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "BarOutcome",
    "BarView",
    "Changes",
    "CohortView",
    "CurveView",
    "NoticeKind",
    "NoticeView",
    "Removed",
    "SessionDetails",
    "SessionOutcome",
    "SessionView",
    "SiloState",
    "SiloView",
    "StageView",
    "State",
]

SiloState: TypeAlias = Literal["present", "late", "gone"]
"""``late``: an announcement is missing, and a coordinator still counts it as present; ``gone``: it has left, or more
announcements are missing."""

SessionOutcome: TypeAlias = Literal["running", "ok", "failed", "cancelled"]

BarOutcome: TypeAlias = Literal[
    "waiting",
    "answered",
    "expired",
    "timed out",
    "crashed",
    "refused",
    "failed",
    "unreachable",
    "late",
    "cancelled",
]
"""``waiting``: it has not replied so far; the others as in :data:`fedbroker.OutcomeName`."""

NoticeKind: TypeAlias = Literal["dropped", "forged", "rejected", "dead letter"]


class SiloView(msgspec.Struct, frozen=True, kw_only=True):
    """A silo of a cohort. Times are seconds since 1970.

    Attributes:
        since: time of the first announcement of its present incarnation.
        seen: time of its latest announcement.
        heartbeat: seconds between its announcements.
        in_flight: number of work items in progress, as it announced.
        working: a running session waits for it.
    """

    cohort: str
    name: str
    state: SiloState
    since: float
    seen: float
    heartbeat: float
    version: str
    sources: list[str]
    in_flight: int
    working: bool


class CohortView(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort.

    Attributes:
        silos: number of silos that are known.
        present: number of silos that are present or late.
        dead_letters: number of dead letters at the broker; None if it is not known.
    """

    name: str
    silos: int
    present: int
    dead_letters: int | None


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session. Times are seconds since 1970.

    Attributes:
        id: unique among all cohorts' sessions on this board.
        coordinator: its coordinator's id.
        computation: the computation's name; empty if it has none.
        program: name of the run that it is part of, or empty.
        run: that run's id, or empty.
        round: the run's round, or None.
        error: the error that ended it, in a line.
        members: number of silos in its membership.
        stage: number of the client stage that runs, or that was the last one; None before the first one.
        waits: why it waits, in a sentence; empty once it has ended.
        dropped: number of silos that were dropped.
        forged: number of forged messages.
    """

    id: str
    cohort: str
    coordinator: str
    computation: str
    program: str
    run: str
    round: int | None
    began: float
    ended: float | None
    outcome: SessionOutcome
    error: str
    members: int
    stage: int | None
    waits: str
    dropped: int
    forged: int


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """A client stage of a session. Times are seconds since the session's start.

    Attributes:
        needed: number of silos that have to answer; 0 if it is not known.
        silos: number of silos that were asked.
        answered: number of silos that have answered.
        masked: it forms masked sums.
    """

    session: str
    stage: int
    began: float
    ended: float | None
    needed: int
    silos: int
    answered: int
    masked: bool


class BarView(msgspec.Struct, frozen=True, kw_only=True):
    """One silo in one client stage. Times are in seconds, sizes in bytes.

    Attributes:
        began: time since the session's start at which the silo was asked.
        queue: see :class:`fedbroker.SiloReport`, as for ``transfer`` and ``compute``; 0.0 until it has answered.
        total: time from ``began`` to its outcome; 0.0 while it is ``waiting``.
        why: the reason for dropping it, in a line.
        bytes_in: size of its outputs.
        bytes_out: size of the blobs sent for it.
    """

    session: str
    stage: int
    silo: str
    began: float
    queue: float
    transfer: float
    compute: float
    total: float
    outcome: BarOutcome
    why: str
    bytes_in: int
    bytes_out: int


class CurveView(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one run.

    Attributes:
        points: pairs of a round and a value, in the order in which they were reported. As part of changes: the new ones
            only.
    """

    run: str
    program: str
    cohort: str
    metric: str
    points: list[tuple[int, float]]


class NoticeView(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that an operator may want to look into.

    Attributes:
        time: seconds since 1970.
        session: id of its session, or empty.
        text: one line.
    """

    time: float
    cohort: str
    session: str
    silo: str
    kind: NoticeKind
    text: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The whole content of the board at one time.

    Attributes:
        bars: those of running sessions and of the newest others.
        broker: why the broker's connection is lost; empty while it is up.
        missed: number of events that were lost on their way.
        at: seconds since 1970.
    """

    cohorts: list[CohortView]
    silos: list[SiloView]
    sessions: list[SessionView]
    stages: list[StageView]
    bars: list[BarView]
    curves: list[CurveView]
    notices: list[NoticeView]
    broker: str
    missed: int
    at: float


class Removed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Entries that are no longer shown. With a session go its stages and bars.

    Attributes:
        cohorts: names.
        silos: pairs of a cohort's and a silo's name.
        sessions: ids; of these, stages and bars are no longer shown either.
        bars: ids of sessions whose stages and bars are no longer part of the state; ``/api/sessions/{id}`` has them.
        curves: pairs of a run's id and a metric's name.
    """

    cohorts: list[str] = []
    silos: list[tuple[str, str]] = []
    sessions: list[str] = []
    bars: list[str] = []
    curves: list[tuple[str, str]] = []


class Changes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Changes of the state since the message before: each entry replaces the entry with the same key.

    Keys: a cohort's ``name``; a silo's ``cohort`` and ``name``; a session's ``id``; a stage's ``session`` and
    ``stage``; a bar's ``session``, ``stage`` and ``silo``; a curve's ``run`` and ``metric``. Points of curves are to be
    appended, and so are notices. A field without changes is absent.
    """

    at: float
    cohorts: list[CohortView] = []
    silos: list[SiloView] = []
    sessions: list[SessionView] = []
    stages: list[StageView] = []
    bars: list[BarView] = []
    curves: list[CurveView] = []
    notices: list[NoticeView] = []
    broker: str | None = None
    missed: int | None = None
    removed: Removed | None = None


class SessionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A session with its stages and bars."""

    session: SessionView
    stages: list[StageView]
    bars: list[BarView]
