"""Notices to a silo: the mailbox that receives them, which locks the silo's name, and what waits for them.

The lock on the name is the silo's mailbox: a queue that is exclusive to a connection or, if enrolment created it, a
queue that has a consumer. A second process of one silo stands by until the name is free.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, BrokerLost, BrokerRefused
from fedbroker.log import get_logger
from fedbroker.transport import topology
from fedbroker.transport.amqp.channel import Channel
from fedbroker.transport.amqp.connection import Connection, Handler
from fedbroker.transport.amqp.delays import delays, refusal_delays
from fedbroker.transport.amqp.dial import Connected, accepts_connections, connect
from fedbroker.transport.amqp.exceptions import ConnectionLost, Locked, NotFound
from fedbroker.transport.amqp.url import Endpoint, parse
from fedbroker.wire.messages import Done, Fetch

__all__ = ["DeferredResults", "NoticeQueue", "until_free"]

_log = get_logger(__name__)

PREFETCH: Final = 64
"""Notices in flight from the broker; each is small and handled at once."""


class NoticeQueue:
    """The mailbox of one silo; the silo of that name is its only consumer.

    Args:
        cohort: the silo's cohort.
        silo: the silo's name.
        handler: handles a notice.
        enrolled: True if the queue was created at enrolment and the silo may not declare it; else the queue is
            exclusive to the silo's connection.
        is_reachable: returns whether a node of the broker can be reached.
    """

    def __init__(
        self,
        cohort: str,
        silo: str,
        handler: Handler,
        *,
        enrolled: bool,
        is_reachable: Callable[[Endpoint], Awaitable[bool]] = accepts_connections,
    ) -> None:
        self._queue = topology.mailbox(cohort, silo)
        self._handler = handler
        self._enrolled = enrolled
        self._is_reachable = is_reachable
        self._last_node: Endpoint | None = None  # the broker's node of the last connection
        self._last_consumers = 0  # number of consumers then, including those left by earlier connections

    async def consume(self, connection: Connection) -> None:
        """Become the mailbox's consumer, on a new connection.

        Raises:
            Locked: the mailbox has another consumer.
            BrokerRefused: the queue does not exist, or no permission.
            ConnectionLost: the connection ended.
        """
        if self._enrolled:
            await self._consume_exclusively(connection)
        else:
            await connection.declare(topology.EXCHANGES, (self._queue,))
            await connection.consume(self._queue, self._handler, prefetch=PREFETCH)

    async def _consume_exclusively(self, connection: Connection) -> None:
        """Consume alone from a replicated queue, which does not enforce it: its consumers are counted before and after.

        Consumers that may remain of our own lost connections are tolerated.
        """
        remaining = await self._remaining()
        (before,) = await connection.expect(self._queue)
        if before > remaining:
            raise Locked(f"queue {self._queue.name!r}")
        self._last_node, self._last_consumers = connection.endpoint, before + 1
        await connection.consume(self._queue, self._handler, prefetch=PREFETCH, exclusive=True)
        (after,) = await connection.expect(self._queue)
        if after > before + 1:
            self._last_node = None
            raise Locked(f"queue {self._queue.name!r}")

    async def _remaining(self) -> int:
        """Return how many of our own consumers may remain: the broker counts those of a down node until it is back."""
        if self._last_node is None or await self._is_reachable(self._last_node):
            return 0
        return self._last_consumers


CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks, each of which costs the broker one passive declaration."""
REPLY_TIMEOUT: Final = 10.0
"""Seconds for the broker to answer: after that, another of its hosts may be tried."""


async def until_free(url: str, cohort: str, silo: str) -> None:
    """Return when the name is free. Another process on standby may still take it first.

    The wait is unbounded, also for a broker that is away.

    Raises:
        ConfigError: a bad URL.
    """
    address = parse(url)
    pauses, refusals = delays(), refusal_delays()
    while True:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                connected = await connect(address, f"fedbroker silo {cohort}.{silo} standby")
            try:
                while await _is_in_use(connected, topology.mailbox(cohort, silo)):
                    pauses, refusals = delays(), refusal_delays()
                    await asyncio.sleep(CHECK_INTERVAL * random.uniform(0.5, 1.0))
                return
            finally:
                await connected.close()
        except (BrokerError, ConnectionError, TimeoutError) as error:
            _log.warning("silo_name_not_checked", reason=str(error) or "no answer in time")
            await asyncio.sleep(next(refusals if isinstance(error, BrokerRefused) else pauses))


async def _is_in_use(connected: Connected, queue: topology.Queue) -> bool:
    """Return whether a queue is in use, on a new channel: the broker closes it if the queue is missing or locked."""
    async with asyncio.timeout(REPLY_TIMEOUT):
        try:
            channel = await Channel.open(connected)
            state = await channel.inspect(queue)
            await channel.close()
        except NotFound:
            return False
        except Locked:
            return True
        except ConnectionLost as error:
            raise ConnectionError(str(error)) from None
        return state.consumers > 0


class _Deferred(NamedTuple):
    by: str
    session_id: str
    stage: int
    incarnation: str


class DeferredResults:
    """Replies whose outputs wait for the coordinator's ``fetch`` notice."""

    def __init__(self) -> None:
        self._waiting: dict[_Deferred, asyncio.Future[bool]] = {}

    @contextmanager
    def until_fetched(self, reply: Done, by: str = "") -> Generator[Callable[[Deadline], Awaitable[bool]]]:
        """Accept the ``fetch`` notice for a reply within the block; yield a function that waits for it.

        Only a notice of the work item's signer counts, whose fingerprint is ``by``. The function returns False if the
        outputs must not be sent, because the coordinator does not want them or because a later reply announced the same
        outputs. It raises ``BrokerLost`` if no notice comes by the deadline.
        """
        results = _Deferred(by, reply.session_id, reply.stage, reply.incarnation)
        requested: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._resolve(results, send=False)
        self._waiting[results] = requested

        async def wait(deadline: Deadline) -> bool:
            try:
                async with asyncio.timeout(deadline.left()):
                    return await requested
            except TimeoutError:
                raise BrokerLost(
                    "the coordinator did not request the results", hint="see whether it is still running"
                ) from None

        try:
            yield wait
        finally:
            if self._waiting.get(results) is requested:
                del self._waiting[results]

    def fetch(self, fetch: Fetch, by: str = "") -> None:
        """Handle a coordinator's notice; ``by`` is the fingerprint of its signer."""
        self._resolve(_Deferred(by, fetch.session_id, fetch.stage, fetch.incarnation), send=fetch.wanted)

    def _resolve(self, results: _Deferred, *, send: bool) -> None:
        requested = self._waiting.get(results)
        if requested is not None and not requested.done():
            requested.set_result(send)
