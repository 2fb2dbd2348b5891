"""Queues where the broker lost some of itself: a node of a cluster, or the leader of a replicated queue.

A classic queue lives on one node, and while that is down the queue can neither be used nor declared. A quorum queue
whose only node was killed less than a second after the declaration comes back without a leader, and never gets one
(RabbitMQ 3.10). Imports transport.line, transport.topology and the base.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.exceptions import ConnectionLost, RetrySetup
from fedbroker.transport.topology import DAYS, Queue

__all__ = ["LEADERLESS", "anew", "declare_elsewhere", "names_of", "see_leader"]

_log = get_logger(__name__)

LEADERLESS: Final = 10.0
"""Seconds after which a quorum queue without a leader is given up; an election takes less."""
MOST_NAMES: Final = 5
"""Names that one queue may have had, as one node of a cluster after another went down."""


async def declare_elsewhere(line: Connection, queue: Queue, last: Queue | None = None) -> Queue:
    """Make sure that a durable classic queue is there, under another name where the node that holds it is down.

    Its bindings are the same under each name, so that whoever publishes need not know.

    Args:
        line: where to declare it.
        queue: with the name that it has as long as all is well.
        last: what this function returned the last time, which may hold messages.

    Returns:
        the queue, with the name that it has now.

    Raises:
        TopologyMismatch, BrokerRefused, Locked, ConnectionLost: as ``Connection.declare`` does.
    """
    names = names_of(queue)
    for named in [last, *(name for name in names if name != last)] if last is not None else names:
        if await line.declare_here(named):
            return named
        _log.warning("queue made anew", queue=named.name)
    why = f"the nodes that hold {queue.name!r} are down"
    line.fail(why)
    raise ConnectionLost(why)


def names_of(queue: Queue) -> list[Queue]:
    """A queue under each of the names that it may have; those after the first go when nobody used them for a day."""
    arguments = {"x-expires": DAYS, **queue.arguments}
    others = (f"{queue.name}.{number}" for number in range(2, MOST_NAMES + 1))
    return [queue, *(replace(queue, name=name, arguments=arguments) for name in others)]


async def see_leader(line: Connection, queue: Queue) -> None:
    """Make sure that somebody answers for a quorum queue that is there; delete it if nobody does.

    Raises:
        RetrySetup: it was deleted: declare it once more, on a new line.
        ConnectionLost: the line ended.
    """
    if not await line.answers(queue, LEADERLESS):
        raise await anew(line, queue)


async def anew(line: Connection, queue: Queue) -> RetrySetup:
    """Delete a quorum queue that has no leader. What it held is lost either way.

    Returns:
        what to raise.

    Raises:
        ConnectionLost: the line ended.
    """
    await line.delete(queue)
    return RetrySetup(f"queue {queue.name!r} had no leader for {LEADERLESS:g} s and was made anew")
