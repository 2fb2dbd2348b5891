"""Queues that enrolment makes, and the policies that limit them.

A silo that is not enrolled makes its queues itself, and they expire with it. An enrolled silo may not make queues, so
its queues persist while it is missing, without a time limit.
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
    """Settings for all queues with matching names; unlike a queue's arguments they can be changed later."""

    name: str
    pattern: str
    definition: Mapping[str, int | str]


POLICIES: Final = (
    Policy(
        "fedbroker-mailbox",
        r"^fedbroker\.mailbox\.",
        {"message-ttl": 60 * SECONDS, "max-length": 10_000},  # older notices are useless to a silo that returns
    ),
    Policy(
        "fedbroker-blobs",
        r"^fedbroker\.blobs\.",
        {"message-ttl": 10 * MINUTES, "max-length-bytes": 2048 * MIB},  # lost blobs are requested again
    ),
)


def silo_queues(cohort: str, silo: str, *, replicated: bool = False) -> tuple[Queue, ...]:
    """Return one silo's queues: durable, and without expiry.

    Args:
        cohort: its cohort.
        silo: its name.
        replicated: replicate all of them on several nodes of a cluster, so that the silo survives the loss of any node;
            else only its work queue is replicated.
    """
    blobs, mailbox = topology.blobs_queue(cohort, silo), topology.mailbox(cohort, silo)
    if replicated:
        blobs, mailbox = _replicated(blobs), _replicated(mailbox)
    return tuple(map(_lasting, (topology.work_queue(cohort, silo), blobs, mailbox)))


def cohort_queues(cohort: str) -> tuple[Queue, ...]:
    """Return the queues that all silos of a cohort share; a coordinator makes the same if they do not exist."""
    return topology.lobby_queue(cohort), topology.archive(cohort)


def _replicated(queue: Queue) -> Queue:
    return replace(queue, arguments={**queue.arguments, "x-queue-type": "quorum"})


def _lasting(queue: Queue) -> Queue:
    arguments = {name: value for name, value in queue.arguments.items() if name != "x-expires"}
    return replace(queue, arguments=arguments, exclusive=False)
