"""Looks into queues without consuming: takes messages one by one and puts them back, in their order, in their place.

Imports transport.connect, transport.message, transport.topology and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.errors import BrokerLost
from fedbroker.transport.amqp.dial import Connected, guarded
from fedbroker.transport.amqp.exceptions import first_line, forbidden
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.topology import Queue

__all__ = ["BrowsedMessage", "QueueBrowser", "in_time"]

_T = TypeVar("_T")

LOT: Final = 16
PAUSE: Final = 0.002
LOOKS: Final = 1000
"""Seconds between looks whether what was put back is there, and how many looks."""


class BrowsedMessage(NamedTuple):
    """A message that was taken.

    Attributes:
        delivery: it.
        tag: the channel's name for it.
    """

    delivery: Delivery
    tag: int


class QueueBrowser:
    """Takes messages out of queues. What is not settled goes back, at the latest with the connection.

    The caller sets the time-outs; cancelling loses no message, but a quorum queue then mixes up their order. Every
    method may raise ``BrokerLost`` (the connection went) and ``BrokerRefused`` (no permission).
    """

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._channels: list[object] = []  # aio-pika keeps only weak references to them
        self._reading: aiormq.abc.AbstractChannel | None = None
        self._held: dict[int, None] = {}  # tags, not bodies: there may be many

    async def count(self, queue: Queue) -> int | None:
        """How many messages a queue holds that nobody has taken; None where there is no such queue."""
        channel = await self._channel()  # one that is thrown away: the broker closes it where there is no queue
        try:
            there = await guarded(channel.queue_declare(queue.name, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return None
        except Exception as error:
            raise _explained(error, queue) from None
        await self._ask(channel.close(), queue)
        return there.message_count or 0

    async def take(self, queue: Queue) -> BrowsedMessage | None:
        """The queue's first message, or None for an empty queue, which must be there."""
        if self._reading is None:
            self._reading = await self._channel()
        message = await self._ask(self._reading.basic_get(queue.name), queue)
        if not isinstance(message.delivery, commands.Basic.GetOk):
            return None
        taken = BrowsedMessage(Delivery.of(message), message.delivery_tag or 0)
        self._held[taken.tag] = None
        return taken

    async def remove(self, taken: BrowsedMessage) -> None:
        """Have the broker forget a message that was taken."""
        await taken.delivery.ack()
        del self._held[taken.tag]

    async def put_back(self, queue: Queue) -> None:
        """Put back whatever was taken out of a queue and not removed; it is there again when this returns.

        A few at a time, each lot waited for: a quorum queue mixes up more than 32 returns that are under way, and
        no other answer of its tells that it has them. A lot is waited for no longer than some seconds, since messages
        may expire meanwhile.
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
        """Delete a queue's messages; how many there were."""
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
def in_time() -> Iterator[None]:
    """A time-out within the block is the broker's, and said to be."""
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
