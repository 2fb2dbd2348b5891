"""Browse queues without consuming them: messages are taken one by one and requeued in their original order."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from fedbroker.errors import BrokerLost
from fedbroker.transport.amqp.channel import Channel
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import ConnectionLost, NotFound
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.topology import Queue

__all__ = ["QueueBrowser", "in_time"]

BATCH: Final = 16
"""Messages requeued at a time: a quorum queue reorders more than 32 requeues in flight."""
PAUSE: Final = 0.002
"""Seconds between two checks that requeued messages are back in the queue: a requeue takes about a millisecond."""
MAX_CHECKS: Final = 1000
"""Maximum number of these checks: two seconds in all, because a message may expire while it is awaited."""


class QueueBrowser:
    """Takes messages out of queues. Messages that are not settled return to their queue when the connection closes.

    The caller sets the timeouts. Cancelling loses no message, but a quorum queue may then change their order. Every
    method may raise ``BrokerLost`` (the connection was lost) and ``BrokerRefused`` (no permission).
    """

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._channels: list[Channel] = []
        self._reading: Channel | None = None
        self._unsettled: dict[int, None] = {}  # tags, not bodies: a queue may hold many messages

    async def count(self, queue: Queue) -> int | None:
        """Return the number of ready messages in a queue, or None if the queue does not exist."""
        with _connection_lost():
            channel = await self._channel()  # used once: the broker closes it if the queue does not exist
            try:
                state = await channel.inspect(queue)
            except NotFound:
                return None
            await channel.close()
        return state.messages

    async def take(self, queue: Queue) -> Delivery | None:
        """Take the first message of an existing queue; return None if the queue is empty."""
        with _connection_lost():
            if self._reading is None:
                self._reading = await self._channel()
            delivery = await self._reading.get(queue)
        if delivery is not None:
            self._unsettled[delivery.tag] = None
        return delivery

    async def remove(self, delivery: Delivery) -> None:
        """Acknowledge a message that was taken, so that the broker deletes it."""
        await delivery.ack()
        del self._unsettled[delivery.tag]

    async def put_back(self, queue: Queue) -> None:
        """Requeue all messages that were taken and not removed, and wait until the queue holds them again.

        Messages are requeued in batches, and the message count is polled after each batch: a quorum queue changes the
        order of more than 32 requeues in flight, and the broker does not confirm a requeue. The wait for a batch is
        limited to a few seconds, because messages may expire while they are awaited.
        """
        if self._reading is None:
            return
        expected = await self.count(queue) or 0
        tags = list(self._unsettled)
        self._unsettled.clear()
        for start in range(0, len(tags), BATCH):
            batch = tags[start : start + BATCH]
            for tag in batch:
                with _connection_lost():
                    await self._reading.requeue(tag)
            expected += len(batch)
            await self._wait_for_count(queue, expected)

    async def _wait_for_count(self, queue: Queue, messages: int) -> None:
        assert self._reading is not None
        for _ in range(MAX_CHECKS):
            with _connection_lost():
                state = await self._reading.inspect(queue)
            if state.messages >= messages:
                return
            await asyncio.sleep(PAUSE)

    async def purge(self, queue: Queue) -> int:
        """Delete a queue's messages and return their number."""
        with _connection_lost():
            channel = await self._channel()
            purged = await channel.purge(queue)
            await channel.close()
        return purged

    async def _channel(self) -> Channel:
        channel = await Channel.open(self._connected)
        self._channels.append(channel)
        return channel


@contextmanager
def in_time() -> Generator[None]:
    """Turn a ``TimeoutError`` within the block into ``BrokerLost``."""
    try:
        yield
    except TimeoutError:
        raise BrokerLost(
            "the broker did not answer in time", hint="see whether it is overloaded, or try again"
        ) from None


@contextmanager
def _connection_lost() -> Generator[None]:
    """Turn the loss of the connection within the block into ``BrokerLost``."""
    try:
        yield
    except (ConnectionLost, NotFound) as error:
        raise BrokerLost(
            f"the connection with the broker was lost ({error})", hint="see its log, and try again"
        ) from None
