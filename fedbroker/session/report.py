"""What became of a session: per stage, who answered when, who was dropped and why, bytes, and where the time went.

Plain, immutable data; imports the session's outcomes only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
