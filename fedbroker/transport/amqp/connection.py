"""One live connection with its channels: declare, consume and publish. A failure of any part ends the connection.

A channel closed by the broker, a consumer cancelled by the broker and a lost connection are one event, ``down``.

Queues fail over. A classic queue lives on one cluster node; while that node is down, the queue can neither be used nor
declared. A quorum queue whose only node was killed less than a second after the declaration comes back without a
leader, and never gets one (RabbitMQ 3.10).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

import aiormq.abc

from fedbroker.errors import BrokerError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.alarm import Alarm
from fedbroker.transport.amqp.channel import Channel, Consumer
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import (
    ConnectionLost,
    NotFound,
    RetrySetup,
    first_line,
    not_enrolled,
)
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.url import Endpoint
from fedbroker.transport.topology import DAYS, Exchange, Queue

__all__ = [
    "LEADERLESS_SECONDS",
    "Connection",
    "Handler",
    "TrafficCounters",
    "check_leader",
    "declare_with_failover",
    "delete_leaderless",
    "failover_names",
]

_log = get_logger(__name__)

_T = TypeVar("_T")


DECLARE_TIMEOUT: Final = 3.0
"""Seconds without an answer to a declaration after which the queue's node counts as down."""

HOME_NODE: Final = "home node"
"""Words in the broker's error if a queue's node is down, and not if the queue was never declared."""

Handler = Callable[[Delivery], Awaitable[None]]
"""Handles one delivery. It runs in a task that is cancelled when the connection ends."""


@dataclass(slots=True)
class TrafficCounters:
    """Traffic of one reconnecting connection since it was created: written on the event loop, read from any thread.

    Attributes:
        up: whether it is connected and set up.
        reconnections: how often it was lost and restored.
        messages_out: messages that the broker confirmed.
        bytes_out: total size of their bodies.
        messages_in: messages that the broker delivered.
        bytes_in: total size of their bodies.
    """

    up: bool = False
    reconnections: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    bytes_in: int = 0


class Connection:
    """One live connection, created with ``Connection.start``. It is never reused after it ended.

    Attributes:
        down: done when the connection has ended; its result is the reason.
    """

    def __init__(self, connected: Connected, traffic: TrafficCounters) -> None:
        self._connected = connected
        self._traffic = traffic
        self._channels: list[Channel] = []
        self._publisher: Channel | None = None
        self._inspector: Channel | None = None
        self._restorer: Channel | None = None
        self.down: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, connected: Connected, traffic: TrafficCounters | None = None) -> Connection:
        """Open the publishing channel on an established connection; messages are counted in ``traffic``.

        Raises:
            ConnectionLost: the connection ended.
        """
        connection = cls(connected, traffic or TrafficCounters())
        if connected.amqp.transport is None:
            raise ConnectionLost("closed")
        connection._watch(connected.amqp.transport.connection)
        connection._publisher = await connection._channel(confirms=True)
        return connection

    @property
    def endpoint(self) -> Endpoint:
        """The broker host at the other end."""
        return self._connected.endpoint

    @property
    def alarm(self) -> Alarm:
        """The broker's alarm for memory or disk space, as this connection sees it."""
        return self._connected.alarm

    @property
    def alive(self) -> bool:
        """True until the connection ends."""
        return not self.down.done()

    def fail(self, reason: str) -> None:
        """Mark the connection as ended, with the reason. Later calls have no effect."""
        if not self.down.done():
            self.down.set_result(reason)

    async def close(self) -> None:
        """Close the connection in an orderly way. Takes a bounded time and never raises."""
        self.fail("closed")
        await self._connected.close()
        self._channels.clear()

    async def declare(self, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]) -> None:
        """Declare exchanges and queues, and bind the queues.

        Raises:
            TopologyMismatch: an exchange or queue exists with other properties; the error names it.
            BrokerRefused: no permission.
            Locked: a queue belongs to another connection.
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        for exchange in exchanges:
            await self._ask(channel.declare_exchange(exchange))
        for queue in queues:
            await self._declare_queue(channel, queue)

    async def check_exchange(self, exchange: Exchange) -> None:
        """Check that an exchange exists. A passive declaration needs no permission.

        Raises:
            NotFound: it does not exist; the connection goes on.
            ConnectionLost: the connection ended.
        """
        await self._ask((await self._channel(watched=False)).check_exchange(exchange), may_be_missing=True)

    async def count(self, queue: Queue) -> int | None:
        """Return the number of ready messages in a queue; None if it does not exist. Needs no permission.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel(watched=False)
        try:
            state = await self._ask(channel.inspect(queue), may_be_missing=True)
        except NotFound:
            return None
        finally:
            self._channels.remove(channel)
        await self._ask(channel.close())
        return state.messages

    async def restore(self, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]) -> list[str]:
        """Declare missing exchanges again, and bind existing queues again: a deleted exchange takes its bindings along.

        Returns:
            the names of the exchanges that were missing.

        Raises:
            TopologyMismatch, BrokerRefused, Locked: as ``declare`` does.
            ConnectionLost: the connection ended, or a queue is missing.
        """
        channel, self._restorer = self._restorer or await self._channel(watched=False), None
        missing: list[str] = []
        for exchange in exchanges:
            try:
                await self._ask(channel.check_exchange(exchange), may_be_missing=True)
            except NotFound:
                missing.append(exchange.name)
                channel = await self._channel(watched=False)  # the broker has closed the other one
                await self._ask(channel.declare_exchange(exchange))
        for queue in queues:
            for binding in queue.bindings:
                await self._ask(channel.bind(queue, binding))
        self._restorer = channel  # not after a cancellation, which leaves a request without its answer
        return missing

    async def declare_here(self, queue: Queue) -> bool:
        """Declare a durable classic queue; return False if the node that holds it is down.

        In that case RabbitMQ 3 returns an error, and RabbitMQ 4 does not answer.

        Raises:
            TopologyMismatch, BrokerRefused, Locked, ConnectionLost: as ``declare`` does.
        """
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT):
                await self._declare_queue(await self._channel(watched=False), queue, may_be_missing=True)
        except (NotFound, TimeoutError):
            return False
        return True

    async def responds(self, queue: Queue, seconds: float) -> bool:
        """Return whether an existing queue answers in time; a quorum queue without a leader does not.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel(watched=False)
        return await self._ask(channel.responds(queue, seconds))

    async def _declare_queue(self, channel: Channel, queue: Queue, *, may_be_missing: bool = False) -> None:
        await self._ask(channel.declare_queue(queue), may_be_missing=may_be_missing)
        for binding in queue.bindings:
            await self._ask(channel.bind(queue, binding))

    async def expect(self, *queues: Queue) -> list[int]:
        """Check that queues exist which another user declared. A passive declaration needs no permission.

        Returns:
            the number of consumers of each queue.

        Raises:
            BrokerRefused: a queue does not exist.
            ConnectionLost: the connection ended, or the node that holds a queue is down.
        """
        if self._inspector is None:
            self._inspector = await self._channel()
        consumers: list[int] = []
        for queue in queues:
            try:
                state = await self._ask(self._inspector.inspect(queue), may_be_missing=True)
            except NotFound as error:
                if HOME_NODE in str(error):
                    raise ConnectionLost(str(error)) from None
                raise not_enrolled(f"queue {queue.name!r}") from None
            consumers.append(state.consumers)
        return consumers

    async def purge(self, queue: Queue) -> None:
        """Delete the ready messages of a queue.

        Raises:
            BrokerRefused: no permission.
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        await self._ask(channel.purge(queue))

    async def consume(self, queue: Queue, handler: Handler, *, prefetch: int, exclusive: bool = False) -> Consumer:
        """Consume a queue. The handler acknowledges each message.

        Args:
            queue: an existing queue.
            handler: called with each delivery; if it raises, the error is logged and the message rejected.
            prefetch: maximum number of unacknowledged deliveries; 0 for messages that need no acknowledgement.
            exclusive: allow no other consumer of the queue.

        Raises:
            Locked: the queue has another consumer.
            BrokerRefused: no permission.
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()

        async def on_message(message: aiormq.abc.DeliveredMessage) -> None:
            delivery = Delivery.of(message)
            self._traffic.messages_in += 1
            self._traffic.bytes_in += len(delivery.body)
            try:
                await handler(delivery)
            except Exception:
                _log.exception("message_handler_failed", queue=queue.name)
                await delivery.reject()

        def on_cancel() -> None:
            self.fail(f"the broker cancelled {queue.name!r}")

        return await self._ask(channel.consume(queue, on_message, on_cancel, prefetch=prefetch, exclusive=exclusive))

    async def take_all(self, queue: Queue) -> list[bytes]:
        """Return the bodies of the messages in a queue and reject each message, so that the broker dead-letters it.

        Messages that arrive during the call stay in the queue: they may be caused by our own rejections.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        state = await self._ask(channel.inspect(queue))
        bodies: list[bytes] = []
        for _ in range(state.messages):
            delivery = await self._ask(channel.get(queue))
            if delivery is None:
                break
            bodies.append(delivery.body)
            await delivery.reject()
        return bodies

    async def delete(self, queue: Queue) -> None:
        """Delete a queue, even if it holds messages or has consumers.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        await self._ask(channel.delete(queue))

    async def publish(self, message: Outgoing) -> None:
        """Publish a message and await the broker's confirmation.

        Raises:
            Unroutable: the message is mandatory and matches no queue.
            Nacked: the broker did not accept the message.
            ConnectionLost: the connection ended before the confirmation.
        """
        assert self._publisher is not None
        try:
            await self._publisher.publish(message)
        except ConnectionLost as lost:
            self.fail(str(lost))
            raise
        self._traffic.messages_out += 1
        self._traffic.bytes_out += len(message.body)

    async def _channel(self, *, confirms: bool = False, watched: bool = True) -> Channel:
        channel = await self._ask(Channel.open(self._connected, confirms=confirms))
        self._channels.append(channel)
        if watched:
            self._watch(channel)
        return channel

    def _watch(self, part: Channel | aiormq.abc.AbstractConnection) -> None:
        """End the connection when this channel or the underlying connection closes."""
        closing = cast("asyncio.Future[Any]", part.closing)  # pyright: ignore[reportUnknownMemberType] aiormq
        closing.add_done_callback(lambda done: self.fail(first_line(None if done.cancelled() else done.exception())))

    async def _ask(self, request: Awaitable[_T], *, may_be_missing: bool = False) -> _T:
        """Await the broker's answer to a request on one of our channels. A refusal ends the connection, too."""
        try:
            return await request
        except NotFound as error:
            if may_be_missing:
                raise
            self.fail(str(error))
            raise ConnectionLost(str(error)) from None
        except (BrokerError, ConnectionLost) as error:
            self.fail(str(error))
            raise


LEADERLESS_SECONDS: Final = 10.0
"""Seconds after which a quorum queue without a leader is deleted; an election takes less."""

MAX_NAMES: Final = 5
"""Names that one queue may have: it takes the next name each time that the node that holds it is down."""


async def declare_with_failover(connection: Connection, queue: Queue, last: Queue | None = None) -> Queue:
    """Declare a durable classic queue, under another name if the node that holds it is down.

    The bindings are the same under each name, so that publishers need not know the name.

    Args:
        connection: the connection to declare it on.
        queue: the queue with its regular name.
        last: the queue that this function returned the last time; tried first, because it may hold messages.

    Returns:
        the queue with its present name.

    Raises:
        TopologyMismatch, BrokerRefused, Locked, ConnectionLost: as ``Connection.declare`` does.
    """
    names = failover_names(queue)
    for candidate in [last, *(name for name in names if name != last)] if last is not None else names:
        if await connection.declare_here(candidate):
            return candidate
        _log.warning("queue_recreated", queue=candidate.name)
    reason = f"the nodes that hold {queue.name!r} are down"
    connection.fail(reason)
    raise ConnectionLost(reason)


def failover_names(queue: Queue) -> list[Queue]:
    """Return the queue under each of its possible names; all but the first expire after a day without use."""
    arguments = {"x-expires": DAYS, **queue.arguments}
    others = (f"{queue.name}.{number}" for number in range(2, MAX_NAMES + 1))
    return [queue, *(replace(queue, name=name, arguments=arguments) for name in others)]


async def check_leader(connection: Connection, queue: Queue) -> None:
    """Check that an existing quorum queue has a leader; delete the queue if it has none.

    Raises:
        RetrySetup: the queue was deleted: declare it once more, on a new connection.
        ConnectionLost: the connection ended.
    """
    if not await connection.responds(queue, LEADERLESS_SECONDS):
        raise await delete_leaderless(connection, queue)


async def delete_leaderless(connection: Connection, queue: Queue) -> RetrySetup:
    """Delete a quorum queue that has no leader. Its messages are lost either way.

    Returns:
        the exception that the caller raises.

    Raises:
        ConnectionLost: the connection ended.
    """
    await connection.delete(queue)
    return RetrySetup(f"queue {queue.name!r} had no leader for {LEADERLESS_SECONDS:g} s and was recreated")
