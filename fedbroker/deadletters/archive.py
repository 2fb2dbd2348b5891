"""The archive of a cohort's dead letters: list, read, requeue and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fedbroker.deadletters.record import DeadLetter, choose
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, BrokerLost, BrokerUnreachable, CohortError
from fedbroker.transport import topology
from fedbroker.transport.amqp.browser import QueueBrowser, in_time
from fedbroker.transport.amqp.connection import Connection, failover_names
from fedbroker.transport.amqp.dial import Connected, connect
from fedbroker.transport.amqp.exceptions import ConnectionLost, Locked, Nacked, Unroutable
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.url import Address, parse
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import check_name

__all__ = ["Archive", "open_archive"]

RETRY_SECONDS: Final = 0.1
"""Seconds between attempts to get the lock for reading."""


class Archive:
    """The dead letters of one cohort; opened by :func:`open_archive`.

    A letter that one reader holds is invisible to others. So only one reader reads at a time, and another waits.
    Nothing is lost when a reader is killed: the broker puts back the letters that it held, in any order.
    """

    def __init__(
        self, cohort: str, connection: Connection, reader: QueueBrowser, deadline: Deadline, limits: Limits
    ) -> None:
        self._cohort = cohort
        self._queue = topology.archive(cohort)
        self._connection = connection
        self._reader = reader
        self._deadline = deadline
        self._limits = limits

    async def letters(self) -> list[DeadLetter]:
        """Return all letters, the oldest first; none if the archive does not exist.

        Raises:
            BrokerError: the connection was lost, or the broker refused access.
        """
        async with self._held() as deliveries:
            letters = [DeadLetter.of(delivery, self._limits) async for delivery in deliveries]
        # The queue keeps the order, unless a reader was killed while it held letters.
        return sorted(letters, key=lambda letter: letter.died.timestamp() if letter.died is not None else 0.0)

    async def find(self, prefix: str) -> tuple[DeadLetter, bytes]:
        """Return a letter and its body, by its id or the first characters of its id.

        Raises:
            CohortError: no letter matches, or several do.
            BrokerError: the connection was lost, or the broker refused access.
        """
        async with self._held() as deliveries:
            letter, delivery = await self._chosen(prefix, deliveries)
            return letter, delivery.body

    async def requeue(self, prefix: str, expires: float) -> tuple[DeadLetter, bool]:
        """Put a letter back in its silo's work queue, and remove it from the archive once the broker has confirmed.

        It keeps its id. The work may be done twice if the connection is lost before the removal.

        Args:
            prefix: the letter's id, or the first characters of it.
            expires: seconds after which it dies again, if the silo does not pick it up.

        Returns:
            The letter, and whether its coordinator's queue exists.

        Raises:
            CohortError: no letter matches, or several do; or the silo has no queue.
            BrokerError: the connection was lost, or the broker refused access or the message.
        """
        async with self._held() as deliveries:
            letter, delivery = await self._chosen(prefix, deliveries)
            awaited = await self._has_coordinator(letter.coordinator)
            await self._publish(letter, delivery, expires)
            await self._reader.remove(delivery)
            return letter, awaited

    async def _has_coordinator(self, coordinator: str) -> bool:
        """Return whether a coordinator has a callback queue, under any of its possible names."""
        for queue in failover_names(topology.callback_queue(coordinator)):
            if await self._reader.count(queue) is not None:
                return True
        return False

    async def count(self) -> int:
        """Return the number of letters."""
        async with self._bounded():
            return await self._reader.count(self._queue) or 0

    async def purge(self) -> int:
        """Delete all letters, and return their number."""
        async with self._bounded():
            return 0 if await self._reader.count(self._queue) is None else await self._reader.purge(self._queue)

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        with in_time():
            async with asyncio.timeout(self._deadline.left()):
                yield

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[AsyncIterator[Delivery]]:
        """Yield the letters that are in the archive now. Those not settled within the block are put back after it."""
        async with self._bounded():
            count = await self._reader.count(self._queue)
            try:
                yield self._take(count or 0)
            except asyncio.CancelledError:
                raise  # no time left: the connection is closed next, which puts them back, too, in any order
            except BaseException:
                await self._reader.put_back(self._queue)
                raise
            await self._reader.put_back(self._queue)

    async def _take(self, most: int) -> AsyncIterator[Delivery]:
        for _ in range(most):
            if (delivery := await self._reader.take(self._queue)) is None:
                return
            yield delivery

    async def _chosen(self, prefix: str, deliveries: AsyncIterator[Delivery]) -> tuple[DeadLetter, Delivery]:
        """Return the letter whose id begins with ``prefix``; of two with the same id, the later one."""
        ids: list[str] = []
        matching: dict[str, tuple[DeadLetter, Delivery]] = {}
        async for delivery in deliveries:
            letter = DeadLetter.of(delivery, self._limits)
            ids.append(letter.id)
            if letter.id.startswith(prefix):  # only those are kept in memory
                matching[letter.id] = letter, delivery
        return matching[choose(self._cohort, prefix, ids)]

    async def _publish(self, letter: DeadLetter, delivery: Delivery, expires: float) -> None:
        """Publish a letter as it was sent first, without the headers on its death."""
        message = Outgoing(
            topology.WORK,
            letter.key,
            delivery.body,
            mandatory=True,
            correlation_id=delivery.correlation_id or None,
            message_id=delivery.message_id or None,
            expiration=expires,
        )
        try:
            await self._connection.publish(message)
        except Unroutable:
            raise CohortError(
                f"silo {letter.silo!r} has no queue in cohort {self._cohort!r}; the letter was kept",
                hint="start the silo first",
            ) from None
        except Nacked:
            raise BrokerError(
                f"the broker did not accept the work item for {letter.silo!r}; the letter was kept",
                hint="see whether the silo's queue is full, and try again",
            ) from None
        except ConnectionLost as lost:
            raise lost.refusal or BrokerLost(
                f"the connection with the broker was lost ({lost})", hint="try again"
            ) from None


@asynccontextmanager
async def open_archive(
    url: str, cohort: str, deadline: Deadline, *, limits: Limits = DEFAULT_LIMITS
) -> AsyncGenerator[Archive]:
    """Open the archive of a cohort, for one reader at a time. All operations on it end by the deadline.

    Raises:
        ConfigError: the URL or the name is malformed.
        BrokerUnreachable, BrokerRefused: the broker cannot be reached, or refuses us.
        Locked: other readers held the archive until the deadline.
    """
    address = parse(url)
    connected, connection = await _locked_connection(address, check_name("cohort", cohort), deadline)
    try:
        yield Archive(cohort, connection, QueueBrowser(connected), deadline, limits)
    finally:
        await connection.close()


async def _locked_connection(address: Address, cohort: str, deadline: Deadline) -> tuple[Connected, Connection]:
    """Wait for the lock, and return the connection that holds it. The lock is an exclusive queue."""
    lock = topology.reading_lock(cohort)
    while True:
        try:
            async with asyncio.timeout(deadline.left()):
                connected = await connect(address, f"fedbroker dead-letters letters {cohort}")
        except TimeoutError:
            raise BrokerUnreachable(
                f"the broker at {address.host}:{address.port} did not answer in time",
                hint="correct host and port in its URL, or see what blocks the connection (a firewall?)",
            ) from None
        try:
            with in_time():
                async with asyncio.timeout(deadline.left()):
                    connection = await Connection.start(connected)
                    await connection.declare((), (lock,))
            return connected, connection
        except BaseException as error:
            await connected.close()
            if isinstance(error, ConnectionLost):
                raise BrokerLost(f"the connection with the broker was lost ({error})", hint="try again") from None
            if not isinstance(error, Locked) or deadline.left() < RETRY_SECONDS:
                raise
        await asyncio.sleep(RETRY_SECONDS)
