"""The exchanges and queues that a coordinator or a silo needs, and the check of those that exist."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from fedbroker.diagnostics.channels import Channels
from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import BrokerLost, BrokerRefused, TopologyMismatch
from fedbroker.transport import topology
from fedbroker.transport.amqp.channel import Channel
from fedbroker.transport.amqp.exceptions import Locked, NotFound, not_enrolled
from fedbroker.transport.topology import Exchange, Queue

__all__ = ["Role", "Target", "Topology", "check_topology", "coordinator_role", "silo_role"]

_NODE_DOWN: Final = "home node"
"""Words in the broker's error if the one node that holds a durable classic queue is down."""


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
        unread: queues of ``lasting`` that it declares and never reads.
    """

    name: str
    exchanges: tuple[Exchange, ...]
    lasting: tuple[Queue, ...]
    passing: tuple[Queue, ...]
    targets: tuple[Target, ...]
    unheard: Target
    private: str
    declares: bool = True
    unread: tuple[Queue, ...] = ()

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All of its queues."""
        return (*self.lasting, *self.passing)


def coordinator_role(cohort: str | None) -> Role:
    """Return the role of a coordinator; None stands for a cohort whose name is not known."""
    name = cohort or f"doctor-{secrets.token_hex(6)}"
    key = topology.coordinator_id_of(name, secrets.token_hex(6))  # of the same shape as a coordinator's own
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
    key = topology.coordinator_id_of(cohort, secrets.token_hex(6))
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
        unread=(topology.archive(cohort),),
    )


@dataclass(slots=True)
class Topology:
    """The state of a role's exchanges and queues.

    Attributes:
        present: names of exchanges and queues that exist with our properties.
        missing: names of exchanges and queues that do not exist.
        in_use: names of queues that another connection uses now.
        findings: one finding for each that has other properties, or one for all.
    """

    present: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    in_use: list[str] = field(default_factory=list[str])
    findings: list[Finding] = field(default_factory=list[Finding])


async def check_topology(channels: Channels, role: Role) -> Topology:
    """Check all exchanges and queues that a role declares and that may exist before it connects.

    An existing one is declared again with our properties: this changes nothing, or is refused with the difference. A
    missing one is not created.

    Raises:
        BrokerLost: the connection was lost.
    """
    state = Topology()
    if not role.declares:
        await _check_existing(channels, role, state)
        return state
    queues = role.queues if role.name == "silo" else role.lasting
    parts: tuple[Exchange | Queue, ...] = (*role.exchanges, *queues)
    for part in parts:
        await _check_one(channels, part, state)
    if not state.findings:
        state.findings.append(Finding.ok("topology", _summary(state)))
    if role.name == "silo" and state.in_use:
        state.findings.append(Finding.ok("name", "a silo of this name is running"))
    return state


async def _check_existing(channels: Channels, role: Role, state: Topology) -> None:
    """Check that the queues of a role that declares none exist."""
    for queue in role.queues:
        try:
            found = await channels.request(partial(Channel.inspect, queue=queue))
        except NotFound:
            state.missing.append(queue.name)
            state.findings.append(Finding.problem("topology", not_enrolled(f"queue {queue.name!r}")))
        else:
            (state.in_use if found.consumers else state.present).append(queue.name)
    if not state.findings:
        state.findings.append(Finding.ok("topology", f"{len(role.queues)} queues exist, made by enrolment"))
    if state.in_use:
        state.findings.append(Finding.ok("name", "a silo of this name is running"))


def _summary(state: Topology) -> str:
    if not state.present:
        return "no exchange or queue of fedbroker exists yet: the first silo or coordinator makes them"
    text = f"{len(state.present)} exchanges and queues exist with the right properties"
    if state.missing:
        text += f"; made when they are needed: {', '.join(state.missing)}"
    return text


async def _check_one(channels: Channels, part: Exchange | Queue, state: Topology) -> None:
    kind = "exchange" if isinstance(part, Exchange) else "queue"
    try:
        await channels.request(partial(_inspect, part=part))
    except NotFound as error:
        if _NODE_DOWN in str(error):
            down = BrokerLost(f"the node that holds {kind} {part.name!r} is down", hint="start that node again")
            state.findings.append(Finding.warning("topology", down))
        else:
            state.missing.append(part.name)
        return
    except Locked:
        state.in_use.append(part.name)
        return
    try:
        await channels.request(partial(_declare, part=part))
    except TopologyMismatch as mismatch:
        state.findings.append(Finding.problem("topology", mismatch))
    except Locked:
        state.in_use.append(part.name)
    except BrokerRefused:
        pass  # reported by the check of permissions
    else:
        state.present.append(part.name)


async def _inspect(channel: Channel, part: Exchange | Queue) -> None:
    if isinstance(part, Exchange):
        await channel.check_exchange(part)
    else:
        await channel.inspect(part)


async def _declare(channel: Channel, part: Exchange | Queue) -> None:
    if isinstance(part, Exchange):
        await channel.declare_exchange(part)
    else:
        await channel.declare_queue(part)
