"""A silo's mailbox: the queue of notices to it, and the lock on its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fedbroker.transport import topology
from fedbroker.transport.amqp.connection import Connection, Handler
from fedbroker.transport.amqp.dial import answers
from fedbroker.transport.amqp.exceptions import Locked
from fedbroker.transport.amqp.url import Endpoint

__all__ = ["NoticeQueue"]

PREFETCH: Final = 64


class NoticeQueue:
    """The mailbox of one silo; the silo of that name is its only consumer.

    Args:
        cohort: the silo's cohort.
        silo: the silo's name.
        handler: handles a notice.
        enrolled: True if the queue was created at enrolment and the silo may not declare it; else the queue is
            exclusive to the silo's connection.
        answers: returns whether a node of the broker can be reached.
    """

    def __init__(
        self,
        cohort: str,
        silo: str,
        handler: Handler,
        *,
        enrolled: bool,
        answers: Callable[[Endpoint], Awaitable[bool]] = answers,
    ) -> None:
        self._queue = topology.mailbox(cohort, silo)
        self._handler = handler
        self._enrolled = enrolled
        self._answers = answers
        self._last: Endpoint | None = None  # the broker's node of the last connection
        self._ours = 0  # number of consumers then, including those left by earlier connections

    async def take(self, line: Connection) -> None:
        """Become the mailbox's consumer, on a new connection.

        Raises:
            Locked: the mailbox has another consumer.
            BrokerRefused: the queue does not exist, or no permission.
            ConnectionLost: the connection ended.
        """
        if self._enrolled:
            await self._take_alone(line)
        else:
            await line.declare(topology.EXCHANGES, (self._queue,))
            await line.consume(self._queue, self._handler, prefetch=PREFETCH)

    async def _take_alone(self, line: Connection) -> None:
        """Consume alone from a replicated queue, which does not enforce it: its consumers are counted before and after.

        Consumers that may remain of our own lost connections are tolerated.
        """
        left = await self._left()
        (before,) = await line.expect(self._queue)
        if before > left:
            raise Locked(f"queue {self._queue.name!r}")
        self._last, self._ours = line.endpoint, before + 1
        await line.consume(self._queue, self._handler, prefetch=PREFETCH, exclusive=True)
        (after,) = await line.expect(self._queue)
        if after > before + 1:
            self._last = None
            raise Locked(f"queue {self._queue.name!r}")

    async def _left(self) -> int:
        """Return how many of our own consumers may remain: the broker counts those of a down node until it is back."""
        if self._last is None or await self._answers(self._last):
            return 0
        return self._ours
