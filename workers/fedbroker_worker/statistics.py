"""The counters of a running silo, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker.transport.amqp.counters import TrafficCounters, WorkCounters

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The current state of a silo, and its counters since it started.

    Attributes:
        in_hand: the number of work items in hand.
        sessions: the number of sessions that hold values here.
        restarts: how often the C++ runtime died and was restarted.
        retired: how often the runtime was replaced because a computation in it was cancelled.
        cached_bytes: the size of the cached blobs.
        traffic: live counters of the connections to the broker, by lane.
        taken: live counters of the messages from the work queue.
    """

    in_hand: int
    sessions: int
    restarts: int
    retired: int
    cached_bytes: int
    traffic: Mapping[str, TrafficCounters]
    taken: WorkCounters
