"""Counters of a cohort, for monitoring."""

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
        present: names of the present silos.
        gone: names of the silos that were present once and are not now.
        traffic: live counters of the connections to the broker, by lane.
        late: number of replies and dead letters that no request waited for.
        dead: live counters of the work items that the broker gave back, by reason.
    """

    present: tuple[str, ...]
    gone: tuple[str, ...]
    traffic: Mapping[str, TrafficCounters]
    late: int
    dead: Mapping[Reason, int]
