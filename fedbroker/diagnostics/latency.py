"""Measures latency, throughput and the broker's clock with messages to ourselves, through exclusive queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any, Final

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.diagnostics.channels import Channels
from fedbroker.diagnostics.topology import Target
from fedbroker.errors import BrokerLost
from fedbroker.transport.amqp.exceptions import guarded

__all__ = ["ROUNDS", "Loop", "Pace", "confirmed"]

MIB: Final = 1024 * 1024
ROUNDS: Final = 21
"""Number of empty messages to measure; their median is not changed by a few slow ones."""
CHUNK_BYTES: Final = 1 * MIB
"""Bytes of a message that measures throughput."""
CHUNKS: Final = 8
"""Number of those messages."""
WINDOW: Final = 8
"""Number of messages in flight, as on the bulk lane."""
SECONDS: Final = 30.0
"""Time limit for a whole measurement, in seconds."""
SLOW_SECONDS: Final = 1.0
"""Seconds for the first piece after which no more are sent: they would take long, and one is enough to measure."""

_NOT_PERSISTENT: Final = commands.Basic.Properties(delivery_mode=1)


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured latency and throughput.

    Attributes:
        round_trip: median seconds of an empty message, one at a time.
        bytes_per_second: throughput of larger messages, several at a time; 0.0 if the broker refuses their size.
        delivered: True if measured to the broker and back, False if only to the broker's confirmation.
    """

    round_trip: float
    bytes_per_second: float
    delivered: bool


class Loop:
    """A queue that we publish to and consume from. Make one with :meth:`open`; it ends with its connection."""

    def __init__(self, publisher: aiormq.abc.AbstractChannel, exchange: str, key: str) -> None:
        self._publisher = publisher
        self._exchange = exchange
        self._key = key
        self._deliveries: asyncio.Queue[aiormq.abc.DeliveredMessage] = asyncio.Queue()

    @classmethod
    async def open(cls, channels: Channels, name: str, exchange: str) -> Loop:
        """Open a loop over a queue of that name and a second queue for the clock, bound to a direct exchange.

        Raises:
            ChannelClosed: the user lacks a permission (silos mostly may not receive their own messages), or the
                exchange does not exist; aiormq's exception.
            BrokerLost: the connection went away.
        """
        loop = cls(await channels.open(confirms=True), exchange, name)
        channel = await channels.open()
        dying: Any = {"x-message-ttl": 0, "x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": name}
        none: Any = {}
        for queue, arguments in ((name, none), (f"{name}.clock", dying)):
            await guarded(channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=arguments))
            await guarded(channel.queue_bind(queue, exchange, queue))
        await guarded(channel.basic_qos(prefetch_count=2 * WINDOW))

        async def on_message(message: aiormq.abc.DeliveredMessage) -> None:
            loop._deliveries.put_nowait(message)
            await message.channel.basic_ack(message.delivery_tag or 0)

        await guarded(channel.basic_consume(name, on_message))
        return loop

    async def pace(self) -> Pace:
        """Measure latency and throughput to the broker and back.

        Raises:
            BrokerLost: the broker did not confirm or deliver in time.
        """
        return await _pace(self._there_and_back, delivered=True)

    async def clock(self) -> tuple[float, float]:
        """Return the seconds by which the broker's clock is ahead of ours, and the largest error of that value.

        A message dies on arrival in the second queue. The broker writes the time of its death on it, in whole seconds.
        """
        sent = time.time()
        await self._published(f"{self._key}.clock", b"")
        message = await self._next()
        received = time.time()
        deaths: Any = (message.header.properties.headers or {}).get("x-death")
        died: datetime = deaths[0]["time"]
        return died.timestamp() + 0.5 - (sent + received) / 2, 0.5 + (received - sent) / 2

    async def _there_and_back(self, body: bytes) -> None:
        await self._published(self._key, body)
        await self._next()

    async def _published(self, key: str, body: bytes) -> None:
        publishing = self._publisher.basic_publish(
            body, exchange=self._exchange, routing_key=key, properties=_NOT_PERSISTENT, mandatory=True
        )
        await guarded(publishing)

    async def _next(self) -> aiormq.abc.DeliveredMessage:
        return await self._deliveries.get()


async def confirmed(channels: Channels, target: Target) -> Pace:
    """Measure latency and throughput to the broker's confirmation, with messages that no queue receives.

    Raises:
        ChannelAccessRefused: the user may not publish; aiormq's exception.
        BrokerLost: the broker did not confirm in time.
    """
    channel = await channels.open(confirms=True)

    async def send(body: bytes) -> None:
        publishing = channel.basic_publish(
            body, exchange=target.exchange.name, routing_key=target.key, properties=_NOT_PERSISTENT
        )
        await guarded(publishing)

    return await _pace(send, delivered=False)


async def _pace(send: Callable[[bytes], Awaitable[None]], *, delivered: bool) -> Pace:
    try:
        async with asyncio.timeout(SECONDS):
            trips = [await _timed(send(b"")) for _ in range(ROUNDS)]
            return Pace(median(trips), await _speed(send), delivered)
    except TimeoutError:
        raise BrokerLost(
            f"the broker did not accept {CHUNKS} MiB within {SECONDS:g} s",
            hint="check the network and the broker's load",
        ) from None


async def _speed(send: Callable[[bytes], Awaitable[None]]) -> float:
    chunk = bytes(CHUNK_BYTES)
    try:
        seconds = await _timed(send(chunk))
    except aiormq.exceptions.ChannelPreconditionFailed:
        return 0.0
    if seconds > SLOW_SECONDS:
        return CHUNK_BYTES / seconds
    return CHUNKS * CHUNK_BYTES / await _timed(_send_concurrently(send, chunk))


async def _send_concurrently(send: Callable[[bytes], Awaitable[None]], chunk: bytes) -> None:
    limit = asyncio.Semaphore(WINDOW)

    async def send_one() -> None:
        async with limit:
            await send(chunk)

    await asyncio.gather(*(send_one() for _ in range(CHUNKS)))


async def _timed(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started
