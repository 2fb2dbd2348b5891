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
from typing import Any, Final, TypeVar

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.errors import BrokerError, TopologyMismatch
from fedbroker.log import get_logger
from fedbroker.transport.amqp.counters import TrafficCounters
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import (
    IN_USE,
    ConnectionLost,
    Locked,
    Nacked,
    QueueNodeDown,
    RetrySetup,
    Unroutable,
    first_line,
    forbidden,
    guarded,
    refused,
    unmade,
)
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.url import Endpoint
from fedbroker.transport.topology import DAYS, Exchange, Queue

__all__ = [
    "LEADERLESS_SECONDS",
    "Connection",
    "Consumer",
    "Handler",
    "check_leader",
    "declare_with_failover",
    "delete_leaderless",
    "failover_names",
]

_log = get_logger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer that can be stopped."""

    _channel: aiormq.abc.AbstractChannel
    _tag: str

    async def cancel(self) -> None:
        """Stop new deliveries. Messages that were already delivered can still be acknowledged.

        Raises:
            ConnectionLost: the connection ended, and the consumer with it.
        """
        try:
            await guarded(self._channel.basic_cancel(self._tag))
        except Exception as error:
            raise ConnectionLost(first_line(error)) from None


SILENT: Final = 3.0
"""Seconds without an answer to a declaration after which the queue's node counts as down."""

HOME_NODE: Final = "home node"
"""Words in the broker's error if a queue's node is down, and not if the queue was never declared."""

Handler = Callable[[Delivery], Awaitable[None]]
"""Handles one delivery. It runs in a task that is cancelled when the connection ends."""


class Connection:
    """One live connection, created with ``Connection.start``. It is never reused after it ended.

    Attributes:
        down: done when the connection has ended; its result is the reason.
    """

    def __init__(self, connected: Connected, traffic: TrafficCounters) -> None:
        self._connected = connected
        self._traffic = traffic
        self._channels: list[object] = []  # aio-pika keeps only weak references to them
        self._publisher: aiormq.abc.AbstractChannel | None = None
        self._looker: aiormq.abc.AbstractChannel | None = None  # for passive declarations
        self.down: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, connected: Connected, traffic: TrafficCounters | None = None) -> Connection:
        """Open the publishing channel on an established connection; messages are counted in ``traffic``.

        Raises:
            ConnectionLost: the connection ended.
        """
        line = cls(connected, traffic or TrafficCounters())
        if connected.amqp.transport is None:
            raise ConnectionLost("closed")
        line._watch(connected.amqp.transport.connection)
        line._publisher = await line._channel(publisher_confirms=True)
        return line

    @property
    def endpoint(self) -> Endpoint:
        """The broker host at the other end."""
        return self._connected.endpoint

    @property
    def alive(self) -> bool:
        """True until the connection ends."""
        return not self.down.done()

    def fail(self, why: str) -> None:
        """Mark the connection as ended, with the reason. Later calls have no effect."""
        if not self.down.done():
            self.down.set_result(why)

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
            await self._ask(
                channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True),
                f"exchange {exchange.name!r}",
            )
        for queue in queues:
            await self._declare_queue(channel, queue)

    async def declare_here(self, queue: Queue) -> bool:
        """Declare a durable classic queue; return False if the node that holds it is down.

        In that case RabbitMQ 3 returns an error, and RabbitMQ 4 does not answer.

        Raises:
            TopologyMismatch, BrokerRefused, Locked, ConnectionLost: as ``declare`` does.
        """
        try:
            async with asyncio.timeout(SILENT):
                await self._declare_queue(await self._channel(watched=False), queue, elsewhere=True)
        except (QueueNodeDown, TimeoutError):
            return False
        return True

    async def answers(self, queue: Queue, seconds: float) -> bool:
        """Return whether an existing queue answers in time; a quorum queue without a leader does not.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel(watched=False)
        try:
            async with asyncio.timeout(seconds):
                await guarded(channel.basic_get(queue.name))
                await guarded(channel.close())  # requeues the message, if the queue had one
        except (TimeoutError, aiormq.exceptions.ChannelClosed):
            return False
        except Exception as error:
            self.fail(first_line(error))
            raise ConnectionLost(first_line(error)) from None
        return True

    async def _declare_queue(
        self, channel: aiormq.abc.AbstractChannel, queue: Queue, *, elsewhere: bool = False
    ) -> None:
        what = f"queue {queue.name!r}"
        declared = channel.queue_declare(
            queue.name, durable=not queue.exclusive, exclusive=queue.exclusive, arguments=dict(queue.arguments)
        )
        await self._ask(declared, what, elsewhere=elsewhere)
        for binding in queue.bindings:
            await self._ask(channel.queue_bind(queue.name, binding.exchange.name, binding.key), what)

    async def expect(self, *queues: Queue) -> list[int]:
        """Check that queues exist which another user declared. A passive declaration needs no permission.

        Returns:
            the number of consumers of each queue.

        Raises:
            BrokerRefused: a queue does not exist.
            ConnectionLost: the connection ended, or the node that holds a queue is down.
        """
        if self._looker is None:
            self._looker = await self._channel()
        consumers: list[int] = []
        for queue in queues:
            what = f"queue {queue.name!r}"
            try:
                there = await self._ask(self._looker.queue_declare(queue.name, passive=True), what, elsewhere=True)
            except QueueNodeDown as error:
                if HOME_NODE in str(error):
                    raise ConnectionLost(str(error)) from None
                raise unmade(what) from None
            consumers.append(int(there.consumer_count or 0))
        return consumers

    async def purge(self, queue: Queue) -> None:
        """Delete the ready messages of a queue.

        Raises:
            BrokerRefused: no permission.
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        await self._ask(channel.queue_purge(queue.name), f"queue {queue.name!r}")

    async def consume(self, queue: Queue, handler: Handler, *, prefetch: int, exclusive: bool = False) -> Consumer:
        """Consume a queue. The handler acknowledges each message.

        Args:
            queue: an existing queue.
            handler: called with each delivery; if it raises, the error is logged and the message rejected.
            prefetch: maximum number of unacknowledged deliveries.
            exclusive: allow no other consumer of the queue.

        Raises:
            Locked: the queue has another consumer.
            BrokerRefused: no permission.
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        channel.on_consumer_cancel_callbacks.add(lambda _: self.fail(f"the broker cancelled {queue.name!r}"))
        await self._ask(channel.basic_qos(prefetch_count=prefetch), "prefetch")

        async def on_message(message: aiormq.abc.DeliveredMessage) -> None:
            delivery = Delivery.of(message)
            self._traffic.messages_in += 1
            self._traffic.bytes_in += len(delivery.body)
            try:
                await handler(delivery)
            except Exception:
                _log.exception("message handler failed", queue=queue.name)
                await delivery.reject()

        consuming = channel.basic_consume(queue.name, on_message, exclusive=exclusive)
        answer = await self._ask(consuming, f"queue {queue.name!r}", locked=exclusive)
        return Consumer(channel, str(answer.consumer_tag))

    async def take_all(self, queue: Queue) -> list[bytes]:
        """Return the bodies of the messages in a queue and reject each message, so that the broker dead-letters it.

        Messages that arrive during the call stay in the queue: they may be caused by our own rejections.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        what = f"queue {queue.name!r}"
        there = await self._ask(channel.queue_declare(queue.name, passive=True), what)
        bodies: list[bytes] = []
        for _ in range(there.message_count or 0):
            message = await self._ask(channel.basic_get(queue.name), what)
            if not isinstance(message.delivery, commands.Basic.GetOk):
                break
            delivery = Delivery.of(message)
            bodies.append(delivery.body)
            await delivery.reject()
        return bodies

    async def delete(self, queue: Queue) -> None:
        """Delete a queue, even if it holds messages or has consumers.

        Raises:
            ConnectionLost: the connection ended.
        """
        channel = await self._channel()
        await self._ask(channel.queue_delete(queue.name), f"queue {queue.name!r}")

    async def publish(self, message: Outgoing) -> None:
        """Publish a message and await the broker's confirmation.

        Raises:
            Unroutable: the message is mandatory and matches no queue.
            Nacked: the broker did not accept the message.
            ConnectionLost: the connection ended before the confirmation.
        """
        assert self._publisher is not None
        publishing = self._publisher.basic_publish(
            message.body,
            exchange=message.exchange.name,
            routing_key=message.key,
            properties=message.properties(),
            mandatory=message.mandatory,
        )
        try:
            await guarded(publishing)
        except aiormq.exceptions.PublishError:
            raise Unroutable(message.key) from None
        except aiormq.exceptions.DeliveryError:
            raise Nacked(message.key) from None
        except Exception as error:
            self.fail(first_line(error))
            raise ConnectionLost(first_line(error), refused(error, f"exchange {message.exchange.name!r}")) from None
        self._traffic.messages_out += 1
        self._traffic.bytes_out += len(message.body)

    async def _channel(self, *, publisher_confirms: bool = False, watched: bool = True) -> aiormq.abc.AbstractChannel:
        amqp = self._connected.amqp
        try:
            channel = amqp.channel(publisher_confirms=publisher_confirms, on_return_raises=publisher_confirms)
            self._channels.append(channel)
            await guarded(channel.initialize())
            underlay = await channel.get_underlay_channel()
        except Exception as error:
            self.fail(first_line(error))
            raise ConnectionLost(first_line(error)) from None
        if watched:
            self._watch(underlay)
        return underlay

    def _watch(self, part: aiormq.abc.AbstractChannel | aiormq.abc.AbstractConnection) -> None:
        """End the connection when this channel or the underlying connection closes."""
        closing: asyncio.Future[Any] = part.closing
        closing.add_done_callback(lambda done: self.fail(first_line(None if done.cancelled() else done.exception())))

    async def _ask(self, asking: Awaitable[_T], what: str, *, locked: bool = False, elsewhere: bool = False) -> _T:
        """Await the broker's answer; turn a refusal that concerns ``what`` into a typed error."""
        try:
            return await guarded(asking)
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            refusal: BrokerError = TopologyMismatch(
                f"{what} exists at the broker with other properties than ours ({first_line(error)})",
                hint="delete it at the broker if nobody needs it, or use another cohort",
            )
        except aiormq.exceptions.ChannelLockedResource:
            refusal = Locked(what)
        except aiormq.exceptions.ChannelAccessRefused as error:
            refusal = Locked(what) if locked and IN_USE in str(error) else forbidden(what, error)
        except Exception as error:
            if elsewhere and isinstance(error, aiormq.exceptions.ChannelNotFoundEntity):
                raise QueueNodeDown(first_line(error)) from None
            self.fail(first_line(error))
            raise ConnectionLost(first_line(error)) from None
        self.fail(str(refusal))
        raise refusal


LEADERLESS_SECONDS: Final = 10.0
"""Seconds after which a quorum queue without a leader is deleted; an election takes less."""
MOST_NAMES: Final = 5
"""Names that one queue may have: it takes the next name each time that the node that holds it is down."""


async def declare_with_failover(line: Connection, queue: Queue, last: Queue | None = None) -> Queue:
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
    names = failover_names(queue)
    for named in [last, *(name for name in names if name != last)] if last is not None else names:
        if await line.declare_here(named):
            return named
        _log.warning("queue made anew", queue=named.name)
    why = f"the nodes that hold {queue.name!r} are down"
    line.fail(why)
    raise ConnectionLost(why)


def failover_names(queue: Queue) -> list[Queue]:
    """Return the queue under each of its possible names; all but the first expire after a day without use."""
    arguments = {"x-expires": DAYS, **queue.arguments}
    others = (f"{queue.name}.{number}" for number in range(2, MOST_NAMES + 1))
    return [queue, *(replace(queue, name=name, arguments=arguments) for name in others)]


async def check_leader(line: Connection, queue: Queue) -> None:
    """Check that an existing quorum queue has a leader; delete the queue if it has none.

    Raises:
        RetrySetup: the queue was deleted: declare it once more, on a new connection.
        ConnectionLost: the connection ended.
    """
    if not await line.answers(queue, LEADERLESS_SECONDS):
        raise await delete_leaderless(line, queue)


async def delete_leaderless(line: Connection, queue: Queue) -> RetrySetup:
    """Delete a quorum queue that has no leader. Its messages are lost either way.

    Returns:
        the exception that the caller raises.

    Raises:
        ConnectionLost: the connection ended.
    """
    await line.delete(queue)
    return RetrySetup(f"queue {queue.name!r} had no leader for {LEADERLESS_SECONDS:g} s and was recreated")
