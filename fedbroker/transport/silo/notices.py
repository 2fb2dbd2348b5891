"""One silo's mailbox: what is said to it, and the lock on its name. Imports transport's connect, line and topology."""

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
    """Has one consumer: the silo of that name.

    Args:
        cohort: the silo's cohort.
        silo: its name.
        handler: what takes a word.
        enrolled: the queue was made for the silo, which may make none; if not, it is exclusive to its connection.
        answers: whether a node of the broker's can be reached.
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
        self._last: Endpoint | None = None  # of the broker's nodes, the one that the last connection was with
        self._ours = 0  # consumers then, those left of connections before included

    async def take(self, line: Connection) -> None:
        """Be its consumer, on a new line.

        Raises:
            Locked: somebody else is.
            BrokerRefused: it is not there, or there is no permission.
            ConnectionLost: the line ended.
        """
        if self._enrolled:
            await self._take_alone(line)
        else:
            await line.declare(topology.EXCHANGES, (self._queue,))
            await line.consume(self._queue, self._handler, prefetch=PREFETCH)

    async def _take_alone(self, line: Connection) -> None:
        """A replicated queue lets in whoever asks for it alone, so that its consumers are counted, before and after."""
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
        """How many consumers may be left of us: the broker counts those of a node that is down until that is back."""
        if self._last is None or await self._answers(self._last):
            return 0
        return self._ours
