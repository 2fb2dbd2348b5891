"""Failover of queues: the cluster node of a classic queue is down, or a quorum queue has no leader.

A classic queue lives on one node. While that node is down, the queue can neither be used nor declared. A quorum queue
whose only node was killed less than a second after the declaration comes back without a leader, and never gets one
(RabbitMQ 3.10).
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
"""Seconds after which a quorum queue without a leader is deleted; an election takes less."""
MOST_NAMES: Final = 5
"""Names that one queue may have: it takes the next name each time that the node that holds it is down."""


async def declare_elsewhere(line: Connection, queue: Queue, last: Queue | None = None) -> Queue:
    """Declare a durable classic queue, under another name if the node that holds it is down.

    The bindings are the same under each name, so that publishers need not know the name.

    Args:
        line: the connection to declare it on.
        queue: the queue with its regular name.
        last: the queue that this function returned the last time; tried first, because it may hold messages.

    Returns:
        the queue with its present name.

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
    """Return the queue under each of its possible names; all but the first expire after a day without use."""
    arguments = {"x-expires": DAYS, **queue.arguments}
    others = (f"{queue.name}.{number}" for number in range(2, MOST_NAMES + 1))
    return [queue, *(replace(queue, name=name, arguments=arguments) for name in others)]


async def see_leader(line: Connection, queue: Queue) -> None:
    """Check that an existing quorum queue has a leader; delete the queue if it has none.

    Raises:
        RetrySetup: the queue was deleted: declare it once more, on a new connection.
        ConnectionLost: the connection ended.
    """
    if not await line.answers(queue, LEADERLESS):
        raise await anew(line, queue)


async def anew(line: Connection, queue: Queue) -> RetrySetup:
    """Delete a quorum queue that has no leader. Its messages are lost either way.

    Returns:
        the exception that the caller raises.

    Raises:
        ConnectionLost: the connection ended.
    """
    await line.delete(queue)
    return RetrySetup(f"queue {queue.name!r} had no leader for {LEADERLESS:g} s and was made anew")
