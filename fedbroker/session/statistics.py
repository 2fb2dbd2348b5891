"""What there is to count of a cohort, for whoever watches it. Imports transport's counts and reasons only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedbroker.transport.amqp.counters import TrafficCounters
from fedbroker.transport.coordinator.requests import Reason

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A cohort as one coordinator sees it.

    Attributes:
        present: names of the silos that are there.
        gone: names of those that were there once and are not now.
        traffic: what has gone over the connections to the broker, by lane; goes on counting.
        late: answers and dead letters that nobody waited for.
        dead: work items that the broker gave back, by reason; goes on counting.
    """

    present: tuple[str, ...]
    gone: tuple[str, ...]
    traffic: Mapping[str, TrafficCounters]
    late: int
    dead: Mapping[Reason, int]
