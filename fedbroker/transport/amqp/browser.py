"""Browse queues without consuming them: messages are taken one by one and requeued in their original order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.errors import BrokerLost
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import first_line, forbidden, guarded
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.topology import Queue

__all__ = ["BrowsedMessage", "QueueBrowser", "in_time"]

_T = TypeVar("_T")

LOT: Final = 16
"""Messages requeued at a time: a quorum queue reorders more than 32 requeues in flight."""
PAUSE: Final = 0.002
LOOKS: Final = 1000
"""Seconds between two checks that requeued messages are back in the queue, and the maximum number of checks."""


class BrowsedMessage(NamedTuple):
    """A message taken from a queue and not settled yet.

    Attributes:
        delivery: the message.
        tag: its delivery tag on the channel.
    """

    delivery: Delivery
    tag: int


class QueueBrowser:
    """Takes messages out of queues. Messages that are not settled return to their queue when the connection closes.

    The caller sets the timeouts. Cancelling loses no message, but a quorum queue may then change their order. Every
    method may raise ``BrokerLost`` (the connection was lost) and ``BrokerRefused`` (no permission).
    """

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._channels: list[object] = []  # aio-pika keeps only weak references to them
        self._reading: aiormq.abc.AbstractChannel | None = None
        self._held: dict[int, None] = {}  # tags, not bodies: a queue may hold many messages

    async def count(self, queue: Queue) -> int | None:
        """Return the number of ready messages in a queue, or None if the queue does not exist."""
        channel = await self._channel()  # used once: the broker closes it if the queue does not exist
        try:
            there = await guarded(channel.queue_declare(queue.name, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return None
        except Exception as error:
            raise _explained(error, queue) from None
        await self._ask(channel.close(), queue)
        return there.message_count or 0

    async def take(self, queue: Queue) -> BrowsedMessage | None:
        """Take the first message of an existing queue; return None if the queue is empty."""
        if self._reading is None:
            self._reading = await self._channel()
        message = await self._ask(self._reading.basic_get(queue.name), queue)
        if not isinstance(message.delivery, commands.Basic.GetOk):
            return None
        taken = BrowsedMessage(Delivery.of(message), message.delivery_tag or 0)
        self._held[taken.tag] = None
        return taken

    async def remove(self, taken: BrowsedMessage) -> None:
        """Acknowledge a message that was taken, so that the broker deletes it."""
        await taken.delivery.ack()
        del self._held[taken.tag]

    async def put_back(self, queue: Queue) -> None:
        """Requeue all messages that were taken and not removed, and wait until the queue holds them again.

        Messages are requeued in lots, and each lot is awaited by polling the message count: a quorum queue changes the
        order of more than 32 requeues in flight, and the broker does not confirm a requeue. The wait for a lot is
        limited to a few seconds, because messages may expire while they are awaited.
        """
        if self._reading is None:
            return
        there = await self.count(queue) or 0
        tags = list(self._held)
        self._held.clear()
        for at in range(0, len(tags), LOT):
            lot = tags[at : at + LOT]
            for tag in lot:
                await self._ask(self._reading.basic_nack(tag, requeue=True), queue)
            there += len(lot)
            await self._holds(queue, there)

    async def _holds(self, queue: Queue, messages: int) -> None:
        assert self._reading is not None
        for _ in range(LOOKS):
            answer = await self._ask(self._reading.queue_declare(queue.name, passive=True), queue)
            if (answer.message_count or 0) >= messages:
                return
            await asyncio.sleep(PAUSE)

    async def purge(self, queue: Queue) -> int:
        """Delete a queue's messages and return their number."""
        channel = await self._channel()
        purged = await self._ask(channel.queue_purge(queue.name), queue)
        await self._ask(channel.close(), queue)
        return purged.message_count or 0

    async def _channel(self) -> aiormq.abc.AbstractChannel:
        try:
            channel = self._connected.amqp.channel(publisher_confirms=False)
            self._channels.append(channel)
            await guarded(channel.initialize())
            return await channel.get_underlay_channel()
        except Exception as error:
            raise _lost(error) from None

    async def _ask(self, asking: Awaitable[_T], queue: Queue) -> _T:
        try:
            return await guarded(asking)
        except Exception as error:
            raise _explained(error, queue) from None


@contextmanager
def in_time() -> Generator[None]:
    """Turn a ``TimeoutError`` within the block into ``BrokerLost``."""
    try:
        yield
    except TimeoutError:
        raise BrokerLost(
            "the broker did not answer in time", hint="see whether it is overloaded, or try again"
        ) from None


def _explained(error: Exception, queue: Queue) -> Exception:
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return forbidden(f"queue {queue.name!r}", error)
    return _lost(error)


def _lost(error: Exception) -> BrokerLost:
    return BrokerLost(f"the broker's connection went away ({first_line(error)})", hint="see its log, and try again")
