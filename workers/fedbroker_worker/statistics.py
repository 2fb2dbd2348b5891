"""What there is to count of a silo in service, for whoever watches it. Imports transport's counts only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker.transport.amqp.counters import TrafficCounters, WorkCounters

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A silo as it is now, and what it has counted since it started.

    Attributes:
        in_hand: work items that it works on.
        sessions: sessions that hold values here.
        restarts: how often the C++ runtime had died and was started anew.
        retired: how often it was replaced since a computation in it was given up.
        cached_bytes: what the blobs that are kept take.
        traffic: what has gone over the connections to the broker, by lane; goes on counting.
        taken: what was found in the work queue; goes on counting.
    """

    in_hand: int
    sessions: int
    restarts: int
    retired: int
    cached_bytes: int
    traffic: Mapping[str, TrafficCounters]
    taken: WorkCounters
