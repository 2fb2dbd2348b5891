"""Check a user's permissions at the broker without changing anything there.

RabbitMQ checks permissions before the rest of a request. So each trial is a request with a flaw, which the broker
cannot grant. The broker refuses access to a user without the permission, and refuses any other user because of the
flaw. It creates nothing in either case. Messages are published in a transaction that is rolled back. Reading is tried
for real if the queue exists: a message of the lobby or the archive is taken and put back, which counts as a delivery. A
silo's work queue refuses this, because it has a single active consumer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import aiormq.abc
import aiormq.exceptions

from fedbroker.diagnostics.channels import Channels, Question
from fedbroker.diagnostics.finding import Finding
from fedbroker.diagnostics.topology import Role, Target
from fedbroker.errors import BrokerRefused
from fedbroker.transport.amqp.exceptions import IN_USE
from fedbroker.transport.topology import EXCHANGES, Binding, Exchange, Queue

__all__ = ["check_permissions"]

Kind: TypeAlias = Literal["configure", "write", "read"]

KINDS: Final[tuple[Kind, ...]] = ("configure", "write", "read")
CONCURRENT_TRIALS: Final = 8
"""Number of trials at once: each takes a channel of the connection."""

_EXCHANGES_BY_NAME: Final = {exchange.name: exchange for exchange in EXCHANGES}
_OR_READ: Final = "or read permission on"
_FLAW: Final = 1
"""The flaw: a number where the name of an exchange is required."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """One trial request.

    Attributes:
        kind: kind of the permission that it needs.
        what: the exchange or queue that it needs the permission on.
        ask: makes the request.
        any_topic: True if a refusal that names a topic does not count: the exchange itself is permitted then.
    """

    kind: Kind
    what: str
    ask: Question[object]
    any_topic: bool = False


async def check_permissions(channels: Channels, role: Role, *, user: str, vhost: str) -> list[Finding]:
    """Check that a user has all permissions that a role needs.

    Returns:
        One finding if so, else one for each kind of permission that is missing.

    Raises:
        BrokerLost: the connection was lost.
    """
    limit = asyncio.Semaphore(CONCURRENT_TRIALS)

    async def tried(trial: _Trial) -> tuple[_Trial, str | None]:
        async with limit:
            return trial, await _refusal(channels, trial)

    trials = list(_trials(role))
    results = await asyncio.gather(*(tried(trial) for trial in trials))
    missing: dict[Kind, dict[str, None]] = defaultdict(dict)
    for trial, refusal in results:
        if refusal is not None:
            kind, what = _missing_permission(trial, refusal)
            missing[kind][what] = None
    if not missing:
        return [Finding.ok("permissions", f"user {user!r} has all {len(trials)} permissions of a {role.name}")]
    return [_finding(kind, list(missing[kind]), user, vhost) for kind in KINDS if kind in missing]


def _finding(kind: Kind, names: list[str], user: str, vhost: str) -> Finding:
    first, others = names[:4], len(names) - 4
    more = f" and {others} more" if others > 0 else ""
    topics = any(name.startswith("topic ") for name in names)
    command = f"rabbitmqctl {'set_topic_permissions' if topics else 'set_permissions'} -p {vhost} {user} …"
    error = BrokerRefused(
        f"user {user!r} has no {kind} permission on {', '.join(first)}{more}",
        hint=f"ask the broker's operator to grant it (`{command}`)",
    )
    return Finding.problem("permissions", error)


async def _refusal(channels: Channels, trial: _Trial) -> str | None:
    """Return the broker's refusal, or None if the user has the permission."""
    try:
        await channels.ask(trial.ask)
    except aiormq.exceptions.ChannelAccessRefused as error:
        granted = IN_USE in str(error) or (trial.any_topic and _topic(str(error)) is not None)
        return None if granted else str(error)
    except aiormq.exceptions.ChannelClosed:
        return None  # the permission is granted: refused because of the flaw, or because it does not exist or is in use
    return None


def _trials(role: Role) -> Iterator[_Trial]:
    for exchange in role.exchanges:
        yield _Trial("configure", f"exchange {exchange.name!r}", _declaring_exchange(exchange))
    for queue in role.queues:
        name = f"queue {queue.name!r}"
        if not role.declares:
            yield _Trial("read", name, _reading(queue))
            continue
        yield _Trial("configure", name, _declaring(queue))
        for binding in queue.bindings:
            yield _Trial("write", f"{name} {_OR_READ} exchange {binding.exchange.name!r}", _binding(queue, binding))
        if queue not in role.unread:
            yield _Trial("read", name, _reading(queue))
        if (dead := queue.arguments.get("x-dead-letter-exchange")) is not None:
            # Declaring the queue needs this permission. The broker itself publishes dead letters, with any topic.
            ask = _publishing(Target(_EXCHANGES_BY_NAME[str(dead)], queue.bindings[0].key))
            yield _Trial("write", f"exchange {dead!r}", ask, any_topic=True)
    for target in role.targets:
        yield _Trial("write", f"exchange {target.exchange.name!r}", _publishing(target))


def _declaring_exchange(exchange: Exchange) -> Question[object]:
    def ask(channel: aiormq.abc.AbstractChannel) -> Awaitable[object]:
        arguments: Any = {"alternate-exchange": _FLAW}
        return channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True, arguments=arguments)

    return ask


def _declaring(queue: Queue) -> Question[object]:
    def ask(channel: aiormq.abc.AbstractChannel) -> Awaitable[object]:
        arguments: Any = {"x-dead-letter-exchange": _FLAW}
        return channel.queue_declare(queue.name, durable=True, arguments=arguments)

    return ask


def _binding(queue: Queue, binding: Binding) -> Question[object]:
    """Return a request without a flaw, which changes nothing: the queue has this binding already, if it exists."""
    return lambda channel: channel.queue_bind(queue.name, binding.exchange.name, binding.key)


def _reading(queue: Queue) -> Question[object]:
    """Return a request to take a message, which goes back to its place when the channel closes."""
    return lambda channel: channel.basic_get(queue.name)


def _publishing(target: Target) -> Question[object]:
    async def ask(channel: aiormq.abc.AbstractChannel) -> None:
        """Publish and roll back. A flaw would not work here: RabbitMQ 4 checks the topic permission last."""
        await channel.tx_select()
        await channel.basic_publish(b"", exchange=target.exchange.name, routing_key=target.key)
        await channel.tx_rollback()

    return ask


def _missing_permission(trial: _Trial, refusal: str) -> tuple[Kind, str]:
    """Return the missing permission. A binding needs one on the queue and one on the exchange; the refusal names it."""
    queue, alternative, exchange = trial.what.partition(_OR_READ)
    if (topic := _topic(refusal)) is not None:
        return "read" if alternative else trial.kind, topic
    if not alternative:
        return trial.kind, trial.what
    return ("read", exchange.strip()) if "to exchange" in refusal else ("write", queue.strip())


def _topic(refusal: str) -> str | None:
    """Return the topic that the refusal names, or None. The exchange itself is permitted if a topic is refused."""
    _, found, rest = refusal.partition(" to topic ")
    return f"topic {rest.partition(' in vhost')[0]}" if found else None
