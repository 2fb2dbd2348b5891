"""Roles of a coordinator and a silo: the exchanges, queues and routing keys for which they need permissions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from fedbroker.transport import topology
from fedbroker.transport.topology import Exchange, Queue

__all__ = ["Role", "Target", "coordinator_role", "silo_role"]


@dataclass(frozen=True, slots=True)
class Target:
    """An exchange and a routing key to publish to."""

    exchange: Exchange
    key: str


@dataclass(frozen=True, slots=True)
class Role:
    """The needs of a coordinator or a silo at the broker.

    Attributes:
        name: ``coordinator`` or ``silo``.
        exchanges: exchanges that it declares.
        lasting: queues that it uses and that exist before it connects or after it has left.
        passing: queues of its own that exist only as long as its connection.
        targets: targets that it publishes to.
        unheard: a target that it may publish to, with a routing key that no queue is bound to.
        private: prefix for the names of temporary queues, within its usual permissions.
        declares: True if it declares exchanges and queues; otherwise they must exist.
    """

    name: str
    exchanges: tuple[Exchange, ...]
    lasting: tuple[Queue, ...]
    passing: tuple[Queue, ...]
    targets: tuple[Target, ...]
    unheard: Target
    private: str
    declares: bool = True

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All of its queues."""
        return (*self.lasting, *self.passing)


def coordinator_role(cohort: str | None) -> Role:
    """Return the role of a coordinator; None stands for a cohort whose name is not known."""
    name = cohort or f"doctor-{secrets.token_hex(6)}"
    key = topology.coordinator_key(name, secrets.token_hex(6))  # of the same shape as a coordinator's own
    lasting = (topology.lobby_queue(name), topology.archive(name)) if cohort is not None else ()
    return Role(
        "coordinator",
        topology.EXCHANGES,
        lasting,
        (topology.callback_queue(key), topology.results_queue(key), topology.roster_queue(key, name)),
        (
            Target(topology.WORK, topology.work_key(name, key, key)),
            Target(topology.MAIL, topology.silo_key(name, key)),
            Target(topology.BLOBS, topology.blobs_key(name, key)),
        ),
        Target(topology.BLOBS, topology.blobs_key(key, key)),
        topology.results_queue(key).name,
    )


def silo_role(cohort: str, silo: str, *, enrolled: bool = False) -> Role:
    """Return the role of a silo. An enrolled silo uses existing queues; any other declares them."""
    key = topology.coordinator_key(cohort, secrets.token_hex(6))
    shared = () if enrolled else (topology.lobby_queue(cohort), topology.archive(cohort))
    return Role(
        "silo",
        () if enrolled else topology.EXCHANGES,
        (*shared, topology.work_queue(cohort, silo)),
        (topology.mailbox(cohort, silo), topology.blobs_queue(cohort, silo)),
        (
            Target(topology.LOBBY, topology.silo_key(cohort, silo)),
            Target(topology.REPLY, topology.reply_key(key, key, 0, silo)),
            Target(topology.RESULTS, topology.results_key(key, silo)),
            Target(topology.WORK, topology.work_key(cohort, silo, key)),
        ),
        Target(topology.RESULTS, topology.results_key(key, silo)),
        f"{topology.blobs_queue(cohort, silo).name}.{key}",
        declares=not enrolled,
    )
