"""The queues that enrolment makes, and the policies that bound them. Imports transport.topology only.

A silo that nobody enrolled makes its queues itself, and they go with it. An enrolled one may make none, so its queues
are there while it is away, for however long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fedbroker.transport import topology
from fedbroker.transport.topology import MINUTES, SECONDS, Queue

__all__ = ["POLICIES", "Policy", "cohort_queues", "silo_queues"]

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """What the broker does with all queues whose names match; unlike arguments it can be changed later."""

    name: str
    pattern: str
    definition: Mapping[str, int | str]


POLICIES: Final = (
    Policy(
        "fedbroker-mailbox",
        r"^fedbroker\.mailbox\.",
        {"message-ttl": 60 * SECONDS, "max-length": 10_000},  # old news to whoever comes back
    ),
    Policy(
        "fedbroker-blobs",
        r"^fedbroker\.blobs\.",
        {"message-ttl": 10 * MINUTES, "max-length-bytes": 2048 * MIB},  # what is lost is asked for again
    ),
)


def silo_queues(cohort: str, silo: str, *, replicated: bool = False) -> tuple[Queue, ...]:
    """One silo's: durable, and none of them expires.

    Args:
        cohort: its cohort.
        silo: its name.
        replicated: all of them are on several nodes of a cluster, so that the silo outlives the loss of any one; if
            not, only its work is.
    """
    blobs, mailbox = topology.blobs_queue(cohort, silo), topology.mailbox(cohort, silo)
    if replicated:
        blobs, mailbox = _replicated(blobs), _replicated(mailbox)
    return tuple(map(_lasting, (topology.work_queue(cohort, silo), blobs, mailbox)))


def cohort_queues(cohort: str) -> tuple[Queue, ...]:
    """Those that all silos of a cohort share; a coordinator that finds none makes the same."""
    return topology.lobby_queue(cohort), topology.archive(cohort)


def _replicated(queue: Queue) -> Queue:
    return replace(queue, arguments={**queue.arguments, "x-queue-type": "quorum"})


def _lasting(queue: Queue) -> Queue:
    arguments = {name: value for name, value in queue.arguments.items() if name != "x-expires"}
    return replace(queue, arguments=arguments, exclusive=False)
