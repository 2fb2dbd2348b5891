"""The exchanges and queues that a coordinator or a silo needs, and the check of those that exist."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.diagnostics.channels import Channels, Question
from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import BrokerLost, TopologyMismatch
from fedbroker.transport import topology
from fedbroker.transport.amqp.exceptions import first_line, not_enrolled
from fedbroker.transport.topology import Exchange, Queue

__all__ = ["Role", "Target", "Topology", "check_topology", "coordinator_role", "silo_role"]

_NODE_DOWN: Final = "home node"


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
    found = Topology()
    if not role.declares:
        await _check_existing(channels, role, found)
        return found
    for exchange in role.exchanges:
        await _check_one(
            channels, exchange.name, "exchange", _exchange(exchange, passive=True), _exchange(exchange), found
        )
    for queue in role.queues if role.name == "silo" else role.lasting:
        await _check_one(channels, queue.name, "queue", _queue(queue, passive=True), _queue(queue), found)
    if not found.findings:
        found.findings.append(Finding.ok("topology", _summary(found)))
    if role.name == "silo" and found.in_use:
        found.findings.append(Finding.ok("name", "a silo of this name is running"))
    return found


async def _check_existing(channels: Channels, role: Role, found: Topology) -> None:
    """Check that the queues of a role that declares none exist."""
    for queue in role.queues:
        try:
            declared = await channels.ask(_inspection(queue))
        except aiormq.exceptions.ChannelNotFoundEntity:
            found.missing.append(queue.name)
            found.findings.append(Finding.problem("topology", not_enrolled(f"queue {queue.name!r}")))
        else:
            (found.in_use if declared.consumer_count else found.present).append(queue.name)
    if not found.findings:
        found.findings.append(Finding.ok("topology", f"{len(role.queues)} queues exist, made by enrolment"))
    if found.in_use:
        found.findings.append(Finding.ok("name", "a silo of this name is running"))


def _inspection(queue: Queue) -> Question[commands.Queue.DeclareOk]:
    return lambda channel: channel.queue_declare(queue.name, passive=True)


def _summary(found: Topology) -> str:
    if not found.present:
        return "no exchange or queue of fedbroker exists yet: the first silo or coordinator makes them"
    text = f"{len(found.present)} exchanges and queues exist with the right properties"
    if found.missing:
        text += f"; made when they are needed: {', '.join(found.missing)}"
    return text


async def _check_one(
    channels: Channels, name: str, kind: str, passively: Question[object], as_ours: Question[object], found: Topology
) -> None:
    try:
        await channels.ask(passively)
    except aiormq.exceptions.ChannelNotFoundEntity as error:
        if _NODE_DOWN in str(error):
            down = BrokerLost(f"the node that holds {kind} {name!r} is down", hint="start that node again")
            found.findings.append(Finding.warning("topology", down))
        else:
            found.missing.append(name)
        return
    except aiormq.exceptions.ChannelLockedResource:
        found.in_use.append(name)
        return
    try:
        await channels.ask(as_ours)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        mismatch = TopologyMismatch(
            f"{kind} {name!r} exists with other properties than ours ({first_line(error)})",
            hint="delete it at the broker if it is not needed, or use another cohort or vhost",
        )
        found.findings.append(Finding.problem("topology", mismatch))
    except aiormq.exceptions.ChannelLockedResource:
        found.in_use.append(name)
    except aiormq.exceptions.ChannelAccessRefused:
        pass  # reported by the check of permissions
    else:
        found.present.append(name)


def _exchange(exchange: Exchange, *, passive: bool = False) -> Question[object]:
    def ask(channel: aiormq.abc.AbstractChannel) -> Awaitable[object]:
        return channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True, passive=passive)

    return ask


def _queue(queue: Queue, *, passive: bool = False) -> Question[object]:
    def ask(channel: aiormq.abc.AbstractChannel) -> Awaitable[object]:
        return channel.queue_declare(
            queue.name,
            durable=not queue.exclusive,
            exclusive=queue.exclusive,
            passive=passive,
            arguments=dict(queue.arguments),
        )

    return ask
